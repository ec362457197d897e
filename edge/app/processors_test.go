package app

import (
	"runtime"
	"testing"
)

func TestANodeHasThreadsToSpareUnlessTheOperatorSaysHowMany(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	t.Setenv("GOMAXPROCS", "1")
	widen()
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("got %d where the operator has spoken, want %d as it was", got, before)
	}
	t.Setenv("GOMAXPROCS", "")
	widen()
	if got := runtime.GOMAXPROCS(0); got != before+spareThreads {
		t.Errorf("got %d, want %d", got, before+spareThreads)
	}
}

package relay

import (
	"errors"
	"testing"
)

// The committer writes what it was handed, and goes. Whoever looks only then must not take the end for a refusal.
func TestWhatWasWrittenBeforeTheEndIsNotRefused(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	close(gone)
	for range 64 { // a coin at a time
		w := &writes{done: make(chan error, 1)}
		w.done <- nil
		if err := w.outcome(gone); err != nil {
			t.Fatalf("got %v for what was written", err)
		}
	}
	if err := (&writes{done: make(chan error, 1)}).outcome(gone); !errors.Is(err, errStopped) {
		t.Errorf("got %v for what was not written, want %v", err, errStopped)
	}
}

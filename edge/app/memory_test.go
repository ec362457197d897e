package app

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// TestTheHeapMayGrowBeyondWhatLives leaves gaps all over the heap, as a drained queue does. A limit that does not count them has the runtime
// collect again as soon as it has collected.
func TestTheHeapMayGrowBeyondWhatLives(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	})
	c := &core{gcPercent: 100, memoryLimit: math.MaxInt64, memoryMost: math.MaxInt64}
	held := make([]*[512]byte, 128<<10)
	for i := range held {
		held[i] = new([512]byte)
	}
	for i := range held {
		if i%3 != 0 {
			held[i] = nil
		}
	}
	for range 8 {
		runtime.GC()
		c.aim()
	}
	runtime.GC()
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"}}
	metrics.Read(samples)
	live, goal := samples[0].Value.Uint64(), samples[1].Value.Uint64()
	runtime.KeepAlive(held)
	if spare := goal - min(goal, live); spare < leastSpare*3/4 || spare > max(live, 2*leastSpare) {
		t.Errorf("with %d octets alive the heap may grow by %d before it is collected, want about %d", live, spare, max(leastSpare, live/2))
	}
}

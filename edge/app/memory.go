package app

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// A board of 256 MB has other programs, too. The heap is kept close to what lives in it, and what a start, an import or a compaction took
// for a moment is given back: unused heap to the system, mapped tables to the page cache.
const (
	goalFirst  = time.Second // after the start
	goalEvery  = 2 * time.Second
	tidyEvery  = 5        // of these
	leastGoal  = 40 << 20 // of Go's memory: below it there is nothing to gain
	leastSpare = 20 << 20 // beyond what lives: a compaction takes 3 MB for each table that it writes, and writes eight at once
	spareHeap  = 8 << 20  // unused heap that may stay
	spareTable = 24 << 20 // mapped file pages that may stay, the program's own included
	mostTable  = 64 << 20 // beyond it they go at the next turn
)

// tidyLoop is the worker that does it.
func (c *core) tidyLoop(ctx context.Context) error {
	timer := time.NewTimer(goalFirst)
	defer timer.Stop()
	most := debug.SetMemoryLimit(-1) // what limitMemory or the operator set
	for turn := 1; ; turn++ {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(min(memoryGoal(), most))
		}
		if turn%tidyEvery == 2 {
			if unusedHeap() > spareHeap {
				debug.FreeOSMemory()
			}
			if mappedPages() > spareTable {
				c.store.Relax()
			}
		} else if mappedPages() > mostTable { // an import maps faster than that
			c.store.Relax()
		}
		timer.Reset(goalEvery)
	}
}

// memoryGoal is the soft limit that suits what lives in the heap now, in octets: half as much again, and what is not heap. Without it, a machine
// with much memory would let the heap double before each collection.
func memoryGoal() int64 {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	live, other := samples[0].Value.Uint64(), samples[1].Value.Uint64()
	for _, heap := range samples[2:] {
		other -= min(other, heap.Value.Uint64())
	}
	return int64(max(live+max(live/2, leastSpare)+other, leastGoal))
}

// unusedHeap is what the runtime holds beyond the live objects, in octets.
func unusedHeap() uint64 {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(samples)
	n := samples[0].Value.Uint64() + samples[1].Value.Uint64()
	if objects, live := samples[2].Value.Uint64(), samples[3].Value.Uint64(); objects > live {
		n += objects - live
	}
	return n
}

// mappedPages is RssFile, in octets; 0 where the system does not say.
func mappedPages() uint64 {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			kb, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return kb << 10
			}
		}
	}
	return 0
}

package app

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"wispgate/edge/store"
)

// A board of 256 MB has other programs, too, and a node beside others on a large machine is not to behave otherwise. The heap is kept close to
// what lives in it, and what a start, an import or a compaction took for a moment is given back: unused heap to the system, pages of mapped
// files to the page cache.
const (
	glanceEvery = 250 * time.Millisecond
	glanceBusy  = 50 * time.Millisecond // while a compaction maps some hundred MB a second
	aimEvery    = time.Second
	tidyEvery   = 10 * time.Second
	programRest = 10 * time.Second // until the program's own pages are let go of again
	leastGoal   = 32 << 20         // of Go's memory: below it there is nothing to gain
	leastSpare  = 8 << 20          // beyond what lives
	spareHeap   = 4 << 20          // unused heap that may stay
	mostMapped  = 20 << 20         // pages of mapped files that may stay, the program's own included
)

// tidyLoop is the worker that does it.
func (c *core) tidyLoop(ctx context.Context) error {
	timer := time.NewTimer(glanceEvery)
	defer timer.Stop()
	var aimed, tidied, program time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		now := time.Now()
		if now.Sub(aimed) >= aimEvery {
			c.aim()
			aimed = now
		}
		if now.Sub(tidied) >= tidyEvery {
			if unusedHeap() > spareHeap {
				debug.FreeOSMemory()
			}
			tidied = now
		}
		if mappedPages() <= mostMapped {
			timer.Reset(glanceEvery)
			continue
		}
		if err := c.machine.Relax(); err != nil { // the store is being opened anew, or closed
			timer.Reset(glanceEvery)
			continue
		}
		if now.Sub(program) >= programRest && mappedPages() > mostMapped {
			store.RelaxProgram()
			program = now
		}
		timer.Reset(glanceBusy)
	}
}

// aim sets Go's soft limit to what suits the heap as it is now, unless the operator has set one.
func (c *core) aim() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(min(memoryGoal(), c.memoryMost))
	}
}

// memoryGoal is the soft limit that suits what lives in the heap now, in octets: a third more, and what is not heap. Without it, a machine with
// much memory would let the heap double before each collection.
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
	return int64(max(live+max(live/3, leastSpare)+other, leastGoal))
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

// mappedPages is how much of mapped files is in memory, in octets; 0 where the system does not say.
func mappedPages() uint64 {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw)) // in pages: size, resident, shared
	if len(fields) < 3 {
		return 0
	}
	pages, err := strconv.ParseUint(fields[2], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

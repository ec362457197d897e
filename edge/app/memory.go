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
	tidyEvery   = 5 * time.Second
	programRest = 2 * time.Second // until the program's own pages are let go of again
	glanceMost  = time.Second
	tidyShare   = 32       // it rests so many times as long as it took
	leastSpare  = 8 << 20  // of heap, beyond what lives
	spareShare  = 33       // of what lives, in per cent
	slack       = 8 << 20  // of Go's memory, beyond the heap's goal and what is not heap
	leastLimit  = 40 << 20 // of Go's memory: below it there is nothing to gain
	spareHeap   = 6 << 20  // unused heap that may stay
	mostMapped  = 12 << 20 // pages of mapped files that may stay, the program's own included
)

// tidy does it from now on until the program stops. It begins before what is derived from the state is built, which reads most tables.
func (c *core) tidy() {
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.tidyLoop(ctx)
	}()
	c.onStop("memory", func(context.Context) error {
		cancel()
		<-done
		return nil
	})
}

func (c *core) tidyLoop(ctx context.Context) {
	timer := time.NewTimer(glanceEvery)
	defer timer.Stop()
	var tidied, program time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		c.aim()
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
		timer.Reset(min(max(glanceEvery, tidyShare*time.Since(now)), glanceMost))
	}
}

// aim says how far the heap may grow beyond what lives in it before the next collection, unless the operator has said it: by half, and by
// leastSpare at least. By itself the runtime lets it double. It is a percentage, so it follows a heap that grows between two looks. The soft limit
// stays above that: the runtime then gives back what it does not use before it asks for more. Both are set only when they differ by an eighth,
// because each setting stops the world.
func (c *core) aim() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	live, other := samples[0].Value.Uint64(), samples[1].Value.Uint64()
	for _, heap := range samples[2:] {
		other -= min(other, heap.Value.Uint64())
	}
	percent, limit := heapAim(live, other)
	limit = min(limit, c.memoryMost)
	if percent < c.gcPercent-c.gcPercent/8 || percent > c.gcPercent+c.gcPercent/8 {
		debug.SetGCPercent(percent)
		c.gcPercent = percent
	}
	if limit < c.memoryLimit-c.memoryLimit/8 || limit > c.memoryLimit {
		limit = min(limit+limit/16, c.memoryMost) // so that a heap that grows does not set it again at each look
		debug.SetMemoryLimit(limit)
		c.memoryLimit = limit
	}
}

// heapAim returns by how many per cent of what lives the heap may grow, and the soft limit of Go's memory in octets, given what lives in the heap
// and what Go holds beside the heap's objects and its free pages. The gaps between the objects of a page count with the latter, as they do in the
// runtime's own sum: a limit without room for them would have it collect without end.
func heapAim(live, other uint64) (percent int, limit int64) {
	spare := max(live*spareShare/100, leastSpare)
	percent = 100
	if live > 0 {
		percent = int(min(spare*100/live, 100))
	}
	return percent, max(int64(live+spare+other+slack), leastLimit)
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

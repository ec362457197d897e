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

// A board of 256 MB has other programs, too. What a start, an import or a compaction took for a moment is given back: unused heap to the
// system, mapped tables to the page cache.
const (
	tidyFirst  = 3 * time.Second // after the start
	tidyEvery  = 30 * time.Second
	spareHeap  = 8 << 20  // unused heap that may stay
	spareTable = 24 << 20 // mapped file pages that may stay, the program's own included
)

// tidyLoop is the worker that does it.
func (c *core) tidyLoop(ctx context.Context) error {
	timer := time.NewTimer(tidyFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if unusedHeap() > spareHeap {
			debug.FreeOSMemory()
		}
		if mappedPages() > spareTable {
			c.store.Relax()
		}
		timer.Reset(tidyEvery)
	}
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

package app

import (
	"os"
	"runtime"
)

// spareThreads is how many goroutines may run at a time beyond one for each processor. Go's runtime hands a processor over after 10 ms, and
// asks its poller for new datagrams about as often while all are taken; the kernel looks after whoever has waited most within 3 ms. So that what
// a router asks is not behind a compaction, a collection and a replay of the queue, the kernel has the last word.
const spareThreads = 2

// widen lets so many more run, unless the operator has said how many. For a program that is one node.
func widen() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareThreads)
	}
}

// Package bubble runs tests in a bubble of time of their own (testing/synctest), also under the race detector.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Test is synctest.Test, with one processor while f runs if the race detector watches.
//
// Go (1.26) gives all timers of a bubble one race context. A goroutine that looks at a ticker of the bubble uses that context on its own
// thread, whoever else uses it at that moment, and the detector then ends the program ("tsan_rtl.cpp CHECK failed", or a segmentation
// fault). With one processor there is no other thread at that moment.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if race {
		alone.enter()
		defer alone.leave()
	}
	synctest.Test(t, f)
}

// alone counts the bubbles that need one processor, for tests run beside each other.
var alone processors

type processors struct {
	mu      sync.Mutex
	bubbles int
	before  int
}

func (p *processors) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bubbles++; p.bubbles == 1 {
		p.before = runtime.GOMAXPROCS(1)
	}
}

func (p *processors) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bubbles--; p.bubbles == 0 {
		runtime.GOMAXPROCS(p.before)
	}
}

package bubble

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// Many goroutines look at tickers of one bubble: under the race detector, and on more than one processor, the plain synctest.Test ends
// the program here within a second.
func TestTickersOfABubbleUnderTheRaceDetector(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	for range 2 {
		Test(t, func(t *testing.T) {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					short, long := time.NewTicker(time.Millisecond), time.NewTicker(2*time.Millisecond)
					defer short.Stop()
					defer long.Stop()
					for range 1000 {
						select {
						case <-short.C:
						default:
						}
						select {
						case <-long.C:
						default:
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
			all.Wait()
		})
	}
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors are left of %d", n, before)
	}
}

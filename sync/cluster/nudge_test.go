package cluster

import (
	"testing"
	"time"

	"wispgate/edge/edgetest/bubble"
)

// A commit needs a majority, so the member that asked may be the one that has not got the entry yet when it is told.
func TestAMemberThatDoesNotHoldTheEntryYetIsToldAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		holdsAt     int // the call at which it holds the entry; 0: never
		quitAfter   time.Duration
		calls       int
		most, least time.Duration
	}{
		"at once":        {holdsAt: 1, calls: 1},
		"a moment later": {holdsAt: 4, calls: 4, least: 7 * time.Millisecond, most: 7 * time.Millisecond},
		"never":          {calls: 7, least: 63 * time.Millisecond, most: 63 * time.Millisecond},
		"the node stops": {quitAfter: 2 * time.Millisecond, calls: 2, least: 2 * time.Millisecond, most: 2 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				quit := make(chan struct{})
				if c.quitAfter > 0 {
					time.AfterFunc(c.quitAfter, func() { close(quit) })
				}
				calls, begin := 0, time.Now()
				insist(quit, func() bool { calls++; return calls == c.holdsAt })
				if took := time.Since(begin); calls != c.calls || took < c.least || took > c.most {
					t.Errorf("told %d times in %v, want %d times in %v", calls, took, c.calls, c.most)
				}
			})
		})
	}
}

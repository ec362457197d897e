package exec_test

import (
	"context"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
)

// heldLog keeps each entry until the test says what becomes of it.
type heldLog struct {
	exec.Log
	arrived chan struct{}
	verdict chan error // nil: applied
}

func (l *heldLog) Propose(ctx context.Context, entry []byte) error {
	l.arrived <- struct{}{}
	if err := <-l.verdict; err != nil {
		return err
	}
	return l.Log.Propose(ctx, entry)
}

// TestWhatIsEvaluatedAheadCountsOnlyWhenTheEntryBeforeItDoes sends two boxes of one label. The second is evaluated while the first is on its
// way: it is a duplicate if the first gets there, and the only one if not.
func TestWhatIsEvaluatedAheadCountsOnlyWhenTheEntryBeforeItDoes(t *testing.T) {
	t.Parallel()
	lost := edge.ErrQuorumLost.Error(edge.Unavailable)
	for name, c := range map[string]struct {
		verdicts      []error // of each proposal, in order
		first, second string  // codes
	}{
		"the first is applied":                {[]error{nil}, "", "already_exists"},
		"the first is lost":                   {[]error{lost, nil}, "quorum_lost", ""},
		"the first is stale and applied then": {[]error{exec.ErrStale, nil}, "", "already_exists"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &heldLog{arrived: make(chan struct{}, 64), verdict: make(chan error)}
			seen := make(chan struct{}, 64)
			h := edgetest.OpenOn(t, func(own exec.Log) exec.Log { log.Log = own; return log },
				edgetest.Modules(module()), func(c *exec.Config) { c.Observer = evaluations(seen) })
			send := func() <-chan error {
				answer := make(chan error, 1)
				go func() {
					_, _, err := edgetest.Try[box](h, acme, edge.Request{}, makeBox.Name, newBox{Label: "one", Color: "red"})
					answer <- err
				}()
				return answer
			}
			first := send()
			<-log.arrived
			for len(seen) > 0 {
				<-seen
			}
			second := send()
			<-seen // it was evaluated, though the first is still on its way
			for i, v := range c.verdicts {
				log.verdict <- v
				if i+1 < len(c.verdicts) {
					<-log.arrived
				}
			}
			for what, got := range map[string]struct {
				err  error
				want string
			}{"first": {<-first, c.first}, "second": {<-second, c.second}} {
				code := ""
				if got.err != nil {
					code = edgetest.CodeOf(t, got.err)
				}
				if code != got.want {
					t.Errorf("the %s is answered %q (%v), want %q", what, code, got.err, got.want)
				}
			}
		})
	}
}

// evaluations tells of every command that was evaluated.
type evaluations chan struct{}

func (e evaluations) Command(string, string, time.Duration) { e <- struct{}{} }
func (evaluations) Round(int, string, time.Duration)        {}

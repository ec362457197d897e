package exec

import (
	"errors"
	"testing"

	"wispgate/edge"
	"wispgate/edge/journal"
)

// A removed node neither says to come again, because nothing that waits there is ever handed over, nor keeps what it cannot tell the outcome of.
func TestARemovedNodeSaysSoWhateverStopsAWrite(t *testing.T) {
	t.Parallel()
	gone := &edge.Error{Kind: edge.Unavailable, Code: "node_expelled"}
	removed := true
	x := &Exec{cfg: Config{Queue: new(journal.Journal), Expelled: func() error {
		if removed {
			return gone
		}
		return nil
	}}}
	rebasing, unknown := edge.ErrRebasing.Error(edge.Unavailable), edge.ErrUnknown.Error(edge.Unavailable)
	for _, err := range []error{quorumLost(), rebasing} {
		if got := x.expelled(err); !errors.Is(got, gone) {
			t.Errorf("%v: says %v", err, got)
		}
	}
	if got := x.expelled(unknown); got != nil {
		t.Errorf("a write that may have been committed: says %v", got)
	}
	w := &waiter{offline: true, ready: true}
	if x.mayPend(w, unknown) {
		t.Error("it keeps a write")
	}
	removed = false
	if x.expelled(rebasing) != nil || !x.mayPend(w, unknown) {
		t.Error("a node that was not removed refuses")
	}
}

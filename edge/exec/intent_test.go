package exec

import (
	"context"
	"testing"

	"wispgate/edge"
)

// Where the answer is there and the caller's time is over as well, the caller gets the answer.
func TestAnAnswerThatIsThereIsNotInFlight(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 64 { // a coin at a time
		w := &waiter{done: make(chan struct{}), reply: edge.Reply{Version: 7}}
		close(w.done)
		if got, err := w.wait(ctx, false); err != nil || got.Version != 7 {
			t.Fatalf("got version %d, %v; want the answer", got.Version, err)
		}
	}
}

// What a node accepted, it hands over with its place in the queue. Where the leader is still busy with the same operation, as the node had
// forwarded it before it lost patience, both are evaluated: joined to the other it would be answered, and its place never taken.
func TestOneOfAQueueJoinsOnlyItself(t *testing.T) {
	t.Parallel()
	x := &Exec{inflight: map[string]*waiter{}}
	in := func(digest string, o *Origin) *Intent {
		return &Intent{Operation: "k", Actor: edge.Actor{Tenant: "acme", Subject: "cli"}, Digest: digest, Origin: o}
	}
	place := &Origin{Node: "n2", Queue: "q", Seq: 7}
	join := func(i *Intent) (*waiter, bool) {
		w, joined, err := x.join(i)
		if err != nil {
			t.Fatal(err)
		}
		return w, joined
	}
	forwarded, _ := join(in("d", nil))
	queued, joined := join(in("d", place))
	if joined {
		t.Fatal("one of the queue waits for one that takes no place in it")
	}
	if again, joined := join(in("d", &Origin{Node: "n2", Queue: "q", Seq: 7})); !joined || again != queued {
		t.Error("the same one, sent again, is evaluated beside itself")
	}
	if _, joined := join(in("another", &Origin{Node: "n2", Queue: "q", Seq: 8})); joined {
		t.Error("another one under the same key is not a conflict for the leader to decide")
	}
	x.finish(queued, edge.Reply{}, nil)
	if again, joined := join(in("d", nil)); !joined || again != forwarded {
		t.Error("the end of the one ended the other")
	}
}

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

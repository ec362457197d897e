package exec

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge"
)

// wire stands for the way to a leader that answers each intent with its own operation id.
type wire struct {
	Log      // what is not here is not asked
	requests atomic.Int64
	most     int // intents whose answers it can carry at once
}

func (*wire) IsLeader() bool { return false }

func (w *wire) Forward(_ context.Context, body []byte) ([]byte, error) {
	w.requests.Add(1)
	req, err := decodeRequest(body)
	if err != nil {
		return nil, err
	}
	if len(req.Intents) > w.most {
		return nil, edge.ErrTooLarge.Error(edge.Invalid)
	}
	var resp response
	for _, in := range req.Intents {
		if in.Operation == "refused" {
			e, _ := edge.AsError(edge.ErrVersion.Error(edge.Conflict))
			resp.Answers = append(resp.Answers, outcome{Error: e})
			continue
		}
		resp.Answers = append(resp.Answers, outcome{Reply: &edge.Reply{Operation: in.Operation}})
	}
	return resp.encode(isParcel(body))
}

func follower(t *testing.T, most int) (*Exec, *wire) {
	t.Helper()
	_, m := rig(t, never)
	w := &wire{most: most}
	x := &Exec{cfg: Config{Machine: m, Patience: time.Minute}, log: w}
	x.forwarder.init()
	return x, w
}

func toForward(operation string, octets int, gone <-chan struct{}) *forwarded {
	in := &Intent{Operation: operation, Calls: []edge.Call{{Op: "test", In: fmt.Appendf(nil, "%q", bytes.Repeat([]byte("x"), octets))}}}
	return &forwarded{in: in, gone: gone, answer: make(chan arrival, 1)}
}

func operations(load []*forwarded) string {
	var names []string
	for _, c := range load {
		names = append(names, c.in.Operation)
	}
	return strings.Join(names, " ")
}

func TestARequestTakesWhatWaits(t *testing.T) {
	t.Parallel()
	x, _ := follower(t, 0)
	left := make(chan struct{})
	close(left)
	for _, c := range []*forwarded{toForward("b", 1, nil), toForward("left", 1, left), toForward("c", forwardOctets, nil), toForward("d", 1, nil)} {
		x.forwarder.queue <- c
	}
	load, next := x.gather(toForward("a", 1, nil))
	if operations(load) != "a b" || next == nil || next.in.Operation != "c" {
		t.Fatalf("got %q and %v, want a and b; c is too long to go with them, and nobody waits for the one between", operations(load), next)
	}
	if load, next = x.gather(next); operations(load) != "c" || next == nil || next.in.Operation != "d" {
		t.Fatalf("got %q and %v, want c by itself", operations(load), next)
	}
	for range formerForwarded {
		x.forwarder.queue <- toForward("e", 1, nil)
	}
	if load, next = x.gather(next); len(load) != formerForwarded || next != nil {
		t.Fatalf("got %d and %v, want as many as a member of the first feature level takes", len(load), next)
	}
	if load, _ = x.gather(toForward("left", 1, left)); operations(load) != "e" {
		t.Fatalf("got %q, want the one that is left", operations(load))
	}
}

func TestEachCallerGetsItsOwnAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ most, requests int }{"together": {3, 1}, "too long together": {2, 4}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, w := follower(t, tc.most)
			load := []*forwarded{toForward("a", 1, nil), toForward("refused", 1, nil), toForward("b", 1, nil)}
			x.deliver(t.Context(), load)
			for _, c := range load {
				switch got := <-c.answer; {
				case got.err != nil:
					t.Errorf("%s: %v", c.in.Operation, got.err)
				case c.in.Operation == "refused":
					if got.Error == nil || got.Error.Code != edge.ErrVersion.Code {
						t.Errorf("refused: got %+v", got)
					}
				case got.Reply == nil || got.Reply.Operation != c.in.Operation:
					t.Errorf("%s: got %+v", c.in.Operation, got)
				}
			}
			if got := int(w.requests.Load()); got != tc.requests {
				t.Errorf("%d requests, want %d", got, tc.requests)
			}
		})
	}
}

// A caller that leaves, and a node that stops, hold nobody.
func TestNobodyWaitsForAForwarderThatHasEnded(t *testing.T) {
	t.Parallel()
	x, _ := follower(t, 1)
	ctx, stop := context.WithCancel(t.Context())
	x.wg.Go(func() { x.forwards(ctx) })
	if r, err := x.forward(t.Context(), toForward("a", 1, nil).in); err != nil || r.Operation != "a" {
		t.Fatalf("got %+v, %v", r, err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := x.forward(gone, toForward("b", 1, nil).in); !undecided(err) && err != nil {
		t.Errorf("a caller that has left: got %v", err)
	}
	stop()
	x.wg.Wait()
	if _, err := x.forward(t.Context(), toForward("c", 1, nil).in); !undecided(err) {
		t.Errorf("after the end: got %v", err)
	}
}

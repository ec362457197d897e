package cluster

import (
	"context"
	"errors"
	"testing"

	"wispgate/edge"
	"wispgate/edge/store"
)

func TestALoneNodeAnswersItself(t *testing.T) {
	dir := t.TempDir()
	w := raise(t, dir, store.Options{}, conf(dir))
	if !w.node.Contact() {
		t.Error("a lone leader has no contact with itself")
	}
	if _, err := w.node.Forward(t.Context(), nil); code(err) != "starting" {
		t.Errorf("got %v without a handler, want starting", err)
	}
	denied := &edge.Error{Kind: edge.Denied, Code: "no", Message: "No", Fix: "Stop", RetryAfter: 7}
	w.node.Handle(MethodIntent, func(_ context.Context, from string, body []byte) ([]byte, error) {
		switch string(body) {
		case "denied":
			return nil, denied
		case "broken":
			return nil, errors.New("a detail")
		}
		return []byte(from + " " + string(body)), nil
	})
	if got, err := w.node.Forward(t.Context(), []byte("hello")); err != nil || string(got) != "n1 hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := w.node.Forward(t.Context(), []byte("denied")); !errors.Is(err, denied) {
		t.Errorf("got %v, want the handler's own error", err)
	}
	if _, err := w.node.Forward(t.Context(), []byte("broken")); code(err) != "internal" {
		t.Errorf("got %v, want internal", err)
	}
	if _, err := w.node.Call(t.Context(), "n2", MethodIntent, nil); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v from nobody, want quorum_lost", err)
	}
	if list, _ := w.node.Members(); len(list) != 1 || list[0].Node != "n1" || !list[0].Voter || list[0].State != "leader" {
		t.Errorf("got %v", list)
	}
	w.close(t)
	if w.node.Contact() {
		t.Error("a node that is shut down has contact")
	}
	if _, err := w.node.Forward(t.Context(), nil); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v after the end, want quorum_lost", err)
	}
}

package exec_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
	"wispgate/edge/journal"
)

// The overlay shows a write before the queue holds it. Who asks with the same key meanwhile is answered when the first caller is, and as he is: here
// by the refusal of a queue that turns out to be full.
func TestAWriteThatIsNotKeptYetIsAcknowledgedToNobody(t *testing.T) {
	t.Parallel()
	q, err := journal.Open(journal.Options{
		Dir: filepath.Join(t.TempDir(), "pending"), SegmentBytes: 16 << 10, MaxBytes: 48 << 10, Window: journal.MaxWindow, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	_, _, tower := pair(t, func(c *exec.Config) {
		if c.Node == "n2" {
			c.Queue = q
		}
	})
	tower.CutAndNotice()
	long := edge.Common{Metadata: map[string]string{}}
	for i := range 10 {
		long.Metadata[fmt.Sprint(i)] = strings.Repeat("x", 300)
	}
	ask := func(key string) error {
		_, _, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: key}, makeBox.Name, newBox{Common: long, Label: key})
		return err
	}
	n := 0
	for ask(fmt.Sprint("b", n)) == nil {
		n++
	}
	shown := func() int { return len(labels(t, tower)) }
	edgetest.Eventually(t, func() bool { return shown() == n }, func() string { return fmt.Sprintf("%d boxes are shown of %d that are kept", shown(), n) })
	first := make(chan error, 1)
	go func() { first <- ask("k") }()
	edgetest.Eventually(t, func() bool { return shown() == n+1 || len(first) > 0 }, func() string { return "it is not shown" })
	if _, _, err := tower.Ask(t.Context(), acme, "sync.operation.get", json.RawMessage(`{"operation":"k"}`), 0); edgetest.CodeOf(t, err) != "not_found" {
		t.Errorf("a write that is kept nowhere yet is said to wait here: %v", err)
	}
	if got := edgetest.CodeOf(t, ask("k")); got != "pending_full" {
		t.Errorf("asked again: got %s, want what the first one gets", got)
	}
	if got := edgetest.CodeOf(t, <-first); got != "pending_full" {
		t.Errorf("got %s", got)
	}
}

// Who joins an operation that another caller still prepares, and has no more time, must not take what is half prepared for the operation.
func TestWhoseTimeEndsWhileAnotherPreparesIsToldThatItRuns(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}), make(chan struct{})
	slow := edge.Command[newBox, box]{
		Name: "test.box.slow", Scope: "test:write", Summary: "Make a box slowly.", Class: edge.Write, Offline: true, Handle: makeBox.Handle,
		Prepare: func(edge.Prep, *newBox) error { close(begun); <-goOn; return nil },
	}
	m := offline()
	m.Ops = append(m.Ops, slow.Op())
	c := edgetest.NewCluster(t, 1, edgetest.Modules(m, syncPart()), quick)
	ask := func(ctx context.Context) (edge.Reply, error) {
		return c.Leader().Do(ctx, edge.Request{Key: "k", Actor: acme, Calls: []edge.Call{
			{Op: makeBox.Name, In: json.RawMessage(`{"label":"a"}`)}, {Op: slow.Name, In: json.RawMessage(`{"label":"b"}`)},
		}})
	}
	first := make(chan error, 1)
	go func() { _, err := ask(t.Context()); first <- err }()
	<-begun
	brief, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := ask(brief); edgetest.CodeOf(t, err) != edge.ErrInFlight.Code {
		t.Errorf("got %v, want that it runs", err)
	}
	close(goOn)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

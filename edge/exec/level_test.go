package exec_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
	"wispgate/edge/store"
)

func TestAFormThatOlderNodesDoNotKnowWaitsForTheLevel(t *testing.T) {
	t.Parallel()
	m := offline()
	next := makeBox
	next.Name, next.Level, next.Offline = "test.box.make_new", 2, true
	m.Ops = append(m.Ops, next.Op())
	c := edgetest.NewCluster(t, 2, edgetest.Modules(m, syncPart()), quick)
	leader, tower := c.Nodes[0], c.Nodes[1]
	for _, n := range c.Nodes {
		if got := edgetest.Code(t, n.Harness, acme, next.Name, newBox{Label: "a"}); got != "feature_pending" || n.Level() != 1 {
			t.Errorf("%s at level %d: got %s", n.Name, n.Level(), got)
		}
	}
	tower.CutAndNotice()
	if got := edgetest.Code(t, tower.Harness, acme, next.Name, newBox{Label: "a"}); got != "feature_pending" {
		t.Errorf("cut off: got %s", got)
	}
	tower.HealAndDrain()
	for _, level := range []int64{2, 1} { // it never falls
		if err := leader.RaiseLevel(t.Context(), level); err != nil {
			t.Fatal(err)
		}
	}
	edgetest.Eventually(t, func() bool { return tower.Level() == 2 }, func() string { return "the tower does not hear of the level" })
	edgetest.Do[box](t, tower.Harness, acme, next.Name, newBox{Label: "a"})
	c.Agree()

	// A leader that does not even know the operation is of the former version: what a newer node sends it waits.
	raw, err := json.Marshal(map[string]any{"intents": []exec.Intent{{
		Operation: "k", Actor: acme, Digest: "d", Calls: []edge.Call{{Op: "test.box.unheard_of", In: json.RawMessage("{}")}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := leader.Serve(t.Context(), raw); err != nil || !strings.Contains(string(answer), "feature_pending") {
		t.Errorf("an operation of the next version: got %s, %v", answer, err)
	}

	dir := leader.Dir
	c.Close()
	st, err := store.Open(store.Options{Dir: dir + "/store", Logger: slog.New(slog.DiscardHandler), BallastBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	machine, err := exec.NewMachine(st, exec.MachineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	for level, want := range map[int64]string{1: "data_newer", 2: "", 3: "", 0: ""} {
		_, err := exec.New(exec.Config{Modules: []edge.Module{m}, Machine: machine, Store: st, Logger: slog.New(slog.DiscardHandler), Now: leader.Clock.Now, FeatureLevel: level})
		got := ""
		if err != nil {
			got = edgetest.CodeOf(t, err)
		}
		if got != want {
			t.Errorf("a program of level %d: got %q, want %q", level, got, want)
		}
	}
}

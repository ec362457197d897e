package exec_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// rebaseStep is one thing that happens to a tower.
type rebaseStep struct {
	what  string
	label string
	n     int
}

func anyRebaseStep(rt *rapid.T) rebaseStep {
	return rebaseStep{
		what:  rapid.SampledFrom([]string{"make", "make", "make", "again", "reuse", "paint", "leader", "cut", "heal", "restart", "lose"}).Draw(rt, "what"),
		label: fmt.Sprint("b", rapid.IntRange(0, 12).Draw(rt, "label")),
		n:     rapid.IntRange(1, 3).Draw(rt, "n"),
	}
}

// Whatever a tower acknowledged is in the cluster once or stands in the list of conflicts, whatever happened in between: cuts, restarts,
// lost answers, and the others' writes. WISPGATE_LONG=1 tries a thousand courses of events.
func TestNothingAcknowledgedIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	courses := 12
	if os.Getenv("WISPGATE_LONG") != "" {
		courses = 1000
	}
	steps := rapid.SliceOfN(rapid.Custom(anyRebaseStep), 10, 30)
	for seed := range courses {
		runRebaseCourse(t, steps.Example(seed))
		if t.Failed() {
			t.Fatalf("course %d: %v", seed, steps.Example(seed))
		}
	}
}

func runRebaseCourse(t *testing.T, steps []rebaseStep) {
	t.Helper()
	c, leader, tower := pair(t, func(c *exec.Config) {
		c.Patience = 20 * time.Millisecond
		if len(steps)%2 == 0 {
			c.OverlayBytes = 1 << 10 // most of it lies in the store
		}
	})
	m := &rebaseModel{t: t, acked: map[asked]bool{}, boxes: map[string]edge.ID{}}
	cut := false
	for _, s := range steps {
		switch s.what {
		case "make":
			m.make(tower, s.label)
		case "again":
			m.make(tower, s.label)
			m.make(tower, s.label)
		case "paint":
			if id := m.boxes[s.label]; id != "" {
				m.do(tower, paintBox.Name, paint{id, []string{"red", "blue", "green"}[s.n-1]})
			}
		case "reuse": // one key, for two contents
			m.make(tower, s.label)
			m.reuse = true
			m.make(leader, s.label+"'")
			m.reuse = false
		case "leader":
			m.make(leader, s.label)
		case "cut":
			if !cut {
				tower.CutAndNotice()
				cut = true
			}
		case "heal":
			if cut {
				tower.HealAndDrain()
				cut = false
			}
		case "restart":
			tower = c.Restart(tower)
		case "lose":
			tower.LoseAnswers(s.n)
		}
	}
	tower.LoseAnswers(0)
	tower.HealAndDrain()
	c.Agree()
	m.compare(leader)
	edgetest.NoDrift(t, leader.Harness)
	c.Close()
}

// rebaseModel is what clients were told.
type rebaseModel struct {
	t     *testing.T
	n     int
	reuse bool               // the last key is used once more
	acked map[asked]bool     // what somebody was told is done
	boxes map[string]edge.ID // label -> the box that somebody was told of
}

// asked is what was asked for: an operation key and a label.
type asked struct{ key, label string }

func (m *rebaseModel) do(n *edgetest.Member, op string, in any) (b box, key string, ok bool) {
	if !m.reuse {
		m.n++
	}
	key = fmt.Sprint("key", m.n)
	var err error
	edgetest.Eventually(m.t, func() bool { // a client that is told to ask again does, with the same key
		b, _, err = edgetest.Try[box](n.Harness, acme, edge.Request{Key: key}, op, in)
		e, _ := edge.AsError(err)
		return err == nil || e.Kind != edge.Unavailable
	}, func() string { return fmt.Sprint(key, ": ", err) })
	return b, key, err == nil
}

func (m *rebaseModel) make(n *edgetest.Member, label string) {
	if b, key, ok := m.do(n, makeBox.Name, newBox{Label: label}); ok {
		m.acked[asked{key, label}], m.boxes[label] = true, b.ID
	}
}

// compare looks for every acknowledged box in the true state and in the conflicts.
func (m *rebaseModel) compare(leader *edgetest.Member) {
	m.t.Helper()
	have, conflict := map[string]int{}, map[asked]bool{}
	in := listBoxes{ListInput: edge.ListInput{Limit: 200}}
	for _, b := range page(m.t, leader.Harness, acme, in).Data {
		have[b.Label]++
	}
	list := edgetest.Ask[edge.Page[exec.Conflict]](m.t, leader.Harness, acme, "sync.conflict.list", exec.ConflictList{ListInput: edge.ListInput{Limit: 200}})
	for _, f := range list.Data {
		var in newBox
		if err := json.Unmarshal(f.Calls[0].In, &in); err != nil {
			m.t.Fatal(err)
		}
		conflict[asked{f.Operation, in.Label}] = true
	}
	for a := range m.acked {
		if have[a.label] != 1 && !conflict[a] {
			m.t.Fatalf("%s made %s and was told so; it is there %d times and no conflict", a.key, a.label, have[a.label])
		}
	}
	for label, n := range have {
		if n != 1 {
			m.t.Fatalf("%s is there %d times", label, n)
		}
	}
}

// A node that starts with an old copy of its disk takes places in its queue that the cluster has settled already. They must not pass for
// settled.
func TestAnOldCopyOfTheQueueLosesNothing(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	tower.CutAndNotice()
	edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: "first"})
	tower.HealAndDrain()
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(filepath.Join(tower.Dir, "pending"))); err != nil {
		t.Fatal(err)
	}
	tower.CutAndNotice()
	for i := range 5 {
		edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: fmt.Sprint("second", i)})
	}
	tower.HealAndDrain()
	tower.CutAndNotice()
	tower = c.RestartWith(tower, func(dir string) {
		queue := filepath.Join(dir, "pending")
		if err := errors.Join(os.RemoveAll(queue), os.CopyFS(queue, os.DirFS(old))); err != nil {
			t.Fatal(err)
		}
	})
	edgetest.Eventually(t, func() bool { return tower.Loaded() && tower.CutOff() }, func() string { return "not noticed" })
	for i := range 8 {
		edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: fmt.Sprint("third", i)})
	}
	tower.HealAndDrain()
	if got := labels(t, leader); len(got) != 14 {
		t.Errorf("got %d boxes, want 14: %v", len(got), got)
	}
	c.Agree()
}

// A long queue moves its effects to the store, and everything reads as before.
func TestALongQueueSpillsAndReadsTheSame(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t, func(c *exec.Config) { c.OverlayBytes = 512 << 10 })
	tower.CutAndNotice()
	const n = 500 // twice the octets that stay in memory, and more red ones than a page holds
	long := edge.Common{Metadata: map[string]string{"note": strings.Repeat("x", 2000)}}
	for i := range n {
		edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Common: long, Label: fmt.Sprint(i), Color: []string{"red", "blue"}[i%2]})
	}
	check := func(m *edgetest.Member) {
		t.Helper()
		seen := len(all(func(in edge.ListInput) edge.Page[box] {
			return page(t, m.Harness, acme, listBoxes{Color: "red", ListInput: in})
		}))
		if seen != n/2 {
			t.Errorf("%s has %d red boxes, want %d", m.Name, seen, n/2)
		}
	}
	if tower.SpilledKeys() == 0 {
		t.Error("nothing lies in the store: this test tests nothing")
	}
	check(tower)
	tower = c.Restart(tower)
	edgetest.Eventually(t, func() bool { return tower.Exec.Pending().Waiting == n && tower.Loaded() && tower.CutOff() }, func() string { return fmt.Sprint(tower.Exec.Pending()) })
	check(tower)
	tower.HealAndDrain()
	check(leader)
	check(tower)
	c.Agree()
	edgetest.Eventually(t, func() bool { return tower.SpilledKeys() == 0 }, func() string { return fmt.Sprint(tower.SpilledKeys(), " effects are left in the store") })
}

func TestAReadThroughTheLeaderSeesEverythingAndNeedsIt(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "a"})
	v, err := tower.ReadVersion(t.Context())
	if err != nil || v != leader.Version() {
		t.Errorf("got version %d, %v, want %d", v, err, leader.Version())
	}
	tower.CutAndNotice()
	if _, err := tower.ReadVersion(context.WithoutCancel(t.Context())); edgetest.CodeOf(t, err) != "quorum_lost" {
		t.Errorf("cut off: got %v", err)
	}
	tower.Heal()
	c.Agree()
}

// TestASpilledOverlayIsTakenUpAgain restarts a cut-off node again and again while writes wait: what has been evaluated and lies in the store is
// not evaluated anew, unless it may not be whole.
func TestASpilledOverlayIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	var evaluated atomic.Int64
	counted := makeBox
	counted.Offline = true
	counted.Handle = func(tx edge.Tx, in newBox) (box, error) {
		evaluated.Add(1)
		return makeBox.Handle(tx, in)
	}
	c := edgetest.NewCluster(t, 2, quick, func(c *exec.Config) {
		m := offline()
		m.Ops = slices.DeleteFunc(m.Ops, func(op *edge.Op) bool { return op.Name == makeBox.Name })
		m.Ops = append(m.Ops, counted.Op())
		c.Modules, c.OverlayBytes, c.Strict = []edge.Module{m, syncPart()}, 20<<10, false
	})
	leader, tower := c.Nodes[0], c.Nodes[1]
	tower.CutAndNotice()
	const n = 400
	for i := range n {
		edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: fmt.Sprint(i), Color: "red"})
	}
	restart := func(do func(dir string)) (again int64) {
		t.Helper()
		before := evaluated.Load()
		tower = c.RestartWith(tower, do)
		edgetest.Eventually(t, func() bool { return tower.Loaded() && tower.CutOff() }, func() string { return fmt.Sprint(tower.Exec.Pending()) })
		if got := len(labels(t, tower)); got != min(n, 200) {
			t.Errorf("a page shows %d boxes", got)
		}
		if p := tower.Exec.Pending(); p.Waiting < n || p.Oldest == nil {
			t.Errorf("got %+v", p)
		}
		return evaluated.Load() - before
	}
	for range 3 {
		if again := restart(func(string) {}); again > n/4 {
			t.Errorf("%d of %d writes were evaluated anew", again, n)
		}
		edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: fmt.Sprint("more ", evaluated.Load()), Color: "red"})
	}
	spoil := func(change func(b *store.Batch, key, mark []byte)) func(string) {
		return func(dir string) {
			s, err := store.Open(store.Options{Dir: filepath.Join(dir, "store"), BallastBytes: -1})
			if err != nil {
				t.Fatal(err)
			}
			key := []byte(store.Local + "overlay-mark")
			snap := s.Snapshot()
			mark, err := snap.Get(key)
			snap.Close()
			var b store.Batch
			change(&b, key, mark)
			if err := errors.Join(err, s.Commit(&b), s.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, change := range map[string]func(b *store.Batch, key, mark []byte){
		"a crash while it was written": func(b *store.Batch, key, _ []byte) { b.Delete(key) },
		"another state": func(b *store.Batch, key, mark []byte) {
			b.Put(key, bytes.Replace(mark, []byte(`"version":`), []byte(`"version":9`), 1))
		},
		"another queue": func(b *store.Batch, key, mark []byte) {
			b.Put(key, bytes.Replace(mark, []byte(`"digest":"`), []byte(`"digest":"x`), 1))
		},
		"nothing that can be read": func(b *store.Batch, key, _ []byte) { b.Put(key, []byte("?")) },
	} {
		if again := restart(spoil(change)); again < n {
			t.Errorf("after %s only %d of %d writes were evaluated anew", what, again, n)
		}
	}
	tower.HealAndDrain()
	c.Agree()
	if p := page(t, leader.Harness, acme, listBoxes{Color: "red", ListInput: edge.ListInput{Limit: 200}}); !p.HasMore {
		t.Errorf("the leader has %d boxes", len(p.Data))
	}
	edgetest.NoDrift(t, leader.Harness)
	edgetest.Eventually(t, func() bool { return tower.SpilledKeys() == 0 }, func() string { return fmt.Sprint(tower.SpilledKeys(), " effects are left in the store") })
}

package exec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/exec"
)

// offline is the sample domain whose commands may be accepted by a cut-off node.
func offline() edge.Module {
	m := module()
	pack, tint := makeBox, paintBox
	pack.Offline, tint.Offline = true, true
	m.Ops = []*edge.Op{pack.Op(), tint.Op(), expireBox.Op(), troubleBox.Op(), listBox.Op()}
	return m
}

func syncPart() edge.Module {
	m := exec.Part()
	m.Name, m.Summary = "sync", "Conflicts and operations."
	return m
}

func quick(c *exec.Config) { c.Patience = 200 * time.Millisecond }

func pair(t *testing.T, more ...edgetest.Option) (c *edgetest.Cluster, leader, tower *edgetest.Member) {
	t.Helper()
	c = edgetest.NewCluster(t, 2, append([]edgetest.Option{edgetest.Modules(offline(), syncPart()), quick}, more...)...)
	return c, c.Nodes[0], c.Nodes[1]
}

func labels(t *testing.T, m *edgetest.Member) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, b := range page(t, m.Harness, acme, listBoxes{ListInput: edge.ListInput{Limit: 200}}).Data {
		got[b.Label] = b.Color
	}
	return got
}

func TestAFollowerForwardsAndReadsItsOwnWrite(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	b, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "k"}, makeBox.Name, json.RawMessage(`{"label":"a","secret":"s3cret"}`))
	if err != nil || r.State != "committed" || r.Once[0]["revealed"] != "only now" {
		t.Fatalf("got %+v, %v", r, err)
	}
	for _, m := range c.Nodes {
		if got := labels(t, m); len(got) != 1 {
			t.Errorf("%s has %v", m.Name, got)
		}
	}
	again, r, err := edgetest.Try[box](leader.Harness, acme, edge.Request{Key: "k2"}, makeBox.Name, newBox{Label: "a"})
	if got := edgetest.CodeOf(t, err); got != "already_exists" {
		t.Errorf("got %v %+v %v", again, r, err)
	}
	_, _, err = edgetest.Try[box](tower.Harness, acme, edge.Request{}, paintBox.Name, paint{b.ID.With("box"), "red"})
	if err != nil {
		t.Error(err)
	}
	if got := edgetest.Code(t, tower.Harness, acme, makeBox.Name, newBox{Label: "a"}); got != "already_exists" {
		t.Errorf("the leader's refusal: got %s", got)
	}
	c.Agree()
}

func TestALostAnswerIsAskedForAgain(t *testing.T) {
	t.Parallel()
	c, _, tower := pair(t)
	tower.LoseAnswers(1)
	_, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{}, makeBox.Name, newBox{Label: "a"})
	if err != nil || r.State != "committed" {
		t.Fatalf("got %+v, %v", r, err)
	}
	if got := labels(t, tower); len(got) != 1 {
		t.Errorf("got %v, want the box once", got)
	}
	c.Agree()
}

func TestACutOffNodeAcceptsShowsAndHandsOver(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: "before", Color: "red"})
	tower.CutAndNotice()
	b, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "k"}, makeBox.Name, json.RawMessage(`{"label":"cut","color":"red","secret":"s"}`))
	if err != nil || r.State != "pending" || r.Durability != "node" || r.Once[0]["revealed"] != "only now" {
		t.Fatalf("got %+v, %v", r, err)
	}
	if _, r, err = edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "k2"}, paintBox.Name, paint{b.ID, "blue"}); err != nil || r.State != "pending" {
		t.Fatalf("a second write on the first: %+v, %v", r, err)
	}
	if got := labels(t, tower); len(got) != 2 || got["cut"] != "blue" {
		t.Errorf("the tower shows %v", got)
	}
	if got := page(t, tower.Harness, acme, listBoxes{Color: "red"}).Data; len(got) != 1 {
		t.Errorf("by the index: %v, want the box that is still red", got)
	}
	if got := labels(t, leader); len(got) != 1 {
		t.Errorf("the leader shows %v", got)
	}
	again, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "k"}, makeBox.Name, json.RawMessage(`{"label":"cut","color":"red","secret":"s"}`))
	if err != nil || !r.Replayed || r.State != "pending" || again.ID != b.ID || r.Once != nil {
		t.Errorf("the same key: %+v, %v", r, err)
	}
	if _, _, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "k"}, makeBox.Name, newBox{Label: "other"}); edgetest.CodeOf(t, err) != "idempotency_key_reused" {
		t.Errorf("the same key with another body: %v", err)
	}
	if got := edgetest.Code(t, tower.Harness, acme, makeBox.Name, newBox{Label: "cut"}); got != "already_exists" {
		t.Errorf("unique in the overlay: got %s", got)
	}
	if got := edgetest.Code(t, tower.Harness, acme, troubleBox.Name, newBox{Label: "x"}); got != "quorum_lost" {
		t.Errorf("a command that may not wait: got %s", got)
	}
	if got := edgetest.Ask[exec.OperationState](t, tower.Harness, acme, "sync.operation.get", exec.OperationRef{Operation: "k"}); got.State != "pending" || got.Durability != "node" {
		t.Errorf("got %+v", got)
	}
	if events := edgetest.EventTypes(t, tower.Harness, "acme", 0); len(events) != 1 {
		t.Errorf("events of what is pending: %v", events)
	}
	edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "meanwhile"})
	tower.HealAndDrain()
	for _, m := range c.Nodes {
		if got := labels(t, m); len(got) != 3 || got["cut"] != "blue" {
			t.Errorf("%s shows %v", m.Name, got)
		}
	}
	c.Agree()
	if got := edgetest.Ask[exec.OperationState](t, tower.Harness, acme, "sync.operation.get", exec.OperationRef{Operation: "k"}); got.State != "committed" {
		t.Errorf("got %+v", got)
	}
	if events := edgetest.EventTypes(t, leader.Harness, "acme", 0); len(events) != 3 {
		t.Errorf("got events %v", events)
	}
}

func TestWhatWaitsSurvivesARestart(t *testing.T) {
	t.Parallel()
	c, _, tower := pair(t)
	tower.CutAndNotice()
	for i := range 20 {
		edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: fmt.Sprint("b", i)})
	}
	tower = c.Restart(tower)
	edgetest.Eventually(t, func() bool { return len(labels(t, tower)) == 20 }, func() string { return fmt.Sprint(labels(t, tower)) })
	tower.HealAndDrain()
	if got := labels(t, c.Leader()); len(got) != 20 {
		t.Errorf("got %v", got)
	}
	c.Agree()
	tower = c.Restart(tower)
	if got := tower.Exec.Pending().Waiting; got != 0 {
		t.Errorf("%d writes wait again", got)
	}
}

func TestARefusedPendingWriteIsAConflict(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	red := edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: "shared", Color: "white"})
	tower.CutAndNotice()
	taken, _, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "taken"}, makeBox.Name, json.RawMessage(`{"label":"a","secret":"hidden"}`))
	if err != nil {
		t.Fatal(err)
	}
	edgetest.Do[box](t, tower.Harness, acme, paintBox.Name, paint{red.ID, "red"})
	edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: "fine"})
	edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "a"})
	edgetest.Do[box](t, leader.Harness, acme, paintBox.Name, paint{red.ID, "blue"})
	tower.HealAndDrain()
	c.Agree()
	list := edgetest.Ask[edge.Page[exec.Conflict]](t, leader.Harness, acme, "sync.conflict.list", exec.ConflictList{Status: exec.ConflictOpen}).Data
	codes := map[string]exec.Conflict{}
	for _, f := range list {
		codes[f.Reason.Code] = f
	}
	unique, field := codes["already_exists"], codes["field_conflict"]
	if len(list) != 2 || unique.Operation != "taken" || unique.Node != tower.Name || unique.Decider != "test:write" || string(unique.Calls[0].In) != `{"label":"a"}` {
		t.Fatalf("got %+v", list)
	}
	if len(field.Reason.Fields) != 1 || field.Reason.Fields[0].Pointer != "/color" {
		t.Errorf("got %+v, want the member named", field.Reason)
	}
	if got := labels(t, tower); len(got) != 3 || got["shared"] != "blue" {
		t.Errorf("the tower shows %v", got)
	}
	_, _, err = edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "taken"}, makeBox.Name, json.RawMessage(`{"label":"a","secret":"hidden"}`))
	if got := edgetest.CodeOf(t, err); got != "sync_conflict" {
		t.Errorf("asked again: got %s", got)
	}
	// Somebody decides: the field is set after all, and the box that could not be is made once its place is free.
	edgetest.Do[exec.Conflict](t, tower.Harness, acme, "sync.conflict.resolve", exec.ResolveConflict{ID: field.ID, Action: "retry"})
	if got := edgetest.Code(t, leader.Harness, acme, "sync.conflict.resolve", exec.ResolveConflict{ID: unique.ID, Action: "retry"}); got != "already_exists" {
		t.Errorf("a retry that is still not allowed: got %s", got)
	}
	holder := page(t, leader.Harness, acme, listBoxes{}).Data
	for _, b := range holder {
		if b.Label == "a" {
			edgetest.Do[edge.None](t, leader.Harness, acme, expireBox.Name, edge.DueInput{ID: b.ID, At: edgetest.Start})
		}
	}
	edgetest.Do[exec.Conflict](t, leader.Harness, acme, "sync.conflict.resolve", exec.ResolveConflict{ID: unique.ID, Action: "retry", Note: "the other one was a mistake"})
	if got := edgetest.Code(t, leader.Harness, acme, "sync.conflict.resolve", exec.ResolveConflict{ID: unique.ID, Action: "dismiss"}); got != "conflict_decided" {
		t.Errorf("a second decision: got %s", got)
	}
	if got := labels(t, leader); got["shared"] != "red" || len(got) != 3 {
		t.Errorf("got %v", got)
	}
	again, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "taken"}, makeBox.Name, json.RawMessage(`{"label":"a","secret":"hidden"}`))
	if err != nil || !r.Replayed || again.ID != taken.ID {
		t.Errorf("asked again after the decision: %+v, %v, id %s, want %s", r, err, again.ID, taken.ID)
	}
	c.Agree()
	edgetest.NoDrift(t, leader.Harness)
}

// A node that is made leader between its look whether it leads and its call of the leader asks itself. It must not wait for its own answer.
func TestANodeThatComesToLeadWhileItForwardsAnswersItself(t *testing.T) {
	t.Parallel()
	_, _, tower := pair(t)
	b := edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: "a"})
	tower.Rise()
	_, r, err := edgetest.Try[edge.None](tower.Harness, acme, edge.Request{}, expireBox.Name, edge.DueInput{ID: b.ID, At: edgetest.Start})
	if err != nil || r.State != "committed" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestWhereNothingWaitsNothingIsShownAsPending looks at the moment at which the overlay goes, which watches are told of: until then something
// waits. Who was told otherwise would write, and not read what he wrote.
func TestWhereNothingWaitsNothingIsShownAsPending(t *testing.T) {
	t.Parallel()
	var tower *edgetest.Member
	var back atomic.Bool
	told := make(chan int64, 64)
	c := edgetest.NewCluster(t, 2, quick, func(c *exec.Config) {
		m := offline()
		if c.Node == "n2" {
			m.Watches = append(m.Watches, edge.Watch{Name: "overlay", Tables: []string{boxes.Name}, Apply: func(bool, uint64, []edge.Change) {
				if back.Load() {
					told <- tower.Exec.Pending().Waiting
				}
			}})
		}
		c.Modules = []edge.Module{m, syncPart()}
	})
	tower = c.Nodes[1]
	tower.CutAndNotice()
	if _, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "k"}, makeBox.Name, newBox{Label: "a"}); err != nil || r.State != "pending" {
		t.Fatalf("got %+v, %v", r, err)
	}
	back.Store(true)
	tower.HealAndDrain()
	select {
	case waiting := <-told:
		if waiting == 0 {
			t.Error("nothing waited any more while the overlay still hid what was committed")
		}
	case <-time.After(time.Minute):
		t.Error("nobody was told that the overlay has gone")
	}
	if st := edgetest.Ask[exec.OperationState](t, tower.Harness, acme, "sync.operation.get", exec.OperationRef{Operation: "k"}); st.State != "committed" {
		t.Errorf("the write is %s", st.State)
	}
}

// TestANodeThatReadsItsQueueInSaysHowItStands holds a node at the start of its overlay, and where that is made anew: both may take a minute or
// two, and until then it must not call itself linked, nor cut off, where it is not, nor what it shows whole.
func TestANodeThatReadsItsQueueInSaysHowItStands(t *testing.T) {
	t.Parallel()
	var hold atomic.Bool
	var held atomic.Int32
	release := make(chan struct{})
	c := edgetest.NewCluster(t, 2, quick, func(c *exec.Config) {
		m := offline()
		m.Watches = append(m.Watches, edge.Watch{Name: "held", Tables: []string{boxes.Name}, Apply: func(reset bool, _ uint64, _ []edge.Change) {
			if hold.Load() && !reset {
				held.Add(1)
				<-release
			}
		}})
		c.Modules = []edge.Module{m, syncPart()}
	})
	tower := c.Nodes[1]
	tower.CutAndNotice()
	if _, _, err := edgetest.Try[box](tower.Harness, acme, edge.Request{}, makeBox.Name, newBox{Label: "a"}); err != nil {
		t.Fatal(err)
	}
	hold.Store(true)
	tower = c.Restart(tower)
	edgetest.Eventually(t, func() bool { p := tower.Exec.Pending(); return p.CutOff && p.Loading && p.Waiting == 1 },
		func() string { return fmt.Sprintf("%+v", tower.Exec.Pending()) })
	release <- struct{}{}
	edgetest.Eventually(t, func() bool { return !tower.Exec.Pending().Loading }, func() string { return "it does not end" })
	tower.Heal()
	edgetest.Eventually(t, func() bool { return !tower.CutOff() }, func() string { return "it does not hear the leader" })
	edgetest.Eventually(t, func() bool { return held.Load() == 2 }, func() string { return "the overlay is not rebuilt" })
	tower.Cut() // while the overlay is rebuilt, which may take as long
	edgetest.Eventually(t, tower.CutOff, func() string { return "it does not notice that it is cut off again" })
	hold.Store(false)
	close(release)
	tower.HealAndDrain()
}

// TestANodeThatTheClusterHasRemovedAcceptsNothing holds that nothing is promised which cannot come.
func TestANodeThatTheClusterHasRemovedAcceptsNothing(t *testing.T) {
	t.Parallel()
	var removed atomic.Bool
	gone := &edge.Error{Kind: edge.Unavailable, Code: "node_expelled", Message: "Removed", Fix: "Use another"}
	_, _, tower := pair(t, func(c *exec.Config) {
		c.Strict = false
		c.Expelled = func() error {
			if removed.Load() {
				return gone
			}
			return nil
		}
	})
	tower.CutAndNotice()
	edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: "before"})
	removed.Store(true)
	if got := edgetest.Code(t, tower.Harness, acme, makeBox.Name, newBox{Label: "after"}); got != gone.Code {
		t.Errorf("what may wait: got %s", got)
	}
	if got := labels(t, tower); len(got) != 1 {
		t.Errorf("it shows %v", got)
	}
	removed.Store(false)
	tower.HealAndDrain()
}

// A queue is handed over at a pace that leaves the processor to others.
func TestAHandOverKeepsItsPace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c, _, tower := pair(t)
		tower.CutAndNotice()
		const writes = 300
		for i := range writes {
			edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: fmt.Sprint("b", i)})
		}
		begin := time.Now() // of the bubble
		tower.HealAndDrain()
		if took := time.Since(begin); took < 200*time.Millisecond {
			t.Errorf("%d writes were handed over in %s, want a millisecond for each of nearly all", writes, took)
		}
		c.Agree()
	})
}

// One damaged record of the queue costs that write, and nothing else: the others arrive in order, and the loss is named.
func TestADamagedPendingWriteCostsItselfAlone(t *testing.T) {
	t.Parallel()
	for _, lost := range []int{0, 7, 18} {
		c, _, tower := pair(t)
		tower.CutAndNotice()
		for i := range 20 {
			edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: fmt.Sprintf("box-%02d", i)})
		}
		tower = c.RestartWith(tower, func(dir string) {
			path := filepath.Join(dir, "pending", "0000000000000001.seg")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			raw[bytes.Index(raw, fmt.Appendf(nil, "box-%02d", lost))] ^= 0x10
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		})
		edgetest.Eventually(t, func() bool { return len(labels(t, tower)) == 19 && tower.Exec.Loaded() }, func() string { return fmt.Sprint(labels(t, tower)) })
		rest, err := tower.Exec.QueueRest()
		carried := rest.Carried()
		if err == nil {
			err = tower.Exec.EachPending(t.Context(), rest, func(raw []byte) error {
				_, err := carried.Intent(raw)
				return err
			})
		}
		if err = errors.Join(err, carried.End()); err != nil || rest.Count != 19 {
			t.Errorf("for a bundle: %+v, %v", rest, err)
		}
		if got := tower.Exec.Pending(); got.Lost != 1 {
			t.Errorf("got %+v", got)
		}
		edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: "after"})
		tower.HealAndDrain()
		c.Agree()
		got := labels(t, c.Leader())
		if _, there := got[fmt.Sprintf("box-%02d", lost)]; len(got) != 20 || there {
			t.Errorf("without %d: %v", lost, got)
		}
		tower = c.Restart(tower)
		if p := tower.Exec.Pending(); p.Waiting != 0 || p.Lost != 1 {
			t.Errorf("after all: %+v", p)
		}
	}
}

// A record of the queue that is damaged while the node runs is found by whoever reads it next. An export does not promise it, and where it is the last
// one nothing waits for it for ever.
func TestAPendingWriteThatIsDamagedWhileTheNodeRunsKeepsNothingWaiting(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"box-0", "box-1", "box-2"} {
		c, _, tower := pair(t)
		tower.CutAndNotice()
		makeBoxes(t, tower, "box-0", "box-1", "box-2")
		damageQueue(t, tower, lost)
		rest, err := tower.Exec.QueueRest()
		carried := rest.Carried()
		each := func(raw []byte) error {
			_, err := carried.Intent(raw)
			return err
		}
		if err == nil {
			err = tower.Exec.EachPending(t.Context(), rest, each)
		}
		if e, ok := edge.AsError(err); !ok || err == nil || e.Code != "queue_damaged" {
			t.Errorf("%s: an export that has promised three writes: %v", lost, err)
		}
		if rest, err = tower.Exec.QueueRest(); err == nil {
			carried = rest.Carried()
			err = tower.Exec.EachPending(t.Context(), rest, each)
		}
		if err = errors.Join(err, carried.End()); err != nil || rest.Count != 2 {
			t.Errorf("%s: the next one: %+v, %v", lost, rest, err)
		}
		tower.HealAndDrain()
		c.Agree()
		if got := labels(t, c.Leader()); len(got) != 2 {
			t.Errorf("without %s: %v", lost, got)
		}
		tower = c.Restart(tower)
		edgetest.Eventually(t, waiting(tower, 0), func() string { return fmt.Sprintf("%+v", tower.Exec.Pending()) })
		makeBoxes(t, tower, "after")
		c.Agree()
	}
}

// damageQueue flips a bit of the pending write with a label.
func damageQueue(t *testing.T, m *edgetest.Member, label string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(m.Dir, "pending", "0000000000000001.seg"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if err == nil {
		at := bytes.Index(raw, []byte(label))
		_, err = f.WriteAt([]byte{raw[at] ^ 0x10}, int64(at))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// What is damaged after the cluster has taken it over is lost to nobody, whether a start finds it or a later reading.
func TestDamageOfASettledPendingWriteIsNoLoss(t *testing.T) {
	t.Parallel()
	c, _, tower := pair(t)
	tower.CutAndNotice()
	makeBoxes(t, tower, "box-0", "box-1", "box-2", "box-3")
	tower.HealAndDrain()
	none := func(when string) {
		t.Helper()
		notes, err := filepath.Glob(filepath.Join(tower.Dir, "pending", "*.damaged"))
		if p := tower.Exec.Pending(); p.Lost != 0 || p.Waiting != 0 || len(notes) > 0 || err != nil {
			t.Errorf("%s: %+v, notes %v (%v)", when, p, notes, err)
		}
	}
	damageQueue(t, tower, "box-1")
	tower.CutAndNotice()
	makeBoxes(t, tower, "box-4")
	tower.HealAndDrain()
	none("when the queue is read again")
	for range 2 {
		tower = c.Restart(tower)
		none("after a restart")
	}
	tower.CutAndNotice()
	makeBoxes(t, tower, "box-5", "box-6")
	tower = c.RestartWith(tower, func(string) { damageQueue(t, tower, "box-5") })
	tower.HealAndDrain()
	if p := tower.Exec.Pending(); p.Lost != 1 {
		t.Errorf("one that waited: %+v", p)
	}
	if tower = c.Restart(tower); tower.Exec.Pending().Lost != 1 {
		t.Errorf("and when the cluster is past its place: %+v", tower.Exec.Pending())
	}
	c.Agree()
}

package exec_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/exec"
)

func openConflicts(t *testing.T, m *edgetest.Member) []exec.Conflict {
	t.Helper()
	return edgetest.Ask[edge.Page[exec.Conflict]](t, m.Harness, acme, "sync.conflict.list", exec.ConflictList{Status: exec.ConflictOpen}).Data
}

// A tower sets a member twice, as somebody who mends a slip does, and meanwhile the cluster sets it otherwise. The record's version at the tower, after
// the first change, is the one that the cluster has reached by its own: the second change must not pass for one that has seen it.
func TestASecondPendingChangeOverwritesNothingUnseen(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	b := edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "shared", Color: "white"})
	tower.CutAndNotice()
	for _, color := range []string{"rde", "red"} {
		edgetest.Do[box](t, tower.Harness, acme, paintBox.Name, paint{b.ID, color})
	}
	edgetest.Do[box](t, leader.Harness, acme, paintBox.Name, paint{b.ID, "blue"})
	tower.HealAndDrain()
	c.Agree()
	got, open := labels(t, leader)["shared"], openConflicts(t, leader)
	if got != "blue" || len(open) != 2 {
		t.Errorf("the box is %s with %d conflicts, want blue until somebody decides, and both changes kept", got, len(open))
	}
}

// The answer that a decision gives has four days of its own, not what was left of the conflict's.
func TestTheAnswerOfADecisionLivesAsLongAsAnyOther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c, leader, tower := pair(t)
		b := edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "a", Color: "white"})
		tower.CutAndNotice()
		ask := func() edge.Reply {
			_, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "k"}, paintBox.Name, paint{b.ID, "red"})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		ask()
		edgetest.Do[box](t, leader.Harness, acme, paintBox.Name, paint{b.ID, "blue"})
		tower.HealAndDrain()
		pass := func(d time.Duration) {
			leader.Clock.Advance(d)
			tower.Clock.Advance(d)
			time.Sleep(time.Minute) // of the bubble: the janitor looks
		}
		pass(95 * time.Hour)
		edgetest.Do[exec.Conflict](t, leader.Harness, acme, "sync.conflict.resolve", exec.ResolveConflict{ID: openConflicts(t, leader)[0].ID, Action: "retry"})
		edgetest.Do[box](t, leader.Harness, acme, paintBox.Name, paint{b.ID, "green"})
		pass(3 * time.Hour)
		if r := ask(); !r.Replayed || labels(t, leader)["a"] != "green" {
			t.Errorf("asked again three hours after the decision it was done once more: %+v, the box is %s", r.State, labels(t, leader)["a"])
		}
		c.Close()
	})
}

// What was asked for at once is decided at once, by whoever may do all of it.
func TestAConflictOfABatchIsDecidedByWhoMayDoAllOfIt(t *testing.T) {
	t.Parallel()
	ship := makeBox
	ship.Name, ship.Scope, ship.Offline = "test.box.ship", "ships:write", true
	m := offline()
	m.Ops = append(m.Ops, ship.Op())
	c := edgetest.NewCluster(t, 2, edgetest.Modules(m, syncPart()), quick)
	leader, tower := c.Nodes[0], c.Nodes[1]
	tower.CutAndNotice()
	call := func(op, label string) edge.Call {
		return edge.Call{Op: op, In: fmt.Appendf(nil, `{"label":%q}`, label)}
	}
	calls := []edge.Call{call(makeBox.Name, "a"), call(ship.Name, "b"), call(makeBox.Name, "c")}
	if r, err := tower.Exec.Do(t.Context(), edge.Request{Actor: acme, Calls: calls}); err != nil || r.State != "pending" {
		t.Fatalf("got %+v, %v", r, err)
	}
	taken := edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "a"})
	tower.HealAndDrain()
	c.Agree()
	open := openConflicts(t, leader)
	if len(open) != 1 || open[0].Decider != "ships:write test:write" {
		t.Fatalf("got %+v", open)
	}
	edgetest.Do[edge.None](t, leader.Harness, acme, expireBox.Name, edge.DueInput{ID: taken.ID, At: edgetest.Start})
	retry := exec.ResolveConflict{ID: open[0].ID, Action: "retry"}
	for _, scopes := range [][]string{{"sync:write", "test:write"}, {"sync:write", "ships:write"}} {
		half := edge.Actor{Tenant: "acme", Subject: "cli_half", Scopes: scopes}
		if got := edgetest.Code(t, leader.Harness, half, "sync.conflict.resolve", retry); got != "scope_missing" {
			t.Errorf("with %v: %q", scopes, got)
		}
	}
	all := edge.Actor{Tenant: "acme", Subject: "cli_all", Scopes: []string{"sync:write", "ships:write", "test:write"}}
	edgetest.Do[exec.Conflict](t, leader.Harness, all, "sync.conflict.resolve", retry)
	if got := labels(t, leader); len(got) != 3 {
		t.Errorf("got %v", got)
	}
}

type boxNote struct {
	Label string `json:"label" check:"max=4000"`
	Note  string `json:"note" check:"max=110000"`
}

var noteBox = edge.Command[boxNote, edge.None]{
	Name: "test.box.note", Scope: "test:write", Summary: "Make a box, and keep of a note how long it is.", Class: edge.Write, Offline: true,
	Handle: func(tx edge.Tx, in boxNote) (edge.None, error) {
		b := box{Meta: edge.Meta{ID: tx.NewID("box")}, Label: in.Label, Color: fmt.Sprint(len(in.Note))}
		return edge.None{}, boxes.Put(tx, &b)
	},
}

// A conflict holds what was asked three times. Where that does not fit into an entry it shows less, and what waits behind it in the queue goes on.
func TestALongWriteThatIsRefusedIsAConflictAndHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	m := offline()
	m.Ops = append(m.Ops, noteBox.Op())
	c := edgetest.NewCluster(t, 2, edgetest.Modules(m, syncPart()), quick)
	leader, tower := c.Nodes[0], c.Nodes[1]
	tower.CutAndNotice()
	long := boxNote{"a", strings.Repeat("x", 95_000)}
	edgetest.Do[edge.None](t, tower.Harness, acme, noteBox.Name, long)
	edgetest.Do[box](t, tower.Harness, acme, makeBox.Name, newBox{Label: "behind"})
	if got := edgetest.Code(t, tower.Harness, acme, noteBox.Name, boxNote{"b", long.Note + long.Note[:12_000]}); got == "" {
		t.Errorf("a write was accepted whose conflict would fit into no entry")
	}
	a := edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "a"})
	tower.HealAndDrain()
	c.Agree()
	open := openConflicts(t, leader)
	if len(open) != 1 || string(open[0].Calls[0].In) != `{"label":"a"}` {
		t.Fatalf("got %+v, want one conflict that shows the label", open)
	}
	if got := labels(t, leader); len(got) != 2 {
		t.Errorf("got %v", got)
	}
	edgetest.Do[edge.None](t, leader.Harness, acme, expireBox.Name, edge.DueInput{ID: a.ID, At: edgetest.Start})
	edgetest.Do[exec.Conflict](t, leader.Harness, acme, "sync.conflict.resolve", exec.ResolveConflict{ID: open[0].ID, Action: "retry"})
	if got := labels(t, leader)["a"]; got != "95000" {
		t.Errorf("what was done after all has %q octets, want all of them", got)
	}
}

// pourBox does something that counts each time. onPour is called on the leader before it is committed.
var onPour atomic.Pointer[func()]

type pour struct {
	ID edge.ID `json:"id" check:"prefix=box"`
}

var pourBox = edge.Command[pour, box]{
	Name: "test.box.pour", Scope: "test:write", Summary: "Pour into a box.", Class: edge.Write, Offline: true,
	Handle: func(tx edge.Tx, in pour) (box, error) {
		b, err := boxes.Get(tx, in.ID)
		if err != nil {
			return b, err
		}
		if f := onPour.Load(); f != nil {
			(*f)()
		}
		b.Color += "+"
		return b, boxes.Put(tx, &b)
	},
}

// A write is committed while its node loses the link, so that the node hears no answer and queues it. It is cut off for longer than answers are
// kept. As long as the cluster misses it, they are kept all the same.
func TestAWriteOfUnknownOutcomeThatWaitsForDaysCountsOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var lost atomic.Pointer[time.Time]
		m := offline()
		m.Ops = append(m.Ops, pourBox.Op())
		c := edgetest.NewCluster(t, 2, edgetest.Modules(m, syncPart()), quick, func(c *exec.Config) {
			c.Unheard = func(edge.View) (since time.Time, err error) {
				if at := lost.Load(); at != nil {
					since = *at
				}
				return since, nil
			}
		})
		leader, tower := c.Nodes[0], c.Nodes[1]
		b := edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "a"})
		lost.Store(new(leader.Clock.Now().Add(-time.Hour)))
		onPour.Store(new(tower.Cut))
		_, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{Key: "k"}, pourBox.Name, pour{b.ID})
		if err != nil || r.State != "pending" {
			t.Fatalf("got %+v, %v", r, err)
		}
		onPour.Store(nil)
		for range 5 * 4 {
			leader.Clock.Advance(6 * time.Hour)
			tower.Clock.Advance(6 * time.Hour)
			time.Sleep(time.Minute) // of the bubble: the janitor looks
		}
		tower.HealAndDrain()
		if got := labels(t, leader)["a"]; got != "+" {
			t.Errorf("it was poured %q", got)
		}
		c.Close()
	})
}

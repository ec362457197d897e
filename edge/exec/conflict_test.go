package exec_test

import (
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

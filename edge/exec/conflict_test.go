package exec_test

import (
	"testing"

	"wispgate/edge"
	"wispgate/edge/edgetest"
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

package exec_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/exec"
)

// TestATowerThatWorksByItselfForLong lets a tower go on alone while the others do, in a bubble's time: what it accepted stands in the cluster
// afterwards, each write once, but for what another was first to take, and that is a conflict with its name. WISPGATE_LONG=1 makes it 72 hours
// and a hundred thousand writes in place of one hour and a thousand, or three hundred with -short.
func TestATowerThatWorksByItselfForLong(t *testing.T) {
	alone, writes := time.Hour, 1000
	if testing.Short() {
		writes = 300
	}
	if os.Getenv("WISPGATE_LONG") != "" {
		alone, writes = 72*time.Hour, 100_000
	}
	const collide = 100 // every so many-th write is too late
	bubble.Test(t, func(t *testing.T) {
		c, leader, tower := pair(t)
		tower.CutAndNotice()
		begin := time.Now() // of the bubble
		label := func(i int) string { return fmt.Sprintf("box %06d", i) }
		for i := range writes {
			step := alone / time.Duration(writes)
			time.Sleep(step)
			leader.Clock.Advance(step)
			tower.Clock.Advance(step)
			if i%collide == 0 {
				edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: label(i), Color: "red"})
			}
			b, r, err := edgetest.Try[box](tower.Harness, acme, edge.Request{}, makeBox.Name, newBox{Label: label(i), Color: "blue"})
			if err != nil || r.State != "pending" || b.Label != label(i) {
				t.Fatalf("write %d after %s: %+v, %+v, %v", i, time.Since(begin), b, r, err)
			}
		}
		if p := tower.Exec.Pending(); p.Waiting != int64(writes) || !p.CutOff || p.Oldest == nil || tower.Clock.Now().Sub(*p.Oldest) < alone*9/10 {
			t.Fatalf("after %s: %+v", time.Since(begin), p)
		}
		tower.Heal()
		for healed := time.Now(); tower.Exec.Pending().Waiting > 0; time.Sleep(time.Second) {
			if time.Since(healed) > time.Hour {
				t.Fatalf("after an hour: %+v", tower.Exec.Pending())
			}
		}
		c.Agree()
		colors := map[string]string{}
		for _, b := range all(func(in edge.ListInput) edge.Page[box] { return page(t, tower.Harness, acme, listBoxes{ListInput: in}) }) {
			if _, twice := colors[b.Label]; twice {
				t.Errorf("%s stands twice", b.Label)
			}
			colors[b.Label] = b.Color
		}
		for i := range writes {
			want := "blue"
			if i%collide == 0 {
				want = "red"
			}
			if got := colors[label(i)]; got != want {
				t.Fatalf("%s is %q, want %q", label(i), got, want)
			}
		}
		conflicts := len(all(func(in edge.ListInput) edge.Page[exec.Conflict] {
			return edgetest.Ask[edge.Page[exec.Conflict]](t, leader.Harness, acme, "sync.conflict.list", exec.ConflictList{ListInput: in, Status: exec.ConflictOpen})
		}))
		if len(colors) != writes || conflicts != writes/collide {
			t.Errorf("%d boxes and %d conflicts, want %d and %d", len(colors), conflicts, writes, writes/collide)
		}
	})
}

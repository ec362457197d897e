package exec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
)

// load is a queue as it lies in a bundle.
type load struct {
	rest    exec.QueueRest
	records [][]byte
}

func exported(t testing.TB, m *edgetest.Member) (l load) {
	t.Helper()
	var err error
	if l.rest, err = m.QueueRest(); err == nil {
		err = m.EachPending(t.Context(), l.rest, func(raw []byte) error {
			l.records = append(l.records, slices.Clone(raw))
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l load) reader() func() ([]byte, error) {
	i := 0
	return func() ([]byte, error) {
		if i == len(l.records) {
			return nil, io.EOF
		}
		i++
		return l.records[i-1], nil
	}
}

func imported(t testing.TB, m *edgetest.Member, l load) (exec.TakenOver, error) {
	t.Helper()
	return m.TakeOver(t.Context(), l.rest, false, l.reader(), func(int) {})
}

func trio(t *testing.T) (c *edgetest.Cluster, leader, other, tower *edgetest.Member) {
	t.Helper()
	c = edgetest.NewCluster(t, 3, edgetest.Modules(offline(), syncPart()), quick)
	return c, c.Nodes[0], c.Nodes[1], c.Nodes[2]
}

func makeBoxes(t testing.TB, m *edgetest.Member, labels ...string) {
	t.Helper()
	for _, l := range labels {
		edgetest.Do[box](t, m.Harness, acme, makeBox.Name, newBox{Label: l, Color: "red"})
	}
}

func waiting(m *edgetest.Member, want int64) func() bool {
	return func() bool { return m.Exec.Pending().Waiting == want }
}

func TestAQueueIsCarriedByHand(t *testing.T) {
	t.Parallel()
	c, leader, other, tower := trio(t)
	makeBoxes(t, tower, "before")
	tower.CutAndNotice()
	makeBoxes(t, tower, "a", "b", "taken")
	makeBoxes(t, leader, "taken")
	first := exported(t, tower)
	if first.rest.Count != 3 || len(first.records) != 3 {
		t.Fatalf("got %+v", first.rest)
	}
	got, err := imported(t, other, first)
	if err != nil || got.New != 3 || got.Already != 0 || got.Conflicts != 1 || len(got.IDs) != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	conflict := edgetest.Ask[exec.Conflict](t, leader.Harness, acme, "sync.conflict.get", exec.ConflictRef{ID: got.IDs[0]})
	if conflict.Node != tower.Name || conflict.Reason.Code != "already_exists" {
		t.Errorf("got %+v", conflict)
	}
	if again, err := imported(t, leader, first); err != nil || again.New != 0 || again.Already != 3 {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	makeBoxes(t, tower, "c")
	second := exported(t, tower) // the tower does not know yet
	if got, err := imported(t, leader, second); err != nil || got.New != 1 || got.Already != 3 {
		t.Errorf("the next one, which holds the first: %+v, %v", got, err)
	}
	if again, err := imported(t, leader, first); err != nil || again.New != 0 || again.Already != 3 {
		t.Errorf("the older one afterwards: %+v, %v", again, err)
	}
	if got := tower.Exec.Pending().Waiting; got != 4 {
		t.Errorf("%d writes wait at the tower, which has heard of nothing", got)
	}
	tower.Receive() // the way back, by hand as well
	edgetest.Eventually(t, waiting(tower, 0), func() string { return fmt.Sprint(tower.Exec.Pending()) })
	if !tower.CutOff() {
		t.Error("the tower takes a stick for a link")
	}
	makeBoxes(t, tower, "d")
	third := exported(t, tower)
	if third.rest.Count != 1 || third.rest.After != second.rest.Last {
		t.Errorf("got %+v after %+v", third.rest, second.rest)
	}
	if got, err := imported(t, other, third); err != nil || got.New != 1 || got.Already != 0 {
		t.Errorf("after the way back: %+v, %v", got, err)
	}
	tower.HealAndDrain()
	for _, m := range c.Nodes {
		if got := labels(t, m); len(got) != 6 {
			t.Errorf("%s shows %v", m.Name, got)
		}
	}
	c.Agree()
}

// A recovery loses what was settled last. What waits at a node that was left behind comes after it and is taken all the same.
func TestAFormerNodesQueueIsTakenBehindWhatWasLost(t *testing.T) {
	t.Parallel()
	_, _, _, tower := trio(t)
	tower.CutAndNotice()
	makeBoxes(t, tower, "lost", "lost as well")
	tower.HealAndDrain()
	tower.CutAndNotice()
	makeBoxes(t, tower, "c", "d")
	l := exported(t, tower)
	_, leader, other, _ := trio(t) // it never had what the tower knows as settled
	_, err := imported(t, leader, l)
	if e, ok := edge.AsError(err); !ok || e.Code != "bundle_order" {
		t.Errorf("a member's queue with a gap: got %v", err)
	}
	for i, m := range []*edgetest.Member{leader, other} {
		got, err := m.TakeOver(t.Context(), l.rest, true, l.reader(), func(int) {})
		if err != nil || got.New != 2-2*i || got.Already != 2*i {
			t.Errorf("time %d: got %+v, %v", i+1, got, err)
		}
	}
	if got := slices.Sorted(maps.Keys(labels(t, leader))); !slices.Equal(got, []string{"c", "d"}) {
		t.Errorf("got %v", got)
	}
}

func TestNothingWaitsAndABundleSaysSo(t *testing.T) {
	t.Parallel()
	_, leader, _, tower := trio(t)
	tower.CutAndNotice()
	l := exported(t, tower)
	if l.rest.Count != 0 || l.rest.Queue == "" {
		t.Errorf("got %+v", l.rest)
	}
	if got, err := imported(t, leader, l); err != nil || got.New+got.Already != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestACarriedQueueCountsOnce: one bundle at two members at the same time, while the tower comes back and hands over by itself.
func TestACarriedQueueCountsOnce(t *testing.T) {
	t.Parallel()
	c, leader, other, tower := trio(t)
	tower.CutAndNotice()
	const n = 300
	for i := range n {
		makeBoxes(t, tower, fmt.Sprint("b", i))
	}
	l := exported(t, tower)
	tower.LoseAnswers(2)
	var wg sync.WaitGroup
	sums := make([]exec.TakenOver, 4)
	for i := range sums {
		wg.Go(func() {
			var err error
			if sums[i], err = imported(t, []*edgetest.Member{leader, other}[i%2], l); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(tower.HealAndDrain)
	wg.Wait()
	fresh := 0
	for _, s := range sums {
		if fresh += s.New; s.New+s.Already != n || s.Conflicts != 0 {
			t.Errorf("got %+v", s)
		}
	}
	if fresh > n {
		t.Errorf("%d writes were new", fresh)
	}
	for _, m := range c.Nodes {
		edgetest.Eventually(t, func() bool { return m.Version() == leader.Version() }, func() string { return fmt.Sprint(m.Version()) })
	}
	if got := edgetest.EventTypes(t, leader.Harness, "acme", 0); len(got) != n {
		t.Errorf("%d events, want %d", len(got), n)
	}
	c.Agree()
	edgetest.NoDrift(t, leader.Harness)
}

func TestACarriedQueueIsRefusedWhole(t *testing.T) {
	t.Parallel()
	c, leader, _, tower := trio(t)
	tower.CutAndNotice()
	makeBoxes(t, tower, "a", "b", "c")
	good := exported(t, tower)
	edit := func(i int, change func(*exec.Intent)) func(load) load {
		return func(l load) load {
			in := new(exec.Intent)
			if err := json.Unmarshal(l.records[i], in); err != nil {
				t.Fatal(err)
			}
			change(in)
			raw, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			l.records = slices.Clone(l.records)
			l.records[i] = raw
			return l
		}
	}
	for name, tc := range map[string]struct {
		change func(load) load
		want   string
	}{
		"not JSON":             {func(l load) load { l.records = [][]byte{[]byte("{")}; return l }, "bundle_content"},
		"out of order":         {func(l load) load { l.records = [][]byte{l.records[1], l.records[0], l.records[2]}; return l }, "bundle_content"},
		"one missing":          {func(l load) load { l.records = [][]byte{l.records[0], l.records[2]}; return l }, "bundle_content"},
		"the last missing":     {func(l load) load { l.records = l.records[:2]; return l }, "bundle_content"},
		"one twice":            {func(l load) load { l.records = slices.Insert(slices.Clone(l.records), 1, l.records[0]); return l }, "bundle_content"},
		"of another node":      {edit(0, func(in *exec.Intent) { in.Origin.Node = "n9" }), "bundle_content"},
		"of another queue":     {edit(0, func(in *exec.Intent) { in.Origin.Queue = "q" }), "bundle_content"},
		"a place of its own":   {edit(2, func(in *exec.Intent) { in.Origin.Seq = 99 }), "bundle_content"},
		"not acknowledged":     {edit(0, func(in *exec.Intent) { in.Acknowledged = false }), "bundle_content"},
		"nobody's":             {edit(0, func(in *exec.Intent) { in.Actor = edge.Actor{} }), "bundle_content"},
		"behind what is there": {func(l load) load { l.rest.After = 7; return l }, "bundle_order"},
	} {
		bad := tc.change(good)
		check := bad.rest.Carried()
		var err error
		for _, raw := range bad.records {
			if _, err = check.Intent(raw); err != nil {
				break
			}
		}
		if err == nil {
			err = check.End()
		}
		if tc.want == "bundle_order" { // which only the cluster knows
			_, err = imported(t, leader, bad)
		}
		if err == nil || edgetest.CodeOf(t, err) != tc.want {
			t.Errorf("%s: got %v, want %s", name, err, tc.want)
		}
	}
	if got := labels(t, leader); len(got) != 0 {
		t.Errorf("something was taken: %v", got)
	}
	leader.Cut()
	if _, err := imported(t, tower, good); edgetest.CodeOf(t, err) != "quorum_lost" {
		t.Errorf("at a node without a leader: %v", err)
	}
	leader.Heal()
	if _, err := imported(t, leader, good); err != nil {
		t.Error(err)
	}
	tower.HealAndDrain()
	c.Agree()
}

// TestAnOldCopyOfADiskIsNotTaken: the tower's disk is set back, so that its queue fills places which the cluster has settled with others.
func TestAnOldCopyOfADiskIsNotTaken(t *testing.T) {
	t.Parallel()
	c, leader, _, tower := trio(t)
	tower.CutAndNotice()
	makeBoxes(t, tower, "a")
	old := filepath.Join(t.TempDir(), "old")
	tower = c.RestartWith(tower, func(dir string) {
		if err := os.CopyFS(old, os.DirFS(filepath.Join(dir, "pending"))); err != nil {
			t.Fatal(err)
		}
	})
	edgetest.Eventually(t, func() bool { return tower.Loaded() && tower.CutOff() }, func() string { return "not loaded" })
	makeBoxes(t, tower, "b", "c")
	if _, err := imported(t, leader, exported(t, tower)); err != nil {
		t.Fatal(err)
	}
	set := func(more ...string) load {
		tower = c.RestartWith(tower, func(dir string) {
			queue := filepath.Join(dir, "pending")
			if err := errors.Join(os.RemoveAll(queue), os.CopyFS(queue, os.DirFS(old))); err != nil {
				t.Fatal(err)
			}
		})
		edgetest.Eventually(t, func() bool { return tower.Loaded() && tower.CutOff() }, func() string { return "not loaded" })
		makeBoxes(t, tower, more...)
		return exported(t, tower)
	}
	before := leader.Version()
	for _, more := range [][]string{{"d"}, {"d", "e"}, {"d", "e", "f"}} { // short of the mark, on it, beyond it
		if _, err := imported(t, leader, set(more...)); err == nil || edgetest.CodeOf(t, err) != "bundle_queue_older" {
			t.Errorf("%v: got %v", more, err)
		}
	}
	if leader.Version() != before {
		t.Error("something was taken")
	}
	// Carried back, the cluster's state tells the tower, which numbers its queue anew; then everything arrives, once.
	tower.Receive()
	edgetest.Eventually(t, func() bool { q, err := tower.QueueRest(); return err == nil && q.After == 0 }, func() string { return fmt.Sprint(tower.QueueRest()) })
	got, err := imported(t, leader, exported(t, tower))
	if err != nil || got.New != 3 || got.Already != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	tower.HealAndDrain()
	if got := labels(t, leader); len(got) != 6 {
		t.Errorf("got %v", got)
	}
	c.Agree()
}

// A write whose key another write has taken is a conflict without an answer of its own. A bundle in which it comes once more is not that of an older
// copy of its node's disk.
func TestABundleWithAKeyThatWasTakenIsNotOfAnOlderCopy(t *testing.T) {
	t.Parallel()
	c, leader, other, tower := trio(t)
	tower.CutAndNotice()
	for _, m := range []*edgetest.Member{tower, leader} {
		if _, _, err := edgetest.Try[box](m.Harness, acme, edge.Request{Key: "k"}, makeBox.Name, newBox{Label: m.Name}); err != nil {
			t.Fatal(err)
		}
	}
	stick := exported(t, tower)
	tower.HealAndDrain()
	tower.CutAndNotice()
	makeBoxes(t, tower, "later")
	tower.HealAndDrain()
	got, err := imported(t, other, stick)
	if err != nil || got.Already != 1 || got.Conflicts != 1 {
		t.Errorf("got %+v, %v; want one write that is a conflict already", got, err)
	}
	c.Agree()
}

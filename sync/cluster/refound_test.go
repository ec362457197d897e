package cluster

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// seeded is a machine in a folder of its own with the state of another one.
func seeded(t *testing.T, dir string, state []byte) (*store.Store, *exec.Machine) {
	t.Helper()
	s, err := store.Open(store.Options{Dir: filepath.Join(dir, "store"), BallastBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	m, err := exec.NewMachine(s, exec.MachineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if state != nil {
		if _, err := m.Seed(bytes.NewReader(state)); err != nil {
			t.Fatal(err)
		}
	}
	return s, m
}

func TestARefoundedClusterGoesOnFromTheStateAndSendsItToWhoeverJoins(t *testing.T) {
	old := t.TempDir()
	w := raise(t, old, store.Options{}, conf(old))
	for _, key := range []string{"a", "b", "c"} {
		if err := w.write(t, key, "old"); err != nil {
			t.Fatal(err)
		}
	}
	var state bytes.Buffer
	info, err := w.machine.Dump(&state)
	if err != nil {
		t.Fatal(err)
	}
	_, sum, err := w.machine.Checksum()
	if err != nil {
		t.Fatal(err)
	}
	w.close(t)

	dir := t.TempDir()
	c := conf(dir)
	c.NodeID, c.ClusterID = "n9", "c9"
	s, m := seeded(t, dir, state.Bytes())
	if err := Refound(c, m); err != nil {
		t.Fatal(err)
	}
	if err := Refound(c, m); code(err) != "cluster_exists" {
		t.Errorf("refounded twice: got %v", err)
	}
	if err := Bootstrap(c, m); code(err) != "cluster_exists" {
		t.Errorf("bootstrapped over it: got %v", err)
	}
	if err := errors.Join(m.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	w = raise(t, dir, store.Options{}, c)
	if v, again, err := w.machine.Checksum(); err != nil || v != info.Version || again != sum {
		t.Errorf("the cluster begins at version %d checksum %x, want %d %x (%v)", v, again, info.Version, sum, err)
	}
	if err := w.write(t, "d", "new"); err != nil {
		t.Fatal(err)
	}
	if err := w.node.Snapshot(); err != nil {
		t.Fatal(err)
	}
	first, err := w.node.current().log.FirstIndex()
	if err != nil || first < 2 {
		t.Errorf("the log begins at %d (%v): a new node would be sent entries that build on a version it lacks", first, err)
	}
	w.close(t)
	w = raise(t, dir, store.Options{}, c) // and a restart finds log and state together
	if got := w.read(t, "a") + w.read(t, "d"); got != "oldnew" || w.machine.Version() != info.Version+1 {
		t.Errorf("after a restart: %s at version %d", got, w.machine.Version())
	}
	w.close(t)
}

func TestRefoundNeedsAStateAndAnEmptyFolder(t *testing.T) {
	dir := t.TempDir()
	s, m := seeded(t, dir, nil)
	defer func() { _ = errors.Join(m.Close(), s.Close()) }()
	if err := Refound(conf(dir), m); err == nil {
		t.Error("a cluster without a state is refounded")
	}
	if exists, err := Exists(conf(dir).Dir); exists || err != nil {
		t.Errorf("something was left: %v %v", exists, err)
	}
}

// What a follower with nothing gets from a refounded leader is the state: raft asks the log for the entries from 1 on and finds none.
func TestTheLogOfARefoundedClusterHoldsNothingBelowTheState(t *testing.T) {
	donor := t.TempDir()
	w := raise(t, donor, store.Options{}, conf(donor))
	if err := w.write(t, "a", "1"); err != nil {
		t.Fatal(err)
	}
	var state bytes.Buffer
	if _, err := w.machine.Dump(&state); err != nil {
		t.Fatal(err)
	}
	w.close(t)
	dir := t.TempDir()
	c := conf(dir)
	s, m := seeded(t, dir, state.Bytes())
	if err := Refound(c, m); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	w = raise(t, dir, store.Options{}, c)
	defer w.close(t)
	var l raft.Log
	if err := w.node.current().log.GetLog(1, &l); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry 1: got %v, want none", err)
	}
	metas, err := (&snapshots{dir: filepath.Join(c.Dir, "snapshots"), machine: w.machine}).List()
	if err != nil || len(metas) != 1 || metas[0].Index < 1 || len(metas[0].Configuration.Servers) != 1 {
		t.Errorf("snapshots %+v (%v)", metas, err)
	}
}

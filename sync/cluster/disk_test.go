package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// TestAFullDiskNeitherKillsNorSealsTheLog fills a real file system under a working node, several times over, and gives the room back.
// The node refuses, goes on reading, comes back without a restart, and has lost nothing; its log still rotates.
func TestAFullDiskNeitherKillsNorSealsTheLog(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	disk := peers.MountTiny(t, 128)
	dir := filepath.Join(disk, "node")
	c := conf(dir)
	c.SegmentBytes = 256 << 10
	opts := store.Options{PollEvery: 20 * time.Millisecond, BallastBytes: 16 << 20}
	w := raise(t, dir, opts, c)
	acked := 0
	write := func() error {
		err := w.write(t, fmt.Sprintf("k/%06d", acked), string(bytes.Repeat([]byte{'v'}, 2000)))
		if err == nil {
			acked++
		}
		return err
	}
	for round := range 3 {
		for range 400 { // 800 KB: the log rotates three times
			if err := write(); err != nil {
				t.Fatal(err)
			}
		}
		peers.FillUp(t, disk)
		if err := write(); code(err) != "disk_low" {
			t.Fatalf("round %d: got %v, want disk_low", round, err)
		}
		peers.Eventually(t, "parked", func() bool { return w.node.Status().Parked == parkedDisk && w.store.DiskState().ReadOnly },
			func() any { return fmt.Sprint(w.node.Status(), w.store.DiskState()) })
		peers.FillUp(t, disk) // the ballast's room too
		st := w.machine.Snapshot()
		found := 0
		if err := st.Scan("k/", "", func(string, []byte) (bool, error) { found++; return true, nil }); err != nil || found != acked {
			t.Fatalf("round %d: %d records readable, %d acknowledged (%v)", round, found, acked, err)
		}
		st.Close()
		for _, name := range []string{"filler", "filler2"} {
			if err := os.Remove(filepath.Join(disk, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		peers.Eventually(t, "writing again", func() bool { return write() == nil }, func() any { return w.node.Status() })
	}
	version, sum, err := w.machine.Checksum()
	if err != nil || version != uint64(acked) {
		t.Fatalf("version %d, %d acknowledged (%v)", version, acked, err)
	}
	w.close(t)
	w = raise(t, dir, opts, c)
	defer w.close(t)
	if v, again, err := w.machine.Checksum(); err != nil || v != version || again != sum {
		t.Errorf("after a restart: version %d, want %d (%v)", v, version, err)
	}
}

// TestALogThatMetAFullDiskWorksAgain lets the log itself run into ENOSPC, which the look before each proposal otherwise prevents: the
// guard is told of free space that is not there.
func TestALogThatMetAFullDiskWorksAgain(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	disk := peers.MountTiny(t, 64)
	dir := filepath.Join(disk, "node")
	c := conf(dir)
	c.SegmentBytes = 128 << 10
	lie := func(string) (uint64, uint64, error) { return 500 << 20, 1000 << 20, nil }
	w := raise(t, dir, store.Options{PollEvery: 20 * time.Millisecond, FreeSpace: lie}, c)
	defer w.close(t)
	first := w.node.current()
	val := string(bytes.Repeat([]byte{'v'}, 4000))
	acked := uint64(0)
	write := func() error {
		err := w.write(t, fmt.Sprintf("k/%d", acked%10), val)
		if err == nil {
			acked++
		}
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	peers.FillUp(t, disk)
	var err error
	for err == nil && acked < 500 {
		err = write()
	}
	if code(err) != "outcome_unknown" && code(err) != "quorum_lost" {
		t.Fatalf("after %d writes on a full disk: got %v, want outcome_unknown", acked, err)
	}
	peers.Eventually(t, "the log is given up", func() bool { return w.node.current() != first }, func() any { return w.node.Status() })
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	peers.Eventually(t, "writing again", func() bool { return write() == nil }, func() any { return w.node.Status() })
	for range 200 { // the log rotates again
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.machine.Version(); got < acked {
		t.Errorf("got version %d after %d acknowledged writes", got, acked)
	}
}

// A node that starts on a full disk reads, says why it does nothing else, and takes part when there is room.
func TestANodeThatStartsOnAFullDiskServesReads(t *testing.T) {
	dir := t.TempDir()
	c := conf(dir)
	w := raise(t, dir, store.Options{}, c)
	if err := w.write(t, "a", "1"); err != nil {
		t.Fatal(err)
	}
	w.close(t)
	var full atomic.Bool
	full.Store(true)
	free := func(string) (uint64, uint64, error) {
		if full.Load() {
			return 1 << 20, 1000 << 20, nil
		}
		return 900 << 20, 1000 << 20, nil
	}
	s, err := store.Open(store.Options{Dir: filepath.Join(dir, "store"), BallastBytes: -1, FreeSpace: free, PollEvery: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	m, err := exec.NewMachine(s, exec.MachineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(c, m)
	if err != nil {
		t.Fatal(err)
	}
	w = &tower{s, m, n}
	defer w.close(t)
	for what, err := range map[string]error{
		"WaitLeader": n.WaitLeader(within(t, time.Minute)), "Barrier": n.Barrier(within(t, time.Second)), "Propose": w.write(t, "b", "2"),
	} {
		if code(err) != "disk_low" {
			t.Errorf("%s: got %v, want disk_low", what, err)
		}
	}
	if got := w.read(t, "a"); got != "1" {
		t.Errorf("got %q, want 1", got)
	}
	full.Store(false)
	peers.Eventually(t, "writing", func() bool { return w.write(t, "b", "2") == nil }, func() any { return n.Status() })
}

// The disk of a follower that catches up is full in the middle of a batch, for longer than raft is waited for. When there is room again it goes on.
func TestAFollowerWhoseDiskFillsUnderLoadGoesOn(t *testing.T) {
	f := newFlock(t, nil)
	var full atomic.Bool
	f.options = func(b *bird) store.Options {
		return store.Options{PollEvery: 20 * time.Millisecond, FreeSpace: func(string) (free, total uint64, err error) {
			if b.name == "n2" && full.Load() {
				return 10 << 20, 1 << 30, nil
			}
			return 1 << 29, 1 << 30, nil
		}}
	}
	f.found("n1")
	f.grow(Replica, "n2")
	r := f.bird("n2")
	f.settled()
	had := r.machine.Version()
	r.down()
	for n := range 100 {
		f.put(fmt.Sprint("w", n), "k", strings.Repeat("v", 40_000))
	}
	r.up()
	for r.machine.Version() < had+30 {
		time.Sleep(time.Millisecond)
	}
	full.Store(true)
	f.untilWithin(time.Minute, "it is parked", func() bool { return r.node.Status().Parked == parkedDisk })
	time.Sleep(stopWait + time.Second) // raft does not stop: it waits for what is being applied, which waits for room
	full.Store(false)
	caught := make(chan struct{})
	go func() { // whoever asks the node might wait for ever
		defer close(caught)
		for r.machine.Version() < f.bird("n1").machine.Version() || !r.node.Contact() {
			time.Sleep(20 * time.Millisecond)
		}
	}()
	select {
	case <-caught:
	case <-time.After(time.Minute):
		t.Fatalf("it does not follow: version %d of %d", r.machine.Version(), f.bird("n1").machine.Version())
	}
}

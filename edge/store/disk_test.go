package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
)

func TestWatermarksFollowFreeSpaceWithHysteresis(t *testing.T) {
	t.Parallel()
	w := Watermarks{Warn: Mark{Percent: 20}, Low: Mark{Percent: 10}, Critical: Mark{Percent: 5}, Resume: Mark{Percent: 15}}
	level := DiskOK
	for i, step := range []struct {
		free uint64
		want Watermark
	}{
		{50, DiskOK},
		{19, DiskWarn},
		{21, DiskWarn}, // not yet 22
		{23, DiskOK},
		{9, DiskLow},
		{14, DiskLow}, // not yet 15
		{15, DiskWarn},
		{4, DiskCritical},
		{9, DiskCritical},
		{14, DiskCritical},
		{30, DiskOK},
		{0, DiskCritical},
	} {
		if level = w.next(level, step.free*1000, 100_000); level != step.want {
			t.Fatalf("step %d, %d %% free: got %v, want %v", i, step.free, level, step.want)
		}
	}
	const tb = 1 << 40
	if got := DefaultWatermarks.next(DiskOK, 5<<30, tb); got != DiskOK {
		t.Errorf("5 GB free of 1 TB: got %v, want ok", got)
	}
	if got := DefaultWatermarks.next(DiskOK, 100<<20, tb); got != DiskCritical {
		t.Errorf("100 MB free of 1 TB: got %v, want critical", got)
	}
}

// fakeDisk is a file system of 1000 MB whose free space a test sets.
type fakeDisk struct{ mb atomic.Int64 }

func (d *fakeDisk) free(string) (free, total uint64, err error) {
	return uint64(d.mb.Load()) << 20, 1000 << 20, nil
}

func onFakeDisk(t *testing.T, mb int64) (*fakeDisk, *Store) {
	d := new(fakeDisk)
	d.mb.Store(mb)
	return d, open(t, Options{FreeSpace: d.free, PollEvery: 5 * time.Millisecond, BallastBytes: 1 << 20, DrainWait: 200 * time.Millisecond})
}

func TestALowDiskRefusesGrowthAndKeepsReading(t *testing.T) {
	t.Parallel()
	d, s := onFakeDisk(t, 900)
	put(t, s, "r/a", "1", "r/b", "2")
	d.mb.Store(90) // no poll needed: the commit looks itself
	var grow, shrink Batch
	grow.Put([]byte("r/c"), nil)
	shrink.Delete([]byte("r/b"))
	err := s.Commit(&grow)
	if code(err) != "disk_low" || !strings.Contains(err.Error(), s.Dir()) || !strings.Contains(err.Error(), "90.0 MiB") {
		t.Errorf("got %v, want disk_low with path and sizes", err)
	}
	if err := s.Commit(&shrink); err != nil {
		t.Errorf("a delete must go through: %v", err)
	}
	if err := s.CommitReserved(&grow); err != nil {
		t.Errorf("what is committed already must go through: %v", err)
	}
	if code(s.CheckDisk()) != "disk_low" {
		t.Error("CheckDisk is of another opinion")
	}
	if _, err := s.Restore(strings.NewReader(""), nil); code(err) != "disk_low" {
		t.Errorf("restore: got %v", err)
	}
	sn := s.Snapshot()
	defer sn.Close()
	if got := list(t, sn, "r/", ""); len(got) != 2 {
		t.Errorf("got %v", got)
	}
	d.mb.Store(200)
	put(t, s, "r/d", "4")
}

func TestAFullDiskTurnsTheStoreToReadingAndBack(t *testing.T) {
	t.Parallel()
	d, s := onFakeDisk(t, 900)
	put(t, s, "r/a", "1")
	ballast := filepath.Join(s.Dir(), ballastFile)
	if st, err := os.Stat(ballast); err != nil || st.Size() != 1<<20 {
		t.Fatalf("no ballast: %v", err)
	}
	var told atomic.Int32
	defer s.WatchDisk(func(ds DiskState) { told.Store(int32(ds.Level)) })()
	held := s.Snapshot() // a slow reader: the change of mode gives up and tries again
	d.mb.Store(40)
	peers.Eventually(t, "told", func() bool { return Watermark(told.Load()) == DiskCritical }, func() any { return s.DiskState() })
	var b Batch
	b.Put([]byte("r/b"), nil)
	for _, commit := range []func(*Batch) error{s.Commit, s.CommitReserved} {
		if err := commit(&b); code(err) != "disk_low" {
			t.Errorf("got %v, want disk_low", err)
		}
	}
	if v, err := held.Get([]byte("r/a")); err != nil || string(v) != "1" {
		t.Errorf("the slow reader lost its data: %q %v", v, err)
	}
	held.Close()
	peers.Eventually(t, "read only", func() bool { return s.DiskState().ReadOnly }, func() any { return s.DiskState() })
	if _, err := os.Stat(ballast); err == nil {
		t.Error("the ballast was not given up")
	}
	sn := s.Snapshot()
	if got := list(t, sn, "r/", ""); len(got) != 1 {
		t.Errorf("reading only: got %v", got)
	}
	sn.Close()
	d.mb.Store(500)
	peers.Eventually(t, "writing again", func() bool { return s.Commit(&b) == nil }, func() any { return s.DiskState() })
	peers.Eventually(t, "ballast again", func() bool { return s.DiskState().Ballast == 1<<20 }, func() any { return s.DiskState() })
}

func TestAStoreOpensOnAFullDiskForReadingAndRecovers(t *testing.T) {
	t.Parallel()
	d, s := onFakeDisk(t, 900)
	put(t, s, "r/a", "1")
	dir := s.Dir()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	d.mb.Store(1)
	s = open(t, Options{Dir: dir, FreeSpace: d.free, PollEvery: 5 * time.Millisecond})
	if !s.DiskState().ReadOnly {
		t.Errorf("got %+v, want read only", s.DiskState())
	}
	sn := s.Snapshot()
	if got := list(t, sn, "r/", ""); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	sn.Close()
	d.mb.Store(900)
	var b Batch
	b.Put([]byte("r/b"), nil)
	peers.Eventually(t, "writing again", func() bool { return s.Commit(&b) == nil }, func() any { return s.DiskState() })
}

// TestARealFileSystemThatRunsFull fills a small ext4 from beside while the store writes, and gives the room back: nothing acknowledged
// may be missing, nothing may die.
func TestARealFileSystemThatRunsFull(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	dir := peers.MountTiny(t, 96)
	s := open(t, Options{Dir: filepath.Join(dir, "data"), PollEvery: 20 * time.Millisecond, BallastBytes: 16 << 20})
	acked := 0
	write := func() error {
		var b Batch
		b.Put(fmt.Appendf(nil, "r/%06d", acked), bytes.Repeat([]byte{1}, 3000))
		err := s.Commit(&b)
		if err == nil {
			acked++
		}
		return err
	}
	for round := range 3 {
		for range 300 {
			if err := write(); err != nil {
				t.Fatal(err)
			}
		}
		filler := peers.FillUp(t, dir)
		if err := write(); code(err) != "disk_low" {
			t.Fatalf("round %d: got %v, want disk_low", round, err)
		}
		peers.Eventually(t, "read only", func() bool { return s.DiskState().ReadOnly }, func() any { return s.DiskState() })
		peers.FillUp(t, dir) // eat the ballast's room too: now nothing is left at all
		sn := s.Snapshot()
		if got := len(list(t, sn, "r/", "")); got != acked {
			t.Fatalf("round %d: %d records readable, %d acknowledged", round, got, acked)
		}
		sn.Close()
		if err := write(); code(err) != "disk_low" {
			t.Fatalf("round %d: got %v, want disk_low", round, err)
		}
		for _, f := range []string{filler, filler + "2"} {
			if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		peers.Eventually(t, "writing again", func() bool { return write() == nil }, func() any { return s.DiskState() })
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: filepath.Join(dir, "data"), BallastBytes: -1})
	sn := s.Snapshot()
	if got := len(list(t, sn, "r/", "")); got != acked {
		t.Errorf("%d records after a restart, %d acknowledged", got, acked)
	}
	sn.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
)

// stand is a journal without a preparer on a simulated disk, and what it acknowledged.
type stand struct {
	t     *testing.T
	disk  *simDisk
	j     *Journal
	acked map[uint64][]byte
	id    int64
}

func newStand(t *testing.T) *stand {
	t.Helper()
	s := &stand{t: t, disk: newSimDisk(), acked: map[uint64][]byte{}}
	s.open()
	return s
}

func (s *stand) open() {
	s.t.Helper()
	opt := simOptions(s.disk)
	opt.stepped = true
	s.j = open(s.t, opt)
}

// restart ends the process, if it still lives, and starts the next one with the same page cache.
func (s *stand) restart() {
	s.t.Helper()
	_ = s.j.Close()
	s.disk.mu.Lock()
	s.disk.fault, s.disk.killed = nil, false
	s.disk.mu.Unlock()
	s.open()
}

func (s *stand) put(n, size int) {
	s.t.Helper()
	for range n {
		if err := s.try(size); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *stand) try(size int) error {
	s.id++
	p := fact(s.id, size)
	seq, err := s.j.Append(s.t.Context(), 1, p)
	if err == nil {
		s.acked[seq] = p
	}
	return err
}

// fail lets the next n operations of a kind fail.
func (s *stand) fail(op string, n int64) {
	var left atomic.Int64
	left.Store(n)
	s.at(op, func() error {
		if left.Add(-1) >= 0 {
			return errFault
		}
		return nil
	})
}

// at calls what before each operation of a kind.
func (s *stand) at(op string, what func() error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	s.disk.fault = func(o string) error {
		if o == op {
			return what()
		}
		return nil
	}
}

// kill ends the process before the next operation of a kind.
func (s *stand) kill(op string) {
	s.at(op, func() error {
		s.disk.mu.Lock()
		defer s.disk.mu.Unlock()
		s.disk.killed = true
		return errKilled
	})
}

// survives cuts the power in many ways and wants every acknowledged record back each time.
func (s *stand) survives(trimmed uint64) {
	s.t.Helper()
	for seed := range uint64(64) {
		opt := simOptions(s.disk.cut(rand.New(rand.NewPCG(seed, 1))))
		opt.stepped = true
		j, err := Open(opt)
		if err == nil {
			err = errors.Join(checkLedger(j, s.acked, trimmed), j.Close())
		}
		if err != nil {
			s.t.Fatalf("cut %d: %v", seed, err)
		}
	}
}

// TestNamesThatARestartFoundSurviveAPowerCut: a process that dies leaves names that only the page cache holds. The next
// one builds on what it sees, so it has to make sure of it: else a power cut takes acknowledged records back.
func TestNamesThatARestartFoundSurviveAPowerCut(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		before  func(s *stand) // ends in the state that the restart finds
		after   int            // records acknowledged then
		trimmed uint64
	}{
		"a segment given up twice was removed, and would void what follows": {func(s *stand) {
			s.put(3, 1000)
			s.fail("write", 2)
			if err := s.try(1000); !errors.Is(err, ErrWrite) {
				s.t.Fatalf("got %v, want journal_write_failed", err)
			}
		}, 3, 0},
		"a new spare had its name, and would take its records along": {func(s *stand) {
			s.put(3, 1000)
			s.kill("syncdir")
			if err := s.j.fillSpares(); !errors.Is(err, errKilled) {
				s.t.Fatalf("got %v", err)
			}
		}, 20, 0},
		"a trimmed segment had its new name, and would take its records along": {func(s *stand) {
			s.put(40, 1000)
			s.kill("syncdir")
			if err := s.j.Trim(20); !errors.Is(err, errKilled) {
				s.t.Fatalf("got %v", err)
			}
		}, 10, 20}, // more would need another segment, whose making flushes the folder
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t)
			test.before(s)
			s.restart()
			s.put(test.after, 1000)
			s.survives(test.trimmed)
		})
	}
}

// TestRemainsInASpareAreNotTakenForDamageLater: the header of a torn first write is lost, its frames are not, and the
// segment before it holds the same sequences. Kept as a spare and given up in its next first write, the file would look
// like one that lost its header after its records had been durable.
func TestRemainsInASpareAreNotTakenForDamageLater(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	if err := s.j.fillSpares(); err != nil {
		t.Fatal(err)
	}
	s.put(3, 1000)
	spare := s.disk.names[segmentName(2)]
	remains, _ := endFrame(beginFrame(nil, &item{kind: 1}, 2, 2, Synced, BootID{}, 0), 0, salt(s.j.id, 2))
	if _, err := spare.WriteAt(remains, 8000); err != nil {
		t.Fatal(err)
	}
	if err := spare.Datasync(); err != nil {
		t.Fatal(err)
	}
	s.restart()
	if err := s.j.fillSpares(); err != nil {
		t.Fatal(err)
	}
	// Fill the segment, and let the first write to the next one fail.
	fails := int64(1)
	s.at("write", func() error {
		if seg := s.j.segs[len(s.j.segs)-1]; seg.end == 0 && fails > 0 {
			fails--
			return errFault
		}
		return nil
	})
	s.put(14, 1000) // and no more: making another segment flushes the folder
	if fails > 0 {
		t.Fatal("the case does not arise")
	}
	s.survives(0)
}

// TestARecordThatWasWrittenIsNotCalledRefused: the flush fails, and there is no other segment to go to.
func TestARecordThatWasWrittenIsNotCalledRefused(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.put(1, 100)
	s.disk.capacity = 1
	s.fail("sync", 1)
	if err := s.try(100); !errors.Is(err, ErrWrite) {
		t.Fatalf("got %v, want journal_write_failed: it may survive", err)
	}
	if err := s.try(100); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("got %v, want journal_full: it was never written", err)
	}
	s.restart()
	if s.j.Next() != 3 {
		t.Fatalf("next is %d; the case does not arise", s.j.Next())
	}
}

// TestNoneOfAFailedWriteIsCalledRefused: a write fails, then a part of it in a smaller segment, and there is no third.
func TestNoneOfAFailedWriteIsCalledRefused(t *testing.T) {
	t.Parallel()
	d := newSimDisk()
	opt := simOptions(d)
	opt.stepped, opt.Reserve, opt.SegmentBytes = true, 0, 32<<10
	if err := open(t, opt).Close(); err != nil {
		t.Fatal(err)
	}
	opt.SegmentBytes = 16 << 10
	j := open(t, opt)
	if err := j.fillSpares(); err != nil {
		t.Fatal(err)
	}
	d.capacity = 1
	const records = 20
	answers, syncs := make(chan outcome, records), 0
	d.fault = func(op string) error {
		if op != "sync" {
			return nil
		}
		if syncs++; syncs > 1 {
			return errFault
		}
		for id := range int64(records) { // they wait for the flush of the first, and become one write
			j.Submit(1, fact(id, 1000), &waiter{out: answers})
		}
		return nil
	}
	if _, err := j.Append(t.Context(), 1, fact(records, 1000)); err != nil {
		t.Fatal(err)
	}
	for range records {
		if got := <-answers; !errors.Is(got.err, ErrWrite) {
			t.Fatalf("got %v, want journal_write_failed", got.err)
		}
	}
	if syncs != 3 {
		t.Fatalf("%d flushes; the case does not arise", syncs)
	}
}

// TestASegmentThatCouldNotBeReleasedIsTheFirstToGo: else its successors go before it and leave a gap.
func TestASegmentThatCouldNotBeReleasedIsTheFirstToGo(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"remove", "rename", "syncdir"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			s := newStand(t)
			s.put(60, 1000)
			if op == "remove" { // with enough spares nothing is recycled
				if err := s.j.fillSpares(); err != nil {
					t.Fatal(err)
				}
			}
			s.fail(op, 1)
			if err := s.j.Trim(20); !errors.Is(err, errFault) {
				t.Fatalf("got %v; the case does not arise", err)
			}
			s.survives(20)
			if err := s.j.Trim(40); err != nil {
				t.Fatal(err)
			}
			s.survives(40)
			s.restart()
			s.survives(40)
		})
	}
}

// TestRemainsAreWipedForGood: the wiping itself fails to reach the disk, and the next start does not see what is there.
func TestRemainsAreWipedForGood(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	// Records end where sectors end, else writing the next one wipes the remains behind it.
	const first, size = sector - headerSize, 2 * sector
	const overhead = frameHead + hashSize + 16
	s.put(1, first-overhead)
	// A write of records 2 and 3 of which only 3 reached the disk.
	remains := beginFrame(nil, &item{kind: 1}, 3, 2, Synced, BootID{}, flagChained)
	remains = append(remains, make([]byte, size-frameHead)...)
	remains, _ = endFrame(remains, 0, salt(s.j.id, 1))
	f, end := s.disk.names[segmentName(1)], s.j.segs[0].end
	if _, err := f.WriteAt(remains, end+size); err != nil {
		t.Fatal(err)
	}
	if err := f.Datasync(); err != nil {
		t.Fatal(err)
	}
	_ = s.j.Close()
	s.fail("sync", 1)
	if _, err := Open(simOptions(s.disk)); !errors.Is(err, errFault) {
		t.Fatalf("got %v; the case does not arise", err)
	}
	s.restart()
	s.put(1, size-overhead)
	s.survives(0)
}

// TestASpareWithoutADurableNameIsNotLeftBehind: a folder that cannot be flushed must not fill with attempts.
func TestASpareWithoutADurableNameIsNotLeftBehind(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	for _, op := range []string{"rename", "syncdir"} {
		s.fail(op, 5)
		for range 5 {
			if err := s.j.fillSpares(); !errors.Is(err, errFault) {
				t.Fatalf("got %v", err)
			}
		}
		entries, err := s.disk.List()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(entries); len(entries) != 1 || !strings.Contains(got, segmentName(1)) {
			t.Fatalf("after five failures of %s the folder holds %s", op, got)
		}
	}
	s.fail("", 0)
	if err := s.j.fillSpares(); err != nil || s.j.Stats().Spares != 2 {
		t.Fatalf("got %+v, %v", s.j.Stats(), err)
	}
}

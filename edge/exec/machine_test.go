package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/edge"
	"wispgate/edge/store"
)

func openStore(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Options{Dir: dir, BallastBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newMachine(t testing.TB, s *store.Store, every time.Duration) *Machine {
	t.Helper()
	m, err := NewMachine(s, MachineOptions{FlushEvery: every})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// rig is a machine with its store, closed with the test.
func rig(t testing.TB, every time.Duration) (*store.Store, *Machine) {
	t.Helper()
	s := openStore(t, t.TempDir())
	m := newMachine(t, s, every)
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, m
}

const never = time.Hour

func entryAt(index, base uint64, when int64, ops ...Op) LogEntry {
	return LogEntry{Index: index, Term: 1, Data: Entry{Base: base, Time: when, Ops: ops}.Append(nil)}
}

func put(key, val string) Op { return Op{Key: key, Val: []byte(val)} }

func contents(t testing.TB, st *State, prefix, from string) []string {
	t.Helper()
	var got []string
	if err := st.Scan(prefix, from, func(k string, v []byte) (bool, error) {
		got = append(got, k+"="+string(v))
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAStaleEntryChangesNothingAndItsNeighboursApply(t *testing.T) {
	t.Parallel()
	_, m := rig(t, never)
	got := m.ApplyBatch([]LogEntry{
		entryAt(3, 0, 10, put("a", "1")),
		entryAt(4, 0, 20, put("a", "stale")),
		entryAt(6, 1, 5, put("b", "2")),
	})
	if got[0] != nil || !errors.Is(got[1], ErrStale) || got[2] != nil {
		t.Fatalf("got %v, want nil, ErrStale, nil", got)
	}
	st := m.Snapshot()
	defer st.Close()
	if want := []string{"a=1", "b=2"}; !slices.Equal(contents(t, st, "", ""), want) {
		t.Errorf("got %v, want %v", contents(t, st, "", ""), want)
	}
	if st.Version() != 2 || m.AppliedIndex() != 6 {
		t.Errorf("got version %d index %d, want 2 and 6", st.Version(), m.AppliedIndex())
	}
	if want := time.Unix(0, 10).UTC(); !m.LastTime().Equal(want) {
		t.Errorf("time ran backwards: got %v, want %v", m.LastTime(), want)
	}
}

func TestAnIndexIsAppliedOnceAcrossRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := []LogEntry{entryAt(1, 0, 1, put("n", "1")), entryAt(2, 1, 2, put("n", "2")), entryAt(3, 1, 3, put("n", "stale"))}
	for round := range 3 {
		s := openStore(t, dir)
		m := newMachine(t, s, never)
		var seen []uint64
		m.OnApply(func(v uint64, _ []Op) { seen = append(seen, v) })
		m.ApplyBatch(log)
		if round > 0 && len(seen) > 0 {
			t.Fatalf("round %d applied versions %v again", round, seen)
		}
		if m.Version() != 2 || m.AppliedIndex() != 3 {
			t.Fatalf("got version %d index %d, want 2 and 3", m.Version(), m.AppliedIndex())
		}
		if err := errors.Join(m.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnUndecodableEntryStopsTheMachineLoudly(t *testing.T) {
	t.Parallel()
	_, m := rig(t, never)
	bad := entryAt(2, 1, 2, put("b", "2"))
	bad.Data[len(bad.Data)-1] ^= 1
	got := m.ApplyBatch([]LogEntry{entryAt(1, 0, 1, put("a", "1")), bad, entryAt(3, 1, 3, put("c", "3"))})
	if got[0] != nil || !errors.Is(got[1], ErrUndecodable) || !errors.Is(got[2], ErrUndecodable) {
		t.Fatalf("got %v, want nil and twice ErrUndecodable", got)
	}
	select {
	case <-m.Failed():
	default:
		t.Error("Failed is not closed")
	}
	if !errors.Is(m.Fatal(), ErrUndecodable) || m.AppliedIndex() != 1 {
		t.Errorf("got fatal %v at index %d, want ErrUndecodable at 1", m.Fatal(), m.AppliedIndex())
	}
	if e, ok := edge.AsError(m.Fatal()); !ok || e.Code != "entry_undecodable" || !strings.Contains(e.Fix, "cluster repair") {
		t.Errorf("an operator reads %v", m.Fatal())
	}
	st := m.Snapshot()
	defer st.Close()
	if v, ok, err := st.Get("a"); !ok || err != nil || string(v) != "1" {
		t.Errorf("a stopped machine must go on answering reads; got %q %v %v", v, ok, err)
	}
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	if got := m.ApplyBatch([]LogEntry{entryAt(1, 0, 1, put("a", "2"))}); got[0] != nil || m.Fatal() != nil || m.Version() != 1 {
		t.Errorf("a machine that was reset goes on as %v, %v at version %d", got[0], m.Fatal(), m.Version())
	}
	select {
	case <-m.Failed():
		t.Error("a machine that was reset still counts as failed")
	default:
	}
	if err := m.Flush(); err != nil {
		t.Error(err)
	}
}

func TestCallbacksSeeEveryVersionInOrderAndTheStateItMade(t *testing.T) {
	t.Parallel()
	_, m := rig(t, never)
	var seen []string
	m.OnApply(func(v uint64, ops []Op) {
		st := m.Snapshot()
		defer st.Close()
		val, _, _ := st.Get("n")
		seen = append(seen, fmt.Sprintf("%d:%d:%s", v, st.Version(), val))
	})
	m.ApplyBatch([]LogEntry{entryAt(1, 0, 1, put("n", "a")), entryAt(2, 0, 1, put("n", "x")), entryAt(3, 1, 1, put("n", "b"))})
	if want := []string{"1:1:a", "2:2:b"}; !slices.Equal(seen, want) {
		t.Errorf("got %v, want %v", seen, want)
	}
}

func TestASnapshotStaysAtItsVersionWhileOthersApplyAndFlush(t *testing.T) {
	t.Parallel()
	_, m := rig(t, never)
	m.ApplyBatch([]LogEntry{entryAt(1, 0, 1, put("a", "old"), put("gone", "x"))})
	st := m.Snapshot()
	defer st.Close()
	m.ApplyBatch([]LogEntry{entryAt(2, 1, 2, put("a", "new"), Op{Key: "gone", Delete: true})})
	if err := m.Flush(); err != nil {
		t.Fatal(err)
	}
	m.ApplyBatch([]LogEntry{entryAt(3, 2, 3, put("b", "newer"))})
	if got, want := contents(t, st, "", ""), []string{"a=old", "gone=x"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	now := m.Snapshot()
	defer now.Close()
	if got, want := contents(t, now, "", ""), []string{"a=new", "b=newer"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Reads are kept with the snapshot they came from: each State sees its own version however often it asks, also past what is kept.
func TestWhatAStateHasReadStaysAtItsVersion(t *testing.T) {
	t.Parallel()
	_, m := rig(t, never)
	const keys = 4 * recentReads
	value := func(round, i int) string {
		return strings.Repeat(fmt.Sprintf("%d:%d,", round, i), 1+i%7*recentOctets/16) // some are too long to be kept
	}
	var states []*State
	index := uint64(0)
	for round := range 3 {
		for from := 0; from < keys; from += 16 {
			var ops []Op
			for i := from; i < from+16; i++ {
				ops = append(ops, put(fmt.Sprintf("k%d", i), value(round, i)))
			}
			index++
			if got := m.ApplyBatch([]LogEntry{entryAt(index, index-1, 1, ops...)}); got[0] != nil {
				t.Fatal(got)
			}
		}
		if err := m.Flush(); err != nil {
			t.Fatal(err)
		}
		states = append(states, m.Snapshot())
		defer states[round].Close()
	}
	for range 2 {
		for i := range keys {
			for round, st := range states {
				got, ok, err := st.Get(fmt.Sprintf("k%d", i))
				if err != nil || !ok || string(got) != value(round, i) {
					t.Fatalf("key %d in round %d: got %.40q, %v, %v", i, round, got, ok, err)
				}
				_ = append(got, "behind the value"...) // must not reach what others read
			}
		}
	}
	if _, ok, err := states[0].Get("absent"); ok || err != nil {
		t.Errorf("a key that is not there: %v, %v", ok, err)
	}
}

// TestAStateReadsLikeAMapWhateverIsFlushed drives a machine and a plain map with the same operations and flushes and restarts at will.
func TestAStateReadsLikeAMapWhateverIsFlushed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		s := openStore(t, dir)
		m := newMachine(t, s, never)
		model := map[string]string{}
		index, version := uint64(0), uint64(0)
		keys := rapid.StringMatching(`[a-c]{1,3}`)
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				if err := m.Flush(); err != nil {
					rt.Fatal(err)
				}
			case 1:
				if err := errors.Join(m.Close(), s.Close()); err != nil {
					rt.Fatal(err)
				}
				s = openStore(t, dir)
				m = newMachine(t, s, never)
			default:
				var ops []Op
				for range rapid.IntRange(0, 4).Draw(rt, "ops") {
					op := Op{Key: keys.Draw(rt, "key")}
					if op.Delete = rapid.Bool().Draw(rt, "delete"); op.Delete {
						delete(model, op.Key)
					} else {
						op.Val = []byte(keys.Draw(rt, "val"))
						model[op.Key] = string(op.Val)
					}
					ops = append(ops, op)
				}
				index++
				if got := m.ApplyBatch([]LogEntry{entryAt(index, version, int64(index), ops...)}); got[0] != nil {
					rt.Fatal(got)
				}
				version++
			}
			checkAgainst(t, rt, m, model, keys.Draw(rt, "prefix"), keys.Draw(rt, "from"))
		}
		before := checksum(t, m)
		if err := m.Flush(); err != nil {
			rt.Fatal(err)
		}
		sn := s.Snapshot()
		plain, err := sn.Checksum(store.Replicated)
		sn.Close()
		if after := checksum(t, m); err != nil || before != after || plain != after {
			rt.Fatalf("checksums differ: before the flush %x, after %x, of the store %x (%v)", before, after, plain, err)
		}
		if err := errors.Join(m.Close(), s.Close()); err != nil {
			rt.Fatal(err)
		}
	})
}

func checksum(t testing.TB, m *Machine) [32]byte {
	t.Helper()
	_, sum, err := m.Checksum()
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func checkAgainst(t *testing.T, rt *rapid.T, m *Machine, model map[string]string, prefix, from string) {
	st := m.Snapshot()
	defer st.Close()
	for _, window := range [][2]string{{"", ""}, {prefix, ""}, {prefix[:1], prefix + from}, {"", from}} {
		var want []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if strings.HasPrefix(k, window[0]) && k >= window[1] {
				want = append(want, k+"="+model[k])
			}
		}
		if got := contents(t, st, window[0], window[1]); !slices.Equal(got, want) {
			rt.Fatalf("scan %q: got %v, want %v", window, got, want)
		}
	}
	val, ok, err := st.Get(prefix)
	if want, has := model[prefix]; err != nil || ok != has || string(val) != want {
		rt.Fatalf("get %q: got %q %v %v, want %q %v", prefix, val, ok, err, want, has)
	}
}

func TestAScanStopsWhereItIsTold(t *testing.T) {
	t.Parallel()
	_, m := rig(t, never)
	m.ApplyBatch([]LogEntry{entryAt(1, 0, 1, put("a", ""), put("c", ""))})
	if err := m.Flush(); err != nil {
		t.Fatal(err)
	}
	m.ApplyBatch([]LogEntry{entryAt(2, 1, 1, put("b", ""), put("d", ""))})
	st := m.Snapshot()
	defer st.Close()
	boom := errors.New("boom")
	for stop := 1; stop <= 4; stop++ {
		for _, fail := range []error{nil, boom} {
			seen := 0
			err := st.Scan("", "", func(string, []byte) (bool, error) {
				seen++
				if seen == stop {
					return false, fail
				}
				return true, nil
			})
			if seen != stop || !errors.Is(err, fail) {
				t.Errorf("stop at %d with %v: visited %d, got %v", stop, fail, seen, err)
			}
		}
	}
}

func TestBulkThatExceedsOneTransactionIsSplitBetweenEntries(t *testing.T) {
	t.Parallel()
	s, m := rig(t, never)
	var batch []LogEntry
	for i := range uint64(40) {
		ops := make([]Op, 0, 100)
		for j := range 100 {
			ops = append(ops, Op{Key: fmt.Sprintf("k/%03d/%03d", i, j), Val: bytes.Repeat([]byte{byte(i)}, 1000)})
		}
		batch = append(batch, entryAt(i+1, i, int64(i), ops...))
	}
	for i, err := range m.ApplyBatch(batch) {
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	if commits := s.Stats().Commits; commits < 10 || commits > 40 {
		t.Errorf("got %d transactions for 4 MB, want a few entries in each", commits)
	}
	st := m.Snapshot()
	defer st.Close()
	if got := len(contents(t, st, "k/", "")); got != 4000 {
		t.Errorf("got %d keys, want 4000", got)
	}
}

func TestAStateMovesToAnotherNodeWhole(t *testing.T) {
	t.Parallel()
	_, from := rig(t, never)
	toStore, to := rig(t, never)
	for i := range uint64(50) {
		from.ApplyBatch([]LogEntry{entryAt(i+10, i, int64(i), put(fmt.Sprintf("k%02d", i), "v"))})
	}
	to.ApplyBatch([]LogEntry{entryAt(1, 0, 1, put("own", "forgotten"))})
	var local store.Batch
	local.Put([]byte(store.Local+"keep"), []byte("mine"))
	if err := toStore.Commit(&local); err != nil {
		t.Fatal(err)
	}
	old := to.Snapshot()
	defer old.Close()
	var restored []uint64
	to.OnRestore(func(v uint64) { restored = append(restored, v) })

	var stream bytes.Buffer
	info, err := from.Dump(&stream)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range stream.Len() {
		if cut%97 != 0 {
			continue
		}
		if err := to.Restore(bytes.NewReader(stream.Bytes()[:cut])); !errors.Is(err, store.ErrDump) {
			t.Fatalf("stream cut at %d: got %v, want ErrDump", cut, err)
		}
	}
	if to.Version() != 1 {
		t.Fatal("half a stream changed the state")
	}
	if err := to.Restore(&stream); err != nil {
		t.Fatal(err)
	}
	if info.Version != 50 || to.Version() != 50 || to.AppliedIndex() != 59 || !slices.Equal(restored, []uint64{50}) {
		t.Errorf("got info %+v, version %d, index %d, callbacks %v", info, to.Version(), to.AppliedIndex(), restored)
	}
	if checksum(t, from) != checksum(t, to) {
		t.Error("checksums differ after the move")
	}
	if got := contents(t, old, "", ""); !slices.Equal(got, []string{"own=forgotten"}) {
		t.Errorf("a state that was open changed under its reader: %v", got)
	}
	sn := toStore.Snapshot()
	defer sn.Close()
	if v, err := sn.Get([]byte(store.Local + "keep")); err != nil || string(v) != "mine" {
		t.Errorf("the node's own keyspace did not survive: %q %v", v, err)
	}
	if got := to.ApplyBatch([]LogEntry{entryAt(60, 50, 99, put("next", "v"))}); got[0] != nil {
		t.Errorf("the machine does not go on after a restore: %v", got)
	}
}

func TestASeededStateBeginsAnotherHistory(t *testing.T) {
	t.Parallel()
	_, from := rig(t, never)
	for i := range uint64(50) {
		from.ApplyBatch([]LogEntry{entryAt(i+10, i, int64(i), put(fmt.Sprintf("k%02d", i), "v"))})
	}
	transfer, err := from.Transfer()
	if err != nil {
		t.Fatal(err)
	}
	defer transfer.Close()
	measured, err := transfer.Measure()
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := transfer.Write(&stream); err != nil {
		t.Fatal(err)
	}
	if measured.Octets != int64(stream.Len()) || measured.Records != 51 || measured.Checksum != checksum(t, from) {
		t.Errorf("measured %d octets, %d records; written %d and 51", measured.Octets, measured.Records, stream.Len())
	}
	_, to := rig(t, never)
	info, err := to.Seed(&stream)
	if err != nil {
		t.Fatal(err)
	}
	if info.Version != 50 || to.Version() != 50 || to.AppliedIndex() != 1 || checksum(t, to) != measured.Checksum {
		t.Errorf("got info %+v, version %d, index %d", info, to.Version(), to.AppliedIndex())
	}
	if err := to.Amend([]Op{put("k00", "other")}); err != nil {
		t.Fatal(err)
	}
	if to.Version() != 51 || to.DurableIndex() != 2 || to.LastTime() != from.LastTime() {
		t.Errorf("after an amendment: version %d, durable index %d, time %v", to.Version(), to.DurableIndex(), to.LastTime())
	}
}

// Half of what one transaction takes does not wait for the period, and applying does not wait for it.
func TestHalfATransactionGoesToTheStoreAtOnce(t *testing.T) {
	t.Parallel()
	for name, quarter := range map[string][]Op{
		"octets": {put("a", strings.Repeat("x", flushOctets/4))},
		"ops": slices.Collect(func(yield func(Op) bool) {
			for i := 0; i <= flushOps/4 && yield(put(fmt.Sprint("k", i), "v")); i++ {
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, m := rig(t, never)
			for i := range uint64(2) {
				if got := m.DurableIndex(); got != 0 {
					t.Fatalf("index %d is in the store before half a transaction waits", got)
				}
				if err := m.ApplyBatch([]LogEntry{entryAt(i+1, i, 10, quarter...)})[0]; err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			for m.DurableIndex() < 2 {
				if ctx.Err() != nil {
					t.Fatal("half a transaction waits for the period")
				}
				runtime.Gosched()
			}
		})
	}
}

// A flush that a full disk refused is tried again as it was: together with what came meanwhile it would be more than one transaction.
func TestAFlushThatADiskRefusedTakesNoMoreTheNextTime(t *testing.T) {
	t.Parallel()
	var free atomic.Uint64
	free.Store(900 << 20)
	s, err := store.Open(store.Options{Dir: t.TempDir(), BallastBytes: -1, PollEvery: time.Millisecond, FreeSpace: func(string) (uint64, uint64, error) { return free.Load(), 1000 << 20, nil }})
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, s, never)
	index := uint64(0)
	apply := func(octets int) {
		t.Helper()
		for range 4 {
			e := entryAt(index+1, index, 10, put(fmt.Sprintf("k%03d", index), strings.Repeat("x", octets/4)))
			if err := m.ApplyBatch([]LogEntry{e})[0]; err != nil {
				t.Fatal(err)
			}
			index++
		}
	}
	free.Store(1 << 20)
	apply(flushOctets * 9 / 20) // less than half: only what is asked for is flushed
	if err := m.Flush(); !isDiskLow(err) {
		t.Fatalf("a flush to a full disk: got %v", err)
	}
	apply(flushOctets * 9 / 10)
	if err := m.Flush(); !isDiskLow(err) {
		t.Fatalf("a flush to a full disk: got %v", err)
	}
	free.Store(900 << 20)
	for err = m.Flush(); isDiskLow(err); err = m.Flush() { // until the store has seen the room
		runtime.Gosched()
	}
	if err != nil || m.DurableIndex() != index {
		t.Fatalf("got %v, index %d of %d is in the store", err, m.DurableIndex(), index)
	}
	if err := errors.Join(m.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, s.Dir())
	m = newMachine(t, s, never)
	st := m.Snapshot()
	if got := len(contents(t, st, "", "")); got != int(index) {
		t.Errorf("%d of %d keys are there", got, index)
	}
	st.Close()
	if err := errors.Join(m.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// The snapshot of the store is renewed by others than flushes: where an overlay moves to the store, and where the store is opened anew. One that was
// renewed between a flush and the note of it was handed out under the version before, and whoever installed it stopped.
func TestAHeldStateIsOfTheVersionThatItSays(t *testing.T) {
	t.Parallel()
	_, m := rig(t, time.Millisecond)
	var others sync.WaitGroup
	stop := make(chan struct{})
	again := func(work func(i uint64)) {
		others.Go(func() {
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
					work(i)
				}
			}
		})
	}
	again(func(i uint64) {
		m.ApplyBatch([]LogEntry{entryAt(i+1, i, int64(i+1), put("k", "v"))})
		_ = m.Flush()
	})
	again(func(uint64) { m.Refresh() })
	for range 30_000 { // within a few thousand it showed
		p, at, err := m.durablePin()
		if err != nil {
			t.Error(err)
			break
		}
		got, err := readPosition(p.sn)
		p.release()
		if err != nil || got != at {
			t.Errorf("it is said to be %+v and is %+v (%v)", at, got, err)
			break
		}
	}
	close(stop)
	others.Wait()
}

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge"
)

func simOptions(d *simDisk) Options {
	return Options{
		disk: d, SegmentBytes: 16 << 10, MaxBytes: 20 * 16 << 10, Reserve: 16 << 10, Now: time.Now, Chain: true,
		Boot: func() Boot { return Boot{ID: BootID{1}} },
	}
}

// ledger is what the outside world knows.
type ledger struct {
	mu      sync.Mutex
	acked   map[uint64][]byte
	trimmed uint64
}

func (l *ledger) ack(seq uint64, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.acked[seq]; ok {
		return fmt.Errorf("sequence %d was acknowledged twice, for %q and %q", seq, old[:8], payload[:8])
	}
	l.acked[seq] = payload
	return nil
}

// snapshot copies the ledger while nothing else happens than meanwhile.
func (l *ledger) snapshot(meanwhile func()) (acked map[uint64][]byte, trimmed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	meanwhile()
	acked = make(map[uint64][]byte, len(l.acked))
	maps.Copy(acked, l.acked)
	return acked, l.trimmed
}

// check compares a journal with what was acknowledged before the cut. trimmed is the most that may be gone.
func checkLedger(j *Journal, acked map[uint64][]byte, trimmed uint64) error {
	if j.First() > trimmed+1 {
		return fmt.Errorf("first is %d, only %d were released", j.First(), trimmed)
	}
	found := map[uint64]bool{}
	ids := map[string]uint64{}
	want := j.First()
	if _, err := j.Read(0, 0, func(r Record) error {
		if r.Seq != want {
			return fmt.Errorf("got sequence %d, want %d", r.Seq, want)
		}
		want++
		if p, ok := acked[r.Seq]; ok && !bytes.Equal(p, r.Payload) {
			return fmt.Errorf("record %d differs from what was acknowledged", r.Seq)
		}
		if before, ok := ids[string(r.Payload[:16])]; ok {
			return fmt.Errorf("records %d and %d are the same fact", before, r.Seq)
		}
		ids[string(r.Payload[:16])] = r.Seq
		found[r.Seq] = true
		return nil
	}); err != nil {
		return err
	}
	for _, seq := range slices.Sorted(maps.Keys(acked)) {
		if seq >= j.First() && !found[seq] {
			return fmt.Errorf("acknowledged record %d is lost; the journal ends at %d", seq, j.Next())
		}
	}
	return nil
}

func fact(id int64, size int) []byte {
	return append(fmt.Appendf(nil, "%016x", id), bytes.Repeat([]byte{byte(id)}, size)...)
}

// TestNothingAcknowledgedIsLostInAPowerCut cuts the power at a random operation while three writers append and one
// trims, with failing flushes in between, reopens what the platter holds, and goes on with that.
func TestNothingAcknowledgedIsLostInAPowerCut(t *testing.T) {
	t.Parallel()
	rounds := 600
	if os.Getenv("WISPGATE_LONG") != "" {
		rounds = 20000
	}
	for seed := range rounds {
		if err := cutAndCheck(uint64(seed), 4); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func cutAndCheck(seed uint64, cuts int) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	d, l := newSimDisk(), &ledger{acked: map[uint64][]byte{}}
	var ids atomic.Int64
	if rng.IntN(2) == 0 {
		d.torn = rand.New(rand.NewPCG(seed, 3))
	}
	// One size throughout, so that what a torn write left lines up with what is written later.
	size := []int{0, 100, 600, 2900}[rng.IntN(4)]
	for cut := range cuts {
		j, err := Open(simOptions(d))
		if err != nil {
			return fmt.Errorf("open after cut %d: %w", cut, err)
		}
		acked, trimmed := l.snapshot(func() {})
		if err := checkLedger(j, acked, trimmed); err != nil {
			return errors.Join(fmt.Errorf("cut %d: %w", cut, err), j.Close())
		}
		var (
			steps atomic.Int64
			at    = int64(rng.IntN(60) + 1)
			image *simDisk
			cutAt = rand.New(rand.NewPCG(seed, uint64(cut)))
			dark  atomic.Bool
		)
		d.mu.Lock()
		d.step = func() {
			if steps.Add(1) == at {
				// What is acknowledged or released from here on happens after the cut and does not count.
				acked, trimmed = l.snapshot(func() {
					image = d.cut(cutAt)
					dark.Store(true)
				})
			}
		}
		if rng.IntN(2) == 0 {
			var faults atomic.Uint64
			d.fault = func(op string) error {
				if n := faults.Add(1); (op == "sync" || op == "write") && n%11 == 3 {
					return errFault
				}
				return nil
			}
		}
		d.mu.Unlock()
		err = load(j, l, &ids, &dark, size)
		if err = errors.Join(err, j.Close()); err != nil {
			return err
		}
		if !dark.Load() { // too little happened: the cut comes now
			acked, trimmed = l.snapshot(func() {})
			image = d.cut(cutAt)
		}
		d, l = image, &ledger{acked: acked, trimmed: trimmed}
		// Records after the last acknowledged one may have survived; their numbers will not be given out again.
	}
	return nil
}

// burst submits facts together, so that they share a flush, and enters the acknowledged ones into the ledger.
type burst struct {
	ledger  *ledger
	payload []byte
	done    *sync.WaitGroup
	errs    chan error
}

func (b *burst) Journaled(seq uint64, err error) {
	defer b.done.Done()
	var known *edge.Error
	switch {
	case err == nil:
		err = b.ledger.ack(seq, b.payload)
	case errors.As(err, &known) && known.Kind == edge.Unavailable:
		err = nil
	}
	if err != nil {
		select {
		case b.errs <- err:
		default:
		}
	}
}

// load appends bursts from three goroutines until the power is gone or enough was written.
func load(j *Journal, l *ledger, ids *atomic.Int64, dark *atomic.Bool, size int) error {
	var work sync.WaitGroup
	errs := make(chan error, 8)
	for range 3 {
		work.Go(func() {
			for range 15 {
				var done sync.WaitGroup
				for range 5 {
					if dark.Load() {
						break
					}
					p := fact(ids.Add(1), size)
					done.Add(1)
					j.Submit(1, p, &burst{l, p, &done, errs})
				}
				done.Wait()
			}
		})
	}
	work.Go(func() {
		for i := range 5 {
			upto := j.Next() / 2
			l.mu.Lock()
			if !dark.Load() {
				l.trimmed = max(l.trimmed, upto)
			}
			l.mu.Unlock()
			if err := j.Trim(upto); err != nil {
				errs <- fmt.Errorf("trim %d: %w", i, err)
			}
		}
	})
	work.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func TestAFailedFlushIsFinalForItsSegment(t *testing.T) {
	t.Parallel()
	d := newSimDisk()
	j := open(t, simOptions(d))
	acked := map[uint64][]byte{}
	put := func(id int64) error {
		p := fact(id, 100)
		seq, err := j.Append(t.Context(), 1, p)
		if err == nil {
			acked[seq] = p
		}
		return err
	}
	for id := range int64(10) {
		if err := put(id); err != nil {
			t.Fatal(err)
		}
	}
	fail := func(times int64) {
		var left atomic.Int64
		left.Store(times)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.fault = func(op string) error {
			if op == "sync" && left.Add(-1) >= 0 {
				return errFault
			}
			return nil
		}
	}
	before := j.segs[len(j.segs)-1].ordinal
	fail(1)
	if err := put(10); err != nil {
		t.Fatalf("one failed flush must be carried to the next segment, got %v", err)
	}
	if s := j.Stats(); s.Failures != 1 || j.segs[len(j.segs)-1].ordinal == before {
		t.Fatalf("the segment was not given up: %+v", s)
	}
	fail(2)
	if err := put(11); !errors.Is(err, ErrWrite) {
		t.Fatalf("two failed flushes: got %v, want journal_write_failed", err)
	}
	if err := put(12); err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	if err := checkLedger(j, acked, 0); err != nil {
		t.Fatal(err)
	}
	_ = j.Close()
	d = d.cut(rand.New(rand.NewPCG(1, 1)))
	j = open(t, simOptions(d))
	if err := checkLedger(j, acked, 0); err != nil {
		t.Fatal(err)
	}
}

// TestWhatARestartShowsSurvivesAPowerCut: after a failed flush the page cache shows records that are not on the disk. A
// restart takes them up, so it has to make sure of them.
func TestWhatARestartShowsSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	d := newSimDisk()
	j := open(t, simOptions(d))
	if _, err := j.Append(t.Context(), 1, fact(1, 700)); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.fault = func(op string) error {
		if op == "sync" {
			return errFault
		}
		return nil
	}
	d.mu.Unlock()
	if _, err := j.Append(t.Context(), 1, fact(2, 700)); !errors.Is(err, ErrWrite) {
		t.Fatalf("got %v", err)
	}
	_ = j.Close()
	d.fault = nil
	j = open(t, simOptions(d))
	next := j.Next()
	if next != 3 {
		t.Fatalf("next is %d; the case does not arise", next)
	}
	_ = j.Close()
	j = open(t, simOptions(d.cut(rand.New(rand.NewPCG(1, 1)))))
	if j.Next() != next {
		t.Fatalf("next was %d, after the cut it is %d", next, j.Next())
	}
}

// TestTrimKeepsTheIdentity trims everything at the moment when the new segment's header is not yet on the disk.
func TestTrimKeepsTheIdentity(t *testing.T) {
	t.Parallel()
	d := newSimDisk()
	j := open(t, simOptions(d))
	var image *simDisk
	var next uint64
	first := j.segs[0]
	d.mu.Lock()
	d.fault = func(op string) error {
		if op == "write" && image == nil && j.segs[len(j.segs)-1] != first {
			if err := j.Trim(1 << 60); err != nil {
				return err
			}
			image, next = d.cut(rand.New(rand.NewPCG(1, 1))), j.Next()
		}
		return nil
	}
	d.mu.Unlock()
	for id := int64(0); image == nil; id++ {
		if _, err := j.Append(t.Context(), 1, fact(id, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	after := open(t, simOptions(image))
	if after.Incarnation() != j.Incarnation() || after.Next() != next {
		t.Fatalf("got incarnation %x next %d, want %x %d", after.Incarnation(), after.Next(), j.Incarnation(), next)
	}
}

func TestAFullDiskIsSurvivedWithoutRestart(t *testing.T) {
	t.Parallel()
	d := newSimDisk()
	d.capacity = 6 * 16 << 10
	opt := simOptions(d)
	opt.Reserve = 2 * opt.SegmentBytes
	j := open(t, opt)
	waitFor(t, func() bool { return j.Stats().Spares == 3 })
	d.mu.Lock()
	d.capacity = 1 // someone else took the rest
	d.mu.Unlock()
	p, n := make([]byte, 1000), 0
	var err error
	for ; err == nil; n++ {
		_, err = j.Append(t.Context(), 1, p)
	}
	if !errors.Is(err, ErrDiskFull) || n < 4*14 {
		t.Fatalf("after %d records: got %v; the reserve holds four segments", n, err)
	}
	if _, err = j.Append(t.Context(), 1, p); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("still full: got %v", err)
	}
	// Trimming gives room even while the disk is full, because the blocks are kept.
	if err := j.Trim(uint64(n / 2)); err != nil {
		t.Fatal(err)
	}
	if _, err = j.Append(t.Context(), 1, p); err != nil {
		t.Fatalf("after trim: %v", err)
	}
	for ; err == nil; n++ {
		_, err = j.Append(t.Context(), 1, p)
	}
	d.mu.Lock()
	d.capacity = 0
	d.mu.Unlock()
	if _, err = j.Append(t.Context(), 1, p); err != nil {
		t.Fatalf("after space was freed: %v", err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the expected state did not come")
		}
	}
}

// appendHundred appends records that fill more than one segment.
func appendHundred(t *testing.T, j *Journal) {
	t.Helper()
	for id := range int64(100) {
		if _, err := j.Append(t.Context(), 1, fact(id, 900)); err != nil {
			t.Fatal(err)
		}
	}
}

// What stands before and behind damaged records is read, they are named for as long as somebody has not removed the note, and the journal goes on.
func TestDamagedRecordsAreNamedAndTheOthersAreRead(t *testing.T) {
	t.Parallel()
	d := newSimDisk()
	j := open(t, simOptions(d))
	appendHundred(t, j)
	last := segmentName(j.segs[len(j.segs)-1].ordinal)
	_ = j.Close()
	corrupt := func(name string, at int) *simDisk {
		image := d.cut(rand.New(rand.NewPCG(1, 1)))
		image.names[name].data[at] ^= 0x10
		return image
	}
	for _, tc := range []struct {
		segment string
		at      int
	}{{last, headerSize + 10}, {last, headerSize + 1200}, {segmentName(1), 2000}, {segmentName(1), headerSize}, {segmentName(2), headerSize + 3000}} {
		image := corrupt(tc.segment, tc.at)
		var first []Loss
		for round := range 3 {
			j = open(t, simOptions(image))
			var seen []uint64
			if _, err := j.Read(0, 40, func(r Record) error { seen = append(seen, r.Seq); return nil }); err != nil || len(seen) != 40 {
				t.Fatalf("%+v: %d records of 40: %v", tc, len(seen), err)
			}
			seen = nil
			if _, err := j.Read(0, 0, func(r Record) error { seen = append(seen, r.Seq); return nil }); err != nil {
				t.Fatalf("%+v: %v", tc, err)
			}
			lost := j.Losses()
			if len(lost) != 1 || lost[0].First != lost[0].Last || lost[0].Segment != tc.segment || j.Stats().Lost != 1 {
				t.Fatalf("%+v: got %+v", tc, lost)
			}
			if round == 0 {
				first = lost
			}
			if len(seen) != 99+round || slices.Contains(seen, lost[0].First) || !slices.Equal(lost, first) {
				t.Errorf("%+v, round %d: read %d of %d, without %+v", tc, round, len(seen), 100+round, lost)
			}
			if seq, err := j.Append(t.Context(), 1, fact(int64(200+round), 900)); err != nil || seq != uint64(101+round) {
				t.Fatalf("%+v: the next record is %d, %v", tc, seq, err)
			}
			if round == 2 { // the note outlives what it speaks of
				if err := j.Trim(100); err != nil {
					t.Fatal(err)
				}
			}
			_ = j.Close()
		}
		j = open(t, simOptions(image))
		if !slices.Equal(j.Losses(), first) {
			t.Errorf("%+v: forgotten: %+v", tc, j.Losses())
		}
		_ = j.Close()
	}
	for _, name := range []string{last, segmentName(2)} { // a header says what belongs where
		_, err := Open(simOptions(corrupt(name, 20)))
		if e, ok := edge.AsError(err); !ok || e.Code != "journal_corrupt" || e.Fix == "" {
			t.Errorf("the header of %s: got %v", name, err)
		}
	}
}

// The cut at a start may take the only proof that a record in front of it was durable, and a damaged last record looks like a torn write: once noted,
// a loss stays one, and its places are not used again.
func TestALossThatWasNotedStaysOne(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		write func(out []byte, frame func(out []byte, seq, group uint64) []byte) []byte // behind record 2
		lost  Loss
		kept  []uint64
	}{
		{"the proof is cut", func(out []byte, frame func([]byte, uint64, uint64) []byte) []byte {
			damaged := len(out)
			out = frame(frame(frame(out, 3, 3), 4, 3), 5, 3)
			out[damaged]++
			torn := len(out)
			out = frame(frame(out, 6, 6), 7, 6)
			out[torn]++
			return out
		}, Loss{First: 3, Last: 3}, []uint64{1, 2, 4, 5}},
		{"it is the last record", func(out []byte, frame func([]byte, uint64, uint64) []byte) []byte {
			return frame(out, 3, 3)
		}, Loss{First: 3, Last: 3}, []uint64{1, 2}},
	} {
		d := newSimDisk()
		opt := simOptions(d)
		opt.stepped, opt.Chain = true, false
		j := open(t, opt)
		for id := range int64(2) {
			if _, err := j.Append(t.Context(), 1, fact(id, 50)); err != nil {
				t.Fatal(err)
			}
		}
		seg, crc := j.segs[0], salt(j.id, 1)
		_ = j.Close()
		data := d.names[segmentName(1)].data
		copy(data, tc.write(slices.Clone(data[:seg.end]), func(out []byte, seq, group uint64) []byte {
			start := len(out)
			out = append(beginFrame(out, &item{kind: 1}, seq, group, Synced, BootID{}, 0), fact(int64(seq), 50)...)
			out, _ = endFrame(out, start, crc)
			return out
		}))
		tc.lost.Segment = segmentName(1)
		j = open(t, opt)
		if tc.lost.Last == j.Next()-1 { // while the journal is open, as a damaged record at its end is torn when it is opened
			data[seg.end]++
			if _, err := j.Read(1, 0, func(Record) error { return nil }); err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
		}
		next := j.Next()
		for round := range 3 {
			if got := j.Losses(); !slices.Equal(got, []Loss{tc.lost}) || j.Next() != next+uint64(max(0, round-1)) {
				t.Fatalf("%s, round %d: lost %+v, and the next record is %d", tc.name, round, got, j.Next())
			}
			var seen []uint64
			if _, err := j.Read(1, 0, func(r Record) error { seen = append(seen, r.Seq); return nil }); err != nil || !slices.Equal(seen, tc.kept) {
				t.Fatalf("%s, round %d: read %d: %v", tc.name, round, seen, err)
			}
			if round > 0 {
				seq, err := j.Append(t.Context(), 1, fact(100, 50))
				if err != nil {
					t.Fatal(err)
				}
				tc.kept = append(tc.kept, seq)
			}
			_ = j.Close()
			j = open(t, opt)
		}
		_ = j.Close()
	}
}

// Whoever reads behind damaged records has lost none of them; whoever asks for one of a run has, and each record counts once.
func TestALossIsWhatAReaderAskedFor(t *testing.T) {
	t.Parallel()
	d := newSimDisk()
	j := open(t, simOptions(d))
	appendHundred(t, j)
	_ = j.Close()
	image := d.cut(rand.New(rand.NewPCG(1, 1)))
	clear(image.names[segmentName(1)].data[headerSize+2500 : headerSize+4700]) // some of its records, and others behind them
	j = open(t, simOptions(image))
	lost := func() (n uint64) { return Lost(j.Losses()) }
	read := func(from uint64) uint64 {
		t.Helper()
		var seen []uint64
		if _, err := j.Read(from, 1, func(r Record) error { seen = append(seen, r.Seq); return nil }); err != nil || len(seen) != 1 {
			t.Fatalf("read %v: %v", seen, err)
		}
		return seen[0]
	}
	if seq := read(8); seq != 8 || lost() != 0 {
		t.Fatalf("read %d, %d are lost: %+v", seq, lost(), j.Losses())
	}
	if seq := read(4); seq <= 4 || lost() != seq-3 {
		t.Fatalf("read %d, %d are lost: %+v", seq, lost(), j.Losses())
	}
	all := lost()
	read(3)
	read(8)
	if lost() != all {
		t.Errorf("%d are lost, then %d", all, lost())
	}
	_ = j.Close()
	if j = open(t, simOptions(image)); lost() != all {
		t.Errorf("%d are lost, after another start %d", all, lost())
	}
	_ = j.Close()
	notes := func(ext string) (n int) {
		for name := range image.names {
			if strings.HasSuffix(name, ext) {
				n++
			}
		}
		return n
	}
	if notes(settledExt) != 1 || notes(damagedExt) != 1 {
		t.Errorf("%d notes that nobody needs and %d losses", notes(settledExt), notes(damagedExt))
	}
	delete(image.names, segmentName(1)) // it is trimmed
	j = open(t, simOptions(image))
	if lost() != all || notes(settledExt) != 0 || notes(damagedExt) != 1 {
		t.Errorf("without the segment: %d are lost; %d notes that nobody needs and %d losses", lost(), notes(settledExt), notes(damagedExt))
	}
	_ = j.Close()
}

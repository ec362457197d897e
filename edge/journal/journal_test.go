package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wispgate/edge"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/edgetest/peers"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("WISPGATE_JOURNAL_CHILD"); dir != "" {
		childWrites(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func small(dir string) Options {
	return Options{Dir: dir, SegmentBytes: 16 << 10, MaxBytes: 1 << 20, Reserve: 16 << 10, Now: time.Now}
}

func open(t testing.TB, opt Options) *Journal {
	t.Helper()
	j, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func payload(i int) []byte { return fmt.Appendf(nil, "fact %d %*d", i, 20+i%300, i) }

func appendAll(t testing.TB, j *Journal, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		seq, err := j.Append(t.Context(), 1, payload(i))
		if err != nil || seq != uint64(i) {
			t.Fatalf("append %d: got sequence %d, %v", i, seq, err)
		}
	}
}

func checkAll(t testing.TB, j *Journal, from, to int) {
	t.Helper()
	want := from
	next, err := j.Read(uint64(from), 0, func(r Record) error {
		if r.Seq != uint64(want) || string(r.Payload) != string(payload(want)) {
			return fmt.Errorf("got record %d %q, want %d", r.Seq, r.Payload, want)
		}
		want++
		return nil
	})
	if err != nil || next != uint64(to) || want != to {
		t.Fatalf("read %d to %d: got %d, visited to %d, %v", from, to, next, want, err)
	}
}

func TestRecordsSurviveClosingAndOpening(t *testing.T) {
	t.Parallel()
	opt := small(t.TempDir())
	j := open(t, opt)
	id := j.Incarnation()
	appendAll(t, j, 1, 500)
	checkAll(t, j, 1, 500)
	for from := 500; from < 900; from += 100 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, opt)
		if j.Incarnation() != id {
			t.Fatal("the incarnation changed")
		}
		checkAll(t, j, 1, from)
		checkAll(t, j, from/2, from)
		appendAll(t, j, from, from+100)
	}
	if s := j.Stats(); s.Segments < 5 || s.Unconsumed == 0 || s.Next != 900 {
		t.Fatalf("got %+v", s)
	}
	if other := open(t, small(t.TempDir())); other.Incarnation() == id {
		t.Fatal("two journals share an incarnation")
	}
}

func TestAFolderIsHeldByOneProcess(t *testing.T) {
	t.Parallel()
	opt := small(t.TempDir())
	open(t, opt)
	_, err := Open(opt)
	if e, ok := edge.AsError(err); !ok || e.Code != "journal_in_use" || e.Fix == "" {
		t.Fatalf("got %v, want journal_in_use", err)
	}
}

func TestReadEndsWhereItIsTold(t *testing.T) {
	t.Parallel()
	j := open(t, small(t.TempDir()))
	appendAll(t, j, 1, 300)
	n := 0
	next, err := j.Read(10, 7, func(Record) error { n++; return nil })
	if n != 7 || next != 17 || err != nil {
		t.Fatalf("got %d records, next %d, %v", n, next, err)
	}
	stop := errors.New("stop")
	next, err = j.Read(100, 0, func(r Record) error {
		if r.Seq == 150 {
			return stop
		}
		return nil
	})
	if next != 150 || !errors.Is(err, stop) {
		t.Fatalf("got next %d, %v, want 150 and the visitor's error", next, err)
	}
	if next, err := j.Read(300, 0, nil); next != 300 || err != nil {
		t.Fatalf("at the end: got %d, %v", next, err)
	}
	if _, err := j.Read(301, 0, nil); !errors.Is(err, ErrAhead) {
		t.Fatalf("beyond the end: got %v", err)
	}
}

func TestTrimForgetsWholeSegmentsAndMakesRoom(t *testing.T) {
	t.Parallel()
	opt := small(t.TempDir())
	opt.MaxBytes = 8 * opt.SegmentBytes
	j := open(t, opt)
	i := 1
	for ; ; i++ {
		if _, err := j.Append(t.Context(), 1, payload(i)); err != nil {
			if e, _ := edge.AsError(err); !errors.Is(err, ErrFull) || e.Kind != edge.Unavailable || e.Fix == "" {
				t.Fatalf("got %v, want journal_full", err)
			}
			break
		}
	}
	if s := j.Stats(); !s.Full || s.Bytes > opt.MaxBytes || int(s.Next) != i {
		t.Fatalf("full: got %+v after %d records", s, i-1)
	}
	checkAll(t, j, 1, i)
	if err := j.Trim(uint64(i / 2)); err != nil {
		t.Fatal(err)
	}
	first := int(j.First())
	if first <= 1 || first > i/2+1 {
		t.Fatalf("first is %d after trimming to %d", first, i/2)
	}
	if _, err := j.Read(1, 1, nil); !errors.Is(err, ErrTrimmed) {
		t.Fatalf("got %v, want journal_trimmed", err)
	}
	appendAll(t, j, i, i+50)
	checkAll(t, j, first, i+50)
	if j.Stats().Full {
		t.Fatal("still full after making room")
	}
	if err := j.Trim(1 << 60); err != nil {
		t.Fatal(err)
	}
	appendAll(t, j, i+50, i+60)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, opt)
	checkAll(t, j, int(j.First()), i+60)
	if s := j.Stats(); s.Bytes > opt.MaxBytes {
		t.Fatalf("got %+v", s)
	}
}

func TestWaitReturnsWhenARecordArrives(t *testing.T) {
	t.Parallel()
	j := open(t, small(t.TempDir()))
	appendAll(t, j, 1, 3)
	if err := j.Wait(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- j.Wait(t.Context(), 3) }()
	appendAll(t, j, 3, 4)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { got <- j.Wait(ctx, 4) }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	go func() { got <- j.Wait(context.Background(), 4) }()
	_ = j.Close()
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want closed", err)
	}
	if _, err := j.Append(t.Context(), 1, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want closed", err)
	}
}

type counter struct {
	ok, failed atomic.Int64
	wait       sync.WaitGroup
}

func (c *counter) Journaled(_ uint64, err error) {
	if err != nil {
		c.failed.Add(1)
	} else {
		c.ok.Add(1)
	}
	c.wait.Done()
}

// A caller whose time ends while its record becomes durable hears of the record.
func TestWhatIsDurableIsNotCalledUnknown(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 64 { // a coin at a time
		w := &waiter{out: make(chan outcome, 1)}
		w.Journaled(7, nil)
		if seq, err := w.wait(ctx); err != nil || seq != 7 {
			t.Fatalf("got %d, %v; want the record's number", seq, err)
		}
	}
	if _, err := (&waiter{out: make(chan outcome, 1)}).wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v without an outcome, want the end of the context", err)
	}
}

func TestManyWritersLoseNothing(t *testing.T) {
	t.Parallel()
	opt := small(t.TempDir())
	opt.MaxBytes = 64 << 20
	j := open(t, opt)
	var c counter
	var work sync.WaitGroup
	for g := range 8 {
		work.Go(func() {
			for i := range 250 {
				c.wait.Add(1)
				j.Submit(Kind(g+1), fmt.Appendf(nil, "%d/%d", g, i), &c)
			}
		})
	}
	work.Wait()
	c.wait.Wait()
	if c.ok.Load() != 2000 || c.failed.Load() != 0 {
		t.Fatalf("got %d acknowledged, %d refused", c.ok.Load(), c.failed.Load())
	}
	next := make([]int, 9)
	if _, err := j.Read(0, 0, func(r Record) error {
		g := int(r.Kind)
		if want := fmt.Sprintf("%d/%d", g-1, next[g]); string(r.Payload) != want {
			return fmt.Errorf("record %d: got %q, want %q", r.Seq, r.Payload, want)
		}
		next[g]++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if s := j.Stats(); s.Commits >= 2000 || s.Records != 2000 {
		t.Fatalf("nothing was grouped: %+v", s)
	}
}

func TestTheWindowGathersMoreUnderOneFlush(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		opt := simOptions(newSimDisk())
		opt.Window = 50 * time.Millisecond
		j, err := Open(opt)
		if err != nil {
			t.Fatal(err)
		}
		var c counter
		begin := time.Now()
		for range 5 {
			c.wait.Add(1)
			j.Submit(1, []byte("x"), &c)
			time.Sleep(5 * time.Millisecond)
		}
		c.wait.Wait()
		if took := time.Since(begin); took != opt.Window || j.Stats().Commits != 1 {
			t.Errorf("got %d commits in %v, want one after %v", j.Stats().Commits, took, opt.Window)
		}
		c.wait.Add(1)
		j.Submit(1, []byte("last"), &c)
		if err := j.Close(); err != nil { // does not wait for the window, and loses nothing
			t.Error(err)
		}
		if c.wait.Wait(); c.ok.Load() != 6 || time.Since(begin) != opt.Window {
			t.Errorf("got %d acknowledged after %v", c.ok.Load(), time.Since(begin))
		}
	})
}

func TestAnchorDatesFactsFromBeforeTheClockWasSet(t *testing.T) {
	t.Parallel()
	now, quality, boot := time.Date(1970, 1, 1, 0, 1, 0, 0, time.UTC), Unsynced, Boot{ID: BootID{9}, Uptime: time.Minute}
	opt := small(t.TempDir())
	opt.Now, opt.Quality, opt.Boot = func() time.Time { return now }, func() Quality { return quality }, func() Boot { return boot }
	read := func(j *Journal, seq uint64) (rec Record) {
		t.Helper()
		if _, err := j.Read(seq, 1, func(r Record) error { rec = r; return nil }); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	j := open(t, opt)
	appendAll(t, j, 1, 2)
	now = now.Add(30 * time.Second)
	early := read(j, 1)
	_ = j.Close()
	// The node restarts within the same boot; NTP has set the clock meanwhile.
	now, quality, boot.Uptime = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), Synced, 2*time.Minute
	j = open(t, opt)
	a := j.Anchor()
	if at, known := a.Time(early); !known || !at.Equal(now.Add(-time.Minute)) {
		t.Fatalf("got %v, %v, want a minute before %v", at, known, now)
	}
	appendAll(t, j, 2, 3)
	if late := read(j, 2); late.Quality != Synced || !late.Wall.Equal(now) || late.Boot != boot.ID || late.Mono != 2*time.Minute {
		t.Fatalf("got %+v", late)
	}
	a.Boot = BootID{8}
	if at, known := a.Time(early); known || !at.Equal(early.Wall) {
		t.Fatalf("of another boot: got %v, %v", at, known)
	}
	if b := KernelBoot(); b.ID == (BootID{}) {
		t.Fatal("the kernel's boot is not known")
	}
}

// TestARealFullFileSystem fills a small file system of its own.
func TestARealFullFileSystem(t *testing.T) {
	root := peers.MountTiny(t, 48)
	opt := small(filepath.Join(root, "journal"))
	opt.SegmentBytes, opt.MaxBytes, opt.Reserve = 1<<20, 1<<30, 2<<20
	j := open(t, opt)
	waitFor(t, func() bool { return j.Stats().Spares == 3 })
	filler, err := os.Create(filepath.Join(root, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filler.Name())
	defer filler.Close()
	for chunk := make([]byte, 4096); err == nil; {
		_, err = filler.Write(chunk)
	}
	if !isFull(errors.Unwrap(err)) {
		t.Fatal(err)
	}
	p, n := make([]byte, 4000), 0
	for err = nil; err == nil; n++ {
		_, err = j.Append(t.Context(), 1, p)
	}
	if !errors.Is(err, ErrDiskFull) || n < 3*250 {
		t.Fatalf("after %d records: %v", n, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, opt) // reopening while full
	if int(j.Next()) != n {
		t.Fatalf("got next %d, want %d", j.Next(), n)
	}
	if _, err := j.Append(t.Context(), 1, p); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("still full: %v", err)
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), 1, p); err != nil {
		t.Fatalf("after space was freed: %v", err)
	}
}

func TestOptionsThatDoNotFitAreNamed(t *testing.T) {
	t.Parallel()
	_, err := Open(Options{Window: time.Second, SegmentBytes: 1, MaxBytes: 1, QueueBytes: 1})
	e, ok := edge.AsError(err)
	if !ok || e.Kind != edge.Invalid || len(e.Fields) != 6 {
		t.Fatalf("got %v", err)
	}
}

func TestFolderAndFilesArePrivate(t *testing.T) {
	t.Parallel()
	opt := small(filepath.Join(t.TempDir(), "journal"))
	open(t, opt)
	entries, err := os.ReadDir(opt.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, _ := e.Info(); info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
}

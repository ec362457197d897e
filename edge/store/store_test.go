package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"wispgate/edge"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	os.Exit(m.Run())
}

// An open that fails inside Badger leaves goroutines of Badger behind, so this is not checked for the whole package.
func TestNoGoroutineIsLeftAfterClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "r/a", "1")
	stream, _ := dump(t, s)
	if _, err := s.Restore(bytes.NewReader(stream), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}

func open(t testing.TB, opts Options) *Store {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	if opts.BallastBytes == 0 {
		opts.BallastBytes = -1
	}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func code(err error) string {
	if e, ok := errors.AsType[*edge.Error](err); ok {
		if e.Fix == "" {
			return e.Code + " without a fix"
		}
		return e.Code
	}
	return fmt.Sprint(err)
}

func put(t testing.TB, s *Store, kv ...string) {
	t.Helper()
	var b Batch
	for i := 0; i < len(kv); i += 2 {
		b.Put([]byte(kv[i]), []byte(kv[i+1]))
	}
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
}

func list(t testing.TB, sn *Snapshot, prefix, from string) []string {
	t.Helper()
	var got []string
	err := sn.Scan([]byte(prefix), []byte(from), func(k, v []byte) (bool, error) {
		got = append(got, string(k)+"="+string(v))
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestTheStoreBehavesLikeASortedMap is the conformance suite: whatever engine lies below must pass it.
func TestTheStoreBehavesLikeASortedMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		s, err := Open(Options{Dir: dir, BallastBytes: -1})
		if err != nil {
			rt.Fatal(err)
		}
		model := map[string]string{}
		keys := rapid.StringMatching(`[rn]/[a-b]{0,2}`)
		for range rapid.IntRange(1, 6).Draw(rt, "commits") {
			var b Batch
			for range rapid.IntRange(0, 5).Draw(rt, "ops") {
				k := keys.Draw(rt, "key")
				if rapid.Bool().Draw(rt, "delete") {
					b.Delete([]byte(k))
					delete(model, k)
				} else {
					v := rapid.StringN(0, 20, -1).Draw(rt, "val")
					b.Put([]byte(k), []byte(v))
					model[k] = v
				}
			}
			if err := s.Commit(&b); err != nil {
				rt.Fatal(err)
			}
			if rapid.IntRange(0, 5).Draw(rt, "reopen") == 0 {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				if s, err = Open(Options{Dir: dir, BallastBytes: -1}); err != nil {
					rt.Fatal(err)
				}
			}
			compare(t, rt, s, model, keys.Draw(rt, "prefix"), keys.Draw(rt, "from"))
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func compare(t *testing.T, rt *rapid.T, s *Store, model map[string]string, prefix, from string) {
	sn := s.Snapshot()
	defer sn.Close()
	for _, w := range [][2]string{{"", ""}, {prefix, ""}, {prefix[:2], from}} {
		var want []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if strings.HasPrefix(k, w[0]) && k >= w[1] {
				want = append(want, k+"="+model[k])
			}
		}
		if got := list(t, sn, w[0], w[1]); !slices.Equal(got, want) {
			rt.Fatalf("scan %q: got %q, want %q", w, got, want)
		}
	}
	got, err := sn.Get([]byte(prefix))
	if want, ok := model[prefix]; ok != (err == nil) || string(got) != want || !ok && !errors.Is(err, ErrNotFound) {
		rt.Fatalf("get %q: got %q %v, want %q %v", prefix, got, err, want, ok)
	}
}

func TestASnapshotDoesNotSeeLaterCommits(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	put(t, s, "r/a", "1")
	sn := s.Snapshot()
	defer sn.Close()
	put(t, s, "r/a", "2", "r/b", "2")
	if got := list(t, sn, "r/", ""); !slices.Equal(got, []string{"r/a=1"}) {
		t.Errorf("got %v", got)
	}
	boom := errors.New("boom")
	if err := sn.Scan([]byte("r/"), nil, func(_, _ []byte) (bool, error) { return true, boom }); !errors.Is(err, boom) {
		t.Errorf("scan swallowed the visitor's error: %v", err)
	}
}

func TestABatchBeyondTheLimitsIsRefusedWhole(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	for name, fill := range map[string]func(*Batch){
		"too many octets": func(b *Batch) {
			for i := range 4 {
				b.Put(fmt.Appendf(nil, "r/%d", i), make([]byte, 100<<10))
			}
		},
		"too many operations": func(b *Batch) {
			for i := range MaxBatchOps + 1 {
				b.Delete(fmt.Appendf(nil, "r/%d", i))
			}
		},
	} {
		var b Batch
		fill(&b)
		if err := s.Commit(&b); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v, want ErrTooLarge", name, err)
		}
	}
	for _, key := range [][]byte{nil, make([]byte, MaxKey+1)} {
		var b Batch
		b.Put(key, nil)
		if err := s.Commit(&b); err == nil {
			t.Errorf("a key of %d octets was accepted", len(key))
		}
	}
	sn := s.Snapshot()
	defer sn.Close()
	if got := list(t, sn, "", ""); len(got) > 0 {
		t.Errorf("a refused batch left %v", got)
	}
}

func TestTheMostOperationsAreOneTransaction(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	var b Batch
	for i := range MaxBatchOps {
		b.Put(fmt.Appendf(nil, "r/%d", i), nil)
	}
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
	sn := s.Snapshot()
	defer sn.Close()
	if got := len(list(t, sn, "r/", "")); got != MaxBatchOps {
		t.Errorf("got %d keys, want %d", got, MaxBatchOps)
	}
}

func TestTheLargestBatchIsOneTransactionAndSurvivesAFlush(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	want := 0
	for round := range 20 { // 6 MB: several memtables
		var b Batch
		for i := 0; b.Fits(1, 20+2000); i++ {
			b.Put(fmt.Appendf(nil, "r/%04d/%04d", round, i), bytes.Repeat([]byte{byte(round)}, 2000))
			want++
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Stats(); got.Commits != 20 || got.Ops != int64(want) || got.State != "state-000001" {
		t.Errorf("got %+v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir})
	sn := s.Snapshot()
	defer sn.Close()
	got := 0
	err := sn.Scan([]byte("r/"), nil, func(k, v []byte) (bool, error) {
		var round int
		if _, err := fmt.Sscanf(string(k), "r/%d/", &round); err != nil || !bytes.Equal(v, bytes.Repeat([]byte{byte(round)}, 2000)) {
			return false, fmt.Errorf("%s does not hold what was written", k)
		}
		got++
		return true, nil
	})
	if err != nil || got != want {
		t.Errorf("got %d keys, want %d (%v)", got, want, err)
	}
}

func TestADirectoryInUseIsRefusedWithItsName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, Options{Dir: dir})
	for _, readOnly := range []bool{false, true} {
		_, err := Open(Options{Dir: dir, ReadOnly: readOnly})
		if code(err) != "data_in_use" || !strings.Contains(err.Error(), dir) {
			t.Errorf("read only %v: got %v, want data_in_use naming %s", readOnly, err, dir)
		}
	}
}

func TestADirectoryOfANewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{"2\n": "data_newer", "x\n": "data_unreadable", "-1": "data_unreadable"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, formatFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Dir: dir}); code(err) != want {
			t.Errorf("FORMAT %q: got %v, want %s", content, err, want)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "state-*")); len(left) > 0 {
			t.Errorf("FORMAT %q: a refused directory was written to: %v", content, left)
		}
	}
}

func TestReadOnlyLooksAndDoesNotTouch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Open(Options{Dir: dir, ReadOnly: true}); err == nil {
		t.Error("an empty directory opened for reading")
	}
	s := open(t, Options{Dir: dir})
	put(t, s, "r/a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ro := open(t, Options{Dir: dir, ReadOnly: true})
	sn := ro.Snapshot()
	defer sn.Close()
	if got := list(t, sn, "", ""); !slices.Equal(got, []string{"r/a=1"}) {
		t.Errorf("got %v", got)
	}
	var b Batch
	b.Put([]byte("r/b"), nil)
	if err := ro.Commit(&b); code(err) != "read_only" {
		t.Errorf("commit: got %v", err)
	}
	if _, err := ro.Restore(strings.NewReader(""), nil); code(err) != "read_only" {
		t.Errorf("restore: got %v", err)
	}
}

func TestAClosedStoreAnswersClosed(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	var b Batch
	b.Put([]byte("r/a"), nil)
	sn := s.Snapshot()
	_, err := sn.Get([]byte("r/a"))
	sn.Close()
	if !errors.Is(err, ErrClosed) || !errors.Is(s.Commit(&b), ErrClosed) || !errors.Is(sn.Scan(nil, nil, nil), ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A crash between creating and sizing a file leaves it with no octets. Badger fails on that once.
func TestFilesOfNoOctetsAreMendedByTheSecondAttempt(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"00002.mem", "000002.vlog"} {
		dir := t.TempDir()
		s := open(t, Options{Dir: dir})
		put(t, s, "r/a", "1")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "state-000001", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s = open(t, Options{Dir: dir})
		sn := s.Snapshot()
		if got := list(t, sn, "", ""); !slices.Equal(got, []string{"r/a=1"}) {
			t.Errorf("%s: got %v", name, got)
		}
		sn.Close()
	}
}

func TestAStateThatDoesNotOpenIsNamedAndCanBeSetAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	put(t, s, "r/a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(dir, "state-000001", "MANIFEST")
	if err := os.WriteFile(manifest, []byte("not a manifest"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); code(err) != "store_corrupt" {
		t.Fatalf("got %v, want store_corrupt", err)
	}
	aside, err := SetAside(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(aside, "MANIFEST")); err != nil {
		t.Errorf("what was set aside is gone: %v", err)
	}
	s = open(t, Options{Dir: dir})
	put(t, s, "r/b", "2")
	if _, err := os.Stat(aside); err != nil {
		t.Errorf("opening again removed what was set aside: %v", err)
	}
}

func TestTheAllocatorOfThisBuildIsSound(t *testing.T) {
	t.Parallel()
	if !allocatorSound() {
		t.Fatal("this build corrupts data: build 32-bit targets with scripts/gomended")
	}
	if err := selfTest(); err != nil {
		t.Fatal(err)
	}
}

func TestSizesAreReadable(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 20: "5.0 MiB", 1<<40 + 1<<39: "1.5 TiB"} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

// A folder copied from under a store that is open looks as after a power cut. Whoever only looks is told to open it for writing, not that
// it is corrupt: nothing of it is lost.
func TestAStoreThatWasNotClosedIsNotCalledCorruptByWhoLooks(t *testing.T) {
	t.Parallel()
	dir, copied := t.TempDir(), t.TempDir()
	s := open(t, Options{Dir: dir})
	put(t, s, "r/a", "1")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		at := filepath.Join(copied, strings.TrimPrefix(path, dir))
		if err != nil || d.IsDir() {
			return errors.Join(err, os.MkdirAll(at, 0o700))
		}
		raw, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(at, raw, 0o600))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: copied, ReadOnly: true}); code(err) != "data_unreadable" || !strings.Contains(err.Error(), "closed cleanly") {
		t.Errorf("got %v, want data_unreadable", err)
	}
	mended := open(t, Options{Dir: copied})
	sn := mended.Snapshot()
	defer sn.Close()
	if v, err := sn.Get([]byte("r/a")); err != nil || string(v) != "1" {
		t.Errorf("got %q %v", v, err)
	}
}

// A child of another goroutine holds copies of all files from its fork until it has become its program.
func TestACopyOfTheLockIsNoLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	fd, err := syscall.Dup(int(s.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: dir})
}

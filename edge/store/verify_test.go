package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tabled is a closed data directory whose records lie in several tables, and their checksum.
func tabled(t *testing.T, loads int) (dir string, sum [sha256.Size]byte) {
	t.Helper()
	dir = t.TempDir()
	for i := range loads { // a close makes a table of the memtable
		s, err := Open(Options{Dir: dir, BallastBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		var b Batch
		for j := range 300 {
			key := fmt.Sprintf("r/%05d", j*loads+i)
			b.Put([]byte(key), []byte(strings.Repeat(key, 40)))
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
		sn := s.Snapshot()
		sum, err = sn.Checksum(Replicated)
		sn.Close()
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return dir, sum
}

func tableFiles(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "state-*", "*.sst"))
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	return list
}

// flip changes 8 octets of a file, and back.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	buf := make([]byte, min(8, info.Size()-at))
	if err == nil {
		_, err = f.ReadAt(buf, at)
	}
	for i := range buf {
		buf[i] ^= 0x5A
	}
	if err == nil {
		_, err = f.WriteAt(buf, at)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// readAll looks at all there is in a data directory: by scan, by look-up, and at the tables themselves.
func readAll(dir string) (sum [sha256.Size]byte, err error) {
	s, err := Open(Options{Dir: dir, ReadOnly: true})
	if err != nil {
		return sum, err
	}
	sn := s.Snapshot()
	var keys [][]byte
	scanned := sn.Scan([]byte(Replicated), nil, func(k, _ []byte) (bool, error) {
		keys = append(keys, slices.Clone(k))
		return true, nil
	})
	for _, k := range keys {
		if _, err := sn.Get(k); err != nil && scanned == nil {
			scanned = fmt.Errorf("the scan shows %s and a look-up does not: %w", k, err)
		}
	}
	sum, err = sn.Checksum(Replicated)
	_, verified := sn.Verify()
	if (verified == nil) != (scanned == nil && err == nil) {
		err = fmt.Errorf("reading says %q, the tables %q", fmt.Sprint(errors.Join(scanned, err)), fmt.Sprint(verified))
	} else {
		err = errors.Join(scanned, err)
	}
	sn.Close()
	return sum, errors.Join(err, s.Close())
}

// Whatever is flipped in a table while nobody looks, nothing that differs is ever served.
func TestAFlippedOctetIsFoundWhereverItIs(t *testing.T) {
	dir, want := tabled(t, 2)
	step := int64(4001)
	if testing.Short() {
		step *= 5
	}
	seen := map[string]int{}
	for _, path := range tableFiles(t, dir) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		var places []int64
		for at := int64(0); at < info.Size(); at += step {
			places = append(places, at)
		}
		for at := max(0, info.Size()-96); at < info.Size(); at += 5 { // the end tells where everything is
			places = append(places, at)
		}
		for _, at := range places {
			flip(t, path, at)
			got, err := readAll(dir)
			flip(t, path, at)
			switch c := code(err); {
			case err == nil && got == want:
				t.Errorf("%s at %d: nobody noticed, though nothing differs", filepath.Base(path), at)
			case err == nil:
				t.Errorf("%s at %d: another state is served", filepath.Base(path), at)
			case c != "store_damaged" && c != "store_corrupt":
				t.Errorf("%s at %d: %v", filepath.Base(path), at, err)
			default:
				seen[c]++
			}
		}
	}
	t.Log(slices.Collect(maps.Keys(seen)), seen)
	if got, err := readAll(dir); err != nil || got != want {
		t.Fatal("flipped back, it is not as it was", err)
	}
}

// A block that goes bad under an open store stops what reads it and every commit, and nothing else.
func TestABlockThatGoesBadStopsWhatReadsIt(t *testing.T) {
	if !mended() {
		t.Skip("blocks are checked as they are read only in programs that scripts/gomended made")
	}
	dir, want := tabled(t, 6)
	path := tableFiles(t, dir)[2]
	s := open(t, Options{Dir: dir})
	told := make(chan error, 1)
	s.OnDamage(func(err error) { told <- err })
	flip(t, path, 20<<10)
	sn := s.Snapshot()
	defer sn.Close()
	damaged, intact := 0, 0
	for i := range 6 * 300 {
		switch _, err := sn.Get(fmt.Appendf(nil, "r/%05d", i)); {
		case err == nil:
			intact++
		case code(err) == "store_damaged":
			damaged++
		default:
			t.Fatal(i, err)
		}
	}
	if damaged == 0 || damaged > 90 || intact < 1700 {
		t.Errorf("%d look-ups met the damage and %d did not", damaged, intact)
	}
	if err := <-told; code(err) != "store_damaged" || !strings.Contains(err.Error(), filepath.Base(path)) {
		t.Error(err)
	}
	if _, err := sn.Checksum(Replicated); code(err) != "store_damaged" {
		t.Error("a scan:", err)
	}
	var b Batch
	b.Put([]byte("r/x"), []byte("y"))
	if err := s.CommitReserved(&b); code(err) != "store_damaged" {
		t.Error("a commit:", err)
	}
	sn.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, path, 20<<10)
	if got, err := readAll(dir); err != nil || got != want {
		t.Error("what was intact or could be made so is gone", err)
	}
}

// A compaction that meets a damaged block fails: what it would write would lack the block's records for ever.
func TestNoCompactionLeavesDamagedRecordsOut(t *testing.T) {
	if !mended() {
		t.Skip("blocks are checked as they are read only in programs that scripts/gomended made")
	}
	dir, want := tabled(t, 12) // more than level zero holds
	path := tableFiles(t, dir)[2]
	flip(t, path, 20<<10)
	s := open(t, Options{Dir: dir})
	told := make(chan error, 1)
	s.OnDamage(func(err error) { told <- err })
	if err := <-told; code(err) != "store_damaged" {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, path, 20<<10)
	if got, err := readAll(dir); err != nil || got != want {
		t.Error("records are gone", err)
	}
}

// A state that is damaged under Replicated is filled anew in place.
func TestADamagedStateIsReplacedByARestore(t *testing.T) {
	if !mended() {
		t.Skip("blocks are checked as they are read only in programs that scripts/gomended made")
	}
	dir, want := tabled(t, 3)
	s := open(t, Options{Dir: dir})
	stream, _ := dump(t, s)
	flip(t, tableFiles(t, dir)[1], 20<<10)
	sn := s.Snapshot()
	if _, err := sn.Verify(); code(err) != "store_damaged" {
		t.Fatal(err)
	}
	sn.Close()
	if _, err := s.Restore(strings.NewReader(string(stream)), nil); err != nil {
		t.Fatal(err)
	}
	put(t, s, "n/x", "y")
	sn = s.Snapshot()
	defer sn.Close()
	if got, err := sn.Checksum(Replicated); err != nil || got != want {
		t.Error(err)
	}
	if err := s.Damage(); err != nil {
		t.Error(err)
	}
}

//go:build linux

package store

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// tablesMapped is how much of the tables below dir is in this process's memory, in KB.
func tablesMapped(t *testing.T, dir string) (kb int) {
	t.Helper()
	return mapped(t, func(line string) bool { return strings.Contains(line, dir) && strings.HasSuffix(line, ".sst") })
}

// mapped is how much of the mappings whose lines match is in this process's memory, in KB.
func mapped(t *testing.T, match func(line string) bool) (kb int) {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ours := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if first, _, _ := strings.Cut(line, " "); strings.Contains(first, "-") { // a span of addresses, not a figure
			ours = match(line)
		}
		if rest, ok := strings.CutPrefix(line, "Rss:"); ok && ours {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			kb += n
		}
	}
	return kb
}

func TestRelaxTakesTheTablesOutOfMemory(t *testing.T) {
	s := open(t, Options{})
	commitMany(t, s, 0, 2000)
	sn := s.Snapshot()
	defer sn.Close()
	want, err := sn.Checksum(Replicated)
	if err != nil {
		t.Fatal(err)
	}
	touch(t, sn)
	before := tablesMapped(t, s.opts.Dir)
	if least := 2 << 10; before == 0 || !mended() && before < least {
		t.Fatalf("only %d KB of tables are mapped in: the test does not see them", before)
	}
	after := before
	for deadline := time.Now().Add(30 * time.Second); after > before/8 && time.Now().Before(deadline); { // a table that is being made is not in use yet
		if err := sn.Relax(); err != nil {
			t.Fatal(err)
		}
		after = tablesMapped(t, s.opts.Dir)
	}
	if after > before/8 {
		t.Errorf("%d KB of %d KB are still mapped in", after, before)
	}
	if got, err := sn.Checksum(Replicated); err != nil || got != want {
		t.Errorf("what was read afterwards differs (%v)", err)
	}
}

// touch looks every record of commitMany up.
func touch(t *testing.T, sn *Snapshot) {
	t.Helper()
	if err := sn.Scan([]byte("r/0"), nil, func(k, v []byte) (bool, error) {
		got, err := sn.Get(k)
		if !bytes.Equal(got, v) {
			t.Errorf("%s: a look-up finds something else than a scan (%v)", k, err)
		}
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestReadingTablesLeavesOnlyTheirIndexesMapped(t *testing.T) {
	if !mended() {
		t.Skip("Badger is not mended here: use scripts/gomended test")
	}
	s := open(t, Options{})
	commitMany(t, s, 0, 2000)
	if err := s.Close(); err != nil { // what is still in memory becomes a table, and no compaction is under way
		t.Fatal(err)
	}
	s = open(t, Options{Dir: s.opts.Dir})
	sn := s.Snapshot()
	defer sn.Close()
	if err := sn.Relax(); err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Checksum(Replicated); err != nil {
		t.Fatal(err)
	}
	touch(t, sn)
	all := 0
	tables, err := filepath.Glob(filepath.Join(s.opts.Dir, "*", "*.sst"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tables {
		if info, err := os.Stat(path); err == nil {
			all += int(info.Size() >> 10)
		}
	}
	if kb := tablesMapped(t, s.opts.Dir); all < 4<<10 || kb > all/4 {
		t.Errorf("%d KB of %d KB of tables stay in memory", kb, all)
	}
}

func TestTheProgramLetsGoOfItsPages(t *testing.T) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	code := func(line string) bool { return strings.HasSuffix(line, exe) && strings.Contains(line, " r-xp ") }
	before := mapped(t, code)
	RelaxProgram()
	if after := mapped(t, code); before == 0 || after >= before {
		t.Errorf("%d KB of the program were in memory, and %d KB are", before, after)
	}
}

// Tables come and go while their pages are let go of. Nothing of them, and nothing that takes their addresses, may change by it.
func TestRelaxHarmsNothingBesideCompactions(t *testing.T) {
	s := open(t, Options{})
	stop := make(chan struct{})
	var relaxing, reading sync.WaitGroup
	for range 2 {
		relaxing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				sn := s.Snapshot()
				err := sn.Relax()
				sn.Close()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			sn := s.Snapshot()
			err := sn.Scan([]byte("r/"), nil, func(k, v []byte) (bool, error) {
				if want := value(string(k)); string(v) != want {
					return false, fmt.Errorf("%s is damaged", k)
				}
				return true, nil
			})
			sn.Close()
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for round := range 9 {
		commitMany(t, s, 0, 1500+round)
	}
	close(stop)
	relaxing.Wait()
	reading.Wait()
	n := 0
	sn := s.Snapshot()
	defer sn.Close()
	if err := sn.Scan([]byte("r/"), nil, func(k, v []byte) (bool, error) {
		n++
		if string(v) != value(string(k)) {
			return false, fmt.Errorf("%s is damaged", k)
		}
		return true, nil
	}); err != nil || n != 1508 {
		t.Errorf("%d records (%v)", n, err)
	}
	if got := s.Stats().Tables; got < 8 {
		t.Errorf("only %d tables: nothing was compacted", got)
	}
}

// value is what commitMany puts under a key.
func value(key string) string { return strings.Repeat(key, 320) }

// commitMany commits records from to to.
func commitMany(t *testing.T, s *Store, from, to int) {
	t.Helper()
	for i := from; i < to; {
		var b Batch
		for ; i < to && b.Fits(1, 4000); i++ {
			key := fmt.Sprintf("r/%08d", i)
			b.Put([]byte(key), []byte(value(key)))
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
	}
}

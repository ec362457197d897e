package store

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
)

// child runs the writer of the crash tests when this binary was started as one: it commits numbered batches and prints each number after
// the commit was acknowledged.
func child() bool {
	dir := os.Getenv("STORE_CRASH_DIR")
	if dir == "" {
		return false
	}
	if err := crashWriter(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func crashWriter(dir string) error {
	s, err := Open(Options{Dir: dir, BallastBytes: -1})
	if err != nil {
		return err
	}
	sn := s.Snapshot()
	last := lastBatch(sn)
	sn.Close()
	for n := last + 1; ; n++ {
		if err := s.Commit(crashBatch(n)); err != nil {
			return err
		}
		if _, err := fmt.Println(n); err != nil {
			return err
		}
	}
}

func lastBatch(sn *Snapshot) uint64 {
	v, _ := sn.Get([]byte("n/last"))
	n, _ := strconv.ParseUint(string(v), 10, 64)
	return n
}

// slots is how many batches are kept; a later one overwrites the one slots before it, which has as many keys.
const slots = 3 * 1000

// crashBatch writes 1 to 3 keys whose values depend on n, and the number itself: a torn or missing batch shows.
func crashBatch(n uint64) *Batch {
	var b Batch
	for i := range 1 + n%3 {
		b.Put(crashKey(n, i), crashValue(n, i))
	}
	b.Put([]byte("n/last"), strconv.AppendUint(nil, n, 10))
	return &b
}

func crashKey(n, i uint64) []byte { return fmt.Appendf(nil, "r/%05d/%d", n%slots, i) }

func crashValue(n, i uint64) []byte {
	return bytes.Repeat(strconv.AppendUint(nil, n*3+i, 10), 1+int(n*37%300))
}

// checkCrash opens dir and proves that it holds exactly the batches up to some number that is not below acked.
func checkCrash(t *testing.T, dir string, acked uint64) uint64 {
	t.Helper()
	s, err := Open(Options{Dir: dir, BallastBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sn := s.Snapshot()
	defer sn.Close()
	last := lastBatch(sn)
	if last < acked {
		t.Fatalf("batch %d was acknowledged, the store ends at %d", acked, last)
	}
	want := 0
	for n := last; n > 0 && n+slots > last; n-- {
		for i := range 1 + n%3 {
			v, err := sn.Get(crashKey(n, i))
			if err != nil || !bytes.Equal(v, crashValue(n, i)) {
				t.Fatalf("hole: batch %d of %d, key %d: %v", n, last, i, err)
			}
			want++
		}
	}
	if got := len(list(t, sn, "r/", "")); got != want {
		t.Fatalf("%d keys, want %d: half a batch is there", got, want)
	}
	return last
}

func startWriter(t *testing.T, dir string) *peers.Writer {
	t.Helper()
	return peers.StartWriter(t, "STORE_CRASH_DIR="+dir)
}

// TestKillNineLosesNothingAcknowledged kills a writer at random moments, over and over on the same directory. KILLS=n runs it longer.
func TestKillNineLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	last := uint64(0)
	for range peers.Rounds(t, "KILLS", 4) {
		w := startWriter(t, dir)
		w.AtRandom(t, last, 300*time.Millisecond)
		last = checkCrash(t, dir, w.Kill(t))
	}
	t.Logf("%d batches", last)
}

// TestAPowerCutLosesNothingAcknowledged cuts the power under a writer: what was acknowledged before the cut must be on the disk.
func TestAPowerCutLosesNothingAcknowledged(t *testing.T) {
	peers.PowerCuts(t, func(dir string) *peers.Writer { return startWriter(t, dir) },
		func(dir string, acked uint64) uint64 { return checkCrash(t, dir, acked) })
}

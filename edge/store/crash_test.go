package store

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
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

// writer is this test binary as a process that commits without end.
type writer struct {
	cmd   *exec.Cmd
	acked atomic.Uint64 // newest batch it has printed
	ended chan struct{} // closed when its output ends
}

func startWriter(t *testing.T, dir string) *writer {
	t.Helper()
	w := &writer{cmd: exec.Command(os.Args[0]), ended: make(chan struct{})}
	w.cmd.Env = append(os.Environ(), "STORE_CRASH_DIR="+dir)
	w.cmd.Stderr = os.Stderr
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.ended)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return // half a line was not acknowledged
			}
			if n, err := strconv.ParseUint(strings.TrimSuffix(line, "\n"), 10, 64); err == nil {
				w.acked.Store(n)
			}
		}
	}()
	return w
}

// kill ends the process and returns the newest batch it acknowledged.
func (w *writer) kill(t *testing.T) uint64 {
	t.Helper()
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-w.ended
	w.cmd.Wait() // always an error: it was killed
	return w.acked.Load()
}

// atRandom waits until the writer has acknowledged something beyond n, and then up to most longer.
func (w *writer) atRandom(t *testing.T, n uint64, most time.Duration) {
	t.Helper()
	peers.Eventually(t, "the writer writes", func() bool { return w.acked.Load() > n }, func() any { return w.acked.Load() })
	select {
	case <-time.After(rand.N(most)):
	case <-w.ended:
		t.Fatal("the writer ended by itself")
	}
}

// TestKillNineLosesNothingAcknowledged kills a writer at random moments, over and over on the same directory. KILLS=n runs it longer.
func TestKillNineLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	last := uint64(0)
	for range peers.Rounds(t, "KILLS", 4) {
		w := startWriter(t, dir)
		w.atRandom(t, last, 300*time.Millisecond)
		last = checkCrash(t, dir, w.kill(t))
	}
	t.Logf("%d batches", last)
}

// TestAPowerCutLosesNothingAcknowledged copies the image of a mounted ext4 at random moments of a writer's work. The writer is held
// for the length of the copy, so the image is what the file system had handed to its disk at that moment and no more; what was
// acknowledged before must be in it. It models a disk that flushes honestly. POWERCUTS=n runs it longer.
func TestAPowerCutLosesNothingAcknowledged(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	image := peers.MakeImage(t, 160)
	dir, unmount := peers.MountImage(t, image)
	defer unmount()
	data := filepath.Join(dir, "data")
	w := startWriter(t, data)
	defer func() { w.kill(t) }()
	for cut := range peers.Rounds(t, "POWERCUTS", 3) {
		w.atRandom(t, w.acked.Load(), 400*time.Millisecond)
		if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		acked := w.acked.Load()
		copied := filepath.Join(t.TempDir(), "cut.img")
		peers.Run(t, "cp", "--reflink=auto", "--sparse=always", image, copied)
		if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		at, unmountCut := peers.MountImage(t, copied)
		last := checkCrash(t, filepath.Join(at, "data"), acked)
		unmountCut()
		os.Remove(copied) // at once: a long run would fill the disk
		t.Logf("cut %d: acknowledged %d, found %d", cut, acked, last)
	}
}

package peers

import (
	"bufio"
	"errors"
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
)

// Writer is the running test binary as a second process, one that writes without end and prints the number of each write on a line of
// its own after that write was acknowledged: what crash tests kill.
type Writer struct {
	cmd   *exec.Cmd
	acked atomic.Uint64
	ended chan struct{} // closed when its output ends
}

// StartWriter starts this test binary with env added to the environment, by which its TestMain knows that it is the writer.
func StartWriter(t testing.TB, env ...string) *Writer {
	t.Helper()
	w := &Writer{cmd: exec.Command(os.Args[0]), ended: make(chan struct{})}
	w.cmd.Env = append(os.Environ(), env...)
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

// Kill ends the process and returns the newest write it acknowledged.
func (w *Writer) Kill(t testing.TB) uint64 {
	t.Helper()
	if err := w.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	return w.Wait()
}

// Wait waits for the end of a process that kills itself and returns the newest write it acknowledged.
func (w *Writer) Wait() uint64 {
	<-w.ended
	w.cmd.Wait() // always an error: it was killed
	return w.acked.Load()
}

// AtRandom waits until a write beyond n was acknowledged, and then up to most longer.
func (w *Writer) AtRandom(t testing.TB, n uint64, most time.Duration) {
	t.Helper()
	Eventually(t, "a write is acknowledged", func() bool { return w.acked.Load() > n }, func() any { return w.acked.Load() })
	select {
	case <-time.After(rand.N(most)):
	case <-w.ended:
		t.Fatal("the writer ended by itself")
	}
}

// PowerCuts has start run a writer in a directory on an ext4 of its own and copies that file system's image at random moments of its
// work. The writer is held for the length of the copy, so the image is what the file system had handed to its disk at that moment and no
// more. It models a disk that flushes honestly. Each copy goes to check, with the newest write acknowledged before the cut; check returns
// the newest one it found. POWERCUTS=n runs it longer.
func PowerCuts(t *testing.T, start func(dir string) *Writer, check func(dir string, acked uint64) (found uint64)) {
	t.Helper()
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	image := MakeImage(t, 160)
	dir, unmount := MountImage(t, image)
	defer unmount()
	w := start(filepath.Join(dir, "data"))
	defer func() { w.Kill(t) }()
	for cut := range Rounds(t, "POWERCUTS", 3) {
		w.AtRandom(t, w.acked.Load(), 400*time.Millisecond)
		if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		acked := w.acked.Load()
		copied := filepath.Join(t.TempDir(), "cut.img")
		Run(t, "cp", "--reflink=auto", "--sparse=always", image, copied)
		if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		at, unmountCut := MountImage(t, copied)
		found := check(filepath.Join(at, "data"), acked)
		unmountCut()
		os.Remove(copied) // at once: a long run would fill the disk
		t.Logf("cut %d: acknowledged %d, found %d", cut, acked, found)
	}
}

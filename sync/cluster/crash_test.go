package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// child runs the proposer of the crash tests when this binary was started as one: it proposes entry after entry and prints each version
// after it was acknowledged. From time to time it cuts the log. With CRASH_KILL it kills itself between the log's commit and the
// store's: the entry is committed and applied, and the flush has not begun.
func child() bool {
	dir := os.Getenv("CLUSTER_CRASH_DIR")
	if dir == "" {
		return false
	}
	if err := proposer(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func proposer(dir string) error {
	s, err := store.Open(store.Options{Dir: filepath.Join(dir, "store"), BallastBytes: -1})
	if err != nil {
		return err
	}
	flush := 50 * time.Millisecond
	if os.Getenv("CRASH_KILL") != "" {
		flush = time.Hour
	}
	m, err := exec.NewMachine(s, exec.MachineOptions{FlushEvery: flush})
	if err != nil {
		return err
	}
	c := crashConf(dir)
	exists, err := Exists(c.Dir)
	if err != nil {
		return err
	}
	if !exists {
		if err := Bootstrap(c, m); err != nil {
			return err
		}
	}
	n, err := Open(c, m)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := errors.Join(n.WaitLeader(ctx), n.Barrier(ctx)); err != nil {
		return err
	}
	left := -1
	if v := os.Getenv("CRASH_KILL"); v != "" {
		if left, err = strconv.Atoi(v); err != nil {
			return err
		}
	}
	for version := m.Version(); ; version++ {
		if err := n.Propose(ctx, crashEntry(version).Append(nil)); err != nil {
			return err
		}
		if _, err := fmt.Println(version + 1); err != nil {
			return err
		}
		if version%500 == 499 {
			if err := n.Snapshot(); err != nil {
				return err
			}
		}
		if left--; left == 0 {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
}

func crashConf(dir string) Config {
	c := conf(dir)
	c.SegmentBytes, c.LogBudget = 256<<10, 1 // cut and rotate often
	return c
}

// slots is how many entries are kept; a later one overwrites the one slots before it.
const slots = 2000

// crashEntry makes version base+1.
func crashEntry(base uint64) exec.Entry {
	n := base + 1
	val := bytes.Repeat(strconv.AppendUint(nil, n, 10), 1+int(n*31%120))
	return exec.Entry{Base: base, Time: int64(n), Ops: []exec.Op{
		{Key: fmt.Sprintf("slot/%05d", n%slots), Val: val},
		{Key: fmt.Sprintf("index/%05d", n%slots), Val: strconv.AppendUint(nil, n, 10)},
	}}
}

// checkCrash raises the node on dir and proves that it holds exactly the entries up to some version that is not below acked.
func checkCrash(t *testing.T, dir string, acked uint64) uint64 {
	t.Helper()
	c := crashConf(dir)
	c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	w := raise(t, dir, store.Options{}, c)
	defer w.close(t)
	version := w.machine.Version()
	if version < acked {
		t.Fatalf("version %d was acknowledged, the state is at %d", acked, version)
	}
	keys := 0
	for n := version; n > 0 && n+slots > version; n-- {
		for _, op := range crashEntry(n - 1).Ops {
			if got := w.read(t, op.Key); got != string(op.Val) {
				t.Fatalf("hole: version %d of %d, key %s is %.20q", n, version, op.Key, got)
			}
			keys++
		}
	}
	st := w.machine.Snapshot()
	defer st.Close()
	err := st.Scan("", "", func(string, []byte) (bool, error) { keys--; return true, nil })
	if err != nil || keys != 0 {
		t.Fatalf("%d keys too few (%v)", keys, err)
	}
	return version
}

// process is this test binary as a process that proposes without end.
type process struct {
	cmd   *osexec.Cmd
	acked atomic.Uint64 // newest version it has printed
	ended chan struct{}
}

func startProposer(t *testing.T, dir string, env ...string) *process {
	t.Helper()
	p := &process{cmd: osexec.Command(os.Args[0]), ended: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), "CLUSTER_CRASH_DIR="+dir), env...)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return // half a line was not acknowledged
			}
			if n, err := strconv.ParseUint(strings.TrimSuffix(line, "\n"), 10, 64); err == nil {
				p.acked.Store(n)
			}
		}
	}()
	return p
}

func (p *process) kill(t *testing.T) uint64 {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-p.ended
	p.cmd.Wait() // always an error: it was killed
	return p.acked.Load()
}

func (p *process) atRandom(t *testing.T, n uint64, most time.Duration) {
	t.Helper()
	peers.Eventually(t, "a proposal is acknowledged", func() bool { return p.acked.Load() > n }, func() any { return p.acked.Load() })
	select {
	case <-time.After(rand.N(most)):
	case <-p.ended:
		t.Fatal("the proposer ended by itself")
	}
}

// TestKillNineLosesNoAcknowledgedProposal kills the proposer at random moments, over and over on the same directory. KILLS=n runs longer.
func TestKillNineLosesNoAcknowledgedProposal(t *testing.T) {
	dir := t.TempDir()
	last := uint64(0)
	for range peers.Rounds(t, "KILLS", 4) {
		p := startProposer(t, dir)
		p.atRandom(t, last, 300*time.Millisecond)
		last = checkCrash(t, dir, p.kill(t))
	}
	t.Logf("%d versions", last)
}

// A kill after the log's commit and before the store's: the store is as old as the last flush, the log makes up for it.
func TestADeathBetweenLogAndStoreIsMadeGoodByTheLog(t *testing.T) {
	dir := t.TempDir()
	last := uint64(0)
	for _, writes := range []uint64{1, 2, 40, 900, 3} {
		p := startProposer(t, dir, fmt.Sprintf("CRASH_KILL=%d", writes))
		<-p.ended
		p.cmd.Wait() // always an error: it killed itself
		if got := checkCrash(t, dir, p.acked.Load()); got != last+writes {
			t.Fatalf("got version %d, want %d", got, last+writes)
		}
		last += writes
	}
}

// TestAPowerCutLosesNoAcknowledgedProposal copies the image of a mounted ext4 at random moments of a proposer's work. The proposer is
// held for the length of the copy, so the image is what the file system had handed to its disk and no more. POWERCUTS=n runs longer.
func TestAPowerCutLosesNoAcknowledgedProposal(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	image := peers.MakeImage(t, 160)
	dir, unmount := peers.MountImage(t, image)
	defer unmount()
	p := startProposer(t, filepath.Join(dir, "node"))
	defer func() { p.kill(t) }()
	for cut := range peers.Rounds(t, "POWERCUTS", 3) {
		p.atRandom(t, p.acked.Load(), 400*time.Millisecond)
		if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		acked := p.acked.Load()
		copied := filepath.Join(t.TempDir(), "cut.img")
		peers.Run(t, "cp", "--reflink=auto", "--sparse=always", image, copied)
		if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		at, unmountCut := peers.MountImage(t, copied)
		found := checkCrash(t, filepath.Join(at, "node"), acked)
		unmountCut()
		os.Remove(copied) // at once: a long run would fill the disk
		t.Logf("cut %d: acknowledged %d, found %d", cut, acked, found)
	}
}

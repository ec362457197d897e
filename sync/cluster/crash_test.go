package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
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
		if err := <-n.Propose(ctx, crashEntry(version).Append(nil)); err != nil {
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

func startProposer(t *testing.T, dir string, env ...string) *peers.Writer {
	t.Helper()
	return peers.StartWriter(t, append(env, "CLUSTER_CRASH_DIR="+dir)...)
}

// TestKillNineLosesNoAcknowledgedProposal kills the proposer at random moments, over and over on the same directory. KILLS=n runs longer.
func TestKillNineLosesNoAcknowledgedProposal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	last := uint64(0)
	for range peers.Rounds(t, "KILLS", 4) {
		p := startProposer(t, dir)
		p.AtRandom(t, last, 300*time.Millisecond)
		last = checkCrash(t, dir, p.Kill(t))
	}
	t.Logf("%d versions", last)
}

// A kill after the log's commit and before the store's: the store is as old as the last flush, the log makes up for it.
func TestADeathBetweenLogAndStoreIsMadeGoodByTheLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	last := uint64(0)
	for _, writes := range []uint64{1, 2, 40, 900, 3} {
		p := startProposer(t, dir, fmt.Sprintf("CRASH_KILL=%d", writes))
		if got := checkCrash(t, dir, p.Wait()); got != last+writes {
			t.Fatalf("got version %d, want %d", got, last+writes)
		}
		last += writes
	}
}

// TestAPowerCutLosesNoAcknowledgedProposal cuts the power under a proposer: what was acknowledged before the cut must be on the disk.
func TestAPowerCutLosesNoAcknowledgedProposal(t *testing.T) {
	t.Parallel()
	peers.PowerCuts(t, func(dir string) *peers.Writer { return startProposer(t, dir) },
		func(dir string, acked uint64) uint64 { return checkCrash(t, dir, acked) })
}

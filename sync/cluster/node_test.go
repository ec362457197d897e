package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wispgate/edge"
	"wispgate/edge/edgetest/peers"
	"wispgate/edge/exec"
	"wispgate/edge/store"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	// Raft leaves proposals and barriers that it has not begun without an answer when it ends; whoever waits for them in its own code waits
	// until the process ends. A raft that was not ended shows by its own loops.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// tower is one node with everything below it.
type tower struct {
	store   *store.Store
	machine *exec.Machine
	node    *Node
}

func (w *tower) close(t testing.TB) {
	t.Helper()
	if err := errors.Join(w.node.Shutdown(), w.machine.Close(), w.store.Close()); err != nil {
		t.Error(err)
	}
}

func conf(dir string) Config {
	return Config{
		Dir: filepath.Join(dir, "raft"), NodeID: "n1", ClusterID: "c1",
		Timeouts: Timeouts{Heartbeat: 20 * time.Millisecond},
	}
}

// raise opens a tower on dir, bootstrapping it the first time, and waits until it leads.
func raise(t testing.TB, dir string, opts store.Options, conf Config) *tower {
	t.Helper()
	if opts.BallastBytes == 0 {
		opts.BallastBytes = -1
	}
	opts.Dir = filepath.Join(dir, "store")
	s, err := store.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	m, err := exec.NewMachine(s, exec.MachineOptions{Logger: conf.Logger})
	if err != nil {
		t.Fatal(err)
	}
	exists, err := Exists(conf.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if !exists {
		if err := Bootstrap(conf, m); err != nil {
			t.Fatal(err)
		}
	}
	n, err := Open(conf, m)
	if err != nil {
		t.Fatal(err)
	}
	w := &tower{s, m, n}
	if err := n.WaitLeader(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := n.Barrier(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	return w
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func (w *tower) write(t testing.TB, key, val string) error {
	t.Helper()
	e := exec.Entry{Base: w.machine.Version(), Time: 1, Ops: []exec.Op{{Key: key, Val: []byte(val)}}}
	return <-w.node.Propose(within(t, time.Minute), e.Append(nil))
}

func (w *tower) read(t testing.TB, key string) string {
	t.Helper()
	st := w.machine.Snapshot()
	defer st.Close()
	v, _, err := st.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func code(err error) string {
	if e, ok := errors.AsType[*edge.Error](err); ok {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestAProposalIsAppliedWhenProposeReturns(t *testing.T) {
	w := raise(t, t.TempDir(), store.Options{}, conf(t.TempDir()))
	defer w.close(t)
	if err := w.write(t, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if got := w.read(t, "a"); got != "1" {
		t.Errorf("got %q, want 1", got)
	}
	stale := exec.Entry{Base: 0, Ops: []exec.Op{{Key: "a", Val: []byte("2")}}}
	if err := <-w.node.Propose(within(t, time.Minute), stale.Append(nil)); !errors.Is(err, exec.ErrStale) {
		t.Errorf("got %v, want ErrStale", err)
	}
	if err := <-w.node.Propose(within(t, time.Minute), make([]byte, exec.MaxEntry+1)); code(err) != "too_large" {
		t.Errorf("got %v, want too_large", err)
	}
	select {
	case lead := <-w.node.LeaderCh():
		if !lead || !w.node.IsLeader() {
			t.Error("a single node must lead")
		}
	default:
		t.Error("LeaderCh said nothing")
	}
	st := w.node.Status()
	if st.State != "leader" || st.Leader != "n1" || len(st.Voters) != 1 || st.Version != 1 || st.AppliedIndex == 0 || st.LastIndex < st.AppliedIndex {
		t.Errorf("got %+v", st)
	}
}

func TestWhatWasAcknowledgedIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	for round := range 4 {
		w := raise(t, dir, store.Options{}, conf(dir))
		for i := range round {
			if got := w.read(t, fmt.Sprint("k", i)); got != "v" {
				t.Fatalf("round %d: k%d is %q", round, i, got)
			}
		}
		if err := w.write(t, fmt.Sprint("k", round), "v"); err != nil {
			t.Fatal(err)
		}
		if round == 2 {
			if err := w.node.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		w.close(t)
	}
}

func TestManyProposersShareTheLogAndNoneIsLost(t *testing.T) {
	dir := t.TempDir()
	w := raise(t, dir, store.Options{}, conf(dir))
	var (
		mu    sync.Mutex
		acked int
		wg    sync.WaitGroup
	)
	for g := range 8 {
		wg.Go(func() {
			for i := 0; i < 20; {
				err := w.write(t, fmt.Sprintf("%d/%d", g, i), "v")
				if errors.Is(err, exec.ErrStale) {
					continue // another one was first
				}
				if err != nil {
					t.Error(err)
					return
				}
				i++
				mu.Lock()
				acked++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	version, sum, err := w.machine.Checksum()
	if err != nil || version != uint64(acked) || acked != 160 {
		t.Fatalf("got version %d for %d acknowledged writes (%v)", version, acked, err)
	}
	w.close(t)
	w = raise(t, dir, store.Options{}, conf(dir))
	defer w.close(t)
	if v, again, err := w.machine.Checksum(); err != nil || v != version || again != sum {
		t.Errorf("after a restart: version %d checksum %x, want %d %x (%v)", v, again, version, sum, err)
	}
}

func TestBootstrapRefusesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	c := conf(dir)
	w := raise(t, dir, store.Options{}, c)
	if err := w.write(t, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if err := w.node.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := Bootstrap(c, w.machine); code(err) != "cluster_exists" {
		t.Errorf("second bootstrap: got %v", err)
	}
	c2 := c
	c2.Dir = t.TempDir()
	if err := Bootstrap(c2, w.machine); code(err) != "log_missing" {
		t.Errorf("bootstrap over a state that has history: got %v", err)
	}
	if _, err := Open(c2, w.machine); code(err) != "cluster_missing" {
		t.Errorf("open of an empty folder: got %v", err)
	}
	for _, change := range []func(*Config){func(c *Config) { c.NodeID = "n2" }, func(c *Config) { c.ClusterID = "c2" }} {
		other := c
		change(&other)
		if _, err := Open(other, w.machine); code(err) != "cluster_foreign" {
			t.Errorf("open under another identity: got %v", err)
		}
	}
	w.close(t)
}

func TestABootstrapThatWasCutOffIsFinishedByTheNext(t *testing.T) {
	for name, half := range map[string]func(*Config, *exec.Machine) error{
		"between raft's first entry and the last write of the identity": bootstrapLog,
		"between raft's term and its first entry": func(c *Config, _ *exec.Machine) error {
			wal, err := openWAL(c)
			if err != nil {
				return err
			}
			return errors.Join(wal.SetUint64([]byte("CurrentTerm"), 1), wal.Close())
		},
	} {
		t.Run(name, func(t *testing.T) { cutOffBootstrap(t, half) })
	}
}

func cutOffBootstrap(t *testing.T, half func(*Config, *exec.Machine) error) {
	fresh := t.TempDir()
	c := conf(fresh)
	id := identity{ClusterID: c.ClusterID, NodeID: c.NodeID}
	c.Dir = filepath.Join(fresh, "raft")
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(store.Options{Dir: filepath.Join(fresh, "store"), BallastBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	m, err := exec.NewMachine(s, exec.MachineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	full, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(id.write(c.Dir), half(&full, m)); err != nil {
		t.Fatal(err)
	}
	if exists, err := Exists(c.Dir); exists || err != nil {
		t.Fatalf("half a bootstrap counts as a cluster: %v %v", exists, err)
	}
	if err := errors.Join(m.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	w := raise(t, fresh, store.Options{}, c)
	defer w.close(t)
	if err := w.write(t, "a", "1"); err != nil {
		t.Error(err)
	}
}

func TestLogAndStateThatDoNotBelongTogetherAreRefused(t *testing.T) {
	dir := t.TempDir()
	w := raise(t, dir, store.Options{}, conf(dir))
	for i := range 5 {
		if err := w.write(t, fmt.Sprint(i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.node.Snapshot(); err != nil {
		t.Fatal(err)
	}
	w.close(t)

	t.Run("a state without its history", func(t *testing.T) {
		s, err := store.Open(store.Options{Dir: t.TempDir(), BallastBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		m, err := exec.NewMachine(s, exec.MachineOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if _, err := Open(conf(dir), m); code(err) != "state_behind_log" {
			t.Errorf("got %v, want state_behind_log", err)
		}
	})
	t.Run("a log of another history", func(t *testing.T) {
		other := t.TempDir()
		raise(t, other, store.Options{}, conf(other)).close(t)
		s, err := store.Open(store.Options{Dir: filepath.Join(dir, "store"), BallastBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		m, err := exec.NewMachine(s, exec.MachineOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if _, err := Open(conf(other), m); code(err) != "log_behind_state" {
			t.Errorf("got %v, want log_behind_state", err)
		}
	})
}

func TestAnUndecodableEntryParksTheNode(t *testing.T) {
	dir := t.TempDir()
	w := raise(t, dir, store.Options{}, conf(dir))
	if err := w.write(t, "a", "1"); err != nil {
		t.Fatal(err)
	}
	bad := exec.Entry{Base: 1}.Append(nil)
	bad[len(bad)-1] ^= 1
	if err := <-w.node.Propose(within(t, time.Minute), bad); !errors.Is(err, exec.ErrUndecodable) {
		t.Fatalf("got %v, want ErrUndecodable", err)
	}
	peers.Eventually(t, "parked", func() bool { return w.node.Status().Parked == parkedMachine }, func() any { return w.node.Status() })
	if err := w.write(t, "b", "2"); !errors.Is(err, exec.ErrUndecodable) {
		t.Errorf("write on a stopped machine: got %v", err)
	}
	if got := w.read(t, "a"); got != "1" {
		t.Errorf("reads must go on: got %q", got)
	}
	w.close(t)
	// After a restart it finds the entry again and takes no part: it never skips.
	s, err := store.Open(store.Options{Dir: filepath.Join(dir, "store"), BallastBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	m, err := exec.NewMachine(s, exec.MachineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(conf(dir), m)
	if err != nil {
		t.Fatal(err)
	}
	w = &tower{s, m, n}
	defer w.close(t)
	if s := n.Status(); s.Parked != parkedDamaged || code(n.Linearize(t.Context())) != "log_damaged" {
		t.Errorf("got %+v", s)
	}
	if m.Version() != 1 {
		t.Errorf("got version %d, want 1", m.Version())
	}
}

func TestAWriteThatHangsParksTheNodeForGood(t *testing.T) {
	dir := t.TempDir()
	w := raise(t, dir, store.Options{}, conf(dir))
	defer w.close(t)
	run := w.node.current()
	run.log.timeout = time.Millisecond
	block := make(chan struct{})
	go run.log.watched(func() error { <-block; return nil })
	peers.Eventually(t, "parked", func() bool { return w.node.Status().Parked == parkedLog }, func() any { return w.node.Status() })
	close(block)
	if err := w.write(t, "a", "1"); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v, want quorum_lost", err)
	}
	w.node.unpark()
	if w.node.Status().State != "parked" {
		t.Error("a node with a sick disk must not come back by itself")
	}
}

func TestTheLogIsCutButKeepsWhatItsBudgetAllows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := conf(dir)
	c.SegmentBytes, c.LogBudget = 64<<10, 1
	w := raise(t, dir, store.Options{}, c)
	defer w.close(t)
	const writes = 1200
	val := string(make([]byte, 400))
	for i := range writes {
		if err := w.write(t, fmt.Sprint(i%50), val); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.node.Snapshot(); err != nil {
		t.Fatal(err)
	}
	st := w.node.Status()
	if kept := st.LastIndex - st.FirstIndex + 1; kept != 1024 {
		t.Errorf("got %d entries kept, want 1024: %+v", kept, st)
	}
	if st.DurableIndex != st.AppliedIndex {
		t.Errorf("the log was cut while the state was not durable: %+v", st)
	}
	if got := trailing(64<<20, 64<<10); got != 1024 {
		t.Errorf("trailing: got %d, want 1024", got)
	}
}

func TestShutdownAnswersAndLaterCallsAreRefused(t *testing.T) {
	dir := t.TempDir()
	w := raise(t, dir, store.Options{}, conf(dir))
	w.close(t)
	if err := w.node.WaitLeader(within(t, time.Second)); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("WaitLeader: got %v", err)
	}
	if err := w.node.Snapshot(); !errors.Is(err, exec.ErrMachineClosed) {
		t.Errorf("Snapshot: got %v", err)
	}
	if st := w.node.Status(); st.State != "parked" {
		t.Errorf("got %+v", st)
	}
}

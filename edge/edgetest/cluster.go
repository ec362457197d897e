package edgetest

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"wispgate/edge"
	kernel "wispgate/edge/exec"
	"wispgate/edge/journal"
	"wispgate/edge/vault"
)

// Cluster is nodes that share one log in memory: the first leads, and each may be cut off and heal. It stands for the log where what is
// tested is above it; sync/cluster has the real one. A cut leader commits nothing.
type Cluster struct {
	Nodes []*Member

	t    testing.TB
	opts []Option
	keys Secrets // all nodes share the tenants' keys

	mu      sync.Mutex
	entries []kernel.LogEntry
}

// Member is a node of a Cluster, with a queue for what it accepts while it is cut off.
type Member struct {
	*Harness
	Name    string
	Pending *journal.Journal

	cluster *Cluster
	leads   bool
	rising  atomic.Bool
	risen   atomic.Bool

	mu      sync.Mutex
	linked  bool
	deaf    int // answers of the leader still to be lost on their way back
	applied int // entries of the cluster's log
}

// NewCluster runs n linked nodes until the test ends.
func NewCluster(t testing.TB, n int, opts ...Option) *Cluster {
	t.Helper()
	dir := t.TempDir()
	v, err := vault.Open(dir)
	must(t, err)
	c := &Cluster{t: t, opts: opts, keys: Secrets{v, dir}}
	for i := range n {
		c.Nodes = append(c.Nodes, c.start(fmt.Sprintf("n%d", i+1), t.TempDir(), i == 0, true))
	}
	return c
}

func (c *Cluster) start(name, dir string, leads, linked bool) *Member {
	c.t.Helper()
	q, err := journal.Open(journal.Options{Dir: filepath.Join(dir, "pending"), SegmentBytes: 1 << 20, MaxBytes: 256 << 20, Now: (&Clock{now: Start}).Now})
	must(c.t, err)
	m := &Member{Name: name, Pending: q, cluster: c, leads: leads, linked: linked}
	opts := append([]Option{func(k *kernel.Config) {
		k.Node, k.Queue = name, q
		k.Secrets = c.keys
		k.Sign = signAs(name)
	}}, c.opts...)
	m.Harness = open(c.t, dir, opts...)
	for m.applied < len(c.entries) && c.entries[m.applied].Index <= m.Machine.AppliedIndex() {
		m.applied++
	}
	m.Start(c.t.Context(), m)
	c.t.Cleanup(func() { _ = q.Close() })
	return m
}

// Close stops every node. It happens by itself at the end of the test.
func (c *Cluster) Close() {
	for _, n := range c.Nodes {
		n.Close()
		_ = n.Pending.Close()
	}
}

// Leader is the node that leads.
func (c *Cluster) Leader() *Member { return c.Nodes[0] }

// Restart stops a node, as kill -9 would but for its caches, and opens it again. It stays cut off if it was.
func (c *Cluster) Restart(m *Member) *Member {
	c.t.Helper()
	return c.RestartWith(m, func(string) {})
}

// RestartWith is Restart with something done to the node's folder while it is down.
func (c *Cluster) RestartWith(m *Member, do func(dir string)) *Member {
	c.t.Helper()
	m.Close()
	must(c.t, m.Pending.Close())
	do(m.Dir)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, old := range c.Nodes {
		if old == m {
			c.Nodes[i] = c.start(m.Name, m.Dir, m.leads, m.linked)
			m.mu.Lock()
			m.linked = false
			m.mu.Unlock()
			return c.Nodes[i]
		}
	}
	return nil
}

// Cut separates the node from the others. Waiting for it to notice is the caller's.
func (m *Member) Cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.linked = false
}

// Heal brings the node back; it catches up with the log.
func (m *Member) Heal() {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	m.mu.Lock()
	m.linked = true
	m.mu.Unlock()
	m.catchUp()
}

// Receive applies what the log has beyond this node though it is cut off, as when the log is carried there.
func (m *Member) Receive() {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	m.receive()
}

// LoseAnswers makes the next n answers of the leader get lost after it has done what was asked.
func (m *Member) LoseAnswers(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaf = n
}

// catchUp applies what the log has beyond this node. The cluster's lock is held.
func (m *Member) catchUp() {
	if !m.Contact() || m.Harness.Exec == nil {
		return
	}
	m.receive()
}

func (m *Member) receive() {
	if rest := m.cluster.entries[m.applied:]; len(rest) > 0 {
		m.Machine.ApplyBatch(rest)
		m.applied += len(rest)
	}
}

// Propose implements the log.
func (m *Member) Propose(_ context.Context, data []byte) <-chan error {
	c := m.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if !m.IsLeader() {
		return ended(edge.ErrQuorumLost.Error(edge.Unavailable))
	}
	e := kernel.LogEntry{Index: uint64(len(c.entries) + 1), Term: 1, Data: data}
	c.entries = append(c.entries, e)
	m.applied++
	err := m.Machine.ApplyBatch([]kernel.LogEntry{e})[0]
	for _, n := range c.Nodes {
		if n != m {
			n.catchUp()
		}
	}
	return ended(err)
}

// Term implements the log: it has one.
func (m *Member) Term() uint64 { return 1 }

// IsLeader implements the log. A member that rises finds out a moment after the others have.
func (m *Member) IsLeader() bool {
	if m.rising.CompareAndSwap(true, false) {
		m.risen.Store(true)
		return false
	}
	return (m.leads || m.risen.Load()) && m.Contact()
}

// Rise makes the node lead between its look whether it does and what it does then.
func (m *Member) Rise() { m.rising.Store(true) }

// Contact implements the log.
func (m *Member) Contact() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.linked
}

// Forward implements the log.
func (m *Member) Forward(ctx context.Context, request []byte) ([]byte, error) {
	leader := m.cluster.Leader()
	if m.risen.Load() {
		leader = m // it has come to lead since it looked
	}
	if !m.Contact() || !leader.Contact() {
		return nil, edge.ErrQuorumLost.Error(edge.Unavailable)
	}
	answer, err := leader.Serve(ctx, request)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deaf > 0 || !m.linked {
		m.deaf = max(m.deaf-1, 0)
		return nil, edge.ErrUnknown.Error(edge.Unavailable)
	}
	return answer, err
}

// CutAndNotice separates the node and returns when it knows.
func (m *Member) CutAndNotice() {
	m.cluster.t.Helper()
	m.Cut()
	Eventually(m.cluster.t, m.CutOff, func() string { return "the node does not notice that it is cut off" })
}

// HealAndDrain brings the node back and returns when nothing waits there any more.
func (m *Member) HealAndDrain() {
	m.cluster.t.Helper()
	m.Heal()
	Eventually(m.cluster.t, func() bool { return m.Exec.Pending().Waiting == 0 && !m.CutOff() }, func() string {
		return fmt.Sprintf("%+v", m.Exec.Pending())
	})
}

// SpilledKeys counts the effects of pending writes that the node keeps in its store.
func (m *Member) SpilledKeys() (n int) {
	m.cluster.t.Helper()
	snap := m.Store.Snapshot()
	defer snap.Close()
	must(m.cluster.t, snap.Scan([]byte("n/overlay/"), nil, func([]byte, []byte) (bool, error) {
		n++
		return true, nil
	}))
	return n
}

// Agree fails the test unless all nodes that are linked have the same state. The kernel may tidy between two looks, so it looks again while
// the versions differ.
func (c *Cluster) Agree() {
	c.t.Helper()
	var states string
	Eventually(c.t, func() bool {
		versions, sums := map[uint64]bool{}, map[[32]byte]bool{}
		states = ""
		for _, n := range c.Nodes {
			v, s, err := n.Machine.Checksum()
			must(c.t, err)
			versions[v], sums[s] = true, true
			states += fmt.Sprintf("%s is at version %d with %x; ", n.Name, v, s[:4])
		}
		if len(versions) == 1 && len(sums) > 1 {
			c.t.Fatalf("the nodes differ: %s", states)
		}
		return len(versions) == 1
	}, func() string { return states })
}

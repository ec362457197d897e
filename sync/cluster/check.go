package cluster

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/edge/exec"
)

// CheckedNode is what one node's copy of the state came to.
type CheckedNode struct {
	Node     string `json:"node" check:"max=64" doc:"The node."`
	State    string `json:"state" check:"max=16 enum=matched|mismatched|silent" doc:"matched, mismatched, or silent: it did not answer."`
	Checksum string `json:"checksum,omitempty" check:"max=64" doc:"SHA-256 of its replicated state."`
}

// Check is a comparison of every node's copy of the state at one version: the one whose commit made this record.
type Check struct {
	edge.Meta
	StartedAt  time.Time     `json:"started_at" doc:"When it was begun."`
	FinishedAt *time.Time    `json:"finished_at,omitempty" doc:"When it was done; absent while it runs, or when no leader could finish it."`
	At         uint64        `json:"at,omitempty" doc:"The version compared."`
	Checksum   string        `json:"checksum,omitempty" check:"max=64" doc:"What most nodes came to."`
	Nodes      []CheckedNode `json:"nodes,omitempty" check:"max=64" doc:"What each node came to."`
}

// checksKept is how many comparisons are remembered.
const checksKept = 30

var checks = &edge.Table[Check]{
	Name: "sync.check", Prefix: "chk", Meta: func(c *Check) *edge.Meta { return &c.Meta },
	Indexes: []edge.Index[Check]{{Name: "started", Keys: func(c *Check) []string { return []string{c.StartedAt.UTC().Format(time.RFC3339)} }}},
}

// ChecksumMismatch says that a node's copy of the state is not what the others hold at the same version.
type ChecksumMismatch struct {
	Check edge.ID `json:"check"`
	Node  string  `json:"node"`
	At    uint64  `json:"at"`
}

// EventName implements edge.Event.
func (ChecksumMismatch) EventName() string { return "sync.checksum.mismatch" }

// Subject implements edge.Event.
func (e ChecksumMismatch) Subject() edge.ID { return e.Check }

// startCheck begins a comparison: the entry that stores its record is the marker at which every node takes its checksum.
var startCheck = edge.Command[edge.None, Check]{
	Name: "sync.check.start", Scope: "sync:write", Class: edge.Admin, Summary: "Compare every node's copy of the state",
	Handle: func(tx edge.Tx, _ edge.None) (Check, error) {
		if err := onlyOperator(tx); err != nil {
			return Check{}, err
		}
		var all []Check
		for c, err := range checks.Range(tx, "", "") {
			if err != nil {
				return Check{}, err
			}
			all = append(all, c)
		}
		slices.SortFunc(all, func(a, b Check) int { return a.StartedAt.Compare(b.StartedAt) })
		for len(all) >= checksKept {
			if err := checks.Delete(tx, all[0].ID); err != nil {
				return Check{}, err
			}
			all = all[1:]
		}
		c := Check{Meta: edge.Meta{ID: tx.NewID("chk")}, StartedAt: tx.Now().UTC()}
		return c, checks.Put(tx, &c)
	},
}

// CheckResult is what the leader gathered.
type CheckResult struct {
	ID       edge.ID       `json:"id" check:"prefix=chk" doc:"The comparison."`
	At       uint64        `json:"at" doc:"The version compared."`
	Checksum string        `json:"checksum" check:"max=64" doc:"What most nodes came to."`
	Nodes    []CheckedNode `json:"nodes" check:"max=64" doc:"What each node came to."`
}

var finishCheck = edge.Command[CheckResult, Check]{
	Name: "sync.check.finish", Scope: "sync:write", Class: edge.Admin, Summary: "Record what a comparison found",
	Handle: func(tx edge.Tx, in CheckResult) (Check, error) {
		if err := onlyCluster(tx); err != nil {
			return Check{}, err
		}
		c, err := checks.Get(tx, in.ID)
		if err != nil || c.FinishedAt != nil {
			return c, err
		}
		c.FinishedAt, c.At, c.Checksum, c.Nodes = new(tx.Now().UTC()), in.At, in.Checksum, in.Nodes
		if err := checks.Put(tx, &c); err != nil {
			return Check{}, err
		}
		for _, n := range in.Nodes {
			if n.State == "mismatched" {
				tx.Emit(ChecksumMismatch{c.ID, n.Node, in.At})
			}
		}
		return c, nil
	},
}

// CheckRef names a comparison.
type CheckRef struct {
	ID edge.ID `json:"id" check:"prefix=chk" doc:"The comparison."`
}

var getCheck = edge.Query[CheckRef, Check]{
	Name: "sync.check.get", Scope: "sync:read", Class: edge.Read, Summary: "Show a comparison of the nodes' copies",
	Handle: func(v edge.View, in CheckRef) (Check, error) {
		if err := onlyOperator(v); err != nil {
			return Check{}, err
		}
		return checks.Get(v, in.ID)
	},
}

var listChecks = edge.Query[edge.ListInput, edge.Page[Check]]{
	Name: "sync.check.list", Scope: "sync:read", Class: edge.Read, Summary: "List the latest comparisons of the nodes' copies",
	Handle: func(v edge.View, in edge.ListInput) (edge.Page[Check], error) {
		if err := onlyOperator(v); err != nil {
			return edge.Page[Check]{}, err
		}
		return checks.List(v, "", "", in)
	},
}

const methodChecksum = "sync.checksum"

// sums are this node's checksums at the markers it has met.
type sums struct {
	mu     sync.Mutex
	newest marker
	last   time.Time // start of the newest comparison
	differ int       // nodes that the newest finished one found to differ
	known  map[uint64]*sum
}

// marker is a comparison that runs.
type marker struct {
	id      edge.ID
	version uint64
	taken   bool // the leader gathers it already
}

type sum struct {
	done chan struct{}
	hash []byte // nil: it failed
}

// sumsKept is how many checksums are kept for a leader that asks late.
const sumsKept = 4

func watchChecks(p Ports) edge.Watch {
	return edge.Watch{Name: "sync.checks", Tables: []string{checks.Name}, Apply: func(reset bool, version uint64, changes []edge.Change) {
		if p.Directory == nil {
			return
		}
		for _, c := range changes {
			var rec Check
			if c.Val == nil || json.Unmarshal(c.Val, &rec) != nil {
				continue
			}
			if s := p.Directory.sums.note(&rec); s && !reset && rec.FinishedAt == nil {
				if n := p.live(); n != nil {
					n.sumAt(rec.ID, version)
				}
			}
		}
	}}
}

// note takes a comparison's record in and says whether it is the newest.
func (s *sums) note(c *Check) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.StartedAt.Before(s.last) {
		return false
	}
	s.last = c.StartedAt
	if c.FinishedAt != nil {
		s.newest, s.differ = marker{}, 0
		for _, n := range c.Nodes {
			if n.State == "mismatched" {
				s.differ++
			}
		}
	}
	return true
}

// sumAt takes the state as the entry of version left it, and hashes it beside the work.
func (n *Node) sumAt(id edge.ID, version uint64) {
	st := n.machine.Snapshot()
	if st.Version() != version {
		st.Close()
		return
	}
	s := &n.conf.Directory.sums
	one := &sum{done: make(chan struct{})}
	s.mu.Lock()
	if s.known == nil {
		s.known = map[uint64]*sum{}
	}
	for len(s.known) >= sumsKept {
		oldest := version
		for v := range s.known {
			oldest = min(oldest, v)
		}
		delete(s.known, oldest)
	}
	s.known[version], s.newest = one, marker{id: id, version: version}
	s.mu.Unlock()
	if !n.spawn(func() { one.compute(st, n) }) {
		st.Close()
		close(one.done)
	}
}

func (one *sum) compute(st *exec.State, n *Node) {
	defer close(one.done)
	defer st.Close()
	hash, err := st.Checksum()
	if err != nil {
		n.log.Error("state not hashed", "version", st.Version(), "error", err)
		return
	}
	one.hash = hash[:]
}

// serveChecksum answers with this node's checksum at a marker.
func (n *Node) serveChecksum(ctx context.Context, _ string, body []byte) ([]byte, error) {
	if len(body) != 8 {
		return nil, errFrame
	}
	version := binary.BigEndian.Uint64(body)
	if err := n.waitVersion(ctx, version); err != nil {
		return nil, err
	}
	s := &n.conf.Directory.sums
	s.mu.Lock()
	one := s.known[version]
	s.mu.Unlock()
	if one == nil {
		return nil, edge.ErrNotFound.Error(edge.NotFound)
	}
	select {
	case <-one.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if one.hash == nil {
		return nil, edge.ErrInternal.Error(edge.Internal)
	}
	return one.hash, nil
}

func (n *Node) waitVersion(ctx context.Context, version uint64) error {
	for {
		next := n.applied.next()
		if n.machine.Version() >= version {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("wait for version %d: %w", version, ctx.Err())
		}
	}
}

// How the leader compares.
const (
	checkEvery  = 24 * time.Hour
	checkWithin = 2 * time.Minute
)

// compare begins a comparison when the last is a day old, and gathers the one that runs.
func (w *work) compare(ctx context.Context) error {
	s := &w.n.conf.Directory.sums
	s.mu.Lock()
	m, last := s.newest, s.last
	if m.id != "" {
		s.newest.taken = true
	}
	s.mu.Unlock()
	if m.id != "" {
		if !m.taken {
			w.n.spawn(func() { w.gather(ctx, m) })
		}
		return nil
	}
	joining := slices.ContainsFunc(w.peers, func(p Peer) bool { return p.Status == Joining }) // it would count as silent, for a day
	if len(w.servers) > 1 && !joining && w.n.effectiveNow().Sub(last) > checkEvery {
		return w.do(ctx, "sync.check.start", edge.None{})
	}
	return nil
}

// gather asks every member for its checksum and records what most came to.
func (w *work) gather(leading context.Context, m marker) {
	ctx, cancel := context.WithTimeout(leading, checkWithin)
	defer cancel()
	body := binary.BigEndian.AppendUint64(nil, m.version)
	found := make([]CheckedNode, len(w.servers))
	var wg sync.WaitGroup
	for i, s := range w.servers {
		wg.Go(func() {
			found[i] = CheckedNode{Node: string(s.ID), State: "silent"}
			if hash, err := w.n.Call(ctx, string(s.ID), methodChecksum, body); err == nil {
				found[i].Checksum, found[i].State = hex.EncodeToString(hash), "matched"
			}
		})
	}
	wg.Wait()
	r := CheckResult{ID: m.id, At: m.version, Nodes: found, Checksum: most(found, w.n.conf.NodeID)}
	for i := range found {
		if c := &found[i]; c.Checksum != "" && c.Checksum != r.Checksum {
			c.State = "mismatched"
			w.n.log.Error("a node's copy of the state differs from the others'", "node", c.Node, "version", m.version)
		}
	}
	err := w.do(leading, "sync.check.finish", r)
	if errors.Is(err, errWait) {
		return
	}
	if leading.Err() == nil {
		w.n.log.Warn("a comparison of the nodes was not recorded", "error", err)
	}
	s := &w.n.conf.Directory.sums
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest.id == m.id { // a leader that is one no more leaves it to the next, which met the same marker, and which may be itself
		s.newest.taken = false
	}
}

// most is the checksum of most nodes; where two are as frequent, the leader's.
func most(list []CheckedNode, leader string) (best string) {
	count, top := map[string]int{}, 0
	for _, c := range list {
		if c.Checksum == "" {
			continue
		}
		count[c.Checksum] += 2
		if c.Node == leader {
			count[c.Checksum]++
		}
		if count[c.Checksum] > top {
			best, top = c.Checksum, count[c.Checksum]
		}
	}
	return best
}

// Differing is how many nodes the newest finished comparison found to differ.
func (n *Node) Differing() int {
	s := &n.conf.Directory.sums
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.differ
}

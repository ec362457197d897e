// Package cluster keeps the log: it carries encoded entries through hashicorp/raft to the state machine of every node, and is the only
// room that knows Raft. Today a cluster is one node; the code path is the one that more nodes will use. DESIGN.md says why it is as it is.
package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// Timeouts of a node. The zero value of each takes the default for a single voter.
type Timeouts struct {
	Heartbeat time.Duration // follower without a leader until it stands for election; 100 ms, 1 s on a LAN, 3 s over a WAN
	Election  time.Duration // candidate without a majority until it tries again; as Heartbeat
	Lease     time.Duration // leader without contact to a quorum until it steps down; at most Heartbeat
	Commit    time.Duration // idle leader until it tells followers the commit index; 50 ms
	Propose   time.Duration // waiting to hand over a proposal when the caller sets no deadline; 5 s
	Write     time.Duration // one write to the log until the disk counts as hung; 10 s
}

// Config of a node. Dir, NodeID and ClusterID are required.
type Config struct {
	Dir       string // folder for log, vote and snapshot names; not the store's
	NodeID    string
	ClusterID string
	BindAddr  string      // "": in memory, for a node that stands alone
	TLS       *tls.Config // with BindAddr: certificates and CA, both sides verified
	Logger    *slog.Logger
	Timeouts  Timeouts
	Now       func() time.Time // time.Now, monotonic reading included

	SegmentBytes      int           // of one log file; 4 MB
	LogBudget         int64         // octets of log to keep below a snapshot; 64 MB, at most 1/20 of the disk
	SnapshotInterval  time.Duration // how often to look whether the log may be cut; 30 s
	SnapshotThreshold uint64        // entries since the last cut that make one worth while; 4096
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.NodeID == "" || c.ClusterID == "" {
		return c, errors.New("cluster needs a directory, a node id and a cluster id")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now //nolint:forbidigo // the default, which tests in a bubble of their own time need not name
	}
	t := &c.Timeouts
	t.Heartbeat = or(t.Heartbeat, 100*time.Millisecond)
	t.Election = or(t.Election, t.Heartbeat)
	t.Lease = or(t.Lease, t.Heartbeat)
	t.Commit = or(t.Commit, 50*time.Millisecond)
	t.Propose = or(t.Propose, 5*time.Second)
	t.Write = or(t.Write, 10*time.Second)
	c.SegmentBytes = or(c.SegmentBytes, 4<<20)
	c.SnapshotInterval = or(c.SnapshotInterval, 30*time.Second)
	c.SnapshotThreshold = or(c.SnapshotThreshold, 4096)
	return c, nil
}

// budget is LogBudget, or its default for the disk.
func (c *Config) budget(d store.DiskState) int64 {
	const most = 64 << 20
	if c.LogBudget > 0 {
		return c.LogBudget
	}
	if d.Total == 0 {
		return most
	}
	return min(most, int64(d.Total/20))
}

// Node is this node's membership in the cluster. All methods are safe for concurrent use.
type Node struct {
	conf    Config
	machine *exec.Machine
	log     *slog.Logger

	mu      sync.RWMutex
	run     *running // nil while parked
	parked  string   // why, "" while it runs
	changed chan struct{}

	handlers map[string]Handler // guarded by mu

	leader  chan bool
	events  chan event
	quit    chan struct{}
	once    sync.Once // closes quit
	done    chan struct{}
	unwatch func()
}

// Bootstrap makes a cluster of this one node in an empty folder. With anything there, in the folder or in the machine, it refuses with
// code cluster_exists.
func Bootstrap(conf Config, machine *exec.Machine) error {
	conf, err := conf.withDefaults()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(conf.Dir, 0o700); err != nil {
		return fmt.Errorf("bootstrap cluster: %w", err)
	}
	id, err := readIdentity(conf.Dir)
	if err != nil {
		return err
	}
	if id.Ready || machine.AppliedIndex() > 0 {
		return errExists(conf.Dir)
	}
	id = identity{ClusterID: conf.ClusterID, NodeID: conf.NodeID}
	if err := id.write(conf.Dir); err != nil {
		return err
	}
	if err := bootstrapLog(&conf, machine); err != nil {
		return err
	}
	id.Ready = true
	return id.write(conf.Dir)
}

func bootstrapLog(conf *Config, machine *exec.Machine) (err error) {
	wal, err := openWAL(conf)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wal.Close()) }()
	snaps, err := newSnapshots(filepath.Join(conf.Dir, "snapshots"), machine)
	if err != nil {
		return err
	}
	trans, closeTrans, err := newTransport(conf)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeTrans()) }()
	rc := raftConfig(conf)
	voter := raft.Server{Suffrage: raft.Voter, ID: rc.LocalID, Address: trans.LocalAddr()}
	members := raft.Configuration{Servers: []raft.Server{voter}}
	err = raft.BootstrapCluster(rc, wal, wal, snaps, trans, members)
	if !errors.Is(err, raft.ErrCantBootstrap) {
		return err
	}
	switch last, err := wal.LastIndex(); {
	case err != nil:
		return fmt.Errorf("bootstrap cluster: %w", err)
	case last == 0: // the power went between raft's term and its first entry, which is written here as raft would have
		return wal.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(members)})
	case last == 1: // it went between the log and the identity: the log holds this very configuration and nothing else
		return nil
	}
	return errExists(conf.Dir)
}

// Open starts the node: it opens the log, checks that log and state belong together, and begins to take part. It returns before a leader
// is known; WaitLeader waits for one. The machine outlives the node and is closed by its owner, after Shutdown.
func Open(conf Config, machine *exec.Machine) (*Node, error) {
	conf, err := conf.withDefaults()
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(conf.Dir)
	if err != nil {
		return nil, err
	}
	if err := id.check(&conf); err != nil {
		return nil, err
	}
	n := &Node{
		conf: conf, machine: machine, log: conf.Logger, handlers: map[string]Handler{},
		changed: make(chan struct{}), leader: make(chan bool, 1), events: make(chan event, 16),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	if machine.Store().DiskState().Level == store.DiskCritical {
		n.parked = parkedDisk
	} else if n.run, err = n.start(); err != nil {
		return nil, err
	}
	n.unwatch = machine.Store().WatchDisk(func(d store.DiskState) { n.post(event{disk: &d}) })
	go n.supervise()
	return n, nil
}

// Shutdown stops taking part and closes the log. Proposals that wait are answered ErrUnknownOutcome.
func (n *Node) Shutdown() error {
	n.unwatch()
	n.once.Do(func() { close(n.quit) })
	<-n.done
	n.mu.Lock()
	run := n.run
	n.run, n.parked = nil, "shut down"
	n.wakeLocked()
	n.mu.Unlock()
	if run == nil {
		return nil
	}
	return run.stop(stopWait)
}

// current is the running raft, nil while parked.
func (n *Node) current() *running {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.run
}

// IsLeader says whether this node believes to lead. Only a commit proves it.
func (n *Node) IsLeader() bool {
	run := n.current()
	return run != nil && run.raft.State() == raft.Leader
}

// LeaderCh carries whether this node leads, newest value only. One reader.
func (n *Node) LeaderCh() <-chan bool { return n.leader }

// WaitLeader waits until the cluster has a leader that this node knows. On a node that is parked because the disk is full it returns code
// disk_low at once: such a node starts, serves reads, and takes part by itself when there is room.
func (n *Node) WaitLeader(ctx context.Context) error {
	for {
		n.mu.RLock()
		run, changed, full := n.run, n.changed, n.parked == parkedDisk
		n.mu.RUnlock()
		if full {
			if err := n.machine.Store().CheckDisk(); err != nil {
				return err
			}
		}
		if run != nil {
			if _, id := run.raft.LeaderWithID(); id != "" {
				return nil
			}
		}
		select {
		case <-n.done:
			return quorumLost()
		default:
		}
		select {
		case <-changed:
		case <-n.done:
		case <-n.machine.Failed():
			return n.machine.Fatal()
		case <-ctx.Done():
			return fmt.Errorf("wait for a leader: %w", ctx.Err())
		}
	}
}

// wakeLocked tells whoever waits in WaitLeader to look again.
func (n *Node) wakeLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *Node) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wakeLocked()
}

// Package cluster keeps the log: it carries encoded entries through hashicorp/raft to the state machine of every node, and is the only
// room that knows Raft. One node alone and many take the same code path. DESIGN.md says why it is as it is.
//
// It owns the records of the cluster's nodes and invitations, which belong to the platform's own tenant and are for its operator alone.
//
// Events: sync.node.invited, joined, promoted, demoted, removed, updated, lost, found; sync.history.met; sync.checksum.matched, mismatched.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"wispgate/edge"
	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// Config of a node. Dir, NodeID and ClusterID are required; with Listen, also Advertise, Credentials, Directory and Vault.
type Config struct {
	Dir       string // folder for log, vote and snapshot names; not the store's
	NodeID    string
	ClusterID string
	Site      string
	Version   string // of the program
	Logger    *slog.Logger
	Now       func() time.Time // time.Now, monotonic reading included

	Passed    func() time.Duration          // since the program began, whatever happened to the clock; nil: by Now's monotonic reading
	Clock     func() (trusted, synced bool) // of this node; nil: trusted
	Agreement *Agreement                    // takes what time it is by the others' clocks; nil: one of its own

	Listen      string // address of the cluster port; "": none, for a node that stands alone
	Advertise   string // where other nodes reach it; "": the address it listens on
	Network     Network
	Credentials *Credentials
	Directory   *Directory
	Vault       Vault
	Incarnation string                 // of the cluster's history, for nodes that join
	Former      []string               // incarnations that this node has left by recovering its cluster
	Pending     func() int64           // writes this node has accepted alone and not handed over; nil: none
	SystemKey   func() ([]byte, error) // the platform's own key, wrapped for this node

	Timeouts Timeouts // while the node is the only one
	Peers    Timeouts // once there are others; LAN
	Pace     Pace

	SegmentBytes      int           // of one log file; 4 MB
	LogBudget         int64         // octets of log to keep below a snapshot; 64 MB, at most 1/20 of the disk
	SnapshotInterval  time.Duration // how often to look whether the log may be cut; 30 s
	SnapshotThreshold uint64        // entries since the last cut that make one worth while; 4096
}

// Vault seals what one node hands to another. edge/vault has it.
type Vault interface {
	PublicKey() []byte
	// SealFor seals octets for the node with that public key, and OpenFor opens what was sealed for this one.
	SealFor(purpose string, publicKey, plaintext []byte) ([]byte, error)
	OpenFor(purpose string, sealed []byte) ([]byte, error)
	// WrapFor wraps a tenant's key, given as wrapped for this node.
	WrapFor(name string, wrapped, publicKey []byte) ([]byte, error)
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
	if c.Passed == nil {
		begun := c.Now()
		c.Passed = func() time.Duration { return c.Now().Sub(begun) }
	}
	if c.Clock == nil {
		c.Clock = func() (trusted, synced bool) { return true, false }
	}
	if c.Agreement == nil {
		c.Agreement = new(Agreement)
	}
	if c.Network == nil {
		c.Network = tcp{}
	}
	if c.Listen != "" {
		if c.Credentials == nil || c.Directory == nil || c.Vault == nil {
			return c, errors.New("a cluster port needs credentials, a directory and a vault")
		}
	}
	if c.Directory == nil {
		c.Directory = NewDirectory()
	}
	c.Timeouts = c.Timeouts.over(alone)
	c.Peers = c.Peers.over(lan)
	c.Pace = c.Pace.over(c.Peers)
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

	mu       sync.RWMutex
	run      *running // nil while parked
	former   *running // that was parked last
	parked   string   // why, "" while it runs
	parkedAt Standing // how far the log went then
	damage   error    // with parkedDamaged: what was found
	changed  chan struct{}

	handlers map[string]Handler // guarded by mu
	x        edge.Executor      // guarded by mu; nil until Attach

	port     *port // nil for a node that stands alone
	links    *links
	picture  picture
	meetings meetings
	applied  broadcast
	grown    bool         // it begins its lives with the time-outs of a node among others; the supervisor's
	gate     sync.RWMutex // held by proposals; a new life of raft waits for them
	loops    sync.WaitGroup
	life     context.Context // of the loops; ends with Shutdown
	end      context.CancelFunc
	moves    atomic.Uint64 // changes of leader seen
	ended    bool          // guarded by mu: nothing is spawned any more
	gone     atomic.Bool   // a member has said that this node was removed, in this run or an earlier one
	goneMu   sync.Mutex    // held by who changes that, and the note of it
	stale    atomic.Bool   // a member has said that this node's certificate ended, whatever the clock here says
	carried  carriedUpTo
	carryMu  sync.Mutex // guards the file of carried positions
	feedMu   sync.Mutex // one bundle at a time is fed to raft

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
	if gone(conf.Dir, id) && machine.AppliedIndex() > 0 {
		return errLogGone(conf.Dir, machine.AppliedIndex())
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

// gone says whether a folder holds nothing of a log.
func gone(dir string, id identity) bool {
	_, err := os.Stat(filepath.Join(dir, "log"))
	return id.NodeID == "" && errors.Is(err, fs.ErrNotExist)
}

func bootstrapLog(conf *Config, machine *exec.Machine) (err error) {
	wal, snaps, err := openLog(conf, machine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wal.Close()) }()
	_, trans := raft.NewInmemTransport(raft.ServerAddress(conf.NodeID))
	defer func() { err = errors.Join(err, trans.Close()) }()
	rc := raftConfig(conf, conf.Timeouts)
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
	if _, err := ownIdentity(&conf); err != nil {
		return nil, err
	}
	n := &Node{
		conf: conf, machine: machine, log: conf.Logger, handlers: map[string]Handler{}, picture: picture{looking: make(chan struct{}, 1)},
		changed: make(chan struct{}), leader: make(chan bool, 1), events: make(chan event, 16),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	n.life, n.end = context.WithCancel(context.Background()) //nolint:forbidigo // the node's own life, which Shutdown ends
	n.links = newLinks(n)
	n.recallRemoval()
	n.Handle(methodReadIndex, n.serveReadIndex)
	if conf.Listen != "" {
		if err := n.openPort(); err != nil {
			n.end()
			return nil, err
		}
	}
	if err := n.begin(); err != nil {
		n.end()
		return nil, errors.Join(err, n.closePort())
	}
	return n, nil
}

// openPort opens the cluster port and answers what needs no executor.
func (n *Node) openPort() (err error) {
	if err := n.conf.Directory.load(n.conf.Dir); err != nil { // of use only until there are records
		n.log.Error("members that were noted are not known", "error", err)
	}
	n.port, err = openPort(n.life, n)
	return err
}

func (n *Node) closePort() error {
	n.links.close()
	if n.port == nil {
		return nil
	}
	return n.port.close()
}

// begin starts the node's first life.
func (n *Node) begin() (err error) {
	machine := n.machine
	if machine.Store().DiskState().Level == store.DiskCritical {
		n.parked = parkedDisk
	} else if n.run, err = n.start(); damaged(err) {
		n.parked, n.damage = parkedDamaged, err
		n.log.Error("node parked: it answers reads and takes no writes", "reason", parkedDamaged, "error", err)
	} else if err != nil {
		return err
	}
	n.unwatch = machine.Store().WatchDisk(func(d store.DiskState) { n.post(event{disk: &d}) })
	go n.supervise()
	return nil
}

// Shutdown stops taking part and closes the log. Proposals that wait are answered ErrUnknownOutcome.
func (n *Node) Shutdown() error {
	n.yield()
	n.unwatch()
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	n.end()
	n.loops.Wait()
	n.once.Do(func() { close(n.quit) })
	<-n.done
	n.mu.Lock()
	run := n.run
	n.run, n.parked = nil, "shut down"
	n.wakeLocked()
	n.mu.Unlock()
	var err error
	if run != nil {
		err = run.stop(stopWait)
	}
	return errors.Join(err, n.closePort())
}

// yield hands leadership to another voter before this node stops, so that nobody waits for an election. raft bounds it by an election
// time-out; where it fails, the others elect.
func (n *Node) yield() {
	run := n.current()
	if run == nil || run.raft.State() != raft.Leader { // also before it knows what time it is
		return
	}
	voters := 0
	for _, s := range servers(run.raft) {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters < 2 {
		return
	}
	if err := run.raft.LeadershipTransfer().Error(); err != nil {
		n.log.Info("leadership not handed over before the stop", "error", err)
	}
}

// spawn runs work that Shutdown waits for; false after the end.
func (n *Node) spawn(work func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return false
	}
	n.loops.Go(work)
	return true
}

// current is the running raft, nil while parked.
func (n *Node) current() *running {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.run
}

// IsLeader says whether this node believes to lead, and knows what time it is. Only a commit proves it.
func (n *Node) IsLeader() bool { return n.current().leads() }

// leads is false as well where nothing runs.
func (r *running) leads() bool {
	return r != nil && r.raft.State() == raft.Leader && r.ground.dated.Load() == r.raft.CurrentTerm()
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
			if _, id := run.raft.LeaderWithID(); id != "" && (string(id) != n.conf.NodeID || run.leads()) {
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

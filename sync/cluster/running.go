package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/types"

	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// running is one life of raft and its log. A node has several: it parks while the disk is full and begins a new one afterwards.
type running struct {
	raft       *raft.Raft
	log        *logStore
	closeTrans func() error
	times      Timeouts
	alone      bool           // begun with the time-outs of a node without others
	trans      raft.Transport // to tell another to lead, while this one's disk hangs
	guard      *guarded       // trans, on a node with a port
	snaps      *snapshots
	readable   atomic.Uint64 // term of which an entry is known to be committed
	ground     *ground
	nudges     chan string // members to tell how far the log is committed
	notes      sync.WaitGroup
	quit       chan struct{}
	ended      chan struct{} // closed when raft has stopped and the log is closed; a disk that hangs lets neither happen
}

func openWAL(c *Config) (*wal.WAL, error) {
	dir := filepath.Join(c.Dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	meta := &mendingMeta{segmentBytes: c.SegmentBytes, log: c.Logger}
	w, err := wal.Open(dir, wal.WithSegmentSize(c.SegmentBytes), wal.WithLogger(newRaftLog(c.Logger)), wal.WithSegmentFiler(newSegments(dir)), wal.WithMetaStore(meta))
	if err == nil {
		return w, nil
	}
	_ = meta.Close() // else the next attempt, as of a repair, would wait for its lock for ever
	switch {
	case errors.Is(err, types.ErrCorrupt), errors.Is(err, fs.ErrNotExist): // a segment that the metadata name
		return nil, errLogDamaged(dir, err)
	}
	return nil, fmt.Errorf("open raft log: %w", err)
}

// appendRoom is what one request to a follower may hold in octets: a few of them are in memory at the leader for each follower that catches up.
const appendRoom = 2 << 20

// openLog opens a folder's log and its snapshots. The caller closes the log.
func openLog(c *Config, machine *exec.Machine) (*wal.WAL, *snapshots, error) {
	w, err := openWAL(c)
	if err != nil {
		return nil, nil, err
	}
	snaps, err := newSnapshots(filepath.Join(c.Dir, "snapshots"), machine)
	if err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	return w, snaps, nil
}

func raftConfig(c *Config, t Timeouts) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.NodeID)
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = t.Heartbeat, t.Election, t.Lease
	rc.CommitTimeout = t.Commit
	rc.MaxAppendEntries = max(appendRoom/exec.MaxEntry, 4)
	rc.BatchApplyCh = true
	rc.ShutdownOnRemove = false
	rc.NoSnapshotRestoreOnStart = true
	rc.NoLegacyTelemetry = true
	rc.SnapshotInterval, rc.SnapshotThreshold = c.SnapshotInterval, c.SnapshotThreshold
	rc.Logger = newRaftLog(c.Logger)
	return rc
}

// start opens the log and raft on it, after proof that log and state belong together.
func (n *Node) start() (run *running, err error) {
	if err := n.endWipe(); err != nil {
		return nil, err
	}
	w, snaps, err := openLog(&n.conf, n.machine)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if err := snaps.resume(n.log); err != nil {
		return nil, err
	}
	if err := n.belong(w, snaps); err != nil {
		return nil, err
	}
	servers, err := persisted(w, snaps, n.machine.DurableIndex())
	if err != nil {
		return nil, err
	}
	if n.port == nil && len(servers.Servers) > 1 {
		return nil, errPortMissing(len(servers.Servers) - 1)
	}
	run = &running{times: n.conf.Peers, alone: len(servers.Servers) == 1 && !n.grown, ground: newGround(), quit: make(chan struct{}), ended: make(chan struct{}), nudges: make(chan string, nudgeRoom)}
	if run.alone {
		run.times = n.conf.Timeouts
	}
	trans, closeTrans := n.newTransport(run.times, snaps)
	run.trans, run.closeTrans, run.snaps = trans, closeTrans, snaps
	run.guard, _ = trans.(*guarded)
	run.log = &logStore{walStore: w, snaps: snaps, timeout: run.times.Write, unfit: func(err error) { n.post(event{run: run, unfit: err}) }}
	leads := make(chan bool)
	rc := raftConfig(&n.conf, run.times)
	rc.NotifyCh = leads
	rc.TrailingLogs = trailing(n.conf.budget(n.machine.Store().DiskState()), run.log.averageEntry())
	if run.raft, err = raft.NewRaft(rc, fsm{n.machine, &n.applied, &run.log.waiting}, run.log, run.log, snaps, trans); err != nil {
		return nil, errors.Join(fmt.Errorf("start raft: %w", err), closeTrans())
	}
	n.listen(run, leads)
	if run.guard != nil && decidesAlone(servers, n.conf.NodeID) {
		run.notes.Go(func() { run.stand(n.conf.NodeID) })
	}
	return run, nil
}

// decidesAlone says whether a node is the only voter.
func decidesAlone(conf raft.Configuration, node string) bool {
	voters, mine := 0, false
	for _, s := range conf.Servers {
		if s.Suffrage == raft.Voter {
			voters++
			mine = mine || string(s.ID) == node
		}
	}
	return mine && voters == 1
}

// stand has the only voter lead at once: there is nobody whose heartbeat it would have to wait for, and by satellite it would wait half a
// minute. It is told to as by a leader that hands over.
func (r *running) stand(node string) {
	if r.raft.State() != raft.Follower {
		return
	}
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(node), Addr: []byte(node)}
	select {
	case r.guard.rpcs <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: header}, RespChan: make(chan raft.RPCResponse, 1)}:
	case <-r.quit:
	}
}

// persisted is the newest configuration that log and snapshots hold. On the way it looks at what the log holds beyond the state: raft ends the
// program at an entry that it cannot read, and the machine stops at one.
func persisted(log raft.LogStore, snaps *snapshots, durable uint64) (conf raft.Configuration, err error) {
	if err := checkFrames(filepath.Join(filepath.Dir(snaps.dir), "log"), durable); err != nil {
		return conf, errLogDamaged(filepath.Dir(snaps.dir), err)
	}
	list, err := snaps.List()
	if err != nil {
		return conf, err
	}
	from, err := log.FirstIndex()
	if err != nil {
		return conf, fmt.Errorf("open raft log: %w", err)
	}
	if len(list) > 0 {
		conf, from = list[0].Configuration, max(from, list[0].Index+1)
	}
	last, err := log.LastIndex()
	if err != nil {
		return conf, fmt.Errorf("open raft log: %w", err)
	}
	for i := max(from, 1); i <= last; i++ {
		decoded, err := entryAt(log, i, i > durable)
		if err != nil {
			return conf, errLogDamaged(filepath.Dir(snaps.dir), fmt.Errorf("entry %d: %w", i, err))
		}
		if len(decoded.Servers) > 0 {
			conf = decoded
		}
	}
	return conf, nil
}

// entryAt reads an entry, with whole all that is in it, and returns the configuration that it holds, if one. What decodes a damaged one may panic.
func entryAt(log raft.LogStore, index uint64, whole bool) (conf raft.Configuration, err error) {
	var l raft.Log
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it does not decode: %v", p)
		}
	}()
	if err := log.GetLog(index, &l); err != nil {
		return conf, err
	}
	switch {
	case l.Index != index:
		err = fmt.Errorf("it says that it is entry %d", l.Index)
	case l.Type == raft.LogConfiguration:
		conf = raft.DecodeConfiguration(l.Data)
	case l.Type == raft.LogCommand && whole:
		_, err = exec.DecodeEntry(l.Data)
	}
	return conf, err
}

// belong refuses a log that ends before the state, or was cut after it: both lose acknowledged writes without a word.
func (n *Node) belong(w *wal.WAL, snaps *snapshots) error {
	last, err := w.LastIndex()
	if err != nil {
		return fmt.Errorf("open raft log: %w", err)
	}
	newest, err := snaps.newest()
	if err != nil {
		return err
	}
	if applied, known := n.machine.AppliedIndex(), max(last, newest.Index, newest.Installed); applied > known {
		return errLogBehind(applied, known)
	}
	if durable := n.machine.DurableIndex(); durable < newest.Flushed {
		return errStateBehind(durable, newest.Index)
	}
	return nil
}

// listen forwards changes of leadership until the run stops.
func (n *Node) listen(run *running, leads <-chan bool) {
	seen := make(chan raft.Observation, 8)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	run.raft.RegisterObserver(observer)
	run.notes.Go(func() { n.nudgeLoop(run) })
	run.notes.Go(func() { n.groundLoop(run) })
	run.notes.Go(func() {
		defer run.raft.DeregisterObserver(observer)
		for {
			select {
			case lead := <-leads:
				run.log.leads.Store(lead)
				if lead {
					run.ground.lead()
				}
				n.announce(lead)
			case o := <-seen:
				if l, ok := o.Data.(raft.LeaderObservation); ok && l.LeaderID != "" {
					n.moves.Add(1)
				}
				n.wake()
			case <-run.quit:
				return
			}
		}
	})
}

// announce puts the newest word about leadership into the channel, in place of one that nobody has read.
func (n *Node) announce(lead bool) {
	for {
		select {
		case n.leader <- lead:
			n.wake()
			return
		default:
		}
		select {
		case <-n.leader:
		default:
		}
	}
}

// stopWait bounds how long stopping waits for a disk that may hang.
const stopWait = 10 * time.Second

// stop ends the run. The transport goes first, so that a leader whose disk hangs falls silent at once. When raft does not stop in time
// the log stays open until it has: closing it under a write would be worse. A full disk holds up what is being applied, and raft with it.
func (r *running) stop(wait time.Duration) error {
	err := r.closeTrans()
	hung := errors.Is(err, errHung)
	stopped := make(chan error, 1)
	go func() {
		err := r.raft.Shutdown().Error()
		if !hung {
			err = errors.Join(err, r.log.Close())
			close(r.ended)
		}
		stopped <- err
	}()
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	select {
	case stopErr := <-stopped:
		err = errors.Join(err, stopErr)
	case <-timeout.C:
		err = errors.Join(err, errHung)
	}
	close(r.quit)
	r.notes.Wait()
	return err
}

// tune fits the length of the kept log to the size of its entries.
func (r *running) tune(c *Config, d store.DiskState) error {
	rc := r.raft.ReloadableConfig()
	want := trailing(c.budget(d), r.log.averageEntry())
	if rc.TrailingLogs == want {
		return nil
	}
	rc.TrailingLogs = want
	return r.raft.ReloadConfig(rc)
}

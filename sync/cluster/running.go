package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"wispgate/edge/store"
)

// running is one life of raft and its log. A node has several: it parks while the disk is full and begins a new one afterwards.
type running struct {
	raft       *raft.Raft
	log        *logStore
	closeTrans func() error
	contact    time.Duration // silence of a leader after which it counts as lost
	notes      sync.WaitGroup
	quit       chan struct{}
}

func openWAL(c *Config) (*wal.WAL, error) {
	dir := filepath.Join(c.Dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	w, err := wal.Open(dir, wal.WithSegmentSize(c.SegmentBytes), wal.WithLogger(newRaftLog(c.Logger)),
		wal.WithMetaStore(&mendingMeta{segmentBytes: c.SegmentBytes, log: c.Logger}))
	if err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	return w, nil
}

func raftConfig(c *Config) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.NodeID)
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = c.Timeouts.Heartbeat, c.Timeouts.Election, c.Timeouts.Lease
	rc.CommitTimeout = c.Timeouts.Commit
	rc.MaxAppendEntries = 64
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
	w, err := openWAL(&n.conf)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	snaps, err := newSnapshots(filepath.Join(n.conf.Dir, "snapshots"), n.machine)
	if err != nil {
		return nil, err
	}
	if err := n.belong(w, snaps); err != nil {
		return nil, err
	}
	trans, closeTrans, err := newTransport(&n.conf)
	if err != nil {
		return nil, err
	}
	run = &running{closeTrans: closeTrans, contact: n.conf.Timeouts.Election, quit: make(chan struct{})}
	run.log = &logStore{walStore: w, timeout: n.conf.Timeouts.Write, unfit: func(err error) { n.post(event{run: run, unfit: err}) }}
	leads := make(chan bool)
	rc := raftConfig(&n.conf)
	rc.NotifyCh = leads
	rc.TrailingLogs = trailing(n.conf.budget(n.machine.Store().DiskState()), run.log.averageEntry())
	if run.raft, err = raft.NewRaft(rc, fsm{n.machine}, run.log, run.log, snaps, trans); err != nil {
		return nil, errors.Join(fmt.Errorf("start raft: %w", err), closeTrans())
	}
	n.listen(run, leads)
	return run, nil
}

// belong refuses a log that ends before the state, or was cut after it: both lose acknowledged writes without a word.
func (n *Node) belong(w *wal.WAL, snaps *snapshots) error {
	last, err := w.LastIndex()
	if err != nil {
		return fmt.Errorf("open raft log: %w", err)
	}
	cut, flushed, err := snaps.newest()
	if err != nil {
		return err
	}
	if applied := n.machine.AppliedIndex(); applied > max(last, cut) {
		return errLogBehind(applied, max(last, cut))
	}
	if durable := n.machine.DurableIndex(); durable < flushed {
		return errStateBehind(durable, cut)
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
	run.notes.Go(func() {
		defer run.raft.DeregisterObserver(observer)
		for {
			select {
			case lead := <-leads:
				n.announce(lead)
			case <-seen:
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
// the log stays open: closing it under a write would be worse.
func (r *running) stop(wait time.Duration) error {
	err := r.closeTrans()
	stopped := make(chan error, 1)
	go func() { stopped <- r.raft.Shutdown().Error() }()
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	select {
	case stopErr := <-stopped:
		err = errors.Join(err, stopErr, r.log.Close())
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

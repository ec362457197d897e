package cluster

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"

	"wispgate/edge"
	"wispgate/edge/store"
)

// event is something that may park or unpark the node.
type event struct {
	disk  *store.DiskState
	run   *running // with unfit: whose log
	unfit error

	life   chan error   // of a new life: its outcome
	change func() error // what happens between the lives
}

// Why a node is parked. Only the first ends by itself; the last two end when an operator has the node filled anew.
const (
	parkedDisk    = "disk full"
	parkedLog     = "log unfit"
	parkedMachine = "state machine stopped"
	parkedDamaged = "log damaged"
)

// post never blocks: a look at the disk that finds the queue full is followed by another.
func (n *Node) post(e event) {
	select {
	case n.events <- e:
	default:
		if e.unfit != nil {
			go func() {
				select {
				case n.events <- e:
				case <-n.done:
				}
			}()
		}
	}
}

// supervise parks raft where going on would do harm, and begins a new life when a full disk has room again.
func (n *Node) supervise() {
	defer close(n.done)
	tune := time.NewTicker(time.Minute)
	defer tune.Stop()
	failed := n.machine.Failed()
	for {
		select {
		case <-n.quit:
			return
		case <-failed:
			failed = nil
			n.park(parkedMachine)
		case e := <-n.events:
			n.consider(e)
			if failed == nil && n.machine.Fatal() == nil { // it was reset
				failed = n.machine.Failed()
			}
		case <-tune.C:
			if run := n.current(); run != nil {
				if err := run.tune(&n.conf, n.machine.Store().DiskState()); err != nil {
					n.log.Warn("raft log length not tuned", "error", err)
				}
			}
		}
	}
}

func (n *Node) consider(e event) {
	switch {
	case e.life != nil:
		e.life <- n.liveAnew(e.change)
	case e.unfit != nil && e.run == n.current():
		n.unfit(e.unfit)
	case e.disk == nil:
	case e.disk.Level == store.DiskCritical:
		n.park(parkedDisk)
	case e.disk.Level < store.DiskLow && !e.disk.ReadOnly:
		n.unpark()
	}
}

// unfit parks the node. A write that failed for want of room is forgiven when room returns; a disk that hangs or errs is not.
func (n *Node) unfit(err error) {
	why := parkedLog
	if noRoom(err) || !errors.Is(err, errHung) && n.machine.Store().CheckDisk() != nil {
		why = parkedDisk
	}
	n.log.Error("raft log unfit: this node stops taking part", "error", err)
	n.bequeath()
	n.park(why)
}

// bequeath tells the best placed voter to lead at once. Raft's own way goes through the loop that hangs with the disk.
func (n *Node) bequeath() {
	run := n.current()
	if run == nil || n.port == nil || run.raft.State() != raft.Leader {
		return
	}
	w := &work{n: n, run: run, now: n.conf.Now(), servers: servers(run.raft), peers: n.conf.Directory.Peers()}
	heir := w.heir()
	if heir == "" {
		return
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.conf.NodeID), Addr: []byte(n.conf.NodeID)}
		err := run.trans.TimeoutNow(raft.ServerID(heir), raft.ServerAddress(heir), &raft.TimeoutNowRequest{RPCHeader: header}, new(raft.TimeoutNowResponse))
		n.log.Info("told another voter to lead", "node", heir, "error", err)
	}()
	wait := time.NewTimer(bequeathWait)
	defer wait.Stop()
	select {
	case <-told:
	case <-wait.C: // parking closes the transport, which ends the attempt
	}
}

const bequeathWait = 2 * time.Second

// noRoom recognises a full disk in what the log says. A segment that stays sealed is how raft-wal shows that it could not make the next.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, types.ErrSealed) }

func (n *Node) park(why string) {
	n.mu.Lock()
	run := n.run
	if run == nil {
		if n.parked == parkedDisk {
			n.parked = why
		}
		n.mu.Unlock()
		return
	}
	n.run, n.parked, n.former, n.parkedAt = nil, why, run, run.end()
	n.wakeLocked()
	n.mu.Unlock()
	if err := run.stop(stopWait); err != nil {
		n.log.Warn("raft did not stop well", "error", err)
	}
	n.announce(false)
	n.log.Error("node parked: it answers reads and takes no writes", "reason", why)
}

func (n *Node) unpark() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run != nil || n.parked != parkedDisk || !n.former.over() {
		return // or it waits for the next look at the disk: two cannot hold the log
	}
	run, err := n.start()
	if damaged(err) {
		n.parked, n.damage = parkedDamaged, err
	}
	if err != nil {
		n.log.Error("raft does not start again yet", "error", err)
		return
	}
	n.run, n.parked = run, ""
	n.wakeLocked()
	n.log.Info("node takes part again")
}

// over says whether a life has let go of the log; true for none.
func (r *running) over() bool {
	if r == nil {
		return true
	}
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// newLife ends this life of raft and begins another with the time-outs of a node among others. Proposals in flight end first; those that
// come meanwhile wait, and for an election time-out nobody leads.
func (n *Node) newLife(ctx context.Context) error {
	return n.betweenLives(ctx, event{life: make(chan error, 1), change: func() error { n.grown = true; return nil }})
}

// betweenLives has the supervisor end raft, make a change and begin raft anew.
func (n *Node) betweenLives(ctx context.Context, e event) error {
	select {
	case n.events <- e:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err, ok := edge.Hear(e.life, n.done, nil); ok {
		return err
	}
	return quorumLost()
}

// refillable says whether the node is parked because of what an empty copy would heal.
func (n *Node) refillable() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.run == nil && (n.parked == parkedMachine || n.parked == parkedDamaged)
}

func damaged(err error) bool {
	e, ok := errors.AsType[*edge.Error](err)
	return ok && e.Code == "log_damaged"
}

// liveAnew is betweenLives on the supervisor's goroutine. When the change fails raft begins as it was, where it did.
func (n *Node) liveAnew(change func() error) error {
	n.gate.Lock()
	defer n.gate.Unlock()
	refill := n.refillable()
	n.mu.Lock()
	run := n.run
	if run == nil && !refill {
		n.mu.Unlock()
		return n.whyParked()
	}
	if n.run = nil; run != nil {
		n.parkedAt = run.end()
	}
	n.wakeLocked()
	n.mu.Unlock()
	var err error
	if run != nil {
		err = run.stop(stopWait)
	}
	n.announce(false)
	var next *running
	if err == nil {
		err = change()
		var failed error
		if next, failed = n.start(); failed != nil {
			err = errors.Join(err, failed)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch n.run = next; {
	case next != nil:
		n.parked, n.damage = "", nil
	case damaged(err):
		n.parked, n.damage = parkedDamaged, err
		n.log.Error("raft does not start again: this node takes no part", "error", err)
	case !refill:
		n.parked = parkedLog
		n.log.Error("raft does not start again: this node takes no part", "error", err)
	default: // as it was: the next attempt may do
		n.log.Error("this node was not filled anew", "error", err)
	}
	n.wakeLocked()
	return err
}

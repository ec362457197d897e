package cluster

import (
	"errors"
	"syscall"
	"time"

	"github.com/hashicorp/raft-wal/types"

	"wispgate/edge/store"
)

// event is something that may park or unpark the node.
type event struct {
	disk  *store.DiskState
	run   *running // with unfit: whose log
	unfit error
}

// Why a node is parked. Only the first ends by itself.
const (
	parkedDisk    = "disk full"
	parkedLog     = "log unfit"
	parkedMachine = "state machine stopped"
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
	n.park(why)
}

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
	n.run, n.parked = nil, why
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
	if n.run != nil || n.parked != parkedDisk {
		return
	}
	run, err := n.start()
	if err != nil {
		n.log.Error("raft does not start again yet", "error", err)
		return
	}
	n.run, n.parked = run, ""
	n.wakeLocked()
	n.log.Info("node takes part again")
}

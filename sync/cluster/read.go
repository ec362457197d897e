package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// broadcast wakes whoever waits for something to be applied.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed at the next wake.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

const methodReadIndex = "sync.read_index"

// Linearize returns when this node's state includes everything that was acknowledged anywhere before the call. Unlike Barrier it writes
// nothing. A follower asks the leader how far that is. Without a quorum it is ErrQuorumLost.
func (n *Node) Linearize(ctx context.Context) error {
	if err := n.machine.Fatal(); err != nil {
		return err
	}
	if n.current() == nil {
		return n.whyParked()
	}
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	raw, err := n.Call(ctx, "", methodReadIndex, nil)
	if err != nil || len(raw) != 8 {
		return fmt.Errorf("%w: %w", ErrQuorumLost, err)
	}
	return n.waitApplied(ctx, binary.BigEndian.Uint64(raw))
}

// serveReadIndex answers with the newest command that is committed, after proof that this node leads.
func (n *Node) serveReadIndex(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	index, err := n.readIndex(ctx)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, index), nil
}

// readIndex needs an entry of this term to be committed: only then does a leader know how far its predecessors came.
func (n *Node) readIndex(ctx context.Context) (uint64, error) {
	run := n.current()
	if run == nil || run.raft.State() != raft.Leader {
		return 0, quorumLost()
	}
	term, index := run.raft.CurrentTerm(), run.raft.CommitIndex()
	if run.readable.Load() != term {
		var l raft.Log
		if err := run.log.GetLog(index, &l); err != nil || l.Term != term {
			if err := await(ctx, run.raft.Barrier(run.times.Propose)); err != nil {
				return 0, quorumLost()
			}
			index = run.raft.CommitIndex()
		}
		run.readable.Store(term)
	}
	if err := await(ctx, run.raft.VerifyLeader()); err != nil || run.raft.CurrentTerm() != term {
		return 0, quorumLost()
	}
	return n.lastCommand(run, index)
}

// lastCommand is the newest entry up to index that the machine gets to see: it skips raft's own.
func (n *Node) lastCommand(run *running, index uint64) (uint64, error) {
	for applied := n.machine.AppliedIndex(); index > applied; index-- {
		var l raft.Log
		if err := run.log.GetLog(index, &l); err != nil {
			return 0, fmt.Errorf("read raft log: %w", err)
		}
		if l.Type == raft.LogCommand {
			break
		}
	}
	return index, nil
}

// waitApplied waits until the machine has applied the command at index.
func (n *Node) waitApplied(ctx context.Context, index uint64) error {
	for {
		next := n.applied.next()
		if n.machine.AppliedIndex() >= index {
			return nil
		}
		select {
		case <-next:
		case <-n.machine.Failed():
			return n.machine.Fatal()
		case <-n.done:
			return quorumLost()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrQuorumLost, ctx.Err())
		}
	}
}

package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"wispgate/edge"
	"wispgate/edge/exec"
)

// Propose sends an encoded entry on its way, behind those proposed before, and does not wait for it. The channel gives once how it ended:
// nil when it is applied here; exec.ErrStale when it was committed and changed nothing; ErrQuorumLost and disk_low when nothing was proposed;
// ErrUnknownOutcome when nobody can tell yet. data must not change afterwards.
func (n *Node) Propose(ctx context.Context, data []byte) <-chan error {
	outcome := make(chan error, 1)
	refuse := func(err error) <-chan error {
		outcome <- err
		return outcome
	}
	if len(data) > exec.MaxEntry {
		return refuse(edge.ErrTooLarge.Error(edge.Invalid))
	}
	if err := n.ready(ctx); err != nil {
		return refuse(err)
	}
	n.gate.RLock()
	run := n.current()
	if run == nil {
		n.gate.RUnlock()
		return refuse(n.whyParked())
	}
	ctx, cancel := n.bounded(ctx)
	future := run.raft.Apply(data, run.times.Propose)
	go func() {
		defer n.gate.RUnlock()
		defer cancel()
		outcome <- n.outcome(ctx, run, future)
	}()
	return outcome
}

// outcome waits for what became of a proposal.
func (n *Node) outcome(ctx context.Context, run *running, future raft.ApplyFuture) error {
	if err := await(ctx, future); err != nil {
		return n.explain(run, err)
	}
	if err, ok := future.Response().(error); ok {
		return err
	}
	return nil
}

// ready says why a proposal would be in vain. The look at the disk keeps the log from ever meeting a full one.
func (n *Node) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("propose: %w", err)
	}
	if err := n.machine.Fatal(); err != nil {
		return err
	}
	return n.machine.Store().CheckDisk()
}

// whyParked is the answer of a node that takes no part at the moment.
func (n *Node) whyParked() error {
	if err := n.machine.Fatal(); err != nil {
		return err
	}
	n.mu.RLock()
	disk, damage := n.parked == parkedDisk, n.damage
	n.mu.RUnlock()
	if damage != nil {
		return damage
	}
	if disk {
		if err := n.machine.Store().CheckDisk(); err != nil {
			return err
		}
	}
	return quorumLost()
}

// Damage is what was found in the log when the node started, and why it takes no part; nil on a node with a sound one.
func (n *Node) Damage() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.damage
}

// bounded gives a caller without a deadline the default one.
func (n *Node) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, n.conf.Timeouts.Propose)
}

// await waits for the future or the end of ctx.
func await(ctx context.Context, f raft.Future) error {
	answer := make(chan error, 1)
	go func() { answer <- f.Error() }()
	if err, ok := edge.Hear(answer, nil, ctx.Done()); ok {
		return err
	}
	return ctx.Err()
}

// explain sorts raft's errors: only those given before an entry reached the log are harmless to repeat under another id.
func (n *Node) explain(run *running, err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return quorumLost()
	default:
		n.log.Info("outcome of a proposal unknown", "error", err)
		run.ground.doubt()
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
}

// Barrier waits until everything committed before it is applied here. It writes a few octets to the log, into room that is allocated,
// so a low disk does not refuse it; a parked node does.
func (n *Node) Barrier(ctx context.Context) error {
	if err := n.machine.Fatal(); err != nil {
		return err
	}
	run := n.current()
	if run == nil {
		return n.whyParked()
	}
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	if err := await(ctx, run.raft.Barrier(run.times.Propose)); err != nil {
		return fmt.Errorf("%w: %w", ErrQuorumLost, err)
	}
	return nil
}

// Snapshot makes the state durable and cuts the log behind it, as happens by itself every few thousand entries.
func (n *Node) Snapshot() error {
	run := n.current()
	if run == nil {
		return n.whyParked()
	}
	if err := run.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

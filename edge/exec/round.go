package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"wispgate/edge"
)

// rounds is the leader's loop: it takes the intents that wait, evaluates them against one draft, proposes the effects and answers when
// they are applied. One round is in flight; what arrives meanwhile makes the next one.
func (x *Exec) rounds(ctx context.Context) {
	var carried []*waiter // did not fit into the last entry
	for {
		batch, ok := x.gather(ctx, carried)
		if !ok {
			x.drainQueue(batch)
			return
		}
		carried = x.round(ctx, batch)
	}
}

// gather blocks for the first intent and takes those that wait behind it. What did not fit before goes first and in its order: sent back
// behind newcomers, large intents of busy callers would overtake the others for ever.
func (x *Exec) gather(ctx context.Context, carried []*waiter) (batch []*waiter, ok bool) {
	batch = carried
	if len(batch) == 0 {
		select {
		case w := <-x.queue:
			batch = append(batch, w)
		case <-ctx.Done():
			return nil, false
		}
	}
	for len(batch) < roundBound {
		select {
		case w := <-x.queue:
			batch = append(batch, w)
		case <-ctx.Done():
			return batch, false
		default:
			return batch, true
		}
	}
	return batch, true
}

func (x *Exec) drainQueue(batch []*waiter) {
	for {
		for _, w := range batch {
			x.finish(w, edge.Reply{}, edge.ErrQuorumLost.Error(edge.Unavailable))
		}
		select {
		case w := <-x.queue:
			batch = []*waiter{w}
		default:
			return
		}
	}
}

// round brings one batch to its end and returns the intents that must wait for the next entry, if any.
func (x *Exec) round(ctx context.Context, batch []*waiter) (carried []*waiter) {
	start := x.cfg.Now()
	for {
		r := x.evaluateRound(batch)
		err := x.propose(ctx, r)
		if errors.Is(err, ErrStale) { // another entry came first: the same intents, on the newer state
			r.close()
			continue
		}
		x.answer(r, err)
		r.close()
		x.observeRound(r, err, start)
		return r.rest
	}
}

// roundState is one evaluation of a batch.
type roundState struct {
	state   *State
	draft   *draft
	waiters []*waiter
	replies []edge.Reply
	errs    []error
	rest    []*waiter
}

func (r *roundState) close() { r.state.Close() }

func (x *Exec) evaluateRound(batch []*waiter) *roundState {
	st := x.cfg.Machine.Snapshot()
	r := &roundState{state: st, draft: x.newDraft(st, x.clock(st))}
	for i, w := range batch {
		reply, err, full := x.evaluateOne(r.draft, w.intent)
		if full {
			r.rest = batch[i:]
			break
		}
		r.waiters, r.replies, r.errs = append(r.waiters, w), append(r.replies, reply), append(r.errs, err)
	}
	return r
}

// evaluateOne evaluates an intent and merges it; full says that it needs an entry of its own.
func (x *Exec) evaluateOne(d *draft, in *Intent) (reply edge.Reply, err error, full bool) { //nolint:revive // full is no error
	if in.Origin != nil {
		if reply, done, err := x.inOrder(d, in); done || err != nil {
			return reply, err, false
		}
	}
	t, reply, err := x.decide(d, in)
	if err != nil || t == nil {
		return reply, err, false
	}
	if in.Origin != nil {
		t.kernelPut(originKey(*in.Origin), in.place().row())
	}
	size := t.size()
	switch {
	case Fits(len(d.writes)+len(t.writes), d.size+size):
		d.merge(t)
		d.events += len(t.events)
		return reply, nil, false
	case Fits(len(t.writes), size):
		return edge.Reply{}, nil, true
	}
	return edge.Reply{}, edge.ErrTooLarge.Error(edge.Invalid), false
}

// decide evaluates an intent once in its life: the transaction to merge, nil where there is nothing to write, and the answer. What a node
// has acknowledged ends in effects or in a conflict, never in a refusal.
func (x *Exec) decide(d *draft, in *Intent) (t *tx, reply edge.Reply, err error) {
	if in.eval == nil {
		reply, ok, err := x.recorded(d, in)
		switch {
		case err != nil && in.Origin != nil:
			return x.raise(d, in, err)
		case err != nil || ok && in.Origin == nil:
			return nil, reply, err
		case ok:
			return x.repeated(d, in), reply, nil
		}
	}
	t, reply, err = x.evaluate(d, in)
	if err == nil && x.cfg.Strict {
		err = x.again(d, in, t)
	}
	if err == nil && in.eval == nil {
		err = x.record(t, reply)
	}
	if err == nil && in.Origin != nil && !Fits(len(t.writes)+1, t.size()+MaxOpKey) {
		err = edge.ErrTooLarge.Error(edge.Invalid)
	}
	if err != nil && in.Origin != nil && !isUnavailable(err) {
		return x.raise(d, in, err)
	}
	return t, reply, err
}

// repeated is the transaction of an intent from a queue that is done already: all that is new is its place there, and what its commands
// note of it. What they cannot note does not hold up the queue.
func (x *Exec) repeated(d *draft, in *Intent) *tx {
	t := d.begin(in)
	for i, c := range in.Calls {
		op := x.ops[c.Op]
		if op == nil {
			continue
		}
		input, err := op.Decode(c.In)
		if t.call, t.ids = i, 0; err == nil {
			err = op.Again(t, input)
		}
		if err != nil || !Fits(len(t.writes)+1, t.size()+MaxOpKey) {
			x.cfg.Logger.Error("nothing is noted of a write that came twice", "operation", c.Op, "error", err)
			return d.begin(in)
		}
	}
	t.events = nil
	return t
}

// again evaluates a second time and compares: a handler with a hidden input shows in every test that uses it.
func (x *Exec) again(d *draft, in *Intent, first *tx) error {
	second, _, err := x.evaluate(d, in)
	if err != nil {
		return fmt.Errorf("operation %s: a second evaluation fails: %w", in.name(), err)
	}
	if !maps.EqualFunc(first.writes, second.writes, func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }) {
		return fmt.Errorf("operation %s: a second evaluation gives other effects; the handler has a hidden input", in.name())
	}
	return nil
}

func (x *Exec) propose(ctx context.Context, r *roundState) error {
	if len(r.draft.writes) == 0 {
		return nil
	}
	if !x.log.IsLeader() {
		if err := x.cfg.Machine.Store().CheckDisk(); err != nil { // a log that parked because the disk is full leads nobody, either
			return err
		}
		return edge.ErrQuorumLost.Error(edge.Unavailable)
	}
	e := Entry{Base: r.state.Version(), Time: r.draft.now.UnixNano(), Ops: r.draft.ops()}
	return x.log.Propose(ctx, e.Append(nil))
}

// answer tells everybody how it ended. Until the entry is applied nobody is answered, not even the refused: their refusal may rest on
// a neighbour's effects.
func (x *Exec) answer(r *roundState, err error) {
	for i, w := range r.waiters {
		switch {
		case err != nil:
			x.finish(w, edge.Reply{}, x.visible(w.intent.name(), err))
		case r.errs[i] != nil:
			x.finish(w, edge.Reply{}, r.errs[i])
		default:
			reply := r.replies[i]
			if !reply.Replayed {
				reply.Once = w.once
			}
			x.finish(w, reply, nil)
		}
	}
}

func (x *Exec) observeRound(r *roundState, err error, start time.Time) {
	if x.cfg.Observer == nil {
		return
	}
	outcome := "committed"
	switch {
	case err != nil:
		outcome = "failed"
	case len(r.draft.writes) == 0:
		outcome = "empty"
	}
	x.cfg.Observer.Round(len(r.waiters), outcome, x.cfg.Now().Sub(start))
}

// internal runs the kernel's own work as an intent of its own, on the leader.
func (x *Exec) internal(ctx context.Context, eval func(t *tx) error) error {
	in := &Intent{Operation: x.mint(), Actor: edge.SystemActor(edge.System, "kernel"), eval: eval}
	w := &waiter{intent: in, done: make(chan struct{})}
	if err := x.enqueue(w); err != nil {
		return err
	}
	_, err := w.wait(ctx, false)
	return err
}

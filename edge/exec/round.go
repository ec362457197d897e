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
// they are applied. One entry is on its way at a time; what arrives meanwhile is evaluated ahead, on the state as it will be then.
func (x *Exec) rounds(ctx context.Context) {
	for {
		select {
		case w := <-x.queue:
			for r := x.evaluateRound([]*waiter{w}); r != nil; {
				x.fill(r)
				r = x.round(ctx, r)
			}
		case <-ctx.Done():
			x.drainQueue(nil)
			return
		}
	}
}

// fill evaluates what stands in the queue, as much as the round takes.
func (x *Exec) fill(r *roundState) {
	for !r.full() {
		select {
		case w := <-x.queue:
			x.take(r, []*waiter{w})
		default:
			return
		}
	}
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

// round brings one round to its end and returns the next one where there are intents for it. When the entry did not go through, what was
// evaluated ahead counts for nothing: it is evaluated again on the state as it is.
func (x *Exec) round(ctx context.Context, r *roundState) (next *roundState) {
	start := x.cfg.Now()
	defer r.close()
	ahead, err := x.carry(ctx, r)
	if errors.Is(err, ErrStale) { // another entry came first: the same intents, on the newer state
		return x.evaluateRound(append(r.waiters, ahead.letGo()...))
	}
	x.answer(r, err)
	x.observeRound(r, err, start)
	if ahead == nil {
		return nil
	}
	if err == nil {
		return ahead
	}
	rest := ahead.letGo()
	if ctx.Err() != nil || len(rest) == 0 {
		x.drainQueue(rest)
		return nil
	}
	return x.evaluateRound(rest)
}

// carry proposes the round and, until that has come to an end, evaluates the next one ahead. What did not fit goes first and in its order:
// sent back behind newcomers, large intents of busy callers would overtake the others for ever.
func (x *Exec) carry(ctx context.Context, r *roundState) (ahead *roundState, err error) {
	entry := r.entry()
	state := r.state.after(entry)
	defer state.Close()
	done := make(chan error, 1)
	go func() { done <- x.propose(ctx, entry) }()
	if len(r.rest) > 0 {
		ahead = x.open(state.share())
		x.take(ahead, r.rest)
	}
	for {
		queue := x.queue
		if ahead.full() {
			queue = nil
		}
		select {
		case err := <-done:
			return ahead, err
		case w := <-queue:
			if ahead == nil {
				ahead = x.open(state.share())
			}
			x.take(ahead, []*waiter{w})
		}
	}
}

// roundState is one evaluation of a batch.
type roundState struct {
	state   *State
	draft   *draft
	waiters []*waiter
	replies []edge.Reply
	errs    []error
	rest    []*waiter // do not fit into the entry
}

func (r *roundState) close() { r.state.Close() }

func (r *roundState) full() bool {
	return r != nil && (len(r.rest) > 0 || len(r.waiters) >= roundBound)
}

// letGo closes a round that nobody proposes and returns its intents in their order.
func (r *roundState) letGo() []*waiter {
	if r == nil {
		return nil
	}
	r.close()
	return append(r.waiters, r.rest...)
}

func (r *roundState) entry() Entry {
	return Entry{Base: r.state.Version(), Time: r.draft.now.UnixNano(), Ops: r.draft.ops()}
}

// open begins a round on a state, which it closes.
func (x *Exec) open(st *State) *roundState {
	return &roundState{state: st, draft: x.newDraft(st, x.clock(st))}
}

func (x *Exec) evaluateRound(batch []*waiter) *roundState {
	r := x.open(x.cfg.Machine.Snapshot())
	x.take(r, batch)
	return r
}

// take evaluates intents in their order until one does not fit.
func (x *Exec) take(r *roundState, batch []*waiter) {
	for i, w := range batch {
		if len(r.rest) > 0 {
			r.rest = append(r.rest, batch[i:]...)
			return
		}
		reply, err, full := x.evaluateOne(r.draft, w.intent)
		if full {
			r.rest = append(r.rest, w)
			continue
		}
		r.waiters, r.replies, r.errs = append(r.waiters, w), append(r.replies, reply), append(r.errs, err)
	}
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

func (x *Exec) propose(ctx context.Context, e Entry) error {
	if len(e.Ops) == 0 {
		return nil
	}
	if !x.log.IsLeader() {
		if err := x.cfg.Machine.Store().CheckDisk(); err != nil { // a log that parked because the disk is full leads nobody, either
			return err
		}
		return edge.ErrQuorumLost.Error(edge.Unavailable)
	}
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

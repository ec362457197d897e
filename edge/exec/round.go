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

// The rounds are the leader's loop. A round evaluates the intents that wait against one draft and proposes the effects as one entry. What
// arrives while it is on its way makes the next one, which is sent when the former is applied, or before, on top of it, where enough
// waits. Rounds land in their order, and only then is anybody answered.

const (
	roundBound  = 64 // intents per round
	flightBound = 4  // rounds on their way
	roundWorth  = 16 // intents that are worth a round on top of others, with half of what is on its way; fewer of them wait for company
)

// round is one evaluation of a batch, from then on until its entry is applied.
type round struct {
	start   time.Time
	state   *State
	draft   *draft
	ops     []Op   // the draft's, in order; set when they are sent
	term    uint64 // the log's, if others may build on this round before it is applied; else 0
	packs   bool   // every node reads packed entries
	waiters []*waiter
	replies []edge.Reply
	errs    []error
	rest    []*waiter
	outcome <-chan error // nil: it writes nothing, and lands with the one before
}

// stream is the loop's own memory.
type stream struct {
	*Exec
	flight  []*round  // on their way, oldest first
	waiting []*waiter // for the next round; what did not fit before goes first, or large intents would be overtaken for ever
}

func (x *Exec) rounds(ctx context.Context) {
	s := stream{Exec: x}
	for s.next(ctx) {
		for s.due() {
			s.launch(ctx)
		}
	}
	s.end()
}

// next blocks until an intent waits or a round lands, and takes what else waits. It is false when ctx ends.
func (s *stream) next(ctx context.Context) bool {
	var landed <-chan error
	if len(s.flight) > 0 {
		landed = s.flight[0].outcome
	}
	queue := s.queue
	if len(s.waiting) >= roundBound {
		queue = nil
	}
	select {
	case w := <-queue:
		s.waiting = append(s.waiting, w)
	case err := <-landed:
		s.land(err)
	case <-ctx.Done():
		return false
	}
	for len(s.waiting) < roundBound {
		select {
		case w := <-s.queue:
			s.waiting = append(s.waiting, w)
		default:
			return true
		}
	}
	return true
}

// due reports whether to send a round now.
func (s *stream) due() bool {
	n := len(s.flight)
	switch {
	case len(s.waiting) == 0:
		return false
	case n == 0:
		return true
	}
	return n < flightBound && s.flight[0].term != 0 && len(s.waiting) >= s.worth()
}

// worth is how many intents a round on top of others needs. One that is small beside those costs every node a flush and saves its callers little.
func (s *stream) worth() int {
	sent := 0
	for _, r := range s.flight {
		sent += len(r.waiters)
	}
	return max(roundWorth, min(sent/2, roundBound))
}

// launch evaluates what waits and sends it.
func (s *stream) launch(ctx context.Context) {
	r := s.evaluateRound(s.flight, s.waiting)
	r.state.Close() // what is on its way may wait for room on a full disk, and the store for whoever reads in it
	s.waiting = r.rest
	alone := len(s.flight) == 0
	s.flight = append(s.flight, r)
	switch {
	case len(r.draft.writes) > 0:
		r.outcome = s.propose(ctx, r)
	case alone:
		r.term, r.outcome = 0, s.prove(ctx, r)
	}
}

// prove ends a round that writes nothing, as a proposal ends one that does. A node that was just elected may not have applied what others were told is
// done, and one that was deposed does not know what has been done since: neither may refuse anything by what it has. Others wait behind it, so it takes
// no longer than a caller's patience.
func (s *stream) prove(ctx context.Context, r *round) <-chan error {
	if !s.log.IsLeader() {
		return failed(edge.ErrQuorumLost.Error(edge.Unavailable))
	}
	outcome := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
		defer cancel()
		err := s.log.Linearize(ctx)
		if err == nil && s.cfg.Machine.Version() != r.draft.base {
			err = ErrStale
		}
		outcome <- err
	}()
	return outcome
}

// land ends the oldest round. Where it was not applied, those on top of it hardly were either: they are evaluated again as far as it is
// certain that they were not.
func (s *stream) land(err error) {
	again := s.settle(s.pop(), err)
	for len(s.flight) > 0 && (err != nil || s.flight[0].outcome == nil) {
		r, ended := s.pop(), error(nil)
		switch {
		case r.outcome != nil:
			ended = <-r.outcome
		case err != nil: // its refusals may rest on what was not applied
			ended = ErrStale
		}
		again = append(again, s.settle(r, ended)...)
	}
	s.waiting = append(again, s.waiting...)
}

func (s *stream) pop() *round {
	r := s.flight[0]
	s.flight[0] = nil
	s.flight = s.flight[1:]
	return r
}

// settle answers the intents of a round, or returns them when they have to be evaluated again.
func (s *stream) settle(r *round, err error) (again []*waiter) {
	if errors.Is(err, ErrStale) { // another entry came first: the same intents, on the newer state
		return r.waiters
	}
	s.answer(r, err)
	s.observeRound(r, err)
	return nil
}

// end answers everybody who still waits, because the node stops.
func (s *stream) end() {
	for len(s.flight) > 0 {
		s.land(<-s.flight[0].outcome)
	}
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	for {
		for _, w := range s.waiting {
			s.finish(w, edge.Reply{}, edge.ErrQuorumLost.Error(edge.Unavailable))
		}
		select {
		case w := <-s.queue:
			s.waiting = []*waiter{w}
		default:
			return
		}
	}
}

// evaluateRound evaluates as much of a batch as one entry holds, on top of the rounds that are on their way.
func (x *Exec) evaluateRound(flight []*round, batch []*waiter) *round {
	r := &round{start: x.cfg.Now()}
	if len(flight) == 0 {
		r.term = x.log.Term() // before the state is looked at: everything of earlier terms is in it
	}
	r.state = x.cfg.Machine.Snapshot()
	level := levelIn(r.state)
	r.packs = level >= PackLevel
	r.draft = x.newDraft(r.state, x.clock(r.state))
	if len(flight) > 0 {
		r.draft.over(flight)
		r.term = flight[0].term
	} else if level < ChainLevel {
		r.term = 0
	}
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

// over puts the draft on top of the rounds that are on their way and not in its state yet.
func (d *draft) over(flight []*round) {
	for _, r := range flight {
		if r.outcome == nil {
			continue
		}
		if d.base = r.draft.base + 1; d.base > d.state.Version() {
			d.under = append(d.under, r)
		}
		if d.now.Before(r.draft.now) {
			d.now = r.draft.now
		}
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
		as, reply, ok, err := x.recorded(d, in)
		switch {
		case in.Origin != nil && isReused(err):
			return x.decideBeside(d, in, err)
		case err != nil && in.Origin != nil:
			return x.raise(d, in, err)
		case err != nil || ok && in.Origin == nil:
			return nil, reply, err
		case ok:
			return x.repeated(d, as), reply, nil
		}
	}
	return x.settleOne(d, in)
}

// settleOne evaluates an intent that has no answer yet.
func (x *Exec) settleOne(d *draft, in *Intent) (t *tx, reply edge.Reply, err error) {
	t, reply, err = x.evaluate(d, in)
	if in.Origin != nil && in.key == "" && isReused(err) { // a command knows longer than answers are kept
		return x.decideBeside(d, in, err)
	}
	if err == nil && x.cfg.Strict {
		err = x.again(d, in, t)
	}
	if err == nil && in.eval == nil {
		err = x.record(t, reply)
	}
	if err == nil && in.Origin != nil && !Fits(len(t.writes)+1, t.size()+MaxOpKey) {
		err = edge.ErrTooLarge.Error(edge.Invalid)
	}
	if err != nil && in.Origin != nil {
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

// propose sends a round's effects. One that builds on others names their term: in another term the log may hold something else before it.
func (x *Exec) propose(ctx context.Context, r *round) <-chan error {
	r.ops = r.draft.ops()
	if !x.log.IsLeader() {
		if low := x.cfg.Machine.Store().CheckDisk(); low != nil { // a log that parked because the disk is full leads nobody, either
			return failed(low)
		}
		return failed(edge.ErrQuorumLost.Error(edge.Unavailable))
	}
	e := Entry{Base: r.draft.base, Time: r.draft.now.UnixNano(), Ops: r.ops}
	if len(r.draft.under) > 0 {
		e.Term = r.term
	}
	raw := e.Append(nil)
	if r.packs {
		raw = Pack(raw)
	}
	return x.log.Propose(ctx, raw)
}

func failed(err error) <-chan error {
	outcome := make(chan error, 1)
	outcome <- err
	return outcome
}

// answer tells everybody how it ended. Until the entry is applied nobody is answered, not even the refused: their refusal may rest on
// a neighbour's effects.
func (x *Exec) answer(r *round, err error) {
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

func (x *Exec) observeRound(r *round, err error) {
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
	x.cfg.Observer.Round(len(r.waiters), outcome, x.cfg.Now().Sub(r.start))
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

// part is internal for work that is done a bounded part at a time; more says that some is left.
func (x *Exec) part(ctx context.Context, eval func(t *tx) (more bool, err error)) (more bool, err error) {
	left := false
	if err := x.internal(ctx, func(t *tx) (err error) { left, err = eval(t); return err }); err != nil {
		return false, err // and not left: where the caller's time has ended, the round may still be at it
	}
	return left, nil
}

package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wispgate/edge"
	"wispgate/edge/journal"
)

// A command declared Offline that finds no quorum is accepted by the node alone: its intent is fsynced to the queue, a journal, and its
// effects become part of the overlay that every local read sees. The overlay is derived: what stands in the queue, evaluated in order
// on the state as this node has it. rebase.go brings the queue to the cluster.

// kindIntent is the only kind of record in the queue.
const kindIntent journal.Kind = 1

// maxPending bounds the intents that wait. The queue's own size bounds their octets.
const maxPending = 200_000

// pendings is what waits for the cluster.
type pendings struct {
	mu       sync.Mutex     // held while the overlay changes
	patch    *patch         // the overlay; nil while nothing waits
	taken    uint64         // last place of the queue that the cluster has settled
	next     uint64         // place after the last one in the overlay, in flight ones not counted
	stale    bool           // the overlay holds what the queue does not
	inflight sync.WaitGroup // submitted, not yet durable; Add under mu
	gen      uint64         // generation of the overlay: where it spills
	stands   basis          // on which the overlay was evaluated
	queue    string         // name of the queue

	// What the overlay shows and the queue does not hold yet, or failed to keep, by Intent.scoped: nobody is told that it is kept.
	keeping map[string]*durable

	look    atomic.Pointer[patch] // patch, for readers that need no lock while it is nil
	waiting atomic.Int64          // intents that wait, in flight ones included; 0 only where the overlay is gone
	oldest  atomic.Int64          // when the first of them was accepted, unix nanoseconds; 0: none is known
	loaded  atomic.Bool           // everything that the queue held at the start is in the overlay
	doubt   atomic.Bool           // the overlay may hold what the queue does not
	cut     atomic.Bool           // no leader for longer than the patience
	since   atomic.Int64          // when that began, unix nanoseconds
	failing atomic.Pointer[string]
	looked  atomic.Uint64 // version at which the state's own mark was last compared with the queue

	doneMu sync.Mutex
	done   chan struct{} // closed and renewed whenever the cluster has taken intents over
	kick   chan struct{}
}

func (p *pendings) init() {
	p.done, p.kick, p.keeping = make(chan struct{}), make(chan struct{}, 1), map[string]*durable{}
}

// idle reports that nothing waits.
func (p *pendings) idle() bool { return p.waiting.Load() == 0 }

func (p *pendings) wake() { signal(p.kick) }

// progress returns a channel that closes when the cluster has next taken something over.
func (p *pendings) progress() <-chan struct{} {
	p.doneMu.Lock()
	defer p.doneMu.Unlock()
	return p.done
}

func (p *pendings) progressed() {
	p.doneMu.Lock()
	defer p.doneMu.Unlock()
	close(p.done)
	p.done = make(chan struct{})
}

// settled returns when nothing waits any more.
func (p *pendings) settled(ctx context.Context) error {
	for {
		moved := p.progress()
		if p.idle() {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keeps reports that the queue does not hold an intent yet which the overlay shows.
func (p *pendings) keeps(in *Intent) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keeping[in.scoped()] != nil
}

// CutOff reports that this node has not heard a leader for longer than its patience.
func (x *Exec) CutOff() bool { return x.pending.cut.Load() }

// look is the state as this node shows it: replicated, with the overlay of what waits for the cluster.
func (x *Exec) look() *State {
	if x.pending.look.Load() == nil {
		return x.cfg.Machine.Snapshot()
	}
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	return x.lookLocked()
}

// lookFor is look, with what that state shows of an intent and the queue does not hold yet; nil for nothing.
func (x *Exec) lookFor(in *Intent) (*State, *durable) {
	if x.pending.look.Load() == nil {
		return x.cfg.Machine.Snapshot(), nil
	}
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	return x.lookLocked(), x.pending.keeping[in.scoped()]
}

// lookLocked takes the snapshot after the patch is known: what it has spilled is then visible.
func (x *Exec) lookLocked() *State {
	st := x.cfg.Machine.Snapshot()
	st.pending = x.pending.patch
	return st
}

// mayPend reports whether an intent that could not be committed may wait in the queue: one that is whole. Another caller may be preparing it still.
func (x *Exec) mayPend(w *waiter, err error) bool {
	if !w.offline || x.cfg.Queue == nil || !undecided(err) || x.removed() != nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return w.ready || w.queued
}

// expelled is the refusal of a node that the cluster has removed: to accept would be to promise what cannot come, and to have somebody wait for what
// is handed over would be to have him wait for ever. nil for any other.
func (x *Exec) expelled(err error) error {
	if !isQuorumLost(err) && !errors.Is(err, edge.ErrRebasing.Error(edge.Unavailable)) {
		return nil
	}
	return x.removed()
}

// removed is why nothing that this node accepts would reach the cluster; nil where it would.
func (x *Exec) removed() error {
	if x.cfg.Expelled == nil {
		return nil
	}
	return x.cfg.Expelled()
}

// full is the refusal of a node that is the whole cluster and whose disk is full, nil for any other. A node of a larger cluster goes on
// in the reserve of its queue.
func (x *Exec) full(err error) error {
	if !isQuorumLost(err) || x.cfg.Alone == nil || !x.cfg.Alone() {
		return nil
	}
	return x.cfg.Store.CheckDisk()
}

// pend accepts an intent on this node alone. why is the error that led here.
func (x *Exec) pend(ctx context.Context, w *waiter, why error) (edge.Reply, error) {
	in := *w.intent
	in.At = x.cfg.Now().UTC()
	reply, seq, err := x.accepted(&in)
	switch {
	case err != nil && !isQuorumLost(why) && !isFull(err):
		return edge.Reply{}, why // it may be committed already: what the overlay says of it proves nothing
	case err != nil || reply.Replayed:
		return reply, err
	}
	reply.Once = w.once
	x.pending.wake()
	if x.CutOff() {
		return reply, nil
	}
	// The queue is on its way to the cluster: most likely this one is committed within the patience.
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Patience)
	defer cancel()
	for {
		moved := x.pending.progress()
		if x.taken() >= seq {
			break
		}
		select {
		case <-moved:
			continue
		case <-ctx.Done():
		}
		if x.taken() < seq {
			return reply, nil
		}
	}
	committed, ok, err := x.replay(&in)
	if !ok && err == nil {
		return reply, nil
	}
	committed.Replayed, committed.Once = false, w.once
	return committed, err
}

func isFull(err error) bool { return errors.Is(err, edge.ErrPendingFull.Error(edge.Unavailable)) }

func (x *Exec) taken() uint64 {
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	return x.pending.taken
}

// durable tells the callers and the pendings how a submit ended.
type durable struct {
	p    *pendings
	done chan struct{}
	seq  uint64
	err  error
}

// kept waits until an intent is durable in the queue; nil for one that is. Else it says why it is not.
func (d *durable) kept() error {
	if d == nil {
		return nil
	}
	<-d.done
	switch {
	case d.err == nil:
		return nil
	case errors.Is(d.err, journal.ErrFull) || errors.Is(d.err, journal.ErrBusy):
		return edge.ErrPendingFull.Error(edge.Unavailable)
	}
	return edge.ErrUnknown.Error(edge.Unavailable)
}

// Journaled implements journal.Done.
func (d *durable) Journaled(seq uint64, err error) {
	d.seq, d.err = seq, err
	if err != nil {
		d.p.doubt.Store(true)
	}
	close(d.done)
	d.p.inflight.Done()
}

// accepted evaluates an intent on the overlay and makes it durable in the queue. An intent that the overlay holds already is answered as
// it was the first time, and no sooner.
func (x *Exec) accepted(in *Intent) (reply edge.Reply, seq uint64, err error) {
	p := &x.pending
	p.mu.Lock()
	d, reply, err := x.acceptLocked(in)
	p.mu.Unlock()
	if err != nil {
		return edge.Reply{}, 0, err
	}
	err = d.kept()
	if reply.Replayed {
		return reply, 0, err
	}
	p.mu.Lock()
	if err == nil {
		delete(p.keeping, in.scoped())
		p.mu.Unlock()
		return reply, d.seq, nil
	}
	p.stale = true // its effects must leave the overlay again
	p.mu.Unlock()
	p.waiting.Add(-1)
	p.wake()
	p.progressed()
	if !isFull(err) {
		x.cfg.Logger.Error("a write could not be kept in the queue", "operation", in.name(), "error", d.err)
	}
	return edge.Reply{}, 0, err
}

func (x *Exec) acceptLocked(in *Intent) (*durable, edge.Reply, error) {
	p := &x.pending
	if !p.loaded.Load() {
		e := edge.ErrStarting.Error(edge.Unavailable)
		e.RetryAfter = 2
		return nil, edge.Reply{}, e
	}
	if p.waiting.Load() >= maxPending {
		return nil, edge.Reply{}, edge.ErrPendingFull.Error(edge.Unavailable)
	}
	st := x.lookLocked()
	defer st.Close()
	d := x.newDraft(st, x.at(st, in.At))
	d.cutOff = true
	if as, reply, ok, err := x.recorded(d, in); ok || err != nil {
		return p.keeping[as.scoped()], reply, err
	}
	if err := x.remember(st, in); err != nil {
		return nil, edge.Reply{}, err
	}
	t, reply, err := x.evaluate(d, in)
	if err != nil {
		return nil, edge.Reply{}, err
	}
	if size := t.size(); !Fits(len(t.writes), size+len(in.Operation)) {
		return nil, edge.Reply{}, edge.ErrTooLarge.Error(edge.Invalid)
	}
	reply.State, reply.Durability, reply.Version = "pending", "node", 0 // no version of the cluster holds it
	if err := x.record(t, reply); err != nil {
		return nil, edge.Reply{}, err
	}
	in.Acknowledged = true
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, edge.Reply{}, fmt.Errorf("encode intent: %w", err)
	}
	if len(raw) > MaxEntry-conflictRoom {
		return nil, edge.Reply{}, edge.ErrTooLarge.Error(edge.Invalid)
	}
	w := &durable{p: p, done: make(chan struct{})}
	p.keeping[in.scoped()] = w
	p.inflight.Add(1)
	p.waiting.Add(1)
	p.oldest.CompareAndSwap(0, in.At.UnixNano())
	x.cfg.Queue.Submit(kindIntent, raw, w)
	x.layLocked(st.Version(), t, spillMark{Digest: in.digestOfPlace()})
	return w, reply, nil
}

// at is the time at which an intent of the queue is evaluated: when it was accepted, but not before the state it stands on.
func (x *Exec) at(st *State, accepted time.Time) time.Time {
	if last := st.Time(); accepted.Before(last) {
		return last
	}
	return accepted
}

// layLocked lays an intent's effects over the state, tells the watches, and moves the overlay's older part to the store when it is large. last
// names the intent; without its place it is the newest of the queue.
func (x *Exec) layLocked(version uint64, t *tx, last spillMark) {
	p := &x.pending
	if p.patch == nil {
		p.stands = basis{version: version}
	}
	p.stands.add(version)
	ops := shownOps(t)
	p.patch = p.patch.with(ops)
	p.look.Store(p.patch)
	x.tell(version, ops)
	if p.patch.size <= x.cfg.OverlayBytes {
		return
	}
	if last.Upto == 0 {
		p.inflight.Wait() // the journal's doing; nothing it waits for needs this lock
		last.Upto = x.cfg.Queue.Next() - 1
	}
	last.From, last.Version, last.Whole = p.taken+1, p.stands.version, !p.stands.several && !p.doubt.Load()
	p.patch = x.spill(p.patch, p.gen, last)
	p.look.Store(p.patch)
}

// shownOps are the effects that a reader of this node may see: not the event rows, which tell of what is committed, nor the due index,
// which only a leader reads.
func shownOps(t *tx) []Op {
	ops := make([]Op, 0, len(t.writes))
	for k, v := range t.writes {
		if strings.HasPrefix(k, eventPrefix) || strings.HasPrefix(k, headPrefix) || strings.HasPrefix(k, edge.DuePrefix) || strings.HasPrefix(k, opxPrefix) {
			continue
		}
		ops = append(ops, Op{Key: k, Val: v, Delete: v == nil})
	}
	slices.SortFunc(ops, func(a, b Op) int { return strings.Compare(a.Key, b.Key) })
	return ops
}

// Pending is what waits for the cluster, for status pages and metrics.
type Pending struct {
	Waiting int64      `json:"waiting" doc:"Writes accepted here that the cluster has not taken over."`
	Oldest  *time.Time `json:"oldest,omitempty" doc:"When the first of them was accepted."`
	CutOff  bool       `json:"cut_off" doc:"Whether this node has lost the cluster."`
	Since   *time.Time `json:"since,omitempty" doc:"Since when."`
	Loading bool       `json:"loading,omitempty" doc:"Whether the node still reads in what waits, after its start: until then it shows only a part of it and accepts no more."`
	Lost    uint64     `json:"lost,omitempty" doc:"Writes accepted here that are lost because the disk damaged them: wispgate doctor names their places. The others are handed over."`
	Problem string     `json:"problem,omitempty" doc:"Why the last attempt to hand them over failed."`
}

// Loaded reports that everything the queue held at the start is in the overlay.
func (x *Exec) Loaded() bool {
	return x.cfg.Queue == nil || x.pending.loaded.Load()
}

// Pending reports what waits.
func (x *Exec) Pending() Pending {
	p := &x.pending
	out := Pending{Waiting: p.waiting.Load(), CutOff: p.cut.Load()}
	out.Lost = x.lostBetween(0, math.MaxUint64)
	out.Loading = out.Waiting > 0 && !p.loaded.Load()
	if out.Waiting > 0 {
		if oldest := p.oldest.Load(); oldest != 0 {
			out.Oldest = new(time.Unix(0, oldest).UTC())
		}
		if why := p.failing.Load(); why != nil {
			out.Problem = *why
		}
	}
	if out.CutOff {
		out.Since = new(time.Unix(0, p.since.Load()).UTC())
	}
	return out
}

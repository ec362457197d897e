package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"wispgate/edge"
	"wispgate/edge/journal"
	"wispgate/edge/store"
)

// The rebase brings the queue to the cluster, in order, and keeps the overlay what it should be: the queue's rest, evaluated on the state
// as it is now. Both are safe to repeat. While the cluster moves on beneath it a long overlay is rebuilt now and then only: a queue
// of a hundred thousand is not evaluated anew for each entry that arrives.

const (
	contactEvery = 250 * time.Millisecond // at most, between looks at whether there is a leader
	contactLooks = 8                      // looks without a leader until the patience is over
	contactFirm  = 2                      // looks with one that end the isolation: a failover must not flap it
	drainPage    = 256                    // records of the queue that are read at once
	drainWithin  = 10 * time.Second       // for one request and its effects to arrive here
	drainPace    = time.Millisecond       // for each intent, at least: what is gained by more haste is taken from RADIUS on every node
	drainLeast   = 64                     // intents in a request that keeps the pace; more where a request takes longer
	retryLeast   = 100 * time.Millisecond
	retryMost    = 5 * time.Second
	rebuildSmall = 256                  // so few intents are evaluated anew whenever something moved
	rebuildEach  = 2 * time.Millisecond // more of them at most so often for each: all rebuilds of a drain together then evaluate half of the queue
)

// rebaser is the loop's own memory.
type rebaser struct {
	*Exec
	lost, found int // looks in a row without and with a leader; follow's
	retry       time.Duration
	request     time.Duration    // that the last request took
	hold        <-chan time.Time // no attempt to hand intents over before it fires; nil: none to wait for
	broken      error            // why the queue cannot be read
	queue       string           // name of the queue
	known       atomic.Bool      // the cluster's mark of this queue was asked since contact was found
	after       uint64           // that mark, or what was handed over since
	coming      uint64           // version that holds all that was handed over

	base    uint64    // version the overlay was rebuilt on
	settled uint64    // place up to which it then was
	stood   time.Time // when it last was as the state and the queue are
	litter  bool      // earlier overlays may have left effects in the store
	swept   []byte    // up to here they are gone
}

// takeUpQueue looks at what the queue holds, before anything else may pass it.
func (x *Exec) takeUpQueue() *rebaser {
	r := &rebaser{Exec: x, litter: true}
	r.broken = r.begin()
	return r
}

func (r *rebaser) run(ctx context.Context) {
	err := r.broken
	if err == nil {
		err = r.load(ctx)
	}
	if err != nil && ctx.Err() == nil {
		r.cfg.Logger.Error("pending writes cannot be read; this node takes none until it is mended", "code", "pending_unreadable", "error", err)
		<-ctx.Done()
	}
	tick := time.NewTicker(r.lookEvery())
	defer tick.Stop()
	for ctx.Err() == nil {
		busy := r.drain(ctx)
		r.settle(ctx)
		r.refresh(ctx)
		if busy {
			continue
		}
		select {
		case <-tick.C:
		case <-r.hold:
			r.hold = nil
		case <-r.pending.kick:
		case <-ctx.Done():
		}
	}
}

// follow follows whether there is a leader, beside all else: to read a hundred thousand intents in, or to evaluate them anew, takes a minute or
// more, and until then everybody must be told how the node stands.
func (r *rebaser) follow(ctx context.Context) {
	tick := time.NewTicker(r.lookEvery())
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.contact()
		case <-ctx.Done():
			return
		}
	}
}

func (r *rebaser) lookEvery() time.Duration { return min(r.cfg.Patience/contactLooks, contactEvery) }

// contact follows whether there is a leader, with patience in both directions. It counts looks, so that a clock that is set does not
// matter.
func (r *rebaser) contact() {
	if r.log.Contact() {
		r.lost, r.found = 0, r.found+1
		if r.pending.cut.Load() && r.found >= contactFirm {
			r.pending.cut.Store(false)
			r.pending.wake()
			r.cfg.Logger.Info("the cluster is back", "pending", r.pending.waiting.Load())
		}
		return
	}
	r.lost, r.found = r.lost+1, 0
	r.known.Store(false)
	if r.lost == 1 {
		r.pending.since.Store(r.cfg.Now().UnixNano())
	}
	if !r.pending.cut.Load() && time.Duration(r.lost)*r.lookEvery() >= r.cfg.Patience {
		r.pending.cut.Store(true)
		if gone := r.removed(); gone != nil {
			r.cfg.Logger.Warn("no leader: all writes are refused", "error", gone)
		} else {
			r.cfg.Logger.Warn("no leader: writes that may wait are kept here, all others are refused")
		}
	}
}

// begin finds out which part of the queue the cluster has not taken over, as far as this node knows.
func (r *rebaser) begin() (err error) {
	if r.queue, err = r.queueName(); err != nil {
		return err
	}
	mark, err := r.originMark(r.origin())
	if err != nil {
		return err
	}
	gen, err := r.newestSpill()
	if err != nil {
		return err
	}
	q, p := r.cfg.Queue, &r.pending
	same, err := r.holds(mark)
	if err != nil {
		return err
	}
	first := q.First()
	if same {
		first = max(mark.Seq+1, first)
		q.Settled(mark.Seq)
	}
	p.gen, p.taken, p.next, p.queue = gen+1, first-1, first, r.queue
	p.waiting.Store(int64(q.Next() - first))
	_, err = r.takeUp(first, gen)
	return err
}

// load puts what the queue held at the start into the overlay.
func (r *rebaser) load(ctx context.Context) error {
	version := r.cfg.Machine.Version()
	if err := r.tellSpilled(); err != nil {
		return err
	}
	for {
		n, err := r.extend(ctx)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	r.pending.mu.Lock()
	if r.pending.stands == (basis{version: version}) { // it need not be evaluated once more
		r.base, r.settled = version, r.pending.taken
	}
	r.pending.mu.Unlock()
	r.pending.loaded.Store(true)
	return nil
}

// tellSpilled tells the watches of what was taken up.
func (r *rebaser) tellSpilled() error {
	r.pending.mu.Lock()
	defer r.pending.mu.Unlock()
	return r.retell(nil, r.pending.patch)
}

// extend evaluates a page of the queue at the overlay's end.
func (r *rebaser) extend(ctx context.Context) (n int, err error) {
	p := &r.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	err = r.read(p.next, drainPage, func(in *Intent, seq uint64) error {
		p.oldest.CompareAndSwap(0, in.At.UnixNano())
		st := r.lookLocked()
		defer st.Close()
		if t := r.reevaluate(st, in); t != nil {
			r.layLocked(st.Version(), t, spillMark{Upto: seq, Digest: in.digestOfPlace()})
		}
		n++
		p.next = seq + 1
		return ctx.Err()
	})
	return n, err
}

func (r *rebaser) origin() Origin {
	return Origin{Node: r.cfg.Node, Queue: r.queue}
}

const queueNameKey = store.Local + "pending/queue"

// queueName is what the cluster knows this queue by: its incarnation, unless it was given another name.
func (x *Exec) queueName() (string, error) {
	snap := x.cfg.Store.Snapshot()
	defer snap.Close()
	own := fmt.Sprintf("%x", x.cfg.Queue.Incarnation())
	raw, err := snap.Get([]byte(queueNameKey))
	if errors.Is(err, store.ErrNotFound) || err == nil && !strings.HasPrefix(string(raw), own+".") {
		return own, nil
	}
	return string(raw), err
}

// rename gives the queue another name: the cluster has settled places under the present one that this queue does not have, so its disk is
// an older copy of itself, and new intents would take places that count as settled. The operation ids keep from counting twice what was
// settled already.
func (r *rebaser) rename(mark uint64) error {
	name := fmt.Sprintf("%x.%d", r.cfg.Queue.Incarnation(), mark)
	if name == r.queue {
		name += "x"
	}
	var b store.Batch
	b.Put([]byte(queueNameKey), []byte(name))
	if err := r.cfg.Store.CommitReserved(&b); err != nil {
		return err
	}
	r.cfg.Logger.Warn("the queue of pending writes is older than the cluster knows it: an old copy of this node's disk was started", "code", "queue_older", "settled", mark)
	r.queue, r.after = name, 0
	r.pending.mu.Lock()
	defer r.pending.mu.Unlock()
	r.pending.queue = name
	return nil
}

// read visits intents of the queue from a place on.
func (x *Exec) read(from uint64, most int, visit func(in *Intent, seq uint64) error) error {
	if from >= x.cfg.Queue.Next() {
		return nil
	}
	_, err := x.cfg.Queue.Read(from, most, func(rec journal.Record) error {
		in := new(Intent)
		if rec.Kind != kindIntent {
			return nil
		}
		if err := json.Unmarshal(rec.Payload, in); err != nil {
			return fmt.Errorf("decode pending intent %d: %w", rec.Seq, err)
		}
		return visit(in, rec.Seq)
	})
	return err
}

// reevaluate runs an intent of the queue on the overlay again, at the time at which it was accepted. One that the state no longer allows
// has no effects here: the cluster will make a conflict of it.
func (x *Exec) reevaluate(st *State, in *Intent) *tx {
	d := x.newDraft(st, x.at(st, in.At))
	d.cutOff = true
	_, _, done, err := x.recorded(d, in)
	if done || err != nil && !isReused(err) {
		return nil
	}
	var t *tx
	var reply edge.Reply
	if err == nil {
		t, reply, err = x.evaluate(d, in)
	}
	if isReused(err) && x.moves(in) { // as the cluster will record it
		t, reply, err = x.evaluate(d, x.placed(d, in.beside()))
	}
	if err != nil {
		return nil
	}
	reply.State, reply.Version = "pending", 0
	if err := x.record(t, reply); err != nil {
		return nil
	}
	return t
}

// drain hands a page of the queue to the cluster; busy says that there is more to do at once.
func (r *rebaser) drain(ctx context.Context) (busy bool) {
	if r.hold != nil || r.pending.idle() || r.pending.cut.Load() || !r.log.Contact() {
		return false
	}
	begin := r.cfg.Now()
	n, err := r.handOver(ctx)
	r.request = max(r.cfg.Now().Sub(begin), 0)
	if err != nil {
		r.retry = min(max(2*r.retry, retryLeast), retryMost)
		r.hold = time.After(r.retry)
		why := err.Error()
		if r.pending.failing.Swap(&why) == nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("pending writes cannot be handed over, trying again", "error", err)
		}
		return false
	}
	if n > 0 {
		r.retry = 0
		r.pending.failing.Store(nil)
	}
	if rest := time.Duration(n)*drainPace - r.request; rest > 0 {
		r.hold = time.After(rest)
		return false
	}
	return n > 0 && !r.pending.idle()
}

// handOver submits the next intents. They are forgotten when their effects are here, which settle sees; only for the last ones it waits.
func (r *rebaser) handOver(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	if err := r.agree(ctx); err != nil {
		return 0, err
	}
	intents, err := r.page()
	if err != nil {
		return 0, err
	}
	if len(intents) == 0 && r.after <= r.taken() {
		if last := r.cfg.Queue.Next() - 1; last > r.taken() && r.intactUpTo(last) <= r.taken() {
			r.took(ctx, last) // what is left is damaged: nothing behind it will have the mark pass over it
			return 1, nil
		}
		return 0, nil
	}
	if len(intents) == 0 {
		if err := r.WaitVersion(ctx, r.coming); err != nil {
			return 0, err // nothing more is to be done; the state comes by some road
		}
		r.took(ctx, r.after)
		return 1, nil
	}
	answers, err := r.submit(ctx, intents)
	if err != nil {
		return 0, err
	}
	for i, a := range answers {
		if a.Error != nil { // whatever it is, its place is not settled, and none behind it can be
			err = a.Error
			break
		}
		r.coming = max(r.coming, a.Reply.Version)
		n, r.after = n+1, intents[i].Origin.Seq
	}
	if n == 0 {
		return 0, err
	}
	return n, nil
}

// agree asks, once for each time contact was found, how far the cluster has taken this queue over.
func (r *rebaser) agree(ctx context.Context) error {
	if r.known.Load() {
		return nil
	}
	mark, err := r.askMark(ctx, r.origin())
	if err != nil {
		return err
	}
	same, err := r.holds(mark)
	if err != nil {
		return err
	}
	if !same {
		return r.rename(mark.Seq)
	}
	r.after = mark.Seq
	r.known.Store(true)
	r.took(ctx, mark.Seq)
	return nil
}

// askMark asks the leader how far the cluster has taken a queue over.
func (x *Exec) askMark(ctx context.Context, o Origin) (settled, error) {
	if x.log.IsLeader() {
		if err := x.log.Linearize(ctx); err != nil {
			return settled{}, err
		}
		return x.originMark(o)
	}
	resp, err := x.ask(ctx, request{Mark: &o})
	if err != nil {
		return settled{}, err
	}
	if resp.Mark == nil {
		return settled{}, edge.ErrUnknown.Error(edge.Unavailable)
	}
	return *resp.Mark, x.WaitVersion(ctx, resp.Version)
}

// holds reports whether the queue has what the cluster settled last. What was trimmed was settled when this disk knew of it.
func (x *Exec) holds(mark settled) (same bool, err error) {
	if mark.Seq < x.cfg.Queue.First() {
		return true, nil
	}
	if x.lostBetween(mark.Seq, mark.Seq) > 0 {
		return true, nil // damaged on this disk, after it was settled
	}
	err = x.read(mark.Seq, 1, func(in *Intent, seq uint64) error {
		same = seq == mark.Seq && in.digestOfPlace() == mark.Digest
		return nil
	})
	return same || x.lostBetween(mark.Seq, mark.Seq) > 0, err // it may just have been found
}

// page reads the next intents to hand over: as many as keep the pace, and one request holds.
func (r *rebaser) page() (intents []*Intent, err error) {
	size, after, most := 0, r.after, max(int(r.request/drainPace), drainLeast)
	err = r.read(max(r.taken(), r.after)+1, min(most, r.forwardMost()), func(in *Intent, seq uint64) error {
		if size += in.size(); size > forwardOctets && len(intents) > 0 {
			return errEnough
		}
		o := r.origin()
		o.Seq, o.After = seq, after
		in.Origin, after = &o, seq
		intents = append(intents, in)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return intents, err
}

var errEnough = errors.New("enough")

// size is about what the intent takes in a request.
func (in *Intent) size() int {
	n := 512
	for _, c := range in.Calls {
		n += len(c.In)
	}
	return n
}

// took notes that the cluster has settled the queue up to a place. Where that was the last one the overlay goes before anybody is told: it
// would hide what is written next.
func (r *rebaser) took(ctx context.Context, seq uint64) {
	p := &r.pending
	p.mu.Lock()
	if seq <= p.taken {
		p.mu.Unlock()
		return
	}
	n := int64(seq - p.taken)
	p.taken = seq
	p.mu.Unlock()
	if p.waiting.Load() == n {
		if err := r.rebuild(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("the overlay of pending writes could not be rebuilt, trying again", "error", err)
		}
	}
	p.waiting.Add(-n)
	if err := r.cfg.Queue.Trim(seq); err != nil {
		r.cfg.Logger.Warn("the queue of pending writes could not be trimmed", "error", err)
	}
	p.progressed()
}

// settle drops what the cluster has settled as far as the state that this node holds says: the state may come by another road than the
// one on which intents are handed over.
func (r *rebaser) settle(ctx context.Context) {
	version := r.cfg.Machine.Version()
	if r.broken != nil || r.pending.idle() || version == r.pending.looked.Load() {
		return
	}
	mark, err := r.originMark(r.origin())
	same := false
	if err == nil {
		same, err = r.holds(mark)
	}
	if err == nil && !same {
		r.known.Store(false)
		err = r.rename(mark.Seq)
	}
	if err != nil {
		r.cfg.Logger.Warn("what the cluster has settled cannot be compared with the queue, trying again", "error", err)
		return
	}
	if same && mark.Seq > r.taken() {
		r.after = max(r.after, mark.Seq)
		r.took(ctx, mark.Seq)
	}
	r.pending.looked.Store(version)
}

// refresh keeps the overlay in step with the state and the queue.
func (r *rebaser) refresh(ctx context.Context) {
	if r.outdated() {
		if err := r.rebuild(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Error("the overlay of pending writes could not be rebuilt, trying again", "error", err)
		}
	}
	if r.litter {
		r.pending.mu.Lock()
		gen := r.pending.gen
		r.pending.mu.Unlock()
		done, err := r.sweep(gen)
		r.litter = !done || err != nil
	}
}

// outdated reports whether the overlay is to be rebuilt now. One of which nothing waits any more, or that holds what the queue does not,
// is at once; a long one rests.
func (r *rebaser) outdated() bool {
	p := &r.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := p.waiting.Load()
	switch {
	case p.stale:
		return true
	case p.patch == nil || r.cfg.Machine.Version() == r.base && p.taken == r.settled:
		r.stood = r.cfg.Now()
		return false
	}
	return waiting <= rebuildSmall || r.cfg.Now().Sub(r.stood) >= time.Duration(waiting)*rebuildEach
}

// rebuild evaluates what is left of the queue on the present state and makes that the overlay. The last few intents are evaluated with
// the door closed, so that none is missed.
func (r *rebaser) rebuild(ctx context.Context) error {
	p := &r.pending
	p.mu.Lock()
	from, version := p.taken+1, r.cfg.Machine.Version()
	p.mu.Unlock()
	b := builder{Exec: r.Exec, from: from, first: from, stands: basis{version: version}, gen: r.pending.gen + 1} // only this goroutine changes it
	for {
		n, err := b.page(ctx)
		if err != nil {
			return err
		}
		if n < drainPage {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inflight.Wait() // the journal's doing; nothing it waits for needs this lock
	for {
		n, err := b.page(ctx)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	was := p.patch
	p.patch, p.gen, p.stale, p.next = b.patch, b.gen, false, b.from
	p.stands = b.stands
	p.doubt.Store(false)
	clear(p.keeping) // what failed is not shown any more
	p.oldest.Store(b.oldest)
	p.look.Store(p.patch)
	r.base, r.settled, r.stood = version, from-1, r.cfg.Now()
	r.litter = r.litter || was != nil && was.deep != nil || b.patch == nil
	return r.retell(was, p.patch)
}

// builder makes an overlay anew.
type builder struct {
	*Exec
	patch  *patch
	gen    uint64
	first  uint64 // place of the queue from which it is made
	from   uint64 // next place of the queue
	stands basis
	oldest int64
}

func (b *builder) page(ctx context.Context) (n int, err error) {
	st := b.cfg.Machine.Snapshot()
	defer func() { st.Close() }()
	err = b.read(b.from, drainPage, func(in *Intent, seq uint64) error {
		if b.oldest == 0 {
			b.oldest = in.At.UnixNano()
		}
		st.pending = b.patch
		b.stands.add(st.Version())
		if t := b.reevaluate(st, in); t != nil {
			b.patch = b.patch.with(shownOps(t))
		}
		n, b.from = n+1, seq+1
		if b.patch == nil || b.patch.size <= b.cfg.OverlayBytes {
			return ctx.Err()
		}
		b.patch = b.spill(b.patch, b.gen, spillMark{
			Whole: !b.stands.several, From: b.first, Upto: seq, Digest: in.digestOfPlace(), Version: b.stands.version,
		})
		st.Close()
		st = b.cfg.Machine.Snapshot() // one that sees the spill
		return ctx.Err()
	})
	return n, err
}

// retell feeds the watches the records that an overlay which is gone, or the one that took its place, writes. What a state that is being filled anew
// lacks is no news: when it is whole they are fed all of it.
func (x *Exec) retell(was, now *patch) error {
	st := x.lookLocked()
	defer st.Close()
	if !st.Whole() {
		return nil
	}
	var ops []Op
	flush := func() {
		x.tell(st.Version(), ops)
		ops = ops[:0:0]
	}
	add := func(key string) error {
		val, ok, err := st.Get(key)
		if err != nil {
			return err
		}
		if ops = append(ops, Op{Key: key, Val: slices.Clone(val), Delete: !ok}); len(ops) >= watchPage {
			flush()
		}
		return nil
	}
	for _, p := range []*patch{was, now} {
		if err := p.keys(st, x.watched, add); err != nil {
			return err
		}
	}
	flush()
	return nil
}

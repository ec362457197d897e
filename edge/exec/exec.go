// Package exec runs operations: it evaluates intents against a draft of the state, proposes the effects to the replicated log and
// answers when they are applied. DESIGN.md in this folder describes the write path.
package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/edge/journal"
	"wispgate/edge/store"
)

// Log is the replicated log: an entry is answered nil once it is applied on this node.
type Log interface {
	// Propose sends an encoded Entry on its way, behind those proposed before, and does not wait for it. The channel gives once how it
	// ended: nil when the entry is applied on this node. ErrStale: the state has moved on, evaluate again. An *edge.Error outcome_unknown:
	// the entry may or may not be applied later.
	Propose(ctx context.Context, entry []byte) (outcome <-chan error)
	// Term is the term in which this node leads, if everything that may come into the log before the next proposal of this term is applied
	// here or was proposed by this node in this term; else 0. It is cheap.
	Term() uint64
	// IsLeader reports whether this node may evaluate.
	IsLeader() bool
	// Barrier returns when everything committed before the call is applied here.
	Barrier(ctx context.Context) error
	// Linearize returns, on a leader, once everything that was acknowledged anywhere before the call is applied here. It writes nothing.
	Linearize(ctx context.Context) error
	// Forward hands a request to the leader's Exec.Serve and returns its answer. quorum_lost: nothing was sent. outcome_unknown: it was, and
	// nobody can tell; asking again is harmless.
	Forward(ctx context.Context, request []byte) ([]byte, error)
	// Contact reports whether this node leads or hears a leader. It is cheap.
	Contact() bool
}

// Secrets seals and digests what Prepare is handed.
type Secrets interface {
	Seal(tenant, record, field string, plaintext []byte) (string, error)
	MAC(tenant, purpose string, data []byte) []byte
	Digest(plaintext string) (string, error)
}

// Observer counts what the write path does.
type Observer interface {
	Command(name, outcome string, took time.Duration)
	Round(intents int, outcome string, took time.Duration)
}

// Config is what an Exec needs. Modules, Machine, Store, Secrets, Now and Logger are required.
type Config struct {
	Modules  []edge.Module
	Flows    []edge.Flow
	Machine  *Machine
	Store    *store.Store
	Secrets  Secrets
	Now      func() time.Time
	Trusted  func() bool // whether the clock may make things due; nil: always
	Random   func([]byte)
	Logger   *slog.Logger
	Observer Observer
	Strict   bool // tests: an undeclared error code and a handler with hidden inputs are failures

	// EventRetention removes event rows older than this that no stream needs; 0 keeps them until their stream is acknowledged.
	EventRetention time.Duration
	// Durability is what a committed write is durable on: node for a lone node, cluster with voters elsewhere. nil: node.
	Durability func() string

	// FeatureLevel is what this program can read; a state above it is not opened. 0: not checked.
	FeatureLevel int64
	// Node names this node: the owner of its series and of its queue.
	Node string
	// Sign signs with the node's Ed25519 key; needed by commands that link numbers of a series.
	Sign func(message []byte) []byte
	// Queue keeps the intents that wait for a quorum. nil: there is no queue, and every command needs the quorum.
	Queue *journal.Journal
	// Alone says whether this node is the whole cluster: then its full disk is a reason to refuse, since nobody else could take a pending
	// write over. nil: it never is.
	Alone func() bool
	// Expelled is why nothing that this node accepts would ever reach the cluster; nil, or its answer nil: it would.
	Expelled func() error
	// Unheard is since when a node of the cluster may hold writes that it has not handed over, by the state; the zero time, or nil: none does.
	Unheard func(v edge.View) (since time.Time, err error)
	// OverlayBytes is how many octets of pending effects stay in memory before they move to the store; 0: 4 MB.
	OverlayBytes int
	// Patience is how long a command waits for a leader before it is accepted as pending or refused; 0: two seconds.
	Patience time.Duration
}

// Exec implements edge.Executor.
type Exec struct {
	cfg     Config
	ops     map[string]*edge.Op
	tables  map[string]edge.AnyTable // by name
	byID    map[string]edge.AnyTable // by id prefix
	when    map[string][]edge.Flow
	after   []edge.Flow
	codes   map[string]bool
	watches []edge.Watch
	log     Log
	queue   chan *waiter
	pending pendings
	told    uint64 // version up to which the watches know of what is applied; guarded by pending.mu

	forwarder forwarder

	seriesMu sync.Mutex // one number of a node-owned series at a time

	mu       sync.Mutex
	stopped  bool               // nobody takes intents from the queue any more
	inflight map[string]*waiter // by Intent.running
	applied  chan struct{}      // closed and renewed at each applied version
	version  uint64

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

const (
	queueBound = 1024 // intents that may wait for evaluation; beyond it callers get unavailable
)

// New checks the declarations, loads the watches from the state and connects to the machine. Start begins evaluation.
func New(cfg Config) (*Exec, error) {
	if err := edge.Check(cfg.Modules); err != nil {
		return nil, fmt.Errorf("check modules: %w", err)
	}
	if cfg.Durability == nil {
		cfg.Durability = func() string { return "node" }
	}
	if cfg.OverlayBytes == 0 {
		cfg.OverlayBytes = 4 << 20
	}
	if cfg.Patience == 0 {
		cfg.Patience = 2 * time.Second
	}
	x := &Exec{
		cfg: cfg, ops: map[string]*edge.Op{}, tables: map[string]edge.AnyTable{}, byID: map[string]edge.AnyTable{},
		when: map[string][]edge.Flow{}, codes: map[string]bool{}, queue: make(chan *waiter, queueBound),
		inflight: map[string]*waiter{}, applied: make(chan struct{}),
	}
	for _, r := range edge.KernelReasons() {
		x.codes[r.Code] = true
	}
	events := map[string]edge.Event{}
	for _, m := range cfg.Modules {
		for _, t := range m.Tables {
			x.tables[t.TableName()] = t
			x.byID[t.IDPrefix()] = t
		}
		for _, op := range m.Ops {
			x.ops[op.Name] = op
		}
		for _, e := range m.Events {
			events[e.EventName()] = e
		}
		for _, r := range m.Reasons {
			x.codes[r.Code] = true
		}
		x.watches = append(x.watches, m.Watches...)
	}
	if err := x.addFlows(events); err != nil {
		return nil, err
	}
	if err := x.checkLevel(); err != nil {
		return nil, err
	}
	if err := x.loadWatches(); err != nil {
		return nil, err
	}
	x.version = cfg.Machine.Version()
	x.told = x.version
	x.pending.init()
	x.forwarder.init()
	cfg.Machine.OnApply(x.onApply)
	cfg.Machine.OnRestore(x.onRestore)
	return x, nil
}

func (x *Exec) addFlows(events map[string]edge.Event) error {
	var errs []error
	seen := map[string]bool{}
	for _, f := range x.cfg.Flows {
		switch e := events[f.Event]; {
		case e == nil:
			errs = append(errs, fmt.Errorf("flow %s: event %s is not declared by any module", f.Name, f.Event))
		case f.After != nil && edge.IsInner(e):
			errs = append(errs, fmt.Errorf("flow %s: event %s is not stored, so nothing can run after it", f.Name, f.Event))
		}
		if f.Name == "" || seen[f.Name] || (f.When == nil) == (f.After == nil) {
			errs = append(errs, fmt.Errorf("flow %q: unnamed, declared twice, or not exactly one of When and After", f.Name))
		}
		seen[f.Name] = true
		if f.When != nil {
			x.when[f.Event] = append(x.when[f.Event], f)
		} else {
			x.after = append(x.after, f)
		}
	}
	return errors.Join(errs...)
}

// Start begins to evaluate: the round loop, the due timer and the after-flows. Stop ends them.
func (x *Exec) Start(ctx context.Context, log Log) {
	x.log = log
	ctx, x.cancel = context.WithCancel(ctx)
	x.wg.Go(func() { x.rounds(ctx) })
	x.wg.Go(func() { x.forwards(ctx) })
	x.wg.Go(func() { x.dueLoop(ctx) })
	x.wg.Go(func() { x.janitor(ctx) })
	if x.cfg.Queue != nil {
		r := x.takeUpQueue()
		x.wg.Go(func() { r.follow(ctx) })
		x.wg.Go(func() { r.run(ctx) })
	}
	for _, f := range x.after {
		x.wg.Go(func() { x.afterLoop(ctx, f) })
	}
}

// Stop ends evaluation; waiting callers get unavailable.
func (x *Exec) Stop() {
	if x.cancel != nil {
		x.cancel()
	}
	x.wg.Wait()
}

// Do implements edge.Executor.
func (x *Exec) Do(ctx context.Context, r edge.Request) (edge.Reply, error) {
	in, err := x.accept(r)
	if err != nil {
		return edge.Reply{}, err
	}
	if !x.cfg.Machine.Whole() {
		return edge.Reply{}, partly()
	}
	if r.DryRun {
		return x.dryRun(in)
	}
	if r.Key != "" { // an id that was minted here a moment ago has no answer yet
		if reply, ok, err := x.replay(in); ok || err != nil {
			return reply, err
		}
	}
	w, joined, err := x.join(in)
	if err != nil {
		return edge.Reply{}, err
	}
	if !joined {
		w, joined = x.admit(ctx, w)
	}
	reply, err := w.wait(ctx, joined)
	if low := x.full(err); low != nil {
		return edge.Reply{}, low
	}
	if gone := x.expelled(err); gone != nil {
		return edge.Reply{}, gone
	}
	if err != nil && x.mayPend(w, err) {
		return x.pend(ctx, w, err)
	}
	return reply, err
}

// admit prepares a new intent and sends it where it is evaluated: into the queue of rounds on the leader, else over to it. Where a round
// finds that this node leads no more, it has proposed nothing, and the intent is sent again for as long as the patience lasts. It returns
// whom to wait for: another, where the same operation came again between two attempts.
func (x *Exec) admit(ctx context.Context, w *waiter) (last *waiter, joined bool) {
	once, err := x.prepare(w.intent, false)
	if err != nil {
		x.finish(w, edge.Reply{}, err)
		return w, false
	}
	x.mu.Lock()
	w.once, w.ready = once, true
	x.mu.Unlock()
	patient, cancel := context.WithTimeout(ctx, x.cfg.Patience)
	defer cancel()
	for {
		if err := x.send(patient, w); err != nil {
			x.finish(w, edge.Reply{}, err)
		}
		if _, err := w.wait(ctx, false); !isQuorumLost(err) || !x.evaluating(w) || !pauseFor(patient, sendRetry, nil) {
			return w, false
		}
		if w, joined = x.rejoin(w); joined {
			return w, true
		}
	}
}

// enqueue puts an intent into the queue of rounds, once.
func (x *Exec) enqueue(w *waiter) error {
	if x.log == nil {
		return edge.ErrStarting.Error(edge.Unavailable)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if w.queued {
		return nil
	}
	if x.stopped {
		return quorumLost()
	}
	select {
	case x.queue <- w:
		w.queued = true
		return nil
	default:
		e := edge.ErrStarting.Error(edge.Unavailable)
		e.Code, e.Message, e.Fix, e.RetryAfter = "overloaded", "Too many writes are waiting", "Ask again in a second with the same Idempotency-Key", 1
		return e
	}
}

// Ask implements edge.Executor.
func (x *Exec) Ask(ctx context.Context, a edge.Actor, name string, raw json.RawMessage, minVersion uint64) (any, uint64, error) {
	op := x.ops[name]
	if op == nil || op.Command {
		return nil, 0, edge.ErrUnknownOp.Error(edge.NotFound)
	}
	if !a.Has(op.Scope) {
		return nil, 0, missingScope(op.Scope)
	}
	in, err := op.Decode(raw)
	if err != nil {
		return nil, 0, err
	}
	if err := x.WaitVersion(ctx, minVersion); err != nil {
		return nil, 0, err
	}
	st := x.look()
	defer st.Close()
	if !st.Whole() {
		return nil, 0, partly()
	}
	start := x.cfg.Now()
	out, err := op.Ask(&view{exec: x, state: st, actor: a, now: after(start, st)}, in)
	x.observe(name, err, start)
	return out, st.Version(), x.visible(name, err)
}

// partly is the refusal of a node whose state is being filled anew: what it lacks would be said to be nowhere.
func partly() error {
	e := edge.ErrStarting.Error(edge.Unavailable)
	e.RetryAfter = 2
	return e
}

// WaitVersion returns when the state has reached min, or the context's end as unavailable.
func (x *Exec) WaitVersion(ctx context.Context, minVersion uint64) error {
	for {
		x.mu.Lock()
		reached, ch := x.version >= minVersion, x.applied
		x.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			e := edge.ErrStarting.Error(edge.Unavailable)
			e.Code, e.Message, e.Fix, e.RetryAfter = "version_not_reached", "This node has not reached the asked version yet", "Ask again shortly, or without min_version", 1
			return e
		}
	}
}

// Version is the state's version on this node.
func (x *Exec) Version() uint64 { return x.cfg.Machine.Version() }

// Op returns the operation with the name, nil when there is none.
func (x *Exec) Op(name string) *edge.Op { return x.ops[name] }

// clock is the time a view sees: never before the last committed time.
func (x *Exec) clock(st *State) time.Time { return after(x.cfg.Now(), st) }

func after(now time.Time, st *State) time.Time {
	now = now.UTC()
	if last := st.Time(); now.Before(last) {
		return last
	}
	return now
}

func missingScope(scope string) *edge.Error {
	e := edge.ErrScope.Error(edge.Denied)
	e.Message = "The credential lacks the scope " + scope
	return e
}

// visible turns what a handler returned into what a caller may see; the original of an internal error is logged here, once.
func (x *Exec) visible(op string, err error) error {
	if err == nil {
		return nil
	}
	e, ok := edge.AsError(err)
	if ok && x.cfg.Strict && !x.codes[e.Code] {
		return fmt.Errorf("operation %s answers the undeclared code %s", op, e.Code)
	}
	if !ok {
		x.cfg.Logger.Error("operation failed", "operation", op, "error", err)
		if x.cfg.Strict {
			return err
		}
	}
	return e
}

func (x *Exec) observe(op string, err error, start time.Time) {
	if x.cfg.Observer == nil {
		return
	}
	outcome := "ok"
	if err != nil {
		e, _ := edge.AsError(err)
		outcome = string(e.Kind)
	}
	x.cfg.Observer.Command(op, outcome, x.cfg.Now().Sub(start))
}

package exec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
)

// ErrStale is the answer to an entry whose Base is not the version it met, or that came into the log in another term than its own: its
// round has to be evaluated again. The log is sound.
var ErrStale = errors.New("exec: entry is stale")

// ErrMachineClosed is the answer of a machine after Close.
var ErrMachineClosed = errors.New("exec: machine is closed")

// Keys that the machine keeps for itself. The first lies in the replicated keyspace, so that checksums and dumps cover it.
const (
	versionKey = store.Replicated + "\x00version" // version, time in nanoseconds: 64 bit each, big endian
	appliedKey = store.Local + "raft/applied"     // index, term: 64 bit each, big endian
	goalKey    = store.Local + "raft/goal"        // Machine.goal, 0: 64 bit each, big endian
)

// LogEntry is one committed command of the log.
type LogEntry struct {
	Index, Term uint64
	Data        []byte // an encoded Entry; not changed by anyone from here on
}

// MachineOptions of NewMachine. The zero value is what a node runs with.
type MachineOptions struct {
	Logger *slog.Logger // nil: silent

	// FlushEvery bounds how long applied effects wait before they go to the store in one synced transaction; 0: one second. Negative:
	// every batch is flushed before ApplyBatch returns, for users that have no log to replay.
	FlushEvery time.Duration
}

// Machine is the replicated state machine: it applies committed entries in order, each or not at all, and knows nothing of domains.
//
// The log is durable before an entry comes here. So the machine keeps what it applied in memory, where every read sees it, and moves it
// to the store in one synced transaction per second or 256 KB, together with the version, the time and the log index that it stands
// for. After any crash the store holds exactly the state of one version, and the log replays the rest.
type Machine struct {
	store *store.Store
	log   *slog.Logger
	every time.Duration

	applyMu sync.Mutex // one batch at a time; taken before flushMu
	flushMu sync.Mutex // one flush at a time; taken before mu

	mu        sync.RWMutex // what a State is made of
	base      *pin
	fresh     *tree
	at        position // of base + fresh
	pending   load     // what the next flush will take
	goal      uint64   // version that the state had before it was emptied: below it this is a part of a state; 0: it is whole
	restoring bool

	durable position // of base; guarded by flushMu for writing, mu for reading
	part    *part    // what a flush has taken and the store has not; guarded by flushMu

	onApply   []func(version uint64, ops []Op)
	onRestore []func(version uint64)

	fatalMu sync.Mutex
	fatal   error
	failed  chan struct{} // closed with fatal; a machine that was reset has another

	stopOnce sync.Once
	stop     chan struct{}
	dirty    chan struct{} // something waits for the store
	much     chan struct{} // half a transaction waits
	done     chan struct{}
}

// position is a point in the history of the state.
type position struct {
	version     uint64
	time        int64
	index, term uint64
}

type load struct{ ops, octets int }

// part is what one flush writes, as it was when the flush began. One that fails is tried again as it was: together with what came since it
// would not be one transaction.
type part struct {
	root *tree
	at   position
}

// NewMachine opens the machine at the state that s holds.
func NewMachine(s *store.Store, opts MachineOptions) (*Machine, error) {
	m := &Machine{
		store: s, log: opts.Logger, every: opts.FlushEvery,
		failed: make(chan struct{}), stop: make(chan struct{}), dirty: make(chan struct{}, 1), much: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.every == 0 {
		m.every = time.Second
	}
	m.base = newPin(s.Snapshot())
	at, err := readPosition(m.base.sn)
	if err != nil {
		m.base.release()
		return nil, fmt.Errorf("open machine: %w", err)
	}
	if m.goal, _, err = readPair(m.base.sn, goalKey); err != nil {
		m.base.release()
		return nil, fmt.Errorf("open machine: %w", err)
	}
	m.at, m.durable = at, at
	s.OnReopen(m.letGo, m.takeUp)
	s.OnDamage(m.fail)
	go m.flusher()
	return m, nil
}

func readPosition(sn *store.Snapshot) (p position, err error) {
	version, when, err := readPair(sn, versionKey)
	if err != nil {
		return p, err
	}
	index, term, err := readPair(sn, appliedKey)
	return position{version: version, time: int64(when), index: index, term: term}, err
}

func readPair(sn *store.Snapshot, key string) (a, b uint64, err error) {
	raw, err := sn.Get([]byte(key))
	if errors.Is(err, store.ErrNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	if len(raw) != 16 {
		return 0, 0, errors.New("the record of the applied position is damaged")
	}
	return binary.BigEndian.Uint64(raw), binary.BigEndian.Uint64(raw[8:]), nil
}

func putPair(b *store.Batch, key string, x, y uint64) {
	b.Put([]byte(key), binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, x), y))
}

// OnApply registers fn, which is called after every applied entry in the order of versions, when the entry is visible to Snapshot and
// before ApplyBatch returns. It runs on the log's goroutine: it must not block, call ApplyBatch, or keep or change ops. Register before
// the first ApplyBatch.
func (m *Machine) OnApply(fn func(version uint64, ops []Op)) { m.onApply = append(m.onApply, fn) }

// OnRestore registers fn, which is called after the whole state was replaced, under the same rules as OnApply: what was derived from the
// state must be built again from Snapshot.
func (m *Machine) OnRestore(fn func(version uint64)) { m.onRestore = append(m.onRestore, fn) }

// ApplyBatch applies committed entries in order and answers for each: nil (applied now, or already before a restart), ErrStale, or an
// error that matches ErrUndecodable, after which the machine refuses everything. It does not return while the effects of an entry that
// came earlier cannot be kept; on a full disk that means it waits for room.
func (m *Machine) ApplyBatch(entries []LogEntry) []error {
	m.applyMu.Lock()
	defer m.applyMu.Unlock()
	answers := make([]error, len(entries))
	for i := range entries {
		if err := m.Fatal(); err != nil {
			answers[i] = err
			continue
		}
		answers[i] = m.apply(&entries[i])
	}
	if m.every < 0 && m.Fatal() == nil {
		if err := m.flushOrWait(); err != nil {
			m.fail(err)
			for i := range answers {
				answers[i] = err
			}
		}
	}
	return answers
}

func (m *Machine) apply(le *LogEntry) error {
	at := m.position()
	if le.Index <= at.index {
		return nil
	}
	e, err := DecodeEntry(le.Data)
	if err != nil {
		err = unreadable(le.Index, err)
		m.log.Error("log entry does not decode; this node stops applying", "code", "entry_undecodable", "index", le.Index, "term", le.Term)
		m.fail(err)
		return err
	}
	at.index, at.term = le.Index, le.Term
	if !e.Follows(at.version, le.Term) {
		m.publish(at, nil)
		return ErrStale
	}
	at.version++
	at.time = max(at.time, e.Time)
	if err := m.room(e.Ops); err != nil {
		m.fail(err)
		return err
	}
	m.publish(at, e.Ops)
	for _, fn := range m.onApply {
		fn(at.version, e.Ops)
	}
	return nil
}

// room makes sure that what the next flush takes, with ops added, is still one transaction.
func (m *Machine) room(ops []Op) error {
	m.mu.RLock()
	full := m.pending.ops+len(ops) > flushOps || m.pending.octets+cost(ops) > flushOctets
	m.mu.RUnlock()
	if full {
		return m.flushOrWait()
	}
	return nil
}

func cost(ops []Op) int {
	n := 0
	for i := range ops {
		n += ops[i].Cost() + storeOverhead
	}
	return n
}

func (m *Machine) publish(at position, ops []Op) {
	m.mu.Lock()
	m.fresh, m.at = m.fresh.with(ops, at.version), at
	m.pending.ops += len(ops)
	m.pending.octets += cost(ops)
	much := m.pending.ops > flushOps/2 || m.pending.octets > flushOctets/2
	m.mu.Unlock()
	signal(m.dirty)
	if much {
		signal(m.much)
	}
}

// signal pokes whoever reads a channel with room for one, without waiting.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

func (m *Machine) position() position {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at
}

// Version is the number of entries applied since the beginning.
func (m *Machine) Version() uint64 { return m.position().version }

// Whole is false while an emptied state is being filled anew.
func (m *Machine) Whole() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at.version >= m.goal
}

// LastTime is the time of the newest applied entry; it never runs backwards. The zero time before the first one.
func (m *Machine) LastTime() time.Time { return wall(m.position().time) }

// AppliedIndex is the log index up to which everything is applied.
func (m *Machine) AppliedIndex() uint64 { return m.position().index }

// DurableIndex is the log index up to which everything is in the store. The log must keep what lies above it.
func (m *Machine) DurableIndex() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.durable.index
}

func wall(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos).UTC()
}

// Store is the store that the machine writes to.
func (m *Machine) Store() *store.Store { return m.store }

// Fatal is why the machine refuses work, nil while it works.
func (m *Machine) Fatal() error {
	m.fatalMu.Lock()
	defer m.fatalMu.Unlock()
	return m.fatal
}

// Failed is closed when the machine begins to refuse work. A machine that a Reset has healed has another channel.
func (m *Machine) Failed() <-chan struct{} {
	m.fatalMu.Lock()
	defer m.fatalMu.Unlock()
	return m.failed
}

// heal takes a machine that has forgotten what it failed on back to work.
func (m *Machine) heal() {
	m.fatalMu.Lock()
	defer m.fatalMu.Unlock()
	if m.fatal == nil || errors.Is(m.fatal, ErrMachineClosed) {
		return
	}
	m.fatal, m.failed = nil, make(chan struct{})
	m.log.Info("state machine works again, from an empty state")
}

func (m *Machine) fail(err error) {
	m.fatalMu.Lock()
	defer m.fatalMu.Unlock()
	if m.fatal != nil {
		return
	}
	m.fatal = err
	close(m.failed)
	if !errors.Is(err, ErrMachineClosed) {
		m.log.Error("state machine stopped", "error", err)
	}
}

// Close flushes what is applied and stops the machine; every later ApplyBatch is ErrMachineClosed. States that are open stay readable
// until they are closed. Close the machine before its store.
func (m *Machine) Close() error {
	var err error
	m.stopOnce.Do(func() {
		close(m.stop)
		<-m.done
		m.applyMu.Lock()
		defer m.applyMu.Unlock()
		broken := m.Fatal() != nil
		m.fail(ErrMachineClosed)
		if err = m.Flush(); broken || isDiskLow(err) {
			err = nil // the log has it
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.base.release()
		m.base = nil
	})
	return err
}

func isDiskLow(err error) bool {
	e, ok := errors.AsType[*edge.Error](err)
	return ok && e.Code == "disk_low"
}

// record is what versionKey holds at p, nil before the first version.
func (p position) record() []byte {
	if p.version == 0 {
		return nil
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, p.version), uint64(p.time))
}

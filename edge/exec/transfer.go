package exec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"wispgate/edge/store"
)

// A state on its way to another node: this header, then a dump of the replicated keyspace. Numbers are little endian.
const (
	stateMagic  = "wispgate-state 1\n"
	stateHeader = len(stateMagic) + 3*8 + 4 // version, index, term, CRC-32C
)

// StateInfo says what a transferred state is.
type StateInfo struct {
	Version     uint64 `json:"version"`
	Index, Term uint64 // of the log entry it includes last
}

// Transfer is a state that stands ready to be sent: it stays as it is however long that takes, and must be closed.
type Transfer struct {
	Info StateInfo
	Time time.Time // of its newest entry
	pin  *pin
}

// Transfer flushes and holds the state as it is now.
func (m *Machine) Transfer() (*Transfer, error) {
	p, at, err := m.durablePin()
	if err != nil {
		return nil, fmt.Errorf("hold state: %w", err)
	}
	return &Transfer{Info: StateInfo{Version: at.version, Index: at.index, Term: at.term}, Time: wall(at.time), pin: p}, nil
}

// Close releases the state.
func (t *Transfer) Close() { t.pin.release() }

// Scan visits the held state's records below a prefix of the store, of the replicated keyspace or of the node's own, in order. Keys come
// without the prefix; val is valid only during the visit.
func (t *Transfer) Scan(prefix string, visit func(key string, val []byte) error) error {
	return t.pin.sn.Scan([]byte(prefix), nil, func(k, v []byte) (bool, error) {
		return true, visit(string(k[len(prefix):]), v)
	})
}

// Size is the number of octets that Write will write. It reads the state once to know.
func (t *Transfer) Size() (int64, error) {
	m, err := t.Measure()
	return m.Octets, err
}

// Measure is what Write will write.
type Measure struct {
	Octets int64
	store.Dumped
}

// Measure reads the state once and says what Write will write.
func (t *Transfer) Measure() (m Measure, err error) {
	var n counter
	m.Dumped, err = t.write(&n)
	m.Octets = int64(n)
	return m, err
}

// Write writes the state, with the position in the log that it stands for, as a stream for Restore.
func (t *Transfer) Write(w io.Writer) error {
	_, err := t.write(w)
	return err
}

func (t *Transfer) write(w io.Writer) (store.Dumped, error) {
	if _, err := w.Write(t.Info.head()); err != nil {
		return store.Dumped{}, fmt.Errorf("write state: %w", err)
	}
	return t.pin.sn.Dump(w, store.Replicated)
}

// head is the header of a stream.
func (i StateInfo) head() []byte {
	head := append(make([]byte, 0, stateHeader), stateMagic...)
	head = binary.LittleEndian.AppendUint64(head, i.Version)
	head = binary.LittleEndian.AppendUint64(head, i.Index)
	head = binary.LittleEndian.AppendUint64(head, i.Term)
	return binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// Dump writes the state as it is now: Transfer and Write in one.
func (m *Machine) Dump(w io.Writer) (StateInfo, error) {
	t, err := m.Transfer()
	if err != nil {
		return StateInfo{}, err
	}
	defer t.Close()
	return t.Info, t.Write(w)
}

// durablePin flushes and holds the store's snapshot of exactly the position it returns, which is what that snapshot itself says: it may have been
// renewed between another flush and the note of it.
func (m *Machine) durablePin() (*pin, position, error) {
	if err := m.Flush(); err != nil {
		return nil, position{}, err
	}
	m.mu.RLock()
	p := m.base
	if p == nil {
		m.mu.RUnlock()
		return nil, position{}, ErrMachineClosed
	}
	p.refs.Add(1)
	m.mu.RUnlock()
	at, err := readPosition(p.sn)
	if err != nil {
		p.release()
	}
	return p, at, err
}

// Restore replaces the state by a stream that Dump wrote, on this node or another. A damaged or half stream leaves the old state.
func (m *Machine) Restore(r io.Reader) error {
	m.applyMu.Lock()
	defer m.applyMu.Unlock()
	if err := m.Fatal(); err != nil {
		return err
	}
	info, err := ReadStateInfo(r)
	if err != nil {
		return err
	}
	version := info.Version
	if err := m.install(r, info.Index, info.Term, 0); err != nil {
		return err
	}
	if got := m.Version(); got != version {
		err := errors.New("restored state is of another version than its header says")
		m.fail(err)
		return err
	}
	for _, fn := range m.onRestore {
		fn(version)
	}
	return nil
}

// ReadStateInfo reads the head of a stream that Write wrote: what Restore would install.
func ReadStateInfo(r io.Reader) (info StateInfo, err error) {
	head := make([]byte, stateHeader)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:len(stateMagic)]) != stateMagic {
		return info, fmt.Errorf("%w: it does not begin as a state", store.ErrDump)
	}
	body, tail := head[:stateHeader-4], head[stateHeader-4:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(tail) {
		return info, fmt.Errorf("%w: its header fails its check", store.ErrDump)
	}
	numbers := body[len(stateMagic):]
	info.Version, info.Index, info.Term = binary.LittleEndian.Uint64(numbers), binary.LittleEndian.Uint64(numbers[8:]), binary.LittleEndian.Uint64(numbers[16:])
	return info, nil
}

// Where a state that begins a new history stands in its log: behind an entry that no log holds, so that whoever joins later gets the state
// and not the log from its beginning.
const (
	seedIndex = 1
	seedTerm  = 1
)

// Seed is Restore of a state that begins a new history: it keeps its version, and the log that it came from is forgotten.
func (m *Machine) Seed(r io.Reader) (StateInfo, error) {
	info, err := ReadStateInfo(r)
	if err != nil {
		return info, err
	}
	info.Index, info.Term = seedIndex, seedTerm
	return info, m.Restore(io.MultiReader(bytes.NewReader(info.head()), r))
}

// Amend applies one more entry of a history that has no log yet: what a seeded state needs before its first log begins.
func (m *Machine) Amend(ops []Op) error {
	at := m.position()
	e := Entry{Base: at.version, Time: at.time, Ops: ops}
	answers := m.ApplyBatch([]LogEntry{{Index: at.index + 1, Term: at.term, Data: e.Append(nil)}})
	return errors.Join(answers[0], m.Flush())
}

// install replaces the state. goal is the version from which on it is whole.
func (m *Machine) install(r io.Reader, index, term, goal uint64) error {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	m.setRestoring(true)
	defer m.setRestoring(false)
	var local store.Batch
	putPair(&local, appliedKey, index, term)
	putPair(&local, goalKey, goal, 0)
	_, err := m.store.Restore(r, &local)
	return err
}

func (m *Machine) setRestoring(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restoring = on
}

// Reset empties the replicated state, as on a new node, and tells nobody: what was derived from it stays as it was until a Restore or
// Reload. It is for a node that is to be filled anew, and heals a machine that stopped at a damaged state or at an entry it could not read. Until a
// Restore, or the version that it had, it is not Whole.
func (m *Machine) Reset() error {
	m.applyMu.Lock()
	defer m.applyMu.Unlock()
	if err := m.Fatal(); errors.Is(err, ErrMachineClosed) {
		return err
	}
	var empty bytes.Buffer
	sn := m.store.Snapshot()
	_, err := sn.Dump(&empty, nothingBelow)
	sn.Close()
	if err != nil {
		return err
	}
	m.mu.RLock()
	goal := max(m.goal, m.at.version)
	m.mu.RUnlock()
	if err := m.install(&empty, 0, 0, goal); err != nil {
		return err
	}
	m.heal()
	return nil
}

// nothingBelow is a prefix that no key has.
const nothingBelow = "\xff\xff"

// Reload tells whoever derives something from the state to build it anew, as after a Restore.
func (m *Machine) Reload() {
	m.applyMu.Lock()
	defer m.applyMu.Unlock()
	version := m.Version()
	for _, fn := range m.onRestore {
		fn(version)
	}
}

package exec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

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
	pin  *pin
}

// Transfer flushes and holds the state as it is now.
func (m *Machine) Transfer() (*Transfer, error) {
	p, at, err := m.durablePin()
	if err != nil {
		return nil, fmt.Errorf("hold state: %w", err)
	}
	return &Transfer{Info: StateInfo{Version: at.version, Index: at.index, Term: at.term}, pin: p}, nil
}

// Close releases the state.
func (t *Transfer) Close() { t.pin.release() }

// Size is the number of octets that Write will write. It reads the state once to know.
func (t *Transfer) Size() (int64, error) {
	var n counter
	err := t.Write(&n)
	return int64(n), err
}

// Write writes the state, with the position in the log that it stands for, as a stream for Restore.
func (t *Transfer) Write(w io.Writer) error {
	head := append(make([]byte, 0, stateHeader), stateMagic...)
	head = binary.LittleEndian.AppendUint64(head, t.Info.Version)
	head = binary.LittleEndian.AppendUint64(head, t.Info.Index)
	head = binary.LittleEndian.AppendUint64(head, t.Info.Term)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	_, err := t.pin.sn.Dump(w, store.Replicated)
	return err
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

// durablePin flushes and holds the store's snapshot of exactly the position it returns.
func (m *Machine) durablePin() (*pin, position, error) {
	if err := m.Flush(); err != nil {
		return nil, position{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.base == nil {
		return nil, position{}, ErrMachineClosed
	}
	m.base.refs.Add(1)
	return m.base, m.durable, nil
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
	if err := m.install(r, info.Index, info.Term); err != nil {
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

func (m *Machine) install(r io.Reader, index, term uint64) error {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	m.setRestoring(true)
	defer m.setRestoring(false)
	var local store.Batch
	putPair(&local, appliedKey, index, term)
	_, err := m.store.Restore(r, &local)
	return err
}

func (m *Machine) setRestoring(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restoring = on
}

// Reset empties the replicated state, as on a new node, and tells nobody: what was derived from it stays as it was until a Restore or
// Reload. It is for a node that is to be filled anew.
func (m *Machine) Reset() error {
	m.applyMu.Lock()
	defer m.applyMu.Unlock()
	if err := m.Fatal(); err != nil {
		return err
	}
	var empty bytes.Buffer
	sn := m.store.Snapshot()
	_, err := sn.Dump(&empty, nothingBelow)
	sn.Close()
	if err != nil {
		return err
	}
	return m.install(&empty, 0, 0)
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

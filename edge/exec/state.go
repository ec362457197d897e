package exec

import (
	"crypto/sha256"
	"errors"
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"wispgate/edge/store"
)

// pin is a store snapshot that several States share. It closes with its last holder.
type pin struct {
	sn     *store.Snapshot
	refs   atomic.Int64
	recent [recentReads]atomic.Pointer[recentRead]
}

// What is asked for again and again (a plan, a router, a subscriber's page) is kept with the snapshot it was read from, so nothing ever
// has to be taken out of date. A place holds one value and gives way to the next: no lock, no growth beyond 1 MB.
const (
	recentReads  = 256
	recentOctets = 4 << 10 // a longer value is not kept
)

type recentRead struct {
	key string
	val []byte
}

var recentSeed = maphash.MakeSeed()

// get reads key from the snapshot. The value is shared.
func (p *pin) get(key string) ([]byte, bool, error) {
	place := &p.recent[maphash.String(recentSeed, key)%recentReads]
	if r := place.Load(); r != nil && r.key == key {
		return r.val, true, nil
	}
	val, err := p.sn.Get([]byte(store.Replicated + key))
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, nil
	}
	val = slices.Clip(val)
	if err == nil && len(val) <= recentOctets {
		place.Store(&recentRead{key, val})
	}
	return val, err == nil, err
}

func newPin(sn *store.Snapshot) *pin {
	p := &pin{sn: sn}
	p.refs.Store(1)
	return p
}

func (p *pin) release() {
	if p.refs.Add(-1) == 0 {
		p.sn.Close()
	}
}

// rebaseLocked lets States opened from now on read the store as it is now.
func (m *Machine) rebaseLocked() {
	if m.base == nil {
		return
	}
	m.base.release()
	m.base = newPin(m.store.Snapshot())
}

// Refresh lets States opened from now on see what was written to the node's own keyspace meanwhile.
func (m *Machine) Refresh() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rebaseLocked()
}

// letGo and takeUp surround a change of the store's handle. New States, and everything else that looks at the position, wait between them.
func (m *Machine) letGo() {
	m.mu.Lock()
	if m.base != nil {
		m.base.release()
	}
}

func (m *Machine) takeUp() {
	defer m.mu.Unlock()
	if m.base == nil {
		return
	}
	m.base = newPin(m.store.Snapshot())
	if !m.restoring {
		return
	}
	at, err := readPosition(m.base.sn)
	goal, _, goalErr := readPair(m.base.sn, goalKey)
	if err = errors.Join(err, goalErr); err != nil {
		m.fail(err)
		return
	}
	m.fresh, m.pending, m.part, m.at, m.durable, m.goal = nil, load{}, nil, at, at, goal
}

// State is a consistent read of the replicated keyspace at exactly one version, with what this node's pending intents would change laid
// over it where there are any. It is safe for concurrent use, costs no system call to open, and must be closed.
type State struct {
	base    *pin
	fresh   *tree
	pending *patch // nil unless intents wait for a quorum
	at      position
	part    bool // it is being filled anew
	closed  atomic.Bool
}

// Snapshot reads the state at the newest applied version.
func (m *Machine) Snapshot() *State {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.base == nil {
		return &State{at: m.at}
	}
	m.base.refs.Add(1)
	return &State{base: m.base, fresh: m.fresh, at: m.at, part: m.at.version < m.goal}
}

// Version is the version that is read.
func (s *State) Version() uint64 { return s.at.version }

// Time is the time of the newest entry in it; the zero time in an empty state.
func (s *State) Time() time.Time { return wall(s.at.time) }

// Whole is false for a state that is being filled anew by entries: what is not in it may well be in the cluster's.
func (s *State) Whole() bool { return !s.part }

// Close releases the state. Closing twice is harmless.
func (s *State) Close() {
	if !s.closed.Swap(true) && s.base != nil {
		s.base.release()
	}
}

func (s *State) usable() bool { return s.base != nil && !s.closed.Load() }

// Get returns the value of key and whether there is one. The value must not be changed.
func (s *State) Get(key string) ([]byte, bool, error) {
	if !s.usable() {
		return nil, false, store.ErrClosed
	}
	if key == "" || key[0] == 0 {
		return nil, false, nil
	}
	if s.pending != nil {
		if val, found, err := s.pending.get(s.base.sn, key); found || err != nil {
			return val, val != nil, err
		}
	}
	if n := s.fresh.get(key); n != nil {
		return n.val, !n.delete, nil
	}
	return s.base.get(key)
}

// Scan visits the keys that start with prefix, in order, beginning at from (or at the prefix when from sorts before it), until visit
// returns false or an error. val is valid only during the visit and must not be changed.
func (s *State) Scan(prefix, from string, visit func(key string, val []byte) (bool, error)) error {
	const firstUser = "\x01" // below it lie the machine's own keys
	from = max(prefix, from, firstUser)
	if s.pending == nil {
		return s.scan(prefix, from, visit)
	}
	return s.pending.scan(s.base.sn, prefix, from, func(visit visitor) error { return s.scan(prefix, from, visit) }, visit)
}

// scan merges the fresh effects into what the store holds.
func (s *State) scan(prefix, from string, visit visitor) error {
	if !s.usable() {
		return store.ErrClosed
	}
	over := s.fresh.seek(from)
	return merge(&over, prefix, func(visit visitor) error {
		return s.base.sn.Scan([]byte(store.Replicated+prefix), []byte(store.Replicated+from), func(k, v []byte) (bool, error) {
			return visit(string(k[len(store.Replicated):]), v)
		})
	}, visit)
}

// Checksum hashes the whole replicated keyspace, version and time included: nodes at the same version must agree. It equals the store's
// own checksum of a flushed state.
func (s *State) Checksum() (sum [sha256.Size]byte, err error) {
	summer := store.NewSummer()
	own := s.at.record()
	first := true
	err = s.scan("", "", func(key string, val []byte) (bool, error) {
		if key == versionKey[len(store.Replicated):] {
			return true, nil // as old as the last flush
		}
		if first && own != nil {
			summer.Add([]byte(versionKey[len(store.Replicated):]), own)
		}
		first = false
		summer.Add([]byte(key), val)
		return true, nil
	})
	if first && own != nil {
		summer.Add([]byte(versionKey[len(store.Replicated):]), own)
	}
	return summer.Sum(), err
}

// Checksum is the checksum of the newest state and the version it belongs to.
func (m *Machine) Checksum() (version uint64, sum [sha256.Size]byte, err error) {
	s := m.Snapshot()
	defer s.Close()
	sum, err = s.Checksum()
	return s.Version(), sum, err
}

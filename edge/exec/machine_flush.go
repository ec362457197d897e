package exec

import (
	"slices"
	"time"

	"wispgate/edge/store"
)

// What may wait for the store. It stays below one store transaction, with the machine's own two records.
const (
	storeOverhead = 32 // octets per operation that the store counts besides key and value
	flushOps      = store.MaxBatchOps - 8
	flushOctets   = store.MaxBatchBytes - 4<<10
)

// mostPieces is how many full transactions may wait for the store, 300 KB each, before applying waits for it.
const mostPieces = 4

// Flush moves everything applied so far to the store: one synced transaction that carries the effects, the version and the log index, or
// a few in their order.
func (m *Machine) Flush() error {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	for upto := m.position().index; ; {
		m.mu.Lock()
		if m.durable.index >= upto {
			m.mu.Unlock()
			return nil
		}
		if len(m.pieces) == 0 {
			m.closePieceLocked()
		}
		m.mu.Unlock()
		if err := m.flushPieceLocked(); err != nil {
			return err
		}
	}
}

func (m *Machine) closePieceLocked() {
	m.pieces = append(m.pieces, piece{m.fresh, m.at})
	m.pending = load{}
}

// flushPiece moves the oldest closed piece to the store.
func (m *Machine) flushPiece() error {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	return m.flushPieceLocked()
}

// flushPieceLocked is the only one to take pieces away. One that the store does not take stays.
func (m *Machine) flushPieceLocked() error {
	m.mu.RLock()
	if len(m.pieces) == 0 {
		m.mu.RUnlock()
		return nil
	}
	p, since := m.pieces[0], m.durable
	m.mu.RUnlock()
	if err := m.store.CommitReserved(flushBatch(p.root, p.at, since)); err != nil {
		return err
	}
	m.mu.RLock()
	fresh, newest := m.fresh, m.at.version
	m.mu.RUnlock()
	kept := fresh.after(p.at.version) // while applying goes on
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fresh != fresh {
		kept = kept.withAfter(m.fresh, newest)
	}
	m.durable, m.fresh = p.at, kept
	m.pieces = slices.Delete(m.pieces, 0, 1)
	m.rebaseLocked()
	return nil
}

// flushFull moves the closed pieces to the store.
func (m *Machine) flushFull() error {
	for {
		m.mu.RLock()
		left := len(m.pieces)
		m.mu.RUnlock()
		if left == 0 {
			return nil
		}
		if err := m.flushPiece(); err != nil {
			return err
		}
	}
}

func flushBatch(root *tree, at, since position) *store.Batch {
	var b store.Batch
	for it := root.seek(""); it.node != nil; it.next() {
		n := it.node
		switch key := []byte(store.Replicated + n.key); {
		case n.version <= since.version:
		case n.delete:
			b.Delete(key)
		default:
			b.Put(key, n.val)
		}
	}
	if at.version != since.version {
		putPair(&b, versionKey, at.version, uint64(at.time))
	}
	putPair(&b, appliedKey, at.index, at.term)
	return &b
}

// orWait flushes, and on a full disk waits until the store takes writes again or the machine closes.
func (m *Machine) orWait(flush func() error) error {
	for {
		err := flush()
		if !isDiskLow(err) {
			return err
		}
		retry := time.NewTimer(100 * time.Millisecond)
		select {
		case <-retry.C:
		case <-m.stop:
			retry.Stop()
			return ErrMachineClosed
		}
	}
}

// flusher moves effects to the store within m.every of the first one that waits, and full pieces at once.
func (m *Machine) flusher() {
	defer close(m.done)
	if m.every < 0 {
		<-m.stop
		return
	}
	var due <-chan time.Time
	for {
		var err error
		select {
		case <-m.dirty:
			if due == nil {
				due = time.After(m.every)
			}
		case <-m.full:
			err = m.flushFull()
		case <-due:
			due = nil
			err = m.Flush()
		case <-m.stop:
			return
		}
		if isDiskLow(err) {
			signal(m.dirty)
		} else if err != nil {
			m.fail(err)
			return
		}
	}
}

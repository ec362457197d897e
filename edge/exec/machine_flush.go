package exec

import (
	"time"

	"wispgate/edge/store"
)

// What may wait for the store. It stays below one store transaction, with the machine's own two records.
const (
	storeOverhead = 32 // octets per operation that the store counts besides key and value
	flushOps      = store.MaxBatchOps - 8
	flushOctets   = store.MaxBatchBytes - 4<<10
)

// Flush moves everything applied so far to the store: a synced transaction that carries the effects, the version and the log index, and where
// another flush had begun, two.
func (m *Machine) Flush() error {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	goal := m.position()
	for m.DurableIndex() < goal.index {
		if err := m.store.CommitReserved(m.take().batch(m.durable)); err != nil {
			return err
		}
		m.flushed()
	}
	return nil
}

// take begins a flush, or returns the one that failed.
func (m *Machine) take() *part {
	if m.part != nil {
		return m.part
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.part, m.pending = &part{m.fresh, m.at}, load{}
	select {
	case <-m.much: // it is taken
	default:
	}
	return m.part
}

// flushed notes that the part is in the store.
func (m *Machine) flushed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.durable, m.fresh = m.part.at, m.fresh.after(m.part.at.version)
	m.part = nil
	m.rebaseLocked()
}

// batch holds what a part has beyond what the store has.
func (p *part) batch(since position) *store.Batch {
	var b store.Batch
	for it := p.root.seek(""); it.node != nil; it.next() {
		n := it.node
		switch key := []byte(store.Replicated + n.key); {
		case n.version <= since.version:
		case n.delete:
			b.Delete(key)
		default:
			b.Put(key, n.val)
		}
	}
	if p.at.version != since.version {
		putPair(&b, versionKey, p.at.version, uint64(p.at.time))
	}
	putPair(&b, appliedKey, p.at.index, p.at.term)
	return &b
}

// flushOrWait flushes, and on a full disk waits until the store takes writes again or the machine closes.
func (m *Machine) flushOrWait() error {
	for {
		err := m.Flush()
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

// flusher moves effects to the store within m.every of the first one that waits.
func (m *Machine) flusher() {
	defer close(m.done)
	if m.every < 0 {
		<-m.stop
		return
	}
	for {
		select {
		case <-m.dirty:
		case <-m.stop:
			return
		}
		wait := time.NewTimer(m.every)
		select {
		case <-wait.C:
		case <-m.much:
			wait.Stop()
		case <-m.stop:
			wait.Stop()
			return
		}
		if err := m.Flush(); isDiskLow(err) {
			signal(m.dirty)
		} else if err != nil {
			m.fail(err) // a Reset may heal it
		}
	}
}

// Relax takes the store's tables out of this process's memory. What is read afterwards comes back from the page cache.
func (m *Machine) Relax() error {
	m.mu.RLock()
	p := m.base
	if p == nil {
		m.mu.RUnlock()
		return ErrMachineClosed
	}
	p.refs.Add(1)
	m.mu.RUnlock()
	defer p.release()
	return p.sn.Relax()
}

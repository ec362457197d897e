package cluster

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// walStore is what raft-wal offers.
type walStore interface {
	raft.LogStore
	raft.StableStore
	raft.MonotonicLogStore
	Close() error
}

// errHung is the verdict on a log store whose write does not return.
var errHung = errors.New("a write to the raft log does not return")

// logStore watches the writes of the log and of the vote. One that fails or takes longer than the timeout makes the node unfit: a leader
// with a hung disk would otherwise go on sending heartbeats and hold the cluster.
type logStore struct {
	walStore
	snaps   *snapshots
	timeout time.Duration
	unfit   func(error) // called once, on any goroutine
	once    sync.Once

	entries, octets atomic.Int64 // appended since the store was opened
	waiting         backlog
	leads           atomic.Bool // a leader reads what is to be sent, and applies what it has in memory
	sent            atomic.Pointer[[]*raft.Log]
}

func (l *logStore) condemn(err error) { l.once.Do(func() { l.unfit(err) }) }

func (l *logStore) watched(write func() error) error {
	watch := time.AfterFunc(l.timeout, func() { l.condemn(errHung) })
	err := write()
	watch.Stop()
	if err != nil {
		l.condemn(err)
	}
	return err
}

// IsMonotonic hides from raft that raft-wal takes entries without gaps only. Raft would throw the whole log away with every snapshot that
// arrives, also behind the snapshot, and go on as if it still held what was there: a snapshot that comes twice would end the program.
func (l *logStore) IsMonotonic() bool { return false }

// beginBehind empties a log that ends before the newest snapshot when the entry behind that comes: what it holds is in the state.
func (l *logStore) beginBehind(next uint64) error {
	last, err := l.LastIndex()
	if err != nil || last == 0 || next <= last+1 {
		return err
	}
	if at, _ := l.snaps.stands(); next != at+1 {
		return nil // raft-wal refuses it
	}
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	return l.DeleteRange(first, last)
}

// Ahead gives a leader's new entries to whoever reads, before they are written: raft sends them while it writes them, so that a commit costs the
// flush of the slowest node that it needs instead of two flushes, one behind the other (Ongaro, "Consensus: Bridging Theory and Practice",
// section 10.2.1). The library calls it where scripts/gomended built it, and counts this node among those that have the entries only when
// StoreLogs has returned. They must not change.
func (l *logStore) Ahead(logs []*raft.Log) {
	if before := l.sent.Load(); before != nil { // a request names the entry before its first
		if last := (*before)[len(*before)-1]; last.Index+1 == logs[0].Index {
			logs = append([]*raft.Log{last}, logs...)
		}
	}
	l.sent.Store(&logs)
}

// settle ends what Ahead began: of a leader's entries that are written the last stays in memory, of all others none.
func (l *logStore) settle(logs []*raft.Log, err error) {
	ahead := l.sent.Load()
	if ahead == nil || len(logs) == 0 {
		return
	}
	last := (*ahead)[len(*ahead)-1:]
	if err != nil || last[0] != logs[len(logs)-1] {
		l.sent.Store(nil)
		return
	}
	l.sent.Store(&last)
}

// inMemory finds an entry that need not be read from the disk.
func (l *logStore) inMemory(index uint64, log *raft.Log) bool {
	ahead := l.sent.Load()
	if ahead == nil || index < (*ahead)[0].Index || index-(*ahead)[0].Index >= uint64(len(*ahead)) {
		return false
	}
	*log = *(*ahead)[index-(*ahead)[0].Index]
	return true
}

// DeleteRange implements raft.LogStore. Behind a snapshot it runs beside StoreLogs.
func (l *logStore) DeleteRange(from, to uint64) error {
	for {
		ahead := l.sent.Load()
		if ahead == nil || to < (*ahead)[0].Index {
			break
		}
		var left *[]*raft.Log
		if rest := slices.DeleteFunc(slices.Clone(*ahead), func(log *raft.Log) bool { return from <= log.Index && log.Index <= to }); len(rest) > 0 {
			left = &rest
		}
		if l.sent.CompareAndSwap(ahead, left) {
			break
		}
	}
	return l.walStore.DeleteRange(from, to)
}

// GetLog implements raft.LogStore.
func (l *logStore) GetLog(index uint64, log *raft.Log) (err error) {
	if !l.inMemory(index, log) {
		err = l.lacks(index, l.walStore.GetLog(index, log))
	}
	if err == nil && !l.leads.Load() {
		l.waiting.add(index, len(log.Data))
	}
	return err
}

// lacks says why an entry is not here. Of one that a snapshot has taken the place of, raft's own error has raft send the state. Another that it asks for was
// sent and could not be written: who lacks it gets it from the next leader, and the state would set the configuration there back to the snapshot's.
func (l *logStore) lacks(index uint64, err error) error {
	if !errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	last, failed := l.LastIndex()
	if failed != nil {
		return err
	}
	if l.snaps != nil {
		if r := l.snaps.last.Load(); r != nil {
			last = max(last, r.Index)
		}
	}
	if index <= last {
		return err
	}
	return fmt.Errorf("the log ends at %d: %w", last, err)
}

func (l *logStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

func (l *logStore) StoreLogs(logs []*raft.Log) error {
	err := l.store(logs)
	l.settle(logs, err)
	return err
}

func (l *logStore) store(logs []*raft.Log) error {
	for _, log := range logs {
		l.octets.Add(int64(len(log.Data)))
	}
	l.entries.Add(int64(len(logs)))
	if !l.leads.Load() {
		l.waiting.drain(backlogWait)
	}
	if len(logs) > 0 {
		if err := l.watched(func() error { return l.beginBehind(logs[0].Index) }); err != nil {
			return err
		}
	}
	for len(logs) > 0 {
		n := appendable(logs)
		if err := l.watched(func() error { return l.walStore.StoreLogs(logs[:n]) }); err != nil {
			return err
		}
		logs = logs[n:]
	}
	return nil
}

// appendMost is how many octets go to the log at once. raft-wal keeps, with every segment that was written since the start, a buffer of
// the largest append to it: a node that caught up by pieces of 8 MB held half a gigabyte of them.
const appendMost = 224 << 10

// appendable is how many entries go to the log at once, one at least.
func appendable(logs []*raft.Log) int {
	size := 0
	for i, log := range logs {
		if size += len(log.Data) + len(log.Extensions) + 64; size > appendMost && i > 0 {
			return i
		}
	}
	return len(logs)
}

// What may wait for the state machine in memory. Raft reads what is committed and queues it, 128 batches of it: a follower that takes entries
// faster than its disk applies them would hold all that it missed.
const (
	backlogMost = 4 << 20
	backlogWait = time.Second // then it goes on all the same: a log that stands still is worse
)

// backlog is what was read from the log and is not applied yet. It is bounded where entries come in.
type backlog struct {
	mu      sync.Mutex
	applied uint64
	read    []indexed
	octets  int
	lower   chan struct{} // closed when it gets less; nil while nobody waits
}

type indexed struct {
	index  uint64
	octets int
}

// add notes an entry that was read. What is applied already was read to be sent.
func (b *backlog) add(index uint64, octets int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if index > b.applied {
		b.read = append(b.read, indexed{index, octets})
		b.octets += octets
	}
}

// done notes that everything up to index is applied.
func (b *backlog) done(index uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.applied = max(b.applied, index)
	b.read = slices.DeleteFunc(b.read, func(r indexed) bool {
		if r.index <= b.applied {
			b.octets -= r.octets
		}
		return r.index <= b.applied
	})
	if b.lower != nil {
		close(b.lower)
		b.lower = nil
	}
}

// drain waits until there is room for more, but no longer than most.
func (b *backlog) drain(most time.Duration) {
	lower := b.full()
	if lower == nil {
		return
	}
	timeout := time.NewTimer(most)
	defer timeout.Stop()
	for lower != nil {
		select {
		case <-lower:
			lower = b.full()
		case <-timeout.C:
			return
		}
	}
}

// full is closed when something is applied; nil when there is room.
func (b *backlog) full() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.octets <= backlogMost {
		return nil
	}
	if b.lower == nil {
		b.lower = make(chan struct{})
	}
	return b.lower
}

func (l *logStore) Set(key, val []byte) error {
	return l.watched(func() error { return l.walStore.Set(key, val) })
}

func (l *logStore) SetUint64(key []byte, val uint64) error {
	return l.watched(func() error { return l.walStore.SetUint64(key, val) })
}

// averageEntry is the size of an entry in the log so far, in octets, with overhead; a guess before the first hundred.
func (l *logStore) averageEntry() int64 {
	const guess, overhead = 1 << 10, 48
	n := l.entries.Load()
	if n < 100 {
		return guess
	}
	return l.octets.Load()/n + overhead
}

// trailing is how many entries the log keeps below a snapshot: as many as fit the budget, so that a follower that was cut off for a day
// catches up from the log and not by a snapshot over the radio link.
func trailing(budget, average int64) uint64 {
	const least, most = 1024, 1 << 20
	return uint64(min(max(budget/max(average, 1), least), most))
}

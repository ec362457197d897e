package cluster

import (
	"errors"
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

func (l *logStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

func (l *logStore) StoreLogs(logs []*raft.Log) error {
	for _, log := range logs {
		l.octets.Add(int64(len(log.Data)))
	}
	l.entries.Add(int64(len(logs)))
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

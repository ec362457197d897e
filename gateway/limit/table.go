package limit

import (
	"sync"
	"sync/atomic"
)

const (
	shards  = 16 // a power of two
	sampled = 8  // cells looked at for a past one when a shard is full
)

// table is a bounded map from a key's hash to its cell. Two keys that share all 64 bits of a randomly seeded hash share a cell, which
// harms nobody. When a shard is full, only cells whose time is past are dropped; a newcomer that finds none shares the overflow cell.
type table struct {
	shard    [shards]shard
	each     int // cells per shard
	overflow cell

	evicted, overflowed atomic.Int64
}

type shard struct {
	mu    sync.Mutex
	cells map[uint64]*cell
	_     [40]byte // keeps neighbours' mutexes off one cache line
}

func newTable(size int) *table {
	t := &table{each: max(size/shards, 1)}
	for i := range t.shard {
		t.shard[i].cells = map[uint64]*cell{}
	}
	return t
}

// find returns the key's cell and makes it where there is none.
func (t *table) find(key uint64, now int64) *cell {
	s := &t.shard[key%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cells[key]; c != nil {
		return c
	}
	if len(s.cells) >= t.each && !t.evictLocked(s, now) {
		t.overflowed.Add(1)
		return &t.overflow
	}
	c := new(cell)
	s.cells[key] = c
	return c
}

// peek returns the cell that a charge of the key would use, nil where it would be a new one.
func (t *table) peek(key uint64, now int64) *cell {
	s := &t.shard[key%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cells[key]; c != nil || len(s.cells) < t.each || t.evictLocked(s, now) {
		return c
	}
	return &t.overflow
}

// evictLocked drops one past cell among a few: map order is random, so under a flood every past cell goes soon.
func (t *table) evictLocked(s *shard, now int64) bool {
	seen := 0
	for key, c := range s.cells {
		if c.drop(now) {
			delete(s.cells, key)
			t.evicted.Add(1)
			return true
		}
		if seen++; seen == sampled {
			break
		}
	}
	return false
}

// size counts the cells that are kept.
func (t *table) size() (n int) {
	for i := range t.shard {
		t.shard[i].mu.Lock()
		n += len(t.shard[i].cells)
		t.shard[i].mu.Unlock()
	}
	return n
}

package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// Snapshot is one consistent look at the store. It is safe for concurrent use and must be closed, after the last call on it has
// returned. Hold it for the length of a request or a dump, not longer: an open snapshot delays the change to reading only when the
// disk runs full.
type Snapshot struct {
	h      *handle
	txn    *badger.Txn
	closed atomic.Bool
}

// Snapshot opens a consistent read. It waits for a commit that is in flight. On a closed store every call of the result is ErrClosed.
func (s *Store) Snapshot() *Snapshot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.h == nil {
		return &Snapshot{}
	}
	s.h.refs.Add(1)
	return &Snapshot{h: s.h, txn: s.h.db.NewTransaction(false)}
}

// Close releases the snapshot. Closing twice is harmless.
func (sn *Snapshot) Close() {
	if sn.closed.Swap(true) || sn.h == nil {
		return
	}
	sn.txn.Discard()
	sn.h.release()
}

func (sn *Snapshot) usable() bool { return sn.h != nil && !sn.closed.Load() }

// Get returns a copy of the value of key, or ErrNotFound.
func (sn *Snapshot) Get(key []byte) ([]byte, error) {
	if !sn.usable() {
		return nil, ErrClosed
	}
	before := sn.h.harm.found.Load()
	item, err := sn.txn.Get(key)
	if damaged := sn.h.harm.since(before); damaged != nil { // what was found may be older, and what was not found may be there
		return nil, damaged
	}
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(nil)
}

// Scan visits the keys that start with prefix, in order, beginning at from (or at the prefix when from sorts before it), until visit
// returns false or an error. k and v are valid only during the visit.
func (sn *Snapshot) Scan(prefix, from []byte, visit func(k, v []byte) (more bool, err error)) error {
	if !sn.usable() {
		return ErrClosed
	}
	opts := badger.DefaultIteratorOptions
	opts.PrefetchValues = false // values lie beside the keys; prefetching only adds goroutines
	opts.Prefix = prefix
	before := sn.h.harm.found.Load()
	it := sn.txn.NewIterator(opts)
	defer it.Close()
	start := prefix
	if bytes.Compare(from, prefix) > 0 {
		start = from
	}
	var more bool
	for it.Seek(start); it.ValidForPrefix(prefix); it.Next() {
		if err := sn.h.harm.since(before); err != nil {
			return err
		}
		item := it.Item()
		err := item.Value(func(v []byte) (err error) {
			more, err = visit(item.Key(), v)
			return err
		})
		if err != nil || !more {
			return err
		}
	}
	return sn.h.harm.since(before)
}

// Checksum hashes every key and value under prefix, in key order, without the prefix itself: two stores agree exactly when their
// records do. It reads everything once; on a board that is about 20 ms per MB.
func (sn *Snapshot) Checksum(prefix string) (sum [sha256.Size]byte, err error) {
	h := NewSummer()
	err = sn.Scan([]byte(prefix), nil, func(k, v []byte) (bool, error) {
		h.Add(k[len(prefix):], v)
		return true, nil
	})
	return h.Sum(), err
}

// Summer is the checksum of a sorted run of records, for callers that read through an overlay. The zero value is not usable: NewSummer.
type Summer struct {
	h   hash.Hash
	buf []byte
	n   uint64
}

// NewSummer starts an empty checksum.
func NewSummer() *Summer { return &Summer{h: sha256.New(), buf: make([]byte, 0, 32<<10)} }

// Add counts one record in. Records must come in key order.
func (s *Summer) Add(key, val []byte) {
	s.buf = appendRecord(s.buf, key, val)
	s.n++
	if len(s.buf) >= 16<<10 {
		s.h.Write(s.buf)
		s.buf = s.buf[:0]
	}
}

// Sum is the checksum so far.
func (s *Summer) Sum() (sum [sha256.Size]byte) {
	s.h.Write(s.buf)
	s.buf = s.buf[:0]
	s.h.Sum(sum[:0])
	return sum
}

// appendRecord is the framing that both the checksum and the dump use: lengths as varints, then the octets.
func appendRecord(dst, key, val []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(key)))
	dst = binary.AppendUvarint(dst, uint64(len(val)))
	dst = append(dst, key...)
	return append(dst, val...)
}

package store

// Limits of one batch, a little below Badger's own, which follow from the size of a memtable. They are the same on every node, so that what
// one node commits every node can commit.
const (
	MaxBatchBytes = 300 << 10 // octets of Size; Badger's is 314,572
	MaxBatchOps   = 3000      // operations; Badger's is 3,276
	MaxKey        = 4 << 10   // octets of one key, keyspace prefix included
	opOverhead    = 32        // octets per operation that Badger adds: timestamp, header, checksum
)

// Batch collects puts and deletes that are committed together or not at all. The zero value is ready. It keeps the keys and
// values it is given, which may not change until it is committed.
type Batch struct {
	ops  []op
	size int
	puts int
}

type op struct {
	key, val []byte
	delete   bool
}

// Put sets key to val. A later operation on the same key wins.
func (b *Batch) Put(key, val []byte) {
	b.ops = append(b.ops, op{key: key, val: val})
	b.size += len(key) + len(val) + opOverhead
	b.puts++
}

// Delete removes key; a key that does not exist is no error.
func (b *Batch) Delete(key []byte) {
	b.ops = append(b.ops, op{key: key, delete: true})
	b.size += len(key) + opOverhead
}

// Len is the number of operations.
func (b *Batch) Len() int { return len(b.ops) }

// Size is what the batch counts against MaxBatchBytes, in octets.
func (b *Batch) Size() int { return b.size }

// Fits says whether another ops operations of octets together still go into one transaction.
func (b *Batch) Fits(ops, octets int) bool {
	return len(b.ops)+ops <= MaxBatchOps && b.size+octets+ops*opOverhead <= MaxBatchBytes
}

func (b *Batch) check() error {
	if !b.Fits(0, 0) {
		return ErrTooLarge
	}
	for i := range b.ops {
		if n := len(b.ops[i].key); n == 0 || n > MaxKey {
			return errKey
		}
	}
	return nil
}

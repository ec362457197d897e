package relay

import (
	"context"
	"errors"
	"sync"

	"wispgate/edge"
	"wispgate/edge/store"
)

// Tx takes what belongs into one synced transaction.
type Tx interface {
	Put(key, val []byte)
	Delete(key []byte)
}

// writes is a set of changes that is committed whole.
type writes struct {
	ops      []write
	size     int
	reserved bool // may use the room that is kept for what was promised already
	done     chan error
}

type write struct {
	key, val []byte
	del      bool
}

const opOverhead = 32 // as the store counts

func (w *writes) Put(key, val []byte) {
	w.ops = append(w.ops, write{key: key, val: val})
	w.size += len(key) + len(val) + opOverhead
}

func (w *writes) Delete(key []byte) {
	w.ops = append(w.ops, write{key: key, del: true})
	w.size += len(key) + opOverhead
}

func (w *writes) fits(ops, octets int) bool {
	return len(w.ops)+ops <= store.MaxBatchOps && w.size+octets+ops*opOverhead <= store.MaxBatchBytes
}

var errStopped = errors.New("relay has stopped")

// committer lets everyone who waits while one flush runs share the next one.
type committer struct {
	st   *store.Store
	in   chan *writes
	quit chan struct{}
	gone chan struct{} // closed once nothing is written any more
	wg   sync.WaitGroup
}

func newCommitter(st *store.Store) *committer {
	return &committer{st: st, in: make(chan *writes, 256), quit: make(chan struct{}), gone: make(chan struct{})}
}

func (c *committer) start() { c.wg.Go(c.run) }

// stop ends the committer once what was handed in is written. Nothing may be handed in afterwards.
func (c *committer) stop() {
	close(c.quit)
	c.wg.Wait()
}

// do returns once w is durable, or with the reason that none of it is.
func (c *committer) do(ctx context.Context, w *writes) error {
	if len(w.ops) == 0 {
		return nil
	}
	w.done = make(chan error, 1)
	select {
	case c.in <- w:
		return w.outcome(c.gone)
	case <-c.quit:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// outcome is what became of w. A committer writes what it was handed and then goes: both may have happened when this looks, and what was
// written is not called refused.
func (w *writes) outcome(gone <-chan struct{}) error {
	if err, ok := edge.Hear(w.done, gone, nil); ok {
		return err
	}
	return errStopped
}

func (c *committer) run() {
	defer close(c.gone)
	var next *writes
	for {
		first := next
		next = nil
		if first == nil {
			select {
			case first = <-c.in:
			case <-c.quit:
				select {
				case first = <-c.in:
				default:
					return
				}
			}
		}
		group := []*writes{first}
		size, ops := first.size, len(first.ops)
	gather:
		for next == nil {
			select {
			case w := <-c.in:
				if size+w.size > store.MaxBatchBytes || ops+len(w.ops) > store.MaxBatchOps {
					next = w
				} else {
					group = append(group, w)
					size, ops = size+w.size, ops+len(w.ops)
				}
			default:
				break gather
			}
		}
		c.commit(group)
	}
}

func (c *committer) commit(group []*writes) {
	err := c.write(group, allReserved(group))
	if len(group) > 1 && errors.Is(err, store.ErrTooLarge) || isDiskLow(err) && !allReserved(group) {
		for _, w := range group { // apart: one that is refused does not take the others with it
			w.done <- c.write([]*writes{w}, w.reserved)
		}
		return
	}
	for _, w := range group {
		w.done <- err
	}
}

func allReserved(group []*writes) bool {
	for _, w := range group {
		if !w.reserved {
			return false
		}
	}
	return true
}

func (c *committer) write(group []*writes, reserved bool) error {
	var b store.Batch
	for _, w := range group {
		for i := range w.ops {
			if o := &w.ops[i]; o.del {
				b.Delete(o.key)
			} else {
				b.Put(o.key, o.val)
			}
		}
	}
	if reserved {
		return c.st.CommitReserved(&b)
	}
	return c.st.Commit(&b)
}

func isDiskLow(err error) bool { return errors.Is(err, edge.ErrDiskLow.Error(edge.Unavailable)) }

package exec

import (
	"errors"
	"fmt"
	"iter"

	"wispgate/edge/store"
)

// patch is what the pending intents would change: effects that lie over a State. It is immutable. The newest effects are in memory; a
// long queue's older ones stand in the node-local keyspace of the store, so that a hundred thousand intents do not fill a small board.
// They are derived from the queue and rebuilt from it whenever they are not sure to fit.
type patch struct {
	mem  *tree
	size int    // octets of what mem was given
	deep *spill // nil while memory suffices
}

// spill is the part of a patch that lies in the store, below the prefix of its generation. A State reads it through its own snapshot,
// which is always younger than the spill.
type spill struct{ prefix string }

// get returns what the patch makes of key: found false where it leaves it alone, val nil where it removes it.
func (p *patch) get(sn *store.Snapshot, key string) (val []byte, found bool, err error) {
	if n := p.mem.get(key); n != nil {
		switch {
		case n.delete:
			return nil, true, nil
		case n.val == nil:
			return []byte{}, true, nil
		}
		return n.val, true, nil
	}
	if p.deep == nil {
		return nil, false, nil
	}
	return p.deep.get(sn, key)
}

// scan lays the patch over what lower holds.
func (p *patch) scan(sn *store.Snapshot, prefix, from string, lower func(visitor) error, visit visitor) error {
	over := p.mem.seek(from)
	if p.deep == nil {
		return merge(&over, prefix, lower, visit)
	}
	return merge(&over, prefix, func(visit visitor) error {
		w, stop := p.deep.walk(sn, prefix, from)
		defer stop()
		if err := merge(w, prefix, lower, visit); err != nil {
			return err
		}
		return w.err
	}, visit)
}

// keys calls visit for each key that the patch writes and that is wanted, some of them twice.
func (p *patch) keys(st *State, wanted func(key string) bool, visit func(key string) error) error {
	if p == nil {
		return nil
	}
	for it := p.mem.seek(""); it.node != nil; it.next() {
		if wanted(it.node.key) {
			if err := visit(it.node.key); err != nil {
				return err
			}
		}
	}
	if p.deep == nil || !st.usable() {
		return nil
	}
	return st.base.sn.Scan([]byte(p.deep.prefix), nil, func(k, _ []byte) (bool, error) {
		key := string(k[len(p.deep.prefix):])
		if !wanted(key) {
			return true, nil
		}
		return true, visit(key)
	})
}

// with returns the patch with effects added.
func (p *patch) with(ops []Op) *patch {
	n := &patch{}
	if p != nil {
		*n = *p
	}
	n.mem = n.mem.with(ops, 0)
	for i := range ops {
		n.size += ops[i].Cost()
	}
	return n
}

// A spilled value is preceded by one octet: what it does.
const (
	spilledPut    = 'p'
	spilledDelete = 'd'
)

func (s *spill) get(sn *store.Snapshot, key string) (val []byte, found bool, err error) {
	raw, err := sn.Get([]byte(s.prefix + key))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	val, err = unspill(raw)
	return val, err == nil, err
}

// unspill returns the value, nil for a removal.
func unspill(raw []byte) ([]byte, error) {
	switch {
	case len(raw) > 0 && raw[0] == spilledPut:
		return raw[1:], nil
	case len(raw) == 1 && raw[0] == spilledDelete:
		return nil, nil
	}
	return nil, errors.New("a pending effect in the store is damaged")
}

// walk begins at the first key not below from. stop must be called.
func (s *spill) walk(sn *store.Snapshot, prefix, from string) (w *spillWalk, stop func()) {
	w = &spillWalk{}
	seq := func(yield func(string, []byte) bool) {
		w.err = sn.Scan([]byte(s.prefix+prefix), []byte(s.prefix+max(prefix, from)), func(k, v []byte) (bool, error) {
			val, err := unspill(v)
			if err != nil {
				return false, err
			}
			return yield(string(k[len(s.prefix):]), val), nil
		})
	}
	w.pull, stop = iter.Pull2(iter.Seq2[string, []byte](seq))
	w.next()
	return w, stop
}

// spillWalk walks a spill; err is what ended it early.
type spillWalk struct {
	pull func() (string, []byte, bool)
	key  string
	val  []byte
	ok   bool
	err  error
}

func (w *spillWalk) peek() (string, []byte, bool) { return w.key, w.val, w.ok }

func (w *spillWalk) next() { w.key, w.val, w.ok = w.pull() }

const overlaySpace = "overlay/"

// spillPrefix begins the keys of one generation of spilled effects.
func spillPrefix(generation uint64) string {
	return fmt.Sprintf("%s%s%016x/", store.Local, overlaySpace, generation)
}

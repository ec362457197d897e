package exec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"wispgate/edge/store"
)

// A long overlay moves to the store, below the prefix of its generation. What lies there is taken up again at the next start, so that a
// hundred thousand intents are not evaluated anew: a mark says up to which place of the queue they are in it, and on which version.

// spillMark says what a generation of spilled effects holds.
type spillMark struct {
	Whole   bool   `json:"whole"` // all of it is there, and it was evaluated on one version
	Gen     uint64 `json:"gen"`
	Queue   string `json:"queue"`
	From    uint64 `json:"from"`
	Upto    uint64 `json:"upto"`   // places of the queue
	Digest  string `json:"digest"` // of the intent in the last of them
	Version uint64 `json:"version"`
}

// basis is the version on which an overlay was evaluated.
type basis struct {
	version uint64
	several bool // the state has moved on meanwhile
}

func (b *basis) add(version uint64) { b.several = b.several || b.version != version }

const spillMarkKey = store.Local + "overlay-mark"

func (m spillMark) put(b *store.Batch) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode mark of the overlay: %w", err)
	}
	b.Put([]byte(spillMarkKey), raw)
	return nil
}

// spilled reads the mark; the zero one where there is none.
func (x *Exec) spilled() (m spillMark, err error) {
	snap := x.cfg.Store.Snapshot()
	defer snap.Close()
	raw, err := snap.Get([]byte(spillMarkKey))
	if errors.Is(err, store.ErrNotFound) {
		return m, nil
	}
	if err == nil && json.Unmarshal(raw, &m) != nil {
		m = spillMark{} // it is evaluated anew
	}
	return m, err
}

// spill moves the effects in memory to the store, below a generation's prefix. Where the store takes nothing they stay.
func (x *Exec) spill(p *patch, gen uint64, m spillMark) *patch {
	m.Gen, m.Queue = gen, x.pending.queue
	if err := x.writeSpill(p, gen, m); err != nil {
		x.cfg.Logger.Warn("the overlay of pending writes stays in memory", "error", err)
		return &patch{mem: p.mem, deep: p.deep} // tried again after as much again
	}
	x.cfg.Machine.Refresh()
	return &patch{deep: &spill{spillPrefix(gen)}}
}

// writeSpill takes the mark away first and sets it last: a crash in between leaves a spill that nobody takes up.
func (x *Exec) writeSpill(p *patch, gen uint64, m spillMark) error {
	prefix := spillPrefix(gen)
	var b store.Batch
	b.Delete([]byte(spillMarkKey))
	if err := x.cfg.Store.Commit(&b); err != nil {
		return err
	}
	b = store.Batch{}
	for it := p.mem.seek(""); it.node != nil; it.next() {
		val := []byte{spilledDelete}
		if !it.node.delete {
			val = append([]byte{spilledPut}, it.node.val...)
		}
		if !b.Fits(1, len(prefix)+len(it.node.key)+len(val)) {
			if err := x.cfg.Store.Commit(&b); err != nil {
				return err
			}
			b = store.Batch{}
		}
		b.Put([]byte(prefix+it.node.key), val)
	}
	if !b.Fits(1, maxSpillMark) {
		if err := x.cfg.Store.Commit(&b); err != nil {
			return err
		}
		b = store.Batch{}
	}
	if err := m.put(&b); err != nil {
		return err
	}
	return x.cfg.Store.Commit(&b)
}

const maxSpillMark = 1 << 10

// takeUp makes the spill of the last start the beginning of the overlay, where it holds exactly the first intents that wait, evaluated on the
// state as it is.
func (r *rebaser) takeUp(first, newest uint64) (bool, error) {
	m, err := r.spilled()
	if err != nil || !m.Whole || m.Gen != newest || m.Queue != r.queue || m.From != first || m.Upto < first || m.Upto >= r.cfg.Queue.Next() ||
		m.Version != r.cfg.Machine.Version() {
		return false, err
	}
	same := false
	err = r.read(m.Upto, 1, func(in *Intent, seq uint64) error {
		same = seq == m.Upto && in.digestOfPlace() == m.Digest
		return nil
	})
	if err != nil || !same {
		return false, err
	}
	err = r.read(first, 1, func(in *Intent, _ uint64) error {
		r.pending.oldest.Store(in.At.UnixNano())
		return nil
	})
	p := &r.pending
	p.patch, p.gen, p.next, p.stands = &patch{deep: &spill{spillPrefix(m.Gen)}}, m.Gen, m.Upto+1, basis{version: m.Version}
	p.look.Store(p.patch)
	return true, err
}

// newestSpill is the largest generation that has left effects in the store, 0 for none.
func (x *Exec) newestSpill() (gen uint64, err error) {
	snap := x.cfg.Store.Snapshot()
	defer snap.Close()
	space := store.Local + overlaySpace
	for from := space; ; from = spillPrefix(gen + 1) {
		found := false
		err = snap.Scan([]byte(space), []byte(from), func(k, _ []byte) (bool, error) {
			hex, _, _ := strings.Cut(string(k[len(space):]), "/")
			gen, err = strconv.ParseUint(hex, 16, 64)
			found = true
			return false, err
		})
		if err != nil || !found {
			return gen, err
		}
	}
}

// sweepAtOnce is how many batches of a sweep go before the queue has its turn again.
const sweepAtOnce = 4

// sweep removes spilled effects of generations before one, a few batches at a time: there may be a million, and what waits is not to wait for
// that. It goes on behind what it has removed, instead of passing over it each time.
func (r *rebaser) sweep(before uint64) (done bool, err error) {
	if m, err := r.spilled(); err != nil || m.Gen < before && m != (spillMark{}) {
		var b store.Batch
		b.Delete([]byte(spillMarkKey))
		if err := errors.Join(err, r.cfg.Store.CommitReserved(&b)); err != nil {
			return false, err
		}
	}
	limit := spillPrefix(before)
	for range sweepAtOnce {
		var b store.Batch
		snap := r.cfg.Store.Snapshot()
		err := snap.Scan([]byte(store.Local+overlaySpace), r.swept, func(k, _ []byte) (bool, error) {
			if string(k) >= limit {
				return false, nil
			}
			b.Delete(bytes.Clone(k))
			r.swept = append(r.swept[:0], k...)
			return b.Fits(1, maxSpilledKey), nil
		})
		snap.Close()
		if err != nil || b.Len() == 0 {
			return err == nil, err
		}
		if err := r.cfg.Store.CommitReserved(&b); err != nil {
			r.swept = nil // what was not removed comes before
			return false, err
		}
	}
	return false, nil
}

const maxSpilledKey = MaxOpKey + 64

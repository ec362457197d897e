package exec

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"wispgate/edge"
)

// view is a read-only look at one state.
type view struct {
	exec  *Exec
	state *State
	actor edge.Actor
	now   time.Time

	cutOff bool // the node hears no leader, for a command's Prepare
}

// CutOff is what edge.CutOff asks.
func (v *view) CutOff() bool { return v.cutOff }

func (v *view) Actor() edge.Actor { return v.actor }
func (v *view) Version() uint64   { return v.state.Version() }
func (v *view) Now() time.Time    { return v.now }

func (v *view) Get(key string) ([]byte, error) {
	if err := v.guard(key); err != nil {
		return nil, err
	}
	return present(v.state.Get(key))
}

// present keeps apart what is absent (nil) and what is empty.
func present(val []byte, ok bool, err error) ([]byte, error) {
	if ok && val == nil {
		val = []byte{}
	}
	return val, err
}

func (v *view) Scan(prefix, from string, visit func(string, []byte) (bool, error)) error {
	if err := v.guard(prefix); err != nil {
		return err
	}
	return v.state.Scan(prefix, from, visit)
}

// guard is the second wall between tenants: whatever a table builds, a view reaches only its own tenant and the keys all share.
func (v *view) guard(key string) error { return guard(v.actor.Tenant, key) }

func guard(tenant, key string) error {
	if owner, _, ok := strings.Cut(key, "/"); !ok || owner != tenant && owner != "*" || tenant == "" {
		if !strings.HasPrefix(key, edge.DuePrefix) {
			return fmt.Errorf("key outside tenant %s", tenant)
		}
	}
	return nil
}

// layer is a set of writes over something else; a nil value is a removal.
type layer map[string][]byte

// from returns the layer's keys under prefix that are not less than from, sorted.
func (l layer) from(prefix, from string) []string {
	var keys []string
	for k := range l {
		if strings.HasPrefix(k, prefix) && k >= from {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// draft is the state of a round in the making: what earlier intents of the round wrote, over what the rounds on their way will have
// written, over the committed state.
type draft struct {
	state  *State
	base   uint64   // the version that the round's entry builds on
	under  []*round // on their way and not in state, oldest first; they change no more
	writes layer
	size   int // octets of writes, as an entry would carry them
	events int // event rows so far: the next row's number
	now    time.Time
	exec   *Exec
	cutOff bool // the draft is the overlay's: nothing of it is replicated
}

func (x *Exec) newDraft(st *State, now time.Time) *draft {
	return &draft{exec: x, state: st, base: st.Version(), writes: layer{}, now: now}
}

// get reads a key as the round sees it so far; nil where it is absent.
func (d *draft) get(key string) ([]byte, error) {
	if val, ok := d.writes[key]; ok {
		return val, nil
	}
	for _, r := range slices.Backward(d.under) {
		if val, ok := r.draft.writes[key]; ok {
			return val, nil
		}
	}
	return present(d.state.Get(key))
}

// from returns the keys that the draft's layers hold under prefix and not below from, sorted.
func (d *draft) from(prefix, from string) []string {
	keys := d.writes.from(prefix, from)
	for _, r := range d.under {
		first := sort.Search(len(r.ops), func(i int) bool { return r.ops[i].Key >= max(prefix, from) })
		for _, op := range r.ops[first:] {
			if !strings.HasPrefix(op.Key, prefix) {
				break
			}
			keys = append(keys, op.Key)
		}
	}
	return keys
}

// tx is one intent's transaction over the draft. Until it is merged the draft does not know of it.
type tx struct {
	draft  *draft
	intent *Intent
	writes layer
	scope  string    // namespace of the ids that are made: the operation's
	named  *Intent   // whose ids they are
	wary   bool      // ids are another operation's as well: look whether it has made them
	clash  bool      // it has
	at     time.Time // when a node accepted it, zero for none
	ack    bool      // a node has said yes to it already
	call   int       // which call of a batch runs
	ids    int
	events []emitted
	ran    int // events whose flows have run
}

func (d *draft) begin(in *Intent) *tx {
	t := &tx{draft: d, intent: in, at: in.At, ack: in.Acknowledged, writes: layer{}}
	t.name(in)
	return t
}

// name gives the transaction an intent's ids.
func (t *tx) name(in *Intent) {
	t.scope, t.named, t.wary = in.scoped(), in, in.ids != ""
	if t.wary {
		t.scope = in.ids
	}
}

// FirstID is what edge.FirstID asks.
func (t *tx) FirstID(prefix string) edge.ID {
	return edge.DeriveID(prefix, t.named.told(), idNumber(t.call, 0))
}

func (t *tx) Actor() edge.Actor  { return t.intent.Actor }
func (t *tx) Version() uint64    { return t.draft.base }
func (t *tx) Now() time.Time     { return t.draft.now }
func (t *tx) Acknowledged() bool { return t.ack }

// AcceptedAt is what edge.AcceptedAt asks.
func (t *tx) AcceptedAt() time.Time {
	if t.at.IsZero() || t.at.After(t.Now()) {
		return t.Now()
	}
	return t.at
}

// CutOff is what edge.CutOff asks.
func (t *tx) CutOff() bool { return t.draft.cutOff }

func (t *tx) Emit(e edge.Event) { t.events = append(t.events, emitted{e, t.intent.Actor}) }

func (t *tx) NewID(prefix string) edge.ID {
	id := edge.DeriveID(prefix, t.scope, idNumber(t.call, t.ids))
	t.ids++
	if t.wary {
		if table := t.draft.exec.byID[prefix]; table != nil {
			_, version, err := table.Raw(t, id)
			t.clash = t.clash || version > 0 || err != nil
		}
	}
	return id
}

func (t *tx) Get(key string) ([]byte, error) {
	if err := guard(t.intent.Actor.Tenant, key); err != nil {
		return nil, err
	}
	return t.get(key)
}

func (t *tx) get(key string) ([]byte, error) {
	if val, ok := t.writes[key]; ok {
		return val, nil
	}
	return t.draft.get(key)
}

func (t *tx) Put(key string, val []byte) {
	if val == nil {
		val = []byte{}
	}
	t.write(key, val)
}

func (t *tx) Delete(key string) { t.write(key, nil) }

// write refuses keys outside the tenant: going on would write into another tenant's records.
func (t *tx) write(key string, val []byte) {
	if err := guard(t.intent.Actor.Tenant, key); err != nil {
		panic(err)
	}
	t.writes[key] = val
}

// kernelPut and kernelDelete write the kernel's own keys.
func (t *tx) kernelPut(key string, val []byte) { t.writes[key] = val }
func (t *tx) kernelDelete(key string)          { t.writes[key] = nil }

func (t *tx) Scan(prefix, from string, visit func(string, []byte) (bool, error)) error {
	if err := guard(t.intent.Actor.Tenant, prefix); err != nil {
		return err
	}
	return t.scan(prefix, from, visit)
}

// scan merges the transaction's and the round's writes with the committed keys.
func (t *tx) scan(prefix, from string, visit func(string, []byte) (bool, error)) error {
	over := t.draft.from(prefix, from)
	over = append(over, t.writes.from(prefix, from)...)
	slices.Sort(over)
	over = slices.Compact(over)
	more := true
	emit := func(key string) (err error) { // a key that a layer holds
		val, err := t.get(key)
		if err == nil && val != nil {
			more, err = visit(key, val)
		}
		return err
	}
	err := t.draft.state.Scan(prefix, from, func(key string, val []byte) (bool, error) {
		for more && len(over) > 0 && over[0] < key {
			k := over[0]
			over = over[1:]
			if err := emit(k); err != nil {
				return false, err
			}
		}
		if !more {
			return false, nil
		}
		if len(over) > 0 && over[0] == key {
			over = over[1:]
			err := emit(key)
			return more, err
		}
		var err error
		more, err = visit(key, val)
		return more, err
	})
	for err == nil && more && len(over) > 0 {
		k := over[0]
		over = over[1:]
		err = emit(k)
	}
	return err
}

// merge makes the transaction part of the draft and returns how much the draft grew.
func (d *draft) merge(t *tx) {
	for k, v := range t.writes {
		if old, ok := d.writes[k]; ok {
			d.size -= Op{Key: k, Val: old}.Cost()
		}
		d.writes[k] = v
		d.size += Op{Key: k, Val: v}.Cost()
	}
}

// size is what the transaction would add to an entry, in octets: an upper bound, since overwritten keys count twice.
func (t *tx) size() (n int) {
	for k, v := range t.writes {
		n += Op{Key: k, Val: v}.Cost()
	}
	return n
}

// ops lists the draft's effects in key order: the same draft gives the same octets.
func (d *draft) ops() []Op {
	keys := make([]string, 0, len(d.writes))
	for k := range d.writes {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	ops := make([]Op, len(keys))
	for i, k := range keys {
		ops[i] = Op{Key: k, Val: d.writes[k], Delete: d.writes[k] == nil}
	}
	return ops
}

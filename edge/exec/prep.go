package exec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
)

// prep is what a command's Prepare sees: one per call.
type prep struct {
	x     *Exec
	in    *Intent
	call  int
	once  map[string]string
	links *links
	view  *view // what the node shows, from the first look on
}

// prepare runs every call's Prepare and encodes the inputs. After it the intent is complete and holds no plaintext. A dry run leaves
// nothing behind.
func (x *Exec) prepare(in *Intent, dry bool) (once []map[string]string, err error) {
	once = make([]map[string]string, len(in.Calls))
	if ok, err := x.prepared(in); ok || err != nil {
		return once, err
	}
	l := &links{x: x}
	defer l.release()
	for i := range in.Calls {
		op := x.ops[in.Calls[i].Op]
		raw, shown, err := x.prepareCall(op, &prep{x: x, in: in, call: i, links: l})
		if err != nil {
			return nil, x.visible(op.Name, err)
		}
		in.Calls[i].In, once[i] = raw, shown
	}
	in.inputs = nil
	if dry {
		return once, nil
	}
	return once, l.keep(in)
}

func (x *Exec) prepareCall(op *edge.Op, p *prep) (raw json.RawMessage, once map[string]string, err error) {
	defer func() {
		if p.view != nil {
			p.view.state.Close()
		}
	}()
	if err := op.Prepare(p, p.in.inputs[p.call]); err != nil {
		return nil, nil, err
	}
	raw, err = json.Marshal(p.in.inputs[p.call])
	if err != nil { // a Secret that Prepare left in place refuses to be encoded
		return nil, nil, fmt.Errorf("encode intent: %w", err)
	}
	return raw, p.once, nil
}

func (p *prep) Actor() edge.Actor { return p.in.Actor }
func (p *prep) Now() time.Time    { return p.x.cfg.Now().UTC() }

func (p *prep) ClockTrusted() bool { return p.x.clockTrusted() }

func (p *prep) View() edge.View {
	if p.view == nil {
		st := p.x.look()
		cut := p.x.CutOff() || p.x.log != nil && !p.x.log.Contact()
		p.view = &view{exec: p.x, state: st, actor: p.in.Actor, now: p.x.clock(st), cutOff: cut}
	}
	return p.view
}

func (p *prep) FirstID(prefix string) edge.ID {
	return edge.DeriveID(prefix, p.in.told(), idNumber(p.call, 0))
}

func (p *prep) Seal(record edge.ID, field string, plaintext edge.Secret) (string, error) {
	return p.x.cfg.Secrets.Seal(p.in.Actor.Tenant, string(record), field, []byte(plaintext.Reveal()))
}

func (p *prep) Digest(plaintext edge.Secret) (string, error) {
	return p.x.cfg.Secrets.Digest(plaintext.Reveal())
}

func (p *prep) Random(n int) []byte {
	b := make([]byte, n)
	p.x.random(b)
	return b
}

func (p *prep) Once(field string, value edge.Secret) {
	if p.once == nil {
		p.once = map[string]string{}
	}
	p.once[field] = value.Reveal()
}

// Next takes a number of a node-owned series: it is durable before it is used, so a crash may leave a gap but never a duplicate.
func (p *prep) Next(series string) (n uint64, err error) {
	last, err := p.links.last(p.in.Actor.Tenant, series)
	if err != nil {
		return 0, err
	}
	n = toNumber(last[:min(len(last), 8)]) + 1
	p.links.next(p.in.Actor.Tenant, series, number(n))
	return n, nil
}

// Link implements edge.Prep: the series' row holds the last number and its hash.
func (p *prep) Link(series string, content func(number uint64) any) (edge.Link, error) {
	link := edge.Link{Series: series, Node: p.x.cfg.Node}
	if p.x.cfg.Sign == nil {
		return link, errors.New("this node has no key to sign with")
	}
	last, err := p.links.last(p.in.Actor.Tenant, series)
	if err != nil {
		return link, err
	}
	if len(last) > 8 {
		link.Previous = hex.EncodeToString(last[8:])
	}
	link.Number = toNumber(last[:min(len(last), 8)]) + 1
	if err := link.Seal(content(link.Number), p.x.cfg.Sign); err != nil {
		return link, fmt.Errorf("seal link: %w", err)
	}
	hash, err := hex.DecodeString(link.Hash)
	if err != nil {
		return link, err
	}
	p.links.next(p.in.Actor.Tenant, series, append(number(link.Number), hash...))
	return link, nil
}

// links are the numbers that one intent takes. They become durable all at once when its Prepare is done, together with what it made, and
// not at all when it fails: a number that was taken in vain is missing from its chain.
type links struct {
	x    *Exec
	held bool // the lock on all series, from the first number on
	rows map[string][]byte
}

func seriesKey(tenant, name string) string { return store.Local + "series/" + tenant + "/" + name }

// last is the row of a series, nil before its first number. Nobody else takes one until release.
func (l *links) last(tenant, name string) ([]byte, error) {
	if !l.held {
		l.x.seriesMu.Lock()
		l.held, l.rows = true, map[string][]byte{}
	}
	key := seriesKey(tenant, name)
	if row, ok := l.rows[key]; ok {
		return row, nil
	}
	return l.x.local(key)
}

func (l *links) next(tenant, name string, row []byte) { l.rows[seriesKey(tenant, name)] = row }

// keep makes the numbers durable, and the intent that took them.
func (l *links) keep(in *Intent) error {
	if len(l.rows) == 0 {
		return nil
	}
	raw, err := json.Marshal(preparedIntent{in.scoped(), in.Digest, in.Calls})
	if err != nil {
		return fmt.Errorf("encode prepared intent: %w", err)
	}
	var b store.Batch
	for key, row := range l.rows {
		b.Put([]byte(key), row)
	}
	b.Put([]byte(preparedKey(in)), raw)
	return l.x.cfg.Store.CommitReserved(&b)
}

func (l *links) release() {
	if l.held {
		l.x.seriesMu.Unlock()
	}
}

// local reads a row of this node's own, nil where there is none.
func (x *Exec) local(key string) ([]byte, error) {
	snap := x.cfg.Store.Snapshot()
	defer snap.Close()
	row, err := snap.Get([]byte(key))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return row, err
}

// preparedIntent is what Prepare made of an intent that took numbers. When the intent comes again with the same key, because nobody could
// commit or keep it the first time, the same is used: one payment has one receipt, and its chain no gap.
type preparedIntent struct {
	Operation string      `json:"operation"`
	Digest    string      `json:"digest"`
	Calls     []edge.Call `json:"calls"`
}

// preparedKey is one of 256 places of a tenant: the newest intent there is kept, which is enough for whoever repeats one soon.
func preparedKey(in *Intent) string {
	sum := sha256.Sum256([]byte(in.scoped()))
	return store.Local + "prepared/" + in.Actor.Tenant + "/" + hex.EncodeToString(sum[:1])
}

// prepared completes an intent that was prepared before. Only what moves money takes numbers, so nothing else pays for the look.
func (x *Exec) prepared(in *Intent) (ok bool, err error) {
	if !x.moves(in) {
		return false, nil
	}
	raw, err := x.local(preparedKey(in))
	if err != nil || raw == nil {
		return false, err
	}
	var was preparedIntent
	if err := json.Unmarshal(raw, &was); err != nil {
		return false, fmt.Errorf("decode prepared intent: %w", err)
	}
	if was.Operation != in.scoped() || was.Digest != in.Digest {
		return false, nil
	}
	in.Calls, in.inputs = was.Calls, nil
	return true, nil
}

// idNumber keeps the ids of a batch's calls apart: 2^16 ids per call.
func idNumber(call, n int) int { return call<<16 | n }

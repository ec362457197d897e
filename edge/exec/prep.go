package exec

import (
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
	x    *Exec
	in   *Intent
	call int
	once map[string]string
}

// prepare runs every call's Prepare and encodes the inputs. After it the intent is complete and holds no plaintext.
func (x *Exec) prepare(in *Intent) (once []map[string]string, err error) {
	once = make([]map[string]string, len(in.Calls))
	for i := range in.Calls {
		p := &prep{x: x, in: in, call: i}
		op := x.ops[in.Calls[i].Op]
		if err := op.Prepare(p, in.inputs[i]); err != nil {
			return nil, x.visible(op.Name, err)
		}
		raw, err := json.Marshal(in.inputs[i])
		if err != nil { // a Secret that Prepare left in place refuses to be encoded
			return nil, x.visible(op.Name, fmt.Errorf("encode intent: %w", err))
		}
		in.Calls[i].In, once[i] = raw, p.once
	}
	in.inputs = nil
	return once, nil
}

func (p *prep) Actor() edge.Actor { return p.in.Actor }
func (p *prep) Now() time.Time    { return p.x.cfg.Now().UTC() }

func (p *prep) FirstID(prefix string) edge.ID {
	return edge.DeriveID(prefix, p.in.scoped(), idNumber(p.call, 0))
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
	err = p.x.series(p.in.Actor.Tenant, series, func(last []byte) ([]byte, error) {
		n = toNumber(last[:min(len(last), 8)]) + 1
		return number(n), nil
	})
	return n, err
}

// Link implements edge.Prep: the series' row holds the last number and its hash.
func (p *prep) Link(series string, content func(number uint64) any) (edge.Link, error) {
	link := edge.Link{Series: series, Node: p.x.cfg.Node}
	if p.x.cfg.Sign == nil {
		return link, errors.New("this node has no key to sign with")
	}
	err := p.x.series(p.in.Actor.Tenant, series, func(last []byte) ([]byte, error) {
		if len(last) > 8 {
			link.Previous = hex.EncodeToString(last[8:])
		}
		link.Number = toNumber(last[:min(len(last), 8)]) + 1
		if err := link.Seal(content(link.Number), p.x.cfg.Sign); err != nil {
			return nil, fmt.Errorf("seal link: %w", err)
		}
		hash, err := hex.DecodeString(link.Hash)
		return append(number(link.Number), hash...), err
	})
	return link, err
}

// series replaces the row of a node-owned series by what next makes of it, durably.
func (x *Exec) series(tenant, name string, next func(last []byte) ([]byte, error)) error {
	x.seriesMu.Lock()
	defer x.seriesMu.Unlock()
	key := []byte(store.Local + "series/" + tenant + "/" + name)
	snap := x.cfg.Store.Snapshot()
	last, err := snap.Get(key)
	snap.Close()
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	row, err := next(last)
	if err != nil {
		return err
	}
	var b store.Batch
	b.Put(key, row)
	return x.cfg.Store.CommitReserved(&b)
}

// idNumber keeps the ids of a batch's calls apart: 2^16 ids per call.
func idNumber(call, n int) int { return call<<16 | n }

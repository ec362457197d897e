package exec

import (
	"encoding/binary"
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
func (p *prep) Next(series string) (uint64, error) {
	p.x.mu.Lock()
	defer p.x.mu.Unlock()
	key := []byte(store.Local + "series/" + p.in.Actor.Tenant + "/" + series)
	snap := p.x.cfg.Store.Snapshot()
	defer snap.Close()
	var n uint64
	switch raw, err := snap.Get(key); {
	case err == nil:
		n = binary.BigEndian.Uint64(raw)
	case !errors.Is(err, store.ErrNotFound):
		return 0, err
	}
	n++
	var b store.Batch
	b.Put(key, binary.BigEndian.AppendUint64(nil, n))
	return n, p.x.cfg.Store.Commit(&b)
}

// idNumber keeps the ids of a batch's calls apart: 2^16 ids per call.
func idNumber(call, n int) int { return call<<16 | n }

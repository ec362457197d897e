package exec

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"wispgate/edge"
)

// Intent is a command someone asked for, as it is forwarded, queued and retried: operation id, actor, inputs. It holds no plaintext
// secret. Evaluating it again on the same state gives the same effects.
type Intent struct {
	Operation    string      `json:"operation"` // the client's key or the minted id
	Actor        edge.Actor  `json:"actor"`
	Calls        []edge.Call `json:"calls"`
	Digest       string      `json:"digest"` // of what the client sent, before minting and sealing
	IfMatch      uint64      `json:"if_match,omitempty"`
	Acknowledged bool        `json:"acknowledged,omitempty"`
	At           time.Time   `json:"at,omitzero"`      // when a cut-off node accepted it
	Seen         *Seen       `json:"seen,omitempty"`   // the record as that node saw it
	Origin       *Origin     `json:"origin,omitempty"` // its place in that node's queue

	key    string             // in a second write under one key: the key. Operation is then what beside made of it
	ids    string             // namespace of the ids that are made; "": the operation's
	inputs []any              // decoded, until Prepare has run
	eval   func(tx *tx) error // the kernel's own work, on the leader only
}

// scoped is the operation id within its namespace: tenant and client record, so that rotating a secret does not change it.
func (in *Intent) scoped() string {
	return in.Actor.Tenant + "/" + in.Actor.Subject + "/" + in.Operation
}

// asked is the operation id as whoever asked knows it: his key.
func (in *Intent) asked() string {
	if in.key != "" {
		return in.key
	}
	return in.Operation
}

// told is the namespace of the ids that Prepare knew, and whoever was answered by a cut-off node.
func (in *Intent) told() string {
	return in.Actor.Tenant + "/" + in.Actor.Subject + "/" + in.asked()
}

// running is what an intent is found by while it runs. One of a node's queue runs beside the same operation that the node may have forwarded
// before: it must take its place in the queue, which the other does not.
func (in *Intent) running() string {
	if in.Origin == nil {
		return in.scoped()
	}
	return in.scoped() + "\x00" + in.Origin.String()
}

// maxKey bounds a client's Idempotency-Key, in printable octets.
const maxKey = 255

// accept makes an intent of a request: it resolves and decodes the calls, checks scopes and digests what the client sent.
func (x *Exec) accept(r edge.Request) (*Intent, error) {
	in := &Intent{Operation: r.Key, Actor: r.Actor, IfMatch: r.IfMatch}
	if len(r.Calls) == 0 || len(r.Calls) > 1 && r.IfMatch != 0 {
		return nil, edge.ErrInput.Error(edge.Invalid, edge.Field("/calls", "is empty, or has a version for several", "send one call with If-Match, or several without"))
	}
	if err := checkKey(r.Key); err != nil {
		return nil, err
	}
	if in.Operation == "" {
		in.Operation = x.mint()
	}
	h := sha256.New()
	for _, c := range r.Calls {
		op := x.ops[c.Op]
		if op == nil || !op.Command {
			return nil, edge.ErrUnknownOp.Error(edge.NotFound)
		}
		if !r.Actor.Has(op.Scope) {
			return nil, missingScope(op.Scope)
		}
		if op.NeedsMatch && r.IfMatch == 0 && len(r.Calls) == 1 {
			return nil, edge.ErrNeedsMatch.Error(edge.Conflict)
		}
		input, err := op.Decode(c.In)
		if err != nil {
			return nil, err
		}
		part, err := x.digest(op.Name, r.Actor.Tenant, input)
		if err != nil {
			return nil, err
		}
		h.Write(part)
		in.Calls = append(in.Calls, edge.Call{Op: c.Op})
		in.inputs = append(in.inputs, input)
	}
	_, _ = fmt.Fprintf(h, "if-match %d", r.IfMatch)
	in.Digest = hex.EncodeToString(h.Sum(nil)[:16])
	return in, nil
}

func checkKey(key string) error {
	if len(key) > maxKey {
		return badKey()
	}
	for _, c := range []byte(key) {
		if c < 0x20 || c > 0x7e {
			return badKey()
		}
	}
	return nil
}

func badKey() error {
	return edge.ErrInput.Error(edge.Invalid, edge.FieldError{
		In: "header", Pointer: "Idempotency-Key", Reason: "is not 1 to 255 printable ASCII characters", Fix: "use a UUID",
	})
}

// mint makes an operation id: a UUIDv7.
func (x *Exec) mint() string {
	var r [10]byte
	x.random(r[:])
	return edge.NewUUIDv7(x.cfg.Now().UnixMilli(), r)
}

func (x *Exec) random(p []byte) {
	if x.cfg.Random != nil {
		x.cfg.Random(p)
		return
	}
	_, _ = rand.Read(p) // never fails: crypto/rand ends the program instead
}

// digest covers the command's name and the canonical encoding of its input; secrets enter as a MAC under the tenant's key.
func (x *Exec) digest(op, tenant string, input any) ([]byte, error) {
	secrets := edge.Secrets(input)
	kept := make([]edge.Secret, len(secrets))
	var plain []byte
	for i, s := range secrets {
		kept[i] = *s
		if *s != "" {
			plain = fmt.Appendf(plain, "%d %d:%s", i, len(*s), s.Reveal())
		}
		*s = ""
	}
	raw, err := json.Marshal(input)
	for i, s := range secrets {
		*s = kept[i]
	}
	if err != nil {
		return nil, fmt.Errorf("encode input of %s: %w", op, err)
	}
	h := sha256.New()
	h.Write([]byte(op))
	h.Write([]byte{0})
	h.Write(raw)
	if len(plain) > 0 {
		h.Write(x.cfg.Secrets.MAC(tenant, "idempotency", plain))
	}
	return h.Sum(nil), nil
}

// waiter is an intent someone waits for.
type waiter struct {
	intent  *Intent
	offline bool // it may wait in the queue of a cut-off node
	ready   bool // its intent is prepared; guarded by Exec.mu
	queued  bool // it is in the queue of rounds, or was; guarded by Exec.mu
	ended   bool // it was answered; guarded by Exec.mu
	once    []map[string]string
	reply   edge.Reply
	err     error
	done    chan struct{}
}

// join registers the intent, or finds the same operation already running.
func (x *Exec) join(in *Intent) (w *waiter, joined bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if w := x.inflight[in.running()]; w != nil {
		if w.intent.Digest != in.Digest {
			return nil, false, edge.ErrKeyReused.Error(edge.Invalid)
		}
		return w, true, nil
	}
	w = &waiter{intent: in, offline: x.offline(in), done: make(chan struct{})}
	x.inflight[in.running()] = w
	return w, false, nil
}

// rejoin registers an intent again whose round found that this node leads no more and proposed nothing. Where the same operation was asked
// for again meanwhile, that is the one to wait for.
func (x *Exec) rejoin(w *waiter) (again *waiter, joined bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if other := x.inflight[w.intent.running()]; other != nil && other.intent.Digest == w.intent.Digest {
		return other, true
	}
	again = &waiter{intent: w.intent, offline: w.offline, once: w.once, ready: true, done: make(chan struct{})}
	x.inflight[w.intent.running()] = again
	return again, false
}

// offline reports whether every call of the intent may be accepted by a cut-off node. What is on its way to the leader already may not.
func (x *Exec) offline(in *Intent) bool {
	return in.Origin == nil && in.eval == nil && !slices.ContainsFunc(in.Calls, func(c edge.Call) bool {
		op := x.ops[c.Op]
		return op == nil || !op.Offline
	})
}

// finish answers everybody who waits for the intent.
func (x *Exec) finish(w *waiter, reply edge.Reply, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if w.ended { // a node that came to lead while it forwarded has answered itself
		return
	}
	w.ended, w.reply, w.err = true, reply, err
	if x.inflight[w.intent.running()] == w {
		delete(x.inflight, w.intent.running())
	}
	close(w.done)
}

func (w *waiter) wait(ctx context.Context, joined bool) (edge.Reply, error) {
	if _, ok := edge.Hear(w.done, ctx.Done(), nil); !ok {
		r := edge.ErrInFlight
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			e := r.Error(edge.Conflict)
			e.RetryAfter = 1
			return edge.Reply{}, e
		}
		return edge.Reply{}, edge.ErrUnknown.Error(edge.Unavailable)
	}
	reply := w.reply
	if joined && w.err == nil {
		reply.Replayed, reply.Once = true, nil
	}
	return reply, w.err
}

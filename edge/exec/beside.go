package exec

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"wispgate/edge"
)

// A key that a cut-off node has accepted a write under may have become another write's meanwhile, elsewhere. Both were said yes to, so both
// must end somewhere, and the key can stand for one only. The second is settled beside it: under an operation id that is the key and
// the digest of what was asked. So the same content under the same key is one write, by whatever road and from however many queues it
// comes, and whoever repeats it finds its own outcome.

// besideMark parts key and digest. No client can send it in a key.
const besideMark = "\x7f"

// beside is the intent as a second write under its key.
func (in *Intent) beside() *Intent {
	b := *in
	b.key, b.Operation = in.asked(), in.asked()+besideMark+in.Digest
	return &b
}

func isReused(err error) bool { return errors.Is(err, edge.ErrKeyReused.Error(edge.Invalid)) }

// moves reports whether a call of the intent moves money.
func (x *Exec) moves(in *Intent) bool {
	return slices.ContainsFunc(in.Calls, func(c edge.Call) bool {
		op := x.ops[c.Op]
		return op != nil && op.Class == edge.Money
	})
}

// placed gives a second write the ids that its first evaluation had, so that what was printed and sealed stays true; nothing where other
// records have these ids: then it is evaluated under ids of its own.
func (x *Exec) placed(d *draft, in *Intent) *Intent {
	own := *in
	own.ids = in.told()
	if t, _, err := x.evaluate(d, &own); err == nil && !t.clash {
		return &own
	}
	return in
}

// decideBeside decides about an intent from a queue whose key has become another write's. Money is never refused: it is recorded. For all else
// somebody decides, since one key for two writes is most likely a mistake.
func (x *Exec) decideBeside(d *draft, in *Intent, why error) (*tx, edge.Reply, error) {
	b := in.beside()
	t := d.begin(b)
	reply, ok, err := x.answerIn(t.get, t, b)
	switch {
	case ok:
		return x.repeated(d, b), reply, nil
	case err != nil:
		return x.raise(d, b, err)
	case x.moves(b):
		return x.settleOne(d, x.placed(d, b))
	}
	return x.raise(d, b, why)
}

// ErrRetrySecret is why a retry is refused that would make a record whose secret nobody could open.
var ErrRetrySecret = edge.Reason{
	Code: "conflict_secret", Says: "The secret of this write is sealed for a record whose id another write with the same key has",
	Fix: "Dismiss the conflict, and have it entered again under a key of its own",
}

// retried is how a conflict's intent is evaluated after all: as it is, or beside the write that has its key.
func (x *Exec) retried(t *tx, in *Intent, reason string) (*Intent, error) {
	raw, err := t.get(opKey(in))
	if err != nil {
		return nil, err
	}
	if _, _, err := x.decodeAnswer(t, in, raw); !isReused(err) && reason != edge.ErrKeyReused.Code {
		return in, nil
	}
	own := in.beside()
	own.ids = in.told()
	probe := t.draft.begin(own)
	probe.writes, probe.ack = maps.Clone(t.writes), true
	_, _ = x.runCalls(probe, own) // where it is refused, it will be again, and say so
	if !probe.clash {
		return own, nil
	}
	own.ids = ""
	for _, c := range own.Calls {
		op := x.ops[c.Op]
		if op == nil {
			continue
		}
		input, err := op.Decode(c.In)
		if err != nil {
			return nil, fmt.Errorf("decode input of %s: %w", c.Op, err)
		}
		if op.Record(input) == "" && len(edge.Secrets(input)) > 0 && hasMinted(op, c.In) {
			return nil, ErrRetrySecret.Error(edge.Conflict)
		}
	}
	return own, nil
}

// hasMinted reports whether Prepare has put something into an input: members that no client can send.
func hasMinted(op *edge.Op, raw json.RawMessage) bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return true
	}
	for name := range members {
		if op.In.Field(name) == nil {
			return true
		}
	}
	return false
}

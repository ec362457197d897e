package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"wispgate/edge"
)

// The answer to an operation is part of the entry that holds its effects, so a retry after any failure is answered with the first
// answer. Keys: #op/tenant/subject/key, and #opx/hour/… which says when it may go.
const (
	opPrefix  = "#op/"
	opxPrefix = "#opx/"
	hourForm  = "2006010215"

	// keepAnswers is how long an answer is kept: longer than the oldest outbox a phone may hold.
	keepAnswers = 96 * time.Hour
	// awaitMost is how long it is kept while a node is away that may hold the same write in its queue: a bound for what a dead node costs.
	awaitMost = 30 * 24 * time.Hour
)

type answer struct {
	Digest   string            `json:"d"`
	Version  uint64            `json:"v"`
	Results  []json.RawMessage `json:"r"`
	Conflict edge.ID           `json:"c,omitempty"` // the write waits there for a decision
	Pending  bool              `json:"p,omitempty"` // in the overlay: the cluster has not taken it over
}

func (a *answer) state() string {
	switch {
	case a.Pending:
		return "pending"
	case a.Conflict != "":
		return "conflict"
	}
	return "committed"
}

// encode is json.Marshal for results that json.Marshal made: it does not check and compact them once more.
func (a answer) encode() ([]byte, error) {
	results := a.Results
	if len(results) == 0 {
		return json.Marshal(a)
	}
	a.Results = []json.RawMessage{}
	raw, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	const list = `,"r":[`
	before, behind, _ := bytes.Cut(raw, []byte(list)) // nowhere else: within a string a quote has a backslash before it
	size := len(raw)
	for _, r := range results {
		size += 1 + len(r)
	}
	raw = append(append(make([]byte, 0, size), before...), list...)
	for i, r := range results {
		if i > 0 {
			raw = append(raw, ',')
		}
		raw = append(raw, r...)
	}
	return append(raw, behind...), nil
}

func opKey(in *Intent) string { return opPrefix + in.scoped() }

// record adds the answer to the transaction.
func (x *Exec) record(t *tx, reply edge.Reply) error { return x.recordAs(t, t.intent, reply) }

// recordAs adds the answer to another intent.
func (x *Exec) recordAs(t *tx, in *Intent, reply edge.Reply) error {
	raw, err := answer{in.Digest, reply.Version, reply.Results, reply.Conflict, reply.State == "pending"}.encode()
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	t.kernelPut(opKey(in), raw)
	t.kernelPut(opxKey(t.Now(), in), nil0)
	return nil
}

// opxKey says that the answer to an intent, made at that time, may go.
func opxKey(made time.Time, in *Intent) string {
	return opxPrefix + made.UTC().Format(hourForm) + "/" + in.scoped()
}

var nil0 = []byte{}

// recorded finds the first answer on the draft, committed or made earlier in this round, and under what the intent was answered.
func (x *Exec) recorded(d *draft, in *Intent) (as *Intent, reply edge.Reply, ok bool, err error) {
	t := d.begin(in)
	return x.find(t.get, t, in)
}

// replay finds the first answer in the state or the overlay: the quick way, before anything is prepared.
func (x *Exec) replay(in *Intent) (edge.Reply, bool, error) {
	st, keeping := x.lookFor(in)
	get := func(key string) ([]byte, error) { return present(st.Get(key)) }
	_, reply, ok, err := x.find(get, &view{exec: x, state: st, actor: in.Actor, now: st.Time()}, in)
	st.Close()
	if ok && reply.State == "pending" {
		err = keeping.kept()
	}
	return reply, ok, err
}

// find looks for the answer to the intent: under its key, or beside the write that has its key.
func (x *Exec) find(get func(key string) ([]byte, error), v edge.View, in *Intent) (as *Intent, reply edge.Reply, ok bool, err error) {
	reply, ok, err = x.answerIn(get, v, in)
	if !isReused(err) {
		return in, reply, ok, err
	}
	as = in.beside()
	if reply, ok, other := x.answerIn(get, v, as); ok || other != nil {
		return as, reply, ok, other
	}
	return in, edge.Reply{}, false, err
}

func (x *Exec) answerIn(get func(key string) ([]byte, error), v edge.View, in *Intent) (edge.Reply, bool, error) {
	raw, err := get(opKey(in))
	if err != nil {
		return edge.Reply{}, false, err
	}
	return x.decodeAnswer(v, in, raw)
}

func (x *Exec) decodeAnswer(v edge.View, in *Intent, raw []byte) (edge.Reply, bool, error) {
	if raw == nil {
		return edge.Reply{}, false, nil
	}
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil {
		return edge.Reply{}, false, fmt.Errorf("decode answer: %w", err)
	}
	if a.Digest != in.Digest {
		return edge.Reply{}, false, edge.ErrKeyReused.Error(edge.Invalid)
	}
	if a.Conflict != "" && in.Origin == nil {
		return edge.Reply{}, false, inConflict(v, a.Conflict)
	}
	reply := edge.Reply{
		Operation: in.asked(), Version: a.Version, Replayed: true, Results: a.Results, State: a.state(), Durability: "node", Conflict: a.Conflict,
	}
	if a.Pending {
		reply.Version = 0 // one that an older program noted is not the cluster's
	} else {
		reply.Durability = x.cfg.Durability()
	}
	return reply, true, nil
}

// inConflict answers whoever repeats a write that the cluster did not allow: it waits for a decision, or somebody has let it go. One that was
// done after all has another answer.
func inConflict(v edge.View, id edge.ID) error {
	c, found, err := conflicts.Find(v, id)
	if err != nil {
		return err
	}
	if !found || c.Status != ConflictDismissed {
		e := edge.ErrSyncConflict.Error(edge.Conflict)
		e.Fix = "See wispgate sync conflict get " + string(id) + ": it stands there with the reason until somebody decides"
		return e
	}
	e := edge.ErrSyncDismissed.Error(edge.Conflict)
	if c.DecidedAt != nil {
		e.Message += fmt.Sprintf(": %s, %s", c.DecidedBy, c.DecidedAt.UTC().Format(time.RFC3339))
	}
	e.Fix = "See wispgate sync conflict get " + string(id) + " for why. " + e.Fix
	return e
}

// pruneAnswers removes answers past their time, a bounded number at once; more says that others wait. While a node is away, those of that time
// stay: it may have queued a write whose outcome it did not hear, or that was also made elsewhere, and only the answer tells that it is done.
func (x *Exec) pruneAnswers(ctx context.Context) (bool, error) {
	return x.part(ctx, func(t *tx) (more bool, err error) {
		until := t.Now().Add(-keepAnswers)
		if x.cfg.Unheard != nil {
			since, err := x.cfg.Unheard(t)
			if err != nil {
				return false, err
			}
			if least := t.Now().Add(-awaitMost); !since.IsZero() && since.Before(until) {
				until = since
				if until.Before(least) {
					until = least
				}
			}
		}
		limit := opxPrefix + until.UTC().Format(hourForm)
		n := 0
		var gone []string
		err = t.scan(opxPrefix, "", func(key string, _ []byte) (bool, error) {
			if key >= limit {
				return false, nil
			}
			if n++; n > pruneBatch {
				more = true
				return false, nil
			}
			gone = append(gone, key)
			return true, nil
		})
		for _, key := range gone {
			_, scoped, _ := strings.Cut(key[len(opxPrefix):], "/")
			t.kernelDelete(key)
			t.kernelDelete(opPrefix + scoped)
		}
		return more, err
	})
}

// pruneBatch is how many rows one intent of the janitor removes.
const pruneBatch = 300

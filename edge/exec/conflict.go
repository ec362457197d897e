package exec

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"wispgate/edge"
)

// ConflictStatus is whether somebody has decided.
type ConflictStatus string

// The statuses of a conflict.
const (
	ConflictOpen      ConflictStatus = "open"
	ConflictApplied   ConflictStatus = "applied"
	ConflictDismissed ConflictStatus = "dismissed"
)

// Values lists the statuses, for the schema.
func (ConflictStatus) Values() []string { return []string{"open", "applied", "dismissed"} }

// Conflict is a write that a cut-off node had accepted and the true state did not allow. It is never dropped: it stands here with what
// was asked, why it was refused and who must decide, until somebody has.
type Conflict struct {
	edge.Meta
	Status     ConflictStatus `json:"status" doc:"Whether somebody has decided." example:"open"`
	Operation  string         `json:"operation" check:"max=255" doc:"Operation id of the write: its Idempotency-Key."`
	Calls      []ConflictCall `json:"calls" doc:"What was asked, without secrets."`
	By         string         `json:"by" check:"max=64" doc:"Who asked for it."`
	Node       string         `json:"node" check:"max=64" doc:"Node that had accepted it."`
	AcceptedAt time.Time      `json:"accepted_at" doc:"When."`
	Reason     ConflictReason `json:"reason" doc:"Why the cluster's state did not allow it."`
	Decider    string         `json:"decider" check:"max=256" doc:"Scopes that whoever decides must hold, with spaces between them (RFC 6749 section 3.3): those of all that was asked for at once." example:"billing:write crm:write"`
	DecidedBy  string         `json:"decided_by,omitempty" check:"max=64" doc:"Who decided."`
	DecidedAt  *time.Time     `json:"decided_at,omitempty" doc:"When."`
	Note       string         `json:"note,omitempty" check:"max=500" doc:"Why it was decided so."`
}

// ConflictCall is one operation of a conflict and its input.
type ConflictCall struct {
	Op string          `json:"op" check:"max=100" doc:"The operation."`
	In json.RawMessage `json:"in" doc:"Its input, without what the node had sealed or minted."`
}

// ConflictReason is the refusal.
type ConflictReason struct {
	Code    string            `json:"code" check:"max=64" doc:"Stable code of the refusal."`
	Message string            `json:"message" check:"max=500" doc:"What was wrong."`
	Fix     string            `json:"fix" check:"max=500" doc:"What to do."`
	Fields  []edge.FieldError `json:"fields,omitempty" doc:"Where."`
}

var conflicts = &edge.Table[Conflict]{
	Name: "sync.conflict", Prefix: "cfl", Meta: func(c *Conflict) *edge.Meta { return &c.Meta },
	Indexes: []edge.Index[Conflict]{
		{Name: "status", Keys: func(c *Conflict) []string { return []string{string(c.Status)} }},
		{Name: "node", Keys: func(c *Conflict) []string { return []string{c.Node} }},
	},
}

// conflictIntent is the intent behind a conflict, with what is sealed in it. It is never shown.
type conflictIntent struct {
	edge.Meta
	Intent Intent `json:"intent"`
}

var conflictIntents = &edge.Table[conflictIntent]{
	Name: "sync.conflict_intent", Prefix: "cfi", Private: true, Meta: func(c *conflictIntent) *edge.Meta { return &c.Meta },
}

// ConflictRaised says that a write accepted by a cut-off node waits for a decision.
type ConflictRaised struct {
	Conflict  edge.ID  `json:"conflict"`
	Operation string   `json:"operation"`
	Ops       []string `json:"ops"`
	Node      string   `json:"node"`
	Code      string   `json:"code"`
	Decider   string   `json:"decider"`
}

// ConflictResolved says how somebody decided.
type ConflictResolved struct {
	Conflict edge.ID `json:"conflict"`
	Status   string  `json:"status"`
}

// EventName implements edge.Event.
func (ConflictRaised) EventName() string { return "sync.conflict.raised" }

// Subject implements edge.Event.
func (e ConflictRaised) Subject() edge.ID { return e.Conflict }

// EventName implements edge.Event.
func (ConflictResolved) EventName() string { return "sync.conflict.resolved" }

// Subject implements edge.Event.
func (e ConflictResolved) Subject() edge.ID { return e.Conflict }

// ErrConflictDecided is the reason for a second decision.
var ErrConflictDecided = edge.Reason{Code: "conflict_decided", Says: "Somebody has decided this conflict already", Fix: "Look at the conflict: it says who and how"}

// A conflict holds its intent, what it shows of it, and its event that again; all of it is one entry, whatever the intent holds. So an intent is
// accepted only where there is room beside it, and a conflict that does not fit shows less of it.
const (
	conflictRoom = 24 << 10 // octets beside an intent in the entry of its conflict
	briefMember  = 256      // octets of a member that a long conflict still shows
)

// conflictID is the conflict of an intent from a queue, where it is one.
func (in *Intent) conflictID() edge.ID { return edge.DeriveID("cfl", in.Origin.String(), 0) }

// raise makes a conflict of an intent that the true state refuses. A state that cannot be read refuses nothing: the intent waits.
func (x *Exec) raise(d *draft, in *Intent, why error) (t *tx, reply edge.Reply, err error) {
	if isUnavailable(why) {
		return nil, edge.Reply{}, why
	}
	for _, most := range []int{MaxEntry, briefMember, 0} {
		t, reply, err = x.raiseShowing(d, in, why, most)
		if err != nil || Fits(len(t.writes)+1, t.size()+MaxOpKey) {
			break
		}
	}
	return t, reply, err
}

// raiseShowing makes a conflict that shows no member of an input that is longer than most.
func (x *Exec) raiseShowing(d *draft, in *Intent, why error, most int) (*tx, edge.Reply, error) {
	refusal, _ := edge.AsError(why)
	t := d.begin(in)
	c := Conflict{
		Meta: edge.Meta{ID: in.conflictID()}, Status: ConflictOpen, Operation: in.asked(), By: in.Actor.Subject,
		Node: in.Origin.Node, AcceptedAt: in.At, Reason: ConflictReason{refusal.Code, refusal.Message, refusal.Fix, refusal.Fields},
	}
	raised := ConflictRaised{Conflict: c.ID, Operation: c.Operation, Node: c.Node, Code: refusal.Code}
	var deciders []string
	for _, call := range in.Calls {
		shown, scope, err := x.shownInput(call, most)
		if err != nil {
			return nil, edge.Reply{}, err
		}
		deciders = append(deciders, scope)
		c.Calls, raised.Ops = append(c.Calls, ConflictCall{call.Op, shown}), append(raised.Ops, call.Op)
	}
	slices.Sort(deciders)
	c.Decider = strings.Join(slices.Compact(deciders), " ")
	raised.Decider = c.Decider
	system := t.as(edge.SystemActor(in.Actor.Tenant, "rebase"))
	if err := conflicts.Put(system, &c); err != nil {
		return nil, edge.Reply{}, err
	}
	kept := conflictIntent{Meta: edge.Meta{ID: c.ID.With("cfi")}, Intent: *in}
	kept.Intent.Operation = in.asked()
	if err := conflictIntents.Put(system, &kept); err != nil {
		return nil, edge.Reply{}, err
	}
	system.Emit(raised)
	if err := x.emitAll(t); err != nil {
		return nil, edge.Reply{}, err
	}
	reply := edge.Reply{Operation: in.asked(), State: "conflict", Durability: x.cfg.Durability(), Version: t.Version() + 1, Conflict: c.ID}
	return t, reply, x.record(t, reply)
}

// shownInput is a call's input without the members that the node fills itself and those longer than most, and the scope that the operation asks for.
func (x *Exec) shownInput(call edge.Call, most int) (json.RawMessage, string, error) {
	op := x.ops[call.Op]
	if op == nil { // of a newer version of the program
		return json.RawMessage("{}"), "sync:write", nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(call.In, &members); err != nil {
		return nil, "", fmt.Errorf("decode input of %s: %w", call.Op, err)
	}
	for name, value := range members {
		if f := op.In.Field(name); f == nil || f.Schema.Secret || len(value) > most {
			delete(members, name)
		}
	}
	raw, err := json.Marshal(members)
	return raw, op.Scope, err
}

// ConflictRef names a conflict.
type ConflictRef struct {
	ID edge.ID `json:"id" check:"prefix=cfl" doc:"The conflict."`
}

// getConflict shows one conflict.
var getConflict = edge.Query[ConflictRef, Conflict]{
	Name: "sync.conflict.get", Scope: "sync:read", Class: edge.Personal, Summary: "Show a write that the cluster did not allow",
	Handle: func(v edge.View, in ConflictRef) (Conflict, error) { return conflicts.Get(v, in.ID) },
}

// ConflictList filters a list of conflicts.
type ConflictList struct {
	edge.ListInput
	Status ConflictStatus `json:"status,omitempty" doc:"Only those in this status." example:"open"`
	Node   string         `json:"node,omitempty" check:"max=64" doc:"Only those that this node had accepted." example:"tower7-a"`
}

// listConflicts lists conflicts.
var listConflicts = edge.Query[ConflictList, edge.Page[Conflict]]{
	Name: "sync.conflict.list", Scope: "sync:read", Class: edge.Personal, Summary: "List writes that the cluster did not allow",
	Handle: func(v edge.View, in ConflictList) (edge.Page[Conflict], error) {
		f := edge.Filter[Conflict]{Also: []string{string(in.Status), in.Node}, Keep: func(c *Conflict) bool {
			return (in.Status == "" || c.Status == in.Status) && (in.Node == "" || c.Node == in.Node)
		}}
		switch {
		case in.Status != "":
			f.Index, f.Key = "status", string(in.Status)
		case in.Node != "":
			f.Index, f.Key = "node", in.Node
		}
		return conflicts.Select(v, f, in.ListInput)
	},
}

// ResolveConflict is a decision.
type ResolveConflict struct {
	ID     edge.ID `json:"id" check:"prefix=cfl" doc:"The conflict."`
	Action string  `json:"action" check:"enum=retry|dismiss" doc:"retry does what was asked, on the state as it is now; dismiss lets it go." example:"retry"`
	Note   string  `json:"note,omitempty" check:"max=500" doc:"Why." example:"the customer was called"`
}

// resolveConflict decides: what was asked is done after all, on the state as it is now, or let go.
var resolveConflict = edge.Command[ResolveConflict, Conflict]{
	Name: "sync.conflict.resolve", Scope: "sync:write", Class: edge.Admin, Summary: "Decide about a write that the cluster did not allow",
	Record: func(in ResolveConflict) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in ResolveConflict) (Conflict, error) {
		c, err := conflicts.Get(tx, in.ID)
		if err != nil {
			return c, err
		}
		if c.Status != ConflictOpen {
			return c, ErrConflictDecided.Error(edge.Conflict)
		}
		for scope := range strings.FieldsSeq(c.Decider) {
			if !tx.Actor().Has(scope) {
				return c, missingScope(scope)
			}
		}
		c.Status = ConflictDismissed
		if in.Action == "retry" {
			c.Status = ConflictApplied
			if err := apply(tx, &c); err != nil {
				return c, err
			}
		}
		c.DecidedBy, c.DecidedAt, c.Note = tx.Actor().Subject, new(tx.Now().UTC()), in.Note
		if err := conflicts.Put(tx, &c); err != nil {
			return c, err
		}
		tx.Emit(ConflictResolved{c.ID, string(c.Status)})
		return c, nil
	},
}

// apply does what the conflict's intent asked, as whoever asked for it, with the ids that its first evaluation had: what the tech has
// printed stays true. The answer to the operation is then the one it should have had.
func apply(t edge.Tx, c *Conflict) error {
	own, ok := t.(*tx)
	if !ok {
		return fmt.Errorf("a conflict cannot be resolved inside %T", t)
	}
	kept, err := conflictIntents.Get(t, c.ID.With("cfi"))
	if err != nil {
		return err
	}
	in, err := own.draft.exec.retried(own, &kept.Intent, c.Reason.Code)
	if err != nil {
		return err
	}
	own.kernelDelete(opxKey(c.CreatedAt, in)) // or the new answer would go when the first one's time is over
	return own.draft.exec.redo(own, in)
}

// redo evaluates another intent's calls inside a transaction.
func (x *Exec) redo(t *tx, in *Intent) error {
	scope, named, wary, call, ids, ack, at := t.scope, t.named, t.wary, t.call, t.ids, t.ack, t.at
	defer func() { t.scope, t.named, t.wary, t.call, t.ids, t.ack, t.at = scope, named, wary, call, ids, ack, at }()
	t.name(in)
	t.ack, t.at = true, in.At
	results, err := x.runCalls(t, in)
	if err != nil {
		return err
	}
	return x.recordAs(t, in, edge.Reply{Version: t.Version() + 1, Results: results})
}

// runCalls runs another intent's commands inside a transaction. Their flows run with those of the command that asks for it.
func (x *Exec) runCalls(t *tx, in *Intent) (results []json.RawMessage, err error) {
	for i, c := range in.Calls {
		op := x.ops[c.Op]
		if op == nil {
			return nil, edge.ErrUnknownOp.Error(edge.NotFound)
		}
		input, err := op.Decode(c.In)
		if err != nil {
			return nil, err
		}
		t.call, t.ids = i, 0
		out, err := op.Handle(t.as(in.Actor), input)
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("encode answer: %w", err)
		}
		results = append(results, raw)
	}
	return results, nil
}

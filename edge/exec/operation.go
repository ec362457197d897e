package exec

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"wispgate/edge"
)

// OperationRef names a write by its Idempotency-Key, or the operation id that the first answer gave.
type OperationRef struct {
	Operation string `json:"operation" check:"min=1 max=255" doc:"Idempotency-Key of the write, or the operation id of its first answer."`
	Client    string `json:"client,omitempty" check:"max=255" doc:"Client that sent it, where that was another one: keys are each client's own. It takes the scope sync:read." example:"cli_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"`
}

// OperationOutcome is how far one write has come.
type OperationOutcome struct {
	State      string     `json:"state" check:"enum=pending|committed|conflict|dismissed" doc:"pending: on this node, waiting for the cluster. committed: in the cluster. conflict: the cluster did not allow it, and somebody must decide. dismissed: somebody has let it go."`
	Durability string     `json:"durability" check:"enum=node|cluster|noc" doc:"How far it is durable: on this node, in the cluster, at the NOC."`
	Version    uint64     `json:"version,omitempty" doc:"Version of the cluster's state that first held it; absent while it is pending."`
	Record     edge.ID    `json:"record_id,omitempty" doc:"The record that the write answered."`
	Conflict   edge.ID    `json:"conflict_id,omitempty" check:"prefix=cfl" doc:"Where it waits for a decision, or waited."`
	DecidedBy  string     `json:"decided_by,omitempty" check:"max=64" doc:"Who let it go."`
	DecidedAt  *time.Time `json:"decided_at,omitempty" doc:"When."`
	Note       string     `json:"note,omitempty" check:"max=500" doc:"Why."`
}

// OperationState is how far a write has come, or the writes that share its key.
type OperationState struct {
	Operation string `json:"operation" check:"max=255" doc:"The write."`
	OperationOutcome
	Others []OperationOutcome `json:"others,omitempty" check:"max=32" doc:"Where the same key was sent with other contents, and a cut-off node had accepted them: the outcomes of those writes. The first is the one that is least settled."`
}

// getOperation tells the one who asked for a write how far it has come: what a client polls after a 202. Keys belong to whoever sent them,
// so every credential may ask and sees only its own; who may read conflicts may name another client.
var getOperation = edge.Query[OperationRef, OperationState]{
	Name: "sync.operation.get", Scope: edge.Public, Class: edge.Read, Summary: "Show how far a write has come: on this node, in the cluster, at the NOC",
	Handle: func(v edge.View, in OperationRef) (OperationState, error) {
		look, ok := v.(*view)
		if !ok {
			return OperationState{}, fmt.Errorf("an operation cannot be looked up inside %T", v)
		}
		if in.Client == "" {
			in.Client = v.Actor().Subject
		}
		if in.Client != v.Actor().Subject && !v.Actor().Has(foreignScope) {
			return OperationState{}, missingScope(foreignScope)
		}
		return look.operation(in)
	},
}

// foreignScope is what asking for another client's write takes: what shows everybody's conflicts.
const foreignScope = "sync:read"

func (v *view) operation(ref OperationRef) (out OperationState, err error) {
	in := Intent{Operation: ref.Operation, Actor: edge.Actor{Tenant: v.actor.Tenant, Subject: ref.Client}}
	mark, _, err := v.state.Get(markKey(StreamMark, v.actor.Tenant))
	if err != nil {
		return out, err
	}
	var list []OperationOutcome
	add := func(raw []byte) error {
		o, err := v.outcome(raw, toNumber(mark))
		list = append(list, o)
		return err
	}
	err = v.state.Scan(opKey(&in)+besideMark, "", func(_ string, raw []byte) (bool, error) {
		err := add(raw)
		return err == nil && len(list) < maxOthers, err
	})
	if err != nil {
		return out, err
	}
	if raw, err := present(v.state.Get(opKey(&in))); err != nil {
		return out, err
	} else if raw != nil {
		if err := add(raw); err != nil {
			return out, err
		}
		if last := len(list) - 1; list[last].State == "pending" && v.exec.pending.keeps(&in) { // not answered yet
			list = list[:last]
		}
	}
	if len(list) == 0 {
		return out, v.noOperation(ref)
	}
	// Who asks has been told 202, most likely for a write that stands beside the other: that one comes first where both are as far.
	slices.SortStableFunc(list, func(a, b OperationOutcome) int {
		return slices.Index(unsettled, a.State) - slices.Index(unsettled, b.State)
	})
	return OperationState{ref.Operation, list[0], list[1:]}, nil
}

// maxOthers bounds the writes beside one that are shown.
const maxOthers = 32

// unsettled are the states of an answer, those that most need to be known first.
var unsettled = []string{"conflict", "pending", "dismissed", "committed"}

// noOperation says whose keys were looked at. Only whoever sent the write may be told to send it again: from another client it is another write.
func (v *view) noOperation(ref OperationRef) error {
	e := edge.ErrNotFound.Error(edge.NotFound)
	whose := "this client"
	if ref.Client != v.actor.Subject {
		whose = "the client " + ref.Client
	}
	e.Message = "No write of " + whose + " with this key has been answered here within the last four days"
	e.Fix = "Keys are each client's own: name the client that sent it (--client, client=; scope sync:read), or look at what it wrote. Sent again by another client it is a second write"
	return e
}

// outcome is what an answer says, noc the version up to which the NOC has everything.
func (v *view) outcome(raw []byte, noc uint64) (out OperationOutcome, err error) {
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil {
		return out, fmt.Errorf("decode answer: %w", err)
	}
	out = OperationOutcome{State: a.state(), Durability: "node", Conflict: a.Conflict}
	var record struct {
		ID edge.ID `json:"id"`
	}
	if len(a.Results) == 1 && json.Unmarshal(a.Results[0], &record) == nil {
		out.Record = record.ID
	}
	if a.Pending {
		return out, nil
	}
	out.Version, out.Durability = a.Version, v.exec.cfg.Durability()
	if noc >= a.Version {
		out.Durability = "noc"
	}
	if a.Conflict == "" {
		return out, nil
	}
	c, found, err := conflicts.Find(v, a.Conflict)
	if found && c.Status == ConflictDismissed {
		out.State, out.DecidedBy, out.DecidedAt, out.Note = "dismissed", c.DecidedBy, c.DecidedAt, c.Note
	}
	return out, err
}

// Part is what the executor itself offers, to be joined with the node's own module: conflicts, and how far a write has come.
func Part() edge.Module {
	get, list, resolve, operation := getConflict.Op(), listConflicts.Op(), resolveConflict.Op(), getOperation.Op()
	return edge.Module{
		Tables:  []edge.AnyTable{conflicts, conflictIntents},
		Ops:     []*edge.Op{get, list, resolve, operation},
		Events:  []edge.Event{ConflictRaised{}, ConflictResolved{}},
		Reasons: []edge.Reason{ErrConflictDecided, ErrRetrySecret, ErrLevel, ErrQueueNone, ErrQueueMoved, ErrQueueDamaged, ErrQueueOlder, ErrQueueOrder, ErrQueueWrong},
		Routes: []edge.Route{
			{Method: "GET", Path: "/api/v1/sync/conflicts", Op: list},
			{Method: "GET", Path: "/api/v1/sync/conflicts/{id}", Op: get},
			{Method: "POST", Path: "/api/v1/sync/conflicts/{id}:resolve", Op: resolve},
			{Method: "GET", Path: "/api/v1/sync/operations/{operation}", Op: operation},
		},
	}
}

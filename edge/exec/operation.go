package exec

import (
	"encoding/json"
	"fmt"

	"wispgate/edge"
)

// OperationRef names a write by its Idempotency-Key, or the operation id that the first answer gave.
type OperationRef struct {
	Operation string `json:"operation" check:"min=1 max=255" doc:"Idempotency-Key of the write, or the operation id of its first answer."`
}

// OperationState is how far a write has come.
type OperationState struct {
	Operation  string  `json:"operation" check:"max=255" doc:"The write."`
	State      string  `json:"state" check:"enum=pending|committed|conflict" doc:"pending: on this node, waiting for the cluster. committed: in the cluster. conflict: the cluster did not allow it, and somebody must decide."`
	Durability string  `json:"durability" check:"enum=node|cluster|noc" doc:"How far it is durable: on this node, in the cluster, at the NOC."`
	Version    uint64  `json:"version,omitempty" doc:"Version of the state that first held it."`
	Conflict   edge.ID `json:"conflict_id,omitempty" check:"prefix=cfl" doc:"Where it waits for a decision."`
}

// getOperation tells the one who asked for a write how far it has come: what a client polls after a 202. Keys belong to whoever sent them,
// so every credential may ask and sees only its own.
var getOperation = edge.Query[OperationRef, OperationState]{
	Name: "sync.operation.get", Scope: edge.Public, Class: edge.Read, Summary: "Show how far a write has come: on this node, in the cluster, at the NOC",
	Handle: func(v edge.View, in OperationRef) (OperationState, error) {
		look, ok := v.(*view)
		if !ok {
			return OperationState{}, fmt.Errorf("an operation cannot be looked up inside %T", v)
		}
		return look.operation(in.Operation)
	},
}

func (v *view) operation(key string) (OperationState, error) {
	in := Intent{Operation: key, Actor: v.actor}
	raw, err := present(v.state.Get(opKey(&in)))
	if err != nil {
		return OperationState{}, err
	}
	var a answer
	if raw != nil {
		if err := json.Unmarshal(raw, &a); err != nil {
			return OperationState{}, fmt.Errorf("decode answer: %w", err)
		}
	}
	if raw == nil || a.Pending && v.exec.pending.keeps(&in) { // or not answered yet
		e := edge.ErrNotFound.Error(edge.NotFound)
		e.Message, e.Fix = "No write with this key has been answered here within the last four days", "Send the write again with the same Idempotency-Key: it is done once"
		return OperationState{}, e
	}
	out := OperationState{Operation: key, State: a.state(), Durability: "node", Version: a.Version, Conflict: a.Conflict}
	if a.Pending {
		return out, nil
	}
	out.Durability = v.exec.cfg.Durability()
	mark, _, err := v.state.Get(markKey(StreamMark, v.actor.Tenant))
	if err == nil && toNumber(mark) >= a.Version {
		out.Durability = "noc"
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
		Reasons: []edge.Reason{ErrConflictDecided, ErrLevel, ErrQueueNone, ErrQueueMoved, ErrQueueOlder, ErrQueueOrder, ErrQueueWrong},
		Routes: []edge.Route{
			{Method: "GET", Path: "/api/v1/sync/conflicts", Op: list},
			{Method: "GET", Path: "/api/v1/sync/conflicts/{id}", Op: get},
			{Method: "POST", Path: "/api/v1/sync/conflicts/{id}:resolve", Op: resolve},
			{Method: "GET", Path: "/api/v1/sync/operations/{operation}", Op: operation},
		},
	}
}

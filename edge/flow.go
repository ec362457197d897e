package edge

import (
	"context"
	"encoding/json"
	"fmt"
)

// Flow couples domains: when an event happens, something else runs. All flows stand in edge/app/flows.go.
type Flow struct {
	Name  string // event > what runs; it names the flow in metrics and in the after-flows' marks
	Event string
	When  func(tx Tx, e Event) error                                // in the same commit
	After func(ctx context.Context, x Executor, row EventRow) error // later, at least once, idempotent by event id
}

// When runs do in the same commit as the event: for invariants only, because a failure makes the command fail. Chains are at most
// MaxFlowDepth deep.
func When[E Event](name string, do func(tx Tx, e E) error) Flow {
	var zero E
	return Flow{Name: name, Event: zero.EventName(), When: func(tx Tx, e Event) error {
		ev, ok := e.(E)
		if !ok {
			return fmt.Errorf("flow %s: event %s has the type %T", name, e.EventName(), e)
		}
		return do(tx, ev)
	}}
}

// After runs do once the event is committed, on one node, at least once: it must be idempotent by the event's id, and may use the
// network. It is the default way to couple domains.
func After[E Event](name string, do func(ctx context.Context, x Executor, row EventRow, e E) error) Flow {
	var zero E
	return Flow{Name: name, Event: zero.EventName(), After: func(ctx context.Context, x Executor, row EventRow) error {
		var e E
		if err := json.Unmarshal(row.Changed, &e); err != nil {
			return fmt.Errorf("flow %s: decode %s: %w", name, row.Type, err)
		}
		return do(ctx, x, row, e)
	}}
}

// MaxFlowDepth bounds how many flows may set each other off in one commit.
const MaxFlowDepth = 8

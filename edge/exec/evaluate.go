package exec

import (
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"

	"wispgate/edge"
)

// evaluate runs one intent over the draft: calls, flows, event rows, idempotency record. On success the transaction waits to be
// merged; on error nothing of it remains.
func (x *Exec) evaluate(d *draft, in *Intent) (t *tx, reply edge.Reply, err error) {
	t = d.begin(in)
	defer func() {
		if p := recover(); p != nil {
			x.cfg.Logger.Error("handler panicked", "operation", in.name(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			t, reply, err = nil, edge.Reply{}, edge.ErrInternal.Error(edge.Internal)
		}
	}()
	if in.eval != nil {
		return t, edge.Reply{}, in.eval(t)
	}
	reply = edge.Reply{Operation: in.asked(), State: "committed", Durability: x.cfg.Durability(), Version: t.Version() + 1}
	for i, c := range in.Calls {
		t.call, t.ids = i, 0
		out, err := x.call(t, c)
		if err != nil {
			if len(in.Calls) > 1 {
				err = inCall(i, err)
			}
			return nil, edge.Reply{}, err
		}
		reply.Results = append(reply.Results, out)
	}
	if err := x.emitAll(t); err != nil {
		return nil, edge.Reply{}, err
	}
	reply.Records = x.touched(t)
	return t, reply, nil
}

// name is what logs and metrics call the intent.
func (in *Intent) name() string {
	switch {
	case in.eval != nil:
		return "kernel"
	case len(in.Calls) == 1:
		return in.Calls[0].Op
	default:
		return "batch"
	}
}

func (x *Exec) call(t *tx, c edge.Call) (json.RawMessage, error) {
	op := x.ops[c.Op]
	if op == nil { // an intent of a newer version of the program: it waits until this node has it, too
		return nil, ErrLevel.Error(edge.Unavailable)
	}
	if err := t.reached(op); err != nil {
		return nil, err
	}
	in, err := op.Decode(c.In)
	if err != nil {
		return nil, err
	}
	if err := x.match(t, op, in); err != nil {
		return nil, err
	}
	start := x.cfg.Now()
	out, err := op.Handle(t, in)
	if err == nil {
		err = x.runFlows(t)
	}
	x.observe(op.Name, err, start)
	if err != nil {
		return nil, x.visible(op.Name, err)
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return nil, x.visible(op.Name, fmt.Errorf("encode answer: %w", err))
	}
	return raw, nil
}

// match checks If-Match before the handler runs.
func (x *Exec) match(t *tx, op *edge.Op, in any) error {
	if t.ack { // the versions that a cut-off node saw are its own; what counts is whether the same members were changed
		return x.fieldConflict(t)
	}
	id := op.Record(in)
	if t.intent.IfMatch == 0 || id == "" {
		return nil
	}
	table := x.byID[id.Prefix()]
	if table == nil {
		return edge.ErrNotFound.Error(edge.NotFound)
	}
	_, version, err := table.Raw(t, id)
	if err != nil {
		return err
	}
	if version == 0 {
		return edge.ErrNotFound.Error(edge.NotFound)
	}
	if version != t.intent.IfMatch {
		e := edge.ErrVersion.Error(edge.Conflict)
		e.Version = version
		return e
	}
	return nil
}

// runFlows runs the same-commit flows of the events emitted so far, in order, until no new event appears. The event rows of a call's
// flows belong to the call: a batch's later calls see what they did.
func (x *Exec) runFlows(t *tx) error {
	depth, end := 0, len(t.events)
	for i := t.ran; i < len(t.events); i++ {
		if i == end {
			depth, end = depth+1, len(t.events)
			if depth >= edge.MaxFlowDepth {
				return edge.ErrFlowDepth.Error(edge.Internal)
			}
		}
		e := t.events[i]
		for _, f := range x.when[e.EventName()] {
			if err := f.When(t.as(e.actor), e.Event); err != nil {
				return fmt.Errorf("flow %s: %w", f.Name, err)
			}
		}
		t.ran = i + 1
	}
	return nil
}

// emitAll writes the event rows: each holds the subject as it stands at the end of the intent.
func (x *Exec) emitAll(t *tx) error {
	d := t.draft
	version := t.Version() + 1
	for i, e := range t.events {
		if edge.IsInner(e.Event) {
			continue
		}
		changed, err := json.Marshal(e.Event)
		if err != nil {
			return fmt.Errorf("encode event %s: %w", e.EventName(), err)
		}
		row := edge.EventRow{
			ID: edge.DeriveID("evt", t.intent.scoped(), idNumber(0x7fff, i)), Type: e.EventName(), Tenant: e.actor.Tenant,
			Subject: e.Subject(), Time: t.Now(), Actor: e.actor.Subject, Operation: t.intent.asked(), Changed: changed,
		}
		if table := x.byID[row.Subject.Prefix()]; table != nil {
			if row.Object, _, err = table.Raw(t.as(e.actor), row.Subject); err != nil {
				return err
			}
		}
		raw, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("encode event row: %w", err)
		}
		t.kernelPut(eventKey(row.Tenant, version, d.events+i), raw)
		t.kernelPut(headKey(row.Tenant), number(version))
	}
	return nil
}

// touched lists the records the transaction wrote or removed.
func (x *Exec) touched(t *tx) (ids []edge.ID) {
	for k := range t.writes {
		if _, table, id, ok := edge.ParseRecordKey(k); ok && x.tables[table] != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// inCall says in which call of a batch an error arose.
func inCall(i int, err error) error {
	e, ok := edge.AsError(err)
	if !ok {
		return err
	}
	c := *e
	c.Fields = append([]edge.FieldError{}, e.Fields...)
	if len(c.Fields) == 0 {
		c.Fields = []edge.FieldError{{In: "body", Reason: "was refused"}}
	}
	for j := range c.Fields {
		c.Fields[j].Pointer = fmt.Sprintf("/operations/%d%s", i, c.Fields[j].Pointer)
	}
	return &c
}

// dryRun evaluates on the present state, answers what would happen, and commits nothing. It needs no quorum.
func (x *Exec) dryRun(in *Intent) (edge.Reply, error) {
	if _, err := x.prepare(in, true); err != nil {
		return edge.Reply{}, err
	}
	st := x.look()
	defer st.Close()
	d := x.newDraft(st, x.clock(st))
	t, reply, err := x.evaluate(d, in)
	if err != nil {
		return edge.Reply{}, err
	}
	plan := &edge.Plan{Version: st.Version(), Changes: []edge.PlanChange{}, Events: []edge.PlanEvent{}}
	d.merge(t)
	for _, op := range d.ops() {
		tenant, name, id, ok := edge.ParseRecordKey(op.Key)
		table := x.tables[name]
		if !ok || table == nil || tenant != in.Actor.Tenant {
			continue
		}
		after, _, err := table.Raw(t, id)
		if err != nil {
			return edge.Reply{}, err
		}
		before, _, err := table.Raw(&view{exec: x, state: st, actor: in.Actor, now: d.now}, id)
		if err != nil {
			return edge.Reply{}, err
		}
		if before != nil || after != nil { // private tables show neither
			plan.Changes = append(plan.Changes, edge.PlanChange{Table: name, ID: id, Before: before, After: after})
		}
	}
	for _, e := range t.events {
		if edge.IsInner(e.Event) {
			continue
		}
		changed, err := json.Marshal(e.Event)
		if err != nil {
			return edge.Reply{}, err
		}
		plan.Events = append(plan.Events, edge.PlanEvent{Type: e.EventName(), Subject: e.Subject(), Changed: changed})
	}
	reply.State, reply.Plan, reply.Version, reply.Records = "dry_run", plan, st.Version(), nil
	return reply, nil
}

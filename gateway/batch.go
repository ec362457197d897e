package gateway

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/valyala/fasthttp"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

// batchInput is the body of POST /api/v1/batch.
type batchInput struct {
	Mode  string      `json:"mode" check:"enum=atomic|best_effort" doc:"atomic: all or nothing, one operation; best_effort: each item for itself."`
	Items []batchItem `json:"items" check:"min=1 max=100"`
}

// batchItem is one command of a batch.
type batchItem struct {
	Op      string          `json:"op" check:"max=128" doc:"Name of a command, such as crm.customer.create."`
	In      json.RawMessage `json:"in" doc:"The command's input, path parameters included."`
	IfMatch string          `json:"if_match,omitempty" check:"max=32" doc:"ETag of the last read; in best_effort batches only."`
}

func (s *Server) ownRoutes() []*route {
	batchBody, err := edge.SchemaOf[batchInput]()
	if err != nil {
		panic("gateway: the batch's own schema: " + err.Error()) // a defect of this file, found by every test
	}
	body, err := plan.Compile(batchBody)
	if err != nil {
		panic("gateway: the batch's own schema: " + err.Error())
	}
	batch := classes[edge.Write]
	batch.lane = writeLane
	read := classes[edge.Report]
	read.cost = 5
	get := func(path, name, summary string, body func(*exchange) ([]byte, *edge.Error)) *route {
		return &route{Route: edge.Route{Method: "GET", Path: path}, care: read, own: &own{
			name: name, scope: anyScope, summary: summary,
			run: func(_ context.Context, x *exchange) *edge.Error {
				b, e := body(x)
				if e == nil {
					x.send(fasthttp.StatusOK, jsonType, b)
				}
				return e
			},
		}}
	}
	return []*route{
		{
			Route: edge.Route{Method: "POST", Path: batchPath}, care: batch, body: body,
			own: &own{name: "gateway.batch.run", scope: anyScope, summary: "Run up to 100 commands, all or nothing or each for itself.", write: true, run: s.batch},
		},
		get(openapiPath, "gateway.openapi.get", "This document: what the credential may call.", func(x *exchange) ([]byte, *edge.Error) { return s.docs.openapi(x.who.Actor) }),
		get(eventsPath, "gateway.events.list", "The event catalogue, as AsyncAPI 3.0.", func(*exchange) ([]byte, *edge.Error) { return s.docs.events, nil }),
		get(reasonsPath, "gateway.reasons.list", "Every reason code with its sentence and its remedy.", func(*exchange) ([]byte, *edge.Error) { return s.docs.reasons, nil }),
	}
}

// batch runs several commands. Every item is judged before any runs in an atomic batch; in a best-effort one each has its own answer.
func (s *Server) batch(ctx context.Context, x *exchange) *edge.Error {
	var in batchInput
	if err := json.Unmarshal(x.in, &in); err != nil {
		return edge.ErrInput.Error(edge.Invalid)
	}
	cost := 0
	for _, item := range in.Items {
		if rt := s.ops[item.Op]; rt != nil {
			cost += rt.care.cost
		}
	}
	if e := s.throttle(x, max(0, cost-x.rt.care.cost)); e != nil {
		return e
	}
	if in.Mode == "atomic" {
		return s.atomic(ctx, x, in.Items)
	}
	return s.bestEffort(ctx, x, in.Items)
}

// judgeItem holds one item against its operation's scope and schema.
func (s *Server) judgeItem(x *exchange, item *batchItem) *edge.Error {
	rt := s.ops[item.Op]
	switch {
	case rt == nil:
		return edge.ErrUnknownOp.Error(edge.NotFound)
	case !x.who.Actor.Has(rt.op.Scope):
		return missing(rt.op.Scope)
	case !rt.op.Command:
		return errNotCommand.Error(edge.Invalid)
	case rt.care.needsKey && x.key == "":
		return errIdemNeeded.Error(edge.Invalid)
	}
	x.check.Reset()
	if !rt.in.Check(&x.check, item.In) {
		e := x.refusedBody()
		e.Fields = slices.Clone(e.Fields)
		return e
	}
	return nil
}

func (s *Server) atomic(ctx context.Context, x *exchange, items []batchItem) *edge.Error {
	req := edge.Request{Key: x.key, Actor: x.who.Actor, DryRun: x.dryRun}
	refused := errAborted.Error(edge.Invalid)
	for i := range items {
		e := s.judgeItem(x, &items[i])
		if e == nil && items[i].IfMatch != "" {
			e = errIfMatch.Error(edge.Invalid, edge.Field("/if_match", "is for best_effort batches", "leave it out"))
		}
		if e != nil {
			addItem(refused, i, e)
			continue
		}
		req.Calls = append(req.Calls, edge.Call{Op: items[i].Op, In: items[i].In})
	}
	if len(refused.Fields) > 0 {
		return refused
	}
	reply, err := s.ports.Executor.Do(ctx, req)
	if reply.Operation != "" {
		x.op = reply.Operation
	}
	if err != nil {
		return s.seen(x, err)
	}
	if x.dryRun {
		return s.planned(x, &reply)
	}
	x.writeHeaders(&reply)
	b := []byte(`{"results":[`)
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		var once map[string]string
		if i < len(reply.Once) {
			once = reply.Once[i]
		}
		b = append(b, `{"op":`...)
		b = plan.AppendString(b, items[i].Op)
		b = append(b, `,"status":200,"data":`...)
		b = append(b, withOnce(resultAt(reply.Results, i), once)...)
		b = append(b, '}')
	}
	x.sendWrite(statusOfWrite(&reply, false), &reply, append(b, ']', '}'))
	return nil
}

func resultAt(results []json.RawMessage, i int) []byte {
	if i < len(results) && len(results[i]) > 0 {
		return results[i]
	}
	return []byte("{}")
}

// addItem adds what was wrong with item i to the refusal of the batch, its pointers below /items/i/in.
func addItem(refused *edge.Error, i int, e *edge.Error) {
	at := "/items/" + strconv.Itoa(i)
	if len(e.Fields) == 0 {
		refused.Fields = append(refused.Fields, edge.Field(at, e.Message, e.Fix))
		return
	}
	if e.Code != errIfMatch.Code {
		at += "/in"
	}
	for _, f := range e.Fields {
		f.Pointer = at + f.Pointer
		refused.Fields = append(refused.Fields, f)
	}
}

func (s *Server) bestEffort(ctx context.Context, x *exchange, items []batchItem) *edge.Error {
	b := []byte(`{"results":[`)
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.oneItem(ctx, x, i, &items[i], b)
	}
	x.send(fasthttp.StatusOK, jsonType, append(b, ']', '}'))
	return nil
}

// oneItem runs one command of a best-effort batch; its operation id is the batch's key and its place, so a repeated batch is answered
// item by item.
func (s *Server) oneItem(ctx context.Context, x *exchange, i int, item *batchItem, b []byte) []byte {
	req := edge.Request{Actor: x.who.Actor, DryRun: x.dryRun, Calls: []edge.Call{{Op: item.Op, In: item.In}}}
	if x.key != "" {
		req.Key = x.key + "." + strconv.Itoa(i)
	}
	e := s.judgeItem(x, item)
	if e == nil && item.IfMatch != "" {
		version, ok := tagVersion([]byte(item.IfMatch))
		if !ok || version == 0 || !s.ops[item.Op].op.Matches {
			e = errIfMatch.Error(edge.Invalid)
		}
		req.IfMatch = version
	}
	var reply edge.Reply
	if e == nil {
		var err error
		if reply, err = s.ports.Executor.Do(ctx, req); err != nil {
			e = s.seen(x, err)
		}
	}
	b = append(b, `{"op":`...)
	b = plan.AppendString(b, item.Op)
	if e != nil {
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(statusOf(e)), 10)
		b = append(b, `,"error":`...)
		return append(appendProblem(b, e, x.request(), reply.Operation), '}')
	}
	x.version = max(x.version, reply.Version)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(statusOfWrite(&reply, false)), 10)
	b = append(b, `,"data":`...)
	b = append(b, withOnce(resultAt(reply.Results, 0), firstOnce(reply.Once))...)
	b = append(b, `,"sync":`...)
	return append(appendSync(b, &reply), '}')
}

package exec_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/exec"
)

// The sample domain: boxes with labels, a derived lid per box, an expiry, and every trouble a handler can make.

type box struct {
	edge.Meta
	Label string    `json:"label" check:"max=4000"`
	Color string    `json:"color" check:"max=20"`
	Until time.Time `json:"until,omitzero"`
}

type lid struct {
	ID    edge.ID `json:"id"`
	Label string  `json:"label"`
}

type boxMade struct {
	Box   edge.ID `json:"box"`
	Label string  `json:"label"`
}

func (boxMade) EventName() string  { return "test.box.made" }
func (e boxMade) Subject() edge.ID { return e.Box }

type boxSeen struct {
	Box edge.ID `json:"box"`
}

func (boxSeen) EventName() string  { return "test.box.seen" }
func (e boxSeen) Subject() edge.ID { return e.Box }

var boxes = &edge.Table[box]{
	Name: "test.box", Prefix: "box", Meta: func(b *box) *edge.Meta { return &b.Meta },
	Indexes: []edge.Index[box]{
		{Name: "label", Unique: true, Keys: func(b *box) []string { return []string{b.Label} }},
		{Name: "color", Keys: func(b *box) []string { return []string{b.Color} }},
		{Name: "place", Unique: true, Global: true, Keys: func(b *box) []string {
			if p, ok := strings.CutPrefix(b.Label, "place:"); ok {
				return []string{p}
			}
			return nil
		}},
	},
	Due: &edge.Due[box]{At: func(b *box) time.Time { return b.Until }, Run: "test.box.expire"},
}

var lids = &edge.Derived[lid]{
	Name: "test.lid", Prefix: "lid", From: boxes,
	Of: func(v edge.View, id edge.ID) (lid, bool, error) {
		b, ok, err := boxes.Find(v, id)
		return lid{id.With("lid"), strings.ToUpper(b.Label)}, ok, err
	},
}

type newBox struct {
	edge.Common
	Label  string      `json:"label" check:"max=4000"`
	Color  string      `json:"color,omitempty" check:"max=20"`
	Until  time.Time   `json:"until,omitzero"`
	Secret edge.Secret `json:"secret,omitempty" check:"max=64"`
	Sealed string      `json:"sealed,omitempty" check:"internal"`
}

var makeBox = edge.Command[newBox, box]{
	Name: "test.box.make", Scope: "test:write", Summary: "Make a box.", Class: edge.Write,
	Prepare: func(p edge.Prep, in *newBox) error {
		if in.Secret == "" {
			return nil
		}
		sealed, err := p.Seal(p.FirstID("box"), "secret", in.Secret)
		in.Sealed, in.Secret = sealed, ""
		p.Once("revealed", "only now")
		return err
	},
	Handle: func(tx edge.Tx, in newBox) (box, error) {
		b := box{Meta: in.Common.Meta(tx.NewID("box")), Label: in.Label, Color: in.Color, Until: in.Until}
		tx.Emit(boxMade{b.ID, b.Label})
		if err := boxes.Put(tx, &b); err != nil {
			return b, err
		}
		_, _, _, err := lids.Refresh(tx, b.ID)
		return b, err
	},
}

type paint struct {
	ID    edge.ID `json:"id" check:"prefix=box"`
	Color string  `json:"color" check:"max=20"`
}

var paintBox = edge.Command[paint, box]{
	Name: "test.box.paint", Scope: "test:write", Summary: "Paint a box.", Class: edge.Write,
	Record: func(in paint) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in paint) (box, error) {
		b, err := boxes.Get(tx, in.ID)
		if err != nil {
			return b, err
		}
		b.Color = in.Color
		return b, boxes.Put(tx, &b)
	},
}

var expireBox = edge.Command[edge.DueInput, edge.None]{
	Name: "test.box.expire", Scope: "test:write", Summary: "Remove a box whose time is over.", Class: edge.Write,
	Handle: func(tx edge.Tx, in edge.DueInput) (edge.None, error) {
		if err := boxes.Delete(tx, in.ID); err != nil {
			return edge.None{}, err
		}
		_, _, _, err := lids.Refresh(tx, in.ID)
		return edge.None{}, err
	},
}

var troubleBox = edge.Command[newBox, edge.None]{
	Name: "test.box.trouble", Scope: "test:write", Summary: "Fail after writing.", Class: edge.Write,
	Handle: func(tx edge.Tx, in newBox) (edge.None, error) {
		b := box{Meta: edge.Meta{ID: tx.NewID("box")}, Label: "half done"}
		if err := boxes.Put(tx, &b); err != nil {
			return edge.None{}, err
		}
		tx.Emit(boxMade{b.ID, b.Label})
		switch in.Label {
		case "panic":
			panic("trouble")
		case "foreign":
			tx.Put("other/test.box/x", []byte("{}"))
		}
		return edge.None{}, edge.ErrInput.Error(edge.Invalid)
	},
}

type listBoxes struct {
	edge.ListInput
	Color string `json:"color,omitempty" check:"max=20"`
}

var listBox = edge.Query[listBoxes, edge.Page[box]]{
	Name: "test.box.list", Scope: "test:read", Summary: "List boxes.", Class: edge.Read,
	Handle: func(v edge.View, in listBoxes) (edge.Page[box], error) {
		if in.Color != "" {
			return boxes.List(v, "color", in.Color, in.ListInput)
		}
		return boxes.List(v, "", "", in.ListInput)
	},
}

func module() edge.Module {
	return edge.Module{
		Name: "test", Summary: "A sample domain.", Tables: []edge.AnyTable{boxes, lids},
		Ops:    []*edge.Op{makeBox.Op(), paintBox.Op(), expireBox.Op(), troubleBox.Op(), listBox.Op()},
		Events: []edge.Event{boxMade{}, boxSeen{}},
	}
}

var acme = edgetest.Actor("acme")

func page(t *testing.T, h *edgetest.Harness, a edge.Actor, in listBoxes) edge.Page[box] {
	t.Helper()
	return edgetest.Ask[edge.Page[box]](t, h, a, listBox.Name, in)
}

// all reads a list to its end.
func all[T any](list func(in edge.ListInput) edge.Page[T]) (records []T) {
	in := edge.ListInput{Limit: 200}
	for {
		p := list(in)
		records = append(records, p.Data...)
		if in.Cursor = p.NextCursor; !p.HasMore {
			return records
		}
	}
}

func TestAWriteIsReadBackWithItsMetaAndEvent(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	b := edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a", Common: edge.Common{Tags: []string{"x"}}})
	if b.Version != 1 || b.TenantID != "acme" || !b.CreatedAt.Equal(edgetest.Start) || b.CreatedBy != "cli_test" || !b.ID.Valid() {
		t.Errorf("got meta %+v", b.Meta)
	}
	if got := page(t, h, acme, listBoxes{}).Data; len(got) != 1 || got[0].Label != "a" {
		t.Errorf("got list %+v, want the box", got)
	}
	rows := edgetest.Events(t, h, "acme", 0)
	if len(rows) != 1 || rows[0].Type != "test.box.made" || rows[0].Position != h.Version() {
		t.Fatalf("got events %+v", rows)
	}
	var obj box
	if err := json.Unmarshal(rows[0].Object, &obj); err != nil || obj.Version != 1 {
		t.Errorf("event object %s: want the record after the commit (%v)", rows[0].Object, err)
	}
	edgetest.NoDrift(t, h)
}

func TestTheSameKeyIsAnsweredOnceAndAnotherBodyRefused(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	in := json.RawMessage(`{"label":"a","secret":"s3cret"}`)
	first, r1, err := edgetest.Try[box](h, acme, edge.Request{Key: "k"}, makeBox.Name, in)
	if err != nil || r1.Replayed || r1.Once[0]["revealed"] != "only now" {
		t.Fatalf("first: %+v, %v", r1, err)
	}
	again, r2, err := edgetest.Try[box](h, acme, edge.Request{Key: "k"}, makeBox.Name, json.RawMessage(`{"secret":"s3cret", "label":"a"}`))
	if err != nil || !r2.Replayed || r2.Once != nil || again.ID != first.ID || r2.Version != r1.Version {
		t.Errorf("again: %+v, %v; want the first answer without the once-shown value", r2, err)
	}
	for name, raw := range map[string]string{"other label": `{"label":"b","secret":"s3cret"}`, "other secret": `{"label":"a","secret":"S3cret"}`} {
		_, _, err := edgetest.Try[box](h, acme, edge.Request{Key: "k"}, makeBox.Name, json.RawMessage(raw))
		if got := edgetest.CodeOf(t, err); got != "idempotency_key_reused" {
			t.Errorf("%s: got %s", name, got)
		}
	}
	other := acme
	other.Subject = "cli_other"
	if b, _, err := edgetest.Try[box](h, other, edge.Request{Key: "k"}, makeBox.Name, newBox{Label: "c"}); err != nil || b.ID == first.ID {
		t.Errorf("another client's same key: %v, %v", b.ID, err)
	}
}

func TestAnAnswerSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := edgetest.Open(t, dir, edgetest.Modules(module()))
	first, _, err := edgetest.Try[box](h, acme, edge.Request{Key: "k"}, makeBox.Name, newBox{Label: "a"})
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	h = edgetest.Open(t, dir, edgetest.Modules(module()))
	again, r, err := edgetest.Try[box](h, acme, edge.Request{Key: "k"}, makeBox.Name, newBox{Label: "a"})
	if err != nil || !r.Replayed || again.ID != first.ID {
		t.Errorf("got %+v, %v; want the first answer", r, err)
	}
}

func TestAFailedHandlerLeavesNothingAndItsNeighboursStay(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	before := h.Version()
	for label, want := range map[string]string{"refuse": "input_invalid", "panic": "internal", "foreign": "internal"} {
		if got := edgetest.Code(t, h, acme, troubleBox.Name, newBox{Label: label}); got != want {
			t.Errorf("%s: got %s, want %s", label, got, want)
		}
	}
	if h.Version() != before || len(edgetest.Events(t, h, "acme", 0)) != 0 || len(page(t, h, acme, listBoxes{}).Data) != 0 {
		t.Error("a refused command left something behind")
	}
}

func TestUniqueKeysVersionsAndTenants(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	other := edgetest.Actor("other")
	b := edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a"})
	if got := edgetest.Code(t, h, acme, makeBox.Name, newBox{Label: "a"}); got != "already_exists" {
		t.Errorf("second holder: got %s", got)
	}
	edgetest.Do[box](t, h, other, makeBox.Name, newBox{Label: "a"})
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "place:tower"})
	if got := edgetest.Code(t, h, other, makeBox.Name, newBox{Label: "place:tower"}); got != "already_exists" {
		t.Errorf("global key of another tenant: got %s", got)
	}
	if got := edgetest.Code(t, h, other, paintBox.Name, paint{b.ID, "red"}); got != "not_found" {
		t.Errorf("another tenant's record: got %s", got)
	}
	_, _, err := edgetest.Try[box](h, acme, edge.Request{IfMatch: 9}, paintBox.Name, paint{b.ID, "red"})
	var e *edge.Error
	if !errors.As(err, &e) || e.Code != "version_moved" || e.Version != 1 {
		t.Errorf("stale If-Match: got %v, want version_moved with version 1", err)
	}
	if got, _, err := edgetest.Try[box](h, acme, edge.Request{IfMatch: 1}, paintBox.Name, paint{b.ID, "red"}); err != nil || got.Version != 2 {
		t.Errorf("matching If-Match: %+v, %v", got, err)
	}
	edgetest.NoDrift(t, h)
}

func TestABatchIsAllOrNothing(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	call := func(label string) edge.Call {
		raw, err := json.Marshal(newBox{Label: label})
		if err != nil {
			t.Fatal(err)
		}
		return edge.Call{Op: makeBox.Name, In: raw}
	}
	_, err := h.Do(t.Context(), edge.Request{Actor: acme, Calls: []edge.Call{call("a"), call("b"), call("a")}})
	var e *edge.Error
	if !errors.As(err, &e) || e.Code != "already_exists" || e.Fields[0].Pointer != "/operations/2/label" {
		t.Fatalf("got %v, want already_exists at the third operation", err)
	}
	if n := len(page(t, h, acme, listBoxes{}).Data); n != 0 {
		t.Errorf("%d boxes remain of a refused batch", n)
	}
	r, err := h.Do(t.Context(), edge.Request{Actor: acme, Calls: []edge.Call{call("a"), call("b")}})
	if err != nil || len(r.Results) != 2 || len(page(t, h, acme, listBoxes{}).Data) != 2 {
		t.Errorf("batch of two: %+v, %v", r, err)
	}
	if rows := edgetest.Events(t, h, "acme", 0); len(rows) != 2 || rows[0].Position != rows[1].Position {
		t.Errorf("got events %+v, want two of one version", rows)
	}
}

func TestADryRunSaysWhatWouldHappenAndCommitsNothing(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	before := h.Version()
	_, r, err := edgetest.Try[box](h, acme, edge.Request{DryRun: true, Key: "k"}, makeBox.Name, newBox{Label: "a"})
	if err != nil || r.Plan == nil || len(r.Plan.Changes) != 2 || len(r.Plan.Events) != 1 || r.Plan.Changes[0].Before != nil {
		t.Fatalf("got plan %+v, %v", r.Plan, err)
	}
	if h.Version() != before || len(page(t, h, acme, listBoxes{}).Data) != 0 {
		t.Error("a dry run committed something")
	}
	if _, r, err := edgetest.Try[box](h, acme, edge.Request{Key: "k"}, makeBox.Name, newBox{Label: "b"}); err != nil || r.Replayed {
		t.Errorf("a dry run used up its key: %+v, %v", r, err)
	}
}

func TestListsPageByCursorAndRefuseForeignCursors(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	for i := range 7 {
		edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: fmt.Sprint("b", i), Color: []string{"red", "blue"}[i%2]})
	}
	var labels []string
	in := listBoxes{ListInput: edge.ListInput{Limit: 3}}
	for {
		p := page(t, h, acme, in)
		for _, b := range p.Data {
			labels = append(labels, b.Label)
		}
		if !p.HasMore {
			break
		}
		in.Cursor = p.NextCursor
	}
	if slices.Sort(labels); len(slices.Compact(labels)) != 7 {
		t.Errorf("got %v, want seven different boxes", labels)
	}
	red := page(t, h, acme, listBoxes{Color: "red", ListInput: edge.ListInput{Limit: 3}})
	if len(red.Data) != 3 || !red.HasMore {
		t.Errorf("got %+v, want three of four red boxes", red)
	}
	for name, in := range map[string]listBoxes{
		"another filter": {Color: "blue", ListInput: edge.ListInput{Cursor: red.NextCursor}},
		"tampered":       {Color: "red", ListInput: edge.ListInput{Cursor: red.NextCursor[:len(red.NextCursor)-2] + "zz"}},
		"junk":           {ListInput: edge.ListInput{Cursor: "junk"}},
	} {
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = h.Ask(t.Context(), acme, listBox.Name, raw, 0)
		if got := edgetest.CodeOf(t, err); got != "cursor_invalid" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func TestWhatFallsDueRunsOnce(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a", Until: edgetest.Start.Add(time.Hour)})
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "b", Until: edgetest.Start.Add(48 * time.Hour)})
	h.Clock.Advance(2 * time.Hour)
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "c"}) // any commit makes the timer look at the clock
	edgetest.Eventually(t, func() bool { return len(page(t, h, acme, listBoxes{}).Data) == 2 }, func() string {
		return fmt.Sprint(page(t, h, acme, listBoxes{}).Data)
	})
	edgetest.NoDrift(t, h)
}

func TestSameCommitFlowsRunInsideAndCyclesAreCut(t *testing.T) {
	t.Parallel()
	seen := edge.When("made > seen", func(tx edge.Tx, e boxMade) error {
		if e.Label == "never" {
			return edge.ErrInput.Error(edge.Invalid)
		}
		tx.Emit(boxSeen{e.Box})
		return nil
	})
	h := edgetest.NodeWith(t, edgetest.Modules(module()), edgetest.Flows(seen))
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a"})
	if got := edgetest.EventTypes(t, h, "acme", 0); !slices.Equal(got, []string{"test.box.made", "test.box.seen"}) {
		t.Errorf("got events %v", got)
	}
	if got := edgetest.Code(t, h, acme, makeBox.Name, newBox{Label: "never"}); got != "input_invalid" {
		t.Errorf("a failing flow: got %s, want its refusal", got)
	}
	loop := edge.When("seen > seen", func(tx edge.Tx, e boxSeen) error { tx.Emit(e); return nil })
	h = edgetest.NodeWith(t, edgetest.Modules(module()), edgetest.Flows(seen, loop))
	if got := edgetest.Code(t, h, acme, makeBox.Name, newBox{Label: "a"}); got != "flow_too_deep" {
		t.Errorf("a cycle: got %s", got)
	}
}

func TestAnAfterFlowRunsForEveryEventAndResumesAfterARestart(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ran := map[edge.ID]int{}
	broken := true
	flow := edge.After("made > note", func(_ context.Context, _ edge.Executor, row edge.EventRow, _ boxMade) error {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return errors.New("the world is away")
		}
		ran[row.ID]++
		return nil
	})
	dir := t.TempDir()
	h := edgetest.Open(t, dir, edgetest.Modules(module()), edgetest.Flows(flow))
	for i := range 5 {
		edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: fmt.Sprint(i)})
	}
	h.Close()
	mu.Lock()
	broken = false
	mu.Unlock()
	h = edgetest.Open(t, dir, edgetest.Modules(module()), edgetest.Flows(flow))
	edgetest.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(ran) == 5 }, func() string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(ran)
	})
	edgetest.Eventually(t, func() bool { m, err := h.Mark("made > note", "acme"); return err == nil && m >= 5 }, func() string { return "mark" })
}

func TestAWatchSeesEverythingOnceLoadedAndLive(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	state := map[edge.ID]bool{}
	resets := 0
	m := module()
	m.Watches = []edge.Watch{{Name: "boxes", Tables: []string{"test.box"}, Apply: func(reset bool, _ uint64, changes []edge.Change) {
		mu.Lock()
		defer mu.Unlock()
		if reset {
			resets++
			clear(state)
		}
		for _, c := range changes {
			if c.Val == nil {
				delete(state, c.ID)
			} else {
				state[c.ID] = true
			}
		}
	}}}
	dir := t.TempDir()
	h := edgetest.Open(t, dir, edgetest.Modules(m))
	a := edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a"})
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "b"})
	h.Close()
	h = edgetest.Open(t, dir, edgetest.Modules(m))
	edgetest.Do[edge.None](t, h, acme, expireBox.Name, edge.DueInput{ID: a.ID})
	mu.Lock()
	defer mu.Unlock()
	if len(state) != 1 || state[a.ID] || resets != 2 {
		t.Errorf("got %v after %d loads, want the second box only", state, resets)
	}
}

func TestAnEntryIsNeverLargerThanAllowed(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	call := func(n, size int) []edge.Call {
		var calls []edge.Call
		for i := range n {
			raw, err := json.Marshal(newBox{Label: fmt.Sprint(i, "-", n), Color: "x", Common: edge.Common{ExternalID: fmt.Sprint(i, "of", n)}, Sealed: strings.Repeat("s", size)})
			if err != nil {
				t.Fatal(err)
			}
			calls = append(calls, edge.Call{Op: makeBox.Name, In: raw})
		}
		return calls
	}
	if _, err := h.Do(t.Context(), edge.Request{Actor: acme, Calls: call(400, 10)}); edgetest.CodeOf(t, err) != "too_large" {
		t.Errorf("got %v, want too_large", err)
	}
	var wg sync.WaitGroup // rounds close before the cap: everyone is answered
	for i := range 64 {
		wg.Go(func() {
			if _, _, err := edgetest.Try[box](h, acme, edge.Request{}, makeBox.Name, newBox{Label: fmt.Sprint("big", i, strings.Repeat("x", 400)), Color: "y"}); err != nil {
				t.Errorf("box %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	edgetest.NoDrift(t, h)
}

// TestLargeWritesWaitTheirTurn lets callers write what fills an entry each. Nobody may be overtaken again and again.
func TestLargeWritesWaitTheirTurn(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	const callers, most = 6, 5 * 6
	each := 25
	if testing.Short() {
		each = 8
	}
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			for i := range each {
				var calls []edge.Call
				for k := range 30 {
					raw, err := json.Marshal(newBox{Label: fmt.Sprintf("%d-%d-%d-%s", c, i, k, strings.Repeat("x", 400))})
					if err != nil {
						t.Error(err)
						return
					}
					calls = append(calls, edge.Call{Op: "test.box.make", In: raw})
				}
				asked := h.Version()
				reply, err := h.Exec.Do(t.Context(), edge.Request{Actor: edgetest.Actor("acme"), Calls: calls})
				if err != nil {
					t.Error(err)
					return
				}
				if overtaken := reply.Version - asked; overtaken > most {
					t.Errorf("caller %d: %d entries went before its own, want at most %d", c, overtaken, most)
					return
				}
			}
		})
	}
	wait.Wait()
}

func TestConcurrentCallersOfOneOperationGetOneEffect(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	ids := make([]edge.ID, 32)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			b, _, err := edgetest.Try[box](h, acme, edge.Request{Key: "same"}, makeBox.Name, newBox{Label: "one"})
			if err != nil {
				t.Error(err)
			}
			ids[i] = b.ID
		})
	}
	wg.Wait()
	if slices.Sort(ids); len(slices.Compact(ids)) != 1 || len(page(t, h, acme, listBoxes{}).Data) != 1 {
		t.Errorf("got ids %v, want one", slices.Compact(ids))
	}
}

func TestScopesAreCheckedBelowTheGatewayToo(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	reader := edge.Actor{Tenant: "acme", Subject: "cli_r", Scopes: []string{"test:read"}}
	if got := edgetest.Code(t, h, reader, makeBox.Name, newBox{Label: "a"}); got != "scope_missing" {
		t.Errorf("got %s", got)
	}
	if _, _, err := h.Ask(t.Context(), edge.Actor{Tenant: "acme"}, listBox.Name, nil, 0); edgetest.CodeOf(t, err) != "scope_missing" {
		t.Errorf("got %v", err)
	}
}

func TestRebuildFindsAndMendsDrift(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	b := edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a", Color: "red"})
	e := exec.Entry{Base: h.Version(), Time: edgetest.Start.UnixNano(), Ops: []exec.Op{
		{Key: "acme/test.box#color/red\x00" + string(b.ID), Delete: true},
		{Key: "acme/test.box#color/green\x00" + string(b.ID)},
		{Key: "acme/test.lid/" + string(b.ID.With("lid")), Val: []byte(`{"wrong":1}`)},
	}}
	if err := <-h.Propose(t.Context(), e.Append(nil)); err != nil {
		t.Fatal(err)
	}
	rep, err := h.Rebuild(t.Context(), true)
	if err != nil || len(rep.Drift) != 3 {
		t.Fatalf("got %+v, %v; want three findings", rep, err)
	}
	edgetest.NoDrift(t, h)
}

// What an untrusted clock says may be wrong by years: by it no answer has had its time.
func TestAnUntrustedClockForgetsNoAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		options  []edgetest.Option
		answered bool
	}{
		"trusted":   {nil, false},
		"untrusted": {[]edgetest.Option{edgetest.NoTimer()}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				h := edgetest.NodeWith(t, append(tc.options, edgetest.Modules(module()))...)
				ask := func() error {
					_, _, err := edgetest.Try[box](h, acme, edge.Request{Key: "k"}, makeBox.Name, newBox{Label: "a"})
					return err
				}
				if err := ask(); err != nil {
					t.Fatal(err)
				}
				h.Clock.Advance(5 * 24 * time.Hour)
				time.Sleep(time.Minute)                        // of the bubble: the janitor has looked
				if err := ask(); (err == nil) != tc.answered { // what is done anew would make the same record again
					t.Errorf("asked again after five days: got %v, want the first answer: %v", err, tc.answered)
				}
				h.Close()
			})
		})
	}
}

func TestReadsWaitForTheAskedVersion(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, _, err := h.Ask(ctx, acme, listBox.Name, nil, h.Version()+1); edgetest.CodeOf(t, err) != "version_not_reached" {
		t.Errorf("got %v", err)
	}
	done := make(chan error, 1)
	want := h.Version() + 1
	go func() {
		_, _, err := h.Ask(t.Context(), acme, listBox.Name, nil, want)
		done <- err
	}()
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a"})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestDraftsAgreeWithAModel runs random operations, refused ones among them, and compares with a map.
func TestDraftsAgreeWithAModel(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, module())
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		a := edgetest.Actor(fmt.Sprint("t", run))
		model := map[string]string{} // label -> color
		ids := map[string]edge.ID{}
		for range rapid.IntRange(1, 20).Draw(rt, "n") {
			label := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "label")
			color := rapid.SampledFrom([]string{"red", "blue"}).Draw(rt, "color")
			switch _, have := model[label]; rapid.IntRange(0, 3).Draw(rt, "op") {
			case 0:
				b, _, err := edgetest.Try[box](h, a, edge.Request{}, makeBox.Name, newBox{Label: label, Color: color})
				if (err != nil) != have {
					rt.Fatalf("make %s: %v, model has it: %v", label, err, have)
				}
				if err == nil {
					model[label], ids[label] = color, b.ID
				}
			case 1:
				if have {
					if _, _, err := edgetest.Try[box](h, a, edge.Request{}, paintBox.Name, paint{ids[label], color}); err != nil {
						rt.Fatal(err)
					}
					model[label] = color
				}
			case 2:
				if have {
					if _, _, err := edgetest.Try[edge.None](h, a, edge.Request{}, expireBox.Name, edge.DueInput{ID: ids[label]}); err != nil {
						rt.Fatal(err)
					}
					delete(model, label)
				}
			case 3:
				if _, _, err := edgetest.Try[edge.None](h, a, edge.Request{}, troubleBox.Name, newBox{}); err == nil {
					rt.Fatal("trouble was accepted")
				}
			}
		}
		for _, color := range []string{"", "red", "blue"} {
			got := map[string]string{}
			for _, b := range page(t, h, a, listBoxes{Color: color}).Data {
				got[b.Label] = b.Color
			}
			for label, c := range model {
				if color == "" || c == color {
					if got[label] != c {
						rt.Fatalf("list %q: %s is %q, want %q", color, label, got[label], c)
					}
					delete(got, label)
				}
			}
			if len(got) > 0 {
				rt.Fatalf("list %q holds too much: %v", color, got)
			}
		}
	})
	edgetest.NoDrift(t, h)
}

func TestSeriesNumbersAreNeverUsedTwice(t *testing.T) {
	t.Parallel()
	type numbered struct {
		N uint64 `json:"n,omitempty"`
	}
	take := edge.Command[numbered, numbered]{
		Name: "test.number.take", Scope: "test:write", Summary: "Take a number.", Class: edge.Write,
		Prepare: func(p edge.Prep, in *numbered) (err error) { in.N, err = p.Next("receipt"); return err },
		Handle:  func(_ edge.Tx, in numbered) (numbered, error) { return in, nil },
	}
	m := module()
	m.Ops = append(m.Ops, take.Op())
	dir := t.TempDir()
	seen := map[uint64]bool{}
	for range 3 {
		h := edgetest.Open(t, dir, edgetest.Modules(m))
		for range 5 {
			n := edgetest.Do[numbered](t, h, acme, take.Name, numbered{}).N
			if seen[n] {
				t.Fatalf("number %d was used twice", n)
			}
			seen[n] = true
		}
		h.Close()
	}
}

func TestAHandlerWithAHiddenInputIsFound(t *testing.T) {
	t.Parallel()
	calls := 0
	odd := edge.Command[newBox, box]{
		Name: "test.box.odd", Scope: "test:write", Summary: "Depend on a global.", Class: edge.Write,
		Handle: func(tx edge.Tx, in newBox) (box, error) {
			calls++
			b := box{Meta: edge.Meta{ID: tx.NewID("box")}, Label: fmt.Sprint(calls)}
			return b, boxes.Put(tx, &b)
		},
	}
	m := module()
	m.Ops = append(m.Ops, odd.Op())
	h := edgetest.Node(t, m)
	if _, _, err := edgetest.Try[box](h, acme, edge.Request{}, odd.Name, newBox{}); err == nil || !strings.Contains(err.Error(), "hidden input") {
		t.Errorf("got %v", err)
	}
}

func TestACommandThatLeavesItsRecordDueDoesNotSpin(t *testing.T) {
	t.Parallel()
	var fired atomic.Int64
	lazy := edge.Command[edge.DueInput, edge.None]{
		Name: "test.box.expire", Scope: "test:write", Summary: "Do nothing.", Class: edge.Write,
		Handle: func(edge.Tx, edge.DueInput) (edge.None, error) { fired.Add(1); return edge.None{}, nil },
	}
	m := module()
	m.Ops = slices.DeleteFunc(m.Ops, func(op *edge.Op) bool { return op.Name == lazy.Name })
	m.Ops = append(m.Ops, lazy.Op())
	h := edgetest.Node(t, m)
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a", Until: edgetest.Start.Add(-time.Hour)})
	edgetest.Eventually(t, func() bool { return fired.Load() > 0 }, func() string { return "not fired" })
	for i := range 20 { // each commit makes the timer look again
		edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: fmt.Sprint("b", i)})
	}
	if n := fired.Load(); n > 2 { // evaluated twice under test, then answered from the record
		t.Errorf("the command ran %d times", n)
	}
}

type boxShaken struct {
	Box edge.ID `json:"box"`
}

func (boxShaken) EventName() string  { return "test.box.shaken" }
func (e boxShaken) Subject() edge.ID { return e.Box }
func (boxShaken) Inner()             {}

func TestAnInnerEventIsHeardByFlowsAndStoredNowhere(t *testing.T) {
	t.Parallel()
	m := module()
	m.Events = append(m.Events, boxShaken{})
	shake := edge.When("made > shaken", func(tx edge.Tx, e boxMade) error { tx.Emit(boxShaken{e.Box}); return nil })
	heard := edge.When("shaken > painted", func(tx edge.Tx, e boxShaken) error {
		_, err := paintBox.Within(tx, paint{e.Box, "shaken"})
		return err
	})
	h := edgetest.NodeWith(t, edgetest.Modules(m), edgetest.Flows(shake, heard))
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "a"})
	if got := edgetest.EventTypes(t, h, "acme", 0); !slices.Equal(got, []string{"test.box.made"}) {
		t.Errorf("got events %v", got)
	}
	if got := page(t, h, acme, listBoxes{}).Data[0].Color; got != "shaken" {
		t.Errorf("the flow did not run: the box is %q", got)
	}
	after := edge.After("shaken > later", func(context.Context, edge.Executor, edge.EventRow, boxShaken) error { return nil })
	if _, err := exec.New(exec.Config{Modules: []edge.Module{m}, Flows: []edge.Flow{after}}); err == nil || !strings.Contains(err.Error(), "not stored") {
		t.Errorf("an after-flow of an inner event: got %v", err)
	}
}

package exec_test

import (
	"slices"
	"testing"

	"wispgate/edge"
	"wispgate/edge/edgetest"
)

type thing struct {
	edge.Meta
	Name string `json:"name" check:"max=16"`
}

type thingMade struct {
	Thing edge.ID `json:"thing"`
}

func (thingMade) EventName() string  { return "inside.thing.made" }
func (e thingMade) Subject() edge.ID { return e.Thing }

var things = &edge.Table[thing]{
	Name: "inside.thing", Prefix: "thg", Meta: func(t *thing) *edge.Meta { return &t.Meta },
	Indexes: []edge.Index[thing]{{Name: "name", Unique: true, Keys: func(t *thing) []string { return []string{t.Name} }}},
}

type insideInput struct {
	Tenant string `json:"tenant" check:"max=32"`
	Fail   bool   `json:"fail,omitempty"`
}

var errInside = edge.Reason{Code: "inside_failed", Says: "It failed", Fix: "Do not ask for it"}

// makeInside writes one thing in the asking tenant and one in another.
var makeInside = edge.Command[insideInput, edge.None]{
	Name: "inside.thing.make", Scope: "inside:write", Class: edge.Write, Summary: "Make things in two tenants",
	Handle: func(tx edge.Tx, in insideInput) (none edge.None, err error) {
		other, err := edge.Inside(tx, edge.SystemActor(in.Tenant, "test"))
		if err != nil {
			return none, errInside.Error(edge.Denied)
		}
		for _, tx := range []edge.Tx{tx, other} {
			t := thing{Meta: edge.Meta{ID: tx.NewID("thg")}, Name: "same"}
			if err := things.Put(tx, &t); err != nil {
				return none, err
			}
			tx.Emit(thingMade{t.ID})
		}
		if in.Fail {
			return none, errInside.Error(edge.Conflict)
		}
		return none, nil
	},
}

func TestThePlatformStepsIntoATenantInOneCommit(t *testing.T) {
	t.Parallel()
	seen := []string{}
	flow := edge.When("made > seen", func(tx edge.Tx, e thingMade) error {
		rec, err := things.Get(tx, e.Thing) // found only in the event's own tenant
		seen = append(seen, rec.TenantID)
		return err
	})
	h := edgetest.NodeWith(t, edgetest.Flows(flow), edgetest.Modules(edge.Module{
		Name: "inside", Tables: []edge.AnyTable{things}, Ops: []*edge.Op{makeInside.Op()}, Events: []edge.Event{thingMade{}}, Reasons: []edge.Reason{errInside},
	}))
	platform := edge.SystemActor(edge.System, "test")
	if code := edgetest.Code(t, h, platform, "inside.thing.make", insideInput{"acme", true}); code != "inside_failed" {
		t.Fatal(code)
	}
	for _, tenant := range []string{edge.System, "acme"} {
		if got := edgetest.EventTypes(t, h, tenant, 0); len(got) != 0 {
			t.Fatalf("a refused command left %v in %s", got, tenant)
		}
	}
	edgetest.Do[edge.None](t, h, platform, "inside.thing.make", insideInput{Tenant: "acme"})
	for _, tenant := range []string{edge.System, "acme"} {
		rows := edgetest.Events(t, h, tenant, 0)
		if len(rows) != 1 || rows[0].Tenant != tenant || rows[0].Position != h.Version() || rows[0].Object == nil {
			t.Errorf("events of %s: %+v", tenant, rows)
		}
	}
	if !slices.Equal(seen[len(seen)-2:], []string{edge.System, "acme"}) {
		t.Errorf("flows ran in %v", seen)
	}
	if heads, err := h.Heads(); err != nil || heads["acme"] != h.Version() || heads[edge.System] != h.Version() {
		t.Errorf("heads: %v %v", heads, err)
	}
	edgetest.NoDrift(t, h)
	// No other tenant may, whatever its scopes.
	if code := edgetest.Code(t, h, edgetest.Actor("acme"), "inside.thing.make", insideInput{Tenant: "globex"}); code != "inside_failed" {
		t.Errorf("a tenant stepped into another: %s", code)
	}
}

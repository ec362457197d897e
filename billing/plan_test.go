package billing_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/billing"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

var ann = edgetest.Actor("acme")

type (
	plan         = billing.Plan
	subscription = billing.Subscription
)

const (
	policy    = edge.ID("pol_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33")
	slow      = edge.ID("pol_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c34")
	someone   = edge.ID("cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33")
	someplace = edge.ID("sit_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33")
	elsewhere = edge.ID("sit_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c34")
)

// offer is a plan that may be published.
func offer(code string, change ...func(*billing.NewPlan)) billing.NewPlan {
	p := billing.NewPlan{Code: code, Terms: billing.Terms{
		Name: "Home 10", Kind: billing.Recurring, Price: billing.Money{AmountMinor: 2500, Currency: "USD"},
		Interval: &billing.Interval{Unit: billing.Month, Count: 1}, PolicyRef: policy,
	}}
	for _, c := range change {
		c(&p)
	}
	return p
}

func prepaid(unit billing.Unit, count int32) func(*billing.NewPlan) {
	return func(p *billing.NewPlan) {
		p.Kind, p.Interval = billing.Prepaid, &billing.Interval{Unit: unit, Count: count}
		p.OnExpiry, p.OfflineGrace = billing.ExpiryWalled, 3600
	}
}

func addon(p *billing.NewPlan) {
	p.Kind, p.PolicyRef = billing.Addon, ""
}

func sell(t *testing.T, n *edgetest.Harness, in billing.NewPlan) plan {
	t.Helper()
	p := edgetest.Do[plan](t, n, ann, "billing.plan.create", in)
	return edgetest.Do[plan](t, n, ann, "billing.plan.publish", billing.PublishPlanInput{ID: p.ID})
}

func patch[Out any](n *edgetest.Harness, op string, version uint64, in any) (Out, error) {
	out, _, err := edgetest.Try[Out](n, ann, edge.Request{IfMatch: version}, op, in)
	return out, err
}

func TestAVersionSoldStands(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p := edgetest.Do[plan](t, n, ann, "billing.plan.create", offer("home10"))
	if p.Code != "HOME10" || p.PlanVersion != 1 || p.Status != billing.DraftPlan || p.BillTiming != "advance" || p.OnExpiry != billing.ExpiryReject {
		t.Fatalf("got %+v, want a first draft that says its defaults", p)
	}
	p, err := patch[plan](n, "billing.plan.update", 1, billing.PlanChange{ID: p.ID, Price: &billing.Money{AmountMinor: 3000, Currency: "USD"}})
	if err != nil || p.Price.AmountMinor != 3000 {
		t.Fatalf("a draft changes: got %+v, %v", p.Price, err)
	}
	p = edgetest.Do[plan](t, n, ann, "billing.plan.publish", billing.PublishPlanInput{ID: p.ID})
	again := edgetest.Do[plan](t, n, ann, "billing.plan.publish", billing.PublishPlanInput{ID: p.ID})
	if again.Version != p.Version {
		t.Errorf("published twice: got version %d, want %d", again.Version, p.Version)
	}
	_, err = patch[plan](n, "billing.plan.update", p.Version, billing.PlanChange{ID: p.ID, Name: new("x")})
	if got := edgetest.CodeOf(t, err); got != "plan_frozen" {
		t.Errorf("a published plan: got %s, want plan_frozen", got)
	}
	next := edgetest.Do[plan](t, n, ann, "billing.plan.new_version", billing.PlanRef{ID: p.ID})
	if next.PlanVersion != 2 || next.Status != billing.DraftPlan || !cmp.Equal(next.Terms, p.Terms) {
		t.Errorf("got %+v, want version 2 with the same terms", next)
	}
	if got := edgetest.Code(t, n, ann, "billing.plan.new_version", billing.PlanRef{ID: p.ID}); got != "plan_has_draft" {
		t.Errorf("a second draft: got %s, want plan_has_draft", got)
	}
	later := edgetest.Start.Add(48 * time.Hour)
	next = edgetest.Do[plan](t, n, ann, "billing.plan.publish", billing.PublishPlanInput{ID: next.ID, EffectiveFrom: &later})
	onSale := func() int32 {
		return edgetest.Ask[plan](t, n, ann, "billing.plan.get_by_code", billing.PlanCode{Code: "home10"}).PlanVersion
	}
	if got := onSale(); got != 1 {
		t.Errorf("before its date: version %d is on sale, want 1", got)
	}
	n.Clock.Advance(48 * time.Hour)
	edgetest.Do[plan](t, n, ann, "billing.plan.create", offer("other")) // the state's time moves with writes
	if got := onSale(); got != 2 {
		t.Errorf("from its date: version %d is on sale, want 2", got)
	}
	edgetest.Do[plan](t, n, ann, "billing.plan.retire", billing.PlanRef{ID: next.ID})
	if got := edgetest.Ask[edge.Page[plan]](t, n, ann, "billing.plan.list", billing.PlanList{Code: "Home10", Sellable: true}).Data; len(got) != 0 {
		t.Errorf("got %d on sale, want none", len(got))
	}
	if got := edgetest.Ask[plan](t, n, ann, "billing.plan.get_by_code", billing.PlanCode{Code: "home10", PlanVersion: 1}); got.ID != p.ID {
		t.Errorf("got %s, want the first version readable for ever", got.ID)
	}
	edgetest.NoDrift(t, n)
}

func TestPlansThatContradictThemselvesAreRefused(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	edgetest.Do[plan](t, n, ann, "billing.plan.create", offer("TAKEN"))
	usd := func(n int64) *billing.Money { return &billing.Money{AmountMinor: n, Currency: "USD"} }
	for _, c := range []struct {
		name     string
		change   func(*billing.NewPlan)
		code, at string
	}{
		{"a code that is held", func(p *billing.NewPlan) { p.Code = "taken" }, "already_exists", "/code"},
		{"a code with a space", func(p *billing.NewPlan) { p.Code = "HOME 10" }, "plan_invalid", "/code"},
		{"no name", func(p *billing.NewPlan) { p.Name = " " }, "plan_invalid", "/name"},
		{"an unknown kind", func(p *billing.NewPlan) { p.Kind = "gift"; p.Interval, p.PolicyRef = nil, "" }, "plan_invalid", "/kind"},
		{"a negative price", func(p *billing.NewPlan) { p.Price.AmountMinor = -1 }, "plan_invalid", "/price"},
		{"an unknown currency", func(p *billing.NewPlan) { p.Price.Currency = "XXX" }, "money_currency", "/price/currency"},
		{"a price beyond 2^53", func(p *billing.NewPlan) { p.Price.AmountMinor = 1 << 53 }, "money_overflow", "/price/amount_minor"},
		{"a setup fee in another currency", func(p *billing.NewPlan) { p.SetupFee = &billing.Money{AmountMinor: 1, Currency: "ZAR"} }, "plan_invalid", "/setup_fee"},
		{"no interval", func(p *billing.NewPlan) { p.Interval = nil }, "plan_invalid", "/interval"},
		{"an interval for a fee", func(p *billing.NewPlan) { p.Kind, p.PolicyRef = billing.Fee, "" }, "plan_invalid", "/interval"},
		{"postpaid minutes", func(p *billing.NewPlan) { p.Interval = &billing.Interval{Unit: billing.Minute, Count: 90} }, "plan_invalid", "/interval/unit"},
		{"an interval of no length", func(p *billing.NewPlan) { p.Interval.Count = 0 }, "plan_invalid", "/interval"},
		{"prepaid in arrears", func(p *billing.NewPlan) { p.Kind, p.BillTiming = billing.Prepaid, "arrears" }, "plan_invalid", "/bill_timing"},
		{"an add-on that gives access", func(p *billing.NewPlan) { p.Kind = billing.Addon }, "plan_invalid", "/policy_ref"},
		{"a throttle without a policy", func(p *billing.NewPlan) { p.OnExpiry = billing.ExpiryThrottle }, "plan_invalid", "/policy_exhausted_ref"},
		{"a penalty without a term", func(p *billing.NewPlan) { p.EarlyTermination = usd(100) }, "plan_invalid", "/min_term_months"},
		{"overage of nothing", func(p *billing.NewPlan) { p.Overage = &billing.Overage{Block: 1} }, "plan_invalid", "/overage"},
		{"installments that are not", func(p *billing.NewPlan) { p.Installments = 3 }, "plan_invalid", "/installments"},
		{"the same allowance twice", func(p *billing.NewPlan) {
			p.Allowance = []billing.Allowance{{Meter: "sum", Amount: 1, Reset: "period"}, {Meter: "sum", Amount: 2, Reset: "period"}}
		}, "plan_invalid", "/allowance/1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := edgetest.Try[plan](n, ann, edge.Request{}, "billing.plan.create", offer("NEW", c.change))
			e, _ := edge.AsError(err)
			if err == nil || e.Code != c.code || len(e.Fields) == 0 || e.Fields[0].Pointer != c.at {
				t.Errorf("got %v, want %s at %s", err, c.code, c.at)
			}
		})
	}
}

func TestWhatADraftNoLongerPromisesIsCleared(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p := edgetest.Do[plan](t, n, ann, "billing.plan.create", offer("P", func(p *billing.NewPlan) {
		p.SetupFee, p.ExhaustedRef = &billing.Money{AmountMinor: 100, Currency: "USD"}, slow
	}))
	p, err := patch[plan](n, "billing.plan.update", p.Version, billing.PlanChange{ID: p.ID, Clear: []string{"setup_fee", "policy_exhausted_ref"}})
	if err != nil || p.SetupFee != nil || p.ExhaustedRef != "" || p.PolicyRef != policy {
		t.Errorf("got %+v, %v, want the two members removed and nothing else", p.Terms, err)
	}
}

func TestAPlanMovesOnlyForward(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p := edgetest.Do[plan](t, n, ann, "billing.plan.create", offer("P", func(p *billing.NewPlan) { p.PolicyRef = "" }))
	code := func(op string, in any) string { return edgetest.Code(t, n, ann, "billing.plan."+op, in) }
	if got := code("publish", billing.PublishPlanInput{ID: p.ID}); got != "plan_invalid" {
		t.Errorf("access without a policy: got %s, want plan_invalid", got)
	}
	if got := code("retire", billing.PlanRef{ID: p.ID}); got != "plan_status" {
		t.Errorf("a draft retired: got %s, want plan_status", got)
	}
	if got := code("update", billing.PlanChange{ID: p.ID}); got != "if_match_required" {
		t.Errorf("changed without If-Match: got %s, want if_match_required", got)
	}
	past := edgetest.Start.Add(-time.Hour)
	sold := edgetest.Do[plan](t, n, ann, "billing.plan.create", offer("Q"))
	if got := code("publish", billing.PublishPlanInput{ID: sold.ID, EffectiveFrom: &past}); got != "plan_effective" {
		t.Errorf("published for the past: got %s, want plan_effective", got)
	}
	sold = edgetest.Do[plan](t, n, ann, "billing.plan.publish", billing.PublishPlanInput{ID: sold.ID})
	if _, err := patch[edge.None](n, "billing.plan.delete", sold.Version, billing.PlanRef{ID: sold.ID}); edgetest.CodeOf(t, err) != "plan_frozen" {
		t.Errorf("a published plan deleted: got %v, want plan_frozen", err)
	}
	if _, err := patch[edge.None](n, "billing.plan.delete", p.Version, billing.PlanRef{ID: p.ID}); err != nil {
		t.Errorf("a draft deleted: %v", err)
	}
	edgetest.Do[plan](t, n, ann, "billing.plan.retire", billing.PlanRef{ID: sold.ID})
	if got := code("publish", billing.PublishPlanInput{ID: sold.ID}); got != "plan_status" {
		t.Errorf("a retired plan published: got %s, want plan_status", got)
	}
	edgetest.NoDrift(t, n)
}

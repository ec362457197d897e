package billing_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/billing"
	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
)

// region is a leader and two towers that can be cut off.
func region(t *testing.T) (c *edgetest.Cluster, leader, one, two *edgetest.Member) {
	t.Helper()
	part := exec.Part()
	part.Name, part.Summary = "sync", "Conflicts and operations."
	c = edgetest.NewCluster(t, 3, edgetest.Modules(billing.ModuleWith(edgetest.Key), part), edgetest.NoTimer(), func(c *exec.Config) { c.Patience = 100 * time.Millisecond })
	return c, c.Nodes[0], c.Nodes[1], c.Nodes[2]
}

func advance(c *edgetest.Cluster, d time.Duration) {
	for _, n := range c.Nodes {
		n.Clock.Advance(d)
	}
}

// exceeds lists the limits that were exceeded, by the events after a version.
func exceeds(t *testing.T, n *edgetest.Harness, after uint64) (list []string) {
	t.Helper()
	for _, r := range edgetest.Events(t, n, "acme", after) {
		if r.Type == (billing.CollectorLimitExceeded{}).EventName() {
			var e billing.CollectorLimitExceeded
			if err := json.Unmarshal(r.Changed, &e); err != nil {
				t.Fatal(err)
			}
			word := e.Limit
			if e.Reached != nil {
				word += fmt.Sprintf(" %s of %s", e.Reached, e.Bound)
			}
			list = append(list, word)
		}
	}
	return list
}

func TestLimitsOfASiteTakeThePlaceOfTheTenants(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	get := func(site edge.ID) billing.OfflineLimits {
		return edgetest.Ask[billing.OfflineLimits](t, n, ann, "billing.offline_limits.get", billing.LimitsRef{SiteID: site})
	}
	set := func(in billing.LimitsInput) billing.OfflineLimits {
		return edgetest.Do[billing.OfflineLimits](t, n, ann, "billing.offline_limits.set", in)
	}
	if l := get(someplace); l.ProvisionalSeconds != 86400 || l.MaxAgeSeconds != 7*86400 || l.PlanCodes != nil || l.ID != "" {
		t.Errorf("where nobody has said anything: got %+v", l)
	}
	set(billing.LimitsInput{PlanCodes: []string{"home10"}, CashPerCollector: []billing.Money{usd(100)}})
	set(billing.LimitsInput{SiteID: someplace, ProvisionalSeconds: new(int64(0))})
	if l := get(elsewhere); !cmp.Equal(l.PlanCodes, []string{"HOME10"}) || l.ProvisionalSeconds != 86400 {
		t.Errorf("the tenant's: got %+v", l)
	}
	if l := get(someplace); l.PlanCodes != nil || l.ProvisionalSeconds != 0 || l.SiteID != someplace {
		t.Errorf("the site's: got %+v", l)
	}
	if l := set(billing.LimitsInput{SiteID: someplace, ProvisionalSeconds: new(int64(0))}); l.Version != 1 {
		t.Errorf("said again: got version %d", l.Version)
	}
	if l := set(billing.LimitsInput{SiteID: someplace}); l.Version != 2 || l.ProvisionalSeconds != 86400 {
		t.Errorf("said otherwise: got %+v", l)
	}
	for name, in := range map[string]billing.LimitsInput{
		"payment_invalid": {Exposure: []billing.Money{usd(1), usd(2)}}, "money_currency": {CashPerCollector: []billing.Money{{AmountMinor: 1, Currency: "XXX"}}},
	} {
		if got := edgetest.Code(t, n, ann, "billing.offline_limits.set", in); got != name {
			t.Errorf("got %s, want %s", got, name)
		}
	}
	edgetest.NoDrift(t, n)
}

func TestACollectorTakesSoMuchCashWhileCutOff(t *testing.T) {
	t.Parallel()
	c, leader, one, two := region(t)
	edgetest.Do[billing.OfflineLimits](t, leader.Harness, ann, "billing.offline_limits.set", billing.LimitsInput{CashPerCollector: []billing.Money{usd(6000)}})
	in := cash(2500, "")
	in.Collector = "Tendai"
	for range 3 {
		pay(t, one.Harness, in) // with the cluster there is no bound
	}
	before := leader.Machine.Version()
	one.CutAndNotice()
	two.CutAndNotice()
	for _, n := range []*edgetest.Member{one, two} {
		pay(t, n.Harness, in)
		pay(t, n.Harness, in)
		if got := edgetest.Code(t, n.Harness, ann, "billing.payment.record", in); got != "offline_limit" {
			t.Errorf("beyond the bound at %s: got %s", n.Name, got)
		}
		small := in
		small.Amount = usd(1000)
		pay(t, n.Harness, small)
		other := in
		other.Collector = "Rudo"
		pay(t, n.Harness, other)
		elsewhere := in
		elsewhere.Amount.Currency = "ZAR"
		pay(t, n.Harness, elsewhere)
	}
	advance(c, 24*time.Hour)
	pay(t, one.Harness, in) // another day
	one.HealAndDrain()
	if got := exceeds(t, leader.Harness, before); got != nil {
		t.Errorf("within the bound: got %v", got)
	}
	two.HealAndDrain()
	want := []string{"cash 85.00 USD of 60.00 USD", "cash 110.00 USD of 60.00 USD", "cash 120.00 USD of 60.00 USD"}
	if got := exceeds(t, leader.Harness, before); !cmp.Equal(got, want) {
		t.Errorf("both together: got %v, want %v", got, want)
	}
	list := edgetest.Ask[edge.Page[payment]](t, leader.Harness, ann, "billing.payment.list", billing.PaymentList{Collector: "Tendai", ListInput: edge.ListInput{Limit: 200}}).Data
	if len(list) != 3+4*2+1 {
		t.Errorf("got %d payments: what was taken is recorded", len(list))
	}
	for _, node := range []string{"n2", "n3"} {
		if ch := edgetest.Ask[billing.Chain](t, leader.Harness, ann, "billing.receipt.chain", billing.ChainInput{Node: node}); len(ch.Findings) != 0 {
			t.Errorf("what was refused took a number: %+v", ch.Findings)
		}
	}
	c.Agree()
}

func TestUnconfirmedMoneyIsBoundedWhileCutOff(t *testing.T) {
	t.Parallel()
	c, leader, one, two := region(t)
	edgetest.Do[billing.OfflineLimits](t, leader.Harness, ann, "billing.offline_limits.set", billing.LimitsInput{
		Exposure: []billing.Money{usd(3000)}, ExpiresAt: new(edgetest.Start.Add(48 * time.Hour)),
	})
	in := cash(2500, "")
	in.Method = billing.MobileMoney
	before := leader.Machine.Version()
	one.CutAndNotice()
	two.CutAndNotice()
	for _, n := range []*edgetest.Member{one, two} {
		pay(t, n.Harness, in)
		if got := edgetest.Code(t, n.Harness, ann, "billing.payment.record", in); got != "offline_limit" {
			t.Errorf("beyond the bound at %s: got %s", n.Name, got)
		}
		pay(t, n.Harness, cash(9900, ""))
	}
	advance(c, 48*time.Hour)
	small := in
	small.Amount = usd(1)
	if got := edgetest.Code(t, one.Harness, ann, "billing.payment.record", small); got != "offline_limit" {
		t.Errorf("when the limits have expired: got %s", got)
	}
	pay(t, one.Harness, cash(100, ""))
	one.HealAndDrain()
	two.HealAndDrain()
	if got, want := exceeds(t, leader.Harness, before), []string{"exposure 50.00 USD of 30.00 USD"}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	c.Agree()
}

func TestMoneyThatComesLateIsAnAlarmAndCounts(t *testing.T) {
	t.Parallel()
	c, leader, one, _ := region(t)
	s := activated(t, leader.Harness, monthly(t, leader.Harness).ID)
	before := leader.Machine.Version()
	one.CutAndNotice()
	pay(t, one.Harness, cash(2500, s.ID))
	promised := sub(t, one.Harness, s.ID).ValidUntil
	advance(c, 8*24*time.Hour)
	one.HealAndDrain()
	if got := exceeds(t, leader.Harness, before); !cmp.Equal(got, []string{"age"}) {
		t.Errorf("got %v", got)
	}
	if got := sub(t, leader.Harness, s.ID).ValidUntil; !got.Equal(*promised) {
		t.Errorf("got valid until %s, promised was %s", got, promised)
	}
}

// TestATowerPromisesADayWithoutMoney holds that what it gives on credit is bounded there, and that the cluster then gives the whole of it.
func TestATowerPromisesADayWithoutMoney(t *testing.T) {
	t.Parallel()
	c, leader, one, _ := region(t)
	m, week := monthly(t, leader.Harness), sell(t, leader.Harness, offer("WEEK", prepaid(billing.Week, 1)))
	post := sell(t, leader.Harness, offer("POST"))
	edgetest.Do[billing.OfflineLimits](t, leader.Harness, ann, "billing.offline_limits.set", billing.LimitsInput{PlanCodes: []string{"MONTH", "POST"}})
	draft, live, lapsed, from := subscribe(t, leader.Harness, m.ID), activated(t, leader.Harness, m.ID), activated(t, leader.Harness, m.ID), activated(t, leader.Harness, post.ID)
	run(t, leader.Harness, "renew", billing.RenewInput{ID: live.ID})
	advance(c, 40*24*time.Hour)
	one.CutAndNotice()
	for verb, in := range map[string]any{
		"create": order(week.ID), "change_plan": billing.ChangePlanInput{ID: live.ID, PlanID: week.ID},
	} {
		if got := edgetest.Code(t, one.Harness, ann, "billing.subscription."+verb, in); got != "offline_limit" {
			t.Errorf("%s of a plan that may not be sold: got %s", verb, got)
		}
	}
	day := one.Clock.Now().Add(24 * time.Hour)
	for name, c := range map[string]struct {
		s    subscription
		want time.Time
	}{
		"activated":        {run(t, one.Harness, "activate", billing.SubscriptionRef{ID: draft.ID}), day},
		"renewed, lapsed":  {run(t, one.Harness, "renew", billing.RenewInput{ID: lapsed.ID, Periods: 3}), day},
		"renewed, paid on": {run(t, one.Harness, "renew", billing.RenewInput{ID: live.ID}), *sub(t, leader.Harness, live.ID).ValidUntil},
		"changed to":       {run(t, one.Harness, "change_plan", billing.ChangePlanInput{ID: from.ID, PlanID: m.ID}), day},
	} {
		if !c.s.ValidUntil.Equal(c.want) {
			t.Errorf("%s: the tower promises until %s, want %s", name, c.s.ValidUntil, c.want)
		}
	}
	paid := pay(t, one.Harness, cash(2500, draft.ID)) // money lifts the bound
	if !paid.Allocations[0].To.Equal(*sub(t, one.Harness, draft.ID).ValidUntil) || paid.Allocations[0].To.Before(day.AddDate(0, 1, 0)) {
		t.Errorf("got %+v", paid.Allocations)
	}
	edgetest.Do[billing.OfflineLimits](t, leader.Harness, ann, "billing.offline_limits.set", billing.LimitsInput{PlanCodes: []string{"POST"}})
	before := leader.Machine.Version()
	one.HealAndDrain()
	for name, s := range map[string]subscription{"activated": draft, "lapsed": lapsed, "live": live, "changed": from} {
		if got := sub(t, leader.Harness, s.ID); got.ValidUntil.Before(day.AddDate(0, 0, 20)) {
			t.Errorf("%s: the cluster gives until %s, want the whole period", name, got.ValidUntil)
		}
	}
	if got := exceeds(t, leader.Harness, before); len(got) != 4 || slices.ContainsFunc(got, func(l string) bool { return l != "plan" }) {
		t.Errorf("a plan that may no longer be sold: got %v", got)
	}
	c.Agree()
	edgetest.NoDrift(t, leader.Harness)
}

// TestTwoTowersWithOnePhone holds that a payment which a phone gave to two cut-off nodes is one, and that both receipts are accounted for.
func TestTwoTowersWithOnePhone(t *testing.T) {
	t.Parallel()
	c, leader, one, two := region(t)
	s := activated(t, leader.Harness, monthly(t, leader.Harness).ID)
	in := cash(2500, s.ID)
	in.Device, in.DeviceSeq = "phone-7", 1
	other := in
	other.Amount = usd(5000)
	one.CutAndNotice()
	two.CutAndNotice()
	record := func(n *edgetest.Member, key string, in billing.PaymentInput) payment {
		t.Helper()
		p, _, err := edgetest.Try[payment](n.Harness, ann, edge.Request{Key: key}, "billing.payment.record", in)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	a := record(one, "a", in)
	record(two, "b", in) // another key, the same number and content
	record(two, "a", in) // the same key: it has no number of its own there
	c1 := record(one, "c", cash(100, ""))
	record(two, "c", cash(100, "")) // the same key alone
	record(two, "d", other)         // the same number, another content
	one.HealAndDrain()
	two.HealAndDrain()
	c.Agree()
	list := edgetest.Ask[edge.Page[payment]](t, leader.Harness, ann, "billing.payment.list", billing.PaymentList{}).Data
	var sum int64
	for _, p := range list {
		sum += p.Amount.AmountMinor
	}
	if len(list) != 3 || sum != 2500+100+5000 {
		t.Errorf("got %d payments of %d in all: %+v", len(list), sum, list)
	}
	first := edgetest.Ask[payment](t, leader.Harness, ann, "billing.payment.get", billing.PaymentRef{ID: a.ID})
	again := edgetest.Ask[payment](t, leader.Harness, ann, "billing.payment.get", billing.PaymentRef{ID: c1.ID})
	if len(first.Copies) != 1 || first.Copies[0].Receipt.Number != "RCT-n3-1" || len(again.Copies) != 1 || again.Copies[0].Receipt.Number != "RCT-n3-2" {
		t.Errorf("got the copies %+v and %+v", first.Copies, again.Copies)
	}
	verdicts := edgetest.Ask[billing.ReceiptVerdicts](t, leader.Harness, ann, "billing.receipt.verify", billing.VerifyInput{ID: a.ID}).Receipts
	for _, v := range verdicts {
		if !v.Content || v.Signature != "right" {
			t.Errorf("got %+v", v)
		}
	}
	for _, node := range []string{"n2", "n3"} {
		if ch := edgetest.Ask[billing.Chain](t, leader.Harness, ann, "billing.receipt.chain", billing.ChainInput{Node: node}); len(ch.Findings) != 0 || ch.Checked == 0 {
			t.Errorf("the chain of %s: %+v", node, ch)
		}
	}
	if got := sub(t, leader.Harness, s.ID); got.PeriodsPaid != 2 {
		t.Errorf("got %d periods", got.PeriodsPaid)
	}
	edgetest.NoDrift(t, leader.Harness)
}

func TestAReceiptSaysWhereTheClockCannotBeTrusted(t *testing.T) {
	t.Parallel()
	n := edgetest.NodeWith(t, edgetest.Modules(billing.ModuleWith(edgetest.Key)), edgetest.NoTimer())
	p := pay(t, n, cash(2500, ""))
	text := edgetest.Ask[billing.ReceiptText](t, n, ann, "billing.receipt.get", billing.PaymentRef{ID: p.ID})
	if !p.Receipt.ClockUntrusted || !slices.Contains(text.Lines, "clock                                  untrusted") {
		t.Errorf("got %+v and %q", p.Receipt, text.Lines)
	}
	if v := edgetest.Ask[billing.ReceiptVerdicts](t, n, ann, "billing.receipt.verify", billing.VerifyInput{ID: p.ID}).Receipts[0]; v.Signature != "right" {
		t.Errorf("got %+v", v)
	}
}

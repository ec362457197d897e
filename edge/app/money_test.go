package app

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/radiusd"
	"wispgate/billing"
	"wispgate/crm"
	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
	"wispgate/inventory"
)

// region is a cluster of two nodes with every domain and every flow, each with the index that RADIUS answers from.
type region struct {
	*edgetest.Cluster
	t             *testing.T
	leader, tower *edgetest.Member
	index         map[string]*aaa.Index
	policy, plan  edge.ID
	customer, sub edge.ID
}

func newRegion(t *testing.T) *region {
	t.Helper()
	r := &region{t: t, index: map[string]*aaa.Index{}}
	r.Cluster = edgetest.NewCluster(t, 2, func(c *exec.Config) {
		ix := aaa.NewIndex(secrets{c.Secrets.(edgetest.Secrets).Vault}, nil, slog.New(slog.DiscardHandler))
		r.index[c.Node] = ix
		part := exec.Part()
		part.Name, part.Summary = "sync", "Conflicts and operations."
		c.Modules = []edge.Module{inventory.Module(), crm.Module(), billing.ModuleWith(edgetest.Key), aaa.Module(aaa.Deps{Index: ix}), part}
		c.Flows, c.Patience = Flows(), 200*time.Millisecond
	}, edgetest.NoTimer())
	r.leader, r.tower = r.Nodes[0], r.Nodes[1]
	r.policy = r.made("aaa.policy.create", aaa.NewPolicy{Name: "10/2", PolicyTerms: aaa.PolicyTerms{DownKbps: 10_000, UpKbps: 2_000}})
	r.plan = r.sell("PRE30", billing.Prepaid)
	r.customer = r.made("crm.customer.create", crm.NewCustomer{Kind: crm.Person, Name: "Rudo Moyo", Status: crm.Active})
	r.sub = r.subscribe(r.plan, "rudo@acme")
	return r
}

// made runs a command on the leader and returns the id of the record it answers.
func (r *region) made(op string, in any) edge.ID {
	r.t.Helper()
	return edgetest.Do[edge.Meta](r.t, r.leader.Harness, isp, op, in).ID
}

func (r *region) sell(code string, kind billing.PlanKind) edge.ID {
	r.t.Helper()
	id := r.made("billing.plan.create", billing.NewPlan{Code: code, Terms: billing.Terms{
		Name: code, Kind: kind, Price: billing.Money{AmountMinor: 2500, Currency: "USD"}, Interval: &billing.Interval{Unit: billing.Month, Count: 1}, PolicyRef: r.policy,
	}})
	r.made("billing.plan.publish", billing.PublishPlanInput{ID: id})
	return id
}

// subscribe makes an active subscription with a login.
func (r *region) subscribe(plan edge.ID, name string) edge.ID {
	r.t.Helper()
	id := r.made("billing.subscription.create", billing.NewSubscription{CustomerID: r.customer, Timezone: "Africa/Harare", Items: []billing.NewItem{{PlanID: plan}}})
	r.made("aaa.credential.create", json.RawMessage(fmt.Sprintf(`{"subscription_id":%q,"username":%q,"password":"correct horse","scheme":"argon2id"}`, id, name)))
	r.made("billing.subscription.activate", billing.SubscriptionRef{ID: id})
	return id
}

// radius is what a node's RADIUS server decides about a login: from its index, as for an Access-Request.
func (r *region) radius(m *edgetest.Member, name string) string {
	r.t.Helper()
	req := &radiusd.Request{NAS: &radiusd.NAS{Tenant: "acme"}, Login: []byte(name), Now: m.Clock.Now()}
	l := r.index[m.Name].Lookup(req)
	if l == nil {
		return "unknown"
	}
	d := r.index[m.Name].Decide(req, l)
	if d.Reason != nil {
		return fmt.Sprint(d.Verdict, " ", d.Reason.Code)
	}
	return fmt.Sprint(d.Verdict)
}

func (r *region) subscription(m *edgetest.Member, id edge.ID) billing.Subscription {
	r.t.Helper()
	return edgetest.Ask[billing.Subscription](r.t, m.Harness, isp, "billing.subscription.get", billing.SubscriptionRef{ID: id})
}

func (r *region) payments(m *edgetest.Member) []billing.Payment {
	r.t.Helper()
	return edgetest.Ask[edge.Page[billing.Payment]](r.t, m.Harness, isp, "billing.payment.list", billing.PaymentList{}).Data
}

func (r *region) advance(d time.Duration) {
	for _, m := range r.Nodes {
		m.Clock.Advance(d)
	}
}

func (r *region) explains(m *edgetest.Member, name string) string {
	r.t.Helper()
	e := edgetest.Ask[aaa.Explanation](r.t, m.Harness, isp, "aaa.entitlement.explain", aaa.ExplainInput{Login: name})
	return fmt.Sprint(e.Decision, " ", e.Reason)
}

var allow = fmt.Sprint(radiusd.Allow)

// TestCashAtADarkTowerBringsASubscriberOnline is the promise: money taken where neither uplink nor quorum is opens the network there at
// once, and when the link is back there is one payment and the time that was promised, however many days later.
func TestCashAtADarkTowerBringsASubscriberOnline(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	post := r.subscribe(r.sell("POST", billing.Recurring), "bar@acme")
	r.made("billing.subscription.suspend", billing.SuspendInput{ID: post, Reason: billing.ForDunning})
	r.advance(40 * 24 * time.Hour) // the month given at the activation has passed
	r.tower.CutAndNotice()
	for name, want := range map[string]string{"rudo@acme": "reject expired", "bar@acme": "reject suspended_unpaid"} {
		if got := r.explains(r.tower, name); got != want || r.radius(r.tower, name) == allow {
			t.Fatalf("before the payment %s is %s, RADIUS says %s", name, got, r.radius(r.tower, name))
		}
	}
	record := func(key string, sub edge.ID) (billing.Payment, edge.Reply) {
		t.Helper()
		in := billing.PaymentInput{CustomerID: r.customer, SubscriptionID: sub, Method: billing.Cash, Amount: billing.Money{AmountMinor: 2500, Currency: "USD"}}
		p, reply, err := edgetest.Try[billing.Payment](r.tower.Harness, isp, edge.Request{Key: key}, "billing.payment.record", in)
		if err != nil {
			t.Fatal(err)
		}
		return p, reply
	}
	p, reply := record("rudo-pays", r.sub)
	if reply.State != "pending" || p.Receipt.Number != "RCT-n2-1" || !p.Offline || p.Status != billing.Allocated {
		t.Errorf("got %s %+v", reply.State, p)
	}
	if again, reply := record("rudo-pays", r.sub); !reply.Replayed || again.ID != p.ID {
		t.Errorf("asked again: %+v", reply)
	}
	second, _ := record("bar-pays", post)
	for _, name := range []string{"rudo@acme", "bar@acme"} {
		if got := r.radius(r.tower, name); got != allow {
			t.Errorf("after the payment RADIUS at the tower answers %s: %s", name, got)
		}
		if got := r.explains(r.tower, name); got != "allow active" {
			t.Errorf("after the payment %s is %s", name, got)
		}
		if got := r.radius(r.leader, name); got == allow {
			t.Errorf("the leader cannot know of the payment, and says %s", got)
		}
	}
	promised := *r.subscription(r.tower, r.sub).ValidUntil
	r.advance(3 * 24 * time.Hour)
	r.tower = r.Restart(r.tower) // the queue is on its disk
	edgetest.Eventually(t, func() bool { return len(r.payments(r.tower)) == 2 && r.radius(r.tower, "rudo@acme") == allow },
		func() string { return fmt.Sprint(r.payments(r.tower), r.radius(r.tower, "rudo@acme")) })
	r.tower.HealAndDrain()
	r.Agree()
	for _, m := range r.Nodes {
		list := r.payments(m)
		slices.SortFunc(list, func(a, b billing.Payment) int { return a.ReceivedAt.Compare(b.ReceivedAt) })
		if len(list) != 2 || !slices.ContainsFunc(list, func(q billing.Payment) bool { return q.ID == p.ID && q.Receipt.Link == p.Receipt.Link }) {
			t.Errorf("%s has %d payments: %+v", m.Name, len(list), list)
		}
		if got := *r.subscription(m, r.sub).ValidUntil; !got.Equal(promised) {
			t.Errorf("%s: valid until %s, promised was %s", m.Name, got, promised)
		}
		for _, name := range []string{"rudo@acme", "bar@acme"} {
			if got := r.radius(m, name); got != allow {
				t.Errorf("after the rebase RADIUS of %s answers %s: %s", m.Name, name, got)
			}
		}
		chain := edgetest.Ask[billing.Chain](t, m.Harness, isp, "billing.receipt.chain", billing.ChainInput{Node: "n2"})
		if chain.Last != 2 || len(chain.Findings) != 0 || !chain.Signatures {
			t.Errorf("%s finds %+v", m.Name, chain)
		}
	}
	if second.SubscriptionID != post || !second.ClearedDunning {
		t.Errorf("got %+v", second)
	}
	edgetest.NoDrift(t, r.leader.Harness)
}

func TestMoneyOfSomebodyUnknownIsCredit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.Machine.Version()
	p := edgetest.Do[billing.Payment](t, w.Harness, isp, "billing.payment.record", billing.PaymentInput{
		CustomerID: "cus_00000000-0000-7000-8000-000000000000", Method: billing.Cash, Amount: billing.Money{AmountMinor: 100, Currency: "USD"},
	})
	p = edgetest.Ask[billing.Payment](t, w.Harness, isp, "billing.payment.get", billing.PaymentRef{ID: p.ID})
	if p.CreditReason != "customer_unknown" || p.Unallocated.AmountMinor != 100 {
		t.Errorf("got %+v", p)
	}
	if got := edgetest.EventTypes(t, w.Harness, "acme", before); !slices.Contains(got, "billing.payment.unallocated") {
		t.Errorf("got events %v", got)
	}
}

// TestMoneyUnderAKeyThatBecameAnotherWritesStands holds that what a tower has taken never waits for a decision: under a key that another payment
// got meanwhile it is credit, with the alarm that a repeated number of a phone raises; where the key became that of something else, nothing
// speaks against it. The chain of receipts has no gap, and whoever asks is told of his own.
func TestMoneyUnderAKeyThatBecameAnotherWritesStands(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.advance(40 * 24 * time.Hour)
	pay := func(m *edgetest.Member, key string, minor int64) (billing.Payment, edge.Reply) {
		t.Helper()
		in := billing.PaymentInput{CustomerID: r.customer, SubscriptionID: r.sub, Method: billing.Cash, Amount: billing.Money{AmountMinor: minor, Currency: "USD"}}
		p, reply, err := edgetest.Try[billing.Payment](m.Harness, isp, edge.Request{Key: key}, "billing.payment.record", in)
		if err != nil {
			t.Fatal(err)
		}
		return p, reply
	}
	r.tower.CutAndNotice()
	for _, key := range []string{"before", "key", "other"} {
		if _, reply := pay(r.tower, key, 2500); reply.State != "pending" {
			t.Fatalf("%s: got %+v", key, reply)
		}
	}
	promised := edgetest.Ask[billing.Payment](t, r.tower.Harness, isp, "billing.payment.get", billing.PaymentRef{ID: edge.DeriveID("pay", "acme/"+isp.Subject+"/key", 0)})
	pay(r.tower, "after", 2500)
	before := r.leader.Machine.Version()
	first, _ := pay(r.leader, "key", 500)
	if _, _, err := edgetest.Try[edge.Meta](r.leader.Harness, isp, edge.Request{Key: "other"}, "crm.customer.create", crm.NewCustomer{Kind: crm.Person, Name: "Tendai", Status: crm.Active}); err != nil {
		t.Fatal(err)
	}
	r.tower.Receive() // what the others did comes before its own is handed over, as by a stick
	edgetest.Eventually(t, func() bool {
		o := edgetest.Ask[exec.OperationState](t, r.tower.Harness, isp, "sync.operation.get", exec.OperationRef{Operation: "key"})
		return o.State == "pending" && o.Record != first.ID && len(o.Others) == 1 && o.Others[0].Record == first.ID
	}, func() string { return fmt.Sprint(r.payments(r.tower)) })
	if p, reply := pay(r.tower, "key", 2500); reply.State != "pending" || reply.Version != 0 || p.DuplicateOf != first.ID {
		t.Errorf("the tower shows %+v %+v", reply, p)
	}
	r.tower = r.Restart(r.tower)
	r.tower.HealAndDrain()
	r.Agree()
	if list := edgetest.Ask[edge.Page[exec.Conflict]](t, r.leader.Harness, isp, "sync.conflict.list", exec.ConflictList{}).Data; len(list) > 0 {
		t.Fatalf("money waits for a decision: %+v", list)
	}
	p, reply := pay(r.tower, "key", 2500)
	if !reply.Replayed || reply.State != "committed" || p.ID == first.ID || p.DuplicateOf != first.ID || p.Unallocated.AmountMinor != 2500 || p.CreditReason != "idempotency_key_reused" {
		t.Errorf("the tower's is %+v %+v", reply, p)
	}
	if len(p.Copies) != 1 || p.Copies[0].PaymentID != promised.ID || p.Copies[0].Receipt.Number != promised.Receipt.Number {
		t.Errorf("its receipt is %+v, want that of %s", p.Copies, promised.Receipt.Number)
	}
	if again, reply := pay(r.leader, "key", 2500); !reply.Replayed || again.ID != p.ID {
		t.Errorf("sent to the leader: %+v %s", reply, again.ID)
	}
	if again, reply := pay(r.tower, "key", 500); !reply.Replayed || again.ID != first.ID {
		t.Errorf("the first one, repeated: %+v %s", reply, again.ID)
	}
	if o, reply := pay(r.tower, "other", 2500); !reply.Replayed || o.DuplicateOf != "" || o.Receipt == nil || len(o.Allocations) != 1 {
		t.Errorf("under the key of a customer: %+v %+v", reply, o)
	}
	if n := len(r.payments(r.leader)); n != 5 {
		t.Errorf("there are %d payments, want 5", n)
	}
	o := edgetest.Ask[exec.OperationState](t, r.tower.Harness, isp, "sync.operation.get", exec.OperationRef{Operation: "key"})
	if o.State != "committed" || o.Record != p.ID || len(o.Others) != 1 || o.Others[0].Record != first.ID {
		t.Errorf("the operation is %+v", o)
	}
	for _, m := range r.Nodes {
		chain := edgetest.Ask[billing.Chain](t, m.Harness, isp, "billing.receipt.chain", billing.ChainInput{Node: "n2"})
		if chain.Last != 4 || chain.Checked != 4 || len(chain.Findings) != 0 || !chain.Signatures {
			t.Errorf("%s finds %+v", m.Name, chain)
		}
	}
	text := edgetest.Ask[billing.ReceiptText](t, r.leader.Harness, isp, "billing.receipt.get", billing.PaymentRef{ID: p.ID})
	if printed := fmt.Sprint(text.Lines); text.Number != promised.Receipt.Number || !strings.Contains(printed, string(promised.ID)) {
		t.Errorf("the receipt reads %s", printed)
	}
	events := edgetest.EventTypes(t, r.leader.Harness, "acme", before)
	for _, want := range []string{"billing.payment.duplicate_rejected", "billing.payment.recorded", "billing.receipt.issued"} {
		if !slices.Contains(events, want) {
			t.Errorf("no %s in %v", want, events)
		}
	}
	if slices.Contains(events, "billing.collector.chain_broken") {
		t.Error("a chain is called broken")
	}
	edgetest.NoDrift(t, r.leader.Harness)
}

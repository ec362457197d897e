package app

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/aaa"
	"wispgate/billing"
	"wispgate/crm"
	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/inventory"
	"wispgate/sync/cluster"
)

var isp = edgetest.Actor("acme")

// world is a node with every domain and every flow, and one subscriber ready to be served.
type world struct {
	*edgetest.Harness
	t        *testing.T
	site     edge.ID
	policy   edge.ID
	plan     edge.ID
	customer edge.ID
	sub      edge.ID
	login    edge.ID
}

// measure stands in for accounting: it emits what the drainer would.
var measure = edge.Command[aaa.SessionMeasured, edge.None]{
	Name: "test.session.measure", Scope: "test:write", Class: edge.Write, Summary: "Emit a measured session",
	Handle: func(tx edge.Tx, in aaa.SessionMeasured) (edge.None, error) {
		tx.Emit(in)
		return edge.None{}, nil
	},
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, Harness: edgetest.NodeWith(t,
		edgetest.Modules(inventory.Module(), crm.Module(), billing.Module(), aaa.Module(aaa.Deps{}), edge.Module{Name: "test", Ops: []*edge.Op{measure.Op()}}),
		edgetest.Flows(Flows()...))}
	w.site = w.made("inventory.site.create", inventory.NewSite{Code: "TWR7", Name: "Hill Farm", Kind: inventory.Tower, Timezone: "Africa/Harare"})
	w.policy = w.made("aaa.policy.create", aaa.NewPolicy{Name: "10/2", PolicyTerms: aaa.PolicyTerms{DownKbps: 10_000, UpKbps: 2_000}})
	w.plan = w.made("billing.plan.create", billing.NewPlan{Code: "HOME10", Terms: billing.Terms{
		Name: "Home 10", Kind: billing.Recurring, Price: billing.Money{AmountMinor: 2500, Currency: "USD"},
		Interval: &billing.Interval{Unit: billing.Month, Count: 1}, PolicyRef: w.policy,
	}})
	w.made("billing.plan.publish", billing.PublishPlanInput{ID: w.plan})
	w.customer = w.made("crm.customer.create", crm.NewCustomer{Kind: crm.Person, Name: "Rudo Moyo", Status: crm.Active})
	w.sub = w.made("billing.subscription.create", w.order())
	w.login = w.made("aaa.credential.create", login(w.sub, "rudo@acme"))
	return w
}

func (w *world) order() billing.NewSubscription {
	return billing.NewSubscription{CustomerID: w.customer, SiteID: w.site, Timezone: "Africa/Harare", Items: []billing.NewItem{{PlanID: w.plan}}}
}

func login(sub edge.ID, name string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"subscription_id":%q,"username":%q,"password":"correct horse"}`, sub, name))
}

// made runs a command and returns the id of the record it answers.
func (w *world) made(op string, in any) edge.ID {
	w.t.Helper()
	return edgetest.Do[edge.Meta](w.t, w.Harness, isp, op, in).ID
}

func (w *world) refused(op string, in any, code, at string) {
	w.t.Helper()
	before := w.Machine.Version()
	_, _, err := edgetest.Try[json.RawMessage](w.Harness, isp, edge.Request{}, op, in)
	e, _ := edge.AsError(err)
	if err == nil || e.Code != code || len(e.Fields) == 0 || e.Fields[0].Pointer != at {
		w.t.Errorf("%s: got %v, want %s at %s", op, err, code, at)
	}
	if rows := edgetest.Events(w.t, w.Harness, "acme", before); len(rows) != 0 {
		w.t.Errorf("%s: was refused and left %d events", op, len(rows))
	}
}

// decision is what the login may do now, and why.
func (w *world) decision() string {
	w.t.Helper()
	v := edgetest.Ask[aaa.EntitlementView](w.t, w.Harness, isp, "aaa.entitlement.get", aaa.EntitlementRef{ID: w.login})
	return fmt.Sprint(v.Now.Decision, " ", v.Now.Reason)
}

func (w *world) credential(id edge.ID) aaa.Credential {
	w.t.Helper()
	return edgetest.Ask[aaa.Credential](w.t, w.Harness, isp, "aaa.credential.get", aaa.CredentialRef{ID: id})
}

func TestWhatBillingDecidesRADIUSDoesInTheSameCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := w.decision(); got != "reject not_active" {
		t.Errorf("before activation: got %s", got)
	}
	for _, c := range []struct {
		verb string
		in   any
		want string
	}{
		{"activate", billing.SubscriptionRef{ID: w.sub}, "allow active"},
		{"suspend", billing.SuspendInput{ID: w.sub, Reason: billing.ForDunning}, "reject suspended_unpaid"},
		{"suspend", billing.SuspendInput{ID: w.sub, Reason: billing.ForAdmin}, "reject suspended_admin"},
		{"reactivate", billing.ReactivateInput{ID: w.sub, Reason: billing.ForDunning}, "reject suspended_admin"},
		{"reactivate", billing.ReactivateInput{ID: w.sub, Reason: billing.ForAdmin}, "allow active"},
		{"terminate", billing.EndInput{ID: w.sub}, "reject login_revoked"},
	} {
		before, was := w.Machine.Version(), w.decision()
		w.made("billing.subscription."+c.verb, c.in)
		if got := w.decision(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.verb, got, c.want)
		}
		rows := edgetest.Events(t, w.Harness, "acme", before)
		changed := slices.ContainsFunc(rows, func(r edge.EventRow) bool { return r.Type == "aaa.entitlement.changed" })
		if changed != (was != c.want) {
			t.Errorf("%s: the decision went from %s to %s, entitlement.changed: %t", c.verb, was, c.want, changed)
		}
		for _, r := range rows {
			if r.Position != rows[0].Position {
				t.Errorf("%s: %s came in another commit", c.verb, r.Type)
			}
		}
	}
	if got := w.credential(w.login).Status; got != aaa.CredentialStatusRevoked {
		t.Errorf("after termination: got %s, want revoked", got)
	}
	edgetest.NoDrift(t, w.Harness)
}

func TestARecordNamesOnlyWhatIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const nobody = "00000000-0000-7000-8000-000000000000"
	bad := w.made("billing.plan.create", billing.NewPlan{Code: "BAD", Terms: billing.Terms{
		Name: "Bad", Kind: billing.Recurring, Price: billing.Money{Currency: "USD"}, Interval: &billing.Interval{Unit: billing.Month, Count: 1}, PolicyRef: "pol_" + nobody,
	}})
	w.refused("billing.plan.publish", billing.PublishPlanInput{ID: bad}, "reference_unusable", "/policy_ref")
	with := func(change func(*billing.NewSubscription)) billing.NewSubscription {
		o := w.order()
		change(&o)
		return o
	}
	w.refused("billing.subscription.create", with(func(o *billing.NewSubscription) { o.CustomerID = "cus_" + nobody }), "reference_unusable", "/customer_id")
	w.refused("billing.subscription.create", with(func(o *billing.NewSubscription) { o.SiteID = "sit_" + nobody }), "reference_unusable", "/site_id")
	w.refused("aaa.credential.create", login("sub_"+nobody, "ghost@acme"), "reference_unusable", "/subscription_id")
	gone := w.made("inventory.site.create", inventory.NewSite{Code: "OLD", Name: "Old", Kind: inventory.Tower, Timezone: "UTC"})
	w.made("inventory.site.archive", inventory.SiteRef{ID: gone})
	w.refused("billing.subscription.create", with(func(o *billing.NewSubscription) { o.SiteID = gone }), "reference_unusable", "/site_id")
	w.made("crm.customer.set_status", crm.CustomerStatusInput{ID: w.customer, Status: crm.Blocked})
	w.refused("billing.subscription.create", w.order(), "reference_unusable", "/customer_id")
	w.made("billing.subscription.terminate", billing.EndInput{ID: w.sub})
	w.refused("aaa.credential.create", login(w.sub, "late@acme"), "reference_unusable", "/subscription_id")
	edgetest.NoDrift(t, w.Harness)
}

func TestBlockingACustomerLocksItsLoginsAndUnblockingFreesOnlyThose(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.made("billing.subscription.activate", billing.SubscriptionRef{ID: w.sub})
	byHand := w.made("aaa.credential.create", login(w.sub, "second@acme"))
	w.made("aaa.credential.lock", aaa.CredentialMove{ID: byHand, Why: "stolen"})
	w.made("crm.customer.set_status", crm.CustomerStatusInput{ID: w.customer, Status: crm.Blocked})
	if got := w.decision(); got != "reject login_locked" {
		t.Errorf("blocked: got %s", got)
	}
	late := w.made("aaa.credential.create", login(w.sub, "third@acme"))
	if got := w.credential(late).Status; got != aaa.CredentialStatusLocked {
		t.Errorf("a login made while blocked: got %s, want locked", got)
	}
	w.made("crm.customer.set_status", crm.CustomerStatusInput{ID: w.customer, Status: crm.Active})
	if got := w.decision(); got != "allow active" {
		t.Errorf("unblocked: got %s", got)
	}
	if got := w.credential(late).Status; got != aaa.CredentialStatusActive {
		t.Errorf("unblocked: the late login is %s, want active", got)
	}
	if got := w.credential(byHand); got.Status != aaa.CredentialStatusLocked || got.LockedFor != "stolen" {
		t.Errorf("unblocked: the login locked by hand is %s for %q, want it untouched", got.Status, got.LockedFor)
	}
	w.made("crm.customer.set_status", crm.CustomerStatusInput{ID: w.customer, Status: crm.Churned})
	w.made("crm.customer.archive", crm.CustomerRef{ID: w.customer})
	for _, id := range []edge.ID{w.login, byHand, late} {
		if got := w.credential(id).Status; got != aaa.CredentialStatusRevoked {
			t.Errorf("archived: %s is %s, want revoked", id, got)
		}
	}
	edgetest.NoDrift(t, w.Harness)
}

func TestWhatTheNetworkMeasuresBillingCountsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := aaa.SessionMeasured{
		Session: "ses_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", Subscription: w.sub, Credential: w.login,
		Start: edgetest.Start, At: edgetest.Start.Add(5 * time.Minute), InOctets: 1 << 33, OutOctets: 5 << 33, Seconds: 300,
	}
	for range 3 {
		edgetest.Do[edge.None](t, w.Harness, isp, "test.session.measure", m)
	}
	got := edgetest.Ask[billing.UsageAnswer](t, w.Harness, isp, "billing.usage.get", billing.UsageRange{ID: w.sub, From: "2026-03-31", To: "2026-03-31"})
	if want := (billing.Counters{InOctets: 1 << 33, OutOctets: 5 << 33, Seconds: 300}); got.Total != want {
		t.Errorf("got %+v, want %+v", got.Total, want)
	}
}

// While a site is cut off nobody there is suspended for an invoice that may have been paid where the cluster does not see it.
func TestDunningStandsStillWhileASiteIsCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	edgetest.Do[billing.Subscription](t, w.Harness, isp, "billing.subscription.activate", billing.SubscriptionRef{ID: w.sub})
	system := edge.SystemActor("acme", "contact")
	contact := func(lost bool) {
		t.Helper()
		edgetest.Do[edge.None](t, w.Harness, system, "inventory.site_contact.note", inventory.Contact{Code: "twr7", Lost: lost, LastContact: w.Clock.Now(), Nodes: []string{"tower7-a"}})
	}
	if got := edgetest.Code(t, w.Harness, isp, "inventory.site_contact.note", inventory.Contact{Code: "twr7", Nodes: []string{"x"}}); got != "contact_cluster_only" {
		t.Errorf("a client's word: got %s", got)
	}
	suspend := func(reason billing.SuspensionReason) string {
		_, _, err := edgetest.Try[billing.Subscription](w.Harness, isp, edge.Request{}, "billing.subscription.suspend", billing.SuspendInput{ID: w.sub, Reason: reason})
		if err == nil {
			return ""
		}
		return edgetest.CodeOf(t, err)
	}
	before := w.Version()
	contact(false)
	contact(false)
	w.Clock.Advance(time.Hour)
	contact(true)
	if got := suspend(billing.ForDunning); got != "enforcement_frozen" {
		t.Errorf("dunning while the site is cut off: got %q", got)
	}
	if got := suspend(billing.ForAdmin); got != "" {
		t.Errorf("another reason: got %q", got)
	}
	w.Clock.Advance(time.Hour)
	contact(false)
	if got := suspend(billing.ForDunning); got != "" {
		t.Errorf("dunning once the site is back: got %q", got)
	}
	types := slices.DeleteFunc(edgetest.EventTypes(t, w.Harness, "acme", before), func(s string) bool { return !strings.HasPrefix(s, "inventory.site_contact.") })
	if !slices.Equal(types, []string{"inventory.site_contact.lost", "inventory.site_contact.restored"}) {
		t.Errorf("got events %v", types)
	}
	c := edgetest.Ask[inventory.SiteContact](t, w.Harness, isp, "inventory.site_contact.get", inventory.SiteRef{ID: w.site})
	if c.Status != inventory.InContact || !c.Since.Equal(w.Clock.Now()) || len(c.Nodes) != 1 {
		t.Errorf("got %+v", c)
	}
}

func TestASiteIsLostWithTheLastOfItsNodes(t *testing.T) {
	t.Parallel()
	now := edgetest.Start
	lost := now.Add(-time.Minute)
	got := siteContacts([]cluster.Peer{
		{Node: "a1", Site: "hub"}, {Node: "b1", Site: "TWR7", LostAt: &lost}, {Node: "b2", Site: "twr7", LostAt: new(lost.Add(-time.Hour))},
		{Node: "c1", Site: "twr8", LostAt: &lost}, {Node: "c2", Site: "twr8"},
	}, now)
	want := []inventory.Contact{
		{Code: "HUB", LastContact: now, Nodes: []string{"a1"}},
		{Code: "TWR7", Lost: true, LastContact: lost, Nodes: []string{"b1", "b2"}},
		{Code: "TWR8", LastContact: now, Nodes: []string{"c1", "c2"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

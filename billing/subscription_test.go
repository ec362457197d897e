package billing_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/billing"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

func order(plans ...edge.ID) billing.NewSubscription {
	s := billing.NewSubscription{CustomerID: someone, SiteID: someplace, Timezone: "Africa/Harare"}
	for _, p := range plans {
		s.Items = append(s.Items, billing.NewItem{PlanID: p})
	}
	return s
}

func subscribe(t *testing.T, n *edgetest.Harness, plans ...edge.ID) subscription {
	t.Helper()
	return edgetest.Do[subscription](t, n, ann, "billing.subscription.create", order(plans...))
}

func run(t *testing.T, n *edgetest.Harness, verb string, in any) subscription {
	t.Helper()
	return edgetest.Do[subscription](t, n, ann, "billing.subscription."+verb, in)
}

// accesses decodes the access_changed events after a version.
func accesses(t *testing.T, n *edgetest.Harness, after uint64) (list []billing.AccessChanged) {
	t.Helper()
	for _, r := range edgetest.Events(t, n, "acme", after) {
		if r.Type == (billing.AccessChanged{}).EventName() {
			var a billing.AccessChanged
			if err := json.Unmarshal(r.Changed, &a); err != nil {
				t.Fatal(err)
			}
			list = append(list, a)
		}
	}
	return list
}

func TestASubscriptionLivesFromDraftToItsEnd(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p := sell(t, n, offer("HOME10", func(p *billing.NewPlan) {
		p.ExhaustedRef, p.OnExpiry, p.OfflineGrace = slow, billing.ExpiryThrottle, 86400
	}))
	cpe := sell(t, n, offer("CPE", func(p *billing.NewPlan) { p.Kind, p.Interval, p.PolicyRef = billing.Equipment, nil, "" }))
	s := subscribe(t, n, p.ID, cpe.ID)
	if s.Status != billing.Draft || s.Items[0].Role != billing.MainItem || s.Items[1].Role != billing.CPEItem || s.Items[0].PlanVersion != 1 || s.Items[1].Qty != 1 {
		t.Fatalf("got %+v, want a draft with a main and a CPE item", s)
	}
	ref := billing.SubscriptionRef{ID: s.ID}
	if s = run(t, n, "submit", ref); s.Status != billing.Pending {
		t.Errorf("submitted: got %s", s.Status)
	}
	if s = run(t, n, "activate", ref); s.Status != billing.Active || !s.ActivatedAt.Equal(edgetest.Start) || s.ValidUntil != nil {
		t.Errorf("activated: got %+v, want active from now, without an end", s)
	}
	hold := func(r billing.SuspensionReason) subscription {
		return run(t, n, "suspend", billing.SuspendInput{ID: s.ID, Reason: r})
	}
	free := func(r billing.SuspensionReason) subscription {
		return run(t, n, "reactivate", billing.ReactivateInput{ID: s.ID, Reason: r})
	}
	hold(billing.ForDunning)
	if s = hold(billing.ForAdmin); s.Status != billing.Suspended || len(s.Suspensions) != 2 || s.Suspensions[0].By != ann.Subject {
		t.Errorf("held twice: got %+v", s.Suspensions)
	}
	if s = free(billing.ForDunning); s.Status != billing.Suspended {
		t.Errorf("one of two cleared: got %s, want suspended", s.Status)
	}
	if s = free(billing.ForAdmin); s.Status != billing.Active || s.Suspensions != nil {
		t.Errorf("both cleared: got %+v, want active", s)
	}
	s = run(t, n, "terminate", billing.EndInput{ID: s.ID, Reason: "moved away"})
	if s.Status != billing.Terminated || s.EndReason != "moved away" {
		t.Errorf("ended: got %+v", s)
	}
	var got []string
	for i, a := range accesses(t, n, 0) {
		if a.Revision != uint64(i+1) || a.Policy != policy || a.ExhaustedPolicy != slow || a.OfflineGraceSeconds != 86400 || a.OnExpiry != "throttle" || a.Customer != someone {
			t.Errorf("access %d: got %+v", i, a)
		}
		var word strings.Builder
		word.WriteString(a.Status)
		for _, r := range a.Reasons {
			word.WriteString(" " + r)
		}
		got = append(got, word.String())
	}
	want := []string{"pending", "active", "suspended dunning", "suspended admin dunning", "suspended admin", "active", "terminated"}
	if !cmp.Equal(got, want) {
		t.Errorf("access: %s", cmp.Diff(want, got))
	}
	edgetest.NoDrift(t, n)
}

func TestTransitionsThatAreNotLegalAreConflicts(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p, pre := sell(t, n, offer("HOME10")), sell(t, n, offer("DAY", prepaid(billing.Day, 3)))
	draft, active, held, ended := subscribe(t, n, p.ID), subscribe(t, n, p.ID), subscribe(t, n, p.ID), subscribe(t, n, p.ID)
	for _, s := range []subscription{active, held} {
		run(t, n, "activate", billing.SubscriptionRef{ID: s.ID})
	}
	run(t, n, "suspend", billing.SuspendInput{ID: held.ID, Reason: billing.ForFraud})
	run(t, n, "terminate", billing.EndInput{ID: ended.ID})
	before := len(edgetest.EventTypes(t, n, "acme", 0))
	later := edgetest.Start.Add(time.Hour)
	for _, c := range []struct {
		name, verb string
		in         any
		code       string // "": success without effect
	}{
		{"suspend a draft", "suspend", billing.SuspendInput{ID: draft.ID, Reason: billing.ForAdmin}, "subscription_inactive"},
		{"reactivate a draft", "reactivate", billing.ReactivateInput{ID: draft.ID, Reason: billing.ForAdmin}, "subscription_inactive"},
		{"renew a draft", "renew", billing.RenewInput{ID: draft.ID}, "subscription_inactive"},
		{"renew what is not prepaid", "renew", billing.RenewInput{ID: active.ID}, "subscription_not_prepaid"},
		{"activate a suspended one", "activate", billing.SubscriptionRef{ID: held.ID}, "subscription_held"},
		{"end in the past", "schedule_termination", billing.ScheduleEndInput{ID: active.ID, TerminateAt: edgetest.Start}, "termination_past"},
		{"end in a lifetime", "schedule_termination", billing.ScheduleEndInput{ID: active.ID, TerminateAt: edgetest.Start.AddDate(30, 0, 0)}, "subscription_invalid"},
		{"activate an ended one", "activate", billing.SubscriptionRef{ID: ended.ID}, "subscription_terminated"},
		{"suspend an ended one", "suspend", billing.SuspendInput{ID: ended.ID, Reason: billing.ForAdmin}, "subscription_terminated"},
		{"change the plan of an ended one", "change_plan", billing.ChangePlanInput{ID: ended.ID, PlanID: pre.ID}, "subscription_terminated"},
		{"schedule the end of an ended one", "schedule_termination", billing.ScheduleEndInput{ID: ended.ID, TerminateAt: later}, "subscription_terminated"},
		{"change to a plan that is not", "change_plan", billing.ChangePlanInput{ID: active.ID, PlanID: "pln_00000000-0000-7000-8000-000000000000"}, "subscription_invalid"},
		{"what is not there", "activate", billing.SubscriptionRef{ID: "sub_00000000-0000-7000-8000-000000000000"}, "not_found"},
		{"activate an active one", "activate", billing.SubscriptionRef{ID: active.ID}, ""},
		{"submit an active one", "submit", billing.SubscriptionRef{ID: active.ID}, ""},
		{"suspend for a reason that lies there", "suspend", billing.SuspendInput{ID: held.ID, Reason: billing.ForFraud}, ""},
		{"reactivate for a reason that does not", "reactivate", billing.ReactivateInput{ID: held.ID, Reason: billing.ForQuota}, ""},
		{"end an ended one", "terminate", billing.EndInput{ID: ended.ID, Reason: "again"}, ""},
		{"the plan it holds", "change_plan", billing.ChangePlanInput{ID: active.ID, PlanID: p.ID}, ""},
		{"withdraw an end that is not scheduled", "withdraw_termination", billing.SubscriptionRef{ID: active.ID}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := edgetest.Try[subscription](n, ann, edge.Request{}, "billing.subscription."+c.verb, c.in)
			got := ""
			if err != nil {
				got = edgetest.CodeOf(t, err)
			}
			if got != c.code {
				t.Errorf("got %q, want %q", got, c.code)
			}
		})
	}
	if after := len(edgetest.EventTypes(t, n, "acme", 0)); after != before {
		t.Errorf("got %d events from refusals and repetitions, want none", after-before)
	}
}

func TestOrdersThatCannotBeServedAreRefused(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p, extra := sell(t, n, offer("HOME10")), sell(t, n, offer("IP", addon))
	draft := edgetest.Do[plan](t, n, ann, "billing.plan.create", offer("SOON"))
	retired := sell(t, n, offer("OLD"))
	edgetest.Do[plan](t, n, ann, "billing.plan.retire", billing.PlanRef{ID: retired.ID})
	rand := sell(t, n, offer("RAND", addon, func(p *billing.NewPlan) { p.Price.Currency = "ZAR" }))
	local := sell(t, n, offer("LOCAL", func(p *billing.NewPlan) { p.Availability = &billing.Availability{Sites: []edge.ID{elsewhere}} }))
	taken := subscribe(t, n, p.ID)
	for _, c := range []struct {
		name     string
		in       billing.NewSubscription
		code, at string
	}{
		{"no plan that gives access", order(extra.ID), "subscription_invalid", "/items"},
		{"two plans that give access", order(p.ID, p.ID), "subscription_invalid", "/items"},
		{"a plan that is not", order("pln_00000000-0000-7000-8000-000000000000"), "subscription_invalid", "/items/0/plan_id"},
		{"a draft", order(draft.ID), "plan_not_sold", "/items/0/plan_id"},
		{"a retired plan", order(retired.ID), "plan_not_sold", "/items/0/plan_id"},
		{"a plan of another site", order(local.ID), "plan_not_here", "/items/0/plan_id"},
		{"two currencies", order(p.ID, rand.ID), "money_currency", "/items/1/plan_id"},
		{"an unknown zone", billing.NewSubscription{CustomerID: someone, Timezone: "Mars/Base", Items: []billing.NewItem{{PlanID: p.ID}}}, "timezone_unknown", "/timezone"},
		{"an id that names another", billing.NewSubscription{ID: taken.ID, CustomerID: someone, Timezone: "UTC", Items: []billing.NewItem{{PlanID: p.ID, Qty: 2}}}, "subscription_id_taken", "/id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := edgetest.Try[subscription](n, ann, edge.Request{}, "billing.subscription.create", c.in)
			e, _ := edge.AsError(err)
			if err == nil || e.Code != c.code || len(e.Fields) == 0 || e.Fields[0].Pointer != c.at {
				t.Errorf("got %v, want %s at %s", err, c.code, c.at)
			}
		})
	}
	again := order(p.ID)
	again.ID = taken.ID
	if got := edgetest.Do[subscription](t, n, ann, "billing.subscription.create", again); got.Version != 1 {
		t.Errorf("the same order again: got version %d, want the first answer", got.Version)
	}
}

func TestPrepaidTimeIsSoldByThePeriod(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module()) // it is noon UTC, 14:00 in Harare
	day, mins := sell(t, n, offer("DAY3", prepaid(billing.Day, 3))), sell(t, n, offer("MIN90", prepaid(billing.Minute, 90)))
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	until := func(s subscription, want string) {
		t.Helper()
		if !s.ValidUntil.Equal(at(want)) {
			t.Errorf("got valid until %s, want %s", s.ValidUntil, want)
		}
	}
	s := subscribe(t, n, day.ID)
	s = run(t, n, "activate", billing.SubscriptionRef{ID: s.ID})
	until(s, "2026-04-02T22:00:00Z") // three local dates, this one among them
	s = run(t, n, "renew", billing.RenewInput{ID: s.ID, Periods: 2})
	until(s, "2026-04-08T22:00:00Z")
	n.Clock.Advance(20 * 24 * time.Hour)
	s = run(t, n, "renew", billing.RenewInput{ID: s.ID}) // lapsed: from now
	until(s, "2026-04-22T22:00:00Z")
	s = run(t, n, "change_plan", billing.ChangePlanInput{ID: s.ID, PlanID: mins.ID}) // paid time stays
	until(s, "2026-04-22T22:00:00Z")
	s = run(t, n, "renew", billing.RenewInput{ID: s.ID}) // 90 minutes after it
	until(s, "2026-04-22T23:30:00Z")
	if got := edgetest.Code(t, n, ann, "billing.subscription.renew", billing.RenewInput{ID: s.ID, Periods: 10_000}); got != "subscription_invalid" {
		t.Errorf("ten thousand periods: got %s, want subscription_invalid", got)
	}
	list := accesses(t, n, 0)
	last := list[len(list)-1]
	if last.ValidUntil == nil || !last.ValidUntil.Equal(*s.ValidUntil) || last.OnExpiry != "walled" || last.Revision != s.AccessRevision {
		t.Errorf("got access %+v, want the time that holds", last)
	}
	edgetest.NoDrift(t, n)
}

func TestAScheduledEndComesByItself(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p := sell(t, n, offer("HOME10"))
	at := edgetest.Start.Add(48 * time.Hour)
	due := func(id edge.ID, at time.Time) subscription {
		return run(t, n, "terminate_due", edge.DueInput{ID: id, At: at})
	}
	s := run(t, n, "activate", billing.SubscriptionRef{ID: subscribe(t, n, p.ID).ID})
	s = run(t, n, "schedule_termination", billing.ScheduleEndInput{ID: s.ID, TerminateAt: at, Reason: "moving"})
	if got := due(s.ID, at); got.Status != billing.Active {
		t.Errorf("before its time: got %s, want active", got.Status)
	}
	moved := at.Add(time.Hour)
	run(t, n, "schedule_termination", billing.ScheduleEndInput{ID: s.ID, TerminateAt: moved})
	n.Clock.Advance(48 * time.Hour)
	if got := due(s.ID, at); got.Status != billing.Active {
		t.Errorf("at the time that was moved: got %s, want active", got.Status)
	}
	n.Clock.Advance(time.Hour)
	subscribe(t, n, p.ID) // any commit makes the timer look at the clock
	get := func() subscription {
		return edgetest.Ask[subscription](t, n, ann, "billing.subscription.get", billing.SubscriptionRef{ID: s.ID})
	}
	edgetest.Eventually(t, func() bool { return get().Status == billing.Terminated }, func() string { return fmt.Sprint(get()) })
	if got := get(); got.EndReason != "moving" || got.TerminatedAt.Before(moved) {
		t.Errorf("at its time: got %+v, want terminated then, with its reason", got)
	}
	version := due(s.ID, moved).Version
	if again := due(s.ID, moved); again.Version != version {
		t.Errorf("fired twice: got version %d, want %d", again.Version, version)
	}
	other := run(t, n, "activate", billing.SubscriptionRef{ID: subscribe(t, n, p.ID).ID})
	end := moved.Add(time.Hour)
	run(t, n, "schedule_termination", billing.ScheduleEndInput{ID: other.ID, TerminateAt: end})
	run(t, n, "withdraw_termination", billing.SubscriptionRef{ID: other.ID})
	n.Clock.Advance(time.Hour)
	if got := due(other.ID, end); got.Status != billing.Active {
		t.Errorf("withdrawn: got %s, want active", got.Status)
	}
	edgetest.NoDrift(t, n)
}

func TestAnUpdateMovesTheSiteAndNothingOfTheDeal(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p := sell(t, n, offer("HERE", func(p *billing.NewPlan) { p.Availability = &billing.Availability{Sites: []edge.ID{someplace}} }))
	s := run(t, n, "activate", billing.SubscriptionRef{ID: subscribe(t, n, p.ID).ID})
	upd := func(in billing.SubscriptionChange) (subscription, error) {
		in.ID = s.ID
		return patch[subscription](n, "billing.subscription.update", s.Version, in)
	}
	if _, err := upd(billing.SubscriptionChange{SiteID: new(elsewhere)}); edgetest.CodeOf(t, err) != "plan_not_here" {
		t.Errorf("got %v, want plan_not_here", err)
	}
	if _, err := upd(billing.SubscriptionChange{Timezone: new("UTC")}); edgetest.CodeOf(t, err) != "subscription_invalid" {
		t.Errorf("got %v, want the zone fixed", err)
	}
	got, err := upd(billing.SubscriptionChange{CommonChange: edge.CommonChange{Tags: &[]string{"vip"}}})
	if err != nil || got.Version != s.Version+1 || got.AccessRevision != s.AccessRevision {
		t.Errorf("got %+v, %v, want a tag and no new access", got, err)
	}
	_, err = upd(billing.SubscriptionChange{CommonChange: edge.CommonChange{Tags: &[]string{"x"}}})
	if got := edgetest.CodeOf(t, err); got != "version_moved" {
		t.Errorf("a stale version: got %s, want version_moved", got)
	}
}

func TestSubscriptionsAreListedByWhatTheyHold(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p, other := sell(t, n, offer("A")), sell(t, n, offer("B"))
	one, two := subscribe(t, n, p.ID), subscribe(t, n, other.ID)
	run(t, n, "activate", billing.SubscriptionRef{ID: one.ID})
	run(t, n, "suspend", billing.SuspendInput{ID: one.ID, Reason: billing.ForDunning})
	for name, c := range map[string]struct {
		in   billing.SubscriptionList
		want int
	}{
		"customer":        {billing.SubscriptionList{CustomerID: someone}, 2},
		"site":            {billing.SubscriptionList{SiteID: someplace}, 2},
		"another site":    {billing.SubscriptionList{SiteID: elsewhere}, 0},
		"plan":            {billing.SubscriptionList{PlanID: two.Items[0].PlanID}, 1},
		"status":          {billing.SubscriptionList{Status: billing.Suspended}, 1},
		"reason":          {billing.SubscriptionList{Reason: billing.ForDunning}, 1},
		"site and status": {billing.SubscriptionList{SiteID: someplace, Status: billing.Draft}, 1},
		"all at once":     {billing.SubscriptionList{CustomerID: someone, SiteID: someplace, PlanID: p.ID, Status: billing.Suspended, Reason: billing.ForDunning}, 1},
	} {
		if got := edgetest.Ask[edge.Page[subscription]](t, n, ann, "billing.subscription.list", c.in).Data; len(got) != c.want {
			t.Errorf("%s: got %d, want %d", name, len(got), c.want)
		}
	}
	bob := edgetest.Actor("bobnet")
	if got := edgetest.Code(t, n, bob, "billing.subscription.terminate", billing.EndInput{ID: one.ID}); got != "not_found" {
		t.Errorf("another tenant's: got %s, want not_found", got)
	}
}

func TestItemsComeAndGoBesideTheMainPlan(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p, extra := sell(t, n, offer("HOME10")), sell(t, n, offer("IP", addon))
	s := subscribe(t, n, p.ID)
	add := billing.AddItemInput{ID: s.ID, NewItem: billing.NewItem{PlanID: extra.ID, Qty: 2}}
	got := run(t, n, "add_item", add)
	if len(got.Items) != 2 || got.Items[1].Role != billing.AddonItem || got.Items[1].Qty != 2 || got.AccessRevision != s.AccessRevision {
		t.Fatalf("got %+v, want an add-on of two and the same access", got.Items)
	}
	rm := billing.RemoveItemInput{ID: s.ID, ItemID: got.Items[1].ID}
	got = run(t, n, "remove_item", rm)
	if again := run(t, n, "remove_item", rm); len(got.Items) != 1 || again.Version != got.Version {
		t.Errorf("got %+v then version %d, want it removed once", got.Items, again.Version)
	}
	for name, c := range map[string]struct {
		verb string
		in   any
		code string
	}{
		"a second main plan":    {"add_item", billing.AddItemInput{ID: s.ID, NewItem: billing.NewItem{PlanID: p.ID}}, "subscription_invalid"},
		"removing the main one": {"remove_item", billing.RemoveItemInput{ID: s.ID, ItemID: s.Items[0].ID}, "subscription_invalid"},
	} {
		if got := edgetest.Code(t, n, ann, "billing.subscription."+c.verb, c.in); got != c.code {
			t.Errorf("%s: got %s, want %s", name, got, c.code)
		}
	}
	for range 19 {
		run(t, n, "add_item", add)
	}
	if got := edgetest.Code(t, n, ann, "billing.subscription.add_item", add); got != "subscription_invalid" {
		t.Errorf("a 21st item: got %s, want subscription_invalid", got)
	}
	edgetest.NoDrift(t, n)
}

// acknowledged is a transaction of an intent that a cut-off node has said yes to.
type acknowledged struct{ edge.Tx }

func (acknowledged) Acknowledged() bool { return true }

func TestWhatACutOffNodeSoldStands(t *testing.T) {
	t.Parallel()
	rebase := edge.Command[billing.NewSubscription, subscription]{
		Name: "test.rebase.create", Scope: "test:write", Class: edge.Write, Summary: "Create as at a rebase",
		Handle: func(tx edge.Tx, in billing.NewSubscription) (subscription, error) {
			return billing.CreateSubscription.Within(acknowledged{tx}, in)
		},
	}
	n := edgetest.Node(t, billing.Module(), edge.Module{Name: "test", Ops: []*edge.Op{rebase.Op()}})
	p := sell(t, n, offer("HOME10"))
	edgetest.Do[plan](t, n, ann, "billing.plan.retire", billing.PlanRef{ID: p.ID})
	if got := edgetest.Code(t, n, ann, "billing.subscription.create", order(p.ID)); got != "plan_not_sold" {
		t.Errorf("sold now: got %s, want plan_not_sold", got)
	}
	if got := edgetest.Do[subscription](t, n, ann, "test.rebase.create", order(p.ID)); got.Items[0].PlanID != p.ID {
		t.Errorf("sold while cut off: got %+v, want the version that was sold", got.Items)
	}
}

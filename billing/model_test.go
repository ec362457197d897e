package billing_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/billing"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

// model is what a subscription should be, in the fewest words: it shares no code with the implementation.
type model struct {
	status string // draft pending active ended
	holds  map[string]bool
	plan   int
	endsAt time.Time
}

func (m *model) access() string {
	status := map[string]string{"draft": "pending", "pending": "pending", "active": "active", "ended": "terminated"}[m.status]
	if len(m.holds) > 0 {
		status = "suspended"
	}
	var reasons []string
	for r := range m.holds {
		reasons = append(reasons, r)
	}
	slices.Sort(reasons)
	return fmt.Sprintf("%s %v plan %d", status, reasons, m.plan)
}

// step applies a verb to the model and says which code it answers, "" for success.
func (m *model) step(verb, reason string, plan int, at, now time.Time) string {
	if m.status == "ended" {
		if verb == "terminate" || verb == "due" {
			return ""
		}
		return "subscription_terminated"
	}
	live := m.status == "active"
	switch verb {
	case "submit":
		if m.status == "draft" {
			m.status = "pending"
		}
	case "activate":
		if len(m.holds) > 0 {
			return "subscription_held"
		}
		m.status = "active"
	case "suspend", "reactivate":
		if !live {
			return "subscription_inactive"
		}
		if m.holds[reason] = true; verb == "reactivate" {
			delete(m.holds, reason)
		}
	case "change_plan":
		m.plan = plan
	case "schedule_termination":
		m.endsAt = at
	case "withdraw_termination":
		m.endsAt = time.Time{}
	case "terminate":
		m.end()
	case "due":
		if !m.endsAt.IsZero() && m.endsAt.Equal(at) && !now.Before(at) {
			m.end()
		}
	}
	return ""
}

func (m *model) end() { m.status, m.holds, m.endsAt = "ended", map[string]bool{}, time.Time{} }

// TestAnyHistoryAgreesWithTheModel drives subscriptions through random histories and compares status, access and codes at each step;
// afterwards the events alone must tell the same, and a rebuild must find the same octets.
func TestAnyHistoryAgreesWithTheModel(t *testing.T) {
	t.Parallel()
	n := edgetest.NodeWith(t, edgetest.Modules(billing.Module()), edgetest.NoTimer())
	var policies []edge.ID
	var offers []plan
	for i := range 3 {
		id := edge.DeriveID("pol", "model", i)
		policies = append(policies, id)
		offers = append(offers, sell(t, n, offer(fmt.Sprint("P", i), func(p *billing.NewPlan) { p.PolicyRef = id })))
	}
	verbs := []string{"submit", "activate", "suspend", "reactivate", "change_plan", "schedule_termination", "withdraw_termination", "terminate", "due", "wait"}
	reasons := billing.ForAdmin.Values()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		begin := n.Machine.Version()
		s := subscribe(t, n, offers[0].ID)
		m := &model{status: "draft", holds: map[string]bool{}}
		told := []string{m.access()}
		for range rapid.IntRange(1, 14).Draw(rt, "length") {
			verb, reason := rapid.SampledFrom(verbs).Draw(rt, "verb"), rapid.SampledFrom(reasons).Draw(rt, "reason")
			plan := rapid.IntRange(0, 2).Draw(rt, "plan")
			now := n.Clock.Now()
			at := now.Add(time.Duration(rapid.IntRange(1, 3).Draw(rt, "hours")) * time.Hour).Truncate(time.Second)
			if verb == "due" && !m.endsAt.IsZero() {
				at = m.endsAt
			}
			if verb == "wait" {
				n.Clock.Advance(time.Hour)
				continue
			}
			want := m.step(verb, reason, plan, at, now)
			got := drive(n, s.ID, verb, reason, offers[plan].ID, at)
			if got != want {
				rt.Fatalf("%s %s: got %q, want %q", verb, reason, got, want)
			}
			if a := m.access(); a != told[len(told)-1] {
				told = append(told, a)
			}
		}
		s = edgetest.Ask[subscription](t, n, ann, "billing.subscription.get", billing.SubscriptionRef{ID: s.ID})
		if s.AccessRevision != uint64(len(told)) || len(s.Suspensions) != len(m.holds) {
			rt.Fatalf("got revision %d and %v, want %d and %v", s.AccessRevision, s.Suspensions, len(told), m.holds)
		}
		var heard []string
		for _, a := range accesses(t, n, begin) {
			heard = append(heard, fmt.Sprintf("%s %v plan %d", a.Status, a.Reasons, slices.Index(policies, a.Policy)))
		}
		if !slices.Equal(heard, told) {
			rt.Fatalf("the events tell %q, want %q", heard, told)
		}
	})
	if runs < 20 {
		t.Fatalf("only %d histories ran", runs)
	}
	edgetest.NoDrift(t, n)
}

// drive runs one verb on the node and returns the code of its refusal.
func drive(n *edgetest.Harness, id edge.ID, verb, reason string, plan edge.ID, at time.Time) string {
	var in any = billing.SubscriptionRef{ID: id}
	switch verb {
	case "suspend":
		in = billing.SuspendInput{ID: id, Reason: billing.SuspensionReason(reason)}
	case "reactivate":
		in = billing.ReactivateInput{ID: id, Reason: billing.SuspensionReason(reason)}
	case "change_plan":
		in = billing.ChangePlanInput{ID: id, PlanID: plan}
	case "schedule_termination":
		in = billing.ScheduleEndInput{ID: id, TerminateAt: at}
	case "terminate":
		in = billing.EndInput{ID: id}
	case "due":
		verb, in = "terminate_due", edge.DueInput{ID: id, At: at}
	}
	_, _, err := edgetest.Try[subscription](n, ann, edge.Request{}, "billing.subscription."+verb, in)
	if err == nil {
		return ""
	}
	e, _ := edge.AsError(err)
	return e.Code
}

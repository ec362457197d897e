package app

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"wispgate/aaa"
	"wispgate/billing"
	"wispgate/crm"
	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
)

// raised lists the open conflicts, as "command code pointers".
func (r *region) raised() (list []string) {
	r.t.Helper()
	for _, c := range edgetest.Ask[edge.Page[exec.Conflict]](r.t, r.leader.Harness, isp, "sync.conflict.list", exec.ConflictList{}).Data {
		var word strings.Builder
		word.WriteString(c.Calls[0].Op + " " + c.Reason.Code)
		for _, f := range c.Reason.Fields {
			word.WriteString(" " + f.Pointer)
		}
		list = append(list, word.String())
	}
	slices.Sort(list)
	return list
}

// TestWhatHappenedAtBothPlaces tells stories of one call at a cut-off tower and one at the leader meanwhile.
func TestWhatHappenedAtBothPlaces(t *testing.T) {
	t.Parallel()
	in := func(op string, in any) call {
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		return call{op: op, in: raw}
	}
	update := func(change m) func(*subjects) call {
		return func(s *subjects) call { change["id"] = s.customer; return in("crm.customer.update", change) }
	}
	for _, c := range []struct {
		name          string
		tower, leader func(*subjects) call
		later         bool // the leader's call comes an hour after the tower's, not before
		conflicts     []string
		check         func(t *testing.T, r *region, s *subjects)
	}{
		{name: "other members of a customer both stand", tower: update(m{"language": "sn"}), leader: update(m{"name": "R. Moyo"}),
			check: func(t *testing.T, r *region, s *subjects) {
				if got := s.get(r); got.Language != "sn" || got.Name != "R. Moyo" {
					t.Errorf("got %+v", got)
				}
			}},
		{name: "the same member set alike is no conflict, however it is written",
			tower:  update(m{"phones": []m{{"number": "077 123 4567"}}, "calling_code": "263", "name": " Rudo   M "}),
			leader: update(m{"phones": []m{{"number": "+263 77 123 4567"}}, "name": "Rudo M"})},
		{name: "the same member set otherwise is a conflict", tower: update(m{"name": "Rudo A"}), leader: update(m{"name": "Rudo B"}),
			conflicts: []string{"crm.customer.update field_conflict /name"}},
		{name: "clearing what was set meanwhile is a conflict", tower: update(m{"clear": []string{"parent_id"}}),
			leader:    func(s *subjects) call { return update(m{"parent_id": s.other})(s) },
			conflicts: []string{"crm.customer.update field_conflict /parent_id"}},
		{name: "an older word on a purpose does not replace a later one", later: true,
			tower: func(s *subjects) call {
				return in("crm.customer.set_consent", crm.ConsentInput{ID: s.customer, Purpose: "sms", Granted: true, Source: "form"})
			},
			leader: func(s *subjects) call {
				return in("crm.customer.set_consent", crm.ConsentInput{ID: s.customer, Purpose: "sms", Source: "phone"})
			},
			check: func(t *testing.T, r *region, s *subjects) {
				if got := s.get(r).Consents; len(got) != 1 || got[0].Granted {
					t.Errorf("got %+v, want the later no", got)
				}
			}},
		{name: "a later word on a purpose does",
			tower: func(s *subjects) call {
				return in("crm.customer.set_consent", crm.ConsentInput{ID: s.customer, Purpose: "sms", Granted: true, Source: "form"})
			},
			leader: func(s *subjects) call {
				return in("crm.customer.set_consent", crm.ConsentInput{ID: s.customer, Purpose: "sms", Source: "phone"})
			},
			check: func(t *testing.T, r *region, s *subjects) {
				if got := s.get(r).Consents; len(got) != 1 || !got[0].Granted {
					t.Errorf("got %+v, want the later yes", got)
				}
			}},
		{name: "two other plans are a conflict",
			tower: func(s *subjects) call {
				return in("billing.subscription.change_plan", billing.ChangePlanInput{ID: s.sub, PlanID: s.plans[0]})
			},
			leader: func(s *subjects) call {
				return in("billing.subscription.change_plan", billing.ChangePlanInput{ID: s.sub, PlanID: s.plans[1]})
			},
			conflicts: []string{"billing.subscription.change_plan field_conflict /plan_id"}},
		{name: "the same other plan is none",
			tower: func(s *subjects) call {
				return in("billing.subscription.change_plan", billing.ChangePlanInput{ID: s.sub, PlanID: s.plans[0]})
			},
			leader: func(s *subjects) call {
				return in("billing.subscription.change_plan", billing.ChangePlanInput{ID: s.sub, PlanID: s.plans[0]})
			}},
		{name: "a plan retired meanwhile stands as it was sold",
			tower: func(s *subjects) call {
				return in("billing.subscription.change_plan", billing.ChangePlanInput{ID: s.sub, PlanID: s.plans[0]})
			},
			leader: func(s *subjects) call { return in("billing.plan.retire", billing.PlanRef{ID: s.plans[0]}) },
			check: func(t *testing.T, r *region, s *subjects) {
				if got := r.subscription(r.leader, s.sub).Items[0].PlanID; got != s.plans[0] {
					t.Errorf("got plan %s", got)
				}
			}},
		{name: "what has ended meanwhile is a conflict",
			tower:     func(s *subjects) call { return in("billing.subscription.renew", billing.RenewInput{ID: s.sub}) },
			leader:    func(s *subjects) call { return in("billing.subscription.terminate", billing.EndInput{ID: s.sub}) },
			conflicts: []string{"billing.subscription.renew subscription_terminated"}},
		{name: "two activations are one, from the tower's promise on or before", later: true,
			tower: func(s *subjects) call {
				return in("billing.subscription.activate", billing.SubscriptionRef{ID: s.draft})
			},
			leader: func(s *subjects) call {
				return in("billing.subscription.activate", billing.SubscriptionRef{ID: s.draft})
			}},
		{name: "an activation begins when the tower gave it",
			tower: func(s *subjects) call {
				return in("billing.subscription.activate", billing.SubscriptionRef{ID: s.draft})
			},
			leader: func(s *subjects) call { return in("billing.subscription.submit", billing.SubscriptionRef{ID: s.draft}) },
			check: func(t *testing.T, r *region, s *subjects) {
				if got := r.subscription(r.leader, s.draft); !got.ActivatedAt.Equal(s.at) || !got.Anchor.Equal(s.at) {
					t.Errorf("got %+v, want it active since %s", got, s.at)
				}
			}},
		{name: "of two rotations the one accepted last holds",
			tower:  func(s *subjects) call { return in("aaa.credential.rotate", m{"id": s.login, "password": "tower"}) },
			leader: func(s *subjects) call { return in("aaa.credential.rotate", m{"id": s.login, "password": "office"}) }},
		{name: "an older rotation waits for a decision", later: true,
			tower:     func(s *subjects) call { return in("aaa.credential.rotate", m{"id": s.login, "password": "tower"}) },
			leader:    func(s *subjects) call { return in("aaa.credential.rotate", m{"id": s.login, "password": "office"}) },
			conflicts: []string{"aaa.credential.rotate field_conflict /password"}},
		{name: "an older rotation of a router's secret does, too", later: true,
			tower:     func(s *subjects) call { return in("aaa.nas.rotate_secret", m{"id": s.nas, "secret": "tower secret"}) },
			leader:    func(s *subjects) call { return in("aaa.nas.rotate_secret", m{"id": s.nas, "secret": "office secret"}) },
			conflicts: []string{"aaa.nas.rotate_secret field_conflict /secret"}},
		{name: "the same device in another notation is the same",
			tower: func(s *subjects) call { return in("aaa.credential.rebind", m{"id": s.login, "mac": "0200.0000.0001"}) },
			leader: func(s *subjects) call {
				return in("aaa.credential.rebind", m{"id": s.login, "mac": "02:00:00:00:00:01"})
			}},
		{name: "a revocation wins over a rotation",
			tower:     func(s *subjects) call { return in("aaa.credential.rotate", m{"id": s.login, "password": "tower"}) },
			leader:    func(s *subjects) call { return in("aaa.credential.revoke", aaa.CredentialMove{ID: s.login}) },
			conflicts: []string{"aaa.credential.rotate credential_revoked"}},
		{name: "a login taken meanwhile is a conflict",
			tower: func(s *subjects) call {
				return in("aaa.credential.create", m{"subscription_id": s.sub, "username": "x@acme", "password": "correct horse"})
			},
			leader: func(s *subjects) call {
				return in("aaa.credential.create", m{"subscription_id": s.sub, "username": "X@acme", "password": "correct horse"})
			},
			conflicts: []string{"aaa.credential.create login_taken /username"}},
		{name: "an address taken meanwhile is a conflict",
			tower: func(*subjects) call {
				return in("aaa.nas.register", m{"identifier": "a", "addresses": []string{"10.9.9.9"}, "secret": "shared secret"})
			},
			leader: func(*subjects) call {
				return in("aaa.nas.register", m{"identifier": "b", "addresses": []string{"10.9.9.9"}, "secret": "shared secret"})
			},
			conflicts: []string{"aaa.nas.register already_exists /addresses"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRegion(t)
			s := r.subjects()
			r.tower.CutAndNotice()
			do := func(at *edgetest.Member, c call) {
				t.Helper()
				if _, _, err := edgetest.Try[json.RawMessage](at.Harness, isp, edge.Request{}, c.op, c.in); err != nil {
					t.Fatalf("%s at %s: %v", c.op, at.Name, err)
				}
			}
			if !c.later {
				do(r.leader, c.leader(s))
			}
			r.advance(time.Hour)
			s.at = r.tower.Clock.Now()
			do(r.tower, c.tower(s))
			r.advance(time.Hour)
			if c.later {
				do(r.leader, c.leader(s))
			}
			r.advance(72 * time.Hour)
			r.tower.HealAndDrain()
			r.Agree()
			if got := r.raised(); !slices.Equal(got, c.conflicts) {
				t.Errorf("got conflicts %v, want %v", got, c.conflicts)
			}
			if c.check != nil {
				c.check(t, r, s)
			}
			edgetest.NoDrift(t, r.leader.Harness)
		})
	}
}

// subjects are the records of a story.
type subjects struct {
	customer, other, sub, draft, login, nas edge.ID
	plans                                   []edge.ID
	at                                      time.Time // of the tower's call
}

func (s *subjects) get(r *region) crm.Customer {
	r.t.Helper()
	return edgetest.Ask[crm.Customer](r.t, r.leader.Harness, isp, "crm.customer.get", crm.CustomerRef{ID: s.customer})
}

func (r *region) subjects() *subjects {
	r.t.Helper()
	s := &subjects{customer: r.customer, sub: r.sub}
	s.other = r.made("crm.customer.create", crm.NewCustomer{Kind: crm.Person, Name: "Tendai Moyo", Status: crm.Active})
	for i := range 2 {
		s.plans = append(s.plans, r.sell(fmt.Sprint("OTHER", i), billing.Recurring))
	}
	s.draft = r.made("billing.subscription.create", billing.NewSubscription{CustomerID: r.customer, Timezone: "Africa/Harare", Items: []billing.NewItem{{PlanID: r.plan}}})
	s.login = r.made("aaa.credential.create", login(r.sub, "second@acme"))
	s.nas = r.made("aaa.nas.register", m{"identifier": "ccr", "addresses": []string{"10.1.1.1"}, "secret": "shared secret"})
	return s
}

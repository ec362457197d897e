package billing

import (
	"strconv"
	"time"

	"wispgate/edge"
)

// NewItem names a plan version that a new subscription holds; its role follows from the plan's kind.
type NewItem struct {
	PlanID   edge.ID `json:"plan_id" check:"prefix=pln" doc:"The plan version."`
	Qty      int32   `json:"qty,omitempty" check:"min=1 max=1000" doc:"How many; one unless given." example:"1"`
	DeviceID edge.ID `json:"device_id,omitempty" check:"prefix=dev" doc:"The device, for equipment."`
}

// NewSubscription is what a subscription is made from.
type NewSubscription struct {
	edge.Common
	ID         edge.ID   `json:"id,omitempty" check:"prefix=sub" doc:"Identifier minted by the sender, so that it can be referred to before the answer; absent: assigned."`
	CustomerID edge.ID   `json:"customer_id" check:"prefix=cus" doc:"Who holds it."`
	SiteID     edge.ID   `json:"site_id,omitempty" check:"prefix=sit" doc:"The site that serves it."`
	Items      []NewItem `json:"items" check:"min=1 max=20" doc:"Plans: exactly one that gives access (recurring, prepaid or usage), and what is charged beside it."`
	Timezone   string    `json:"timezone" check:"format=timezone max=64" doc:"IANA zone in which its days begin." example:"Africa/Harare"`
}

// sold refuses a plan that is not on sale, not at the site, or in another currency. What a node has sold already stands.
func sold(tx edge.Tx, p *Plan, site edge.ID, currency Currency, at string) error {
	switch {
	case !p.Sellable(tx.Now()) && !tx.Acknowledged():
		return ErrPlanNotSold.Error(edge.Conflict, edge.Field(at, "names a plan that is not on sale", "choose another plan"))
	case !p.At(site) && !tx.Acknowledged():
		return ErrPlanNotHere.Error(edge.Conflict, edge.Field(at, "names a plan that is not sold at the site", "choose another plan or site"))
	case currency != "" && p.Price.Currency != currency:
		return ErrMoneyCurrency.Error(edge.Invalid, edge.Field(at, "is priced in another currency than the other items", "choose plans of one currency"))
	}
	return nil
}

// findPlan returns the plan that a member of the input names.
func findPlan(v edge.View, id edge.ID, at string) (Plan, error) {
	p, ok, err := plans.Find(v, id)
	if err == nil && !ok {
		err = ErrSubscriptionInvalid.Error(edge.Invalid, edge.Field(at, "names no plan", "name an existing plan"))
	}
	return p, err
}

// build makes the items and returns the main plan.
func (s *Subscription) build(tx edge.Tx, items []NewItem) (main Plan, err error) {
	var currency Currency
	for i, in := range items {
		at := "/items/" + strconv.Itoa(i) + "/plan_id"
		p, err := findPlan(tx, in.PlanID, at)
		if err != nil {
			return Plan{}, err
		}
		if err := sold(tx, &p, s.SiteID, currency, at); err != nil {
			return Plan{}, err
		}
		currency = p.Price.Currency
		it := item(tx, &p, in)
		if it.Role == MainItem {
			main = p
		}
		s.Items = append(s.Items, it)
	}
	return main, s.check()
}

// sameOrder reports whether the subscription was made from this input, whatever became of it since.
func (s *Subscription) sameOrder(in NewSubscription) bool {
	if s.CustomerID != in.CustomerID || s.ExternalID != in.ExternalID || len(s.Items) != len(in.Items) {
		return false
	}
	for i, it := range in.Items {
		if s.Items[i].PlanID != it.PlanID || s.Items[i].Qty != max(it.Qty, 1) {
			return false
		}
	}
	return true
}

// CreateSubscription records a draft. Sent again with the same id and the same content it answers the record and changes nothing.
var CreateSubscription = edge.Command[NewSubscription, Subscription]{
	Name: "billing.subscription.create", Scope: "billing:write", Class: edge.Provision, Offline: true, Summary: "Record a subscription",
	Handle: func(tx edge.Tx, in NewSubscription) (Subscription, error) {
		s := Subscription{
			Meta: in.Meta(in.ID), CustomerID: in.CustomerID, SiteID: in.SiteID, Status: Draft, Timezone: in.Timezone,
		}
		if s.ID == "" {
			s.ID = tx.NewID("sub")
		}
		was, found, err := subscriptions.Find(tx, s.ID)
		switch {
		case err != nil:
			return Subscription{}, err
		case found && was.sameOrder(in):
			return was, nil
		case found:
			return Subscription{}, ErrSubscriptionID.Error(edge.Conflict, edge.Field("/id", "names a subscription with other content", "mint a new id"))
		}
		p, err := s.build(tx, in.Items)
		if err != nil {
			return Subscription{}, err
		}
		if err := mayPromise(tx, &s, &p); err != nil {
			return Subscription{}, err
		}
		err = save(tx, nil, nil, &s, &p, SubscriptionCreated{s.ID, s.CustomerID, s.SiteID, p.ID})
		return s, err
	},
}

// SubscriptionRef names a subscription.
type SubscriptionRef struct {
	ID edge.ID `json:"id" check:"prefix=sub" doc:"The subscription."`
}

// load reads a subscription and its main plan.
func load(v edge.View, id edge.ID) (Subscription, Plan, error) {
	s, err := subscriptions.Get(v, id)
	if err != nil {
		return s, Plan{}, err
	}
	p, err := plans.Get(v, s.main().PlanID)
	return s, p, err
}

// step loads an open subscription, lets do change it, and saves it when it did. do returns the event to emit, nil for no change; now is
// when somebody said yes to it, so that a rebase days later begins and ends nothing at another time than was promised.
func step(tx edge.Tx, id edge.ID, do func(s *Subscription, p *Plan, now time.Time) (edge.Event, error)) (Subscription, error) {
	was, p, err := load(tx, id)
	if err != nil {
		return Subscription{}, err
	}
	if err := was.open(); err != nil {
		return Subscription{}, err
	}
	s := was
	e, err := do(&s, &p, edge.AcceptedAt(tx).UTC())
	if err != nil {
		return Subscription{}, err
	}
	if e == nil {
		return was, nil
	}
	err = save(tx, &was, &p, &s, &p, e)
	return s, err
}

// SubmitSubscription puts a draft up for activation. One that went further already is success without effect.
var SubmitSubscription = edge.Command[SubscriptionRef, Subscription]{
	Name: "billing.subscription.submit", Scope: "billing:write", Class: edge.Provision, Offline: true, Summary: "Put a draft subscription up for activation",
	Record: func(in SubscriptionRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in SubscriptionRef) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, _ *Plan, _ time.Time) (edge.Event, error) {
			if s.Status != Draft {
				return nil, nil
			}
			s.Status = Pending
			return SubscriptionSubmitted{s.ID}, nil
		})
	},
}

// ActivateSubscription begins service. One that is active already is success without effect; a suspended one is a conflict, because
// only clearing its reasons brings it back.
var ActivateSubscription = edge.Command[SubscriptionRef, Subscription]{
	Name: "billing.subscription.activate", Scope: "billing:write", Class: edge.Provision, Offline: true, Summary: "Begin service",
	Record: func(in SubscriptionRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in SubscriptionRef) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, p *Plan, now time.Time) (edge.Event, error) {
			switch s.Status {
			case Active:
				return nil, nil
			case Suspended:
				if tx.Acknowledged() { // it has been activated since, and held after that
					return nil, nil
				}
				return nil, ErrSubscriptionHeld.Error(edge.Conflict)
			default:
			}
			if err := mayPromise(tx, s, p); err != nil {
				return nil, err
			}
			if err := s.activate(p, now); err != nil {
				return nil, err
			}
			if err := provisional(tx, s, nil); err != nil {
				return nil, err
			}
			return SubscriptionActivated{s.ID, s.CustomerID, now, s.ValidUntil}, nil
		})
	},
}

// RenewInput says how much prepaid time is added.
type RenewInput struct {
	ID      edge.ID `json:"id" check:"prefix=sub" doc:"The subscription."`
	Periods int64   `json:"periods,omitempty" check:"min=1 max=120" doc:"How many periods of the plan; one unless given." example:"1"`
}

// RenewSubscription adds prepaid time: after what was sold before, or from now when that has passed.
var RenewSubscription = edge.Command[RenewInput, Subscription]{
	Name: "billing.subscription.renew", Scope: "billing:write", Class: edge.Provision, Offline: true, Summary: "Add prepaid time",
	Record: func(in RenewInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in RenewInput) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, p *Plan, now time.Time) (edge.Event, error) {
			switch {
			case s.ActivatedAt == nil:
				return nil, ErrSubscriptionInactive.Error(edge.Conflict)
			case p.Kind != Prepaid:
				return nil, ErrSubscriptionPostpaid.Error(edge.Conflict)
			}
			if err := mayPromise(tx, s, p); err != nil {
				return nil, err
			}
			periods, before := max(in.Periods, 1), s.ValidUntil
			if err := s.extend(p, periods, now); err != nil {
				return nil, err
			}
			if err := provisional(tx, s, before); err != nil {
				return nil, err
			}
			return SubscriptionRenewed{s.ID, periods, *s.ValidUntil}, nil
		})
	},
}

// SuspendInput names the reason to lay on.
type SuspendInput struct {
	ID     edge.ID          `json:"id" check:"prefix=sub" doc:"The subscription."`
	Reason SuspensionReason `json:"reason" doc:"Why; each reason must clear before service returns." example:"admin"`
	Note   string           `json:"note,omitempty" check:"max=200" doc:"A word for people." example:"invoice of March"`
}

// SuspendSubscription lays a reason on. One that lies there already is success without effect.
var SuspendSubscription = edge.Command[SuspendInput, Subscription]{
	Name: "billing.subscription.suspend", Scope: "billing:write", Class: edge.Provision, Offline: true, Summary: "Hold service for a reason",
	Record: func(in SuspendInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in SuspendInput) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, _ *Plan, now time.Time) (edge.Event, error) {
			if s.Status != Active && s.Status != Suspended {
				return nil, ErrSubscriptionInactive.Error(edge.Conflict)
			}
			if !s.suspend(Suspension{in.Reason, now, tx.Actor().Subject, in.Note}) {
				return nil, nil
			}
			return SubscriptionSuspended{s.ID, in.Reason, s.reasons()}, nil
		})
	},
}

// ReactivateInput names the reason to clear.
type ReactivateInput struct {
	ID     edge.ID          `json:"id" check:"prefix=sub" doc:"The subscription."`
	Reason SuspensionReason `json:"reason" doc:"The reason that no longer holds." example:"admin"`
}

// ReactivateSubscription clears a reason; service returns with the last. One that does not lie there is success without effect.
var ReactivateSubscription = edge.Command[ReactivateInput, Subscription]{
	Name: "billing.subscription.reactivate", Scope: "billing:write", Class: edge.Provision, Offline: true, Summary: "Clear a reason that holds service",
	Record: func(in ReactivateInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in ReactivateInput) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, _ *Plan, _ time.Time) (edge.Event, error) {
			if s.ActivatedAt == nil {
				return nil, ErrSubscriptionInactive.Error(edge.Conflict)
			}
			if !s.reactivate(in.Reason) {
				return nil, nil
			}
			return SubscriptionReactivated{s.ID, in.Reason, s.reasons()}, nil
		})
	},
}

// ChangePlanInput names the main plan to hold.
type ChangePlanInput struct {
	ID     edge.ID `json:"id" check:"prefix=sub" doc:"The subscription."`
	PlanID edge.ID `json:"plan_id" check:"prefix=pln" doc:"The plan version to hold from now on."`
	Was    edge.ID `json:"was,omitempty" check:"internal"` // what it held where the change was accepted
}

// ChangePlan makes the subscription hold another main plan from now on. The plan it already holds is success without effect.
var ChangePlan = edge.Command[ChangePlanInput, Subscription]{
	Name: "billing.subscription.change_plan", Scope: "billing:write", Class: edge.Provision, Offline: true, Summary: "Change the plan now",
	Record: func(in ChangePlanInput) edge.ID { return in.ID },
	Prepare: func(p edge.Prep, in *ChangePlanInput) error {
		in.Was = ""
		if s, found, err := subscriptions.Find(p.View(), in.ID); err != nil {
			return err
		} else if found {
			in.Was = s.main().PlanID
		}
		return nil
	},
	Handle: func(tx edge.Tx, in ChangePlanInput) (Subscription, error) {
		was, from, err := load(tx, in.ID)
		if err != nil {
			return Subscription{}, err
		}
		if err := was.open(); err != nil || from.ID == in.PlanID {
			return was, err
		}
		if tx.Acknowledged() && in.Was != "" && in.Was != from.ID {
			return Subscription{}, edge.ErrFieldConflict.Error(edge.Conflict, edge.Field("/plan_id", "was set otherwise meanwhile", "decide which plan holds"))
		}
		p, err := findPlan(tx, in.PlanID, "/plan_id")
		if err != nil {
			return Subscription{}, err
		}
		if !p.Kind.Main() {
			return Subscription{}, ErrSubscriptionInvalid.Error(edge.Invalid, edge.Field("/plan_id", "names a plan that gives no access", "choose a recurring, prepaid or usage plan"))
		}
		if err := sold(tx, &p, was.SiteID, from.Price.Currency, "/plan_id"); err != nil {
			return Subscription{}, err
		}
		s := was
		s.Items = append([]Item(nil), was.Items...)
		if err := mayPromise(tx, &s, &p); err != nil {
			return Subscription{}, err
		}
		if err := s.rehome(&from, &p, edge.AcceptedAt(tx).UTC()); err != nil {
			return Subscription{}, err
		}
		if err := provisional(tx, &s, was.ValidUntil); err != nil {
			return Subscription{}, err
		}
		err = save(tx, &was, &from, &s, &p, SubscriptionPlanChanged{s.ID, from.ID, p.ID})
		return s, err
	},
}

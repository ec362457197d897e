package billing

import (
	"time"

	"wispgate/edge"
)

// EndInput says why a subscription ends.
type EndInput struct {
	ID     edge.ID `json:"id" check:"prefix=sub" doc:"The subscription."`
	Reason string  `json:"reason,omitempty" check:"max=200" doc:"Why." example:"moved away"`
}

// TerminateSubscription ends service for good. One that has ended already is success without effect.
var TerminateSubscription = edge.Command[EndInput, Subscription]{
	Name: "billing.subscription.terminate", Scope: "billing:write", Class: edge.Provision, Summary: "End service for good",
	Record: func(in EndInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in EndInput) (Subscription, error) { return end(tx, in.ID, in.Reason) },
}

// end terminates a subscription unless it has ended already.
func end(tx edge.Tx, id edge.ID, reason string) (Subscription, error) {
	s, err := subscriptions.Get(tx, id)
	if err != nil || s.Status == Terminated {
		return s, err
	}
	return step(tx, id, func(s *Subscription, _ *Plan, now time.Time) (edge.Event, error) {
		s.terminate(reason, now)
		return SubscriptionTerminated{s.ID, s.CustomerID, now}, nil
	})
}

// ScheduleEndInput says when a subscription is to end.
type ScheduleEndInput struct {
	ID          edge.ID   `json:"id" check:"prefix=sub" doc:"The subscription."`
	TerminateAt time.Time `json:"terminate_at" doc:"When service is to end; it replaces a time given before." example:"2026-12-31T22:00:00Z"`
	Reason      string    `json:"reason,omitempty" check:"max=200" doc:"Why." example:"moving away"`
}

// maxSchedule bounds how far ahead an end may be scheduled.
const maxSchedule = 10 * 366 * 24 * time.Hour

// ScheduleTermination sets the time at which service ends by itself.
var ScheduleTermination = edge.Command[ScheduleEndInput, Subscription]{
	Name: "billing.subscription.schedule_termination", Scope: "billing:write", Class: edge.Provision, Summary: "Set the time at which service ends",
	Record: func(in ScheduleEndInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in ScheduleEndInput) (Subscription, error) {
		at := in.TerminateAt.UTC().Truncate(time.Second)
		return step(tx, in.ID, func(s *Subscription, _ *Plan, now time.Time) (edge.Event, error) {
			switch {
			case s.TerminateAt != nil && s.TerminateAt.Equal(at) && (in.Reason == "" || in.Reason == s.EndReason):
				return nil, nil
			case !at.After(now):
				return nil, ErrTerminationPast.Error(edge.Invalid, edge.Field("/terminate_at", "lies in the past", "give a later time, or terminate now"))
			case at.After(now.Add(maxSchedule)):
				return nil, ErrSubscriptionInvalid.Error(edge.Invalid, edge.Field("/terminate_at", "lies more than ten years ahead", "give a nearer time"))
			}
			s.TerminateAt = &at
			if in.Reason != "" {
				s.EndReason = in.Reason
			}
			return SubscriptionTerminationScheduled{s.ID, at}, nil
		})
	},
}

// WithdrawTermination takes a scheduled end back. Where none is scheduled it is success without effect.
var WithdrawTermination = edge.Command[SubscriptionRef, Subscription]{
	Name: "billing.subscription.withdraw_termination", Scope: "billing:write", Class: edge.Provision, Summary: "Take back a scheduled end of service",
	Record: func(in SubscriptionRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in SubscriptionRef) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, _ *Plan, _ time.Time) (edge.Event, error) {
			if s.TerminateAt == nil {
				return nil, nil
			}
			s.TerminateAt, s.EndReason = nil, ""
			return SubscriptionTerminationWithdrawn{s.ID}, nil
		})
	},
}

// TerminateDue ends a subscription whose scheduled time has come; the kernel's timer runs it. When the schedule was moved or withdrawn
// meanwhile, it does nothing.
var TerminateDue = edge.Command[edge.DueInput, Subscription]{
	Name: "billing.subscription.terminate_due", Scope: "billing:write", Class: edge.Provision, Summary: "End service whose scheduled time has come (the timer's)",
	Handle: func(tx edge.Tx, in edge.DueInput) (Subscription, error) {
		s, err := subscriptions.Get(tx, in.ID)
		if err != nil || s.TerminateAt == nil || !s.TerminateAt.Equal(in.At) || tx.Now().Before(in.At) {
			return s, err
		}
		return end(tx, in.ID, "")
	},
}

// SubscriptionChange carries the members of a subscription to change; what is absent stays.
type SubscriptionChange struct {
	edge.CommonChange
	ID       edge.ID  `json:"id" check:"prefix=sub" doc:"The subscription."`
	SiteID   *edge.ID `json:"site_id,omitempty" check:"prefix=sit" doc:"The site that serves it."`
	Timezone *string  `json:"timezone,omitempty" check:"format=timezone max=64" doc:"IANA zone in which its days begin; fixed once it is active." example:"Africa/Harare"`
	Clear    []string `json:"clear,omitempty" check:"max=1 item.enum=site_id" doc:"Members to remove."`
}

// UpdateSubscription changes what is not part of the deal: where it is served, and what others call it.
var UpdateSubscription = edge.Command[SubscriptionChange, Subscription]{
	Name: "billing.subscription.update", Scope: "billing:write", Class: edge.Write, Summary: "Change a subscription",
	Record: func(in SubscriptionChange) edge.ID { return in.ID }, NeedsMatch: true,
	Handle: func(tx edge.Tx, in SubscriptionChange) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, p *Plan, _ time.Time) (edge.Event, error) {
			was := *s
			in.Apply(&s.Meta)
			setRef(&s.SiteID, in.SiteID, in.Clear, "site_id")
			edge.Set(&s.Timezone, in.Timezone)
			if s.Timezone != was.Timezone && s.ActivatedAt != nil {
				return nil, ErrSubscriptionInvalid.Error(edge.Invalid, edge.Field("/timezone", "is fixed once the subscription is active", "leave it out"))
			}
			if s.SiteID != was.SiteID && !p.At(s.SiteID) {
				return nil, ErrPlanNotHere.Error(edge.Conflict, edge.Field("/site_id", "is a site where the plan is not sold", "change the plan first"))
			}
			if err := s.check(); err != nil {
				return nil, err
			}
			fields, err := edge.Changed(&was, s)
			if err != nil || len(fields) == 0 {
				return nil, err
			}
			return SubscriptionUpdated{s.ID, s.SiteID, fields}, nil
		})
	},
}

// GetSubscription answers one subscription.
var GetSubscription = edge.Query[SubscriptionRef, Subscription]{
	Name: "billing.subscription.get", Scope: "billing:read", Class: edge.Read, Summary: "Read a subscription",
	Shows:  subscriptions,
	Record: func(in SubscriptionRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in SubscriptionRef) (Subscription, error) { return subscriptions.Get(v, in.ID) },
}

// SubscriptionList filters a list of subscriptions. Filters add up.
type SubscriptionList struct {
	edge.ListInput
	CustomerID edge.ID            `json:"customer_id,omitempty" check:"prefix=cus" doc:"Only this customer's."`
	SiteID     edge.ID            `json:"site_id,omitempty" check:"prefix=sit" doc:"Only those that this site serves."`
	PlanID     edge.ID            `json:"plan_id,omitempty" check:"prefix=pln" doc:"Only those that hold this plan version."`
	Status     SubscriptionStatus `json:"status,omitempty" doc:"Only this status." example:"suspended"`
	Reason     SuspensionReason   `json:"reason,omitempty" doc:"Only those held for this reason." example:"dunning"`
	ExternalID string             `json:"external_id,omitempty" check:"max=128" doc:"Only the one with this identifier of another system." example:"splynx-881"`
}

// ListSubscriptions answers a page of subscriptions.
var ListSubscriptions = edge.Query[SubscriptionList, edge.Page[Subscription]]{
	Name: "billing.subscription.list", Scope: "billing:read", Class: edge.Read, Summary: "List subscriptions",
	Handle: func(v edge.View, in SubscriptionList) (edge.Page[Subscription], error) {
		f := edge.Filter[Subscription]{
			Also: []string{string(in.CustomerID), string(in.SiteID), string(in.PlanID), string(in.Status), string(in.Reason), in.ExternalID},
			Keep: in.keep,
		}
		for _, ix := range []struct{ name, key string }{ // the narrowest first
			{"external_id", in.ExternalID}, {"customer", string(in.CustomerID)}, {"site", string(in.SiteID)}, {"plan", string(in.PlanID)},
			{"suspension", string(in.Reason)}, {"status", string(in.Status)},
		} {
			if ix.key != "" {
				f.Index, f.Key = ix.name, ix.key
				break
			}
		}
		return subscriptions.Select(v, f, in.ListInput)
	},
}

func (in SubscriptionList) keep(s *Subscription) bool {
	holds := func(p edge.ID) bool {
		for _, it := range s.Items {
			if it.PlanID == p {
				return true
			}
		}
		return false
	}
	held := func(r SuspensionReason) bool {
		for _, h := range s.Suspensions {
			if h.Reason == r {
				return true
			}
		}
		return false
	}
	return (in.CustomerID == "" || s.CustomerID == in.CustomerID) && (in.SiteID == "" || s.SiteID == in.SiteID) &&
		(in.PlanID == "" || holds(in.PlanID)) && (in.Status == "" || s.Status == in.Status) && (in.Reason == "" || held(in.Reason)) &&
		(in.ExternalID == "" || s.ExternalID == in.ExternalID)
}

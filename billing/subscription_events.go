package billing

import (
	"time"

	"wispgate/edge"
)

// SubscriptionCreated says that a subscription was recorded.
type SubscriptionCreated struct {
	Subscription edge.ID `json:"subscription"`
	Customer     edge.ID `json:"customer"`
	Site         edge.ID `json:"site,omitempty"`
	Plan         edge.ID `json:"plan"`
}

// SubscriptionUpdated says that members of a subscription changed.
type SubscriptionUpdated struct {
	Subscription edge.ID  `json:"subscription"`
	Site         edge.ID  `json:"site,omitempty"`
	Fields       []string `json:"fields"`
}

// SubscriptionSubmitted says that a draft waits for its activation.
type SubscriptionSubmitted struct {
	Subscription edge.ID `json:"subscription"`
}

// SubscriptionActivated says that service began.
type SubscriptionActivated struct {
	Subscription edge.ID    `json:"subscription"`
	Customer     edge.ID    `json:"customer"`
	At           time.Time  `json:"at"`
	ValidUntil   *time.Time `json:"valid_until,omitempty"`
}

// SubscriptionRenewed says that prepaid time was added.
type SubscriptionRenewed struct {
	Subscription edge.ID   `json:"subscription"`
	Periods      int64     `json:"periods"`
	ValidUntil   time.Time `json:"valid_until"`
}

// SubscriptionSuspended says that a reason was laid on.
type SubscriptionSuspended struct {
	Subscription edge.ID            `json:"subscription"`
	Reason       SuspensionReason   `json:"reason"`
	Reasons      []SuspensionReason `json:"reasons"` // all that lie there now
}

// SubscriptionReactivated says that a reason was cleared; service returned when none is left.
type SubscriptionReactivated struct {
	Subscription edge.ID            `json:"subscription"`
	Reason       SuspensionReason   `json:"reason"`
	Reasons      []SuspensionReason `json:"reasons,omitempty"` // those still there
}

// SubscriptionPlanChanged says that another main plan holds.
type SubscriptionPlanChanged struct {
	Subscription edge.ID `json:"subscription"`
	From         edge.ID `json:"from"`
	To           edge.ID `json:"to"`
}

// SubscriptionTerminationScheduled says when service is to end.
type SubscriptionTerminationScheduled struct {
	Subscription edge.ID   `json:"subscription"`
	TerminateAt  time.Time `json:"terminate_at"`
}

// SubscriptionTerminationWithdrawn says that service is not to end after all.
type SubscriptionTerminationWithdrawn struct {
	Subscription edge.ID `json:"subscription"`
}

// SubscriptionTerminated says that service ended for good.
type SubscriptionTerminated struct {
	Subscription edge.ID   `json:"subscription"`
	Customer     edge.ID   `json:"customer"`
	At           time.Time `json:"at"`
}

// AccessChanged carries all that the network needs to know of a subscription. Every command that moves any of it emits it, and each
// has a larger revision than the one before.
type AccessChanged struct {
	Subscription        edge.ID    `json:"subscription"`
	Customer            edge.ID    `json:"customer"`
	Status              string     `json:"status"` // pending, active, suspended, terminated
	Reasons             []string   `json:"reasons,omitempty"`
	Policy              edge.ID    `json:"policy,omitempty"`
	ExhaustedPolicy     edge.ID    `json:"exhausted_policy,omitempty"`
	ValidUntil          *time.Time `json:"valid_until,omitempty"`
	OfflineGraceSeconds int64      `json:"offline_grace_seconds,omitempty"`
	OnExpiry            string     `json:"on_expiry"` // allow, throttle, walled, reject
	Revision            uint64     `json:"revision"`
}

// EventName implements edge.Event.
func (SubscriptionCreated) EventName() string { return "billing.subscription.created" }

// Subject implements edge.Event.
func (e SubscriptionCreated) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionUpdated) EventName() string { return "billing.subscription.updated" }

// Subject implements edge.Event.
func (e SubscriptionUpdated) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionSubmitted) EventName() string { return "billing.subscription.submitted" }

// Subject implements edge.Event.
func (e SubscriptionSubmitted) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionActivated) EventName() string { return "billing.subscription.activated" }

// Subject implements edge.Event.
func (e SubscriptionActivated) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionRenewed) EventName() string { return "billing.subscription.renewed" }

// Subject implements edge.Event.
func (e SubscriptionRenewed) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionSuspended) EventName() string { return "billing.subscription.suspended" }

// Subject implements edge.Event.
func (e SubscriptionSuspended) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionReactivated) EventName() string { return "billing.subscription.reactivated" }

// Subject implements edge.Event.
func (e SubscriptionReactivated) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionPlanChanged) EventName() string { return "billing.subscription.plan_changed" }

// Subject implements edge.Event.
func (e SubscriptionPlanChanged) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionTerminationScheduled) EventName() string {
	return "billing.subscription.termination_scheduled"
}

// Subject implements edge.Event.
func (e SubscriptionTerminationScheduled) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionTerminationWithdrawn) EventName() string {
	return "billing.subscription.termination_withdrawn"
}

// Subject implements edge.Event.
func (e SubscriptionTerminationWithdrawn) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionTerminated) EventName() string { return "billing.subscription.terminated" }

// Subject implements edge.Event.
func (e SubscriptionTerminated) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (AccessChanged) EventName() string { return "billing.subscription.access_changed" }

// Subject implements edge.Event.
func (e AccessChanged) Subject() edge.ID { return e.Subscription }

// reasons lists the suspension reasons that lie on the subscription.
func (s *Subscription) reasons() []SuspensionReason {
	var list []SuspensionReason
	for _, h := range s.Suspensions {
		list = append(list, h.Reason)
	}
	return list
}

// access is what the network needs to know, a pure function of the subscription and its main plan.
func (s *Subscription) access(p *Plan) AccessChanged {
	a := AccessChanged{
		Subscription: s.ID, Customer: s.CustomerID, Status: string(s.Status), Policy: p.PolicyRef, ExhaustedPolicy: p.ExhaustedRef,
		ValidUntil: s.ValidUntil, OfflineGraceSeconds: p.OfflineGrace, OnExpiry: string(p.OnExpiry), Revision: s.AccessRevision,
	}
	if s.Status == Draft || s.Status == Pending {
		a.Status = "pending"
	}
	for _, r := range s.reasons() {
		a.Reasons = append(a.Reasons, string(r))
	}
	return a
}

// save stores a subscription and emits what happened to it, then access_changed when what the network may give has moved. was and
// planWas are nil for a new one.
func save(tx edge.Tx, was *Subscription, planWas *Plan, s *Subscription, p *Plan, events ...edge.Event) error {
	moved := was == nil
	if !moved {
		before, after := was.access(planWas), s.access(p)
		diff, err := edge.Changed(&before, &after)
		if err != nil {
			return err
		}
		moved = len(diff) > 0
	}
	if moved {
		s.AccessRevision++
	}
	if err := subscriptions.Put(tx, s); err != nil {
		return err
	}
	for _, e := range events {
		tx.Emit(e)
	}
	if moved {
		tx.Emit(s.access(p))
	}
	return nil
}

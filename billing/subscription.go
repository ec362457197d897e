package billing

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// SubscriptionStatus is a subscription's place in its life.
type SubscriptionStatus string

// The statuses of a subscription.
const (
	Draft      SubscriptionStatus = "draft"
	Pending    SubscriptionStatus = "pending_activation"
	Active     SubscriptionStatus = "active"
	Suspended  SubscriptionStatus = "suspended"
	Terminated SubscriptionStatus = "terminated"
)

// Values lists the statuses, for the schema.
func (SubscriptionStatus) Values() []string {
	return []string{"draft", "pending_activation", "active", "suspended", "terminated"}
}

// SuspensionReason is one of the causes for which a subscription is held. They form a set: each must clear before access returns.
type SuspensionReason string

// The reasons of suspension.
const (
	ForDunning  SuspensionReason = "dunning"
	ForAdmin    SuspensionReason = "admin"
	ForFraud    SuspensionReason = "fraud"
	ForQuota    SuspensionReason = "quota"
	ForCustomer SuspensionReason = "customer"
)

// Values lists the reasons, for the schema.
func (SuspensionReason) Values() []string {
	return []string{"dunning", "admin", "fraud", "quota", "customer"}
}

// Suspension is one reason for which a subscription is held.
type Suspension struct {
	Reason SuspensionReason `json:"reason" doc:"The cause." example:"dunning"`
	Since  time.Time        `json:"since" doc:"When it was laid on."`
	By     string           `json:"by" check:"max=64" doc:"Who laid it on."`
	Note   string           `json:"note,omitempty" check:"max=200" doc:"A word for people." example:"invoice of March"`
}

// ItemRole says what an item is to its subscription.
type ItemRole string

// The roles of items.
const (
	MainItem  ItemRole = "main"  // gives access; exactly one
	AddonItem ItemRole = "addon" // charged beside it
	CPEItem   ItemRole = "cpe"   // equipment at the customer's
)

// Values lists the roles, for the schema.
func (ItemRole) Values() []string { return []string{"main", "addon", "cpe"} }

// roleOf is the role that a kind of plan has in a subscription.
func roleOf(k PlanKind) ItemRole {
	switch {
	case k.Main():
		return MainItem
	case k == Equipment:
		return CPEItem
	default:
		return AddonItem
	}
}

// Item is one plan version that a subscription holds.
type Item struct {
	ID          edge.ID  `json:"id" check:"prefix=sbi" doc:"Identifier of the item."`
	Role        ItemRole `json:"role" doc:"What it is to the subscription." example:"main"`
	PlanID      edge.ID  `json:"plan_id" check:"prefix=pln" doc:"The plan version; it stands as it was sold."`
	PlanCode    string   `json:"plan_code" check:"max=32" doc:"Code of the plan." example:"HOME10"`
	PlanVersion int32    `json:"plan_version" doc:"Version of the plan." example:"2"`
	Qty         int32    `json:"qty" doc:"How many." example:"1"`
	DeviceID    edge.ID  `json:"device_id,omitempty" check:"prefix=dev" doc:"The device, for equipment."`
}

// Subscription is what one customer holds at one place: a main plan that gives access, and what is charged beside it.
type Subscription struct {
	edge.Meta
	CustomerID     edge.ID            `json:"customer_id" check:"prefix=cus" doc:"Who holds it."`
	SiteID         edge.ID            `json:"site_id,omitempty" check:"prefix=sit" doc:"The site that serves it."`
	Status         SubscriptionStatus `json:"status" doc:"Place in its life." example:"active"`
	Suspensions    []Suspension       `json:"suspensions,omitempty" check:"max=5" doc:"Why it is held; each must clear."`
	Items          []Item             `json:"items" check:"max=20" doc:"What it holds; exactly one is main."`
	Timezone       string             `json:"timezone" check:"max=64" doc:"IANA zone in which its days begin." example:"Africa/Harare"`
	Anchor         *time.Time         `json:"anchor,omitempty" doc:"From when its periods are counted."`
	PeriodsPaid    int64              `json:"periods_paid,omitempty" doc:"Prepaid: periods sold since the anchor." example:"1"`
	ValidUntil     *time.Time         `json:"valid_until,omitempty" doc:"Prepaid: when the time sold ends."`
	ActivatedAt    *time.Time         `json:"activated_at,omitempty" doc:"When it first became active."`
	TerminateAt    *time.Time         `json:"terminate_at,omitempty" doc:"When it is to end."`
	TerminatedAt   *time.Time         `json:"terminated_at,omitempty" doc:"When it ended."`
	EndReason      string             `json:"end_reason,omitempty" check:"max=200" doc:"Why it ends or ended." example:"moved away"`
	AccessRevision uint64             `json:"access_revision" doc:"Counts the changes of what the network may give."`
}

// Reasons of subscriptions. ErrReference is also what flows answer when a record of another domain is missing.
var (
	ErrReference              = edge.Reason{Code: "reference_unusable", Says: "The request names a record that does not exist or is out of use", Fix: "Name a record in use"}
	ErrSubscriptionInvalid    = edge.Reason{Code: "subscription_invalid", Says: "The subscription cannot be stored as described", Fix: "Correct the named fields"}
	ErrSubscriptionID         = edge.Reason{Code: "subscription_id_taken", Says: "The id sent for the new subscription already names another one", Fix: "Mint a new id for a new subscription"}
	ErrSubscriptionTerminated = edge.Reason{Code: "subscription_terminated", Says: "The subscription has ended", Fix: "Make a new subscription"}
	ErrSubscriptionInactive   = edge.Reason{Code: "subscription_inactive", Says: "The subscription is not active yet", Fix: "Activate it first"}
	ErrSubscriptionHeld       = edge.Reason{Code: "subscription_held", Says: "The subscription is suspended", Fix: "Reactivate it for each of its suspensions"}
	ErrSubscriptionPostpaid   = edge.Reason{Code: "subscription_not_prepaid", Says: "Only prepaid time can be renewed", Fix: "Change to a prepaid plan, or leave it to the bill run"}
	ErrFrozen                 = edge.Reason{Code: "enforcement_frozen", Says: "The subscriber's site is cut off, and a payment taken there may not have been seen", Fix: "Wait until the site is in contact again, or suspend with the reason admin"}
	ErrPlanNotSold            = edge.Reason{Code: "plan_not_sold", Says: "The plan is not on sale now", Fix: "Choose a published plan within its effective dates"}
	ErrPlanNotHere            = edge.Reason{Code: "plan_not_here", Says: "The plan is not sold at this site", Fix: "Choose a plan that is available at the site"}
	ErrTerminationPast        = edge.Reason{Code: "termination_past", Says: "The time to end lies in the past", Fix: "Give a later time, or terminate now"}
)

const (
	maxItems   = 20
	maxPeriods = 10_000 // prepaid periods ahead, so that arithmetic of dates stays in range
)

// main is the item that gives access.
func (s *Subscription) main() *Item {
	i := slices.IndexFunc(s.Items, func(it Item) bool { return it.Role == MainItem })
	return &s.Items[i]
}

// MainPlan is the plan version that gives access.
func (s *Subscription) MainPlan() edge.ID { return s.main().PlanID }

// check refuses a subscription without exactly one main item, and one that never could be served.
func (s *Subscription) check() error {
	mains := 0
	for _, it := range s.Items {
		if it.Role == MainItem {
			mains++
		}
	}
	if mains != 1 || len(s.Items) > maxItems {
		return ErrSubscriptionInvalid.Error(edge.Invalid, edge.Field("/items", "do not hold exactly one plan that gives access, among at most "+strconv.Itoa(maxItems), "name one recurring, prepaid or usage plan"))
	}
	_, err := zone(s.Timezone)
	return err
}

// open refuses what a terminated subscription cannot do.
func (s *Subscription) open() error {
	if s.Status == Terminated {
		return ErrSubscriptionTerminated.Error(edge.Conflict)
	}
	return nil
}

// activate begins service at now: periods are counted from here, and prepaid time runs from here.
func (s *Subscription) activate(p *Plan, now time.Time) error {
	s.Status, s.ActivatedAt, s.Anchor = Active, &now, &now
	if p.Kind == Prepaid {
		return s.extend(p, 1, now)
	}
	return nil
}

// extend adds prepaid periods: after the time already sold, or from now when that has passed.
func (s *Subscription) extend(p *Plan, periods int64, now time.Time) error {
	in, err := zone(s.Timezone)
	if err != nil {
		return err
	}
	if s.ValidUntil == nil || !now.Before(*s.ValidUntil) {
		s.Anchor, s.PeriodsPaid = &now, 0
	}
	if s.PeriodsPaid+periods > maxPeriods {
		return ErrSubscriptionInvalid.Error(edge.Invalid, edge.Field("/periods", "reach too far ahead", "sell at most 10000 periods ahead"))
	}
	s.PeriodsPaid += periods
	s.ValidUntil = new(p.Interval.Boundary(*s.Anchor, in, s.PeriodsPaid).UTC())
	return nil
}

// rehome makes the subscription hold another main plan from now on. Time already paid stays; new periods are counted from its end.
func (s *Subscription) rehome(was, p *Plan, now time.Time) error {
	it := s.main()
	it.PlanID, it.PlanCode, it.PlanVersion = p.ID, p.Code, p.PlanVersion
	if s.ActivatedAt == nil {
		return nil
	}
	switch {
	case p.Kind != Prepaid:
		if was.Kind == Prepaid {
			s.Anchor = &now
		}
		s.ValidUntil, s.PeriodsPaid = nil, 0
	case was.Kind != Prepaid:
		return s.extend(p, 1, now)
	case *was.Interval != *p.Interval:
		s.Anchor, s.PeriodsPaid = s.ValidUntil, 0
	}
	return nil
}

// suspend lays a reason on; changed is false when it lies there already.
func (s *Subscription) suspend(hold Suspension) (changed bool) {
	i, found := slices.BinarySearchFunc(s.Suspensions, hold.Reason, bySuspensionReason)
	if found {
		return false
	}
	s.Suspensions = slices.Insert(slices.Clone(s.Suspensions), i, hold)
	s.Status = Suspended
	return true
}

// reactivate clears a reason; changed is false when it does not lie there.
func (s *Subscription) reactivate(r SuspensionReason) (changed bool) {
	i, found := slices.BinarySearchFunc(s.Suspensions, r, bySuspensionReason)
	if !found {
		return false
	}
	s.Suspensions = slices.Delete(slices.Clone(s.Suspensions), i, i+1)
	if len(s.Suspensions) == 0 {
		s.Suspensions, s.Status = nil, Active
	}
	return true
}

func bySuspensionReason(h Suspension, r SuspensionReason) int {
	return strings.Compare(string(h.Reason), string(r))
}

// terminate ends the subscription; what lay on it has no meaning any more.
func (s *Subscription) terminate(reason string, now time.Time) {
	s.Status, s.Suspensions, s.TerminatedAt, s.TerminateAt = Terminated, nil, &now, nil
	if reason != "" {
		s.EndReason = reason
	}
}

var subscriptions = &edge.Table[Subscription]{
	Name: "billing.subscription", Prefix: "sub", Meta: func(s *Subscription) *edge.Meta { return &s.Meta },
	Indexes: []edge.Index[Subscription]{
		{Name: "customer", Keys: func(s *Subscription) []string { return []string{string(s.CustomerID)} }},
		{Name: "site", Keys: func(s *Subscription) []string {
			if s.SiteID == "" {
				return nil
			}
			return []string{string(s.SiteID)}
		}},
		{Name: "status", Keys: func(s *Subscription) []string { return []string{string(s.Status)} }},
		{Name: "plan", Keys: func(s *Subscription) []string {
			var keys []string
			for _, it := range s.Items {
				keys = append(keys, string(it.PlanID))
			}
			slices.Sort(keys)
			return slices.Compact(keys)
		}},
		{Name: "suspension", Keys: func(s *Subscription) []string {
			var keys []string
			for _, h := range s.Suspensions {
				keys = append(keys, string(h.Reason))
			}
			return keys
		}},
	},
	Due: &edge.Due[Subscription]{Run: "billing.subscription.terminate_due", At: func(s *Subscription) time.Time {
		if s.TerminateAt == nil || s.Status == Terminated {
			return time.Time{}
		}
		return *s.TerminateAt
	}},
}

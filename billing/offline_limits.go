package billing

import (
	"fmt"
	"slices"
	"time"

	"wispgate/edge"
)

// OfflineLimits are what a tower without the cluster may sell and promise. One record holds for the tenant; a site's own takes its place
// there. They are checked when a cut-off node says yes, and nowhere else: what it has promised stands, and what turns out to exceed them
// is an event.
type OfflineLimits struct {
	edge.Meta
	SiteID             edge.ID    `json:"site_id,omitempty" check:"prefix=sit" doc:"The site they hold for; absent: all sites without their own."`
	PlanCodes          []string   `json:"plan_codes,omitempty" check:"max=200 item.max=32" doc:"Codes of the plans that may be sold, activated and changed to; absent: all." example:"[\"HOME10\"]"`
	ProvisionalSeconds int64      `json:"provisional_seconds" doc:"For how long prepaid time is promised without money." example:"86400"`
	Exposure           []Money    `json:"exposure,omitempty" check:"max=8" doc:"Most that one customer's unconfirmed payments may amount to, by currency; a currency that is absent has no bound."`
	CashPerCollector   []Money    `json:"cash_per_collector,omitempty" check:"max=8" doc:"Most cash that one collector may take on one day (UTC) while cut off, by currency; a currency that is absent has no bound."`
	MaxAgeSeconds      int64      `json:"max_age_seconds" doc:"How long ago a payment may have been taken when it is recorded, and how late it may reach the cluster without an alarm." example:"604800"`
	ExpiresAt          *time.Time `json:"expires_at,omitempty" doc:"From then on a cut-off node takes cash and promises nothing else; absent: they do not expire."`
}

// What holds where no record says otherwise.
const (
	defaultProvisional = 24 * time.Hour
	defaultMaxAge      = 7 * 24 * time.Hour
)

// ErrOfflineLimit is the reason for what a cut-off node may not promise.
var ErrOfflineLimit = edge.Reason{Code: "offline_limit", Says: "This node has no contact with the cluster and may not promise that on its own", Fix: "See billing offline limits; ask again when the link is back"}

var offlineLimits = &edge.Table[OfflineLimits]{
	Name: "billing.offline_limits", Prefix: "ofl", Meta: func(l *OfflineLimits) *edge.Meta { return &l.Meta },
}

// limitsID is the id of the limits of a site, "" for the tenant's: a pure function of it, so there is one record of each.
func limitsID(site edge.ID) edge.ID { return edge.DeriveID("ofl", "offline limits "+string(site), 0) }

// limitsAt are the limits that hold at a site.
func limitsAt(v edge.View, site edge.ID) (OfflineLimits, error) {
	if site != "" {
		if l, ok, err := offlineLimits.Find(v, limitsID(site)); ok || err != nil {
			return l, err
		}
	}
	l, ok, err := offlineLimits.Find(v, limitsID(""))
	if !ok {
		l = OfflineLimits{ProvisionalSeconds: int64(defaultProvisional / time.Second), MaxAgeSeconds: int64(defaultMaxAge / time.Second)}
	}
	return l, err
}

func (l *OfflineLimits) provisional() time.Duration {
	return time.Duration(l.ProvisionalSeconds) * time.Second
}
func (l *OfflineLimits) maxAge() time.Duration { return time.Duration(l.MaxAgeSeconds) * time.Second }

func (l *OfflineLimits) expired(now time.Time) bool {
	return l.ExpiresAt != nil && !now.Before(*l.ExpiresAt)
}

func (l *OfflineLimits) sells(code string) bool {
	return len(l.PlanCodes) == 0 || slices.Contains(l.PlanCodes, code)
}

// bound is the limit in a currency, ok false for none.
func bound(list []Money, c Currency) (Money, bool) {
	i := slices.IndexFunc(list, func(m Money) bool { return m.Currency == c })
	if i < 0 {
		return Money{}, false
	}
	return list[i], true
}

// overLimit refuses where a cut-off node says yes for the first time.
func overLimit(at, reason string) error {
	return ErrOfflineLimit.Error(edge.Conflict, edge.Field(at, reason, "ask again when the link is back"))
}

// mayPromise holds a command on a subscription against the limits: a cut-off node refuses a plan that it may not sell, and limits that
// have expired; at the rebase either is an event.
func mayPromise(tx edge.Tx, s *Subscription, p *Plan) error {
	first := edge.CutOff(tx) && !tx.Acknowledged()
	if !first && !tx.Acknowledged() {
		return nil
	}
	l, err := limitsAt(tx, s.SiteID)
	if err != nil {
		return err
	}
	limit := ""
	switch {
	case l.expired(edge.AcceptedAt(tx)):
		limit = "expired"
	case !l.sells(p.Code):
		limit = "plan"
	}
	switch {
	case limit == "":
	case first && limit == "plan":
		return overLimit("/plan_id", "names a plan that may not be sold without the cluster")
	case first:
		return overLimit("", "is no longer allowed here without the cluster")
	default:
		tx.Emit(CollectorLimitExceeded{Record: s.ID, Collector: tx.Actor().Subject, Limit: limit})
	}
	return nil
}

// provisional bounds the time that a cut-off node gives without money to what the limits say; the true state gives the whole of it at the
// rebase. before is the time that was there already.
func provisional(tx edge.Tx, s *Subscription, before *time.Time) error {
	if !edge.CutOff(tx) || s.ValidUntil == nil {
		return nil
	}
	l, err := limitsAt(tx, s.SiteID)
	if err != nil {
		return err
	}
	until := edge.AcceptedAt(tx).UTC().Add(l.provisional())
	if before != nil && before.After(until) {
		until = *before
	}
	if s.ValidUntil.After(until) {
		s.ValidUntil = &until
	}
	return nil
}

// cashDay is the cash that one collector took on one day while cut off: what the limit is held against, without a look at every payment.
type cashDay struct {
	edge.Meta
	Collector string `json:"collector"`
	Day       string `json:"day"`
	Cash      Money  `json:"cash"`
}

var cashDays = &edge.Table[cashDay]{
	Name: "billing.cash_day", Prefix: "csd", Private: true, Meta: func(d *cashDay) *edge.Meta { return &d.Meta },
}

// cashOn returns the day's record of a collector, a new one where there is none.
func cashOn(v edge.View, collector string, at time.Time, c Currency) (cashDay, error) {
	day := at.UTC().Format(time.DateOnly)
	id := edge.DeriveID("csd", fmt.Sprintf("cash %q %s %s", collector, day, c), 0)
	d, ok, err := cashDays.Find(v, id)
	if !ok {
		d = cashDay{Meta: edge.Meta{ID: id}, Collector: collector, Day: day, Cash: Money{0, c}}
	}
	return d, err
}

// countCash adds cash that was taken while cut off, or takes it away again.
func countCash(tx edge.Tx, p *Payment, amount int64) (Money, error) {
	if p.Method != Cash || !p.Offline {
		return Money{}, nil
	}
	d, err := cashOn(tx, p.Collector, p.ReceivedAt, p.Amount.Currency)
	if err != nil {
		return Money{}, err
	}
	d.Cash.AmountMinor = min(d.Cash.AmountMinor+amount, MaxMinor) // both are within bounds; what exceeds them exceeds every limit
	return d.Cash, cashDays.Put(tx, &d)
}

// exposureOf sums a customer's unconfirmed payments in a currency.
func exposureOf(v edge.View, customer edge.ID, c Currency) (sum Money, err error) {
	sum.Currency = c
	for p, err := range payments.Range(v, "provisional", string(customer)) {
		if err != nil {
			return sum, err
		}
		if p.Amount.Currency == c {
			sum.AmountMinor = min(sum.AmountMinor+p.Amount.AmountMinor, MaxMinor)
		}
	}
	return sum, nil
}

// LimitsInput replaces the limits of the tenant or of a site.
type LimitsInput struct {
	SiteID             edge.ID    `json:"site_id,omitempty" check:"prefix=sit" doc:"The site they hold for; absent: all sites without their own."`
	PlanCodes          []string   `json:"plan_codes,omitempty" check:"max=200 item.max=32" doc:"Codes of the plans that may be sold, activated and changed to; absent: all." example:"[\"HOME10\"]"`
	ProvisionalSeconds *int64     `json:"provisional_seconds,omitempty" check:"min=0 max=2592000" doc:"For how long prepaid time is promised without money; a day unless given." example:"86400"`
	Exposure           []Money    `json:"exposure,omitempty" check:"max=8" doc:"Most that one customer's unconfirmed payments may amount to, by currency; a currency that is absent has no bound."`
	CashPerCollector   []Money    `json:"cash_per_collector,omitempty" check:"max=8" doc:"Most cash that one collector may take on one day (UTC) while cut off, by currency; a currency that is absent has no bound."`
	MaxAgeSeconds      *int64     `json:"max_age_seconds,omitempty" check:"min=0 max=7776000" doc:"How long ago a payment may have been taken when it is recorded; a week unless given." example:"604800"`
	ExpiresAt          *time.Time `json:"expires_at,omitempty" doc:"From then on a cut-off node takes cash and promises nothing else; absent: they do not expire."`
}

// checkBounds refuses amounts that bound nothing.
func checkBounds(at string, list []Money) error {
	for i, m := range list {
		here := fmt.Sprintf("%s/%d", at, i)
		if err := m.Check(here); err != nil {
			return err
		}
		if m.AmountMinor < 0 || slices.ContainsFunc(list[:i], func(o Money) bool { return o.Currency == m.Currency }) {
			return ErrPaymentInvalid.Error(edge.Invalid, edge.Field(here, "is negative, or the second of its currency", "give one amount for each currency"))
		}
	}
	return nil
}

// SetLimits says what a tower without the cluster may sell and promise. It takes effect at a tower when that hears of it.
var SetLimits = edge.Command[LimitsInput, OfflineLimits]{
	Name: "billing.offline_limits.set", Scope: "billing:write", Class: edge.Write, Summary: "Say what a tower without the cluster may sell and promise",
	Handle: func(tx edge.Tx, in LimitsInput) (OfflineLimits, error) {
		was, found, err := offlineLimits.Find(tx, limitsID(in.SiteID))
		if err != nil {
			return OfflineLimits{}, err
		}
		l := OfflineLimits{
			Meta: was.Meta, SiteID: in.SiteID, ProvisionalSeconds: int64(defaultProvisional / time.Second), Exposure: in.Exposure,
			CashPerCollector: in.CashPerCollector, MaxAgeSeconds: int64(defaultMaxAge / time.Second),
		}
		l.ID = limitsID(in.SiteID)
		edge.Set(&l.ProvisionalSeconds, in.ProvisionalSeconds)
		edge.Set(&l.MaxAgeSeconds, in.MaxAgeSeconds)
		for _, code := range in.PlanCodes {
			l.PlanCodes = append(l.PlanCodes, planKey(code))
		}
		if in.ExpiresAt != nil {
			l.ExpiresAt = new(in.ExpiresAt.UTC().Truncate(time.Second))
		}
		if err := checkBounds("/exposure", l.Exposure); err != nil {
			return OfflineLimits{}, err
		}
		if err := checkBounds("/cash_per_collector", l.CashPerCollector); err != nil {
			return OfflineLimits{}, err
		}
		if diff, err := edge.Changed(&was, &l); err != nil || found && len(diff) == 0 {
			return was, err
		}
		if err := offlineLimits.Put(tx, &l); err != nil {
			return OfflineLimits{}, err
		}
		tx.Emit(LimitsSet{l.ID, l.SiteID, l.ExpiresAt})
		return l, nil
	},
}

// LimitsRef names the site whose limits are asked for.
type LimitsRef struct {
	SiteID edge.ID `json:"site_id,omitempty" check:"prefix=sit" doc:"The site; absent: the tenant's."`
}

// GetLimits answers the limits that hold at a site: its own, else the tenant's, else what holds where nobody has said anything.
var GetLimits = edge.Query[LimitsRef, OfflineLimits]{
	Name: "billing.offline_limits.get", Scope: "billing:read", Class: edge.Read, Summary: "Read what a tower without the cluster may sell and promise",
	Handle: func(v edge.View, in LimitsRef) (OfflineLimits, error) { return limitsAt(v, in.SiteID) },
}

// LimitsSet says that the limits of a site or of the tenant changed.
type LimitsSet struct {
	Limits    edge.ID    `json:"limits"`
	Site      edge.ID    `json:"site,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

// EventName implements edge.Event.
func (LimitsSet) EventName() string { return "billing.offline_limits.set" }

// Subject implements edge.Event.
func (e LimitsSet) Subject() edge.ID { return e.Limits }

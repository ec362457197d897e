package billing

import (
	"time"

	"wispgate/edge"
)

// ErrUsageRange is the reason for a range of days that cannot be answered.
var ErrUsageRange = edge.Reason{Code: "usage_range", Says: "The range of days cannot be answered", Fix: "Give from and to as YYYY-MM-DD, in this order, at most 92 days apart"}

// UsageReport is what accounting knows of a session: its totals so far.
type UsageReport struct {
	Session      edge.ID   `json:"session" check:"prefix=ses" doc:"The session."`
	Subscription edge.ID   `json:"subscription,omitempty" check:"prefix=sub" doc:"Who used it."`
	Credential   edge.ID   `json:"credential,omitempty" check:"prefix=crd" doc:"The login."`
	Start        time.Time `json:"start" doc:"When the session began." example:"2026-03-31T12:00:00Z"`
	At           time.Time `json:"at" doc:"When the totals were read." example:"2026-03-31T12:05:00Z"`
	Closed       bool      `json:"closed,omitempty" doc:"Whether the session has ended."`
	Counters
}

// RecordUsage merges a report of a session's cumulative totals. It is never refused, and a report that comes twice, late or out of
// order counts once: what was used on a day follows from the largest totals reported on the days.
var RecordUsage = edge.Command[UsageReport, SessionUsage]{
	Name: "billing.usage.record", Scope: "usage:write", Class: edge.Write, Offline: true, Summary: "Take over a session's totals (accounting's)",
	Handle: func(tx edge.Tx, in UsageReport) (SessionUsage, error) {
		u, found, err := sessionUsages.Find(tx, in.Session.With("usg"))
		if err != nil {
			return SessionUsage{}, err
		}
		if !found {
			u = SessionUsage{
				Meta: edge.Meta{ID: in.Session.With("usg")}, Session: in.Session, Subscription: in.Subscription, Credential: in.Credential,
				Start: in.Start.UTC(), Timezone: zoneOf(tx, in.Subscription),
			}
		}
		was := u.share()
		before := u
		u.Days = append([]DayMark(nil), u.Days...)
		if in.At.After(u.LastAt) {
			u.LastAt = in.At.UTC()
		}
		if in.Start.Before(u.Start) {
			u.Start = in.Start.UTC()
		}
		u.Closed = u.Closed || in.Closed
		local, err := zone(u.Timezone)
		if err != nil {
			local = time.UTC // never refused
		}
		u.take(localDay(in.At, local), in.bounded())
		if diff, err := edge.Changed(&before, &u); err != nil || found && len(diff) == 0 {
			return before, err
		}
		if err := sessionUsages.Put(tx, &u); err != nil {
			return SessionUsage{}, err
		}
		if err := count(tx, &u, was); err != nil {
			return SessionUsage{}, err
		}
		if u.Closed && !before.Closed {
			tx.Emit(UsageRecorded{u.ID, u.Session, u.Subscription, u.Start, u.LastAt, u.Total})
		}
		return u, nil
	},
}

// zoneOf is the zone in which a subscription's days begin; UTC where there is none.
func zoneOf(v edge.View, subscription edge.ID) string {
	s, ok, err := subscriptions.Find(v, subscription)
	if err != nil || !ok {
		return "UTC"
	}
	return s.Timezone
}

// count brings the days of the subscription in line with the session's shares, which were was before.
func count(tx edge.Tx, u *SessionUsage, was map[string]Counters) error {
	if u.Subscription == "" {
		return nil
	}
	now := u.share()
	for _, m := range u.Days {
		before, after := was[m.Day], now[m.Day]
		if before == after {
			continue
		}
		d, found, err := dayUsages.Find(tx, dayID(u.Subscription, m.Day))
		if err != nil {
			return err
		}
		if !found {
			d = DayUsage{Meta: edge.Meta{ID: dayID(u.Subscription, m.Day)}, Subscription: u.Subscription, Day: m.Day}
		}
		d.Counters = d.since(before).plus(after) // a late report moves octets from a later day to its own
		if err := dayUsages.Put(tx, &d); err != nil {
			return err
		}
	}
	return nil
}

// ForgetUsage removes the raw record of a session of which nothing was heard for 100 days; the days' totals stay. The kernel's timer
// runs it.
var ForgetUsage = edge.Command[edge.DueInput, edge.None]{
	Name: "billing.usage.forget", Scope: "usage:write", Class: edge.Write, Summary: "Forget the raw record of an old session (the timer's)",
	Handle: func(tx edge.Tx, in edge.DueInput) (edge.None, error) {
		u, found, err := sessionUsages.Find(tx, in.ID)
		if err != nil || !found || sessionUsages.Due.At(&u).After(tx.Now()) {
			return edge.None{}, err
		}
		return edge.None{}, sessionUsages.Delete(tx, u.ID)
	},
}

// UsageRange asks for the days of a subscription.
type UsageRange struct {
	ID   edge.ID `json:"id" check:"prefix=sub" doc:"The subscription."`
	From string  `json:"from,omitempty" check:"format=date max=10" doc:"First local day; absent: 30 days before the last." example:"2026-03-01"`
	To   string  `json:"to,omitempty" check:"format=date max=10" doc:"Last local day; absent: today." example:"2026-03-31"`
}

// UsageDay is one day of an answer; days without use are left out.
type UsageDay struct {
	Day string `json:"day" doc:"Local date." example:"2026-03-31"`
	Counters
}

// UsageAnswer is what a subscription used, by the day.
type UsageAnswer struct {
	Subscription edge.ID    `json:"subscription" doc:"Who used it."`
	Timezone     string     `json:"timezone" doc:"Zone in which the days begin." example:"Africa/Harare"`
	From         string     `json:"from" doc:"First local day."`
	To           string     `json:"to" doc:"Last local day."`
	Total        Counters   `json:"total" doc:"Sum of the days."`
	Days         []UsageDay `json:"days" check:"max=92" doc:"Days with use, oldest first."`
}

// GetUsage answers what a subscription used, by local day.
var GetUsage = edge.Query[UsageRange, UsageAnswer]{
	Name: "billing.usage.get", Scope: "billing:read", Class: edge.Read, Summary: "Read what a subscription used, by day",
	Handle: func(v edge.View, in UsageRange) (UsageAnswer, error) {
		s, err := subscriptions.Get(v, in.ID)
		if err != nil {
			return UsageAnswer{}, err
		}
		at, err := zone(s.Timezone)
		if err != nil {
			return UsageAnswer{}, err
		}
		from, to, err := in.days(v.Now(), at)
		if err != nil {
			return UsageAnswer{}, err
		}
		a := UsageAnswer{Subscription: s.ID, Timezone: s.Timezone, From: from.Format(time.DateOnly), To: to.Format(time.DateOnly), Days: []UsageDay{}}
		for d := from; !d.After(to); d = d.AddDate(0, 0, 1) {
			u, found, err := dayUsages.Find(v, dayID(s.ID, d.Format(time.DateOnly)))
			if err != nil {
				return UsageAnswer{}, err
			}
			if found {
				a.Days = append(a.Days, UsageDay{u.Day, u.Counters})
				a.Total = a.Total.plus(u.Counters)
			}
		}
		return a, nil
	},
}

// days reads the range; dates are counted in UTC, where every day has 24 hours.
func (in UsageRange) days(now time.Time, at *time.Location) (from, to time.Time, err error) {
	if in.To == "" {
		in.To = localDay(now, at)
	}
	to, err = time.Parse(time.DateOnly, in.To)
	if err == nil && in.From != "" {
		from, err = time.Parse(time.DateOnly, in.From)
	} else {
		from = to.AddDate(0, 0, -30)
	}
	if err != nil || to.Before(from) || to.Sub(from) > (maxUsageRange-1)*24*time.Hour {
		return from, to, ErrUsageRange.Error(edge.Invalid, edge.FieldError{In: "query", Pointer: "from", Reason: "does not make a range of at most 92 days with to", Fix: "give dates as YYYY-MM-DD"})
	}
	return from, to, nil
}

// SessionUsageList filters a list of sessions' raw records.
type SessionUsageList struct {
	edge.ListInput
	ID edge.ID `json:"id" check:"prefix=sub" doc:"The subscription."`
}

// ListSessionUsage answers a page of the raw records behind a subscription's days.
var ListSessionUsage = edge.Query[SessionUsageList, edge.Page[SessionUsage]]{
	Name: "billing.usage.sessions", Scope: "billing:read", Class: edge.Read, Summary: "List the sessions behind a subscription's usage",
	Handle: func(v edge.View, in SessionUsageList) (edge.Page[SessionUsage], error) {
		return sessionUsages.List(v, "subscription", string(in.ID), in.ListInput)
	},
}

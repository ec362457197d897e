package billing

import (
	"slices"
	"strings"
	"time"

	"wispgate/edge"
)

// Counters are what a session has used, cumulative or as a share. They are 64 bits wide everywhere: 32 bits wrap after 4 GiB.
type Counters struct {
	InOctets  uint64 `json:"in_octets" doc:"Octets from the subscriber (upload)." example:"120000000"`
	OutOctets uint64 `json:"out_octets" doc:"Octets to the subscriber (download)." example:"2400000000"`
	Seconds   uint64 `json:"seconds" doc:"Seconds online." example:"3600"`
}

// most is the larger of each.
func (c Counters) most(o Counters) Counters {
	return Counters{max(c.InOctets, o.InOctets), max(c.OutOctets, o.OutOctets), max(c.Seconds, o.Seconds)}
}

// since is what c has beyond o, never less than zero.
func (c Counters) since(o Counters) Counters {
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	return Counters{less(c.InOctets, o.InOctets), less(c.OutOctets, o.OutOctets), less(c.Seconds, o.Seconds)}
}

// plus is the sum; at the end of the range it stays there rather than wrap.
func (c Counters) plus(o Counters) Counters {
	sum := func(a, b uint64) uint64 { return a + min(b, MaxMinor-min(a, MaxMinor)) }
	return Counters{sum(c.InOctets, o.InOctets), sum(c.OutOctets, o.OutOctets), sum(c.Seconds, o.Seconds)}
}

// bounded cuts what no JSON reader would keep exactly: 2^53−1, nine petabytes in one session.
func (c Counters) bounded() Counters {
	return Counters{min(c.InOctets, MaxMinor), min(c.OutOctets, MaxMinor), min(c.Seconds, MaxMinor)}
}

// DayMark is the largest cumulative total that a session reported on a local day.
type DayMark struct {
	Day string `json:"day" check:"max=10" doc:"Local date." example:"2026-03-31"`
	Counters
}

// SessionUsage is the raw record of one session: what was reported, from which every day's share follows. It has the session's own UUID,
// so there is one per session for ever, and a report that came twice, late or out of order finds what came before it.
type SessionUsage struct {
	edge.Meta
	Session      edge.ID   `json:"session" check:"prefix=ses" doc:"The session."`
	Subscription edge.ID   `json:"subscription,omitempty" check:"prefix=sub" doc:"Who used it; absent: a login without a subscription."`
	Credential   edge.ID   `json:"credential,omitempty" check:"prefix=crd" doc:"The login."`
	Start        time.Time `json:"start" doc:"When the session began."`
	LastAt       time.Time `json:"last_at" doc:"Time of the latest report."`
	Total        Counters  `json:"total" doc:"Cumulative totals."`
	Closed       bool      `json:"closed,omitempty" doc:"Whether the session has ended."`
	Timezone     string    `json:"timezone" check:"max=64" doc:"Zone whose days count." example:"Africa/Harare"`
	Days         []DayMark `json:"days" check:"max=10" doc:"Largest total reported on each day, oldest first; days before the first are settled."`
	Settled      Counters  `json:"settled" doc:"Totals up to the first of the days."`
}

// DayUsage is what a subscription used on one local day, over all its sessions.
type DayUsage struct {
	edge.Meta
	Subscription edge.ID `json:"subscription" check:"prefix=sub" doc:"Who used it."`
	Day          string  `json:"day" check:"max=10" doc:"Local date." example:"2026-03-31"`
	Counters
}

const (
	maxMarks      = 10                   // days of one session that late reports can still reach
	usageKept     = 100 * 24 * time.Hour // raw records stay so long after the last report
	maxUsageRange = 92                   // days of one answer
)

// share is what a session used on each marked day: the growth of the running maximum. It depends on the marks alone, not on the order
// in which reports came.
func (u *SessionUsage) share() map[string]Counters {
	shares := make(map[string]Counters, len(u.Days))
	high := u.Settled
	for _, m := range u.Days {
		now := high.most(m.Counters)
		shares[m.Day] = now.since(high)
		high = now
	}
	return shares
}

// take merges a report: cumulative totals never shrink, and a day's mark is the largest total reported on it.
func (u *SessionUsage) take(day string, total Counters) {
	u.Total = u.Total.most(total)
	if len(u.Days) > 0 && day < u.Days[0].Day && len(u.Days) == maxMarks {
		day = u.Days[0].Day // older than what can still be told apart
	}
	i, found := slices.BinarySearchFunc(u.Days, day, func(m DayMark, d string) int { return strings.Compare(m.Day, d) })
	if found {
		u.Days[i].Counters = u.Days[i].most(total)
		return
	}
	u.Days = slices.Insert(u.Days, i, DayMark{day, total})
	if len(u.Days) > maxMarks { // settle the oldest day: its share stays where it is counted
		u.Settled = u.Settled.most(u.Days[0].Counters)
		u.Days = u.Days[1:]
	}
}

// dayID is the id of a subscription's day: a pure function of both, so a day is found without an index.
func dayID(subscription edge.ID, day string) edge.ID {
	return edge.DeriveID("usd", "usage "+string(subscription)+" "+day, 0)
}

var sessionUsages = &edge.Table[SessionUsage]{
	Name: "billing.session_usage", Prefix: "usg", Meta: func(u *SessionUsage) *edge.Meta { return &u.Meta },
	Indexes: []edge.Index[SessionUsage]{
		{Name: "subscription", Keys: func(u *SessionUsage) []string {
			if u.Subscription == "" {
				return nil
			}
			return []string{string(u.Subscription)}
		}},
	},
	Due: &edge.Due[SessionUsage]{Run: "billing.usage.forget", At: func(u *SessionUsage) time.Time {
		return u.LastAt.Truncate(24 * time.Hour).Add(usageKept) // by the day, so that a report seldom moves it
	}},
}

var dayUsages = &edge.Table[DayUsage]{
	Name: "billing.day_usage", Prefix: "usd", Meta: func(u *DayUsage) *edge.Meta { return &u.Meta },
}

// UsageRecorded says what a session used in all, once it has ended.
type UsageRecorded struct {
	Usage        edge.ID   `json:"usage"`
	Session      edge.ID   `json:"session"`
	Subscription edge.ID   `json:"subscription,omitempty"`
	Start        time.Time `json:"start"`
	End          time.Time `json:"end"`
	Total        Counters  `json:"total"`
}

// EventName implements edge.Event.
func (UsageRecorded) EventName() string { return "billing.usage.recorded" }

// Subject implements edge.Event.
func (e UsageRecorded) Subject() edge.ID { return e.Usage }

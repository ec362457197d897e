package aaa

import "time"

// Verdict is what a login may do.
type Verdict string

// The verdicts. Throttled and walled logins are accepted with the exhausted policy.
const (
	Allow    Verdict = "allow"
	Throttle Verdict = "throttle"
	Walled   Verdict = "walled"
	Reject   Verdict = "reject"
)

// Values lists the verdicts.
func (Verdict) Values() []string {
	return []string{string(Allow), string(Throttle), string(Walled), string(Reject)}
}

// Terms is all that the decision about a login depends on besides the clock. It is part of the entitlement and small, because every
// node keeps one per login in memory.
type Terms struct {
	Verdict    Verdict    `json:"decision" doc:"Before any date is looked at."`
	Reason     string     `json:"reason" doc:"Stable code of the cause."`
	ValidFrom  *time.Time `json:"valid_from,omitempty" doc:"First instant of the login."`
	ValidUntil *time.Time `json:"valid_until,omitempty" doc:"Last instant of the login."`
	PaidUntil  *time.Time `json:"paid_until,omitempty" doc:"Until when the subscription is paid."`
	Grace      int64      `json:"grace_seconds,omitempty" doc:"How long after paid_until it goes on."`
	OnExpiry   Verdict    `json:"on_expiry,omitempty" doc:"What happens after the grace."`
	Fallback   bool       `json:"fallback,omitempty" doc:"There is a policy for throttled and walled sessions."`
}

// Decision is what a login may do at one instant, why, and what changes it next.
type Decision struct {
	Verdict  Verdict
	Reason   string
	Fallback bool      // the exhausted policy holds, not the plan's
	Ends     time.Time // no session may outlive this; zero: no end
	Changes  time.Time // when the decision changes by itself; zero: never
	Next     string    // the reason from then on
}

// walledFor is how long a walled session lasts: it asks again soon, so that a payment is felt even where CoA is off.
const walledFor = 10 * time.Minute

// Decide is the one decision about a login, for RADIUS and explain alike (reference order: refusals of the login, its dates, the
// subscription's state, its paid time, the plan). It is pure and allocates nothing. An untrusted clock expires nobody: what seems to be
// past is treated as inside its grace.
func Decide(t *Terms, now time.Time, clockTrusted bool) Decision {
	d := Decision{Verdict: t.Verdict, Reason: t.Reason}
	if d.Reason == CodeRevoked || d.Reason == CodeLocked {
		return d
	}
	if clockTrusted {
		if t.ValidFrom != nil && now.Before(*t.ValidFrom) {
			return Decision{Verdict: Reject, Reason: CodeNotYetValid, Changes: *t.ValidFrom, Next: t.Reason}
		}
		if t.ValidUntil != nil && !now.Before(*t.ValidUntil) {
			return Decision{Verdict: Reject, Reason: CodeLoginExpired}
		}
	}
	d.Fallback = d.Verdict == Throttle || d.Verdict == Walled
	if d.Verdict != Reject {
		d.expire(t, now, clockTrusted)
	}
	if d.Verdict == Reject {
		return d
	}
	if clockTrusted && t.ValidUntil != nil && (d.Ends.IsZero() || t.ValidUntil.Before(d.Ends)) {
		d.Ends = *t.ValidUntil
		if d.Changes.IsZero() || t.ValidUntil.Before(d.Changes) {
			d.Changes, d.Next = *t.ValidUntil, CodeLoginExpired
		}
	}
	return d
}

// expire applies the subscription's paid time.
func (d *Decision) expire(t *Terms, now time.Time, clockTrusted bool) {
	if t.PaidUntil == nil {
		return
	}
	end := t.PaidUntil.Add(time.Duration(t.Grace) * time.Second)
	past := !now.Before(*t.PaidUntil)
	after := t.OnExpiry
	if (after == Throttle || after == Walled) && !t.Fallback || after == "" {
		after = Reject // nothing says what a throttled session would get
	}
	switch {
	case past && (now.Before(end) || !clockTrusted):
		if d.Reason == CodeActive {
			d.Reason = CodeGrace
		}
		if clockTrusted {
			d.Changes, d.Next = end, CodeExpired
		}
	case past && after == Allow:
		d.Reason = CodeExpired
	case past:
		d.Verdict, d.Reason, d.Fallback = after, CodeExpired, after != Reject
		return
	case clockTrusted && t.Grace > 0:
		d.Changes, d.Next = *t.PaidUntil, CodeGrace
	case clockTrusted:
		d.Changes, d.Next = end, CodeExpired
	}
	if clockTrusted && after != Allow {
		d.Ends = end
	}
}

// sessionEnd is when a session begun at now must end, zero for no such time.
func (d *Decision) sessionEnd(now time.Time) time.Time {
	if d.Verdict != Walled {
		return d.Ends
	}
	if again := now.Add(walledFor); d.Ends.IsZero() || again.Before(d.Ends) {
		return again
	}
	return d.Ends
}

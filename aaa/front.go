package aaa

import (
	"strings"
	"sync/atomic"
	"time"

	"wispgate/aaa/radiusd"
	"wispgate/edge"
)

// Index is the front door's Directory and Sessions.
var (
	_ radiusd.Directory = (*Index)(nil)
	_ radiusd.Sessions  = (*Index)(nil)
)

// Lookup implements radiusd.Directory.
func (ix *Index) Lookup(r *radiusd.Request) *radiusd.Login {
	s := ix.find(r.NAS.Tenant, r.Login, r.LoginMAC)
	if s == nil {
		return nil
	}
	return s.login(ix)
}

// Decide implements radiusd.Directory: the one decision, then what the request itself adds (router and device).
func (ix *Index) Decide(r *radiusd.Request, l *radiusd.Login) radiusd.Decision {
	s := l.Ref.(*Subscriber)
	d := Decide(&s.Terms, r.Now, ix.trusted())
	if d.Verdict == Reject {
		return refuse(d.Reason)
	}
	if !s.admitsNAS(r.NAS.ID) {
		return refuse(CodeNASNotAllowed)
	}
	if !s.admitsMAC(r.MAC) {
		return refuse(CodeMACMismatch)
	}
	p := s.resolve(&d)
	if p == nil {
		return refuse(CodePolicyMissing)
	}
	out := radiusd.Decision{Verdict: radiusd.Allow, Policy: p.rendered, Revision: SessionRevision(s.Revision, p.revision)}
	switch d.Verdict {
	case Throttle:
		out.Verdict = radiusd.Throttle
	case Walled:
		out.Verdict = radiusd.Walled
	case Allow, Reject:
	}
	if d.Reason != CodeActive {
		out.Reason = reasonPointer(d.Reason)
	}
	if end := d.sessionEnd(r.Now); !end.IsZero() {
		out.Until = end.Unix()
	}
	return out
}

func refuse(code string) radiusd.Decision {
	return radiusd.Decision{Verdict: radiusd.Refuse, Reason: reasonPointer(code)}
}

// reasonPointer is the declared reason with the code.
func reasonPointer(code string) *edge.Reason {
	for i := range decisionReasons {
		if decisionReasons[i].Code == code {
			return &decisionReasons[i]
		}
	}
	return &decisionReasons[0]
}

// SessionRevision numbers what a session was given: it changes when the entitlement does, and when the policy that it resolved to does.
func SessionRevision(entitlement, policy uint64) uint64 {
	x := entitlement ^ policy*0x9e3779b97f4a7c15 // Fibonacci hashing: a policy's bits reach all places
	return (x ^ x>>29) & maxCounter
}

// Allow implements radiusd.Sessions. It counts the sessions that accounting has told of and the accepts that it has not told of yet; an
// old session of the same device does not count, for the device is coming back.
func (ix *Index) Allow(r *radiusd.Request, l *radiusd.Login) bool {
	s := l.Ref.(*Subscriber)
	return s.MaxSessions == 0 || s.tenant.openOf(s.cred).admit(s.cred, r.MAC, int(s.MaxSessions), r.Now.Unix())
}

// DecisionReasons are the reasons that Decide may give, for the front door's counters.
func DecisionReasons() []edge.Reason { return decisionReasons }

// Observer takes the front door's outcomes. It keeps what is to be remembered of them and passes them on.
type Observer struct {
	Signs chan<- NASSign           // bounded; when it is full the NAS is reported with a later start
	Next  func(o *radiusd.Outcome) // for metrics; must not block; may be nil
	lost  atomic.Uint64
}

// Outcome implements radiusd.Observer.
func (o *Observer) Outcome(out *radiusd.Outcome) {
	if o.Next != nil {
		o.Next(out)
	}
}

// MessageAuthenticatorSeen implements radiusd.Observer.
func (o *Observer) MessageAuthenticatorSeen(nas *radiusd.NAS) {
	select {
	case o.Signs <- NASSign{Tenant: nas.Tenant, NAS: edge.ID(nas.ID)}:
	default:
		o.lost.Add(1)
	}
}

// Lost counts signs that could not be passed on because the queue was full.
func (o *Observer) Lost() uint64 { return o.lost.Load() }

// FrontDoor adapts a radiusd.Server's memory of outcomes to Recent.
type FrontDoor struct {
	// Recent is the server's method of that name.
	Recent func(since time.Time, limit int, keep func(*radiusd.Event) bool) []radiusd.Event
}

// Attempts implements Recent.
func (f FrontDoor) Attempts(tenant, login string, limit int) []Attempt {
	events := f.Recent(time.Time{}, limit, func(e *radiusd.Event) bool {
		return e.Tenant == tenant && sameLogin(e.Login, login)
	})
	list := make([]Attempt, 0, len(events))
	for i := range events {
		e := &events[i]
		list = append(list, Attempt{
			At: e.At.UTC(), Result: e.Result.String(), Stage: e.Stage.String(), Reason: e.Reason.Code, Says: e.Reason.Says, Fix: e.Reason.Fix,
			NAS: edge.ID(e.NAS), MAC: e.MAC,
		})
	}
	return list
}

// sameLogin compares a User-Name as it was sent with a normalised login. The front door keeps the first 64 octets of it.
func sameLogin(sent, login string) bool {
	name := factLogin([]byte(sent))
	if mac, ok := lookupMAC(nil, []byte(sent)); ok && string(mac) == login {
		return true
	}
	return name == login || len(sent) == keptLogin && len(name) >= keptLogin-4 && strings.HasPrefix(login, name)
}

// keptLogin is how many octets of a User-Name the front door remembers.
const keptLogin = 64

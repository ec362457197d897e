package aaa

import (
	"slices"
	"time"

	"wispgate/aaa/radiusd"
	"wispgate/edge"
)

// Recent tells what became of a login's last requests on this node; the front door keeps them in memory.
type Recent interface {
	// Attempts returns the newest attempts first, at most limit of them. The login is the normalised one.
	Attempts(tenant, login string, limit int) []Attempt
}

// Attempt is one request for a login and what became of it.
type Attempt struct {
	At     time.Time `json:"at" doc:"When it was."`
	Result string    `json:"result" doc:"accept, reject or drop."`
	Stage  string    `json:"stage,omitempty" doc:"Where it was decided: nas, integrity, limit, parse, identify, authenticate, authorise, reply."`
	Reason string    `json:"reason" doc:"Stable code of the cause."`
	Says   string    `json:"says,omitempty" doc:"The cause in one sentence."`
	Fix    string    `json:"fix,omitempty" doc:"What to do about it."`
	NAS    edge.ID   `json:"nas_id,omitempty" doc:"The NAS it came through."`
	MAC    string    `json:"mac,omitempty" doc:"The device's address."`
	Method string    `json:"method,omitempty" doc:"pap, chap or mac."`
}

// ExplainInput names a login as a person or a CPE writes it.
type ExplainInput struct {
	Login string `json:"login" check:"min=1 max=253" doc:"The login with its realm, or a MAC address in any notation." example:"ann@example.net"`
}

// Explanation says why a login is allowed or refused, from which records, and what changes it next.
type Explanation struct {
	Login        string           `json:"login" doc:"As it is looked up."`
	Known        bool             `json:"known" doc:"There is such a login."`
	Nearest      string           `json:"nearest,omitempty" doc:"The login that is written most alike, when this one is unknown."`
	Decision     Verdict          `json:"decision" doc:"What the login may do."`
	Reason       string           `json:"reason" doc:"Stable code of the cause."`
	Says         string           `json:"says" doc:"The cause in one sentence."`
	Fix          string           `json:"fix" doc:"What to do about it."`
	Entitlement  *EntitlementView `json:"entitlement,omitempty" doc:"What the login may do, with its policy."`
	Records      []SourceRecord   `json:"records" doc:"What the decision follows from."`
	Sessions     []Session        `json:"sessions" doc:"Open now, at most 10."`
	SessionLimit bool             `json:"session_limit_reached,omitempty" doc:"Another device would be refused now."`
	Recent       []Attempt        `json:"recent" doc:"On this node, newest first."`
	ClockTrusted bool             `json:"clock_trusted" doc:"Without a trusted clock nothing expires."`
	At           time.Time        `json:"at" doc:"When it was."`
	StateVersion uint64           `json:"state_version" doc:"The state this was read from."`
}

// SourceRecord is a record with its version.
type SourceRecord struct {
	ID      edge.ID `json:"id" doc:"Identifier of the record."`
	Version uint64  `json:"version" doc:"Its version."`
}

const (
	recentShown   = 20
	sessionsShown = 10
)

// explain is the query. It decides with the same Decide as RADIUS, from the local state, so it works with no uplink.
func explain(d *Deps) edge.Query[ExplainInput, Explanation] {
	return edge.Query[ExplainInput, Explanation]{
		Name: "aaa.entitlement.explain", Scope: "aaa:read", Class: edge.Report,
		Summary: "Say why a login is allowed or refused, from which records, and what changes it next",
		Handle: func(v edge.View, in ExplainInput) (Explanation, error) {
			out := Explanation{
				Login: factLogin([]byte(in.Login)), Records: []SourceRecord{}, Sessions: []Session{}, Recent: []Attempt{},
				ClockTrusted: d.trusted(), At: v.Now(), StateVersion: v.Version(), Decision: Reject,
			}
			c, ok, err := findLogin(v, in.Login)
			if err != nil {
				return Explanation{}, err
			}
			if !ok {
				r := radiusd.UnknownLogin
				out.Reason, out.Says, out.Fix = r.Code, r.Says, r.Fix
				if d.Index != nil {
					out.Nearest = d.Index.Nearest(v.Actor().Tenant, out.Login)
				}
			} else {
				out.Login, out.Known = c.Username, true
				if err := out.decide(v, c); err != nil {
					return Explanation{}, err
				}
			}
			if d.Recent != nil {
				out.Recent = d.Recent.Attempts(v.Actor().Tenant, out.Login, recentShown)
			}
			return out, nil
		},
	}
}

// decide fills in what is known about a login's credential.
func (out *Explanation) decide(v edge.View, c Credential) error {
	e, ok, err := entitlements.Find(v, c.ID)
	if err != nil || !ok {
		return err
	}
	view, pol, err := viewOf(v, e, out.ClockTrusted)
	if err != nil {
		return err
	}
	out.Entitlement, out.Decision, out.Reason, out.Says, out.Fix = &view, view.Now.Decision, view.Now.Reason, view.Now.Says, view.Now.Fix
	for id, version := range e.Sources {
		out.Records = append(out.Records, SourceRecord{edge.ID(id), version})
	}
	if pol != nil {
		out.Records = append(out.Records, SourceRecord{pol.ID, pol.Version})
	}
	slices.SortFunc(out.Records, func(a, b SourceRecord) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	open := 0
	for s, err := range sessions.Range(v, "credential_id", string(c.ID)) {
		if err != nil {
			return err
		}
		if !s.active() {
			continue
		}
		if open++; len(out.Sessions) < sessionsShown {
			s.Epochs = []Epoch{}
			out.Sessions = append(out.Sessions, s)
		}
	}
	out.SessionLimit = c.MaxSessions > 0 && open >= int(c.MaxSessions)
	return nil
}

// Nearest returns the tenant's login that is written most alike, "" when none is close: at most two letters changed, added, missing or
// swapped. Equal distances are settled by the alphabet.
func (ix *Index) Nearest(tenant, login string) string {
	t := (*ix.tenants.Load())[tenant]
	if t == nil {
		return ""
	}
	const near = 2
	best, dist := "", near+1
	for i := range t.logins {
		m := t.logins[i].Load()
		if m == nil {
			continue
		}
		for name := range *m {
			if n := len(name) - len(login); n > near || n < -near {
				continue
			}
			if d := distance(name, login, near); d < dist || d == dist && d <= near && name < best {
				best, dist = name, d
			}
		}
	}
	return best
}

// distance counts the octets to change, add, remove or swap with a neighbour to make a into b; more than limit is limit+1.
func distance(a, b string, limit int) int {
	if len(a) > maxLogin || len(b) > maxLogin {
		return limit + 1
	}
	var rows [3][maxLogin + 1]int
	two, one, cur := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		one[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(one[j]+1, cur[j-1]+1, one[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, two[j-2]+1)
			}
			cur[j] = d
			least = min(least, d)
		}
		if least > limit {
			return limit + 1
		}
		two, one, cur = one, cur, two
	}
	return min(one[len(b)], limit+1)
}

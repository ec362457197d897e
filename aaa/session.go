package aaa

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"wispgate/edge"
)

// Session is one time online, as its NAS told it. It is derived from the accounting records in the nodes' journals: whatever their
// order, repetition or loss, its totals are the sum over its epochs of the greatest counters seen.
type Session struct {
	edge.Meta
	NAS            edge.ID      `json:"nas_id" doc:"The NAS it came through."`
	AcctSessionID  string       `json:"acct_session_id" doc:"Acct-Session-Id; NASes repeat them."`
	Login          string       `json:"login" doc:"User-Name, normalised."`
	Credential     edge.ID      `json:"credential_id,omitempty" doc:"Absent while no credential has this login."`
	Subscription   edge.ID      `json:"subscription_id,omitempty" doc:"The subscription it belongs to."`
	Customer       edge.ID      `json:"customer_id,omitempty" doc:"The subscription's customer."`
	Incarnation    int          `json:"incarnation" doc:"Counts the uses of one Acct-Session-Id by one login on one NAS."`
	State          SessionState `json:"state" doc:"active, stale or closed."`
	StartedAt      time.Time    `json:"started_at" doc:"When it began."`
	SeenAt         time.Time    `json:"last_seen_at" doc:"Newest packet, by the NAS's time where it is sane."`
	EndedAt        *time.Time   `json:"ended_at,omitempty" doc:"When it ended; absent while it lasts."`
	Cause          string       `json:"cause,omitempty" doc:"Why it ended: RFC 2866 section 5.10 in lower case."`
	Inferred       bool         `json:"inferred,omitempty" doc:"The end is ours to believe, not told by the NAS; a later packet reopens it."`
	Resurrected    bool         `json:"resurrected,omitempty" doc:"Known from an Interim or Stop without a Start."`
	Suspect        bool         `json:"suspect,omitempty" doc:"A counter was impossible; it was left out."`
	MAC            string       `json:"mac,omitempty" doc:"The device's address."`
	IP             string       `json:"ip,omitempty" doc:"Framed-IP-Address of the session."`
	IPv6           string       `json:"ipv6_prefix,omitempty" doc:"Framed-IPv6-Prefix of the session."`
	PD             string       `json:"delegated_prefix,omitempty" doc:"Delegated-IPv6-Prefix of the session."`
	Port           uint32       `json:"nas_port,omitempty" doc:"NAS-Port: a number the NAS chose."`
	PortID         string       `json:"nas_port_id,omitempty" doc:"NAS-Port-Id: the interface on the NAS."`
	CalledStation  string       `json:"called_station,omitempty" doc:"Called-Station-Id: service or access point."`
	InOctets       uint64       `json:"in_octets" doc:"From the subscriber (upload), cumulative."`
	OutOctets      uint64       `json:"out_octets" doc:"To the subscriber (download), cumulative."`
	Seconds        uint64       `json:"seconds" doc:"How long it lasted so far."`
	UsageKnown     bool         `json:"usage_known" doc:"The NAS counts octets; without it zero means unknown."`
	Revision       uint64       `json:"revision,omitempty" doc:"The entitlement's revision that it was let in with."`
	Interim        uint32       `json:"interim_interval" doc:"Seconds within which a packet is expected."`
	CapKbps        uint32       `json:"cap_kbps,omitempty" doc:"The greater rate of the policy it was let in with; bounds what a wrapped counter may imply."`
	Epochs         []Epoch      `json:"epochs" doc:"Runs of the counters; a NAS that starts them anew begins another."`
	FoldedIn       uint64       `json:"folded_in,omitempty" doc:"Upload octets of runs too old to be kept apart."`
	FoldedOut      uint64       `json:"folded_out,omitempty" doc:"Download octets of runs too old to be kept apart."`
	FoldedSeconds  uint64       `json:"folded_seconds,omitempty" doc:"Seconds of runs too old to be kept apart."`
	FoldedUntil    int64        `json:"folded_until,omitempty" doc:"Records from before this are too late to be counted."`
	Superseded     bool         `json:"superseded,omitempty" doc:"A later incarnation exists."`
	LastIncarnated int          `json:"last_incarnation,omitempty" doc:"Highest number of incarnation in use."`
	DueAt          time.Time    `json:"due_at" doc:"When it goes stale, is closed for good, or is forgotten."`
}

// SessionState is where a session stands.
type SessionState string

// A stale session has been silent for three intervals; it counts as ended when it was last seen, until a packet proves otherwise.
const (
	SessionStateActive SessionState = "active"
	SessionStateStale  SessionState = "stale"
	SessionStateClosed SessionState = "closed"
)

// Values lists the states.
func (SessionState) Values() []string {
	return []string{string(SessionStateActive), string(SessionStateStale), string(SessionStateClosed)}
}

// How long things take. Silence and retention are counted from the commit, not from the packet, so that a backlog drained late does not
// go stale at once.
const (
	staleIntervals = 3
	staleSlack     = 60 * time.Second
	staleFor       = time.Hour          // then it is closed for good
	closedFor      = 7 * 24 * time.Hour // then it is forgotten here; its events have long gone upstream
)

// silence is how long the session may be silent.
func (s *Session) silence() time.Duration {
	return staleIntervals*time.Duration(s.Interim)*time.Second + staleSlack
}

// sessionKey is the identity of a session but for its incarnation: what one NAS calls one Acct-Session-Id of one login.
func sessionKey(nas edge.ID, acctSessionID, login string) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\x00%d:%s\x00%s", nas, len(acctSessionID), acctSessionID, login)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (s *Session) key() string { return sessionKey(s.NAS, s.AcctSessionID, s.Login) }

// sessionID is the id of an incarnation: a pure function, so that every node and every replay agrees on it.
func sessionID(tenant, key string, incarnation int) edge.ID {
	return edge.DeriveID("ses", "session "+tenant+" "+key+"#", incarnation)
}

func (s *Session) active() bool { return s.State == SessionStateActive }

// deviceKey is what a new session on the same NAS must not share with an older one: the device, else the port.
func (s *Session) deviceKey() string {
	switch {
	case s.MAC != "":
		return string(s.NAS) + "/" + s.MAC
	case s.Port != 0:
		return string(s.NAS) + "/port/" + strconv.FormatUint(uint64(s.Port), 10)
	}
	return ""
}

func activeOnly(key func(*Session) string) func(*Session) []string {
	return func(s *Session) []string {
		if !s.active() {
			return nil
		}
		return present(key(s))
	}
}

var sessions = &edge.Table[Session]{
	Name: "aaa.session", Prefix: "ses", Meta: func(s *Session) *edge.Meta { return &s.Meta },
	Indexes: []edge.Index[Session]{
		{Name: "key", Unique: true, Keys: func(s *Session) []string {
			if s.Superseded {
				return nil
			}
			return []string{s.key()}
		}},
		{Name: "login", Keys: func(s *Session) []string { return present(s.Login) }},
		{Name: "nas_id", Keys: func(s *Session) []string { return present(string(s.NAS)) }},
		{Name: "credential_id", Keys: func(s *Session) []string { return present(string(s.Credential)) }},
		{Name: "open", Keys: activeOnly(func(*Session) string { return "true" })},
		{Name: "open_nas", Keys: activeOnly(func(s *Session) string { return string(s.NAS) })},
		{Name: "open_device", Keys: activeOnly((*Session).deviceKey)},
	},
	Due: &edge.Due[Session]{At: func(s *Session) time.Time { return s.DueAt }, Run: "aaa.session.due"},
}

// SessionStarted says that a login came online.
type SessionStarted struct {
	Session      edge.ID `json:"session" doc:"The session."`
	Credential   edge.ID `json:"credential,omitempty" doc:"The login's record."`
	Subscription edge.ID `json:"subscription,omitempty" doc:"The subscription."`
	NAS          edge.ID `json:"nas" doc:"The NAS."`
}

// EventName implements edge.Event.
func (SessionStarted) EventName() string { return "aaa.session.started" }

// Subject implements edge.Event.
func (e SessionStarted) Subject() edge.ID { return e.Session }

// SessionResurrected says that a session is known without its Start, or that one believed dead is alive.
type SessionResurrected struct {
	Session      edge.ID `json:"session" doc:"The session."`
	Credential   edge.ID `json:"credential,omitempty" doc:"The login's record."`
	Subscription edge.ID `json:"subscription,omitempty" doc:"The subscription."`
	NAS          edge.ID `json:"nas" doc:"The NAS."`
}

// EventName implements edge.Event.
func (SessionResurrected) EventName() string { return "aaa.session.resurrected" }

// Subject implements edge.Event.
func (e SessionResurrected) Subject() edge.ID { return e.Session }

// SessionStale says that a session has been silent for too long.
type SessionStale struct {
	Session      edge.ID   `json:"session" doc:"The session."`
	Subscription edge.ID   `json:"subscription,omitempty" doc:"The subscription."`
	SeenAt       time.Time `json:"last_seen_at" doc:"Newest packet."`
}

// EventName implements edge.Event.
func (SessionStale) EventName() string { return "aaa.session.stale" }

// Subject implements edge.Event.
func (e SessionStale) Subject() edge.ID { return e.Session }

// SessionStopped says that a session ended, with its totals so far; a late record may still raise them.
type SessionStopped struct {
	Session      edge.ID   `json:"session" doc:"The session."`
	Credential   edge.ID   `json:"credential,omitempty" doc:"The login's record."`
	Subscription edge.ID   `json:"subscription,omitempty" doc:"The subscription."`
	Cause        string    `json:"cause,omitempty" doc:"Why it ended."`
	EndedAt      time.Time `json:"ended_at" doc:"When it ended; absent while it lasts."`
	InOctets     uint64    `json:"in_octets" doc:"From the subscriber, cumulative."`
	OutOctets    uint64    `json:"out_octets" doc:"To the subscriber, cumulative."`
	Seconds      uint64    `json:"seconds" doc:"How long it lasted so far."`
}

// EventName implements edge.Event.
func (SessionStopped) EventName() string { return "aaa.session.stopped" }

// Subject implements edge.Event.
func (e SessionStopped) Subject() edge.ID { return e.Session }

// SessionMeasured carries a session's cumulative totals to whoever rates them: at most once per session and drained batch, and only
// when they grew or the session closed. Totals never shrink, so the greatest is the truth and repetition is harmless.
type SessionMeasured struct {
	Session      edge.ID   `json:"session" doc:"The session."`
	Subscription edge.ID   `json:"subscription" doc:"The subscription."`
	Credential   edge.ID   `json:"credential" doc:"The login's record."`
	Start        time.Time `json:"start" doc:"When it began."`
	At           time.Time `json:"at" doc:"When it was."`
	InOctets     uint64    `json:"in_octets" doc:"From the subscriber, cumulative."`
	OutOctets    uint64    `json:"out_octets" doc:"To the subscriber, cumulative."`
	Seconds      uint64    `json:"seconds" doc:"How long it lasted so far."`
	Closed       bool      `json:"closed" doc:"The session has ended."`
}

// EventName implements edge.Event.
func (SessionMeasured) EventName() string { return "aaa.session.measured" }

// Inner implements edge.Inner: what the world needs of it is in the usage of the day and in aaa.session.stopped.
func (SessionMeasured) Inner() {}

// Subject implements edge.Event.
func (e SessionMeasured) Subject() edge.ID { return e.Session }

// SessionRef names a session.
type SessionRef struct {
	ID edge.ID `json:"id" check:"prefix=ses" doc:"Identifier of the record."`
}

// GetSession shows one session.
var GetSession = edge.Query[SessionRef, Session]{
	Name: "aaa.session.get", Scope: "aaa:read", Class: edge.Read, Summary: "Show a session",
	Shows:  sessions,
	Record: func(in SessionRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in SessionRef) (Session, error) { return sessions.Get(v, in.ID) },
}

// SessionFilter narrows a list of sessions; at most one filter at a time.
type SessionFilter struct {
	edge.ListInput
	Login        string  `json:"login,omitempty" check:"max=253" doc:"Only those of this login."`
	NASID        edge.ID `json:"nas_id,omitempty" check:"prefix=nas" doc:"Only those on this NAS."`
	CredentialID edge.ID `json:"credential_id,omitempty" check:"prefix=crd" doc:"Only those of this credential."`
	Open         bool    `json:"open,omitempty" doc:"Only those that are online now; may be combined with nas_id."`
}

// ListSessions lists sessions of the last days.
var ListSessions = edge.Query[SessionFilter, edge.Page[Session]]{
	Name: "aaa.session.list", Scope: "aaa:read", Class: edge.Read, Summary: "List sessions",
	Handle: func(v edge.View, in SessionFilter) (edge.Page[Session], error) {
		open := ""
		if in.Open && in.NASID == "" {
			open = "true"
		}
		login := in.Login
		if login != "" {
			login = factLogin([]byte(login))
		}
		index, key, err := oneFilter(filter{"login", login}, filter{"nas_id", string(in.NASID)}, filter{"credential_id", string(in.CredentialID)}, filter{"open", open})
		if err != nil {
			return edge.Page[Session]{}, err
		}
		if index == "nas_id" && in.Open {
			index = "open_nas"
		}
		return sessions.List(v, index, key, in.ListInput)
	},
}

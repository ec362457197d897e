package radclient

import (
	"context"
	"errors"
	"time"

	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/edge"
)

// Probe asks a server the way a router would, step by step, and says at which stage it fails.
type Probe struct {
	Auth, Acct string // addresses; an empty Acct skips accounting
	Secret     []byte
	Login      string // empty: Status-Server alone
	Password   string
	CHAP       bool
	Attrs      []byte // further attributes of every request
	Options    Options
	Now        func() time.Time
}

// Step is one question of a Probe and what came of it.
type Step struct {
	Name       string        `json:"name"`
	OK         bool          `json:"ok"`
	Reply      string        `json:"reply,omitempty"` // name of the reply's code
	Stage      string        `json:"stage,omitempty"` // where it failed, as far as it shows from outside
	Reason     *edge.Reason  `json:"reason,omitempty"`
	Took       time.Duration `json:"took"` // nanoseconds
	Attributes []dict.Named  `json:"attributes,omitempty"`
}

// The reasons a Probe adds to those of Do.
var (
	Ignored  = edge.Reason{Code: "radius_login_ignored", Says: "The server lives, but does not answer this login", Fix: "Too many wrong passwords make it pause for up to a minute: wait, then ask the node to explain the login"}
	Refused  = edge.Reason{Code: "radius_login_refused", Says: "The login is unknown, or its password or method is wrong", Fix: "Ask the node to explain the login: it knows which"}
	Barred   = edge.Reason{Code: "radius_login_barred", Says: "The password is right, but the login may not connect now", Fix: "Read Reply-Message, or ask the node to explain the login"}
	Deferred = edge.Reason{Code: "radius_accounting_refused", Says: "The server lives, but does not acknowledge accounting", Fix: "Its journal cannot write: free disk space on the node"}
)

// Reasons lists the reasons of this package.
func Reasons() []edge.Reason {
	return []edge.Reason{NoAnswer, Forged, Unsigned, Ignored, Refused, Barred, Deferred}
}

// Run asks: Status-Server, the login, then an accounting Start and Stop of a session of its own. A step that fails does
// not keep the next from being tried, since together they tell more. The error is for what prevents asking at all.
func (p Probe) Run(ctx context.Context) ([]Step, error) {
	auth, err := Dial(p.Auth, p.Secret, p.Now, p.Options)
	if err != nil {
		return nil, err
	}
	defer func() { _ = auth.Close() }()
	alive := p.ask(ctx, auth, "status", Request{Code: packet.StatusServer}, false)
	steps := []Step{alive}
	if p.Login != "" {
		attrs := append(packet.AppendString(nil, packet.UserName, p.Login), p.Attrs...)
		steps = append(steps, p.ask(ctx, auth, "login", Request{Code: packet.AccessRequest, Attrs: attrs, Password: &p.Password, CHAP: p.CHAP}, alive.OK))
	}
	if p.Acct == "" {
		return steps, nil
	}
	acct, err := Dial(p.Acct, p.Secret, p.Now, p.Options)
	if err != nil {
		return steps, err
	}
	defer func() { _ = acct.Close() }()
	session := "probe-" + p.Now().UTC().Format("20060102T150405.000000000")
	for _, s := range []struct {
		name   string
		status uint32
	}{{"accounting start", 1}, {"accounting stop", 2}} {
		attrs := packet.AppendUint32(nil, packet.AcctStatusType, s.status)
		attrs = packet.AppendString(attrs, packet.AcctSessionID, session)
		if p.Login != "" {
			attrs = packet.AppendString(attrs, packet.UserName, p.Login)
		}
		attrs = packet.AppendUint32(attrs, packet.AcctSessionTime, 0)
		steps = append(steps, p.ask(ctx, acct, s.name, Request{Code: packet.AccountingRequest, Attrs: append(attrs, p.Attrs...), Unsigned: true}, alive.OK))
	}
	return steps, nil
}

func (p Probe) ask(ctx context.Context, c *Client, name string, r Request, alive bool) Step {
	begin := p.Now()
	reply, err := c.Do(ctx, r)
	s := Step{Name: name, Took: p.Now().Sub(begin)}
	if err != nil {
		s.blame(r.Code, err, alive)
		return s
	}
	s.Reply, s.Took = reply.Code.String(), reply.Took
	s.Attributes = dict.Describe(reply.Packet[packet.HeaderLen:])
	if s.OK = reply.Code != packet.AccessReject && reply.Code != packet.AccessChallenge; s.OK {
		return s
	}
	s.Stage, s.Reason = "authenticate", &Refused
	if a, err := reply.Attrs(); err == nil && a.Has(packet.ReplyMessage) {
		s.Stage, s.Reason = "authorise", &Barred // the node words a refusal only to who knows the password
	}
	return s
}

// blame finds the stage at which silence arose.
func (s *Step) blame(code packet.Code, err error, alive bool) {
	e, ok := errors.AsType[*edge.Error](err)
	if !ok {
		e = NoAnswer.Error(edge.Unavailable)
	}
	s.Reason = &edge.Reason{Code: e.Code, Says: e.Message, Fix: e.Fix}
	switch {
	case e.Code != NoAnswer.Code:
		s.Stage = "integrity"
	case !alive:
		s.Stage = "nas or integrity"
	case code == packet.AccountingRequest:
		s.Stage, s.Reason = "reply", &Deferred
	default:
		s.Stage, s.Reason = "limit", &Ignored
	}
}

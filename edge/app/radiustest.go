package app

import (
	"context"
	"errors"
	"slices"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
)

// RadiusTest asks a RADIUS server once, as a router would: "wispgate radius test".
type RadiusTest struct {
	Server         string // host:port of authentication
	Login          string
	Method         string // pap or chap; "": pap
	CallingStation string // the device's address, "" for none
	Password       edge.Secret
	Secret         edge.Secret   // shared with the server
	Timeout        time.Duration // for the whole test; 0: 3 s
}

// RadiusTestResult is what came of a RadiusTest.
type RadiusTestResult struct {
	Answer     string       `json:"answer"`         // accept, reject, challenge or silence
	Code       string       `json:"code,omitempty"` // as the RFCs call the packet
	Reason     string       `json:"reason,omitempty"`
	Says       string       `json:"says,omitempty"`
	Fix        string       `json:"fix,omitempty"`
	Causes     []Cause      `json:"causes,omitempty"` // of silence, the likeliest first
	Attributes []dict.Named `json:"attributes"`
	Took       string       `json:"took"`
	Sent       int          `json:"datagrams"` // it took, 0 when unknown

	// SignatureValid says that the answer carried a right Message-Authenticator. One without it, or with a wrong one, is no answer.
	SignatureValid bool `json:"message_authenticator_valid"`

	err error
}

// Cause is what may be behind a server's silence.
type Cause struct {
	Code string `json:"code"`
	Says string `json:"says"`
	Fix  string `json:"fix"`
}

// Reasons of a test that did not end with an accept.
var (
	errTestRejected = edge.Reason{Code: "rejected", Says: "The server refuses the login", Fix: "Ask the node why: wispgate explain LOGIN"}
	errTestSilent   = edge.Reason{Code: "no_answer", Says: "The server does not answer", Fix: "See the likely causes; the node's log and metrics name the one it saw"}
	errTestMethod   = edge.Reason{Code: "radius_method_unknown", Says: "The test does not know this method", Fix: "Use pap or chap"}
)

// untold is why a refusal carries no reason: the server tells it only to those who know the password.
var untold = edge.Reason{
	Code: "not_told", Says: "The server gives no reason, as before the password is proved",
	Fix: "Check login, password and method; wispgate explain LOGIN on the node tells which it is",
}

// Err is nil after an accept, and otherwise an *edge.Error: code rejected (kind denied) or no_answer (kind unavailable).
func (r RadiusTestResult) Err() error { return r.err }

// Run sends one Access-Request with a Message-Authenticator and waits for a signed answer. Silence is a result, not an error; the error is
// for what could not be asked.
func (t RadiusTest) Run(ctx context.Context) (RadiusTestResult, error) {
	if t.Method != "" && t.Method != "pap" && t.Method != "chap" {
		return RadiusTestResult{}, errTestMethod.Error(edge.Invalid)
	}
	if t.Login == "" || len(t.Login) > packet.MaxValue || len(t.CallingStation) > packet.MaxValue || len(t.Password) > packet.MaxPassword {
		return RadiusTestResult{}, edge.ErrInput.Error(edge.Invalid, edge.Field("/login", "is empty, or it, the password or the MAC is too long for RADIUS", "give 1 to 253 octets, the password at most 128"))
	}
	if t.Secret == "" {
		return RadiusTestResult{}, edge.ErrInput.Error(edge.Invalid, edge.Field("/secret", "is missing", "give the secret that the server holds for this client: --secret-file or WISPGATE_RADIUS_SECRET"))
	}
	const tries = 3
	wait := t.Timeout
	if wait <= 0 {
		wait = 3 * time.Second
	}
	client, err := radclient.Dial(t.Server, []byte(t.Secret.Reveal()), time.Now, radclient.Options{Timeout: wait / tries, Tries: tries})
	if err != nil {
		return RadiusTestResult{}, &edge.Error{
			Kind: edge.Invalid, Code: "radius_server_address", Message: "The RADIUS server's address cannot be used: " + err.Error(), Fix: "Give host:port, as in 10.20.0.5:1812",
		}
	}
	defer func() { _ = client.Close() }()
	begin := time.Now()
	reply, err := client.Do(ctx, t.request())
	if err == nil {
		return heard(&reply)
	}
	silence, ok := edge.AsError(err)
	if !ok {
		return RadiusTestResult{}, err // the context's end
	}
	return RadiusTestResult{
		Answer: "silence", Attributes: []dict.Named{}, Took: time.Since(begin).Round(time.Millisecond).String(), Sent: tries,
		Reason: silence.Code, Says: silence.Message, Fix: silence.Fix, Causes: silenceCauses(silence), err: errTestSilent.Error(edge.Unavailable),
	}, nil
}

func (t RadiusTest) request() radclient.Request {
	attrs := packet.AppendString(nil, packet.UserName, t.Login)
	attrs = packet.AppendString(attrs, packet.NASIdentifier, "wispgate-test")
	attrs = packet.AppendUint32(attrs, packet.ServiceType, 2) // Framed
	if t.CallingStation != "" {
		attrs = packet.AppendString(attrs, packet.CallingStationID, t.CallingStation)
	}
	password := t.Password.Reveal()
	return radclient.Request{Code: packet.AccessRequest, Attrs: attrs, Password: &password, CHAP: t.Method == "chap"}
}

// silenceCauses lists what may be behind a silence. Answers that nobody can have signed with our secret leave one cause only.
func silenceCauses(heard *edge.Error) []Cause {
	wrong := Cause(radiusd.WrongSecret)
	if heard.Code == radclient.Forged.Code {
		return []Cause{wrong}
	}
	if heard.Code == radclient.Unsigned.Code {
		return []Cause{{heard.Code, heard.Message, heard.Fix}}
	}
	return []Cause{Cause(radiusd.NASUnknown), wrong, Cause(radiusd.RateLimited), {
		Code: "server_unreachable", Says: "Nothing listens there, or the way is blocked", Fix: "Check address and port, and that UDP passes",
	}}
}

func heard(reply *radclient.Reply) (RadiusTestResult, error) {
	attrs, err := reply.Attrs()
	if err != nil {
		return RadiusTestResult{}, err
	}
	r := RadiusTestResult{
		Code: reply.Code.String(), Attributes: dict.Describe(reply.Packet[packet.HeaderLen:]), Took: reply.Took.Round(time.Microsecond).String(),
		Sent: reply.Sent, SignatureValid: attrs.Has(packet.MessageAuthenticator),
	}
	if r.Attributes == nil {
		r.Attributes = []dict.Named{}
	}
	switch reply.Code {
	case packet.AccessAccept:
		r.Answer = "accept"
		return r, nil
	case packet.AccessChallenge:
		r.Answer = "challenge"
	default:
		r.Answer = "reject"
	}
	why := untold
	if says := attrs.Get(packet.ReplyMessage); says != nil {
		why = spokenReason(r.Attributes)
	}
	r.Reason, r.Says, r.Fix = why.Code, why.Says, why.Fix
	e := errTestRejected.Error(edge.Denied)
	e.Message, e.Fix = e.Message+": "+why.Says, why.Fix
	r.err = e
	return r, nil
}

// spokenReason finds the reason that a Reply-Message words; one of another server's is passed on as it is.
func spokenReason(attrs []dict.Named) edge.Reason {
	i := slices.IndexFunc(attrs, func(n dict.Named) bool { return n.Name == "Reply-Message" })
	if i < 0 {
		return untold
	}
	says := attrs[i].Value
	for _, r := range append(radiusd.Reasons(), aaa.DecisionReasons()...) {
		if r.Says == says {
			return r
		}
	}
	return edge.Reason{Code: "told", Says: says, Fix: errTestRejected.Fix}
}

// radiusCode is the code of a RADIUS failure, "" for the end of a context.
func radiusCode(err error) string {
	var e *edge.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

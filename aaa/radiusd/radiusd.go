// Package radiusd is the RADIUS front door: authentication and accounting over UDP, answered from memory.
//
// It owns sockets, packets, duplicates, delays and limits. What a login may do it asks of a Directory; where accounting
// becomes durable it asks of a Journal. Every request walks the same stages and every refusal names its stage and a
// stable reason code. Nothing on the path of a PAP, CHAP or accounting request allocates, locks against another
// worker, or waits. See DESIGN.md.
package radiusd

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"wispgate/edge"
)

// Directory answers who a login is and what it may do now. Its methods are called by several workers at once, for
// every Access-Request: they must not block and should not allocate. The Request and everything it points to are
// valid during the call only.
type Directory interface {
	// Lookup returns the login of r's tenant named by r.Login, or by r.LoginMAC when the name is a hardware address in
	// any notation; nil if there is none.
	Lookup(r *Request) *Login
	// Decide is asked after the password was right: what is in force at r.Now.
	Decide(r *Request, l *Login) Decision
}

// Sessions limits simultaneous use. Allow is called after Decide said yes; false rejects with session_limit.
type Sessions interface {
	Allow(r *Request, l *Login) bool
}

// Journal makes accounting durable. Submit never blocks; it may keep payload until it calls done, once, from any
// goroutine, also before it returns: after the flush, or with the error that prevented it.
type Journal interface {
	Submit(kind uint8, payload []byte, done Done)
}

// Done learns the outcome of a Submit.
type Done interface {
	Journaled(seq uint64, err error)
}

// Observer hears what happened. Its methods are called on the hot path: they must not block and must copy what they
// keep of the Outcome.
type Observer interface {
	Outcome(o *Outcome)
	// MessageAuthenticatorSeen is called once per NAS whose record did not say so yet: persist it, so that policy auto
	// requires the attribute after a restart, too.
	MessageAuthenticatorSeen(nas *NAS)
}

// Config is everything a Server needs. Directory, Journal, Logger and Now have no default.
type Config struct {
	Auth, Acct []string // addresses to listen on, such as ":1812" (IPv4 and IPv6) or "10.0.0.1:1812"

	Directory Directory
	Journal   Journal
	Sessions  Sessions // nil: no limit
	Observer  Observer // nil: nobody listens
	Logger    *slog.Logger
	Now       func() time.Time
	// JournalReady says whether the journal accepts records, for Status-Server on the accounting port. nil: the outcome
	// of the last record.
	JournalReady func() bool
	// Reasons are those Decide may return, so that each has a counter; others are counted together as "other".
	Reasons []edge.Reason

	Node        uint64   // written into Class
	ClassKey    [32]byte // the same on every node of a cluster
	JournalKind uint8    // kind of accounting records

	Workers       int           // sockets per address; 0: one per CPU, at most 4
	ReceiveBuffer int           // octets asked of the kernel per socket; 0: 8 MB
	CacheEntries  int           // replies kept per worker, rounded up to a power of two; 0: 4096
	CacheFor      time.Duration // 0: 30 s
	RejectDelay   time.Duration // 0: 1 s; negative: none; at most 5 s
	MaxPending    int           // requests per worker that wait for the journal, a delay or a slow password; 0: 4096
	NASRate       int           // packets per second and NAS; 0: 100,000, more than a small machine answers; negative: no limit
	StaleAfter    time.Duration // an Access-Request that waited longer in the socket is dropped; 0: 5 s; negative: never
	SlowWorkers   int           // goroutines that verify password hashes; 0: 1
	Recent        int           // outcomes kept per worker for Recent; 0: 512
}

func (c *Config) defaults(cpus int) error {
	if c.Directory == nil || c.Journal == nil || c.Logger == nil || c.Now == nil {
		return errors.New("radiusd: Directory, Journal, Logger and Now must be set")
	}
	setDefault(&c.Workers, min(cpus, 4))
	setDefault(&c.ReceiveBuffer, 8<<20)
	setDefault(&c.CacheEntries, 4096)
	setDefault(&c.CacheFor, 30*time.Second)
	setDefault(&c.RejectDelay, time.Second)
	setDefault(&c.MaxPending, 4096)
	setDefault(&c.NASRate, 100_000)
	setDefault(&c.StaleAfter, 5*time.Second)
	setDefault(&c.SlowWorkers, 1)
	setDefault(&c.Recent, 512)
	if c.RejectDelay > wheelSpan {
		return errors.New("radiusd: the reject delay is longer than 5 s")
	}
	return nil
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Stage is a step of the pipeline.
type Stage uint8

// The stages, in the order a request passes them.
const (
	StageNAS Stage = iota
	StageIntegrity
	StageLimit
	StageParse
	StageIdentify
	StageAuthenticate
	StageAuthorise
	StageReply
)

var stageNames = [...]string{"nas", "integrity", "limit", "parse", "identify", "authenticate", "authorise", "reply"}

// String returns the name people and metrics see.
func (s Stage) String() string { return stageNames[min(int(s), len(stageNames)-1)] }

// MarshalText makes the name the JSON form.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// The reasons of the front door. Decide adds those of the business.
var (
	NASUnknown       = edge.Reason{Code: "nas_unknown", Says: "A router asks that this node does not know", Fix: "Add it to the inventory, or correct its address"}
	WrongSecret      = edge.Reason{Code: "wrong_secret", Says: "The tower router and this node hold different secrets", Fix: "Set the same secret on both"}
	SecretSuspected  = edge.Reason{Code: "wrong_secret_suspected", Says: "The password arrives as noise, as it does when router and node hold different secrets", Fix: "Compare the secrets of router and node; let the router send Message-Authenticator to be certain"}
	AuthenticatorOff = edge.Reason{Code: "message_authenticator_missing", Says: "The router left out the Message-Authenticator that this node requires of it", Fix: "Switch it on in the router (RouterOS: require-message-auth), or set the NAS record's policy to never"}
	RateLimited      = edge.Reason{Code: "rate_limited", Says: "Too many tries in a short time", Fix: "Stop the retry loop of the CPE and wait a minute"}
	Malformed        = edge.Reason{Code: "malformed", Says: "The router sends requests that cannot be read", Fix: "Update the router"}
	UnknownLogin     = edge.Reason{Code: "unknown_login", Says: "This login does not exist", Fix: "Check the spelling in the CPE"}
	BadMethod        = edge.Reason{Code: "unsupported_method", Says: "The CPE offers a method this login does not allow", Fix: "Allow PAP or CHAP in the CPE's profile"}
	BadPassword      = edge.Reason{Code: "bad_password", Says: "The password in the CPE is wrong", Fix: "Type it again in the CPE"}
	SessionLimit     = edge.Reason{Code: "session_limit", Says: "An old session is still open", Fix: "Clear it, then reconnect"}
	Overloaded       = edge.Reason{Code: "radius_overloaded", Says: "The node has more requests waiting than it may hold", Fix: "Wait for the rush to pass; if it persists, spread the routers over more nodes"}
	JournalDown      = edge.Reason{Code: "journal_unavailable", Says: "Accounting cannot be made durable, so it is not acknowledged", Fix: "Free disk space or replace the disk; the router keeps its records and sends them again"}
)

// Reasons lists the front door's reasons with the stage each belongs to, for the module's declaration.
func Reasons() []edge.Reason {
	list := make([]edge.Reason, len(own))
	for i := range own {
		list[i] = *own[i].reason
	}
	return list
}

var own = [...]struct {
	reason *edge.Reason
	stage  Stage
}{
	{&NASUnknown, StageNAS},
	{&WrongSecret, StageIntegrity},
	{&AuthenticatorOff, StageIntegrity},
	{&RateLimited, StageLimit},
	{&Overloaded, StageLimit},
	{&Malformed, StageParse},
	{&UnknownLogin, StageIdentify},
	{&SecretSuspected, StageAuthenticate},
	{&BadMethod, StageAuthenticate},
	{&BadPassword, StageAuthenticate},
	{&SessionLimit, StageAuthorise},
	{&JournalDown, StageReply},
}

// Addrs are the addresses a Server is bound to, in the order of Config.
type Addrs struct{ Auth, Acct []netip.AddrPort }

// Package authn settles who asks: it verifies the credential that a request shows, from memory alone, so that a tower without an uplink
// and after a restart verifies as before. DESIGN.md in this folder says why the steps stand in this order.
package authn

import (
	"crypto/x509"
	"net/netip"
	"time"

	"wispgate/edge"
	"wispgate/gateway/limit"
)

// Shown is what a request shows of itself. At most one of Bearer, APIKey and Peer is set; the strings may be reused by their owner
// after Authenticate returns.
type Shown struct {
	Bearer  string            // what follows "Authorization: Bearer "
	APIKey  string            // X-API-Key
	Peer    *x509.Certificate // a client certificate that TLS has verified
	Tenant  string            // X-Tenant-ID, "" for the credential's own
	Address netip.Addr        // of the peer; the zero Addr for a unix socket's
}

// Identity is a verified credential. It is shared by all requests that show the same credential and must not be changed.
type Identity struct {
	Actor  edge.Actor    // Subject is the client's record, Key the record of the credential
	Limits limit.Subject // whom the request is counted for
	Bound  any           // what the caller attached when the record was indexed
}

// Budget bounds how many credentials an address may get wrong. It is asked before any secret is hashed. Give it a limiter of its own:
// what else the gateway charges to an address must not shut out the right keys behind it.
type Budget interface {
	// Exhausted charges nothing.
	Exhausted(a netip.Addr, now time.Time) (retryAfter time.Duration, exhausted bool)
	// TakeAddress charges a credential that did not prove right.
	TakeAddress(a netip.Addr, cost int, now time.Time) limit.Decision
}

// Verifier judges one form of token: API keys here, JWTs and opaque tokens of others beside it. Verify answers a refusal as an
// *edge.Error and says whether the secret or signature had proved right before it; only then may the error name the cause.
type Verifier struct {
	Form   func(token string) bool // the token is this verifier's to judge
	Verify func(token string, s Shown, now time.Time) (id *Identity, proved bool, err error)
}

// Authenticator verifies credentials. It is safe for concurrent use.
type Authenticator struct {
	now       func() time.Time
	effective func() time.Time
	budget    Budget
	verifiers []Verifier
}

// New makes an authenticator. Credentials are judged by the effective time: the clock, but never before the store's high-water time.
// The budget runs on now, the clock itself with its monotonic reading, because effective time stands still while the clock is behind.
// The verifiers are asked in order; the first whose form fits judges.
func New(now, effective func() time.Time, budget Budget, verifiers ...Verifier) *Authenticator {
	return &Authenticator{now: now, effective: effective, budget: budget, verifiers: verifiers}
}

// Authenticate settles who asks, or refuses with an *edge.Error: unauthenticated, limited when the address got too many wrong, denied
// for another tenant's name. It does not allocate for a credential that is right.
func (a *Authenticator) Authenticate(s Shown) (*Identity, error) {
	token := s.Bearer
	if token == "" {
		token = s.APIKey
	}
	if token == "" {
		return nil, ErrUnknown.Error(edge.Unauthenticated)
	}
	now := a.now()
	if wait, exhausted := a.budget.Exhausted(s.Address, now); exhausted {
		e := ErrTooMany.Error(edge.Limited)
		e.RetryAfter = int((wait + time.Second - 1) / time.Second)
		return nil, e
	}
	id, proved, err := a.verify(token, s, a.effective())
	if err == nil && s.Tenant != "" && s.Tenant != id.Actor.Tenant {
		return nil, ErrTenant.Error(edge.Denied)
	}
	if err != nil && !proved {
		a.budget.TakeAddress(s.Address, 1, now)
	}
	return id, err
}

func (a *Authenticator) verify(token string, s Shown, now time.Time) (*Identity, bool, error) {
	for _, v := range a.verifiers {
		if v.Form(token) {
			return v.Verify(token, s, now)
		}
	}
	return nil, false, ErrForm.Error(edge.Unauthenticated)
}

// Reasons why a credential is refused. The first three say nothing about any record; the others are named only once the secret has
// proved right.
var (
	ErrForm      = edge.Reason{Code: "credential_malformed", Says: "The credential is not in a form that this node knows", Fix: "Copy the whole key, wg_live_ and all, without spaces"}
	ErrUnknown   = edge.Reason{Code: "credential_unknown", Says: "The credential is not valid here", Fix: "Check which key is used, and make a new one if it was lost"}
	ErrTooMany   = edge.Reason{Code: "credential_attempts", Says: "Too many wrong credentials came from this address", Fix: "Stop whatever sends the wrong key, then wait for the time in Retry-After"}
	ErrExpired   = edge.Reason{Code: "key_expired", Says: "The key has expired", Fix: "Rotate it with another key, or ask your administrator for a new one"}
	ErrRotated   = edge.Reason{Code: "key_rotated", Says: "The key was rotated and its overlap has ended", Fix: "Use the key's new secret"}
	ErrRevoked   = edge.Reason{Code: "key_revoked", Says: "The key was revoked", Fix: "Ask your administrator for a new one"}
	ErrClient    = edge.Reason{Code: "client_disabled", Says: "The client that the key belongs to is disabled", Fix: "Ask your administrator to enable it"}
	ErrSuspended = edge.Reason{Code: "tenant_suspended", Says: "The tenant is suspended", Fix: "Ask the operator of the platform"}
	ErrSite      = edge.Reason{Code: "key_wrong_site", Says: "The key is not valid at this site", Fix: "Use it at its own sites, or ask for a key that names this one"}
	ErrAddress   = edge.Reason{Code: "key_wrong_address", Says: "The key is not valid from this address", Fix: "Use it from an address on its allow list, or have the list changed"}
	ErrTenant    = edge.Reason{Code: "tenant_foreign", Says: "The credential cannot act for the tenant named in X-Tenant-ID", Fix: "Leave the header out, or use a key of that tenant"}
)

// Reasons lists the reasons of this package, for the catalogue.
func Reasons() []edge.Reason {
	return []edge.Reason{
		ErrForm, ErrUnknown, ErrTooMany, ErrExpired, ErrRotated, ErrRevoked, ErrClient, ErrSuspended, ErrSite, ErrAddress, ErrTenant,
	}
}

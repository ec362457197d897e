package gateway

import (
	"context"
	"crypto/x509"
	"net/netip"
	"time"

	"wispgate/edge"
)

// Shown is what a request shows of itself before anyone believes it. Exactly one of Bearer, APIKey and Peer is set, or none; the
// gateway refuses requests that show more than one credential header (400). The strings point into the request's buffer and are reused
// after Authenticate returns: clone what is kept.
type Shown struct {
	Bearer  string            // what follows "Authorization: Bearer ", at most 8 KB
	APIKey  string            // X-API-Key, at most 8 KB
	Peer    *x509.Certificate // leaf of a client certificate that the TLS listener has verified, else nil
	Tenant  string            // X-Tenant-ID: chooses among the tenants the credential may act for, "" for its own
	Address netip.Addr        // of the peer, unmapped; of the unix socket's peer the zero Addr
	Local   bool              // nothing was shown, but the peer could open the node's own unix socket
}

// Empty reports that no credential was shown.
func (s Shown) Empty() bool { return s.Bearer == "" && s.APIKey == "" && s.Peer == nil && !s.Local }

// Identity is a verified credential. It is shared by all requests that show the same credential and must not be changed.
type Identity struct {
	Actor  edge.Actor // Subject is the client's record (over all its keys), Key the credential that was shown
	Plan   string     // of limits, which its clients share; "" for none
	Client Rate       // throttle of the client, the zero Rate for the node's default
	Tenant Rate       // throttle of the tenant, the zero Rate for the node's default
}

// Rate is a throttle: Quota units per Window, all of which may come at once.
type Rate struct {
	Quota  int64
	Window time.Duration
}

// Authenticator settles who asks. A refusal is an *edge.Error: Unauthenticated (401) with a code that names the cause only once the
// secret or signature has proved right, Limited (429) when an address tries too often (checked before any crypto), or Unavailable
// (503) when it cannot be decided now. It is called on every request, so it answers known credentials from memory, without allocating.
type Authenticator interface {
	Authenticate(s Shown) (*Identity, error)
}

// Limiter is the throttle. All cells of a request are tested, then all charged. Times come from the gateway's clock and carry a
// monotonic reading.
type Limiter interface {
	// Take charges cost to the cells of the identity's tenant and client.
	Take(id *Identity, class edge.Class, cost int, now time.Time) Decision
	// TakeAddress charges cost to the cell of an address (IPv6 by /64): public operations and refused credentials.
	TakeAddress(a netip.Addr, cost int, now time.Time) Decision
}

// Decision is the outcome of one Take.
type Decision struct {
	Allowed    bool
	RetryAfter time.Duration // when not allowed: after which the same request would pass
	Policies   [4]Policy     // the cells that were asked, Asked of them; for the RateLimit-Policy header
	Asked      int           // 0: nothing limits, and the headers are left out
	Tightest   int           // index into Policies of the cell that decides first
	Remaining  int64         // units left in the tightest cell
	Reset      time.Duration // until the tightest cell is full again
}

// Policy names one cell's throttle in the RateLimit-Policy header. Names are plain words: "plan", "tenant", "client",
// "class", "address".
type Policy struct {
	Name string
	Rate
}

// Auditor appends one audit line to the node's hash-chained journal. It returns once the line is durable (group commit); the line may
// be reused afterwards.
type Auditor interface {
	Audit(ctx context.Context, line []byte) error
}

// Ports are the rooms that the gateway stands on. Executor, Authenticator, Limiter and Auditor are required.
type Ports struct {
	Executor      edge.Executor
	Authenticator Authenticator
	Limiter       Limiter
	Auditor       Auditor
}

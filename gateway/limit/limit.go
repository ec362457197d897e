// Package limit is the throttle: it protects the node, locally, from more requests than an identity or address may send. Cells follow
// GCRA with one atomic 64-bit number each, on the monotonic clock. A request passes only if all its cells pass (plan, tenant, client
// over all its keys, client and class); they are tested first and charged together, so a refused request costs nobody anything.
//
// Memory is bounded: identities and addresses have a table of cells each, of fixed size, and a flood of invented addresses ends in one
// shared cell of its own table. Quotas that a contract counts by the month are another thing and are not kept here.
package limit

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"sync/atomic"
	"time"

	"wispgate/edge"
)

// Config holds the node's rates and bounds. A zero Rate limits nothing.
type Config struct {
	Tenant  Rate                // of each tenant whose record names none
	Client  Rate                // of each client whose record names none
	Address Rate                // of each address without a valid credential
	Classes map[edge.Class]Rate // of each client for one class of operations
	Plans   map[string]Rate     // of all clients on a plan together

	// Observe counts what would be refused and lets it pass: to try a limit before it bites. Addresses are always held.
	Observe bool
	// Identities and Addresses bound the cells kept for each; 0 means 16,384 (about 1 MB when full).
	Identities, Addresses int
}

// Defaults are the rates of a node that configures none: a tenant 6,000 units a minute, a client 600, an address 60 refusals.
func Defaults() Config {
	return Config{
		Tenant:  Rate{6000, time.Minute},
		Client:  Rate{600, time.Minute},
		Address: Rate{60, time.Minute},
	}
}

const defaultCells = 1 << 14

// Subject is whom a request is counted for: a client over all its keys, its tenant, its plan. Rates replace the node's defaults.
type Subject struct {
	Tenant, Client, Plan   string
	TenantRate, ClientRate Rate
}

// Policy names a cell and its rate, as the RateLimit-Policy header shows them: "plan", "tenant", "client", "class" or "address".
type Policy struct {
	Name string
	Rate Rate
}

// maxCells is how many cells one request asks at most.
const maxCells = 4

// Decision is the outcome of a request at the limiter.
type Decision struct {
	Allowed    bool
	Observed   bool          // allowed, but only because the limits are being observed, not enforced
	RetryAfter time.Duration // when not allowed: after which the same request would pass
	Remaining  int64         // units left in the tightest cell
	Reset      time.Duration // until the tightest cell is full again
	Tightest   int           // index into Policies: the cell that decides first

	policies [maxCells]Policy
	n        int
}

// Policies lists the cells that were asked, in order: plan, tenant, client, class; empty where nothing limits.
func (d *Decision) Policies() []Policy { return d.policies[:d.n] }

// Stats are the limiter's counters since it was made, and its present size.
type Stats struct {
	Refused, Observed, Overflowed, Evicted int64
	Identities, Addresses                  int
}

// Limiter decides. It is safe for concurrent use.
type Limiter struct {
	cfg       Config
	epoch     time.Time
	seed      [maxCells + 1]maphash.Seed
	subjects  *table
	addresses *table

	refused, observed atomic.Int64
}

// New makes a limiter; epoch is any reading of the clock that the calls will use, so that differences are monotonic.
func New(cfg Config, epoch time.Time) *Limiter {
	if cfg.Identities <= 0 {
		cfg.Identities = defaultCells
	}
	if cfg.Addresses <= 0 {
		cfg.Addresses = defaultCells
	}
	l := &Limiter{cfg: cfg, epoch: epoch, subjects: newTable(cfg.Identities), addresses: newTable(cfg.Addresses)}
	for i := range l.seed {
		l.seed[i] = maphash.MakeSeed()
	}
	return l
}

// Stats returns the counters.
func (l *Limiter) Stats() Stats {
	return Stats{
		Refused: l.refused.Load(), Observed: l.observed.Load(),
		Overflowed: l.subjects.overflowed.Load() + l.addresses.overflowed.Load(),
		Evicted:    l.subjects.evicted.Load() + l.addresses.evicted.Load(),
		Identities: l.subjects.size(), Addresses: l.addresses.size(),
	}
}

// The levels of a request's cells.
const (
	levelPlan = iota
	levelTenant
	levelClient
	levelClass
	levelAddress
)

// Take charges cost units to the subject's cells if all of them allow it, and otherwise charges none.
func (l *Limiter) Take(s Subject, class edge.Class, cost int, now time.Time) Decision {
	r := request{table: l.subjects, now: l.since(now), cost: int64(cost)}
	tenant := maphash.String(l.seed[levelTenant], s.Tenant)
	client := bits.RotateLeft64(tenant, 1) ^ maphash.String(l.seed[levelClient], s.Client)
	if rate := l.cfg.Plans[s.Plan]; !rate.None() {
		r.add(maphash.String(l.seed[levelPlan], s.Plan), "plan", rate)
	}
	r.add(tenant, "tenant", or(s.TenantRate, l.cfg.Tenant))
	r.add(client, "client", or(s.ClientRate, l.cfg.Client))
	if rate := l.cfg.Classes[class]; !rate.None() {
		r.add(bits.RotateLeft64(client, 1)^maphash.String(l.seed[levelClass], string(class)), "class", rate)
	}
	d := r.take()
	if !d.Allowed && l.cfg.Observe {
		d.Allowed, d.Observed, d.RetryAfter = true, true, 0
		l.observed.Add(1)
	} else if !d.Allowed {
		l.refused.Add(1)
	}
	return d
}

// TakeAddress charges cost units to an address: IPv6 counts by /64. The zero Addr, a unix socket's peer, is never limited.
func (l *Limiter) TakeAddress(a netip.Addr, cost int, now time.Time) Decision {
	r := request{table: l.addresses, now: l.since(now), cost: int64(cost)}
	if a.IsValid() {
		r.add(l.addressKey(a), "address", l.cfg.Address)
	}
	d := r.take()
	if !d.Allowed {
		l.refused.Add(1)
	}
	return d
}

// Exhausted reports that an address has used up its units, and after how long it has one again. It charges nothing and keeps nothing:
// the look before the work.
func (l *Limiter) Exhausted(a netip.Addr, now time.Time) (retryAfter time.Duration, exhausted bool) {
	rate := l.cfg.Address
	if rate.None() || !a.IsValid() {
		return 0, false
	}
	at := l.since(now)
	c := l.addresses.peek(l.addressKey(a), at)
	if c == nil {
		return 0, false
	}
	next, ok := ask(c.tat.Load(), at, rate, rate.price(1))
	if ok {
		return 0, false
	}
	return time.Duration(next - at - rate.tolerance()), true
}

func (l *Limiter) since(now time.Time) int64 { return int64(now.Sub(l.epoch)) }

func (l *Limiter) addressKey(a netip.Addr) uint64 {
	b := a.As16() // IPv4 in its mapped form, so both spellings are one key
	if a.Is4() || a.Is4In6() {
		return maphash.Bytes(l.seed[levelAddress], b[:])
	}
	return maphash.Bytes(l.seed[levelAddress], b[:8])
}

func or(rate, fallback Rate) Rate {
	if rate.None() {
		return fallback
	}
	return rate
}

// request is one decision in the making.
type request struct {
	table *table
	now   int64
	cost  int64
	key   [maxCells]uint64
	rate  [maxCells]Policy
	n     int
}

func (r *request) add(key uint64, name string, rate Rate) {
	if rate.None() {
		return
	}
	r.key[r.n], r.rate[r.n] = key, Policy{name, rate}
	r.n++
}

// take tests every cell, then charges every cell. Another request may come between the two: then what was charged is given back, so
// no cell ever admits more than its rate.
func (r *request) take() Decision {
	d := Decision{Allowed: true, policies: r.rate, n: r.n}
	var cells [maxCells]*cell
	for i := range r.n {
		cells[i] = r.table.find(r.key[i], r.now)
		next, ok := ask(cells[i].tat.Load(), r.now, r.rate[i].Rate, r.price(i))
		d.note(i, next-r.now, ok, r.price(i))
	}
	if !d.Allowed {
		return d
	}
	d = Decision{Allowed: true, policies: r.rate, n: r.n}
	for i := range r.n {
		next, ok, gone := cells[i].charge(r.now, r.rate[i].Rate, r.price(i))
		for gone {
			cells[i] = r.table.find(r.key[i], r.now)
			next, ok, gone = cells[i].charge(r.now, r.rate[i].Rate, r.price(i))
		}
		d.note(i, next-r.now, ok, r.price(i))
		if !ok {
			for j := range i {
				cells[j].refund(r.price(j))
			}
			return d
		}
	}
	return d
}

func (r *request) price(i int) int64 { return r.rate[i].Rate.price(r.cost) }

// note takes one cell's outcome into the decision: ahead is how far its time would be ahead of now. Of cells that refuse, the one with
// the longest wait decides; of cells that allow, the one with the smallest share left.
func (d *Decision) note(i int, ahead int64, ok bool, price int64) {
	rate := d.policies[i].Rate
	if !ok {
		wait := time.Duration(ahead - rate.tolerance())
		if d.Allowed || wait > d.RetryAfter {
			d.Allowed, d.Tightest, d.RetryAfter = false, i, wait
			d.Remaining = max(rate.tolerance()-(ahead-price), 0) / rate.interval()
			d.Reset = time.Duration(ahead - price)
		}
		return
	}
	if !d.Allowed {
		return
	}
	left := (rate.tolerance() - ahead) / rate.interval()
	// Compare left/quota as cross products: 2^63 holds quotas up to three thousand million.
	if i == 0 || left*d.policies[d.Tightest].Rate.Quota < d.Remaining*rate.Quota {
		d.Tightest, d.Remaining, d.Reset = i, left, time.Duration(ahead)
	}
}

package radiusd

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/edge"
)

// MAPolicy says when a NAS must send Message-Authenticator.
type MAPolicy uint8

// The policies. Auto requires it from the first valid one on, and of every request that carries Proxy-State.
const (
	Auto MAPolicy = iota
	Always
	Never
)

// NAS is one router as the pipeline needs it. It is immutable once published.
type NAS struct {
	ID, Tenant, Name string
	Addresses        []netip.Prefix // where its packets come from
	Secret           *packet.Secret
	Secondary        *packet.Secret // while a secret is being rotated; nil: none
	Profile          dict.Profile
	RequireMA        MAPolicy
	MASeen           bool // it once sent a valid Message-Authenticator
	CoAPort          uint16
	Ref              any // the directory's own
}

// ErrNASAddress says that two NAS records claim one address.
var ErrNASAddress = edge.Reason{Code: "nas_address_taken", Says: "Two routers claim the same address", Fix: "Give each router record its own addresses"}

// nasState is what the front door remembers of a NAS across changes of its record.
type nasState struct {
	seenMA    atomic.Bool
	secondary atomic.Bool  // the secondary secret was the last one that verified
	arrival   atomic.Int64 // theoretical arrival time of the rate limit, nanoseconds since start
	lastSeen  atomic.Int64 // Unix seconds

	requests, accepts, rejects, drops, accounting atomic.Uint64
}

type nasEntry struct {
	*NAS
	tenant, id []byte
	state      *nasState
}

// nasTable finds a NAS by source address: exact addresses first, then the longest prefix.
type nasTable struct {
	exact  map[netip.Addr]*nasEntry
	prefix map[netip.Prefix]*nasEntry
	bits   [2][]int // prefix lengths in use, longest first; IPv4, IPv6
	byID   map[string]*nasEntry
}

func newNASTable(list []*NAS, old *nasTable) (*nasTable, error) {
	t := &nasTable{exact: map[netip.Addr]*nasEntry{}, prefix: map[netip.Prefix]*nasEntry{}, byID: map[string]*nasEntry{}}
	for _, n := range list {
		if n.Secret == nil {
			return nil, fmt.Errorf("radiusd: NAS %s has no secret", n.ID)
		}
		e := &nasEntry{NAS: n, tenant: []byte(n.Tenant), id: []byte(n.ID), state: &nasState{}}
		if old != nil && old.byID[n.ID] != nil {
			e.state = old.byID[n.ID].state
		}
		if n.MASeen {
			e.state.seenMA.Store(true)
		}
		t.byID[n.ID] = e
		for _, p := range n.Addresses {
			if err := t.add(p, e); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

func (t *nasTable) add(p netip.Prefix, e *nasEntry) error {
	p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked()
	if !p.IsValid() {
		return fmt.Errorf("radiusd: NAS %s has an address that is none", e.ID)
	}
	if p.IsSingleIP() {
		if t.exact[p.Addr()] != nil {
			return ErrNASAddress.Error(edge.Conflict)
		}
		t.exact[p.Addr()] = e
		return nil
	}
	if t.prefix[p] != nil {
		return ErrNASAddress.Error(edge.Conflict)
	}
	t.prefix[p] = e
	family := &t.bits[0]
	if p.Addr().Is6() {
		family = &t.bits[1]
	}
	if !slices.Contains(*family, p.Bits()) {
		*family = append(*family, p.Bits())
		slices.SortFunc(*family, func(a, b int) int { return b - a })
	}
	return nil
}

// find returns the NAS that owns an address, nil if none does. The address is unmapped and has no zone.
func (t *nasTable) find(a netip.Addr) *nasEntry {
	if t == nil {
		return nil
	}
	if e := t.exact[a]; e != nil {
		return e
	}
	family := t.bits[0]
	if a.Is6() {
		family = t.bits[1]
	}
	for _, bits := range family {
		if p, err := a.Prefix(bits); err == nil {
			if e := t.prefix[p]; e != nil {
				return e
			}
		}
	}
	return nil
}

// allow is a GCRA cell: rate packets per second with a burst of one second, shared by all workers of the NAS.
func (s *nasState) allow(now int64, rate int) bool {
	if rate < 0 {
		return true
	}
	step, burst := int64(1e9)/int64(rate), int64(1e9)
	for {
		tat := s.arrival.Load()
		next := max(tat, now) + step
		if next-now > burst {
			return false
		}
		if s.arrival.CompareAndSwap(tat, next) {
			return true
		}
	}
}

// NASStats are the counters of one NAS since the start of the program.
type NASStats struct {
	ID, Tenant                                    string
	Requests, Accepts, Rejects, Drops, Accounting uint64
	LastSeen                                      int64 // Unix seconds; 0: never
	MASeen                                        bool  // false: surface it, the NAS never signed a request
	SecondarySecret                               bool  // it has begun to use the new secret of a rotation
}

// Package dict knows what routers of each make understand: it renders one vendor-neutral policy into the attributes of
// a NAS profile, and names attributes for people. Units, rounding and vendor order live here and nowhere else.
//
// Rendering is closed: a policy is a struct of bounded numbers and names, never free text of a vendor's syntax, so a
// plan cannot inject an attribute or a malformed rate string.
package dict

import (
	"fmt"
	"net/netip"
	"regexp"

	"wispgate/edge"
)

// Policy is what a session may do, in units no vendor shares: rates in kbit/s, sizes in octets, times in seconds. Zero
// means "not limited" or "not said". Up is from the subscriber, down is to the subscriber.
type Policy struct {
	DownKbps, UpKbps                             uint32
	BurstDownKbps, BurstUpKbps                   uint32 // ceiling while bursting, at least the rate
	BurstThresholdDownKbps, BurstThresholdUpKbps uint32 // average below which bursting is allowed; 0: the rate
	BurstSeconds                                 uint32 // averaging time; 0 with a burst: 10
	MinDownKbps, MinUpKbps                       uint32 // guaranteed under contention, at most the rate
	Priority                                     uint8  // 1 (first) to 8; 0: not said
	QuotaOctets                                  uint64 // both directions together, enforced by the router where it can

	Pool, V6Pool, PDPool string // names of pools on the router
	VLAN                 uint16 // 1 to 4094
	Filter               string // Filter-Id
	AddressList          string // firewall list on the router: walled garden, block states
	Group                string // profile on the router
	SessionTimeout       uint32
	IdleTimeout          uint32
	InterimInterval      uint32 // 0 or 60 and more; jittered by the server
	ReplyMessage         string
	Extra                []Raw // vendor attributes of this policy that no field says
}

// Raw is one vendor attribute with a fixed value, for what the closed set lacks.
type Raw struct {
	Vendor uint32 // IANA enterprise number; 0: a standard attribute
	Type   uint8
	Value  []byte
}

// Static is what belongs to one login rather than to its policy: addresses. Invalid values mean none.
type Static struct {
	IPv4      netip.Addr
	IPv6      netip.Prefix // of the link
	Delegated netip.Prefix
	Routes    []string // Framed-Route, RFC 2865 §5.22
}

// Bounds of a policy.
const (
	MaxKbps    = 100_000_000 // 100 Gbit/s
	MinInterim = 60          // seconds; below that a storm after a power cut feeds itself
	maxExtra   = 16
	maxRoutes  = 8
)

// A name goes into attributes and, on some routers, into their command language.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._ :/-]{0,62}$`)

// ErrPolicy is the code of a policy that no router could keep.
var ErrPolicy = edge.Reason{Code: "policy_invalid", Says: "The policy contradicts itself or leaves the bounds routers have", Fix: "Correct the named fields"}

// Check returns an *edge.Error that names every field which is wrong, or nil.
func (p *Policy) Check() error {
	var c checker
	for _, f := range [...]struct {
		name                        string
		rate, burst, threshold, min uint32
	}{
		{"down", p.DownKbps, p.BurstDownKbps, p.BurstThresholdDownKbps, p.MinDownKbps},
		{"up", p.UpKbps, p.BurstUpKbps, p.BurstThresholdUpKbps, p.MinUpKbps},
	} {
		c.when(f.rate > MaxKbps, f.name+"_kbps", "is above 100 Gbit/s", "Use kbit/s")
		c.when(f.burst > MaxKbps, "burst_"+f.name+"_kbps", "is above 100 Gbit/s", "Use kbit/s")
		c.when(f.burst > 0 && f.burst < f.rate, "burst_"+f.name+"_kbps", "is below the rate", "Raise it to the rate or leave it out")
		c.when(f.burst > 0 && f.rate == 0, "burst_"+f.name+"_kbps", "has no rate to rise above", "Set the rate, too")
		c.when(f.threshold > 0 && f.threshold > f.burst, "burst_threshold_"+f.name+"_kbps", "is above the burst", "Lower it to the rate or below")
		c.when(f.min > 0 && f.min > f.rate, "min_"+f.name+"_kbps", "is above the rate", "Lower it to the rate or below")
	}
	c.when((p.DownKbps == 0) != (p.UpKbps == 0), "up_kbps", "is set in one direction alone", "Set both rates or neither")
	c.when(p.BurstSeconds > 3600, "burst_seconds", "is longer than an hour", "Use 1 to 3600")
	c.when(p.Priority > 8, "priority", "is not between 1 and 8", "Use 1 (first) to 8")
	c.when(p.VLAN > 4094, "vlan", "is not a VLAN", "Use 1 to 4094")
	c.when(p.InterimInterval > 0 && p.InterimInterval < MinInterim, "interim_interval", "is below 60 seconds", "Use 60 or more")
	for _, f := range [...]struct{ name, value string }{
		{"pool", p.Pool}, {"v6_pool", p.V6Pool}, {"pd_pool", p.PDPool}, {"filter", p.Filter}, {"address_list", p.AddressList},
		{"group", p.Group},
	} {
		c.when(f.value != "" && !nameForm.MatchString(f.value), f.name, "is not a name routers accept",
			"Use up to 63 letters, digits and . _ - : /")
	}
	c.when(len(p.ReplyMessage) > 253, "reply_message", "is longer than 253 octets", "Shorten it")
	c.when(len(p.Extra) > maxExtra, "vendor_attrs", "has more than 16 entries", "Leave some out")
	for i, x := range p.Extra {
		c.when(len(x.Value) == 0 || len(x.Value) > 247, fmt.Sprintf("vendor_attrs/%d", i), "has no value or one above 247 octets", "Correct its value")
		c.when(x.Vendor == 0 && reserved(x.Type), fmt.Sprintf("vendor_attrs/%d", i), "is an attribute the server itself writes",
			"Use the policy's own field")
	}
	return c.err()
}

// reserved lists standard attributes that would break signing, state or accounting if a policy could set them.
func reserved(typ uint8) bool {
	switch typ {
	case 0, 1, 2, 3, 24, 25, 26, 27, 33, 60, 79, 80, 85:
		return true
	}
	return false
}

// Check returns an *edge.Error that names every address which cannot be assigned, or nil.
func (s *Static) Check() error {
	var c checker
	c.when(s.IPv4.IsValid() && (!s.IPv4.Is4() || s.IPv4.IsMulticast() || s.IPv4.IsLoopback() || s.IPv4.IsUnspecified() ||
		s.IPv4.As4()[0] >= 224), "static_ip", "is not an address a subscriber can have", "Use an IPv4 unicast address")
	c.when(s.IPv6.IsValid() && (s.IPv6.Addr().Is4() || s.IPv6 != s.IPv6.Masked()), "static_ipv6", "is not an IPv6 prefix", "Use a prefix without host bits, such as a /64")
	c.when(s.Delegated.IsValid() && (s.Delegated.Addr().Is4() || s.Delegated != s.Delegated.Masked()), "static_pd", "is not an IPv6 prefix",
		"Use a prefix without host bits, such as a /56")
	c.when(len(s.Routes) > maxRoutes, "routes", "has more than 8 entries", "Leave some out")
	for i, r := range s.Routes {
		c.when(len(r) > 64 || !routeForm.MatchString(r), fmt.Sprintf("routes/%d", i), "is not a route", "Write prefix, gateway and metric: 192.0.2.0/24 0.0.0.0 1")
	}
	return c.err()
}

var routeForm = regexp.MustCompile(`^[0-9a-fA-F.:]+/[0-9]{1,3}( [0-9a-fA-F.:]+( [0-9]{1,5})?)?$`)

type checker struct{ fields []edge.FieldError }

func (c *checker) when(wrong bool, name, reason, fix string) {
	if wrong {
		c.fields = append(c.fields, edge.Field("/"+name, reason, fix))
	}
}

func (c *checker) err() error {
	if c.fields == nil {
		return nil
	}
	return ErrPolicy.Error(edge.Invalid, c.fields...)
}

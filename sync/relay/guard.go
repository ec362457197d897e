package relay

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"wispgate/edge"
)

// guard decides which addresses the relay may call. It is asked with the address that is actually dialled, after every resolution, so a
// second DNS answer changes nothing.
type guard struct {
	allow []netip.Prefix // the operator's exceptions: any port, and plain http
	ports []uint16       // allowed elsewhere
}

// Special-purpose networks that are not the public internet, beyond what netip knows (RFC 6890 and the IANA registries).
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)

// global6 is the only part of IPv6 that is the public internet; ULA, link-local, multicast, NAT64 and mapped forms lie outside it.
var global6 = netip.MustParsePrefix("2000::/3")

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// public reports whether the address is on the public internet.
func public(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" || a.Is6() && !global6.Contains(a) {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}

// excepted reports whether the operator allows the address whatever it is.
func (g *guard) excepted(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Reasons of refused addresses.
var (
	reasonAddress = edge.Reason{Code: "address_refused", Says: "The endpoint's host is not on the public internet", Fix: "Use a public host, or have the operator add its network to relay.allow_private_cidrs"}
	reasonPort    = edge.Reason{Code: "port_refused", Says: "The endpoint's port is not one the relay calls", Fix: "Use port 443 or 8443; addresses that the operator allows with relay.allow_private_cidrs may use any port"}
	reasonPlain   = edge.Reason{Code: "plain_http_refused", Says: "The endpoint does not use https", Fix: "Use https; http is for networks in relay.allow_private_cidrs only"}
	reasonURL     = edge.Reason{Code: "url_invalid", Says: "The endpoint's URL cannot be used", Fix: "Give https://host/path without user name, password or fragment, with the host as a name or a plain address"}
)

// check judges an address that is about to be dialled.
func (g *guard) check(addr netip.AddrPort, plain bool) *edge.Reason {
	switch {
	case g.excepted(addr.Addr()):
		return nil
	case !public(addr.Addr()):
		return &reasonAddress
	case plain:
		return &reasonPlain
	case !slices.Contains(g.ports, addr.Port()):
		return &reasonPort
	}
	return nil
}

// refusal is a dial that the guard stopped.
type refusal struct{ reason edge.Reason }

func (r *refusal) Error() string { return r.reason.Code }

// control is a net.Dialer's Control: it runs after resolution and before connect.
func (g *guard) control(plain bool) func(network, address string, _ syscall.RawConn) error {
	return func(network, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil || !strings.HasPrefix(network, "tcp") {
			return &refusal{reasonAddress}
		}
		if reason := g.check(addr, plain); reason != nil {
			return &refusal{*reason}
		}
		return nil
	}
}

// parseURL checks the form of an endpoint's URL; what it resolves to is the guard's question at each call.
func parseURL(raw string) (*url.URL, error) {
	bad := func(why string) error {
		return reasonURL.Error(edge.Invalid, edge.Field("/url", why, "give https://host/path"))
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || len(raw) > 2048:
		return nil, bad("cannot be read")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, bad("is not https")
	case u.User != nil:
		return nil, bad("holds a user name")
	case u.Fragment != "" || u.Opaque != "" || u.RawFragment != "":
		return nil, bad("holds a fragment")
	case !plainHost(u.Hostname()):
		return nil, bad("has a host that is neither a name nor a plain address")
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, bad("has an impossible port")
		}
	}
	return u, nil
}

// plainHost accepts DNS names and canonical addresses. Decimal, octal and hexadecimal spellings of IPv4 addresses, which some resolvers
// understand, are refused: the last label of a name is never a number (RFC 3696 §2).
func plainHost(h string) bool {
	if a, err := netip.ParseAddr(h); err == nil {
		return a.Zone() == "" && a.String() == strings.ToLower(h)
	}
	h = strings.TrimSuffix(h, ".")
	if h == "" || len(h) > 253 {
		return false
	}
	labels := strings.Split(h, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, c := range []byte(l) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	return last[0] < '0' || last[0] > '9'
}

// checkURL is the early word at create and update: it refuses what no call could ever pass, so that the mistake shows at once.
func (g *guard) checkURL(raw string) error {
	u, err := parseURL(raw)
	if err != nil {
		return err
	}
	plain := u.Scheme == "http"
	a, err := netip.ParseAddr(u.Hostname())
	if err != nil { // a name: judged when it is dialled
		if plain && len(g.allow) == 0 {
			return reasonPlain.Error(edge.Invalid, edge.Field("/url", "is not https", "use https"))
		}
		return nil
	}
	port := uint16(443)
	if plain {
		port = 80
	}
	if p := u.Port(); p != "" {
		n, _ := strconv.ParseUint(p, 10, 16) // parseURL has read it
		port = uint16(n)
	}
	if reason := g.check(netip.AddrPortFrom(a, port), plain); reason != nil {
		return reason.Error(edge.Invalid, edge.Field("/url", "is refused", reason.Fix))
	}
	return nil
}

func (g *guard) dialer(plain bool) *net.Dialer {
	return &net.Dialer{Timeout: connectTimeout, KeepAlive: keepAlive, Control: g.control(plain)}
}

func newGuard(allow []netip.Prefix, ports []uint16) (*guard, error) {
	for _, p := range allow {
		if !p.IsValid() || p.Masked() != p {
			return nil, fmt.Errorf("relay.allow_private_cidrs: %s is not a network", p)
		}
	}
	if len(ports) == 0 {
		ports = []uint16{443, 8443}
	}
	return &guard{allow: allow, ports: ports}, nil
}

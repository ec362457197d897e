package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 367 * 24 * time.Hour // with backdate 397 days: phones refuse longer ones
	backdate   = 30 * 24 * time.Hour

	// MaxClientLife bounds client certificates.
	MaxClientLife = 5 * 365 * 24 * time.Hour
	// DefaultClientLife is the life of a client certificate that asks for none.
	DefaultClientLife = 365 * 24 * time.Hour
)

// floor is a time that has passed for certain. Without it a board whose clock starts in 1970 would make a CA that has expired as soon
// as the clock is set.
var floor = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// What a site CA may sign for besides the names given at first boot: names that no public CA signs, and private addresses (RFC 1918,
// 6598, 4193, loopback and link-local). Who installs the CA on a phone hands over no other site of the internet.
var (
	localDomains  = []string{"localhost", "local", "lan", "internal", "home.arpa"}
	localPrefixes = []string{
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
		"::1/128", "fc00::/7", "fe80::/10",
	}
)

// now is the effective time, not before the floor.
func (a *Authority) now() time.Time {
	if now := a.o.Now(); now.After(floor) {
		return now
	}
	return floor
}

// makeCA signs the site CA's certificate and returns it as PEM. NotBefore lies years back: a clock that was ahead when the CA was made
// must not leave it invalid once it is right.
func (a *Authority) makeCA() ([]byte, error) {
	domains := append([]string{a.o.Node}, localDomains...)
	var ranges []*net.IPNet
	for _, p := range localPrefixes {
		ranges = append(ranges, ipNet(netip.MustParsePrefix(p)))
	}
	for _, h := range a.o.Hosts {
		if ip, err := netip.ParseAddr(h); err == nil {
			ranges = append(ranges, ipNet(netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen())))
		} else {
			domains = append(domains, h)
		}
	}
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "WISPGate site CA of " + a.o.Node, Organization: []string{"WISPGate"}},
		NotBefore: floor.AddDate(-1, 0, 0), NotAfter: a.now().Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: domains, PermittedIPRanges: ranges,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign site CA: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// sign completes a leaf certificate and signs it.
func (a *Authority) sign(t *x509.Certificate, key crypto.PublicKey, life time.Duration) ([]byte, error) {
	now := a.now()
	t.NotBefore, t.NotAfter = now.Add(-backdate), now.Add(life)
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	t.BasicConstraintsValid, t.KeyUsage = true, x509.KeyUsageDigitalSignature
	return x509.CreateCertificate(rand.Reader, t, a.cert, key, a.key)
}

// names are the host names and addresses that the server certificate should carry now, sorted; outside are those of the operator's that
// the site CA may not sign for.
func (a *Authority) names() (dns []string, ips []netip.Addr, outside []string) {
	dns = []string{"localhost", a.o.Node, a.o.Node + ".local"}
	ips = append(a.o.Addresses(), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback())
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	ips = slices.DeleteFunc(ips, func(ip netip.Addr) bool { return !a.maySignAddress(ip) })
	for _, h := range a.o.Hosts {
		ip, err := netip.ParseAddr(h)
		switch {
		case err == nil && a.maySignAddress(ip.Unmap()):
			ips = append(ips, ip.Unmap())
		case err != nil && a.maySignName(h):
			dns = append(dns, h)
		default:
			outside = append(outside, h)
		}
	}
	slices.Sort(dns)
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(dns), slices.Compact(ips), outside
}

func (a *Authority) maySignName(name string) bool {
	return slices.ContainsFunc(a.cert.PermittedDNSDomains, func(d string) bool {
		return strings.EqualFold(name, d) || strings.HasSuffix(strings.ToLower(name), "."+strings.ToLower(d))
	})
}

func (a *Authority) maySignAddress(ip netip.Addr) bool {
	return slices.ContainsFunc(a.cert.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(ip.AsSlice()) })
}

// signServer makes the server certificate for the present names.
func (a *Authority) signServer(dns []string, ips []netip.Addr) ([]byte, error) {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: a.o.Node, Organization: []string{"WISPGate"}}, DNSNames: dns,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range ips {
		t.IPAddresses = append(t.IPAddresses, ip.AsSlice())
	}
	der, err := a.sign(t, &a.server.PublicKey, serverLife)
	if err != nil {
		return nil, fmt.Errorf("sign server certificate: %w", err)
	}
	return der, nil
}

// Kind says what a client certificate speaks for.
type Kind string

// The kinds of client certificates.
const (
	Node  Kind = "node"
	Relay Kind = "relay"
)

// ClientName is the URI that a client certificate carries, in SPIFFE's form. It has a host, because with name constraints above it a
// URI without one verifies nowhere.
func ClientName(kind Kind, name string) string { return clientTrust + string(kind) + "/" + name }

const clientTrust = "spiffe://wispgate/"

// ParseClientName reads kind and name from a verified client certificate, ok false where it carries none.
func ParseClientName(leaf *x509.Certificate) (kind Kind, name string, ok bool) {
	for _, u := range leaf.URIs {
		rest, found := strings.CutPrefix(u.String(), clientTrust)
		k, n, cut := strings.Cut(rest, "/")
		if found && cut && validClient(Kind(k), n) == nil {
			return Kind(k), n, true
		}
	}
	return "", "", false
}

var errClientName = errors.New("a client certificate is for a node or relay, named by 1 to 64 of a-z, 0-9 and -")

func validClient(kind Kind, name string) error {
	if kind != Node && kind != Relay || name == "" || len(name) > 64 ||
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return errClientName
	}
	return nil
}

// IssueClient signs a client certificate for the holder of key, which stays with its owner. A life of 0 is a year; five years is the
// most. also are further names it may speak for: a node's cluster. The answer is PEM.
func (a *Authority) IssueClient(kind Kind, name string, key crypto.PublicKey, life time.Duration, also ...string) ([]byte, error) {
	var uris []*url.URL
	for _, n := range append([]string{name}, also...) {
		if err := validClient(kind, n); err != nil {
			return nil, err
		}
		uri, err := url.Parse(ClientName(kind, n))
		if err != nil {
			return nil, fmt.Errorf("name client certificate: %w", err)
		}
		uris = append(uris, uri)
	}
	if life == 0 {
		life = DefaultClientLife
	}
	if life < 0 || life > MaxClientLife {
		return nil, fmt.Errorf("a client certificate lives up to %d days", int(MaxClientLife/(24*time.Hour)))
	}
	der, err := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: []string{"WISPGate"}}, URIs: uris,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key, life)
	if err != nil {
		return nil, fmt.Errorf("sign client certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

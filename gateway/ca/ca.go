// Package ca is the node's own certificate authority and what its TLS listeners show. At first boot it makes a site CA that can sign
// for the site's own names and private addresses only, and a server certificate under it, which it renews by itself. Certificate files
// of the operator take precedence and are read again when they change. It also signs client certificates for relays and nodes.
//
// Nothing here needs a right clock: lives begin in the past and are counted from a floor, and a certificate that does not fit the
// present time is replaced at the next handshake.
package ca

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say where the authority stands and what the node is called.
type Options struct {
	Dir  string // of ca.crt, ca.key, server.crt and server.key; made with mode 0700
	Node string // node id; a name of the server certificate
	// Hosts are further names and addresses of the server certificate. Those given at first boot become part of what the site CA may
	// sign for; a later one outside of that is refused.
	Hosts []string
	// CertFile and KeyFile are the operator's certificate chain and key, PEM; both or none.
	CertFile, KeyFile string
	// Now is the effective time: the clock, but never before the store's high-water time.
	Now func() time.Time
	Log *slog.Logger
	// Addresses lists the addresses of the node's interfaces; nil asks the system.
	Addresses func() []netip.Addr
}

// Authority holds the site CA, and the certificates to show. It is safe for concurrent use.
type Authority struct {
	o    Options
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	shown atomic.Pointer[shown]

	mu       sync.Mutex // held while certificates are checked and replaced
	server   *ecdsa.PrivateKey
	lastLook time.Time
	seen     [2]stamp // of the operator's files, when they were last read
}

// shown is what handshakes choose from; it is replaced as a whole.
type shown struct {
	site     *tls.Certificate
	operator *tls.Certificate // nil where the operator gave none
}

// Names of the authority's files below Options.Dir.
const (
	caCert     = "ca.crt"
	caKey      = "ca.key"
	serverCert = "server.crt"
	serverKey  = "server.key"
)

// Open loads the authority from its directory, or makes it there at first boot, and sees to it that the server certificate fits.
func Open(o Options) (*Authority, error) {
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, errors.New("tls: a certificate file and its key file belong together; set both or none")
	}
	if o.Addresses == nil {
		o.Addresses = interfaceAddresses
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make tls directory: %w", err)
	}
	a := &Authority{o: o}
	if err := a.openCA(); err != nil {
		return nil, err
	}
	var err error
	if a.server, err = openKey(filepath.Join(o.Dir, serverKey), true); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	next := shown{}
	if next.site, err = a.siteLocked(); err != nil {
		return nil, err
	}
	if o.CertFile != "" {
		if next.operator, err = a.operatorLocked(); err != nil {
			return nil, err
		}
	}
	a.publishLocked(next)
	a.lastLook = o.Now()
	return a, nil
}

// OpenIssuer loads an authority that exists, to issue client certificates beside a daemon that runs: it makes no CA and leaves the server
// certificate alone.
func OpenIssuer(o Options) (*Authority, error) {
	if _, err := os.Stat(filepath.Join(o.Dir, caCert)); err != nil {
		return nil, fmt.Errorf("there is no CA in %s; it is made by the first start", o.Dir)
	}
	a := &Authority{o: o}
	return a, a.openCA()
}

// openCA loads the site CA or makes it. A certificate without its key is not replaced silently: devices trust the old one.
func (a *Authority) openCA() error {
	certPath, keyPath := filepath.Join(a.o.Dir, caCert), filepath.Join(a.o.Dir, caKey)
	raw, err := os.ReadFile(certPath)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return fmt.Errorf("read site CA: %w", err)
	}
	if a.key, err = openKey(keyPath, fresh); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("site CA %s has lost its key %s: restore the key, or remove the certificate to make a new CA that every device must then trust anew", certPath, keyPath)
		}
		return err
	}
	if fresh {
		raw, err = a.makeCA()
		if err != nil {
			return err
		}
		if err := writeFile(certPath, raw, 0o644); err != nil {
			return err
		}
	}
	if a.cert, err = firstCert(raw); err != nil {
		return fmt.Errorf("read site CA %s: %w", certPath, err)
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) || !a.cert.IsCA {
		return fmt.Errorf("site CA %s does not belong to the key %s: restore both from one backup", certPath, keyPath)
	}
	if fresh {
		a.o.Log.Info("site ca made", "fingerprint", a.Fingerprint(), "not_after", a.cert.NotAfter)
	}
	return nil
}

// Fingerprint is the SHA-256 of the site CA's certificate as people compare it: pairs of hex digits apart by colons.
func (a *Authority) Fingerprint() string { return fingerprint(a.cert.Raw) }

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// Pin is the base64 SHA-256 of the server key's SubjectPublicKeyInfo, as curl's --pinnedpubkey sha256// takes it. The key outlives its
// certificates, so the pin may be printed on a sticker.
func (a *Authority) Pin() string {
	spki, err := x509.MarshalPKIXPublicKey(&a.server.PublicKey)
	if err != nil {
		return "" // cannot happen: the key is P-256
	}
	sum := sha256.Sum256(spki)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// PEM is the site CA's certificate, for devices to install.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Pool holds the site CA alone: what relays, nodes and the command line verify against.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Status is what people may see of the certificates.
type Status struct {
	Fingerprint string    `json:"fingerprint"` // of the site CA
	CAUntil     time.Time `json:"ca_until"`
	Source      string    `json:"source"` // operator, or site
	Names       []string  `json:"names"`  // of the certificate shown first
	Until       time.Time `json:"until"`
}

// Status describes the certificate that is shown to who names no other.
func (a *Authority) Status() Status {
	s := a.shown.Load()
	st := Status{Fingerprint: a.Fingerprint(), CAUntil: a.cert.NotAfter, Source: "site"}
	leaf := s.site.Leaf
	if s.operator != nil && !a.o.Now().After(s.operator.Leaf.NotAfter) {
		leaf, st.Source = s.operator.Leaf, "operator"
	}
	st.Names, st.Until = append(slices.Clone(leaf.DNSNames), addressWords(leaf.IPAddresses)...), leaf.NotAfter
	return st
}

func addressWords(ips []net.IP) (words []string) {
	for _, ip := range ips {
		words = append(words, ip.String())
	}
	return words
}

// interfaceAddresses lists the node's unicast addresses, loopback included; none when the system does not say.
func interfaceAddresses() (list []netip.Addr) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsMulticast() && p.Addr().Zone() == "" {
			list = append(list, p.Addr().Unmap())
		}
	}
	return list
}

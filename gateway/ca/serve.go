package ca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// lookEvery is how often a handshake looks at names and dates, which takes a list of the interfaces. The operator's files are looked at
// by each handshake: two stats, and no clock that might stand still.
const lookEvery = 10 * time.Second

// TLSConfig is for a listener of the node: TLS 1.2 and up, HTTP/1.1 only (the server speaks no HTTP/2), certificates swapped without a
// restart. A client certificate is optional; one that is shown must come from the site CA.
func (a *Authority) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are not a choice
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:     []string{"http/1.1"},
		GetCertificate: a.certificate,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      a.Pool(),
		Time:           a.now,
	}
}

// certificate chooses for one handshake: the operator's while it is valid and covers the name or address that was asked, else the
// site's if that one covers it, else the operator's.
func (a *Authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.look()
	s := a.shown.Load()
	if s.operator == nil || a.now().After(s.operator.Leaf.NotAfter) {
		return s.site, nil
	}
	name := hello.ServerName
	if name == "" && hello.Conn != nil {
		if ap, err := netip.ParseAddrPort(hello.Conn.LocalAddr().String()); err == nil {
			name = ap.Addr().Unmap().WithZone("").String()
		}
	}
	if name != "" && s.operator.Leaf.VerifyHostname(name) != nil && s.site.Leaf.VerifyHostname(name) == nil {
		return s.site, nil
	}
	return s.operator, nil
}

// look sees to it that what is shown still fits. A handshake waits for another's look only when the site's
// certificate is of no use at present. A failure is logged and what was shown before stays.
func (a *Authority) look() {
	if !a.mu.TryLock() {
		leaf, now := a.shown.Load().site.Leaf, a.now()
		if !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter) {
			return
		}
		a.mu.Lock()
	}
	defer a.mu.Unlock()
	since := a.o.Now().Sub(a.lastLook)
	if since >= 0 && since < lookEvery && a.seen == a.stamps() {
		return
	}
	if err := a.refreshLocked(false); err != nil {
		a.o.Log.Error("certificate not replaced, the old one stays", "error", err)
	}
}

// Reload reads the operator's files again and renews the site's certificate where it no longer fits. On an error what was shown before
// stays.
func (a *Authority) Reload() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refreshLocked(true)
}

func (a *Authority) refreshLocked(force bool) error {
	a.lastLook = a.o.Now()
	next := *a.shown.Load()
	site, errSite := a.siteLocked()
	if errSite == nil {
		next.site = site
	}
	var errOperator error
	if a.o.CertFile != "" && (force || a.seen != a.stamps()) {
		var operator *tls.Certificate
		if operator, errOperator = a.operatorLocked(); errOperator == nil {
			next.operator = operator
			a.o.Log.Info("certificate of the operator read", "not_after", operator.Leaf.NotAfter)
		}
	}
	a.publishLocked(next)
	return errors.Join(errSite, errOperator)
}

func (a *Authority) publishLocked(next shown) { a.shown.Store(&next) }

// siteLocked returns the site's server certificate: the one in use or on disk if it fits the key, the names and the time, else a new
// one.
func (a *Authority) siteLocked() (*tls.Certificate, error) {
	dns, ips, outside := a.names()
	path := filepath.Join(a.o.Dir, serverCert)
	first := a.shown.Load() == nil
	if first && len(outside) > 0 {
		a.o.Log.Warn("names outside the site ca are left out; give a certificate of your own for them", "names", outside)
	}
	var leaf *x509.Certificate
	if first {
		raw, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read server certificate: %w", err)
		}
		leaf, _ = firstCert(raw) // what cannot be read is replaced: it holds nothing that cannot be made again
	} else {
		leaf = a.shown.Load().site.Leaf
	}
	if a.fits(leaf, dns, ips) {
		return a.pair(leaf), nil
	}
	der, err := a.signServer(dns, ips)
	if err != nil {
		return nil, err
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("parse server certificate: %w", err)
	}
	if err := writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	a.o.Log.Info("server certificate issued", "names", dns, "not_after", leaf.NotAfter)
	if left := a.cert.NotAfter.Sub(a.now()); left < 365*24*time.Hour {
		a.o.Log.Warn("site ca ends soon; plan a new one, which every device must trust", "not_after", a.cert.NotAfter)
	}
	return a.pair(leaf), nil
}

func (a *Authority) pair(leaf *x509.Certificate) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: a.server, Leaf: leaf}
}

// fits reports whether a server certificate is ours, for these names, and neither ahead of the time nor past two thirds of its life.
func (a *Authority) fits(leaf *x509.Certificate, dns []string, ips []netip.Addr) bool {
	if leaf == nil || !a.server.PublicKey.Equal(leaf.PublicKey) || leaf.CheckSignatureFrom(a.cert) != nil {
		return false
	}
	now := a.now()
	// A life cut short by the CA's end cannot be renewed: keep it to its end.
	renew := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
	if now.Before(leaf.NotBefore) || now.After(renew) && leaf.NotAfter.Before(a.cert.NotAfter) {
		return false
	}
	have := make([]netip.Addr, 0, len(leaf.IPAddresses))
	for _, ip := range leaf.IPAddresses {
		addr, _ := netip.AddrFromSlice(ip)
		have = append(have, addr.Unmap())
	}
	return slices.Equal(leaf.DNSNames, dns) && slices.Equal(have, ips)
}

// operatorLocked reads the operator's certificate chain and key.
func (a *Authority) operatorLocked() (*tls.Certificate, error) {
	a.seen = a.stamps() // before the files: a change while reading is seen at the next look
	pair, err := tls.LoadX509KeyPair(a.o.CertFile, a.o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load tls certificate %s with key %s: %w", a.o.CertFile, a.o.KeyFile, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("parse tls certificate %s: %w", a.o.CertFile, err)
		}
	}
	if now := a.now(); now.After(pair.Leaf.NotAfter) {
		a.o.Log.Warn("certificate of the operator has expired; the site's is shown", "file", a.o.CertFile, "not_after", pair.Leaf.NotAfter)
	}
	return &pair, nil
}

// stamp tells a changed file: a rename gives another inode and, nearly always, another time or size.
type stamp struct {
	at   time.Time
	size int64
}

func (a *Authority) stamps() (s [2]stamp) {
	if a.o.CertFile == "" {
		return s
	}
	for i, path := range []string{a.o.CertFile, a.o.KeyFile} {
		if fi, err := os.Stat(path); err == nil {
			s[i] = stamp{fi.ModTime(), fi.Size()}
		}
	}
	return s
}

// firstCert decodes the first certificate of a PEM file.
func firstCert(raw []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(bytes.TrimSpace(raw))
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate in the file")
	}
	return x509.ParseCertificate(b.Bytes)
}

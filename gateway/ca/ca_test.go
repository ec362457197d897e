package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
)

const day = 24 * time.Hour

// world is a directory, a clock that the test sets, and interface addresses.
type world struct {
	t     testing.TB
	dir   string
	clock atomic.Int64
	addrs atomic.Pointer[[]netip.Addr]
	log   bytes.Buffer
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{t: tb, dir: filepath.Join(tb.TempDir(), "tls")}
	w.set(time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC))
	w.addrs.Store(&[]netip.Addr{netip.MustParseAddr("192.168.88.2"), netip.MustParseAddr("203.0.113.9")})
	return w
}

func (w *world) set(at time.Time) { w.clock.Store(at.UnixNano()) }
func (w *world) now() time.Time   { return time.Unix(0, w.clock.Load()).UTC() }

func (w *world) options() Options {
	return Options{
		Dir: w.dir, Node: "node-7k2m", Now: w.now, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Addresses: func() []netip.Addr { return *w.addrs.Load() },
	}
}

func (w *world) open(o Options) *Authority {
	w.t.Helper()
	a, err := Open(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// serve answers HTTPS on loopback until the test ends, with the authority's configuration.
func serve(t *testing.T, cfg *tls.Config) (addr string) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who := "nobody"
			if len(r.TLS.PeerCertificates) > 0 {
				kind, name, _ := ParseClientName(r.TLS.PeerCertificates[0])
				who = string(kind) + " " + name
			}
			_, _ = io.WriteString(w, who+"\n")
		}),
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return ln.Addr().String()
}

// leaf does one handshake and returns the certificate that was shown.
func leaf(t *testing.T, addr string, c *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, c)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

func TestFirstBootMakesACAThatServesAndARestartKeepsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open(w.options())
	for name, want := range map[string]os.FileMode{caKey: 0o600, serverKey: 0o600, caCert: 0o644, serverCert: 0o644} {
		fi, err := os.Stat(filepath.Join(w.dir, name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: got %v %v, want mode %v", name, fi, err, want)
		}
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "node-7k2m", "node-7k2m.local", "192.168.88.2"} {
		if err := a.shown.Load().site.Leaf.VerifyHostname(name); err != nil {
			t.Errorf("server certificate: %v", err)
		}
	}
	if a.shown.Load().site.Leaf.VerifyHostname("203.0.113.9") == nil {
		t.Error("a public address that nobody named is in the certificate")
	}
	if !strings.Contains(w.log.String(), a.Fingerprint()) || len(a.Fingerprint()) != 32*3-1 {
		t.Errorf("fingerprint %q not logged:\n%s", a.Fingerprint(), w.log.String())
	}
	before := a.shown.Load().site.Leaf.SerialNumber
	b := w.open(w.options())
	if b.Fingerprint() != a.Fingerprint() || b.Pin() != a.Pin() || b.shown.Load().site.Leaf.SerialNumber.Cmp(before) != 0 {
		t.Error("a restart changed the CA, the pin or the certificate")
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("got files %v %v, want four", entries, err)
	}
}

func TestHandshakesAreTLS12AndUpWithHTTP11Only(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open(w.options())
	addr := serve(t, a.TLSConfig())
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", Time: w.now, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if s := conn.ConnectionState(); s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != "http/1.1" {
		t.Errorf("got version %x and protocol %q", s.Version, s.NegotiatedProtocol)
	}
	_ = conn.Close()
	if _, err := leaf(t, addr, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", Time: w.now, MaxVersion: tls.VersionTLS12}); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	}
	if _, err := leaf(t, addr, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", Time: w.now, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if _, err := leaf(t, addr, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", Time: w.now, NextProtos: []string{"h2"}}); err == nil {
		t.Error("a client of HTTP/2 alone was accepted")
	}
}

func TestTheCACannotSignForTheRestOfTheInternet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.options()
	o.Hosts = []string{"tower7.example-isp.net", "198.51.100.4"}
	a := w.open(o)
	for name, ok := range map[string]bool{
		"tower7.example-isp.net": true, "x.tower7.example-isp.net": true, "router.lan": true, "10.1.2.3": true, "198.51.100.4": true,
		"fd00::1": true, "www.example-isp.net": false, "bank.example": false, "198.51.100.5": false, "2001:db8::1": false,
	} {
		tmpl := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = []net.IP{ip}
		} else {
			tmpl.DNSNames = []string{name}
		}
		der, err := a.sign(tmpl, &a.server.PublicKey, day)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		_, err = cert.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: name, CurrentTime: w.now()})
		if (err == nil) != ok {
			t.Errorf("%s: verifies %v, want %v (%v)", name, err == nil, ok, err)
		}
	}
	// A host named after first boot lies outside: it is left out, and the log says what to do.
	o.Hosts = append(o.Hosts, "late.example")
	w.log.Reset()
	b := w.open(o)
	if b.shown.Load().site.Leaf.VerifyHostname("late.example") == nil || !strings.Contains(w.log.String(), "late.example") {
		t.Errorf("a name outside the constraint: log %s", w.log.String())
	}
}

func TestTheServerCertificateRenewsItselfAndKeepsItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open(w.options())
	pin, start := a.Pin(), w.now()
	addr := serve(t, a.TLSConfig())
	client := &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", Time: w.now}
	serials := map[string]bool{}
	for elapsed := time.Duration(0); elapsed < 9*365*day; elapsed += 20 * day {
		w.set(start.Add(elapsed))
		cert, err := leaf(t, addr, client)
		if err != nil {
			t.Fatalf("after %d days: %v", elapsed/day, err)
		}
		if left := cert.NotAfter.Sub(w.now()); left < 60*day {
			t.Fatalf("after %d days the certificate has %v left", elapsed/day, left)
		}
		if life := cert.NotAfter.Sub(cert.NotBefore); life > 397*day {
			t.Fatalf("a life of %v is refused by phones", life)
		}
		serials[cert.SerialNumber.String()] = true
	}
	if len(serials) < 9 || len(serials) > 20 {
		t.Errorf("got %d certificates in nine years", len(serials))
	}
	if a.Pin() != pin {
		t.Error("the pin changed")
	}
	// The last one is on disk: a restart shows it again.
	last, _ := leaf(t, addr, client)
	if b := w.open(w.options()); b.shown.Load().site.Leaf.SerialNumber.Cmp(last.SerialNumber) != 0 {
		t.Error("the renewed certificate was not kept")
	}
}

func TestAClockThatIsWrongAtFirstBootDoesNoHarmOnceItIsRight(t *testing.T) {
	t.Parallel()
	right := time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)
	for name, wrong := range map[string]time.Time{
		"1970": time.Unix(0, 0), "a year behind": right.AddDate(-1, 0, 0), "five years ahead": right.AddDate(5, 0, 0),
	} {
		w := newWorld(t)
		w.set(wrong)
		a := w.open(w.options())
		addr := serve(t, a.TLSConfig())
		w.set(right)
		if _, err := leaf(t, addr, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", Time: w.now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestANewInterfaceAddressEntersTheCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open(w.options())
	addr := serve(t, a.TLSConfig())
	w.addrs.Store(&[]netip.Addr{netip.MustParseAddr("10.20.30.40")})
	w.set(w.now().Add(lookEvery))
	cert, err := leaf(t, addr, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", Time: w.now})
	if err != nil {
		t.Fatal(err)
	}
	if cert.VerifyHostname("10.20.30.40") != nil || cert.VerifyHostname("192.168.88.2") == nil {
		t.Errorf("got addresses %v", cert.IPAddresses)
	}
}

// operatorPair writes a certificate of some other CA and returns its serial.
func operatorPair(t *testing.T, dir, name string, until time.Time) (certFile, keyFile string, serial *big.Int) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: until.Add(-90 * day), NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := KeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "op.crt"), filepath.Join(dir, "op.key")
	if err := errors.Join(
		os.WriteFile(keyFile, keyPEM, 0o600),
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, serial
}

func TestTheOperatorsCertificateTakesPrecedenceAndIsReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.options()
	files := t.TempDir()
	var serial *big.Int
	o.CertFile, o.KeyFile, serial = operatorPair(t, files, "tower.example", w.now().Add(30*day))
	a := w.open(o)
	addr := serve(t, a.TLSConfig())
	shows := func(name string) *big.Int {
		t.Helper()
		cert, err := leaf(t, addr, &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		return cert.SerialNumber
	}
	site := a.shown.Load().site.Leaf.SerialNumber
	for name, want := range map[string]*big.Int{"tower.example": serial, "localhost": site, "": site, "unknown.example": serial} {
		if got := shows(name); got.Cmp(want) != 0 {
			t.Errorf("asked for %q: got the wrong certificate", name)
		}
	}
	if st := a.Status(); st.Source != "operator" || !slices.Equal(st.Names, []string{"tower.example"}) {
		t.Errorf("status: got %+v", st)
	}

	_, _, renewed := operatorPair(t, files, "tower.example", w.now().Add(60*day))
	if shows("tower.example").Cmp(renewed) != 0 {
		t.Error("a changed file was not read at the next handshake")
	}
	_, _, again := operatorPair(t, files, "tower.example", w.now().Add(70*day))
	if err := a.Reload(); err != nil || shows("tower.example").Cmp(again) != 0 {
		t.Errorf("Reload did not read the files: %v", err)
	}
	if err := os.WriteFile(o.CertFile, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(); err == nil || shows("tower.example").Cmp(again) != 0 {
		t.Errorf("a broken file: error %v, or the old certificate is gone", err)
	}
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), o.CertFile) {
		t.Errorf("a broken file at start: got %v, want an error that names it", err)
	}
	w.set(w.now().Add(71 * day))
	if shows("tower.example").Cmp(a.shown.Load().site.Leaf.SerialNumber) != 0 || a.Status().Source != "site" {
		t.Error("an expired certificate of the operator is still shown")
	}
}

func TestOpenRefusesWhatItCannotRepairAndRepairsTheRest(t *testing.T) {
	t.Parallel()
	broken := func(t *testing.T, change func(dir string)) (*world, *Authority, *Authority, error) {
		t.Helper()
		w := newWorld(t)
		first := w.open(w.options())
		change(w.dir)
		second, err := Open(w.options())
		return w, first, second, err
	}
	remove := func(name string) func(string) { return func(dir string) { _ = os.Remove(filepath.Join(dir, name)) } }
	write := func(name, text string) func(string) {
		return func(dir string) { _ = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	}
	for name, c := range map[string]struct {
		change func(string)
		says   string // "" where it opens again
	}{
		"the CA's key is gone":              {remove(caKey), "restore the key"},
		"the CA's key is garbage":           {write(caKey, "x"), "restore it"},
		"the CA's certificate is garbage":   {write(caCert, "x"), "no PEM certificate"},
		"the server key is garbage":         {write(serverKey, "x"), "restore it"},
		"the server certificate is gone":    {remove(serverCert), ""},
		"the server certificate is garbage": {write(serverCert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), ""},
		"the server key is gone":            {remove(serverKey), ""},
		"half a temporary file is left":     {write(serverCert+".tmp", "half"), ""},
		"the CA's key is readable by all":   {func(dir string) { _ = os.Chmod(filepath.Join(dir, caKey), 0o644) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, first, second, err := broken(t, c.change)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want %q", err, c.says)
				}
				return
			}
			if err != nil || second.Fingerprint() != first.Fingerprint() {
				t.Fatalf("got %v, want the same CA", err)
			}
			if fi, err := os.Stat(filepath.Join(w.dir, caKey)); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("key mode: got %v %v", fi.Mode(), err)
			}
			addr := serve(t, second.TLSConfig())
			if _, err := leaf(t, addr, &tls.Config{RootCAs: first.Pool(), ServerName: "localhost", Time: w.now}); err != nil {
				t.Error(err)
			}
		})
	}
	w := newWorld(t)
	o := w.options()
	o.CertFile = "only.crt"
	if _, err := Open(o); err == nil {
		t.Error("a certificate file without a key file was accepted")
	}
}

func TestClientCertificatesProveNodesAndRelays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open(w.options())
	other := newWorld(t)
	stranger := other.open(other.options())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pair := func(from *Authority, kind Kind, name string, life time.Duration) tls.Certificate {
		t.Helper()
		certPEM, err := from.IssueClient(kind, name, &key.PublicKey, life)
		if err != nil {
			t.Fatal(err)
		}
		keyPEM, err := KeyPEM(key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	addr := serve(t, a.TLSConfig())
	get := func(certs ...tls.Certificate) (string, error) {
		tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: a.Pool(), Certificates: certs, Time: w.now}}
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+addr, nil)
		if err != nil {
			return "", err
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(body)), err
	}
	if who, err := get(); who != "nobody" || err != nil {
		t.Errorf("without a certificate: %q %v", who, err)
	}
	if who, err := get(pair(a, Relay, "noc-1", 0)); who != "relay noc-1" || err != nil {
		t.Errorf("a relay: %q %v", who, err)
	}
	forged := pair(stranger, Relay, "noc-1", 0)
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: a.Pool(), Time: w.now, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &forged, nil // also where the server says it does not know the issuer
	}})
	if err == nil {
		_, err = conn.Read(make([]byte, 1)) // TLS 1.3 tells a client of the refusal with the first read
	}
	if err == nil {
		t.Error("a certificate of another site's CA was accepted")
	}
	short := pair(a, Node, "node-9", day)
	w.set(w.now().Add(2 * day))
	if who, err := get(short); err == nil {
		t.Errorf("an expired certificate was accepted as %q", who)
	}
	for _, name := range []string{"", "a b", "UPPER", "x:y", strings.Repeat("a", 65), "é"} {
		if _, err := a.IssueClient(Node, name, &key.PublicKey, 0); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	if _, err := a.IssueClient("admin", "x", &key.PublicKey, 0); err == nil {
		t.Error("an unknown kind was accepted")
	}
	if _, err := a.IssueClient(Node, "x", &key.PublicKey, 10*365*day); err == nil {
		t.Error("a life of ten years was accepted")
	}
	// A client certificate is not a server certificate.
	leafOf := pair(a, Node, "node-9", 0)
	if _, err := leafOf.Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: w.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a client certificate serves")
	}
}

func TestConcurrentHandshakesDuringReplacementAllSucceed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.open(w.options())
	addr := serve(t, a.TLSConfig())
	first := a.shown.Load().site
	w.clock.Add(int64(225 * day)) // renewal falls due nine days later, the end of the old one comes after the test's
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 15 {
				w.clock.Add(int64(2 * day))
				if _, err := leaf(t, addr, &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", Time: w.now}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if a.shown.Load().site == first {
		t.Error("the certificate was not replaced")
	}
}

func TestOpenSSLAndCurlAgree(t *testing.T) {
	t.Parallel()
	peers.NeedProgram(t, "openssl")
	peers.NeedProgram(t, "curl")
	w := newWorld(t)
	w.set(time.Now()) // the programs look at the real clock
	a := w.open(w.options())
	run := func(name string, args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		return string(out), err
	}
	caFile, certFile := filepath.Join(w.dir, caCert), filepath.Join(w.dir, serverCert)
	for _, args := range [][]string{
		{"verify", "-x509_strict", "-CAfile", caFile, "-purpose", "sslserver", "-verify_hostname", "node-7k2m.local", certFile},
		{"verify", "-x509_strict", "-CAfile", caFile, "-purpose", "sslserver", "-verify_ip", "192.168.88.2", certFile},
	} {
		if out, err := run("openssl", args...); err != nil {
			t.Errorf("openssl %v: %v\n%s", args, err, out)
		}
	}
	if out, err := run("openssl", "x509", "-in", caFile, "-noout", "-fingerprint", "-sha256"); err != nil || !strings.Contains(out, a.Fingerprint()) {
		t.Errorf("fingerprint: want %s, got %v %s", a.Fingerprint(), err, out)
	}
	outside, err := a.sign(&x509.Certificate{DNSNames: []string{"bank.example"}}, &a.server.PublicKey, day)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.crt")
	if err := os.WriteFile(bad, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: outside}), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("openssl", "verify", "-CAfile", caFile, bad); err == nil || !strings.Contains(out, "permitted subtree violation") {
		t.Errorf("openssl accepts a name outside the constraint: %v\n%s", err, out)
	}
	_, port, err := net.SplitHostPort(serve(t, a.TLSConfig()))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1"} {
		out, err := run("curl", "-sS", "--noproxy", "*", "--http1.1", "--cacert", caFile, "--pinnedpubkey", "sha256//"+a.Pin(), "https://"+host+":"+port+"/")
		if err != nil || strings.TrimSpace(out) != "nobody" {
			t.Errorf("curl https://%s: %v\n%s", host, err, out)
		}
	}
	if out, err := run("curl", "-sS", "--noproxy", "*", "https://localhost:"+port+"/"); err == nil {
		t.Errorf("curl trusts the site CA without being told: %s", out)
	}
}

func TestAnIssuerTouchesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_ = w.open(w.options())
	before, err := os.ReadFile(filepath.Join(w.dir, serverCert))
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenIssuer(Options{Dir: w.dir, Now: w.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.IssueClient(Node, "tower8", key.Public(), 0); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(filepath.Join(w.dir, serverCert)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the server certificate was replaced: %v", err)
	}
	if _, err := OpenIssuer(Options{Dir: t.TempDir(), Now: w.now}); err == nil {
		t.Error("an issuer was opened where there is no CA")
	}
}

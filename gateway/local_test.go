package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/gateway"
)

func TestPagesCarryATagAndAPolicy(t *testing.T) {
	t.Parallel()
	m := open(t, func(c *gateway.Config, _ *gateway.Ports) {
		c.Pages = []gateway.Page{{Path: "/ca.crt", Type: "application/x-pem-file", Body: []byte("PEM")}}
	})
	a := m.call("GET", "/docs", "", "")
	if m.want(a, 200, ""); !strings.Contains(string(a.body), "<title>API") || !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("got %v %.100s, want the page with its policy", a.Header, a.body)
	}
	if strings.Contains(string(a.body), "http://") || strings.Contains(string(a.body), "https://") {
		t.Error("the page loads something from elsewhere")
	}
	if b := m.call("GET", "/docs", "", "", "If-None-Match", a.Header.Get("ETag")); b.StatusCode != 304 || len(b.body) != 0 {
		t.Errorf("got %d, want 304", b.StatusCode)
	}
	if a := m.call("HEAD", "/docs/docs.js", "", ""); a.StatusCode != 200 || len(a.body) != 0 {
		t.Errorf("got %d %d octets, want the headers only", a.StatusCode, len(a.body))
	}
	m.want(m.call("GET", "/docs/", "", ""), 404, "route_unknown")
	if a := m.call("GET", "/ca.crt", "", ""); string(a.body) != "PEM" || a.Header.Get("Content-Type") != "application/x-pem-file" {
		t.Errorf("got %s %s, want the configured page", a.Header.Get("Content-Type"), a.body)
	}
	// The type of every problem is an address that this node answers.
	for _, r := range append(append(edge.KernelReasons(), gateway.Reasons()...), errShut) {
		if a := m.call("GET", "/problems/"+r.Code, "", ""); a.StatusCode != 200 || !strings.Contains(string(a.body), "<code>"+r.Code+"</code>") {
			t.Errorf("%s: got %d, want its page", r.Code, a.StatusCode)
		}
	}
	if a := m.call("GET", "/docs", "", "", "Origin", "https://evil.example"); a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("another origin may read the page, want CORS denied")
	}
}

func TestTLSSpeaksHTTP11(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	socket := filepath.Join(t.TempDir(), "s")
	m := open(t, func(c *gateway.Config, _ *gateway.Ports) {
		c.Listen = []gateway.Listen{{Address: "127.0.0.1:0", TLS: cfg}, {Network: "unix", Address: socket}}
	})
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	conn, err := tls.Dial("tcp", m.addr, &tls.Config{RootCAs: pool, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("got protocol %q, want http/1.1", p)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, strings.Replace(head, "Host", "Connection: close\r\nHost", 1)+"\r\n"); err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(raw), "HTTP/1.1 200") {
		t.Errorf("got %.80q over TLS, want 200", raw)
	}
	local, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	_ = local.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(local, strings.Replace(head, "Host", "Connection: close\r\nHost", 1)+"\r\n"); err != nil {
		t.Fatal(err)
	}
	if raw, _ := io.ReadAll(local); !strings.HasPrefix(string(raw), "HTTP/1.1 200") {
		t.Errorf("got %.80q over the socket, want 200", raw)
	}
}

func TestTheLocalListener(t *testing.T) {
	t.Parallel()
	m := open(t)
	m.want(m.call("GET", collection, "none", ""), 403, "scope_missing")
	m.make("bolt")
	var notReady error = edge.ErrStarting.Error(edge.Unavailable)
	a, err := gateway.NewAdmin(gateway.AdminConfig{
		Address: "127.0.0.1:0", Ready: func() error { return notReady }, Metrics: []func(io.Writer){m.WriteMetrics}, Logger: discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	get := func(path string) (int, string) {
		res, err := http.Get("http://" + a.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(raw)
	}
	if status, body := get("/livez"); status != 200 || !strings.Contains(body, "ok") {
		t.Errorf("livez: got %d %s", status, body)
	}
	if status, body := get("/readyz"); status != 503 || !strings.Contains(body, `"code":"starting"`) {
		t.Errorf("readyz: got %d %s, want 503 with the reason", status, body)
	}
	if status, _ := get("/debug/pprof/"); status != 404 {
		t.Errorf("pprof: got %d, want it off", status)
	}
	_, metrics := get("/metrics")
	for _, want := range []string{
		`wispgate_gateway_requests_total{status="2xx"} 1`, `wispgate_gateway_refused_total{code="scope_missing"} 1`,
		`wispgate_gateway_request_duration_seconds_count{class="write"} 1`, "wispgate_gateway_audit_duration_seconds_count 2",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s:\n%s", want, metrics)
		}
	}
	if _, err := gateway.NewAdmin(gateway.AdminConfig{Address: "0.0.0.0:1", Logger: discard()}); err == nil {
		t.Error("got a local listener on every address, want it refused")
	}
}

func TestAccessLinesHoldNoSecretsAndNoControlCharacters(t *testing.T) {
	t.Parallel()
	m := open(t)
	m.want(m.call("GET", collection, "read", "", "X-Request-Id", "\tmy[31m\"id", "User-Agent", "x"), 200, "")
	m.want(m.call("GET", "/no%1b%5b31m", "read", ""), 400, "target_invalid")
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := m.access.String()
	if !strings.Contains(log, `"operation":"shop.item.list","status":200`) || !strings.Contains(log, `"code":"target_invalid"`) {
		t.Errorf("got %s, want a line for each read", log)
	}
	if strings.Contains(log, "Bearer") || strings.ContainsAny(log, "\x1b\t") {
		t.Errorf("got %q, want no secrets and no control characters", log)
	}
}

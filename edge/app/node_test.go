package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wispgate/edge/config"
)

// running is a node under test with a client for its API.
type running struct {
	*Node
	t   testing.TB
	dir string
	log *logBuffer
	key string
}

// logBuffer keeps a log for the moment a test fails.
type logBuffer struct{ *bytes.Buffer }

func testConfig(dir string) config.Config {
	cfg := config.Default()
	cfg.Node.ID, cfg.Node.DataDir, cfg.Node.LogFormat = "tower7", dir, "text"
	cfg.Radius.AuthListen, cfg.Radius.AcctListen, cfg.Radius.RejectDelay = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}, 0
	cfg.API.Listen, cfg.API.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Storage.Ballast = 0
	cfg.Limits.ClientPerMinute, cfg.Limits.TenantPerMinute = 100_000, 100_000
	return cfg
}

func startNode(t testing.TB, dir string, change func(*config.Config)) *running {
	t.Helper()
	cfg := testConfig(dir)
	if change != nil {
		change(&cfg)
	}
	r := &running{t: t, dir: dir, log: &logBuffer{&bytes.Buffer{}}}
	var err error
	if r.Node, err = OpenNode(context.Background(), Options{Config: cfg, Version: "test", Log: io.Discard, Out: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stopNode)
	return r
}

// stopNode stops the node; calling it twice is harmless.
func (r *running) stopNode() {
	if r.Node == nil {
		return
	}
	if err := r.Node.Stop(); err != nil {
		r.t.Errorf("stop: %v", err)
	}
	r.Node = nil
}

func (r *running) client() *http.Client {
	pem, err := os.ReadFile(filepath.Join(r.dir, "tls", "ca.crt"))
	if err != nil {
		r.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
}

// call sends one request and decodes the answer; want is the status it must have.
func (r *running) call(want int, method, path string, body any, headers ...string) map[string]any {
	r.t.Helper()
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			r.t.Fatal(err)
		}
	}
	req, err := http.NewRequest(method, r.URL()+path, bytes.NewReader(raw))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.key != "" {
		req.Header.Set("Authorization", "Bearer "+r.key)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode != want {
		r.t.Fatalf("%s %s: got %d, want %d: %s", method, path, resp.StatusCode, want, answer)
	}
	out := map[string]any{}
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &out); err != nil {
			r.t.Fatalf("%s %s: %v: %s", method, path, err, answer)
		}
	}
	return out
}

// claim claims the node with the code it left in its folder.
func (r *running) claim(tenant string) {
	r.t.Helper()
	code, err := os.ReadFile(filepath.Join(r.dir, "claim-code"))
	if err != nil {
		r.t.Fatal(err)
	}
	out := r.call(201, "POST", "/api/v1/claim", map[string]string{"code": strings.TrimSpace(string(code)), "tenant": tenant, "name": "Acme Wireless"})
	secret, ok := out["secret"].(string)
	if !ok {
		r.t.Fatalf("the claim's answer shows no secret: %v", out)
	}
	r.key = secret
}

// TestTheClaimCodeIsThereBeforeADoorOpens starts a node whose API cannot listen: the code lies there all the same, so nobody who is answered
// can miss it.
func TestTheClaimCodeIsThereBeforeADoorOpens(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.API.Listen = taken.Addr().String()
	n, err := OpenNode(t.Context(), Options{Config: cfg, Version: "test", Log: io.Discard, Out: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err == nil {
		t.Error("the node started on an address that is taken")
	}
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	if code, err := os.ReadFile(filepath.Join(dir, "claim-code")); err != nil || len(code) < 16 {
		t.Errorf("got %q, %v", code, err)
	}
}

func TestANewNodeIsClaimedOnceAndKeepsItsKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := startNode(t, dir, nil)
	n.call(401, "GET", "/api/v1/crm/customers", nil)
	n.claim("acme")
	n.call(201, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Ann Example"})
	if got := n.call(200, "GET", "/api/v1/sync/status", nil); got["node"] != "tower7" {
		t.Errorf("got status %v", got)
	}
	key := n.key
	n.stopNode()
	n = startNode(t, dir, nil)
	n.key = key
	if got := n.call(200, "GET", "/api/v1/crm/customers", nil); len(got["data"].([]any)) != 1 {
		t.Errorf("after a restart: got %v, want one customer", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "claim-code")); err == nil {
		t.Error("the spent claim code still lies in the folder")
	}
}

package gateway_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/gateway"
)

var stamps = regexp.MustCompile(`(req_[0-9a-f-]{36}|"time":"[^"]*"|itm_[0-9a-f-]{36}|"operation_id":"[0-9a-f-]{36}")`)

// golden compares text with a file, ids and times masked. WISPGATE_UPDATE=1 rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = stamps.ReplaceAllStringFunc(got, func(s string) string {
		switch {
		case strings.HasPrefix(s, "req_"):
			return "req_…"
		case strings.HasPrefix(s, "itm_"):
			return "itm_…"
		case strings.HasPrefix(s, `"time"`):
			return `"time":"…"`
		}
		return `"operation_id":"…"`
	})
	file := filepath.Join("testdata", name)
	if os.Getenv("WISPGATE_UPDATE") == "1" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (WISPGATE_UPDATE=1 rewrites it)\ngot\n%s\nwant\n%s", file, got, want)
	}
}

func TestProblemBodiesAndAuditLines(t *testing.T) {
	t.Parallel()
	m := open(t)
	id := m.make("bolt")
	var b strings.Builder
	for _, tt := range []struct {
		method, path, key, body string
		headers                 []string
	}{
		{"POST", collection, "full", `{"name":"","shelf":"attic","cents":-1,"extra":1,"parts":[{"code":"","count":100}]}`, nil},
		{"POST", collection, "full", `{"name":"a","name":"b"`, nil},
		{"POST", collection, "full", `{"name":"bolt","shelf":"top","cents":1}`, nil},
		{"POST", collection, "full", `{"name":"shut","shelf":"top","cents":1}`, []string{"Idempotency-Key", "k"}},
		{"GET", collection + "?limit=0&nope=1", "full", "", nil},
		{"GET", collection + "/" + foreign, "full", "", nil},
		{"GET", collection + "/x", "full", "", nil},
		{"GET", collection, "", "", nil},
		{"GET", collection, "guessed", "", nil},
		{"GET", collection, "none", "", nil},
		{"GET", collection + "?key=wg_live_abcd1234_zzz", "full", "", nil},
		{"GET", collection, "", "", []string{"Authorization", "Basic YTpi"}},
		{"PATCH", collection + "/" + id, "full", `{"name":"x"}`, nil},
		{"PATCH", collection + "/" + id, "full", `{"name":"x"}`, []string{"If-Match", `"5"`}},
		{"POST", collection, "full", "x", []string{"Content-Type", "text/plain"}},
		{"POST", collection, "full", "{}", []string{"Content-Encoding", "br"}},
		{"PUT", collection, "full", "", nil},
		{"GET", "/nothing", "full", "", nil},
	} {
		a := m.call(tt.method, tt.path, tt.key, tt.body, tt.headers...)
		b.WriteString(tt.method + " " + tt.path + " as " + tt.key + "\n" + strconv.Itoa(a.StatusCode) + " " + a.Header.Get("Content-Type") +
			" " + a.Header.Get("Retry-After") + a.Header.Get("WWW-Authenticate") + "\n" + string(a.body) + "\n\n")
	}
	golden(t, "problems.golden", b.String())
	golden(t, "audit.golden", strings.Join(m.ledger.all(), "\n")+"\n")
}

func TestLimits(t *testing.T) {
	t.Parallel()
	m := open(t)
	a := m.call("GET", collection, "read", "")
	if m.want(a, 200, ""); a.Header.Get("RateLimit-Policy") != `"client";q=600;w=60` || a.Header.Get("RateLimit") != `"client";r=999999999;t=3` {
		t.Errorf("got %q %q, want the limit and what is left", a.Header.Get("RateLimit-Policy"), a.Header.Get("RateLimit"))
	}
	m.meter.mu.Lock()
	m.meter.client = 0
	m.meter.mu.Unlock()
	lines := len(m.ledger.all())
	a = m.call("POST", collection, "full", `{"name":"a","shelf":"top","cents":1}`)
	if m.want(a, 429, "too_many_requests"); a.Header.Get("Retry-After") != "7" || !strings.HasSuffix(a.Header.Get("RateLimit"), ";t=7") {
		t.Errorf("got Retry-After %q and RateLimit %q, want them to agree on 7", a.Header.Get("Retry-After"), a.Header.Get("RateLimit"))
	}
	if got := len(m.ledger.all()); got != lines {
		t.Errorf("a limited request left %d audit lines, want none", got-lines)
	}
	m.want(m.call("GET", "/api/v1/shop/door", "", ""), 200, "") // an address is another cell
	m.meter.mu.Lock()
	m.meter.address = 1
	m.meter.mu.Unlock()
	m.want(m.call("GET", collection, "guessed", ""), 401, "credential_invalid")
	m.want(m.call("GET", collection, "guessed", ""), 429, "too_many_requests")
	m.want(m.call("GET", "/nothing", "", ""), 429, "too_many_requests")
	m.want(m.call("GET", "/api/v1/shop/door", "", ""), 429, "too_many_requests")
}

func TestAFloodOfRefusalsIsCountedIntoOneLine(t *testing.T) {
	t.Parallel()
	m := open(t)
	for range 50 {
		m.want(m.call("GET", collection, "guessed", ""), 401, "credential_invalid")
	}
	if got := m.ledger.all(); len(got) != 1 || !strings.Contains(got[0], `"code":"credential_invalid"`) {
		t.Fatalf("got %d audit lines %v, want one", len(got), got)
	}
	m.want(m.call("GET", collection, "none", ""), 403, "scope_missing")
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := m.ledger.all()
	if len(got) != 3 || !strings.Contains(got[2], `"code":"credential_invalid","refused_again":49`) {
		t.Errorf("got %v, want a line for the scope and one that counts 49 more", got)
	}
}

func TestNothingIsAnsweredAsDoneThatIsNotAudited(t *testing.T) {
	t.Parallel()
	m := open(t)
	m.ledger.breakWith(errors.New("disk full"))
	body := `{"name":"bolt","shelf":"top","cents":1}`
	a := m.call("POST", collection, "full", body, "Idempotency-Key", "k")
	if m.want(a, 503, "audit_unavailable"); a.Header.Get("ETag") != "" || strings.Contains(string(a.body), "bolt") {
		t.Errorf("got %v %s, want the answer taken back", a.Header, a.body)
	}
	m.want(m.call("POST", collection, "full", `{"name":"nut","shelf":"top","cents":1}`), 503, "audit_unavailable")
	m.want(m.call("GET", collection, "guessed", ""), 503, "audit_unavailable")
	a = m.call("GET", collection, "full", "") // reads go on
	if m.want(a, 200, ""); strings.Contains(string(a.body), "nut") {
		t.Errorf("got %s, want no further command carried out once the audit is broken", a.body)
	}
	m.ledger.breakWith(nil)
	a = m.call("POST", collection, "full", body, "Idempotency-Key", "k")
	if m.want(a, 201, ""); a.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("got %v, want the first answer under the same key", a.Header)
	}
}

func TestADefectInADomainEndsOneRequestOnly(t *testing.T) {
	t.Parallel()
	m := open(t, func(_ *gateway.Config, p *gateway.Ports) { p.Executor = panicking{p.Executor} })
	a := m.call("GET", collection, "full", "")
	m.want(a, 500, "internal")
	if strings.Contains(string(a.body), "boom") || !strings.Contains(m.logs.String(), "boom") {
		t.Errorf("got %s, want the cause in the log and not in the answer", a.body)
	}
	m.want(m.call("GET", "/docs", "", ""), 200, "") // the node lives
	if got := m.Server; got == nil {
		t.Fatal("the server is gone")
	}
}

func TestANodeThatIsNotReadySaysSo(t *testing.T) {
	t.Parallel()
	m := open(t, func(c *gateway.Config, _ *gateway.Ports) {
		c.Ready = func() error { return edge.ErrStarting.Error(edge.Unavailable) }
	})
	a := m.call("GET", collection, "full", "")
	if m.want(a, 503, "starting"); a.Header.Get("Retry-After") == "" {
		t.Error("got no Retry-After, want one")
	}
}

func TestAllDefectsOfDeclarationsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	bad := shop()
	type odd struct {
		Min  string `json:"min_version" check:"max=9"`
		Deep []part `json:"deep,omitempty" check:"max=3"`
	}
	q := edge.Query[odd, edge.None]{
		Name: "shop.odd.get", Scope: "shop:read", Summary: "Odd.", Class: edge.Read,
		Handle: func(edge.View, odd) (edge.None, error) { return edge.None{}, nil },
	}.Op()
	type example struct {
		N int64 `json:"n" check:"max=5" example:"9"`
	}
	bad.Ops = append(bad.Ops, q)
	bad.Routes = append(bad.Routes, edge.Route{Method: "GET", Path: "/api/v1/shop/odd", Op: q}, edge.Route{Method: "GET", Path: "/api/v1/shop/items/{name}", Op: q})
	bad.Reasons = append(bad.Reasons, edge.Reason{Code: "too_many_requests", Says: "x", Fix: "y"})
	cfg := gateway.Config{
		Modules: []edge.Module{bad}, Listen: []gateway.Listen{{Address: "0.0.0.0:80"}}, Pages: []gateway.Page{{Path: "/api/x", Type: "text/plain"}},
		Now: time.Now, Logger: nil,
	}
	if _, err := gateway.New(cfg, gateway.Ports{}); err == nil {
		t.Fatal("got a gateway without logger, want an error")
	}
	m := open(t)
	cfg.Logger = discard()
	_, err := gateway.New(cfg, gateway.Ports{Executor: m.node.Exec, Authenticator: keys(), Limiter: m.meter, Auditor: m.ledger})
	if err == nil {
		t.Fatal("got a gateway, want it to refuse")
	}
	for _, want := range []string{
		"without TLS only loopback", "member deep cannot be a query parameter", "reason too_many_requests of module shop", "page \"/api/x\"",
		"has no member \"name\"", "collides with",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	type withExample = edge.Query[example, edge.None]
	ex := withExample{
		Name: "shop.example.get", Scope: "shop:read", Summary: "Example.", Class: edge.Read,
		Handle: func(edge.View, example) (edge.None, error) { return edge.None{}, nil },
	}.Op()
	one := shop()
	one.Ops = append(one.Ops, ex)
	one.Routes = append(one.Routes, edge.Route{Method: "GET", Path: "/api/v1/shop/example", Op: ex})
	_, err = gateway.New(gateway.Config{Modules: []edge.Module{one}, Now: time.Now, Logger: discard()},
		gateway.Ports{Executor: m.node.Exec, Authenticator: keys(), Limiter: m.meter, Auditor: m.ledger})
	if err == nil || !strings.Contains(err.Error(), "example") {
		t.Errorf("got %v, want the example refused", err)
	}
}

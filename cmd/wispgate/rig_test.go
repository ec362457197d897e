package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	official "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"wispgate": main})
}

// builtBinary names the program that the stories run: scripts/e2e sets it to build/wispgate. Without it this test binary plays the part.
const builtBinary = "WISPGATE_BIN"

func binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv(builtBinary)
	var err error
	if path == "" {
		path, err = exec.LookPath("wispgate")
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// onBuilt leaves campaigns of a minute to the stories on the built binary (make e2e), which run them once.
func onBuilt(t testing.TB) {
	t.Helper()
	if os.Getenv(builtBinary) == "" {
		t.Skip("a campaign: make e2e runs it on the built binary")
	}
}

// The ports that tests listen on lie below those that the kernel gives to clients, so that a program that restarts finds its own free.
const firstPort, lastPort = 20000, 32000

var portLock sync.Mutex
var portsGiven = map[int]bool{}

// freePort finds a port that is free for TCP and UDP on loopback and gives it to nobody else in this run.
func freePort(t testing.TB) int {
	t.Helper()
	portLock.Lock()
	defer portLock.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		tcp, err := net.Listen("tcp", addr)
		if err != nil || portsGiven[port] {
			if err == nil {
				_ = tcp.Close()
			}
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		_ = tcp.Close()
		if err != nil {
			continue
		}
		_ = udp.Close()
		portsGiven[port] = true
		return port
	}
	t.Fatal("no free port on loopback")
	return 0
}

// eventually polls until ok, and fails with the state at the deadline, which is far beyond what anything takes.
func eventually(t testing.TB, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(pollLimit)
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		good, state := ok()
		if good {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %s", what, pollLimit, state)
		}
		<-pause.C
	}
}

// program is a node or a relay that the test starts, kills and starts again on the same data.
type program struct {
	t    testing.TB
	kind string   // serve or relay
	bin  string   // the program, where it is another than the one under test
	wrap []string // what runs it, such as a network namespace
	data string
	conf string
	url  string
	env  []string

	cmd  *exec.Cmd
	log  *os.File
	done chan error
}

func newProgram(t testing.TB, kind, dir, conf string, port int) *program {
	t.Helper()
	home := t.TempDir() // apart from the data, which may lie on a full disk
	p := &program{t: t, kind: kind, data: filepath.Join(dir, "data"), conf: filepath.Join(home, kind+".yaml"), url: fmt.Sprintf("https://127.0.0.1:%d", port)}
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(p.conf, []byte(strings.ReplaceAll(conf, "DATA", p.data)), 0o600))
	log, err := os.OpenFile(filepath.Join(home, kind+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	p.log = log
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		_ = log.Close()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", p.kind, p.tail(4000))
		}
	})
	return p
}

func (p *program) tail(n int) string {
	raw, _ := os.ReadFile(p.log.Name())
	return string(raw[max(0, len(raw)-n):])
}

// start starts the program and waits until its API answers.
func (p *program) start() {
	p.t.Helper()
	p.launch()
	p.ready()
}

// exe is the binary that runs: the one under test, unless the program was given another.
func (p *program) exe() string {
	if p.bin != "" {
		return p.bin
	}
	return binary(p.t)
}

func (p *program) launch() {
	p.t.Helper()
	line := append(slices.Clone(p.wrap), p.exe(), p.kind, "--config", p.conf)
	p.cmd = exec.Command(line[0], line[1:]...)
	p.cmd.Stderr = p.log // what a person reads at the terminal, such as the claim code, is no part of the log
	p.cmd.Env = append(os.Environ(), p.env...)
	must(p.t, p.cmd.Start())
	cmd, done := p.cmd, make(chan error, 1)
	p.done = done
	go func() { done <- cmd.Wait() }()
}

func (p *program) ready() {
	p.t.Helper()
	eventually(p.t, p.kind+" becomes ready", func() (bool, string) {
		select {
		case err := <-p.done:
			p.done <- err
			p.t.Fatalf("%s ended: %v\n%s", p.kind, err, p.tail(3000))
		default:
		}
		a := p.local().ask(http.MethodGet, "/api/v1/sync/status", "", nil)
		var s struct {
			Cluster struct {
				State string `json:"state"`
			} `json:"cluster"`
		}
		return a.err == nil && json.Unmarshal(a.body, &s) == nil && (s.Cluster.State == "leader" || s.Cluster.State == "follower"), a.String()
	})
}

// local is a client over the program's unix socket, which needs no key.
func (p *program) local() *apiClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.data, "wispgate.sock"))
	}
	return &apiClient{base: "http://local", http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 5 * time.Second}}
}

// kill is the power cut of a process.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
}

// stop asks the program to end and expects it to do so cleanly.
func (p *program) stop() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-p.done:
		p.cmd = nil
		if err != nil {
			p.t.Fatalf("%s did not end cleanly: %v\n%s", p.kind, err, p.tail(3000))
		}
	case <-time.After(pollLimit):
		p.t.Fatalf("%s does not end", p.kind)
	}
}

// client makes an API client without a key.
func (p *program) client() *apiClient {
	p.t.Helper()
	pem, err := os.ReadFile(filepath.Join(p.data, "tls", "ca.crt"))
	must(p.t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		p.t.Fatal("ca.crt holds no certificate")
	}
	return &apiClient{base: p.url, http: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 16},
	}}
}

// claim takes the program over for the tenant acme and returns a client with its first key.
func (p *program) claim() *apiClient {
	p.t.Helper()
	var code []byte
	eventually(p.t, "the claim code is there", func() (bool, string) {
		var err error
		code, err = os.ReadFile(filepath.Join(p.data, "claim-code"))
		return err == nil, fmt.Sprint(err)
	})
	c := p.client()
	var out struct {
		Secret string `json:"secret"`
	}
	c.must(p.t, http.MethodPost, "/api/v1/claim", map[string]any{"code": strings.TrimSpace(string(code)), "tenant": "acme", "name": "Acme Wireless"}, &out)
	c.key = out.Secret
	return c
}

// apiClient speaks to the API as a program of someone else would.
type apiClient struct {
	base, key string
	http      *http.Client
}

// answer is what the API said; err is set when it said nothing.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %s", a.status, a.body)
}

func (a answer) code() string {
	var p struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(a.body, &p)
	return p.Code
}

func (c *apiClient) ask(method, path, idempotency string, in any) answer {
	var body io.Reader = http.NoBody
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return answer{err: err}
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.base+path, body)
	if err != nil {
		return answer{err: err}
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if idempotency != "" {
		req.Header.Set("Idempotency-Key", idempotency)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, raw, err}
}

// must asks and expects success.
func (c *apiClient) must(t testing.TB, method, path string, in, out any) {
	t.Helper()
	a := c.ask(method, path, "", in)
	if a.err != nil || a.status >= 300 {
		t.Fatalf("%s %s: %s", method, path, a)
	}
	if out != nil {
		must(t, json.Unmarshal(a.body, out))
	}
}

// create posts a record and returns its id.
func (c *apiClient) create(t testing.TB, path string, in any) string {
	t.Helper()
	var out struct {
		ID string `json:"id"`
	}
	c.must(t, http.MethodPost, path, in, &out)
	return out.ID
}

// list reads all pages.
func list[T any](t testing.TB, c *apiClient, path string) (all []T) {
	t.Helper()
	join := "?"
	if strings.Contains(path, "?") {
		join = "&"
	}
	for cursor := ""; ; {
		var page struct {
			Data []T    `json:"data"`
			Next string `json:"next_cursor"`
			More bool   `json:"has_more"`
		}
		c.must(t, http.MethodGet, path+join+"limit=200"+cursor, nil, &page)
		all = append(all, page.Data...)
		if page.Next == "" {
			return all
		}
		cursor = "&cursor=" + page.Next
	}
}

// hook is an ISP's own system: it verifies each webhook with the official library and remembers what it has heard.
type hook struct {
	url string
	srv *http.Server

	mu     sync.Mutex
	verify *official.Webhook
	heard  map[string]int // deliveries by webhook-id
	types  map[string]int // distinct events by type
	bad    []string
}

func newHook(t testing.TB, port int) *hook {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	must(t, err)
	h := &hook{url: "http://" + ln.Addr().String() + "/hook", heard: map[string]int{}, types: map[string]int{}}
	h.srv = &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = h.srv.Serve(ln) }()
	t.Cleanup(func() { _ = h.srv.Close() })
	return h
}

func (h *hook) trust(secret string) error {
	v, err := official.NewWebhook(secret)
	h.mu.Lock()
	h.verify = v
	h.mu.Unlock()
	return err
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var event struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil && h.verify != nil {
		err = h.verify.Verify(body, r.Header)
	}
	if err == nil {
		err = json.Unmarshal(body, &event)
	}
	if id := r.Header.Get("webhook-id"); err == nil && (id == "" || id != event.ID) {
		err = errors.New("webhook-id is not the event's id")
	}
	if err != nil {
		h.bad = append(h.bad, err.Error())
		http.Error(w, "refused", http.StatusUnauthorized)
		return
	}
	if h.heard[event.ID]++; h.heard[event.ID] == 1 {
		h.types[event.Type]++
	}
	w.WriteHeader(http.StatusNoContent)
}

// distinct is how many events of a type were heard.
func (h *hook) distinct(kind string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.types[kind]
}

func (h *hook) refused() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.bad...)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

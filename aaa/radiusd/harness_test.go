package radiusd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
	"wispgate/edge"
)

const testSecret = "testing123"

// house is a directory, a journal, a session table and an observer in one: the outside world of a Server.
type house struct {
	logins    map[string]*Login
	decisions map[string]Decision
	full      atomic.Bool // sessions

	mu       sync.Mutex
	records  [][]byte
	held     []Done // while holding
	holding  bool
	broken   error
	outcomes []Outcome
	proven   []string
}

func (h *house) Lookup(r *Request) *Login {
	if !r.LoginMAC.IsZero() {
		var buf [12]byte
		return h.logins[string(r.LoginMAC.Compact(buf[:0]))]
	}
	return h.logins[string(r.Login)]
}

func (h *house) Decide(_ *Request, l *Login) Decision { return h.decisions[l.ID] }
func (h *house) Allow(*Request, *Login) bool          { return !h.full.Load() }

func (h *house) Submit(_ uint8, payload []byte, done Done) {
	h.mu.Lock()
	broken := h.broken
	if broken == nil {
		h.records = append(h.records, append([]byte(nil), payload...))
		if h.holding {
			h.held = append(h.held, done)
			h.mu.Unlock()
			return
		}
	}
	h.mu.Unlock()
	done.Journaled(1, broken)
}

func (h *house) release() {
	h.mu.Lock()
	held := h.held
	h.held, h.holding = nil, false
	h.mu.Unlock()
	for _, d := range held {
		d.Journaled(1, nil)
	}
}

func (h *house) hold() {
	h.mu.Lock()
	h.holding = true
	h.mu.Unlock()
}

func (h *house) whoSigned() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.proven)
}

func (h *house) record(i int) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.records[i]
}

func (h *house) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.records)
}

func (h *house) Outcome(o *Outcome) {
	h.mu.Lock()
	h.outcomes = append(h.outcomes, *o)
	h.mu.Unlock()
}

func (h *house) MessageAuthenticatorSeen(n *NAS) {
	h.mu.Lock()
	h.proven = append(h.proven, n.ID)
	h.mu.Unlock()
}

var suspended = edge.Reason{Code: "suspended_unpaid", Says: "Suspended: unpaid", Fix: "Take the payment"}

func newHouse(t testing.TB) *house {
	t.Helper()
	policy, err := dict.Render(&dict.Policy{
		DownKbps: 20_000, UpKbps: 5_000, Pool: "cgnat", SessionTimeout: 86_400, IdleTimeout: 900, InterimInterval: 300,
	})
	if err != nil {
		t.Fatal(err)
	}
	static, err := dict.RenderStatic(&dict.Static{IPv4: netip.MustParseAddr("100.64.0.9")})
	if err != nil {
		t.Fatal(err)
	}
	allow := Decision{Verdict: Allow, Policy: policy, Revision: 7}
	hashed := HashedPassword("crd_hash", 1, func(pw []byte) bool { return string(pw) == "slow" })
	return &house{
		logins: map[string]*Login{
			"ann":          {ID: "crd_ann", Password: ClearPassword([]byte("secret"), 1), Address: Address{Attrs: static, V4: true}},
			"bob":          {ID: "crd_bob", Password: ClearPassword([]byte("hunter2"), 1)},
			"due":          {ID: "crd_due", Password: ClearPassword([]byte("pw"), 1)},
			"empty":        {ID: "crd_empty", Password: ClearPassword(nil, 1)},
			"hash":         {ID: "crd_hash", Password: hashed},
			"paponly":      {ID: "crd_pap", Password: ClearPassword([]byte("pw"), 1), Methods: MethodPAP},
			"until":        {ID: "crd_until", Password: ClearPassword([]byte("pw"), 1)},
			"00e10c38c8f8": {ID: "crd_mac", Password: NoPassword(1)},
		},
		decisions: map[string]Decision{
			"crd_ann": allow, "crd_bob": allow, "crd_hash": allow, "crd_mac": allow, "crd_empty": allow, "crd_pap": allow,
			"crd_due":   {Verdict: Refuse, Reason: &suspended},
			"crd_until": {Verdict: Allow, Policy: policy, Until: time.Now().Add(10 * time.Minute).Unix()},
		},
	}
}

func secretOf(t testing.TB, s string) *packet.Secret {
	t.Helper()
	x, err := packet.NewSecret([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func loopback(t testing.TB) *NAS {
	return &NAS{
		ID: "nas_1", Tenant: "tnt", Profile: dict.MikroTik, Secret: secretOf(t, testSecret),
		Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}
}

// node is a running server and its world.
type node struct {
	*Server
	*house
}

// start runs a server on loopback. Change what is asked of it in change.
func start(t testing.TB, change func(*Config, *NAS)) *node {
	t.Helper()
	h := newHouse(t)
	cfg := Config{
		Auth: []string{"127.0.0.1:0"}, Acct: []string{"127.0.0.1:0"}, Directory: h, Journal: h, Sessions: h, Observer: h,
		Logger: slog.New(slog.DiscardHandler), Now: time.Now, Workers: 2, RejectDelay: -1, Reasons: []edge.Reason{suspended},
	}
	nas := loopback(t)
	if change != nil {
		change(&cfg, nas)
	}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetNAS([]*NAS{nas}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the server does not stop")
		}
	})
	return &node{s, h}
}

// dropped waits until the server has refused so many requests for the reason, and expects no more.
func (n *node) dropped(t testing.TB, reason string, want uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d drops for %s", want, reason), func() bool { return n.Stats().Drops[reason] >= want })
	if got := n.Stats().Drops[reason]; got != want {
		t.Errorf("%s: got %d drops, want %d", reason, got, want)
	}
}

// standing is a clock that stands still.
func standing() func() time.Time {
	at := time.Now()
	return func() time.Time { return at }
}

func (n *node) auth() string { return n.Addrs().Auth[0].String() }
func (n *node) acct() string { return n.Addrs().Acct[0].String() }

func (n *node) client(t testing.TB, addr string, secret string, opts radclient.Options) *radclient.Client {
	t.Helper()
	c, err := radclient.Dial(addr, []byte(secret), time.Now, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// eventually polls until what holds. It waits far longer than anything takes, because a machine may be busy with other things.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// quick does not wait long for silence. Where there is silence the server may still have the request before it.
var quick = radclient.Options{Timeout: 150 * time.Millisecond, Tries: 1}

// patient waits out a machine that is busy.
var patient = radclient.Options{Timeout: time.Minute, Tries: 1}

func access(user string) []byte { return packet.AppendString(nil, packet.UserName, user) }

func ask(t testing.TB, c *radclient.Client, r radclient.Request) (radclient.Reply, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return c.Do(ctx, r)
}

func code(err error) string {
	if e, ok := errors.AsType[*edge.Error](err); ok {
		return e.Code
	}
	return "none"
}

// raw is a socket for packets no client would send.
type raw struct {
	t    testing.TB
	conn *net.UDPConn
}

func dialRaw(t testing.TB, addr string) *raw {
	t.Helper()
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp", nil, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &raw{t, c}
}

func (r *raw) send(b []byte) {
	r.t.Helper()
	if _, err := r.conn.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) receive(wait time.Duration) []byte {
	r.t.Helper()
	if err := r.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		r.t.Fatal(err)
	}
	buf := make([]byte, 5000)
	n, err := r.conn.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return buf[:n]
}

package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	official "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	kernel "wispgate/edge/exec"
	"wispgate/sync/relay"
	"wispgate/sync/uplink"
	"wispgate/sync/wire"
)

const tenant = "acme"

// fast is a schedule with which every retry comes at once.
var fast = []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}

// rig is a relay with its management API on a node of its own.
type rig struct {
	*edgetest.Harness
	t     testing.TB
	relay *relay.Relay
	stop  func()
}

type unsealer struct{ edgetest.Secrets }

func (u unsealer) Unseal(tenant, record, field, sealed string) ([]byte, error) {
	u.MAC(tenant, "load", nil) // the harness loads a tenant's key on first use
	return u.Vault.Unseal(tenant, record, field, sealed)
}

func loopback() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

// open starts a relay in dir, as after a restart.
func open(t testing.TB, dir string, change func(*relay.Config)) *rig {
	t.Helper()
	g := &rig{t: t}
	var m edge.Module
	g.Harness = edgetest.Open(t, dir, func(c *kernel.Config) {
		cfg := relay.Config{
			ID: "noc", Store: c.Store, AllowPrivate: loopback(), Schedule: fast, Now: time.Now, Unsealer: unsealer{c.Secrets.(edgetest.Secrets)},
			Broker: &relay.BrokerConfig{PlainListen: "127.0.0.1:0"},
		}
		if change != nil {
			change(&cfg)
		}
		if cfg.Client != nil {
			cfg.Broker = nil
		}
		var err error
		if g.relay, err = relay.New(cfg); err != nil {
			t.Fatal(err)
		}
		m = relay.Module(g.relay)
		c.Modules = append(c.Modules, m)
	})
	ctx, cancel := context.WithCancel(context.Background())
	if err := g.relay.Start(ctx); err != nil {
		t.Fatal(err)
	}
	var workers sync.WaitGroup
	for _, w := range m.Workers {
		workers.Go(func() {
			if err := w.Run(ctx, g.Exec); err != nil {
				t.Errorf("worker %s: %v", w.Name, err)
			}
		})
	}
	g.stop = sync.OnceFunc(func() {
		ended, done := context.WithTimeout(context.Background(), time.Minute)
		defer done()
		cancel()
		workers.Wait()
		if err := g.relay.Stop(ended); err != nil {
			t.Error(err)
		}
		g.Close()
	})
	t.Cleanup(g.stop)
	return g
}

func start(t testing.TB, change func(*relay.Config)) *rig {
	t.Helper()
	return open(t, t.TempDir(), change)
}

func actor() edge.Actor { return edgetest.Actor(tenant) }

// endpoint adds an endpoint and returns it with its secret.
func (g *rig) endpoint(url string, in map[string]any) (relay.Endpoint, string) {
	g.t.Helper()
	if in == nil {
		in = map[string]any{}
	}
	in["url"] = url
	if in["name"] == nil {
		in["name"] = "e" + url[strings.LastIndexByte(url, ':'):]
	}
	if in["rate_per_second"] == nil {
		in["rate_per_second"] = 1000
	}
	if in["events"] == nil {
		in["events"] = []string{"*"}
	}
	e, reply, err := edgetest.Try[relay.Endpoint](g.Harness, actor(), edge.Request{}, "relay.endpoint.create", in)
	if err != nil {
		g.t.Fatal(err)
	}
	return e, reply.Once[0]["secret"]
}

func (g *rig) deliveries(in map[string]any) []relay.Delivery {
	g.t.Helper()
	if in == nil {
		in = map[string]any{}
	}
	in["limit"] = 200
	return edgetest.Ask[edge.Page[relay.Delivery]](g.t, g.Harness, actor(), "relay.delivery.list", in).Data
}

func (g *rig) health(id edge.ID) relay.EndpointHealth {
	g.t.Helper()
	var h relay.EndpointHealth
	edgetest.Eventually(g.t, func() bool {
		out, _, err := g.Ask(g.t.Context(), actor(), "relay.endpoint.health", json.RawMessage(fmt.Sprintf(`{"id":%q}`, id)), 0)
		if err == nil {
			h = out.(relay.EndpointHealth)
		}
		return err == nil
	}, func() string { return "no health of endpoint" })
	return h
}

// receiver is a webhook receiver that verifies what it gets with the official library.
type receiver struct {
	*httptest.Server
	t      testing.TB
	mu     sync.Mutex
	secret string
	got    []string // webhook ids, in order of arrival
	events []wire.Event
	answer func(n int, w http.ResponseWriter, r *http.Request) // n from 1; nil: 204
}

func receive(t testing.TB, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	rc := &receiver{t: t, answer: answer}
	rc.Server = httptest.NewServer(rc)
	t.Cleanup(func() {
		rc.CloseClientConnections() // an attempt may hang
		rc.Close()
	})
	return rc
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	rc.mu.Lock()
	secret := rc.secret
	rc.got = append(rc.got, r.Header.Get(wire.HeaderID))
	var e wire.Event
	if err := json.Unmarshal(body, &e); err != nil {
		rc.t.Errorf("body is not a CloudEvent: %v", err)
	}
	rc.events = append(rc.events, e)
	n, answer := len(rc.got), rc.answer
	rc.mu.Unlock()
	if secret != "" {
		wh, err := official.NewWebhook(secret)
		if err != nil {
			rc.t.Error(err)
		} else if err := wh.Verify(body, r.Header); err != nil {
			rc.t.Errorf("the official library refuses a delivery: %v", err)
		}
	}
	if answer != nil {
		answer(n, w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (rc *receiver) trust(secret string) { rc.mu.Lock(); rc.secret = secret; rc.mu.Unlock() }

func (rc *receiver) ids() []string {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return append([]string(nil), rc.got...)
}

func (rc *receiver) wait(n int) []string {
	rc.t.Helper()
	edgetest.Eventually(rc.t, func() bool { return len(rc.ids()) >= n }, func() string {
		return fmt.Sprintf("%d of %d deliveries", len(rc.ids()), n)
	})
	return rc.ids()
}

func status(code int) func(int, http.ResponseWriter, *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// source is a stream in memory with one event per position.
type source struct {
	name  uplink.Name
	mu    sync.Mutex
	marks uplink.Marks
	rows  []wire.Item
	grew  chan struct{}
}

func newSource(name string) *source {
	return &source{name: uplink.Name{Tenant: tenant, Source: name, Incarnation: "i1"}, grew: make(chan struct{})}
}

// emit appends n events; subjects rotate over keys.
func (s *source) emit(t testing.TB, n, keys int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		p := s.marks.Last + 1
		it, err := wire.NewItem(s.name.Source, edge.EventRow{
			ID: edge.DeriveID("evt", s.name.Source+s.name.Incarnation, int(p)), Type: "crm.customer.updated", Tenant: tenant,
			Subject: edge.DeriveID("cus", "c", int(p)%keys), Time: time.Unix(1_700_000_000, 0), Actor: "cli", Operation: "op",
			Changed: json.RawMessage(`{"name":"` + strings.Repeat("x", 100) + `"}`), Position: p,
		}, "")
		if err != nil {
			t.Fatal(err)
		}
		s.rows = append(s.rows, it)
		s.marks.Last = p
	}
	close(s.grew)
	s.grew = make(chan struct{})
}

func (s *source) Name() uplink.Name { return s.name }

func (s *source) Marks() uplink.Marks {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks
}

func (s *source) Read(_ context.Context, after uint64, maxBytes int) (items []wire.Item, upto uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := 0
	for upto = after; upto < s.marks.Last && size < maxBytes; upto++ {
		items = append(items, s.rows[upto])
		size += len(s.rows[upto].Raw)
	}
	return items, upto, nil
}

func (s *source) Wait(ctx context.Context, after uint64) error {
	s.mu.Lock()
	grew, have := s.grew, s.marks.Last > after
	s.mu.Unlock()
	if have {
		return nil
	}
	select {
	case <-grew:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *source) Acked(upto uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks.Acked = upto
	return nil
}

// publish connects a source to a broker.
func publish(t testing.TB, broker string, s *source) *uplink.Uplink {
	t.Helper()
	u, err := uplink.New(uplink.Config{
		Brokers: []string{"mqtt://" + broker}, Node: s.name.Source, Now: time.Now, ResendAfter: 300 * time.Millisecond, AckWait: 50 * time.Millisecond,
		RetryMin: 10 * time.Millisecond, RetryMax: 100 * time.Millisecond, BatchBytes: 8 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Attach(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := u.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return u
}

// acked waits until the relay has acknowledged everything.
func (s *source) acked(t testing.TB) {
	t.Helper()
	edgetest.Eventually(t, func() bool { m := s.Marks(); return m.Acked == m.Last }, func() string { return fmt.Sprintf("%+v", s.Marks()) })
}

func asJSON(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

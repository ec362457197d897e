package relay_test

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/store"
	"wispgate/sync/relay"
)

const sampleID = edge.ID("whe_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33")

func TestEventsKeepTheirShape(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	edgetest.GoldenEvents(t, relay.Module(nil),
		relay.EndpointCreated{ID: sampleID, Name: "Accounting"}, relay.EndpointUpdated{ID: sampleID}, relay.EndpointDeleted{ID: sampleID, Name: "Accounting"},
		relay.EndpointSecretRotated{ID: sampleID, OldExpiresAt: &at}, relay.EndpointDisabled{ID: sampleID, Reason: "failing"},
		relay.EndpointEnabled{ID: sampleID}, relay.EndpointFailing{ID: sampleID, Since: at},
		relay.JobRequested{ID: sampleID.With("whj"), Kind: relay.JobReplay}, relay.JobFinished{ID: sampleID.With("whj"), Status: relay.JobDone, Count: 3},
	)
}

func TestEndpointLife(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, relay.Module(nil))
	in := map[string]any{"name": "Accounting", "url": "https://hooks.example.net/x", "events": []string{"billing.*"}}
	e, reply, err := edgetest.Try[relay.Endpoint](h, actor(), edge.Request{}, "relay.endpoint.create", in)
	if err != nil || e.Status != relay.Active || e.Order != relay.OrderNone || e.Concurrency == 0 || e.Rate == 0 || len(e.Secrets) != 1 {
		t.Fatalf("created %s, %v", asJSON(e), err)
	}
	if s := reply.Once[0]["secret"]; len(s) < 40 || s[:6] != "whsec_" {
		t.Error("no secret was shown")
	}
	for code, change := range map[string]map[string]any{
		"already_exists":         {"name": "accounting"},
		"event_filter_invalid":   {"name": "b", "events": []string{"billing*"}},
		"url_invalid":            {"name": "c", "url": "https://u@h.example/"},
		"webhook_secret_invalid": {"name": "d", "secret": "hunter2"},
	} {
		bad := map[string]any{"url": in["url"], "events": in["events"]}
		maps.Copy(bad, change)
		if got := edgetest.Code(t, h, actor(), "relay.endpoint.create", bad); got != code {
			t.Errorf("got %s, want %s", got, code)
		}
	}
	e = edgetest.Do[relay.Endpoint](t, h, actor(), "relay.endpoint.update", map[string]any{"id": e.ID, "order": "strict", "description": "d"})
	if e.Order != relay.OrderStrict || e.Description != "d" || e.Name != "Accounting" {
		t.Errorf("updated %s", asJSON(e))
	}
	if got := edgetest.Code(t, h, edgetest.Actor("other"), "relay.endpoint.update", map[string]any{"id": e.ID, "name": "mine"}); got != "not_found" {
		t.Errorf("another tenant's change: %s", got)
	}
	h.Clock.Advance(time.Hour)
	e, reply, err = edgetest.Try[relay.Endpoint](h, actor(), edge.Request{}, "relay.endpoint.rotate_secret", map[string]any{"id": e.ID, "overlap_hours": 2})
	if err != nil || len(e.Secrets) != 2 || e.Secrets[0].ExpiresAt != nil || !e.Secrets[1].ExpiresAt.Equal(h.Clock.Now().Add(2*time.Hour)) || reply.Once[0]["secret"] == "" {
		t.Errorf("rotated %s, %v", asJSON(e), err)
	}
	h.Clock.Advance(3 * time.Hour)
	if e = edgetest.Do[relay.Endpoint](t, h, actor(), "relay.endpoint.rotate_secret", map[string]any{"id": e.ID}); len(e.Secrets) != 2 {
		t.Errorf("an ended secret is kept: %s", asJSON(e.Secrets))
	}
	e = edgetest.Do[relay.Endpoint](t, h, actor(), "relay.endpoint.disable", map[string]any{"id": e.ID})
	if e.Status != relay.Disabled || e.DisabledReason != "operator" {
		t.Errorf("disabled %s", asJSON(e))
	}
	if got := edgetest.Code(t, h, actor(), "relay.endpoint.disable", map[string]any{"id": e.ID}); got != "endpoint_state" {
		t.Errorf("disabled twice: %s", got)
	}
	page := edgetest.Ask[edge.Page[relay.Endpoint]](t, h, actor(), "relay.endpoint.list", map[string]any{"status": "disabled"})
	if len(page.Data) != 1 || len(edgetest.Ask[edge.Page[relay.Endpoint]](t, h, actor(), "relay.endpoint.list", map[string]any{"status": "active"}).Data) != 0 {
		t.Errorf("list %s", asJSON(page))
	}
	if e = edgetest.Do[relay.Endpoint](t, h, actor(), "relay.endpoint.enable", map[string]any{"id": e.ID}); e.Status != relay.Active || e.DisabledReason != "" || e.DisabledAt != nil {
		t.Errorf("enabled %s", asJSON(e))
	}
	if got := edgetest.Code(t, h, actor(), "relay.delivery.replay", map[string]any{"endpoint_id": e.ID}); got != "replay_unbounded" {
		t.Errorf("a replay of everything: %s", got)
	}
	edgetest.Do[edge.None](t, h, actor(), "relay.endpoint.delete", map[string]any{"id": e.ID})
	if got := edgetest.Code(t, h, actor(), "relay.endpoint.test", map[string]any{"id": e.ID}); got != "not_found" {
		t.Errorf("test of a deleted one: %s", got)
	}
	want := []string{
		"relay.endpoint.created", "relay.endpoint.updated", "relay.endpoint.secret_rotated", "relay.endpoint.secret_rotated",
		"relay.endpoint.disabled", "relay.endpoint.enabled", "relay.endpoint.deleted",
	}
	if got := edgetest.EventTypes(t, h, tenant, 0); !slices.Equal(got, want) {
		t.Errorf("events %v", got)
	}
	edgetest.NoDrift(t, h)
}

func TestEndpointsAreBoundedPerTenant(t *testing.T) {
	t.Parallel()
	h := edgetest.Node(t, relay.Module(nil))
	add := func(n int) error {
		_, _, err := edgetest.Try[relay.Endpoint](h, actor(), edge.Request{}, "relay.endpoint.create",
			map[string]any{"name": "e" + time.Duration(n).String(), "url": "https://h.example/", "events": []string{"*"}})
		return err
	}
	for n := range 100 {
		if err := add(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(100); err == nil || edgetest.CodeOf(t, err) != "too_many_endpoints" {
		t.Errorf("the hundred and first: %v", err)
	}
}

// shifted is a clock that a test moves while timers go on in real time.
type shifted struct {
	mu sync.Mutex
	by time.Duration
}

func (s *shifted) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.by)
}

func (s *shifted) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by += d
}

func TestEndpointThatFailsForDaysIsDisabledAfterNotices(t *testing.T) {
	t.Parallel()
	clock := &shifted{}
	g := start(t, func(c *relay.Config) { c.Now = clock.now })
	rc := receive(t, status(500))
	// The endpoint is enabled at the kernel's time, long ago; the failure begins with the first attempt.
	e, _ := g.endpoint(rc.URL, map[string]any{"order": "strict"})
	src := newSource("clu-1")
	src.emit(t, 1, 1)
	publish(t, g.relay.Status().Plain, src)
	broken := func() { // settled: the failure has begun and nothing more happens before the clock moves
		g.eventually("breaker closed", func() bool { h := g.health(e.ID); return h.State == relay.HealthBroken && h.UnderWay == 0 })
	}
	has := func(event string, n int) func() bool {
		return func() bool {
			count := 0
			for _, typ := range edgetest.EventTypes(t, g.Harness, tenant, 0) {
				if typ == event {
					count++
				}
			}
			return count == n
		}
	}
	for i, d := range []time.Duration{2 * time.Hour, 24 * time.Hour, 48 * time.Hour} {
		broken()
		clock.advance(d)
		g.poke(e)
		g.eventually("notice missing", has("relay.endpoint.failing", i+1))
	}
	if !has("relay.endpoint.disabled", 0)() {
		t.Fatal("disabled before five days")
	}
	broken()
	clock.advance(60 * time.Hour)
	g.poke(e)
	g.eventually("not disabled", has("relay.endpoint.disabled", 1))
	e = edgetest.Ask[relay.Endpoint](t, g.Harness, actor(), "relay.endpoint.get", map[string]any{"id": e.ID})
	if e.Status != relay.Disabled || e.DisabledReason != "failing" {
		t.Errorf("endpoint %s", asJSON(e))
	}
	if d := g.deliveries(nil); len(d) != 1 || d[0].Status != relay.Pending {
		t.Errorf("the delivery did not wait: %s", asJSON(d))
	}
}

// poke makes the relay look at an endpoint again, as a moved clock does not fire timers.
func (g *rig) poke(e relay.Endpoint) {
	g.t.Helper()
	edgetest.Do[relay.Endpoint](g.t, g.Harness, actor(), "relay.endpoint.update", map[string]any{"id": e.ID, "description": time.Now().String()})
}

func TestOldEventsAreRemovedWithTheirDeliveries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clock := &shifted{}
	g := open(t, dir, func(c *relay.Config) { c.Now = clock.now })
	rc := receive(t, func(_ int, w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("thanks")) })
	e, _ := g.endpoint(rc.URL, nil)
	src := newSource("clu-1")
	src.emit(t, 150, 5)
	u := publish(t, g.relay.Status().Plain, src)
	rc.wait(150)
	g.eventually("still queued", func() bool { return g.relay.Status().Queued == 0 })
	clock.advance(31 * 24 * time.Hour)
	edgetest.Do[relay.Endpoint](t, g.Harness, actor(), "relay.endpoint.disable", map[string]any{"id": e.ID})
	src.emit(t, 20, 5)
	src.acked(t)
	if err := u.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	g.stop()
	g = open(t, dir, func(c *relay.Config) { c.Now = clock.now })
	events := func() int {
		return len(edgetest.Ask[edge.Page[relay.StoredEvent]](t, g.Harness, actor(), "relay.event.list", map[string]any{"limit": 200}).Data)
	}
	g.eventually("old events are kept", func() bool { return events() == 20 && len(g.deliveries(nil)) == 20 })
	if q := g.relay.Status().Queued; q != 20 {
		t.Errorf("%d queued for the disabled endpoint, want 20", q)
	}
	clock.advance(31 * 24 * time.Hour)
	g.stop()
	g = open(t, dir, func(c *relay.Config) { c.Now = clock.now })
	g.eventually("deliveries outlive their events", func() bool { return events() == 0 && len(g.deliveries(nil)) == 0 && g.relay.Status().Queued == 0 })
	// What a sender repeats after that is recognised by its position.
	publish(t, g.relay.Status().Plain, src)
	src.emit(t, 1, 1)
	src.acked(t)
	if n := events(); n != 1 {
		t.Errorf("%d events, want the new one alone", n)
	}
}

func TestFullDiskStopsAcknowledgingAndRecovers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	free := uint64(1 << 40)
	set := func(n uint64) { mu.Lock(); free = n; mu.Unlock() }
	st, err := store.Open(store.Options{
		Dir: t.TempDir(), BallastBytes: -1, PollEvery: 10 * time.Millisecond,
		FreeSpace: func(string) (uint64, uint64, error) { mu.Lock(); defer mu.Unlock(); return free, 1 << 40, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r, err := relay.New(relay.Config{ID: "noc", Store: st, Now: time.Now, Unsealer: unsealer{}, Broker: &relay.BrokerConfig{PlainListen: "127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.Stop(context.Background())
	src := newSource("clu-1")
	src.emit(t, 50, 5)
	publish(t, r.Status().Plain, src)
	src.acked(t)
	set(700 << 20)
	src.emit(t, 50, 5)
	edgetest.Eventually(t, func() bool { p := r.Status().Problem; return p != nil && p.Code == "disk_low" }, func() string { return asJSON(r.Status()) })
	if m := src.Marks(); m.Acked != 50 {
		t.Errorf("acknowledged %d on a full disk", m.Acked)
	}
	set(1 << 40)
	src.acked(t)
	if s := r.Status(); s.Problem != nil || s.Stored != 100 {
		t.Errorf("status %s", asJSON(s))
	}
}

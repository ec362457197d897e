package relay_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/sync/relay"
)

// feed starts a relay with one endpoint and sends it n events.
func feed(t *testing.T, n int, in map[string]any, change func(*relay.Config), answer func(int, http.ResponseWriter, *http.Request)) (*rig, *receiver, relay.Endpoint) {
	t.Helper()
	g := start(t, change)
	rc := receive(t, answer)
	e, secret := g.endpoint(rc.URL, in)
	rc.trust(secret)
	src := newSource("clu-1")
	src.emit(t, n, 5)
	publish(t, g.relay.Status().Plain, src)
	src.acked(t)
	return g, rc, e
}

func (g *rig) eventually(what string, ok func() bool) {
	g.t.Helper()
	edgetest.Eventually(g.t, ok, func() string { return what + ": " + asJSON(g.relay.Status()) + asJSON(g.deliveries(nil)) })
}

func TestFailuresAreRetriedUntilSuccess(t *testing.T) {
	t.Parallel()
	g, rc, _ := feed(t, 1, nil, nil, func(n int, w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader([]int{500, 404, 200}[min(n-1, 2)])
	})
	ids := rc.wait(3)
	if ids[0] != ids[1] || ids[1] != ids[2] {
		t.Errorf("the webhook-id changed over retries: %v", ids)
	}
	g.eventually("not delivered", func() bool { d := g.deliveries(nil); return len(d) == 1 && d[0].Status == relay.Delivered })
	d := edgetest.Ask[relay.DeliveryDetail](t, g.Harness, actor(), "relay.delivery.get", map[string]any{"id": g.deliveries(nil)[0].ID})
	var codes []int
	for _, a := range d.Log {
		codes = append(codes, a.Code)
		if len(a.BodyHash) != 64 {
			t.Errorf("attempt lacks the hash of its body: %+v", a)
		}
	}
	if !slices.Equal(codes, []int{500, 404, 200}) || d.Attempts != 3 {
		t.Errorf("log %s", asJSON(d))
	}
}

func TestExhaustedDeliveriesBecomeDeadLettersAndReplaysKeepTheID(t *testing.T) {
	t.Parallel()
	fail := true
	g, rc, e := feed(t, 1, nil, nil, nil)
	rc.wait(1)
	// A replay leaves alone what is under way, and an attempt is so for a moment after what came of it is stored.
	ended := func(as relay.DeliveryStatus) {
		t.Helper()
		g.eventually("not "+string(as), func() bool {
			return len(g.deliveries(map[string]any{"status": as})) == 1 && g.health(e.ID).UnderWay == 0
		})
	}
	ended(relay.Delivered)
	rc.mu.Lock()
	rc.answer = func(_ int, w http.ResponseWriter, _ *http.Request) {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		if fail {
			w.WriteHeader(422)
			_, _ = w.Write([]byte("no such thing"))
		}
	}
	rc.mu.Unlock()
	replay := func() relay.ReplayJob {
		return edgetest.Do[relay.ReplayJob](t, g.Harness, actor(), "relay.delivery.replay", map[string]any{"since": "2020-01-01T00:00:00Z", "endpoint_id": e.ID})
	}
	if j := replay(); j.Expected != 1 || j.Status != relay.JobPending {
		t.Errorf("job %s", asJSON(j))
	}
	ended(relay.Dead)
	ids := rc.ids()
	if len(ids) != 1+1+len(fast) {
		t.Errorf("%d attempts, want the first delivery, one replay and %d retries", len(ids), len(fast))
	}
	d := edgetest.Ask[relay.DeliveryDetail](t, g.Harness, actor(), "relay.delivery.get", map[string]any{"id": g.deliveries(nil)[0].ID})
	if len(d.Answers) == 0 || d.Answers[0].Body != "no such thing" || d.Log[len(d.Log)-1].Outcome != "http_422" {
		t.Errorf("detail %s", asJSON(d))
	}
	rc.mu.Lock()
	fail = false
	rc.mu.Unlock()
	edgetest.Do[relay.ReplayJob](t, g.Harness, actor(), "relay.delivery.replay", map[string]any{"status": "dead"})
	g.eventually("not delivered", func() bool { d := g.deliveries(nil); return d[0].Status == relay.Delivered && d[0].Replays == 2 })
	if len(g.deliveries(map[string]any{"status": "dead"})) != 0 {
		t.Error("a replayed delivery is still listed as a dead letter")
	}
	for _, id := range rc.ids() {
		if id != ids[0] {
			t.Errorf("a replay came under another id: %s", id)
		}
	}
}

func TestReplayPlanCountsAndChangesNothing(t *testing.T) {
	t.Parallel()
	g, rc, _ := feed(t, 30, nil, nil, nil)
	rc.wait(30)
	job, reply, err := edgetest.Try[relay.ReplayJob](g.Harness, actor(), edge.Request{DryRun: true}, "relay.delivery.replay", map[string]any{"event_types": []string{"crm.*"}})
	if err != nil || job.Expected != 30 || reply.State != "dry_run" {
		t.Errorf("plan %s %+v %v", asJSON(job), reply, err)
	}
	if page := edgetest.Ask[edge.Page[relay.ReplayJob]](t, g.Harness, actor(), "relay.job.list", map[string]any{}); len(page.Data) != 0 {
		t.Error("a plan left a job")
	}
	job = edgetest.Do[relay.ReplayJob](t, g.Harness, actor(), "relay.delivery.replay", map[string]any{"event_types": []string{"billing.*"}})
	g.eventually("job not done", func() bool {
		j := edgetest.Ask[relay.ReplayJob](t, g.Harness, actor(), "relay.job.get", map[string]any{"id": job.ID})
		return j.Status == relay.JobDone && j.Count == 0
	})
	event := rc.ids()[7]
	edgetest.Do[relay.ReplayJob](t, g.Harness, actor(), "relay.delivery.replay", map[string]any{"event_id": event})
	if ids := rc.wait(31); ids[30] != event {
		t.Errorf("replayed %s, want %s", ids[30], event)
	}
}

func TestANewEndpointGetsOldEventsOnlyByReplay(t *testing.T) {
	t.Parallel()
	g, rc, _ := feed(t, 250, nil, nil, nil)
	rc.wait(250)
	late := receive(t, nil)
	e, secret := g.endpoint(late.URL, nil)
	late.trust(secret)
	job := edgetest.Do[relay.ReplayJob](t, g.Harness, actor(), "relay.delivery.replay", map[string]any{"endpoint_id": e.ID, "event_types": []string{"*"}})
	if job.Expected != 250 {
		t.Errorf("expected %d", job.Expected)
	}
	late.wait(250)
	if n := len(rc.ids()); n != 250 {
		t.Errorf("the other endpoint got %d deliveries", n)
	}
}

func TestGoneDisablesTheEndpointAndItsEventsWait(t *testing.T) {
	t.Parallel()
	gone := func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }
	g, rc, e := feed(t, 1, nil, nil, gone)
	get := func() relay.Endpoint {
		return edgetest.Ask[relay.Endpoint](t, g.Harness, actor(), "relay.endpoint.get", map[string]any{"id": e.ID})
	}
	g.eventually("not disabled", func() bool { return get().Status == relay.Disabled })
	if got := get(); got.DisabledReason != "gone" {
		t.Errorf("reason %q", got.DisabledReason)
	}
	if types := edgetest.EventTypes(t, g.Harness, tenant, 0); !slices.Contains(types, "relay.endpoint.disabled") {
		t.Errorf("events %v", types)
	}
	if d := g.deliveries(nil); len(d) != 1 || d[0].Status != relay.Pending {
		t.Errorf("deliveries %s", asJSON(d))
	}
	n := len(rc.ids())
	if n != 1 {
		t.Errorf("%d attempts at an endpoint that is gone", n)
	}
	rc.mu.Lock()
	rc.answer = nil
	rc.mu.Unlock()
	edgetest.Do[relay.Endpoint](t, g.Harness, actor(), "relay.endpoint.enable", map[string]any{"id": e.ID})
	rc.wait(n + 1)
}

func TestRetryAfterSlowsTheEndpoint(t *testing.T) {
	t.Parallel()
	g, rc, e := feed(t, 20, map[string]any{"concurrency": 1}, nil, func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	rc.wait(1)
	g.eventually("not slowed", func() bool { return g.health(e.ID).State == relay.HealthSlowed })
	h := g.health(e.ID)
	if in := time.Until(*h.ResumesAt); in < 50*time.Minute || in > time.Hour {
		t.Errorf("resumes in %s, want an hour", in)
	}
	if n := len(rc.ids()); n != 1 {
		t.Errorf("%d attempts, want one: the endpoint asked for a pause", n)
	}
	g.eventually("retry not put off", func() bool {
		for _, d := range g.deliveries(nil) {
			if d.NextAt != nil && time.Until(*d.NextAt) > 50*time.Minute {
				return true
			}
		}
		return false
	})
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	target := receive(t, nil)
	g, rc, _ := feed(t, 1, nil, func(c *relay.Config) { c.Schedule = []time.Duration{time.Hour} }, func(_ int, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
	})
	rc.wait(1)
	g.eventually("no outcome", func() bool { return g.deliveries(nil)[0].Attempts == 1 })
	d := edgetest.Ask[relay.DeliveryDetail](t, g.Harness, actor(), "relay.delivery.get", map[string]any{"id": g.deliveries(nil)[0].ID})
	if d.Log[0].Outcome != "redirect_refused" || d.Log[0].Code != 307 || len(target.ids()) != 0 {
		t.Errorf("detail %s, target got %d", asJSON(d), len(target.ids()))
	}
}

func TestEndpointThatNeverAnswersTimesOut(t *testing.T) {
	t.Parallel()
	g, rc, _ := feed(t, 1, map[string]any{"timeout_seconds": 1}, func(c *relay.Config) { c.Schedule = []time.Duration{time.Hour} },
		func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	rc.wait(1)
	g.eventually("no outcome", func() bool { return g.deliveries(nil)[0].Attempts == 1 })
	d := edgetest.Ask[relay.DeliveryDetail](t, g.Harness, actor(), "relay.delivery.get", map[string]any{"id": g.deliveries(nil)[0].ID})
	if d.Log[0].Outcome != "timeout" || d.Log[0].Took < 900 || d.Log[0].Took > 20000 {
		t.Errorf("detail %s", asJSON(d))
	}
}

func TestEndlessAnswersAreCut(t *testing.T) {
	t.Parallel()
	g, rc, _ := feed(t, 1, map[string]any{"timeout_seconds": 5}, func(c *relay.Config) { c.Schedule = []time.Duration{time.Hour} },
		func(_ int, w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})
	rc.wait(1)
	g.eventually("no outcome", func() bool { return g.deliveries(nil)[0].Attempts == 1 })
	d := edgetest.Ask[relay.DeliveryDetail](t, g.Harness, actor(), "relay.delivery.get", map[string]any{"id": g.deliveries(nil)[0].ID})
	if d.Log[0].Outcome != "http_500" || d.Log[0].Took > 4000 || len(d.Answers) != 1 || len(d.Answers[0].Body) > 4096*3 {
		t.Errorf("detail %+v, answers %d", d.Log, len(d.Answers))
	}
}

func TestConnectionFailuresHaveNames(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *relay.Config) { c.Schedule = []time.Duration{time.Hour} })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().String()
	ln.Close()
	plain := receive(t, nil)
	want := map[edge.ID]string{}
	for url, outcome := range map[string]string{
		"http://" + closed:                    "connect_failed",
		"https" + plain.URL[len("http"):]:     "tls_failed",
		"https://does-not-exist.invalid:443/": "dns_failed",
	} {
		e, _ := g.endpoint(url, map[string]any{"name": outcome})
		want[e.ID] = outcome
	}
	src := newSource("clu-1")
	src.emit(t, 1, 1)
	publish(t, g.relay.Status().Plain, src)
	g.eventually("outcomes missing", func() bool {
		n := 0
		for _, d := range g.deliveries(nil) {
			n += d.Attempts
		}
		return n == len(want)
	})
	for _, d := range g.deliveries(nil) {
		full := edgetest.Ask[relay.DeliveryDetail](t, g.Harness, actor(), "relay.delivery.get", map[string]any{"id": d.ID})
		if got := full.Log[0].Outcome; got != want[d.Endpoint] {
			t.Errorf("outcome %s, want %s", got, want[d.Endpoint])
		}
	}
}

func TestPrivateAddressesAreRefusedEvenBehindANameThatResolvesToThem(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *relay.Config) { c.AllowPrivate, c.Schedule = nil, []time.Duration{time.Hour} })
	rc := receive(t, nil)
	for url, code := range map[string]string{
		rc.URL:                        "address_refused",
		"http://example.com/":         "plain_http_refused",
		"https://127.1/":              "url_invalid",
		"https://0x7f000001/":         "url_invalid",
		"https://2130706433/":         "url_invalid",
		"https://[::ffff:127.0.0.1]/": "address_refused",
		"https://u:p@example.com/":    "url_invalid",
		"ftp://example.com/":          "url_invalid",
		"https://8.8.8.8:22/":         "port_refused",
	} {
		if got := edgetest.Code(t, g.Harness, actor(), "relay.endpoint.create", map[string]any{"name": url, "url": url, "events": []string{"*"}}); got != code {
			t.Errorf("%s: got %s, want %s", url, got, code)
		}
	}
	// The name passes the form check; the address it resolves to is refused when it is dialled.
	g.endpoint("https://localhost:"+rc.URL[len("http://127.0.0.1:"):]+"/", map[string]any{"name": "sly"})
	src := newSource("clu-1")
	src.emit(t, 1, 1)
	publish(t, g.relay.Status().Plain, src)
	g.eventually("no outcome", func() bool { d := g.deliveries(nil); return len(d) == 1 && d[0].Attempts == 1 })
	d := edgetest.Ask[relay.DeliveryDetail](t, g.Harness, actor(), "relay.delivery.get", map[string]any{"id": g.deliveries(nil)[0].ID})
	if d.Log[0].Outcome != "address_refused" || len(rc.ids()) != 0 {
		t.Errorf("detail %s", asJSON(d))
	}
}

func TestOrderPerKeyHoldsBackTheKeyAlone(t *testing.T) {
	t.Parallel()
	var g *rig
	failed := map[string]int{}
	g, rc, _ := feed(t, 100, map[string]any{"order": "per_key", "concurrency": 8}, nil, nil)
	rc.wait(100)
	rc.mu.Lock()
	last := map[string]uint64{}
	for _, e := range rc.events {
		if e.Position <= last[e.Subject] {
			t.Errorf("%s: position %d after %d", e.Subject, e.Position, last[e.Subject])
		}
		last[e.Subject] = e.Position
	}
	rc.got, rc.events = nil, nil
	rc.answer = func(_ int, w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("webhook-id")
		rc.mu.Lock()
		failed[id]++
		n := failed[id]
		rc.mu.Unlock()
		if n <= 2 {
			w.WriteHeader(503 - 2)
		}
	}
	rc.mu.Unlock()
	edgetest.Do[relay.ReplayJob](t, g.Harness, actor(), "relay.delivery.replay", map[string]any{"since": "2020-01-01T00:00:00Z"})
	// Every event fails twice; the breaker opens in between, so only the order of what arrived is looked at.
	g.eventually("too few attempts", func() bool { return len(rc.ids()) >= 10 })
	rc.mu.Lock()
	defer rc.mu.Unlock()
	done := map[string]uint64{}
	for i, e := range rc.events {
		if e.Position < done[e.Subject] {
			t.Errorf("attempt %d of %s is for position %d after %d", i, e.Subject, e.Position, done[e.Subject])
		}
		done[e.Subject] = e.Position
	}
}

func TestOrderStrictIsOneAtATimeInOrderOfPosition(t *testing.T) {
	t.Parallel()
	_, rc, _ := feed(t, 60, map[string]any{"order": "strict", "concurrency": 8}, nil, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n%4 == 0 {
			w.WriteHeader(500)
		}
	})
	edgetest.Eventually(t, func() bool {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		return len(rc.events) > 0 && rc.events[len(rc.events)-1].Position == 60
	}, func() string { return fmt.Sprint(len(rc.ids())) })
	rc.mu.Lock()
	defer rc.mu.Unlock()
	for i := 1; i < len(rc.events); i++ {
		if d := rc.events[i].Position - rc.events[i-1].Position; d > 1 {
			t.Errorf("position %d came after %d", rc.events[i].Position, rc.events[i-1].Position)
		}
	}
}

func TestDeadEndpointsDoNotSlowOthers(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *relay.Config) { c.Workers = 32 })
	dead := receive(t, func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	good := receive(t, nil)
	bad, _ := g.endpoint(dead.URL, map[string]any{"timeout_seconds": 60, "concurrency": 8})
	g.endpoint(good.URL, map[string]any{"concurrency": 16})
	src := newSource("clu-1")
	src.emit(t, 1000, 50)
	publish(t, g.relay.Status().Plain, src)
	good.wait(1000)
	if n := len(dead.ids()); n > 8 {
		t.Errorf("%d attempts hang at the dead endpoint, want at most 8", n)
	}
	if h := g.health(bad.ID); h.Depth != 1000 {
		t.Errorf("the dead endpoint's queue holds %d", h.Depth)
	}
}

func TestBreakerOpensAfterTenFailures(t *testing.T) {
	t.Parallel()
	g, rc, e := feed(t, 200, map[string]any{"concurrency": 1}, nil, status(500))
	g.eventually("breaker closed", func() bool { return g.health(e.ID).State == relay.HealthBroken })
	if n := len(rc.ids()); n != 10 {
		t.Errorf("%d attempts before the breaker opened, want 10", n)
	}
}

func TestRotatedSecretsOverlap(t *testing.T) {
	t.Parallel()
	g, rc, e := feed(t, 1, nil, nil, nil)
	rc.wait(1)
	_, reply, err := edgetest.Try[relay.Endpoint](g.Harness, actor(), edge.Request{}, "relay.endpoint.rotate_secret", map[string]any{"id": e.ID})
	if err != nil {
		t.Fatal(err)
	}
	rotated := reply.Once[0]["secret"]
	// The harness's clock stands in the past, so the old secret has ended for the relay: only the new one signs.
	rc.trust(rotated)
	edgetest.Do[relay.ReplayJob](t, g.Harness, actor(), "relay.endpoint.test", map[string]any{"id": e.ID})
	rc.wait(2)
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if last := rc.events[1]; last.Type != "wispgate.relay.endpoint.tested.v1" || last.Subject != string(e.ID) {
		t.Errorf("test event %s", asJSON(last))
	}
}

func TestDeletedEndpointLeavesNothing(t *testing.T) {
	t.Parallel()
	g, rc, e := feed(t, 300, nil, nil, status(500))
	rc.wait(1)
	edgetest.Do[edge.None](t, g.Harness, actor(), "relay.endpoint.delete", map[string]any{"id": e.ID})
	g.eventually("rows are left", func() bool {
		return g.relay.Status().Queued == 0 && len(g.deliveries(map[string]any{"endpoint_id": e.ID})) == 0
	})
}

func TestStopLosesNoDelivery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	g := open(t, dir, nil)
	rc := receive(t, nil)
	e, secret := g.endpoint(rc.URL, map[string]any{"rate_per_second": 200})
	rc.trust(secret)
	src := newSource("clu-1")
	src.emit(t, 800, 5)
	u := publish(t, g.relay.Status().Plain, src)
	src.acked(t)
	rc.wait(100)
	if err := u.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	g.stop()
	before := len(rc.ids())
	if before >= 800 {
		t.Fatal("everything was delivered before the stop: the test shows nothing")
	}
	g = open(t, dir, nil)
	edgetest.Eventually(t, func() bool {
		seen := map[string]bool{}
		for _, id := range rc.ids() {
			seen[id] = true
		}
		return len(seen) == 800
	}, func() string { return asJSON(g.health(e.ID)) })
}

func TestListsPageThroughEverythingOnceAndRefuseForeignCursors(t *testing.T) {
	t.Parallel()
	g, rc, _ := feed(t, 120, nil, nil, nil)
	rc.wait(120)
	other := receive(t, nil)
	g.endpoint(other.URL, nil)
	edgetest.Do[relay.ReplayJob](t, g.Harness, actor(), "relay.delivery.replay", map[string]any{"event_types": []string{"*"}})
	other.wait(120)
	g.eventually("still queued", func() bool { return g.relay.Status().Queued == 0 })
	for _, in := range []map[string]any{{"limit": 7}, {"limit": 50, "status": "delivered"}, {"limit": 200}} {
		seen := map[edge.ID]bool{}
		for pages := 0; ; pages++ {
			page := edgetest.Ask[edge.Page[relay.Delivery]](t, g.Harness, actor(), "relay.delivery.list", in)
			for _, d := range page.Data {
				if seen[d.ID] {
					t.Fatalf("%s is listed twice", d.ID)
				}
				seen[d.ID] = true
			}
			if !page.HasMore || pages > 100 {
				break
			}
			in["cursor"] = page.NextCursor
		}
		if len(seen) != 240 {
			t.Errorf("limit %v: %d deliveries, want 240", in["limit"], len(seen))
		}
	}
	event := rc.ids()[3]
	if ds := g.deliveries(map[string]any{"event_id": event}); len(ds) != 2 {
		t.Errorf("%d deliveries of one event, want 2", len(ds))
	}
	full := edgetest.Ask[relay.StoredEvent](t, g.Harness, actor(), "relay.event.get", map[string]any{"id": event})
	if string(full.ID) != event || len(full.Envelope) == 0 || full.Position == 0 {
		t.Errorf("event %s", asJSON(full))
	}
	for _, op := range []string{"relay.event.list", "relay.delivery.list"} {
		for _, cursor := range []string{"x", "../../x", "whe_x/zz", "\u0000"} {
			raw := fmt.Sprintf(`{"cursor":%q}`, cursor)
			if _, _, err := g.Ask(t.Context(), actor(), op, []byte(raw), 0); err == nil {
				t.Errorf("%s took the cursor %q", op, cursor)
			}
		}
	}
	stranger := edgetest.Actor("other")
	for op, id := range map[string]string{"relay.event.get": event, "relay.delivery.get": string(g.deliveries(nil)[0].ID)} {
		if _, _, err := g.Ask(t.Context(), stranger, op, fmt.Appendf(nil, `{"id":%q}`, id), 0); err == nil || edgetest.CodeOf(t, err) != "not_found" {
			t.Errorf("%s for another tenant: %v", op, err)
		}
	}
	if page := edgetest.Ask[edge.Page[relay.StreamInfo]](t, g.Harness, stranger, "relay.stream.list", map[string]any{}); len(page.Data) != 0 {
		t.Error("another tenant sees the streams")
	}
}

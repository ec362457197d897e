package relay_test

import (
	"testing"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/sync/relay"
)

func TestModuleChecks(t *testing.T) {
	t.Parallel()
	if err := edge.Check([]edge.Module{relay.Module(nil)}); err != nil {
		t.Error(err)
	}
}

func TestEventsReachAnEndpointSignedAndOnce(t *testing.T) {
	t.Parallel()
	g := start(t, nil)
	rc := receive(t, nil)
	e, secret := g.endpoint(rc.URL, nil)
	rc.trust(secret)
	src := newSource("clu-1")
	src.emit(t, 500, 10)
	publish(t, g.relay.Status().Plain, src)
	src.acked(t)
	ids := rc.wait(500)
	seen := map[string]bool{}
	for _, id := range ids {
		if seen[id] {
			t.Errorf("event %s was delivered twice", id)
		}
		seen[id] = true
	}
	edgetest.Eventually(t, func() bool { return g.relay.Status().Queued == 0 }, func() string { return asJSON(g.relay.Status()) })
	page := edgetest.Ask[edge.Page[relay.StoredEvent]](t, g.Harness, actor(), "relay.event.list", map[string]any{"limit": 100})
	if len(page.Data) != 100 || page.Data[0].Position != 500 || page.Data[99].Position != 401 || !page.HasMore {
		t.Errorf("events: %d, first %d", len(page.Data), page.Data[0].Position)
	}
	streams := edgetest.Ask[edge.Page[relay.StreamInfo]](t, g.Harness, actor(), "relay.stream.list", map[string]any{}).Data
	if len(streams) != 1 || streams[0].Stored != 500 || streams[0].Events != 500 || streams[0].Online == nil || !*streams[0].Online {
		t.Errorf("streams %s", asJSON(streams))
	}
	if h := g.health(e.ID); h.State != relay.HealthOK || h.Depth != 0 {
		t.Errorf("health %s", asJSON(h))
	}
}

package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"wispgate/billing"
	"wispgate/edge"
)

const (
	demoTenant   = "demo"
	demoISP      = "Demo Wireless"
	demoZone     = "Africa/Harare"
	demoCurrency = "USD"
	perBatch     = 5 // subscribers: with all that follows from them they fit one entry
)

// demoSeed is what the seeding made, and how far it came. An interrupted one resumes: what was done is known here, and what was under way
// is answered with its first answer, because its idempotency key follows from the seed.
type demoSeed struct {
	Site     edge.ID   `json:"site,omitempty"`
	Policies []edge.ID `json:"policies,omitempty"`
	Plans    []edge.ID `json:"plans,omitempty"`
	NAS      edge.ID   `json:"nas,omitempty"`       // the tower's router
	OtherNAS edge.ID   `json:"other_nas,omitempty"` // registered with another secret than it holds
	Sold     bool      `json:"plans_published,omitempty"`
	Done     int       `json:"subscribers_done"` // seeded so far
	Begun    time.Time `json:"begun"`

	start time.Time // Begun: dates must be the same when a batch is sent again
}

// seeder fills a new node through its API.
type seeder struct {
	api    *demoClient
	state  *demoState
	save   func() error
	people []person
	added  func(upto int) // subscribers up to this one are there
}

// run goes through the stages; each is skipped when it was done before.
func (s *seeder) run(ctx context.Context) error {
	sd := &s.state.Seeded
	if sd.Begun.IsZero() {
		sd.Begun = time.Now().UTC().Truncate(time.Second)
		if err := s.save(); err != nil {
			return err
		}
	}
	sd.start = sd.Begun
	for _, stage := range []struct {
		done bool
		run  func(context.Context) error
	}{{sd.NAS != "", s.network}, {len(sd.Plans) > 0, s.plans}, {sd.Sold, s.publish}} {
		if stage.done {
			continue
		}
		if err := stage.run(ctx); err != nil {
			return err
		}
		if err := s.save(); err != nil {
			return err
		}
	}
	s.added(sd.Done)
	for sd.Done < len(s.people) {
		upto := min(sd.Done+perBatch, len(s.people))
		if err := s.subscribers(ctx, s.people[sd.Done:upto]); err != nil {
			return err
		}
		sd.Done = upto
		if err := s.save(); err != nil {
			return err
		}
		s.added(upto)
	}
	return nil
}

func (s *seeder) batch(ctx context.Context, stage string, list []command) ([]edge.ID, error) {
	answers, err := s.api.batch(ctx, fmt.Sprintf("demo-%d-%s", s.state.Seed, stage), list)
	if err != nil {
		return nil, fmt.Errorf("seed %s: %w", stage, err)
	}
	ids := make([]edge.ID, len(answers))
	for i, a := range answers {
		if ids[i], err = createdID(a); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// network makes the site, its routers and the policies.
func (s *seeder) network(ctx context.Context) error {
	list := []command{{"inventory.site.create", map[string]any{
		"code": "TWR7", "name": "Hill Farm tower", "kind": "tower", "timezone": demoZone, "height_m": 36,
		"coords": map[string]any{"lat_microdeg": -17829200, "lon_microdeg": 31052200},
	}}}
	for _, p := range demoPlans {
		list = append(list, command{"aaa.policy.create", map[string]any{
			"name": p.name, "down_kbps": p.downKbps, "up_kbps": p.upKbps, "burst_down_kbps": p.burstDown, "burst_up_kbps": p.burstUp,
			"pool": "homes", "interim_interval": 60,
		}})
	}
	ids, err := s.batch(ctx, "network", list)
	if err != nil {
		return err
	}
	sd := &s.state.Seeded
	sd.Site, sd.Policies = ids[0], ids[1:]
	routers, err := s.batch(ctx, "routers", []command{
		{"aaa.nas.register", map[string]any{"identifier": demoRouter, "addresses": []string{"127.0.0.1"}, "secret": s.state.NASSecret, "vendor": "mikrotik", "site_id": sd.Site}},
		{"aaa.nas.register", map[string]any{"identifier": "twr7-hotspot", "addresses": []string{staleRouter}, "secret": s.state.OtherSecret, "vendor": "mikrotik", "site_id": sd.Site}},
	})
	if err == nil {
		sd.NAS, sd.OtherNAS = routers[0], routers[1]
	}
	return err
}

func (s *seeder) plans(ctx context.Context) error {
	var list []command
	for i, p := range demoPlans {
		list = append(list, command{"billing.plan.create", map[string]any{
			"code": p.code, "name": p.name, "kind": p.kind, "price": billing.Money{AmountMinor: p.price, Currency: demoCurrency},
			"interval": p.interval, "policy_ref": s.state.Seeded.Policies[i],
		}})
	}
	ids, err := s.batch(ctx, "plans", list)
	s.state.Seeded.Plans = ids
	return err
}

func (s *seeder) publish(ctx context.Context) error {
	var list []command
	for _, id := range s.state.Seeded.Plans {
		list = append(list, command{"billing.plan.publish", map[string]any{"id": id}})
	}
	_, err := s.batch(ctx, "publish", list)
	s.state.Seeded.Sold = err == nil
	return err
}

// subscribers makes some of them in one commit, and then what befell those in trouble in another.
func (s *seeder) subscribers(ctx context.Context, people []person) error {
	var list, after []command
	credentials := make([]int, len(people))
	for i := range people {
		credentials[i] = len(list) + 2
		list = append(list, people[i].commands(&s.state.Seeded)...)
	}
	first := people[0].n
	ids, err := s.batch(ctx, fmt.Sprintf("subscribers-%d", first), list)
	if err != nil {
		return err
	}
	for i := range people {
		after = append(after, people[i].aftermath(ids[credentials[i]])...)
	}
	if len(after) == 0 {
		return nil
	}
	_, err = s.batch(ctx, fmt.Sprintf("aftermath-%d", first), after)
	return err
}

// registerHook registers the webhook receiver at the relay, or brings an older registration in line.
func registerHook(ctx context.Context, relay *demoClient, state *demoState, url string) error {
	if state.Endpoint != "" {
		if state.HookURL == url {
			return nil
		}
		return relay.call(ctx, http.MethodPatch, "/api/v1/relay/endpoints/"+string(state.Endpoint), "", map[string]any{"url": url}, nil)
	}
	var answer json.RawMessage
	err := relay.call(ctx, http.MethodPost, "/api/v1/relay/endpoints", fmt.Sprintf("demo-%d-endpoint", state.Seed), map[string]any{
		"name": "Demo office", "url": url, "events": demoEvents, "secret": state.HookSecret, "rate_per_second": 200, "concurrency": 8,
		"timeout_seconds": 5,
	}, &answer)
	if err != nil {
		return fmt.Errorf("register the webhook receiver: %w", err)
	}
	state.Endpoint, err = createdID(answer)
	return err
}

// demoEvents are what the demo's office wants to hear: everything but each usage report.
var demoEvents = []string{
	"crm.*", "billing.plan.*", "billing.subscription.*", "inventory.*", "aaa.nas.*", "aaa.policy.*", "aaa.credential.*",
	"aaa.session.started", "aaa.session.stopped", "aaa.auth.*",
}

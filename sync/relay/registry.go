package relay

import (
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"wispgate/edge"
)

// target is an endpoint as the deliverer sees it; it is never changed, only replaced.
type target struct {
	Endpoint
	sealed []sealedSecret
}

// registry is the in-memory set of endpoints, fed by a Watch.
type registry struct {
	log     *slog.Logger
	changed func(tenant string, id edge.ID, job bool) // must not block

	mu      sync.RWMutex
	tenants map[string]map[edge.ID]*target
	secrets map[edge.ID][]sealedSecret // by the endpoint's id
	jobs    map[edge.ID]string         // unfinished, to their tenant
}

func newRegistry(log *slog.Logger) *registry {
	return &registry{
		log: log, changed: func(string, edge.ID, bool) {}, tenants: map[string]map[edge.ID]*target{},
		secrets: map[edge.ID][]sealedSecret{}, jobs: map[edge.ID]string{},
	}
}

// apply is the Watch.
func (g *registry) apply(reset bool, _ uint64, changes []edge.Change) {
	g.mu.Lock()
	if reset {
		clear(g.tenants)
		clear(g.secrets)
		clear(g.jobs)
	}
	for _, c := range changes {
		switch c.Table {
		case endpoints.Name:
			g.endpointLocked(c)
		case secrets.Name:
			g.secretLocked(c)
		case jobs.Name:
			g.jobLocked(c)
		}
	}
	g.mu.Unlock()
	for _, c := range changes {
		g.changed(c.Tenant, c.ID.With(endpoints.Prefix), c.Table == jobs.Name)
	}
}

func (g *registry) endpointLocked(c edge.Change) {
	of := g.tenants[c.Tenant]
	if c.Val == nil {
		delete(of, c.ID)
		return
	}
	t := &target{sealed: g.secrets[c.ID]}
	if err := json.Unmarshal(c.Val, &t.Endpoint); err != nil {
		g.log.Error("endpoint cannot be read and is not called", "tenant", c.Tenant, "endpoint", c.ID, "error", err)
		return
	}
	if of == nil {
		of = map[edge.ID]*target{}
		g.tenants[c.Tenant] = of
	}
	of[c.ID] = t
}

func (g *registry) secretLocked(c edge.Change) {
	id := c.ID.With(endpoints.Prefix)
	if c.Val == nil {
		delete(g.secrets, id)
		return
	}
	var s secretRecord
	if err := json.Unmarshal(c.Val, &s); err != nil {
		g.log.Error("endpoint secrets cannot be read", "tenant", c.Tenant, "endpoint", id, "error", err)
		return
	}
	g.secrets[id] = s.Secrets
	if t := g.tenants[c.Tenant][id]; t != nil {
		next := *t
		next.sealed = s.Secrets
		g.tenants[c.Tenant][id] = &next
	}
}

func (g *registry) jobLocked(c edge.Change) {
	var j ReplayJob
	if c.Val != nil && json.Unmarshal(c.Val, &j) == nil && j.Status == JobPending {
		g.jobs[c.ID] = c.Tenant
	} else {
		delete(g.jobs, c.ID)
	}
}

// get returns an endpoint, nil when there is none.
func (g *registry) get(tenant string, id edge.ID) *target {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.tenants[tenant][id]
}

// matching lists the endpoints that want an event. Disabled ones too: their events wait.
func (g *registry) matching(tenant, event string) (ids []edge.ID) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for id, t := range g.tenants[tenant] {
		if t.wants(event) {
			ids = append(ids, id)
		}
	}
	return ids
}

// of lists a tenant's endpoints in order of id.
func (g *registry) of(tenant string) []edge.ID {
	g.mu.RLock()
	defer g.mu.RUnlock()
	ids := make([]edge.ID, 0, len(g.tenants[tenant]))
	for id := range g.tenants[tenant] {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// all lists every endpoint with its tenant.
func (g *registry) all() map[edge.ID]string {
	g.mu.RLock()
	defer g.mu.RUnlock()
	ids := map[edge.ID]string{}
	for tenant, of := range g.tenants {
		for id := range of {
			ids[id] = tenant
		}
	}
	return ids
}

// unfinished lists the jobs that still have to run, with their tenants.
func (g *registry) unfinished() map[edge.ID]string {
	g.mu.RLock()
	defer g.mu.RUnlock()
	list := make(map[edge.ID]string, len(g.jobs))
	maps.Copy(list, g.jobs)
	return list
}

// active are the sealed secrets that sign at a time, newest first.
func (t *target) active(now time.Time) (sealed []string) {
	for _, s := range t.sealed {
		if s.ExpiresAt == nil || now.Before(*s.ExpiresAt) {
			sealed = append(sealed, s.Sealed)
		}
	}
	return sealed
}

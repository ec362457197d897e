package app

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"wispgate/edge"
	"wispgate/edge/exec"
	"wispgate/edge/journal"
	"wispgate/edge/store"
	"wispgate/sync/cluster"
	"wispgate/sync/uplink"
)

// Status is how a node or relay is: what "wispgate status" and GET /api/v1/sync/status show. Streams are those of the asking tenant.
type Status struct {
	Node       string                   `json:"node"`
	Site       string                   `json:"site"`
	Program    string                   `json:"program"` // node or relay
	Version    string                   `json:"version"`
	Uptime     int64                    `json:"uptime_seconds"`
	Clock      ClockStatus              `json:"clock"`
	Cluster    cluster.Status           `json:"cluster"`
	Durability string                   `json:"durability" doc:"How far a committed write is durable: node, cluster or noc."`
	Disk       store.DiskState          `json:"disk"`
	Journals   map[string]JournalStatus `json:"journals"`
	Uplink     UplinkStatus             `json:"uplink"`
	Pending    exec.Pending             `json:"pending" doc:"What this node has accepted and the cluster has not taken over."`
}

// ClockStatus says how far the wall clock can be trusted.
type ClockStatus struct {
	Now     time.Time `json:"now"`
	Quality string    `json:"quality" doc:"synced, holdover or unsynced."`
	Trusted bool      `json:"trusted" doc:"Whether things fall due."`
	Ahead   int64     `json:"ahead_seconds,omitempty" doc:"By how much it is ahead of most voters' clocks, where that is too much: then their time counts."`
	Agrees  bool      `json:"agrees,omitempty" doc:"Whether it is one of a majority of the voters' that agree."`
}

// JournalStatus is one of the node's journals.
type JournalStatus struct {
	Incarnation string `json:"incarnation"`
	First       uint64 `json:"first"`
	Next        uint64 `json:"next"`
	Bytes       int64  `json:"bytes"`
	MaxBytes    int64  `json:"max_bytes"`
	Unconsumed  int64  `json:"unconsumed_bytes"`
	Full        bool   `json:"full"`
}

func journalStatus(j *journal.Journal) JournalStatus {
	s := j.Stats()
	return JournalStatus{incarnation(j.Incarnation()), s.First, s.Next, s.Bytes, s.MaxBytes, s.Unconsumed, s.Full}
}

// UplinkStatus is the way to the NOC.
type UplinkStatus struct {
	Enabled bool           `json:"enabled"`
	Streams []StreamStatus `json:"streams"`
}

// StreamStatus is where one stream stands: what the relay has stored, and what waits.
type StreamStatus struct {
	Source      string    `json:"source"`
	Incarnation string    `json:"incarnation"`
	Connected   bool      `json:"connected"`
	Since       time.Time `json:"since"`
	Stored      uint64    `json:"stored" doc:"Position up to which the relay has stored everything."`
	Last        uint64    `json:"last"`
	Backlog     uint64    `json:"backlog" doc:"Positions the relay has not acknowledged."`
	Problem     string    `json:"problem,omitempty"`
	Fix         string    `json:"fix,omitempty"`
}

func streamStatus(s uplink.StreamStatus) StreamStatus {
	out := StreamStatus{
		Source: s.Source, Incarnation: s.Incarnation, Connected: s.Connected, Since: s.Since, Stored: s.Acked, Last: s.Last, Backlog: s.Backlog,
	}
	if s.Problem != nil {
		out.Problem, out.Fix = s.Problem.Says, s.Problem.Fix
	}
	return out
}

// Checksum is the replicated state's checksum at a version: equal on every node at the same version.
type Checksum struct {
	Version  uint64 `json:"version"`
	Checksum string `json:"checksum"`
}

// Drift is what a comparison of the derived data with its sources found.
type Drift struct {
	Version uint64        `json:"version"`
	Records int           `json:"records"`
	Keys    int           `json:"keys"`
	Drift   []DriftedKeys `json:"drift"`
}

// DriftedKeys counts keys of one kind of problem: missing, stray or different.
type DriftedKeys struct {
	Problem string `json:"problem"`
	Keys    int    `json:"keys"`
}

// syncModule is the node's own domain: how it is and whether its state is sound.
func (c *core) syncModule(program string, streams func() []uplink.StreamStatus) edge.Module {
	c.statusNow = func() Status { return c.status(program, "", streams) }
	status := edge.Query[edge.None, Status]{
		Name: "sync.status.get", Scope: "sync:read", Class: edge.Read, Summary: "Show how the node is: state, streams, disk, clock.",
		Handle: func(v edge.View, _ edge.None) (Status, error) {
			return c.status(program, v.Actor().Tenant, streams), nil
		},
	}
	checksum := edge.Query[edge.None, Checksum]{
		Name: "sync.checksum.get", Scope: "sync:read", Class: edge.Report, Summary: "Compute the checksum of the replicated state at its version.",
		Handle: func(edge.View, edge.None) (Checksum, error) {
			version, sum, err := c.machine.Checksum()
			return Checksum{version, hex.EncodeToString(sum[:])}, err
		},
	}
	drift := edge.Query[edge.None, Drift]{
		Name: "sync.drift.get", Scope: "sync:read", Class: edge.Report,
		Summary: "Compute every index entry and derived record anew and compare with what is stored.",
		Handle:  func(edge.View, edge.None) (Drift, error) { return c.drift() },
	}
	m := exec.Part()
	m.Name, m.Summary = "sync", "How the node is: replication, what waits for the cluster, streams, disk and clock."
	m.Ops = append(m.Ops, status.Op(), checksum.Op(), drift.Op())
	m.Events = append(m.Events, AuditRecorded{}, AuditSigned{})
	m.Routes = append(
		m.Routes,
		edge.Route{Method: "GET", Path: "/api/v1/sync/status", Op: status.Op()},
		edge.Route{Method: "GET", Path: "/api/v1/sync/checksum", Op: checksum.Op()},
		edge.Route{Method: "GET", Path: "/api/v1/sync/drift", Op: drift.Op()},
	)
	if program != "relay" {
		m.Reasons = append(m.Reasons, carryReasons()...)
		m = with(m, cluster.Module(cluster.Ports{Directory: c.members, Live: c.live.Load}))
	}
	return m
}

// with adds what another room declares of the same domain.
func with(m, part edge.Module) edge.Module {
	m.Tables, m.Ops, m.Routes = append(m.Tables, part.Tables...), append(m.Ops, part.Ops...), append(m.Routes, part.Routes...)
	m.Events, m.Reasons = append(m.Events, part.Events...), append(m.Reasons, part.Reasons...)
	m.Workers, m.Watches = append(m.Workers, part.Workers...), append(m.Watches, part.Watches...)
	return m
}

func (c *core) status(program, tenant string, streams func() []uplink.StreamStatus) Status {
	c.cluster.Around(c.ctx) // without a leader: whom it reaches is said as it is now
	s := Status{
		Node: c.id.Node, Site: c.id.Site, Program: program, Version: c.opts.Version, Uptime: int64(c.now().Sub(c.started) / time.Second),
		Clock:   c.clockStatus(),
		Cluster: c.cluster.Status(), Durability: c.durability(), Pending: c.exec.Pending(), Disk: c.store.DiskState(), Journals: map[string]JournalStatus{},
		Uplink: UplinkStatus{Enabled: streams != nil, Streams: []StreamStatus{}},
	}
	for name, j := range c.journals {
		s.Journals[name] = journalStatus(j)
	}
	if streams == nil {
		return s
	}
	for _, st := range streams() {
		if st.Tenant == tenant || tenant == "" {
			s.Uplink.Streams = append(s.Uplink.Streams, streamStatus(st))
		}
	}
	return s
}

func (c *core) drift() (Drift, error) {
	return driftOf(c.ctx, c.exec)
}

func driftOf(ctx context.Context, x *exec.Exec) (Drift, error) {
	rep, err := x.Rebuild(ctx, false)
	if err != nil {
		return Drift{}, err
	}
	d := Drift{Version: rep.Version, Records: rep.Records, Keys: rep.Keys, Drift: []DriftedKeys{}}
	for _, k := range rep.Drift { // keys of other tenants stay unnamed
		i := slices.IndexFunc(d.Drift, func(x DriftedKeys) bool { return x.Problem == k.Problem })
		if i < 0 {
			d.Drift = append(d.Drift, DriftedKeys{Problem: k.Problem})
			i = len(d.Drift) - 1
		}
		d.Drift[i].Keys++
	}
	return d, nil
}

func (c *core) clockStatus() ClockStatus {
	now := c.now()
	_, ahead := c.floor.settle(now)
	return ClockStatus{Now: now.UTC(), Quality: c.clock.Quality().String(), Trusted: c.clockTrusted(), Ahead: int64(ahead / time.Second), Agrees: c.floor.agreed.Agrees()}
}

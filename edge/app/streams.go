package app

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/edge/exec"
	"wispgate/edge/journal"
	"wispgate/sync/uplink"
	"wispgate/sync/wire"
)

// clusterStream is one tenant's committed events on their way up. Its position is the version.
type clusterStream struct {
	name uplink.Name
	exec *exec.Exec

	mu    sync.Mutex
	acked uint64 // told by the relay, perhaps not committed yet
}

func (s *clusterStream) Name() uplink.Name { return s.name }

func (s *clusterStream) Marks() uplink.Marks {
	mark, err := s.exec.Mark(exec.StreamMark, s.name.Tenant)
	if err != nil {
		mark = 0 // reading begins too early, which is harmless: the relay knows what it has
	}
	heads, err := s.exec.Heads()
	if err != nil {
		return uplink.Marks{Base: mark, Acked: mark, Last: mark}
	}
	return uplink.Marks{Base: mark, Acked: mark, Last: max(heads[s.name.Tenant], mark)}
}

func (s *clusterStream) Read(_ context.Context, after uint64, maxBytes int) ([]wire.Item, uint64, error) {
	rows, _, err := s.exec.Events(s.name.Tenant, after, maxBytes)
	if err != nil || len(rows) == 0 {
		return nil, after, err
	}
	// Not the state's version, which other tenants move: what the relay acknowledges must not lie beyond Marks().Last.
	upto := rows[len(rows)-1].Position
	items := make([]wire.Item, len(rows))
	for i, row := range rows {
		if items[i], err = wire.NewItem(s.name.Source, row, ""); err != nil {
			return nil, after, err
		}
	}
	return items, upto, nil
}

func (s *clusterStream) Wait(ctx context.Context, after uint64) error {
	return s.exec.WaitEvents(ctx, s.name.Tenant, after)
}

// Acked remembers what the relay holds; commitMarks writes it. A mark per acknowledgement would be an entry per event.
func (s *clusterStream) Acked(upto uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = max(s.acked, upto)
	return nil
}

// commit writes the mark if it has moved.
func (s *clusterStream) commit(ctx context.Context) error {
	s.mu.Lock()
	acked := s.acked
	s.mu.Unlock()
	mark, err := s.exec.Mark(exec.StreamMark, s.name.Tenant)
	if err != nil || acked <= mark {
		return err
	}
	return s.exec.SetMark(ctx, exec.StreamMark, s.name.Tenant, acked)
}

// fact is what a node witnessed, as its journal of facts keeps it and the node stream publishes it.
type fact struct {
	Tenant  string          `json:"tenant"`
	Type    string          `json:"type"` // aaa.auth.rejected
	Subject edge.ID         `json:"subject,omitempty"`
	Time    time.Time       `json:"time"`
	Data    json.RawMessage `json:"data"`
}

// kindFact is the only kind of the journal of facts.
const kindFact journal.Kind = 1

// journalStream is one tenant's share of a journal of this node, facts or audit, on its way up. Its position is the journal's sequence;
// positions that belong to others are ranges without events.
type journalStream struct {
	name    uplink.Name
	journal *journal.Journal
	acks    *journalAcks
	event   func(r journal.Record) (row edge.EventRow, ok bool) // type, tenant, subject, time and what happened
}

func (s *journalStream) Name() uplink.Name { return s.name }

func (s *journalStream) Marks() uplink.Marks {
	return uplink.Marks{Base: s.journal.First() - 1, Acked: max(s.acks.of(s.name.Tenant), s.journal.First()-1), Last: s.journal.Next() - 1}
}

// factsAtOnce bounds how many records one Read visits.
const factsAtOnce = 1000

func (s *journalStream) Read(_ context.Context, after uint64, maxBytes int) (items []wire.Item, upto uint64, err error) {
	size, upto := 0, after
	_, err = s.journal.Read(after+1, factsAtOnce, func(r journal.Record) error {
		if size > maxBytes {
			return errEnough
		}
		item, mine, err := s.item(r)
		if err != nil {
			return err
		}
		if mine {
			items = append(items, item)
			size += len(item.Raw)
		}
		upto = r.Seq
		return nil
	})
	if err == errEnough { //nolint:errorlint // our own, handed back as it is
		err = nil
	}
	return items, upto, err
}

var errEnough = errors.New("enough")

func (s *journalStream) item(r journal.Record) (item wire.Item, mine bool, err error) {
	row, ok := s.event(r)
	if !ok || row.Tenant != s.name.Tenant {
		return item, false, nil
	}
	row.ID, row.Position = wire.FactID(s.name.Source, s.name.Incarnation, r.Seq, 0), r.Seq
	if row.Actor == "" {
		row.Actor = "node:" + s.name.Source
	}
	item, err = wire.NewItem(s.name.Source, row, "")
	return item, true, err
}

// factEvent reads a record of the journal of facts.
func factEvent(r journal.Record) (edge.EventRow, bool) {
	var f fact
	if r.Kind != kindFact || json.Unmarshal(r.Payload, &f) != nil {
		return edge.EventRow{}, false
	}
	return edge.EventRow{Type: f.Type, Tenant: f.Tenant, Subject: f.Subject, Time: f.Time, Changed: f.Data}, true
}

// auditEvent reads a record of the audit journal: a line of its tenant's, or a signed head, which belongs to the platform.
func auditEvent(r journal.Record) (edge.EventRow, bool) {
	if r.Kind == journal.KindHead {
		h, err := journal.ParseHead(r.Payload)
		if err != nil {
			return edge.EventRow{}, false
		}
		raw, err := json.Marshal(AuditSigned{
			Sequence: h.Seq, Hash: hex.EncodeToString(h.Hash[:]), Signature: hex.EncodeToString(h.Signature[:]), Incarnation: incarnation(h.Incarnation),
		})
		return edge.EventRow{Type: AuditSigned{}.EventName(), Tenant: edge.System, Time: r.Wall, Changed: raw}, err == nil
	}
	var line AuditRecorded
	if r.Kind != kindAudit || json.Unmarshal(r.Payload, &line) != nil {
		return edge.EventRow{}, false
	}
	if line.Tenant == "" {
		line.Tenant = edge.System // refused before anyone was known
	}
	raw, err := json.Marshal(line)
	return edge.EventRow{Type: line.EventName(), Tenant: line.Tenant, Time: line.Time, Actor: line.Actor, Operation: line.Operation, Changed: raw}, err == nil
}

func (s *journalStream) Wait(ctx context.Context, after uint64) error {
	return s.journal.Wait(ctx, after+1)
}

func (s *journalStream) Acked(upto uint64) error {
	s.acks.note(s.name.Tenant, upto)
	return nil
}

// journalAcks knows how far the relay holds each tenant's share of a journal. What all of them hold may be forgotten.
type journalAcks struct {
	mu   sync.Mutex
	upto map[string]uint64
}

func (a *journalAcks) of(tenant string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.upto[tenant]
}

func (a *journalAcks) note(tenant string, upto uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.upto[tenant] = max(a.upto[tenant], upto)
}

func newAcks() *journalAcks { return &journalAcks{upto: map[string]uint64{}} }

// add makes room for a tenant: until it acknowledges, nothing is forgotten.
func (a *journalAcks) add(tenant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.upto[tenant]; !ok {
		a.upto[tenant] = 0
	}
}

// all is what every tenant's stream has passed.
func (a *journalAcks) all() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var least uint64
	first := true
	for _, n := range a.upto {
		if first || n < least {
			least, first = n, false
		}
	}
	return least
}

func incarnation(n uint64) string { return strconv.FormatUint(n, 16) }

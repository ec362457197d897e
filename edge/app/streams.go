package app

import (
	"context"
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

// factStream is one tenant's facts of this node. Its position is the journal's sequence; positions that belong to others are ranges
// without events.
type factStream struct {
	name    uplink.Name
	journal *journal.Journal
	acks    *factAcks
}

func (s *factStream) Name() uplink.Name { return s.name }

func (s *factStream) Marks() uplink.Marks {
	return uplink.Marks{Base: s.journal.First() - 1, Acked: max(s.acks.of(s.name.Tenant), s.journal.First()-1), Last: s.journal.Next() - 1}
}

// factsAtOnce bounds how many records one Read visits.
const factsAtOnce = 1000

func (s *factStream) Read(_ context.Context, after uint64, maxBytes int) (items []wire.Item, upto uint64, err error) {
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

func (s *factStream) item(r journal.Record) (item wire.Item, mine bool, err error) {
	var f fact
	if r.Kind != kindFact || json.Unmarshal(r.Payload, &f) != nil || f.Tenant != s.name.Tenant {
		return item, false, nil //nolint:nilerr // what is no fact of this tenant makes no event
	}
	row := edge.EventRow{
		ID: wire.FactID(s.name.Source, s.name.Incarnation, r.Seq, 0), Type: f.Type, Tenant: f.Tenant, Subject: f.Subject, Time: f.Time,
		Actor: "node:" + s.name.Source, Changed: f.Data, Position: r.Seq,
	}
	item, err = wire.NewItem(s.name.Source, row, "")
	return item, true, err
}

func (s *factStream) Wait(ctx context.Context, after uint64) error {
	return s.journal.Wait(ctx, after+1)
}

func (s *factStream) Acked(upto uint64) error {
	s.acks.note(s.name.Tenant, upto)
	return nil
}

// factAcks knows how far the relay holds each tenant's facts. What all of them hold may be forgotten.
type factAcks struct {
	mu   sync.Mutex
	upto map[string]uint64
}

func (a *factAcks) of(tenant string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.upto[tenant]
}

func (a *factAcks) note(tenant string, upto uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.upto[tenant] = max(a.upto[tenant], upto)
}

// add makes room for a tenant: until it acknowledges, nothing is forgotten.
func (a *factAcks) add(tenant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.upto[tenant]; !ok {
		a.upto[tenant] = 0
	}
}

// all is what every tenant's stream has passed.
func (a *factAcks) all() uint64 {
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

package relay

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
	"wispgate/sync/wire"
)

// IDInput names one record.
type IDInput struct {
	ID edge.ID `json:"id"`
}

// scanBudget bounds the rows that one page of a filtered list looks at; a page may then hold less than its limit, and says has_more.
const scanBudget = 5000

var getEndpoint = edge.Query[IDInput, Endpoint]{
	Name: "relay.endpoint.get", Scope: "relay:read", Class: edge.Read, Summary: "Show an endpoint",
	Handle: func(v edge.View, in IDInput) (Endpoint, error) { return endpoints.Get(v, in.ID) },
}

// EndpointList chooses endpoints.
type EndpointList struct {
	edge.ListInput
	Status EndpointStatus `json:"status,omitempty"`
}

var listEndpoints = edge.Query[EndpointList, edge.Page[Endpoint]]{
	Name: "relay.endpoint.list", Scope: "relay:read", Class: edge.Read, Summary: "List endpoints",
	Handle: func(v edge.View, in EndpointList) (edge.Page[Endpoint], error) {
		if in.Status != "" {
			return endpoints.List(v, "status", string(in.Status), in.ListInput)
		}
		return endpoints.List(v, "", "", in.ListInput)
	},
}

func (r *Relay) endpointHealth() edge.Query[IDInput, EndpointHealth] {
	return edge.Query[IDInput, EndpointHealth]{
		Name: "relay.endpoint.health", Scope: "relay:read", Class: edge.Read, Summary: "Show how an endpoint does: its state, its queue, its last outcome",
		Handle: func(v edge.View, in IDInput) (EndpointHealth, error) {
			e, err := endpoints.Get(v, in.ID)
			if err != nil {
				return EndpointHealth{}, err
			}
			if r != nil {
				if h, ok := r.dlv.health(e.ID); ok && h.ID != "" {
					return h, nil
				}
			}
			return EndpointHealth{}, edge.ErrStarting.Error(edge.Unavailable)
		},
	}
}

var getJob = edge.Query[IDInput, ReplayJob]{
	Name: "relay.job.get", Scope: "relay:read", Class: edge.Read, Summary: "Show a replay or test and how far it is",
	Handle: func(v edge.View, in IDInput) (ReplayJob, error) { return jobs.Get(v, in.ID) },
}

// JobList chooses jobs.
type JobList struct {
	edge.ListInput
	Status JobStatus `json:"status,omitempty"`
}

var listJobs = edge.Query[JobList, edge.Page[ReplayJob]]{
	Name: "relay.job.list", Scope: "relay:read", Class: edge.Read, Summary: "List replays and tests",
	Handle: func(v edge.View, in JobList) (edge.Page[ReplayJob], error) {
		if in.Status != "" {
			return jobs.List(v, "status", string(in.Status), in.ListInput)
		}
		return jobs.List(v, "", "", in.ListInput)
	},
}

// look opens the relay's own store for a query.
func (r *Relay) look() (*store.Snapshot, error) {
	if r == nil {
		return nil, edge.ErrStarting.Error(edge.Unavailable)
	}
	return r.cfg.Store.Snapshot(), nil
}

// StoredEvent is an event as the relay keeps it.
type StoredEvent struct {
	ID          edge.ID         `json:"id"`
	Type        string          `json:"type" check:"max=128"`
	Subject     string          `json:"subject,omitempty" check:"max=256"`
	Time        time.Time       `json:"time"`
	StoredAt    time.Time       `json:"stored_at"`
	Source      string          `json:"source" check:"max=64" doc:"Cluster or node."`
	Incarnation string          `json:"incarnation,omitempty" check:"max=64" doc:"Absent for events that the relay made itself."`
	Position    uint64          `json:"position" doc:"In its stream."`
	Envelope    json.RawMessage `json:"envelope,omitempty" doc:"The CloudEvent as it is delivered; shown for single events."`

	seq uint64
}

func (s *stored) shown() (StoredEvent, error) {
	it, err := s.item()
	if err != nil {
		return StoredEvent{}, fmt.Errorf("stored event %d: %w", s.Seq, err)
	}
	return StoredEvent{
		ID: edge.ID(it.ID), Type: it.Type, Subject: it.Subject, Time: it.Time, StoredAt: s.Meta.At, Source: s.Meta.Source,
		Incarnation: s.Meta.Incarnation, Position: it.Position, seq: s.Seq,
	}, nil
}

func (r *Relay) getEvent() edge.Query[IDInput, StoredEvent] {
	return edge.Query[IDInput, StoredEvent]{
		Name: "relay.event.get", Scope: "relay:read", Class: edge.Read, Summary: "Show a stored event with its envelope",
		Handle: func(v edge.View, in IDInput) (e StoredEvent, err error) {
			sn, err := r.look()
			if err != nil {
				return e, err
			}
			defer sn.Close()
			seq, ok, err := seqOf(sn, v.Actor().Tenant, in.ID)
			if err != nil || !ok {
				return e, missing(err, "There is no such event, or it is older than the relay keeps events")
			}
			s, ok, err := getEvent(sn, v.Actor().Tenant, seq)
			if err != nil || !ok {
				return e, missing(err, "There is no such event, or it is older than the relay keeps events")
			}
			e, err = s.shown()
			e.Envelope = s.Raw
			return e, err
		},
	}
}

func missing(err error, says string) error {
	if err != nil {
		return err
	}
	e := edge.ErrNotFound.Error(edge.NotFound)
	e.Message = says
	return e
}

// EventList chooses events.
type EventList struct {
	edge.ListInput
	Source string     `json:"source,omitempty" check:"max=64" doc:"Only of this cluster or node."`
	Type   string     `json:"type,omitempty" check:"max=128" doc:"Event name, a prefix ending in .*, or *."`
	Since  *time.Time `json:"since,omitempty" doc:"Stored at this time or later."`
	Until  *time.Time `json:"until,omitempty" doc:"Stored before this time."`
}

func (r *Relay) listEvents() edge.Query[EventList, edge.Page[StoredEvent]] {
	return edge.Query[EventList, edge.Page[StoredEvent]]{
		Name: "relay.event.list", Scope: "relay:read", Class: edge.Read, Summary: "List stored events with their positions, the newest first",
		Handle: func(v edge.View, in EventList) (edge.Page[StoredEvent], error) {
			page := edge.Page[StoredEvent]{Data: []StoredEvent{}}
			sn, err := r.look()
			if err != nil {
				return page, err
			}
			defer sn.Close()
			low, high, err := in.bounds(sn, v.Actor().Tenant, r.lastSeq.Load())
			if err != nil {
				return page, err
			}
			found, next, err := backwards(sn, v.Actor().Tenant, low, high, limit(in.ListInput), in.wants)
			if err != nil {
				return page, err
			}
			page.Data = append(page.Data, found...)
			if next > low {
				page.HasMore, page.NextCursor = true, hex16(next)
			}
			return page, nil
		},
	}
}

func (in *EventList) wants(e *StoredEvent) bool {
	return (in.Source == "" || in.Source == e.Source) && (in.Type == "" || matches([]string{in.Type}, wire.EventName(e.Type)))
}

// bounds turns times and cursor into sequence numbers [low, high).
func (in *EventList) bounds(sn *store.Snapshot, tenant string, last uint64) (low, high uint64, err error) {
	high = last + 1
	if in.Until != nil {
		if high, err = seqAt(sn, tenant, *in.Until, last); err != nil {
			return 0, 0, err
		}
	}
	if in.Since != nil {
		if low, err = seqAt(sn, tenant, *in.Since, last); err != nil {
			return 0, 0, err
		}
	}
	if in.Cursor != "" {
		at, ok := unhex16(in.Cursor)
		if !ok {
			return 0, 0, edge.ErrCursor.Error(edge.Invalid)
		}
		high = min(high, at)
	}
	return low, high, nil
}

// backwards collects up to n events of [low, high) that are wanted, the newest first, and says below which to go on. The store only
// reads forwards, so it looks at windows that grow.
func backwards(sn *store.Snapshot, tenant string, low, high uint64, n int, wants func(*StoredEvent) bool) (found []StoredEvent, next uint64, err error) {
	budget := scanBudget
	for width := uint64(2 * n); high > low && len(found) < n && budget > 0; width *= 2 {
		from := low
		if high-low > width {
			from = high - width
		}
		var window []StoredEvent
		err = scanEvents(sn, tenant, from, func(s stored) (bool, error) {
			if s.Seq >= high {
				return false, nil
			}
			budget--
			e, err := s.shown()
			if err == nil && wants(&e) {
				window = append(window, e)
			}
			return true, err
		})
		if err != nil {
			return nil, 0, err
		}
		slices.Reverse(window)
		found = append(found, window...)
		high = from
	}
	if len(found) > n {
		found = found[:n]
		high = found[n-1].seq
	}
	return found, high, nil
}

// DeliveryList chooses deliveries.
type DeliveryList struct {
	edge.ListInput
	Endpoint edge.ID        `json:"endpoint_id,omitempty" check:"prefix=whe"`
	Event    edge.ID        `json:"event_id,omitempty"`
	Status   DeliveryStatus `json:"status,omitempty"`
}

func (r *Relay) listDeliveries() edge.Query[DeliveryList, edge.Page[Delivery]] {
	return edge.Query[DeliveryList, edge.Page[Delivery]]{
		Name: "relay.delivery.list", Scope: "relay:read", Class: edge.Read, Summary: "List deliveries by endpoint, the newest first",
		Handle: func(v edge.View, in DeliveryList) (edge.Page[Delivery], error) {
			page := edge.Page[Delivery]{Data: []Delivery{}}
			sn, err := r.look()
			if err != nil {
				return page, err
			}
			defer sn.Close()
			l := lister{sn: sn, tenant: v.Actor().Tenant, in: in, page: &page, left: limit(in.ListInput), budget: scanBudget}
			ids := []edge.ID{in.Endpoint}
			if in.Endpoint == "" {
				ids = r.reg.of(l.tenant)
			}
			if in.Event != "" {
				return page, l.ofEvent(ids)
			}
			return page, l.ofEndpoints(ids)
		},
	}
}

type lister struct {
	sn           *store.Snapshot
	tenant       string
	in           DeliveryList
	page         *edge.Page[Delivery]
	left, budget int
}

func (l *lister) add(d Delivery) {
	if l.in.Status == "" || l.in.Status == d.Status {
		d.Log = nil
		l.page.Data = append(l.page.Data, d)
		l.left--
	}
}

func (l *lister) ofEvent(ids []edge.ID) error {
	seq, ok, err := seqOf(l.sn, l.tenant, l.in.Event)
	if err != nil || !ok {
		return err
	}
	for _, id := range ids {
		d, ok, err := getDelivery(l.sn, l.tenant, id, seq)
		if err != nil {
			return err
		}
		if ok {
			l.add(d)
		}
	}
	return nil
}

// ofEndpoints goes through the endpoints in order of id; the cursor is endpoint/row.
func (l *lister) ofEndpoints(ids []edge.ID) error {
	at, row, _ := strings.Cut(l.in.Cursor, "/")
	if _, ok := unhex16(row); l.in.Cursor != "" && !ok {
		return edge.ErrCursor.Error(edge.Invalid)
	}
	for _, id := range ids {
		if string(id) < at {
			continue
		}
		from := ""
		if string(id) == at {
			from = row
		}
		stop, err := l.ofEndpoint(id, from)
		if err != nil || stop {
			return err
		}
	}
	return nil
}

func (l *lister) ofEndpoint(id edge.ID, from string) (stop bool, err error) {
	prefix := deliveryPrefix(l.tenant, id)
	if l.in.Status == Dead {
		prefix = deadPrefix(l.tenant, id)
	}
	err = l.sn.Scan([]byte(prefix), []byte(prefix+from), func(k, _ []byte) (bool, error) {
		inv := string(k[len(prefix):])
		if l.left == 0 || l.budget == 0 {
			stop = true
			l.page.HasMore, l.page.NextCursor = true, string(id)+"/"+inv
			return false, nil
		}
		l.budget--
		seq, ok := uninverted(inv)
		if !ok {
			return false, fmt.Errorf("delivery key %q is damaged", k)
		}
		d, ok, err := getDelivery(l.sn, l.tenant, id, seq)
		if err == nil && ok {
			l.add(d)
		}
		return true, err
	})
	return stop, err
}

// DeliveryDetail is a delivery with what the endpoint answered.
type DeliveryDetail struct {
	Delivery
	Answers []Answer `json:"answers,omitempty" doc:"First octets of the answers, kept for a week."`
}

// Answer is the beginning of what an endpoint answered.
type Answer struct {
	At   time.Time `json:"at"`
	Code int       `json:"code"`
	Body string    `json:"body" check:"max=4096"`
}

func (r *Relay) getDelivery() edge.Query[IDInput, DeliveryDetail] {
	return edge.Query[IDInput, DeliveryDetail]{
		Name: "relay.delivery.get", Scope: "relay:read", Class: edge.Read, Summary: "Show a delivery with its attempts and the endpoint's answers",
		Handle: func(v edge.View, in IDInput) (out DeliveryDetail, err error) {
			sn, err := r.look()
			if err != nil {
				return out, err
			}
			defer sn.Close()
			seq, ok := seqOfDelivery(in.ID)
			for _, id := range r.reg.of(v.Actor().Tenant) {
				if !ok || deliveryID(id, seq) != in.ID {
					continue
				}
				d, found, err := getDelivery(sn, v.Actor().Tenant, id, seq)
				if err != nil {
					return out, err
				}
				if found {
					out.Delivery = d
					return out, out.readAnswers(sn)
				}
			}
			return out, missing(nil, "There is no such delivery, or it is older than the relay keeps deliveries")
		},
	}
}

func (d *DeliveryDetail) readAnswers(sn *store.Snapshot) error {
	for _, a := range d.Log {
		prefix := answerKey(d.Tenant, d.Endpoint, d.Seq, 0, a.At)
		prefix = prefix[:len(prefix)-1] // without the attempt's number
		stamp := a.At.UTC().Format(time.RFC3339Nano)
		err := sn.Scan(prefix, nil, func(_, v []byte) (bool, error) {
			at, body, ok := strings.Cut(string(v), "\n")
			if ok && at == stamp {
				d.Answers = append(d.Answers, Answer{At: a.At, Code: a.Code, Body: strings.ToValidUTF8(body, "\uFFFD")})
				return false, nil
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

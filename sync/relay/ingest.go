package relay

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
	"wispgate/sync/wire"
)

// inbound is a message from the broker, or the news that the connection to it is up.
type inbound struct {
	topic   string
	payload []byte
	up      bool
}

const (
	maxStreams    = 20_000 // streams followed; more are refused until a restart
	groupSize     = 64     // messages handled before their commit
	gapCheck      = time.Second
	nackAfter     = 30 * time.Second
	eventOverhead = 512  // octets that an event needs beyond its envelope, at most
	rowOverhead   = 768  // octets that an endpoint's row and record add to an event, at most
	markOverhead  = 1400 // octets of a mark, at most
)

// ingest is the one goroutine that orders, dedupes and stores what the broker brings.
type ingest struct {
	r       *Relay
	dec     wire.Decoder
	streams map[streamName]*stream
	lastAt  time.Time // of storing; never runs backwards

	sn     *store.Snapshot // of before tx
	tx     *writes
	staged map[string]bool // event ids in tx
	jobs   []Job           // in tx
	seq    uint64          // last number given out, in tx
	fresh  int             // events in tx
}

// loadStreams reads the marks of all streams.
func (in *ingest) loadStreams() error {
	sn := in.r.cfg.Store.Snapshot()
	defer sn.Close()
	prefix := markPrefix()
	err := sn.Scan(prefix, nil, func(k, v []byte) (bool, error) {
		parts := strings.Split(string(k[len(prefix):]), "/")
		if len(parts) != 3 {
			return false, fmt.Errorf("mark key %q is damaged", k)
		}
		s := &stream{name: streamName{parts[0], parts[1], parts[2]}}
		if err := json.Unmarshal(v, &s.mark); err != nil {
			return false, fmt.Errorf("mark %q: %w", k, err)
		}
		s.revert()
		in.streams[s.name] = s
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("load streams: %w", err)
	}
	switch raw, err := sn.Get(seqKey()); {
	case err == nil && len(raw) == 8:
		in.r.lastSeq.Store(binary.BigEndian.Uint64(raw))
	case !errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("load sequence: %w", err)
	}
	return nil
}

func (in *ingest) run(ctx context.Context) {
	tick := time.NewTicker(gapCheck)
	defer tick.Stop()
	for {
		select {
		case m := <-in.r.inbound:
			in.group(ctx, m)
		case <-tick.C:
			in.gaps()
		case <-ctx.Done():
			return
		}
	}
}

// group handles what has gathered, commits it, and acknowledges.
func (in *ingest) group(ctx context.Context, m inbound) {
	touched := map[*stream]bool{}
	for n := 1; ; n++ {
		in.message(m, touched)
		if n == groupSize {
			break
		}
		select {
		case m = <-in.r.inbound:
			continue
		default:
		}
		break
	}
	if err := in.store(ctx, touched); err != nil {
		in.refused(err)
		for s := range touched {
			s.revert()
		}
		return
	}
	in.r.setProblem(nil)
	for s := range touched {
		s.settle(in.r.now())
		in.r.ack(s)
	}
	in.r.publishStreams(touched)
}

// refused notes why nothing is stored. Nothing is acknowledged either: the senders keep it and send it again.
func (in *ingest) refused(err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, errStopped) {
		return
	}
	in.r.count("wispgate_relay_store_failures_total", 1)
	if e, ok := edge.AsError(err); ok {
		in.r.setProblem(&edge.Reason{Code: e.Code, Says: e.Message, Fix: e.Fix})
	} else {
		in.r.setProblem(&reasonStore)
	}
	in.r.log.Warn("events are not stored and not acknowledged", "error", err)
}

func (in *ingest) message(m inbound, touched map[*stream]bool) {
	if m.up { // a broker may have lost every retained acknowledgement
		for _, s := range in.streams {
			in.r.ack(s)
		}
		return
	}
	tenant, source, kind, ok := wire.ParseTopic(m.topic)
	switch {
	case !ok:
		in.bad(m.topic, errors.New("topic is unknown"))
	case kind == wire.Status:
		in.r.noteState(tenant, source, m.payload)
	case kind == wire.Events:
		in.batch(m, tenant, source, touched)
	}
}

// bad counts what does not belong; it is logged at a bounded rate, because whoever sends it may send a lot.
func (in *ingest) bad(topic string, err error) {
	in.r.count("wispgate_relay_messages_refused_total", 1)
	if in.r.grumble.allow(in.r.now()) {
		in.r.log.Warn("message refused", "topic", topic, "error", err)
	}
}

func (in *ingest) batch(m inbound, tenant, source string, touched map[*stream]bool) {
	h, items, err := in.dec.Decode(m.payload)
	if err == nil && (h.Tenant != tenant || h.Source != source) {
		err = errors.New("batch names another stream than its topic")
	}
	if err != nil {
		in.bad(m.topic, err)
		return
	}
	name := streamName{tenant, source, h.Incarnation}
	s, known := in.streams[name]
	if !known {
		if len(in.streams) >= maxStreams {
			in.bad(m.topic, errors.New("too many streams"))
			return
		}
		s = &stream{name: name}
		in.streams[name] = s
	}
	a := &arrival{head: h, items: items}
	for i := range items {
		a.size += len(items[i].Raw)
	}
	verdict, lost := s.offer(a, in.r.now().UTC())
	if lost {
		in.r.count("wispgate_relay_ranges_lost_total", 1)
		in.r.log.Error("a stream's sender has forgotten what was never stored here", "tenant", tenant, "source", source,
			"after", s.mark.Stored, "upto", h.Base)
	}
	switch verdict {
	case duplicate:
		in.r.count("wispgate_relay_messages_duplicate_total", 1)
	case overflow:
		in.r.count("wispgate_relay_messages_dropped_total", 1)
	case accepted:
	}
	touched[s] = true
}

// store writes what continues the touched streams, in as few transactions as fit.
func (in *ingest) store(ctx context.Context, touched map[*stream]bool) error {
	in.r.storeMu.Lock()
	defer in.r.storeMu.Unlock()
	in.begin()
	defer func() { in.sn.Close() }()
	for s := range touched {
		for a := s.take(); a != nil; a = s.take() {
			if err := in.arrival(ctx, s, a, touched); err != nil {
				return err
			}
		}
	}
	return in.commit(ctx, touched)
}

// begin starts an empty transaction.
func (in *ingest) begin() {
	in.sn = in.r.cfg.Store.Snapshot()
	in.tx = &writes{}
	in.staged = map[string]bool{}
	in.jobs, in.fresh = nil, 0
	in.seq = in.r.lastSeq.Load()
	if now := in.r.now().UTC(); now.After(in.lastAt) {
		in.lastAt = now
	}
}

// arrival stages a batch. When the transaction is full it is committed with the mark before the event that did not fit any more: what
// is stored beyond the mark is recognised by its id when it comes again.
func (in *ingest) arrival(ctx context.Context, s *stream, a *arrival, touched map[*stream]bool) error {
	if s.forked {
		s.forked = false
		in.r.count("wispgate_relay_streams_forked_total", 1)
		in.r.log.Error("a stream's sender remembers another event than the one stored: its history was written twice",
			"tenant", s.name.Tenant, "source", s.name.Source, "position", s.next.Stored)
	}
	for i := range a.items {
		it := &a.items[i]
		if it.Position <= s.next.Stored {
			continue
		}
		ids := in.r.reg.matching(it.TenantID, wire.EventName(it.Type))
		if !in.tx.fits(3+2*len(ids)+len(touched), len(it.Raw)+eventOverhead+len(ids)*rowOverhead+len(touched)*markOverhead) {
			s.next.Stored = max(s.next.Stored, it.Position-1)
			if err := in.commit(ctx, touched); err != nil {
				return err
			}
			in.sn.Close()
			in.begin()
		}
		if err := in.event(s, it, ids); err != nil {
			return err
		}
	}
	s.next.Stored = max(s.next.Stored, a.head.Upto)
	return nil
}

func (in *ingest) event(s *stream, it *wire.Item, ids []edge.ID) error {
	id := edge.ID(it.ID)
	known, err := in.known(it.TenantID, id)
	if err != nil {
		return err
	}
	if known {
		in.r.count("wispgate_relay_events_duplicate_total", 1)
		return nil
	}
	in.seq++
	meta := storedMeta{At: in.lastAt, Source: s.name.Source, Incarnation: s.name.Incarnation}
	if err := putEvent(in.tx, it.TenantID, id, stored{Seq: in.seq, Meta: meta, Raw: it.Raw}); err != nil {
		return err
	}
	for _, ep := range ids {
		in.jobs = append(in.jobs, Job{
			Tenant: it.TenantID, Endpoint: ep, Seq: in.seq, Event: id, Type: wire.EventName(it.Type), Key: it.Subject, At: in.lastAt,
		})
	}
	if err := in.r.queue.Enqueue(in.tx, in.jobs[len(in.jobs)-len(ids):]...); err != nil {
		return err
	}
	in.staged[it.TenantID+"/"+it.ID] = true
	s.next.Events++
	s.next.Previous = it.Digest()
	in.fresh++
	return nil
}

func (in *ingest) known(tenant string, id edge.ID) (bool, error) {
	if in.staged[tenant+"/"+string(id)] {
		return true, nil
	}
	_, known, err := seqOf(in.sn, tenant, id)
	return known, err
}

// commit makes durable what is staged, and the marks with it.
func (in *ingest) commit(ctx context.Context, touched map[*stream]bool) error {
	for s := range touched {
		if s.next.Stored == s.mark.Stored && s.next.Events == s.mark.Events && len(s.next.Lost) == len(s.mark.Lost) && !s.mark.SeenAt.IsZero() {
			continue
		}
		raw, err := json.Marshal(s.next)
		if err != nil {
			return fmt.Errorf("encode mark: %w", err)
		}
		in.tx.Put(markKey(s.name), raw)
	}
	if in.fresh > 0 {
		in.tx.Put(seqKey(), seqValue(in.seq))
	}
	if err := in.r.committer.do(ctx, in.tx); err != nil {
		return fmt.Errorf("store events: %w", err)
	}
	in.r.lastSeq.Store(in.seq)
	for s := range touched {
		s.mark = s.next
	}
	in.r.count("wispgate_relay_events_stored_total", in.fresh)
	in.r.enqueued(in.jobs)
	return nil
}

func seqValue(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// gaps asks the senders for what has been missing for too long.
func (in *ingest) gaps() {
	now := in.r.now()
	for _, s := range in.streams {
		if s.overdue(now, nackAfter) {
			in.r.count("wispgate_relay_nacks_total", 1)
			in.r.bus.publish(wire.Topic(s.name.Tenant, s.name.Source, wire.Nacks), false,
				wire.Encode(wire.Nack{Incarnation: s.name.Incarnation, After: s.mark.Stored}))
		}
	}
}

// Package relay is the NOC's end of the uplink: it takes the towers' streams from an MQTT broker, stores every event once before it
// acknowledges it, and delivers it as a signed webhook to whoever wants it. DESIGN.md in this folder says why it is as it is.
package relay

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
	"wispgate/sync/wire"
)

// Unsealer opens what a command's Prepare sealed.
type Unsealer interface {
	Unseal(tenant, record, field, sealed string) ([]byte, error)
}

// Metrics counts what the relay does. Names are complete metric names.
type Metrics interface {
	Add(name string, n int)
	Observe(name string, d time.Duration)
}

// Config of a Relay. ID, Store, Unsealer, Now and one of Broker and Client are required; the zero value of everything else means its
// default.
type Config struct {
	ID      string       // of this relay, a name
	Store   *store.Store // the relay's keys lie in the node's own keyspace
	Version string       // of the program, told in User-Agent

	Broker *BrokerConfig // embedded broker
	Client *ClientConfig // or somebody else's

	AllowPrivate []netip.Prefix  // networks off the public internet that may be called, also by http and on any port
	Ports        []uint16        // ports that may be called elsewhere; 443 and 8443
	Roots        *tls.Config     // authorities for endpoints; nil: the system's
	Schedule     []time.Duration // pauses after failed attempts; DefaultSchedule
	Workers      int             // attempts at the same time over all endpoints; 256
	Keep         time.Duration   // how long events and deliveries are kept; 30 days
	KeepAnswers  time.Duration   // how long endpoints' answers are kept; 7 days

	Unsealer Unsealer
	Now      func() time.Time
	Logger   *slog.Logger // nil: silent
	Metrics  Metrics      // nil: not counted
}

var reasonStore = edge.Reason{Code: "store_failed", Says: "Events cannot be stored, so none is acknowledged", Fix: "See the relay's log; the towers keep their events meanwhile"}

// Relay stores and delivers. Build it, put Module(r) among the executor's modules, start the executor, then Start the relay.
type Relay struct {
	cfg       Config
	log       *slog.Logger
	now       func() time.Time
	guard     *guard
	sender    *sender
	reg       *registry
	committer *committer
	queue     *storeQueue
	dlv       *deliverer
	broker    *broker // nil with somebody else's
	bus       *bus
	ingest    *ingest
	inbound   chan inbound
	reports   chan report
	jobPoke   chan struct{}
	storeMu   sync.Mutex    // held while sequence numbers are given out and committed
	lastSeq   atomic.Uint64 // last one committed
	grumble   limiter

	mu      sync.Mutex
	streams map[streamName]StreamInfo
	problem *edge.Reason
	secrets map[string][]byte // unsealed, by sealed form
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// New checks the configuration and reads what is stored. Nothing listens or connects before Start.
func New(cfg Config) (*Relay, error) {
	cfg.Schedule = slices.Clone(cfg.Schedule)
	if len(cfg.Schedule) == 0 {
		cfg.Schedule = DefaultSchedule
	}
	cfg.Workers = cmp.Or(cfg.Workers, 256)
	cfg.Keep = cmp.Or(cfg.Keep, 30*24*time.Hour)
	cfg.KeepAnswers = cmp.Or(cfg.KeepAnswers, 7*24*time.Hour)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Roots == nil {
		cfg.Roots = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	g, err := newGuard(cfg.AllowPrivate, cfg.Ports)
	if err != nil {
		return nil, err
	}
	r := &Relay{
		cfg: cfg, log: cfg.Logger, now: cfg.Now, guard: g, sender: newSender(g, "WISPGate-Relay/"+cmp.Or(cfg.Version, "dev"), cfg.Roots, cfg.Now),
		reg: newRegistry(cfg.Logger), committer: newCommitter(cfg.Store), inbound: make(chan inbound, inboundSize),
		reports: make(chan report, 256), jobPoke: make(chan struct{}, 1), streams: map[streamName]StreamInfo{}, secrets: map[string][]byte{},
	}
	r.queue = newStoreQueue(cfg.Store, r.committer)
	r.dlv = newDeliverer(r, cfg.Workers)
	r.reg.changed = r.changed
	r.ingest = &ingest{r: r, streams: map[streamName]*stream{}}
	r.bus = &bus{id: "relay:" + cfg.ID, log: r.log, inbound: r.inbound, count: r.count, now: cfg.Now, kick: make(chan struct{}, 1)}
	if cfg.Broker != nil {
		if r.broker, err = newBroker(*cfg.Broker, r.log); err != nil {
			return nil, err
		}
		r.bus.inside = r.broker
	} else {
		r.bus.cfg = *cfg.Client
	}
	if err := errors.Join(r.ingest.loadStreams(), r.queue.load()); err != nil {
		return nil, err
	}
	for name, s := range r.ingest.streams {
		r.streams[name] = s.info()
	}
	return r, nil
}

func (c *Config) check() error {
	switch {
	case !wire.ValidName(c.ID):
		return errors.New("relay.id: use 1 to 64 letters, digits, dots, hyphens and underscores")
	case c.Store == nil || c.Unsealer == nil || c.Now == nil:
		return errors.New("relay: store, unsealer and clock are required")
	case (c.Broker == nil) == (c.Client == nil):
		return errors.New("relay: give either the embedded broker's settings or the addresses of another")
	case c.Workers < 1 || c.Workers > 10_000:
		return errors.New("relay.workers: use 1 to 10000")
	}
	for _, d := range c.Schedule {
		if d <= 0 {
			return errors.New("relay.schedule: every pause must be longer than nothing")
		}
	}
	if c.Client != nil {
		return c.Client.check()
	}
	return nil
}

// Start begins to listen, take in and deliver. The executor that runs Module must have started: its watch brings the endpoints.
func (r *Relay) Start(ctx context.Context) error {
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if r.broker != nil {
		if err := r.broker.start(); err != nil {
			r.cancel()
			return err
		}
	}
	r.committer.start()
	r.wg.Go(func() { r.ingest.run(ctx) })
	r.wg.Go(func() { r.retain(ctx) })
	r.dlv.start(ctx)
	r.wg.Go(func() { r.bus.run(ctx) })
	return nil
}

// Stop ends what Start began, in reverse. Attempts under way may end until ctx does; what is broken off is made again after a restart.
func (r *Relay) Stop(ctx context.Context) error {
	if r.cancel == nil {
		return nil
	}
	r.dlv.stop(ctx)
	r.cancel()
	r.wg.Wait()
	r.committer.stop()
	r.sender.close()
	if r.broker != nil {
		return r.broker.stop()
	}
	return nil
}

// changed is told of every record that the watch brings.
func (r *Relay) changed(tenant string, endpoint edge.ID, job bool) {
	if !job {
		r.dlv.wake(tenant, endpoint)
		return
	}
	select {
	case r.jobPoke <- struct{}{}:
	default:
	}
}

// enqueued makes committed jobs known to those who deliver them.
func (r *Relay) enqueued(jobs []Job) {
	r.queue.enqueued(jobs)
	woken := map[edge.ID]bool{}
	for _, j := range jobs {
		if !woken[j.Endpoint] {
			woken[j.Endpoint] = true
			r.dlv.wake(j.Tenant, j.Endpoint)
		}
	}
}

// storeOwn stores an event of the relay's own for one endpoint. An event that is stored already changes nothing.
func (r *Relay) storeOwn(ctx context.Context, tenant string, it wire.Item, endpoint edge.ID) error {
	r.storeMu.Lock()
	defer r.storeMu.Unlock()
	id, now := edge.ID(it.ID), r.now().UTC()
	sn := r.cfg.Store.Snapshot()
	_, known, err := seqOf(sn, tenant, id)
	sn.Close()
	if err != nil || known {
		return err
	}
	seq := r.lastSeq.Load() + 1
	job := Job{Tenant: tenant, Endpoint: endpoint, Seq: seq, Event: id, Type: wire.EventName(it.Type), Key: it.Subject, At: now}
	w := &writes{}
	err = errors.Join(putEvent(w, tenant, id, stored{Seq: seq, Meta: storedMeta{At: now, Source: r.cfg.ID}, Raw: it.Raw}), r.queue.Enqueue(w, job))
	if err != nil {
		return err
	}
	w.Put(seqKey(), seqValue(seq))
	if err := r.committer.do(ctx, w); err != nil {
		return fmt.Errorf("store event: %w", err)
	}
	r.lastSeq.Store(seq)
	r.enqueued([]Job{job})
	return nil
}

// body is what is posted: the stored envelope, octet by octet.
func (r *Relay) body(d Delivery) (raw []byte, found bool, err error) {
	sn := r.cfg.Store.Snapshot()
	defer sn.Close()
	e, found, err := getEvent(sn, d.Tenant, d.Seq)
	return e.Raw, found, err
}

const maxSecretCache = 4096

// keys are the signing keys of an endpoint, newest first.
func (r *Relay) keys(tenant string, t *target) (keys [][]byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sealed := range t.active(r.now()) {
		key, ok := r.secrets[sealed]
		if !ok {
			plain, err := r.cfg.Unsealer.Unseal(tenant, string(t.ID.With(secretPrefix)), secretField, sealed)
			if err != nil {
				return nil, fmt.Errorf("unseal signing secret: %w", err)
			}
			if key, err = wire.ParseSecret(edge.Secret(plain)); err != nil {
				return nil, err
			}
			if len(r.secrets) >= maxSecretCache {
				clear(r.secrets)
			}
			r.secrets[sealed] = key
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("endpoint has no signing secret")
	}
	return keys, nil
}

// ack tells a stream's sender how far it is stored.
func (r *Relay) ack(s *stream) {
	session, connected, _ := r.bus.state()
	if !connected || s.mark.SeenAt.IsZero() {
		return
	}
	r.bus.publish(wire.Topic(s.name.Tenant, s.name.Source, wire.Acks), true,
		wire.Encode(wire.Ack{Incarnation: s.name.Incarnation, Upto: s.mark.Stored, Session: session}))
}

func (r *Relay) count(name string, n int) {
	if r.cfg.Metrics != nil && n > 0 {
		r.cfg.Metrics.Add(name, n)
	}
}

// attempted counts an attempt by the class of its outcome: outcomes themselves are bounded, statuses are not chosen by us.
func (r *Relay) attempted(res result) {
	class := "failed"
	if res.ok() {
		class = outcomeDelivered
	} else if strings.HasPrefix(res.Outcome, "http_") {
		class = "refused"
	}
	r.count(`wispgate_relay_attempts_total{outcome="`+class+`"}`, 1)
	if r.cfg.Metrics != nil {
		r.cfg.Metrics.Observe("wispgate_relay_attempt_duration_seconds", time.Duration(res.Took)*time.Millisecond)
	}
}

func (r *Relay) setProblem(p *edge.Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problem = p
}

// Status is where the relay stands.
type Status struct {
	Connected bool         `json:"connected"` // to the broker
	Since     time.Time    `json:"since"`
	Broker    string       `json:"broker,omitempty"`  // where the embedded broker listens with TLS
	Plain     string       `json:"plain,omitempty"`   // and without
	Streams   int          `json:"streams"`           // followed
	Stored    uint64       `json:"stored"`            // events stored since the beginning
	Queued    int          `json:"queued"`            // deliveries that wait or are under way
	Waiting   int          `json:"waiting"`           // messages that wait to be stored
	Problem   *edge.Reason `json:"problem,omitempty"` // why nothing is stored
}

// Status reports where the relay stands; cheap enough for a scrape.
func (r *Relay) Status() Status {
	st := Status{Stored: r.lastSeq.Load(), Waiting: len(r.inbound)}
	_, st.Connected, st.Since = r.bus.state()
	if r.broker != nil {
		st.Broker, st.Plain = r.broker.addr(tlsListener), r.broker.addr(bareListener)
	}
	for id := range r.queue.endpoints() {
		st.Queued += r.queue.depth(id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st.Streams, st.Problem = len(r.streams), r.problem
	return st
}

// limiter lets something through once in ten seconds.
type limiter struct {
	mu   sync.Mutex
	next time.Time
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.next) {
		return false
	}
	l.next = now.Add(10 * time.Second)
	return true
}

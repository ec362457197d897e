// Package uplink publishes ordered, gap-free streams of events to the relay over MQTT. A stream is one tenant's events of one source: the
// cluster (position = version) or a node (position = journal sequence). What is sent stays remembered until the relay says that it has
// stored it; whatever the broker in between loses is sent again. DESIGN.md in this folder says why it is as it is.
package uplink

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/sync/wire"
)

// Name identifies a stream and its history.
type Name struct {
	Tenant      string `json:"tenant"`
	Source      string `json:"source"`      // cluster or node id
	Incarnation string `json:"incarnation"` // of the cluster or journal; positions of two incarnations do not compare
}

// Marks is where a stream stands: Base ≤ Acked ≤ Last.
type Marks struct {
	Base  uint64 // forgotten up to here: Read can begin no earlier
	Acked uint64 // the relay's last acknowledgement that this side has made durable
	Last  uint64 // newest position
}

// Stream is what is published. It is safe for concurrent use; Read and Wait are called from one goroutine at a time.
type Stream interface {
	Name() Name
	Marks() Marks
	// Read returns the events of the range (after, upto] in order, whole positions only, about maxBytes of envelopes but at least one
	// position. A range without events is fine; upto == after says that there is nothing yet.
	Read(ctx context.Context, after uint64, maxBytes int) (items []wire.Item, upto uint64, err error)
	// Wait returns once there may be an event after the position.
	Wait(ctx context.Context, after uint64) error
	// Acked tells the stream that the relay holds everything up to the position on its disk: it may be forgotten.
	Acked(upto uint64) error
}

// Metrics counts what the uplink does. Names are complete metric names.
type Metrics interface {
	Add(name string, n int)
}

// Config of an Uplink. Brokers, Node and Now are required; the zero value of everything else means its default.
type Config struct {
	Brokers  []string // mqtt://host:port or mqtts://host:port, tried in order
	Node     string   // id of this node; client ids begin with it
	BootID   string   // of the running kernel, told in births
	Version  string   // of the program, told in births
	Username string   // where the broker asks for one
	Password edge.Secret
	TLS      *tls.Config // for mqtts: client certificate and the relay's authority

	BatchBytes     int           // about how many octets of envelopes one message carries; 32 KB
	Window         int           // messages under way per stream; 64
	WindowBytes    int           // octets of messages under way per stream; 1 MB
	BytesPerSecond int           // bound of what one stream sends while it catches up; 0: none
	ResendAfter    time.Duration // first repetition of what is not acknowledged, doubled each time up to 5 minutes; 10 s
	AckWait        time.Duration // how long to wait for the retained acknowledgement after subscribing; 300 ms
	IdleMark       time.Duration // how long a stream without events waits before it moves its mark; 60 s
	KeepAlive      time.Duration // 30 s
	RetryMin       time.Duration // pause before the second attempt to connect, doubled up to RetryMax, with jitter; 1 s
	RetryMax       time.Duration // 60 s

	Now     func() time.Time
	Logger  *slog.Logger // nil: silent
	Metrics Metrics      // nil: not counted
}

const maxResend = 5 * time.Minute

// Uplink owns one session per attached stream.
type Uplink struct {
	cfg  Config
	log  *slog.Logger
	dial dialer

	encMu sync.Mutex // the compressor is 1 MB: one for all streams
	enc   wire.Encoder

	mu       sync.Mutex
	sessions map[Name]*session
	stopped  bool
}

// Reasons that a stream's status shows.
var (
	ReasonUnreachable = edge.Reason{Code: "broker_unreachable", Says: "The broker does not answer", Fix: "Check uplink.broker, the backhaul and the firewall; events wait here and nothing is lost"}
	ReasonRefused     = edge.Reason{Code: "broker_refused", Says: "The broker refuses this node", Fix: "Check the node's certificate or user name, and the broker's access list for its client id and topics"}
	ReasonRelayAhead  = edge.Reason{Code: "relay_ahead", Says: "The relay has acknowledged positions that this node does not have, so its history was rolled back", Fix: "Recover the cluster under a new incarnation instead of an old copy; nothing is sent until then"}
	ReasonRead        = edge.Reason{Code: "stream_unreadable", Says: "Events cannot be read from this node's store", Fix: "See the node's log; sending is tried again by itself"}
	ReasonLost        = edge.Reason{Code: "broker_lost", Says: "The connection to the broker broke", Fix: "It is made again by itself; events wait here and nothing is lost"}
	errConfig         = edge.Reason{Code: "uplink_config_invalid", Says: "The uplink's settings do not fit", Fix: "Correct the settings under uplink"}
)

// Reasons lists what a stream's status may show.
func Reasons() []edge.Reason {
	return []edge.Reason{ReasonUnreachable, ReasonRefused, ReasonRelayAhead, ReasonRead, ReasonLost, errConfig}
}

// New checks the configuration. Nothing connects before a stream is attached.
func New(cfg Config) (*Uplink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	u := &Uplink{cfg: cfg, log: cfg.Logger, sessions: map[Name]*session{}}
	u.dial = u.dialMQTT
	return u, nil
}

func (c Config) withDefaults() Config {
	c.BatchBytes = cmp.Or(c.BatchBytes, 32<<10)
	c.Window = cmp.Or(c.Window, 64)
	c.WindowBytes = cmp.Or(c.WindowBytes, 1<<20)
	c.ResendAfter = cmp.Or(c.ResendAfter, 10*time.Second)
	c.AckWait = cmp.Or(c.AckWait, 300*time.Millisecond)
	c.IdleMark = cmp.Or(c.IdleMark, time.Minute)
	c.KeepAlive = cmp.Or(c.KeepAlive, 30*time.Second)
	c.RetryMin = cmp.Or(c.RetryMin, time.Second)
	c.RetryMax = cmp.Or(c.RetryMax, time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *Config) check() error {
	var fields []edge.FieldError
	bad := func(pointer, reason, fix string) {
		fields = append(fields, edge.FieldError{In: "config", Pointer: pointer, Reason: reason, Fix: fix})
	}
	if len(c.Brokers) == 0 || len(c.Brokers) > 8 {
		bad("uplink.broker", "must name 1 to 8 brokers", "give mqtt://host:port or mqtts://host:port")
	}
	for _, b := range c.Brokers {
		u, err := url.Parse(b)
		if err != nil || u.Scheme != "mqtt" && u.Scheme != "mqtts" || u.Port() == "" || u.User != nil || u.Path != "" {
			bad("uplink.broker", "is not the address of a broker", "give mqtt://host:port or mqtts://host:port; user and password have settings of their own")
		}
	}
	if !wire.ValidName(c.Node) {
		bad("node.id", "is not a name", "use 1 to 64 letters, digits, dots, hyphens and underscores")
	}
	if c.Now == nil {
		bad("now", "is missing", "give a clock")
	}
	if c.BatchBytes < 1<<10 || c.BatchBytes > wire.MaxPlain/2 || c.Window < 1 || c.WindowBytes < c.BatchBytes || c.BytesPerSecond < 0 {
		bad("uplink", "has a bound out of range", fmt.Sprintf("batch 1 KB to %d KB, window of at least one batch", wire.MaxPlain>>11))
	}
	if len(fields) > 0 {
		return errConfig.Error(edge.Invalid, fields...)
	}
	return nil
}

// Attach publishes a stream until ctx ends or detach is called, which waits for the session to end; either way it says goodbye to the
// broker. Attaching a stream that is attached already is an error.
func (u *Uplink) Attach(ctx context.Context, st Stream) (detach func(), err error) {
	name := st.Name()
	if !wire.ValidName(name.Tenant) || !wire.ValidName(name.Source) || !wire.ValidName(name.Incarnation) {
		return nil, fmt.Errorf("attach stream %s/%s: not a name", name.Tenant, name.Source)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopped || u.sessions[name] != nil {
		return nil, fmt.Errorf("attach stream %s/%s: attached already, or the uplink has stopped", name.Tenant, name.Source)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := newSession(u, st, cancel)
	u.sessions[name] = s
	go s.run(ctx)
	return func() {
		cancel()
		<-s.done
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.sessions[name] == s {
			delete(u.sessions, name)
		}
	}, nil
}

// Stop ends every session: each says goodbye, so that no last will is sent. It returns when all have ended or ctx does.
func (u *Uplink) Stop(ctx context.Context) error {
	u.mu.Lock()
	u.stopped = true
	var all []*session
	for _, s := range u.sessions {
		s.cancel()
		all = append(all, s)
	}
	u.mu.Unlock()
	for _, s := range all {
		if _, ended := edge.Hear(s.done, ctx.Done(), nil); !ended {
			return fmt.Errorf("stop uplink: %w", ctx.Err())
		}
	}
	return nil
}

// StreamStatus is where one stream stands.
type StreamStatus struct {
	Name
	Connected bool         `json:"connected"`
	Since     time.Time    `json:"since"` // of being connected or not
	Acked     uint64       `json:"acked"` // stored by the relay
	Sent      uint64       `json:"sent"`  // last position given to the broker
	Last      uint64       `json:"last"`
	Backlog   uint64       `json:"backlog"`         // positions not yet acknowledged
	UnderWay  int          `json:"under_way"`       // events sent and not acknowledged
	Bytes     int          `json:"bytes"`           // octets sent and not acknowledged
	Oldest    time.Time    `json:"oldest,omitzero"` // time of the oldest event under way
	Resent    uint64       `json:"resent"`          // messages sent again since start
	Problem   *edge.Reason `json:"problem,omitempty"`
}

// Status reports every attached stream, ordered by tenant and source.
func (u *Uplink) Status() []StreamStatus {
	u.mu.Lock()
	list := make([]StreamStatus, 0, len(u.sessions))
	for _, s := range u.sessions {
		list = append(list, s.snapshot())
	}
	u.mu.Unlock()
	slices.SortFunc(list, func(a, b StreamStatus) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return list
}

func (u *Uplink) count(name string, n int) {
	if u.cfg.Metrics != nil && n > 0 {
		u.cfg.Metrics.Add(name, n)
	}
}

func (u *Uplink) encode(h wire.Header, items []wire.Item) ([]byte, error) {
	u.encMu.Lock()
	defer u.encMu.Unlock()
	return u.enc.Encode(h, items)
}

package relay

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"wispgate/edge"
	"wispgate/sync/wire"
)

// ClientConfig says how to reach a broker of somebody else's.
type ClientConfig struct {
	Brokers  []string // mqtt://host:port or mqtts://host:port, tried in order
	Username string
	Password edge.Secret
	TLS      *tls.Config // for mqtts
}

const (
	inboundSize  = 512             // messages from the broker that wait for the ingest
	inboundWait  = 2 * time.Second // how long the broker is held up when they are that many; then the message is dropped
	brokerDial   = 15 * time.Second
	brokerRetry  = time.Second
	brokerMax    = 30 * time.Second
	brokerPing   = 30 * time.Second
	brokerGoodby = 500 // milliseconds
)

// bus is the relay's own connection to the broker, embedded or not. It reconnects for ever, with a new session name each time: senders
// that see the name change send again what may have been lost between broker and relay.
type bus struct {
	id      string
	cfg     ClientConfig
	inside  *broker // the embedded one; nil: by cfg
	log     *slog.Logger
	inbound chan inbound
	count   func(name string, n int)

	kick chan struct{} // the outbox holds something

	mu      sync.Mutex
	up      bool
	outbox  map[string]outgoing
	session string
	since   time.Time
	now     func() time.Time
}

// outgoing is the latest message for a topic: acknowledgements overtake each other, so the last word is enough.
type outgoing struct {
	retained bool
	payload  []byte
}

func (c *ClientConfig) check() error {
	if len(c.Brokers) == 0 {
		return errors.New("relay.brokers: name at least one broker, or use the embedded one")
	}
	for _, b := range c.Brokers {
		if u, err := url.Parse(b); err != nil || u.Scheme != "mqtt" && u.Scheme != "mqtts" || u.Port() == "" || u.User != nil {
			return errors.New("relay.brokers: give mqtt://host:port or mqtts://host:port")
		}
	}
	return nil
}

func (b *bus) run(ctx context.Context) {
	retry := brokerRetry
	warned := false
	for ctx.Err() == nil {
		start := b.now()
		var err error
		if b.inside != nil {
			err = b.embedded(ctx)
		} else {
			err = b.connection(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if b.now().Sub(start) > brokerMax {
			retry, warned = brokerRetry, false
		}
		if !warned {
			b.log.Warn("no connection to the broker", "error", err)
			warned = true
		}
		select {
		case <-time.After(retry/2 + rand.N(retry)):
		case <-ctx.Done():
		}
		retry = min(2*retry, brokerMax)
	}
}

// connection lives one connection.
func (b *bus) connection(ctx context.Context) error {
	lost := make(chan error, 1)
	opts := mqtt.NewClientOptions().
		SetClientID(b.id).SetUsername(b.cfg.Username).SetPassword(b.cfg.Password.Reveal()).
		SetProtocolVersion(4).SetCleanSession(true).SetStore(mqtt.NewMemoryStore()).
		SetOrderMatters(true). // one handler at a time, so that a full queue slows the broker instead of piling up goroutines
		SetAutoReconnect(false).SetConnectRetry(false).
		SetKeepAlive(brokerPing).SetPingTimeout(10 * time.Second).SetConnectTimeout(brokerDial).SetWriteTimeout(brokerDial).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { b.receive(ctx, m.Topic(), m.Payload()) }).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	if b.cfg.TLS != nil {
		opts.SetTLSConfig(b.cfg.TLS.Clone())
	}
	for _, addr := range b.cfg.Brokers {
		opts.AddBroker(addr)
	}
	client := mqtt.NewClient(opts)
	defer client.Disconnect(brokerGoodby)
	if err := awaitToken(ctx, client.Connect()); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	sub := client.SubscribeMultiple(map[string]byte{wire.Filter(wire.Events): 1, wire.Filter(wire.Status): 1}, nil)
	if err := awaitToken(ctx, sub); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if t, ok := sub.(*mqtt.SubscribeToken); ok {
		for topic, code := range t.Result() {
			if code > 2 {
				return fmt.Errorf("subscribe: the broker refuses %s", topic)
			}
		}
	}
	return b.serve(ctx, lost, func(topic string, m outgoing) { client.Publish(topic, 1, m.retained, m.payload) })
}

// embedded is the connection to the embedded broker: calls instead of packets, since a connection that reads and writes in step with
// its peer can come to a standstill when both sides wait to write.
func (b *bus) embedded(ctx context.Context) error {
	stop, err := b.inside.subscribe(func(topic string, payload []byte) { b.receive(ctx, topic, payload) }, wire.Filter(wire.Events), wire.Filter(wire.Status))
	if err != nil {
		return err
	}
	defer stop()
	return b.serve(ctx, nil, func(topic string, m outgoing) {
		if err := b.inside.server.Publish(topic, m.payload, m.retained, 1); err != nil {
			b.log.Debug("the embedded broker takes no message, it is said again", "topic", topic, "error", err)
		}
	})
}

// serve is a connection that stands.
func (b *bus) serve(ctx context.Context, lost <-chan error, publish func(topic string, m outgoing)) error {
	b.set(true)
	defer b.set(false)
	b.log.Info("connected to the broker")
	select {
	case b.inbound <- inbound{up: true}:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		select {
		case <-b.kick:
			b.flush(publish)
		case err := <-lost:
			return fmt.Errorf("connection lost: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flush sends what is in the outbox. It may wait for the broker, which the ingest must not: the broker may be waiting for the ingest.
func (b *bus) flush(publish func(topic string, m outgoing)) {
	b.mu.Lock()
	out := b.outbox
	b.outbox = map[string]outgoing{}
	b.mu.Unlock()
	for topic, m := range out {
		publish(topic, m)
	}
}

func awaitToken(ctx context.Context, t mqtt.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *bus) set(up bool) {
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], rand.Uint64())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.up, b.since, b.outbox = up, b.now(), map[string]outgoing{}
	b.session = hex.EncodeToString(id[:])
}

// receive hands a message to the ingest. When that cannot keep up, the broker is held up for a moment and then the message is dropped:
// its sender has it still.
func (b *bus) receive(ctx context.Context, topic string, payload []byte) {
	if len(payload) > wire.MaxPayload {
		b.count("wispgate_relay_messages_refused_total", 1)
		return
	}
	in := inbound{topic: topic, payload: payload}
	select {
	case b.inbound <- in:
		return
	default:
	}
	wait := time.NewTimer(inboundWait)
	defer wait.Stop()
	select {
	case b.inbound <- in:
	case <-wait.C:
		b.count("wispgate_relay_messages_dropped_total", 1)
	case <-ctx.Done():
	}
}

// publish sends a message if there is a connection. Nothing depends on its arrival: acknowledgements are said again.
func (b *bus) publish(topic string, retained bool, payload []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.up {
		return
	}
	b.outbox[topic] = outgoing{retained, payload}
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// state names the connection.
func (b *bus) state() (session string, connected bool, since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.session, b.up, b.since
}

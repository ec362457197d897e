package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"wispgate/sync/wire"
)

// conn is one connection to a broker, from its CONNECT to its end. There is no reconnecting inside: a new connection has another session
// id and with it another last will.
type conn interface {
	// publish hands a message to the broker with QoS 1. That it returns, or that the broker takes it, means nothing: only the relay's
	// acknowledgement counts.
	publish(kind wire.Kind, retained bool, payload []byte)
	inbox() <-chan message
	lost() <-chan error
	close()
}

type message struct {
	kind    wire.Kind
	payload []byte
}

// dialer connects for a stream with will as its last state, subscribed to what comes down.
type dialer func(ctx context.Context, name Name, session string, will []byte) (conn, error)

const (
	connectTimeout = 15 * time.Second
	goodbye        = 500 // milliseconds that a clean end may take
	inboxSize      = 256
)

type mqttConn struct {
	client mqtt.Client
	name   Name
	in     chan message
	gone   chan error
}

func (u *Uplink) dialMQTT(ctx context.Context, name Name, session string, will []byte) (conn, error) {
	c := &mqttConn{name: name, in: make(chan message, inboxSize), gone: make(chan error, 1)}
	opts := mqtt.NewClientOptions().
		SetClientID(u.cfg.Node+":"+name.Tenant+":"+name.Source).
		SetUsername(u.cfg.Username).SetPassword(u.cfg.Password.Reveal()).
		SetProtocolVersion(4).
		SetCleanSession(true).                                        // persistence is ours
		SetStore(mqtt.NewMemoryStore()).                              // the file store panics on I/O errors
		SetOrderMatters(false).                                       // the relay orders by position
		SetAutoReconnect(false).SetConnectRetry(false).               // a token may lie across reconnects
		SetKeepAlive(u.cfg.KeepAlive).SetPingTimeout(10*time.Second). //
		SetConnectTimeout(connectTimeout).SetWriteTimeout(connectTimeout).
		SetMaxResumePubInFlight(u.cfg.Window).
		SetBinaryWill(wire.Topic(name.Tenant, name.Source, wire.Status), will, 1, true).
		SetDefaultPublishHandler(c.receive). // before Connect: an early message must find it
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { c.gone <- err })
	if u.cfg.TLS != nil {
		opts.SetTLSConfig(u.cfg.TLS.Clone())
	}
	for _, b := range u.cfg.Brokers {
		opts.AddBroker(b)
	}
	c.client = mqtt.NewClient(opts)
	if err := await(ctx, c.client.Connect()); err != nil {
		c.client.Disconnect(0)
		return nil, fmt.Errorf("connect: %w", err)
	}
	down := map[string]byte{}
	for _, kind := range []wire.Kind{wire.Acks, wire.Nacks, wire.Status} {
		down[wire.Topic(name.Tenant, name.Source, kind)] = 1
	}
	sub := c.client.SubscribeMultiple(down, nil)
	if err := await(ctx, sub); err != nil {
		c.close()
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	for _, code := range sub.(*mqtt.SubscribeToken).Result() {
		if code > 2 {
			c.close()
			return nil, fmt.Errorf("subscribe: %w", packets.ErrorRefusedNotAuthorised)
		}
	}
	return c, nil
}

func await(ctx context.Context, t mqtt.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refused tells a broker that says no from one that does not answer.
func refused(err error) bool {
	return errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword) || errors.Is(err, packets.ErrorRefusedNotAuthorised) ||
		errors.Is(err, packets.ErrorRefusedIDRejected)
}

// receive passes on what comes down. A full inbox drops: every message down is repeated or replaced by a later one.
func (c *mqttConn) receive(_ mqtt.Client, m mqtt.Message) {
	tenant, source, kind, ok := wire.ParseTopic(m.Topic())
	if !ok || tenant != c.name.Tenant || source != c.name.Source {
		return
	}
	select {
	case c.in <- message{kind, m.Payload()}:
	default:
	}
}

func (c *mqttConn) publish(kind wire.Kind, retained bool, payload []byte) {
	c.client.Publish(wire.Topic(c.name.Tenant, c.name.Source, kind), 1, retained, payload)
}

func (c *mqttConn) inbox() <-chan message { return c.in }
func (c *mqttConn) lost() <-chan error    { return c.gone }
func (c *mqttConn) close()                { c.client.Disconnect(goodbye) }

package relay

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"wispgate/edge"
	"wispgate/sync/wire"
)

// BrokerConfig says how the embedded broker listens. At least one listener must be given.
type BrokerConfig struct {
	Listen string      // host:port for TLS; a client certificate names the sources it may speak for (common name and DNS names)
	TLS    *tls.Config // certificate of the broker and the authorities of its clients

	// PlainListen is a loopback host:port without TLS, for the demo and for programs on the same machine.
	PlainListen string
	// Users may log in on either listener with name and password. Without any, the plain listener takes everyone.
	Users map[string]User

	MaxClients int // 4096
}

// User is somebody who logs in with a password.
type User struct {
	Password edge.Secret
	Tenants  []string // whose topics; empty: every tenant
	Sources  []string // which sources it may speak for
}

// grant is what a client may do.
type grant struct {
	tenants []string // empty: every one
	sources []string
	all     bool // anyone on an open loopback listener
}

// covers: a name speaks for the source of that name and for those that carry it before a dot, such as tower7.node.
func (g *grant) covers(tenant, source string) bool {
	mine := func(name string) bool { return source == name || name != "" && strings.HasPrefix(source, name+".") }
	return g.all || slices.ContainsFunc(g.sources, mine) && (len(g.tenants) == 0 || slices.Contains(g.tenants, tenant))
}

// nodeURI begins the URIs by which a certificate names nodes and clusters.
const nodeURI = "spiffe://wispgate/node/"

// names are the sources that a verified certificate speaks for.
func names(leaf *x509.Certificate) []string {
	list := append([]string{leaf.Subject.CommonName}, leaf.DNSNames...)
	for _, u := range leaf.URIs {
		if name, ok := strings.CutPrefix(u.String(), nodeURI); ok {
			list = append(list, name)
		}
	}
	return list
}

// may says whether the client may write or read a topic or filter: up flow events and states, down come acknowledgements; a source sees
// only its own. On an open loopback listener people may look at everything, but not speak for the relay.
func (g *grant) may(topic string, write bool) bool {
	tenant, source, kind, ok := wire.ParseTopic(topic)
	if g.all && !write {
		return !strings.HasPrefix(topic, "$")
	}
	if !ok || !g.covers(tenant, source) {
		return false
	}
	if write {
		return kind == wire.Events || kind == wire.Status
	}
	return kind != wire.Events
}

const (
	tlsListener  = "tls"
	bareListener = "plain"
	helloTimeout = 10 * time.Second // for TLS and CONNECT
	maxRetained  = 100_000
)

// broker is the embedded MQTT broker. It keeps nothing on disk: whatever it loses is sent again, because only the relay's own
// acknowledgement counts.
type broker struct {
	cfg    BrokerConfig
	server *mqtt.Server
	log    *slog.Logger
	lns    []*listener
}

func newBroker(cfg BrokerConfig, log *slog.Logger) (*broker, error) {
	if cfg.MaxClients == 0 {
		cfg.MaxClients = 4096
	}
	if cfg.Listen == "" && cfg.PlainListen == "" {
		return nil, errors.New("relay.broker: give listen, or plain_listen on a loopback address")
	}
	if cfg.Listen != "" && cfg.TLS == nil {
		return nil, errors.New("relay.broker.listen: a certificate is missing")
	}
	if cfg.PlainListen != "" {
		host, _, err := net.SplitHostPort(cfg.PlainListen)
		a, aerr := netip.ParseAddr(host)
		if err != nil || host != "localhost" && (aerr != nil || !a.IsLoopback()) {
			return nil, errors.New("relay.broker.plain_listen: must be a loopback address; use listen with TLS for others")
		}
	}
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumClients = int64(cfg.MaxClients) + 1
	caps.MaximumPacketSize = wire.MaxPayload + 4096
	caps.MaximumClientWritesPending = 4096
	caps.MinimumProtocolVersion = 4
	caps.MaximumQos = 1
	caps.SharedSubAvailable = 0
	b := &broker{cfg: cfg, log: log, server: mqtt.New(&mqtt.Options{
		Capabilities: caps, Logger: slog.New(slog.DiscardHandler), SysTopicResendInterval: 60, InlineClient: true, // its own logger prints payloads
		ClientNetReadBufferSize: 4096, ClientNetWriteBufferSize: 4096,
	})}
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	return b, nil
}

// start opens the listeners; their addresses are in addrs afterwards.
func (b *broker) start() error {
	open := func(id, addr string, conf *tls.Config) error {
		l := &listener{id: id, address: addr, tls: conf, slots: make(chan struct{}, b.cfg.MaxClients+64)}
		if err := b.server.AddListener(l); err != nil {
			return &edge.Error{
				Kind: edge.Unavailable, Code: "listen_failed", Message: "The embedded broker cannot listen on " + addr + ": " + err.Error(),
				Fix: "Stop the program that uses the port, or set relay.broker to another address",
			}
		}
		b.lns = append(b.lns, l)
		return nil
	}
	if b.cfg.Listen != "" {
		conf := b.cfg.TLS.Clone()
		conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
		if len(b.cfg.Users) == 0 {
			conf.ClientAuth = tls.RequireAndVerifyClientCert
		} else {
			conf.ClientAuth = tls.VerifyClientCertIfGiven
		}
		if err := open(tlsListener, b.cfg.Listen, conf); err != nil {
			return errors.Join(err, b.stop())
		}
	}
	if b.cfg.PlainListen != "" {
		if err := open(bareListener, b.cfg.PlainListen, nil); err != nil {
			return errors.Join(err, b.stop())
		}
	}
	if err := b.server.Serve(); err != nil {
		return errors.Join(fmt.Errorf("embedded broker: %w", err), b.stop())
	}
	return nil
}

func (b *broker) stop() error {
	err := b.server.Close()
	if err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	return nil
}

// addr is where a listener listens, "" when there is none.
func (b *broker) addr(id string) string {
	for _, l := range b.lns {
		if l.id == id {
			return l.Address()
		}
	}
	return ""
}

// subscribe is the relay's own way in. The receiver runs on the publishing client's goroutine: while it waits, that client is held up.
func (b *broker) subscribe(receive func(topic string, payload []byte), filters ...string) (stop func(), err error) {
	for i, f := range filters {
		err = errors.Join(err, b.server.Subscribe(f, i+1, func(_ *mqtt.Client, _ packets.Subscription, pk packets.Packet) {
			receive(pk.TopicName, bytes.Clone(pk.Payload))
		}))
	}
	if err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	return func() {
		for i, f := range filters {
			_ = b.server.Unsubscribe(f, i+1) // only an impossible filter fails
		}
	}, nil
}

// grantOf says what a client may do, from its certificate, its password or where it connects; nil: nothing.
func (b *broker) grantOf(cl *mqtt.Client, user, password []byte) *grant {
	if c, ok := cl.Net.Conn.(*clientConn); ok && c.tls != nil {
		if chain := c.tls.ConnectionState().VerifiedChains; len(chain) > 0 {
			return &grant{sources: names(chain[0][0])}
		}
	}
	if cl.Net.Listener == bareListener && len(b.cfg.Users) == 0 {
		return &grant{all: true}
	}
	u, ok := b.cfg.Users[string(user)]
	if !ok || password != nil && subtle.ConstantTimeCompare([]byte(u.Password.Reveal()), password) != 1 {
		return nil
	}
	return &grant{tenants: u.Tenants, sources: u.Sources}
}

// hook is where the broker asks.
type hook struct {
	mqtt.HookBase
	b         *broker
	takeovers atomic.Int64
}

// ID implements mqtt.Hook.
func (h *hook) ID() string { return "wispgate" }

// Provides implements mqtt.Hook.
func (h *hook) Provides(what byte) bool {
	return what == mqtt.OnConnectAuthenticate || what == mqtt.OnACLCheck || what == mqtt.OnPublish || what == mqtt.OnDisconnect
}

// OnConnectAuthenticate implements mqtt.Hook. A client's id begins with a source it speaks for, so that nobody can take over another's
// session; and its last will may only go where it may write itself.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	password := pk.Connect.Password
	if password == nil {
		password = []byte{}
	}
	g := h.b.grantOf(cl, pk.Connect.Username, password)
	var why string
	switch {
	case g == nil:
		why = "neither certificate nor password is known"
	case !g.all && !slices.ContainsFunc(g.sources, func(s string) bool { return ownID(cl.ID, s) }):
		why = "client id does not begin with its source"
	case cl.ID == mqtt.InlineClientId:
		why = "client id is the relay's"
	case pk.Connect.WillFlag && !g.may(pk.Connect.WillTopic, true):
		why = "last will goes to a foreign topic"
	default:
		if c, ok := cl.Net.Conn.(*clientConn); ok {
			c.hello.Stop()
		}
		return true
	}
	h.b.log.Warn("client refused by the embedded broker", "remote", cl.Net.Remote, "listener", cl.Net.Listener, "reason", why)
	return false
}

// ownID: the source itself, or the source and a colon before anything.
func ownID(client, source string) bool {
	return source != "" && (client == source || strings.HasPrefix(client, source+":"))
}

// OnACLCheck implements mqtt.Hook.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	g := h.b.grantOf(cl, cl.Properties.Username, nil)
	return g != nil && g.may(topic, write)
}

// OnPublish implements mqtt.Hook: retained messages are bounded, since each stays in memory.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Retain && !cl.Net.Inline {
		if _, _, kind, _ := wire.ParseTopic(pk.TopicName); kind != wire.Status || atomic.LoadInt64(&h.b.server.Info.Retained) > maxRetained {
			return pk, packets.ErrRejectPacket
		}
	}
	return pk, nil
}

// OnDisconnect implements mqtt.Hook: two clients with one id take over from each other for ever, which somebody should hear of.
func (h *hook) OnDisconnect(cl *mqtt.Client, err error, _ bool) {
	if errors.Is(err, packets.ErrSessionTakenOver) || errors.Is(cl.StopCause(), packets.ErrSessionTakenOver) {
		if n := h.takeovers.Add(1); n%4 == 0 {
			h.b.log.Warn("clients with the same id take over from each other", "client", cl.ID, "takeovers", n)
		}
	}
}

// listener is a broker's listener that bounds how many connect and how long they may take to say who they are.
type listener struct {
	id, address string
	tls         *tls.Config
	slots       chan struct{}

	mu sync.Mutex
	ln net.Listener
}

// Init implements listeners.Listener.
func (l *listener) Init(*slog.Logger) error {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", l.address) //nolint:forbidigo // binding an address waits for nothing
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ln = ln
	return nil
}

// Serve implements listeners.Listener.
func (l *listener) Serve(establish listeners.EstablishFn) {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				continue
			}
			return
		}
		select {
		case l.slots <- struct{}{}:
			go func() {
				defer func() { <-l.slots }()
				defer c.Close()
				l.hello(c, establish)
			}()
		default:
			_ = c.Close()
		}
	}
}

// clientConn is a connection whose client has yet to say who it is; the timer hangs up on one that does not.
type clientConn struct {
	net.Conn
	tls   *tls.Conn // nil on the plain listener
	hello *time.Timer
}

// hello gives a client a moment for TLS and CONNECT; once it is known the broker sets deadlines of its own.
func (l *listener) hello(c net.Conn, establish listeners.EstablishFn) {
	cc := &clientConn{Conn: c, hello: time.AfterFunc(helloTimeout, func() { _ = c.Close() })}
	defer cc.hello.Stop()
	if l.tls != nil {
		cc.tls = tls.Server(c, l.tls)
		cc.Conn = cc.tls
		if err := cc.tls.Handshake(); err != nil { //nolint:noctx // the timer ends it
			return
		}
	}
	_ = establish(l.id, cc) // the broker has said why to the client
}

// ID implements listeners.Listener.
func (l *listener) ID() string { return l.id }

// Address implements listeners.Listener.
func (l *listener) Address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ln == nil {
		return l.address
	}
	return l.ln.Addr().String()
}

// Protocol implements listeners.Listener.
func (l *listener) Protocol() string { return "mqtt" }

// Close implements listeners.Listener.
func (l *listener) Close(closeClients listeners.CloseFn) {
	closeClients(l.id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ln != nil {
		_ = l.ln.Close()
	}
}

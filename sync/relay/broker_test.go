package relay_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/edgetest/peers"
	"wispgate/sync/relay"
	"wispgate/sync/uplink"
	"wispgate/sync/wire"
)

// mosquitto is a real broker without persistence, which a test may kill.
type mosquitto struct {
	t    testing.TB
	port string
	conf string
	cmd  *exec.Cmd
	out  bytes.Buffer
}

func newMosquitto(t testing.TB) *mosquitto {
	t.Helper()
	path := peers.NeedProgram(t, "mosquitto")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	m := &mosquitto{t: t, port: port, conf: filepath.Join(t.TempDir(), "mosquitto.conf")}
	conf := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\n", port)
	if err := os.WriteFile(m.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	m.start(path)
	t.Cleanup(m.kill)
	return m
}

func (m *mosquitto) addr() string { return "127.0.0.1:" + m.port }

func (m *mosquitto) start(path string) {
	m.t.Helper()
	m.cmd = exec.Command(path, "-c", m.conf)
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.out
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	edgetest.Eventually(m.t, func() bool {
		c, err := net.Dial("tcp", m.addr())
		if err == nil {
			c.Close()
		}
		return err == nil
	}, m.out.String)
}

func (m *mosquitto) kill() {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

// complete checks that the relay holds every event of the source exactly once.
func complete(t *testing.T, g *rig, src *source) {
	t.Helper()
	seen := map[uint64]int{}
	in := map[string]any{"limit": 200, "source": src.name.Source}
	for {
		page := edgetest.Ask[edge.Page[relay.StoredEvent]](t, g.Harness, actor(), "relay.event.list", in)
		for _, e := range page.Data {
			seen[e.Position]++
		}
		if !page.HasMore {
			break
		}
		in["cursor"] = page.NextCursor
	}
	last := src.Marks().Last
	for p := uint64(1); p <= last; p++ {
		if seen[p] != 1 {
			t.Fatalf("position %d is stored %d times", p, seen[p])
		}
	}
	if uint64(len(seen)) != last {
		t.Errorf("%d positions are stored, want %d", len(seen), last)
	}
}

func TestBrokerKilledAndErasedLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	m := newMosquitto(t)
	g := start(t, func(c *relay.Config) { c.Client = &relay.ClientConfig{Brokers: []string{"mqtt://" + m.addr()}} })
	srcs := []*source{newSource("clu-1"), newSource("tower-2")}
	for _, s := range srcs {
		publish(t, m.addr(), s)
	}
	var feed sync.WaitGroup
	stop := make(chan struct{})
	for _, s := range srcs {
		feed.Go(func() { // a steady flow while the broker comes and goes
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for range 125 {
				select {
				case <-tick.C:
					s.emit(t, 40, 10)
				case <-stop:
					return
				}
			}
		})
	}
	defer close(stop)
	kills := 0
	for _, at := range []uint64{800, 2500} {
		edgetest.Eventually(t, func() bool { return srcs[0].Marks().Acked >= at }, func() string { return asJSON(srcs[0].Marks()) + m.out.String() })
		path := m.cmd.Path
		m.kill()
		m.start(path)
		kills++
	}
	feed.Wait()
	for _, s := range srcs {
		s.acked(t)
		complete(t, g, s)
	}
	t.Logf("%d kills, %d events", kills, srcs[0].Marks().Last+srcs[1].Marks().Last)
}

// TestRelayProcess is not a test: it is the relay that TestRelayKilledLosesNothing runs and kills.
func TestRelayProcess(t *testing.T) {
	dir := os.Getenv("RELAY_TEST_DIR")
	if dir == "" {
		t.Skip("a helper process of another test")
	}
	g := open(t, dir, func(c *relay.Config) {
		c.Client = &relay.ClientConfig{Brokers: []string{"mqtt://" + os.Getenv("RELAY_TEST_BROKER")}}
	})
	defer g.stop()
	select {} // until it is killed
}

func TestRelayKilledLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	m := newMosquitto(t)
	rc := receive(t, nil)
	dir := t.TempDir()
	g := open(t, dir, nil)
	g.endpoint(rc.URL, nil)
	g.stop() // the harness's state machine has no log: only a clean stop keeps the endpoint
	run := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRelayProcess$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), "RELAY_TEST_DIR="+dir, "RELAY_TEST_BROKER="+m.addr())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	cmd := run()
	defer func() { kill(cmd) }()
	src := newSource("clu-1")
	const total = 4000
	src.emit(t, total, 10)
	publish(t, m.addr(), src)
	for _, at := range []uint64{500, 2000} {
		edgetest.Eventually(t, func() bool { return src.Marks().Acked >= at }, func() string { return asJSON(src.Marks()) })
		kill(cmd)
		cmd = run()
	}
	src.acked(t)
	edgetest.Eventually(t, func() bool {
		seen := map[string]bool{}
		for _, id := range rc.ids() {
			seen[id] = true
		}
		return len(seen) == total
	}, func() string { return fmt.Sprintf("%d deliveries", len(rc.ids())) })
	kill(cmd)
	g = open(t, dir, nil)
	complete(t, g, src)
	t.Logf("%d events, %d deliveries", total, len(rc.ids()))
}

// pki makes a certificate authority and certificates from it.
type pki struct {
	t    *testing.T
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newPKI(t *testing.T) *pki {
	p := &pki{t: t, pool: x509.NewCertPool()}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &p.key.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.ca, err = x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	p.pool.AddCert(p.ca)
	return p
}

func (p *pki) cert(name string, dns ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: dns, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, p.ca, &key.PublicKey, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

// dial connects a plain client; the error is the broker's answer.
func dial(addr, scheme, id, user, password string, conf *tls.Config, will string) (mqtt.Client, error) {
	o := mqtt.NewClientOptions().AddBroker(scheme + "://" + addr).SetClientID(id).SetUsername(user).SetPassword(password).
		SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(5 * time.Second)
	if conf != nil {
		o.SetTLSConfig(conf)
	}
	if will != "" {
		o.SetWill(will, "x", 1, true)
	}
	c := mqtt.NewClient(o)
	tok := c.Connect()
	tok.Wait()
	return c, tok.Error()
}

func TestEmbeddedBrokerLetsASourceSpeakForItselfAlone(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	g := start(t, func(c *relay.Config) {
		c.Broker = &relay.BrokerConfig{
			Listen: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{p.cert("noc")}, ClientCAs: p.pool},
			PlainListen: "127.0.0.1:0",
			Users:       map[string]relay.User{"lab": {Password: "secret", Tenants: []string{tenant}, Sources: []string{"lab-1"}}},
		}
	})
	st := g.relay.Status()
	client := func(names ...string) *tls.Config {
		return &tls.Config{RootCAs: p.pool, Certificates: []tls.Certificate{p.cert(names[0], names...)}}
	}
	own := client("tower-1", "clu-1")

	src := newSource("clu-1")
	src.emit(t, 50, 5)
	u, err := uplink.New(uplink.Config{Brokers: []string{"mqtts://" + st.Broker}, Node: "tower-1", TLS: own, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Attach(context.Background(), src); err != nil {
		t.Fatal(err)
	}
	defer u.Stop(context.Background())
	src.acked(t)

	for name, try := range map[string]func() (mqtt.Client, error){
		"no certificate": func() (mqtt.Client, error) {
			return dial(st.Broker, "ssl", "tower-1", "", "", &tls.Config{RootCAs: p.pool}, "")
		},
		"a stranger's certificate": func() (mqtt.Client, error) {
			return dial(st.Broker, "ssl", "tower-1", "", "", &tls.Config{RootCAs: p.pool, Certificates: []tls.Certificate{newPKI(t).cert("tower-1")}}, "")
		},
		"another's client id": func() (mqtt.Client, error) { return dial(st.Broker, "ssl", "tower-9:x", "", "", own, "") },
		"a prefix of the id":  func() (mqtt.Client, error) { return dial(st.Broker, "ssl", "tower-10", "", "", own, "") },
		"a will on another's topic": func() (mqtt.Client, error) {
			return dial(st.Broker, "ssl", "tower-1:w", "", "", own, wire.Topic(tenant, "tower-9", wire.Status))
		},
		"a will as an ack": func() (mqtt.Client, error) {
			return dial(st.Broker, "ssl", "tower-1:w", "", "", own, wire.Topic(tenant, "tower-1", wire.Acks))
		},
		"a wrong password":     func() (mqtt.Client, error) { return dial(st.Plain, "tcp", "lab-1", "lab", "guess", nil, "") },
		"no password":          func() (mqtt.Client, error) { return dial(st.Plain, "tcp", "lab-1", "lab", "", nil, "") },
		"nobody":               func() (mqtt.Client, error) { return dial(st.Plain, "tcp", "lab-1", "", "", nil, "") },
		"the relay's own name": func() (mqtt.Client, error) { return dial(st.Plain, "tcp", "inline", "lab", "secret", nil, "") },
	} {
		if c, err := try(); err == nil {
			t.Errorf("%s was let in", name)
			c.Disconnect(0)
		}
	}

	lab, err := dial(st.Plain, "tcp", "lab-1", "lab", "secret", nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Disconnect(0)
	for topic, ok := range map[string]bool{
		wire.Topic(tenant, "lab-1", wire.Acks): true, wire.Topic(tenant, "clu-1", wire.Acks): false, wire.Topic("other", "lab-1", wire.Acks): false,
		"wg/#": false, "#": false, "wg/v1/+/lab-1/ack": false, "$SYS/#": false, wire.Topic(tenant, "lab-1", wire.Events): false,
	} {
		tok := lab.Subscribe(topic, 1, nil)
		tok.Wait()
		code := tok.(*mqtt.SubscribeToken).Result()[topic]
		if granted := tok.Error() == nil && code <= 2; granted != ok {
			t.Errorf("subscribe %s: granted %v, want %v", topic, granted, ok)
		}
		if !lab.IsConnected() {
			t.Fatalf("the broker hung up at %s", topic)
		}
	}
	// What a stranger publishes into another's stream never reaches the relay.
	before := g.relay.Status()
	forged := newSource("clu-1")
	forged.emit(t, 60, 5)
	items, _, _ := forged.Read(context.Background(), 50, 1<<20)
	raw, err := new(wire.Encoder).Encode(wire.Header{Tenant: tenant, Source: "clu-1", Incarnation: "i1", After: 50, Upto: 60}, items)
	if err != nil {
		t.Fatal(err)
	}
	lab.Publish(wire.Topic(tenant, "clu-1", wire.Events), 1, false, raw)
	src.emit(t, 1, 1)
	src.acked(t)
	if after := g.relay.Status(); after.Stored != before.Stored+1 {
		t.Errorf("%d events stored, want %d", after.Stored, before.Stored+1)
	}
}

func TestOpenBrokerIsForLoopbackOnly(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{"127.0.0.1:0": true, "[::1]:0": true, "localhost:0": true, "0.0.0.0:0": false, "192.0.2.1:1883": false, ":1883": false} {
		h := edgetest.Node(t)
		_, err := relay.New(relay.Config{
			ID: "noc", Store: h.Store, Now: time.Now, Unsealer: unsealer{}, Broker: &relay.BrokerConfig{PlainListen: addr},
		})
		if (err == nil) != ok {
			t.Errorf("%s: got %v", addr, err)
		}
	}
}

func TestBirthDeathAndLateWillShowInTheStreamList(t *testing.T) {
	t.Parallel()
	m := newMosquitto(t)
	g := start(t, func(c *relay.Config) { c.Client = &relay.ClientConfig{Brokers: []string{"mqtt://" + m.addr()}} })
	src := newSource("clu-1")
	src.emit(t, 5, 5)
	u := publish(t, m.addr(), src)
	src.acked(t)
	online := func() string {
		s := edgetest.Ask[edge.Page[relay.StreamInfo]](t, g.Harness, actor(), "relay.stream.list", map[string]any{}).Data
		if len(s) != 1 || s[0].Online == nil {
			return asJSON(s)
		}
		return fmt.Sprint(*s[0].Online)
	}
	edgetest.Eventually(t, func() bool { return online() == "true" }, online)
	c, err := dial(m.addr(), "tcp", "late", "", "", nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect(0)
	c.Publish(wire.Topic(tenant, "clu-1", wire.Status), 1, true, wire.Encode(wire.State{Incarnation: "i1", Node: "clu-1", Session: "old", Reason: "lost"}))
	seen := make(chan string, 16)
	c.Subscribe(wire.Topic(tenant, "clu-1", wire.Status), 1, func(_ mqtt.Client, m mqtt.Message) { seen <- string(m.Payload()) })
	for last := ""; !strings.Contains(last, `"online":true`); {
		select {
		case last = <-seen:
		case <-time.After(time.Minute):
			t.Fatalf("the birth was not said again: %s", last)
		}
	}
	if got := online(); got != "true" {
		t.Errorf("a late will made the stream %s", got)
	}
	if err := u.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	edgetest.Eventually(t, func() bool { return online() == "false" }, online)
}

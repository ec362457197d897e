package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
	"wispgate/edge/edgetest/peers"
)

// crashes is how often each campaign kills something: CRASHES sets it for long runs.
func crashes(t testing.TB) int { return peers.Rounds(t, "CRASHES", 4) }

const (
	nasSecret   = "tower-7-shared-secret-Zq3"
	annPassword = "ann-password-Hx81"
)

// tower is a node and a relay with a customer, a login and a webhook receiver.
type tower struct {
	t           testing.TB
	node, relay *program
	api, noc    *apiClient
	hook        *hook
	auth, acct  string
	router      string // the address that RADIUS sees of us, where it is not loopback
	policy      string
	sub         string
	customer    string
	hookSecret  string
}

const wide = `
limits: {tenant_per_minute: 10000000, client_per_minute: 10000000, unauthenticated_per_minute: 1000000}
node: {id: NAME, data_dir: DATA, log_level: warn, log_format: json}
`

func newTower(t testing.TB, dir, nodeMore, relayConf, broker string) *tower {
	t.Helper()
	w := &tower{t: t, hook: newHook(t, freePort(t))}
	w.auth, w.acct = fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	nodeAPI, relayAPI := freePort(t), freePort(t)
	w.node = newProgram(t, "serve", filepath.Join(dir, "node"), named("n7")+fmt.Sprintf(`
radius: {auth_listen: [%q], acct_listen: [%q], workers: 2, reject_delay: 0s}
api: {listen: "127.0.0.1:%d", admin_listen: ""}
uplink: {enabled: true, broker: %q%s}
`, w.auth, w.acct, nodeAPI, broker, nodeMore), nodeAPI)
	w.relay = newProgram(t, "relay", filepath.Join(dir, "noc"), named("noc")+fmt.Sprintf(`
api: {admin_listen: ""}
relay: {listen: "127.0.0.1:%d", data_dir: DATA, allow_private_cidrs: ["127.0.0.0/8"], %s}
`, relayAPI, relayConf), relayAPI)
	return w
}

func named(name string) string {
	return string(bytes.ReplaceAll([]byte(wide), []byte("NAME"), []byte(name)))
}

// open starts and claims both, registers the webhook receiver and sells ann her service.
func (w *tower) open() {
	w.t.Helper()
	w.relay.start()
	w.noc = w.relay.claim()
	w.subscribe()
	w.node.start()
	w.api = w.node.claim()
	w.sell()
}

func (w *tower) subscribe() {
	w.t.Helper()
	var out struct {
		Secret string `json:"secret"`
	}
	w.noc.must(w.t, http.MethodPost, "/api/v1/relay/endpoints", map[string]any{
		"name": "office", "url": w.hook.url, "events": []string{"crm.*", "billing.*", "aaa.*"}, "rate_per_second": 1000, "concurrency": 16,
	}, &out)
	w.hookSecret = out.Secret
	must(w.t, w.hook.trust(out.Secret))
}

func (w *tower) sell() {
	w.t.Helper()
	a := w.api
	a.create(w.t, "/api/v1/aaa/nas", map[string]any{"identifier": "ccr", "addresses": []string{cmp.Or(w.router, "127.0.0.1")}, "vendor": "mikrotik", "secret": nasSecret})
	w.policy = a.create(w.t, "/api/v1/aaa/policies", map[string]any{"name": "Home", "down_kbps": 20_000_000, "up_kbps": 20_000_000})
	plan := a.create(w.t, "/api/v1/billing/plans", map[string]any{
		"code": "home", "name": "Home", "kind": "recurring", "price": map[string]any{"amount_minor": 1999, "currency": "USD"},
		"interval": map[string]any{"unit": "month", "count": 1}, "policy_ref": w.policy,
	})
	a.must(w.t, http.MethodPost, "/api/v1/billing/plans/"+plan+":publish", map[string]any{}, nil)
	w.customer = a.create(w.t, "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Ann Example"})
	w.sub = a.create(w.t, "/api/v1/billing/subscriptions", map[string]any{
		"customer_id": w.customer, "timezone": "UTC", "items": []any{map[string]any{"plan_id": plan}},
	})
	a.must(w.t, http.MethodPost, "/api/v1/billing/subscriptions/"+w.sub+":activate", map[string]any{}, nil)
	a.create(w.t, "/api/v1/aaa/credentials", map[string]any{
		"type": "pap_chap", "username": "ann", "password": annPassword, "subscription_id": w.sub, "max_sessions": 64,
	})
}

// load is what runs while programs are killed, with the book of everything that was acknowledged.
type load struct {
	w      *tower
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	turn   int // how often it was run

	mu        sync.Mutex
	customers map[string]string    // idempotency key → id
	sessions  map[string][2]uint64 // Acct-Session-Id → octets in, out of its last acknowledged record
	problems  []string
	accepted  atomic.Int64
	replayed  atomic.Int64
}

func (w *tower) load(writers, routers int) *load {
	l := &load{w: w, customers: map[string]string{}, sessions: map[string][2]uint64{}}
	l.run(writers, routers)
	return l
}

func (l *load) begin() {
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.w.t.Cleanup(l.cancel)
	l.turn++
}

// run runs it, also again after finish.
func (l *load) run(writers, routers int) {
	l.begin()
	for i := range writers {
		l.wg.Go(func() { l.write(i) })
	}
	for i := range routers {
		l.wg.Go(func() { l.account(i) })
	}
	l.wg.Go(l.login)
}

// decided lets everyone complete what is under way: nothing that was begun stays undecided.
func (l *load) decided() {
	l.w.t.Helper()
	l.cancel()
	l.wg.Wait()
	if len(l.problems) > 0 {
		l.w.t.Fatalf("under load: %d problems, the first: %s", len(l.problems), l.problems[0])
	}
}

// finish ends it, and expects that it did something.
func (l *load) finish() {
	l.w.t.Helper()
	l.decided()
	if l.accepted.Load() == 0 || len(l.customers) == 0 || len(l.sessions) == 0 {
		l.w.t.Fatalf("the load did nothing: %d accepts, %d customers, %d sessions", l.accepted.Load(), len(l.customers), len(l.sessions))
	}
}

func (l *load) problem(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

// gaveUp bounds how long one request is repeated: longer than whoever starts a program waits for it.
const gaveUp = 2 * pollLimit

// settle repeats a request with its key until it is decided.
func (l *load) settle(path, key string, in any) (answer, bool) {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for begun := time.Now(); time.Since(begun) < gaveUp; <-pause.C {
		a := l.w.api.ask(http.MethodPost, path, key, in)
		switch {
		case a.err != nil, a.status == http.StatusServiceUnavailable, a.status == http.StatusGatewayTimeout, a.code() == "in_flight", a.code() == "idempotency_in_flight":
			continue
		}
		return a, true
	}
	l.problem("%s was not decided within %s", key, gaveUp)
	return answer{}, false
}

// write makes customers, each once, and now and then asks again for one of before.
func (l *load) write(lane int) {
	type done struct {
		key, id string
		in      any
	}
	var mine []done
	for n := 0; l.ctx.Err() == nil; n++ {
		d := done{key: fmt.Sprintf("crash-%d-%d-%d", l.turn, lane, n)}
		d.in = map[string]any{"kind": "person", "name": "Customer " + d.key, "external_id": d.key}
		again := n%5 == 4 && len(mine) > 0
		if again {
			d = mine[rand.IntN(len(mine))]
		}
		a, ok := l.settle("/api/v1/crm/customers", d.key, d.in)
		if !ok {
			return
		}
		var out struct {
			ID string `json:"id"`
		}
		if a.status != http.StatusCreated || json.Unmarshal(a.body, &out) != nil || out.ID == "" {
			l.problem("%s: %s", d.key, a)
			return
		}
		if again {
			if out.ID != d.id || a.header.Get("Idempotency-Replayed") != "true" {
				l.problem("%s was answered with %s first and with %s (replayed %q) then", d.key, d.id, out.ID, a.header.Get("Idempotency-Replayed"))
			}
			l.replayed.Add(1)
			continue
		}
		d.id = out.ID
		mine = append(mine, d)
		l.mu.Lock()
		l.customers[d.key] = d.id
		l.mu.Unlock()
	}
}

func (l *load) dial(addr string) *radclient.Client {
	c, err := radclient.Dial(addr, []byte(nasSecret), time.Now, radclient.Options{Timeout: 200 * time.Millisecond, Tries: 3})
	if err != nil {
		l.problem("dial: %v", err)
		return nil
	}
	return c
}

// account is a router: each of its sessions is a Stop alone, or a Start, some Interims and a Stop. A record that nobody acknowledged is sent
// again until somebody does, as routers do; what was acknowledged is never sent again.
func (l *load) account(lane int) {
	c := l.dial(l.w.acct)
	if c == nil {
		return
	}
	defer func() { _ = c.Close() }()
	for n := 0; l.ctx.Err() == nil; n++ {
		id := fmt.Sprintf("s%d-%d-%d", l.turn, lane, n)
		if n%3 > 0 {
			l.record(c, record{session: id, status: 2, began: time.Now().Add(-time.Minute), seconds: 60, in: uint64(1000 + n), out: uint64(70_000 + n)})
			continue
		}
		r := record{session: id, status: 1, began: time.Now().Add(-400 * time.Second)} // a backlog: each record tells its own time
		l.record(c, r)
		for range 3 {
			r.status, r.seconds, r.in, r.out = 3, r.seconds+100, r.in+uint64(500+n), r.out+(1<<31)+uint64(n)
			l.record(c, r)
		}
		r.status, r.seconds, r.in, r.out = 2, 400, r.in+7, r.out+11
		l.record(c, r)
	}
}

// record is one accounting record.
type record struct {
	session string
	status  uint32 // 1 start, 2 stop, 3 interim
	began   time.Time
	seconds uint32
	in, out uint64
}

func (r record) attrs() []byte {
	attrs := packet.AppendUint32(nil, packet.AcctStatusType, r.status)
	attrs = packet.AppendString(attrs, packet.UserName, "ann")
	attrs = packet.AppendString(attrs, packet.AcctSessionID, r.session)
	attrs = packet.AppendString(attrs, packet.NASIdentifier, "ccr")
	for _, a := range []struct {
		typ byte
		val uint64
	}{
		{packet.EventTimestamp, uint64(r.began.Unix()) + uint64(r.seconds)}, {packet.AcctSessionTime, uint64(r.seconds)},
		{packet.AcctInputOctets, r.in}, {packet.AcctInputGigawords, r.in >> 32},
		{packet.AcctOutputOctets, r.out}, {packet.AcctOutputGigawords, r.out >> 32},
	} {
		attrs = packet.AppendUint32(attrs, a.typ, uint32(a.val))
	}
	return attrs
}

// record sends one accounting record until it is acknowledged.
func (l *load) record(c *radclient.Client, r record) {
	attrs := r.attrs()
	for begun := time.Now(); time.Since(begun) < gaveUp; {
		reply, err := c.Do(context.Background(), radclient.Request{Code: packet.AccountingRequest, Attrs: attrs})
		if err == nil && reply.Code == packet.AccountingResponse {
			l.mu.Lock()
			l.sessions[r.session] = [2]uint64{r.in, r.out}
			l.mu.Unlock()
			return
		}
	}
	l.problem("record %d of %s was not acknowledged within %s", r.status, r.session, gaveUp)
}

// login asks again and again; a right password must never be refused.
func (l *load) login() {
	c := l.dial(l.w.auth)
	if c == nil {
		return
	}
	defer func() { _ = c.Close() }()
	password := annPassword
	attrs := packet.AppendString(packet.AppendString(nil, packet.UserName, "ann"), packet.NASIdentifier, "ccr")
	for i := 0; l.ctx.Err() == nil; i++ {
		reply, err := c.Do(l.ctx, radclient.Request{Code: packet.AccessRequest, Attrs: attrs, Password: &password, CHAP: i%2 == 1})
		switch {
		case err != nil: // nobody is there, for now
		case reply.Code == packet.AccessAccept:
			l.accepted.Add(1)
		default:
			says := ""
			if attrs, err := reply.Attrs(); err == nil {
				says = string(attrs.Get(packet.ReplyMessage))
			}
			l.problem("ann was answered with code %d: %s", reply.Code, says)
		}
	}
}

// account for everything: the node's state, the relay's, and what the receiver heard.
func (l *load) settleAll() {
	l.w.t.Helper()
	l.finish()
	l.customersOnce()
	usage := l.sessionsExact()
	l.relayComplete(usage)
	l.hookHeard()
	l.w.node.stop()
	l.w.relay.stop()
	for _, p := range []*program{l.w.node, l.w.relay} {
		out, err := exec.Command(binary(l.w.t), "audit", "verify", "--dir", p.data, "-o", "json").CombinedOutput()
		if err != nil {
			l.w.t.Errorf("the audit log of %s: %v\n%s", p.kind, err, out)
		}
	}
	l.w.t.Logf("%d customers, %d replays, %d sessions, %d accepts", len(l.customers), l.replayed.Load(), len(l.sessions), l.accepted.Load())
}

type customer struct {
	ID         string `json:"id"`
	ExternalID string `json:"external_id"`
}

func (l *load) customersOnce() {
	l.w.t.Helper()
	stored := map[string]string{}
	for _, c := range list[customer](l.w.t, l.w.api, "/api/v1/crm/customers") {
		if c.ID == l.w.customer {
			continue
		}
		if stored[c.ExternalID] != "" {
			l.w.t.Errorf("%s is stored twice", c.ExternalID)
		}
		stored[c.ExternalID] = c.ID
	}
	for key, id := range l.customers {
		if stored[key] != id {
			l.w.t.Errorf("%s was acknowledged as %s and is stored as %q", key, id, stored[key])
		}
	}
	if len(stored) != len(l.customers) {
		l.w.t.Errorf("%d customers are stored, %d were made", len(stored), len(l.customers))
	}
}

// sessionsExact compares sessions and billed usage with the book, and returns the octets in and out.
func (l *load) sessionsExact() (sum [2]uint64) {
	l.w.t.Helper()
	for _, s := range l.sessions {
		sum[0] += s[0]
		sum[1] += s[1]
	}
	var used struct {
		Total struct {
			In  uint64 `json:"in_octets"`
			Out uint64 `json:"out_octets"`
		} `json:"total"`
	}
	eventually(l.w.t, "the subscription's usage is what was acknowledged", func() (bool, string) {
		l.w.api.must(l.w.t, http.MethodGet, "/api/v1/billing/subscriptions/"+l.w.sub+"/usage", nil, &used)
		return used.Total.In == sum[0] && used.Total.Out == sum[1], fmt.Sprintf("got %+v, want %v", used.Total, sum)
	})
	type session struct {
		Session  string `json:"acct_session_id"`
		In       uint64 `json:"in_octets"`
		Out      uint64 `json:"out_octets"`
		State    string `json:"state"`
		Inferred bool   `json:"inferred"`
	}
	seen := map[string]bool{}
	wrong := 0
	for _, s := range list[session](l.w.t, l.w.api, "/api/v1/aaa/sessions") {
		if want := l.sessions[s.Session]; seen[s.Session] || want != [2]uint64{s.In, s.Out} || s.State != "closed" || s.Inferred {
			if wrong++; wrong <= 5 {
				l.w.t.Errorf("session %+v: want %v, closed by the router, once", s, want)
			}
		}
		seen[s.Session] = true
	}
	if len(seen) != len(l.sessions) {
		l.w.t.Errorf("%d sessions are known, %d were acknowledged", len(seen), len(l.sessions))
	}
	return sum
}

type streamInfo struct {
	Source string           `json:"source"`
	Stored uint64           `json:"stored"`
	Events int              `json:"events"`
	Gap    *time.Time       `json:"gap_since"`
	Lost   []map[string]any `json:"lost"`
}

type storedEvent struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Subject  string `json:"subject"`
	Source   string `json:"source"`
	Position uint64 `json:"position"`
}

// relayComplete waits until the relay holds everything, and counts it.
func (l *load) relayComplete(sum [2]uint64) {
	t := l.w.t
	t.Helper()
	var events []storedEvent
	created := map[string]int{}
	eventually(t, "the relay holds an event of each customer", func() (bool, string) {
		events = events[:0]
		clear(created)
		for _, e := range list[storedEvent](t, l.w.noc, "/api/v1/relay/events?source=n7.cluster") {
			events = append(events, e)
			if e.Type == "wispgate.crm.customer.created.v1" {
				created[e.Subject]++
			}
		}
		return len(created) == len(l.customers)+1, fmt.Sprintf("%d of %d; streams: %s", len(created), len(l.customers)+1, l.w.noc.ask(http.MethodGet, "/api/v1/relay/streams", "", nil))
	})
	for key, id := range l.customers {
		if created[id] != 1 {
			t.Errorf("the relay holds %d creations of %s (%s)", created[id], id, key)
		}
	}
	ids := map[string]bool{}
	for _, e := range events {
		if ids[e.ID] {
			t.Errorf("the relay holds event %s twice", e.ID)
		}
		ids[e.ID] = true
	}
	l.usageAtRelay(sum)
	var streams []streamInfo
	eventually(t, "the relay waits for nothing before what it has", func() (bool, string) {
		streams = list[streamInfo](t, l.w.noc, "/api/v1/relay/streams")
		return !slices.ContainsFunc(streams, func(s streamInfo) bool { return s.Gap != nil }), fmt.Sprintf("%+v", streams)
	})
	for _, s := range streams {
		if len(s.Lost) > 0 {
			t.Errorf("stream %+v has holes", s)
		}
	}
}

// usageAtRelay sums up what the usage events say of each session.
func (l *load) usageAtRelay(sum [2]uint64) {
	t := l.w.t
	t.Helper()
	newest := map[string]storedEvent{}
	eventually(t, "the relay holds a usage event of each session", func() (bool, string) {
		for _, e := range list[storedEvent](t, l.w.noc, "/api/v1/relay/events?source=n7.cluster&type=billing.usage.recorded") {
			if was, ok := newest[e.Subject]; !ok || e.Position > was.Position {
				newest[e.Subject] = e
			}
		}
		return len(newest) == len(l.sessions), fmt.Sprintf("%d usage records, %d sessions", len(newest), len(l.sessions))
	})
	var got [2]uint64
	for _, e := range newest {
		var stored struct {
			Envelope struct {
				Data struct {
					Changed struct {
						Total struct {
							In  uint64 `json:"in_octets"`
							Out uint64 `json:"out_octets"`
						} `json:"total"`
					} `json:"changed"`
				} `json:"data"`
			} `json:"envelope"`
		}
		l.w.noc.must(t, http.MethodGet, "/api/v1/relay/events/"+e.ID, nil, &stored)
		got[0] += stored.Envelope.Data.Changed.Total.In
		got[1] += stored.Envelope.Data.Changed.Total.Out
	}
	if got != sum {
		t.Errorf("the relay's usage events sum up to %v octets, the routers reported %v", got, sum)
	}
}

func (l *load) hookHeard() {
	t := l.w.t
	t.Helper()
	var want []storedEvent
	eventually(t, "the receiver heard every event", func() (bool, string) {
		want = list[storedEvent](t, l.w.noc, "/api/v1/relay/events?source=n7.cluster")
		l.w.hook.mu.Lock()
		defer l.w.hook.mu.Unlock()
		missing := ""
		n := 0
		for _, e := range want {
			if l.w.hook.heard[e.ID] == 0 && wanted(e.Type) {
				missing = e.Type + " " + e.ID
				n++
			}
		}
		return missing == "", fmt.Sprintf("%d of %d not heard, such as %s; refused: %v", n, len(want), missing, l.w.hook.bad)
	})
	if bad := l.w.hook.refused(); len(bad) > 0 {
		t.Errorf("the receiver refused %d deliveries, the first: %s", len(bad), bad[0])
	}
}

// wanted says whether the receiver's endpoint asks for a type.
func wanted(name string) bool {
	for _, domain := range []string{"crm.", "billing.", "aaa."} {
		if strings.HasPrefix(name, "wispgate."+domain) {
			return true
		}
	}
	return false
}

// atRandom waits for a random moment under load.
func atRandom(least, most time.Duration) { <-time.After(least + rand.N(most-least)) }

// TestNothingIsLostWhenNodeOrRelayAreKilled kills node and relay, alone and together, under load.
func TestNothingIsLostWhenNodeOrRelayAreKilled(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := newTower(t, t.TempDir(), "", fmt.Sprintf(`mqtt_listen: "", mqtt_plain_listen: "127.0.0.1:%d"`, port), fmt.Sprintf("mqtt://127.0.0.1:%d", port))
	w.open()
	l := w.load(3, 2)
	for i := range crashes(t) {
		atRandom(100*time.Millisecond, 1200*time.Millisecond)
		victims := [][]*program{{w.node}, {w.relay}, {w.node, w.relay}}[i%3]
		for _, p := range victims {
			p.kill()
		}
		for _, p := range victims {
			p.start()
		}
	}
	atRandom(300*time.Millisecond, 600*time.Millisecond)
	l.settleAll()
}

// TestTheFirstAnswerAfterAKillKnowsWhatWasAcknowledged kills a node right after it acknowledged a login, and listens to the first answer of
// its successor. What lies between log and store must be applied before a door opens.
func TestTheFirstAnswerAfterAKillKnowsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	w := newTower(t, t.TempDir(), "", `mqtt_listen: "", mqtt_plain_listen: "127.0.0.1:`+fmt.Sprint(freePort(t))+`"`, fmt.Sprintf("mqtt://127.0.0.1:%d", freePort(t)))
	w.node.start()
	w.api = w.node.claim()
	w.sell()
	password := annPassword
	for i := range 4 {
		w.node.ready()
		login := fmt.Sprintf("fresh%d", i)
		id := w.api.create(t, "/api/v1/aaa/credentials", map[string]any{"type": "pap_chap", "username": login, "password": password, "subscription_id": w.sub})
		w.node.kill()
		w.node.launch()
		if i%2 == 1 {
			var first answer
			eventually(t, "the API answers", func() (bool, string) {
				first = w.api.ask(http.MethodGet, "/api/v1/aaa/credentials/"+id, "", nil)
				return first.err == nil, first.String()
			})
			if first.status != http.StatusOK {
				t.Errorf("the first answer about an acknowledged record: %s", first)
			}
		}
		c, err := radclient.Dial(w.auth, []byte(nasSecret), time.Now, radclient.Options{Timeout: 10 * time.Millisecond, Tries: 2000})
		must(t, err)
		reply, err := c.Do(t.Context(), radclient.Request{
			Code: packet.AccessRequest, Attrs: packet.AppendString(nil, packet.UserName, login), Password: &password,
		})
		must(t, errors.Join(err, c.Close()))
		if reply.Code != packet.AccessAccept {
			t.Errorf("the first answer to %s has code %d, want Access-Accept", login, reply.Code)
		}
	}
}

// TestAFirstStartMayBeKilledAtAnyMoment kills nodes while they make their folder; the next start must finish it and print a claim code.
func TestAFirstStartMayBeKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	for i := range peers.Rounds(t, "CRASHES", 6) {
		w := newTower(t, filepath.Join(t.TempDir(), fmt.Sprint(i)), "", `mqtt_listen: ""`, "mqtt://127.0.0.1:1")
		for range 2 {
			w.node.launch()
			atRandom(0, 350*time.Millisecond)
			w.node.kill()
		}
		w.node.start()
		w.api = w.node.claim()
		w.sell()
		w.node.stop()
	}
}

// mosquitto is a broker of someone else.
type mosquitto struct {
	t    testing.TB
	path string
	dir  string
	port int
	cmd  *exec.Cmd
}

func newMosquitto(t testing.TB, dir string, port int, more string) *mosquitto {
	t.Helper()
	m := &mosquitto{t: t, path: peers.NeedProgram(t, "mosquitto"), dir: dir, port: port}
	must(t, os.MkdirAll(m.data(), 0o777))
	must(t, os.Chmod(m.data(), 0o777))
	conf := fmt.Sprintf("listener %d 127.0.0.1\npersistence true\npersistence_location %s/\nautosave_interval 1\nuser root\n%s", port, m.data(), more)
	if more == "" {
		conf += "allow_anonymous true\n"
	}
	must(t, os.WriteFile(m.conf(), []byte(conf), 0o600))
	t.Cleanup(func() {
		if m.cmd != nil {
			m.kill()
		}
	})
	return m
}

func (m *mosquitto) conf() string { return filepath.Join(m.dir, "mosquitto.conf") }
func (m *mosquitto) data() string { return filepath.Join(m.dir, "mosquitto-data") }

func (m *mosquitto) start() {
	m.t.Helper()
	m.cmd = exec.Command(m.path, "-c", m.conf())
	var out bytes.Buffer
	m.cmd.Stdout, m.cmd.Stderr = &out, &out
	must(m.t, m.cmd.Start())
	eventually(m.t, "mosquitto listens", func() (bool, string) {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", m.port), time.Second)
		if err != nil {
			return false, err.Error()
		}
		return conn.Close() == nil, ""
	})
}

func (m *mosquitto) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	m.cmd = nil
}

// TestNothingIsLostWhenAnExternalBrokerIsKilled kills mosquitto, with its data kept and erased, and the programs on both sides of it.
func TestNothingIsLostWhenAnExternalBrokerIsKilled(t *testing.T) {
	t.Parallel()
	port, dir := freePort(t), t.TempDir()
	broker := newMosquitto(t, dir, port, "")
	broker.start()
	url := fmt.Sprintf("mqtt://127.0.0.1:%d", port)
	w := newTower(t, dir, "", fmt.Sprintf(`mqtt_listen: "", broker: %q`, url), url)
	w.open()
	l := w.load(2, 1)
	for i := range crashes(t) {
		atRandom(100*time.Millisecond, 1200*time.Millisecond)
		broker.kill()
		switch i % 4 {
		case 1:
			must(t, os.RemoveAll(broker.data()))
			must(t, os.MkdirAll(broker.data(), 0o777))
		case 2:
			w.node.kill()
			w.node.start()
		case 3:
			w.relay.kill()
			must(t, os.RemoveAll(broker.data()))
			must(t, os.MkdirAll(broker.data(), 0o777))
			w.relay.start()
		}
		broker.start()
	}
	atRandom(300*time.Millisecond, 600*time.Millisecond)
	l.settleAll()
}

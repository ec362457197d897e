package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/gateway"
)

// The shop is a small domain that uses every kind of declaration the gateway must turn into routes.

type shelf string

func (shelf) Values() []string { return []string{"top", "middle", "bottom"} }

type item struct {
	edge.Meta
	Name   string   `json:"name" check:"min=1 max=40" doc:"Name people use." example:"Bolt M8"`
	Shelf  shelf    `json:"shelf" doc:"Where it lies."`
	Cents  int64    `json:"cents" check:"min=0 max=1000000"`
	Mail   string   `json:"mail,omitempty" check:"max=254 format=email"`
	Serial string   `json:"serial,omitempty" pattern:"^[A-Z]{2}[0-9]{4}$" check:"max=6"`
	Parts  []part   `json:"parts,omitempty" check:"max=20"`
	Digest string   `json:"digest,omitempty" check:"max=128"`
	Maker  *edge.ID `json:"maker,omitempty" check:"prefix=mkr"`
}

type part struct {
	Code  string `json:"code" check:"min=1 max=16"`
	Count int64  `json:"count" check:"min=1 max=99"`
}

type itemCreate struct {
	edge.Common
	Name   string   `json:"name" check:"min=1 max=40" doc:"Name people use." example:"Bolt M8"`
	Shelf  shelf    `json:"shelf" doc:"Where it lies."`
	Cents  int64    `json:"cents" check:"min=0 max=1000000"`
	Mail   string   `json:"mail,omitempty" check:"max=254 format=email"`
	Serial string   `json:"serial,omitempty" pattern:"^[A-Z]{2}[0-9]{4}$" check:"max=6"`
	Parts  []part   `json:"parts,omitempty" check:"max=20"`
	Maker  *edge.ID `json:"maker,omitempty" check:"prefix=mkr"`
}

type itemChange struct {
	ID   edge.ID `json:"id" check:"prefix=itm"`
	Name *string `json:"name,omitempty" check:"min=1 max=40"`
}

type itemRef struct {
	ID edge.ID `json:"id" check:"prefix=itm"`
}

type itemList struct {
	edge.ListInput
	Shelf shelf    `json:"shelf,omitempty"`
	Names []string `json:"names,omitempty" check:"max=3 item.max=40"`
	Cheap bool     `json:"cheap,omitempty"`
}

type keyed struct {
	ID  edge.ID `json:"id"`
	Key string  `json:"key,omitempty" check:"max=64" doc:"Shown once."`
}

type itemMade struct {
	ID edge.ID `json:"id"`
}

func (itemMade) EventName() string  { return "shop.item.created" }
func (e itemMade) Subject() edge.ID { return e.ID }

var items = &edge.Table[item]{
	Name: "shop.item", Prefix: "itm", Meta: func(i *item) *edge.Meta { return &i.Meta },
	Indexes: []edge.Index[item]{
		{Name: "name", Unique: true, Keys: func(i *item) []string { return []string{i.Name} }},
		{Name: "shelf", Keys: func(i *item) []string { return []string{string(i.Shelf)} }},
	},
}

var errShut = edge.Reason{Code: "shop_shut", Says: "The shop is shut", Fix: "Come back tomorrow"}

func shop() edge.Module {
	create := edge.Command[itemCreate, item]{
		Name: "shop.item.create", Scope: "shop:write", Summary: "Put an item on a shelf.", Class: edge.Write,
		Handle: func(tx edge.Tx, in itemCreate) (item, error) {
			if in.Name == "shut" {
				return item{}, errShut.Error(edge.Conflict)
			}
			if in.Name == "panic" {
				panic("a defect in a domain")
			}
			i := item{Meta: in.Common.Meta(tx.NewID("itm")), Name: in.Name, Shelf: in.Shelf, Cents: in.Cents, Mail: in.Mail, Serial: in.Serial, Parts: in.Parts, Maker: in.Maker}
			tx.Emit(itemMade{i.ID})
			return i, items.Put(tx, &i)
		},
	}.Op()
	change := edge.Command[itemChange, item]{
		Name: "shop.item.update", Scope: "shop:write", Summary: "Change an item.", Class: edge.Write, NeedsMatch: true,
		Record: func(in itemChange) edge.ID { return in.ID },
		Handle: func(tx edge.Tx, in itemChange) (item, error) {
			i, err := items.Get(tx, in.ID)
			if err != nil {
				return item{}, err
			}
			edge.Set(&i.Name, in.Name)
			return i, items.Put(tx, &i)
		},
	}.Op()
	hide := edge.Command[itemRef, item]{
		Name: "shop.item.hide", Scope: "shop:write", Summary: "Move an item to the bottom shelf.", Class: edge.Provision,
		Record: func(in itemRef) edge.ID { return in.ID },
		Handle: func(tx edge.Tx, in itemRef) (item, error) {
			i, err := items.Get(tx, in.ID)
			if err != nil {
				return item{}, err
			}
			i.Shelf = "bottom"
			return i, items.Put(tx, &i)
		},
	}.Op()
	sell := edge.Command[itemRef, itemRef]{
		Name: "shop.item.sell", Scope: "till:write", Summary: "Sell an item.", Class: edge.Money,
		Handle: func(tx edge.Tx, in itemRef) (itemRef, error) { _, err := items.Get(tx, in.ID); return in, err },
	}.Op()
	key := edge.Command[itemRef, keyed]{
		Name: "shop.item.lock", Scope: "shop:admin", Summary: "Lock an item and get its key, once.", Class: edge.Admin,
		Prepare: func(p edge.Prep, _ *itemRef) error { p.Once("key", "open sesame"); return nil },
		Handle: func(tx edge.Tx, in itemRef) (keyed, error) {
			_, err := items.Get(tx, in.ID)
			return keyed{ID: in.ID}, err
		},
	}.Op()
	get := edge.Query[itemRef, item]{
		Name: "shop.item.get", Scope: "shop:read", Summary: "One item.", Class: edge.Read,
		Handle: func(v edge.View, in itemRef) (item, error) { return items.Get(v, in.ID) },
	}.Op()
	list := edge.Query[itemList, edge.Page[item]]{
		Name: "shop.item.list", Scope: "shop:read", Summary: "Items by shelf.", Class: edge.Read,
		Handle: func(v edge.View, in itemList) (edge.Page[item], error) {
			if in.Shelf != "" {
				return items.List(v, "shelf", string(in.Shelf), in.ListInput)
			}
			return items.List(v, "", "", in.ListInput)
		},
	}.Op()
	hello := edge.Query[edge.None, struct {
		Says string `json:"says" check:"max=20"`
	}]{
		Name: "shop.door.ask", Scope: edge.Public, Summary: "Whether the shop is open.", Class: edge.Read,
		Handle: func(edge.View, edge.None) (out struct {
			Says string `json:"says" check:"max=20"`
		}, err error,
		) {
			out.Says = "open"
			return out, nil
		},
	}.Op()
	return edge.Module{
		Name: "shop", Summary: "A shop for tests.", Tables: []edge.AnyTable{items},
		Ops: []*edge.Op{create, change, hide, sell, key, get, list, hello},
		Routes: []edge.Route{
			{Method: "POST", Path: "/api/v1/shop/items", Op: create, Created: true},
			{Method: "GET", Path: "/api/v1/shop/items", Op: list},
			{Method: "GET", Path: "/api/v1/shop/items/{id}", Op: get},
			{Method: "PATCH", Path: "/api/v1/shop/items/{id}", Op: change},
			{Method: "POST", Path: "/api/v1/shop/items/{id}:hide", Op: hide},
			{Method: "POST", Path: "/api/v1/shop/items/{id}:sell", Op: sell},
			{Method: "POST", Path: "/api/v1/shop/items/{id}:lock", Op: key},
			{Method: "GET", Path: "/api/v1/shop/door", Op: hello},
		},
		Events: []edge.Event{itemMade{}}, Reasons: []edge.Reason{errShut},
	}
}

// doorman knows keys by heart: "wg_live_" is not needed in tests.
type doorman map[string]*gateway.Identity

func (d doorman) Authenticate(s gateway.Shown) (*gateway.Identity, error) {
	if id := d[s.Bearer+s.APIKey]; id != nil {
		return id, nil
	}
	return nil, &edge.Error{Kind: edge.Unauthenticated, Code: "credential_invalid", Message: "The credential is not one of this node's", Fix: "Check it"}
}

func keyFor(tenant string, scopes ...string) *gateway.Identity {
	return &gateway.Identity{Actor: edge.Actor{Tenant: tenant, Subject: "cli_" + tenant, Key: "key_" + tenant, Scopes: scopes}}
}

// meter allows until its budget is gone; the budget of addresses is apart.
type meter struct {
	mu              sync.Mutex
	client, address int64
}

func (m *meter) take(name string, from *int64, cost int) (d gateway.Decision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d = gateway.Decision{Asked: 1, RetryAfter: 7 * time.Second, Reset: 3 * time.Second}
	d.Policies[0] = gateway.Policy{Name: name, Rate: gateway.Rate{Quota: 600, Window: time.Minute}}
	if *from >= int64(cost) {
		*from -= int64(cost)
		d.Allowed = true
	}
	d.Remaining = *from
	return d
}

func (m *meter) Take(_ *gateway.Identity, _ edge.Class, cost int, _ time.Time) gateway.Decision {
	return m.take("client", &m.client, cost)
}

func (m *meter) TakeAddress(_ netip.Addr, cost int, _ time.Time) gateway.Decision {
	return m.take("address", &m.address, cost)
}

// ledger keeps audit lines, or refuses them.
type ledger struct {
	mu    sync.Mutex
	lines []string
	fail  error
}

func (l *ledger) Audit(_ context.Context, line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.lines = append(l.lines, string(line))
	return nil
}

func (l *ledger) breakWith(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

func (l *ledger) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// market is a gateway over a real kernel, on a loopback port.
type market struct {
	*gateway.Server
	t      testing.TB
	url    string
	addr   string
	meter  *meter
	ledger *ledger
	node   *edgetest.Harness
	logs   *lockedBuffer
	access *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func keys() doorman {
	return doorman{
		"full":  keyFor("acme", "all:read", "all:write", "shop:admin"),
		"other": keyFor("rival", "all:read", "all:write", "shop:admin"),
		"none":  keyFor("acme"),
		"read":  keyFor("acme", "shop:read"),
		"write": keyFor("acme", "shop:write"),
	}
}

func open(t testing.TB, change ...func(*gateway.Config, *gateway.Ports)) *market {
	t.Helper()
	m := &market{t: t, meter: &meter{client: 1e9, address: 1e9}, ledger: &ledger{}, node: edgetest.Node(t, shop()), logs: &lockedBuffer{}, access: &lockedBuffer{}}
	cfg := gateway.Config{
		Modules: []edge.Module{shop()}, Listen: []gateway.Listen{{Address: "127.0.0.1:0"}}, Node: "node-1", Version: "1.2.3",
		Now: time.Now, Logger: slog.New(slog.NewTextHandler(m.logs, nil)), AccessLog: m.access,
	}
	ports := gateway.Ports{Executor: m.node.Exec, Authenticator: keys(), Limiter: m.meter, Auditor: m.ledger}
	for _, c := range change {
		c(&cfg, &ports)
	}
	var err error
	if m.Server, err = gateway.New(cfg, ports); err != nil {
		t.Fatalf("new gateway: %v", err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatalf("start gateway: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := m.Shutdown(ctx); err != nil {
			t.Errorf("shut down: %v", err)
		}
	})
	m.addr = m.Addr().String()
	m.url = "http://" + m.addr
	return m
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("the answer %d is not a JSON object: %v: %q", a.StatusCode, err, a.body)
	}
	return v
}

func (a answer) code(t testing.TB) string {
	t.Helper()
	code, _ := a.json(t)["code"].(string)
	return code
}

// call sends a request; headers come in pairs. The key is sent as a bearer unless it is empty.
func (m *market) call(method, path, key, body string, headers ...string) answer {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), method, m.url+path, strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return answer{res, raw}
}

func (m *market) want(a answer, status int, code string) {
	m.t.Helper()
	if a.StatusCode != status {
		m.t.Fatalf("got status %d %s, want %d %s", a.StatusCode, a.body, status, code)
	}
	if code != "" && a.code(m.t) != code {
		m.t.Fatalf("got code %s, want %s: %s", a.code(m.t), code, a.body)
	}
}

// make creates an item and returns its id.
func (m *market) make(name string) string {
	m.t.Helper()
	a := m.call("POST", "/api/v1/shop/items", "full", fmt.Sprintf(`{"name":%q,"shelf":"top","cents":5}`, name))
	m.want(a, 201, "")
	id, _ := a.json(m.t)["id"].(string)
	return id
}

// raw sends bytes as they are and reads one answer; closed says that the server closed the connection after it.
func (m *market) raw(request string) (status int, body string, closed bool) {
	m.t.Helper()
	c, err := net.Dial("tcp", m.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "pipe") {
		m.t.Fatal(err)
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, err.Error(), true
	}
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		m.t.Fatalf("read body: %v", err)
	}
	return res.StatusCode, string(raw), res.Close
}

// TestMain also plays the client of benchmarks, in a process of its own.
func TestMain(m *testing.M) {
	if addr := os.Getenv(clientEnv); addr != "" {
		if err := runClient(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// panicking is an executor with a defect.
type panicking struct{ edge.Executor }

func (panicking) Ask(context.Context, edge.Actor, string, json.RawMessage, uint64) (any, uint64, error) {
	panic("boom")
}

// Package edgetest runs modules as a node does, for tests: a store in a temporary folder, the state machine, the executor, sealing, and
// a clock that the test moves. Everything goes through the public way in: Do and Ask.
package edgetest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"wispgate/edge"
	kernel "wispgate/edge/exec"
	"wispgate/edge/store"
	"wispgate/edge/vault"
)

// Start is when the clocks of tests begin: a time without any special meaning.
var Start = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)

// Harness is a single node without network: writes are applied as a log would apply them.
type Harness struct {
	*kernel.Exec
	T       testing.TB
	Machine *kernel.Machine
	Store   *store.Store
	Vault   *vault.Vault
	Clock   *Clock
	Dir     string

	mu    sync.Mutex
	index uint64
}

// Clock is a clock that only tests move.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Option changes the executor's configuration.
type Option func(*kernel.Config)

// Flows adds flows.
func Flows(flows ...edge.Flow) Option {
	return func(c *kernel.Config) { c.Flows = append(c.Flows, flows...) }
}

// Modules makes the option form of Node's modules, for tests that need both.
func Modules(modules ...edge.Module) Option {
	return func(c *kernel.Config) { c.Modules = append(c.Modules, modules...) }
}

// Node runs the modules on a fresh single node until the test ends. An error code that no module declares fails the operation.
func Node(t testing.TB, modules ...edge.Module) *Harness { return NodeWith(t, Modules(modules...)) }

// NodeWith is Node with options.
func NodeWith(t testing.TB, opts ...Option) *Harness { return Open(t, t.TempDir(), opts...) }

// Open runs a node on an existing folder, as after a restart; it is closed when the test ends, or by Close before.
func Open(t testing.TB, dir string, opts ...Option) *Harness {
	t.Helper()
	h := open(t, dir, opts...)
	h.Start(t.Context(), h)
	return h
}

// OnLog runs a node on a log of the test's own.
func OnLog(t testing.TB, log func(*Harness) kernel.Log, opts ...Option) *Harness {
	t.Helper()
	h := open(t, t.TempDir(), opts...)
	h.Start(t.Context(), log(h))
	return h
}

// open makes a harness without starting it.
func open(t testing.TB, dir string, opts ...Option) *Harness {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(store.Options{Dir: dir + "/store", Logger: log, BallastBytes: -1})
	must(t, err)
	m, err := kernel.NewMachine(st, kernel.MachineOptions{Logger: log})
	must(t, err)
	v, err := vault.Open(dir + "/keys")
	must(t, err)
	h := &Harness{T: t, Machine: m, Store: st, Vault: v, Clock: &Clock{now: Start}, Dir: dir, index: m.AppliedIndex()}
	cfg := kernel.Config{
		Machine: m, Store: st, Secrets: Secrets{v, dir}, Now: h.Clock.Now, Logger: log, Strict: true,
		Node: "n1", Sign: signAs("n1"),
	}
	for _, o := range opts {
		o(&cfg)
	}
	h.Exec, err = kernel.New(cfg)
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

// Key is the public key with which a node of this name signs its links.
func Key(node string) ed25519.PublicKey { return keyOf(node).Public().(ed25519.PublicKey) }

func keyOf(node string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(node))
	return ed25519.NewKeyFromSeed(seed[:])
}

func signAs(node string) func([]byte) []byte {
	return func(message []byte) []byte { return ed25519.Sign(keyOf(node), message) }
}

// Close stops the node; calling it twice is harmless.
func (h *Harness) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Exec == nil {
		return
	}
	h.mu.Unlock()
	h.Stop()
	h.mu.Lock()
	_ = h.Machine.Close()
	_ = h.Store.Close()
	h.Exec = nil
}

// Propose is the log of a harness: it encodes and applies at once.
func (h *Harness) Propose(_ context.Context, data []byte) <-chan error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.index++
	return ended(h.Machine.ApplyBatch([]kernel.LogEntry{{Index: h.index, Term: 1, Data: data}})[0])
}

func ended(err error) <-chan error {
	outcome := make(chan error, 1)
	outcome <- err
	return outcome
}

// Term is the only one there is.
func (h *Harness) Term() uint64 { return 1 }

// IsLeader is always true: a single node leads.
func (h *Harness) IsLeader() bool { return true }

// Barrier returns at once: what was proposed is applied.
func (h *Harness) Barrier(context.Context) error { return nil }

// Linearize returns at once: nobody else has acknowledged anything.
func (h *Harness) Linearize(context.Context) error { return nil }

// Contact is true: a single node is in touch with itself.
func (h *Harness) Contact() bool { return true }

// Forward hands the request to the harness's own executor, which leads.
func (h *Harness) Forward(ctx context.Context, request []byte) ([]byte, error) {
	return h.Serve(ctx, request)
}

// Secrets seals with a vault and makes a key for each tenant on first use, as creating a tenant does. Keys are kept in Dir.
type Secrets struct {
	*vault.Vault
	Dir string
}

func (s Secrets) key(tenant string) {
	if s.Has(tenant) {
		return
	}
	path := filepath.Join(s.Dir, tenant+".wrapped")
	wrapped, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if wrapped, err = s.NewTenantKey(tenant); err == nil {
			err = os.WriteFile(path, wrapped, 0o600)
		}
	}
	if err == nil {
		err = s.LoadTenantKey(tenant, wrapped)
	}
	if err != nil {
		panic(err)
	}
}

// Seal implements the executor's Secrets.
func (s Secrets) Seal(tenant, record, field string, plaintext []byte) (string, error) {
	s.key(tenant)
	return s.Vault.Seal(tenant, record, field, plaintext)
}

// MAC implements the executor's Secrets.
func (s Secrets) MAC(tenant, purpose string, data []byte) []byte {
	s.key(tenant)
	return s.Vault.MAC(tenant, purpose, data)
}

// Digest implements the executor's Secrets.
func (s Secrets) Digest(plaintext string) (string, error) { return vault.Digest(plaintext) }

// Actor is an actor of the tenant with every scope.
func Actor(tenant string) edge.Actor {
	return edge.Actor{Tenant: tenant, Subject: "cli_test", Scopes: []string{"all:read", "all:write"}}
}

// Do runs a command that must succeed and returns its answer.
func Do[Out any](t testing.TB, h *Harness, a edge.Actor, op string, in any) Out {
	t.Helper()
	out, _, err := Try[Out](h, a, edge.Request{}, op, in)
	if err != nil {
		t.Fatalf("%s: %v", op, err)
	}
	return out
}

// Try runs a command with the key, version and dry-run flag of r, and returns its answer or its error.
func Try[Out any](h *Harness, a edge.Actor, r edge.Request, op string, in any) (out Out, reply edge.Reply, err error) {
	raw, err := encode(in)
	if err != nil {
		return out, reply, err
	}
	r.Actor, r.Calls = a, []edge.Call{{Op: op, In: raw}}
	reply, err = h.Exec.Do(h.T.Context(), r)
	if err == nil {
		err = json.Unmarshal(reply.Results[0], &out)
	}
	return out, reply, err
}

// Code runs a command that must be refused and returns the code of its refusal.
func Code(t testing.TB, h *Harness, a edge.Actor, op string, in any) string {
	t.Helper()
	_, _, err := Try[json.RawMessage](h, a, edge.Request{}, op, in)
	return CodeOf(t, err)
}

// CodeOf is the code of an *edge.Error; anything else fails the test.
func CodeOf(t testing.TB, err error) string {
	t.Helper()
	var e *edge.Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want an *edge.Error", err)
	}
	return e.Code
}

// Ask runs a query that must succeed.
func Ask[Out any](t testing.TB, h *Harness, a edge.Actor, op string, in any) Out {
	t.Helper()
	raw, err := encode(in)
	must(t, err)
	out, _, err := h.Exec.Ask(t.Context(), a, op, raw, 0)
	if err != nil {
		t.Fatalf("%s: %v", op, err)
	}
	if st, ok := out.(edge.Stored); ok {
		var typed Out
		must(t, json.Unmarshal(st.JSON, &typed))
		return typed
	}
	typed, ok := out.(Out)
	if !ok {
		t.Fatalf("%s: got %T, want %T", op, out, typed)
	}
	return typed
}

// encode is json.Marshal for inputs that may hold plaintext secrets, which refuse to be encoded: give those as map or raw JSON.
func encode(in any) (json.RawMessage, error) {
	if raw, ok := in.(json.RawMessage); ok {
		return raw, nil
	}
	return json.Marshal(in)
}

// Events returns the tenant's event rows after a version.
func Events(t testing.TB, h *Harness, tenant string, after uint64) []edge.EventRow {
	t.Helper()
	rows, _, err := h.Exec.Events(tenant, after, 1<<20)
	must(t, err)
	return rows
}

// EventTypes lists the types of the tenant's events after a version.
func EventTypes(t testing.TB, h *Harness, tenant string, after uint64) []string {
	t.Helper()
	types := []string{}
	for _, r := range Events(t, h, tenant, after) {
		types = append(types, r.Type)
	}
	return types
}

// NoDrift fails the test when an index entry or derived record is not what a rebuild gives, octet by octet.
func NoDrift(t testing.TB, h *Harness) {
	t.Helper()
	rep, err := h.Rebuild(t.Context(), false)
	must(t, err)
	if len(rep.Drift) > 0 {
		t.Fatalf("derived data differs from a rebuild at version %d: %+v", rep.Version, rep.Drift)
	}
}

// patience bounds how long helpers wait for what must happen.
const patience = 120 * time.Second

// Eventually polls until ok returns true, or fails with what state prints. It waits far longer than anything takes, because a machine may
// be busy with other things.
func Eventually(t testing.TB, ok func() bool, state func() string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not reached within %s: %s", patience, state())
		case <-tick.C:
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package identity

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/vault"
	"wispgate/gateway/authn"
	"wispgate/gateway/limit"
)

// world is a node with identity and what stands around it.
type world struct {
	*edgetest.Harness
	t     testing.TB
	dir   string
	claim *ClaimFile
	index *Index
	vault *vault.Vault
	auth  *authn.Authenticator
}

var (
	anonymous = edge.Actor{Tenant: edge.System, Subject: "anonymous"}
	operator  = edge.SystemActor(edge.System, "console")
)

func newWorld(tb testing.TB) *world {
	tb.Helper()
	return openWorld(tb, tb.TempDir())
}

func openWorld(tb testing.TB, dir string) *world {
	tb.Helper()
	log := slog.New(slog.DiscardHandler)
	w := &world{t: tb, dir: dir, index: NewIndex(log, nil)}
	var err error
	if w.vault, err = vault.Open(dir + "/vault"); err != nil {
		tb.Fatal(err)
	}
	w.claim = NewClaimFile(dir, func() time.Time { return edgetest.Start }, log)
	w.Harness = edgetest.Open(tb, dir, edgetest.Modules(Module(Ports{Vault: w.vault, Claims: w.claim, Index: w.index, Logger: log})))
	w.auth = authn.New(w.Clock.Now, w.Clock.Now, limit.New(limit.Config{}, edgetest.Start), authn.Keys(w.index, "sit_here", nil))
	return w
}

// try runs a command and returns its answer, with the secret that was shown once.
func try[Out any](w *world, a edge.Actor, op string, in any) (out Out, secret string, err error) {
	out, reply, err := edgetest.Try[Out](w.Harness, a, edge.Request{}, op, in)
	if err == nil && reply.Once[0] != nil {
		secret = reply.Once[0]["secret"]
	}
	return out, secret, err
}

func do[Out any](w *world, a edge.Actor, op string, in any) (Out, string) {
	w.t.Helper()
	out, secret, err := try[Out](w, a, op, in)
	if err != nil {
		w.t.Fatalf("%s: %v", op, err)
	}
	return out, secret
}

// refused runs a command that must be refused with the code.
func (w *world) refused(want string, a edge.Actor, op string, in any) {
	w.t.Helper()
	if got := edgetest.Code(w.t, w.Harness, a, op, in); got != want {
		w.t.Errorf("%s: refused with %s, want %s", op, got, want)
	}
}

type object = map[string]any

// claimed is a node that was claimed by acme, with its administrator.
func claimed(tb testing.TB) (w *world, admin edge.Actor) {
	tb.Helper()
	w = newWorld(tb)
	code, err := w.claim.Arm(false)
	if err != nil {
		tb.Fatal(err)
	}
	_, secret := do[Claimed](w, anonymous, "identity.claim", object{"code": code.Reveal(), "tenant": "acme", "name": "Acme Wireless"})
	return w, w.who(secret)
}

// who is the actor that a key's text proves, here and now.
func (w *world) who(secret string) edge.Actor {
	w.t.Helper()
	id, err := w.auth.Authenticate(authn.Shown{Bearer: secret, Address: netip.MustParseAddr("192.0.2.7")})
	if err != nil {
		w.t.Fatalf("authenticate: %v", err)
	}
	return id.Actor
}

// rejects authenticates a key's text that must be refused with the code.
func (w *world) rejects(want, secret string) {
	w.t.Helper()
	if _, err := w.auth.Authenticate(authn.Shown{Bearer: secret, Address: netip.MustParseAddr("192.0.2.7")}); edgetest.CodeOf(w.t, err) != want {
		w.t.Errorf("refused with %v, want %s", err, want)
	}
}

// client makes a client with a key of the same scopes.
func (w *world) client(a edge.Actor, scopes ...string) (Client, Key, string) {
	w.t.Helper()
	c, _ := do[Client](w, a, "identity.client.create", object{"name": "Export", "scopes": scopes})
	k, secret := do[Key](w, a, "identity.key.create", object{"client": c.ID, "name": "First"})
	return c, k, secret
}

// nowhere fails when the state holds the text: neither records nor events nor stored answers may.
func (w *world) nowhere(text string) {
	w.t.Helper()
	st := w.Machine.Snapshot()
	defer st.Close()
	n := 0
	err := st.Scan("", "", func(key string, val []byte) (bool, error) {
		n++
		if strings.Contains(key, text) || strings.Contains(string(val), text) {
			w.t.Errorf("the state holds a secret at %s", key)
		}
		return true, nil
	})
	if err != nil || n < 5 {
		w.t.Fatalf("looked at %d keys: %v", n, err)
	}
}

// everything feeds a fresh index the whole state, in the order given by less, and returns it.
func (w *world) everything(shuffle func([]edge.Change)) *Index {
	w.t.Helper()
	st := w.Machine.Snapshot()
	defer st.Close()
	var all []edge.Change
	err := st.Scan("", "", func(key string, val []byte) (bool, error) {
		if tenant, table, id, ok := edge.ParseRecordKey(key); ok {
			all = append(all, edge.Change{Tenant: tenant, Table: table, ID: id, Val: append([]byte(nil), val...)})
		}
		return true, nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	shuffle(all)
	x := NewIndex(slog.New(slog.DiscardHandler), nil)
	for i, c := range all {
		x.apply(i == 0, []edge.Change{c})
	}
	return x
}

func jsonOf(tb testing.TB, v any) string {
	tb.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return string(raw)
}

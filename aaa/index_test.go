package aaa

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"wispgate/aaa/packet"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
)

// plainVault opens "sealed:" values: the plaintext is their last 26 octets, as long as a minted secret.
type plainVault struct{}

func (plainVault) Unseal(_, _, _, sealed string) ([]byte, error) {
	plain := strings.TrimPrefix(sealed, "sealed:")
	return []byte(plain[max(len(plain)-26, 0):]), nil
}

func (plainVault) VerifyDigest(digest, plaintext string) (bool, error) {
	return digest == plaintext, nil
}

func change(tb testing.TB, table string, id edge.ID, rec any) edge.Change {
	tb.Helper()
	raw, err := json.Marshal(rec)
	if err != nil {
		tb.Fatal(err)
	}
	return edge.Change{Tenant: "hill", Table: table, ID: id, Val: raw}
}

func number(prefix string, n int) edge.ID {
	return edge.ID(fmt.Sprintf("%s_%08x-0000-7000-8000-%012x", prefix, n, n))
}

// fill makes an index of n logins with sealed secrets of the size that a vault makes.
func fill(tb testing.TB, n int) *Index {
	tb.Helper()
	ix := NewIndex(plainVault{}, nil, slog.New(slog.DiscardHandler))
	pol := Policy{Meta: edge.Meta{ID: number("pol", 1)}, Name: "Home", PolicyTerms: PolicyTerms{DownKbps: 50_000, UpKbps: 10_000, InterimInterval: 300, Pool: "homes"}}
	ix.apply(true, 1, []edge.Change{change(tb, policies.Name, pol.ID, pol)})
	until := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	var page []edge.Change
	for i := range n {
		e := Entitlement{
			ID: number("ent", i), Credential: number("crd", i), Subscription: number("sub", i), Customer: number("cus", i), Policy: pol.ID,
			Login: fmt.Sprintf("subscriber%05d@isp.example", i), Type: TypePAPCHAP, MaxSessions: 1, MACBinding: BindingOff, Revision: uint64(i),
			Terms:   Terms{Verdict: Allow, Reason: CodeActive, PaidUntil: &until, Grace: 86400, OnExpiry: Reject},
			Sources: map[string]uint64{string(number("crd", i)): 3, string(number("acs", i)): 5},
		}
		s := CredentialSecret{Meta: edge.Meta{ID: number("crs", i), Version: 1}, Scheme: SchemeSealed, Value: "sealed:" + fmt.Sprintf("%0100d", i)}
		page = append(page, change(tb, entitlements.Name, e.ID, e), change(tb, credentialSecrets.Name, s.ID, s))
		if len(page) >= 1000 || i == n-1 {
			ix.apply(false, 2, page)
			page = page[:0:0]
		}
	}
	return ix
}

func ask(login string) *radiusd.Request {
	return &radiusd.Request{
		NAS: &radiusd.NAS{ID: string(number("nas", 1)), Tenant: "hill"}, Now: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC),
		Login: []byte(login), MAC: packet.MAC{2, 0, 0, 0, 0, 1},
	}
}

func TestTheHotPathAllocatesNothing(t *testing.T) {
	ix := fill(t, 1000)
	r := ask("Subscriber00042@ISP.example")
	var verdict radiusd.Verdict
	step := func() {
		l := ix.Lookup(r)
		if !ix.Allow(r, l) {
			t.Fatal("not allowed")
		}
		d := ix.Decide(r, l)
		verdict = d.Verdict
	}
	step() // the secret is opened once
	if n := testing.AllocsPerRun(1000, step); n != 0 || verdict != radiusd.Allow {
		t.Errorf("%v allocations per request, verdict %v", n, verdict)
	}
	missing := ask("nobody@isp.example")
	if n := testing.AllocsPerRun(1000, func() { ix.Lookup(missing) }); n != 0 {
		t.Errorf("%v allocations for an unknown login", n)
	}
}

// TestTwentyThousandLoginsAreSmall bounds the memory of the index, with every secret opened as after a storm.
func TestTwentyThousandLoginsAreSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 20,000 logins")
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n, most = 20_000, 15 << 20
	before := heap()
	ix := fill(t, n)
	closed := heap() - before
	for i := range n {
		if ix.Lookup(ask(fmt.Sprintf("subscriber%05d@isp.example", i))) == nil {
			t.Fatal("login not found")
		}
	}
	opened := heap() - before
	t.Logf("%d logins: %.1f MB, with every secret opened %.1f MB", n, float64(closed)/(1<<20), float64(opened)/(1<<20))
	if opened > most {
		t.Errorf("%d octets, want at most %d", opened, most)
	}
	runtime.KeepAlive(ix)
}

func BenchmarkDecide(b *testing.B) {
	ix := fill(b, 20_000)
	r := ask("subscriber04242@isp.example")
	b.ReportAllocs()
	for b.Loop() {
		l := ix.Lookup(r)
		d := ix.Decide(r, l)
		if d.Verdict != radiusd.Allow || !ix.Allow(r, l) {
			b.Fatal("refused")
		}
	}
}

func TestRecordsMayComeInAnyOrder(t *testing.T) {
	t.Parallel()
	e := Entitlement{ID: number("ent", 1), Credential: number("crd", 1), Login: "ann", Terms: Terms{Verdict: Allow, Reason: CodeActive}, Policy: number("pol", 1)}
	renamed := e
	renamed.Login = "anna"
	s := CredentialSecret{Meta: edge.Meta{ID: number("crs", 1)}, Scheme: SchemeSealed, Value: "sealed:x"}
	p := Policy{Meta: edge.Meta{ID: number("pol", 1)}, PolicyTerms: PolicyTerms{DownKbps: 1, UpKbps: 1}}
	ent, sec, pol := change(t, entitlements.Name, e.ID, e), change(t, credentialSecrets.Name, s.ID, s), change(t, policies.Name, p.ID, p)
	for _, order := range [][]edge.Change{{ent, sec, pol}, {sec, pol, ent}, {pol, sec, ent}, {sec, ent, pol}} {
		ix := NewIndex(plainVault{}, nil, slog.New(slog.DiscardHandler))
		for _, c := range order {
			ix.apply(false, 1, []edge.Change{c})
		}
		r := ask("ann")
		l := ix.Lookup(r)
		if l == nil || ix.Decide(r, l).Verdict != radiusd.Allow {
			t.Fatalf("order %v: not allowed", order)
		}
		ix.apply(false, 2, []edge.Change{change(t, entitlements.Name, e.ID, renamed)})
		if ix.Lookup(ask("ann")) != nil || ix.Lookup(ask("anna")) == nil {
			t.Error("a renamed login is found under the old name")
		}
		ix.apply(false, 3, []edge.Change{{Tenant: "hill", Table: entitlements.Name, ID: e.ID}})
		if ix.Lookup(ask("anna")) != nil {
			t.Error("a removed login is found")
		}
	}
}

func TestSessionLimits(t *testing.T) {
	t.Parallel()
	ix := NewIndex(plainVault{}, nil, slog.New(slog.DiscardHandler))
	e := Entitlement{ID: number("ent", 1), Credential: number("crd", 1), Login: "ann", MaxSessions: 2, Type: TypeMAC}
	ix.apply(true, 1, []edge.Change{change(t, entitlements.Name, e.ID, e)})
	now := time.Unix(1_700_000_000, 0)
	allow := func(mac byte, want bool) {
		t.Helper()
		r := ask("ann")
		r.Now = now
		r.MAC = packet.MAC{}
		if mac != 0 {
			r.MAC = packet.MAC{2, 0, 0, 0, 0, mac}
		}
		if got := ix.Allow(r, ix.Lookup(r)); got != want {
			t.Errorf("device %d: got %v, want %v", mac, got, want)
		}
	}
	session := func(n int, mac byte, state SessionState) {
		s := Session{Meta: edge.Meta{ID: number("ses", n)}, Credential: e.Credential, State: state, MAC: packet.MAC{2, 0, 0, 0, 0, mac}.String()}
		ix.apply(false, 2, []edge.Change{change(t, sessions.Name, s.ID, s)})
	}
	allow(1, true)
	allow(1, true) // asks again before its Start
	allow(2, true)
	allow(3, false) // two are let in
	session(1, 1, SessionStateActive)
	allow(3, false)
	session(1, 1, SessionStateActive) // an interim changes nothing
	now = now.Add(time.Minute)        // the second never started
	allow(3, true)
	session(3, 3, SessionStateActive)
	allow(1, true) // comes back over its dead session
	allow(4, false)
	session(1, 1, SessionStateClosed)
	now = now.Add(time.Minute)
	allow(4, true)
	ix.apply(false, 3, []edge.Change{{Tenant: "hill", Table: sessions.Name, ID: number("ses", 3)}})
	now = now.Add(time.Minute)
	allow(0, true)
	allow(0, true) // a device that does not name itself cannot be told from another, so it takes the place it already has
}

func TestARouterThatCannotBeServedIsLeftOut(t *testing.T) {
	t.Parallel()
	ix := NewIndex(plainVault{}, nil, slog.New(slog.DiscardHandler))
	var list []*radiusd.NAS
	ix.OnRouters(func(l []*radiusd.NAS) { list = l })
	n := NAS{Meta: edge.Meta{ID: number("nas", 1)}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Vendor: MikroTik, Require: RequireAlways}
	ix.apply(true, 1, []edge.Change{change(t, nasTable.Name, n.ID, n)})
	if len(list) != 0 {
		t.Error("a router without a secret is served")
	}
	s := NASSecret{Meta: edge.Meta{ID: number("nsx", 1)}, Primary: "sealed:secret"}
	ix.apply(false, 2, []edge.Change{change(t, nasSecrets.Name, s.ID, s)})
	if len(list) != 1 || list[0].RequireMA != radiusd.Always || list[0].Addresses[0].String() != "10.0.0.1/32" {
		t.Errorf("got %+v", list)
	}
	ix.apply(false, 3, []edge.Change{{Tenant: "hill", Table: nasTable.Name, ID: n.ID}, {Tenant: "hill", Table: nasSecrets.Name, ID: s.ID}})
	if len(list) != 0 || len(ix.nas) != 0 {
		t.Error("a removed router is served")
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	ix := fill(t, 300)
	for login, want := range map[string]string{
		"subscriber00042@isp.exampel": "subscriber00042@isp.example",
		"subscriber0042@isp.example":  "subscriber00042@isp.example",
		"somebody@else.example":       "",
		"":                            "",
	} {
		if got := ix.Nearest("hill", login); got != want {
			t.Errorf("%q: got %q, want %q", login, got, want)
		}
	}
	if got := ix.Nearest("valley", "subscriber00042@isp.example"); got != "" {
		t.Errorf("another tenant's login shows: %q", got)
	}
}

func FuzzLogin(f *testing.F) {
	for _, s := range []string{"ann@example.net", " Ann ", `DOM\ann`, "1:0:e1:c:38:c8:f8", "\x00", strings.Repeat("a", 254), "é"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		once, ok := appendLogin(nil, raw)
		if !ok {
			return
		}
		twice, ok := appendLogin(nil, once)
		if !ok || string(once) != string(twice) || len(once) == 0 || len(once) > maxLogin {
			t.Errorf("%q becomes %q, then %q", raw, once, twice)
		}
		if text := factLogin(raw); text == "" || !utf8.ValidString(text) {
			t.Errorf("%q has the text %q", raw, text)
		}
	})
}

// keylessVault is a node's that has no tenant's key yet.
type keylessVault struct{ plainVault }

func (keylessVault) Unseal(_, _, _, _ string) ([]byte, error) {
	return nil, &edge.Error{Kind: edge.Unavailable, Code: "vault_key_missing"}
}

// A node that joins takes the routers before their tenant's key: that is said once, not as a fault of each router.
func TestRoutersThatWaitForTheirTenantsKeyAreSaidOnce(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	ix := NewIndex(keylessVault{}, nil, slog.New(slog.NewTextHandler(&said, nil)))
	var changes []edge.Change
	for i := range 3 {
		n := NAS{Meta: edge.Meta{ID: number("nas", i)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, Vendor: MikroTik}
		s := NASSecret{Meta: edge.Meta{ID: number("nsx", i)}, Primary: "sealed:secret"}
		changes = append(changes, change(t, nasTable.Name, n.ID, n), change(t, nasSecrets.Name, s.ID, s))
	}
	ix.apply(true, 1, changes)
	if got := said.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "routers=3") {
		t.Errorf("got %q, want one warning that counts three routers", got)
	}
}

package aaa_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/packet"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/vault"
)

// world is a node with the aaa domain and its index.
type world struct {
	*edgetest.Harness
	t     testing.TB
	a     edge.Actor
	index *aaa.Index
	nas   []*radiusd.NAS
	trust bool
}

// lateVault opens what the harness sealed; the harness exists only after the index.
type lateVault struct{ w *world }

func (l lateVault) Unseal(tenant, record, field, sealed string) ([]byte, error) {
	if l.w.Harness == nil {
		return nil, errors.New("the tenant's key is not loaded yet")
	}
	return l.w.Vault.Unseal(tenant, record, field, sealed)
}

func (lateVault) VerifyDigest(digest, plaintext string) (bool, error) {
	return vault.VerifyDigest(digest, plaintext)
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	return openWorld(tb, tb.TempDir())
}

func openWorld(tb testing.TB, dir string) *world {
	tb.Helper()
	w := &world{t: tb, a: edgetest.Actor("hill"), trust: true}
	w.index = aaa.NewIndex(lateVault{w}, func() bool { return w.trust }, slog.New(slog.DiscardHandler))
	m := aaa.Module(aaa.Deps{Index: w.index, Trusted: func() bool { return w.trust }})
	w.Harness = edgetest.Open(tb, dir, edgetest.Modules(m))
	w.index.OnRouters(func(list []*radiusd.NAS) { w.nas = list })
	return w
}

func do[Out any](w *world, op string, in any) Out {
	w.t.Helper()
	return edgetest.Do[Out](w.t, w.Harness, w.a, op, in)
}

func ask[Out any](w *world, op string, in any) Out {
	w.t.Helper()
	return edgetest.Ask[Out](w.t, w.Harness, w.a, op, in)
}

type m = map[string]any

const sub1, sub2 = "sub_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c01", "sub_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c02"

func (w *world) router(identifier string, addresses ...string) aaa.NAS {
	w.t.Helper()
	return do[aaa.NAS](w, "aaa.nas.register", m{"identifier": identifier, "addresses": addresses, "secret": "radius-secret", "vendor": "mikrotik"})
}

func (w *world) policy(name string, down, up int) aaa.Policy {
	w.t.Helper()
	return do[aaa.Policy](w, "aaa.policy.create", m{"name": name, "down_kbps": down, "up_kbps": up})
}

func (w *world) login(sub, username, password string) aaa.Credential {
	w.t.Helper()
	return do[aaa.Credential](w, "aaa.credential.create", m{"subscription_id": sub, "username": username, "password": password})
}

func (w *world) access(sub string, terms m) {
	w.t.Helper()
	terms["subscription_id"] = sub
	do[aaa.Access](w, "aaa.access.set", terms)
}

// radius asks the front door's questions for a PAP login, without the packet.
func (w *world) radius(login string, mac string) (d radiusd.Decision, found bool) {
	w.t.Helper()
	r := w.request(login, mac)
	l := w.index.Lookup(r)
	if l == nil {
		return d, false
	}
	return w.index.Decide(r, l), true
}

func (w *world) request(login, mac string) *radiusd.Request {
	r := &radiusd.Request{NAS: w.nas[0], Now: w.Clock.Now(), Login: []byte(login)}
	r.LoginMAC, _ = packet.ParseMAC(r.Login)
	r.MAC, _ = packet.ParseMAC([]byte(mac))
	return r
}

func reasonOf(d radiusd.Decision) string {
	if d.Reason == nil {
		return aaa.CodeActive
	}
	return d.Reason.Code
}

func TestAModuleThatChecks(t *testing.T) {
	t.Parallel()
	if err := edge.Check([]edge.Module{aaa.Module(aaa.Deps{})}); err != nil {
		t.Fatal(err)
	}
}

func TestALoginFollowsItsSubscriptionInTheSameCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router("twr7", "10.20.0.1")
	pol, slow := w.policy("Home", 50_000, 10_000), w.policy("Slow", 256, 256)
	c := w.login(sub1, "Ann@Example.net", "s3cret")
	until := edgetest.Start.Add(24 * time.Hour)
	steps := []struct {
		name    string
		terms   m
		want    string
		verdict radiusd.Verdict
	}{
		{"unknown subscription", nil, aaa.CodeNoService, radiusd.Refuse},
		{"pending", m{"status": "pending"}, aaa.CodeNotActive, radiusd.Refuse},
		{"active without policy", m{"status": "active"}, aaa.CodePolicyMissing, radiusd.Refuse},
		{"active with a policy that does not exist", m{"status": "active", "policy_id": "pol_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c0f"}, aaa.CodePolicyMissing, radiusd.Refuse},
		{"active", m{"status": "active", "policy_id": pol.ID, "valid_until": until}, aaa.CodeActive, radiusd.Allow},
		{"unpaid", m{"status": "suspended", "reasons": []string{"dunning"}, "policy_id": pol.ID}, aaa.CodeSuspendedUnpaid, radiusd.Refuse},
		{"unpaid and fraud", m{"status": "suspended", "reasons": []string{"dunning", "fraud"}, "policy_id": pol.ID}, aaa.CodeSuspendedFraud, radiusd.Refuse},
		{"paused", m{"status": "suspended", "reasons": []string{"customer"}, "policy_id": pol.ID}, aaa.CodeSuspendedCustomer, radiusd.Refuse},
		{"quota used, nothing to throttle to", m{"status": "suspended", "reasons": []string{"quota"}, "policy_id": pol.ID}, aaa.CodeQuotaUsed, radiusd.Refuse},
		{"quota used", m{"status": "suspended", "reasons": []string{"quota"}, "policy_id": pol.ID, "exhausted_policy_id": slow.ID}, aaa.CodeQuotaUsed, radiusd.Throttle},
		{"terminated", m{"status": "terminated", "policy_id": pol.ID}, aaa.CodeTerminated, radiusd.Refuse},
	}
	for i, s := range steps {
		if s.terms != nil {
			s.terms["revision"] = i
			w.access(sub1, s.terms)
		}
		d, ok := w.radius(" ANN@example.NET ", "")
		if !ok || reasonOf(d) != s.want || d.Verdict != s.verdict {
			t.Errorf("%s: got %v %s %v, want %s %v", s.name, ok, reasonOf(d), d.Verdict, s.want, s.verdict)
		}
		e := ask[aaa.EntitlementView](w, "aaa.entitlement.get", m{"id": c.ID})
		x := ask[aaa.Explanation](w, "aaa.entitlement.explain", m{"login": "ann@example.net"})
		if e.Now.Reason != s.want || x.Reason != s.want {
			t.Errorf("%s: API says %s, explain %s, want %s", s.name, e.Now.Reason, x.Reason, s.want)
		}
		edgetest.NoDrift(t, w.Harness)
	}
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "revision": 2})
	if d, _ := w.radius("ann@example.net", ""); reasonOf(d) != aaa.CodeTerminated {
		t.Errorf("an access older than the stored one was taken over: %s", reasonOf(d))
	}
}

func TestRevisionChangesExactlyWithTheContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router("twr7", "10.20.0.1")
	pol := w.policy("Home", 50_000, 10_000)
	c := w.login(sub1, "ann", "s3cret")
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "revision": 1})
	get := func() aaa.EntitlementView {
		return ask[aaa.EntitlementView](w, "aaa.entitlement.get", m{"id": c.ID.With("ent")})
	}
	before := get()
	session, _ := w.radius("ann", "")
	at := w.Version()
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "revision": 2}) // billing counted, nothing changed for the network
	do[aaa.Credential](w, "aaa.credential.rotate", m{"id": c.ID, "password": "n3w"})
	if after := get(); after.Revision != before.Revision || after.Sources[string(c.ID)] == before.Sources[string(c.ID)] {
		t.Errorf("revision %d, was %d; sources %v, were %v", after.Revision, before.Revision, after.Sources, before.Sources)
	}
	if types := edgetest.EventTypes(t, w.Harness, "hill", at); slices.Contains(types, "aaa.entitlement.changed") {
		t.Errorf("events %v, want no entitlement.changed", types)
	}
	_, reply, err := edgetest.Try[aaa.Policy](w.Harness, w.a, edge.Request{IfMatch: pol.Version}, "aaa.policy.update", m{"id": pol.ID, "down_kbps": 60_000})
	if err != nil {
		t.Fatal(err)
	}
	now, _ := w.radius("ann", "")
	if now.Revision == session.Revision || now.Policy == session.Policy {
		t.Error("a session's revision did not follow its policy")
	}
	if types := edgetest.EventTypes(t, w.Harness, "hill", reply.Version-1); !slices.Equal(types, []string{"aaa.policy.updated"}) {
		t.Errorf("events %v, want one policy.updated", types)
	}
}

func TestExpiryHasAGraceAndAnUntrustedClockExpiresNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router("twr7", "10.20.0.1")
	pol, slow := w.policy("Home", 50_000, 10_000), w.policy("Walled", 64, 64)
	w.login(sub1, "ann", "s3cret")
	until := edgetest.Start.Add(time.Hour)
	for _, onExpiry := range []string{"throttle", "walled"} {
		w.access(sub1, m{"status": "active", "policy_id": pol.ID, "valid_until": until, "on_expiry": onExpiry, "revision": 1})
		r := w.request("ann", "")
		r.Now = until
		if d := w.index.Decide(r, w.index.Lookup(r)); d.Verdict != radiusd.Refuse || reasonOf(d) != aaa.CodeExpired {
			t.Errorf("%s without a policy for it: got %v %s, want a refusal", onExpiry, d.Verdict, reasonOf(d))
		}
	}
	for _, tc := range []struct {
		name, onExpiry string
		after          time.Duration
		trusted        bool
		want           string
		verdict        radiusd.Verdict
		ends           time.Duration // after Start; 0 for none
	}{
		{"paid", "reject", 0, true, aaa.CodeActive, radiusd.Allow, 3 * time.Hour},
		{"in grace", "reject", time.Hour, true, aaa.CodeGrace, radiusd.Allow, 3 * time.Hour},
		{"after grace", "reject", 3 * time.Hour, true, aaa.CodeExpired, radiusd.Refuse, 0},
		{"after grace, untrusted clock", "reject", 3 * time.Hour, false, aaa.CodeGrace, radiusd.Allow, 0},
		{"paid, untrusted clock", "reject", 0, false, aaa.CodeActive, radiusd.Allow, 0},
		{"after grace, allowed on", "allow", 3 * time.Hour, true, aaa.CodeExpired, radiusd.Allow, 0},
		{"after grace, throttled", "throttle", 3 * time.Hour, true, aaa.CodeExpired, radiusd.Throttle, 0},
		{"after grace, walled", "walled", 3 * time.Hour, true, aaa.CodeExpired, radiusd.Walled, 3*time.Hour + 10*time.Minute},
	} {
		w.access(sub1, m{"status": "active", "policy_id": pol.ID, "exhausted_policy_id": slow.ID, "valid_until": until,
			"offline_grace_seconds": 7200, "on_expiry": tc.onExpiry, "revision": 1})
		w.trust = tc.trusted
		r := w.request("ann", "")
		r.Now = edgetest.Start.Add(tc.after)
		d := w.index.Decide(r, w.index.Lookup(r))
		var ends int64
		if tc.ends != 0 {
			ends = edgetest.Start.Add(tc.ends).Unix()
		}
		if reasonOf(d) != tc.want || d.Verdict != tc.verdict || d.Until != ends {
			t.Errorf("%s: got %s %v until %d, want %s %v until %d", tc.name, reasonOf(d), d.Verdict, d.Until, tc.want, tc.verdict, ends)
		}
	}
}

func TestSecretsAreNowhereInTheClear(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const nasSecret, password = "nas-plain-Zq8", "user-plain-Zq8"
	n := do[json.RawMessage](w, "aaa.nas.register", m{"identifier": "twr7", "addresses": []string{"10.20.0.1"}, "secret": nasSecret})
	c := do[json.RawMessage](w, "aaa.credential.create", m{"subscription_id": sub1, "username": "ann", "password": password})
	d := do[json.RawMessage](w, "aaa.credential.create", m{"subscription_id": sub1, "username": "bob", "password": password, "scheme": "argon2id"})
	var raw strings.Builder
	raw.WriteString(string(n) + string(c) + string(d))
	for _, e := range edgetest.Events(t, w.Harness, "hill", 0) {
		row, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		raw.WriteString(string(row))
	}
	for _, word := range []string{"plain-Zq8", "sealed_secret", "sealed_password", "$argon2id$"} {
		if strings.Contains(raw.String(), word) {
			t.Errorf("%q shows in an answer or event: %s", word, raw.String())
		}
	}
	for _, tc := range []struct{ login, password string }{{"ann", password}, {"bob", password}} {
		if l := w.index.Lookup(w.request(tc.login, "")); l == nil || l.Password == nil {
			t.Errorf("%s: no login to answer with", tc.login)
		}
	}
	want, err := packet.NewSecret([]byte(nasSecret))
	if err != nil {
		t.Fatal(err)
	}
	if len(w.nas) != 1 || !w.nas[0].Secret.Equal(want) {
		t.Error("the router's secret does not open in the index")
	}
	for _, in := range []m{
		{"subscription_id": sub1, "username": "eve", "password": "x", "sealed_password": "v1.mine"},
		{"subscription_id": sub1, "username": "eve", "type": "mac", "sealed_password": "v1.mine"},
	} {
		if code := edgetest.Code(t, w.Harness, w.a, "aaa.credential.create", in); code != "input_invalid" {
			t.Errorf("a sealed value from a client: got %s", code)
		}
	}
	dir := w.Dir
	w.Close()
	noFileHolds(t, dir, "plain-Zq8")
}

// noFileHolds fails when a file of the node holds the words.
func noFileHolds(t *testing.T, dir, words string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if seen += len(data); bytes.Contains(data, []byte(words)) {
			t.Errorf("%s holds a secret in the clear", path)
		}
		return nil
	})
	if err != nil || seen == 0 {
		t.Fatalf("read %d octets of the node's files: %v", seen, err)
	}
}

func TestMintedSecretsAreShownOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := m{"identifier": "twr7", "addresses": []string{"10.20.0.1"}}
	_, first, err := edgetest.Try[aaa.NAS](w.Harness, w.a, edge.Request{Key: "k1"}, "aaa.nas.register", in)
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := edgetest.Try[aaa.NAS](w.Harness, w.a, edge.Request{Key: "k1"}, "aaa.nas.register", in)
	if err != nil {
		t.Fatal(err)
	}
	if secret := first.Once[0]["secret"]; len(secret) != 26 || !again.Replayed || again.Once != nil {
		t.Errorf("first %v, again %v", first.Once, again.Once)
	}
}

func TestARouterAddressBelongsToOneTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router("twr7", "10.20.0.1", "2001:db8::1")
	for _, a := range []string{"10.20.0.1", "2001:db8::1", "::ffff:10.20.0.1"} {
		in := m{"identifier": "mine", "addresses": []string{a}, "secret": "radius-secret"}
		if code := edgetest.Code(t, w.Harness, edgetest.Actor("valley"), "aaa.nas.register", in); code != "already_exists" {
			t.Errorf("%s: got %s, want already_exists", a, code)
		}
	}
	for _, a := range []string{"0.0.0.0", "224.0.0.1", "255.255.255.255", "::"} {
		in := m{"identifier": "odd", "addresses": []string{a}, "secret": "radius-secret"}
		if code := edgetest.Code(t, w.Harness, w.a, "aaa.nas.register", in); code != "input_invalid" {
			t.Errorf("%s: got %s, want input_invalid", a, code)
		}
	}
}

func TestRotationAcceptsBothSecretsUntilRetired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.router("twr7", "10.20.0.1")
	do[aaa.NAS](w, "aaa.nas.rotate_secret", m{"id": n.ID, "secret": "second-secret", "keep_old": true})
	equal := func(s *packet.Secret, plain string) bool {
		want, err := packet.NewSecret([]byte(plain))
		return err == nil && s != nil && s.Equal(want)
	}
	if !equal(w.nas[0].Secret, "second-secret") || !equal(w.nas[0].Secondary, "radius-secret") {
		t.Error("during the rotation both secrets are not there")
	}
	do[aaa.NAS](w, "aaa.nas.retire_secret", m{"id": n.ID})
	if !equal(w.nas[0].Secret, "second-secret") || w.nas[0].Secondary != nil {
		t.Error("after the rotation the old secret is still there")
	}
	do[aaa.NAS](w, "aaa.nas.disable", m{"id": n.ID})
	if len(w.nas) != 0 {
		t.Error("a disabled router is still answered")
	}
	do[aaa.NAS](w, "aaa.nas.enable", m{"id": n.ID})
	do[edge.None](w, "aaa.nas.delete", m{"id": n.ID})
	if len(w.nas) != 0 {
		t.Error("a deleted router is still answered")
	}
	edgetest.NoDrift(t, w.Harness)
	want := []string{"aaa.nas.registered", "aaa.nas.secret_rotated", "aaa.nas.secret_retired", "aaa.nas.disabled", "aaa.nas.enabled", "aaa.nas.deleted"}
	if got := edgetest.EventTypes(t, w.Harness, "hill", 0); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

func TestLoginsAreUniqueInEveryNotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router("twr7", "10.20.0.1")
	w.login(sub1, "Ann@Example.net", "s3cret")
	do[aaa.Credential](w, "aaa.credential.create", m{"subscription_id": sub1, "username": "00-01-E1-0C-38-C8", "type": "mac"})
	for _, in := range []m{
		{"subscription_id": sub2, "username": "ann@EXAMPLE.net", "password": "x"},
		{"subscription_id": sub2, "username": "1:0:1:e1:c:38:c8", "type": "mac"},
	} {
		if code := edgetest.Code(t, w.Harness, w.a, "aaa.credential.create", in); code != "login_taken" {
			t.Errorf("%v: got %s, want login_taken", in, code)
		}
	}
	for _, name := range []string{"00:01:E1:0C:38:C8", "0001.e10c.38c8", "0001e10c38c8", "1:0:1:e1:c:38:c8"} {
		if _, ok := w.radius(name, ""); !ok {
			t.Errorf("%s: MAC login not found", name)
		}
	}
	for _, name := range []string{"", " ", "nobody", "ann@example.net\x00", strings.Repeat("a", 300)} {
		if _, ok := w.radius(name, ""); ok {
			t.Errorf("%q: found", name)
		}
	}
	other := edgetest.Actor("valley")
	edgetest.Do[aaa.Credential](t, w.Harness, other, "aaa.credential.create", m{"subscription_id": sub1, "username": "ann@example.net", "password": "theirs"})
}

func TestLockUnlockRevoke(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router("twr7", "10.20.0.1")
	pol := w.policy("Home", 50_000, 10_000)
	ip := netip.MustParseAddr("10.9.8.7")
	c := do[aaa.Credential](w, "aaa.credential.create", m{"subscription_id": sub1, "username": "ann", "password": "x", "static_ip": ip})
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "revision": 1})
	if code := edgetest.Code(t, w.Harness, w.a, "aaa.credential.create", m{"subscription_id": sub2, "username": "bob", "password": "x", "static_ip": ip}); code != "already_exists" {
		t.Errorf("the same address twice: got %s", code)
	}
	check := func(want string) {
		t.Helper()
		if d, ok := w.radius("ann", ""); !ok || reasonOf(d) != want {
			t.Errorf("got %v %s, want %s", ok, reasonOf(d), want)
		}
	}
	check(aaa.CodeActive)
	if got := do[aaa.Credential](w, "aaa.credential.lock", m{"id": c.ID, "why": "stolen"}); got.LockedFor != "stolen" {
		t.Errorf("locked for %q", got.LockedFor)
	}
	check(aaa.CodeLocked)
	do[aaa.Credential](w, "aaa.credential.unlock", m{"id": c.ID})
	check(aaa.CodeActive)
	do[aaa.Credential](w, "aaa.credential.revoke", m{"id": c.ID})
	check(aaa.CodeRevoked)
	do[aaa.Credential](w, "aaa.credential.revoke", m{"id": c.ID}) // a move that happened succeeds
	for _, op := range []string{"aaa.credential.lock", "aaa.credential.unlock", "aaa.credential.rotate"} {
		if code := edgetest.Code(t, w.Harness, w.a, op, m{"id": c.ID}); code != "credential_revoked" {
			t.Errorf("%s of a revoked login: got %s", op, code)
		}
	}
	do[aaa.Credential](w, "aaa.credential.create", m{"subscription_id": sub2, "username": "bob", "password": "x", "static_ip": ip})
	edgetest.NoDrift(t, w.Harness)
}

func TestTheIndexIsTheSameAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWorld(t, dir)
	w.router("twr7", "10.20.0.1")
	pol := w.policy("Home", 50_000, 10_000)
	w.login(sub1, "ann", "s3cret")
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "revision": 1})
	before, _ := w.radius("ann", "")
	w.Close()
	w = openWorld(t, dir)
	if len(w.nas) != 0 {
		t.Fatal("a router is served though its secret does not open yet")
	}
	w.router("other", "10.20.0.2") // sealing loads the tenant's key, which the harness does not do by itself
	w.index.Reopen()
	after, ok := w.radius("ann", "")
	if !ok || after.Revision != before.Revision || after.Verdict != before.Verdict {
		t.Errorf("after the restart: %v %+v, before %+v", ok, after, before)
	}
}

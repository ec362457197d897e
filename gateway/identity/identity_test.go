package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/gateway/authn"
)

func TestTheModuleDeclaresItselfWhole(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	if err := edge.Check([]edge.Module{Module(Ports{Index: NewIndex(log, nil), Logger: log})}); err != nil {
		t.Fatal(err)
	}
}

func TestAClaimMakesTenantClientAndKeyOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	code, err := w.claim.Arm(false)
	if err != nil || w.index.Tenants() != 0 {
		t.Fatalf("got %d tenants, %v", w.index.Tenants(), err)
	}
	in := object{"code": strings.ToLower(strings.ReplaceAll(code.Reveal(), "-", " ")), "tenant": "acme", "name": "Acme Wireless"}
	got, reply, err := edgetest.Try[Claimed](w.Harness, anonymous, edge.Request{Key: "k1"}, "identity.claim", in)
	if err != nil {
		t.Fatal(err)
	}
	secret := reply.Once[0]["secret"]
	admin := w.who(secret)
	want := edge.Actor{Tenant: "acme", Subject: string(got.Client.ID), Key: string(got.Key.ID), Scopes: []string{"all:read", "all:write"}}
	if diff := cmp.Diff(want, admin); diff != "" {
		t.Errorf("actor (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(secret, got.Key.Prefix+"_") || got.Key.LastFour != secret[56:60] || got.Tenant.TenantID != edge.System || got.Key.TenantID != "acme" {
		t.Errorf("got key %+v of tenant %+v", got.Key, got.Tenant)
	}
	if !w.vault.Has("acme") {
		t.Error("the tenant's data key is not loaded")
	}
	if got := edgetest.EventTypes(t, w.Harness, "acme", 0); !slices.Equal(got, []string{"identity.client.created", "identity.key.created"}) {
		t.Errorf("events of the tenant: %v", got)
	}
	if got := edgetest.EventTypes(t, w.Harness, edge.System, 0); !slices.Equal(got, []string{"identity.tenant.created", "identity.tenant.claimed"}) {
		t.Errorf("events of the platform: %v", got)
	}
	w.nowhere(secret)
	w.nowhere(secret[17:60])
	w.nowhere(code.Reveal())
	if left, err := filepath.Glob(filepath.Join(w.dir, "claim*")); err != nil || len(left) != 0 || w.index.Tenants() != 1 {
		t.Errorf("after the claim: files %v, %d tenants", left, w.index.Tenants())
	}
	// Repeated, it is answered again, without the secret.
	_, again, err := edgetest.Try[Claimed](w.Harness, anonymous, edge.Request{Key: "k1"}, "identity.claim", in)
	if err != nil || !again.Replayed || again.Once != nil && again.Once[0] != nil {
		t.Errorf("repeated: got %+v %v", again, err)
	}
	w.refused("claim_closed", anonymous, "identity.claim", in)
	edgetest.NoDrift(t, w.Harness)
}

func TestAClaimNeedsTheRightCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := object{"code": "AAAA-AAAA-AAAA-AAAA", "tenant": "acme", "name": "Acme"}
	w.refused("claim_closed", anonymous, "identity.claim", in)
	code, err := w.claim.Arm(false)
	if err != nil {
		t.Fatal(err)
	}
	if plain := strings.ReplaceAll(code.Reveal(), "-", ""); len(plain) != 16 || strings.Trim(plain, crockford) != "" {
		t.Fatalf("a code of %d characters", len(plain))
	}
	w.refused("claim_code_wrong", anonymous, "identity.claim", in)
	for name, in := range map[string]object{
		"tenant_invalid": {"code": code.Reveal(), "tenant": "system", "name": "x"},
		"input_invalid":  {"code": code.Reveal(), "tenant": "acme", "name": "x", "proof": object{"id": "x", "rearmed": true}},
	} {
		w.refused(name, anonymous, "identity.claim", in)
	}
	w.refused("input_invalid", anonymous, "identity.claim", object{"code": code.Reveal(), "tenant": "acme", "name": "x", "minted": object{"digest": "00", "last_four": "0000"}})
	if fi, err := os.Stat(w.claim.Path()); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("claim-code file: %v %v", fi, err)
	}
	if fi, err := os.Stat(filepath.Join(w.dir, claimJSON)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("claim.json: %v %v", fi, err)
	}
	// A restart keeps the code that was printed.
	again, err := NewClaimFile(w.dir, w.Clock.Now, slog.New(slog.DiscardHandler)).Arm(false)
	if err != nil || again.Reveal() != code.Reveal() {
		t.Errorf("a restart changed the code: %v", err)
	}
	// Taken off the disk, it still works; only its digest is needed.
	if err := os.Remove(w.claim.Path()); err != nil {
		t.Fatal(err)
	}
	if again, err = w.claim.Arm(false); again != "" || err != nil {
		t.Errorf("got a code of %d characters, %v", len(again), err)
	}
	do[Claimed](w, anonymous, "identity.claim", object{"code": code.Reveal(), "tenant": "acme", "name": "Acme"})
}

func TestAnArmedCodeBringsBackALostTenantAndWorksOnce(t *testing.T) {
	t.Parallel()
	w, _ := claimed(t)
	stale, err := NewClaimFile(t.TempDir(), w.Clock.Now, nil).Arm(false)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.dir, claimJSON)
	put := func(s claimState) {
		if err := os.WriteFile(file, []byte(jsonOf(t, s)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(claimState{Digest: claimDigest(stale.Reveal())})
	w.refused("claim_closed", anonymous, "identity.claim", object{"code": stale.Reveal(), "tenant": "acme", "name": "x"})

	code, err := w.claim.Arm(true)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before := w.vault.KeyID("acme")
	got, secret := do[Claimed](w, anonymous, "identity.claim", object{"code": code.Reveal(), "tenant": "acme", "name": "ignored"})
	if w.who(secret).Tenant != "acme" || got.Tenant.Name != "Acme Wireless" || w.index.Tenants() != 1 {
		t.Errorf("got %+v", got.Tenant)
	}
	if w.vault.KeyID("acme") != before {
		t.Error("claiming again changed the key that seals the tenant's secrets")
	}
	if err := os.WriteFile(file, kept, 0o600); err != nil { // as another node that has not heard yet
		t.Fatal(err)
	}
	w.refused("claim_spent", anonymous, "identity.claim", object{"code": code.Reveal(), "tenant": "globex", "name": "x"})
	other, err := w.claim.Arm(true)
	if err != nil {
		t.Fatal(err)
	}
	_, secret = do[Claimed](w, anonymous, "identity.claim", object{"code": other.Reveal(), "tenant": "globex", "name": "Globex"})
	if w.who(secret).Tenant != "globex" || w.index.Tenants() != 2 || !w.vault.Has("globex") {
		t.Error("an armed code did not make a second tenant")
	}
}

func TestAKeyNeverGrantsMoreThanItsMakerHolds(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	c, _ := do[Client](w, admin, "identity.client.create", object{"name": "Staff", "scopes": []string{"identity:read", "identity:write", "crm:read"}})
	_, secret := do[Key](w, admin, "identity.key.create", object{"client": c.ID, "name": "k", "allow": []string{"192.0.2.0/24"}})
	staff := w.who(secret)
	strong, strongKey, _ := w.client(admin, "all:read", "billing:write")
	own := func(more object) object {
		in := object{"client": c.ID, "name": "k", "allow": []string{"192.0.2.0/25"}}
		maps.Copy(in, more)
		return in
	}
	const site = "sit_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
	for name, c := range map[string]struct {
		op string
		in object
	}{
		"a client with a scope it lacks":             {"identity.client.create", object{"name": "x", "scopes": []string{"billing:read"}}},
		"a client with all reading":                  {"identity.client.create", object{"name": "x", "scopes": []string{"all:read"}}},
		"more scopes for its own client":             {"identity.client.update", object{"id": c.ID, "scopes": []string{"identity:write", "crm:write"}}},
		"a key with a scope its client lacks":        {"identity.key.create", own(object{"scopes": []string{"billing:read"}})},
		"a key for a stronger client":                {"identity.key.create", object{"client": strong.ID, "name": "x", "allow": []string{"192.0.2.0/24"}}},
		"a new secret for a stronger client's key":   {"identity.key.rotate", object{"id": strongKey.ID}},
		"a key from any address":                     {"identity.key.create", object{"client": c.ID, "name": "x"}},
		"a key from a wider network":                 {"identity.key.create", own(object{"allow": []string{"192.0.0.0/16"}})},
		"a key from another network":                 {"identity.key.create", own(object{"allow": []string{"192.0.2.0/24", "198.51.100.0/24"}})},
		"a site for a client whose sites are others": {"identity.client.create", object{"name": "x", "scopes": []string{"billing:read"}, "sites": []string{site}}},
	} {
		t.Run(name, func(t *testing.T) { w.refused("grant_exceeded", staff, c.op, c.in) })
	}
	w.refused("grant_exceeded", admin, "identity.key.create", own(object{"scopes": []string{"billing:read"}})) // not even for who holds it
	do[Key](w, staff, "identity.key.create", own(nil))
	do[Key](w, staff, "identity.key.create", own(object{"scopes": []string{"crm:read"}, "sites": []string{site}}))

	do[Client](w, admin, "identity.client.disable", object{"id": strong.ID})
	w.refused("grant_exceeded", staff, "identity.client.enable", object{"id": strong.ID})
	do[Client](w, staff, "identity.client.update", object{"id": strong.ID, "scopes": []string{"billing:write"}}) // taking away is allowed
	do[Key](w, staff, "identity.key.revoke", object{"id": strongKey.ID})
	w.refused("client_own", staff, "identity.client.disable", object{"id": c.ID})
}

func TestSitesOnlyNarrow(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	const here, there = "sit_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", "sit_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c34"
	w.auth = authn.New(w.Clock.Now, w.Clock.Now, noBudget{}, authn.Keys(w.index, here, nil))
	c, _ := do[Client](w, admin, "identity.client.create", object{"name": "Tower", "scopes": []string{"all:read", "identity:write"}, "sites": []string{here, there}})
	_, secret := do[Key](w, admin, "identity.key.create", object{"client": c.ID, "name": "k", "sites": []string{here}})
	local := w.who(secret)
	if !slices.Equal(local.Sites, []string{here}) {
		t.Fatalf("got sites %v", local.Sites)
	}
	w.refused("grant_exceeded", admin, "identity.key.create", object{"client": c.ID, "name": "k", "sites": []string{"sit_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c35"}})
	w.refused("grant_exceeded", local, "identity.key.create", object{"client": c.ID, "name": "k"})
	w.refused("grant_exceeded", local, "identity.client.create", object{"name": "x", "scopes": []string{"crm:read"}})
	w.refused("grant_exceeded", local, "identity.client.create", object{"name": "x", "scopes": []string{"crm:read"}, "sites": []string{there}})
	do[Client](w, local, "identity.client.create", object{"name": "x", "scopes": []string{"crm:read"}, "sites": []string{here}})
	// The client loses the site: the key has none left, which must not mean all.
	do[Client](w, admin, "identity.client.update", object{"id": c.ID, "sites": []string{there}})
	w.rejects("key_wrong_site", secret)
	w.refused("grant_exceeded", local, "identity.client.update", object{"id": c.ID, "sites": []string{}})
}

func TestRotationOverlapsTwoSecrets(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	_, k, first := w.client(admin, "crm:read")
	rotated, second := do[Key](w, admin, "identity.key.rotate", object{"id": k.ID, "overlap_seconds": 3600})
	if rotated.Previous == nil || rotated.Previous.LastFour != k.LastFour || rotated.LastFour != second[56:60] || rotated.Prefix != k.Prefix {
		t.Fatalf("got %+v", rotated)
	}
	if a, b := w.who(first), w.who(second); a.Key != b.Key || a.Subject != b.Subject {
		t.Error("the two secrets prove different actors")
	}
	w.refused("key_rotating", admin, "identity.key.rotate", object{"id": k.ID})
	w.Clock.Advance(time.Hour - time.Second)
	w.who(first)
	w.Clock.Advance(time.Second)
	w.rejects("key_rotated", first)
	w.who(second)

	_, third := do[Key](w, admin, "identity.key.rotate", object{"id": k.ID})
	w.rejects("credential_unknown", first)
	w.who(second)
	retired, _ := do[Key](w, admin, "identity.key.retire", object{"id": k.ID})
	if retired.Previous != nil {
		t.Error("the retired secret still shows")
	}
	w.rejects("key_rotated", second)
	w.who(third)
	do[Key](w, admin, "identity.key.retire", object{"id": k.ID})

	_, fourth := do[Key](w, admin, "identity.key.rotate", object{"id": k.ID, "overlap_seconds": 0})
	w.rejects("key_rotated", third)
	w.Clock.Advance(364 * 24 * time.Hour)
	w.who(fourth)
	_, fifth := do[Key](w, edge.SystemActor("acme", "console"), "identity.key.rotate", object{"id": k.ID})
	w.Clock.Advance(2 * 24 * time.Hour)
	w.rejects("key_rotated", fourth)
	w.who(fifth)

	do[Key](w, edge.SystemActor("acme", "console"), "identity.key.revoke", object{"id": k.ID})
	for _, secret := range []string{fourth, fifth} {
		w.rejects("key_revoked", secret)
	}
	w.refused("key_ended", admin, "identity.key.rotate", object{"id": k.ID})
	w.refused("key_ended", admin, "identity.key.retire", object{"id": k.ID})
	for _, secret := range []string{first, second, third, fourth, fifth} {
		w.nowhere(secret[17:60])
	}
	want := []string{"created", "rotated", "rotated", "retired", "rotated", "rotated", "revoked"}
	var got []string
	for _, e := range edgetest.Events(t, w.Harness, "acme", 0) {
		if e.Subject == k.ID {
			got = append(got, strings.TrimPrefix(e.Type, "identity.key."))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("events: got %v, want %v", got, want)
	}
	edgetest.NoDrift(t, w.Harness)
}

func TestKeysEndAfterAYearAtMost(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	c, k, secret := w.client(admin, "crm:read")
	now := w.Clock.Now()
	if !k.ExpiresAt.Equal(now.AddDate(1, 0, 0)) {
		t.Errorf("got %v", k.ExpiresAt)
	}
	for _, at := range []time.Time{now, now.Add(-time.Hour), now.AddDate(1, 0, 0).Add(time.Second), {}} {
		w.refused("key_invalid", admin, "identity.key.create", object{"client": c.ID, "name": "x", "expires_at": at})
		w.refused("key_invalid", admin, "identity.key.rotate", object{"id": k.ID, "expires_at": at})
	}
	w.refused("key_invalid", admin, "identity.key.rotate", object{"id": k.ID, "overlap_seconds": 30*86400 + 1})
	_, short := do[Key](w, admin, "identity.key.create", object{"client": c.ID, "name": "x", "expires_at": now.Add(time.Minute)})
	w.who(short)
	w.Clock.Advance(time.Minute)
	w.rejects("key_expired", short)
	w.Clock.Advance(366 * 24 * time.Hour)
	w.rejects("key_expired", secret)
}

func TestWhatAClientLosesItsKeysLoseAtOnce(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	c, _, secret := w.client(admin, "crm:read", "billing:read")
	do[Client](w, admin, "identity.client.update", object{"id": c.ID, "scopes": []string{"crm:read"}})
	if got := w.who(secret).Scopes; !slices.Equal(got, []string{"crm:read"}) {
		t.Errorf("got %v", got)
	}
	do[Client](w, admin, "identity.client.update", object{"id": c.ID, "scopes": []string{"all:read"}})
	if got := w.who(secret).Scopes; !slices.Equal(got, []string{"billing:read", "crm:read"}) {
		t.Errorf("the key grew with its client: %v", got)
	}
	do[Client](w, admin, "identity.client.disable", object{"id": c.ID})
	w.rejects("client_disabled", secret)
	w.refused("client_not_active", admin, "identity.key.create", object{"client": c.ID, "name": "x"})
	do[Client](w, admin, "identity.client.enable", object{"id": c.ID})
	w.who(secret)

	tenant := edgetest.Ask[edge.Page[Tenant]](t, w.Harness, operator, "identity.tenant.list", object{}).Data[0]
	do[Tenant](w, operator, "identity.tenant.update", object{"id": tenant.ID, "status": "suspended", "limits": object{"requests": 5, "window_seconds": 60}})
	w.rejects("tenant_suspended", secret)
	do[Tenant](w, operator, "identity.tenant.update", object{"id": tenant.ID, "status": "active"})
	w.who(secret)
	if got := w.index.Key(secret[8:16]).Identity.Limits; got.TenantRate.Quota != 5 || got.Tenant != "acme" || got.Client != string(c.ID) {
		t.Errorf("limits: %+v", got)
	}
}

func TestInputsThatTheSchemaCannotJudgeAreRefused(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	c, _, _ := w.client(admin, "crm:read")
	for _, in := range []object{
		{"name": " ", "scopes": []string{"crm:read"}}, {"name": "x", "scopes": []string{}}, {"name": "x", "scopes": []string{"public"}},
		{"name": "x", "scopes": []string{"CRM:read"}}, {"name": "x", "scopes": []string{"crm:read "}}, {"name": "x", "scopes": []string{"crm:read"}, "kind": "robot"},
		{"name": "x", "scopes": []string{"crm:read"}, "limits": object{"requests": 0, "window_seconds": 1}},
	} {
		w.refused("client_invalid", admin, "identity.client.create", in)
	}
	w.refused("key_invalid", admin, "identity.key.create", object{"client": c.ID, "name": " "})
	w.refused("input_invalid", admin, "identity.key.create", object{"client": c.ID, "name": "x", "minted": object{"digest": strings.Repeat("0", 64), "last_four": "0000"}})
	w.refused("input_invalid", admin, "identity.key.rotate", object{"id": c.ID.With("key"), "minted": object{"digest": "", "last_four": ""}})
	w.refused("not_found", admin, "identity.key.create", object{"client": edge.ID("cli_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"), "name": "x"})
	for range maxActiveKeys - 1 {
		do[Key](w, admin, "identity.key.create", object{"client": c.ID, "name": "x"})
	}
	w.refused("key_limit", admin, "identity.key.create", object{"client": c.ID, "name": "x"})
}

func TestTenantsAreTheOperatorsAndApartFromEachOther(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	w.refused("operator_only", admin, "identity.tenant.create", object{"slug": "globex", "name": "Globex"})
	w.refused("operator_only", admin, "identity.tenant.update", object{"id": "ten_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", "name": "x"})
	w.refused("already_exists", operator, "identity.tenant.create", object{"slug": "acme", "name": "Acme again"})
	w.refused("tenant_invalid", operator, "identity.tenant.create", object{"slug": "Glob ex", "name": "x"})
	w.refused("input_invalid", operator, "identity.tenant.create", object{"slug": "globex", "name": "x", "wrapped_key": "AAAA"})
	before := w.vault.KeyID("acme")
	w.refused("already_exists", operator, "identity.tenant.create", object{"slug": "acme", "name": "Acme again"})
	if w.vault.KeyID("acme") != before {
		t.Error("a refused tenant changed the key that seals another's secrets")
	}
	do[Tenant](w, operator, "identity.tenant.create", object{"slug": "globex", "name": "Globex"})
	if !w.vault.Has("globex") {
		t.Error("the tenant has no data key")
	}
	globex := edge.SystemActor("globex", "console")
	c, k, _ := w.client(admin, "crm:read")
	for op, in := range map[string]object{
		"identity.client.update": {"id": c.ID, "name": "x"}, "identity.client.disable": {"id": c.ID}, "identity.client.enable": {"id": c.ID},
		"identity.key.create": {"client": c.ID, "name": "x"}, "identity.key.rotate": {"id": k.ID}, "identity.key.retire": {"id": k.ID},
		"identity.key.revoke": {"id": k.ID},
	} {
		w.refused("not_found", globex, op, in)
	}
	for op, in := range map[string]object{"identity.client.get": {"id": c.ID}, "identity.key.get": {"id": k.ID}} {
		if _, _, err := w.Ask(t.Context(), globex, op, json.RawMessage(jsonOf(t, in)), 0); edgetest.CodeOf(t, err) != "not_found" {
			t.Errorf("%s: %v", op, err)
		}
	}
	if p := edgetest.Ask[edge.Page[Key]](t, w.Harness, globex, "identity.key.list", object{}); len(p.Data) != 0 {
		t.Errorf("another tenant's keys are listed: %v", p.Data)
	}
	if _, _, err := w.Ask(t.Context(), admin, "identity.tenant.list", nil, 0); edgetest.CodeOf(t, err) != "operator_only" {
		t.Errorf("tenant.list: %v", err)
	}
}

func TestListsAndWhoAmIShowRecordsAndNoSecrets(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	c, k, secret := w.client(admin, "crm:read")
	me := edgetest.Ask[Who](t, w.Harness, w.who(secret), "identity.whoami", nil)
	if me.Tenant != "acme" || me.Client == nil || me.Client.ID != c.ID || me.Key != string(k.ID) || me.ExpiresAt == nil || !slices.Equal(me.Scopes, []string{"crm:read"}) {
		t.Errorf("got %+v", me)
	}
	if _, _, err := w.Ask(t.Context(), anonymous, "identity.whoami", nil, 0); edgetest.CodeOf(t, err) != "anonymous" {
		t.Errorf("without a credential: %v", err)
	}
	for in, want := range map[string]int{`{}`: 2, `{"status":"active"}`: 2, `{"status":"disabled"}`: 0, `{"kind":"person"}`: 1, `{"status":"active","kind":"service"}`: 1} {
		if p := edgetest.Ask[edge.Page[Client]](t, w.Harness, admin, "identity.client.list", json.RawMessage(in)); len(p.Data) != want {
			t.Errorf("clients %s: got %d, want %d", in, len(p.Data), want)
		}
	}
	list := edgetest.Ask[edge.Page[Key]](t, w.Harness, admin, "identity.key.list", object{"client": c.ID})
	if len(list.Data) != 1 || list.Data[0].ID != k.ID {
		t.Fatalf("got %v", list.Data)
	}
	digest := w.index.Key(secret[8:16]).Secrets[0].Digest
	shown := jsonOf(t, list) + jsonOf(t, edgetest.Ask[Key](t, w.Harness, admin, "identity.key.get", object{"id": k.ID})) + jsonOf(t, edgetest.Events(t, w.Harness, "acme", 0))
	if strings.Contains(shown, fmt.Sprintf("%x", digest)) || strings.Contains(shown, secret[17:60]) {
		t.Error("a digest or secret is shown")
	}
	_, plan, err := edgetest.Try[Key](w.Harness, admin, edge.Request{DryRun: true}, "identity.key.create", object{"client": c.ID, "name": "x"})
	if err != nil || plan.Once != nil || len(plan.Plan.Changes) != 1 {
		t.Errorf("dry run: %+v %v", plan, err)
	}
}

func TestKeysVerifyAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWorld(t, dir)
	code, err := w.claim.Arm(false)
	if err != nil {
		t.Fatal(err)
	}
	_, secret := do[Claimed](w, anonymous, "identity.claim", object{"code": code.Reveal(), "tenant": "acme", "name": "Acme"})
	before := w.who(secret)
	w.Close()
	again := openWorld(t, dir)
	if diff := cmp.Diff(before, again.who(secret)); diff != "" {
		t.Error(diff)
	}
	if !again.vault.Has("acme") || again.index.Tenants() != 1 {
		t.Error("the tenant or its data key is gone")
	}
}

// TestTheIndexEqualsOneBuiltAnew changes identities at random and compares the index that followed each commit with one that is fed the
// state from the beginning, in another order.
func TestTheIndexEqualsOneBuiltAnew(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	console := edge.SystemActor("acme", "console")
	var made []Client
	var keyed []Key
	c, k, _ := w.client(admin, "crm:read", "billing:read")
	made, keyed = append(made, c), append(keyed, k)
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(made).Draw(t, "client")
		k := rapid.SampledFrom(keyed).Draw(t, "key")
		var err error
		switch rapid.IntRange(0, 7).Draw(t, "what") {
		case 0:
			c, _, err = try[Client](w, console, "identity.client.create", object{"name": "x", "scopes": []string{"crm:read", "billing:read"}})
			made = append(made, c)
		case 1, 2:
			var k Key
			if k, _, err = try[Key](w, console, "identity.key.create", object{"client": c.ID, "name": "x"}); err == nil {
				keyed = append(keyed, k)
			}
		case 3:
			_, _, err = try[Key](w, console, "identity.key.rotate", object{"id": k.ID})
		case 4:
			_, _, err = try[Key](w, console, "identity.key.revoke", object{"id": k.ID})
		case 5:
			_, _, err = try[Client](w, console, "identity.client.disable", object{"id": c.ID})
		case 6:
			_, _, err = try[Client](w, console, "identity.client.enable", object{"id": c.ID})
		case 7:
			scopes := rapid.SampledFrom([][]string{{"crm:read"}, {"all:read"}, {"billing:read", "crm:read"}}).Draw(t, "scopes")
			_, _, err = try[Client](w, console, "identity.client.update", object{"id": c.ID, "scopes": scopes})
		}
		var e *edge.Error
		if err != nil && (!errors.As(err, &e) || e.Kind != edge.Conflict && e.Kind != edge.Denied) {
			t.Fatal(err)
		}
		fresh := w.everything(func(all []edge.Change) { rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) })
		if diff := cmp.Diff(flat(w.index), flat(fresh)); diff != "" {
			t.Fatalf("followed (-) and built anew (+):\n%s", diff)
		}
	})
}

// flat is what an index answers, without what differs by right.
func flat(x *Index) map[string]authn.Key {
	m := map[string]authn.Key{}
	for token, k := range x.keys {
		c := *k
		c.Use = nil
		m[token] = c
	}
	return m
}

type noBudget struct{ authn.Budget }

func (noBudget) Exhausted(_ netip.Addr, _ time.Time) (time.Duration, bool) { return 0, false }

func TestADamagedRecordRefusesItsOwnKeyOnly(t *testing.T) {
	t.Parallel()
	w, admin := claimed(t)
	_, k, secret := w.client(admin, "crm:read")
	_, _, other := w.client(admin, "crm:read")
	for _, bad := range []string{`{`, `{"secrets":[{"algorithm":1,"digest":"zz"}]}`, `{"secrets":[{"algorithm":1,"digest":"00"}]}`, `{"secrets":[{"algorithm":0}]}`} {
		w.index.apply(false, []edge.Change{{Tenant: "acme", Table: keySecrets.Name, ID: k.ID.With("kse"), Val: []byte(bad)}})
		w.rejects("credential_unknown", secret)
		w.who(other)
	}
	w.index.apply(false, []edge.Change{{Tenant: "acme", Table: keys.Name, ID: k.ID, Val: []byte(`[]`)}})
	w.rejects("credential_unknown", secret)
	w.who(other)
}

// BenchmarkIndexMemory reports what a key costs in memory, out of 10,000.
func BenchmarkIndexMemory(b *testing.B) {
	const n = 10_000
	changes := make([]edge.Change, 0, 2*n+2)
	id := func(prefix string, i int) edge.ID {
		return edge.ID(prefix + "_" + edge.FormatUUID([16]byte{byte(i >> 8), byte(i), 1}))
	}
	put := func(table string, id edge.ID, rec any) {
		changes = append(changes, edge.Change{Tenant: "acme", Table: table, ID: id, Val: []byte(jsonOf(b, rec))})
	}
	put(tenants.Name, id("ten", 0), Tenant{Slug: "acme", Status: Active})
	put(clients.Name, id("cli", 0), Client{Status: Enabled, Scopes: []string{"crm:read", "billing:read"}})
	for i := range n {
		put(keys.Name, id("key", i), Key{Client: id("cli", 0), Scopes: []string{"crm:read", "billing:read"}})
		put(keySecrets.Name, id("kse", i), KeySecret{Secrets: []StoredSecret{{Algorithm: 1, Digest: strings.Repeat("ab", 32)}}})
	}
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		x := NewIndex(slog.New(slog.DiscardHandler), nil)
		x.apply(true, changes)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "octets/key")
		runtime.KeepAlive(x)
	}
}

package vault

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
	"wispgate/edge"
)

func open(t testing.TB, tenants ...string) *Vault {
	t.Helper()
	v, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tenants {
		newKey(t, v, name)
	}
	return v
}

// newKey draws a key and puts it to use.
func newKey(t testing.TB, v *Vault, name string) []byte {
	t.Helper()
	wrapped, err := v.NewTenantKey(name)
	if err == nil {
		err = v.LoadTenantKey(name, wrapped)
	}
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

func code(err error) string {
	e, ok := edge.AsError(err)
	if !ok || e.Fix == "" {
		return ""
	}
	return e.Code
}

func TestSealedValuesComeBackAndDiffer(t *testing.T) {
	t.Parallel()
	v := open(t, "isp")
	rapid.Check(t, func(t *rapid.T) {
		record, field := rapid.String().Draw(t, "record"), rapid.String().Draw(t, "field")
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		a, err := v.Seal("isp", record, field, plain)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := v.Seal("isp", record, field, plain)
		if a == b {
			t.Fatal("two sealings are equal: the nonce is not random")
		}
		got, err := v.Unseal("isp", record, field, a)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %q, %v", got, err)
		}
		if !IsSealed(a) || KeyOf(a) != v.KeyID("isp") || strings.ContainsAny(a, " \n\"\\") {
			t.Fatalf("form: %q", a)
		}
	})
}

func TestASealedValueOpensOnlyInItsPlace(t *testing.T) {
	t.Parallel()
	v := open(t, "isp", "other")
	sealed, err := v.Seal("isp", "cred_1", "password", []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, tenant, record, field, code string }{
		{"another record", "isp", "cred_2", "password", "vault_wrong_place"},
		{"another field", "isp", "cred_1", "nt_hash", "vault_wrong_place"},
		{"another tenant", "other", "cred_1", "password", "vault_key_missing"},
		{"parts shifted", "isp", "cred_1p", "assword", "vault_wrong_place"},
	} {
		if got, err := v.Unseal(c.tenant, c.record, c.field, sealed); code(err) != c.code || got != nil {
			t.Errorf("%s: got %q, %v, want %s", c.name, got, err, c.code)
		}
	}
	// Even under the same data key, the tenant is bound.
	dir := t.TempDir()
	w, _ := Open(dir)
	w.add("isp", make([]byte, 32))
	w.add("other", make([]byte, 32))
	s, _ := w.Seal("isp", "r", "f", []byte("x"))
	if _, err := w.Unseal("other", "r", "f", s); code(err) != "vault_wrong_place" {
		t.Errorf("same key, other tenant: got %v", err)
	}
}

func TestEveryChangedCharacterIsNoticed(t *testing.T) {
	t.Parallel()
	v := open(t, "isp")
	sealed, _ := v.Seal("isp", "r", "f", []byte("secret"))
	for i := range len(sealed) {
		for _, c := range []byte("Aa0.-_ ") {
			changed := sealed[:i] + string(c) + sealed[i+1:]
			if changed == sealed {
				continue
			}
			if got, err := v.Unseal("isp", "r", "f", changed); err == nil {
				t.Fatalf("character %d as %q opened: %q", i, c, got)
			}
		}
		if _, err := v.Unseal("isp", "r", "f", sealed[:i]); err == nil {
			t.Fatalf("%d characters opened", i)
		}
	}
}

func TestRotationKeepsOldValuesReadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	first := newKey(t, v, "isp")
	old, _ := v.Seal("isp", "r", "f", []byte("old"))
	mac, oldID := v.MAC("isp", "digest", []byte("x")), v.KeyID("isp")
	second := newKey(t, v, "isp")
	young, _ := v.Seal("isp", "r", "f", []byte("young"))
	if KeyOf(old) == KeyOf(young) || KeyOf(young) != v.KeyID("isp") {
		t.Fatal("the new key does not seal")
	}
	if !bytes.Equal(mac, v.MACWith("isp", oldID, "digest", []byte("x"))) || bytes.Equal(mac, v.MAC("isp", "digest", []byte("x"))) {
		t.Fatal("digests do not follow their key")
	}
	// The same after a restart.
	if v, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Unseal("isp", "r", "f", old); code(err) != "vault_key_missing" || v.Has("isp") || v.MAC("isp", "p", nil) != nil {
		t.Fatalf("before loading: got %v", err)
	}
	for _, w := range [][]byte{first, second} {
		if err := v.LoadTenantKey("isp", w); err != nil {
			t.Fatal(err)
		}
	}
	for sealed, want := range map[string]string{old: "old", young: "young"} {
		if got, err := v.Unseal("isp", "r", "f", sealed); string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	if KeyOf(young) != v.KeyID("isp") {
		t.Fatal("the key loaded last must seal")
	}
}

func TestWrappedKeysOpenOnTheirNodeForTheirTenantOnly(t *testing.T) {
	t.Parallel()
	a, b := open(t), open(t)
	wrapped := newKey(t, a, "isp")
	for _, c := range []struct {
		name    string
		vault   *Vault
		tenant  string
		wrapped []byte
	}{
		{"another node", b, "isp", wrapped},
		{"another tenant", a, "evil", wrapped},
		{"cut short", a, "isp", wrapped[:len(wrapped)-1]},
		{"nothing", a, "isp", nil},
		{"shared form of nothing", a, "isp", []byte(sharedPrefix)},
	} {
		if err := c.vault.LoadTenantKey(c.tenant, c.wrapped); code(err) != "vault_wrapped_key" {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	sealed, _ := a.Seal("isp", "r", "f", []byte("shared"))
	forB, err := a.WrapFor("isp", wrapped, b.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.LoadTenantKey("evil", forB); code(err) != "vault_wrapped_key" {
		t.Errorf("shared key for another tenant: got %v", err)
	}
	if err := b.LoadTenantKey("isp", forB); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Unseal("isp", "r", "f", sealed); string(got) != "shared" {
		t.Fatalf("on the other node: got %q, %v", got, err)
	}
	if !bytes.Equal(a.MAC("isp", "p", []byte("x")), b.MAC("isp", "p", []byte("x"))) {
		t.Fatal("digests differ between nodes")
	}
	if _, err := a.WrapFor("isp", wrapped, []byte("short")); code(err) != "vault_public_key" {
		t.Fatalf("got %v", err)
	}
}

func TestMACsDifferByTenantPurposeAndData(t *testing.T) {
	t.Parallel()
	v := open(t, "a", "b")
	seen := map[string]bool{}
	for _, tenant := range []string{"a", "b"} {
		for _, purpose := range []string{"p", "q"} {
			for _, data := range []string{"", "x"} {
				m := v.MAC(tenant, purpose, []byte(data))
				if len(m) != 32 || seen[string(m)] || !bytes.Equal(m, v.MAC(tenant, purpose, []byte(data))) {
					t.Fatalf("%s/%s/%s: bad mac", tenant, purpose, data)
				}
				seen[string(m)] = true
			}
		}
	}
}

func TestTheNodeKeyIsPrivateAndNeverReplaced(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "vault")
	var group sync.WaitGroup
	vaults := make([]*Vault, 8)
	for i := range vaults {
		group.Go(func() { vaults[i], _ = Open(dir) })
	}
	group.Wait()
	for _, v := range vaults {
		if v == nil || !bytes.Equal(v.node, vaults[0].node) {
			t.Fatal("two first boots at once drew two keys")
		}
	}
	path := filepath.Join(dir, KeyFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 32 {
		t.Fatalf("got %v, %v", info, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Fatalf("remains: %v", entries)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); code(err) != "vault_key_mode" {
		t.Fatalf("readable by others: got %v", err)
	}
	_ = os.Chmod(path, 0o600)
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); code(err) != "vault_key_damaged" {
		t.Fatalf("damaged: got %v", err)
	}
}

func TestErrorsHoldNoValues(t *testing.T) {
	t.Parallel()
	v := open(t, "isp")
	_, err := v.Unseal("isp", "record-x", "field-x", "plain-hunter2")
	if code(err) != "vault_not_sealed" || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("got %v", err)
	}
	if _, err := v.Seal("isp", "r", "f", make([]byte, MaxPlaintext+1)); code(err) != "too_large" {
		t.Fatalf("got %v", err)
	}
	if _, err := v.Seal("nobody", "r", "f", nil); !errors.Is(err, errNoKey) {
		t.Fatalf("got %v", err)
	}
}

func TestAKeySealsNothingBeforeItIsLoaded(t *testing.T) {
	t.Parallel()
	v := open(t)
	wrapped, err := v.NewTenantKey("isp")
	if err != nil || v.Has("isp") {
		t.Fatalf("got %v, has %v", err, v.Has("isp"))
	}
	if _, err := v.Seal("isp", "r", "f", nil); code(err) != "vault_key_missing" {
		t.Fatalf("got %v", err)
	}
	if err := v.LoadTenantKey("isp", wrapped); err != nil || !v.Has("isp") {
		t.Fatal(err)
	}
}

func TestDigestsVerifyAndRefuseToBeMadeExpensive(t *testing.T) {
	t.Parallel()
	d, err := Digest("hunter2")
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{"hunter2": true, "hunter3": false, "": false} {
		if got, err := VerifyDigest(d, password); err != nil || got != want {
			t.Errorf("%q: got %v, %v", password, got, err)
		}
	}
	for _, bad := range []string{
		"", "hunter2", strings.Replace(d, "m=19456", "m=99999999", 1), strings.Replace(d, "t=2", "t=999", 1),
		strings.Replace(d, "argon2id", "argon2i", 1), strings.Replace(d, "p=1", "p=200", 1), d[:len(d)-40],
	} {
		if ok, err := VerifyDigest(bad, "hunter2"); err == nil || ok {
			t.Errorf("%q was computed: %v", bad, ok)
		}
	}
}

func TestNodeSealerBindsItsPlace(t *testing.T) {
	t.Parallel()
	v := open(t)
	s := v.Sealer("journal")
	sealed := s.Seal([]byte("head"), []byte("body"), []byte("place"))
	if got, err := s.Open([]byte("x"), sealed[4:], []byte("place")); string(got) != "xbody" {
		t.Fatalf("got %q, %v", got, err)
	}
	for _, open := range []func() ([]byte, error){
		func() ([]byte, error) { return s.Open(nil, sealed[4:], []byte("other")) },
		func() ([]byte, error) { return v.Sealer("audit").Open(nil, sealed[4:], []byte("place")) },
		func() ([]byte, error) { return s.Open(nil, sealed[4:10], []byte("place")) },
	} {
		if got, err := open(); err == nil {
			t.Fatalf("opened: %q", got)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	v := open(b, "isp")
	for b.Loop() {
		_, _ = v.Seal("isp", "record", "field", []byte("a shared secret"))
	}
}

func BenchmarkUnseal(b *testing.B) {
	v := open(b, "isp")
	sealed, _ := v.Seal("isp", "record", "field", []byte("a shared secret"))
	for b.Loop() {
		_, _ = v.Unseal("isp", "record", "field", sealed)
	}
}

func FuzzUnseal(f *testing.F) {
	v := open(f, "isp")
	good, _ := v.Seal("isp", "r", "f", []byte("x"))
	for _, s := range []string{"", "v1.", "v1.0123456789abcdef.", "v1.0123456789abcdef.AAAA"} {
		f.Add(0, len(good), s)
	}
	f.Add(len(good), len(good), "\n") // a base64 decoder leaves out line breaks
	f.Add(30, 30, "\r")
	f.Add(20, 20, "=")
	// What each process seals opens in no other, so that the inputs are changes to it: the run of octets that goes, and what comes in its place.
	f.Fuzz(func(t *testing.T, from, to int, put string) {
		if from < 0 || to < from || len(good) < to {
			return
		}
		s := good[:from] + put + good[to:]
		if _, err := v.Unseal("isp", "r", "f", s); err == nil && s != good {
			t.Fatalf("%q opened", s)
		}
	})
}

func TestWhatOneNodeHandsToAnotherOpensThereAndForItsPurposeOnly(t *testing.T) {
	t.Parallel()
	a, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := a.SealFor("purpose", b.PublicKey(), []byte("octets"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := b.OpenFor("purpose", sealed); err != nil || string(plain) != "octets" {
		t.Errorf("got %q, %v", plain, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another purpose": func() ([]byte, error) { return b.OpenFor("other", sealed) },
		"another node":    func() ([]byte, error) { return a.OpenFor("purpose", sealed) },
		"a changed octet": func() ([]byte, error) {
			bad := append([]byte(nil), sealed...)
			bad[len(bad)-1] ^= 1
			return b.OpenFor("purpose", bad)
		},
		"nothing": func() ([]byte, error) { return b.OpenFor("purpose", nil) },
	} {
		if plain, err := open(); err == nil {
			t.Errorf("%s opened it: %q", name, plain)
		}
	}
	if _, err := a.SealFor("purpose", []byte("no key"), nil); err == nil {
		t.Error("sealed for something that is no key")
	}
	if _, err := a.SealFor("purpose", b.PublicKey(), make([]byte, MaxPlaintext+1)); err == nil {
		t.Error("sealed more than the bound")
	}
}

func TestAKeyIsCarriedToAnotherNodeUnderASeed(t *testing.T) {
	t.Parallel()
	a, b := open(t), open(t)
	wrapped := newKey(t, a, "isp")
	sealed, err := a.Seal("isp", "r", "f", []byte("shared"))
	if err != nil {
		t.Fatal(err)
	}
	seed, other := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32)
	public, err := SeedPublicKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	carried, err := a.WrapFor("isp", wrapped, public)
	if err != nil {
		t.Fatal(err)
	}
	for name, adopt := range map[string]func() ([]byte, error){
		"another seed":      func() ([]byte, error) { return b.Adopt("isp", carried, other) },
		"another tenant":    func() ([]byte, error) { return b.Adopt("evil", carried, seed) },
		"a node's own wrap": func() ([]byte, error) { return b.Adopt("isp", wrapped, seed) },
		"half a key":        func() ([]byte, error) { return b.Adopt("isp", carried[:40], seed) },
	} {
		if _, err := adopt(); code(err) != "vault_wrapped_key" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	mine, err := b.Adopt("isp", carried, seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.LoadTenantKey("isp", mine); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Unseal("isp", "r", "f", sealed); string(got) != "shared" {
		t.Fatalf("on the other node: got %q, %v", got, err)
	}
	if err := a.LoadTenantKey("isp", mine); code(err) != "vault_wrapped_key" {
		t.Errorf("the old node opens what was wrapped for the new one: %v", err)
	}
}

package authn

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/edge"
	"wispgate/gateway/limit"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// record is the key record of the tests; stranger is another at each call.
const record = edge.ID("key_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33")

func stranger() edge.ID { return edge.ID("key_" + edge.FormatUUID([16]byte(random(16)))) }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// records is the index of the tests.
type records map[string]*Key

func (r records) Key(id string) *Key { return r[id] }

// bench is an authenticator with one good key at site_1, and what the test may change about it.
type bench struct {
	*Authenticator
	records records
	minted  Minted
	key     *Key
	now     time.Time
	limiter *limit.Limiter
	used    []edge.ID
}

func newBench() *bench {
	b := &bench{minted: Mint(record, random), now: start, limiter: limit.New(limit.Config{Address: limit.Rate{Quota: 10, Window: time.Minute}}, start)}
	b.key = &Key{
		Secrets: [2]Secret{{Algorithm: SHA256, Digest: b.minted.Digest, Expires: start.AddDate(1, 0, 0)}},
		Identity: &Identity{
			Actor:  edge.Actor{Tenant: "acme", Subject: "cli_1", Key: "key_1", Scopes: []string{"crm:read"}},
			Limits: limit.Subject{Tenant: "acme", Client: "cli_1"},
		},
		Use: &LastUse{},
	}
	b.records = records{b.minted.ID: b.key}
	b.Authenticator = New(func() time.Time { return b.now }, func() time.Time { return b.now }, b.limiter,
		Keys(b.records, "site_1", func(key edge.ID, _ netip.Addr, _ time.Time) { b.used = append(b.used, key) }))
	return b
}

func (b *bench) shown() Shown {
	return Shown{Bearer: b.minted.Token.Reveal(), Address: netip.MustParseAddr("192.0.2.7")}
}

func code(err error) string {
	var e *edge.Error
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	return e.Code
}

func TestMintedKeysHaveTheDocumentedForm(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 500 {
		m := Mint(stranger(), random)
		token := m.Token.Reveal()
		if len(token) != 66 || !strings.HasPrefix(token, "wg_live_"+m.ID+"_") || len(m.ID) != 8 || !wellFormed(token) {
			t.Fatalf("malformed key of length %d with id %q", len(token), m.ID)
		}
		if m.LastFour != token[56:60] || m.Digest != digest(token[17:60]) || seen[m.ID] {
			t.Fatalf("last four %q, or a repeated id", m.LastFour)
		}
		seen[m.ID] = true
		if strings.Contains(fmt.Sprintf("%v %+v %#v", m, m, m), token) {
			t.Fatal("the token prints")
		}
	}
}

// TestTheFormIsStable holds the format to keys that are in use: all-zero and all-one secrets, as another program computes them.
func TestTheFormIsStable(t *testing.T) {
	t.Parallel()
	fill := func(b byte) func(int) []byte {
		return func(n int) []byte { return []byte(strings.Repeat(string([]byte{b}), n)) }
	}
	for b, want := range map[byte]string{
		0x00: "wg_live_a3B2L0Jo_00000000000000000000000000000000000000000002mof7d",
		0xff: "wg_live_a3B2L0Jo_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp10wjpcb",
	} {
		if got := Mint(record, fill(b)).Token.Reveal(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestAnyChangeOfOneOrTwoCharactersBreaksTheChecksum(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		token := []byte(Mint(stranger(), random).Token.Reveal())
		was := string(token)
		for range rapid.IntRange(1, 2).Draw(t, "changes") {
			token[rapid.IntRange(0, KeyLen-1).Draw(t, "at")] = rapid.Byte().Draw(t, "to")
		}
		if string(token) != was && wellFormed(string(token)) {
			t.Fatal("a mistyped key passes")
		}
	})
}

func TestCredentialsAreRefusedWithTheRightWord(t *testing.T) {
	t.Parallel()
	other := Mint(stranger(), random)
	for name, c := range map[string]struct {
		change func(b *bench, s *Shown)
		code   string
	}{
		"nothing shown":              {func(_ *bench, s *Shown) { s.Bearer = "" }, "credential_unknown"},
		"the right key as bearer":    {func(*bench, *Shown) {}, ""},
		"the right key as X-API-Key": {func(_ *bench, s *Shown) { s.APIKey, s.Bearer = s.Bearer, "" }, ""},
		"the prefix only":            {func(_ *bench, s *Shown) { s.Bearer = Prefix }, "credential_malformed"},
		"another form":               {func(_ *bench, s *Shown) { s.Bearer = "eyJhbGciOiJub25lIn0.e30." }, "credential_malformed"},
		"a space in front":           {func(_ *bench, s *Shown) { s.Bearer = " " + s.Bearer }, "credential_malformed"},
		"a space behind":             {func(_ *bench, s *Shown) { s.Bearer += " " }, "credential_malformed"},
		"a full-width digit":         {func(_ *bench, s *Shown) { s.Bearer = s.Bearer[:20] + "１" + s.Bearer[23:] }, "credential_malformed"},
		"one character less":         {func(_ *bench, s *Shown) { s.Bearer = s.Bearer[:65] }, "credential_malformed"},
		"the checksum of another":    {func(_ *bench, s *Shown) { s.Bearer = s.Bearer[:60] + other.Token.Reveal()[60:] }, "credential_malformed"},
		"an unknown id":              {func(_ *bench, s *Shown) { s.Bearer = other.Token.Reveal() }, "credential_unknown"},
		"a wrong secret":             {func(b *bench, s *Shown) { s.Bearer = Mint(record, random).Token.Reveal() }, "credential_unknown"},
		"a wrong secret, expired": {func(b *bench, s *Shown) {
			s.Bearer = Mint(record, random).Token.Reveal()
			b.now = start.AddDate(2, 0, 0)
		}, "credential_unknown"},
		"expired to the second":      {func(b *bench, _ *Shown) { b.now = b.key.Secrets[0].Expires }, "key_expired"},
		"a second before it expires": {func(b *bench, _ *Shown) { b.now = b.key.Secrets[0].Expires.Add(-time.Second) }, ""},
		"rotated out":                {func(b *bench, _ *Shown) { b.key.Secrets[0].Older = true; b.now = b.key.Secrets[0].Expires }, "key_rotated"},
		"revoked":                    {func(b *bench, _ *Shown) { b.key.Refused = &ErrRevoked }, "key_revoked"},
		"the client is disabled":     {func(b *bench, _ *Shown) { b.key.Refused = &ErrClient }, "client_disabled"},
		"at a site it names":         {func(b *bench, _ *Shown) { b.key.Identity.Actor.Sites = []string{"site_0", "site_1"} }, ""},
		"at another site":            {func(b *bench, _ *Shown) { b.key.Identity.Actor.Sites = []string{"site_2"} }, "key_wrong_site"},
		"from an allowed address":    {func(b *bench, _ *Shown) { b.key.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, ""},
		"from an allowed mapped one": {func(b *bench, s *Shown) {
			b.key.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			s.Address = netip.MustParseAddr("::ffff:192.0.2.9")
		}, ""},
		"from another address": {func(b *bench, _ *Shown) { b.key.Allow = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} }, "key_wrong_address"},
		"with an allow list, no address": {func(b *bench, s *Shown) {
			b.key.Allow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
			s.Address = netip.Addr{}
		}, "key_wrong_address"},
		"naming its own tenant":        {func(_ *bench, s *Shown) { s.Tenant = "acme" }, ""},
		"naming another tenant":        {func(_ *bench, s *Shown) { s.Tenant = "globex" }, "tenant_foreign"},
		"naming another, wrong secret": {func(b *bench, s *Shown) { s.Tenant = "globex"; s.Bearer = Mint(record, random).Token.Reveal() }, "credential_unknown"},
		"the second secret": {func(b *bench, s *Shown) {
			m := Mint(record, random)
			b.key.Secrets[1] = b.key.Secrets[0]
			b.key.Secrets[1].Digest = m.Digest
			s.Bearer = m.Token.Reveal()
		}, ""},
		"the second secret's own date": {func(b *bench, s *Shown) {
			m := Mint(record, random)
			b.key.Secrets[1] = Secret{SHA256, m.Digest, start, false}
			s.Bearer = m.Token.Reveal()
		}, "key_expired"},
		"an algorithm of tomorrow": {func(b *bench, _ *Shown) { b.key.Secrets[0].Algorithm = 2 }, "credential_unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			s := b.shown()
			c.change(b, &s)
			id, err := b.Authenticate(s)
			if c.code == "" {
				if err != nil || id != b.key.Identity {
					t.Errorf("got %v %v, want the identity", id, err)
				}
				return
			}
			if id != nil && c.code != "" || code(err) != c.code {
				t.Errorf("got %v %v, want %s", id, err, c.code)
			}
			if len(s.Bearer) > len(Prefix) && err != nil && strings.Contains(err.Error(), s.Bearer) {
				t.Error("the refusal repeats the credential")
			}
			if !slices.ContainsFunc(Reasons(), func(r edge.Reason) bool { return r.Code == code(err) }) {
				t.Errorf("%s is not listed", code(err))
			}
		})
	}
}

func TestAnEmptySecretSlotMatchesNothing(t *testing.T) {
	t.Parallel()
	var s Secret
	if s.match(&Digest{}) != 0 {
		t.Error("the zero digest matches a slot without a secret")
	}
}

func TestWrongCredentialsUseUpTheAddressAndNobodyElse(t *testing.T) {
	t.Parallel()
	b := newBench()
	guess := b.shown()
	for i := range 10 {
		guess.Bearer = Mint(record, random).Token.Reveal()
		if _, err := b.Authenticate(guess); code(err) != "credential_unknown" {
			t.Fatalf("guess %d: got %v", i, err)
		}
	}
	for range 10_000 {
		_, err := b.Authenticate(guess)
		var e *edge.Error
		if !errors.As(err, &e) || e.Kind != edge.Limited || e.RetryAfter != 6 {
			t.Fatalf("got %+v, want to be told to wait 6 s", err)
		}
	}
	if _, err := b.Authenticate(b.shown()); code(err) != "credential_attempts" {
		t.Errorf("got %v: the address is held before any secret is looked at", err)
	}
	elsewhere := b.shown()
	elsewhere.Address = netip.MustParseAddr("192.0.2.8")
	if _, err := b.Authenticate(elsewhere); err != nil {
		t.Errorf("another address: %v", err)
	}
	b.now = start.Add(6 * time.Second)
	if _, err := b.Authenticate(b.shown()); err != nil {
		t.Errorf("after the wait: %v", err)
	}
}

func TestAKeyThatProvedRightDoesNotUseUpItsAddress(t *testing.T) {
	t.Parallel()
	b := newBench()
	b.now = start.AddDate(2, 0, 0)
	for range 100 {
		if _, err := b.Authenticate(b.shown()); code(err) != "key_expired" {
			t.Fatalf("got %v: a forgotten script must not lock out its neighbours", err)
		}
	}
}

func TestABudgetRefillsWhileTheClockIsBehindTheState(t *testing.T) {
	t.Parallel()
	b := newBench()
	stuck := start.AddDate(0, 1, 0) // the state's high-water time; the clock itself is a month behind
	b.Authenticator = New(func() time.Time { return b.now }, func() time.Time { return stuck }, b.limiter, Keys(b.records, "", nil))
	guess := b.shown()
	guess.Bearer = Mint(record, random).Token.Reveal()
	for range 11 {
		_, _ = b.Authenticate(guess)
	}
	if _, err := b.Authenticate(b.shown()); code(err) != "credential_attempts" {
		t.Fatalf("got %v", err)
	}
	b.now = start.Add(6 * time.Second)
	if _, err := b.Authenticate(b.shown()); err != nil {
		t.Errorf("after the wait: %v", err)
	}
	stuck = b.key.Secrets[0].Expires
	if _, err := b.Authenticate(b.shown()); code(err) != "key_expired" {
		t.Errorf("got %v: the high-water time decides, not the clock", err)
	}
}

func TestLastUseIsReportedEveryFiveMinutesAtMost(t *testing.T) {
	t.Parallel()
	b := newBench()
	for range 600 { // ten minutes
		if _, err := b.Authenticate(b.shown()); err != nil {
			t.Fatal(err)
		}
		b.now = b.now.Add(time.Second)
	}
	if len(b.used) != 2 || b.used[0] != "key_1" {
		t.Errorf("got %d reports, want 2", len(b.used))
	}
	b.key.Refused = &ErrRevoked
	b.now = b.now.Add(time.Hour)
	_, _ = b.Authenticate(b.shown())
	if len(b.used) != 2 {
		t.Error("a refused key counts as used")
	}
}

func TestManyRequestsAtOnceReportOneUse(t *testing.T) {
	t.Parallel()
	b := newBench()
	var reports atomic.Int64
	b.Authenticator = New(func() time.Time { return start }, func() time.Time { return start }, b.limiter, Keys(b.records, "", func(edge.ID, netip.Addr, time.Time) { reports.Add(1) }))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if _, err := b.Authenticate(b.shown()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := reports.Load(); n != 1 {
		t.Errorf("got %d reports, want 1", n)
	}
}

func TestVerificationDoesNotAllocate(t *testing.T) {
	b := newBench()
	s := b.shown()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := b.Authenticate(s); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

// TestAnUnknownIDAndAWrongSecretTakeTheSameTime compares medians of many short interleaved runs. Noise can only blur a difference, so
// one calm round of several is enough; a real difference (a missing hash is half of the time) shows in all.
func TestAnUnknownIDAndAWrongSecretTakeTheSameTime(t *testing.T) {
	if testing.Short() {
		t.Skip("timing")
	}
	b := newBench()
	for range 10_000 { // a map of a real size
		b.records[Mint(stranger(), random).ID] = b.key
	}
	k := keys{records: b.records, nobody: Key{Secrets: [2]Secret{{Algorithm: SHA256}, {Algorithm: SHA256}}}}
	const tokens = 256
	unknown, wrong, addr := make([]string, tokens), make([]string, tokens), netip.MustParseAddr("192.0.2.7")
	for i := range tokens {
		unknown[i], wrong[i] = Mint(stranger(), random).Token.Reveal(), Mint(record, random).Token.Reveal()
	}
	run := func(tokens []string) float64 {
		begin := time.Now()
		for _, token := range tokens {
			if _, proved, err := k.verify(token, Shown{Address: addr}, start); proved || err == nil {
				t.Fatal("a wrong key proved right")
			}
		}
		return float64(time.Since(begin))
	}
	median := func(list []float64) float64 { slices.Sort(list); return list[len(list)/2] }
	var ratio float64
	for range 8 {
		var u, w []float64
		for range 101 {
			u, w = append(u, run(unknown)), append(w, run(wrong))
		}
		if ratio = median(u) / median(w); ratio > 0.93 && ratio < 1.07 {
			return
		}
	}
	t.Errorf("an unknown id takes %.2f times as long as a wrong secret", ratio)
}

func FuzzAuthenticate(f *testing.F) {
	b := newBench()
	f.Add(b.minted.Token.Reveal(), "")
	f.Add(Mint(stranger(), random).Token.Reveal(), "")
	f.Add("", Prefix)
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.AA", "x")
	f.Fuzz(func(t *testing.T, bearer, apiKey string) {
		a := New(func() time.Time { return start }, func() time.Time { return start }, limit.New(limit.Config{}, start), Keys(b.records, "", nil))
		id, err := a.Authenticate(Shown{Bearer: bearer, APIKey: apiKey})
		good := bearer == b.minted.Token.Reveal() || bearer == "" && apiKey == b.minted.Token.Reveal()
		if (err == nil) != good || (id != nil) != good {
			t.Errorf("got %v %v", id, err)
		}
	})
}

func BenchmarkKey(b *testing.B) {
	w := newBench()
	s := w.shown()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Authenticate(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWellFormed(b *testing.B) {
	token := Mint(stranger(), random).Token.Reveal()
	for b.Loop() {
		wellFormed(token)
	}
}

func BenchmarkWrongSecret(b *testing.B) {
	w := newBench()
	a := New(func() time.Time { return start }, func() time.Time { return start }, limit.New(limit.Config{}, start), Keys(w.records, "", nil))
	s := w.shown()
	s.Bearer = Mint(record, random).Token.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = a.Authenticate(s)
	}
}

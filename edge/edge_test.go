package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDerivedIDsAreAPureFunctionOfTheOperation(t *testing.T) {
	t.Parallel()
	op := "acme/cli_1/" + NewUUIDv7(1_700_000_000_123, [10]byte{1, 2, 3})
	a, b := DeriveID("cus", op, 0), DeriveID("cus", op, 0)
	if a != b || !a.Valid() || a.Prefix() != "cus" {
		t.Errorf("got %s and %s, want the same valid id", a, b)
	}
	if c := DeriveID("cus", op, 1); c == a {
		t.Error("the second id of an operation equals the first")
	}
	if got := NewUUIDv7(1_700_000_000_123, [10]byte{}); string(a)[4:17] != got[:13] || a[18] != '7' {
		t.Errorf("got %s, want the operation's time %s", a, got[:13])
	}
	if d := DeriveID("cus", "acme/cli_1/my own key", 0); !d.Valid() || d[18] != '8' {
		t.Errorf("got %s, want version 8 for a key without a time", d)
	}
	if got := a.With("ent"); got.Prefix() != "ent" || string(got)[4:] != string(a)[4:] {
		t.Errorf("got %s", got)
	}
}

func TestIDsThatAreNotOnes(t *testing.T) {
	t.Parallel()
	good := string(DeriveID("cus", "x", 0))
	for _, bad := range []string{"", "cus", "cus_", "_" + good[4:], good[:39], good + "0", strings.ToUpper(good), "c_" + good[4:], "toolongprefix_" + good[4:], strings.Replace(good, "-", "x", 1), "cu-" + good[3:]} {
		if ID(bad).Valid() {
			t.Errorf("%q is valid", bad)
		}
	}
	if ID("no").Prefix() != "" {
		t.Error("an id without underscore has a prefix")
	}
}

func TestSecretsNeverLeave(t *testing.T) {
	t.Parallel()
	s := Secret("hunter2")
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("login", "secret", s, "in", struct{ S Secret }{s})
	if out := fmt.Sprintf("%s %v %#v %+v %q", s, s, s, struct{ S Secret }{s}, s) + b.String(); strings.Contains(out, "hunter2") {
		t.Errorf("plaintext printed: %s", out)
	}
	if raw, err := json.Marshal(struct{ S Secret }{s}); err == nil || strings.Contains(string(raw), "hunter2") {
		t.Errorf("got %s, %v; want a refusal", raw, err)
	}
	if raw, err := json.Marshal(struct {
		S Secret `json:"s"`
	}{}); err != nil || string(raw) != `{"s":""}` {
		t.Errorf("empty secret: %s, %v", raw, err)
	}
}

func TestErrorsMatchByCodeAndHideTheRest(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("load: %w", ErrVersion.Error(Conflict, Field("/x", "moved", "read")))
	if !errors.Is(err, ErrVersion.Error(Conflict)) || errors.Is(err, ErrUnique.Error(Conflict)) {
		t.Error("errors do not match by code")
	}
	if e, ok := AsError(errors.New("disk on fire at /dev/sda")); ok || e.Code != "internal" || strings.Contains(e.Error(), "sda") {
		t.Errorf("got %v, want internal without the cause", e)
	}
	if got := ErrVersion.Error(Conflict, Field("/x", "moved", "read")).Error(); !strings.Contains(got, "/x moved") || !strings.Contains(got, "ETag") {
		t.Errorf("got %q, want field and fix", got)
	}
	codes := map[Kind]int{Invalid: 2, Unauthenticated: 3, Denied: 3, NotFound: 4, Unavailable: 5, Conflict: 6, Limited: 1, Internal: 1}
	for k, want := range codes {
		if got := k.ExitCode(); got != want {
			t.Errorf("exit code of %s: got %d, want %d", k, got, want)
		}
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	a := Actor{Scopes: []string{"crm:read", "all:write"}}
	for scope, want := range map[string]bool{
		"crm:read": true, "crm:write": true, "billing:write": true, "billing:read": false, "public": true, "all:read": false, "crm:admin": false, "": false,
	} {
		if got := a.Has(scope); got != want {
			t.Errorf("has %q: got %v, want %v", scope, got, want)
		}
	}
}

func TestKeysOfTablesReadBack(t *testing.T) {
	t.Parallel()
	id := DeriveID("box", "x", 0)
	at := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	gotAt, tenant, table, gotID, ok := ParseDueKey(dueKey(at, "acme", "test.box", id))
	if !ok || !gotAt.Equal(at) || tenant != "acme" || table != "test.box" || gotID != id {
		t.Errorf("got %v %s %s %s %v", gotAt, tenant, table, gotID, ok)
	}
	if dueKey(at, "acme", "test.box", id) > DueUpTo(at) || dueKey(at.Add(1), "acme", "test.box", id) < DueUpTo(at) {
		t.Error("what is due at t is not exactly what sorts up to DueUpTo(t)")
	}
	for _, bad := range []string{"", "#due/", "#due/x/acme/t/i", "#due/20260304T050607.000000008Z", "acme", "acme/test.box", "*/test.box/x", "acme/test.box#color/red"} {
		if _, _, _, _, ok := ParseDueKey(bad); ok {
			t.Errorf("%q parses as a due key", bad)
		}
		if _, _, _, ok := ParseRecordKey(bad); ok {
			t.Errorf("%q parses as a record key", bad)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("acme\x00test.box\x00\x00", sealCursor("acme\x00test.box\x00\x00", DeriveID("box", "x", 0)))
	f.Add("l", "AAAA")
	f.Add("l", "")
	f.Fuzz(func(t *testing.T, list, cursor string) {
		last, err := openCursor(list, cursor)
		if err == nil && cursor != "" && sealCursor(list, last) != cursor {
			t.Errorf("cursor %q opens for list %q and is not its own seal", cursor, list)
		}
	})
}

func TestACursorOpensForItsListOnly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list, other, last := rapid.String().Draw(t, "list"), rapid.String().Draw(t, "other"), ID(rapid.StringN(1, 60, -1).Draw(t, "last"))
		cursor := sealCursor(list, last)
		if got, err := openCursor(list, cursor); err != nil || got != last {
			t.Fatalf("got %q, %v", got, err)
		}
		if list != other {
			if _, err := openCursor(other, cursor); err == nil {
				t.Fatal("opens for another list")
			}
		}
	})
}

type color string

func (color) Values() []string { return []string{"red", "blue"} }

type inner struct {
	Street string `json:"street" check:"max=80"`
}

type sample struct {
	Common
	ListInput
	Name    string         `json:"name" check:"min=1 max=10" pattern:"^[a-z]+$" doc:"A name." example:"bob"`
	Color   color          `json:"color,omitempty"`
	Count   int32          `json:"count,omitempty" check:"min=1"`
	Flag    *bool          `json:"flag"`
	At      time.Time      `json:"at,omitzero"`
	Ref     ID             `json:"ref" check:"prefix=cus"`
	Secret  Secret         `json:"secret" check:"max=64"`
	Inner   inner          `json:"inner"`
	Mails   []string       `json:"mails" check:"max=3 item.format=email item.max=100"`
	Numbers map[string]int `json:"numbers" check:"max=3 key.max=5"`
	hidden  int            //nolint:unused // unexported members are not part of the schema
	Skipped int            `json:"-"`
	Sealed  string         `json:"sealed,omitempty" check:"internal"`
}

func TestASchemaIsReadFromTheType(t *testing.T) {
	t.Parallel()
	s, err := SchemaOf[sample]()
	if err != nil {
		t.Fatal(err)
	}
	if errs := s.Unbounded(); len(errs) > 0 {
		t.Errorf("unbounded: %v", errs)
	}
	names := []string{}
	for _, f := range s.Fields {
		names = append(names, f.Name)
	}
	if want := strings.Fields("external_id tags metadata limit cursor name color count flag at ref secret inner mails numbers"); !slices.Equal(names, want) {
		t.Errorf("got members %v, want %v", names, want)
	}
	for name, required := range map[string]bool{"name": true, "color": false, "flag": false, "at": false, "inner": true, "limit": false} {
		if got := s.Field(name).Required; got != required {
			t.Errorf("%s required: got %v", name, got)
		}
	}
	name := s.Field("name").Schema
	if *name.Min != 1 || *name.Max != 10 || name.Pattern == nil || name.Doc != "A name." || name.Example != "bob" {
		t.Errorf("got %+v", name)
	}
	if got := s.Field("color").Schema.Enum; !slices.Equal(got, []string{"red", "blue"}) {
		t.Errorf("got enum %v", got)
	}
	if m := s.Field("mails").Schema; m.Item.Format != "email" || *m.Item.Max != 100 || *m.Max != 3 {
		t.Errorf("got %+v", m)
	}
	if c := s.Field("count").Schema; *c.Min != 1 || *c.Max != 1<<31-1 {
		t.Errorf("got %+v", c)
	}
	if !s.Field("secret").Schema.Secret || s.Field("nothing") != nil {
		t.Error("secret or unknown member")
	}
	if p, err := SchemaOf[Page[sample]](); err != nil || p.Name != "samplePage" {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestSchemasThatRefuse(t *testing.T) {
	t.Parallel()
	type loop struct {
		Next *loop `json:"next"`
	}
	type float struct {
		F float64 `json:"f"`
	}
	type unnamed struct{ F int }
	type twice struct {
		Common
		Tags []string `json:"tags" check:"max=1"`
	}
	type badCheck struct {
		F string `json:"f" check:"maximum=3"`
	}
	type badFormat struct {
		F string `json:"f" check:"format=nope"`
	}
	type badPattern struct {
		F string `json:"f" pattern:"("`
	}
	type badNumber struct {
		F string `json:"f" check:"max=x"`
	}
	type badMap struct {
		F map[int]string `json:"f"`
	}
	for _, v := range []any{loop{}, float{}, unnamed{}, twice{}, badCheck{}, badFormat{}, badPattern{}, badNumber{}, badMap{}} {
		if s, err := SchemaFor(v); err == nil {
			t.Errorf("%T has a schema: %+v", v, s)
		}
	}
	type loose struct {
		S string            `json:"s"`
		L []string          `json:"l"`
		M map[string]string `json:"m"`
		A json.RawMessage   `json:"a"`
	}
	s, err := SchemaOf[loose]()
	if err != nil {
		t.Fatal(err)
	}
	if got := len(s.Unbounded()); got != 7 {
		t.Errorf("got %d findings, want 7: %v", got, s.Unbounded())
	}
}

func TestSecretsAreFoundWhereverTheyStand(t *testing.T) {
	t.Parallel()
	type deep struct {
		A Secret  `json:"a"`
		B *Secret `json:"b"`
		C []struct{ S Secret }
		D struct{ E *struct{ S Secret } }
		F string
	}
	b := Secret("2")
	in := &deep{A: "1", B: &b, C: []struct{ S Secret }{{"3"}}, D: struct{ E *struct{ S Secret } }{&struct{ S Secret }{"4"}}, F: "no"}
	var got strings.Builder
	for _, s := range Secrets(in) {
		got.WriteString(s.Reveal())
		*s = ""
	}
	if got.String() != "1234" || in.A != "" || b != "" || in.C[0].S != "" {
		t.Errorf("got %q, left %#v", got.String(), in)
	}
}

func TestCheckNamesEverythingThatIsWrongAtOnce(t *testing.T) {
	t.Parallel()
	type in struct {
		ID   ID     `json:"id"`
		Name string `json:"name"`
	}
	cmd := Command[in, None]{Name: "t.x.make", Scope: "", Class: "odd", NeedsMatch: true}.Op()
	ask := Query[in, None]{Name: "other.x.get", Scope: "t:read", Summary: "Get.", Class: Read, Handle: func(View, in) (None, error) { return None{}, nil }}.Op()
	m := Module{
		Name: "t", Ops: []*Op{cmd, ask, cmd},
		Routes: []Route{
			{Method: "GET", Path: "/api/v1/t/x", Op: cmd}, {Method: "POST", Path: "/elsewhere", Op: nil},
			{Method: "GET", Path: "/api/v1/t/{thing}", Op: ask}, {Method: "GET", Path: "/api/v1/t/{other}", Op: ask}, {Method: "SEND", Path: "/api/v1/t/y", Op: ask},
		},
		Tables: []AnyTable{
			&Table[Meta]{Name: "nodot", Prefix: "toolongprefix"},
			&Table[Meta]{Name: "t.x", Prefix: "tx", Meta: func(m *Meta) *Meta { return m }, Due: &Due[Meta]{Run: "t.x.nothing"}, Indexes: []Index[Meta]{
				{Name: "a"}, {Name: "b", Global: true, Keys: func(*Meta) []string { return nil }}, {Name: "b", Keys: func(*Meta) []string { return nil }},
			}},
			&Derived[Meta]{Name: "t.d", Prefix: "td"},
		},
		Reasons: []Reason{{Code: "x"}, {Code: "x", Says: "s", Fix: "f"}},
		Workers: []Worker{{}},
	}
	err := Check([]Module{m, {Name: "t"}})
	if err == nil {
		t.Fatal("nothing was found")
	}
	for _, want := range []string{
		"module t is declared twice", "operation t.x.make is declared twice", "scope \"\" is missing", "class \"odd\" is unknown", "the summary is missing",
		"Handle is missing", "NeedsMatch without Record", "the maximum length is missing", "\"other.x.get\" must be named t.", "commands are never GET",
		"its operation is not listed", "the path must be", "has no member \"thing\"", "route GET /api/v1/t/{} is declared twice", "the method is unknown",
		"must be domain.noun", "id prefix", "Meta is missing", "due command t.x.nothing", "index \"a\"", "global but not unique", "index \"b\"",
		"From or Of is missing", "reason x is declared twice", "must be said", "lacks its name or Run",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not found: %s", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
	if err := Check([]Module{{Name: "empty"}}); err != nil {
		t.Error(err)
	}
}

func TestOperationNamesFallApart(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][3]string{
		"crm.customer.create": {"crm", "customer", "create"}, "identity.whoami": {"identity", "", "whoami"}, "sync.status.get": {"sync", "status", "get"},
	} {
		op := &Op{Name: name}
		if got := [3]string{op.Domain(), op.Noun(), op.Verb()}; got != want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestInputsOfTheWrongTypeNameTheField(t *testing.T) {
	t.Parallel()
	op := Query[sample, None]{Name: "a.b.c", Handle: func(View, sample) (None, error) { return None{}, nil }}.Op()
	_, err := op.Decode([]byte(`{"inner":{"street":7}}`))
	var e *Error
	if !errors.As(err, &e) || e.Kind != Invalid || e.Fields[0].Pointer != "/inner/street" {
		t.Errorf("got %v", err)
	}
	if _, err := op.Decode([]byte(`{`)); err == nil {
		t.Error("half an object is decoded")
	}
	if in, err := op.Decode(nil); err != nil || in == nil {
		t.Errorf("nothing: %v, %v", in, err)
	}
}

// quoted is a string that reads itself.
type quoted string

func (q *quoted) UnmarshalText(b []byte) error { *q = quoted("<" + string(b) + ">"); return nil }

// The short way for inputs of one string must not be told from encoding/json by anyone.
func TestALoneStringIsReadAsJSONReadsIt(t *testing.T) {
	t.Parallel()
	compareDecoders[struct {
		ID ID `json:"id"`
	}](t, true)
	compareDecoders[struct {
		ID quoted `json:"id"`
	}](t, false)
	compareDecoders[struct {
		ID *string `json:"id"`
	}](t, false)
	compareDecoders[struct {
		ID string `json:"id,string"`
	}](t, false)
	compareDecoders[struct {
		Sum string `json:"-"`
	}](t, false)
	compareDecoders[struct {
		ID string `json:"id"`
		At string `json:"at"`
	}](t, false)
}

func compareDecoders[In any](t *testing.T, short bool) {
	t.Helper()
	if got := loneText(reflect.TypeFor[In]()) != nil; got != short {
		t.Errorf("%T has a short way: %v, want %v", *new(In), got, short)
	}
	decode := decoder[In]()
	for _, raw := range []string{
		`{"id":"cus_1"}`, `{"id":""}`, `{"id":"a\"b"}`, `{"id":"a\\"}`, `{"id":"\u0041"}`, `{"id":"é"}`, "{\"id\":\"\x7f\"}", "{\"id\":\"\xff\"}",
		"{\"id\":\"a\nb\"}", `{"id":7}`, `{"id":null}`, `{"ID":"x"}`, `{"id":"x","id":"y"}`, `{"id":"x"} `, ` {"id":"x"}`, `{"id":"x"}}`, `{"id":"`, `{"id":"}`,
		`{"id":"x","at":"y"}`, `{"other":"x"}`, `{}`, `{`, `"x"`, `{"id":"\"x\""}`, `{"sum":"x"}`, `{"-":"x"}`,
	} {
		want := new(In)
		wantErr := json.Unmarshal([]byte(raw), want)
		got, err := decode([]byte(raw))
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%T from %s: got %v, want %v", *want, raw, err, wantErr)
		} else if err == nil && !reflect.DeepEqual(got, any(want)) {
			t.Errorf("%T from %s: got %+v, want %+v", *want, raw, got, want)
		}
	}
}

func TestTheStoredVersionIsTheRecordsOwn(t *testing.T) {
	t.Parallel()
	type nested struct {
		Inner struct {
			A       int    `json:"a"`
			Version uint64 `json:"version"`
		} `json:"inner"`
		Meta
	}
	rapid.Check(t, func(t *rapid.T) {
		m := Meta{ID: "box_1", ExternalID: rapid.String().Draw(t, "external"), TenantID: rapid.String().Draw(t, "tenant"), Version: rapid.Uint64().Draw(t, "version")}
		n := nested{Meta: m}
		n.Inner.Version = rapid.Uint64().Draw(t, "inner")
		for _, rec := range []any{m, n} {
			raw, err := json.Marshal(rec)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := storedVersion(raw); err != nil || got != m.Version {
				t.Fatalf("got %d, %v; want %d of %s", got, err, m.Version, raw)
			}
		}
	})
	if got, err := storedVersion([]byte(`{"id":"x","external_id":",\"version\":7","version":3}`)); err != nil || got != 3 {
		t.Errorf("got %d, %v", got, err)
	}
}

type sharedPart struct {
	Name string `json:"name" check:"max=5"`
}

type sharedWhole struct {
	First  sharedPart   `json:"first" doc:"One."`
	Second *sharedPart  `json:"second" doc:"Another."`
	Many   []sharedPart `json:"many" check:"max=3"`
}

func TestTypesShareTheirMembersAndNotWhatIsSaidOfThem(t *testing.T) {
	whole, err := SchemaOf[sharedWhole]()
	if err != nil {
		t.Fatal(err)
	}
	part, err := SchemaOf[sharedPart]()
	if err != nil {
		t.Fatal(err)
	}
	first, second, item := whole.Field("first").Schema, whole.Field("second").Schema, whole.Field("many").Schema.Item
	if first.Doc != "One." || second.Doc != "Another." || item.Doc != "" || part.Doc != "" {
		t.Errorf("docs are %q, %q, %q and %q", first.Doc, second.Doc, item.Doc, part.Doc)
	}
	if first.Nullable || !second.Nullable || item.Nullable || part.Nullable {
		t.Error("a pointer's schema is taken for its element's")
	}
	for _, s := range []*Schema{first, second, item} {
		if s.Field("name").Schema != part.Field("name").Schema {
			t.Error("the members are made again")
		}
	}
}

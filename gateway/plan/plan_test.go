package plan_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

type colour string

func (colour) Values() []string { return []string{"red", "green", "blue"} }

type address struct {
	Street string `json:"street" check:"max=80"`
	City   string `json:"city" check:"min=1 max=60"`
	Zip    string `json:"zip,omitempty" pattern:"^[0-9]{5}(-[0-9]{4})?$" check:"max=10"`
}

type customer struct {
	Name     string            `json:"name" check:"min=1 max=120"`
	Email    string            `json:"email,omitempty" check:"max=254 format=email"`
	Login    string            `json:"login" pattern:"^[a-z][a-z0-9_.-]{2,31}$" check:"max=32"`
	Age      int64             `json:"age,omitempty" check:"min=0 max=150"`
	Active   bool              `json:"active"`
	Colour   colour            `json:"colour,omitempty"`
	Home     address           `json:"home"`
	Others   []address         `json:"others,omitempty" check:"max=4"`
	Tags     []string          `json:"tags,omitempty" check:"min=1 max=5 item.max=10"`
	Metadata map[string]string `json:"metadata,omitempty" check:"max=50 key.max=16 item.max=64"`
	Counts   map[string]int64  `json:"counts,omitempty" check:"max=200 key.max=16 item.min=0"`
	Maker    *edge.ID          `json:"maker,omitempty" check:"prefix=mkr"`
	Since    *time.Time        `json:"since,omitempty"`
	Note     *string           `json:"note,omitempty" check:"max=20"`
}

func compile[T any](t testing.TB, without ...string) *plan.Plan {
	t.Helper()
	s, err := edge.SchemaOf[T]()
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Compile(s, without...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const valid = `{"name":"Ada","login":"ada_l","active":true,"home":{"street":"","city":"Harare"}`

func TestVerdicts(t *testing.T) {
	t.Parallel()
	type want struct {
		pointer, reason string
	}
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"u%d":1`, i)
		}
		return b.String()
	}
	tests := []struct {
		name       string
		body       string
		unreadable bool
		want       []want
	}{
		{name: "a valid body passes", body: valid + `}`},
		{name: "white space is allowed around everything", body: " {\n\t\"name\" : \"Ada\" , \"login\":\"ada\" , \"active\" : false,\r\n\"home\":{ \"street\":\"x\" , \"city\":\"y\" } } "},
		{name: "escapes are decoded before judging", body: strings.Replace(valid, "ada_l", `\u0061da\u005fl`, 1) + `}`},
		{name: "an escaped name is the same name", body: strings.Replace(valid, `"name"`, `"n\u0061me"`, 1) + `}`},
		{name: "length counts characters, not octets", body: valid + `,"note":"\ud83d\ude00` + strings.Repeat("é", 19) + `"}`},
		{name: "null stands for an absent pointer", body: valid + `,"maker":null,"since":null,"note":null}`},
		{name: "every violation is found", body: `{"name":"","login":"9","active":"yes","home":{"street":1,"zip":"12"},"age":151,"colour":"pink","tags":[],"extra":{"a":[1,2]}}`, want: []want{
			{"/name", "is too short"}, {"/login", "does not have the required form"}, {"/active", "has the wrong type"},
			{"/home/street", "has the wrong type"}, {"/home/zip", "does not have the required form"}, {"/home/city", "is required"},
			{"/age", "is too large"}, {"/colour", "is not one of the allowed values"}, {"/tags", "has too few items"}, {"/extra", "is not a known member"},
		}},
		{name: "missing members are named", body: `{}`, want: []want{{"/name", "is required"}, {"/login", "is required"}, {"/active", "is required"}, {"/home", "is required"}}},
		{name: "case decides", body: strings.Replace(valid, `"active"`, `"Active"`, 1) + `}`, want: []want{{"/Active", "is not a known member"}, {"/active", "is required"}}},
		{name: "a member twice is unreadable", body: valid + `,"name":"Bob"}`, unreadable: true, want: []want{{"/name", "appears twice"}}},
		{name: "a member twice in escapes is unreadable", body: valid + `,"n\u0061me":"Bob"}`, unreadable: true, want: []want{{"/name", "appears twice"}}},
		{name: "a free name twice is unreadable", body: valid + `,"metadata":{"a":"1","b":"2","\u0061":"3"}}`, unreadable: true, want: []want{{"/metadata/a", "appears twice"}}},
		{name: "null is refused where a value is needed", body: strings.Replace(valid, `"Ada"`, `null`, 1) + `}`, want: []want{{"/name", "has the wrong type"}}},
		{name: "a fraction is not an integer", body: valid + `,"age":1.0}`, want: []want{{"/age", "is not an integer"}}},
		{name: "an exponent is not an integer", body: valid + `,"age":1e2}`, want: []want{{"/age", "is not an integer"}}},
		{name: "an endless number is too large", body: valid + `,"age":` + strings.Repeat("9", 2000) + `}`, want: []want{{"/age", "is too large"}}},
		{name: "a number below zero is too small", body: valid + `,"age":-1}`, want: []want{{"/age", "is too small"}}},
		{name: "minus zero is zero", body: valid + `,"age":-0}`},
		{name: "a leading zero is not JSON", body: valid + `,"age":01}`, unreadable: true, want: []want{{"/age", "is not JSON"}}},
		{name: "too many items", body: valid + `,"tags":["a","b","c","d","e","f","g"]}`, want: []want{{"/tags", "has too many items"}}},
		{name: "too many free members", body: valid + `,"metadata":{` + strings.TrimPrefix(strings.ReplaceAll(many(60), ":1", `:"x"`), ",") + `}}`, want: []want{{"/metadata", "has too many items"}}},
		{name: "an item of a list is pointed at", body: valid + `,"others":[{"street":"","city":"a"},{"street":"","city":""}]}`, want: []want{{"/others/1/city", "is too short"}}},
		{name: "a free name with a slash is escaped in the pointer", body: valid + `,"metadata":{"a/b~c":1}}`, want: []want{{"/metadata/a~1b~0c", "has the wrong type"}}},
		{name: "a long free name is cut", body: valid + `,"` + strings.Repeat("x", 500) + `":1}`, want: []want{{"/" + strings.Repeat("x", 64) + "…", "is not a known member"}}},
		{name: "control characters in a name are not echoed", body: valid + `,"\u001b[31mred":1}`, want: []want{{"/?[31mred", "is not a known member"}}},
		{name: "an id of another prefix", body: valid + `,"maker":"cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"}`, want: []want{{"/maker", "is the id of another kind of record"}}},
		{name: "an id of the prefix", body: valid + `,"maker":"mkr_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"}`},
		{name: "a time with offset", body: valid + `,"since":"2026-02-28T23:59:59.123+02:00"}`},
		{name: "a day that does not exist", body: valid + `,"since":"2026-02-29T00:00:00Z"}`, want: []want{{"/since", "does not have the form date-time"}}},
		{name: "an array where an object belongs", body: `[]`, want: []want{{"", "has the wrong type"}}},
		{name: "a string where an object belongs", body: `"x"`, want: []want{{"", "has the wrong type"}}},
		{name: "nothing", body: ``, unreadable: true, want: []want{{"", "ends too early"}}},
		{name: "a cut body", body: valid, unreadable: true, want: []want{{"/home", "ends too early"}}},
		{name: "more data", body: valid + `} {}`, unreadable: true, want: []want{{"", "is followed by more data"}}},
		{name: "a trailing comma", body: valid + `,}`, unreadable: true, want: []want{{"/home", "is not JSON"}}},
		{name: "a comment", body: `{/* */}`, unreadable: true, want: []want{{"", "is not JSON"}}},
		{name: "a byte order mark", body: "\ufeff{}", unreadable: true, want: []want{{"", "is not JSON"}}},
		{name: "broken UTF-8", body: strings.Replace(valid, "Ada", "A\xffa", 1) + `}`, unreadable: true, want: []want{{"/name", "is not valid UTF-8"}}},
		{name: "an overlong encoding", body: strings.Replace(valid, "Ada", "A\xc0\xafa", 1) + `}`, unreadable: true, want: []want{{"/name", "is not valid UTF-8"}}},
		{name: "a lone surrogate", body: strings.Replace(valid, "Ada", `\ud800`, 1) + `}`, unreadable: true, want: []want{{"/name", "holds an escape that is not JSON"}}},
		{name: "a lone low surrogate", body: strings.Replace(valid, "Ada", `\udc00`, 1) + `}`, unreadable: true, want: []want{{"/name", "holds an escape that is not JSON"}}},
		{name: "a raw control character", body: strings.Replace(valid, "Ada", "A\na", 1) + `}`, unreadable: true, want: []want{{"/name", "holds a control character"}}},
		{name: "a single quote", body: `{'name':1}`, unreadable: true, want: []want{{"", "is not JSON"}}},
		{name: "NaN", body: valid + `,"age":NaN}`, unreadable: true, want: []want{{"/age", "is not JSON"}}},
	}
	p := compile[customer](t)
	var c plan.Checker
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c.Reset()
			ok := p.Check(&c, []byte(tt.body))
			var got []want
			for _, e := range c.Errors {
				if e.In != "body" || e.Fix == "" {
					t.Errorf("got %+v, want a place in the body and a fix", e)
				}
				got = append(got, want{e.Pointer, e.Reason})
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(want{})); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
			if ok != (len(tt.want) == 0) || c.Unreadable != tt.unreadable {
				t.Errorf("got ok %t unreadable %t, want %t %t", ok, c.Unreadable, len(tt.want) == 0, tt.unreadable)
			}
		})
	}
}

func TestHostileBodiesStayCheap(t *testing.T) {
	t.Parallel()
	p := compile[customer](t)
	keys := func(n int, value string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`"k` + strconv.Itoa(i) + `":` + value)
		}
		return b.String()
	}
	for name, body := range map[string]string{
		"deep arrays":      strings.Repeat("[", 100_000),
		"deep objects":     strings.Repeat(`{"a":`, 100_000),
		"deep in a member": valid + `,"extra":` + strings.Repeat("[", 100_000),
		"unknown names":    `{` + keys(400, "1") + `}`,
		"a long number":    valid + `,"age":` + strings.Repeat("1", 200_000) + `}`,
		"a large map":      valid + `,"counts":{` + keys(15_000, "1") + `}}`,
		"a long string":    valid + `,"note":"` + strings.Repeat("é", 90_000) + `"}`,
		"a long name":      `{"` + strings.Repeat("a", 90_000) + `":1}`,
	} {
		var c plan.Checker
		if p.Check(&c, []byte(body)) {
			t.Errorf("%s: got accepted, want refused", name)
		}
		if len(c.Errors) == 0 || len(c.Errors) > plan.MaxErrors {
			t.Errorf("%s: got %d errors, want 1 to %d", name, len(c.Errors), plan.MaxErrors)
		}
		size := 0
		for _, e := range c.Errors {
			size += len(e.Pointer) + len(e.Reason) + len(e.Limit) + len(e.Fix)
		}
		if size > 16<<10 {
			t.Errorf("%s: got %d octets of errors, want at most 16 KB", name, size)
		}
	}
}

func TestDuplicateNamesInNestedMaps(t *testing.T) {
	t.Parallel()
	type nest struct {
		M map[string]map[string]int64 `json:"m" check:"max=100 key.max=9 item.max=100"`
	}
	s, err := edge.SchemaOf[nest]()
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	inner := func(last string) string {
		var b strings.Builder
		for i := range 30 {
			b.WriteString(`"k` + strconv.Itoa(i) + `":1,`)
		}
		return `{` + b.String() + last + `:1}`
	}
	var outer strings.Builder
	for i := range 30 {
		outer.WriteString(`"k` + strconv.Itoa(i) + `":` + inner(`"z"`) + `,`)
	}
	var c plan.Checker
	if body := `{"m":{` + outer.String() + `"z":` + inner(`"z"`) + `}}`; !p.Check(&c, []byte(body)) {
		t.Errorf("equal names in different objects: got refused %v, want accepted", c.Errors)
	}
	for name, body := range map[string]string{
		"inner": `{"m":{` + outer.String() + `"z":` + inner(`"k29"`) + `}}`,
		"outer": `{"m":{` + outer.String() + `"k3":` + inner(`"z"`) + `}}`,
	} {
		c.Reset()
		if p.Check(&c, []byte(body)) || !c.Unreadable {
			t.Errorf("%s name twice: got %v, want it found", name, c.Errors)
		}
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	p := compile[customer](t)
	for _, tt := range []struct{ name, text, want, reason string }{
		{"age", "42", `42`, ""},
		{"age", "042", `null`, "is not an integer"},
		{"age", "", `null`, "is not an integer"},
		{"age", "-1", `null`, "is too small"},
		{"active", "true", `true`, ""},
		{"active", "1", `null`, "has the wrong type"},
		{"login", "ada", `"ada"`, ""},
		{"name", "a\"b\\c\x01\u2028", `"a\"b\\c\u0001\u2028"`, ""},
		{"name", "\xff", `null`, "is not valid UTF-8"},
		{"login", `A"`, `null`, "does not have the required form"},
		{"colour", "red", `"red"`, ""},
		{"maker", "x", `null`, "does not have the form id"},
	} {
		param, ok := p.Param(tt.name)
		if !ok {
			t.Fatalf("%s: got no parameter", tt.name)
		}
		var c plan.Checker
		got := string(param.Append(&c, nil, "query", []byte(tt.text)))
		reason := ""
		if len(c.Errors) > 0 {
			reason = c.Errors[0].Reason
			if c.Errors[0].In != "query" || c.Errors[0].Pointer != tt.name {
				t.Errorf("%s: got %+v, want it placed in the query under its name", tt.name, c.Errors[0])
			}
		}
		if got != tt.want || reason != tt.reason {
			t.Errorf("%s=%q: got %s %q, want %s %q", tt.name, tt.text, got, reason, tt.want, tt.reason)
		}
	}
	if _, ok := p.Param("home"); ok {
		t.Error("got an object as a parameter, want none")
	}
	tags, _ := p.Param("tags")
	var c plan.Checker
	if got := string(tags.AppendList(&c, nil, "query", [][]byte{[]byte("a"), []byte("b")})); got != `["a","b"]` {
		t.Errorf("got list %s, want [\"a\",\"b\"]", got)
	}
	tags.AppendList(&c, nil, "query", make([][]byte, 6))
	if len(c.Errors) != 1 || c.Errors[0].Reason != "has too many items" || c.Errors[0].Pointer != "tags" {
		t.Errorf("got %+v, want too many items of tags", c.Errors)
	}
}

func TestMembersOfThePathAreUnknownInTheBody(t *testing.T) {
	t.Parallel()
	p := compile[customer](t, "name", "login", "active", "home")
	var c plan.Checker
	if !p.NeedsNothing() || !p.Check(&c, []byte(`{}`)) {
		t.Errorf("got %v, want the rest to need nothing", c.Errors)
	}
	if p.Check(&c, []byte(`{"name":"x"}`)) {
		t.Error("got the name accepted, want it unknown")
	}
}

func TestValidInputAllocatesNothing(t *testing.T) {
	p := compile[customer](t)
	body := []byte(benchBody)
	c := &plan.Checker{}
	if !p.Check(c, body) {
		t.Fatalf("got %v, want accepted", c.Errors)
	}
	if n := testing.AllocsPerRun(100, func() { c.Reset(); p.Check(c, body) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

const benchBody = `{"name":"Ada Lovelace","email":"ada@example.net","login":"ada.lovelace","age":36,"active":true,"colour":"green",` +
	`"home":{"street":"12 Hill Farm Road","city":"Harare","zip":"12345-6789"},"others":[{"street":"1 First","city":"Mutare"},` +
	`{"street":"2 Second","city":"Gweru","zip":"54321"}],"tags":["a","b","late","gold"],"metadata":{"crm":"8812","source":"import","region":"north",` +
	`"note":"met at the fair, wants fibre when it comes"},"counts":{"calls":12,"visits":3,"tickets":1},` +
	`"maker":"mkr_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33","since":"2026-03-31T12:00:00Z","note":"plain"}`

func BenchmarkCheck(b *testing.B) {
	p := compile[customer](b)
	for name, body := range map[string]string{
		"valid":   benchBody,
		"unknown": `{` + strings.TrimSuffix(strings.Repeat(`"a":1,`, 115), ",") + `}`,
		"escapes": valid + `,"note":"` + strings.Repeat(`\u00e9`, 100) + `"}`,
	} {
		b.Run(name, func(b *testing.B) {
			c := &plan.Checker{}
			raw := []byte(body)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				c.Reset()
				p.Check(c, raw)
			}
		})
	}
	b.Run("encoding/json", func(b *testing.B) {
		raw := []byte(benchBody)
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			var v customer
			if err := json.Unmarshal(raw, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package gateway

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

// The plan and the published schema are two readings of one declaration: what one accepts the other must accept. An independent
// implementation of JSON Schema judges random documents by the schema that the OpenAPI document shows.

type dice struct{ *rand.Rand }

func (d dice) pick(list ...string) string { return list[d.IntN(len(list))] }

var oraclePatterns = []string{`^[a-z]{1,5}$`, `^[A-Z][0-9]*x?$`, `^(ab|c)+$`, `^[^a]*$`}

func (d dice) schema(depth int) *edge.Schema {
	kinds := []edge.SchemaType{edge.String, edge.Integer, edge.Boolean, edge.Object, edge.Array, edge.Map}
	if depth > 3 {
		kinds = kinds[:3]
	}
	s := &edge.Schema{Type: kinds[d.IntN(len(kinds))], Nullable: d.IntN(5) == 0}
	low, high := int64(d.IntN(4)), int64(4+d.IntN(6))
	switch s.Type {
	case edge.String:
		s.Max = &high
		switch d.IntN(5) {
		case 0:
			s.Min = &low
		case 1:
			s.Pattern = regexp.MustCompile(oraclePatterns[d.IntN(len(oraclePatterns))])
		case 2:
			s.Enum = []string{"red", "green", "é\"\\"}
		}
	case edge.Integer:
		low -= 2
		s.Min, s.Max = &low, &high
	case edge.Object:
		for i := range d.IntN(6) {
			s.Fields = append(s.Fields, edge.SchemaField{Name: string(rune('a'+i)) + strings.Repeat("x", d.IntN(3)), Required: d.IntN(2) == 0, Schema: d.schema(depth + 1)})
		}
	case edge.Array:
		s.Max, s.Item = &high, d.schema(depth+1)
		if d.IntN(2) == 0 {
			s.Min = &low
		}
	case edge.Map:
		keyMax := int64(3)
		s.Max, s.Key, s.Item = &high, &edge.Schema{Type: edge.String, Max: &keyMax}, d.schema(depth+1)
	case edge.Boolean, edge.Any:
	}
	return s
}

// document writes a value that mostly fits the schema.
func (d dice) document(b []byte, s *edge.Schema, depth int) []byte {
	if d.IntN(25) == 0 || depth > 8 {
		return append(b, d.pick(`null`, `true`, `"x"`, `7`, `-3`, `{}`, `[]`, `[1,"a"]`, `{"q":1}`, `99999999999999999999`)...)
	}
	switch s.Type {
	case edge.String:
		if s.Enum != nil {
			return append(b, d.pick(`"red"`, `"green"`, `"\u00e9\"\\"`, `"Red"`)...)
		}
		return append(b, d.pick(`""`, `"a"`, `"ab"`, `"abab"`, `"A1x"`, `"éàü"`, `"\ud83d\ude00\ud83d\ude00"`, `"abcdefghij"`, `"\u0061\n"`, `"A"`)...)
	case edge.Integer:
		return strconv.AppendInt(b, int64(d.IntN(14))-3, 10)
	case edge.Boolean:
		return append(b, d.pick("true", "false")...)
	case edge.Array:
		b = append(b, '[')
		for i := range d.IntN(12) {
			if i > 0 {
				b = append(b, ',')
			}
			b = d.document(b, s.Item, depth+1)
		}
		return append(b, ']')
	case edge.Map:
		b = append(b, '{')
		for i := range d.IntN(12) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `"`+strconv.Itoa(i)+strings.Repeat("k", d.IntN(3))+`":`...)
			b = d.document(b, s.Item, depth+1)
		}
		return append(b, '}')
	default:
		b = append(b, '{')
		comma := ""
		for _, f := range s.Fields {
			if d.IntN(12) == 0 || !f.Required && d.IntN(2) == 0 {
				continue
			}
			b = append(b, comma+`"`+f.Name+`": `...)
			b = d.document(b, f.Schema, depth+1)
			comma = ","
		}
		if d.IntN(25) == 0 {
			b = append(b, comma+`"unknown":[{"a":1}]`...)
		}
		return append(b, '}')
	}
}

func TestThePlanAgreesWithAnIndependentValidator(t *testing.T) {
	t.Parallel()
	schemas := 150
	if testing.Short() {
		schemas = 30
	}
	valid := 0
	for seed := range uint64(schemas) {
		valid += compareWithOracle(t, seed, 40)
	}
	if valid == 0 {
		t.Error("no document was valid: the generator is of no use")
	}
	t.Logf("%d of %d documents were valid", valid, schemas*40)
}

func FuzzPlanAgainstOracle(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { compareWithOracle(t, seed, 10) })
}

func compareWithOracle(t *testing.T, seed uint64, documents int) (valid int) {
	t.Helper()
	d := dice{rand.New(rand.NewPCG(seed, 7))}
	s := d.schema(0)
	p, err := plan.Compile(s)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	g := &generator{schemas: obj{}, shapes: map[string]string{}}
	oracle := compileOracle(t, g.schema(s, true))
	var c plan.Checker
	for range documents {
		doc := d.document(nil, s, 0)
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
		if err != nil {
			t.Fatalf("seed %d: the generator wrote no JSON: %v: %s", seed, err, doc)
		}
		c.Reset()
		got, refusal := p.Check(&c, doc), oracle.Validate(v)
		if got != (refusal == nil) {
			shown, _ := json.Marshal(g.schema(s, true))
			t.Fatalf("seed %d: the plan says %t %v, the validator %v\ndocument %s\nschema %s", seed, got, c.Errors, refusal, doc, shown)
		}
		if got {
			valid++
		}
	}
	return valid
}

func compileOracle(t *testing.T, schema any) *jsonschema.Schema {
	t.Helper()
	raw, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("urn:test", v); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("urn:test")
	if err != nil {
		t.Fatalf("compile %s: %v", raw, err)
	}
	return compiled
}

// Package plan judges JSON bytes against an edge.Schema in one pass: no tree is built, all violations are found (up to a cap), each
// with its place, its bound and its remedy, and none of them holds a value. Valid input costs no allocation.
//
// Beyond the schema it refuses what would make a body ambiguous or expensive: unknown and duplicate names, invalid UTF-8, lone
// surrogates, nesting deeper than MaxDepth, trailing data, and numbers that are not integers in range.
package plan

import (
	"errors"
	"fmt"
	"slices"

	"wispgate/edge"
)

// Bounds of every plan.
const (
	MaxDepth  = 32  // nested arrays and objects (RFC 8259 section 9 lets a reader set limits)
	MaxErrors = 50  // violations reported; the reading stops at the next one
	maxFields = 256 // members of one object
)

// Plan is a compiled schema. It is immutable and safe for use by any number of goroutines.
type Plan struct{ root *node }

type kind uint8

const (
	object kind = iota
	free        // an object with free names
	array
	text
	integer
	boolean
	anything
)

var says = [...]string{object: "an object", free: "an object", array: "an array", text: "a string", integer: "an integer",
	boolean: "true or false", anything: "a value"}

type node struct {
	kind     kind
	nullable bool
	min, max int64
	hasMin   bool
	hasMax   bool
	format   func([]byte) bool
	name     string // of the format
	prefix   string // of an id
	pattern  *pattern
	enum     []string
	key      *node
	item     *node

	fields   []field
	byLength [][]uint8 // indexes of the fields whose name has that many octets
	required mask
}

type field struct {
	name string
	node *node
}

// mask holds one bit per member of an object.
type mask [maxFields / 64]uint64

func (m *mask) set(i int) (was bool) {
	bit := uint64(1) << (i & 63)
	was = m[i>>6]&bit != 0
	m[i>>6] |= bit
	return was
}

func (m *mask) has(i int) bool { return m[i>>6]&(1<<(i&63)) != 0 }

// covers reports whether every bit of o is set in m.
func (m *mask) covers(o *mask) bool {
	return o[0]&^m[0]|o[1]&^m[1]|o[2]&^m[2]|o[3]&^m[3] == 0
}

// Compile makes the plan of a schema, leaving out the members of the outermost object that without names: those come from elsewhere
// (the path) and are unknown in the body. All that cannot be judged is reported at once.
func Compile(s *edge.Schema, without ...string) (*Plan, error) {
	if s == nil {
		return nil, errors.New("there is no schema")
	}
	c := compiler{}
	top := *s
	if len(without) > 0 {
		top.Fields = nil
		for _, f := range s.Fields {
			if !contains(without, f.Name) {
				top.Fields = append(top.Fields, f)
			}
		}
	}
	root := c.node("", &top)
	if err := errors.Join(c.errs...); err != nil {
		return nil, err
	}
	return &Plan{root: root}, nil
}

func contains(names []string, name string) bool {
	return slices.Contains(names, name)
}

type compiler struct{ errs []error }

func (c *compiler) add(at, why string) {
	if at == "" {
		at = "/"
	}
	c.errs = append(c.errs, fmt.Errorf("%s: %s", at, why))
}

var kinds = map[edge.SchemaType]kind{edge.Object: object, edge.Array: array, edge.Map: free, edge.String: text, edge.Integer: integer,
	edge.Boolean: boolean, edge.Any: anything}

func (c *compiler) node(at string, s *edge.Schema) *node {
	k, ok := kinds[s.Type]
	if !ok {
		c.add(at, "the type is unknown")
	}
	n := &node{kind: k, nullable: s.Nullable, prefix: s.Prefix, enum: s.Enum}
	if s.Min != nil {
		n.min, n.hasMin = *s.Min, true
	}
	if s.Max != nil {
		n.max, n.hasMax = *s.Max, true
	}
	if s.Format != "" {
		n.name, n.format = s.Format, formats[s.Format]
		if n.format == nil {
			c.add(at, "the format is unknown")
		}
	}
	if s.Pattern != nil {
		n.pattern = compilePattern(s.Pattern)
	}
	switch k {
	case object:
		c.members(at, n, s)
	case free:
		n.key = &node{kind: text}
		if s.Key != nil {
			n.key = c.node(at+"/*", s.Key)
		}
		n.item = c.item(at, s)
	case array:
		n.item = c.item(at, s)
	case text, integer, boolean, anything:
	}
	return n
}

func (c *compiler) item(at string, s *edge.Schema) *node {
	if s.Item == nil {
		c.add(at, "the type of the items is missing")
		return nil
	}
	return c.node(at+"/*", s.Item)
}

func (c *compiler) members(at string, n *node, s *edge.Schema) {
	if len(s.Fields) > maxFields {
		c.add(at, "the object has more than 256 members")
		return
	}
	for i, f := range s.Fields {
		n.fields = append(n.fields, field{name: f.Name, node: c.node(at+"/"+f.Name, f.Schema)})
		for len(n.byLength) <= len(f.Name) {
			n.byLength = append(n.byLength, nil)
		}
		n.byLength[len(f.Name)] = append(n.byLength[len(f.Name)], uint8(i))
		if f.Required {
			n.required.set(i)
		}
	}
}

// find returns the index of the member, -1 when it is unknown. Clients send members in a steady order, so the one after the last is
// tried first.
func (n *node) find(name []byte, hint int) int {
	if hint < len(n.fields) && n.fields[hint].name == string(name) {
		return hint
	}
	if len(name) >= len(n.byLength) {
		return -1
	}
	for _, i := range n.byLength[len(name)] {
		if n.fields[i].name == string(name) {
			return int(i)
		}
	}
	return -1
}

// Empty reports that the plan takes an object without members, so that a request may come without a body.
func (p *Plan) Empty() bool { return p.root.kind == object && len(p.root.fields) == 0 }

// NeedsNothing reports that an object without members is valid.
func (p *Plan) NeedsNothing() bool { return p.root.kind == object && p.root.required == mask{} }

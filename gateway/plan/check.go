package plan

import (
	"math"
	"slices"
	"strconv"

	"wispgate/edge"
)

// Checker holds what one reading needs. The zero value is ready; Reset makes it ready again without giving up its buffers. It is not
// safe for concurrent use.
type Checker struct {
	Errors     []edge.FieldError // what was wrong, at most MaxErrors
	Unreadable bool              // the bytes are not unambiguous JSON (400); else they do not fit the schema (422)

	data    []byte
	pos     int
	depth   int
	path    [MaxDepth + 1]segment
	in      string
	scratch []byte
	names   nameSet
}

// segment is one step of the path to the value being read: a member's name (client-chosen ones still escaped) or an index.
type segment struct {
	name  string
	raw   []byte
	index int
}

// Reset forgets the last reading.
func (c *Checker) Reset() {
	clear(c.Errors)
	c.Errors, c.Unreadable, c.data, c.in = c.Errors[:0], false, nil, ""
	c.path[0] = segment{} // deeper ones are set before they are read
}

// Check reads data and reports whether it fits; otherwise Errors say why. Data must not change until Reset.
func (p *Plan) Check(c *Checker, data []byte) bool {
	c.data, c.pos, c.depth, c.in = data, 0, 0, "body"
	if c.value(p.root) {
		c.space()
		if c.pos < len(c.data) {
			c.broken("is followed by more data", "send one JSON value")
		}
	}
	return len(c.Errors) == 0
}

// value reads the next value against n; with n nil it only reads. False means that reading cannot or need not go on.
func (c *Checker) value(n *node) bool {
	c.space()
	if c.pos >= len(c.data) {
		return c.broken("ends too early", "send complete JSON")
	}
	if n != nil && n.kind == anything {
		n = nil
	}
	switch b := c.data[c.pos]; {
	case b == '"':
		return c.string(n)
	case b == '{':
		return c.nested(n)
	case b == '[':
		return c.nested(n)
	case b == '-' || b >= '0' && b <= '9':
		return c.number(n)
	case b == 't':
		return c.literal("true") && c.expect(n, boolean)
	case b == 'f':
		return c.literal("false") && c.expect(n, boolean)
	case b == 'n':
		if !c.literal("null") {
			return false
		}
		if n == nil || n.nullable {
			return true
		}
		return c.wrong(n.kind)
	default:
		return c.broken("is not JSON", "send well-formed JSON (RFC 8259)")
	}
}

func (c *Checker) expect(n *node, k kind) bool {
	if n == nil || n.kind == k {
		return true
	}
	return c.wrong(n.kind)
}

func (c *Checker) wrong(want kind) bool {
	return c.violate("has the wrong type", says[want], "send "+says[want])
}

func (c *Checker) space() {
	for c.pos < len(c.data) {
		switch c.data[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}

func (c *Checker) literal(word string) bool {
	if len(c.data)-c.pos < len(word) || string(c.data[c.pos:c.pos+len(word)]) != word {
		return c.broken("is not JSON", "send well-formed JSON (RFC 8259)")
	}
	c.pos += len(word)
	return true
}

func (c *Checker) nested(n *node) bool {
	if c.depth == MaxDepth {
		return c.violateAs(true, "is nested too deeply", "32 levels", "send a flatter document") && false
	}
	c.depth++
	c.path[c.depth] = segment{index: -1}
	isObject := c.data[c.pos] == '{'
	c.pos++
	if n != nil {
		if isObject != (n.kind == object || n.kind == free) || !isObject && n.kind != array {
			c.depth--
			ok := c.wrong(n.kind)
			c.depth++
			if !ok {
				return false
			}
			n = nil
		}
	}
	var ok bool
	switch {
	case !isObject:
		ok = c.items(n)
	case n != nil && n.kind == free:
		ok = c.freeMembers(n)
	default:
		ok = c.members(n)
	}
	c.path[c.depth] = segment{}
	c.depth--
	return ok
}

// next reads the separator after a value: more says whether another follows before the closing byte.
func (c *Checker) next(closing byte) (more, ok bool) {
	c.space()
	if c.pos >= len(c.data) {
		return false, c.broken("ends too early", "send complete JSON")
	}
	switch c.data[c.pos] {
	case ',':
		c.pos++
		return true, true
	case closing:
		c.pos++
		return false, true
	default:
		return false, c.broken("is not JSON", "send well-formed JSON (RFC 8259)")
	}
}

// closes consumes the closing byte of an empty array or object.
func (c *Checker) closes(closing byte) bool {
	c.space()
	if c.pos < len(c.data) && c.data[c.pos] == closing {
		c.pos++
		return true
	}
	return false
}

// memberName reads a name and its colon. The decoded name is valid until the next string is read.
func (c *Checker) memberName() (raw, name []byte, runes int, ok bool) {
	c.space()
	if c.pos >= len(c.data) {
		return nil, nil, 0, c.broken("ends too early", "send complete JSON")
	}
	if c.data[c.pos] != '"' {
		return nil, nil, 0, c.broken("is not JSON", "send well-formed JSON (RFC 8259)")
	}
	raw, runes, escaped, ok := c.token()
	if !ok {
		return nil, nil, 0, false
	}
	name = raw
	if escaped {
		name = c.unescape(raw)
	}
	c.space()
	if c.pos >= len(c.data) || c.data[c.pos] != ':' {
		return nil, nil, 0, c.broken("is not JSON", "send well-formed JSON (RFC 8259)")
	}
	c.pos++
	return raw, name, runes, true
}

// members reads an object with declared names; with n nil any names, unjudged.
func (c *Checker) members(n *node) bool {
	var seen mask
	if !c.closes('}') {
		hint := 0
		for more := true; more; {
			raw, name, _, ok := c.memberName()
			if !ok {
				return false
			}
			at := &c.path[c.depth]
			at.raw, at.name, at.index = raw, "", 0
			var member *node
			if n != nil {
				i := n.find(name, hint)
				if i < 0 {
					if !c.violate("is not a known member", "", "remove it; the OpenAPI document lists the members") {
						return false
					}
				} else {
					at.name, member, hint = n.fields[i].name, n.fields[i].node, i+1
					if seen.set(i) && !c.violateAs(true, "appears twice", "", "send each member once") {
						return false
					}
				}
			}
			if !c.value(member) {
				return false
			}
			if more, ok = c.next('}'); !ok {
				return false
			}
		}
	}
	if n == nil || seen.covers(&n.required) {
		return true
	}
	for i := range n.fields {
		if n.required.has(i) && !seen.has(i) {
			c.path[c.depth] = segment{name: n.fields[i].name}
			if !c.violate("is required", "", "add it") {
				return false
			}
		}
	}
	return true
}

// freeMembers reads an object with free names: each name is judged like a string, and none may come twice.
func (c *Checker) freeMembers(n *node) bool {
	count := int64(0)
	if !c.closes('}') {
		base := c.names.begin()
		defer c.names.end(base)
		for more := true; more; {
			raw, name, runes, ok := c.memberName()
			if !ok {
				return false
			}
			count++
			if n.hasMax && count > n.max {
				return c.tooMany(n) && c.rest('}')
			}
			c.path[c.depth] = segment{raw: raw}
			if c.names.add(base, name) && !c.violateAs(true, "appears twice", "", "send each name once") {
				return false
			}
			if !c.judge(n.key, name, runes) || !c.value(n.item) {
				return false
			}
			if more, ok = c.next('}'); !ok {
				return false
			}
		}
	}
	return c.enough(n, count)
}

// items reads an array; with n nil unjudged.
func (c *Checker) items(n *node) bool {
	count := int64(0)
	if !c.closes(']') {
		var item *node
		if n != nil {
			item = n.item
		}
		for more := true; more; {
			var ok bool
			if n != nil && n.hasMax && count == n.max {
				return c.tooMany(n) && c.rest(']')
			}
			c.path[c.depth] = segment{index: int(count)}
			if !c.value(item) {
				return false
			}
			count++
			if more, ok = c.next(']'); !ok {
				return false
			}
		}
	}
	if n == nil {
		return true
	}
	return c.enough(n, count)
}

// tooMany reports the container itself, not the item that broke the bound.
func (c *Checker) tooMany(n *node) bool {
	c.depth--
	ok := c.violate("has too many items", "at most "+strconv.FormatInt(n.max, 10), "send fewer")
	c.depth++
	return ok
}

func (c *Checker) enough(n *node, count int64) bool {
	if !n.hasMin || count >= n.min {
		return true
	}
	c.depth--
	ok := c.violate("has too few items", "at least "+strconv.FormatInt(n.min, 10), "send more")
	c.depth++
	return ok
}

// rest reads what is left of a container whose bound was passed, unjudged: the reading stays linear and the syntax is still checked.
func (c *Checker) rest(closing byte) bool {
	for first := true; ; first = false {
		if closing == '}' && !first {
			if _, _, _, ok := c.memberName(); !ok {
				return false
			}
		}
		if !c.value(nil) {
			return false
		}
		if more, ok := c.next(closing); !ok || !more {
			return ok
		}
	}
}

func (c *Checker) string(n *node) bool {
	raw, runes, escaped, ok := c.token()
	if !ok {
		return false
	}
	if n == nil {
		return true
	}
	if n.kind != text {
		return c.wrong(n.kind)
	}
	if escaped && (n.format != nil || n.pattern != nil || n.enum != nil) && (!n.hasMax || int64(runes) <= n.max) {
		raw = c.unescape(raw)
	}
	return c.judge(n, raw, runes)
}

// judge holds a decoded string against its bounds; patterns and formats are tried only on text of a permitted length.
func (c *Checker) judge(n *node, s []byte, runes int) bool {
	switch {
	case n.hasMax && int64(runes) > n.max:
		return c.violate("is too long", "at most "+characters(n.max), "shorten it")
	case n.hasMin && int64(runes) < n.min:
		return c.violate("is too short", "at least "+characters(n.min), "lengthen it")
	case n.enum != nil && !n.listed(s):
		return c.violate("is not one of the allowed values", n.allowed(), "use one of them")
	case n.format != nil && !n.format(s):
		return c.violate("does not have the form "+n.name, formatHelp[n.name], "correct it")
	case n.prefix != "" && !hasPrefix(s, n.prefix):
		return c.violate("is the id of another kind of record", n.prefix+"_…", "use an id with that prefix")
	case n.pattern != nil && !n.pattern.match(s):
		return c.violate("does not have the required form", n.pattern.text, "correct it")
	}
	return true
}

func characters(n int64) string {
	if n == 1 {
		return "1 character"
	}
	return strconv.FormatInt(n, 10) + " characters"
}

func hasPrefix(s []byte, prefix string) bool {
	return len(s) > len(prefix) && string(s[:len(prefix)]) == prefix && s[len(prefix)] == '_'
}

func (n *node) listed(s []byte) bool {
	return slices.Contains(n.enum, string(s))
}

// allowed lists the values of an enumeration, cut at 200 octets.
func (n *node) allowed() string {
	var b []byte
	for i, e := range n.enum {
		if len(b)+len(e) > 200 {
			return string(append(b, " …"...))
		}
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, e...)
	}
	return string(b)
}

func (c *Checker) number(n *node) bool {
	start := c.pos
	whole, ok := c.numberToken()
	if !ok {
		return c.broken("is not JSON", "send well-formed JSON (RFC 8259)")
	}
	if n == nil {
		return true
	}
	if n.kind != integer {
		return c.wrong(n.kind)
	}
	if !whole {
		return c.violate("is not an integer", "", "send it without fraction and exponent")
	}
	return c.inRange(n, c.data[start:c.pos])
}

// numberToken reads a number (RFC 8259 section 6); whole is false when it has a fraction or an exponent.
func (c *Checker) numberToken() (whole, ok bool) {
	d, i := c.data, c.pos
	digits := func() bool {
		from := i
		for i < len(d) && d[i] >= '0' && d[i] <= '9' {
			i++
		}
		return i > from
	}
	if d[i] == '-' {
		i++
	}
	first := i
	if !digits() || d[first] == '0' && i-first > 1 {
		return false, false
	}
	whole = true
	if i < len(d) && d[i] == '.' {
		i, whole = i+1, false
		if !digits() {
			return false, false
		}
	}
	if i < len(d) && (d[i] == 'e' || d[i] == 'E') {
		i, whole = i+1, false
		if i < len(d) && (d[i] == '+' || d[i] == '-') {
			i++
		}
		if !digits() {
			return false, false
		}
	}
	c.pos = i
	return whole, true
}

func (c *Checker) inRange(n *node, digits []byte) bool {
	v, ok := parseInt(digits)
	switch {
	case !ok && digits[0] == '-', ok && n.hasMin && v < n.min:
		return c.violate("is too small", "at least "+strconv.FormatInt(bound(n.hasMin, n.min, math.MinInt64), 10), "send a larger number")
	case !ok, n.hasMax && v > n.max:
		return c.violate("is too large", "at most "+strconv.FormatInt(bound(n.hasMax, n.max, math.MaxInt64), 10), "send a smaller number")
	}
	return true
}

func bound(has bool, v, otherwise int64) int64 {
	if has {
		return v
	}
	return otherwise
}

// parseInt reads digits that the grammar has passed; ok is false outside ±(2^63-1).
func parseInt(s []byte) (v int64, ok bool) {
	negative := s[0] == '-'
	if negative {
		s = s[1:]
	}
	if len(s) > 19 {
		return 0, false
	}
	var u uint64
	for _, b := range s {
		u = u*10 + uint64(b-'0')
	}
	if u > math.MaxInt64 {
		return 0, false
	}
	if negative {
		return -int64(u), true
	}
	return int64(u), true
}

package plan

import (
	"unicode/utf8"
)

// Param judges one path, query or header parameter: a scalar, or a list of scalars.
type Param struct {
	Name     string
	Required bool
	List     bool // may come more than once
	node     *node
}

// Param returns the member of the outermost object as a parameter; ok is false when there is none or it cannot be written as text.
func (p *Plan) Param(name string) (*Param, bool) {
	i := p.root.find([]byte(name), 0)
	if p.root.kind != object || i < 0 {
		return nil, false
	}
	n := p.root.fields[i].node
	scalar := n
	if n.kind == array {
		scalar = n.item
	}
	if scalar.kind != text && scalar.kind != integer && scalar.kind != boolean {
		return nil, false
	}
	return &Param{Name: name, Required: p.root.required.has(i), List: n.kind == array, node: n}, true
}

// Params lists the members of the outermost object as parameters; ok is false when one of them cannot be written as text, and its
// name is returned alone.
func (p *Plan) Params() (params []*Param, bad string, ok bool) {
	for _, f := range p.root.fields {
		one, ok := p.Param(f.name)
		if !ok {
			return nil, f.name, false
		}
		params = append(params, one)
	}
	return params, "", true
}

// Append judges the decoded text of a parameter and appends it to dst as JSON. Violations are recorded under in and the name.
func (p *Param) Append(c *Checker, dst []byte, in string, s []byte) []byte {
	n := p.node
	if p.List {
		n = n.item
	}
	c.at(in, p.Name)
	before := len(c.Errors)
	c.param(n, s)
	switch {
	case len(c.Errors) > before:
		return append(dst, "null"...)
	case n.kind == text:
		return AppendString(dst, s)
	}
	return append(dst, s...)
}

func (c *Checker) param(n *node, s []byte) {
	switch {
	case n.kind == integer && !plainInteger(s):
		c.violate("is not an integer", "", "send digits")
	case n.kind == integer:
		c.inRange(n, s)
	case n.kind == boolean && string(s) != "true" && string(s) != "false":
		c.violate("has the wrong type", "true or false", "send true or false")
	case n.kind == boolean:
	case !utf8.Valid(s):
		c.violate("is not valid UTF-8", "", "encode it as UTF-8")
	default:
		c.judge(n, s, utf8.RuneCount(s))
	}
}

// AppendList judges all values of a list parameter and appends them as a JSON array.
func (p *Param) AppendList(c *Checker, dst []byte, in string, values [][]byte) []byte {
	c.at(in, p.Name)
	if n := p.node; n.hasMax && int64(len(values)) > n.max {
		c.depth = 1
		c.tooMany(n)
		return append(dst, "null"...)
	}
	dst = append(dst, '[')
	for i, v := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = p.Append(c, dst, in, v)
	}
	return append(dst, ']')
}

// Violate records a violation of a parameter that is not a matter of its value: missing, repeated, unknown.
func (c *Checker) Violate(in, name, reason, fix string) {
	if len(c.Errors) >= MaxErrors {
		return
	}
	c.at(in, pointerName([]byte(name)))
	c.violate(reason, "", fix)
}

func (c *Checker) at(in, name string) { c.in, c.path[0].name = in, name }

func plainInteger(s []byte) bool {
	d := s
	if len(d) > 0 && d[0] == '-' {
		d = d[1:]
	}
	if len(d) == 0 || len(d) > 1 && d[0] == '0' {
		return false
	}
	for _, b := range d {
		if b < '0' || b > '9' {
			return false
		}
	}
	return true
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string. What is not valid UTF-8 becomes U+FFFD; control characters and the separators U+2028 and
// U+2029 are escaped, and so is DEL, for terminals.
func AppendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	plain := 0 // where the run of bytes that need no escape began
	for i := 0; i < len(s); {
		b := s[i]
		if b >= 0x20 && b < 0x7f && b != '"' && b != '\\' {
			i++
			continue
		}
		dst = append(dst, s[plain:i]...)
		if b < utf8.RuneSelf {
			if b == '"' || b == '\\' {
				dst = append(dst, '\\', b)
			} else {
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
			}
			i++
			plain = i
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)]))
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, `\ufffd`...)
		case r == 0x2028 || r == 0x2029 || r < 0xa0:
			dst = append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		default:
			dst = append(dst, s[i:i+n]...)
		}
		i += n
		plain = i
	}
	dst = append(dst, s[plain:]...)
	return append(dst, '"')
}

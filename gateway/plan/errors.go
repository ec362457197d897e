package plan

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"wispgate/edge"
)

// Bounds of what a violation says about its place, in octets: names that the client chose are cut, and so is the whole pointer.
const (
	maxName    = 64
	maxPointer = 256
)

// violate records that the value does not fit the schema and reports whether there is room for another violation.
func (c *Checker) violate(reason, limit, fix string) bool {
	return c.violateAs(false, reason, limit, fix)
}

func (c *Checker) violateAs(unreadable bool, reason, limit, fix string) bool {
	c.Unreadable = c.Unreadable || unreadable
	c.Errors = append(c.Errors, edge.FieldError{In: c.in, Pointer: c.pointer(), Reason: reason, Limit: limit, Fix: fix})
	return len(c.Errors) < MaxErrors
}

// broken records that the bytes cannot be read any further.
func (c *Checker) broken(reason, fix string) bool {
	limit := ""
	if c.in == "body" {
		limit = "at octet " + strconv.Itoa(c.pos)
	}
	c.violateAs(true, reason, limit, fix)
	return false
}

// pointer is where the value being read stands (RFC 6901); outside the body it is the parameter's name.
func (c *Checker) pointer() string {
	if c.in != "body" {
		return c.path[0].name
	}
	var b strings.Builder
	for _, s := range c.path[1 : c.depth+1] {
		if s.index < 0 {
			break // inside a container, before its first member
		}
		if b.Len() > maxPointer {
			b.WriteString("/…")
			break
		}
		b.WriteByte('/')
		switch {
		case s.name != "":
			b.WriteString(s.name)
		case s.raw != nil:
			b.WriteString(pointerName(appendUnescaped(nil, s.raw)))
		default:
			b.WriteString(strconv.Itoa(s.index))
		}
	}
	return b.String()
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// pointerName is a name that the client chose: cut to 64 octets, without control characters, escaped for a pointer.
func pointerName(name []byte) string {
	cut := len(name) > maxName
	if cut {
		name = name[:maxName]
		for len(name) > 0 && !utf8.Valid(name) {
			name = name[:len(name)-1]
		}
	}
	s := strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return '?'
		}
		return r
	}, string(name))
	if cut {
		s += "…"
	}
	return pointerEscapes.Replace(s)
}

package plan

import "unicode/utf8"

// token reads a string at pos: its bytes as sent, its length in characters, whether it holds escapes.
func (c *Checker) token() (raw []byte, runes int, escaped, ok bool) {
	d := c.data
	start := c.pos + 1
	for i := start; i < len(d); {
		b := d[i]
		switch {
		case b == '"':
			c.pos = i + 1
			return d[start:i], runes, escaped, true
		case b == '\\':
			n := escapeLength(d[i:])
			if n == 0 {
				return nil, 0, false, c.broken("holds an escape that is not JSON", "send well-formed JSON (RFC 8259)")
			}
			escaped = true
			i += n
		case b < 0x20:
			return nil, 0, false, c.broken("holds a control character", "escape it")
		case b < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRune(d[i:])
			if r == utf8.RuneError && n == 1 {
				return nil, 0, false, c.broken("is not valid UTF-8", "encode the body as UTF-8")
			}
			i += n
		}
		runes++
	}
	return nil, 0, false, c.broken("ends too early", "send complete JSON")
}

// escapeLength is the number of octets of the escape at the start of d, a surrogate pair counted whole; 0 when it is not valid.
func escapeLength(d []byte) int {
	if len(d) < 2 {
		return 0
	}
	switch d[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		r, ok := hex4(d)
		switch {
		case !ok || r >= 0xdc00 && r < 0xe000:
			return 0
		case r >= 0xd800 && r < 0xdc00:
			if len(d) < 12 || d[6] != '\\' || d[7] != 'u' {
				return 0
			}
			if low, ok := hex4(d[6:]); !ok || low < 0xdc00 || low >= 0xe000 {
				return 0
			}
			return 12
		}
		return 6
	}
	return 0
}

// hex4 reads the four digits of \uXXXX.
func hex4(d []byte) (rune, bool) {
	if len(d) < 6 {
		return 0, false
	}
	var r rune
	for _, b := range d[2:6] {
		v := unhex(b)
		if v < 0 {
			return 0, false
		}
		r = r<<4 | rune(v)
	}
	return r, true
}

func unhex(b byte) int {
	switch {
	case b >= '0' && b <= '9':
		return int(b - '0')
	case b >= 'a' && b <= 'f':
		return int(b-'a') + 10
	case b >= 'A' && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}

// unescape decodes a string that token has passed into the scratch buffer.
func (c *Checker) unescape(raw []byte) []byte {
	c.scratch = appendUnescaped(c.scratch[:0], raw)
	return c.scratch
}

func appendUnescaped(out, raw []byte) []byte {
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		n := escapeLength(raw[i:])
		switch raw[i+1] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(raw[i:])
			if n == 12 {
				low, _ := hex4(raw[i+6:])
				r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, raw[i+1])
		}
		i += n
	}
	return out
}

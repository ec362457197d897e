package aaa

import (
	"unicode/utf8"

	"wispgate/aaa/packet"
	"wispgate/edge"
)

// maxLogin is the longest User-Name a RADIUS attribute can hold, in octets (RFC 2865 section 5.1).
const maxLogin = 253

// appendLogin appends the one form a login is stored and looked up in: surrounding spaces cut, ASCII letters in lower case, in the
// user part as in the realm, because people type both as they please. ok is false for what can be no login: empty, too long, control
// characters. The slice stays dst's when it has room, so the hot path allocates nothing.
func appendLogin(dst, raw []byte) (login []byte, ok bool) {
	for len(raw) > 0 && raw[0] == ' ' {
		raw = raw[1:]
	}
	for len(raw) > 0 && raw[len(raw)-1] == ' ' {
		raw = raw[:len(raw)-1]
	}
	if len(raw) == 0 || len(raw) > maxLogin {
		return dst, false
	}
	for _, c := range raw {
		if c < 0x20 || c == 0x7f {
			return dst, false
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst, true
}

// normalLogin is appendLogin for records: the login must also be valid UTF-8, since JSON carries it. A MAC credential's login is its
// twelve lower-case digits, whatever notation it was written in.
func normalLogin(typ CredentialType, raw string) (string, error) {
	if typ == TypeMAC {
		m, ok := packet.ParseMAC([]byte(raw))
		if !ok {
			return "", edge.ErrInput.Error(edge.Invalid, edge.Field("/username", "is not a MAC address", "write it like AA:BB:CC:DD:EE:FF"))
		}
		return string(m.Compact(nil)), nil
	}
	login, ok := appendLogin(nil, []byte(raw))
	if !ok || !utf8.Valid(login) {
		return "", edge.ErrInput.Error(edge.Invalid, edge.FieldError{
			In: "body", Pointer: "/username", Reason: "is empty, too long or holds control characters", Limit: "253 octets",
			Fix: "use letters, digits and the signs of an e-mail address",
		})
	}
	return string(login), nil
}

// lookupMAC reads a User-Name as a MAC address in any notation and appends its stored form; ok is false when it is none.
func lookupMAC(dst, raw []byte) ([]byte, bool) {
	m, ok := packet.ParseMAC(raw)
	if !ok {
		return dst, false
	}
	return m.Compact(dst), true
}

// parseMAC canonicalises a MAC of an input; "" stays "".
func parseMAC(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	m, ok := packet.ParseMAC([]byte(text))
	if !ok {
		return "", edge.ErrInput.Error(edge.Invalid, edge.Field("/mac", "is not a MAC address", "write it like AA:BB:CC:DD:EE:FF"))
	}
	return m.String(), nil
}

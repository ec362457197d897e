package packet

import "encoding/hex"

// MAC is a hardware address in its one canonical form. The zero value means unknown.
type MAC [6]byte

// IsZero reports whether the address is unknown.
func (m MAC) IsZero() bool { return m == MAC{} }

// String returns the form AA:BB:CC:DD:EE:FF, and nothing for the zero value.
func (m MAC) String() string {
	if m.IsZero() {
		return ""
	}
	return string(m.AppendText(nil))
}

// AppendText appends the form AA:BB:CC:DD:EE:FF.
func (m MAC) AppendText(dst []byte) []byte {
	const digits = "0123456789ABCDEF"
	for i, b := range m {
		if i > 0 {
			dst = append(dst, ':')
		}
		dst = append(dst, digits[b>>4], digits[b&15])
	}
	return dst
}

// Compact appends the twelve lower-case hexadecimal digits, the form records are keyed by.
func (m MAC) Compact(dst []byte) []byte { return hex.AppendEncode(dst, m[:]) }

// ParseMAC reads the notations routers use: AA:BB:CC:DD:EE:FF, aa-bb-cc-dd-ee-ff, aabb.ccdd.eeff, aabbcc-ddeeff, bare
// digits, groups without leading zeros, and a DHCP client identifier with its type prefix (1:0:e1:c:38:c8:f8).
func ParseMAC(text []byte) (MAC, bool) {
	var (
		val   [7]uint64
		size  [7]int
		sep   byte
		group int
	)
	if len(text) < 11 || len(text) > 20 {
		return MAC{}, false
	}
	for _, c := range text {
		if d, ok := nibble(c); ok {
			val[group] = val[group]<<4 | uint64(d)
			size[group]++
			continue
		}
		if (c != ':' && c != '-' && c != '.') || (sep != 0 && c != sep) || group == 6 {
			return MAC{}, false
		}
		sep = c
		group++
	}
	first, digits := 0, 0 // digits a group must have; 0: one or two
	switch group + 1 {
	case 1:
		digits = 12
	case 2:
		digits = 6
	case 3:
		digits = 4
	case 6:
	case 7:
		if val[0] != 1 || size[0] > 2 { // hardware type Ethernet
			return MAC{}, false
		}
		first = 1
	default:
		return MAC{}, false
	}
	var v uint64
	for g := first; g <= group; g++ {
		bits := 4 * digits
		if digits == 0 {
			bits = 8
		}
		if size[g] == 0 || size[g] > bits/4 || (digits > 0 && size[g] != digits) {
			return MAC{}, false
		}
		v = v<<bits | val[g]
	}
	m := MAC{byte(v >> 40), byte(v >> 32), byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
	return m, !m.IsZero()
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

package edge

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// ID names a record: a type prefix, an underscore and a UUID (RFC 9562), e.g. cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33.
// Where the operation that made it carried a UUIDv7, its time carries over; nothing may rely on ids sorting by time.
type ID string

// Prefix is the part before the underscore, "" when there is none.
func (id ID) Prefix() string {
	p, _, ok := strings.Cut(string(id), "_")
	if !ok {
		return ""
	}
	return p
}

// With is the same UUID under another prefix: the id of a derived or companion record.
func (id ID) With(prefix string) ID {
	_, u, _ := strings.Cut(string(id), "_")
	return ID(prefix + "_" + u)
}

// Valid reports whether the id has the form prefix_UUID in lower case.
func (id ID) Valid() bool {
	p, u, ok := strings.Cut(string(id), "_")
	if !ok || len(p) < 2 || len(p) > 8 || len(u) != 36 {
		return false
	}
	for _, c := range []byte(p) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	for i := range len(u) {
		c := u[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// DeriveID is the n-th id of an operation: a pure function of the scoped operation id, the prefix-free counter and nothing else.
// The first 48 bits are the operation's own time when its id ends in a UUIDv7 (then the result is a version 7 UUID), else a hash
// (version 8).
func DeriveID(prefix, operation string, n int) ID {
	h := sha256.New()
	h.Write([]byte(operation))
	var c [8]byte
	binary.BigEndian.PutUint64(c[:], uint64(n))
	h.Write(c[:])
	sum := h.Sum(nil)
	version := byte(0x80)
	if ms, ok := uuidTime(operation); ok {
		copy(sum[:6], ms[:])
		version = 0x70
	}
	sum[6] = version | sum[6]&0x0f
	sum[8] = 0x80 | sum[8]&0x3f
	return ID(prefix + "_" + FormatUUID([16]byte(sum[:16])))
}

// FormatUUID writes the sixteen octets in the canonical 8-4-4-4-12 form.
func FormatUUID(u [16]byte) string {
	var b [36]byte
	hex.Encode(b[0:8], u[0:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:36], u[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// NewUUIDv7 makes a version 7 UUID from a time in milliseconds and ten random octets.
func NewUUIDv7(unixMilli int64, random [10]byte) string {
	var u [16]byte
	binary.BigEndian.PutUint64(u[:8], uint64(unixMilli)<<16)
	copy(u[6:], random[:])
	u[6] = 0x70 | u[6]&0x0f
	u[8] = 0x80 | u[8]&0x3f
	return FormatUUID(u)
}

// uuidTime returns the 48 bits of time when s ends in a UUIDv7.
func uuidTime(s string) (ms [6]byte, ok bool) {
	if len(s) < 36 {
		return ms, false
	}
	u := s[len(s)-36:]
	if u[8] != '-' || u[13] != '-' || u[14] != '7' || u[18] != '-' || u[23] != '-' {
		return ms, false
	}
	raw, err := hex.DecodeString(u[:8] + u[9:13])
	if err != nil {
		return ms, false
	}
	copy(ms[:], raw)
	return ms, true
}

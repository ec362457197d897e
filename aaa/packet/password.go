package packet

import (
	"bytes"
	"crypto/md5"
	"crypto/subtle"
)

// MaxPassword is the longest password PAP can carry, in octets (RFC 2865 §5.2).
const MaxPassword = 128

// Hide appends the hidden form of a password of at most 128 octets: padded to a multiple of 16, at least 16, and
// chained with MD5(secret, previous) from the Request Authenticator.
func (x *Hasher) Hide(dst []byte, s *Secret, password, authenticator []byte) []byte {
	if len(password) > MaxPassword {
		password = password[:MaxPassword]
	}
	start := len(dst)
	dst = append(dst, password...)
	for n := max(1, (len(password)+15)/16) * 16; len(dst)-start < n; {
		dst = append(dst, 0)
	}
	for i := start; i < len(dst); i += 16 {
		x.chain(s, authenticator)
		subtle.XORBytes(dst[i:i+16], dst[i:i+16], x.sum[:])
		authenticator = dst[i : i+16]
	}
	return dst
}

// Reveal decodes a User-Password into buf, whose 128 octets it may overwrite, and strips trailing NULs. Its sizes are
// 0 (RouterOS DHCP) and multiples of 16 up to 128; ok is false for any other.
func (x *Hasher) Reveal(buf *[MaxPassword]byte, s *Secret, hidden, authenticator []byte) (password []byte, ok bool) {
	if len(hidden) > MaxPassword || len(hidden)%16 != 0 {
		return nil, false
	}
	for i := 0; i < len(hidden); i += 16 {
		x.chain(s, authenticator)
		subtle.XORBytes(buf[i:i+16], hidden[i:i+16], x.sum[:])
		authenticator = hidden[i : i+16]
	}
	return bytes.TrimRight(buf[:len(hidden)], "\x00"), true
}

func (x *Hasher) chain(s *Secret, previous []byte) {
	x.h.Reset()
	x.h.Write(s.key)
	x.h.Write(previous)
	x.h.Sum(x.sum[:0])
}

// CHAP returns MD5(ident, password, challenge), the response a peer that knows the password sends (RFC 1994). The
// result is valid until the next call.
func (x *Hasher) CHAP(ident byte, password, challenge []byte) []byte {
	x.keep[0] = ident
	x.h.Reset()
	x.h.Write(x.keep[:1])
	x.h.Write(password)
	x.h.Write(challenge)
	return x.h.Sum(x.sum[:0])
}

// CHAPSize is the length of CHAP-Password: one octet of identifier and the response.
const CHAPSize = 1 + md5.Size

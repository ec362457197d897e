package packet

import (
	"crypto/md5"
	"crypto/subtle"
	"encoding"
	"errors"
	"hash"
	"log/slog"
)

// MaxSecret is the longest shared secret in octets.
const MaxSecret = 255

// Secret is a shared secret with the HMAC states derived from it. It is immutable, shared by all workers, and prints
// as *** in every way it can be printed.
type Secret struct {
	key          []byte
	inner, outer []byte // MD5 states after the HMAC pads: saves two of four compressions on each signature
}

// NewSecret prepares a secret of 1 to 255 octets. An empty one is refused: it would sign nothing.
func NewSecret(key []byte) (*Secret, error) {
	if len(key) == 0 || len(key) > MaxSecret {
		return nil, errors.New("shared secret must have 1 to 255 octets")
	}
	s := &Secret{key: append([]byte(nil), key...)}
	var pad [md5.BlockSize]byte
	if len(key) > len(pad) {
		sum := md5.Sum(key)
		copy(pad[:], sum[:])
	} else {
		copy(pad[:], key)
	}
	for i := range pad {
		pad[i] ^= 0x36
	}
	var err error
	if s.inner, err = stateAfter(pad[:]); err != nil {
		return nil, err
	}
	for i := range pad {
		pad[i] ^= 0x36 ^ 0x5c
	}
	s.outer, err = stateAfter(pad[:])
	return s, err
}

func stateAfter(block []byte) ([]byte, error) {
	h := md5.New()
	h.Write(block)
	return h.(encoding.BinaryMarshaler).MarshalBinary()
}

func (*Secret) String() string       { return "***" }
func (*Secret) GoString() string     { return "***" }
func (*Secret) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText keeps the secret out of every encoder that asks.
func (*Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Equal reports whether both hold the same octets.
func (s *Secret) Equal(o *Secret) bool { return subtle.ConstantTimeCompare(s.key, o.key) == 1 }

// Hasher computes the MD5 and HMAC-MD5 values of RADIUS in memory of its own. One per goroutine.
type Hasher struct {
	h     hash.Hash
	state encoding.BinaryUnmarshaler
	sum   [md5.Size]byte
	keep  [md5.Size]byte // authenticator field while it is overwritten
	mac   [md5.Size]byte // Message-Authenticator as received
}

var zeros [16]byte

// NewHasher returns a Hasher.
func NewHasher() *Hasher {
	h := md5.New()
	return &Hasher{h: h, state: h.(encoding.BinaryUnmarshaler)}
}

// hmac leaves HMAC-MD5(secret, pkt) in x.sum.
func (x *Hasher) hmac(s *Secret, pkt []byte) {
	if x.state.UnmarshalBinary(s.inner) != nil {
		panic("packet: MD5 state of another Go release") // never: both halves come from this process
	}
	x.h.Write(pkt)
	x.h.Sum(x.sum[:0])
	_ = x.state.UnmarshalBinary(s.outer)
	x.h.Write(x.sum[:])
	x.h.Sum(x.sum[:0])
}

// digest leaves MD5(pkt, secret) in x.sum.
func (x *Hasher) digest(s *Secret, pkt []byte) {
	x.h.Reset()
	x.h.Write(pkt)
	x.h.Write(s.key)
	x.h.Sum(x.sum[:0])
}

// SignReply fills Message-Authenticator, if the packet begins with one, and then the Response Authenticator. The
// request's authenticator may alias the packet's.
func (x *Hasher) SignReply(s *Secret, pkt, requestAuthenticator []byte) {
	copy(pkt[authOffset:HeaderLen], requestAuthenticator)
	x.signFirst(s, pkt)
	x.digest(s, pkt)
	copy(pkt[authOffset:HeaderLen], x.sum[:])
}

// SignRequest signs a request: an Access-Request or Status-Server keeps its random authenticator, every other request
// gets the one computed over 16 zeros (RFC 2866 §3, RFC 5176 §2.3).
func (x *Hasher) SignRequest(s *Secret, pkt []byte) {
	switch Code(pkt[0]) {
	case AccessRequest, StatusServer:
		x.signFirst(s, pkt)
	default:
		clear(pkt[authOffset:HeaderLen])
		x.signFirst(s, pkt)
		x.digest(s, pkt)
		copy(pkt[authOffset:HeaderLen], x.sum[:])
	}
}

func (x *Hasher) signFirst(s *Secret, pkt []byte) {
	if len(pkt) >= HeaderLen+18 && pkt[HeaderLen] == MessageAuthenticator && pkt[HeaderLen+1] == 18 {
		clear(pkt[HeaderLen+2 : HeaderLen+18])
		x.hmac(s, pkt)
		copy(pkt[HeaderLen+2:], x.sum[:])
	}
}

// VerifyMessageAuthenticator checks the attribute 80 whose value begins at off, with authenticator in the header's
// place (the packet's own for Access-Request and Status-Server, zeros for other requests, the request's for replies).
// The packet is changed while it computes and restored before it returns.
func (x *Hasher) VerifyMessageAuthenticator(s *Secret, pkt []byte, off int, authenticator []byte) bool {
	value := pkt[off : off+16]
	copy(x.mac[:], value)
	copy(x.keep[:], pkt[authOffset:HeaderLen])
	copy(pkt[authOffset:HeaderLen], authenticator)
	clear(value)
	x.hmac(s, pkt)
	copy(value, x.mac[:])
	copy(pkt[authOffset:HeaderLen], x.keep[:])
	return subtle.ConstantTimeCompare(x.sum[:], x.mac[:]) == 1
}

// VerifyRequest checks the computed authenticator of an Accounting-, CoA- or Disconnect-Request.
func (x *Hasher) VerifyRequest(s *Secret, pkt []byte) bool { return x.verify(s, pkt, zeros[:]) }

// VerifyReply checks the Response Authenticator.
func (x *Hasher) VerifyReply(s *Secret, pkt, requestAuthenticator []byte) bool {
	return x.verify(s, pkt, requestAuthenticator)
}

func (x *Hasher) verify(s *Secret, pkt, authenticator []byte) bool {
	copy(x.keep[:], pkt[authOffset:HeaderLen])
	copy(pkt[authOffset:HeaderLen], authenticator)
	x.digest(s, pkt)
	copy(pkt[authOffset:HeaderLen], x.keep[:])
	return subtle.ConstantTimeCompare(x.sum[:], x.keep[:]) == 1
}

// Zeros returns the 16 zero octets that stand for the authenticator in RFC 2866 and 5176 arithmetic. Do not write.
func Zeros() []byte { return zeros[:] }

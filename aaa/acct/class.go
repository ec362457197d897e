package acct

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"wispgate/aaa/packet"
)

// Class is what the node's Class attribute says: which record let the session in. The router returns it in every
// accounting packet, so any node can account for the session without having seen the login. It is signed, because it
// passes through a device that others may control.
type Class struct {
	Tenant     []byte // of the credential
	Credential []byte // id of the credential
	Node       uint64 // who answered
	Revision   uint64 // of the entitlement that was in force
	Session    uint64 // different for every accept
}

const (
	classVersion = 'W'
	classMAC     = 16 // octets of HMAC-SHA-256 kept
)

// ClassSigner writes and reads Class values. One per goroutine; it allocates nothing after the first use.
type ClassSigner struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

// NewClassSigner returns a signer; every node of a cluster has the same key.
func NewClassSigner(key [32]byte) *ClassSigner {
	return &ClassSigner{mac: hmac.New(sha256.New, key[:])}
}

// Append appends the attribute 25 for c, at most 2+1+16+2×(1+64)+24 octets: names longer than 64 octets are cut.
func (s *ClassSigner) Append(dst []byte, c *Class) []byte {
	start := len(dst)
	dst = append(dst, packet.Class, 0, classVersion)
	for _, v := range [...][]byte{c.Tenant, c.Credential} {
		v = v[:min(len(v), 64)]
		dst = append(append(dst, byte(len(v))), v...)
	}
	dst = binary.AppendUvarint(dst, c.Node)
	dst = binary.AppendUvarint(dst, c.Revision)
	dst = binary.BigEndian.AppendUint64(dst, c.Session)
	s.sign(dst[start+2:])
	dst = append(dst, s.sum[:classMAC]...)
	dst[start+1] = byte(len(dst) - start)
	return dst
}

func (s *ClassSigner) sign(b []byte) {
	s.mac.Reset()
	s.mac.Write(b)
	s.mac.Sum(s.sum[:0])
}

// Parse reads the value of a Class attribute. ok is false for one that is not ours, is damaged, or was signed with
// another key; the slices of c point into value.
func (s *ClassSigner) Parse(value []byte) (c Class, ok bool) {
	n := len(value) - classMAC
	if n < 1 || value[0] != classVersion {
		return Class{}, false
	}
	s.sign(value[:n])
	if !hmac.Equal(s.sum[:classMAC], value[n:]) {
		return Class{}, false
	}
	d := decoder{b: value[1:n]}
	c.Tenant = d.take(int(d.octet()))
	c.Credential = d.take(int(d.octet()))
	c.Node, c.Revision = d.uvarint(), d.uvarint()
	c.Session = d.fixed(8)
	return c, !d.bad && len(d.b) == 0
}

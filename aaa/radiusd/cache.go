package radiusd

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"

	"wispgate/aaa/packet"
)

// cache is the duplicate table of RFC 5080 §2.2.2. One worker owns it: SO_REUSEPORT gives every source address and
// port to the same socket, so no lock is needed. It is bounded by its size, which never changes; in a full set the
// oldest entry makes room.
//
// An entry is found by source, code and Identifier. It answers only if the Request Authenticator, the length and a
// keyed hash of all octets are the same, so a forged variant never draws a cached reply. A new Authenticator under the
// same Identifier is a new request and takes the entry over at once.
type cache struct {
	seed    maphash.Seed
	entries []entry
	mask    uint32 // number of sets, less one
	keep    int64  // nanoseconds
}

const cacheWays = 4

type entryState uint8

const (
	entryFree    entryState = iota
	entryPending            // being worked on: duplicates are absorbed
	entryDone               // the reply answers duplicates
)

type entry struct {
	addr     netip.Addr
	port     uint16
	code, id byte
	state    entryState
	size     uint16
	gen      uint32 // tells a late completion that the entry has moved on
	auth     [16]byte
	sum      uint64
	at       int64 // nanoseconds since the server's start
	reply    []byte
}

// replyRoom is what an entry holds without a buffer of its own; nearly all replies fit.
const replyRoom = 256

func newCache(entries int, keep int64) *cache {
	sets := 1
	for sets*cacheWays < entries {
		sets *= 2
	}
	c := &cache{seed: maphash.MakeSeed(), entries: make([]entry, sets*cacheWays), mask: uint32(sets - 1), keep: keep}
	slab := make([]byte, len(c.entries)*replyRoom) // touched, and so resident, only as it fills
	for i := range c.entries {
		c.entries[i].reply = slab[i*replyRoom : i*replyRoom : (i+1)*replyRoom]
	}
	return c
}

type lookup uint8

const (
	cacheMiss lookup = iota
	cacheHit
	cachePending
)

// find looks a request up. On a miss the returned entry is the one to store it in: the same key's, a free one, or the
// oldest of the set.
func (c *cache) find(src netip.AddrPort, pkt []byte, now int64) (*entry, lookup) {
	a := src.Addr().As16()
	h := binary.LittleEndian.Uint64(a[:8])*0x9e3779b97f4a7c15 ^ binary.LittleEndian.Uint64(a[8:])
	h = (h ^ uint64(src.Port())<<8 ^ uint64(pkt[0])) * 0xd6e8feb86659fd93
	// The 256 Identifiers of a socket fall into 256 neighbouring sets: they never push each other out.
	set := (uint32(h>>40) + uint32(pkt[1])) & c.mask
	ways := c.entries[set*cacheWays : (set+1)*cacheWays]
	victim := &ways[0]
	for i := range ways {
		e := &ways[i]
		if e.state != entryFree && e.id == pkt[1] && e.code == pkt[0] && e.port == src.Port() && e.addr == src.Addr() {
			return e, c.match(e, pkt, now)
		}
		if victim.state != entryFree && (e.state == entryFree || e.at < victim.at) {
			victim = e
		}
	}
	return victim, cacheMiss
}

func (c *cache) match(e *entry, pkt []byte, now int64) lookup {
	if now-e.at > c.keep || [16]byte(packet.Authenticator(pkt)) != e.auth || int(e.size) != len(pkt) ||
		maphash.Bytes(c.seed, pkt) != e.sum {
		return cacheMiss
	}
	if e.state == entryPending {
		return cachePending
	}
	return cacheHit
}

// take makes e the entry of a request, without a reply as yet.
func (c *cache) take(e *entry, src netip.AddrPort, pkt []byte, now int64) {
	e.addr, e.port, e.code, e.id = src.Addr(), src.Port(), pkt[0], pkt[1]
	e.auth = [16]byte(packet.Authenticator(pkt))
	e.size, e.sum, e.at = uint16(len(pkt)), maphash.Bytes(c.seed, pkt), now
	e.state = entryPending
	e.gen++
}

// finish gives the entry its reply, unless it has moved on since generation gen. An empty reply frees it, so that the
// next retransmission is a new try.
func (e *entry) finish(gen uint32, reply []byte) {
	if e.gen != gen || e.state != entryPending {
		return
	}
	if e.state = entryFree; len(reply) > 0 {
		e.reply, e.state = append(e.reply[:0], reply...), entryDone
	}
}

package radiusd

import (
	"hash/maphash"

	"wispgate/aaa/packet"
)

// backoff slows down those who guess. One worker owns it; it has a fixed size, and in a full set the oldest entry makes
// room. Two keys are counted per failure: the login at this hardware address, and the address alone with four times
// the patience, so that trying many names from one CPE is slow, too, while another CPE with the right password gets in.
type backoff struct {
	hash    maphash.Hash
	entries []strikes
}

type strikes struct {
	key      uint64
	revision uint64 // of the credential: a changed password is a clean slate
	until    int64  // nanoseconds since start: nothing is answered before
	last     int64
	fails    uint16
}

const (
	backoffSets    = 1024
	backoffWays    = 4
	patience       = 10               // failures before the first pause
	macPatience    = 4 * patience     // failures of one address over all logins
	firstPause     = int64(1e9)       // doubled with each further failure
	longestPause   = 60 * int64(1e9)  //
	forgiveFailure = 600 * int64(1e9) // without a failure, all is forgotten
)

// culprit names who failed: the keys to count under. Zero keys count nothing.
type culprit struct {
	login, mac uint64
	revision   uint64
}

func newBackoff() *backoff { return &backoff{entries: make([]strikes, backoffSets*backoffWays)} }

// culprit computes the keys of a request; revision is the credential's, 0 for a login that does not exist.
func (b *backoff) culprit(tenant, login []byte, mac packet.MAC, revision uint64) culprit {
	c := culprit{revision: revision}
	b.hash.Reset()
	b.hash.Write(tenant)
	b.hash.WriteByte(0)
	b.hash.Write(mac[:])
	if !mac.IsZero() {
		c.mac = b.hash.Sum64() | 1
	}
	b.hash.Write(login)
	c.login = b.hash.Sum64() | 1
	return c
}

func (b *backoff) find(key uint64) (found, victim *strikes) {
	set := int(uint32(key>>32)%backoffSets) * backoffWays
	victim = &b.entries[set]
	for i := range backoffWays {
		e := &b.entries[set+i]
		if e.key == key {
			return e, e
		}
		if e.last < victim.last {
			victim = e
		}
	}
	return nil, victim
}

// blocked reports whether the culprit must wait.
func (b *backoff) blocked(c culprit, now int64) bool {
	if e, _ := b.find(c.login); e != nil && now < e.until && e.revision == c.revision {
		return true
	}
	if c.mac == 0 {
		return false
	}
	e, _ := b.find(c.mac)
	return e != nil && now < e.until
}

// failed counts a failure.
func (b *backoff) failed(c culprit, now int64) {
	b.strike(c.login, c.revision, patience, now)
	if c.mac != 0 {
		b.strike(c.mac, 0, macPatience, now)
	}
}

func (b *backoff) strike(key, revision uint64, patience uint16, now int64) {
	e, victim := b.find(key)
	if e == nil || e.revision != revision || now-e.last > forgiveFailure {
		e = victim
		*e = strikes{key: key, revision: revision}
	}
	e.last = now
	if e.fails++; e.fails >= patience {
		e.until = now + min(firstPause<<min(e.fails-patience, 16), longestPause)
	}
	e.fails = min(e.fails, patience+16)
}

// succeeded forgets the failures of the login; those of the address fade by themselves.
func (b *backoff) succeeded(c culprit) {
	if e, _ := b.find(c.login); e != nil {
		*e = strikes{}
	}
}

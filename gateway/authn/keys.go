package authn

import (
	"crypto/rand"
	"crypto/subtle"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"wispgate/edge"
)

// Key is an API key's record as verification needs it: one immutable value, replaced as a whole when a record changes.
type Key struct {
	Secrets  [2]Secret // an unused one has the algorithm 0
	Refused  *edge.Reason
	Allow    []netip.Prefix // empty: from anywhere
	Identity *Identity
	Use      *LastUse // outlives the value
}

// Secret is one of a key's two active secrets.
type Secret struct {
	Algorithm Algorithm
	Digest    Digest
	Expires   time.Time
	Older     bool // rotation has put another one in its place
}

// LastUse is when a key was last reported as used, in seconds since 1970.
type LastUse struct{ at atomic.Int64 }

// Records finds keys by the id in their text.
type Records interface {
	// Key returns nil where there is none. id is only valid during the call.
	Key(id string) *Key
}

// Used is told that a key was used: at most every five minutes for each key, on the path of a request, so it must not wait.
type Used func(key edge.ID, from netip.Addr, at time.Time)

// useEvery is how coarse the last use is. It is a fact of this node, never an entry of the log.
const useEvery = 5 * time.Minute

// Keys makes the verifier of API keys. site is the node's own, "" where the node stands at none (then keys for certain sites are
// refused); used may be nil.
func Keys(records Records, site string, used Used) Verifier {
	k := &keys{records: records, site: site, used: used}
	for i := range k.nobody.Secrets {
		k.nobody.Secrets[i].Algorithm = SHA256
		_, _ = rand.Read(k.nobody.Secrets[i].Digest[:]) // never fails: crypto/rand ends the program instead
	}
	return Verifier{Form: func(token string) bool { return strings.HasPrefix(token, Prefix) }, Verify: k.verify}
}

type keys struct {
	records Records
	site    string
	used    Used
	nobody  Key // what an unknown id is compared with: its digests are nobody's
}

// verify follows form, checksum, record, comparison; only what comes after the comparison is ever named. Known and unknown ids take the
// same steps: one hash and two comparisons.
func (k *keys) verify(token string, s Shown, now time.Time) (*Identity, bool, error) {
	if !wellFormed(token) {
		return nil, false, ErrForm.Error(edge.Unauthenticated)
	}
	key := k.records.Key(token[idAt : idAt+idLen])
	if key == nil {
		key = &k.nobody
	}
	d := digest(token[secretAt:sumAt])
	first := key.Secrets[0].match(&d)
	second := key.Secrets[1].match(&d)
	if first|second == 0 || key == &k.nobody {
		return nil, false, ErrUnknown.Error(edge.Unauthenticated)
	}
	if r := k.refusal(key, &key.Secrets[1-first], s.Address, now); r != nil {
		return nil, true, r.Error(edge.Unauthenticated)
	}
	k.note(key, s.Address, now)
	return key.Identity, true, nil
}

// match is 1 when the digest is this secret's, in constant time; a slot without a secret matches nothing.
func (s *Secret) match(d *Digest) int {
	return subtle.ConstantTimeCompare(s.Digest[:], d[:]) & subtle.ConstantTimeByteEq(byte(s.Algorithm), byte(SHA256))
}

// refusal is why a key whose secret is right may not be used here and now, nil when it may.
func (k *keys) refusal(key *Key, secret *Secret, from netip.Addr, now time.Time) *edge.Reason {
	switch {
	case key.Refused != nil:
		return key.Refused
	case !now.Before(secret.Expires) && secret.Older:
		return &ErrRotated
	case !now.Before(secret.Expires):
		return &ErrExpired
	case len(key.Identity.Actor.Sites) > 0 && !slices.Contains(key.Identity.Actor.Sites, k.site):
		return &ErrSite
	case len(key.Allow) > 0 && !slices.ContainsFunc(key.Allow, func(p netip.Prefix) bool { return p.Contains(from.Unmap()) }):
		return &ErrAddress
	}
	return nil
}

// note reports a use if the last report is old enough. Of concurrent requests one reports.
func (k *keys) note(key *Key, from netip.Addr, now time.Time) {
	if k.used == nil || key.Use == nil {
		return
	}
	last, at := key.Use.at.Load(), now.Unix()
	if at-last < int64(useEvery/time.Second) || !key.Use.at.CompareAndSwap(last, at) {
		return
	}
	k.used(edge.ID(key.Identity.Actor.Key), from, now)
}

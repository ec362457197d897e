package identity

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/gateway/authn"
)

// Key is an API key of a client: what may be shown of it. Its digests stand in KeySecret.
type Key struct {
	edge.Meta
	Client    edge.ID        `json:"client" check:"prefix=cli" doc:"The client it belongs to."`
	Name      string         `json:"name" check:"max=120" doc:"Name people use." example:"Export of November"`
	Prefix    string         `json:"prefix" check:"max=16" doc:"How the key begins; not secret." example:"wg_live_Ha16AHYF"`
	LastFour  string         `json:"last_four" check:"max=4" doc:"Last characters of the secret, to tell keys apart." example:"8Xp1"`
	Algorithm int32          `json:"algorithm" check:"min=1 max=255" doc:"How the secret is digested: 1 is SHA-256."`
	Scopes    []string       `json:"scopes" check:"max=64 item.max=64" doc:"What it may do, as far as its client may, too." example:"crm:read"`
	Sites     []edge.ID      `json:"sites,omitempty" check:"max=64 item.prefix=sit" doc:"Sites at whose nodes it is valid; empty: those of its client."`
	Allow     []netip.Prefix `json:"allow,omitempty" check:"max=32" doc:"Networks it may be used from; empty: any." example:"203.0.113.0/24"`
	ExpiresAt time.Time      `json:"expires_at" doc:"From then on it is refused."`
	RevokedAt *time.Time     `json:"revoked_at,omitempty" doc:"When it was revoked, for ever."`
	Previous  *Previous      `json:"previous,omitempty" doc:"The secret from before the last rotation, while both are valid."`
}

// Previous is what may be shown of a secret that is being rotated out.
type Previous struct {
	LastFour  string    `json:"last_four" check:"max=4" doc:"Last characters of the secret."`
	ExpiresAt time.Time `json:"expires_at" doc:"End of the overlap."`
}

// KeySecret holds the digests of a key's secrets, the newest first.
type KeySecret struct {
	edge.Meta
	Secrets []StoredSecret `json:"secrets"`
}

// StoredSecret is the digest of one secret.
type StoredSecret struct {
	Algorithm int32     `json:"algorithm"`
	Digest    string    `json:"digest"` // hex
	ExpiresAt time.Time `json:"expires_at"`
}

// The bounds of keys.
const (
	maxActiveKeys  = 50                  // per client
	defaultOverlap = 24 * time.Hour      // both secrets valid after a rotation
	maxOverlap     = 30 * 24 * time.Hour // seconds as in the check tag of Rotation
)

// Reasons of keys.
var (
	ErrKeyInvalid  = edge.Reason{Code: "key_invalid", Says: "The key cannot be stored as described", Fix: "Correct the named fields"}
	ErrKeyLimit    = edge.Reason{Code: "key_limit", Says: "The client has as many active keys as it may have", Fix: "Revoke keys that are no longer used"}
	ErrKeyEnded    = edge.Reason{Code: "key_ended", Says: "The key was revoked, which is for ever", Fix: "Create a new key"}
	ErrKeyRotating = edge.Reason{Code: "key_rotating", Says: "Two secrets of the key are valid already", Fix: "Wait for the end of the overlap, or retire the older one first"}
)

var keys = &edge.Table[Key]{
	Name: "identity.key", Prefix: "key", Meta: func(k *Key) *edge.Meta { return &k.Meta },
	Indexes: []edge.Index[Key]{
		{Name: "client", Keys: func(k *Key) []string { return []string{string(k.Client)} }},
		// A node finds a key by its prefix before it knows the tenant.
		{Name: "prefix", Unique: true, Global: true, Keys: func(k *Key) []string { return []string{k.Prefix} }},
	},
}

var keySecrets = &edge.Table[KeySecret]{
	Name: "identity.key_secret", Prefix: "kse", Private: true, Meta: func(k *KeySecret) *edge.Meta { return &k.Meta },
}

// check refuses what the schema cannot see. now bounds the expiry: a year at most.
func (k *Key) check(now time.Time) error {
	bad := checkScopes(k.Scopes)
	if k.Name == "" {
		bad = append(bad, edge.Field("/name", "is empty", "give the name people use"))
	}
	if len(k.Scopes) == 0 {
		bad = append(bad, edge.Field("/scopes", "is empty", "name at least one scope"))
	}
	if !k.ExpiresAt.After(now) || k.ExpiresAt.After(now.AddDate(1, 0, 0)) {
		bad = append(bad, edge.Field("/expires_at", "is not within a year from now", "leave it out for a year"))
	}
	if bad != nil {
		return ErrKeyInvalid.Error(edge.Invalid, bad...)
	}
	return nil
}

func (k *Key) normalise() {
	k.Name, k.Scopes, k.Sites = strings.TrimSpace(k.Name), tidy(k.Scopes), tidy(k.Sites)
	for i, p := range k.Allow {
		k.Allow[i] = p.Masked()
	}
}

// active reports whether the key may still be used at now.
func (k *Key) active(now time.Time) bool { return k.RevokedAt == nil && now.Before(k.ExpiresAt) }

// Minted is what the accepting node made of a new secret: all of it but the secret.
type Minted struct {
	Digest   string `json:"digest" check:"max=64" doc:"SHA-256 of the secret."`
	LastFour string `json:"last_four" check:"max=4" doc:"Last characters of the secret."`
}

// mint makes a secret for the key's record and shows it in the first answer.
func mint(p edge.Prep, key edge.ID) *Minted {
	m := authn.Mint(key, p.Random)
	p.Once("secret", m.Token)
	return &Minted{Digest: hex.EncodeToString(m.Digest[:]), LastFour: m.LastFour}
}

func (m *Minted) stored(expires time.Time) StoredSecret {
	return StoredSecret{Algorithm: int32(authn.SHA256), Digest: m.Digest, ExpiresAt: expires}
}

// KeyCreated says that a key was made.
type KeyCreated struct {
	Key    edge.ID  `json:"key"`
	Client edge.ID  `json:"client"`
	Scopes []string `json:"scopes"`
}

// KeyRotated says that a key has a second secret, and until when the first is valid.
type KeyRotated struct {
	Key          edge.ID   `json:"key"`
	OverlapUntil time.Time `json:"overlap_until"`
}

// KeyRetired says that the older secret of a key was ended before its time.
type KeyRetired struct {
	Key edge.ID `json:"key"`
}

// KeyRevoked says that a key is refused for ever.
type KeyRevoked struct {
	Key edge.ID `json:"key"`
}

// EventName implements edge.Event.
func (KeyCreated) EventName() string { return "identity.key.created" }

// Subject implements edge.Event.
func (e KeyCreated) Subject() edge.ID { return e.Key }

// EventName implements edge.Event.
func (KeyRotated) EventName() string { return "identity.key.rotated" }

// Subject implements edge.Event.
func (e KeyRotated) Subject() edge.ID { return e.Key }

// EventName implements edge.Event.
func (KeyRetired) EventName() string { return "identity.key.retired" }

// Subject implements edge.Event.
func (e KeyRetired) Subject() edge.ID { return e.Key }

// EventName implements edge.Event.
func (KeyRevoked) EventName() string { return "identity.key.revoked" }

// Subject implements edge.Event.
func (e KeyRevoked) Subject() edge.ID { return e.Key }

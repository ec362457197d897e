package identity

import (
	"net/netip"
	"time"

	"wispgate/edge"
	"wispgate/gateway/authn"
)

// NewKey is what a key is made from. The secret is minted by the node and shown in the first answer only, as its member "secret".
type NewKey struct {
	edge.Common
	Client    edge.ID        `json:"client" check:"prefix=cli" doc:"The client it belongs to."`
	Name      string         `json:"name" check:"min=1 max=120" doc:"Name people use." example:"Export of November"`
	Scopes    []string       `json:"scopes,omitempty" check:"max=64 item.max=64" doc:"What it may do; all that its client may, unless given." example:"crm:read"`
	Sites     []edge.ID      `json:"sites,omitempty" check:"max=64 item.prefix=sit" doc:"Sites at whose nodes it is valid; empty: those of its client."`
	Allow     []netip.Prefix `json:"allow,omitempty" check:"max=32" doc:"Networks it may be used from; empty: any." example:"203.0.113.0/24"`
	ExpiresAt *time.Time     `json:"expires_at,omitempty" doc:"At most a year from now; a year unless given."`
	Minted    *Minted        `json:"minted,omitempty" check:"internal"`
}

// CreateKey makes a key for a client, within what the client and the actor hold.
var CreateKey = edge.Command[NewKey, Key]{
	Name: "identity.key.create", Scope: "identity:write", Class: edge.Admin, Summary: "Make an API key",
	Prepare: func(p edge.Prep, in *NewKey) error {
		if err := onlyNode("/minted", in.Minted == nil); err != nil {
			return err
		}
		in.Minted = mint(p, p.FirstID("key"))
		return nil
	},
	Handle: func(tx edge.Tx, in NewKey) (Key, error) {
		id := tx.NewID("key") // first: the secret was minted for it
		c, err := clients.Get(tx, in.Client)
		if err != nil {
			return Key{}, err
		}
		k := Key{
			Meta: in.Meta(id), Client: c.ID, Name: in.Name, Scopes: in.Scopes, Sites: in.Sites, Allow: in.Allow,
			ExpiresAt: expiry(tx, in.ExpiresAt),
		}
		if len(k.Scopes) == 0 {
			k.Scopes = c.Scopes
		}
		err = k.create(tx, &c, in.Minted)
		return k, err
	},
}

// expiry is the time asked for, or a year from now.
func expiry(v edge.View, asked *time.Time) time.Time {
	if asked != nil {
		return asked.UTC()
	}
	return v.Now().UTC().AddDate(1, 0, 0)
}

// create stores a new key with the digest of its secret.
func (k *Key) create(tx edge.Tx, c *Client, m *Minted) error {
	k.normalise()
	k.Prefix, k.LastFour, k.Algorithm = authn.Prefix+authn.TokenID(k.ID), m.LastFour, int32(authn.SHA256)
	if err := k.check(tx.Now()); err != nil {
		return err
	}
	if c.Status != Enabled {
		return ErrClientDisabled.Error(edge.Conflict)
	}
	if err := k.mayExist(tx, c); err != nil {
		return err
	}
	n := 0
	for other, err := range keys.Range(tx, "client", string(c.ID)) {
		if err != nil {
			return err
		}
		if other.active(tx.Now()) {
			n++
		}
	}
	if n >= maxActiveKeys {
		return ErrKeyLimit.Error(edge.Conflict)
	}
	if err := keys.Put(tx, k); err != nil {
		return err
	}
	s := KeySecret{Meta: edge.Meta{ID: k.ID.With("kse")}, Secrets: []StoredSecret{m.stored(k.ExpiresAt)}}
	if err := keySecrets.Put(tx, &s); err != nil {
		return err
	}
	tx.Emit(KeyCreated{k.ID, c.ID, k.Scopes})
	return nil
}

// mayExist refuses a key, or a new secret for one, that would do more than its client or the actor may.
func (k *Key) mayExist(tx edge.Tx, c *Client) error {
	bound := edge.Actor{Scopes: c.Scopes}
	for _, s := range c.Sites {
		bound.Sites = append(bound.Sites, string(s))
	}
	sites, none := commonSites(k.Sites, c.Sites)
	if err := mayGrant(bound, k.Scopes, sites); err != nil {
		return err
	}
	if none {
		return ErrGrant.Error(edge.Denied, edge.Field("/sites", "holds no site of the client's", "name sites of the client, or leave it out"))
	}
	if err := mayGrant(tx.Actor(), k.Scopes, sites); err != nil {
		return err
	}
	return mayGrantFrom(tx, k.Allow)
}

// Rotation says which key to rotate.
type Rotation struct {
	ID             edge.ID    `json:"id" check:"prefix=key" doc:"The key."`
	OverlapSeconds *int64     `json:"overlap_seconds,omitempty" check:"min=0 max=2592000" doc:"How long the present secret stays valid beside the new one; a day unless given, 30 days at most." example:"86400"`
	ExpiresAt      *time.Time `json:"expires_at,omitempty" doc:"Of the new secret: at most a year from now; a year unless given."`
	Minted         *Minted    `json:"minted,omitempty" check:"internal"`
}

// RotateKey gives a key a new secret. The present one stays valid during the overlap.
var RotateKey = edge.Command[Rotation, Key]{
	Name: "identity.key.rotate", Scope: "identity:write", Class: edge.Admin, Summary: "Give a key a new secret",
	Record: func(in Rotation) edge.ID { return in.ID },
	Prepare: func(p edge.Prep, in *Rotation) error {
		if err := onlyNode("/minted", in.Minted == nil); err != nil {
			return err
		}
		in.Minted = mint(p, in.ID)
		return nil
	},
	Handle: func(tx edge.Tx, in Rotation) (Key, error) {
		k, s, err := loadKey(tx, in.ID)
		if err != nil {
			return Key{}, err
		}
		c, err := clients.Get(tx, k.Client)
		if err != nil {
			return Key{}, err
		}
		if err := k.rotate(tx, &s, &c, in); err != nil {
			return Key{}, err
		}
		if err := keySecrets.Put(tx, &s); err != nil {
			return Key{}, err
		}
		if err := keys.Put(tx, &k); err != nil {
			return Key{}, err
		}
		until := tx.Now().UTC()
		if k.Previous != nil {
			until = k.Previous.ExpiresAt
		}
		tx.Emit(KeyRotated{k.ID, until})
		return k, nil
	},
}

// loadKey reads a key that is not revoked, with its digests.
func loadKey(v edge.View, id edge.ID) (k Key, s KeySecret, err error) {
	if k, err = keys.Get(v, id); err != nil {
		return k, s, err
	}
	if k.RevokedAt != nil {
		return k, s, ErrKeyEnded.Error(edge.Conflict)
	}
	s, err = keySecrets.Get(v, id.With("kse"))
	return k, s, err
}

// rotate puts the new secret first and cuts the present one's life to the overlap. A key that no longer expires in time is renewed by
// the same step. What its client has lost meanwhile, the key loses for good.
func (k *Key) rotate(tx edge.Tx, s *KeySecret, c *Client, in Rotation) error {
	now := tx.Now().UTC()
	if k.Previous != nil && now.Before(k.Previous.ExpiresAt) {
		return ErrKeyRotating.Error(edge.Conflict)
	}
	overlap := defaultOverlap
	if in.OverlapSeconds != nil {
		overlap = time.Duration(*in.OverlapSeconds) * time.Second
	}
	if overlap < 0 || overlap > maxOverlap {
		return ErrKeyInvalid.Error(edge.Invalid, edge.Field("/overlap_seconds", "is not within 30 days", "give 0 to 2592000"))
	}
	present := s.Secrets[0]
	present.ExpiresAt = earlier(present.ExpiresAt, now.Add(overlap))
	k.Previous = nil
	if now.Before(present.ExpiresAt) {
		k.Previous = &Previous{LastFour: k.LastFour, ExpiresAt: present.ExpiresAt}
	}
	k.Scopes, k.ExpiresAt, k.LastFour = commonScopes(k.Scopes, c.Scopes), expiry(tx, in.ExpiresAt), in.Minted.LastFour
	s.Secrets = []StoredSecret{in.Minted.stored(k.ExpiresAt), present}
	if err := k.check(now); err != nil {
		return err
	}
	return k.mayExist(tx, c)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// KeyRef names a key.
type KeyRef struct {
	ID edge.ID `json:"id" check:"prefix=key" doc:"The key."`
}

// RetireKey ends the overlap of a rotation now: only the newest secret stays valid. Repeating it is success without effect.
var RetireKey = edge.Command[KeyRef, Key]{
	Name: "identity.key.retire", Scope: "identity:write", Class: edge.Admin, Summary: "End a key's older secret now",
	Record: func(in KeyRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in KeyRef) (Key, error) {
		k, s, err := loadKey(tx, in.ID)
		if err != nil || k.Previous == nil {
			return k, err
		}
		k.Previous = nil
		for i := range s.Secrets[1:] {
			s.Secrets[i+1].ExpiresAt = earlier(s.Secrets[i+1].ExpiresAt, tx.Now().UTC())
		}
		if err := keySecrets.Put(tx, &s); err != nil {
			return Key{}, err
		}
		if err := keys.Put(tx, &k); err != nil {
			return Key{}, err
		}
		tx.Emit(KeyRetired{k.ID})
		return k, nil
	},
}

// RevokeKey refuses a key for ever. Anyone with the scope may: it only takes away. Repeating it is success without effect.
var RevokeKey = edge.Command[KeyRef, Key]{
	Name: "identity.key.revoke", Scope: "identity:write", Class: edge.Admin, Summary: "Revoke a key for ever",
	Record: func(in KeyRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in KeyRef) (Key, error) {
		k, err := keys.Get(tx, in.ID)
		if err != nil || k.RevokedAt != nil {
			return k, err
		}
		k.RevokedAt, k.Previous = new(tx.Now().UTC()), nil
		if err := keys.Put(tx, &k); err != nil {
			return Key{}, err
		}
		tx.Emit(KeyRevoked{k.ID})
		return k, nil
	},
}

// GetKey shows a key, never its secret.
var GetKey = edge.Query[KeyRef, Key]{
	Name: "identity.key.get", Scope: "identity:read", Class: edge.Read, Summary: "Show a key",
	Shows:  keys,
	Record: func(in KeyRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in KeyRef) (Key, error) { return keys.Get(v, in.ID) },
}

// KeyList says which keys to list.
type KeyList struct {
	edge.ListInput
	Client edge.ID `json:"client,omitempty" check:"prefix=cli" doc:"Only those of this client."`
}

// ListKeys lists the tenant's keys.
var ListKeys = edge.Query[KeyList, edge.Page[Key]]{
	Name: "identity.key.list", Scope: "identity:read", Class: edge.Read, Summary: "List the keys",
	Handle: func(v edge.View, in KeyList) (edge.Page[Key], error) {
		if in.Client != "" {
			return keys.List(v, "client", string(in.Client), in.ListInput)
		}
		return keys.List(v, "", "", in.ListInput)
	},
}

package aaa

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"wispgate/edge"
)

// NewCredential is what makes a login.
type NewCredential struct {
	edge.Common
	SubscriptionID edge.ID        `json:"subscription_id" check:"prefix=sub" doc:"The subscription it belongs to."`
	Type           CredentialType `json:"type,omitempty" doc:"pap_chap unless given."`
	Username       string         `json:"username" check:"min=1 max=253" doc:"The login with its realm; for type mac the device's address in any notation." example:"ann@example.net"`
	Password       edge.Secret    `json:"password,omitempty" check:"min=1 max=128" doc:"Left out, one is minted and shown once in the answer."`
	Scheme         Scheme         `json:"scheme,omitempty" doc:"sealed_cleartext unless given; argon2id serves PAP only."`
	MaxSessions    *uint16        `json:"max_sessions,omitempty" check:"max=64" doc:"Sessions at the same time, 1 unless given; 0: no limit."`
	MACBinding     MACBinding     `json:"mac_binding,omitempty" doc:"off unless given."`
	MAC            string         `json:"mac,omitempty" check:"max=20" doc:"The device it is bound to, in any notation."`
	StaticIP       *netip.Addr    `json:"static_ip,omitempty" doc:"IPv4 address of its sessions."`
	StaticPD       *netip.Prefix  `json:"static_pd,omitempty" doc:"IPv6 prefix delegated to it."`
	AllowedNAS     []edge.ID      `json:"allowed_nas,omitempty" check:"max=16 item.prefix=nas" doc:"Only through these; empty: any."`
	ValidFrom      *time.Time     `json:"valid_from,omitempty" doc:"First instant of the login; absent: at once."`
	ValidUntil     *time.Time     `json:"valid_until,omitempty" doc:"Last instant of the login; absent: no end."`
	Sealed         string         `json:"sealed_password,omitempty" check:"internal"`
}

// CreateCredential makes a login. Its entitlement follows in the same commit.
var CreateCredential = edge.Command[NewCredential, Credential]{
	Name: "aaa.credential.create", Scope: "aaa:write", Class: edge.Provision, Offline: true,
	Summary: "Create a login for a subscription",
	Prepare: func(p edge.Prep, in *NewCredential) error {
		if in.Type == TypeMAC {
			if in.Password != "" {
				return edge.ErrInput.Error(edge.Invalid, edge.Field("/password", "is not used by a MAC login", "leave it out"))
			}
			return onlyNode("/sealed_password", in.Sealed)
		}
		return keepSecret(p, p.FirstID(credentials.Prefix), in.Scheme, &in.Password, &in.Sealed)
	},
	Handle: func(tx edge.Tx, in NewCredential) (Credential, error) {
		c := Credential{
			Meta: in.Meta(tx.NewID(credentials.Prefix)), Type: in.Type, Scheme: in.Scheme, SubscriptionID: in.SubscriptionID,
			MaxSessions: 1, MACBinding: in.MACBinding, StaticIP: in.StaticIP, StaticPD: in.StaticPD, AllowedNAS: in.AllowedNAS,
			ValidFrom: in.ValidFrom, ValidUntil: in.ValidUntil, Status: CredentialStatusActive,
		}
		edge.Set(&c.MaxSessions, in.MaxSessions)
		if c.Type == "" {
			c.Type = TypePAPCHAP
		}
		if c.Scheme == "" {
			c.Scheme = SchemeSealed
			if c.Type == TypeMAC {
				c.Scheme = SchemeNone
			}
		}
		if err := c.admit(tx, in.Username, in.MAC); err != nil {
			return Credential{}, err
		}
		if err := credentials.Put(tx, &c); err != nil {
			return Credential{}, err
		}
		if c.Scheme != SchemeNone {
			s := CredentialSecret{Meta: edge.Meta{ID: c.ID.With(credentialSecrets.Prefix)}, Scheme: c.Scheme, Value: in.Sealed}
			if err := credentialSecrets.Put(tx, &s); err != nil {
				return Credential{}, err
			}
		}
		tx.Emit(CredentialCreated{c.ID, c.SubscriptionID, c.Username})
		return c, refresh(tx, c.ID)
	},
}

// admit normalises a new login and refuses one that is taken or one too many.
func (c *Credential) admit(tx edge.Tx, username, mac string) (err error) {
	if c.Username, err = normalLogin(c.Type, username); err != nil {
		return err
	}
	if c.MAC, err = parseMAC(mac); err != nil {
		return err
	}
	if err := c.normalise(); err != nil {
		return err
	}
	switch _, err := credentials.By(tx, "username", c.Username); {
	case err == nil:
		return reasonLoginTaken.Error(edge.Conflict, edge.Field("/username", "is taken", "use another login, or change the credential that has it"))
	case !isNotFound(err):
		return err
	}
	n := 0
	for _, err := range credentials.Range(tx, "subscription_id", string(c.SubscriptionID)) {
		if err != nil {
			return err
		}
		if n++; n >= maxCredentials {
			return reasonTooManyCredentials.Error(edge.Conflict, edge.FieldError{
				In: "body", Pointer: "/subscription_id", Reason: "has as many logins as it may", Limit: fmt.Sprint(maxCredentials), Fix: "use another subscription",
			})
		}
	}
	return nil
}

func isNotFound(err error) bool { return errors.Is(err, edge.ErrNotFound.Error(edge.NotFound)) }

// keepSecret seals or digests a password as its scheme says, minting one that is shown once where none is given.
func keepSecret(p edge.Prep, record edge.ID, scheme Scheme, plain *edge.Secret, kept *string) error {
	if scheme != SchemeArgon {
		return sealInto(p, record, "password", plain, kept)
	}
	if err := onlyNode("/sealed_password", *kept); err != nil {
		return err
	}
	if *plain == "" {
		*plain = mint(p)
		p.Once("password", *plain)
	}
	if err := checkSecret("/password", *plain); err != nil {
		return err
	}
	digest, err := p.Digest(*plain)
	if err != nil {
		return err
	}
	*plain, *kept = "", digest
	return nil
}

// CredentialChange carries the members of a login that change.
type CredentialChange struct {
	ID edge.ID `json:"id" check:"prefix=crd" doc:"Identifier of the record."`
	edge.CommonChange
	MaxSessions *uint16       `json:"max_sessions,omitempty" check:"max=64" doc:"Sessions at the same time; 0: no limit."`
	MACBinding  *MACBinding   `json:"mac_binding,omitempty" doc:"Whether it works from one device only."`
	MAC         *string       `json:"mac,omitempty" check:"max=20" doc:"The device it is bound to, in any notation; empty forgets it."`
	StaticIP    *netip.Addr   `json:"static_ip,omitempty" doc:"IPv4 address of its sessions."`
	StaticPD    *netip.Prefix `json:"static_pd,omitempty" doc:"IPv6 prefix delegated to it."`
	AllowedNAS  *[]edge.ID    `json:"allowed_nas,omitempty" check:"max=16 item.prefix=nas" doc:"Replaces the whole list; empty: any."`
	ValidFrom   *time.Time    `json:"valid_from,omitempty" doc:"First instant of the login; absent: at once."`
	ValidUntil  *time.Time    `json:"valid_until,omitempty" doc:"Last instant of the login; absent: no end."`
	Clear       []string      `json:"clear,omitempty" check:"max=4 item.enum=static_ip|static_pd|valid_from|valid_until" doc:"Members to remove."`
}

// UpdateCredential changes how a login may be used.
var UpdateCredential = edge.Command[CredentialChange, Credential]{
	Name: "aaa.credential.update", Scope: "aaa:write", Class: edge.Provision, NeedsMatch: true,
	Summary: "Change how a login may be used",
	Record:  func(in CredentialChange) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in CredentialChange) (Credential, error) {
		c, err := liveCredential(tx, in.ID)
		if err != nil {
			return Credential{}, err
		}
		in.Apply(&c.Meta)
		edge.Set(&c.MaxSessions, in.MaxSessions)
		edge.Set(&c.MACBinding, in.MACBinding)
		edge.Set(&c.AllowedNAS, in.AllowedNAS)
		replace(&c.StaticIP, in.StaticIP, "static_ip", in.Clear)
		replace(&c.StaticPD, in.StaticPD, "static_pd", in.Clear)
		replace(&c.ValidFrom, in.ValidFrom, "valid_from", in.Clear)
		replace(&c.ValidUntil, in.ValidUntil, "valid_until", in.Clear)
		if in.MAC != nil {
			if c.MAC, err = parseMAC(*in.MAC); err != nil {
				return Credential{}, err
			}
		}
		if c.MACBinding == BindingOff && in.MAC == nil {
			c.MAC = ""
		}
		return putCredential(tx, c, CredentialUpdated{c.ID})
	},
}

// replace sets an optional member, or takes it away when removed names it.
func replace[T any](to **T, from *T, name string, removed []string) {
	switch {
	case slices.Contains(removed, name):
		*to = nil
	case from != nil:
		*to = from
	}
}

// liveCredential loads a login that is not revoked.
func liveCredential(tx edge.Tx, id edge.ID) (Credential, error) {
	c, err := credentials.Get(tx, id)
	if err == nil && c.Status == CredentialStatusRevoked {
		return c, reasonCredentialRevoked.Error(edge.Conflict)
	}
	return c, err
}

// putCredential checks and stores a login, says what happened and brings its entitlement along.
func putCredential(tx edge.Tx, c Credential, e edge.Event) (Credential, error) {
	if err := c.normalise(); err != nil {
		return Credential{}, err
	}
	if err := credentials.Put(tx, &c); err != nil {
		return Credential{}, err
	}
	tx.Emit(e)
	return c, refresh(tx, c.ID)
}

// CredentialRotation replaces a login's password.
type CredentialRotation struct {
	ID       edge.ID     `json:"id" check:"prefix=crd" doc:"Identifier of the record."`
	Password edge.Secret `json:"password,omitempty" check:"min=1 max=128" doc:"Left out, one is minted and shown once in the answer."`
	Scheme   Scheme      `json:"scheme,omitempty" doc:"sealed_cleartext unless given; argon2id serves PAP only."`
	Sealed   string      `json:"sealed_password,omitempty" check:"internal"`
}

// RotateCredential gives a login a new password. Live sessions go on.
var RotateCredential = edge.Command[CredentialRotation, Credential]{
	Name: "aaa.credential.rotate", Scope: "aaa:write", Class: edge.Provision, Offline: true,
	Summary: "Replace the password of a login",
	Record:  func(in CredentialRotation) edge.ID { return in.ID },
	Prepare: func(p edge.Prep, in *CredentialRotation) error {
		return keepSecret(p, in.ID, in.Scheme, &in.Password, &in.Sealed)
	},
	Handle: func(tx edge.Tx, in CredentialRotation) (Credential, error) {
		c, err := liveCredential(tx, in.ID)
		if err != nil {
			return Credential{}, err
		}
		if c.Type == TypeMAC {
			return Credential{}, edge.ErrInput.Error(edge.Invalid, edge.Field("/password", "is not used by a MAC login", "bind another device instead"))
		}
		s, err := credentialSecrets.Get(tx, c.ID.With(credentialSecrets.Prefix))
		if err != nil {
			return Credential{}, err
		}
		if err := laterRotation(tx, c.RotatedAt, "/password"); err != nil {
			return Credential{}, err
		}
		if s.Scheme = in.Scheme; s.Scheme == "" {
			s.Scheme = SchemeSealed
		}
		s.Value = in.Sealed
		if err := credentialSecrets.Put(tx, &s); err != nil {
			return Credential{}, err
		}
		c.Scheme, c.RotatedAt = s.Scheme, new(edge.AcceptedAt(tx).UTC())
		return putCredential(tx, c, CredentialRotated{c.ID})
	},
}

// laterRotation refuses a rotation that a cut-off node had accepted before another one which the cluster knows already: somebody must say
// which secret holds. The one that was accepted last wins by itself.
func laterRotation(tx edge.Tx, last *time.Time, at string) error {
	if !tx.Acknowledged() || last == nil || !last.After(edge.AcceptedAt(tx)) {
		return nil
	}
	return edge.ErrFieldConflict.Error(edge.Conflict, edge.Field(at, "was replaced otherwise since", "decide which one holds"))
}

// CredentialRebind moves a bound login to another device.
type CredentialRebind struct {
	ID  edge.ID `json:"id" check:"prefix=crd" doc:"Identifier of the record."`
	MAC string  `json:"mac,omitempty" check:"max=20" doc:"The new device, in any notation. Left out, the next device that comes online is learned."`
}

// RebindCredential follows a swap of the subscriber's device.
var RebindCredential = edge.Command[CredentialRebind, Credential]{
	Name: "aaa.credential.rebind", Scope: "aaa:write", Class: edge.Provision, Offline: true,
	Summary: "Bind a login to another device",
	Record:  func(in CredentialRebind) edge.ID { return in.ID },
	Prepare: func(_ edge.Prep, in *CredentialRebind) (err error) { // as the record will hold it
		in.MAC, err = parseMAC(in.MAC)
		return err
	},
	Handle: func(tx edge.Tx, in CredentialRebind) (Credential, error) {
		c, err := liveCredential(tx, in.ID)
		if err != nil {
			return Credential{}, err
		}
		mac, err := parseMAC(in.MAC)
		if err != nil || mac == c.MAC && mac != "" {
			return c, err
		}
		if c.MAC = mac; mac == "" {
			c.MACBinding = BindingLearn
		} else if c.MACBinding == BindingOff {
			c.MACBinding = BindingLocked
		}
		return putCredential(tx, c, CredentialUpdated{c.ID})
	},
}

// CredentialRef names a login.
type CredentialRef struct {
	ID edge.ID `json:"id" check:"prefix=crd" doc:"Identifier of the record."`
}

// CredentialMove names a login and why it moves.
type CredentialMove struct {
	ID  edge.ID `json:"id" check:"prefix=crd" doc:"Identifier of the record."`
	Why string  `json:"why,omitempty" check:"max=200" doc:"For the history."`
}

// LockCredential refuses a login until it is unlocked.
var LockCredential = edge.Command[CredentialMove, Credential]{
	Name: "aaa.credential.lock", Scope: "aaa:write", Class: edge.Provision, Offline: true,
	Summary: "Refuse a login until it is unlocked",
	Record:  func(in CredentialMove) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in CredentialMove) (Credential, error) {
		c, err := liveCredential(tx, in.ID)
		if err != nil || c.Status == CredentialStatusLocked {
			return c, err
		}
		c.Status, c.LockedFor = CredentialStatusLocked, in.Why
		return putCredential(tx, c, CredentialLocked{c.ID, in.Why})
	},
}

// UnlockCredential admits a locked login again.
var UnlockCredential = edge.Command[CredentialRef, Credential]{
	Name: "aaa.credential.unlock", Scope: "aaa:write", Class: edge.Provision,
	Summary: "Admit a locked login again",
	Record:  func(in CredentialRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in CredentialRef) (Credential, error) {
		c, err := liveCredential(tx, in.ID)
		if err != nil || c.Status == CredentialStatusActive {
			return c, err
		}
		c.Status, c.LockedFor = CredentialStatusActive, ""
		return putCredential(tx, c, CredentialUnlocked{c.ID})
	},
}

// RevokeCredential refuses a login for ever and removes its secret. It always wins: there is no state it cannot follow.
var RevokeCredential = edge.Command[CredentialMove, Credential]{
	Name: "aaa.credential.revoke", Scope: "aaa:write", Class: edge.Provision, Offline: true,
	Summary: "Refuse a login for ever and remove its secret",
	Record:  func(in CredentialMove) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in CredentialMove) (Credential, error) {
		c, err := credentials.Get(tx, in.ID)
		if err != nil || c.Status == CredentialStatusRevoked {
			return c, err
		}
		if c.Scheme != SchemeNone {
			if err := credentialSecrets.Delete(tx, c.ID.With(credentialSecrets.Prefix)); err != nil {
				return Credential{}, err
			}
		}
		c.Status = CredentialStatusRevoked
		return putCredential(tx, c, CredentialRevoked{c.ID, in.Why})
	},
}

// GetCredential shows one login, never its secret.
var GetCredential = edge.Query[CredentialRef, Credential]{
	Name: "aaa.credential.get", Scope: "aaa:read", Class: edge.Read, Summary: "Show a login",
	Shows:  credentials,
	Record: func(in CredentialRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in CredentialRef) (Credential, error) { return credentials.Get(v, in.ID) },
}

// CredentialFilter narrows a list of logins; at most one filter at a time.
type CredentialFilter struct {
	edge.ListInput
	SubscriptionID edge.ID `json:"subscription_id,omitempty" check:"prefix=sub" doc:"Only those of this subscription."`
	Username       string  `json:"username,omitempty" check:"max=253" doc:"Only the one with this login, in any notation."`
	StaticIP       string  `json:"static_ip,omitempty" check:"max=45 format=ip" doc:"Only the one with this address."`
	ExternalID     string  `json:"external_id,omitempty" check:"max=128" doc:"Only the one with this external id."`
}

// ListCredentials lists logins.
var ListCredentials = edge.Query[CredentialFilter, edge.Page[Credential]]{
	Name: "aaa.credential.list", Scope: "aaa:read", Class: edge.Read, Summary: "List logins",
	Handle: func(v edge.View, in CredentialFilter) (edge.Page[Credential], error) {
		index, key, err := oneFilter(filter{"subscription_id", string(in.SubscriptionID)}, filter{"username", in.Username}, filter{"static_ip", in.StaticIP}, filter{"external_id", in.ExternalID})
		if err != nil {
			return edge.Page[Credential]{}, err
		}
		if index == "username" {
			c, ok, err := findLogin(v, key)
			if err != nil || !ok {
				return edge.Page[Credential]{Data: []Credential{}}, err
			}
			key = c.Username
		}
		return credentials.List(v, index, key, in.ListInput)
	},
}

// findLogin finds the credential that RADIUS would find for a User-Name: the normalised login first, then the same as a MAC address.
func findLogin(v edge.View, raw string) (Credential, bool, error) {
	var buf [maxLogin]byte
	login, ok := appendLogin(buf[:0], []byte(raw))
	if !ok {
		return Credential{}, false, nil
	}
	c, err := credentials.By(v, "username", string(login))
	if err == nil || !isNotFound(err) {
		return c, err == nil, err
	}
	if login, ok = lookupMAC(buf[:0], []byte(raw)); !ok {
		return Credential{}, false, nil
	}
	c, err = credentials.By(v, "username", string(login))
	if err != nil && !isNotFound(err) {
		return c, false, err
	}
	return c, err == nil, nil
}

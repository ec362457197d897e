package aaa

import (
	"net/netip"
	"time"

	"wispgate/edge"
)

// Credential is a login of a subscription: what a CPE shows to get online. Its secret lives sealed in a private record beside it.
type Credential struct {
	edge.Meta
	Type           CredentialType   `json:"type" doc:"What the login proves itself with."`
	Username       string           `json:"username" doc:"The login, normalised, with its realm; unique per tenant." example:"ann@example.net"`
	Scheme         Scheme           `json:"scheme" doc:"How its secret is kept."`
	SubscriptionID edge.ID          `json:"subscription_id" doc:"The subscription it belongs to."`
	MaxSessions    uint16           `json:"max_sessions" doc:"Sessions at the same time; 0: no limit."`
	MACBinding     MACBinding       `json:"mac_binding" doc:"Whether it works from one device only."`
	MAC            string           `json:"mac,omitempty" doc:"The device it is bound to." example:"AA:BB:CC:DD:EE:FF"`
	StaticIP       *netip.Addr      `json:"static_ip,omitempty" doc:"IPv4 address of its sessions; unique per tenant."`
	StaticPD       *netip.Prefix    `json:"static_pd,omitempty" doc:"IPv6 prefix delegated to it; unique per tenant."`
	AllowedNAS     []edge.ID        `json:"allowed_nas,omitempty" doc:"Only through these; empty: any."`
	ValidFrom      *time.Time       `json:"valid_from,omitempty" doc:"First instant of the login; absent: at once."`
	ValidUntil     *time.Time       `json:"valid_until,omitempty" doc:"Last instant of the login; absent: no end."`
	Status         CredentialStatus `json:"status" doc:"Where it stands."`
	LockedFor      string           `json:"locked_for,omitempty" doc:"Why it is locked, as whoever locked it said."`
	RotatedAt      *time.Time       `json:"secret_rotated_at,omitempty" doc:"When its secret was last replaced."`
}

// CredentialType says what the login proves itself with.
type CredentialType string

// The types that work.
const (
	TypePAPCHAP CredentialType = "pap_chap" // a user name and a password, by PAP or CHAP
	TypeMAC     CredentialType = "mac"      // the device's address alone, as RouterOS DHCP and hotspots ask; no password
)

// Values lists the types.
func (CredentialType) Values() []string { return []string{string(TypePAPCHAP), string(TypeMAC)} }

// Scheme says how a secret is kept. Keep only what the tenant's methods need: CHAP needs the clear text back, PAP does not.
type Scheme string

// The schemes.
const (
	SchemeSealed Scheme = "sealed_cleartext" // PAP and CHAP
	SchemeArgon  Scheme = "argon2id"         // PAP only
	SchemeNone   Scheme = "none"             // MAC logins have no secret
)

// Values lists the schemes.
func (Scheme) Values() []string {
	return []string{string(SchemeSealed), string(SchemeArgon), string(SchemeNone)}
}

// MACBinding says whether a login works from one device only.
type MACBinding string

// With learn the first device that comes online is kept and from then on required; locked requires the one that is set.
const (
	BindingOff    MACBinding = "off"
	BindingLearn  MACBinding = "learn"
	BindingLocked MACBinding = "locked"
)

// Values lists the bindings.
func (MACBinding) Values() []string {
	return []string{string(BindingOff), string(BindingLearn), string(BindingLocked)}
}

// CredentialStatus is where a login stands. Revoked is final.
type CredentialStatus string

// The statuses.
const (
	CredentialStatusActive  CredentialStatus = "active"
	CredentialStatusLocked  CredentialStatus = "locked"
	CredentialStatusRevoked CredentialStatus = "revoked"
)

// Values lists the statuses.
func (CredentialStatus) Values() []string {
	return []string{string(CredentialStatusActive), string(CredentialStatusLocked), string(CredentialStatusRevoked)}
}

// CredentialSecret is the sealed or digested secret of a credential. Revoking removes it.
type CredentialSecret struct {
	edge.Meta
	Scheme Scheme `json:"scheme"`
	Value  string `json:"value"` // a sealed value bound to the credential, or an argon2id PHC string
}

// normalise brings the record into its stored form and refuses what cannot work.
func (c *Credential) normalise() error {
	var f []edge.FieldError
	bad := func(is bool, pointer, reason, fix string) {
		if is {
			f = append(f, edge.Field(pointer, reason, fix))
		}
	}
	if c.MACBinding == "" {
		c.MACBinding = BindingOff
	}
	bad(c.MACBinding == BindingLocked && c.MAC == "", "/mac", "is missing", "name the device, or use learn")
	bad(c.MACBinding == BindingOff && c.MAC != "", "/mac", "is set though the login is not bound", "set mac_binding to locked or learn, or leave mac out")
	if c.StaticIP != nil {
		a := c.StaticIP.Unmap().WithZone("")
		c.StaticIP = &a
		bad(!a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}),
			"/static_ip", "is not a unicast IPv4 address", "use an address of your network")
	}
	if p := c.StaticPD; p != nil {
		bad(!p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() < 32 || p.Bits() > 64 || p.Masked() != *p || p.Addr().IsMulticast(),
			"/static_pd", "is not an IPv6 prefix of length 32 to 64 without host bits", "write it like 2001:db8:0:100::/56")
	}
	bad(c.ValidFrom != nil && c.ValidUntil != nil && !c.ValidFrom.Before(*c.ValidUntil), "/valid_until", "is not after valid_from", "use a later instant")
	bad((c.Scheme == SchemeNone) != (c.Type == TypeMAC), "/scheme", "does not fit the type", "leave it out")
	if f != nil {
		return edge.ErrInput.Error(edge.Invalid, f...)
	}
	return nil
}

var credentials = &edge.Table[Credential]{
	Name: "aaa.credential", Prefix: "crd", Meta: func(c *Credential) *edge.Meta { return &c.Meta },
	Indexes: []edge.Index[Credential]{
		{Name: "username", Unique: true, Keys: func(c *Credential) []string { return []string{c.Username} }},
		{Name: "subscription_id", Keys: func(c *Credential) []string { return present(string(c.SubscriptionID)) }},
		{Name: "static_ip", Unique: true, Keys: func(c *Credential) []string {
			if c.StaticIP == nil || c.Status == CredentialStatusRevoked {
				return nil
			}
			return []string{c.StaticIP.String()}
		}},
		{Name: "static_pd", Unique: true, Keys: func(c *Credential) []string {
			if c.StaticPD == nil || c.Status == CredentialStatusRevoked {
				return nil
			}
			return []string{c.StaticPD.String()}
		}},
	},
}

var credentialSecrets = &edge.Table[CredentialSecret]{
	Name: "aaa.credential_secret", Prefix: "crs", Private: true, Meta: func(s *CredentialSecret) *edge.Meta { return &s.Meta },
}

// maxCredentials bounds the logins of one subscription, so that a change of its access fits one commit.
const maxCredentials = 24

// CredentialCreated says that a subscription has a new login.
type CredentialCreated struct {
	Credential   edge.ID `json:"credential" doc:"The login's record."`
	Subscription edge.ID `json:"subscription" doc:"The subscription."`
	Username     string  `json:"username" doc:"The login."`
}

// EventName implements edge.Event.
func (CredentialCreated) EventName() string { return "aaa.credential.created" }

// Subject implements edge.Event.
func (e CredentialCreated) Subject() edge.ID { return e.Credential }

// CredentialUpdated says that a login's record changed.
type CredentialUpdated struct {
	Credential edge.ID `json:"credential" doc:"The login's record."`
}

// EventName implements edge.Event.
func (CredentialUpdated) EventName() string { return "aaa.credential.updated" }

// Subject implements edge.Event.
func (e CredentialUpdated) Subject() edge.ID { return e.Credential }

// CredentialRotated says that a login has a new secret.
type CredentialRotated struct {
	Credential edge.ID `json:"credential" doc:"The login's record."`
}

// EventName implements edge.Event.
func (CredentialRotated) EventName() string { return "aaa.credential.rotated" }

// Subject implements edge.Event.
func (e CredentialRotated) Subject() edge.ID { return e.Credential }

// CredentialLocked says that a login is refused until it is unlocked.
type CredentialLocked struct {
	Credential edge.ID `json:"credential" doc:"The login's record."`
	Why        string  `json:"why,omitempty" doc:"For the history."`
}

// EventName implements edge.Event.
func (CredentialLocked) EventName() string { return "aaa.credential.locked" }

// Subject implements edge.Event.
func (e CredentialLocked) Subject() edge.ID { return e.Credential }

// CredentialUnlocked says that a locked login works again.
type CredentialUnlocked struct {
	Credential edge.ID `json:"credential" doc:"The login's record."`
}

// EventName implements edge.Event.
func (CredentialUnlocked) EventName() string { return "aaa.credential.unlocked" }

// Subject implements edge.Event.
func (e CredentialUnlocked) Subject() edge.ID { return e.Credential }

// CredentialRevoked says that a login is refused for ever and its secret is gone.
type CredentialRevoked struct {
	Credential edge.ID `json:"credential" doc:"The login's record."`
	Why        string  `json:"why,omitempty" doc:"For the history."`
}

// EventName implements edge.Event.
func (CredentialRevoked) EventName() string { return "aaa.credential.revoked" }

// Subject implements edge.Event.
func (e CredentialRevoked) Subject() edge.ID { return e.Credential }

// CredentialMACLearned says that a login is bound, from now on, to the device it first came online with.
type CredentialMACLearned struct {
	Credential edge.ID `json:"credential" doc:"The login's record."`
	MAC        string  `json:"mac" doc:"The device's address."`
}

// EventName implements edge.Event.
func (CredentialMACLearned) EventName() string { return "aaa.credential.mac_learned" }

// Subject implements edge.Event.
func (e CredentialMACLearned) Subject() edge.ID { return e.Credential }

package aaa

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"wispgate/aaa/dict"
	"wispgate/edge"
)

// NAS is a router or access point that asks over RADIUS. Its addresses are unique among all tenants of the cluster, because the source
// address is all that tells whose request a packet is.
type NAS struct {
	edge.Meta
	Identifier   string       `json:"identifier" doc:"NAS-Identifier the device sends; unique per tenant." example:"twr7-core"`
	Addresses    []netip.Addr `json:"addresses" doc:"Source addresses of its packets; unique among all tenants."`
	Vendor       Vendor       `json:"vendor" doc:"Which attributes its replies carry."`
	SiteID       edge.ID      `json:"site_id,omitempty" doc:"The site it stands at."`
	CoAPort      uint16       `json:"coa_port" doc:"UDP port for CoA and Disconnect."`
	Capabilities Capabilities `json:"capabilities" doc:"What the device can do beyond plain RADIUS."`
	Require      RequireMA    `json:"require_message_authenticator" doc:"Whether requests without Message-Authenticator are dropped; auto: once it has sent one."`
	SeenMA       bool         `json:"message_authenticator_seen" doc:"It has sent a valid Message-Authenticator."`
	Status       NASStatus    `json:"status" doc:"Where it stands."`
	RotatedAt    *time.Time   `json:"secret_rotated_at,omitempty" doc:"When its shared secret was last replaced."`
	Rotating     bool         `json:"rotating,omitempty" doc:"The secret before the last rotation is still accepted."`
}

// Capabilities says what the device can do beyond plain RADIUS.
type Capabilities struct {
	CoARate    bool `json:"coa_rate,omitempty" doc:"Changes rates of a live session by CoA."`
	Disconnect bool `json:"disconnect,omitempty" doc:"Ends a session on request."`
	Pool       bool `json:"pool,omitempty" doc:"Has address pools of its own."`
	V6PD       bool `json:"v6pd,omitempty" doc:"Delegates IPv6 prefixes."`
	OctetLimit bool `json:"octet_limit,omitempty" doc:"Ends a session after a volume."`
}

// Vendor chooses a reply profile.
type Vendor string

// The vendors that code names; dict has a profile for each value.
const (
	MikroTik Vendor = "mikrotik"
	Generic  Vendor = "generic" // standard attributes and WISPr rates
)

// Values lists the vendors that have a profile.
func (Vendor) Values() []string { return dict.ProfileNames() }

// RequireMA says whether a request must carry a Message-Authenticator (CVE-2024-3596).
type RequireMA string

// The policies of reference: present and wrong is always dropped.
const (
	RequireAuto   RequireMA = "auto"
	RequireAlways RequireMA = "always"
	RequireNever  RequireMA = "never"
)

// Values lists the policies.
func (RequireMA) Values() []string {
	return []string{string(RequireAuto), string(RequireAlways), string(RequireNever)}
}

// NASStatus is where a NAS stands.
type NASStatus string

// A disabled NAS is answered with silence.
const (
	NASStatusActive   NASStatus = "active"
	NASStatusDisabled NASStatus = "disabled"
)

// Values lists the statuses.
func (NASStatus) Values() []string {
	return []string{string(NASStatusActive), string(NASStatusDisabled)}
}

// NASSecret holds a NAS's sealed shared secrets beside it. Secondary is the one before the last rotation, "" when it is retired.
type NASSecret struct {
	edge.Meta
	Primary   string `json:"primary"`
	Secondary string `json:"secondary,omitempty"`
}

const (
	defaultCoAPort = 3799 // RFC 5176; old RouterOS uses 1700
	maxAddresses   = 8
)

// normalise brings the record into its stored form and refuses what cannot work.
func (n *NAS) normalise() error {
	var fields []edge.FieldError
	if len(n.Addresses) < 1 || len(n.Addresses) > maxAddresses {
		fields = append(fields, edge.FieldError{In: "body", Pointer: "/addresses", Reason: "has none or too many entries", Limit: "1 to 8", Fix: "list the addresses its packets come from"})
	}
	for i, a := range n.Addresses {
		a = a.Unmap().WithZone("")
		n.Addresses[i] = a
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			fields = append(fields, edge.Field(fmt.Sprintf("/addresses/%d", i), "is not the address of a device", "use the address its packets come from"))
		} else if slices.Contains(n.Addresses[:i], a) {
			fields = append(fields, edge.Field(fmt.Sprintf("/addresses/%d", i), "is listed twice", "list each address once"))
		}
	}
	if n.CoAPort == 0 {
		n.CoAPort = defaultCoAPort
	}
	if n.Require == "" {
		n.Require = RequireAuto
	}
	if n.Vendor == "" {
		n.Vendor = Generic
	}
	if len(fields) > 0 {
		return edge.ErrInput.Error(edge.Invalid, fields...)
	}
	return nil
}

var nasTable = &edge.Table[NAS]{
	Name: "aaa.nas", Prefix: "nas", Meta: func(n *NAS) *edge.Meta { return &n.Meta },
	Indexes: []edge.Index[NAS]{
		{Name: "identifier", Unique: true, Keys: func(n *NAS) []string { return []string{n.Identifier} }},
		{Name: "addresses", Unique: true, Global: true, Keys: func(n *NAS) []string {
			keys := make([]string, len(n.Addresses))
			for i, a := range n.Addresses {
				keys[i] = a.String()
			}
			return keys
		}},
		{Name: "site_id", Keys: func(n *NAS) []string { return present(string(n.SiteID)) }},
	},
}

var nasSecrets = &edge.Table[NASSecret]{
	Name: "aaa.nas_secret", Prefix: "nsx", Private: true, Meta: func(s *NASSecret) *edge.Meta { return &s.Meta },
}

// present is an index key for an optional member.
func present(key string) []string {
	if key == "" {
		return nil
	}
	return []string{key}
}

// NASRegistered says that a NAS may ask from now on.
type NASRegistered struct {
	NAS        edge.ID      `json:"nas" doc:"The NAS."`
	Identifier string       `json:"identifier" doc:"Its NAS-Identifier."`
	Addresses  []netip.Addr `json:"addresses" doc:"Its addresses."`
}

// EventName implements edge.Event.
func (NASRegistered) EventName() string { return "aaa.nas.registered" }

// Subject implements edge.Event.
func (e NASRegistered) Subject() edge.ID { return e.NAS }

// NASUpdated says that a NAS's record changed.
type NASUpdated struct {
	NAS edge.ID `json:"nas" doc:"The NAS."`
}

// EventName implements edge.Event.
func (NASUpdated) EventName() string { return "aaa.nas.updated" }

// Subject implements edge.Event.
func (e NASUpdated) Subject() edge.ID { return e.NAS }

// NASSecretRotated says that a NAS has a new shared secret; KeepsOld that the one before is still accepted.
type NASSecretRotated struct {
	NAS      edge.ID `json:"nas" doc:"The NAS."`
	KeepsOld bool    `json:"keeps_old" doc:"The secret before is still accepted."`
}

// EventName implements edge.Event.
func (NASSecretRotated) EventName() string { return "aaa.nas.secret_rotated" }

// Subject implements edge.Event.
func (e NASSecretRotated) Subject() edge.ID { return e.NAS }

// NASSecretRetired says that the secret before the last rotation is no longer accepted.
type NASSecretRetired struct {
	NAS edge.ID `json:"nas" doc:"The NAS."`
}

// EventName implements edge.Event.
func (NASSecretRetired) EventName() string { return "aaa.nas.secret_retired" }

// Subject implements edge.Event.
func (e NASSecretRetired) Subject() edge.ID { return e.NAS }

// NASDisabled says that a NAS is answered with silence from now on.
type NASDisabled struct {
	NAS edge.ID `json:"nas" doc:"The NAS."`
}

// EventName implements edge.Event.
func (NASDisabled) EventName() string { return "aaa.nas.disabled" }

// Subject implements edge.Event.
func (e NASDisabled) Subject() edge.ID { return e.NAS }

// NASEnabled says that a disabled NAS is answered again.
type NASEnabled struct {
	NAS edge.ID `json:"nas" doc:"The NAS."`
}

// EventName implements edge.Event.
func (NASEnabled) EventName() string { return "aaa.nas.enabled" }

// Subject implements edge.Event.
func (e NASEnabled) Subject() edge.ID { return e.NAS }

// NASDeleted says that a NAS is gone; its sessions stay until they go stale.
type NASDeleted struct {
	NAS        edge.ID `json:"nas" doc:"The NAS."`
	Identifier string  `json:"identifier" doc:"Its NAS-Identifier."`
}

// EventName implements edge.Event.
func (NASDeleted) EventName() string { return "aaa.nas.deleted" }

// Subject implements edge.Event.
func (e NASDeleted) Subject() edge.ID { return e.NAS }

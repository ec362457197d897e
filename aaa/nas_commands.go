package aaa

import (
	"net/netip"
	"slices"

	"wispgate/edge"
)

// NewNAS is what registers a NAS.
type NewNAS struct {
	edge.Common
	Identifier   string       `json:"identifier" check:"min=1 max=128" pattern:"^[^\\x00-\\x1f\\x7f]+$" doc:"NAS-Identifier the device sends; unique per tenant." example:"twr7-core"`
	Addresses    []netip.Addr `json:"addresses" check:"min=1 max=8" doc:"Source addresses of its packets; unique among all tenants." example:"[\"10.20.0.1\"]"`
	Secret       edge.Secret  `json:"secret,omitempty" check:"min=8 max=64" doc:"Shared secret. Left out, one is minted and shown once in the answer."`
	Vendor       Vendor       `json:"vendor,omitempty" doc:"Which attributes its replies carry; generic unless given." example:"mikrotik"`
	SiteID       edge.ID      `json:"site_id,omitempty" check:"prefix=sit" doc:"The site it stands at."`
	CoAPort      uint16       `json:"coa_port,omitempty" check:"min=1" doc:"UDP port for CoA and Disconnect; 3799 unless given."`
	Capabilities Capabilities `json:"capabilities,omitzero" doc:"What the device can do beyond plain RADIUS."`
	Require      RequireMA    `json:"require_message_authenticator,omitempty" doc:"auto unless given."`
	Sealed       string       `json:"sealed_secret,omitempty" check:"internal"`
}

// RegisterNAS admits a device.
var RegisterNAS = edge.Command[NewNAS, NAS]{
	Name: "aaa.nas.register", Scope: "aaa:write", Class: edge.Provision, Offline: true,
	Summary: "Register a router or access point that asks over RADIUS",
	Prepare: func(p edge.Prep, in *NewNAS) error {
		return sealInto(p, p.FirstID(nasTable.Prefix), "secret", &in.Secret, &in.Sealed)
	},
	Handle: func(tx edge.Tx, in NewNAS) (NAS, error) {
		n := NAS{
			Meta: in.Meta(tx.NewID(nasTable.Prefix)), Identifier: in.Identifier, Addresses: slices.Clone(in.Addresses),
			Vendor: in.Vendor, SiteID: in.SiteID, CoAPort: in.CoAPort, Capabilities: in.Capabilities, Require: in.Require, Status: NASStatusActive,
		}
		if err := n.normalise(); err != nil {
			return NAS{}, err
		}
		if err := nasTable.Put(tx, &n); err != nil {
			return NAS{}, err
		}
		s := NASSecret{Meta: edge.Meta{ID: n.ID.With(nasSecrets.Prefix)}, Primary: in.Sealed}
		if err := nasSecrets.Put(tx, &s); err != nil {
			return NAS{}, err
		}
		tx.Emit(NASRegistered{n.ID, n.Identifier, n.Addresses})
		return n, nil
	},
}

// NASChange carries the members of a NAS that change.
type NASChange struct {
	ID edge.ID `json:"id" check:"prefix=nas" doc:"Identifier of the record."`
	edge.CommonChange
	Identifier   *string       `json:"identifier,omitempty" check:"min=1 max=128" pattern:"^[^\\x00-\\x1f\\x7f]+$" doc:"NAS-Identifier the device sends."`
	Addresses    *[]netip.Addr `json:"addresses,omitempty" check:"min=1 max=8" doc:"Replaces the whole list."`
	Vendor       *Vendor       `json:"vendor,omitempty" doc:"Which attributes its replies carry."`
	SiteID       *edge.ID      `json:"site_id,omitempty" check:"prefix=sit" doc:"The site it stands at."`
	CoAPort      *uint16       `json:"coa_port,omitempty" check:"min=1" doc:"UDP port for CoA and Disconnect."`
	Capabilities *Capabilities `json:"capabilities,omitempty" doc:"What the device can do beyond plain RADIUS."`
	Require      *RequireMA    `json:"require_message_authenticator,omitempty" doc:"Whether requests without Message-Authenticator are dropped."`
}

// UpdateNAS changes a NAS's record; its secret has commands of its own.
var UpdateNAS = edge.Command[NASChange, NAS]{
	Name: "aaa.nas.update", Scope: "aaa:write", Class: edge.Provision, NeedsMatch: true,
	Summary: "Change a NAS",
	Record:  func(in NASChange) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in NASChange) (NAS, error) {
		n, err := nasTable.Get(tx, in.ID)
		if err != nil {
			return NAS{}, err
		}
		in.Apply(&n.Meta)
		edge.Set(&n.Identifier, in.Identifier)
		edge.Set(&n.Addresses, in.Addresses)
		edge.Set(&n.Vendor, in.Vendor)
		edge.Set(&n.SiteID, in.SiteID)
		edge.Set(&n.CoAPort, in.CoAPort)
		edge.Set(&n.Capabilities, in.Capabilities)
		edge.Set(&n.Require, in.Require)
		n.Addresses = slices.Clone(n.Addresses)
		if err := n.normalise(); err != nil {
			return NAS{}, err
		}
		if err := nasTable.Put(tx, &n); err != nil {
			return NAS{}, err
		}
		tx.Emit(NASUpdated{n.ID})
		return n, nil
	},
}

// NASRotation replaces a NAS's shared secret.
type NASRotation struct {
	ID      edge.ID     `json:"id" check:"prefix=nas" doc:"Identifier of the record."`
	Secret  edge.Secret `json:"secret,omitempty" check:"min=8 max=64" doc:"The new shared secret. Left out, one is minted and shown once in the answer."`
	KeepOld bool        `json:"keep_old,omitempty" doc:"Go on accepting the old secret until it is retired, so that the router can be changed without a gap."`
	Sealed  string      `json:"sealed_secret,omitempty" check:"internal"`
}

// RotateNASSecret gives a NAS a new shared secret.
var RotateNASSecret = edge.Command[NASRotation, NAS]{
	Name: "aaa.nas.rotate_secret", Scope: "aaa:write", Class: edge.Provision, Offline: true,
	Summary: "Replace the shared secret of a NAS",
	Record:  func(in NASRotation) edge.ID { return in.ID },
	Prepare: func(p edge.Prep, in *NASRotation) error { return sealInto(p, in.ID, "secret", &in.Secret, &in.Sealed) },
	Handle: func(tx edge.Tx, in NASRotation) (NAS, error) {
		n, err := nasTable.Get(tx, in.ID)
		if err != nil {
			return NAS{}, err
		}
		s, err := nasSecrets.Get(tx, n.ID.With(nasSecrets.Prefix))
		if err != nil {
			return NAS{}, err
		}
		if err := laterRotation(tx, n.RotatedAt, "/secret"); err != nil {
			return NAS{}, err
		}
		old := s.Primary
		s.Primary, s.Secondary = in.Sealed, ""
		if in.KeepOld {
			s.Secondary = old
		}
		n.RotatedAt, n.Rotating = new(edge.AcceptedAt(tx).UTC()), in.KeepOld
		return putNAS(tx, n, &s, NASSecretRotated{n.ID, in.KeepOld})
	},
}

// NASRef names a NAS.
type NASRef struct {
	ID edge.ID `json:"id" check:"prefix=nas" doc:"Identifier of the record."`
}

// RetireNASSecret ends a rotation.
var RetireNASSecret = edge.Command[NASRef, NAS]{
	Name: "aaa.nas.retire_secret", Scope: "aaa:write", Class: edge.Provision,
	Summary: "Stop accepting the shared secret from before the last rotation",
	Record:  func(in NASRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in NASRef) (NAS, error) {
		n, err := nasTable.Get(tx, in.ID)
		if err != nil || !n.Rotating {
			return n, err
		}
		s, err := nasSecrets.Get(tx, n.ID.With(nasSecrets.Prefix))
		if err != nil {
			return NAS{}, err
		}
		s.Secondary, n.Rotating = "", false
		return putNAS(tx, n, &s, NASSecretRetired{n.ID})
	},
}

// putNAS stores a changed NAS, its secrets where s is given, and says so.
func putNAS(tx edge.Tx, n NAS, s *NASSecret, e edge.Event) (NAS, error) {
	if s != nil {
		if err := nasSecrets.Put(tx, s); err != nil {
			return NAS{}, err
		}
	}
	if err := nasTable.Put(tx, &n); err != nil {
		return NAS{}, err
	}
	if e != nil {
		tx.Emit(e)
	}
	return n, nil
}

// DisableNAS silences a NAS.
var DisableNAS = edge.Command[NASRef, NAS]{
	Name: "aaa.nas.disable", Scope: "aaa:write", Class: edge.Provision,
	Summary: "Stop answering a NAS",
	Record:  func(in NASRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in NASRef) (NAS, error) {
		return setNASStatus(tx, in.ID, NASStatusDisabled, NASDisabled{in.ID})
	},
}

// EnableNAS answers a disabled NAS again.
var EnableNAS = edge.Command[NASRef, NAS]{
	Name: "aaa.nas.enable", Scope: "aaa:write", Class: edge.Provision,
	Summary: "Answer a disabled NAS again",
	Record:  func(in NASRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in NASRef) (NAS, error) {
		return setNASStatus(tx, in.ID, NASStatusActive, NASEnabled{in.ID})
	},
}

// setNASStatus moves a NAS; a move that already happened succeeds without effect.
func setNASStatus(tx edge.Tx, id edge.ID, to NASStatus, e edge.Event) (NAS, error) {
	n, err := nasTable.Get(tx, id)
	if err != nil || n.Status == to {
		return n, err
	}
	n.Status = to
	return putNAS(tx, n, nil, e)
}

// DeleteNAS removes a NAS and its secrets. Its sessions stay in the history and go stale by themselves.
var DeleteNAS = edge.Command[NASRef, edge.None]{
	Name: "aaa.nas.delete", Scope: "aaa:write", Class: edge.Provision,
	Summary: "Remove a NAS and its secret",
	Record:  func(in NASRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in NASRef) (edge.None, error) {
		n, err := nasTable.Get(tx, in.ID)
		if err != nil {
			return edge.None{}, err
		}
		if err := nasSecrets.Delete(tx, n.ID.With(nasSecrets.Prefix)); err != nil {
			return edge.None{}, err
		}
		if err := nasTable.Delete(tx, n.ID); err != nil {
			return edge.None{}, err
		}
		tx.Emit(NASDeleted{n.ID, n.Identifier})
		return edge.None{}, nil
	},
}

// sawMessageAuthenticator keeps, over restarts, that a NAS signs its requests, so that auto requires it from then on.
var sawMessageAuthenticator = edge.Command[NASRef, edge.None]{
	Name: "aaa.nas.saw_message_authenticator", Scope: "aaa:write", Class: edge.Write,
	Summary: "Remember that a NAS signs its requests (the node's own)",
	Handle: func(tx edge.Tx, in NASRef) (edge.None, error) {
		if err := onlySystem(tx); err != nil {
			return edge.None{}, err
		}
		n, ok, err := nasTable.Find(tx, in.ID)
		if err != nil || !ok || n.SeenMA {
			return edge.None{}, err
		}
		n.SeenMA = true
		_, err = putNAS(tx, n, nil, nil)
		return edge.None{}, err
	},
}

// GetNAS shows one NAS, never its secret.
var GetNAS = edge.Query[NASRef, NAS]{
	Name: "aaa.nas.get", Scope: "aaa:read", Class: edge.Read, Summary: "Show a NAS",
	Shows:  nasTable,
	Record: func(in NASRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in NASRef) (NAS, error) { return nasTable.Get(v, in.ID) },
}

// NASFilter narrows a list of NASes; at most one filter at a time.
type NASFilter struct {
	edge.ListInput
	SiteID     edge.ID `json:"site_id,omitempty" check:"prefix=sit" doc:"Only those at this site."`
	Identifier string  `json:"identifier,omitempty" check:"max=128" doc:"Only the one with this NAS-Identifier."`
	ExternalID string  `json:"external_id,omitempty" check:"max=128" doc:"Only the one with this external id."`
}

// ListNAS lists NASes.
var ListNAS = edge.Query[NASFilter, edge.Page[NAS]]{
	Name: "aaa.nas.list", Scope: "aaa:read", Class: edge.Read, Summary: "List NASes",
	Handle: func(v edge.View, in NASFilter) (edge.Page[NAS], error) {
		index, key, err := oneFilter(filter{"site_id", string(in.SiteID)}, filter{"identifier", in.Identifier}, filter{"external_id", in.ExternalID})
		if err != nil {
			return edge.Page[NAS]{}, err
		}
		return nasTable.List(v, index, key, in.ListInput)
	},
}

// filter is one way to narrow a list: by the records whose index holds the value.
type filter struct{ index, value string }

// oneFilter picks the one filter that is set; none means the whole table.
func oneFilter(list ...filter) (index, key string, err error) {
	for _, f := range list {
		if f.value == "" {
			continue
		}
		if index != "" {
			return "", "", edge.ErrIndexUnknown.Error(edge.Invalid, edge.FieldError{
				In: "query", Pointer: f.index, Reason: "cannot be combined with " + index, Fix: "use one filter at a time",
			})
		}
		index, key = f.index, f.value
	}
	return index, key, nil
}

package identity

import (
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/gateway/limit"
)

// Status says whether a tenant may ask.
type Status string

// The states of a tenant.
const (
	Active    Status = "active"
	Suspended Status = "suspended"
)

// Values lists the states, for the schema.
func (Status) Values() []string { return []string{string(Active), string(Suspended)} }

// Tenant is an ISP or reseller. Its slug is the word that every record, key and topic of it carries.
type Tenant struct {
	edge.Meta
	Slug   string  `json:"slug" check:"max=32" doc:"The tenant's word in records, keys and topics; it never changes." example:"acme"`
	Name   string  `json:"name" check:"max=120" doc:"Name people use." example:"Acme Wireless"`
	Status Status  `json:"status" doc:"A suspended tenant's credentials are refused; its subscribers stay online." example:"active"`
	Limits *Limits `json:"limits,omitempty" doc:"Throttle over all its clients; absent: the node's default."`
}

// Limits is a throttle: requests (weighted by class) per window, all of which may come at once.
type Limits struct {
	Requests      int64 `json:"requests" check:"min=1 max=1000000" doc:"Units per window; an ordinary read costs one." example:"600"`
	WindowSeconds int64 `json:"window_seconds" check:"min=1 max=3600" doc:"Length of the window, in seconds." example:"60"`
}

// rate is the throttle as the limiter takes it; nil is the node's default.
func (l *Limits) rate() limit.Rate {
	if l == nil {
		return limit.Rate{}
	}
	return limit.Rate{Quota: l.Requests, Window: time.Duration(l.WindowSeconds) * time.Second}
}

func (l *Limits) check() []edge.FieldError {
	if l != nil && (l.Requests < 1 || l.Requests > 1e6 || l.WindowSeconds < 1 || l.WindowSeconds > 3600) {
		return []edge.FieldError{edge.Field("/limits", "is not 1 to 1,000,000 units in 1 to 3600 seconds", "give both within these bounds")}
	}
	return nil
}

// Reasons of tenants.
var (
	ErrTenantInvalid = edge.Reason{Code: "tenant_invalid", Says: "The tenant cannot be stored as described", Fix: "Correct the named fields"}
	ErrOperatorOnly  = edge.Reason{Code: "operator_only", Says: "Only the operator of the platform may do this", Fix: "Run it on the node itself, with the wispgate command"}
)

const slugLetters = "abcdefghijklmnopqrstuvwxyz0123456789-"

func (t *Tenant) check() error {
	var bad []edge.FieldError
	if t.Slug == "" || len(t.Slug) > 32 || strings.Trim(t.Slug, slugLetters) != "" || t.Slug == edge.System {
		bad = append(bad, edge.Field("/slug", "is reserved, or not 1 to 32 of a-z, 0-9 and -", "use a short word such as acme"))
	}
	if t.Name = strings.TrimSpace(t.Name); t.Name == "" {
		bad = append(bad, edge.Field("/name", "is empty", "give the name people use"))
	}
	if !slices.Contains(t.Status.Values(), string(t.Status)) {
		bad = append(bad, edge.Field("/status", "is not a state of a tenant", "use active or suspended"))
	}
	if bad = append(bad, t.Limits.check()...); bad != nil {
		return ErrTenantInvalid.Error(edge.Invalid, bad...)
	}
	return nil
}

var tenants = &edge.Table[Tenant]{
	Name: "identity.tenant", Prefix: "ten", Meta: func(t *Tenant) *edge.Meta { return &t.Meta },
	Indexes: []edge.Index[Tenant]{{Name: "slug", Unique: true, Keys: func(t *Tenant) []string { return []string{t.Slug} }}},
}

// TenantKey is the data key that seals a tenant's secrets, wrapped for the node.
type TenantKey struct {
	edge.Meta
	Slug    string `json:"slug"`
	Wrapped string `json:"wrapped"` // base64, for the node that made it

	// Shared is the key wrapped for the other nodes of the cluster, by node.
	Shared map[string]SharedKey `json:"shared,omitempty"`
}

var tenantKeys = &edge.Table[TenantKey]{
	Name: "identity.tenant_key", Prefix: "tky", Private: true, Meta: func(k *TenantKey) *edge.Meta { return &k.Meta },
}

// TenantCreated says that a tenant was made.
type TenantCreated struct {
	Tenant edge.ID `json:"tenant"`
	Slug   string  `json:"slug"`
}

// TenantUpdated says that fields of a tenant changed.
type TenantUpdated struct {
	Tenant edge.ID  `json:"tenant"`
	Fields []string `json:"fields"`
}

// EventName implements edge.Event.
func (TenantCreated) EventName() string { return "identity.tenant.created" }

// Subject implements edge.Event.
func (e TenantCreated) Subject() edge.ID { return e.Tenant }

// EventName implements edge.Event.
func (TenantUpdated) EventName() string { return "identity.tenant.updated" }

// Subject implements edge.Event.
func (e TenantUpdated) Subject() edge.ID { return e.Tenant }

// NewTenant is what a tenant is made from.
type NewTenant struct {
	edge.Common
	Slug       string  `json:"slug" check:"min=1 max=32 format=slug" doc:"The tenant's word: 1 to 32 of a-z, 0-9 and -. It never changes." example:"acme"`
	Name       string  `json:"name" check:"min=1 max=120" doc:"Name people use." example:"Acme Wireless"`
	Limits     *Limits `json:"limits,omitempty" doc:"Throttle over all its clients; absent: the node's default."`
	WrappedKey string  `json:"wrapped_key,omitempty" check:"internal"`
}

func createTenant(p Ports) edge.Command[NewTenant, Tenant] {
	return edge.Command[NewTenant, Tenant]{
		Name: "identity.tenant.create", Scope: "identity:write", Class: edge.Admin, Summary: "Make a tenant",
		Prepare: func(pr edge.Prep, in *NewTenant) (err error) {
			if err := onlyNode("/wrapped_key", in.WrappedKey == ""); err != nil {
				return err
			}
			if pr.Actor().Tenant != edge.System {
				return ErrOperatorOnly.Error(edge.Denied)
			}
			in.WrappedKey, err = wrapNew(p, in.Slug)
			return err
		},
		Handle: func(tx edge.Tx, in NewTenant) (Tenant, error) {
			if err := onlyOperator(tx); err != nil {
				return Tenant{}, err
			}
			t := Tenant{Meta: in.Meta(tx.NewID("ten")), Slug: in.Slug, Name: in.Name, Status: Active, Limits: in.Limits}
			err := t.create(tx, in.WrappedKey)
			return t, err
		},
	}
}

// wrapNew draws a data key for a tenant that is about to be made.
func wrapNew(p Ports, slug string) (string, error) {
	wrapped, err := p.Vault.NewTenantKey(slug)
	return base64.StdEncoding.EncodeToString(wrapped), err
}

// create stores a new tenant with its data key.
func (t *Tenant) create(tx edge.Tx, wrapped string) error {
	if err := t.check(); err != nil {
		return err
	}
	if err := tenants.Put(tx, t); err != nil {
		return err
	}
	k := TenantKey{Meta: edge.Meta{ID: t.ID.With("tky")}, Slug: t.Slug, Wrapped: wrapped}
	if err := tenantKeys.Put(tx, &k); err != nil {
		return err
	}
	tx.Emit(TenantCreated{t.ID, t.Slug})
	return nil
}

// onlyOperator refuses everybody but the platform's own tenant, to which no API credential belongs.
func onlyOperator(v edge.View) error {
	if v.Actor().Tenant != edge.System {
		return ErrOperatorOnly.Error(edge.Denied)
	}
	return nil
}

// onlyNode refuses a member that the accepting node fills itself.
func onlyNode(pointer string, empty bool) error {
	if empty {
		return nil
	}
	return edge.ErrInput.Error(edge.Invalid, edge.Field(pointer, "is filled by the node", "leave it out"))
}

// TenantChange carries the members of a tenant to change.
type TenantChange struct {
	edge.CommonChange
	ID     edge.ID `json:"id" check:"prefix=ten" doc:"The tenant."`
	Name   *string `json:"name,omitempty" check:"min=1 max=120" doc:"Name people use." example:"Acme Wireless"`
	Status *Status `json:"status,omitempty" doc:"Suspended refuses its credentials." example:"suspended"`
	Limits *Limits `json:"limits,omitempty" doc:"Throttle over all its clients."`
}

// UpdateTenant changes a tenant, and suspends or resumes it.
var UpdateTenant = edge.Command[TenantChange, Tenant]{
	Name: "identity.tenant.update", Scope: "identity:write", Class: edge.Admin, Summary: "Change, suspend or resume a tenant",
	Record: func(in TenantChange) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in TenantChange) (Tenant, error) {
		if err := onlyOperator(tx); err != nil {
			return Tenant{}, err
		}
		was, err := tenants.Get(tx, in.ID)
		if err != nil {
			return Tenant{}, err
		}
		t := was
		in.Apply(&t.Meta)
		edge.Set(&t.Name, in.Name)
		edge.Set(&t.Status, in.Status)
		if in.Limits != nil {
			t.Limits = in.Limits
		}
		if err := t.check(); err != nil {
			return Tenant{}, err
		}
		fields, err := edge.Changed(&was, &t)
		if err != nil || len(fields) == 0 {
			return was, err
		}
		if err := tenants.Put(tx, &t); err != nil {
			return Tenant{}, err
		}
		tx.Emit(TenantUpdated{t.ID, fields})
		return t, nil
	},
}

// TenantRef names a tenant.
type TenantRef struct {
	ID edge.ID `json:"id" check:"prefix=ten" doc:"The tenant."`
}

// GetTenant shows a tenant to the operator.
var GetTenant = edge.Query[TenantRef, Tenant]{
	Name: "identity.tenant.get", Scope: "identity:read", Class: edge.Read, Summary: "Show a tenant",
	Handle: func(v edge.View, in TenantRef) (Tenant, error) {
		if err := onlyOperator(v); err != nil {
			return Tenant{}, err
		}
		return tenants.Get(v, in.ID)
	},
}

// ListTenants lists the tenants for the operator.
var ListTenants = edge.Query[edge.ListInput, edge.Page[Tenant]]{
	Name: "identity.tenant.list", Scope: "identity:read", Class: edge.Read, Summary: "List the tenants",
	Handle: func(v edge.View, in edge.ListInput) (edge.Page[Tenant], error) {
		if err := onlyOperator(v); err != nil {
			return edge.Page[Tenant]{}, err
		}
		return tenants.List(v, "", "", in)
	},
}

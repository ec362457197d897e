package aaa

import (
	"encoding/hex"
	"fmt"

	"wispgate/aaa/dict"
	"wispgate/edge"
)

// Policy is what a session may do on the network: rates, pool, VLAN, limits. Plans refer to it; it is resolved when a login is
// decided, so one change reaches every subscriber in one small commit (see DESIGN.md in this folder).
type Policy struct {
	edge.Meta
	Name string `json:"name" doc:"For people; unique per tenant." example:"Home 50/10"`
	PolicyTerms
}

// PolicyTerms are the members of a policy that reach the network. Rates are kilobits per second (1 kbit = 1,000 bits) as the
// subscriber sees them; times are seconds. Zero means: not said, the NAS's own default holds. Package dict says them to each vendor.
type PolicyTerms struct {
	DownKbps               uint32       `json:"down_kbps" check:"min=1 max=100000000" doc:"Rate towards the subscriber, kbit/s, at least 1." example:"50000"`
	UpKbps                 uint32       `json:"up_kbps" check:"min=1 max=100000000" doc:"Rate from the subscriber, kbit/s, at least 1." example:"10000"`
	BurstDownKbps          uint32       `json:"burst_down_kbps,omitempty" check:"max=100000000" doc:"Ceiling while bursting, at least the rate." example:"80000"`
	BurstUpKbps            uint32       `json:"burst_up_kbps,omitempty" check:"max=100000000" doc:"Ceiling while bursting, at least the rate." example:"20000"`
	BurstThresholdDownKbps uint32       `json:"burst_threshold_down_kbps,omitempty" check:"max=100000000" doc:"Average below which bursting is allowed; the rate unless given."`
	BurstThresholdUpKbps   uint32       `json:"burst_threshold_up_kbps,omitempty" check:"max=100000000" doc:"Average below which bursting is allowed; the rate unless given."`
	BurstSeconds           uint32       `json:"burst_seconds,omitempty" check:"max=3600" doc:"Over which the average is taken; 10 unless given."`
	MinDownKbps            uint32       `json:"min_down_kbps,omitempty" check:"max=100000000" doc:"Guaranteed under contention, at most the rate."`
	MinUpKbps              uint32       `json:"min_up_kbps,omitempty" check:"max=100000000" doc:"Guaranteed under contention, at most the rate."`
	Priority               uint8        `json:"priority,omitempty" check:"max=8" doc:"1 is served first, 8 last; 0 leaves it to the NAS."`
	Pool                   string       `json:"pool,omitempty" check:"max=63" doc:"IPv4 pool on the NAS." example:"homes"`
	V6Pool                 string       `json:"v6_pool,omitempty" check:"max=63" doc:"IPv6 pool on the NAS for the link."`
	PDPool                 string       `json:"pd_pool,omitempty" check:"max=63" doc:"IPv6 pool on the NAS for delegated prefixes; it sets their length."`
	VLAN                   uint16       `json:"vlan,omitempty" check:"max=4094" doc:"VLAN of the session; 0: none."`
	Filter                 string       `json:"filter,omitempty" check:"max=63" doc:"Filter on the NAS (Filter-Id)."`
	AddressList            string       `json:"address_list,omitempty" check:"max=63" doc:"Firewall address list the subscriber joins."`
	Group                  string       `json:"group,omitempty" check:"max=63" doc:"Profile on the NAS."`
	SessionTimeout         uint32       `json:"session_timeout,omitempty" check:"max=31536000" doc:"Longest session, seconds, at least 60; 0: no limit."`
	IdleTimeout            uint32       `json:"idle_timeout,omitempty" check:"max=31536000" doc:"Ends a session without traffic after so many seconds, at least 60; 0: never."`
	InterimInterval        uint32       `json:"interim_interval,omitempty" check:"max=86400" doc:"Seconds between usage reports, at least 60; 300 unless given."`
	VendorAttrs            []VendorAttr `json:"vendor_attrs,omitempty" check:"max=16" doc:"Attributes with a fixed value, for what the members above lack."`
}

// VendorAttr is one attribute with a fixed value. Those that sign, account or carry state are refused.
type VendorAttr struct {
	Vendor uint32 `json:"vendor" doc:"IANA enterprise number; 0: a standard attribute." example:"14988"`
	Type   uint8  `json:"type" check:"min=1" doc:"Number of the attribute." example:"9"`
	Value  string `json:"value" check:"min=2 max=494 format=hex" doc:"Its octets in hexadecimal." example:"686f6d6573"`
}

const (
	defaultInterim = 300 // seconds; RouterOS's own default
	leastSeconds   = 60  // of any timer: shorter ones turn a re-login storm into a permanent one
)

// plan is the terms in the words of package dict.
func (p *PolicyTerms) plan() (dict.Policy, error) {
	d := dict.Policy{
		DownKbps: p.DownKbps, UpKbps: p.UpKbps, BurstDownKbps: p.BurstDownKbps, BurstUpKbps: p.BurstUpKbps,
		BurstThresholdDownKbps: p.BurstThresholdDownKbps, BurstThresholdUpKbps: p.BurstThresholdUpKbps, BurstSeconds: p.BurstSeconds,
		MinDownKbps: p.MinDownKbps, MinUpKbps: p.MinUpKbps, Priority: p.Priority,
		Pool: p.Pool, V6Pool: p.V6Pool, PDPool: p.PDPool, VLAN: p.VLAN, Filter: p.Filter, AddressList: p.AddressList, Group: p.Group,
		SessionTimeout: p.SessionTimeout, IdleTimeout: p.IdleTimeout, InterimInterval: p.InterimInterval,
	}
	for i, a := range p.VendorAttrs {
		value, err := hex.DecodeString(a.Value)
		if err != nil {
			return d, edge.ErrInput.Error(edge.Invalid, edge.Field(fmt.Sprintf("/vendor_attrs/%d/value", i), "is not hexadecimal", "write two digits per octet"))
		}
		d.Extra = append(d.Extra, dict.Raw{Vendor: a.Vendor, Type: a.Type, Value: value})
	}
	return d, nil
}

// normalise fills defaults and refuses terms that a NAS would misread: a zero rate breaks shapers, a burst below the rate slows down.
func (p *PolicyTerms) normalise() error {
	if p.InterimInterval == 0 {
		p.InterimInterval = defaultInterim
	}
	var f []edge.FieldError
	for _, m := range []struct {
		name       string
		val, least uint32
		optional   bool
		fix        string
	}{
		{"down_kbps", p.DownKbps, 1, false, "use at least 1 kbit/s; suspend the subscription to stop traffic"},
		{"up_kbps", p.UpKbps, 1, false, "use at least 1 kbit/s; suspend the subscription to stop traffic"},
		{"session_timeout", p.SessionTimeout, leastSeconds, true, "use at least 60 seconds, or 0"},
		{"idle_timeout", p.IdleTimeout, leastSeconds, true, "use at least 60 seconds, or 0"},
	} {
		if m.val < m.least && (m.val != 0 || !m.optional) {
			f = append(f, edge.Field("/"+m.name, "is below its least value", m.fix))
		}
	}
	if f != nil {
		return dict.ErrPolicy.Error(edge.Invalid, f...)
	}
	d, err := p.plan()
	if err != nil {
		return err
	}
	return d.Check()
}

var policies = &edge.Table[Policy]{
	Name: "aaa.policy", Prefix: "pol", Meta: func(p *Policy) *edge.Meta { return &p.Meta },
	Indexes: []edge.Index[Policy]{
		{Name: "name", Unique: true, Keys: func(p *Policy) []string { return []string{p.Name} }},
	},
}

// PolicyCreated says that plans may refer to a new policy.
type PolicyCreated struct {
	Policy edge.ID `json:"policy" doc:"The policy."`
	Name   string  `json:"name" doc:"For people; unique per tenant."`
}

// EventName implements edge.Event.
func (PolicyCreated) EventName() string { return "aaa.policy.created" }

// Subject implements edge.Event.
func (e PolicyCreated) Subject() edge.ID { return e.Policy }

// PolicyUpdated says that a policy changed, and with it what every login that resolves to it gets. Revision is the new one.
type PolicyUpdated struct {
	Policy   edge.ID `json:"policy" doc:"The policy."`
	Revision uint64  `json:"revision" doc:"Changes if and only if the content does."`
}

// EventName implements edge.Event.
func (PolicyUpdated) EventName() string { return "aaa.policy.updated" }

// Subject implements edge.Event.
func (e PolicyUpdated) Subject() edge.ID { return e.Policy }

// PolicyArchived says that a policy is no longer offered; who has it keeps it.
type PolicyArchived struct {
	Policy edge.ID `json:"policy" doc:"The policy."`
}

// EventName implements edge.Event.
func (PolicyArchived) EventName() string { return "aaa.policy.archived" }

// Subject implements edge.Event.
func (e PolicyArchived) Subject() edge.ID { return e.Policy }

// NewPolicy is what makes a policy.
type NewPolicy struct {
	edge.Common
	Name string `json:"name" check:"min=1 max=100" pattern:"^[^\\x00-\\x1f\\x7f]+$" doc:"For people; unique per tenant." example:"Home 50/10"`
	PolicyTerms
}

// CreatePolicy makes a policy.
var CreatePolicy = edge.Command[NewPolicy, Policy]{
	Name: "aaa.policy.create", Scope: "aaa:write", Class: edge.Provision,
	Summary: "Create a policy: rates, pool and limits of a session",
	Handle: func(tx edge.Tx, in NewPolicy) (Policy, error) {
		p := Policy{Meta: in.Meta(tx.NewID(policies.Prefix)), Name: in.Name, PolicyTerms: in.PolicyTerms}
		if err := p.normalise(); err != nil {
			return Policy{}, err
		}
		if err := policies.Put(tx, &p); err != nil {
			return Policy{}, err
		}
		tx.Emit(PolicyCreated{p.ID, p.Name})
		return p, nil
	},
}

// PolicyChange carries the members of a policy that change.
type PolicyChange struct {
	ID edge.ID `json:"id" check:"prefix=pol" doc:"Identifier of the record."`
	edge.CommonChange
	Name                   *string       `json:"name,omitempty" check:"min=1 max=100" pattern:"^[^\\x00-\\x1f\\x7f]+$" doc:"For people; unique per tenant."`
	DownKbps               *uint32       `json:"down_kbps,omitempty" check:"min=1 max=100000000" doc:"Rate towards the subscriber, kbit/s."`
	UpKbps                 *uint32       `json:"up_kbps,omitempty" check:"min=1 max=100000000" doc:"Rate from the subscriber, kbit/s."`
	BurstDownKbps          *uint32       `json:"burst_down_kbps,omitempty" check:"max=100000000" doc:"0 removes it."`
	BurstUpKbps            *uint32       `json:"burst_up_kbps,omitempty" check:"max=100000000" doc:"0 removes it."`
	BurstThresholdDownKbps *uint32       `json:"burst_threshold_down_kbps,omitempty" check:"max=100000000" doc:"Average below which bursting is allowed."`
	BurstThresholdUpKbps   *uint32       `json:"burst_threshold_up_kbps,omitempty" check:"max=100000000" doc:"Average below which bursting is allowed."`
	BurstSeconds           *uint32       `json:"burst_seconds,omitempty" check:"max=3600" doc:"Over which the average is taken."`
	MinDownKbps            *uint32       `json:"min_down_kbps,omitempty" check:"max=100000000" doc:"Guaranteed under contention."`
	MinUpKbps              *uint32       `json:"min_up_kbps,omitempty" check:"max=100000000" doc:"Guaranteed under contention."`
	Priority               *uint8        `json:"priority,omitempty" check:"max=8" doc:"1 is served first, 8 last; 0 leaves it to the NAS."`
	Pool                   *string       `json:"pool,omitempty" check:"max=63" doc:"Empty removes it."`
	V6Pool                 *string       `json:"v6_pool,omitempty" check:"max=63" doc:"Empty removes it."`
	PDPool                 *string       `json:"pd_pool,omitempty" check:"max=63" doc:"Empty removes it."`
	VLAN                   *uint16       `json:"vlan,omitempty" check:"max=4094" doc:"VLAN of the session; 0: none."`
	Filter                 *string       `json:"filter,omitempty" check:"max=63" doc:"Empty removes it."`
	AddressList            *string       `json:"address_list,omitempty" check:"max=63" doc:"Empty removes it."`
	Group                  *string       `json:"group,omitempty" check:"max=63" doc:"Empty removes it."`
	SessionTimeout         *uint32       `json:"session_timeout,omitempty" check:"max=31536000" doc:"Longest session, seconds."`
	IdleTimeout            *uint32       `json:"idle_timeout,omitempty" check:"max=31536000" doc:"Ends a session without traffic after so many seconds."`
	InterimInterval        *uint32       `json:"interim_interval,omitempty" check:"max=86400" doc:"Seconds between usage reports."`
	VendorAttrs            *[]VendorAttr `json:"vendor_attrs,omitempty" check:"max=16" doc:"Replaces the whole list."`
}

// terms writes the present members into p.
func (in *PolicyChange) terms(p *PolicyTerms) {
	edge.Set(&p.DownKbps, in.DownKbps)
	edge.Set(&p.UpKbps, in.UpKbps)
	edge.Set(&p.BurstDownKbps, in.BurstDownKbps)
	edge.Set(&p.BurstUpKbps, in.BurstUpKbps)
	edge.Set(&p.BurstThresholdDownKbps, in.BurstThresholdDownKbps)
	edge.Set(&p.BurstThresholdUpKbps, in.BurstThresholdUpKbps)
	edge.Set(&p.BurstSeconds, in.BurstSeconds)
	edge.Set(&p.MinDownKbps, in.MinDownKbps)
	edge.Set(&p.MinUpKbps, in.MinUpKbps)
	edge.Set(&p.Priority, in.Priority)
	edge.Set(&p.Pool, in.Pool)
	edge.Set(&p.V6Pool, in.V6Pool)
	edge.Set(&p.PDPool, in.PDPool)
	edge.Set(&p.VLAN, in.VLAN)
	edge.Set(&p.Filter, in.Filter)
	edge.Set(&p.AddressList, in.AddressList)
	edge.Set(&p.Group, in.Group)
	edge.Set(&p.SessionTimeout, in.SessionTimeout)
	edge.Set(&p.IdleTimeout, in.IdleTimeout)
	edge.Set(&p.InterimInterval, in.InterimInterval)
	edge.Set(&p.VendorAttrs, in.VendorAttrs)
}

// UpdatePolicy changes a policy for everyone who has it.
var UpdatePolicy = edge.Command[PolicyChange, Policy]{
	Name: "aaa.policy.update", Scope: "aaa:write", Class: edge.Provision, NeedsMatch: true,
	Summary: "Change a policy for everyone who has it",
	Record:  func(in PolicyChange) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in PolicyChange) (Policy, error) {
		p, err := policies.Get(tx, in.ID)
		if err != nil {
			return Policy{}, err
		}
		in.Apply(&p.Meta)
		edge.Set(&p.Name, in.Name)
		in.terms(&p.PolicyTerms)
		if err := p.normalise(); err != nil {
			return Policy{}, err
		}
		if err := policies.Put(tx, &p); err != nil {
			return Policy{}, err
		}
		tx.Emit(PolicyUpdated{p.ID, p.Revision()})
		return p, nil
	},
}

// PolicyRef names a policy.
type PolicyRef struct {
	ID edge.ID `json:"id" check:"prefix=pol" doc:"Identifier of the record."`
}

// ArchivePolicy takes a policy out of use for new plans.
var ArchivePolicy = edge.Command[PolicyRef, Policy]{
	Name: "aaa.policy.archive", Scope: "aaa:write", Class: edge.Provision,
	Summary: "Stop offering a policy; who has it keeps it",
	Record:  func(in PolicyRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in PolicyRef) (Policy, error) {
		p, err := policies.Get(tx, in.ID)
		if err != nil || p.ArchivedAt != nil {
			return p, err
		}
		p.ArchivedAt = new(tx.Now().UTC())
		if err := policies.Put(tx, &p); err != nil {
			return Policy{}, err
		}
		tx.Emit(PolicyArchived{p.ID})
		return p, nil
	},
}

// GetPolicy shows one policy.
var GetPolicy = edge.Query[PolicyRef, Policy]{
	Name: "aaa.policy.get", Scope: "aaa:read", Class: edge.Read, Summary: "Show a policy",
	Shows:  policies,
	Record: func(in PolicyRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in PolicyRef) (Policy, error) { return policies.Get(v, in.ID) },
}

// PolicyFilter narrows a list of policies; at most one filter at a time.
type PolicyFilter struct {
	edge.ListInput
	Name       string `json:"name,omitempty" check:"max=100" doc:"Only the one with this name."`
	ExternalID string `json:"external_id,omitempty" check:"max=128" doc:"Only the one with this external id."`
}

// ListPolicies lists policies.
var ListPolicies = edge.Query[PolicyFilter, edge.Page[Policy]]{
	Name: "aaa.policy.list", Scope: "aaa:read", Class: edge.Read, Summary: "List policies",
	Handle: func(v edge.View, in PolicyFilter) (edge.Page[Policy], error) {
		index, key, err := oneFilter(filter{"name", in.Name}, filter{"external_id", in.ExternalID})
		if err != nil {
			return edge.Page[Policy]{}, err
		}
		return policies.List(v, index, key, in.ListInput)
	},
}

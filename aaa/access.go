package aaa

import (
	"slices"
	"time"

	"wispgate/edge"
)

// Access is aaa's copy of what billing says about a subscription: all that a login's decision needs of it. It is written by a flow in
// the same commit as the change in billing, so the two never disagree.
type Access struct {
	edge.Meta
	AccessTerms
}

// AccessTerms are billing's verdict on a subscription.
type AccessTerms struct {
	Subscription        edge.ID      `json:"subscription_id" check:"prefix=sub" doc:"The subscription it belongs to."`
	Customer            edge.ID      `json:"customer_id,omitempty" check:"prefix=cus" doc:"The subscription's customer."`
	Status              AccessStatus `json:"status" doc:"Where it stands."`
	Reasons             []string     `json:"reasons,omitempty" check:"max=8 item.max=32" doc:"Why it is suspended: dunning, admin, fraud, quota, customer."`
	Policy              edge.ID      `json:"policy_id,omitempty" check:"prefix=pol" doc:"What sessions get."`
	ExhaustedPolicy     edge.ID      `json:"exhausted_policy_id,omitempty" check:"prefix=pol" doc:"What they get when throttled or in the walled garden; without it they are rejected then."`
	ValidUntil          *time.Time   `json:"valid_until,omitempty" doc:"Until when it is paid; absent: no end."`
	OfflineGraceSeconds int64        `json:"offline_grace_seconds,omitempty" check:"min=0 max=31536000" doc:"How long after valid_until it goes on."`
	OnExpiry            string       `json:"on_expiry,omitempty" check:"enum=allow|throttle|walled|reject" doc:"What happens after that; reject unless given."`
	Revision            uint64       `json:"revision" doc:"Billing's count of changes; an older one than the stored is ignored."`
}

// AccessStatus is where a subscription stands, as far as the network cares.
type AccessStatus string

// The statuses.
const (
	AccessPending    AccessStatus = "pending"
	AccessActive     AccessStatus = "active"
	AccessSuspended  AccessStatus = "suspended"
	AccessTerminated AccessStatus = "terminated"
)

// Values lists the statuses.
func (AccessStatus) Values() []string {
	return []string{string(AccessPending), string(AccessActive), string(AccessSuspended), string(AccessTerminated)}
}

// AccessInput is the input of SetAccess.
type AccessInput struct{ AccessTerms }

var accesses = &edge.Table[Access]{
	Name: "aaa.access", Prefix: "acs", Meta: func(a *Access) *edge.Meta { return &a.Meta },
	Indexes: []edge.Index[Access]{
		{Name: "policy_id", Keys: func(a *Access) []string {
			keys := present(string(a.Policy))
			if a.ExhaustedPolicy != "" && a.ExhaustedPolicy != a.Policy {
				keys = append(keys, string(a.ExhaustedPolicy))
			}
			return keys
		}},
	},
}

// SetAccess takes over what billing says about a subscription and refreshes the entitlements of all its logins in the same commit. A
// flow runs it; it is repeatable, and what is older than the stored revision is ignored.
var SetAccess = edge.Command[AccessInput, Access]{
	Name: "aaa.access.set", Scope: "aaa:write", Class: edge.Provision, Offline: true,
	Summary: "Take over billing's verdict on a subscription (a flow's)",
	Handle: func(tx edge.Tx, in AccessInput) (Access, error) {
		id := in.Subscription.With(accesses.Prefix)
		a, found, err := accesses.Find(tx, id)
		if err != nil || found && in.Revision < a.Revision {
			return a, err
		}
		if !found {
			a.ID = id
		}
		next := in.AccessTerms
		next.Reasons = slices.Sorted(slices.Values(next.Reasons))
		if next.ValidUntil != nil {
			next.ValidUntil = new(next.ValidUntil.UTC())
		}
		if found && a.equal(next) {
			return a, nil
		}
		a.AccessTerms = next
		if err := accesses.Put(tx, &a); err != nil {
			return Access{}, err
		}
		for c, err := range credentials.Range(tx, "subscription_id", string(a.Subscription)) {
			if err != nil {
				return Access{}, err
			}
			if err := refresh(tx, c.ID); err != nil {
				return Access{}, err
			}
		}
		return a, nil
	},
}

func (a AccessTerms) equal(b AccessTerms) bool {
	if !slices.Equal(a.Reasons, b.Reasons) || (a.ValidUntil == nil) != (b.ValidUntil == nil) {
		return false
	}
	return (a.ValidUntil == nil || a.ValidUntil.Equal(*b.ValidUntil)) && a.Subscription == b.Subscription && a.Customer == b.Customer &&
		a.Status == b.Status && a.Policy == b.Policy && a.ExhaustedPolicy == b.ExhaustedPolicy &&
		a.OfflineGraceSeconds == b.OfflineGraceSeconds && a.OnExpiry == b.OnExpiry && a.Revision == b.Revision
}

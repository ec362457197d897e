package aaa

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"wispgate/edge"
)

// Entitlement is the one record that says what a login may do: derived from the credential and the subscription's access, in the same
// commit as either. It names its policies; their content is looked up when a login is decided.
type Entitlement struct {
	ID           edge.ID        `json:"id" doc:"Identifier of the record."`
	Credential   edge.ID        `json:"credential_id" doc:"The credential."`
	Subscription edge.ID        `json:"subscription_id" doc:"The subscription it belongs to."`
	Customer     edge.ID        `json:"customer_id,omitempty" doc:"The subscription's customer."`
	Login        string         `json:"login" doc:"The login, normalised."`
	Type         CredentialType `json:"type" doc:"What the login proves itself with."`
	Terms
	Policy      edge.ID           `json:"policy_id,omitempty" doc:"The policy that holds."`
	Exhausted   edge.ID           `json:"exhausted_policy_id,omitempty" doc:"The policy for throttled and walled sessions."`
	MaxSessions uint16            `json:"max_sessions,omitempty" doc:"Sessions at the same time; 0: no limit."`
	MACBinding  MACBinding        `json:"mac_binding" doc:"Whether it works from one device only."`
	MAC         string            `json:"mac,omitempty" doc:"The device's address."`
	AllowedNAS  []edge.ID         `json:"allowed_nas,omitempty" doc:"Only through these; empty: any."`
	StaticIP    *netip.Addr       `json:"static_ip,omitempty" doc:"IPv4 address of its sessions."`
	StaticPD    *netip.Prefix     `json:"static_pd,omitempty" doc:"IPv6 prefix delegated to it."`
	Revision    uint64            `json:"revision" doc:"Changes if and only if what is above changes."`
	Sources     map[string]uint64 `json:"sources" doc:"The records it follows from, with their versions."`
}

var entitlements = &edge.Derived[Entitlement]{Name: "aaa.entitlement", Prefix: "ent", From: credentials, Of: entitlementOf}

// entitlementOf derives a login's entitlement. It is pure: no clock, and no trace of what was there before.
func entitlementOf(v edge.View, source edge.ID) (e Entitlement, ok bool, err error) {
	c, ok, err := credentials.Find(v, source)
	if err != nil || !ok {
		return e, false, err
	}
	a, known, err := accesses.Find(v, c.SubscriptionID.With(accesses.Prefix))
	if err != nil {
		return e, false, err
	}
	e = Entitlement{
		ID: c.ID.With("ent"), Credential: c.ID, Subscription: c.SubscriptionID, Customer: a.Customer, Login: c.Username, Type: c.Type,
		Policy: a.Policy, Exhausted: a.ExhaustedPolicy, MaxSessions: c.MaxSessions, MACBinding: c.MACBinding, MAC: c.MAC,
		AllowedNAS: c.AllowedNAS, StaticIP: c.StaticIP, StaticPD: c.StaticPD,
		Terms: Terms{
			ValidFrom: utc(c.ValidFrom), ValidUntil: utc(c.ValidUntil), PaidUntil: utc(a.ValidUntil), Grace: a.OfflineGraceSeconds,
			OnExpiry: Verdict(a.OnExpiry), Fallback: a.ExhaustedPolicy != "",
		},
	}
	e.Verdict, e.Reason = standing(&c, &a, known)
	if e.Revision, err = fingerprint(e); err != nil {
		return e, false, err
	}
	e.Sources = map[string]uint64{string(c.ID): c.Version}
	if known {
		e.Sources[string(a.ID)] = a.Version
	}
	return e, true, nil
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC())
}

// standing is the decision before any date is looked at.
func standing(c *Credential, a *Access, known bool) (Verdict, string) {
	switch c.Status {
	case CredentialStatusRevoked:
		return Reject, CodeRevoked
	case CredentialStatusLocked:
		return Reject, CodeLocked
	case CredentialStatusActive:
	}
	if !known {
		return Reject, CodeNoService
	}
	switch a.Status {
	case AccessTerminated:
		return Reject, CodeTerminated
	case AccessPending:
		return Reject, CodeNotActive
	case AccessSuspended:
		return suspended(a)
	case AccessActive:
	}
	if a.Policy == "" {
		return Reject, CodePolicyMissing
	}
	return Allow, CodeActive
}

// suspended picks the gravest of a set of reasons. A used-up allowance alone throttles, where a policy says to what.
func suspended(a *Access) (Verdict, string) {
	for _, f := range []struct{ reason, code string }{
		{"fraud", CodeSuspendedFraud}, {"admin", CodeSuspendedAdmin}, {"dunning", CodeSuspendedUnpaid}, {"customer", CodeSuspendedCustomer},
	} {
		if slices.Contains(a.Reasons, f.reason) {
			return Reject, f.code
		}
	}
	if !slices.Contains(a.Reasons, "quota") {
		return Reject, CodeSuspendedAdmin
	}
	if a.ExhaustedPolicy == "" {
		return Reject, CodeQuotaUsed
	}
	return Throttle, CodeQuotaUsed
}

// fingerprint numbers content: 52 bits of its SHA-256, so that every JSON reader keeps it exactly.
func fingerprint(content any) (uint64, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return 0, fmt.Errorf("encode content: %w", err)
	}
	sum := sha256.Sum256(raw)
	return binary.BigEndian.Uint64(sum[:8]) >> 12, nil
}

// Revision numbers what the policy gives a session; it changes if and only if the terms do.
func (p *PolicyTerms) Revision() uint64 {
	rev, err := fingerprint(*p)
	if err != nil {
		panic("policy terms cannot be encoded: " + err.Error()) // plain fields only: a bug, never data
	}
	return rev
}

// EntitlementChanged says that what a login may do changed: live sessions are to follow.
type EntitlementChanged struct {
	Entitlement  edge.ID `json:"entitlement" doc:"What the login may do, with its policy."`
	Credential   edge.ID `json:"credential" doc:"The login's record."`
	Subscription edge.ID `json:"subscription" doc:"The subscription."`
	Decision     Verdict `json:"decision" doc:"What the login may do."`
	Reason       string  `json:"reason" doc:"Stable code of the cause."`
	Was          Verdict `json:"was,omitempty" doc:"The decision before."`
	WasReason    string  `json:"was_reason,omitempty" doc:"Its cause."`
	Revision     uint64  `json:"revision" doc:"Changes if and only if the content does."`
}

// EventName implements edge.Event.
func (EntitlementChanged) EventName() string { return "aaa.entitlement.changed" }

// Subject implements edge.Event.
func (e EntitlementChanged) Subject() edge.ID { return e.Entitlement }

// refresh derives a login's entitlement anew and says so when its content changed.
func refresh(tx edge.Tx, credential edge.ID) error {
	was, now, changed, err := entitlements.Refresh(tx, credential)
	if err != nil || !changed || now == nil || was != nil && was.Revision == now.Revision {
		return err
	}
	e := EntitlementChanged{
		Entitlement: now.ID, Credential: now.Credential, Subscription: now.Subscription, Decision: now.Verdict, Reason: now.Reason, Revision: now.Revision,
	}
	if was != nil {
		e.Was, e.WasReason = was.Verdict, was.Reason
	}
	tx.Emit(e)
	return nil
}

// EntitlementView is an entitlement as it stands now, with its policy resolved.
type EntitlementView struct {
	Entitlement
	Now DecisionView `json:"now" doc:"The decision at this moment."`
}

// DecisionView shows a Decision.
type DecisionView struct {
	Decision Verdict      `json:"decision" doc:"What the login may do."`
	Reason   string       `json:"reason" doc:"Stable code of the cause."`
	Says     string       `json:"says" doc:"The reason in one sentence."`
	Fix      string       `json:"fix" doc:"What to do about it."`
	Policy   *PolicyTerms `json:"policy,omitempty" doc:"What a session gets now."`
	PolicyID edge.ID      `json:"policy_id,omitempty" doc:"The policy that holds."`
	Ends     *time.Time   `json:"sessions_end_at,omitempty" doc:"No session may outlive this."`
	Changes  *time.Time   `json:"changes_at,omitempty" doc:"When the decision changes by itself."`
	Next     string       `json:"changes_to,omitempty" doc:"The reason from then on."`
}

// viewOf decides an entitlement at the View's time and resolves its policy.
func viewOf(v edge.View, e Entitlement, clockTrusted bool) (EntitlementView, *Policy, error) {
	d := Decide(&e.Terms, v.Now(), clockTrusted)
	out := EntitlementView{Entitlement: e}
	var pol *Policy
	if d.Verdict != Reject {
		out.Now.PolicyID = e.Policy
		if d.Fallback {
			out.Now.PolicyID = e.Exhausted
		}
		p, ok, err := policies.Find(v, out.Now.PolicyID)
		if err != nil {
			return out, nil, err
		}
		if ok {
			pol, out.Now.Policy = &p, &p.PolicyTerms
		} else {
			d = Decision{Verdict: Reject, Reason: CodePolicyMissing}
		}
	}
	r := reasonFor(d.Reason)
	out.Now.Decision, out.Now.Reason, out.Now.Says, out.Now.Fix, out.Now.Next = d.Verdict, d.Reason, r.Says, r.Fix, d.Next
	out.Now.Ends, out.Now.Changes = instant(d.Ends), instant(d.Changes)
	return out, pol, nil
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// EntitlementRef names an entitlement by its own id or its credential's.
type EntitlementRef struct {
	ID edge.ID `json:"id" doc:"ent_… or crd_…"`
}

// EntitlementFilter narrows a list of entitlements.
type EntitlementFilter struct {
	edge.ListInput
	SubscriptionID edge.ID `json:"subscription_id,omitempty" check:"prefix=sub" doc:"Only those of this subscription."`
}

// getEntitlement shows what a login may do now.
func getEntitlement(trusted func() bool) edge.Query[EntitlementRef, EntitlementView] {
	return edge.Query[EntitlementRef, EntitlementView]{
		Name: "aaa.entitlement.get", Scope: "aaa:read", Class: edge.Read, Summary: "Show what a login may do now",
		Handle: func(v edge.View, in EntitlementRef) (EntitlementView, error) {
			e, ok, err := entitlements.Find(v, in.ID.With(credentials.Prefix))
			if err != nil {
				return EntitlementView{}, err
			}
			if !ok || in.ID.Prefix() != entitlements.Prefix && in.ID.Prefix() != credentials.Prefix {
				return EntitlementView{}, edge.ErrNotFound.Error(edge.NotFound)
			}
			out, _, err := viewOf(v, e, trusted())
			return out, err
		},
	}
}

// listEntitlements lists what logins may do, in the order of their credentials.
func listEntitlements(trusted func() bool) edge.Query[EntitlementFilter, edge.Page[EntitlementView]] {
	return edge.Query[EntitlementFilter, edge.Page[EntitlementView]]{
		Name: "aaa.entitlement.list", Scope: "aaa:read", Class: edge.Read, Summary: "List what logins may do now",
		Handle: func(v edge.View, in EntitlementFilter) (edge.Page[EntitlementView], error) {
			index, key, err := oneFilter(filter{"subscription_id", string(in.SubscriptionID)})
			if err != nil {
				return edge.Page[EntitlementView]{}, err
			}
			list, err := credentials.List(v, index, key, in.ListInput)
			if err != nil {
				return edge.Page[EntitlementView]{}, err
			}
			page := edge.Page[EntitlementView]{Data: make([]EntitlementView, 0, len(list.Data)), NextCursor: list.NextCursor, HasMore: list.HasMore}
			for _, c := range list.Data {
				e, ok, err := entitlements.Find(v, c.ID)
				if err != nil {
					return edge.Page[EntitlementView]{}, err
				}
				if !ok {
					continue
				}
				out, _, err := viewOf(v, e, trusted())
				if err != nil {
					return edge.Page[EntitlementView]{}, err
				}
				page.Data = append(page.Data, out)
			}
			return page, nil
		},
	}
}

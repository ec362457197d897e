package app

import (
	"errors"

	"wispgate/aaa"
	"wispgate/billing"
	"wispgate/crm"
	"wispgate/edge"
	"wispgate/inventory"
)

// Flows is the list of everything one domain makes another do. All of these run in the same commit as the event: what RADIUS or a
// reader must never see half done. None of them may set another off in a circle; a test reads the code and holds that.
func Flows() []edge.Flow {
	return []edge.Flow{
		// What a record names in another domain exists.
		edge.When("billing.plan.published > aaa.policy.get", policiesExist),
		edge.When("billing.subscription.created > crm.customer.get", customerMayBuy),
		edge.When("billing.subscription.created > inventory.site.get", func(tx edge.Tx, e billing.SubscriptionCreated) error { return siteInUse(tx, e.Site) }),
		edge.When("billing.subscription.updated > inventory.site.get", func(tx edge.Tx, e billing.SubscriptionUpdated) error { return siteInUse(tx, e.Site) }),
		edge.When("aaa.credential.created > billing.subscription.get", loginOfCustomer),

		// Money is never refused: that nobody knows who paid is a reason why it is credit.
		edge.When("billing.payment.recorded > crm.customer.get", payerKnown),

		// What would hurt someone who may have paid where nobody sees it stands still.
		edge.When("billing.subscription.suspended > inventory.site_contact.get", frozenWhileLost),

		// What billing and crm decide, the network does.
		edge.When("billing.subscription.access_changed > aaa.access.set", setAccess),
		edge.When("billing.subscription.terminated > aaa.credential.revoke", func(tx edge.Tx, e billing.SubscriptionTerminated) error {
			return eachLogin(tx, e.Subscription, revoke("subscription_terminated"))
		}),
		edge.When("crm.customer.status_changed > aaa.credential.lock, unlock", lockBlocked),
		edge.When("crm.customer.archived > aaa.credential.revoke", func(tx edge.Tx, e crm.CustomerArchived) error {
			return eachCustomerLogin(tx, e.Customer, revoke("customer_archived"))
		}),

		// What the network measures, billing counts.
		edge.When("aaa.session.measured > billing.usage.record", recordUsage),
	}
}

// customerBlocked is why a login is locked while its customer is blocked; only such locks end with the blocking.
const customerBlocked = "customer_blocked"

func setAccess(tx edge.Tx, e billing.AccessChanged) error {
	_, err := aaa.SetAccess.Within(tx, aaa.AccessInput{AccessTerms: aaa.AccessTerms{
		Subscription: e.Subscription, Customer: e.Customer, Status: aaa.AccessStatus(e.Status), Reasons: e.Reasons, Policy: e.Policy,
		ExhaustedPolicy: e.ExhaustedPolicy, ValidUntil: e.ValidUntil, OfflineGraceSeconds: e.OfflineGraceSeconds, OnExpiry: e.OnExpiry,
		Revision: e.Revision,
	}})
	return err
}

func recordUsage(tx edge.Tx, e aaa.SessionMeasured) error {
	_, err := billing.RecordUsage.Within(tx, billing.UsageReport{
		Session: e.Session, Subscription: e.Subscription, Credential: e.Credential, Start: e.Start, At: e.At, Closed: e.Closed,
		Counters: billing.Counters{InOctets: e.InOctets, OutOctets: e.OutOctets, Seconds: e.Seconds},
	})
	return err
}

func lockBlocked(tx edge.Tx, e crm.CustomerStatusChanged) error {
	if e.To == crm.Blocked {
		return eachCustomerLogin(tx, e.Customer, lock)
	}
	if e.From == crm.Blocked {
		return eachCustomerLogin(tx, e.Customer, unlock)
	}
	return nil
}

func lock(tx edge.Tx, c aaa.Credential) error {
	if c.Status != aaa.CredentialStatusActive {
		return nil
	}
	_, err := aaa.LockCredential.Within(tx, aaa.CredentialMove{ID: c.ID, Why: customerBlocked})
	return err
}

func unlock(tx edge.Tx, c aaa.Credential) error {
	if c.LockedFor != customerBlocked {
		return nil
	}
	_, err := aaa.UnlockCredential.Within(tx, aaa.CredentialRef{ID: c.ID})
	return err
}

func revoke(why string) func(edge.Tx, aaa.Credential) error {
	return func(tx edge.Tx, c aaa.Credential) error {
		_, err := aaa.RevokeCredential.Within(tx, aaa.CredentialMove{ID: c.ID, Why: why})
		return err
	}
}

// eachLogin does something to every credential of a subscription. They are read before the first is changed.
func eachLogin(tx edge.Tx, subscription edge.ID, do func(edge.Tx, aaa.Credential) error) error {
	list := aaa.CredentialFilter{SubscriptionID: subscription, ListInput: edge.ListInput{Limit: edge.MaxLimit}}
	for {
		page, err := aaa.ListCredentials.Handle(tx, list)
		if err != nil {
			return err
		}
		for _, c := range page.Data {
			if err := do(tx, c); err != nil {
				return err
			}
		}
		if !page.HasMore {
			return nil
		}
		list.Cursor = page.NextCursor
	}
}

// eachCustomerLogin does something to every credential of a customer's subscriptions.
func eachCustomerLogin(tx edge.Tx, customer edge.ID, do func(edge.Tx, aaa.Credential) error) error {
	list := billing.SubscriptionList{CustomerID: customer, ListInput: edge.ListInput{Limit: edge.MaxLimit}}
	for {
		page, err := billing.ListSubscriptions.Handle(tx, list)
		if err != nil {
			return err
		}
		for _, s := range page.Data {
			if err := eachLogin(tx, s.ID, do); err != nil {
				return err
			}
		}
		if !page.HasMore {
			return nil
		}
		list.Cursor = page.NextCursor
	}
}

func policiesExist(tx edge.Tx, e billing.PlanPublished) error {
	if err := policyInUse(tx, e.Policy, "/policy_ref"); err != nil {
		return err
	}
	return policyInUse(tx, e.ExhaustedPolicy, "/policy_exhausted_ref")
}

func policyInUse(tx edge.Tx, id edge.ID, at string) error {
	if id == "" {
		return nil
	}
	p, err := aaa.GetPolicy.Handle(tx, aaa.PolicyRef{ID: id})
	return refers(err, p.ArchivedAt == nil, at, "policy")
}

func customerMayBuy(tx edge.Tx, e billing.SubscriptionCreated) error {
	c, err := crm.GetCustomer.Handle(tx, crm.CustomerRef{ID: e.Customer})
	return refers(err, c.Status != crm.Archived && c.Status != crm.Blocked, "/customer_id", "customer")
}

func siteInUse(tx edge.Tx, id edge.ID) error {
	if id == "" {
		return nil
	}
	s, err := inventory.GetSite.Handle(tx, inventory.SiteRef{ID: id})
	return refers(err, s.ArchivedAt == nil, "/site_id", "site")
}

// loginOfCustomer holds that a new login belongs to a subscription in use, and locks it while its customer is blocked.
func loginOfCustomer(tx edge.Tx, e aaa.CredentialCreated) error {
	s, err := billing.GetSubscription.Handle(tx, billing.SubscriptionRef{ID: e.Subscription})
	if err := refers(err, s.Status != billing.Terminated, "/subscription_id", "subscription"); err != nil {
		return err
	}
	c, err := crm.GetCustomer.Handle(tx, crm.CustomerRef{ID: s.CustomerID})
	if err != nil || c.Status != crm.Blocked {
		return err
	}
	_, err = aaa.LockCredential.Within(tx, aaa.CredentialMove{ID: e.Credential, Why: customerBlocked})
	return err
}

func payerKnown(tx edge.Tx, e billing.PaymentRecorded) error {
	_, err := crm.GetCustomer.Handle(tx, crm.CustomerRef{ID: e.Customer})
	if errors.Is(err, edge.ErrNotFound.Error(edge.NotFound)) {
		return billing.MarkCustomerUnknown(tx, e.Payment)
	}
	return err
}

// frozenWhileLost refuses a suspension for unpaid invoices while the subscriber's site is cut off, unless its plan says to go on. What a
// node there has decided itself stands.
func frozenWhileLost(tx edge.Tx, e billing.SubscriptionSuspended) error {
	if e.Reason != billing.ForDunning || tx.Acknowledged() || edge.CutOff(tx) {
		return nil
	}
	s, err := billing.GetSubscription.Handle(tx, billing.SubscriptionRef{ID: e.Subscription})
	if err != nil || s.SiteID == "" {
		return err
	}
	c, err := inventory.GetSiteContact.Handle(tx, inventory.SiteRef{ID: s.SiteID})
	if errors.Is(err, edge.ErrNotFound.Error(edge.NotFound)) || err == nil && c.Status != inventory.ContactLost {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := billing.GetPlan.Handle(tx, billing.PlanRef{ID: s.MainPlan()})
	if err != nil || p.OnIsolation == "continue" {
		return err
	}
	return billing.ErrFrozen.Error(edge.Conflict)
}

// refers turns a missing or unusable record of another domain into a refusal of the member that names it.
func refers(err error, usable bool, at, noun string) error {
	switch {
	case errors.Is(err, edge.ErrNotFound.Error(edge.NotFound)):
		return billing.ErrReference.Error(edge.Invalid, edge.Field(at, "names no "+noun, "name an existing "+noun))
	case err != nil:
		return err
	case !usable:
		return billing.ErrReference.Error(edge.Conflict, edge.Field(at, "names a "+noun+" that is out of use", "name a "+noun+" in use"))
	}
	return nil
}

// Package crm knows the people and organizations served. It owns customers; contacts, locations, tickets and work orders join them here.
//
// Invariants: a customer's number is unique per tenant and never changes hands; phones are E.164; a status changes only along the
// lifecycle; a chain of parents ends. Events: crm.customer.created, updated, status_changed, archived, consent_changed, kyc_verified.
package crm

import "wispgate/edge"

// Module is everything crm offers. "Subscriber" is the word people use for a customer, so its routes answer under both names.
func Module() edge.Module {
	m := edge.Module{
		Name:    "crm",
		Summary: "The people and organizations that are served.",
		Tables:  []edge.AnyTable{customers},
		Ops: []*edge.Op{
			CreateCustomer.Op(), UpdateCustomer.Op(), SetCustomerStatus.Op(), ArchiveCustomer.Op(), SetConsent.Op(), VerifyCustomer.Op(),
			GetCustomer.Op(), GetCustomerByNumber.Op(), GetCustomerByExternalID.Op(), ListCustomers.Op(),
		},
		Events: []edge.Event{
			CustomerCreated{}, CustomerUpdated{}, CustomerStatusChanged{}, CustomerArchived{}, CustomerConsentChanged{}, CustomerVerified{},
		},
		Reasons: []edge.Reason{ErrCustomerInvalid, ErrCustomerArchived, ErrCustomerStatus, ErrCustomerID},
	}
	for _, base := range []string{"/api/v1/crm/customers", "/api/v1/subscribers"} {
		m.Routes = append(m.Routes,
			edge.Route{Method: "POST", Path: base, Op: CreateCustomer.Op(), Created: true},
			edge.Route{Method: "GET", Path: base, Op: ListCustomers.Op()},
			edge.Route{Method: "GET", Path: base + "/{id}", Op: GetCustomer.Op()},
			edge.Route{Method: "GET", Path: base + "/by-number/{number}", Op: GetCustomerByNumber.Op()},
			edge.Route{Method: "GET", Path: base + "/by-external-id/{external_id}", Op: GetCustomerByExternalID.Op()},
			edge.Route{Method: "PATCH", Path: base + "/{id}", Op: UpdateCustomer.Op()},
			edge.Route{Method: "POST", Path: base + "/{id}:set-status", Op: SetCustomerStatus.Op()},
			edge.Route{Method: "POST", Path: base + "/{id}:archive", Op: ArchiveCustomer.Op()},
			edge.Route{Method: "POST", Path: base + "/{id}:set-consent", Op: SetConsent.Op()},
			edge.Route{Method: "POST", Path: base + "/{id}:verify", Op: VerifyCustomer.Op()},
		)
	}
	return m
}

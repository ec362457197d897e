package crm

import (
	"slices"
	"strconv"
	"strings"

	"wispgate/edge"
)

// NewCustomer is what a customer is made from.
type NewCustomer struct {
	edge.Common
	ID          edge.ID        `json:"id,omitempty" check:"prefix=cus" doc:"Identifier minted by the sender, so that it can be referred to before the answer; absent: assigned."`
	Number      string         `json:"number,omitempty" check:"max=32" doc:"What people quote on the phone; absent: assigned." example:"7QK2-9MXD"`
	Kind        CustomerKind   `json:"kind" doc:"One human or an organization." example:"person"`
	Name        string         `json:"name,omitempty" check:"max=120" doc:"Name to show; a person's may follow from given and family name." example:"Rudo Moyo"`
	GivenName   string         `json:"given_name,omitempty" check:"max=80" doc:"Given names of a person." example:"Rudo"`
	FamilyName  string         `json:"family_name,omitempty" check:"max=80" doc:"Family name of a person." example:"Moyo"`
	LegalName   string         `json:"legal_name,omitempty" check:"max=160" doc:"Name on invoices where it differs." example:"Moyo Trading (Pvt) Ltd"`
	TaxIDs      []TaxID        `json:"tax_ids,omitempty" check:"max=5" doc:"Tax registrations."`
	Status      CustomerStatus `json:"status,omitempty" check:"enum=lead|prospect|active" doc:"Where in the lifecycle to begin: lead unless given." example:"lead"`
	Language    string         `json:"language,omitempty" check:"max=35" doc:"BCP 47 tag." example:"en-ZW"`
	Timezone    string         `json:"timezone,omitempty" check:"format=timezone max=64" doc:"IANA zone." example:"Africa/Harare"`
	Currency    string         `json:"currency,omitempty" check:"format=currency max=3" doc:"ISO 4217 code to quote in." example:"USD"`
	CallingCode string         `json:"calling_code,omitempty" check:"max=3" pattern:"^[1-9][0-9]{0,2}$" doc:"Country calling code for phones written without one." example:"263"`
	Phones      []PhoneInput   `json:"phones,omitempty" check:"max=5" doc:"Numbers, the preferred first."`
	Emails      []string       `json:"emails,omitempty" check:"max=5 item.max=254 item.format=email" doc:"Addresses, the preferred first." example:"rudo@example.com"`
	ParentID    edge.ID        `json:"parent_id,omitempty" check:"prefix=cus" doc:"The customer this one belongs to."`
	BillingMode BillingMode    `json:"billing_mode,omitempty" doc:"Who is billed when there is a parent: own unless given." example:"own"`
}

func (in NewCustomer) customer(id edge.ID) (Customer, error) {
	phones, err := normalPhones(in.Phones, in.CallingCode)
	if err != nil {
		return Customer{}, err
	}
	c := Customer{
		Meta: in.Meta(id), Number: in.Number, Kind: in.Kind, Name: in.Name, GivenName: in.GivenName, FamilyName: in.FamilyName,
		LegalName: in.LegalName, TaxIDs: in.TaxIDs, Status: in.Status, Language: in.Language, Timezone: in.Timezone, Currency: in.Currency,
		Phones: phones, Emails: in.Emails, ParentID: in.ParentID, BillingMode: in.BillingMode,
	}
	if c.Status == "" {
		c.Status = Lead
	}
	c.normalise()
	return c, nil
}

func normalPhones(list []PhoneInput, callingCode string) ([]Phone, error) {
	var phones []Phone
	for i, p := range list {
		number, ok := e164(p.Number, callingCode)
		if !ok {
			return nil, ErrCustomerInvalid.Error(edge.Invalid, edge.Field("/phones/"+strconv.Itoa(i)+"/number",
				"is not a phone number", "write +, country code and number, or give calling_code"))
		}
		phones = append(phones, Phone{Number: number, Label: strings.TrimSpace(p.Label)})
	}
	return phones, nil
}

// assignNumber takes the first derived number that nobody holds.
func (c *Customer) assignNumber(v edge.View) error {
	for try := range 8 {
		c.Number = numberOf(c.ID, try)
		_, err := customers.By(v, "number", numberKey(c.Number))
		if e, ok := edge.AsError(err); err != nil && ok && e.Kind == edge.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return edge.ErrUnique.Error(edge.Conflict, edge.Field("/number", "could not be assigned", "give a number"))
}

// CreateCustomer records a customer. Sent again with the same id and the same content it answers the record and changes nothing.
var CreateCustomer = edge.Command[NewCustomer, Customer]{
	Name: "crm.customer.create", Scope: "crm:write", Class: edge.Write, Offline: true, Summary: "Record a customer",
	Handle: func(tx edge.Tx, in NewCustomer) (Customer, error) {
		id := in.ID
		if id == "" {
			id = tx.NewID("cus")
		}
		c, err := in.customer(id)
		if err != nil {
			return Customer{}, err
		}
		was, found, err := customers.Find(tx, id)
		if err != nil {
			return Customer{}, err
		}
		if found {
			return repeated(&was, &c)
		}
		if c.Number == "" {
			if err := c.assignNumber(tx); err != nil {
				return Customer{}, err
			}
		}
		if err := c.check(); err != nil {
			return Customer{}, err
		}
		if err := c.checkParent(tx); err != nil {
			return Customer{}, err
		}
		if err := customers.Put(tx, &c); err != nil {
			return Customer{}, err
		}
		tx.Emit(CustomerCreated{c.ID, c.Number, c.Status})
		return c, nil
	},
}

// repeated answers a creation whose id exists: the record when it was made from the same content, else a conflict.
func repeated(was, c *Customer) (Customer, error) {
	if c.Number == "" {
		c.Number = was.Number
	}
	if diff, err := edge.Changed(was, c); err != nil || len(diff) == 0 {
		return *was, err
	}
	return Customer{}, ErrCustomerID.Error(edge.Conflict, edge.Field("/id", "names a customer with other content", "mint a new id"))
}

// CustomerChange carries the members of a customer to change; what is absent stays.
type CustomerChange struct {
	edge.CommonChange
	ID          edge.ID       `json:"id" check:"prefix=cus" doc:"The customer."`
	Number      *string       `json:"number,omitempty" check:"min=1 max=32" doc:"What people quote on the phone." example:"7QK2-9MXD"`
	Kind        *CustomerKind `json:"kind,omitempty" doc:"One human or an organization." example:"person"`
	Name        *string       `json:"name,omitempty" check:"max=120" doc:"Name to show." example:"Rudo Moyo"`
	GivenName   *string       `json:"given_name,omitempty" check:"max=80" doc:"Given names of a person." example:"Rudo"`
	FamilyName  *string       `json:"family_name,omitempty" check:"max=80" doc:"Family name of a person." example:"Moyo"`
	LegalName   *string       `json:"legal_name,omitempty" check:"max=160" doc:"Name on invoices where it differs." example:"Moyo Trading (Pvt) Ltd"`
	TaxIDs      *[]TaxID      `json:"tax_ids,omitempty" check:"max=5" doc:"Tax registrations."`
	Language    *string       `json:"language,omitempty" check:"max=35" doc:"BCP 47 tag." example:"en-ZW"`
	Timezone    *string       `json:"timezone,omitempty" check:"max=64" doc:"IANA zone." example:"Africa/Harare"`
	Currency    *string       `json:"currency,omitempty" check:"max=3" doc:"ISO 4217 code to quote in." example:"USD"`
	CallingCode string        `json:"calling_code,omitempty" check:"max=3" pattern:"^[1-9][0-9]{0,2}$" doc:"Country calling code for phones written without one." example:"263"`
	Phones      *[]PhoneInput `json:"phones,omitempty" check:"max=5" doc:"Numbers, the preferred first."`
	Emails      *[]string     `json:"emails,omitempty" check:"max=5 item.max=254 item.format=email" doc:"Addresses, the preferred first." example:"rudo@example.com"`
	ParentID    *edge.ID      `json:"parent_id,omitempty" check:"prefix=cus" doc:"The customer this one belongs to."`
	BillingMode *BillingMode  `json:"billing_mode,omitempty" doc:"Who is billed when there is a parent." example:"own"`
	Clear       []string      `json:"clear,omitempty" check:"max=1 item.enum=parent_id" doc:"Members to remove."`
}

func (in CustomerChange) apply(c *Customer) error {
	in.Apply(&c.Meta)
	for _, f := range []struct{ to, from *string }{
		{&c.Number, in.Number}, {&c.Name, in.Name}, {&c.GivenName, in.GivenName}, {&c.FamilyName, in.FamilyName},
		{&c.LegalName, in.LegalName}, {&c.Language, in.Language}, {&c.Timezone, in.Timezone}, {&c.Currency, in.Currency},
	} {
		edge.Set(f.to, f.from)
	}
	edge.Set(&c.Kind, in.Kind)
	edge.Set(&c.TaxIDs, in.TaxIDs)
	edge.Set(&c.Emails, in.Emails)
	edge.Set(&c.ParentID, in.ParentID)
	if slices.Contains(in.Clear, "parent_id") {
		c.ParentID = ""
	}
	edge.Set(&c.BillingMode, in.BillingMode)
	if in.Phones != nil {
		phones, err := normalPhones(*in.Phones, in.CallingCode)
		if err != nil {
			return err
		}
		c.Phones = phones
	}
	c.normalise()
	return nil
}

// prepareChange writes the change as the record will hold it, so that the same value is seen to be the same at a rebase.
func prepareChange(_ edge.Prep, in *CustomerChange) error {
	for _, s := range []**string{&in.Name, &in.GivenName, &in.FamilyName, &in.LegalName, &in.Number} {
		if *s != nil {
			*s = new(strings.Join(strings.Fields(**s), " "))
		}
	}
	if in.Emails != nil {
		in.Emails = new(slices.Clone(*in.Emails))
		for i, e := range *in.Emails {
			(*in.Emails)[i] = strings.ToLower(strings.TrimSpace(e))
		}
	}
	if in.Phones == nil {
		return nil
	}
	phones, err := normalPhones(*in.Phones, in.CallingCode)
	if err != nil {
		return err
	}
	in.CallingCode, in.Phones = "", new(make([]PhoneInput, len(phones)))
	for i, p := range phones {
		(*in.Phones)[i] = PhoneInput(p)
	}
	return nil
}

// inUse returns the customer unless it is archived.
func inUse(tx edge.Tx, id edge.ID) (Customer, error) {
	c, err := customers.Get(tx, id)
	if err == nil && c.Status == Archived {
		err = ErrCustomerArchived.Error(edge.Conflict)
	}
	return c, err
}

// UpdateCustomer changes members of a customer. A change that changes nothing is success without effect.
var UpdateCustomer = edge.Command[CustomerChange, Customer]{
	Name: "crm.customer.update", Scope: "crm:write", Class: edge.Write, Offline: true, Summary: "Change a customer",
	Record:  func(in CustomerChange) edge.ID { return in.ID },
	Prepare: prepareChange,
	Handle: func(tx edge.Tx, in CustomerChange) (Customer, error) {
		was, err := inUse(tx, in.ID)
		if err != nil {
			return Customer{}, err
		}
		c := was
		if err := in.apply(&c); err != nil {
			return Customer{}, err
		}
		if err := c.check(); err != nil {
			return Customer{}, err
		}
		if c.ParentID != was.ParentID {
			if err := c.checkParent(tx); err != nil {
				return Customer{}, err
			}
		}
		fields, err := edge.Changed(&was, &c)
		if err != nil || len(fields) == 0 {
			return was, err
		}
		if err := customers.Put(tx, &c); err != nil {
			return Customer{}, err
		}
		tx.Emit(CustomerUpdated{c.ID, fields})
		return c, nil
	},
}

// CustomerStatusInput asks for a status.
type CustomerStatusInput struct {
	ID     edge.ID        `json:"id" check:"prefix=cus" doc:"The customer."`
	Status CustomerStatus `json:"status" check:"enum=lead|prospect|active|dormant|churned|blocked" doc:"The status to take. Blocking locks the customer's logins; the status it was blocked from, or one that may follow it, ends that." example:"dormant"`
	Reason string         `json:"reason,omitempty" check:"max=200" doc:"Why." example:"moved away"`
}

// SetCustomerStatus moves a customer along the lifecycle. The status it already has is success without effect.
var SetCustomerStatus = edge.Command[CustomerStatusInput, Customer]{
	Name: "crm.customer.set_status", Scope: "crm:write", Class: edge.Provision, Summary: "Move a customer along the lifecycle",
	Record: func(in CustomerStatusInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in CustomerStatusInput) (Customer, error) {
		c, err := inUse(tx, in.ID)
		if err != nil || c.Status == in.Status {
			return c, err
		}
		from := c.Status
		if legal := c.next(); !slices.Contains(legal, in.Status) {
			return Customer{}, statusConflict(legal)
		}
		c.BlockedFrom = ""
		if in.Status == Blocked {
			c.BlockedFrom = from
		}
		c.Status, c.StatusReason = in.Status, in.Reason
		if err := customers.Put(tx, &c); err != nil {
			return Customer{}, err
		}
		tx.Emit(CustomerStatusChanged{c.ID, from, c.Status, c.StatusReason})
		return c, nil
	},
}

func statusConflict(legal []CustomerStatus) error {
	names := make([]string, len(legal))
	for i, s := range legal {
		names[i] = string(s)
	}
	return ErrCustomerStatus.Error(edge.Conflict, edge.Field("/status", "may not follow the present status", "use one of "+strings.Join(names, ", ")))
}

// CustomerRef names a customer.
type CustomerRef struct {
	ID edge.ID `json:"id" check:"prefix=cus" doc:"The customer."`
}

// ArchiveCustomer takes a customer out of use for good; it stays readable. An active or dormant customer is churned first.
var ArchiveCustomer = edge.Command[CustomerRef, Customer]{
	Name: "crm.customer.archive", Scope: "crm:write", Class: edge.Provision, Summary: "Take a customer out of use for good",
	Record: func(in CustomerRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in CustomerRef) (Customer, error) {
		c, err := customers.Get(tx, in.ID)
		if err != nil || c.Status == Archived {
			return c, err
		}
		if c.Status == Active || c.Status == Dormant {
			return Customer{}, statusConflict([]CustomerStatus{Churned, Blocked})
		}
		from := c.Status
		c.Status, c.BlockedFrom, c.ArchivedAt = Archived, "", new(tx.Now().UTC())
		if err := customers.Put(tx, &c); err != nil {
			return Customer{}, err
		}
		tx.Emit(CustomerArchived{c.ID, from})
		return c, nil
	},
}

// ConsentInput is the customer's word on one purpose.
type ConsentInput struct {
	ID      edge.ID `json:"id" check:"prefix=cus" doc:"The customer."`
	Purpose string  `json:"purpose" check:"min=1 max=32" pattern:"^[a-z0-9_]+$" doc:"What for." example:"sms_marketing"`
	Granted bool    `json:"granted" doc:"Yes or no."`
	Source  string  `json:"source" check:"min=1 max=64" doc:"Where it was said." example:"signed form 1182"`
}

const maxConsents = 20

// SetConsent records the customer's latest word on a purpose; earlier words stay in the events. What was said at a cut-off node counts from
// then, so a later word that the cluster heard meanwhile stands.
var SetConsent = edge.Command[ConsentInput, Customer]{
	Name: "crm.customer.set_consent", Scope: "crm:write", Class: edge.Write, Offline: true, Summary: "Record what a customer agreed to or declined",
	Record: func(in ConsentInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in ConsentInput) (Customer, error) {
		c, err := inUse(tx, in.ID)
		if err != nil {
			return Customer{}, err
		}
		word := Consent{Purpose: in.Purpose, Granted: in.Granted, At: edge.AcceptedAt(tx).UTC(), Source: in.Source}
		i := slices.IndexFunc(c.Consents, func(k Consent) bool { return k.Purpose == in.Purpose })
		switch {
		case i >= 0 && c.Consents[i].Granted == in.Granted && c.Consents[i].Source == in.Source:
			return c, nil
		case i >= 0 && c.Consents[i].At.After(word.At):
			return c, nil
		case i >= 0:
			c.Consents[i] = word
		case len(c.Consents) == maxConsents:
			return Customer{}, ErrCustomerInvalid.Error(edge.Invalid, edge.Field("/purpose", "would be the 21st purpose", "reuse one of the purposes there"))
		default:
			c.Consents = append(c.Consents, word)
		}
		if err := customers.Put(tx, &c); err != nil {
			return Customer{}, err
		}
		tx.Emit(CustomerConsentChanged{c.ID, in.Purpose, in.Granted})
		return c, nil
	},
}

// VerifyInput is the proof of identity that somebody saw.
type VerifyInput struct {
	ID        edge.ID `json:"id" check:"prefix=cus" doc:"The customer."`
	Document  string  `json:"document" check:"min=1 max=64" doc:"What was seen." example:"national id"`
	Reference string  `json:"reference,omitempty" check:"max=64" doc:"Where a copy is kept." example:"doc 88-12"`
}

// VerifyCustomer records that the actor saw proof of the customer's identity.
var VerifyCustomer = edge.Command[VerifyInput, Customer]{
	Name: "crm.customer.verify", Scope: "crm:write", Class: edge.Write, Summary: "Record proof of a customer's identity",
	Record: func(in VerifyInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in VerifyInput) (Customer, error) {
		c, err := inUse(tx, in.ID)
		if err != nil {
			return Customer{}, err
		}
		c.KYC = &KYC{Document: in.Document, Reference: in.Reference, VerifiedAt: tx.Now().UTC(), VerifiedBy: tx.Actor().Subject}
		if err := customers.Put(tx, &c); err != nil {
			return Customer{}, err
		}
		tx.Emit(CustomerVerified{c.ID, in.Document})
		return c, nil
	},
}

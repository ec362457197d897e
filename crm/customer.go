package crm

import (
	"net/mail"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// CustomerKind says whether a customer is one human or an organization.
type CustomerKind string

// The kinds of customer.
const (
	Person       CustomerKind = "person"
	Organization CustomerKind = "organization"
)

// Values lists the kinds, for the schema.
func (CustomerKind) Values() []string { return []string{"person", "organization"} }

// CustomerStatus is a customer's place in the lifecycle. It says nothing of money or of being online: those are derived elsewhere.
type CustomerStatus string

// The statuses of a customer.
const (
	Lead     CustomerStatus = "lead"
	Prospect CustomerStatus = "prospect"
	Active   CustomerStatus = "active"
	Dormant  CustomerStatus = "dormant"
	Churned  CustomerStatus = "churned"
	Blocked  CustomerStatus = "blocked"
	Archived CustomerStatus = "archived"
)

// Values lists the statuses, for the schema.
func (CustomerStatus) Values() []string {
	return []string{"lead", "prospect", "active", "dormant", "churned", "blocked", "archived"}
}

// lifecycle lists what may follow each status. From blocked a customer goes back to where it was blocked, or on from there.
var lifecycle = map[CustomerStatus][]CustomerStatus{
	Lead:     {Prospect, Active, Churned, Blocked},
	Prospect: {Lead, Active, Churned, Blocked},
	Active:   {Dormant, Churned, Blocked},
	Dormant:  {Active, Churned, Blocked},
	Churned:  {Prospect, Active, Blocked},
	Archived: nil,
}

// next lists the statuses that may follow the customer's present one.
func (c *Customer) next() []CustomerStatus {
	if c.Status == Blocked {
		return append([]CustomerStatus{c.BlockedFrom}, slices.DeleteFunc(slices.Clone(lifecycle[c.BlockedFrom]), func(s CustomerStatus) bool { return s == Blocked })...)
	}
	return lifecycle[c.Status]
}

// BillingMode says who is billed for a customer that has a parent.
type BillingMode string

// Values lists the modes, for the schema.
func (BillingMode) Values() []string { return []string{"own", "parent"} }

// Customer is a person or organization that is, was or may be served: a subscriber, in the words of the field.
type Customer struct {
	edge.Meta
	Number       string         `json:"number" check:"max=32" doc:"What people quote on the phone; unique whatever its case and hyphens." example:"7QK2-9MXD"`
	Kind         CustomerKind   `json:"kind" doc:"One human or an organization." example:"person"`
	Name         string         `json:"name" check:"max=120" doc:"Name to show and to call by." example:"Rudo Moyo"`
	GivenName    string         `json:"given_name,omitempty" check:"max=80" doc:"Given names of a person." example:"Rudo"`
	FamilyName   string         `json:"family_name,omitempty" check:"max=80" doc:"Family name of a person." example:"Moyo"`
	LegalName    string         `json:"legal_name,omitempty" check:"max=160" doc:"Name on invoices where it differs." example:"Moyo Trading (Pvt) Ltd"`
	TaxIDs       []TaxID        `json:"tax_ids,omitempty" check:"max=5" doc:"Tax registrations."`
	Status       CustomerStatus `json:"status" doc:"Place in the lifecycle." example:"active"`
	StatusReason string         `json:"status_reason,omitempty" check:"max=200" doc:"Why the status was last set." example:"moved away"`
	BlockedFrom  CustomerStatus `json:"blocked_from,omitempty" doc:"The status before it was blocked." example:"active"`
	Language     string         `json:"language,omitempty" check:"max=35" doc:"BCP 47 tag of the language to write in." example:"en-ZW"`
	Timezone     string         `json:"timezone,omitempty" check:"max=64" doc:"IANA zone." example:"Africa/Harare"`
	Currency     string         `json:"currency,omitempty" check:"max=3" doc:"ISO 4217 code to quote in." example:"USD"`
	Phones       []Phone        `json:"phones,omitempty" check:"max=5" doc:"Numbers, the preferred first."`
	Emails       []string       `json:"emails,omitempty" check:"max=5 item.max=254" doc:"Addresses, the preferred first." example:"rudo@example.com"`
	ParentID     edge.ID        `json:"parent_id,omitempty" check:"prefix=cus" doc:"The customer this one belongs to."`
	BillingMode  BillingMode    `json:"billing_mode,omitempty" doc:"Who is billed when there is a parent." example:"own"`
	Consents     []Consent      `json:"consents,omitempty" check:"max=20" doc:"What the customer agreed to or declined, by purpose."`
	KYC          *KYC           `json:"kyc,omitempty" doc:"Proof of identity; absent: not seen."`
}

// TaxID is a tax registration.
type TaxID struct {
	Country string `json:"country" check:"min=2 max=2" pattern:"^[A-Z]{2}$" doc:"ISO 3166 code of the country." example:"ZW"`
	Kind    string `json:"kind" check:"min=1 max=16" pattern:"^[a-z_]+$" doc:"Sort of number." example:"vat"`
	Value   string `json:"value" check:"min=1 max=32" doc:"The number as issued." example:"10012345"`
}

// Consent is the customer's word on one purpose.
type Consent struct {
	Purpose string    `json:"purpose" check:"max=32" doc:"What for." example:"sms_marketing"`
	Granted bool      `json:"granted" doc:"Yes or no."`
	At      time.Time `json:"at" doc:"When it was said."`
	Source  string    `json:"source" check:"max=64" doc:"Where it was said." example:"signed form 1182"`
}

// KYC is the proof of identity that somebody saw.
type KYC struct {
	Document   string    `json:"document" check:"max=64" doc:"What was seen." example:"national id"`
	Reference  string    `json:"reference,omitempty" check:"max=64" doc:"Where a copy is kept." example:"doc 88-12"`
	VerifiedAt time.Time `json:"verified_at" doc:"When it was seen."`
	VerifiedBy string    `json:"verified_by" check:"max=64" doc:"Who saw it."`
}

// Reasons of customers.
var (
	ErrCustomerInvalid  = edge.Reason{Code: "customer_invalid", Says: "The customer cannot be stored as described", Fix: "Correct the named fields"}
	ErrCustomerArchived = edge.Reason{Code: "customer_archived", Says: "The customer is archived", Fix: "Use another customer; an archived one is kept for history and never changes"}
	ErrCustomerStatus   = edge.Reason{Code: "customer_status", Says: "The customer cannot go from its present status to that one", Fix: "Take one of the statuses named"}
	ErrCustomerID       = edge.Reason{Code: "customer_id_taken", Says: "The id sent for the new customer already names another one", Fix: "Mint a new id for a new customer"}
)

var (
	languageForm = regexp.MustCompile(`^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$`)
	currencyForm = regexp.MustCompile(`^[A-Z]{3}$`)
	countryForm  = regexp.MustCompile(`^[A-Z]{2}$`)
)

// normalise trims and gives each member its one spelling; a person without a name to show is called by given and family name.
func (c *Customer) normalise() {
	for _, s := range []*string{&c.Name, &c.GivenName, &c.FamilyName, &c.LegalName, &c.Number} {
		*s = strings.Join(strings.Fields(*s), " ")
	}
	if c.Name == "" {
		c.Name = strings.TrimSpace(c.GivenName + " " + c.FamilyName)
	}
	c.Emails = slices.Clone(c.Emails)
	for i, e := range c.Emails {
		c.Emails[i] = strings.ToLower(strings.TrimSpace(e))
	}
	if c.ParentID == "" {
		c.BillingMode = ""
	} else if c.BillingMode == "" {
		c.BillingMode = "own"
	}
}

// check refuses what the schema cannot see.
func (c *Customer) check() error {
	var bad []edge.FieldError
	add := func(at, reason, fix string) { bad = append(bad, edge.Field(at, reason, fix)) }
	if c.Name == "" {
		add("/name", "is empty", "give a name, or given and family name of a person")
	}
	if numberKey(c.Number) == "" {
		add("/number", "is empty", "leave it out to have one assigned")
	}
	if !slices.Contains(c.Kind.Values(), string(c.Kind)) {
		add("/kind", "is not a kind of customer", "use person or organization")
	}
	if c.Kind == Organization && c.GivenName+c.FamilyName != "" {
		add("/given_name", "does not fit an organization", "use name and legal_name")
	}
	if c.Language != "" && !languageForm.MatchString(c.Language) {
		add("/language", "is not a BCP 47 tag", "use a tag such as en or pt-BR")
	}
	if c.Currency != "" && !currencyForm.MatchString(c.Currency) {
		add("/currency", "is not an ISO 4217 code", "use three capital letters such as USD")
	}
	if _, err := time.LoadLocation(c.Timezone); err != nil || c.Timezone == "Local" {
		add("/timezone", "is not an IANA time zone", "use a name such as Africa/Harare")
	}
	for i, e := range c.Emails {
		if a, err := mail.ParseAddress(e); err != nil || a.Address != e {
			add("/emails/"+strconv.Itoa(i), "is not an e-mail address", "use name@domain")
		}
	}
	for i, t := range c.TaxIDs {
		if !countryForm.MatchString(t.Country) || t.Kind == "" || taxKey(t.Value) == "" {
			add("/tax_ids/"+strconv.Itoa(i), "is not a tax registration", "give country, kind and value")
		}
	}
	if bad != nil {
		return ErrCustomerInvalid.Error(edge.Invalid, bad...)
	}
	return nil
}

const maxParents = 8 // length of the longest chain of parents

// checkParent refuses a parent that is missing, archived, or below the customer itself.
func (c *Customer) checkParent(v edge.View) error {
	refuse := func(reason, fix string) error {
		return ErrCustomerInvalid.Error(edge.Invalid, edge.Field("/parent_id", reason, fix))
	}
	above := c.ParentID
	for range maxParents {
		if above == "" {
			return nil
		}
		p, ok, err := customers.Find(v, above)
		switch {
		case err != nil:
			return err
		case !ok:
			return refuse("names no customer", "name an existing customer")
		case p.ID == c.ID:
			return refuse("leads back to the customer itself", "name a parent that does not belong to it")
		case above == c.ParentID && p.Status == Archived:
			return refuse("is archived", "name a customer in use")
		}
		above = p.ParentID
	}
	return refuse("makes a chain of more than 8 parents", "name a customer nearer to the top")
}

// taxKey is the form in which tax numbers are compared: upper-case letters and digits.
func taxKey(value string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, strings.ToUpper(value))
}

var customers = &edge.Table[Customer]{
	Name: "crm.customer", Prefix: "cus", Meta: func(c *Customer) *edge.Meta { return &c.Meta }, Indexes: customerIndexes,
}

var customerIndexes = []edge.Index[Customer]{
	{Name: "number", Unique: true, Keys: func(c *Customer) []string { return []string{numberKey(c.Number)} }},
	{Name: "status", Keys: func(c *Customer) []string { return []string{string(c.Status)} }},
	{Name: "name", Keys: func(c *Customer) []string {
		return words(c.Name, c.GivenName, c.FamilyName, c.LegalName, c.Number, numberKey(c.Number))
	}},
	{Name: "phone", Keys: func(c *Customer) []string {
		return distinct(c.Phones, func(p Phone) string { return p.Number })
	}},
	{Name: "email", Keys: func(c *Customer) []string { return distinct(c.Emails, func(e string) string { return e }) }},
	{Name: "tax_id", Keys: func(c *Customer) []string {
		return distinct(c.TaxIDs, func(t TaxID) string { return taxKey(t.Value) })
	}},
	{Name: "parent", Keys: func(c *Customer) []string {
		if c.ParentID == "" {
			return nil
		}
		return []string{string(c.ParentID)}
	}},
}

// distinct lists the keys of some items, sorted, each once.
func distinct[T any](items []T, key func(T) string) []string {
	var keys []string
	for _, it := range items {
		keys = append(keys, key(it))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// CustomerCreated says that a customer was recorded.
type CustomerCreated struct {
	Customer edge.ID        `json:"customer"`
	Number   string         `json:"number"`
	Status   CustomerStatus `json:"status"`
}

// CustomerUpdated says that members of a customer changed.
type CustomerUpdated struct {
	Customer edge.ID  `json:"customer"`
	Fields   []string `json:"fields"`
}

// CustomerStatusChanged says that a customer moved along the lifecycle.
type CustomerStatusChanged struct {
	Customer edge.ID        `json:"customer"`
	From     CustomerStatus `json:"from"`
	To       CustomerStatus `json:"to"`
	Reason   string         `json:"reason,omitempty"`
}

// CustomerArchived says that a customer is out of use for good.
type CustomerArchived struct {
	Customer edge.ID        `json:"customer"`
	From     CustomerStatus `json:"from"`
}

// CustomerConsentChanged says that a customer agreed to, or declined, a purpose.
type CustomerConsentChanged struct {
	Customer edge.ID `json:"customer"`
	Purpose  string  `json:"purpose"`
	Granted  bool    `json:"granted"`
}

// CustomerVerified says that a customer's identity was proved.
type CustomerVerified struct {
	Customer edge.ID `json:"customer"`
	Document string  `json:"document"`
}

// EventName implements edge.Event.
func (CustomerCreated) EventName() string { return "crm.customer.created" }

// Subject implements edge.Event.
func (e CustomerCreated) Subject() edge.ID { return e.Customer }

// EventName implements edge.Event.
func (CustomerUpdated) EventName() string { return "crm.customer.updated" }

// Subject implements edge.Event.
func (e CustomerUpdated) Subject() edge.ID { return e.Customer }

// EventName implements edge.Event.
func (CustomerStatusChanged) EventName() string { return "crm.customer.status_changed" }

// Subject implements edge.Event.
func (e CustomerStatusChanged) Subject() edge.ID { return e.Customer }

// EventName implements edge.Event.
func (CustomerArchived) EventName() string { return "crm.customer.archived" }

// Subject implements edge.Event.
func (e CustomerArchived) Subject() edge.ID { return e.Customer }

// EventName implements edge.Event.
func (CustomerConsentChanged) EventName() string { return "crm.customer.consent_changed" }

// Subject implements edge.Event.
func (e CustomerConsentChanged) Subject() edge.ID { return e.Customer }

// EventName implements edge.Event.
func (CustomerVerified) EventName() string { return "crm.customer.kyc_verified" }

// Subject implements edge.Event.
func (e CustomerVerified) Subject() edge.ID { return e.Customer }

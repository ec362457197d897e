package crm

import (
	"slices"
	"strings"

	"wispgate/edge"
)

// GetCustomer answers one customer.
var GetCustomer = edge.Query[CustomerRef, Customer]{
	Name: "crm.customer.get", Scope: "crm:read", Class: edge.Personal, Summary: "Read a customer",
	Shows:  customers,
	Record: func(in CustomerRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in CustomerRef) (Customer, error) { return customers.Get(v, in.ID) },
}

// CustomerNumber names a customer by its number.
type CustomerNumber struct {
	Number string `json:"number" check:"min=1 max=32" doc:"The customer's number, in any case, with or without hyphens." example:"7qk29mxd"`
}

// GetCustomerByNumber answers the customer that holds a number.
var GetCustomerByNumber = edge.Query[CustomerNumber, Customer]{
	Name: "crm.customer.get_by_number", Scope: "crm:read", Class: edge.Personal, Summary: "Read a customer by its number",
	Handle: func(v edge.View, in CustomerNumber) (Customer, error) {
		return customers.By(v, "number", numberKey(in.Number))
	},
}

// CustomerExternalID names a customer by its identifier in another system.
type CustomerExternalID struct {
	ExternalID string `json:"external_id" check:"min=1 max=128" doc:"Identifier in another system." example:"splynx-204"`
}

// GetCustomerByExternalID answers the customer that holds an identifier of another system.
var GetCustomerByExternalID = edge.Query[CustomerExternalID, Customer]{
	Name: "crm.customer.get_by_external_id", Scope: "crm:read", Class: edge.Personal, Summary: "Read a customer by its identifier in another system",
	Handle: func(v edge.View, in CustomerExternalID) (Customer, error) {
		return customers.By(v, "external_id", in.ExternalID)
	},
}

// CustomerList filters a list of customers. Filters add up: what is listed fits all of them.
type CustomerList struct {
	edge.ListInput
	Q           string         `json:"q,omitempty" check:"max=100" doc:"What somebody types to find a customer: beginnings of words of the name or number, of an e-mail address, or of a phone that begins with +." example:"moy rud"`
	Status      CustomerStatus `json:"status,omitempty" doc:"Only this status." example:"active"`
	Phone       string         `json:"phone,omitempty" check:"max=32" doc:"Only who is reached under this number." example:"+263771234567"`
	CallingCode string         `json:"calling_code,omitempty" check:"max=3" pattern:"^[1-9][0-9]{0,2}$" doc:"Country calling code, when phone is national." example:"263"`
	Email       string         `json:"email,omitempty" check:"max=254" doc:"Only who has this address." example:"rudo@example.com"`
	TaxID       string         `json:"tax_id,omitempty" check:"max=32" doc:"Only who has this tax number." example:"10012345"`
	ParentID    edge.ID        `json:"parent_id,omitempty" check:"prefix=cus" doc:"Only who belongs to this customer."`
}

// ListCustomers answers a page of customers.
var ListCustomers = edge.Query[CustomerList, edge.Page[Customer]]{
	Name: "crm.customer.list", Scope: "crm:read", Class: edge.Personal, Summary: "List or search customers",
	Handle: func(v edge.View, in CustomerList) (edge.Page[Customer], error) {
		f, err := in.filter()
		if err != nil {
			return edge.Page[Customer]{}, err
		}
		return customers.Select(v, f, in.ListInput)
	},
}

// filter takes the narrowest index for the scan and the other conditions as tests on each record.
func (in CustomerList) filter() (edge.Filter[Customer], error) {
	phone := ""
	if in.Phone != "" {
		var ok bool
		if phone, ok = e164(in.Phone, in.CallingCode); !ok {
			return edge.Filter[Customer]{}, ErrCustomerInvalid.Error(edge.Invalid,
				edge.FieldError{In: "query", Pointer: "phone", Reason: "is not a phone number", Fix: "write +, country code and number, or give calling_code"})
		}
	}
	email, tax := strings.ToLower(strings.TrimSpace(in.Email)), taxKey(in.TaxID)
	typed := search(in.Q)
	f := edge.Filter[Customer]{Also: []string{in.Q, string(in.Status), phone, email, tax, string(in.ParentID)}}
	switch {
	case phone != "":
		f.Index, f.Key = "phone", phone
	case email != "":
		f.Index, f.Key = "email", email
	case tax != "":
		f.Index, f.Key = "tax_id", tax
	case typed.index != "":
		f.Index, f.Key, f.Prefix = typed.index, typed.key, true
	case in.ParentID != "":
		f.Index, f.Key = "parent", string(in.ParentID)
	case in.Status != "":
		f.Index, f.Key = "status", string(in.Status)
	}
	f.Keep = func(c *Customer) bool {
		return (in.Status == "" || c.Status == in.Status) && (in.ParentID == "" || c.ParentID == in.ParentID) &&
			(email == "" || slices.Contains(c.Emails, email)) && typed.fits(c) &&
			(phone == "" || slices.ContainsFunc(c.Phones, func(p Phone) bool { return p.Number == phone })) &&
			(tax == "" || slices.ContainsFunc(c.TaxIDs, func(t TaxID) bool { return taxKey(t.Value) == tax }))
	}
	return f, nil
}

// typed is what somebody typed to find a customer: an index to search, the key that narrows it most, and every beginning to fit.
type typed struct {
	index, key string
	all        []string
}

func search(q string) typed {
	q = strings.TrimSpace(q)
	var t typed
	switch {
	case strings.Contains(q, "@"):
		t.index, t.all = "email", []string{strings.ToLower(q)}
	case strings.HasPrefix(q, "+"):
		t.index, t.all = "phone", []string{strings.Map(func(r rune) rune {
			if r == '+' || r >= '0' && r <= '9' {
				return r
			}
			return -1
		}, q)}
	default:
		t.all = words(q)
		if len(t.all) > 0 {
			t.index = "name"
		}
	}
	for _, w := range t.all {
		if len(w) > len(t.key) {
			t.key = w
		}
	}
	return t
}

// fits reports whether every beginning that was typed begins a key of the customer.
func (t typed) fits(c *Customer) bool {
	if t.index == "" {
		return true
	}
	i := slices.IndexFunc(customerIndexes, func(ix edge.Index[Customer]) bool { return ix.Name == t.index })
	keys := customerIndexes[i].Keys(c)
	for _, begin := range t.all {
		if !slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, begin) }) {
			return false
		}
	}
	return true
}

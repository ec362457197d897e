package crm_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wispgate/crm"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

var ann = edgetest.Actor("acme")

type customer = crm.Customer

func create(t *testing.T, n *edgetest.Harness, in crm.NewCustomer) customer {
	t.Helper()
	if in.Kind == "" {
		in.Kind = crm.Person
	}
	return edgetest.Do[customer](t, n, ann, "crm.customer.create", in)
}

func TestACustomerIsCreatedReadAndChanged(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	c := create(t, n, crm.NewCustomer{
		Common: edge.Common{ExternalID: "splynx-204"}, GivenName: " Rudo ", FamilyName: "Moyo", CallingCode: "263",
		Phones: []crm.PhoneInput{{Number: "077 123 4567", Label: "mobile"}, {Number: "+44 (0)20 7946 0018"}}, Emails: []string{" Rudo@Example.com"},
	})
	if c.Name != "Rudo Moyo" || c.Status != crm.Lead || c.Phones[0].Number != "+263771234567" || c.Phones[1].Number != "+442079460018" || c.Emails[0] != "rudo@example.com" {
		t.Fatalf("got %+v, want everything in its one spelling", c)
	}
	if len(c.Number) != 9 || c.Number[4] != '-' {
		t.Errorf("got number %q, want two groups of four", c.Number)
	}
	byNumber := edgetest.Ask[customer](t, n, ann, "crm.customer.get_by_number", crm.CustomerNumber{Number: " " + c.Number[:4] + c.Number[5:]})
	byOther := edgetest.Ask[customer](t, n, ann, "crm.customer.get_by_external_id", crm.CustomerExternalID{ExternalID: "splynx-204"})
	if byNumber.ID != c.ID || byOther.ID != c.ID {
		t.Errorf("got %s and %s, want %s both ways", byNumber.ID, byOther.ID, c.ID)
	}
	c = edgetest.Do[customer](t, n, ann, "crm.customer.update", crm.CustomerChange{ID: c.ID, Language: new("en-ZW")})
	same := edgetest.Do[customer](t, n, ann, "crm.customer.update", crm.CustomerChange{ID: c.ID, Language: new("en-ZW")})
	if c.Version != 2 || same.Version != 2 {
		t.Errorf("got versions %d and %d, want 2 and no further change", c.Version, same.Version)
	}
	rows := edgetest.Events(t, n, "acme", 0)
	if got := string(rows[len(rows)-1].Changed); got != `{"customer":"`+string(c.ID)+`","fields":["language"]}` {
		t.Errorf("got event %s, want the changed member alone", got)
	}
	edgetest.NoDrift(t, n)
}

func TestCustomersThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	top := create(t, n, crm.NewCustomer{Name: "Top", Number: "AB-1"})
	below := create(t, n, crm.NewCustomer{Name: "Below", ParentID: top.ID})
	for _, c := range []struct {
		name, op string
		in       any
		code, at string
	}{
		{"a person without any name", "create", crm.NewCustomer{Kind: crm.Person}, "customer_invalid", "/name"},
		{"a number that is held, written otherwise", "create", crm.NewCustomer{Kind: crm.Person, Name: "x", Number: "ab1"}, "already_exists", "/number"},
		{"a national phone without a calling code", "create", crm.NewCustomer{Kind: crm.Person, Name: "x", Phones: []crm.PhoneInput{{Number: "077 123 4567"}}}, "customer_invalid", "/phones/0/number"},
		{"a phone of sixteen digits", "create", crm.NewCustomer{Kind: crm.Person, Name: "x", Phones: []crm.PhoneInput{{Number: "+1234567890123456"}}}, "customer_invalid", "/phones/0/number"},
		{"a phone with letters", "create", crm.NewCustomer{Kind: crm.Person, Name: "x", Phones: []crm.PhoneInput{{Number: "+1 800 FLOWERS"}}}, "customer_invalid", "/phones/0/number"},
		{"an address with a name in it", "create", crm.NewCustomer{Kind: crm.Person, Name: "x", Emails: []string{"Rudo <r@example.com>"}}, "customer_invalid", "/emails/0"},
		{"an organization with a given name", "create", crm.NewCustomer{Kind: crm.Organization, Name: "x", GivenName: "y"}, "customer_invalid", "/given_name"},
		{"an unknown zone", "create", crm.NewCustomer{Kind: crm.Person, Name: "x", Timezone: "Mars/Base"}, "customer_invalid", "/timezone"},
		{"a parent that is not", "create", crm.NewCustomer{Kind: crm.Person, Name: "x", ParentID: "cus_00000000-0000-7000-8000-000000000000"}, "customer_invalid", "/parent_id"},
		{"a circle of parents", "update", crm.CustomerChange{ID: top.ID, ParentID: &below.ID}, "customer_invalid", "/parent_id"},
		{"a parent of itself", "update", crm.CustomerChange{ID: top.ID, ParentID: &top.ID}, "customer_invalid", "/parent_id"},
		{"an id that names another", "create", crm.NewCustomer{ID: top.ID, Kind: crm.Person, Name: "Other"}, "customer_id_taken", "/id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := edgetest.Try[customer](n, ann, edge.Request{}, "crm.customer."+c.op, c.in)
			e, _ := edge.AsError(err)
			if err == nil || e.Code != c.code || len(e.Fields) == 0 || e.Fields[0].Pointer != c.at {
				t.Errorf("got %v, want %s at %s", err, c.code, c.at)
			}
		})
	}
	edgetest.NoDrift(t, n)
}

func TestACreationWithItsOwnIDIsAnsweredOnceAndForAll(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	in := crm.NewCustomer{ID: "cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", Kind: crm.Person, Name: "Rudo", Emails: []string{"R@example.com"}}
	first, second := create(t, n, in), create(t, n, in)
	if first.ID != in.ID || !cmp.Equal(first, second) {
		t.Errorf("the second answer differs: %s", cmp.Diff(first, second))
	}
	if got := edgetest.EventTypes(t, n, "acme", 0); len(got) != 1 {
		t.Errorf("got events %v, want one", got)
	}
}

func TestStatusesFollowTheLifecycle(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	move := func(id edge.ID, to crm.CustomerStatus) (customer, error) {
		c, _, err := edgetest.Try[customer](n, ann, edge.Request{}, "crm.customer.set_status", crm.CustomerStatusInput{ID: id, Status: to})
		return c, err
	}
	for _, c := range []struct {
		name string
		path []crm.CustomerStatus
		last string // code of the last step, "" when it succeeds
	}{
		{"from lead to win-back", []crm.CustomerStatus{crm.Prospect, crm.Active, crm.Dormant, crm.Active, crm.Churned, crm.Active}, ""},
		{"blocked and back", []crm.CustomerStatus{crm.Active, crm.Blocked, crm.Active}, ""},
		{"blocked and on", []crm.CustomerStatus{crm.Active, crm.Blocked, crm.Churned}, ""},
		{"blocked twice has no further effect", []crm.CustomerStatus{crm.Active, crm.Blocked, crm.Blocked}, ""},
		{"a lead is never dormant", []crm.CustomerStatus{crm.Dormant}, "customer_status"},
		{"blocking is no short cut", []crm.CustomerStatus{crm.Blocked, crm.Dormant}, "customer_status"},
		{"active never becomes a lead again", []crm.CustomerStatus{crm.Active, crm.Lead}, "customer_status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, code := create(t, n, crm.NewCustomer{Name: c.name}).ID, ""
			for i, to := range c.path {
				got, err := move(id, to)
				if err != nil {
					code = edgetest.CodeOf(t, err)
					if i != len(c.path)-1 {
						t.Fatalf("step %d: %v", i, err)
					}
				} else if got.Status != to {
					t.Fatalf("step %d: got %s, want %s", i, got.Status, to)
				}
			}
			if code != c.last {
				t.Errorf("got %q, want %q", code, c.last)
			}
		})
	}
	edgetest.NoDrift(t, n)
}

func TestAnArchivedCustomerIsReadableAndNeverChanges(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	c := create(t, n, crm.NewCustomer{Name: "Rudo", Status: crm.Active})
	if got := edgetest.Code(t, n, ann, "crm.customer.archive", crm.CustomerRef{ID: c.ID}); got != "customer_status" {
		t.Errorf("an active one: got %s, want customer_status", got)
	}
	edgetest.Do[customer](t, n, ann, "crm.customer.set_status", crm.CustomerStatusInput{ID: c.ID, Status: crm.Churned})
	gone := edgetest.Do[customer](t, n, ann, "crm.customer.archive", crm.CustomerRef{ID: c.ID})
	twice := edgetest.Do[customer](t, n, ann, "crm.customer.archive", crm.CustomerRef{ID: c.ID})
	if gone.Status != crm.Archived || gone.ArchivedAt == nil || twice.Version != gone.Version {
		t.Errorf("got %+v then version %d, want archived once", gone, twice.Version)
	}
	for op, in := range map[string]any{
		"update":      crm.CustomerChange{ID: c.ID, Name: new("x")},
		"set_status":  crm.CustomerStatusInput{ID: c.ID, Status: crm.Active},
		"set_consent": crm.ConsentInput{ID: c.ID, Purpose: "sms", Source: "x"},
		"verify":      crm.VerifyInput{ID: c.ID, Document: "passport"},
	} {
		if got := edgetest.Code(t, n, ann, "crm.customer."+op, in); got != "customer_archived" {
			t.Errorf("%s: got %s, want customer_archived", op, got)
		}
	}
	if got := edgetest.Ask[customer](t, n, ann, "crm.customer.get", crm.CustomerRef{ID: c.ID}); got.Name != "Rudo" {
		t.Errorf("got %q, want it readable", got.Name)
	}
}

func TestAChildLeavesItsParent(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	top := create(t, n, crm.NewCustomer{Name: "Top"})
	c := create(t, n, crm.NewCustomer{Name: "Below", ParentID: top.ID, BillingMode: "parent"})
	c = edgetest.Do[customer](t, n, ann, "crm.customer.update", crm.CustomerChange{ID: c.ID, Clear: []string{"parent_id"}})
	if c.ParentID != "" || c.BillingMode != "" {
		t.Errorf("got parent %q billed %q, want neither", c.ParentID, c.BillingMode)
	}
	edgetest.NoDrift(t, n)
}

func TestConsentAndIdentityAreRecorded(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	c := create(t, n, crm.NewCustomer{Name: "Rudo"})
	word := crm.ConsentInput{ID: c.ID, Purpose: "sms", Granted: true, Source: "form 1"}
	edgetest.Do[customer](t, n, ann, "crm.customer.set_consent", word)
	if got := edgetest.Do[customer](t, n, ann, "crm.customer.set_consent", word); got.Version != 2 {
		t.Errorf("the same word made version %d, want 2", got.Version)
	}
	word.Granted = false
	got := edgetest.Do[customer](t, n, ann, "crm.customer.set_consent", word)
	if len(got.Consents) != 1 || got.Consents[0].Granted {
		t.Errorf("got %+v, want the latest word alone", got.Consents)
	}
	got = edgetest.Do[customer](t, n, ann, "crm.customer.verify", crm.VerifyInput{ID: c.ID, Document: "passport"})
	if got.KYC == nil || got.KYC.VerifiedBy != ann.Subject || !got.KYC.VerifiedAt.Equal(edgetest.Start) {
		t.Errorf("got %+v, want who saw it and when", got.KYC)
	}
}

func TestCustomersAreFoundByWhatPeopleType(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	rudo := create(t, n, crm.NewCustomer{GivenName: "Rudo", FamilyName: "Moyo-Pérez", Number: "K-100", Phones: []crm.PhoneInput{{Number: "+263771234567"}}})
	create(t, n, crm.NewCustomer{GivenName: "Rudo Rudolf", FamilyName: "Ncube", Emails: []string{"rr@ncube.example"}})
	create(t, n, crm.NewCustomer{Kind: crm.Organization, Name: "Łódź Łan School", Status: crm.Active, TaxIDs: []crm.TaxID{{Country: "PL", Kind: "vat", Value: "PL 100-200"}}})
	create(t, n, crm.NewCustomer{Name: "Child", ParentID: rudo.ID})
	for q, want := range map[string][]string{
		"rud":                 {"Rudo Moyo-Pérez", "Rudo Rudolf Ncube"},
		"RUD mo":              {"Rudo Moyo-Pérez"},
		"perez":               {"Rudo Moyo-Pérez"},
		"Pérez":               {"Rudo Moyo-Pérez"},
		"lodz scho":           {"Łódź Łan School"},
		"k-100":               {"Rudo Moyo-Pérez"},
		"K100":                {"Rudo Moyo-Pérez"},
		"+263 77":             {"Rudo Moyo-Pérez"},
		"RR@ncube":            {"Rudo Rudolf Ncube"},
		"nobody":              nil,
		"ud":                  nil,
		"rudo moyo perez gar": nil,
	} {
		got := names(t, n, crm.CustomerList{Q: q})
		if !cmp.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", q, got, want)
		}
	}
	for name, c := range map[string]struct {
		in   crm.CustomerList
		want []string
	}{
		"phone":              {crm.CustomerList{Phone: "077 123 4567", CallingCode: "263"}, []string{"Rudo Moyo-Pérez"}},
		"email":              {crm.CustomerList{Email: "RR@ncube.example"}, []string{"Rudo Rudolf Ncube"}},
		"tax id":             {crm.CustomerList{TaxID: "pl100200"}, []string{"Łódź Łan School"}},
		"parent":             {crm.CustomerList{ParentID: rudo.ID}, []string{"Child"}},
		"status":             {crm.CustomerList{Status: crm.Active}, []string{"Łódź Łan School"}},
		"word and status":    {crm.CustomerList{Q: "rudo", Status: crm.Active}, nil},
		"everything at once": {crm.CustomerList{Q: "moyo", Phone: "+263771234567", Status: crm.Lead}, []string{"Rudo Moyo-Pérez"}},
	} {
		if got := names(t, n, c.in); !cmp.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	edgetest.NoDrift(t, n)
}

func TestASearchIsPagedWithoutDoublesAndItsCursorIsItsOwn(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	for _, name := range []string{"Ann Anna", "Anton Ann", "Anne", "Bob Ann", "Annika"} {
		create(t, n, crm.NewCustomer{Name: name})
	}
	var got []string
	in := crm.CustomerList{Q: "ann", ListInput: edge.ListInput{Limit: 2}}
	for {
		page := edgetest.Ask[edge.Page[customer]](t, n, ann, "crm.customer.list", in)
		for _, c := range page.Data {
			got = append(got, c.Name)
		}
		if in.Cursor = page.NextCursor; !page.HasMore {
			break
		}
		_, _, err := n.Ask(t.Context(), ann, "crm.customer.list", []byte(`{"q":"an","cursor":"`+in.Cursor+`"}`), 0)
		if code := edgetest.CodeOf(t, err); code != "cursor_invalid" {
			t.Fatalf("a cursor of another search: got %s, want cursor_invalid", code)
		}
	}
	slices.Sort(got)
	if want := []string{"Ann Anna", "Anne", "Annika", "Anton Ann", "Bob Ann"}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want each once: %v", got, want)
	}
}

func TestARareMatchNeverHoldsUpTheNode(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, crm.Module())
	var calls []edge.Call
	for i := range 1010 {
		status := crm.Lead
		if i == 500 {
			status = crm.Active
		}
		raw, err := json.Marshal(crm.NewCustomer{Kind: crm.Person, Name: fmt.Sprint("Common ", i), Status: status})
		if err != nil {
			t.Fatal(err)
		}
		if calls = append(calls, edge.Call{Op: "crm.customer.create", In: raw}); len(calls) == 10 {
			if _, err := n.Do(t.Context(), edge.Request{Actor: ann, Calls: calls}); err != nil {
				t.Fatal(err)
			}
			calls = nil
		}
	}
	in, found, pages := crm.CustomerList{Q: "common", Status: crm.Active}, 0, 0
	for {
		page := edgetest.Ask[edge.Page[customer]](t, n, ann, "crm.customer.list", in)
		found, pages = found+len(page.Data), pages+1
		if in.Cursor = page.NextCursor; !page.HasMore {
			break
		}
	}
	if found != 1 || pages != 2 {
		t.Errorf("got %d customers in %d pages, want the one in two: a page looks at no more than 1000", found, pages)
	}
}

func names(t *testing.T, n *edgetest.Harness, in crm.CustomerList) []string {
	t.Helper()
	var list []string
	for _, c := range edgetest.Ask[edge.Page[customer]](t, n, ann, "crm.customer.list", in).Data {
		list = append(list, c.Name)
	}
	slices.Sort(list)
	return list
}

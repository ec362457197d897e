package billing

import (
	"cmp"
	"slices"

	"wispgate/edge"
)

// GetPayment answers one payment.
var GetPayment = edge.Query[PaymentRef, Payment]{
	Name: "billing.payment.get", Scope: "billing:read", Class: edge.Read, Summary: "Read a payment",
	Shows:  payments,
	Record: func(in PaymentRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in PaymentRef) (Payment, error) { return payments.Get(v, in.ID) },
}

// PaymentList filters a list of payments. Filters add up.
type PaymentList struct {
	edge.ListInput
	CustomerID     edge.ID       `json:"customer_id,omitempty" check:"prefix=cus" doc:"Only this customer's."`
	SubscriptionID edge.ID       `json:"subscription_id,omitempty" check:"prefix=sub" doc:"Only those for this subscription."`
	Collector      string        `json:"collector,omitempty" check:"max=64" doc:"Only those that this collector took." example:"Tendai"`
	Device         string        `json:"device,omitempty" check:"max=64" doc:"Only those that this device numbered, in the order of its numbers." example:"phone-7"`
	Status         PaymentStatus `json:"status,omitempty" doc:"Only this status." example:"provisional"`
	Method         PaymentMethod `json:"method,omitempty" doc:"Only this method." example:"cash"`
}

// ListPayments answers a page of payments.
var ListPayments = edge.Query[PaymentList, edge.Page[Payment]]{
	Name: "billing.payment.list", Scope: "billing:read", Class: edge.Read, Summary: "List payments",
	Handle: func(v edge.View, in PaymentList) (edge.Page[Payment], error) {
		f := edge.Filter[Payment]{
			Also: []string{string(in.CustomerID), string(in.SubscriptionID), in.Collector, in.Device, string(in.Status), string(in.Method)},
			Keep: in.keep,
		}
		if in.Device != "" {
			f.Index, f.Key, f.Prefix = "device", in.Device+"/", true
			return payments.Select(v, f, in.ListInput)
		}
		for _, ix := range []struct{ name, key string }{ // the narrowest first
			{"subscription", string(in.SubscriptionID)}, {"customer", string(in.CustomerID)}, {"collector", in.Collector}, {"status", string(in.Status)},
		} {
			if ix.key != "" {
				f.Index, f.Key = ix.name, ix.key
				break
			}
		}
		return payments.Select(v, f, in.ListInput)
	},
}

func (in PaymentList) keep(p *Payment) bool {
	return (in.CustomerID == "" || p.CustomerID == in.CustomerID) && (in.SubscriptionID == "" || p.SubscriptionID == in.SubscriptionID) &&
		(in.Collector == "" || p.Collector == in.Collector) && (in.Device == "" || p.Device == in.Device) &&
		(in.Status == "" || p.Status == in.Status) && (in.Method == "" || p.Method == in.Method)
}

// PaymentReference is the provider's reference of a payment.
type PaymentReference struct {
	ID        edge.ID `json:"id" check:"prefix=pay" doc:"The payment."`
	Reference string  `json:"reference" check:"max=64" doc:"The reference in full." example:"MP260331.1412.A84F9Q"`
}

// GetPaymentReference answers the provider's full reference, to find the payment in the provider's books.
var GetPaymentReference = edge.Query[PaymentRef, PaymentReference]{
	Name: "billing.payment.reference", Scope: "billing:read", Class: edge.Personal, Summary: "Read the provider's full reference of a payment",
	Handle: func(v edge.View, in PaymentRef) (PaymentReference, error) {
		p, err := payments.Get(v, in.ID)
		if err != nil {
			return PaymentReference{}, err
		}
		d, _, err := paymentDetails.Find(v, p.ID.With("pyd"))
		return PaymentReference{p.ID, d.Reference}, err
	},
}

// CreditRef names a customer.
type CreditRef struct {
	CustomerID edge.ID `json:"customer_id" check:"prefix=cus" doc:"The customer."`
}

// Credit is what a customer has paid and not spent, by currency.
type Credit struct {
	CustomerID  edge.ID `json:"customer_id" doc:"The customer."`
	Credit      []Money `json:"credit" check:"max=200" doc:"What is left of their payments, those included that are not confirmed."`
	Provisional []Money `json:"provisional" check:"max=200" doc:"Their payments that nobody has confirmed yet, spent or not."`
}

// GetCredit answers a customer's credit: a sum over the payments that hold any, so it can never differ from them.
var GetCredit = edge.Query[CreditRef, Credit]{
	Name: "billing.credit.get", Scope: "billing:read", Class: edge.Read, Summary: "Read a customer's credit",
	Handle: func(v edge.View, in CreditRef) (Credit, error) {
		credit, err := sumOf(v, "credit", in.CustomerID, func(p *Payment) Money { return p.Unallocated })
		if err != nil {
			return Credit{}, err
		}
		open, err := sumOf(v, "provisional", in.CustomerID, func(p *Payment) Money { return p.Amount })
		return Credit{in.CustomerID, credit, open}, err
	},
}

// sumOf adds amounts of a customer's payments by currency.
func sumOf(v edge.View, index string, customer edge.ID, amount func(*Payment) Money) ([]Money, error) {
	sums := []Money{}
	for p, err := range payments.Range(v, index, string(customer)) {
		if err != nil {
			return nil, err
		}
		m := amount(&p)
		i := slices.IndexFunc(sums, func(s Money) bool { return s.Currency == m.Currency })
		if i < 0 {
			sums = append(sums, m)
			continue
		}
		if sums[i], err = sums[i].Add(m); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(sums, func(a, b Money) int { return cmp.Compare(a.Currency, b.Currency) })
	return sums, nil
}

package billing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"wispgate/edge"
)

// PaymentMethod says how money came.
type PaymentMethod string

// The methods. Vouchers and wallets are spent by commands of their own, never recorded by hand.
const (
	Cash         PaymentMethod = "cash"
	MobileMoney  PaymentMethod = "mobile_money"
	CardTerminal PaymentMethod = "card_terminal"
	Cheque       PaymentMethod = "cheque"
	Transfer     PaymentMethod = "transfer"
	ByVoucher    PaymentMethod = "voucher"
	ByWallet     PaymentMethod = "wallet"
)

// Values lists the methods, for the schema.
func (PaymentMethod) Values() []string {
	return []string{"cash", "mobile_money", "card_terminal", "cheque", "transfer", "voucher", "wallet"}
}

// Final reports whether money of this method is there when it is taken. Of the others somebody else has the last word.
func (m PaymentMethod) Final() bool { return m == Cash || m == ByVoucher || m == ByWallet }

// PaymentStatus is a payment's place in its life.
type PaymentStatus string

// The statuses of a payment.
const (
	Allocated   PaymentStatus = "allocated"   // at least a part of it is at work
	Unallocated PaymentStatus = "unallocated" // all of it is credit
	Provisional PaymentStatus = "provisional" // at work as far as it goes, and not confirmed yet
	Confirmed   PaymentStatus = "confirmed"   // provisional before
	Bounced     PaymentStatus = "bounced"     // provisional before; it never came
	Reversed    PaymentStatus = "reversed"    // given back: this one, or the mirror entry that says so
)

// Values lists the statuses, for the schema.
func (PaymentStatus) Values() []string {
	return []string{"allocated", "unallocated", "provisional", "confirmed", "bounced", "reversed"}
}

// Why a payment, or a part of it, is credit.
const (
	creditNoSubscription = "no_subscription"          // none was named
	creditUnknown        = "subscription_unknown"     // there is none of this id
	creditCustomer       = "customer_unknown"         // there is no such customer
	creditEnded          = "subscription_terminated"  // it has ended
	creditInactive       = "subscription_inactive"    // it was never activated
	creditCurrency       = "currency_other"           // the plan is priced in another currency
	creditBelowPrice     = "below_price"              // less than one period costs
	creditRemainder      = "remainder"                // what whole periods left over
	creditFree           = "plan_without_price"       // there is nothing to buy
	creditAhead          = "paid_too_far_ahead"       // as many periods as may be sold are sold
	creditInvoice        = "awaits_invoice"           // postpaid: the next invoice takes it
	creditKey            = "idempotency_key_reused"   // another payment has the key
	creditDuplicate      = "device_sequence_repeated" // another payment bears the same number of the device
	creditReturned       = "purchase_undone"          // what it had bought with others was taken back
)

// Allocation is what a payment, or a part of it, was spent on: prepaid time of a subscription.
type Allocation struct {
	Kind           string     `json:"kind" check:"enum=periods" doc:"What was bought." example:"periods"`
	SubscriptionID edge.ID    `json:"subscription_id,omitempty" check:"prefix=sub" doc:"Whose time it is."`
	PlanID         edge.ID    `json:"plan_id,omitempty" check:"prefix=pln" doc:"The plan version that set the price."`
	Purchase       edge.ID    `json:"purchase" check:"prefix=pur" doc:"Common to all payments that paid for it together."`
	Amount         Money      `json:"amount" doc:"This payment's share."`
	Periods        int64      `json:"periods" doc:"Periods that were bought, with all shares." example:"1"`
	Anchor         time.Time  `json:"anchor" doc:"From where they are counted."`
	From           time.Time  `json:"from" doc:"When the time bought begins."`
	To             time.Time  `json:"to" doc:"When it ends."`
	UndoneAt       *time.Time `json:"undone_at,omitempty" doc:"When the time was taken back."`
}

// Position is where a payment was taken (WGS 84), in millionths of a degree.
type Position struct {
	LatMicrodeg int64 `json:"lat_microdeg" check:"min=-90000000 max=90000000" doc:"Latitude, north positive." example:"-17829200"`
	LonMicrodeg int64 `json:"lon_microdeg" check:"min=-180000000 max=180000000" doc:"Longitude, east positive." example:"31052200"`
	AccuracyM   int64 `json:"accuracy_m,omitempty" check:"min=0 max=1000000" doc:"Radius within which it lies, in metres." example:"12"`
}

// Payment is money that was taken. What was said when it was taken never changes; what it was spent on and what became of it does.
// A reversal is an entry of its own with the opposite amount.
type Payment struct {
	edge.Meta
	CustomerID     edge.ID       `json:"customer_id" check:"prefix=cus" doc:"Who paid; credit is theirs."`
	SubscriptionID edge.ID       `json:"subscription_id,omitempty" check:"prefix=sub" doc:"What it was paid for, as they said."`
	Method         PaymentMethod `json:"method" doc:"How the money came." example:"cash"`
	Status         PaymentStatus `json:"status" doc:"Place in its life." example:"allocated"`
	Amount         Money         `json:"amount" doc:"What was paid; negative in the mirror entry of a reversal."`
	Tendered       *Money        `json:"tendered,omitempty" doc:"What was handed over."`
	Change         *Money        `json:"change,omitempty" doc:"What was handed back."`
	ReceivedAt     time.Time     `json:"received_at" doc:"When it was taken."`
	Collector      string        `json:"collector" check:"max=64" doc:"Who took it." example:"cli_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"`
	Device         string        `json:"device,omitempty" check:"max=64" doc:"The phone or till that numbered it." example:"phone-7"`
	DeviceSeq      uint64        `json:"device_seq,omitempty" doc:"Its number there." example:"118"`
	CashSessionID  edge.ID       `json:"cash_session_id,omitempty" check:"prefix=csh" doc:"The drawer it went into."`
	Reference      string        `json:"reference,omitempty" check:"max=16" doc:"The last characters of the provider's reference." example:"***4F9Q"`
	Allocations    []Allocation  `json:"allocations" check:"max=200" doc:"What it was spent on."`
	Unallocated    Money         `json:"unallocated" doc:"What is left as credit."`
	CreditReason   string        `json:"credit_reason,omitempty" check:"max=64" doc:"Why there is credit." example:"remainder"`
	ClearedDunning bool          `json:"cleared_dunning,omitempty" doc:"Whether it ended a suspension for non-payment."`
	Receipt        *Receipt      `json:"receipt,omitempty" doc:"The numbered, chained and signed receipt."`
	Copies         []ReceiptCopy `json:"copies,omitempty" check:"max=32" doc:"Further receipts that nodes printed for the same payment before they could know of each other, and one whose paper names another payment_id."`
	Offline        bool          `json:"offline,omitempty" doc:"Whether a node without the cluster took it."`
	DuplicateOf    edge.ID       `json:"duplicate_of,omitempty" check:"prefix=pay" doc:"The payment that bears the same number of the same device, or was sent with the same Idempotency-Key, with another content."`
	GPS            *Position     `json:"gps,omitempty" doc:"Where it was taken."`
	Note           string        `json:"note,omitempty" check:"max=500" doc:"A word for people."`
	ConfirmedAt    *time.Time    `json:"confirmed_at,omitempty" doc:"When the provider confirmed it."`
	EndedAt        *time.Time    `json:"ended_at,omitempty" doc:"When it bounced or was reversed."`
	EndReason      string        `json:"end_reason,omitempty" check:"max=200" doc:"Why."`
	ReversedBy     edge.ID       `json:"reversed_by,omitempty" check:"prefix=pay" doc:"The mirror entry."`
	Reverses       edge.ID       `json:"reverses,omitempty" check:"prefix=pay" doc:"In a mirror entry: the payment that it reverses."`
}

// paymentDetail is what of a payment is never shown with it: the provider's full reference, and what the sender's words amount to.
type paymentDetail struct {
	edge.Meta
	Reference string `json:"reference,omitempty"`
	Body      string `json:"body"`
}

// Reasons of payments.
var (
	ErrPaymentInvalid = edge.Reason{Code: "payment_invalid", Says: "The payment cannot be recorded as described", Fix: "Correct the named fields"}
	ErrPaymentOld     = edge.Reason{Code: "payment_backdated", Says: "The payment is said to have been taken longer ago than may be", Fix: "Leave received_at out to record it as of now, or have max_age_seconds of the offline limits raised"}
	ErrPaymentStatus  = edge.Reason{Code: "payment_status", Says: "The payment is not in a status in which this can be done", Fix: "Confirm or bounce what is provisional; reverse what stands"}
	ErrNoCredit       = edge.Reason{Code: "credit_too_small", Says: "The customer's credit in the plan's currency does not buy one period", Fix: "Record a payment for the rest"}
)

// standing reports whether the money is there, as far as anybody knows.
func (p *Payment) standing() bool {
	return p.Status != Bounced && p.Status != Reversed && p.Reverses == ""
}

// settled is the status of a standing payment after its money has moved.
func (p *Payment) settled() PaymentStatus {
	switch {
	case !p.Method.Final() && p.ConfirmedAt == nil:
		return Provisional
	case !p.Method.Final():
		return Confirmed
	case p.Unallocated.AmountMinor == p.Amount.AmountMinor:
		return Unallocated
	}
	return Allocated
}

// spend takes a share of the credit for a purchase.
func (p *Payment) spend(a Allocation) {
	p.Allocations = append(slices.Clone(p.Allocations), a)
	p.Unallocated.AmountMinor -= a.Amount.AmountMinor
	if p.Unallocated.AmountMinor == 0 {
		p.CreditReason = ""
	}
	p.Status = p.settled()
}

// credit says why the rest of the payment is credit.
func (p *Payment) credit(why string) {
	if p.Unallocated.AmountMinor > 0 {
		p.CreditReason = why
	}
	p.Status = p.settled()
}

// masked is what may be seen of a provider's reference.
func masked(reference string) string {
	const seen = 4
	if reference == "" {
		return ""
	}
	if len(reference) < 2*seen {
		return "***"
	}
	return "***" + strings.ToValidUTF8(reference[len(reference)-seen:], "")
}

// sequenceKey is how a device's numbers are kept apart and in order.
func sequenceKey(device string, seq uint64) string { return fmt.Sprintf("%s/%020d", device, seq) }

var payments = &edge.Table[Payment]{
	Name: "billing.payment", Prefix: "pay", Meta: func(p *Payment) *edge.Meta { return &p.Meta },
	Indexes: []edge.Index[Payment]{
		{Name: "customer", Keys: func(p *Payment) []string { return []string{string(p.CustomerID)} }},
		{Name: "subscription", Keys: func(p *Payment) []string { return present(string(p.SubscriptionID)) }},
		{Name: "collector", Keys: func(p *Payment) []string { return []string{p.Collector} }},
		{Name: "status", Keys: func(p *Payment) []string { return []string{string(p.Status)} }},
		{Name: "device", Keys: func(p *Payment) []string {
			if p.Device == "" || p.Reverses != "" {
				return nil
			}
			return []string{sequenceKey(p.Device, p.DeviceSeq)}
		}},
		{Name: "credit", Keys: func(p *Payment) []string {
			if !p.standing() || p.Unallocated.AmountMinor == 0 {
				return nil
			}
			return []string{string(p.CustomerID)}
		}},
		{Name: "provisional", Keys: func(p *Payment) []string {
			if p.Status != Provisional {
				return nil
			}
			return []string{string(p.CustomerID)}
		}},
		{Name: "purchase", Keys: func(p *Payment) []string {
			var keys []string
			for _, a := range p.Allocations {
				keys = append(keys, string(a.Purchase))
			}
			return keys
		}},
		{Name: "receipt", Keys: (*Payment).receiptKeys},
	},
}

func present(key string) []string {
	if key == "" {
		return nil
	}
	return []string{key}
}

var paymentDetails = &edge.Table[paymentDetail]{
	Name: "billing.payment_detail", Prefix: "pyd", Private: true, Meta: func(d *paymentDetail) *edge.Meta { return &d.Meta },
}

package billing

import (
	"time"

	"wispgate/edge"
)

// PaymentRecorded says that money was taken. It never holds the provider's reference.
type PaymentRecorded struct {
	Payment      edge.ID       `json:"payment"`
	Customer     edge.ID       `json:"customer"`
	Subscription edge.ID       `json:"subscription,omitempty"`
	Method       PaymentMethod `json:"method"`
	Amount       Money         `json:"amount"`
	ReceivedAt   time.Time     `json:"received_at"`
	Collector    string        `json:"collector"`
	Receipt      string        `json:"receipt,omitempty"` // its number
	Offline      bool          `json:"offline,omitempty"` // a node without the cluster took it
}

// PaymentProvisional says that a payment counts until its provider says otherwise.
type PaymentProvisional struct {
	Payment  edge.ID       `json:"payment"`
	Customer edge.ID       `json:"customer"`
	Method   PaymentMethod `json:"method"`
	Amount   Money         `json:"amount"`
}

// PaymentAllocated says what a payment, or a part of it, was spent on.
type PaymentAllocated struct {
	Payment      edge.ID   `json:"payment"`
	Subscription edge.ID   `json:"subscription"`
	Purchase     edge.ID   `json:"purchase"`
	Amount       Money     `json:"amount"`
	Periods      int64     `json:"periods"`
	From         time.Time `json:"from"`
	To           time.Time `json:"to"`
}

// PaymentUnallocated says what of a payment is credit, and why.
type PaymentUnallocated struct {
	Payment  edge.ID `json:"payment"`
	Customer edge.ID `json:"customer"`
	Amount   Money   `json:"amount"`
	Reason   string  `json:"reason"`
}

// PaymentConfirmed says that the provider has confirmed a payment.
type PaymentConfirmed struct {
	Payment  edge.ID `json:"payment"`
	Customer edge.ID `json:"customer"`
	Amount   Money   `json:"amount"`
}

// PaymentBounced says that the money of a payment never came.
type PaymentBounced struct {
	Payment  edge.ID `json:"payment"`
	Customer edge.ID `json:"customer"`
	Amount   Money   `json:"amount"`
	Reason   string  `json:"reason,omitempty"`
}

// PaymentReversed says that a payment was given back; the mirror entry holds the opposite amount.
type PaymentReversed struct {
	Payment  edge.ID `json:"payment"`
	Mirror   edge.ID `json:"mirror"`
	Customer edge.ID `json:"customer"`
	Amount   Money   `json:"amount"`
	Reason   string  `json:"reason,omitempty"`
}

// PaymentDuplicateRejected says that a payment bears the number of another one, or its key, with other content. It is stored as credit; somebody must
// ask the collector.
type PaymentDuplicateRejected struct {
	Payment   edge.ID `json:"payment"`
	First     edge.ID `json:"first"`
	Device    string  `json:"device"`
	DeviceSeq uint64  `json:"device_seq"`
	Collector string  `json:"collector"`
	Amount    Money   `json:"amount"`
}

// ReceiptIssued says that a receipt was printed.
type ReceiptIssued struct {
	Payment edge.ID `json:"payment"`
	Receipt string  `json:"receipt"`
	Node    string  `json:"node"`
	Number  uint64  `json:"number"`
	Hash    string  `json:"hash"`
	Copy    bool    `json:"copy,omitempty"` // another receipt for the same payment was printed elsewhere
}

// CollectorLimitExceeded says that what was accepted at a cut-off node went beyond a limit, which shows once the cluster knows of all.
type CollectorLimitExceeded struct {
	Record    edge.ID `json:"record"` // the payment or subscription
	Collector string  `json:"collector"`
	Limit     string  `json:"limit"` // cash, exposure, age, plan, expired
	Bound     *Money  `json:"bound,omitempty"`
	Reached   *Money  `json:"reached,omitempty"`
}

// CollectorChainBroken says that the receipts of a node do not follow each other.
type CollectorChainBroken struct {
	Payment edge.ID `json:"payment"` // where it shows
	Node    string  `json:"node"`
	Number  uint64  `json:"number"`
	Problem string  `json:"problem"` // missing, hash, signature, repeated
}

// EventName implements edge.Event.
func (PaymentRecorded) EventName() string { return "billing.payment.recorded" }

// Subject implements edge.Event.
func (e PaymentRecorded) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (PaymentProvisional) EventName() string { return "billing.payment.provisional" }

// Subject implements edge.Event.
func (e PaymentProvisional) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (PaymentAllocated) EventName() string { return "billing.payment.allocated" }

// Subject implements edge.Event.
func (e PaymentAllocated) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (PaymentUnallocated) EventName() string { return "billing.payment.unallocated" }

// Subject implements edge.Event.
func (e PaymentUnallocated) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (PaymentConfirmed) EventName() string { return "billing.payment.confirmed" }

// Subject implements edge.Event.
func (e PaymentConfirmed) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (PaymentBounced) EventName() string { return "billing.payment.bounced" }

// Subject implements edge.Event.
func (e PaymentBounced) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (PaymentReversed) EventName() string { return "billing.payment.reversed" }

// Subject implements edge.Event.
func (e PaymentReversed) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (PaymentDuplicateRejected) EventName() string { return "billing.payment.duplicate_rejected" }

// Subject implements edge.Event.
func (e PaymentDuplicateRejected) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (ReceiptIssued) EventName() string { return "billing.receipt.issued" }

// Subject implements edge.Event.
func (e ReceiptIssued) Subject() edge.ID { return e.Payment }

// EventName implements edge.Event.
func (CollectorLimitExceeded) EventName() string { return "billing.collector.limit_exceeded" }

// Subject implements edge.Event.
func (e CollectorLimitExceeded) Subject() edge.ID { return e.Record }

// EventName implements edge.Event.
func (CollectorChainBroken) EventName() string { return "billing.collector.chain_broken" }

// Subject implements edge.Event.
func (e CollectorChainBroken) Subject() edge.ID { return e.Payment }

package billing

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"wispgate/edge"
)

// Receipt is what a payer gets: a number of the node's own series, chained to the receipt before and signed, so that it can be printed
// with no uplink and proved later. One that is missing or altered shows.
type Receipt struct {
	Number         string    `json:"number" check:"max=100" doc:"Number on the paper." example:"RCT-tower7-a-42"`
	ClockUntrusted bool      `json:"clock_untrusted,omitempty" doc:"Whether the node's clock could not be trusted when it was printed."`
	Link           edge.Link `json:"link" doc:"Its place in the node's chain, and the signature."`
}

// ReceiptCopy is a receipt that another node printed for the same payment, before it could know of the first.
type ReceiptCopy struct {
	PaymentID  edge.ID   `json:"payment_id" check:"prefix=pay" doc:"The payment's id on that paper."`
	ReceivedAt time.Time `json:"received_at" doc:"The time on that paper."`
	Receipt    Receipt   `json:"receipt" doc:"The receipt."`
}

// receiptSeries is the series of receipts, one of each node.
const receiptSeries = "RCT"

const maxCopies = 32

func receiptNumber(l edge.Link) string { return fmt.Sprintf("%s-%s-%d", l.Series, l.Node, l.Number) }

// receiptKey orders the receipts of a node.
func receiptKey(node string, number uint64) string { return fmt.Sprintf("%s/%012d", node, number) }

// paper is one printed receipt of a payment, and what was signed.
type paper struct {
	Receipt
	content receiptContent
}

// receiptContent is what a receipt's hash and signature cover, in this order. It is what the payment says and never changes.
type receiptContent struct {
	Payment        edge.ID       `json:"payment"`
	Customer       edge.ID       `json:"customer"`
	Subscription   edge.ID       `json:"subscription,omitempty"`
	Method         PaymentMethod `json:"method"`
	Amount         Money         `json:"amount"`
	Tendered       *Money        `json:"tendered,omitempty"`
	Change         *Money        `json:"change,omitempty"`
	ReceivedAt     time.Time     `json:"received_at"`
	ClockUntrusted bool          `json:"clock_untrusted,omitempty"`
	Collector      string        `json:"collector"`
	Device         string        `json:"device,omitempty"`
	DeviceSeq      uint64        `json:"device_seq,omitempty"`
	CashSession    edge.ID       `json:"cash_session,omitempty"`
	Reference      string        `json:"reference,omitempty"`
}

func (p *Payment) content(id edge.ID, at time.Time, untrusted bool) receiptContent {
	return receiptContent{
		id, p.CustomerID, p.SubscriptionID, p.Method, p.Amount, p.Tendered, p.Change, at, untrusted, p.Collector, p.Device, p.DeviceSeq,
		p.CashSessionID, p.Reference,
	}
}

// papers are all receipts that were printed for a payment, the first one first.
func (p *Payment) papers() (list []paper) {
	if p.Receipt != nil {
		list = append(list, paper{*p.Receipt, p.content(p.ID, p.ReceivedAt, p.Receipt.ClockUntrusted)})
	}
	for _, c := range p.Copies {
		list = append(list, paper{c.Receipt, p.content(c.PaymentID, c.ReceivedAt, c.Receipt.ClockUntrusted)})
	}
	return list
}

func (p *Payment) receiptKeys() (keys []string) {
	if p.Receipt != nil {
		keys = append(keys, receiptKey(p.Receipt.Link.Node, p.Receipt.Link.Number))
	}
	for _, c := range p.Copies {
		keys = append(keys, receiptKey(c.Receipt.Link.Node, c.Receipt.Link.Number))
	}
	return keys
}

func (r *Receipt) issued(payment edge.ID, again bool) ReceiptIssued {
	return ReceiptIssued{payment, r.Number, r.Link.Node, r.Link.Number, r.Link.Hash, again}
}

// reprint notes the receipt that was printed for a payment which turns out to be there already: its number is not missing then.
func reprint(tx edge.Tx, p *Payment, id edge.ID, in *PaymentInput) error {
	if in.Receipt == nil {
		return nil
	}
	for _, had := range p.papers() {
		if had.Number == in.Receipt.Number {
			return nil
		}
	}
	tx.Emit(in.Receipt.issued(p.ID, true))
	if len(p.Copies) == maxCopies {
		return nil // the events tell of it
	}
	p.Copies = append(p.Copies[:len(p.Copies):len(p.Copies)], ReceiptCopy{id, in.TakenAt, *in.Receipt})
	if err := payments.Put(tx, p); err != nil {
		return err
	}
	return alarm(tx, p.ID, in.Receipt.Link)
}

// papersAt finds the receipts with a number of a node: one, unless its disk was copied or restored.
func papersAt(v edge.View, node string, number uint64) (list []paper, err error) {
	for p, err := range payments.Range(v, "receipt", receiptKey(node, number)) {
		if err != nil {
			return nil, err
		}
		for _, r := range p.papers() {
			if r.Link.Node == node && r.Link.Number == number {
				list = append(list, r)
			}
		}
	}
	return list, nil
}

// alarm says that a new receipt does not fit its neighbours. A neighbour that is not there proves nothing yet: it may be on its way.
func alarm(tx edge.Tx, payment edge.ID, l edge.Link) error {
	broken := func(number uint64, problem string) {
		tx.Emit(CollectorChainBroken{payment, l.Node, number, problem})
	}
	same, err := papersAt(tx, l.Node, l.Number)
	if err != nil {
		return err
	}
	if len(same) > 1 {
		broken(l.Number, problemRepeated)
	}
	before, err := papersAt(tx, l.Node, l.Number-1)
	if err != nil {
		return err
	}
	if len(before) > 0 && !follows(l, before) || l.Number == 1 && l.Previous != "" {
		broken(l.Number, problemHash)
	}
	next, err := papersAt(tx, l.Node, l.Number+1)
	for _, n := range next {
		if !n.Link.Follows(l) && len(same) == 1 {
			broken(n.Link.Number, problemHash)
		}
	}
	return err
}

func follows(l edge.Link, before []paper) bool {
	for _, b := range before {
		if l.Follows(b.Link) {
			return true
		}
	}
	return false
}

// Keyring finds the public key with which a node signs, nil where it is not known.
type Keyring func(node string) ed25519.PublicKey

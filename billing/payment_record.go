package billing

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"wispgate/edge"
)

// PaymentInput is money that was taken, as whoever took it says.
type PaymentInput struct {
	CustomerID     edge.ID           `json:"customer_id" check:"prefix=cus" doc:"Who pays; it need not be who holds the subscription."`
	SubscriptionID edge.ID           `json:"subscription_id,omitempty" check:"prefix=sub" doc:"What it is paid for; absent: it becomes credit."`
	Method         PaymentMethod     `json:"method" check:"enum=cash|mobile_money|card_terminal|cheque|transfer" doc:"How the money came. Cash is there when it is taken; the others are provisional until they are confirmed." example:"cash"`
	Amount         Money             `json:"amount" doc:"What is paid."`
	Tendered       *Money            `json:"tendered,omitempty" doc:"What was handed over, where change was given."`
	ReceivedAt     *time.Time        `json:"received_at,omitempty" doc:"When it was taken, where that was before now; a time in the future counts as now."`
	Collector      string            `json:"collector,omitempty" check:"max=64" doc:"Who took it; the sender unless given." example:"Tendai"`
	Device         string            `json:"device,omitempty" check:"max=64" pattern:"^[A-Za-z0-9._:-]+$" doc:"The phone or till that numbers what it takes." example:"phone-7"`
	DeviceSeq      uint64            `json:"device_seq,omitempty" check:"min=1" doc:"Its number for this payment. The same number with the same content is the same payment, whoever sends it and with whatever key." example:"118"`
	CashSessionID  edge.ID           `json:"cash_session_id,omitempty" check:"prefix=csh" doc:"The drawer it goes into."`
	Reference      string            `json:"reference,omitempty" check:"max=64" doc:"The provider's reference. Only its last characters are shown with the payment." example:"MP260331.1412.A84F9Q"`
	GPS            *Position         `json:"gps,omitempty" doc:"Where it was taken."`
	Note           string            `json:"note,omitempty" check:"max=500" doc:"A word for people." example:"paid by the neighbour"`
	Tags           []string          `json:"tags,omitempty" check:"max=50 item.max=64" doc:"Words to find and group records by."`
	Metadata       map[string]string `json:"metadata,omitempty" check:"max=50 key.max=64 item.max=512" doc:"Strings of yours; carried, never interpreted."`
	TakenAt        time.Time         `json:"taken_at,omitzero" check:"internal"`
	Receipt        *Receipt          `json:"receipt,omitempty" check:"internal"`
}

// RecordPayment takes money. A node without the cluster takes it, too, within the offline limits; from then on it is never refused. What
// it cannot be spent on becomes credit, with the reason. Sent again, with the same key or under the same number of the same device, it is
// the payment that was there first; the same number with another content is stored as credit and raises an alarm.
//
// A prepaid subscription gets as many whole periods of its plan as the amount pays, from when the money was taken or after the time that
// was there. One held for non-payment is freed of that hold, and only that: a prepaid one by at least a period, another by any amount.
// The payment's id follows from the operation id, so the same operation never makes a second one, also when its answer is long forgotten.
var RecordPayment = edge.Command[PaymentInput, Payment]{
	Name: "billing.payment.record", Scope: "billing:write", Class: edge.Money, Offline: true, Summary: "Record money that was taken",
	Prepare: prepareRecord,
	Handle:  record,
	Again:   recordedTwice,
}

// prepareRecord refuses what may be refused, before a receipt's number is taken: what contradicts itself, and what a cut-off node may not
// promise.
func prepareRecord(p edge.Prep, in *PaymentInput) error {
	if !in.TakenAt.IsZero() || in.Receipt != nil {
		return edge.ErrInput.Error(edge.Invalid, edge.Field("/receipt", "is issued by the node", "leave it out"))
	}
	if in.Collector == "" {
		in.Collector = p.Actor().Subject
	}
	if err := in.check(); err != nil {
		return err
	}
	in.TakenAt = p.Now().UTC().Truncate(time.Millisecond)
	if in.ReceivedAt != nil && in.ReceivedAt.Before(in.TakenAt) {
		in.TakenAt = in.ReceivedAt.UTC()
	}
	v := p.View()
	if _, same, err := in.numbered(v); err != nil || same != nil {
		return err // it has its receipt
	}
	if err := in.withinLimits(v); err != nil {
		return err
	}
	r := Receipt{ClockUntrusted: !p.ClockTrusted()}
	pay := in.payment(p.FirstID("pay"))
	link, err := p.Link(receiptSeries, func(uint64) any { return pay.content(pay.ID, in.TakenAt, r.ClockUntrusted) })
	if err != nil {
		return err
	}
	r.Link, r.Number = link, receiptNumber(link)
	in.Receipt = &r
	return nil
}

// check refuses what contradicts itself.
func (in *PaymentInput) check() error {
	if err := in.Amount.Check("/amount"); err != nil {
		return err
	}
	var bad []edge.FieldError
	add := func(wrong bool, at, reason, fix string) {
		if wrong {
			bad = append(bad, edge.Field(at, reason, fix))
		}
	}
	add(in.Amount.AmountMinor <= 0, "/amount/amount_minor", "is not positive", "give what was paid; reverse a payment to give money back")
	add(in.Method == ByVoucher || in.Method == ByWallet, "/method", "is not recorded by hand", "redeem the voucher, or spend from the wallet")
	add((in.Device == "") != (in.DeviceSeq == 0), "/device_seq", "belongs to a device", "give both device and device_seq, or neither")
	if t := in.Tendered; t != nil {
		add(t.Currency != in.Amount.Currency || t.AmountMinor < in.Amount.AmountMinor || t.AmountMinor > MaxMinor, "/tendered", "is less than the amount, or in another currency", "give what was handed over")
	}
	if bad != nil {
		return ErrPaymentInvalid.Error(edge.Invalid, bad...)
	}
	return nil
}

// withinLimits holds a payment against the limits of the site, as the node that takes it sees them: how far back it may lie, and without
// the cluster how much cash a collector may take and how much may be promised on what nobody has confirmed.
func (in *PaymentInput) withinLimits(v edge.View) error {
	site, err := siteOf(v, in.SubscriptionID)
	if err != nil {
		return err
	}
	l, err := limitsAt(v, site)
	if err != nil {
		return err
	}
	if in.TakenAt.Before(v.Now().Add(-l.maxAge())) {
		return ErrPaymentOld.Error(edge.Conflict, edge.Field("/received_at", "lies too far back", "leave it out, or give a later time"))
	}
	if !edge.CutOff(v) {
		return nil
	}
	if in.Method == Cash {
		d, err := cashOn(v, in.Collector, in.TakenAt, in.Amount.Currency)
		if err != nil {
			return err
		}
		if most, ok := bound(l.CashPerCollector, in.Amount.Currency); ok && d.Cash.AmountMinor+in.Amount.AmountMinor > most.AmountMinor {
			return overLimit("/amount", "is more cash than one collector may take in a day without the cluster")
		}
		return nil
	}
	if l.expired(v.Now()) {
		return overLimit("/method", "is not there when it is taken, and the limits for promises have expired")
	}
	sum, err := exposureOf(v, in.CustomerID, in.Amount.Currency)
	if most, ok := bound(l.Exposure, in.Amount.Currency); ok && err == nil && sum.AmountMinor+in.Amount.AmountMinor > most.AmountMinor {
		return overLimit("/amount", "makes more unconfirmed money of one customer than may be relied on without the cluster")
	}
	return err
}

// siteOf is the site that serves a subscription, "" where there is none.
func siteOf(v edge.View, subscription edge.ID) (edge.ID, error) {
	if subscription == "" {
		return "", nil
	}
	s, _, err := subscriptions.Find(v, subscription)
	return s.SiteID, err
}

// body stands for all that the sender has said.
func (in PaymentInput) body() string {
	in.TakenAt, in.Receipt = time.Time{}, nil
	raw, err := json.Marshal(in)
	if err != nil { // of strings, integers and times: it cannot fail
		panic(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}

// numbered finds the payments that bear this one's number of its device: the first of them, and the one with the same content.
func (in *PaymentInput) numbered(v edge.View) (first, same *Payment, err error) {
	if in.Device == "" {
		return nil, nil, nil
	}
	body := in.body()
	for p, err := range payments.Range(v, "device", sequenceKey(in.Device, in.DeviceSeq)) {
		if err != nil {
			return nil, nil, err
		}
		said, err := paymentDetails.Get(v, p.ID.With("pyd"))
		if err != nil {
			return nil, nil, err
		}
		if said.Body == body {
			same = &p
		}
		if p.DuplicateOf == "" {
			first = &p
		}
	}
	return first, same, nil
}

// payment is the record of what was said.
func (in *PaymentInput) payment(id edge.ID) Payment {
	p := Payment{
		Meta:       edge.Meta{ID: id, Tags: in.Tags, Metadata: in.Metadata},
		CustomerID: in.CustomerID, SubscriptionID: in.SubscriptionID, Method: in.Method, Amount: in.Amount, Tendered: in.Tendered,
		ReceivedAt: in.TakenAt, Collector: in.Collector, Device: in.Device, DeviceSeq: in.DeviceSeq, CashSessionID: in.CashSessionID,
		Reference: masked(in.Reference), Allocations: []Allocation{}, Unallocated: in.Amount, Receipt: in.Receipt, GPS: in.GPS, Note: in.Note,
	}
	if in.Tendered != nil {
		p.Change = &Money{in.Tendered.AmountMinor - in.Amount.AmountMinor, in.Amount.Currency}
	}
	return p
}

// record stores the payment and puts it to work, in one commit. After Prepare nothing refuses it.
func record(tx edge.Tx, in PaymentInput) (Payment, error) {
	id, body := tx.NewID("pay"), in.body()
	if was, found, err := payments.Find(tx, id); found || err != nil {
		said, _, lost := paymentDetails.Find(tx, id.With("pyd"))
		if err == nil && lost == nil && said.Body != body {
			return Payment{}, edge.ErrKeyReused.Error(edge.Invalid)
		}
		return was, err
	}
	first, same, err := in.numbered(tx)
	if err != nil {
		return Payment{}, err
	}
	printed := edge.FirstID(tx, "pay")
	if same != nil {
		err := reprint(tx, same, printed, &in)
		return *same, err
	}
	p := in.payment(id)
	p.Offline = tx.Acknowledged() || edge.CutOff(tx)
	p.Status = p.settled()
	tell(tx, &p)
	why := creditDuplicate
	if first == nil && printed != id { // while the node that took it was cut off, another payment got its key
		other, found, err := payments.Find(tx, printed)
		if err != nil {
			return Payment{}, err
		}
		if found {
			first, why = &other, creditKey
		}
	}
	if first != nil {
		p.DuplicateOf = first.ID
		p.credit(why)
		tx.Emit(PaymentDuplicateRejected{p.ID, first.ID, p.Device, p.DeviceSeq, p.Collector, p.Amount})
	} else if err := p.settle(tx); err != nil {
		return Payment{}, err
	}
	if p.Unallocated.AmountMinor > 0 {
		tx.Emit(PaymentUnallocated{p.ID, p.CustomerID, p.Unallocated, p.CreditReason})
	}
	receipt := p.Receipt
	if receipt != nil && printed != id { // what was signed names the id that the node knew
		p.Receipt, p.Copies = nil, []ReceiptCopy{{printed, in.TakenAt, *receipt}}
	}
	if err := payments.Put(tx, &p); err != nil {
		return Payment{}, err
	}
	if err := paymentDetails.Put(tx, &paymentDetail{edge.Meta{ID: id.With("pyd")}, in.Reference, body}); err != nil {
		return Payment{}, err
	}
	if err := exceeded(tx, &p); err != nil {
		return Payment{}, err
	}
	if receipt == nil {
		return p, nil
	}
	return p, alarm(tx, p.ID, receipt.Link)
}

// recordedTwice notes the receipt that a cut-off node printed for a payment which came to the cluster by another way, too.
func recordedTwice(tx edge.Tx, in PaymentInput) error {
	id, printed := tx.NewID("pay"), edge.FirstID(tx, "pay")
	p, found, err := payments.Find(tx, id)
	if err == nil && !found && printed != id { // its first evaluation may have had the id that the node knew
		if p, found, err = payments.Find(tx, printed); found {
			said, _, lost := paymentDetails.Find(tx, printed.With("pyd"))
			found, err = said.Body == in.body(), lost
		}
	}
	if err != nil {
		return err
	}
	if found {
		return reprint(tx, &p, printed, &in)
	}
	_, same, err := in.numbered(tx)
	if err != nil || same == nil {
		return err
	}
	return reprint(tx, same, printed, &in)
}

// tell emits that money was taken and a receipt printed.
func tell(tx edge.Tx, p *Payment) {
	number := ""
	if p.Receipt != nil {
		number = p.Receipt.Number
	}
	tx.Emit(PaymentRecorded{p.ID, p.CustomerID, p.SubscriptionID, p.Method, p.Amount, p.ReceivedAt, p.Collector, number, p.Offline})
	if p.Receipt != nil {
		tx.Emit(p.Receipt.issued(p.ID, false))
	}
	if p.Status == Provisional {
		tx.Emit(PaymentProvisional{p.ID, p.CustomerID, p.Method, p.Amount})
	}
}

// settle puts the money to work for the subscription that it was paid for.
func (p *Payment) settle(tx edge.Tx) error {
	if p.SubscriptionID == "" {
		p.credit(creditNoSubscription)
		return nil
	}
	was, found, err := subscriptions.Find(tx, p.SubscriptionID)
	if err != nil {
		return err
	}
	if !found {
		p.credit(creditUnknown)
		return nil
	}
	plan, err := plans.Get(tx, was.main().PlanID)
	if err != nil {
		return err
	}
	if why := was.payable(&plan, p.Amount.Currency); why != "" {
		p.credit(why)
		return nil
	}
	s, why := was, creditInvoice
	var events []edge.Event
	if plan.Kind == Prepaid {
		basis := p.ReceivedAt
		if now := tx.Now().UTC(); basis.After(now) {
			basis = now
		}
		a, short := s.buy(&plan, p.Amount, basis)
		if short != "" {
			p.credit(short)
			return nil
		}
		a.Purchase, why = tx.NewID("pur"), creditRemainder
		p.spend(a)
		tx.Emit(a.event(p.ID))
		events = append(events, SubscriptionRenewed{s.ID, a.Periods, a.To})
	}
	if s.reactivate(ForDunning) {
		p.ClearedDunning = true
		events = append(events, SubscriptionReactivated{s.ID, ForDunning, s.reasons()})
	}
	p.credit(why)
	if len(events) == 0 {
		return nil
	}
	return save(tx, &was, &plan, &s, &plan, events...)
}

// payable says why money in a currency cannot be spent on a subscription, "" where it can.
func (s *Subscription) payable(p *Plan, c Currency) string {
	switch {
	case s.Status == Terminated:
		return creditEnded
	case s.ActivatedAt == nil:
		return creditInactive
	case p.Price.Currency != c:
		return creditCurrency
	case p.Kind == Prepaid && p.Price.AmountMinor == 0:
		return creditFree
	}
	return ""
}

// buy adds as many whole periods as the amount pays, after the time that was there at basis. short says why it buys none.
func (s *Subscription) buy(p *Plan, amount Money, basis time.Time) (a Allocation, short string) {
	from, ahead := basis, int64(0)
	if s.ValidUntil != nil && basis.Before(*s.ValidUntil) {
		from, ahead = *s.ValidUntil, s.PeriodsPaid
	}
	periods := min(amount.AmountMinor/p.Price.AmountMinor, maxPeriods-ahead)
	switch {
	case amount.AmountMinor < p.Price.AmountMinor:
		return a, creditBelowPrice
	case periods <= 0 || s.extend(p, periods, basis) != nil:
		return a, creditAhead
	}
	return Allocation{
		Kind: "periods", SubscriptionID: s.ID, PlanID: p.ID, Amount: Money{periods * p.Price.AmountMinor, amount.Currency}, Periods: periods,
		Anchor: *s.Anchor, From: from, To: *s.ValidUntil,
	}, ""
}

func (a *Allocation) event(payment edge.ID) PaymentAllocated {
	return PaymentAllocated{payment, a.SubscriptionID, a.Purchase, a.Amount, a.Periods, a.From, a.To}
}

// exceeded counts what a cut-off node took, and once the cluster knows of it says what went beyond a limit. It refuses nothing.
func exceeded(tx edge.Tx, p *Payment) error {
	cash, err := countCash(tx, p, p.Amount.AmountMinor)
	if err != nil || !tx.Acknowledged() {
		return err
	}
	site, err := siteOf(tx, p.SubscriptionID)
	if err != nil {
		return err
	}
	l, err := limitsAt(tx, site)
	if err != nil {
		return err
	}
	over := func(limit string, most, reached *Money) {
		tx.Emit(CollectorLimitExceeded{p.ID, p.Collector, limit, most, reached})
	}
	if most, ok := bound(l.CashPerCollector, p.Amount.Currency); ok && p.Method == Cash && cash.AmountMinor > most.AmountMinor {
		over("cash", &most, &cash)
	}
	if tx.Now().Sub(p.ReceivedAt) > l.maxAge() {
		over("age", nil, nil)
	}
	if p.Method.Final() {
		return nil
	}
	if l.expired(edge.AcceptedAt(tx)) {
		over("expired", nil, nil)
	}
	sum, err := exposureOf(tx, p.CustomerID, p.Amount.Currency)
	if most, ok := bound(l.Exposure, p.Amount.Currency); ok && err == nil && sum.AmountMinor > most.AmountMinor {
		over("exposure", &most, &sum)
	}
	return err
}

// MarkCustomerUnknown notes that nobody knows the customer whom a payment names: a flow finds that out. The money stays credit.
func MarkCustomerUnknown(tx edge.Tx, payment edge.ID) error {
	p, err := payments.Get(tx, payment)
	if err != nil || p.Unallocated.AmountMinor == 0 || p.CreditReason == creditCustomer {
		return err
	}
	p.credit(creditCustomer)
	if err := payments.Put(tx, &p); err != nil {
		return err
	}
	tx.Emit(PaymentUnallocated{p.ID, p.CustomerID, p.Unallocated, p.CreditReason})
	return nil
}

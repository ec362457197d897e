package billing

import (
	"cmp"
	"slices"
	"time"

	"wispgate/edge"
)

// PaymentRef names a payment.
type PaymentRef struct {
	ID edge.ID `json:"id" check:"prefix=pay" doc:"The payment."`
}

// ConfirmPayment says that the provider has the money. One that is confirmed already is success without effect.
var ConfirmPayment = edge.Command[PaymentRef, Payment]{
	Name: "billing.payment.confirm", Scope: "billing:write", Class: edge.Money, Summary: "Confirm a provisional payment",
	Record: func(in PaymentRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in PaymentRef) (Payment, error) {
		p, err := payments.Get(tx, in.ID)
		if err != nil || p.Status == Confirmed {
			return p, err
		}
		if p.Status != Provisional {
			return Payment{}, ErrPaymentStatus.Error(edge.Conflict)
		}
		p.ConfirmedAt = new(tx.Now().UTC())
		p.Status = p.settled()
		if err := payments.Put(tx, &p); err != nil {
			return Payment{}, err
		}
		tx.Emit(PaymentConfirmed{p.ID, p.CustomerID, p.Amount})
		return p, nil
	},
}

// PaymentEnd says why a payment does not stand any more.
type PaymentEnd struct {
	ID     edge.ID `json:"id" check:"prefix=pay" doc:"The payment."`
	Reason string  `json:"reason,omitempty" check:"max=200" doc:"Why." example:"the provider knows no such reference"`
}

// BouncePayment says that the money of a provisional payment never came: what it had bought is taken back.
var BouncePayment = edge.Command[PaymentEnd, Payment]{
	Name: "billing.payment.bounce", Scope: "billing:write", Class: edge.Money, Summary: "Say that the money of a provisional payment never came",
	Record: func(in PaymentEnd) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in PaymentEnd) (Payment, error) {
		p, err := payments.Get(tx, in.ID)
		if err != nil || p.Status == Bounced {
			return p, err
		}
		if p.Status != Provisional {
			return Payment{}, ErrPaymentStatus.Error(edge.Conflict)
		}
		if err := p.withdraw(tx, Bounced, in.Reason); err != nil {
			return Payment{}, err
		}
		tx.Emit(PaymentBounced{p.ID, p.CustomerID, p.Amount, in.Reason})
		return p, payments.Put(tx, &p)
	},
}

// ReversePayment gives money back, or undoes what was recorded by mistake: a mirror entry with the opposite amount stands beside the
// payment, and what it had bought is taken back. One that is reversed already is success without effect.
var ReversePayment = edge.Command[PaymentEnd, Payment]{
	Name: "billing.payment.reverse", Scope: "billing:write", Class: edge.Money, Summary: "Reverse a payment with a mirror entry",
	Record: func(in PaymentEnd) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in PaymentEnd) (Payment, error) {
		p, err := payments.Get(tx, in.ID)
		if err != nil || p.ReversedBy != "" {
			return p, err
		}
		if !p.standing() {
			return Payment{}, ErrPaymentStatus.Error(edge.Conflict)
		}
		mirror := Payment{
			Meta: edge.Meta{ID: tx.NewID("pay")}, CustomerID: p.CustomerID, SubscriptionID: p.SubscriptionID, Method: p.Method, Status: Reversed,
			Amount: p.Amount.Neg(), ReceivedAt: tx.Now().UTC(), Collector: tx.Actor().Subject, Allocations: []Allocation{},
			Unallocated: Money{0, p.Amount.Currency}, Reverses: p.ID, EndReason: in.Reason,
		}
		if err := payments.Put(tx, &mirror); err != nil {
			return Payment{}, err
		}
		if err := p.withdraw(tx, Reversed, in.Reason); err != nil {
			return Payment{}, err
		}
		if _, err := countCash(tx, &p, -p.Amount.AmountMinor); err != nil {
			return Payment{}, err
		}
		p.ReversedBy = mirror.ID
		tx.Emit(PaymentReversed{p.ID, mirror.ID, p.CustomerID, p.Amount, in.Reason})
		return p, payments.Put(tx, &p)
	},
}

// withdraw ends a payment: its credit goes, what it bought is taken back as far as it is not used up, and a suspension for non-payment
// that it ended is laid on again unless a later payment stands for it.
func (p *Payment) withdraw(tx edge.Tx, status PaymentStatus, reason string) error {
	now := tx.Now().UTC()
	unused := len(p.Allocations) == 0
	p.Allocations = slices.Clone(p.Allocations)
	for i := range p.Allocations {
		a := &p.Allocations[i]
		if a.UndoneAt != nil {
			continue
		}
		unused = unused || now.Before(a.To)
		if err := undo(tx, p.ID, a, now); err != nil {
			return err
		}
		a.UndoneAt = &now
	}
	p.Status, p.EndedAt, p.EndReason, p.Unallocated.AmountMinor, p.CreditReason = status, &now, reason, 0, ""
	if !p.ClearedDunning || !unused {
		return nil
	}
	return p.holdAgain(tx, now)
}

// undo takes a purchase back. Other payments that had a share in it get it back as credit when nothing of the time was used; else their
// share stays spent.
func undo(tx edge.Tx, payment edge.ID, a *Allocation, now time.Time) error {
	was, plan, err := load(tx, a.SubscriptionID)
	if err != nil {
		return err
	}
	s := was
	if s.Status != Terminated && s.shorten(&plan, a, now) {
		if err := save(tx, &was, &plan, &s, &plan); err != nil {
			return err
		}
	}
	var others []Payment // read before the first is changed
	for o, err := range payments.Range(tx, "purchase", string(a.Purchase)) {
		if err != nil {
			return err
		}
		if o.ID != payment {
			others = append(others, o)
		}
	}
	for _, o := range others {
		o.Allocations = slices.Clone(o.Allocations)
		i := slices.IndexFunc(o.Allocations, func(b Allocation) bool { return b.Purchase == a.Purchase })
		if o.Allocations[i].UndoneAt = &now; !now.After(a.From) && o.standing() {
			o.Unallocated.AmountMinor += o.Allocations[i].Amount.AmountMinor
			o.credit(creditReturned)
			tx.Emit(PaymentUnallocated{o.ID, o.CustomerID, o.Unallocated, o.CreditReason})
		}
		if err := payments.Put(tx, &o); err != nil {
			return err
		}
	}
	return nil
}

// shorten takes back what is left of the time that a purchase added: what then holds is what would hold without it, but no earlier than
// now, for time that has passed is used up. changed is false when nothing is left.
func (s *Subscription) shorten(p *Plan, a *Allocation, now time.Time) (changed bool) {
	if s.ValidUntil == nil || !now.Before(*s.ValidUntil) || !now.Before(a.To) {
		return false
	}
	var until time.Time
	if in, err := zone(s.Timezone); err == nil && s.Anchor != nil && s.Anchor.Equal(a.Anchor) && p.ID == a.PlanID {
		s.PeriodsPaid = max(s.PeriodsPaid-a.Periods, 0)
		until = p.Interval.Boundary(*s.Anchor, in, s.PeriodsPaid).UTC()
	} else { // sold under another plan, or before time was lost: as long as it lasts
		from := a.From
		if from.Before(now) {
			from = now
		}
		until = s.ValidUntil.Add(from.Sub(a.To))
		s.Anchor, s.PeriodsPaid = &until, 0
	}
	if until.Before(now) {
		until = now
		s.Anchor, s.PeriodsPaid = &until, 0
	}
	s.ValidUntil = &until
	return true
}

// holdAgain lays the suspension on that the payment had ended.
func (p *Payment) holdAgain(tx edge.Tx, now time.Time) error {
	was, plan, err := load(tx, p.SubscriptionID)
	if err != nil || was.Status == Terminated || was.ActivatedAt == nil {
		return err
	}
	for o, err := range payments.Range(tx, "subscription", string(p.SubscriptionID)) {
		if err != nil {
			return err
		}
		if o.ID != p.ID && o.standing() && !o.ReceivedAt.Before(p.ReceivedAt) && o.covers(&plan) {
			return nil
		}
	}
	s := was
	if !s.suspend(Suspension{ForDunning, now, tx.Actor().Subject, "a payment did not stand"}) {
		return nil
	}
	return save(tx, &was, &plan, &s, &plan, SubscriptionSuspended{s.ID, ForDunning, s.reasons()})
}

// covers reports whether a payment is enough to end a suspension for non-payment.
func (p *Payment) covers(plan *Plan) bool {
	if plan.Kind != Prepaid {
		return p.Amount.Currency == plan.Price.Currency && p.DuplicateOf == ""
	}
	return slices.ContainsFunc(p.Allocations, func(a Allocation) bool { return a.UndoneAt == nil })
}

// AllocateInput says whose credit buys time for which subscription.
type AllocateInput struct {
	CustomerID     edge.ID `json:"customer_id" check:"prefix=cus" doc:"Whose credit is spent."`
	SubscriptionID edge.ID `json:"subscription_id" check:"prefix=sub" doc:"Whose time is bought."`
	Periods        int64   `json:"periods,omitempty" check:"min=1 max=120" doc:"How many periods; as many as the credit pays unless given." example:"1"`
}

// AllocateAnswer is what the credit bought.
type AllocateAnswer struct {
	Subscription Subscription `json:"subscription" doc:"The subscription as it is now."`
	Payments     []Payment    `json:"payments" check:"max=50" doc:"The payments whose credit was spent, oldest first."`
}

// maxDrawn bounds the payments that one purchase draws on: each is written anew in the same entry.
const maxDrawn = 50

// AllocateCredit buys prepaid time with a customer's credit, the oldest first. It ends a suspension for non-payment as a payment does.
var AllocateCredit = edge.Command[AllocateInput, AllocateAnswer]{
	Name: "billing.payment.allocate", Scope: "billing:write", Class: edge.Money, Summary: "Buy prepaid time with a customer's credit",
	Handle: func(tx edge.Tx, in AllocateInput) (AllocateAnswer, error) {
		var answer AllocateAnswer
		was, plan, err := load(tx, in.SubscriptionID)
		if err != nil {
			return answer, err
		}
		if plan.Kind != Prepaid {
			return answer, ErrSubscriptionPostpaid.Error(edge.Conflict)
		}
		if was.payable(&plan, plan.Price.Currency) != "" {
			return answer, ErrSubscriptionInactive.Error(edge.Conflict)
		}
		credit, list, err := creditIn(tx, in.CustomerID, plan.Price.Currency)
		if err != nil {
			return answer, err
		}
		if in.Periods > 0 {
			want, err := MulDiv(plan.Price.AmountMinor, in.Periods, 1, HalfUp)
			if err != nil || want > credit.AmountMinor {
				return answer, ErrNoCredit.Error(edge.Conflict)
			}
			credit.AmountMinor = want
		}
		s := was
		a, short := s.buy(&plan, credit, tx.Now().UTC())
		if short != "" {
			return answer, ErrNoCredit.Error(edge.Conflict)
		}
		a.Purchase = tx.NewID("pur")
		events := []edge.Event{SubscriptionRenewed{s.ID, a.Periods, a.To}}
		cleared := s.reactivate(ForDunning)
		if cleared {
			events = append(events, SubscriptionReactivated{s.ID, ForDunning, s.reasons()})
		}
		answer.Payments, err = draw(tx, list, a)
		if err != nil {
			return answer, err
		}
		answer.Subscription = s
		err = save(tx, &was, &plan, &answer.Subscription, &plan, events...)
		return answer, err
	},
}

// draw spends a purchase's price from the payments in turn.
func draw(tx edge.Tx, list []Payment, a Allocation) (drawn []Payment, err error) {
	left := a.Amount.AmountMinor
	for _, p := range list {
		if left == 0 {
			break
		}
		share := a
		share.Amount.AmountMinor = min(left, p.Unallocated.AmountMinor)
		left -= share.Amount.AmountMinor
		p.spend(share)
		if err := payments.Put(tx, &p); err != nil {
			return nil, err
		}
		tx.Emit(share.event(p.ID))
		drawn = append(drawn, p)
	}
	return drawn, nil
}

// creditIn lists the payments of a customer that hold credit in a currency, the oldest first, and their sum.
func creditIn(v edge.View, customer edge.ID, c Currency) (sum Money, list []Payment, err error) {
	sum.Currency = c
	for p, err := range payments.Range(v, "credit", string(customer)) {
		if err != nil {
			return sum, nil, err
		}
		if p.Unallocated.Currency == c && p.DuplicateOf == "" {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Payment) int {
		return cmp.Or(a.ReceivedAt.Compare(b.ReceivedAt), cmp.Compare(a.ID, b.ID))
	})
	list = list[:min(len(list), maxDrawn)]
	for _, p := range list {
		sum.AmountMinor = min(sum.AmountMinor+p.Unallocated.AmountMinor, MaxMinor)
	}
	return sum, list, nil
}

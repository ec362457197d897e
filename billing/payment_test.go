package billing_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/billing"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

type payment = billing.Payment

func usd(minor int64) billing.Money { return billing.Money{AmountMinor: minor, Currency: "USD"} }

// cash is money in hand for a subscription.
func cash(minor int64, sub edge.ID) billing.PaymentInput {
	return billing.PaymentInput{CustomerID: someone, SubscriptionID: sub, Method: billing.Cash, Amount: usd(minor)}
}

func pay(t *testing.T, n *edgetest.Harness, in billing.PaymentInput) payment {
	t.Helper()
	return edgetest.Do[payment](t, n, ann, "billing.payment.record", in)
}

func move(t *testing.T, n *edgetest.Harness, verb string, in any) payment {
	t.Helper()
	return edgetest.Do[payment](t, n, ann, "billing.payment."+verb, in)
}

func sub(t *testing.T, n *edgetest.Harness, id edge.ID) subscription {
	t.Helper()
	return edgetest.Ask[subscription](t, n, ann, "billing.subscription.get", billing.SubscriptionRef{ID: id})
}

func credit(t *testing.T, n *edgetest.Harness) string {
	t.Helper()
	c := edgetest.Ask[billing.Credit](t, n, ann, "billing.credit.get", billing.CreditRef{CustomerID: someone})
	var words []string
	for _, m := range c.Credit {
		words = append(words, m.String())
	}
	return strings.Join(words, ", ")
}

// monthly is a prepaid plan of 25.00 a month.
func monthly(t *testing.T, n *edgetest.Harness) plan {
	t.Helper()
	return sell(t, n, offer("MONTH", prepaid(billing.Month, 1)))
}

func activated(t *testing.T, n *edgetest.Harness, plan edge.ID) subscription {
	t.Helper()
	return run(t, n, "activate", billing.SubscriptionRef{ID: subscribe(t, n, plan).ID})
}

func day(s string) time.Time {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return at
}

func TestCashBuysWholePeriodsAndTheRestIsCredit(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := activated(t, n, monthly(t, n).ID) // valid until 30 April, local midnight
	before := n.Machine.Version()
	p := pay(t, n, billing.PaymentInput{CustomerID: someone, SubscriptionID: s.ID, Method: billing.Cash, Amount: usd(6000), Tendered: new(usd(10000))})
	if p.Status != billing.Allocated || p.Unallocated != usd(1000) || p.CreditReason != "remainder" || *p.Change != usd(4000) || !p.ReceivedAt.Equal(edgetest.Start) || p.Collector != ann.Subject {
		t.Errorf("got %+v", p)
	}
	if len(p.Allocations) != 1 || p.Allocations[0].Periods != 2 || p.Allocations[0].Amount != usd(5000) || !p.Allocations[0].From.Equal(*s.ValidUntil) {
		t.Errorf("got %+v", p.Allocations)
	}
	if got := sub(t, n, s.ID); !got.ValidUntil.Equal(day("2026-06-29T22:00:00Z")) || !got.ValidUntil.Equal(p.Allocations[0].To) {
		t.Errorf("got valid until %s, want 30 June in Harare", got.ValidUntil)
	}
	if got := credit(t, n); got != "10.00 USD" {
		t.Errorf("got credit %s", got)
	}
	want := []string{
		"billing.payment.recorded", "billing.receipt.issued", "billing.payment.allocated", "billing.subscription.renewed",
		"billing.subscription.access_changed", "billing.payment.unallocated",
	}
	if got := edgetest.EventTypes(t, n, "acme", before); !cmp.Equal(got, want) {
		t.Errorf("events: %s", cmp.Diff(want, got))
	}
	edgetest.NoDrift(t, n)
}

func TestAnExpiredSubscriptionRunsFromWhenTheMoneyWasTaken(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := activated(t, n, monthly(t, n).ID)
	n.Clock.Advance(40 * 24 * time.Hour) // 10 May, expired since 30 April
	in := cash(2500, s.ID)
	in.ReceivedAt = new(day("2026-05-08T09:00:00+02:00"))
	p := pay(t, n, in)
	if got := sub(t, n, s.ID); !got.ValidUntil.Equal(day("2026-06-07T22:00:00Z")) || !p.Allocations[0].From.Equal(*in.ReceivedAt) {
		t.Errorf("got valid until %s from %+v, want a month from 8 May", got.ValidUntil, p.Allocations)
	}
	in.ReceivedAt = new(day("2027-01-01T00:00:00Z"))
	if p = pay(t, n, in); !p.ReceivedAt.Equal(n.Clock.Now()) {
		t.Errorf("taken in the future: got %s, want now", p.ReceivedAt)
	}
	in.ReceivedAt = new(n.Clock.Now().Add(-8 * 24 * time.Hour))
	if got := edgetest.Code(t, n, ann, "billing.payment.record", in); got != "payment_backdated" {
		t.Errorf("taken eight days ago: got %s", got)
	}
}

func TestMoneyThatCannotBeSpentIsCreditWithAReason(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	m, free, post := monthly(t, n), sell(t, n, offer("FREE", prepaid(billing.Month, 1), func(p *billing.NewPlan) { p.Price.AmountMinor = 0 })), sell(t, n, offer("POST"))
	s, ended, draft := activated(t, n, m.ID), activated(t, n, m.ID), subscribe(t, n, m.ID)
	full := activated(t, n, m.ID)
	run(t, n, "renew", billing.RenewInput{ID: full.ID, Periods: 9999})
	run(t, n, "terminate", billing.EndInput{ID: ended.ID})
	rand := cash(2500, s.ID)
	rand.Amount.Currency = "ZAR"
	for name, c := range map[string]struct {
		in  billing.PaymentInput
		why string
	}{
		"for nothing":              {cash(2500, ""), "no_subscription"},
		"for what is not":          {cash(2500, "sub_00000000-0000-7000-8000-000000000000"), "subscription_unknown"},
		"for what has ended":       {cash(2500, ended.ID), "subscription_terminated"},
		"for a draft":              {cash(2500, draft.ID), "subscription_inactive"},
		"in another currency":      {rand, "currency_other"},
		"less than a period":       {cash(2499, s.ID), "below_price"},
		"for a plan without price": {cash(2500, activated(t, n, free.ID).ID), "plan_without_price"},
		"too far ahead":            {cash(2500, full.ID), "paid_too_far_ahead"},
		"postpaid":                 {cash(1, activated(t, n, post.ID).ID), "awaits_invoice"},
	} {
		t.Run(name, func(t *testing.T) {
			p := pay(t, n, c.in)
			if p.Status != billing.Unallocated || p.CreditReason != c.why || p.Unallocated != c.in.Amount || len(p.Allocations) != 0 {
				t.Errorf("got %s %q %v, want all of it as credit for %s", p.Status, p.CreditReason, p.Unallocated, c.why)
			}
		})
	}
	if got := sub(t, n, s.ID); !got.ValidUntil.Equal(*s.ValidUntil) {
		t.Errorf("got valid until %s, want it as it was", got.ValidUntil)
	}
	edgetest.NoDrift(t, n)
}

func TestAPaymentEndsDunningAndNothingElse(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	pre, post := activated(t, n, monthly(t, n).ID), activated(t, n, sell(t, n, offer("POST")).ID)
	hold := func(id edge.ID, r billing.SuspensionReason) {
		run(t, n, "suspend", billing.SuspendInput{ID: id, Reason: r})
	}
	hold(pre.ID, billing.ForDunning)
	hold(post.ID, billing.ForDunning)
	hold(post.ID, billing.ForAdmin)
	if p := pay(t, n, cash(2400, pre.ID)); p.ClearedDunning || sub(t, n, pre.ID).Status != billing.Suspended {
		t.Errorf("less than a period: got %+v, want it held as before", p)
	}
	if p := pay(t, n, cash(2500, pre.ID)); !p.ClearedDunning || sub(t, n, pre.ID).Status != billing.Active {
		t.Errorf("a period: got %+v, want it active", p)
	}
	p := pay(t, n, cash(100, post.ID))
	if got := sub(t, n, post.ID); !p.ClearedDunning || got.Status != billing.Suspended || len(got.Suspensions) != 1 || got.Suspensions[0].Reason != billing.ForAdmin {
		t.Errorf("postpaid: got %+v, want only the other reason left", got.Suspensions)
	}
	if again := pay(t, n, cash(100, post.ID)); again.ClearedDunning {
		t.Error("a second payment ended what was ended")
	}
}

func TestTheSamePaymentIsRecordedOnce(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := activated(t, n, monthly(t, n).ID)
	in := cash(2500, s.ID)
	in.Device, in.DeviceSeq = "phone-7", 1
	record := func(key string, in billing.PaymentInput) (payment, edge.Reply) {
		p, r, err := edgetest.Try[payment](n, ann, edge.Request{Key: key}, "billing.payment.record", in)
		if err != nil {
			t.Fatal(err)
		}
		return p, r
	}
	first, _ := record("k1", in)
	if again, r := record("k1", in); !r.Replayed || again.ID != first.ID {
		t.Errorf("the same key: got %s", again.ID)
	}
	if again, _ := record("k2", in); again.ID != first.ID || len(again.Copies) != 0 {
		t.Errorf("the same number of the phone: got %+v", again)
	}
	other := in
	other.Amount = usd(5000)
	before := n.Machine.Version()
	odd, _ := record("k3", other)
	if odd.ID == first.ID || odd.DuplicateOf != first.ID || odd.CreditReason != "device_sequence_repeated" || odd.Unallocated != usd(5000) {
		t.Errorf("the same number with another content: got %+v", odd)
	}
	if got := edgetest.EventTypes(t, n, "acme", before); !slices.Contains(got, "billing.payment.duplicate_rejected") {
		t.Errorf("got events %v, want an alarm", got)
	}
	if again, _ := record("k4", other); again.ID != odd.ID {
		t.Errorf("the other content again: got %s, want %s", again.ID, odd.ID)
	}
	if got := sub(t, n, s.ID); got.PeriodsPaid != 2 {
		t.Errorf("got %d periods, want the one of the activation and the one paid", got.PeriodsPaid)
	}
	if p, _ := record("k5", func() billing.PaymentInput { i := in; i.DeviceSeq = 2; return i }()); p.Receipt.Link.Number != 3 {
		t.Errorf("got receipt %s, want the third: repetitions take none", p.Receipt.Number)
	}
	list := edgetest.Ask[edge.Page[payment]](t, n, ann, "billing.payment.list", billing.PaymentList{Device: "phone-7"}).Data
	if len(list) != 3 || list[2].DeviceSeq != 2 {
		t.Errorf("got %d payments of the phone", len(list))
	}
	edgetest.NoDrift(t, n)
}

func TestWhatContradictsItselfIsRefusedBeforeANumberIsTaken(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	for name, c := range map[string]struct {
		change func(*billing.PaymentInput)
		code   string
	}{
		"nothing":                   {func(p *billing.PaymentInput) { p.Amount.AmountMinor = 0 }, "payment_invalid"},
		"less than nothing":         {func(p *billing.PaymentInput) { p.Amount.AmountMinor = -1 }, "payment_invalid"},
		"more than there is":        {func(p *billing.PaymentInput) { p.Amount.AmountMinor = 1 << 60 }, "money_overflow"},
		"no currency":               {func(p *billing.PaymentInput) { p.Amount.Currency = "XXX" }, "money_currency"},
		"too little handed over":    {func(p *billing.PaymentInput) { p.Tendered = new(usd(2499)) }, "payment_invalid"},
		"handed over in another":    {func(p *billing.PaymentInput) { p.Tendered = &billing.Money{AmountMinor: 9999, Currency: "ZAR"} }, "payment_invalid"},
		"a number without a device": {func(p *billing.PaymentInput) { p.DeviceSeq = 3 }, "payment_invalid"},
		"a voucher by hand":         {func(p *billing.PaymentInput) { p.Method = billing.ByVoucher }, "payment_invalid"},
		"its own receipt":           {func(p *billing.PaymentInput) { p.Receipt = &billing.Receipt{Number: "RCT-x-1"} }, "input_invalid"},
	} {
		in := cash(2500, "")
		c.change(&in)
		if got := edgetest.Code(t, n, ann, "billing.payment.record", in); got != c.code {
			t.Errorf("%s: got %s, want %s", name, got, c.code)
		}
	}
	if p := pay(t, n, cash(2500, "")); p.Receipt.Number != "RCT-n1-1" {
		t.Errorf("got %s, want the first number", p.Receipt.Number)
	}
}

func TestTheProvidersReferenceIsNowhereInTheEvents(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	in := cash(2500, "")
	in.Method, in.Reference = billing.MobileMoney, "MP260331.1412.A84F9Q"
	p := pay(t, n, in)
	if p.Status != billing.Provisional || p.Reference != "***4F9Q" {
		t.Errorf("got %s %s", p.Status, p.Reference)
	}
	for _, row := range edgetest.Events(t, n, "acme", 0) {
		if raw, _ := json.Marshal(row); strings.Contains(string(raw), "A84F9Q") {
			t.Errorf("%s holds the reference: %s", row.Type, raw)
		}
	}
	got := edgetest.Ask[billing.PaymentReference](t, n, ann, "billing.payment.reference", billing.PaymentRef{ID: p.ID})
	if got.Reference != in.Reference {
		t.Errorf("asked for: got %q", got.Reference)
	}
}

func TestAProvisionalPaymentIsConfirmedOrBounces(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := activated(t, n, monthly(t, n).ID)
	in := cash(2500, s.ID)
	in.Method = billing.MobileMoney
	good, bad := pay(t, n, in), pay(t, n, in)
	if got := sub(t, n, s.ID); got.PeriodsPaid != 3 || good.Status != billing.Provisional {
		t.Fatalf("got %d periods and %s, want both at work", got.PeriodsPaid, good.Status)
	}
	good = move(t, n, "confirm", billing.PaymentRef{ID: good.ID})
	version := good.Version
	if good = move(t, n, "confirm", billing.PaymentRef{ID: good.ID}); good.Status != billing.Confirmed || good.ConfirmedAt == nil || good.Version != version {
		t.Errorf("confirmed twice: got %+v", good)
	}
	bad = move(t, n, "bounce", billing.PaymentEnd{ID: bad.ID, Reason: "no such reference"})
	if bad = move(t, n, "bounce", billing.PaymentEnd{ID: bad.ID}); bad.Status != billing.Bounced || bad.EndReason != "no such reference" || bad.Allocations[0].UndoneAt == nil {
		t.Errorf("bounced twice: got %+v", bad)
	}
	if got := sub(t, n, s.ID); got.PeriodsPaid != 2 || !got.ValidUntil.Equal(day("2026-05-30T22:00:00Z")) {
		t.Errorf("got %d periods until %s, want what was confirmed", got.PeriodsPaid, got.ValidUntil)
	}
	money := pay(t, n, cash(2500, s.ID))
	for verb, id := range map[string]edge.ID{"confirm": money.ID, "bounce": good.ID} {
		if got := edgetest.Code(t, n, ann, "billing.payment."+verb, billing.PaymentRef{ID: id}); got != "payment_status" {
			t.Errorf("%s: got %s, want payment_status", verb, got)
		}
	}
	if got := edgetest.Code(t, n, ann, "billing.payment.reverse", billing.PaymentEnd{ID: bad.ID}); got != "payment_status" {
		t.Errorf("reverse what bounced: got %s", got)
	}
	edgetest.NoDrift(t, n)
}

// TestAReversalTakesBackWhatIsNotUsedUp holds the rule: what stands is what would stand without the payment, but no earlier than now.
func TestAReversalTakesBackWhatIsNotUsedUp(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p := monthly(t, n)
	later := func(days int) { n.Clock.Advance(time.Duration(days) * 24 * time.Hour) }
	reverse := func(id edge.ID) payment {
		return move(t, n, "reverse", billing.PaymentEnd{ID: id, Reason: "counterfeit"})
	}
	until := func(name string, id edge.ID, want time.Time) {
		t.Helper()
		if got := sub(t, n, id).ValidUntil; !got.Equal(want) {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	s := activated(t, n, p.ID)
	ahead, after := pay(t, n, cash(5000, s.ID)), pay(t, n, cash(2500, s.ID))
	gone := reverse(ahead.ID)
	until("what was not begun", s.ID, day("2026-05-30T22:00:00Z"))
	mirror := edgetest.Ask[payment](t, n, ann, "billing.payment.get", billing.PaymentRef{ID: gone.ReversedBy})
	if gone.Status != billing.Reversed || mirror.Amount != usd(-5000) || mirror.Reverses != ahead.ID || mirror.Receipt != nil || gone.Amount != usd(5000) {
		t.Errorf("got %+v and the mirror %+v", gone, mirror)
	}
	if again := reverse(ahead.ID); again.Version != gone.Version {
		t.Errorf("reversed twice: got version %d, want %d", again.Version, gone.Version)
	}
	if got := edgetest.Code(t, n, ann, "billing.payment.reverse", billing.PaymentEnd{ID: mirror.ID}); got != "payment_status" {
		t.Errorf("the mirror: got %s", got)
	}
	later(45) // 15 May: the paid month runs since 30 April
	reverse(after.ID)
	until("what runs", s.ID, n.Clock.Now())
	used := pay(t, n, cash(2500, s.ID)) // until 15 June
	later(60)
	now := pay(t, n, cash(2500, s.ID))
	want := *sub(t, n, s.ID).ValidUntil
	reverse(used.ID)
	until("what is used up", s.ID, want)
	dear := sell(t, n, offer("WEEK", prepaid(billing.Week, 1)))
	run(t, n, "change_plan", billing.ChangePlanInput{ID: s.ID, PlanID: dear.ID})
	pay(t, n, cash(2500, s.ID))
	longer := *sub(t, n, s.ID).ValidUntil
	reverse(now.ID) // the month bought before the plan changed: all of it is left
	until("what was bought under another plan", s.ID, longer.Add(n.Clock.Now().Sub(want)))
	if got := credit(t, n); got != "" {
		t.Errorf("got credit %s, want none", got)
	}
	edgetest.NoDrift(t, n)
}

func TestDunningReturnsWithThePaymentThatEndedIt(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := activated(t, n, sell(t, n, offer("POST")).ID)
	hold := func() { run(t, n, "suspend", billing.SuspendInput{ID: s.ID, Reason: billing.ForDunning}) }
	hold()
	first := pay(t, n, cash(2500, s.ID))
	later := pay(t, n, cash(2500, s.ID))
	move(t, n, "reverse", billing.PaymentEnd{ID: first.ID})
	if got := sub(t, n, s.ID); got.Status != billing.Active {
		t.Errorf("a later payment stands: got %s", got.Status)
	}
	hold()
	third := pay(t, n, cash(2500, s.ID))
	move(t, n, "reverse", billing.PaymentEnd{ID: third.ID})
	if got := sub(t, n, s.ID); got.Status != billing.Active { // taken at the same instant as the one before
		t.Errorf("another payment of that instant stands: got %s", got.Status)
	}
	move(t, n, "reverse", billing.PaymentEnd{ID: later.ID})
	hold()
	n.Clock.Advance(time.Hour)
	last := pay(t, n, cash(2500, s.ID))
	move(t, n, "reverse", billing.PaymentEnd{ID: last.ID})
	if got := sub(t, n, s.ID); got.Status != billing.Suspended || got.Suspensions[0].Reason != billing.ForDunning {
		t.Errorf("nothing stands: got %+v, want it held again", got)
	}
}

func TestCreditOfSeveralPaymentsBuysTimeTogether(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := activated(t, n, monthly(t, n).ID)
	run(t, n, "suspend", billing.SuspendInput{ID: s.ID, Reason: billing.ForDunning})
	a, b := pay(t, n, cash(1500, s.ID)), pay(t, n, cash(1200, ""))
	in := billing.AllocateInput{CustomerID: someone, SubscriptionID: s.ID}
	in.Periods = 2
	if got := edgetest.Code(t, n, ann, "billing.payment.allocate", in); got != "credit_too_small" {
		t.Errorf("two periods: got %s", got)
	}
	in.Periods = 0
	got := edgetest.Do[billing.AllocateAnswer](t, n, ann, "billing.payment.allocate", in)
	if got.Subscription.Status != billing.Active || got.Subscription.PeriodsPaid != 2 || len(got.Payments) != 2 {
		t.Fatalf("got %+v", got)
	}
	if left := credit(t, n); left != "2.00 USD" {
		t.Errorf("got credit %s, want what is left of 27.00", left)
	}
	if got := edgetest.Code(t, n, ann, "billing.payment.allocate", in); got != "credit_too_small" {
		t.Errorf("once more: got %s", got)
	}
	move(t, n, "reverse", billing.PaymentEnd{ID: a.ID}) // nothing of the month was used: the other share is credit again
	if left := credit(t, n); left != "12.00 USD" {
		t.Errorf("got credit %s, want the other payment whole", left)
	}
	if s = sub(t, n, s.ID); s.PeriodsPaid != 1 {
		t.Errorf("got %d periods, want the first", s.PeriodsPaid)
	}
	if again := move(t, n, "reverse", billing.PaymentEnd{ID: b.ID}); again.Unallocated != usd(0) || sub(t, n, s.ID).PeriodsPaid != 1 {
		t.Errorf("the other, too: got %+v", again)
	}
	edgetest.NoDrift(t, n)
}

func TestAReceiptProvesItself(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.ModuleWith(edgetest.Key))
	s := activated(t, n, monthly(t, n).ID)
	in := cash(2500, s.ID)
	in.Tendered, in.Collector, in.Device, in.DeviceSeq = new(usd(3000)), "Tendai", "phone-7", 118
	var all []payment
	for i := range 3 {
		in.DeviceSeq = uint64(118 + i)
		all = append(all, pay(t, n, in))
	}
	got := edgetest.Ask[billing.ReceiptVerdicts](t, n, ann, "billing.receipt.verify", billing.VerifyInput{ID: all[1].ID})
	want := []billing.Verdict{{Number: "RCT-n1-2", Content: true, Signature: "right", Previous: "follows", Next: "follows"}}
	if !cmp.Equal(got.Receipts, want) {
		t.Errorf("got %+v, want %+v", got.Receipts, want)
	}
	chain := edgetest.Ask[billing.Chain](t, n, ann, "billing.receipt.chain", billing.ChainInput{Node: "n1"})
	if chain.Checked != 3 || chain.Last != 3 || !chain.Signatures || len(chain.Findings) != 0 {
		t.Errorf("got %+v", chain)
	}
	text := edgetest.Ask[billing.ReceiptText](t, n, ann, "billing.receipt.get", billing.PaymentRef{ID: all[1].ID})
	for _, l := range text.Lines {
		if len(l) > 48 {
			t.Errorf("%q is %d characters long", l, len(l))
		}
	}
	lines := strings.Join(text.Lines, "\n")
	for _, part := range []string{"RCT-n1-2", "2026-03-31 14:00 CAT", "Paid by cash                           25.00 USD", "Change                                  5.00 USD", "phone-7 no. 119", all[1].Receipt.Link.Hash[:48]} {
		if !strings.Contains(lines, part) {
			t.Errorf("the receipt lacks %q:\n%s", part, lines)
		}
	}
	move(t, n, "reverse", billing.PaymentEnd{ID: all[1].ID})
	if after := edgetest.Ask[billing.ReceiptText](t, n, ann, "billing.receipt.get", billing.PaymentRef{ID: all[1].ID}); !cmp.Equal(after, text) {
		t.Errorf("the receipt changed with the payment: %s", cmp.Diff(text, after))
	}
}

// repeated is the transaction of an operation whose answer is forgotten: it makes the ids that it made the first time.
type repeated struct{ edge.Tx }

func (repeated) NewID(prefix string) edge.ID { return edge.DeriveID(prefix, "the same operation", 0) }

func TestAnOperationMakesOnePaymentForEver(t *testing.T) {
	t.Parallel()
	again := edge.Command[billing.PaymentInput, payment]{
		Name: "test.payment.again", Scope: "test:write", Class: edge.Write, Summary: "Record as in an operation of long ago",
		Handle: func(tx edge.Tx, in billing.PaymentInput) (payment, error) {
			return billing.RecordPayment.Within(repeated{tx}, in)
		},
	}
	n := edgetest.Node(t, billing.Module(), edge.Module{Name: "test", Ops: []*edge.Op{again.Op()}})
	first := edgetest.Do[payment](t, n, ann, again.Name, cash(2500, ""))
	if second := edgetest.Do[payment](t, n, ann, again.Name, cash(2500, "")); second.ID != first.ID || second.Version != 1 {
		t.Errorf("got %s at version %d, want the first one", second.ID, second.Version)
	}
	if got := edgetest.Code(t, n, ann, again.Name, cash(2600, "")); got != "idempotency_key_reused" {
		t.Errorf("another content: got %s", got)
	}
	if got := credit(t, n); got != "25.00 USD" {
		t.Errorf("got credit %s", got)
	}
}

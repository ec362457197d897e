package billing_test

import (
	"fmt"
	"testing"
	"time"

	"wispgate/billing"
	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/exec"
)

// TestOnePaymentOfTwoTowersUnderAKeyThatIsAnothers gives a key to the leader, and the same key with another content to two towers that hear
// nobody: what the towers took is one payment with two receipts, and neither chain has a gap.
func TestOnePaymentOfTwoTowersUnderAKeyThatIsAnothers(t *testing.T) {
	t.Parallel()
	c, leader, one, two := region(t)
	pay := func(m *edgetest.Member, minor int64, key string) (billing.Payment, edge.Reply) {
		t.Helper()
		in := billing.PaymentInput{CustomerID: "cus_00000000-0000-7000-8000-000000000000", Method: billing.Cash, Amount: billing.Money{AmountMinor: minor, Currency: "USD"}}
		p, r, err := edgetest.Try[billing.Payment](m.Harness, ann, edge.Request{Key: key}, "billing.payment.record", in)
		if err != nil {
			t.Fatal(err)
		}
		return p, r
	}
	one.CutAndNotice()
	two.CutAndNotice()
	for i, m := range []*edgetest.Member{one, two} {
		if _, r := pay(m, 700, "k"); r.State != "pending" {
			t.Fatalf("got %+v", r)
		}
		pay(m, 100, fmt.Sprint("next", i))
	}
	first, _ := pay(leader, 500, "k")
	one.HealAndDrain()
	two.HealAndDrain()
	c.Agree()
	p, r := pay(leader, 700, "k")
	if !r.Replayed || p.ID == first.ID {
		t.Fatalf("got %+v", r)
	}
	p = edgetest.Ask[billing.Payment](t, leader.Harness, ann, "billing.payment.get", billing.PaymentRef{ID: p.ID})
	if len(p.Copies) != 2 || p.DuplicateOf != first.ID || p.Unallocated.AmountMinor != 700 {
		t.Errorf("got %+v", p)
	}
	if n := len(edgetest.Ask[edge.Page[billing.Payment]](t, leader.Harness, ann, "billing.payment.list", billing.PaymentList{}).Data); n != 4 {
		t.Errorf("there are %d payments, want 4", n)
	}
	if list := edgetest.Ask[edge.Page[exec.Conflict]](t, leader.Harness, ann, "sync.conflict.list", exec.ConflictList{}).Data; len(list) > 0 {
		t.Errorf("money waits for a decision: %+v", list)
	}
	for _, m := range []*edgetest.Member{one, two} {
		chain := edgetest.Ask[billing.Chain](t, leader.Harness, ann, "billing.receipt.chain", billing.ChainInput{Node: m.Name})
		if chain.Last != 2 || len(chain.Findings) != 0 {
			t.Errorf("the receipts of %s: %+v", m.Name, chain)
		}
	}
	verdict := edgetest.Ask[billing.ReceiptVerdicts](t, leader.Harness, ann, "billing.receipt.verify", billing.VerifyInput{ID: p.ID})
	for _, v := range verdict.Receipts {
		if !v.Content || v.Signature != "right" {
			t.Errorf("got %+v", v)
		}
	}
	edgetest.NoDrift(t, leader.Harness)
}

// TestAKeyIsAPaymentsForLongerThanItsAnswerIsKept cuts a tower off until the cluster has forgotten the answer to the other payment: its id is
// still that of the key, and what the tower took stands all the same.
func TestAKeyIsAPaymentsForLongerThanItsAnswerIsKept(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		part := exec.Part()
		part.Name, part.Summary = "sync", "Conflicts and operations."
		c := edgetest.NewCluster(t, 2, edgetest.Modules(billing.ModuleWith(edgetest.Key), part), func(c *exec.Config) { c.Patience = 100 * time.Millisecond })
		leader, one := c.Nodes[0], c.Nodes[1]
		in := billing.PaymentInput{CustomerID: "cus_00000000-0000-7000-8000-000000000000", Method: billing.Cash, Amount: billing.Money{AmountMinor: 700, Currency: "USD"}}
		one.CutAndNotice()
		if _, r, err := edgetest.Try[billing.Payment](one.Harness, ann, edge.Request{Key: "k"}, "billing.payment.record", in); err != nil || r.State != "pending" {
			t.Fatalf("got %+v, %v", r, err)
		}
		in.Amount.AmountMinor = 500
		first, _, err := edgetest.Try[billing.Payment](leader.Harness, ann, edge.Request{Key: "k"}, "billing.payment.record", in)
		if err != nil {
			t.Fatal(err)
		}
		advance(c, 5*24*time.Hour)
		forgotten := func() bool {
			_, _, err := leader.Exec.Ask(t.Context(), ann, "sync.operation.get", []byte(`{"operation":"k"}`), 0)
			return err != nil
		}
		edgetest.Eventually(t, forgotten, func() string { return "the answer is still kept" })
		one.HealAndDrain()
		c.Agree()
		if list := edgetest.Ask[edge.Page[exec.Conflict]](t, leader.Harness, ann, "sync.conflict.list", exec.ConflictList{}).Data; len(list) > 0 {
			t.Errorf("money waits for a decision: %+v", list)
		}
		o := edgetest.Ask[exec.OperationState](t, one.Harness, ann, "sync.operation.get", exec.OperationRef{Operation: "k"})
		p := edgetest.Ask[billing.Payment](t, leader.Harness, ann, "billing.payment.get", billing.PaymentRef{ID: o.Record})
		if p.DuplicateOf != first.ID || p.Unallocated.AmountMinor != 700 || len(p.Copies) != 1 {
			t.Errorf("got %+v %+v", o, p)
		}
		c.Close()
	})
}

package billing_test

import (
	"testing"

	"wispgate/billing"
	"wispgate/edge/edgetest"
)

func TestEventsKeepTheirShape(t *testing.T) {
	t.Parallel()
	const (
		p   = "pln_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
		sub = "sub_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
		sbi = "sbi_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
		usg = "usg_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
		pmt = "pay_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
		mir = "pay_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c34"
		pur = "pur_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
		ofl = "ofl_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
		ses = "ses_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
	)
	now := edgetest.Start
	edgetest.GoldenEvents(t, billing.Module(),
		billing.PlanCreated{Plan: p, Code: "HOME10", PlanVersion: 1},
		billing.PlanUpdated{Plan: p, Fields: []string{"price"}},
		billing.PlanDeleted{Plan: p, Code: "HOME10", PlanVersion: 2},
		billing.PlanPublished{Plan: p, Code: "HOME10", PlanVersion: 1, EffectiveFrom: now, Policy: policy, ExhaustedPolicy: slow},
		billing.PlanRetired{Plan: p, Code: "HOME10", PlanVersion: 1},
		billing.SubscriptionCreated{Subscription: sub, Customer: someone, Site: someplace, Plan: p},
		billing.SubscriptionUpdated{Subscription: sub, Site: someplace, Fields: []string{"site_id"}},
		billing.SubscriptionSubmitted{Subscription: sub},
		billing.SubscriptionActivated{Subscription: sub, Customer: someone, At: now, ValidUntil: &now},
		billing.SubscriptionRenewed{Subscription: sub, Periods: 2, ValidUntil: now},
		billing.SubscriptionSuspended{Subscription: sub, Reason: billing.ForDunning, Reasons: []billing.SuspensionReason{billing.ForAdmin, billing.ForDunning}},
		billing.SubscriptionReactivated{Subscription: sub, Reason: billing.ForDunning, Reasons: []billing.SuspensionReason{billing.ForAdmin}},
		billing.SubscriptionPlanChanged{Subscription: sub, From: p, To: p},
		billing.SubscriptionItemAdded{Subscription: sub, Item: sbi, Plan: p},
		billing.SubscriptionItemRemoved{Subscription: sub, Item: sbi, Plan: p},
		billing.SubscriptionTerminationScheduled{Subscription: sub, TerminateAt: now},
		billing.SubscriptionTerminationWithdrawn{Subscription: sub},
		billing.SubscriptionTerminated{Subscription: sub, Customer: someone, At: now},
		billing.AccessChanged{
			Subscription: sub, Customer: someone, Status: "suspended", Reasons: []string{"dunning"}, Policy: policy, ExhaustedPolicy: slow,
			ValidUntil: &now, OfflineGraceSeconds: 86400, OnExpiry: "walled", Revision: 7,
		},
		billing.UsageRecorded{Usage: usg, Session: ses, Subscription: sub, Start: now, End: now, Total: billing.Counters{InOctets: 1, OutOctets: 5 << 32, Seconds: 60}},
		billing.PaymentRecorded{
			Payment: pmt, Customer: someone, Subscription: sub, Method: billing.Cash, Amount: usd(6000), ReceivedAt: now, Collector: "Tendai",
			Receipt: "RCT-tower7-a-42", Offline: true,
		},
		billing.PaymentProvisional{Payment: pmt, Customer: someone, Method: billing.MobileMoney, Amount: usd(6000)},
		billing.PaymentAllocated{Payment: pmt, Subscription: sub, Purchase: pur, Amount: usd(5000), Periods: 2, From: now, To: now.AddDate(0, 2, 0)},
		billing.PaymentUnallocated{Payment: pmt, Customer: someone, Amount: usd(1000), Reason: "remainder"},
		billing.PaymentConfirmed{Payment: pmt, Customer: someone, Amount: usd(6000)},
		billing.PaymentBounced{Payment: pmt, Customer: someone, Amount: usd(6000), Reason: "no such reference"},
		billing.PaymentReversed{Payment: pmt, Mirror: mir, Customer: someone, Amount: usd(6000), Reason: "counterfeit"},
		billing.PaymentDuplicateRejected{Payment: pmt, First: mir, Device: "phone-7", DeviceSeq: 118, Collector: "Tendai", Amount: usd(6000)},
		billing.ReceiptIssued{Payment: pmt, Receipt: "RCT-tower7-a-42", Node: "tower7-a", Number: 42, Hash: "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b", Copy: true},
		billing.CollectorLimitExceeded{Record: pmt, Collector: "Tendai", Limit: "cash", Bound: new(usd(10000)), Reached: new(usd(12500))},
		billing.CollectorChainBroken{Payment: pmt, Node: "tower7-a", Number: 42, Problem: "hash"},
		billing.LimitsSet{Limits: ofl, Site: someplace, ExpiresAt: &now},
	)
}

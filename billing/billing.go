// Package billing owns what is sold, what was used and what was paid: plans, subscriptions, usage, payments with their receipts, and the
// limits of what a tower may promise on its own. Invoices and dunning join them here.
//
// Invariants: a published plan version never changes, so what was sold stands; a subscription holds exactly one main plan, and a set of
// suspension reasons each of which must clear; whatever moves what the network may give emits access_changed in the same commit, with a
// larger revision each time; a session's totals count once, however often and in whatever order they are reported; money is an integer
// with its currency and is rounded in one function; money that a node has taken is recorded once and never refused, and a payment's
// amount is at every moment what its allocations that stand and its credit add up to; what a receipt says never changes, and a node's
// receipts form one signed chain. Events: billing.plan.*, billing.subscription.*, billing.usage.recorded, billing.payment.*,
// billing.receipt.issued, billing.collector.*, billing.offline_limits.set.
package billing

import "wispgate/edge"

// Module is everything billing offers, where no node's key is known.
func Module() edge.Module { return ModuleWith(nil) }

// ModuleWith is Module with the keys by which receipts are checked. "Sub-service" is WISPGate's word for a subscription, so its routes
// answer under both names.
func ModuleWith(keys Keyring) edge.Module {
	verify, chain := verifyReceipt(keys).Op(), getChain(keys).Op()
	m := edge.Module{
		Name:    "billing",
		Summary: "What is sold, to whom, what was used and what was paid.",
		Tables:  []edge.AnyTable{plans, subscriptions, sessionUsages, dayUsages, payments, paymentDetails, offlineLimits, cashDays},
		Ops: []*edge.Op{
			CreatePlan.Op(), UpdatePlan.Op(), DeletePlan.Op(), NewPlanVersion.Op(), PublishPlan.Op(), RetirePlan.Op(),
			GetPlan.Op(), GetPlanByCode.Op(), ListPlans.Op(),
			CreateSubscription.Op(), UpdateSubscription.Op(), SubmitSubscription.Op(), ActivateSubscription.Op(), RenewSubscription.Op(),
			SuspendSubscription.Op(), ReactivateSubscription.Op(), ChangePlan.Op(), AddItem.Op(), RemoveItem.Op(), TerminateSubscription.Op(), ScheduleTermination.Op(),
			WithdrawTermination.Op(), TerminateDue.Op(), GetSubscription.Op(), ListSubscriptions.Op(),
			RecordUsage.Op(), ForgetUsage.Op(), GetUsage.Op(), ListSessionUsage.Op(),
			RecordPayment.Op(), ConfirmPayment.Op(), BouncePayment.Op(), ReversePayment.Op(), AllocateCredit.Op(),
			GetPayment.Op(), ListPayments.Op(), GetPaymentReference.Op(), GetCredit.Op(), GetReceipt.Op(), verify, chain, AuditReceipts.Op(),
			SetLimits.Op(), GetLimits.Op(),
		},
		Routes: append(planRoutes(), paymentRoutes(verify, chain)...),
		Events: []edge.Event{
			PlanCreated{}, PlanUpdated{}, PlanDeleted{}, PlanPublished{}, PlanRetired{},
			SubscriptionCreated{}, SubscriptionUpdated{}, SubscriptionSubmitted{}, SubscriptionActivated{}, SubscriptionRenewed{},
			SubscriptionSuspended{}, SubscriptionReactivated{}, SubscriptionPlanChanged{}, SubscriptionItemAdded{}, SubscriptionItemRemoved{}, SubscriptionTerminationScheduled{},
			SubscriptionTerminationWithdrawn{}, SubscriptionTerminated{}, AccessChanged{}, UsageRecorded{},
			PaymentRecorded{}, PaymentProvisional{}, PaymentAllocated{}, PaymentUnallocated{}, PaymentConfirmed{}, PaymentBounced{}, PaymentReversed{},
			PaymentDuplicateRejected{}, ReceiptIssued{}, CollectorLimitExceeded{}, CollectorChainBroken{}, LimitsSet{},
		},
		Reasons: []edge.Reason{
			ErrMoneyOverflow, ErrMoneyCurrency, ErrTimezone, ErrPlanInvalid, ErrPlanFrozen, ErrPlanStatus, ErrPlanDraft, ErrPlanEffective,
			ErrReference, ErrSubscriptionInvalid, ErrSubscriptionID, ErrSubscriptionTerminated, ErrSubscriptionInactive, ErrSubscriptionHeld,
			ErrSubscriptionPostpaid, ErrFrozen, ErrPlanNotSold, ErrPlanNotHere, ErrTerminationPast, ErrUsageRange,
			ErrPaymentInvalid, ErrPaymentOld, ErrPaymentStatus, ErrNoCredit, ErrOfflineLimit, ErrNoReceipt, ErrKeyForm,
		},
	}
	for _, base := range []string{"/api/v1/billing/subscriptions", "/api/v1/sub-services"} {
		m.Routes = append(m.Routes, subscriptionRoutes(base)...)
	}
	return m
}

func planRoutes() []edge.Route {
	return []edge.Route{
		{Method: "POST", Path: "/api/v1/billing/plans", Op: CreatePlan.Op(), Created: true},
		{Method: "GET", Path: "/api/v1/billing/plans", Op: ListPlans.Op()},
		{Method: "GET", Path: "/api/v1/billing/plans/{id}", Op: GetPlan.Op()},
		{Method: "GET", Path: "/api/v1/billing/plans/by-code/{code}", Op: GetPlanByCode.Op()},
		{Method: "PATCH", Path: "/api/v1/billing/plans/{id}", Op: UpdatePlan.Op()},
		{Method: "DELETE", Path: "/api/v1/billing/plans/{id}", Op: DeletePlan.Op()},
		{Method: "POST", Path: "/api/v1/billing/plans/{id}:new-version", Op: NewPlanVersion.Op(), Created: true},
		{Method: "POST", Path: "/api/v1/billing/plans/{id}:publish", Op: PublishPlan.Op()},
		{Method: "POST", Path: "/api/v1/billing/plans/{id}:retire", Op: RetirePlan.Op()},
	}
}

func paymentRoutes(verify, chain *edge.Op) []edge.Route {
	return []edge.Route{
		{Method: "POST", Path: "/api/v1/billing/payments", Op: RecordPayment.Op(), Created: true},
		{Method: "GET", Path: "/api/v1/billing/payments", Op: ListPayments.Op()},
		{Method: "POST", Path: "/api/v1/billing/payments:allocate", Op: AllocateCredit.Op()},
		{Method: "GET", Path: "/api/v1/billing/payments/{id}", Op: GetPayment.Op()},
		{Method: "POST", Path: "/api/v1/billing/payments/{id}:confirm", Op: ConfirmPayment.Op()},
		{Method: "POST", Path: "/api/v1/billing/payments/{id}:bounce", Op: BouncePayment.Op()},
		{Method: "POST", Path: "/api/v1/billing/payments/{id}:reverse", Op: ReversePayment.Op()},
		{Method: "GET", Path: "/api/v1/billing/payments/{id}/reference", Op: GetPaymentReference.Op()},
		{Method: "GET", Path: "/api/v1/billing/payments/{id}/receipt", Op: GetReceipt.Op()},
		{Method: "GET", Path: "/api/v1/billing/payments/{id}/receipt/verify", Op: verify},
		{Method: "GET", Path: "/api/v1/billing/receipts/{node}", Op: chain},
		{Method: "POST", Path: "/api/v1/billing/receipts/{node}:audit", Op: AuditReceipts.Op()},
		{Method: "GET", Path: "/api/v1/billing/credit/{customer_id}", Op: GetCredit.Op()},
		{Method: "GET", Path: "/api/v1/billing/offline-limits", Op: GetLimits.Op()},
		{Method: "PUT", Path: "/api/v1/billing/offline-limits", Op: SetLimits.Op()},
	}
}

func subscriptionRoutes(base string) []edge.Route {
	return []edge.Route{
		{Method: "POST", Path: base, Op: CreateSubscription.Op(), Created: true},
		{Method: "GET", Path: base, Op: ListSubscriptions.Op()},
		{Method: "GET", Path: base + "/{id}", Op: GetSubscription.Op()},
		{Method: "PATCH", Path: base + "/{id}", Op: UpdateSubscription.Op()},
		{Method: "POST", Path: base + "/{id}:submit", Op: SubmitSubscription.Op()},
		{Method: "POST", Path: base + "/{id}:activate", Op: ActivateSubscription.Op()},
		{Method: "POST", Path: base + "/{id}:renew", Op: RenewSubscription.Op()},
		{Method: "POST", Path: base + "/{id}:suspend", Op: SuspendSubscription.Op()},
		{Method: "POST", Path: base + "/{id}:reactivate", Op: ReactivateSubscription.Op()},
		{Method: "POST", Path: base + "/{id}:change-plan", Op: ChangePlan.Op()},
		{Method: "POST", Path: base + "/{id}:add-item", Op: AddItem.Op()},
		{Method: "POST", Path: base + "/{id}:remove-item", Op: RemoveItem.Op()},
		{Method: "POST", Path: base + "/{id}:terminate", Op: TerminateSubscription.Op()},
		{Method: "POST", Path: base + "/{id}:schedule-termination", Op: ScheduleTermination.Op()},
		{Method: "POST", Path: base + "/{id}:withdraw-termination", Op: WithdrawTermination.Op()},
		{Method: "GET", Path: base + "/{id}/usage", Op: GetUsage.Op()},
		{Method: "GET", Path: base + "/{id}/usage/sessions", Op: ListSessionUsage.Op()},
	}
}

// Package billing owns what is sold and what was used: plans, subscriptions and usage. Invoices, payments and dunning join them here.
//
// Invariants: a published plan version never changes, so what was sold stands; a subscription holds exactly one main plan, and a set of
// suspension reasons each of which must clear; whatever moves what the network may give emits access_changed in the same commit, with a
// larger revision each time; a session's totals count once, however often and in whatever order they are reported; money is an integer
// with its currency and is rounded in one function. Events: billing.plan.*, billing.subscription.*, billing.usage.recorded.
package billing

import "wispgate/edge"

// Module is everything billing offers. "Sub-service" is WISPGate's word for a subscription, so its routes answer under both names.
func Module() edge.Module {
	m := edge.Module{
		Name:    "billing",
		Summary: "What is sold, to whom, and what was used.",
		Tables:  []edge.AnyTable{plans, subscriptions, sessionUsages, dayUsages},
		Ops: []*edge.Op{
			CreatePlan.Op(), UpdatePlan.Op(), DeletePlan.Op(), NewPlanVersion.Op(), PublishPlan.Op(), RetirePlan.Op(),
			GetPlan.Op(), GetPlanByCode.Op(), ListPlans.Op(),
			CreateSubscription.Op(), UpdateSubscription.Op(), SubmitSubscription.Op(), ActivateSubscription.Op(), RenewSubscription.Op(),
			SuspendSubscription.Op(), ReactivateSubscription.Op(), ChangePlan.Op(), AddItem.Op(), RemoveItem.Op(), TerminateSubscription.Op(), ScheduleTermination.Op(),
			WithdrawTermination.Op(), TerminateDue.Op(), GetSubscription.Op(), ListSubscriptions.Op(),
			RecordUsage.Op(), ForgetUsage.Op(), GetUsage.Op(), ListSessionUsage.Op(),
		},
		Routes: planRoutes(),
		Events: []edge.Event{
			PlanCreated{}, PlanUpdated{}, PlanDeleted{}, PlanPublished{}, PlanRetired{},
			SubscriptionCreated{}, SubscriptionUpdated{}, SubscriptionSubmitted{}, SubscriptionActivated{}, SubscriptionRenewed{},
			SubscriptionSuspended{}, SubscriptionReactivated{}, SubscriptionPlanChanged{}, SubscriptionItemAdded{}, SubscriptionItemRemoved{}, SubscriptionTerminationScheduled{},
			SubscriptionTerminationWithdrawn{}, SubscriptionTerminated{}, AccessChanged{}, UsageRecorded{},
		},
		Reasons: []edge.Reason{
			ErrMoneyOverflow, ErrMoneyCurrency, ErrTimezone, ErrPlanInvalid, ErrPlanFrozen, ErrPlanStatus, ErrPlanDraft, ErrPlanEffective,
			ErrReference, ErrSubscriptionInvalid, ErrSubscriptionID, ErrSubscriptionTerminated, ErrSubscriptionInactive, ErrSubscriptionHeld,
			ErrSubscriptionPostpaid, ErrPlanNotSold, ErrPlanNotHere, ErrTerminationPast, ErrUsageRange,
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

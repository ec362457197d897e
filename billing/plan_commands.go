package billing

import (
	"slices"
	"strconv"
	"time"

	"wispgate/edge"
)

// NewPlan is what the first version of a plan is made from.
type NewPlan struct {
	edge.Common
	Code string `json:"code" check:"min=1 max=32" doc:"Short name, unique whatever its case: letters, digits, - _ ." example:"HOME10"`
	Terms
}

// CreatePlan makes the first version of a plan, as a draft.
var CreatePlan = edge.Command[NewPlan, Plan]{
	Name: "billing.plan.create", Scope: "billing:write", Class: edge.Write, Summary: "Draft a plan",
	Handle: func(tx edge.Tx, in NewPlan) (Plan, error) {
		p := Plan{Meta: in.Meta(tx.NewID("pln")), Code: in.Code, PlanVersion: 1, Status: DraftPlan, Terms: in.Terms}
		p.normalise()
		if err := p.check(); err != nil {
			return Plan{}, err
		}
		if err := plans.Put(tx, &p); err != nil {
			return Plan{}, err
		}
		tx.Emit(PlanCreated{p.ID, p.Code, p.PlanVersion})
		return p, nil
	},
}

// PlanChange carries the members of a draft to change; what is absent stays.
type PlanChange struct {
	edge.CommonChange
	ID               edge.ID       `json:"id" check:"prefix=pln" doc:"The draft."`
	Name             *string       `json:"name,omitempty" check:"min=1 max=120" doc:"Name on offers and invoices." example:"Home 10 Mbit/s"`
	Description      *string       `json:"description,omitempty" check:"max=1000" doc:"What the customer reads." example:"10 Mbit/s down, 2 up, no cap"`
	Kind             *PlanKind     `json:"kind,omitempty" doc:"What it sells." example:"recurring"`
	Price            *Money        `json:"price,omitempty" doc:"Price of one period, or of the thing."`
	Interval         *Interval     `json:"interval,omitempty" doc:"Length of a period."`
	BillTiming       *string       `json:"bill_timing,omitempty" check:"enum=advance|arrears" doc:"Charged before or after the period." example:"advance"`
	Proration        *string       `json:"proration,omitempty" check:"enum=none|daily_actual|daily_30|by_second" doc:"How parts of a period are charged." example:"daily_actual"`
	ChargeMode       *string       `json:"charge_mode,omitempty" check:"enum=once|every_cycle|installments" doc:"How equipment and fees are charged." example:"once"`
	Installments     *int32        `json:"installments,omitempty" check:"min=0 max=120" doc:"Number of parts with charge_mode installments." example:"12"`
	TrialDays        *int32        `json:"trial_days,omitempty" check:"min=0 max=365" doc:"Days of access before the first charge." example:"14"`
	SetupFee         *Money        `json:"setup_fee,omitempty" doc:"Charged once with the first invoice."`
	EarlyTermination *Money        `json:"early_termination,omitempty" doc:"Charged for leaving early."`
	MinTermMonths    *int32        `json:"min_term_months,omitempty" check:"min=0 max=120" doc:"Months the customer commits to." example:"12"`
	Allowance        *[]Allowance  `json:"allowance,omitempty" check:"max=8" doc:"What is included."`
	Overage          *Overage      `json:"overage,omitempty" doc:"What use beyond the allowance costs."`
	PolicyRef        *edge.ID      `json:"policy_ref,omitempty" check:"prefix=pol" doc:"The network policy that the plan gives."`
	ExhaustedRef     *edge.ID      `json:"policy_exhausted_ref,omitempty" check:"prefix=pol" doc:"The network policy once the allowance is used up."`
	OnExpiry         *OnExpiry     `json:"on_expiry,omitempty" doc:"What a login may do past its time and grace." example:"walled"`
	OfflineGrace     *int64        `json:"offline_grace_seconds,omitempty" check:"min=0 max=2592000" doc:"Seconds for which access outlives its time." example:"86400"`
	OnIsolation      *string       `json:"on_isolation,omitempty" check:"enum=freeze|continue" doc:"Whether dunning stands still while the site is cut off." example:"freeze"`
	TaxCode          *string       `json:"tax_code,omitempty" check:"max=32" doc:"Code of the tax that applies." example:"VAT-S"`
	GLCode           *string       `json:"gl_code,omitempty" check:"max=32" doc:"Revenue account in the ledger." example:"4010"`
	DunningPolicyID  *edge.ID      `json:"dunning_policy_id,omitempty" check:"prefix=dpl" doc:"What happens when invoices stay unpaid."`
	Availability     *Availability `json:"availability,omitempty" doc:"Where and to whom it is sold."`
	Clear            []string      `json:"clear,omitempty" check:"max=8 item.enum=interval|setup_fee|early_termination|overage|availability|policy_ref|policy_exhausted_ref|dunning_policy_id" doc:"Members to remove."`
}

func (in PlanChange) apply(p *Plan) {
	in.Apply(&p.Meta)
	for _, f := range []struct{ to, from *string }{
		{&p.Name, in.Name}, {&p.Description, in.Description}, {&p.BillTiming, in.BillTiming}, {&p.Proration, in.Proration},
		{&p.ChargeMode, in.ChargeMode}, {&p.OnIsolation, in.OnIsolation}, {&p.TaxCode, in.TaxCode}, {&p.GLCode, in.GLCode},
	} {
		edge.Set(f.to, f.from)
	}
	edge.Set(&p.Kind, in.Kind)
	edge.Set(&p.Price, in.Price)
	edge.Set(&p.Installments, in.Installments)
	edge.Set(&p.TrialDays, in.TrialDays)
	edge.Set(&p.MinTermMonths, in.MinTermMonths)
	edge.Set(&p.Allowance, in.Allowance)
	setRef(&p.PolicyRef, in.PolicyRef, in.Clear, "policy_ref")
	setRef(&p.ExhaustedRef, in.ExhaustedRef, in.Clear, "policy_exhausted_ref")
	edge.Set(&p.OnExpiry, in.OnExpiry)
	edge.Set(&p.OfflineGrace, in.OfflineGrace)
	setRef(&p.DunningPolicyID, in.DunningPolicyID, in.Clear, "dunning_policy_id")
	replace(&p.Interval, in.Interval, in.Clear, "interval")
	replace(&p.SetupFee, in.SetupFee, in.Clear, "setup_fee")
	replace(&p.EarlyTermination, in.EarlyTermination, in.Clear, "early_termination")
	replace(&p.Overage, in.Overage, in.Clear, "overage")
	replace(&p.Availability, in.Availability, in.Clear, "availability")
}

// replace sets an optional part as a whole when the change holds one, and removes it when remove names it.
func replace[T any](to **T, from *T, remove []string, name string) {
	switch {
	case slices.Contains(remove, name):
		*to = nil
	case from != nil:
		*to = from
	}
}

// setRef sets a reference to another record when the change holds one, and removes it when remove names it.
func setRef(to, from *edge.ID, remove []string, name string) {
	edge.Set(to, from)
	if slices.Contains(remove, name) {
		*to = ""
	}
}

// UpdatePlan changes members of a draft.
var UpdatePlan = edge.Command[PlanChange, Plan]{
	Name: "billing.plan.update", Scope: "billing:write", Class: edge.Write, Summary: "Change a draft plan",
	Record: func(in PlanChange) edge.ID { return in.ID }, NeedsMatch: true,
	Handle: func(tx edge.Tx, in PlanChange) (Plan, error) {
		was, err := plans.Get(tx, in.ID)
		if err != nil {
			return Plan{}, err
		}
		if was.Status != DraftPlan {
			return Plan{}, ErrPlanFrozen.Error(edge.Conflict)
		}
		p := was
		in.apply(&p)
		p.normalise()
		if err := p.check(); err != nil {
			return Plan{}, err
		}
		fields, err := edge.Changed(&was, &p)
		if err != nil || len(fields) == 0 {
			return was, err
		}
		if err := plans.Put(tx, &p); err != nil {
			return Plan{}, err
		}
		tx.Emit(PlanUpdated{p.ID, fields})
		return p, nil
	},
}

// PlanRef names a plan version.
type PlanRef struct {
	ID edge.ID `json:"id" check:"prefix=pln" doc:"The plan version."`
}

// NewPlanVersion drafts the next version of a published or retired plan, with the terms of the version named.
var NewPlanVersion = edge.Command[PlanRef, Plan]{
	Name: "billing.plan.new_version", Scope: "billing:write", Class: edge.Write, Summary: "Draft the next version of a plan",
	Handle: func(tx edge.Tx, in PlanRef) (Plan, error) {
		from, err := plans.Get(tx, in.ID)
		if err != nil {
			return Plan{}, err
		}
		p := Plan{Meta: edge.Meta{ID: tx.NewID("pln"), Tags: from.Tags, Metadata: from.Metadata}, Code: from.Code, Status: DraftPlan, Terms: from.Terms}
		for other, err := range plans.Range(tx, "versions", planKey(from.Code)) {
			switch {
			case err != nil:
				return Plan{}, err
			case other.Status == DraftPlan:
				return Plan{}, ErrPlanDraft.Error(edge.Conflict)
			}
			p.PlanVersion = max(p.PlanVersion, other.PlanVersion)
		}
		p.PlanVersion++
		if err := plans.Put(tx, &p); err != nil {
			return Plan{}, err
		}
		tx.Emit(PlanCreated{p.ID, p.Code, p.PlanVersion})
		return p, nil
	},
}

// PublishPlanInput says which draft is sold, and from when.
type PublishPlanInput struct {
	ID            edge.ID    `json:"id" check:"prefix=pln" doc:"The draft."`
	EffectiveFrom *time.Time `json:"effective_from,omitempty" doc:"Sold from this instant; absent: now."`
}

// PublishPlan freezes a draft and puts it on sale; the version before is sold until then. Publishing it again is success without effect.
var PublishPlan = edge.Command[PublishPlanInput, Plan]{
	Name: "billing.plan.publish", Scope: "billing:write", Class: edge.Provision, Summary: "Put a draft plan on sale",
	Record: func(in PublishPlanInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in PublishPlanInput) (Plan, error) {
		p, err := plans.Get(tx, in.ID)
		if err != nil || p.Status == PublishedPlan {
			return p, err
		}
		if p.Status != DraftPlan {
			return Plan{}, ErrPlanStatus.Error(edge.Conflict)
		}
		if err := p.checkPublish(); err != nil {
			return Plan{}, err
		}
		from := tx.Now().UTC()
		if in.EffectiveFrom != nil && in.EffectiveFrom.After(from) {
			from = in.EffectiveFrom.UTC()
		} else if in.EffectiveFrom != nil && in.EffectiveFrom.Before(from.Add(-time.Minute)) {
			return Plan{}, ErrPlanEffective.Error(edge.Invalid, edge.Field("/effective_from", "lies in the past", "leave it out for now"))
		}
		if err := endBefore(tx, &p, from); err != nil {
			return Plan{}, err
		}
		p.Status, p.EffectiveFrom = PublishedPlan, &from
		if err := plans.Put(tx, &p); err != nil {
			return Plan{}, err
		}
		tx.Emit(PlanPublished{p.ID, p.Code, p.PlanVersion, from, p.PolicyRef, p.ExhaustedRef})
		return p, nil
	},
}

// endBefore ends the sale of the version before p at the instant p's begins.
func endBefore(tx edge.Tx, p *Plan, from time.Time) error {
	if p.PlanVersion == 1 {
		return nil
	}
	before, err := plans.By(tx, "code", versionKey(p.Code, p.PlanVersion-1))
	if err != nil {
		return err
	}
	if before.Status != PublishedPlan {
		return nil
	}
	if before.EffectiveFrom.After(from) {
		return ErrPlanEffective.Error(edge.Conflict, edge.Field("/effective_from", "lies before that of version "+strconv.Itoa(int(before.PlanVersion)), "give a later date"))
	}
	before.EffectiveTo = &from
	return plans.Put(tx, &before)
}

// RetirePlan takes a published version off sale at once; subscriptions that hold it keep it. Retiring it again is success without
// effect.
var RetirePlan = edge.Command[PlanRef, Plan]{
	Name: "billing.plan.retire", Scope: "billing:write", Class: edge.Write, Summary: "Take a plan off sale",
	Record: func(in PlanRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in PlanRef) (Plan, error) {
		p, err := plans.Get(tx, in.ID)
		if err != nil || p.Status == RetiredPlan {
			return p, err
		}
		if p.Status != PublishedPlan {
			return Plan{}, ErrPlanStatus.Error(edge.Conflict)
		}
		p.Status = RetiredPlan
		if now := tx.Now().UTC(); p.EffectiveTo == nil || p.EffectiveTo.After(now) {
			p.EffectiveTo = &now
		}
		if err := plans.Put(tx, &p); err != nil {
			return Plan{}, err
		}
		tx.Emit(PlanRetired{p.ID, p.Code, p.PlanVersion})
		return p, nil
	},
}

// DeletePlan removes a draft that was never sold.
var DeletePlan = edge.Command[PlanRef, edge.None]{
	Name: "billing.plan.delete", Scope: "billing:write", Class: edge.Write, Summary: "Delete a draft plan",
	Record: func(in PlanRef) edge.ID { return in.ID }, NeedsMatch: true,
	Handle: func(tx edge.Tx, in PlanRef) (edge.None, error) {
		p, err := plans.Get(tx, in.ID)
		if err != nil {
			return edge.None{}, err
		}
		if p.Status != DraftPlan {
			return edge.None{}, ErrPlanFrozen.Error(edge.Conflict)
		}
		tx.Emit(PlanDeleted{p.ID, p.Code, p.PlanVersion})
		return edge.None{}, plans.Delete(tx, p.ID)
	},
}

// PlanDeleted says that a draft was removed.
type PlanDeleted struct {
	Plan        edge.ID `json:"plan"`
	Code        string  `json:"code"`
	PlanVersion int32   `json:"plan_version"`
}

// EventName implements edge.Event.
func (PlanDeleted) EventName() string { return "billing.plan.deleted" }

// Subject implements edge.Event.
func (e PlanDeleted) Subject() edge.ID { return e.Plan }

// GetPlan answers one plan version.
var GetPlan = edge.Query[PlanRef, Plan]{
	Name: "billing.plan.get", Scope: "billing:read", Class: edge.Read, Summary: "Read a plan version",
	Shows:  plans,
	Record: func(in PlanRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in PlanRef) (Plan, error) { return plans.Get(v, in.ID) },
}

// PlanCode names a plan by its code.
type PlanCode struct {
	Code        string `json:"code" check:"min=1 max=32" doc:"The plan's code, in any case." example:"HOME10"`
	PlanVersion int32  `json:"plan_version,omitempty" check:"min=0" doc:"The version; absent: the one on sale now." example:"2"`
}

// GetPlanByCode answers a version of a code: the one asked for, or the one on sale.
var GetPlanByCode = edge.Query[PlanCode, Plan]{
	Name: "billing.plan.get_by_code", Scope: "billing:read", Class: edge.Read, Summary: "Read a plan by its code",
	Handle: func(v edge.View, in PlanCode) (Plan, error) {
		if in.PlanVersion > 0 {
			return plans.By(v, "code", versionKey(in.Code, in.PlanVersion))
		}
		for p, err := range plans.Range(v, "versions", planKey(in.Code)) {
			if err != nil || p.Sellable(v.Now()) {
				return p, err
			}
		}
		return Plan{}, edge.ErrNotFound.Error(edge.NotFound)
	},
}

// PlanList filters a list of plans. Filters add up.
type PlanList struct {
	edge.ListInput
	Code     string     `json:"code,omitempty" check:"max=32" doc:"Only versions of this code." example:"HOME10"`
	Status   PlanStatus `json:"status,omitempty" doc:"Only this status." example:"published"`
	Kind     PlanKind   `json:"kind,omitempty" doc:"Only this kind." example:"recurring"`
	Sellable bool       `json:"sellable,omitempty" doc:"Only what may be sold now."`
}

// ListPlans answers a page of plan versions.
var ListPlans = edge.Query[PlanList, edge.Page[Plan]]{
	Name: "billing.plan.list", Scope: "billing:read", Class: edge.Read, Summary: "List plans",
	Handle: func(v edge.View, in PlanList) (edge.Page[Plan], error) {
		f := edge.Filter[Plan]{Also: []string{in.Code, string(in.Status), string(in.Kind), strconv.FormatBool(in.Sellable)}}
		code, now := planKey(in.Code), v.Now()
		switch {
		case code != "":
			f.Index, f.Key = "versions", code
		case in.Status != "":
			f.Index, f.Key = "status", string(in.Status)
		case in.Kind != "":
			f.Index, f.Key = "kind", string(in.Kind)
		}
		f.Keep = func(p *Plan) bool {
			return (in.Status == "" || p.Status == in.Status) && (in.Kind == "" || p.Kind == in.Kind) && (!in.Sellable || p.Sellable(now))
		}
		return plans.Select(v, f, in.ListInput)
	},
}

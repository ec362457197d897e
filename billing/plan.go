package billing

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// PlanKind says what a plan sells.
type PlanKind string

// The kinds of plan. Recurring, prepaid and usage plans can be the main item of a subscription; the others are added to one.
const (
	Recurring PlanKind = "recurring"
	Prepaid   PlanKind = "prepaid"
	PerUsage  PlanKind = "usage"
	Addon     PlanKind = "addon"
	Equipment PlanKind = "equipment"
	OneTime   PlanKind = "one_time"
	Fee       PlanKind = "fee"
)

// Values lists the kinds, for the schema.
func (PlanKind) Values() []string {
	return []string{"recurring", "prepaid", "usage", "addon", "equipment", "one_time", "fee"}
}

// Main reports whether a plan of this kind can be a subscription's main item: the one that gives access.
func (k PlanKind) Main() bool { return k == Recurring || k == Prepaid || k == PerUsage }

// periodic reports whether a plan of this kind is charged by the period.
func (k PlanKind) periodic() bool {
	return k == Recurring || k == Prepaid || k == PerUsage || k == Addon
}

// PlanStatus is a plan version's place in its life.
type PlanStatus string

// The statuses of a plan version.
const (
	DraftPlan     PlanStatus = "draft"     // may change, cannot be sold
	PublishedPlan PlanStatus = "published" // never changes again; sold within its effective dates
	RetiredPlan   PlanStatus = "retired"   // no longer sold; what was sold stands
)

// Values lists the statuses, for the schema.
func (PlanStatus) Values() []string { return []string{"draft", "published", "retired"} }

// OnExpiry says what a login may do past its paid-through time and grace, or with its quota used up.
type OnExpiry string

// What happens on expiry.
const (
	ExpiryAllow    OnExpiry = "allow"
	ExpiryThrottle OnExpiry = "throttle"
	ExpiryWalled   OnExpiry = "walled"
	ExpiryReject   OnExpiry = "reject"
)

// Values lists the choices, for the schema.
func (OnExpiry) Values() []string { return []string{"allow", "throttle", "walled", "reject"} }

// Terms are what a plan version promises and asks: everything that freezes when it is published.
type Terms struct {
	Name             string        `json:"name" check:"min=1 max=120" doc:"Name on offers and invoices." example:"Home 10 Mbit/s"`
	Description      string        `json:"description,omitempty" check:"max=1000" doc:"What the customer reads." example:"10 Mbit/s down, 2 up, no cap"`
	Kind             PlanKind      `json:"kind" doc:"What it sells." example:"recurring"`
	Price            Money         `json:"price" doc:"Price of one period, or of the thing."`
	Interval         *Interval     `json:"interval,omitempty" doc:"Length of a period; for recurring, prepaid, usage and addon plans."`
	BillTiming       string        `json:"bill_timing,omitempty" check:"enum=advance|arrears" doc:"Charged before or after the period; advance unless given." example:"advance"`
	Proration        string        `json:"proration,omitempty" check:"enum=none|daily_actual|daily_30|by_second" doc:"How parts of a period are charged; daily_actual unless given." example:"daily_actual"`
	ChargeMode       string        `json:"charge_mode,omitempty" check:"enum=once|every_cycle|installments" doc:"How equipment and fees are charged; every_cycle for periodic plans, else once unless given." example:"once"`
	Installments     int32         `json:"installments,omitempty" check:"min=0 max=120" doc:"Number of parts with charge_mode installments." example:"12"`
	TrialDays        int32         `json:"trial_days,omitempty" check:"min=0 max=365" doc:"Days of access before the first charge." example:"14"`
	SetupFee         *Money        `json:"setup_fee,omitempty" doc:"Charged once with the first invoice."`
	EarlyTermination *Money        `json:"early_termination,omitempty" doc:"Charged for leaving before min_term_months have passed."`
	MinTermMonths    int32         `json:"min_term_months,omitempty" check:"min=0 max=120" doc:"Months the customer commits to." example:"12"`
	Allowance        []Allowance   `json:"allowance,omitempty" check:"max=8" doc:"What is included; absent: without limit."`
	Overage          *Overage      `json:"overage,omitempty" doc:"What use beyond the allowance costs; absent: on_expiry applies."`
	PolicyRef        edge.ID       `json:"policy_ref,omitempty" check:"prefix=pol" doc:"The network policy that the plan gives."`
	ExhaustedRef     edge.ID       `json:"policy_exhausted_ref,omitempty" check:"prefix=pol" doc:"The network policy once the allowance is used up or the time has passed, when on_expiry is throttle or walled."`
	OnExpiry         OnExpiry      `json:"on_expiry,omitempty" doc:"What a login may do past its time and grace, or with its quota used up; reject unless given." example:"walled"`
	OfflineGrace     int64         `json:"offline_grace_seconds,omitempty" check:"min=0 max=2592000" doc:"Seconds for which access outlives its time where the node cannot hear of a payment." example:"86400"`
	OnIsolation      string        `json:"on_isolation,omitempty" check:"enum=freeze|continue" doc:"Whether dunning stands still while the site is cut off; freeze unless given." example:"freeze"`
	TaxCode          string        `json:"tax_code,omitempty" check:"max=32" doc:"Code of the tax that applies." example:"VAT-S"`
	GLCode           string        `json:"gl_code,omitempty" check:"max=32" doc:"Revenue account in the ledger." example:"4010"`
	DunningPolicyID  edge.ID       `json:"dunning_policy_id,omitempty" check:"prefix=dpl" doc:"What happens when invoices stay unpaid."`
	Availability     *Availability `json:"availability,omitempty" doc:"Where and to whom it is sold; absent: everywhere, to everybody."`
}

// Allowance is an amount that is included.
type Allowance struct {
	Meter    string    `json:"meter" check:"enum=down|up|sum|max|seconds" doc:"What is counted: octets down, up, both, the larger of the two, or seconds online." example:"sum"`
	Amount   uint64    `json:"amount" check:"min=1" doc:"Octets or seconds." example:"100000000000"`
	Reset    string    `json:"reset" check:"enum=period|day|week|month|never" doc:"When it begins anew." example:"period"`
	Rollover *Rollover `json:"rollover,omitempty" doc:"What is left carries over; absent: it is lost."`
	Shared   bool      `json:"shared,omitempty" doc:"Whether the subscriptions of one customer share it."`
}

// Rollover bounds what carries over.
type Rollover struct {
	Cap        uint64 `json:"cap,omitempty" doc:"At most so many octets or seconds; 0: all." example:"50000000000"`
	ExpiryDays int32  `json:"expiry_days,omitempty" check:"min=0 max=366" doc:"Lost after so many days; 0: with the next reset." example:"30"`
}

// Overage prices use beyond the allowance.
type Overage struct {
	UnitPriceMicro int64  `json:"unit_price_micro" check:"min=0" doc:"Price of one block, in millionths of the currency's smallest unit." example:"50000000"`
	Block          uint64 `json:"block" check:"min=1" doc:"Octets or seconds in one block; a begun block counts." example:"1000000000"`
	Cap            *Money `json:"cap,omitempty" doc:"Most that one period may cost; absent: no limit."`
}

// Availability bounds where and to whom a plan is sold.
type Availability struct {
	Sites    []edge.ID `json:"sites,omitempty" check:"max=500 item.prefix=sit" doc:"Only at these sites."`
	Segments []string  `json:"segments,omitempty" check:"max=50 item.max=64" doc:"Only to customers with one of these tags." example:"school"`
}

// Plan is one version of something that is sold. A published version never changes: what was sold stands.
type Plan struct {
	edge.Meta
	Code          string     `json:"code" check:"max=32" doc:"Short name, the same for all versions." example:"HOME10"`
	PlanVersion   int32      `json:"plan_version" doc:"Counts the versions of the code from 1." example:"2"`
	Status        PlanStatus `json:"status" doc:"Place in its life." example:"published"`
	EffectiveFrom *time.Time `json:"effective_from,omitempty" doc:"Sold from this instant."`
	EffectiveTo   *time.Time `json:"effective_to,omitempty" doc:"Not sold from this instant on."`
	Terms
}

// Reasons of plans.
var (
	ErrPlanInvalid   = edge.Reason{Code: "plan_invalid", Says: "The plan cannot be stored as described", Fix: "Correct the named fields"}
	ErrPlanFrozen    = edge.Reason{Code: "plan_frozen", Says: "A published plan never changes, because what was sold stands", Fix: "Make a new version with new-version, change that and publish it"}
	ErrPlanStatus    = edge.Reason{Code: "plan_status", Says: "The plan is not in a status in which this can be done", Fix: "Publish a draft, retire a published plan"}
	ErrPlanDraft     = edge.Reason{Code: "plan_has_draft", Says: "There is a draft of the next version already", Fix: "Change and publish that draft"}
	ErrPlanEffective = edge.Reason{Code: "plan_effective", Says: "The effective date lies before the date of the version before or in the past", Fix: "Give a later date, or none for now"}
)

// Sellable reports whether the version may be sold at t.
func (p *Plan) Sellable(t time.Time) bool {
	return p.Status == PublishedPlan && p.EffectiveFrom != nil && !t.Before(*p.EffectiveFrom) && (p.EffectiveTo == nil || t.Before(*p.EffectiveTo))
}

// At reports whether the plan is sold at a site, "" being no site.
func (p *Plan) At(site edge.ID) bool {
	return p.Availability == nil || len(p.Availability.Sites) == 0 || slices.Contains(p.Availability.Sites, site)
}

const planCodeLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// planKey is the form in which codes are compared: upper case.
func planKey(code string) string { return strings.ToUpper(strings.TrimSpace(code)) }

func versionKey(code string, version int32) string {
	return planKey(code) + "@" + strconv.Itoa(int(version))
}

// normalise writes the defaults into the terms, so that a record says what holds.
func (p *Plan) normalise() {
	p.Code, p.Name = planKey(p.Code), strings.TrimSpace(p.Name)
	set := func(to *string, val string) {
		if *to == "" {
			*to = val
		}
	}
	if p.Kind.periodic() {
		set(&p.BillTiming, "advance")
		set(&p.Proration, "daily_actual")
		set(&p.ChargeMode, "every_cycle")
	}
	set(&p.ChargeMode, "once")
	if p.Kind.Main() {
		if p.OnExpiry == "" {
			p.OnExpiry = ExpiryReject
		}
		set(&p.OnIsolation, "freeze")
	}
}

// check refuses terms that contradict each other.
func (p *Plan) check() error {
	var bad []edge.FieldError
	add := func(wrong bool, at, reason, fix string) {
		if wrong {
			bad = append(bad, edge.Field(at, reason, fix))
		}
	}
	add(p.Code == "" || strings.Trim(p.Code, planCodeLetters) != "", "/code", "is empty or holds other characters than letters, digits, - _ .", "use a short name such as HOME10")
	add(p.Name == "", "/name", "is empty", "give the name on offers and invoices")
	add(!slices.Contains(p.Kind.Values(), string(p.Kind)), "/kind", "is not a kind of plan", "use one of "+strings.Join(p.Kind.Values(), ", "))
	add(p.Price.AmountMinor < 0, "/price", "is negative", "give zero or more")
	add(p.Kind.periodic() != (p.Interval != nil), "/interval", "is missing, or does not fit the kind", "give it for recurring, prepaid, usage and addon plans only")
	if p.Interval != nil {
		add(p.Interval.Count < 1 || !slices.Contains(Day.Values(), string(p.Interval.Unit)), "/interval", "is not an interval", "give a unit and a count of at least 1")
		absolute := p.Interval.Unit == Minute || p.Interval.Unit == Hour
		add(absolute && p.Kind != Prepaid, "/interval/unit", "is for prepaid plans only", "use days or longer")
	}
	add((p.ChargeMode == "installments") != (p.Installments > 0), "/installments", "belongs to charge_mode installments", "give both or neither")
	add(p.Kind == Prepaid && p.BillTiming == "arrears", "/bill_timing", "is arrears for a prepaid plan", "use advance")
	add(!p.Kind.Main() && p.PolicyRef+p.ExhaustedRef != "", "/policy_ref", "belongs to plans that give access", "leave it out for this kind")
	add((p.OnExpiry == ExpiryThrottle) && p.ExhaustedRef == "", "/policy_exhausted_ref", "is missing", "name the policy to throttle to")
	add(p.EarlyTermination != nil && p.MinTermMonths == 0, "/min_term_months", "is missing", "say how long the customer commits to")
	add(p.Overage != nil && len(p.Allowance) == 0, "/overage", "has no allowance to go beyond", "give an allowance")
	seen := map[string]bool{}
	for i, a := range p.Allowance {
		key := a.Meter + "/" + a.Reset
		add(seen[key], "/allowance/"+strconv.Itoa(i), "repeats a meter with the same reset", "join the two")
		seen[key] = true
	}
	if bad != nil {
		return ErrPlanInvalid.Error(edge.Invalid, bad...)
	}
	return p.checkMoney()
}

// checkMoney refuses unknown currencies, amounts out of bounds and amounts in other currencies than the price.
func (p *Plan) checkMoney() error {
	if err := p.Price.Check("/price"); err != nil {
		return err
	}
	amounts := map[string]*Money{"/early_termination": p.EarlyTermination, "/setup_fee": p.SetupFee}
	if p.Overage != nil {
		amounts["/overage/cap"] = p.Overage.Cap
	}
	for _, at := range []string{"/early_termination", "/overage/cap", "/setup_fee"} {
		m := amounts[at]
		if m == nil {
			continue
		}
		if err := m.Check(at); err != nil {
			return err
		}
		if m.Currency != p.Price.Currency || m.AmountMinor < 0 {
			return ErrPlanInvalid.Error(edge.Invalid, edge.Field(at, "is negative or in another currency than the price", "use the price's currency"))
		}
	}
	return nil
}

// checkPublish refuses a plan that would give access without saying which.
func (p *Plan) checkPublish() error {
	if p.Kind.Main() && p.PolicyRef == "" {
		return ErrPlanInvalid.Error(edge.Invalid, edge.Field("/policy_ref", "is missing", "name the network policy that the plan gives"))
	}
	return nil
}

var plans = &edge.Table[Plan]{
	Name: "billing.plan", Prefix: "pln", Meta: func(p *Plan) *edge.Meta { return &p.Meta },
	Indexes: []edge.Index[Plan]{
		{Name: "code", Unique: true, Keys: func(p *Plan) []string { return []string{versionKey(p.Code, p.PlanVersion)} }},
		{Name: "versions", Keys: func(p *Plan) []string { return []string{planKey(p.Code)} }},
		{Name: "status", Keys: func(p *Plan) []string { return []string{string(p.Status)} }},
		{Name: "kind", Keys: func(p *Plan) []string { return []string{string(p.Kind)} }},
	},
}

// PlanCreated says that a draft was made: the first version of a code, or the next.
type PlanCreated struct {
	Plan        edge.ID `json:"plan"`
	Code        string  `json:"code"`
	PlanVersion int32   `json:"plan_version"`
}

// PlanUpdated says that members of a draft changed.
type PlanUpdated struct {
	Plan   edge.ID  `json:"plan"`
	Fields []string `json:"fields"`
}

// PlanPublished says that a version is sold from an instant on. Policies are named so that a flow can hold that they exist.
type PlanPublished struct {
	Plan            edge.ID   `json:"plan"`
	Code            string    `json:"code"`
	PlanVersion     int32     `json:"plan_version"`
	EffectiveFrom   time.Time `json:"effective_from"`
	Policy          edge.ID   `json:"policy,omitempty"`
	ExhaustedPolicy edge.ID   `json:"exhausted_policy,omitempty"`
}

// PlanRetired says that a version is no longer sold.
type PlanRetired struct {
	Plan        edge.ID `json:"plan"`
	Code        string  `json:"code"`
	PlanVersion int32   `json:"plan_version"`
}

// EventName implements edge.Event.
func (PlanCreated) EventName() string { return "billing.plan.created" }

// Subject implements edge.Event.
func (e PlanCreated) Subject() edge.ID { return e.Plan }

// EventName implements edge.Event.
func (PlanUpdated) EventName() string { return "billing.plan.updated" }

// Subject implements edge.Event.
func (e PlanUpdated) Subject() edge.ID { return e.Plan }

// EventName implements edge.Event.
func (PlanPublished) EventName() string { return "billing.plan.published" }

// Subject implements edge.Event.
func (e PlanPublished) Subject() edge.ID { return e.Plan }

// EventName implements edge.Event.
func (PlanRetired) EventName() string { return "billing.plan.retired" }

// Subject implements edge.Event.
func (e PlanRetired) Subject() edge.ID { return e.Plan }

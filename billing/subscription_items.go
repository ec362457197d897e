package billing

import (
	"slices"
	"time"

	"wispgate/edge"
)

// AddItemInput names what is added beside the main plan.
type AddItemInput struct {
	ID edge.ID `json:"id" check:"prefix=sub" doc:"The subscription."`
	NewItem
}

// AddItem adds what is charged beside the main plan: an add-on, a fee, equipment.
var AddItem = edge.Command[AddItemInput, Subscription]{
	Name: "billing.subscription.add_item", Scope: "billing:write", Class: edge.Provision, Summary: "Add an add-on, a fee or equipment",
	Record: func(in AddItemInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in AddItemInput) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, main *Plan, _ time.Time) (edge.Event, error) {
			p, err := findPlan(tx, in.PlanID, "/plan_id")
			if err != nil {
				return nil, err
			}
			if err := sold(tx, &p, s.SiteID, main.Price.Currency, "/plan_id"); err != nil {
				return nil, err
			}
			if p.Kind.Main() {
				return nil, ErrSubscriptionInvalid.Error(edge.Invalid, edge.Field("/plan_id", "gives access, as the main plan does already", "use change-plan to hold another main plan"))
			}
			it := item(tx, &p, in.NewItem)
			s.Items = append(slices.Clone(s.Items), it)
			return SubscriptionItemAdded{s.ID, it.ID, p.ID}, s.check()
		})
	},
}

// item makes the item under which a subscription holds a plan version.
func item(tx edge.Tx, p *Plan, in NewItem) Item {
	return Item{
		ID: tx.NewID("sbi"), Role: roleOf(p.Kind), PlanID: p.ID, PlanCode: p.Code, PlanVersion: p.PlanVersion, Qty: max(in.Qty, 1),
		DeviceID: in.DeviceID,
	}
}

// RemoveItemInput names the item to remove.
type RemoveItemInput struct {
	ID     edge.ID `json:"id" check:"prefix=sub" doc:"The subscription."`
	ItemID edge.ID `json:"item_id" check:"prefix=sbi" doc:"The item; one that is not there is success without effect."`
}

// RemoveItem takes an add-on, a fee or equipment away. The main plan stays: it is changed or ended instead.
var RemoveItem = edge.Command[RemoveItemInput, Subscription]{
	Name: "billing.subscription.remove_item", Scope: "billing:write", Class: edge.Provision, Summary: "Remove an add-on, a fee or equipment",
	Record: func(in RemoveItemInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in RemoveItemInput) (Subscription, error) {
		return step(tx, in.ID, func(s *Subscription, _ *Plan, _ time.Time) (edge.Event, error) {
			i := slices.IndexFunc(s.Items, func(it Item) bool { return it.ID == in.ItemID })
			switch {
			case i < 0:
				return nil, nil
			case s.Items[i].Role == MainItem:
				return nil, ErrSubscriptionInvalid.Error(edge.Invalid, edge.Field("/item_id", "names the main plan", "use change-plan or terminate"))
			}
			plan := s.Items[i].PlanID
			s.Items = slices.Delete(slices.Clone(s.Items), i, i+1)
			return SubscriptionItemRemoved{s.ID, in.ItemID, plan}, nil
		})
	},
}

// SubscriptionItemAdded says what is charged beside the main plan from now on.
type SubscriptionItemAdded struct {
	Subscription edge.ID `json:"subscription"`
	Item         edge.ID `json:"item"`
	Plan         edge.ID `json:"plan"`
}

// SubscriptionItemRemoved says what is no longer charged.
type SubscriptionItemRemoved struct {
	Subscription edge.ID `json:"subscription"`
	Item         edge.ID `json:"item"`
	Plan         edge.ID `json:"plan"`
}

// EventName implements edge.Event.
func (SubscriptionItemAdded) EventName() string { return "billing.subscription.item_added" }

// Subject implements edge.Event.
func (e SubscriptionItemAdded) Subject() edge.ID { return e.Subscription }

// EventName implements edge.Event.
func (SubscriptionItemRemoved) EventName() string { return "billing.subscription.item_removed" }

// Subject implements edge.Event.
func (e SubscriptionItemRemoved) Subject() edge.ID { return e.Subscription }

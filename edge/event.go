package edge

import (
	"encoding/json"
	"time"
)

// Event is a fact, in the past tense: a small struct that names ids and what changed. It is stored as a row of the commit that made
// it true. Fields are only ever added; it never holds a secret.
type Event interface {
	// EventName is domain.noun.verbed, e.g. crm.customer.created.
	EventName() string
	// Subject is the record the event is about; its state after the commit becomes data.object of the public envelope.
	Subject() ID
}

// Inner is an event that only flows of the same commit hear: it is not stored and goes to no stream. It is for what happens too often to
// tell the world, such as every interim report of every session.
type Inner interface {
	Event
	Inner()
}

// IsInner reports whether an event is heard by flows only.
func IsInner(e Event) bool {
	_, inner := e.(Inner)
	return inner
}

// EventRow is an event as the commit stored it: what streams, flows and webhooks carry.
type EventRow struct {
	ID        ID              `json:"id"`
	Type      string          `json:"type"`
	Tenant    string          `json:"tenant"`
	Subject   ID              `json:"subject"`
	Time      time.Time       `json:"time"`
	Actor     string          `json:"actor"`
	Operation string          `json:"operation"`        // operation id, the causation id of the envelope
	Changed   json.RawMessage `json:"changed"`          // the event struct
	Object    json.RawMessage `json:"object,omitempty"` // the subject as the API shows it, after the commit; absent when it was removed

	Position uint64 `json:"-"` // version of the commit; taken from the row's key
}

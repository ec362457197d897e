package relay

import (
	"context"
	"time"

	"wispgate/edge"
)

// Queue holds what is still to be delivered and the record of what was. The embedded one lies in the relay's own store; another keeps
// the same promises elsewhere, proved by the same conformance suite.
type Queue interface {
	// Enqueue stages a delivery of each job in the transaction that stores its event: both happen or neither. The deliveries can be
	// leased once it is committed.
	Enqueue(tx Tx, jobs ...Job) error
	// Lease hands out up to n deliveries of an endpoint that are due, in the endpoint's order, and says when the next will be; the zero
	// time when that depends on an Enqueue or on the end of a lease. A lease ends with Ack, Nack, Dead, Release or the process.
	Lease(tenant string, endpoint edge.ID, order Order, n int, now time.Time) (leased []Delivery, next time.Time, err error)
	// Ack records a successful attempt.
	Ack(ctx context.Context, d Delivery, a Attempt) error
	// Nack records a failed attempt; the next is due at the time given.
	Nack(ctx context.Context, d Delivery, a Attempt, due time.Time) error
	// Dead records the last failed attempt: the delivery becomes a dead letter until it is replayed.
	Dead(ctx context.Context, d Delivery, a Attempt) error
	// Release gives a lease back as if it had never been.
	Release(d Delivery)
	// Replay makes deliveries due at once, with all attempts before them, whatever became of them; those that do not exist are made.
	// It returns how many it took; those under way just now are not touched.
	Replay(ctx context.Context, now time.Time, jobs ...Job) (int, error)
}

// Job is one event for one endpoint. The pair is unique: enqueued twice, it is delivered once.
type Job struct {
	Tenant   string
	Endpoint edge.ID
	Seq      uint64 // of the event
	Event    edge.ID
	Type     string // of the event, without prefix and version
	Key      string // deliveries with the same key keep their order at an endpoint with order per_key
	At       time.Time
}

// Order is what an endpoint may rely on.
type Order string

// The orders. Strict delivers one event at a time and never skips one; per_key does so per subject, and goes on after a dead letter.
const (
	OrderNone   Order = "none"
	OrderPerKey Order = "per_key"
	OrderStrict Order = "strict"
)

// Values lists the orders for the schema.
func (Order) Values() []string {
	return []string{string(OrderNone), string(OrderPerKey), string(OrderStrict)}
}

// DeliveryStatus is where a delivery stands.
type DeliveryStatus string

// The states of a delivery.
const (
	Pending   DeliveryStatus = "pending"
	Delivered DeliveryStatus = "delivered"
	Dead      DeliveryStatus = "dead"
)

// Values lists the states for the schema.
func (DeliveryStatus) Values() []string {
	return []string{string(Pending), string(Delivered), string(Dead)}
}

// Delivery is one event at one endpoint: what became of it so far.
type Delivery struct {
	ID         edge.ID        `json:"id" doc:"Identifier of the delivery."`
	Endpoint   edge.ID        `json:"endpoint_id"`
	Event      edge.ID        `json:"event_id" doc:"The webhook-id of every attempt."`
	Type       string         `json:"event_type" check:"max=128"`
	Status     DeliveryStatus `json:"status"`
	Attempts   int            `json:"attempts" doc:"Since it was enqueued or last replayed."`
	Replays    int            `json:"replays,omitempty" doc:"How often it was replayed."`
	EnqueuedAt time.Time      `json:"enqueued_at"`
	NextAt     *time.Time     `json:"next_at,omitempty" doc:"When the next attempt is due; absent when it is due at once or nothing is left to do."`
	DoneAt     *time.Time     `json:"done_at,omitempty"`
	Log        []Attempt      `json:"log,omitempty" doc:"The latest attempts, oldest first."`

	Tenant string `json:"-"`
	Seq    uint64 `json:"-"`
	Key    string `json:"-"`

	row []byte // its row in the queue while it is leased
}

// Attempt is one try to deliver.
type Attempt struct {
	At       time.Time `json:"at"`
	Code     int       `json:"code,omitempty" doc:"HTTP status; absent when there was no answer."`
	Outcome  string    `json:"outcome" check:"max=64" doc:"delivered, or the reason code of the failure."`
	Took     int64     `json:"took_ms" doc:"Milliseconds from the first octet sent to the end of the answer."`
	BodyHash string    `json:"body_sha256" check:"max=64" doc:"SHA-256 of the body sent."`
	Answer   []byte    `json:"-"` // first octets of the answer's body
}

// MaxLog is how many attempts a delivery keeps.
const MaxLog = 20

package relay

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"wispgate/edge"
)

// EndpointStatus says whether an endpoint is called.
type EndpointStatus string

// The states of an endpoint. Events for a disabled one wait, and flow once it is enabled again.
const (
	Active   EndpointStatus = "active"
	Disabled EndpointStatus = "disabled"
)

// Values lists the states for the schema.
func (EndpointStatus) Values() []string { return []string{string(Active), string(Disabled)} }

// Why an endpoint is disabled.
const (
	DisabledByOperator = "operator"
	DisabledGone       = "gone"    // it answered 410
	DisabledFailing    = "failing" // five days without a success
)

// Endpoint is where a tenant's events are delivered.
type Endpoint struct {
	edge.Meta
	Name           string         `json:"name" check:"min=1 max=128" doc:"What people call it." example:"Accounting"`
	URL            string         `json:"url" check:"min=1 max=2048" doc:"Where events are posted." example:"https://hooks.example.net/wispgate"`
	Description    string         `json:"description,omitempty" check:"max=512"`
	Events         []string       `json:"events" check:"min=1 max=64 item.max=128" doc:"Event names, prefixes ending in .*, or * for all."`
	Order          Order          `json:"order" doc:"none, per_key (per subject) or strict (one at a time, none skipped)."`
	Status         EndpointStatus `json:"status"`
	DisabledReason string         `json:"disabled_reason,omitempty" check:"max=64" doc:"operator, gone (it answered 410) or failing (five days without a success)."`
	DisabledAt     *time.Time     `json:"disabled_at,omitempty"`
	EnabledAt      time.Time      `json:"enabled_at" doc:"When it was created or last enabled."`
	Rate           int            `json:"rate_per_second" check:"min=1 max=1000" doc:"Most attempts per second."`
	Concurrency    int            `json:"concurrency" check:"min=1 max=64" doc:"Most attempts at the same time; 1 with order strict."`
	Timeout        int            `json:"timeout_seconds" check:"min=1 max=60" doc:"How long one attempt may take."`
	Secrets        []SecretInfo   `json:"secrets" check:"max=8" doc:"The signing secrets in use, newest first; never their values."`
}

// SecretInfo is what may be shown of a signing secret.
type SecretInfo struct {
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"When it stops signing; absent for the newest."`
}

// secretRecord is an endpoint's companion: its signing secrets, sealed.
type secretRecord struct {
	edge.Meta
	Secrets []sealedSecret `json:"secrets"`
}

type sealedSecret struct {
	Sealed    string     `json:"sealed"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

const (
	maxEndpoints = 100 // per tenant: an event and its rows at every endpoint fit one transaction
	maxSecrets   = 8
	defaultRate  = 100
	defaultWidth = 8
	defaultWait  = 15 // seconds
	secretField  = "secret"
	secretPrefix = "whs"
)

var endpoints = &edge.Table[Endpoint]{
	Name: "relay.endpoint", Prefix: "whe", Meta: func(e *Endpoint) *edge.Meta { return &e.Meta },
	Indexes: []edge.Index[Endpoint]{
		{Name: "name", Unique: true, Keys: func(e *Endpoint) []string { return []string{strings.ToLower(e.Name)} }},
		{Name: "status", Keys: func(e *Endpoint) []string { return []string{string(e.Status)} }},
	},
}

var secrets = &edge.Table[secretRecord]{
	Name: "relay.endpoint_secret", Prefix: secretPrefix, Private: true, Meta: func(s *secretRecord) *edge.Meta { return &s.Meta },
}

// Events of endpoints.
type (
	// EndpointCreated says that an endpoint was added.
	EndpointCreated struct {
		ID   edge.ID `json:"id"`
		Name string  `json:"name" check:"max=128"`
	}
	// EndpointUpdated says that an endpoint's settings changed.
	EndpointUpdated struct {
		ID edge.ID `json:"id"`
	}
	// EndpointDeleted says that an endpoint and what waited for it were removed.
	EndpointDeleted struct {
		ID   edge.ID `json:"id"`
		Name string  `json:"name" check:"max=128"`
	}
	// EndpointSecretRotated says that an endpoint got a new signing secret.
	EndpointSecretRotated struct {
		ID           edge.ID    `json:"id"`
		OldExpiresAt *time.Time `json:"old_expires_at,omitempty"`
	}
	// EndpointDisabled says that an endpoint is not called any more.
	EndpointDisabled struct {
		ID     edge.ID `json:"id"`
		Reason string  `json:"reason" check:"max=64"`
	}
	// EndpointEnabled says that an endpoint is called again.
	EndpointEnabled struct {
		ID edge.ID `json:"id"`
	}
	// EndpointFailing is a notice on the way to being disabled.
	EndpointFailing struct {
		ID    edge.ID   `json:"id"`
		Since time.Time `json:"since"`
	}
)

// EventName implements edge.Event.
func (EndpointCreated) EventName() string       { return "relay.endpoint.created" }
func (EndpointUpdated) EventName() string       { return "relay.endpoint.updated" }
func (EndpointDeleted) EventName() string       { return "relay.endpoint.deleted" }
func (EndpointSecretRotated) EventName() string { return "relay.endpoint.secret_rotated" }
func (EndpointDisabled) EventName() string      { return "relay.endpoint.disabled" }
func (EndpointEnabled) EventName() string       { return "relay.endpoint.enabled" }
func (EndpointFailing) EventName() string       { return "relay.endpoint.failing" }

// Subject implements edge.Event.
func (e EndpointCreated) Subject() edge.ID       { return e.ID }
func (e EndpointUpdated) Subject() edge.ID       { return e.ID }
func (e EndpointDeleted) Subject() edge.ID       { return e.ID }
func (e EndpointSecretRotated) Subject() edge.ID { return e.ID }
func (e EndpointDisabled) Subject() edge.ID      { return e.ID }
func (e EndpointEnabled) Subject() edge.ID       { return e.ID }
func (e EndpointFailing) Subject() edge.ID       { return e.ID }

// Reasons of the endpoint commands.
var (
	reasonEvents = edge.Reason{Code: "event_filter_invalid", Says: "An event filter cannot match anything", Fix: "Use event names such as billing.payment.recorded, prefixes such as billing.*, or *"}
	reasonMany   = edge.Reason{Code: "too_many_endpoints", Says: fmt.Sprintf("A tenant has at most %d endpoints", maxEndpoints), Fix: "Delete one that is not needed, or let one receiver fan out"}
	reasonState  = edge.Reason{Code: "endpoint_state", Says: "The endpoint is in that state already", Fix: "Read it again; nothing needs to be done"}
)

var filterForm = regexp.MustCompile(`^(\*|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*(\.\*)?)$`)

func (e *Endpoint) check() error {
	for i, f := range e.Events {
		if !filterForm.MatchString(f) {
			return reasonEvents.Error(edge.Invalid, edge.Field(fmt.Sprintf("/events/%d", i), "is not a filter", reasonEvents.Fix))
		}
	}
	_, err := parseURL(e.URL)
	return err
}

// wants reports whether an event with the name is for the endpoint.
func (e *Endpoint) wants(event string) bool { return matches(e.Events, event) }

func matches(filters []string, event string) bool {
	return slices.ContainsFunc(filters, func(f string) bool {
		if prefix, ok := strings.CutSuffix(f, "*"); ok {
			return strings.HasPrefix(event, prefix)
		}
		return f == event
	})
}

// width is how many attempts may run at the same time.
func (e *Endpoint) width() int {
	if e.Order == OrderStrict {
		return 1
	}
	return max(e.Concurrency, 1)
}

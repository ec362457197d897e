package relay

import (
	"slices"
	"time"

	"wispgate/edge"
	"wispgate/sync/wire"
)

// EndpointInput makes an endpoint.
type EndpointInput struct {
	edge.Common
	Name        string      `json:"name" check:"min=1 max=128" doc:"What people call it; unique per tenant." example:"Accounting"`
	URL         string      `json:"url" check:"min=1 max=2048" doc:"Where events are posted: https, public host." example:"https://hooks.example.net/wispgate"`
	Description string      `json:"description,omitempty" check:"max=512"`
	Events      []string    `json:"events" check:"min=1 max=64 item.max=128" doc:"Event names, prefixes ending in .*, or * for all." example:"billing.*"`
	Order       Order       `json:"order,omitempty" doc:"none (default), per_key (per subject) or strict."`
	Rate        int         `json:"rate_per_second,omitempty" check:"min=1 max=1000" doc:"Most attempts per second, 100 unless given."`
	Concurrency int         `json:"concurrency,omitempty" check:"min=1 max=64" doc:"Most attempts at the same time, 8 unless given."`
	Timeout     int         `json:"timeout_seconds,omitempty" check:"min=1 max=60" doc:"How long one attempt may take, 15 unless given."`
	Secret      edge.Secret `json:"secret,omitempty" check:"max=128" doc:"Signing secret whsec_…; left out, one is made and shown once."`
	Sealed      string      `json:"sealed_secret,omitempty" check:"max=512" doc:"Filled by the node; leave it out."`
}

// createEndpoint makes the command; a nil relay only declares it.
func (r *Relay) createEndpoint() edge.Command[EndpointInput, Endpoint] {
	return edge.Command[EndpointInput, Endpoint]{
		Name: "relay.endpoint.create", Scope: "relay:write", Class: edge.Admin, Summary: "Add a webhook endpoint; its signing secret is shown once",
		Prepare: func(p edge.Prep, in *EndpointInput) error {
			if err := r.checkURL(in.URL); err != nil {
				return err
			}
			return sealSecret(p, p.FirstID(endpoints.Prefix), &in.Secret, &in.Sealed)
		},
		Handle: func(tx edge.Tx, in EndpointInput) (Endpoint, error) {
			e := Endpoint{
				Meta: in.Common.Meta(tx.NewID(endpoints.Prefix)), Name: in.Name, URL: in.URL, Description: in.Description, Events: in.Events,
				Order: in.Order, Status: Active, EnabledAt: tx.Now(), Rate: in.Rate, Concurrency: in.Concurrency, Timeout: in.Timeout,
				Secrets: []SecretInfo{{CreatedAt: tx.Now()}},
			}
			e.defaults()
			if err := e.check(); err != nil {
				return Endpoint{}, err
			}
			n := 0
			for _, err := range endpoints.Range(tx, "", "") {
				if n++; err != nil {
					return Endpoint{}, err
				}
				if n >= maxEndpoints {
					return Endpoint{}, reasonMany.Error(edge.Conflict)
				}
			}
			s := secretRecord{Meta: edge.Meta{ID: e.ID.With(secretPrefix)}, Secrets: []sealedSecret{{Sealed: in.Sealed, CreatedAt: tx.Now()}}}
			if err := endpoints.Put(tx, &e); err != nil {
				return Endpoint{}, err
			}
			if err := secrets.Put(tx, &s); err != nil {
				return Endpoint{}, err
			}
			tx.Emit(EndpointCreated{ID: e.ID, Name: e.Name})
			return e, nil
		},
	}
}

func (e *Endpoint) defaults() {
	if e.Order == "" {
		e.Order = OrderNone
	}
	if e.Rate == 0 {
		e.Rate = defaultRate
	}
	if e.Concurrency == 0 {
		e.Concurrency = defaultWidth
	}
	if e.Timeout == 0 {
		e.Timeout = defaultWait
	}
}

// checkURL is the guard's early word; without a relay only the form is checked, by the handler.
func (r *Relay) checkURL(url string) error {
	if r == nil {
		return nil
	}
	return r.guard.checkURL(url)
}

// sealSecret seals the secret that was given, or mints one and shows it once.
func sealSecret(p edge.Prep, endpoint edge.ID, plain *edge.Secret, sealed *string) (err error) {
	if *plain == "" {
		*plain = wire.FormatSecret(p.Random(32))
		p.Once("secret", *plain)
	} else if _, err := wire.ParseSecret(*plain); err != nil {
		return err
	}
	*sealed, err = p.Seal(endpoint.With(secretPrefix), secretField, *plain)
	*plain = ""
	return err
}

// EndpointChange changes what is present.
type EndpointChange struct {
	edge.CommonChange
	ID          edge.ID   `json:"id" check:"prefix=whe"`
	Name        *string   `json:"name,omitempty" check:"min=1 max=128"`
	URL         *string   `json:"url,omitempty" check:"min=1 max=2048"`
	Description *string   `json:"description,omitempty" check:"max=512"`
	Events      *[]string `json:"events,omitempty" check:"min=1 max=64 item.max=128"`
	Order       *Order    `json:"order,omitempty"`
	Rate        *int      `json:"rate_per_second,omitempty" check:"min=1 max=1000"`
	Concurrency *int      `json:"concurrency,omitempty" check:"min=1 max=64"`
	Timeout     *int      `json:"timeout_seconds,omitempty" check:"min=1 max=60"`
}

func (r *Relay) updateEndpoint() edge.Command[EndpointChange, Endpoint] {
	return edge.Command[EndpointChange, Endpoint]{
		Name: "relay.endpoint.update", Scope: "relay:write", Class: edge.Admin, Summary: "Change an endpoint's settings",
		Record: func(in EndpointChange) edge.ID { return in.ID },
		Prepare: func(_ edge.Prep, in *EndpointChange) error {
			if in.URL == nil {
				return nil
			}
			return r.checkURL(*in.URL)
		},
		Handle: func(tx edge.Tx, in EndpointChange) (Endpoint, error) {
			e, err := endpoints.Get(tx, in.ID)
			if err != nil {
				return Endpoint{}, err
			}
			in.Apply(&e.Meta)
			edge.Set(&e.Name, in.Name)
			edge.Set(&e.URL, in.URL)
			edge.Set(&e.Description, in.Description)
			edge.Set(&e.Events, in.Events)
			edge.Set(&e.Order, in.Order)
			edge.Set(&e.Rate, in.Rate)
			edge.Set(&e.Concurrency, in.Concurrency)
			edge.Set(&e.Timeout, in.Timeout)
			if err := e.check(); err != nil {
				return Endpoint{}, err
			}
			if err := endpoints.Put(tx, &e); err != nil {
				return Endpoint{}, err
			}
			tx.Emit(EndpointUpdated{ID: e.ID})
			return e, nil
		},
	}
}

var deleteEndpoint = edge.Command[IDInput, edge.None]{
	Name: "relay.endpoint.delete", Scope: "relay:write", Class: edge.Admin, Summary: "Remove an endpoint and everything that waits for it",
	Record: func(in IDInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in IDInput) (edge.None, error) {
		e, err := endpoints.Get(tx, in.ID)
		if err != nil {
			return edge.None{}, err
		}
		if err := secrets.Delete(tx, e.ID.With(secretPrefix)); err != nil {
			return edge.None{}, err
		}
		tx.Emit(EndpointDeleted{ID: e.ID, Name: e.Name})
		return edge.None{}, endpoints.Delete(tx, e.ID)
	},
}

// RotateInput asks for a new signing secret.
type RotateInput struct {
	ID      edge.ID     `json:"id" check:"prefix=whe"`
	Overlap *int        `json:"overlap_hours,omitempty" check:"min=0 max=168" doc:"How long the old secret goes on signing beside the new one, 24 unless given."`
	Secret  edge.Secret `json:"secret,omitempty" check:"max=128" doc:"Signing secret whsec_…; left out, one is made and shown once."`
	Sealed  string      `json:"sealed_secret,omitempty" check:"max=512" doc:"Filled by the node; leave it out."`
}

var rotateSecret = edge.Command[RotateInput, Endpoint]{
	Name: "relay.endpoint.rotate_secret", Scope: "relay:write", Class: edge.Admin, Summary: "Give an endpoint a new signing secret; it is shown once",
	Record:  func(in RotateInput) edge.ID { return in.ID },
	Prepare: func(p edge.Prep, in *RotateInput) error { return sealSecret(p, in.ID, &in.Secret, &in.Sealed) },
	Handle: func(tx edge.Tx, in RotateInput) (Endpoint, error) {
		e, err := endpoints.Get(tx, in.ID)
		if err != nil {
			return Endpoint{}, err
		}
		s, err := secrets.Get(tx, e.ID.With(secretPrefix))
		if err != nil {
			return Endpoint{}, err
		}
		hours := 24
		edge.Set(&hours, in.Overlap)
		now := tx.Now()
		ends := now.Add(time.Duration(hours) * time.Hour)
		s.rotate(sealedSecret{Sealed: in.Sealed, CreatedAt: now}, now, ends)
		e.Secrets = nil
		for _, one := range s.Secrets {
			e.Secrets = append(e.Secrets, SecretInfo{CreatedAt: one.CreatedAt, ExpiresAt: one.ExpiresAt})
		}
		if err := secrets.Put(tx, &s); err != nil {
			return Endpoint{}, err
		}
		if err := endpoints.Put(tx, &e); err != nil {
			return Endpoint{}, err
		}
		tx.Emit(EndpointSecretRotated{ID: e.ID, OldExpiresAt: &ends})
		return e, nil
	},
}

// rotate puts next in front, lets the others end at the latest when ends comes, and forgets those that have ended.
func (s *secretRecord) rotate(next sealedSecret, now, ends time.Time) {
	list := []sealedSecret{next}
	for _, old := range s.Secrets {
		if old.ExpiresAt == nil || old.ExpiresAt.After(ends) {
			old.ExpiresAt = &ends
		}
		if old.ExpiresAt.After(now) && len(list) < maxSecrets {
			list = append(list, old)
		}
	}
	s.Secrets = slices.Clip(list)
}

// DisableInput stops calls to an endpoint.
type DisableInput struct {
	ID     edge.ID `json:"id" check:"prefix=whe"`
	Reason string  `json:"reason,omitempty" check:"enum=operator|gone|failing" doc:"operator unless given; the relay itself says gone or failing."`
}

var disableEndpoint = edge.Command[DisableInput, Endpoint]{
	Name: "relay.endpoint.disable", Scope: "relay:write", Class: edge.Write, Summary: "Stop calling an endpoint; its events wait",
	Record: func(in DisableInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in DisableInput) (Endpoint, error) {
		e, err := endpoints.Get(tx, in.ID)
		if err != nil {
			return Endpoint{}, err
		}
		if e.Status == Disabled {
			return Endpoint{}, reasonState.Error(edge.Conflict)
		}
		if in.Reason == "" {
			in.Reason = DisabledByOperator
		}
		e.Status, e.DisabledReason, e.DisabledAt = Disabled, in.Reason, new(tx.Now())
		if err := endpoints.Put(tx, &e); err != nil {
			return Endpoint{}, err
		}
		tx.Emit(EndpointDisabled{ID: e.ID, Reason: in.Reason})
		return e, nil
	},
}

var enableEndpoint = edge.Command[IDInput, Endpoint]{
	Name: "relay.endpoint.enable", Scope: "relay:write", Class: edge.Write, Summary: "Call an endpoint again; what waited flows",
	Record: func(in IDInput) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in IDInput) (Endpoint, error) {
		e, err := endpoints.Get(tx, in.ID)
		if err != nil {
			return Endpoint{}, err
		}
		if e.Status == Active {
			return Endpoint{}, reasonState.Error(edge.Conflict)
		}
		e.Status, e.DisabledReason, e.DisabledAt, e.EnabledAt = Active, "", nil, tx.Now()
		if err := endpoints.Put(tx, &e); err != nil {
			return Endpoint{}, err
		}
		tx.Emit(EndpointEnabled{ID: e.ID})
		return e, nil
	},
}

// FailingInput is a notice.
type FailingInput struct {
	ID    edge.ID   `json:"id" check:"prefix=whe"`
	Since time.Time `json:"since"`
}

// noticeFailing emits the notice that an endpoint has been failing for long. It has no route: only the relay uses it.
var noticeFailing = edge.Command[FailingInput, edge.None]{
	Name: "relay.endpoint.report_failing", Scope: "relay:write", Class: edge.Write, Summary: "Note that an endpoint keeps failing (the relay's worker does)",
	Handle: func(tx edge.Tx, in FailingInput) (edge.None, error) {
		if _, err := endpoints.Get(tx, in.ID); err != nil {
			return edge.None{}, err
		}
		tx.Emit(EndpointFailing{ID: in.ID, Since: in.Since.UTC()})
		return edge.None{}, nil
	},
}

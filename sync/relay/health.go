package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wispgate/edge"
)

// report is what a runner wants to be said about its endpoint: that it be disabled, or that it keeps failing.
type report struct {
	tenant   string
	endpoint edge.ID
	disable  string // reason; "" for a notice
	version  uint64 // of the endpoint
	since    time.Time
	notice   int
}

// report hands a report to the worker. When many wait it is dropped: a disable is said again, a notice is one of several.
func (r *Relay) report(p report) {
	select {
	case r.reports <- p:
	default:
		r.count("wispgate_relay_reports_dropped_total", 1)
	}
}

// runReports is the worker that turns reports into commands, and so into events.
func (r *Relay) runReports(ctx context.Context, x edge.Executor) error {
	for {
		select {
		case p := <-r.reports:
			if err := p.execute(ctx, x); err != nil && ctx.Err() == nil {
				return fmt.Errorf("report on endpoint %s: %w", p.endpoint, err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *report) execute(ctx context.Context, x edge.Executor) error {
	actor := edge.SystemActor(p.tenant, "relay")
	var err error
	if p.disable != "" {
		key := fmt.Sprintf("relay-disable:%s:%d", p.endpoint, p.version)
		_, err = edge.Do(ctx, x, actor, key, disableEndpoint.Name, DisableInput{ID: p.endpoint, Reason: p.disable})
	} else {
		key := fmt.Sprintf("relay-failing:%s:%d:%d", p.endpoint, p.since.Unix(), p.notice)
		_, err = edge.Do(ctx, x, actor, key, noticeFailing.Name, FailingInput{ID: p.endpoint, Since: p.since})
	}
	if e, ok := errors.AsType[*edge.Error](err); ok && (e.Kind == edge.NotFound || e.Kind == edge.Conflict) {
		return nil // deleted or disabled meanwhile
	}
	return err
}

// HealthState is how an endpoint does.
type HealthState string

// The states of health.
const (
	HealthOK       HealthState = "ok"
	HealthFailing  HealthState = "failing"  // the last attempts failed
	HealthSlowed   HealthState = "slowed"   // it asked for a pause
	HealthBroken   HealthState = "broken"   // too many failures: a probe follows
	HealthDisabled HealthState = "disabled" // not called
)

// Values lists the states for the schema.
func (HealthState) Values() []string {
	return []string{string(HealthOK), string(HealthFailing), string(HealthSlowed), string(HealthBroken), string(HealthDisabled)}
}

// EndpointHealth is how an endpoint does at this moment.
type EndpointHealth struct {
	ID           edge.ID     `json:"id"`
	State        HealthState `json:"state"`
	Depth        int         `json:"queued" doc:"Deliveries that wait or are under way."`
	UnderWay     int         `json:"under_way"`
	ResumesAt    *time.Time  `json:"resumes_at,omitempty"`
	FailingSince *time.Time  `json:"failing_since,omitempty" doc:"First failure since the last success."`
	LastSuccess  *time.Time  `json:"last_success,omitempty"`
	LastFailure  *time.Time  `json:"last_failure,omitempty"`
	LastOutcome  string      `json:"last_outcome,omitempty" check:"max=64"`
}

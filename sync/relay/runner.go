package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
)

// runner decides for one endpoint when which delivery is attempted. Everything but shown is its own goroutine's.
type runner struct {
	d      *deliverer
	tenant string
	id     edge.ID
	log    *slog.Logger
	poke   chan struct{}
	ended  chan outcome

	breaker  breaker
	bucket   bucket
	slow     time.Time // the endpoint asked for a pause, or the store could not be used
	underWay int
	health   Health
	version  uint64 // of the endpoint that halted it
	halted   bool   // waits for the endpoint to be changed: it has answered 410 or failed for days
	reported time.Time

	mu    sync.Mutex
	shown EndpointHealth
}

// outcome is an attempt that has ended.
type outcome struct {
	result
	lost error // the outcome could not be recorded; the attempt will be made again
}

// Health is what is remembered of an endpoint over restarts.
type Health struct {
	FailingSince time.Time `json:"failing_since,omitzero"` // first failure since the last success
	LastSuccess  time.Time `json:"last_success,omitzero"`
	LastFailure  time.Time `json:"last_failure,omitzero"`
	LastOutcome  string    `json:"last_outcome,omitempty"`
	Notices      int       `json:"notices,omitempty"` // given since FailingSince
}

func newRunner(d *deliverer, tenant string, id edge.ID) *runner {
	return &runner{
		d: d, tenant: tenant, id: id, log: d.log.With("tenant", tenant, "endpoint", id), poke: make(chan struct{}, 1),
		ended: make(chan outcome, 64),
	}
}

func (u *runner) run(ctx, attempt context.Context) {
	if err := u.load(); err != nil {
		u.log.Warn("endpoint health is not known", "error", err)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var next due
		stopping := ctx.Err() != nil // asked once: the wait below must agree with what follows here
		if !stopping {
			t := u.d.r.reg.get(u.tenant, u.id)
			if t == nil {
				if u.underWay == 0 && u.remove(ctx) {
					if u.d.ended(u) {
						return
					}
					continue
				}
				next.sooner(u.d.r.now().Add(time.Second))
			} else {
				next = u.work(ctx, attempt, t)
			}
			u.show(t)
		} else if u.underWay == 0 {
			return
		}
		wait := time.Hour
		if !next.at.IsZero() {
			wait = max(next.at.Sub(u.d.r.now()), 0)
		}
		timer.Reset(wait)
		stop := ctx.Done()
		if stopping {
			stop = nil // only attempts under way are waited for
		}
		select {
		case <-u.poke:
		case o := <-u.ended:
			u.judge(ctx, o)
		case <-timer.C:
		case <-stop:
		}
	}
}

// remove drops what is left of a deleted endpoint.
func (u *runner) remove(ctx context.Context) bool {
	for ctx.Err() == nil {
		done, err := u.d.r.queue.drop(ctx, u.tenant, u.id, 500)
		if err != nil {
			u.log.Warn("deleted endpoint's deliveries are not removed yet", "error", err)
			return false
		}
		if done {
			return true
		}
	}
	return false
}

// work starts what may be started and says when to look again.
func (u *runner) work(ctx, attempt context.Context, t *target) (next due) {
	now := u.d.r.now()
	if u.halted && t.Version != u.version {
		u.halted = false
		u.breaker, u.slow = breaker{}, time.Time{}
	}
	if t.Status != Active {
		return next
	}
	if u.halted {
		if now.Sub(u.reported) > time.Minute { // the report may have been lost
			u.report(t, now)
		}
		next.sooner(u.reported.Add(time.Minute))
		return next
	}
	if now.Before(u.slow) {
		next.sooner(u.slow)
		return next
	}
	free := u.breaker.allow(now, t.width()-u.underWay, u.underWay)
	if free <= 0 {
		if u.breaker.open {
			next.sooner(u.breaker.until)
		}
		return next
	}
	burst := max(t.Rate, t.width())
	got, more := u.bucket.take(now, t.Rate, burst, free)
	next.sooner(more)
	if got == 0 {
		return next
	}
	leased, later, err := u.d.r.queue.Lease(u.tenant, u.id, t.Order, got, now)
	if err != nil {
		u.log.Error("queue cannot be read", "error", err)
		next.sooner(now.Add(5 * time.Second))
	}
	next.sooner(later)
	u.bucket.giveBack(t.Rate, got-len(leased))
	if len(leased) < got { // nothing more is ready: the bucket need not wake us
		next = due{}
		next.sooner(later)
	}
	for _, dl := range leased {
		u.begin(ctx, attempt, t, dl)
	}
	return next
}

// begin starts one attempt as soon as there is room among all endpoints' attempts.
func (u *runner) begin(ctx, attempt context.Context, t *target, dl Delivery) {
	u.underWay++
	u.d.wg.Go(func() {
		select {
		case u.d.slots <- struct{}{}:
			defer func() { <-u.d.slots }()
		case <-ctx.Done():
			u.d.r.queue.Release(dl)
			u.ended <- outcome{lost: context.Canceled}
			return
		}
		u.ended <- u.try(attempt, t, dl)
	})
}

// try makes one attempt and records what became of it.
func (u *runner) try(ctx context.Context, t *target, dl Delivery) (o outcome) {
	body, found, err := u.d.r.body(dl)
	switch {
	case err != nil:
		u.d.r.queue.Release(dl)
		return outcome{lost: err}
	case !found: // removed by retention
		o.Outcome = outcomeExpired
		o.lost = u.d.r.queue.expire(context.WithoutCancel(ctx), dl)
		u.d.r.count("wispgate_relay_deliveries_expired_total", 1)
		u.log.Warn("delivery is given up: its event is older than events are kept", "delivery", dl.ID, "event", dl.Event)
		return o
	}
	keys, err := u.d.r.keys(u.tenant, t)
	if err != nil {
		o.Attempt = Attempt{At: u.d.r.now().UTC(), Outcome: outcomeSecret}
		o.cause = err
	} else {
		o.result = u.d.r.sender.send(ctx, t.URL, string(dl.Event), body, keys, time.Duration(t.Timeout)*time.Second)
	}
	if ctx.Err() != nil && !o.ok() {
		u.d.r.queue.Release(dl)
		o.lost = context.Canceled
		return o
	}
	o.lost = u.record(context.WithoutCancel(ctx), t, dl, o.result)
	return o
}

func (u *runner) record(ctx context.Context, t *target, dl Delivery, res result) error {
	q := u.d.r.queue
	if res.ok() {
		return q.Ack(ctx, dl, res.Attempt)
	}
	n := dl.Attempts + 1
	if res.Code == http.StatusGone { // the endpoint is disabled; the delivery waits for what its owner decides
		n = min(n, len(u.d.r.cfg.Schedule))
	}
	wait, again := nextAttempt(u.d.r.cfg.Schedule, n, t.Order, res.retryAfter)
	if !again {
		u.d.r.count("wispgate_relay_deliveries_dead_total", 1)
		u.log.Warn("delivery is a dead letter", "delivery", dl.ID, "event", dl.Event, "outcome", res.Outcome, "error", res.cause)
		return q.Dead(ctx, dl, res.Attempt)
	}
	return q.Nack(ctx, dl, res.Attempt, u.d.r.now().Add(wait))
}

// judge draws the conclusions for the endpoint.
func (u *runner) judge(ctx context.Context, o outcome) {
	u.underWay--
	now := u.d.r.now()
	if o.lost != nil {
		if !errors.Is(o.lost, context.Canceled) {
			u.log.Warn("delivery outcome is not recorded, it is tried again", "error", o.lost)
			u.slow = now.Add(5 * time.Second)
		}
		return
	}
	if o.Outcome == outcomeExpired {
		return
	}
	u.d.r.attempted(o.result)
	before := u.health
	u.health.LastOutcome = o.Outcome
	if o.ok() {
		u.breaker.succeeded()
		u.health.FailingSince, u.health.Notices, u.health.LastSuccess = time.Time{}, 0, now.UTC()
	} else {
		u.log.Debug("delivery failed", "outcome", o.Outcome, "error", o.cause)
		u.health.LastFailure = now.UTC()
		if u.health.FailingSince.IsZero() {
			u.health.FailingSince = now.UTC()
		}
		u.failed(now, o)
	}
	if u.health.worthSaving(before) {
		u.save(ctx)
	}
}

func (u *runner) failed(now time.Time, o outcome) {
	u.breaker.failed(now)
	if o.Code == http.StatusTooManyRequests || o.Code == http.StatusServiceUnavailable {
		pause := max(o.retryAfter, spread(u.d.r.cfg.Schedule[0]))
		if until := now.Add(pause); until.After(u.slow) {
			u.slow = until
		}
	}
	t := u.d.r.reg.get(u.tenant, u.id)
	if t == nil || u.halted {
		return
	}
	age := now.Sub(u.health.since(t))
	switch {
	case o.Code == http.StatusGone || age >= disableAfter:
		u.halted, u.version = true, t.Version
		u.health.LastOutcome = o.Outcome
		u.report(t, now)
	case u.health.Notices < len(noticeAfter) && age >= noticeAfter[u.health.Notices]:
		u.health.Notices++
		u.d.r.report(report{tenant: u.tenant, endpoint: u.id, since: u.health.since(t), notice: u.health.Notices})
	}
}

// since is when the failure began that counts: one from before the endpoint was last enabled does not.
func (h *Health) since(t *target) time.Time {
	if h.FailingSince.Before(t.EnabledAt) {
		return t.EnabledAt
	}
	return h.FailingSince
}

// report asks for the endpoint to be disabled.
func (u *runner) report(t *target, now time.Time) {
	u.reported = now
	why := DisabledFailing
	if u.health.LastOutcome == fmt.Sprintf("http_%d", http.StatusGone) {
		why = DisabledGone
	}
	u.d.r.report(report{tenant: u.tenant, endpoint: u.id, disable: why, version: t.Version})
}

// worthSaving: a change of fortune at once, a mere time at most once a minute.
func (h *Health) worthSaving(was Health) bool {
	return h.FailingSince != was.FailingSince || h.Notices != was.Notices || h.LastSuccess.Sub(was.LastSuccess) > time.Minute
}

func (u *runner) load() error {
	sn := u.d.r.cfg.Store.Snapshot()
	defer sn.Close()
	raw, err := sn.Get(healthKey(u.tenant, u.id))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, &u.health)
}

func (u *runner) save(ctx context.Context) {
	raw, err := json.Marshal(u.health)
	if err == nil {
		w := &writes{reserved: true}
		w.Put(healthKey(u.tenant, u.id), raw)
		err = u.d.r.committer.do(ctx, w)
	}
	if err != nil && ctx.Err() == nil {
		u.log.Warn("endpoint health is not saved", "error", err)
	}
}

func (u *runner) show(t *target) {
	now := u.d.r.now()
	h := EndpointHealth{
		ID: u.id, Depth: u.d.r.queue.depth(u.id), UnderWay: u.underWay, LastOutcome: u.health.LastOutcome,
		FailingSince: optional(u.health.FailingSince), LastSuccess: optional(u.health.LastSuccess), LastFailure: optional(u.health.LastFailure),
	}
	switch {
	case t == nil:
		return
	case t.Status != Active || u.halted:
		h.State = HealthDisabled
	case u.breaker.open:
		h.State = HealthBroken
		h.ResumesAt = optional(u.breaker.until.UTC())
	case now.Before(u.slow):
		h.State = HealthSlowed
		h.ResumesAt = optional(u.slow.UTC())
	case !u.health.FailingSince.IsZero():
		h.State = HealthFailing
	default:
		h.State = HealthOK
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.shown = h
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

package relay

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"wispgate/edge"
)

// deliverer runs one goroutine per endpoint that decides, and up to a bounded number of attempts at the same time over all endpoints.
type deliverer struct {
	r     *Relay
	log   *slog.Logger
	slots chan struct{} // attempts under way

	mu      sync.Mutex
	runners map[edge.ID]*runner
	spawn   func(*runner) // nil while nothing is delivered: before start and once stop has begun
	abort   context.CancelFunc
	kill    context.CancelFunc // breaks off attempts under way, which outlive abort by the time they are given
	wg      sync.WaitGroup
}

func newDeliverer(r *Relay, workers int) *deliverer {
	return &deliverer{r: r, log: r.log, slots: make(chan struct{}, workers), runners: map[edge.ID]*runner{}}
}

// start begins with the endpoints that there are.
func (d *deliverer) start(ctx context.Context) {
	run, abort := context.WithCancel(ctx)
	attempt, kill := context.WithCancel(ctx)
	d.mu.Lock()
	d.abort, d.kill = abort, kill
	d.spawn = func(u *runner) { d.wg.Go(func() { u.run(run, attempt) }) }
	d.mu.Unlock()
	for id, tenant := range d.r.reg.all() {
		d.wake(tenant, id)
	}
	for id, tenant := range d.r.queue.endpoints() {
		if d.r.reg.get(tenant, id) == nil { // deleted, and the relay stopped before it was done
			d.wake(tenant, id)
		}
	}
}

// stop lets attempts under way end until ctx does, then breaks them off: they are made again after the next start.
func (d *deliverer) stop(ctx context.Context) {
	d.mu.Lock()
	abort, kill := d.abort, d.kill
	d.spawn = nil
	d.mu.Unlock()
	if abort == nil {
		return
	}
	abort()
	done := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		kill()
		<-done
	}
	kill()
}

// wake tells an endpoint's goroutine to look again, starting one where there is none.
func (d *deliverer) wake(tenant string, id edge.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.spawn == nil {
		return
	}
	run := d.runners[id]
	if run == nil {
		run = newRunner(d, tenant, id)
		d.runners[id] = run
		d.spawn(run)
	}
	select {
	case run.poke <- struct{}{}:
	default:
	}
}

// ended forgets a runner, unless it was woken meanwhile.
func (d *deliverer) ended(run *runner) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(run.poke) > 0 && d.spawn != nil {
		return false
	}
	if d.runners[run.id] == run {
		delete(d.runners, run.id)
	}
	return true
}

// health is what a runner knows of its endpoint.
func (d *deliverer) health(id edge.ID) (EndpointHealth, bool) {
	d.mu.Lock()
	run := d.runners[id]
	d.mu.Unlock()
	if run == nil {
		return EndpointHealth{}, false
	}
	run.mu.Lock()
	defer run.mu.Unlock()
	return run.shown, true
}

// due is a sleep that ends at a time, or never for the zero time.
type due struct{ at time.Time }

func (d *due) sooner(t time.Time) {
	if !t.IsZero() && (d.at.IsZero() || t.Before(d.at)) {
		d.at = t
	}
}

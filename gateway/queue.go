package gateway

import (
	"runtime"
	"sync"
	"time"

	"wispgate/edge"
)

// QueueConfig bounds what runs and what waits. Zero values take the defaults.
type QueueConfig struct {
	Reading int           // reads that run at once; 2 per core
	Writing int           // commands that run at once; they wait for the disk together, so 256
	Waiting int           // requests of one tenant that may wait in a lane; 64
	Total   int           // requests of all tenants that may wait in a lane; 1,024
	Wait    time.Duration // longest wait; 500 ms
}

func (c QueueConfig) withDefaults() QueueConfig {
	for _, d := range []struct {
		field *int
		value int
	}{{&c.Reading, max(4, 2*runtime.GOMAXPROCS(0))}, {&c.Writing, 256}, {&c.Waiting, 64}, {&c.Total, 1024}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.Wait <= 0 {
		c.Wait = 500 * time.Millisecond
	}
	return c
}

// fairQueue admits requests to run: at once while there is room, else in turns over the tenants (deficit round robin by cost), so a
// tenant that floods waits behind itself and nobody else. What waits is bounded, and lower ranks give way first as it fills.
type fairQueue struct {
	cfg   QueueConfig
	lanes [lanes]lane
}

type lane struct {
	mu      sync.Mutex
	free    int
	waiting int
	tenants map[string]*turn
	ring    []*turn // tenants with waiters; the first is next
}

// turn is one tenant's line.
type turn struct {
	tenant  string
	deficit int
	line    []*ticket
}

type ticket struct {
	cost    int
	admit   chan struct{} // closed when it may run
	granted bool          // guarded by the lane's mutex
}

// quantum is what a tenant may spend per turn: the dearest class passes in one.
const quantum = 10

func newFairQueue(cfg QueueConfig) *fairQueue {
	q := &fairQueue{cfg: cfg.withDefaults()}
	q.lanes[readLane].free = q.cfg.Reading
	q.lanes[writeLane].free = q.cfg.Writing
	for i := range q.lanes {
		q.lanes[i].tenants = map[string]*turn{}
	}
	return q
}

// enter returns nil when the request may run; it must then leave the lane. Otherwise it is refused: overloaded.
func (q *fairQueue) enter(tenant string, c *care) *edge.Error {
	l := &q.lanes[c.lane]
	l.mu.Lock()
	if l.free > 0 {
		l.free--
		l.mu.Unlock()
		return nil
	}
	t := l.join(tenant, c, &q.cfg)
	l.mu.Unlock()
	if t == nil {
		return q.overloaded()
	}
	timer := time.NewTimer(q.cfg.Wait)
	defer timer.Stop()
	select {
	case <-t.admit:
		return nil
	case <-timer.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.granted {
		return nil
	}
	l.giveUp(tenant, t)
	return q.overloaded()
}

func (q *fairQueue) overloaded() *edge.Error {
	e := errOverloaded.Error(edge.Unavailable)
	e.RetryAfter = 1 + int(q.cfg.Wait/time.Second)
	return e
}

// join puts a ticket into the tenant's line, nil when there is no room. A lane that fills serves ranks 0 (reports) up to a half, 1 up
// to three quarters, and the others to the end. The caller holds the mutex.
func (l *lane) join(tenant string, c *care, cfg *QueueConfig) *ticket {
	room := cfg.Total
	switch c.rank {
	case 0:
		room /= 2
	case 1:
		room -= room / 4
	}
	line := l.tenants[tenant]
	if l.waiting >= room || line != nil && len(line.line) >= cfg.Waiting {
		return nil
	}
	if line == nil {
		line = &turn{tenant: tenant}
		l.tenants[tenant] = line
		l.ring = append(l.ring, line)
	}
	t := &ticket{cost: c.cost, admit: make(chan struct{})}
	line.line = append(line.line, t)
	l.waiting++
	return t
}

// leave hands the place to the next in turn, or frees it.
func (q *fairQueue) leave(c *care) {
	l := &q.lanes[c.lane]
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.ring) > 0 {
		t := l.ring[0]
		if t.deficit <= 0 {
			t.deficit += quantum
			l.ring = append(l.ring[1:], t)
			continue
		}
		next := t.line[0]
		t.line = t.line[1:]
		t.deficit -= next.cost
		l.waiting--
		next.granted = true
		close(next.admit)
		if len(t.line) == 0 {
			l.ring = l.ring[1:]
			delete(l.tenants, t.tenant)
		}
		return
	}
	l.free++
}

// giveUp removes a ticket that waited too long. The caller holds the mutex.
func (l *lane) giveUp(tenant string, gone *ticket) {
	t := l.tenants[tenant]
	for i, x := range t.line {
		if x == gone {
			t.line = append(t.line[:i], t.line[i+1:]...)
			l.waiting--
			break
		}
	}
	if len(t.line) > 0 {
		return
	}
	delete(l.tenants, tenant)
	for i, x := range l.ring {
		if x == t {
			l.ring = append(l.ring[:i], l.ring[i+1:]...)
			return
		}
	}
}

// depth is how many requests wait in a lane, for the metrics.
func (q *fairQueue) depth(i int) int {
	l := &q.lanes[i]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

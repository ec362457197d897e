package limit

import (
	"math"
	"sync/atomic"
	"time"
)

// Rate is a throttle: Quota units per Window, all of which may come at once. The zero Rate limits nothing.
type Rate struct {
	Quota  int64
	Window time.Duration
}

// None reports that the rate limits nothing.
func (r Rate) None() bool { return r.Quota <= 0 || r.Window <= 0 }

// interval is the time one unit takes, at least a nanosecond.
func (r Rate) interval() int64 { return max(int64(r.Window)/r.Quota, 1) }

// tolerance is how far a cell may run ahead of the clock: the whole quota.
func (r Rate) tolerance() int64 { return r.interval() * r.Quota }

// price is what cost units take of the cell, in nanoseconds. A cost above the quota is the quota: it passes alone instead of never.
func (r Rate) price(cost int64) int64 { return min(max(cost, 1), r.Quota) * r.interval() }

// cell is the theoretical arrival time of the generic cell rate algorithm (GCRA), in nanoseconds of the limiter's monotonic clock. A
// time that is past holds nothing: such a cell equals a new one and may be dropped.
type cell struct{ tat atomic.Int64 }

// dropped marks a cell that the table has let go: whoever still holds it looks its key up again, so no charge is lost.
const dropped = math.MinInt64

// ask says where the arrival time would stand after price, and whether that is within the rate.
func ask(tat, now int64, r Rate, price int64) (next int64, ok bool) {
	tolerance := r.tolerance()
	// Never further ahead than the tolerance: a rate that was lowered, or a clock that went back, costs one window at most.
	next = min(max(tat, now), now+tolerance) + price
	return next, next-now <= tolerance
}

// charge takes price if the rate allows it. gone says that the table has dropped the cell meanwhile.
func (c *cell) charge(now int64, r Rate, price int64) (next int64, ok, gone bool) {
	for {
		tat := c.tat.Load()
		if tat == dropped {
			return 0, false, true
		}
		next, ok = ask(tat, now, r, price)
		if !ok || c.tat.CompareAndSwap(tat, next) {
			return next, ok, false
		}
	}
}

// refund gives back what charge took.
func (c *cell) refund(price int64) {
	for {
		tat := c.tat.Load()
		if tat == dropped || c.tat.CompareAndSwap(tat, tat-price) {
			return
		}
	}
}

// drop marks the cell as gone if its time is past.
func (c *cell) drop(now int64) bool {
	tat := c.tat.Load()
	return tat <= now && c.tat.CompareAndSwap(tat, dropped)
}

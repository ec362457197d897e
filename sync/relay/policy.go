package relay

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// DefaultSchedule is how long to wait after each failed attempt; nine attempts in about a day and a half.
var DefaultSchedule = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour, 3 * time.Hour, 8 * time.Hour, 24 * time.Hour,
}

const (
	maxRetryAfter   = 24 * time.Hour
	breakerFailures = 10
	breakerWindow   = time.Minute
	breakerPause    = 30 * time.Second // doubled each time the probe fails
	breakerMaxPause = 10 * time.Minute
)

// disableAfter is how long an endpoint may fail without a single success.
const disableAfter = 5 * 24 * time.Hour

// noticeAfter are the ages of a failure at which its owner is told.
var noticeAfter = []time.Duration{time.Hour, 24 * time.Hour, 3 * 24 * time.Hour}

// spread returns d give or take 20 %, so that what failed together does not come back together.
func spread(d time.Duration) time.Duration { return d*4/5 + rand.N(d*2/5+1) }

// nextAttempt says how long to wait after the n-th failed attempt (from 1), ok false when that was the last. An answer's Retry-After is
// waited for, at most a day.
func nextAttempt(schedule []time.Duration, n int, order Order, retryAfter time.Duration) (wait time.Duration, ok bool) {
	if n > len(schedule) {
		if order != OrderStrict {
			return 0, false
		}
		n = len(schedule) // a strict endpoint skips nothing: it goes on until it is disabled
	}
	return max(spread(schedule[n-1]), min(retryAfter, maxRetryAfter)), true
}

// retryAfter reads the header in either form, seconds or date (RFC 9110 §10.2.3); 0 when absent, past or unreadable.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" || len(v) > 64 {
		return 0
	}
	if s, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(s)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// breaker stops sending to an endpoint that fails again and again: ten failures within a minute without a success open it, one probe
// after a pause closes it or doubles the pause.
type breaker struct {
	failures []time.Time // the last ones without a success between them
	pause    time.Duration
	until    time.Time // open until then; afterwards one probe at a time
	open     bool
}

// allow says how many attempts may start, given those under way.
func (b *breaker) allow(now time.Time, free, underWay int) int {
	switch {
	case !b.open:
		return free
	case now.Before(b.until) || underWay > 0:
		return 0
	default:
		return min(free, 1)
	}
}

func (b *breaker) succeeded() { *b = breaker{} }

func (b *breaker) failed(now time.Time) {
	if b.open {
		if now.Before(b.until) {
			return // one that was under way when it opened
		}
		b.pause = min(2*b.pause, breakerMaxPause)
		b.until = now.Add(b.pause)
		return
	}
	b.failures = append(b.failures, now)
	for now.Sub(b.failures[0]) > breakerWindow {
		b.failures = b.failures[1:]
	}
	if len(b.failures) >= breakerFailures {
		*b = breaker{open: true, pause: breakerPause, until: now.Add(breakerPause)}
	}
}

// bucket bounds an endpoint's rate by the time at which everything granted so far would be used up (GCRA).
type bucket struct{ used time.Time }

// take grants up to n attempts at rate per second with the given burst and says when the next will be, the zero time when all n came.
func (b *bucket) take(now time.Time, rate, burst, n int) (got int, next time.Time) {
	step := time.Second / time.Duration(rate)
	room := step * time.Duration(burst)
	if b.used.Before(now) {
		b.used = now
	}
	for got < n && !b.used.Add(step).After(now.Add(room)) {
		b.used = b.used.Add(step)
		got++
	}
	if got < n {
		next = b.used.Add(step - room)
	}
	return got, next
}

func (b *bucket) giveBack(rate, n int) {
	b.used = b.used.Add(-time.Second / time.Duration(rate) * time.Duration(n))
}

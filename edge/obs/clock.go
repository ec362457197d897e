package obs

import (
	"sync"
	"time"
)

// Quality says how far the wall clock can be trusted. Worst first, so that the zero value claims nothing.
type Quality uint8

// The qualities, in the order that the journal uses.
const (
	Unsynced Quality = iota // never disciplined since the program began, as far as it knows
	Holdover                // was disciplined, the source is lost
	Synced                  // disciplined now
)

// String is the word used in records, metrics and health.
func (q Quality) String() string {
	switch q {
	case Synced:
		return "synced"
	case Holdover:
		return "holdover"
	}
	return "unsynced"
}

// ClockState is what the kernel says about its clock.
type ClockState struct {
	Synced   bool
	Offset   time.Duration // what is still to be slewed
	MaxError time.Duration // the kernel's bound of the error
}

// ClockQuality asks the kernel once. It knows no holdover: that takes a memory, which Clock has. Where the kernel
// cannot be asked, the answer is unsynced.
func ClockQuality() (Quality, ClockState) {
	s, ok := readClock()
	if ok && s.Synced {
		return Synced, s
	}
	return Unsynced, s
}

// Clock remembers the kernel's answer for a second, because it is asked for every journal commit, and whether it was
// ever good, which makes the difference between holdover and unsynced. It is safe for concurrent use.
type Clock struct {
	now  func() time.Time
	read func() (ClockState, bool)

	mu    sync.Mutex
	asked time.Time
	state ClockState
	last  Quality
	good  bool
	lost  time.Time // since when the source is gone
}

// holdoverFor is how long a clock that lost its source is still believed: at 50 ppm it drifts about 4 s in a day.
const holdoverFor = 24 * time.Hour

// NewClock watches the kernel's clock; now is the program's clock.
func NewClock(now func() time.Time) *Clock { return &Clock{now: now, read: readClock} }

// Quality is the clock's quality, at most a second old.
func (c *Clock) Quality() Quality {
	q, _ := c.State()
	return q
}

// State is the quality together with what the kernel said.
func (c *Clock) State() (Quality, ClockState) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.asked.IsZero() {
		if age := now.Sub(c.asked); age >= 0 && age < time.Second {
			return c.last, c.state
		}
	}
	var ok bool
	c.state, ok = c.read()
	switch {
	case ok && c.state.Synced:
		c.last, c.good, c.lost = Synced, true, time.Time{}
	case c.good && c.lost.IsZero():
		c.last, c.lost = Holdover, now
	case c.good && now.Sub(c.lost) < holdoverFor:
		c.last = Holdover
	default:
		c.last, c.good = Unsynced, false
	}
	c.asked = now
	return c.last, c.state
}

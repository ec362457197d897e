package cluster

import (
	"slices"
	"sync/atomic"
	"time"
)

// A clock that somebody has set wrong must not date what the cluster commits, nor expire anyone: time that was committed does not run back. So the
// members compare clocks, and one that is far ahead of what most voters agree on is not believed. One that is behind is held up by the last
// committed time.

const (
	// mostApart is how far two clocks may be apart while none of them is held to be wrong.
	mostApart = 5 * time.Minute
	// agreedFor is how long the others' word counts once they are silent: what this node's own oscillator drifts meanwhile is nothing, but
	// a machine that was suspended does not know for how long.
	agreedFor = 10 * time.Minute
)

// Agreement is what time it is by the clocks of a majority of the voters, this node's not counted. The zero value is none. It costs a few loads to ask, so
// that every packet can.
type Agreement struct {
	base atomic.Int64 // their time when this program began, in nanoseconds since 1970; 0: nobody has said
	at   atomic.Int64 // when they said so, in nanoseconds since then
	with atomic.Bool  // this node is one of a majority that agrees, as last looked at
}

// Agrees says whether this node's clock is one of a majority that agree.
func (a *Agreement) Agrees() bool { return a.with.Load() }

// Settle returns now; or what the voters agree on, where now is further ahead of that than clocks may be apart, and by how much. passed is the time since the
// program began, whatever happened to the clock.
func (a *Agreement) Settle(now time.Time, passed time.Duration) (settled time.Time, ahead time.Duration) {
	if !a.said(passed) {
		return now, 0
	}
	theirs := time.Unix(0, a.base.Load()).Add(passed)
	if ahead = now.Sub(theirs); ahead <= mostApart {
		return now, 0
	}
	return theirs, ahead
}

// said reports whether the others' word counts.
func (a *Agreement) said(passed time.Duration) bool {
	return a.base.Load() != 0 && passed-time.Duration(a.at.Load()) <= agreedFor
}

// Say notes what time it is by the others' clocks.
func (a *Agreement) Say(now time.Time, passed time.Duration) {
	a.base.Store(now.UnixNano() - int64(passed))
	a.at.Store(int64(passed))
}

// weigh looks for what a majority of the voters agree on. A clock that its own node does not trust has no say, nor has one that nothing disciplines where
// something disciplines this one.
func (a *Agreement) weigh(self string, now time.Time, synced bool, list []View, passed time.Duration) {
	voters, with, others := 0, 0, make([]time.Time, 0, len(list))
	for _, v := range list {
		if !v.Voter {
			continue
		}
		voters++
		if v.Node == self || !v.Clock.IsZero() && now.Sub(v.Clock).Abs() <= mostApart {
			with++
		}
		if v.Node != self && !v.Clock.IsZero() && (v.Synced || !synced) {
			others = append(others, v.Clock)
		}
	}
	slices.SortFunc(others, time.Time.Compare)
	most := voters/2 + 1
	a.with.Store(with >= most)
	for i := range len(others) - most + 1 {
		if agreeing := others[i : i+most]; agreeing[most-1].Sub(agreeing[0]) <= mostApart {
			a.Say(agreeing[(most-1)/2], passed)
			return
		}
	}
}

// weigh compares this node's clock with those in a list of the members as they are now.
func (n *Node) weigh(list []View) {
	_, synced := n.conf.Clock()
	n.conf.Agreement.weigh(n.conf.NodeID, n.conf.Now(), synced, list, n.conf.Passed())
}

// ownClock is what this node says of its clock: zero where it does not trust it.
func (n *Node) ownClock() (now time.Time, synced bool) {
	trusted, synced := n.conf.Clock()
	if !trusted {
		return time.Time{}, synced
	}
	return n.conf.Now().Round(0).UTC(), synced
}

// freshClock is how old what a member said of its clock may be.
const freshClock = time.Minute

// clockOf is a member's clock now, as it was when it last answered; zero where it does not trust it, or has been silent for long.
func (g *sighting) clockOf(passed time.Duration) (time.Time, bool) {
	if g.Clock.IsZero() || passed-g.heard > freshClock {
		return time.Time{}, false
	}
	return g.Clock.Add(passed - g.heard), g.Synced
}

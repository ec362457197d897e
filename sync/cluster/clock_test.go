package cluster

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// silent is a clock that says nothing.
const silent = time.Duration(1) << 62

// voters is a list of voters whose clocks are so far from noon.

func voters(apart ...time.Duration) (list []View) {
	for i, d := range apart {
		v := View{Node: string(rune('a' + i)), Voter: true}
		if d != silent {
			v.Clock = noon.Add(d)
		}
		list = append(list, v)
	}
	return list
}

func TestAClockFarAheadOfMostVotersIsNotBelieved(t *testing.T) {
	const month, hour = 30 * 24 * time.Hour, time.Hour
	for name, tc := range map[string]struct {
		own    time.Duration // of a, whose clock is asked
		list   []View
		ahead  bool
		agrees bool
	}{
		"all agree":                                 {0, voters(0, time.Second, -time.Second), false, true},
		"a month ahead of both others":              {month, voters(month, 0, time.Minute), true, false},
		"ahead by what clocks may be apart":         {mostApart, voters(mostApart, 0, 0), false, true},
		"behind both others":                        {-month, voters(-month, 0, 0), false, false},
		"of two, nobody knows who is right":         {month, voters(month, 0), false, false},
		"the others disagree":                       {month, voters(month, 0, hour), false, false},
		"one other is silent":                       {month, voters(month, 0, silent), false, false},
		"two of five agree, which is no majority":   {month, voters(month, 0, 0, silent, silent), false, false},
		"three of five agree":                       {month, voters(month, 0, 0, -time.Minute, silent), true, false},
		"one of the others is as wrong":             {month, voters(month, month, 0, 0, 0), true, false},
		"a majority, and this one is in it":         {0, voters(0, month, 0), false, true},
		"a replica believes the only voter":         {month, []View{{Node: "a", Clock: noon.Add(month)}, {Node: "b", Voter: true, Clock: noon}}, true, false},
		"a lone voter has nobody to be compared to": {month, voters(month), false, true},
	} {
		var a Agreement
		a.weigh("a", noon.Add(tc.own), false, tc.list, time.Hour)
		got, ahead := a.Settle(noon.Add(tc.own), time.Hour)
		if (ahead > 0) != tc.ahead || tc.ahead && got.Sub(noon).Abs() > mostApart || !tc.ahead && !got.Equal(noon.Add(tc.own)) {
			t.Errorf("%s: settled on %v, ahead by %v", name, got, ahead)
		}
		if a.Agrees() != tc.agrees {
			t.Errorf("%s: agrees %v", name, a.Agrees())
		}
	}
}

func TestADisciplinedClockIsNotOutvotedByOthers(t *testing.T) {
	list := voters(time.Hour, 0, 0)
	var a Agreement
	a.weigh("a", noon.Add(time.Hour), true, list, 0)
	if _, ahead := a.Settle(noon.Add(time.Hour), 0); ahead != 0 {
		t.Errorf("two boards without NTP outvote one that has it, by %v", ahead)
	}
	list[1].Synced, list[2].Synced = true, true
	a.weigh("a", noon.Add(time.Hour), true, list, 0)
	if _, ahead := a.Settle(noon.Add(time.Hour), 0); ahead == 0 {
		t.Error("two that have it do not")
	}
}

func TestWhatTheOthersSaidRunsOnAndEnds(t *testing.T) {
	var a Agreement
	a.weigh("a", noon, false, voters(0, 0, 0), 0)
	if at, ahead := a.Settle(noon.Add(30*24*time.Hour), time.Minute); ahead == 0 || !at.Equal(noon.Add(time.Minute)) {
		t.Errorf("a minute later it is %v, ahead %v", at, ahead)
	}
	a.weigh("a", noon, false, voters(0, silent, silent), 2*time.Minute) // nobody says anything new
	if _, ahead := a.Settle(noon.Add(time.Hour), agreedFor); ahead == 0 {
		t.Error("forgotten too early")
	}
	if _, ahead := a.Settle(noon.Add(time.Hour), agreedFor+time.Second); ahead != 0 {
		t.Error("what was said long ago still counts")
	}
}

// Whatever the clocks say, what a node settles on is its own clock or lies within the span of a majority's.
func TestSettlingNeverInventsATime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offsets := rapid.SliceOfN(rapid.OneOf(rapid.Just(silent), rapid.Map(rapid.IntRange(-600, 600), func(m int) time.Duration { return time.Duration(m) * time.Minute })), 1, 7).Draw(t, "clocks")
		own := time.Duration(rapid.IntRange(-600, 600).Draw(t, "own")) * time.Minute
		var a Agreement
		a.weigh("a", noon.Add(own), false, voters(offsets...), 0)
		got, ahead := a.Settle(noon.Add(own), 0)
		if ahead == 0 {
			if !got.Equal(noon.Add(own)) {
				t.Fatalf("not ahead, and settled on %v", got)
			}
			return
		}
		near := 0
		for _, d := range offsets[1:] {
			if d != silent && got.Sub(noon.Add(d)).Abs() <= mostApart {
				near++
			}
		}
		if near < len(offsets)/2+1 || ahead <= mostApart {
			t.Fatalf("settled on %v, which %d of %d say; ahead by %v", got.Sub(noon), near, len(offsets), ahead)
		}
	})
}

// The leader's clock jumps by a month. It does not date anything by it, whatever road its word takes, and the others know who is wrong.
func TestALeaderWhoseClockJumpsIsOutvoted(t *testing.T) {
	var jump atomic.Int64
	var jumped atomic.Value
	jumped.Store("")
	f := newFlock(t, func(c *Config) {
		begun, self := time.Now(), c.NodeID
		c.Passed = func() time.Duration { return time.Since(begun) }
		c.Now = func() time.Time {
			now := time.Now().Round(0)
			if jumped.Load() == self {
				now = now.Add(time.Duration(jump.Load()))
			}
			return now
		}
	})
	f.found("n1")
	f.grow(Voter, "n2", "n3")
	f.grow(Replica, "n4")
	lead := f.leader()
	settle := func(b *bird) (off, ahead time.Duration) {
		at, ahead := b.node.conf.Agreement.Settle(b.node.conf.Now(), b.node.conf.Passed())
		return time.Until(at).Abs(), ahead
	}
	for _, b := range f.birds {
		f.until(b.name+" agrees", func() bool { return b.node.conf.Agreement.Agrees() || b.name == "n4" })
	}
	f.until("the leader knows what the others say", func() bool { return lead.node.conf.Agreement.base.Load() != 0 })
	jumped.Store(lead.name)
	jump.Store(int64(30 * 24 * time.Hour))
	if off, ahead := settle(lead); off > time.Minute || ahead < 24*time.Hour { // at once, not at the next look
		t.Errorf("the leader settles on a time that is %v off, ahead by %v", off, ahead)
	}
	f.until("the leader knows that it is alone", func() bool { return !lead.node.conf.Agreement.Agrees() })
	for _, b := range f.birds {
		if b == lead || b.name == "n4" {
			continue
		}
		f.until(b.name+" goes by its own clock, which most voters agree with", func() bool {
			off, ahead := settle(b)
			return off < time.Minute && ahead == 0 && b.node.conf.Agreement.Agrees()
		})
	}
}

// All nodes start again, and the first to lead has a clock that is a month ahead. It asks the others before it leads, so nothing is dated by it.
func TestAFirstLeaderAsksWhatTimeItIs(t *testing.T) {
	var again atomic.Bool
	f := newFlock(t, func(c *Config) {
		begun, wrong := time.Now(), c.NodeID == "n1"
		c.Passed = func() time.Duration { return time.Since(begun) }
		c.Now = func() time.Time {
			now := time.Now().Round(0)
			if wrong && again.Load() {
				now = now.Add(30 * 24 * time.Hour)
			}
			return now
		}
		if !wrong && again.Load() { // n1 is the one that stands
			c.Peers.Heartbeat, c.Peers.Election = time.Minute, time.Minute
		}
	})
	f.found("n1")
	f.grow(Voter, "n2", "n3")
	f.leadAt("n1")
	f.settled()
	for _, name := range []string{"n2", "n3", "n1"} { // nobody's log is longer than n1's
		f.bird(name).down()
	}
	again.Store(true)
	for _, name := range []string{"n2", "n3", "n1"} {
		f.bird(name).up()
	}
	n := f.bird("n1").node
	check(t, n.WaitLeader(within(t, time.Minute)))
	if at, ahead := n.conf.Agreement.Settle(n.conf.Now(), n.conf.Passed()); ahead == 0 || time.Until(at).Abs() > time.Minute {
		t.Errorf("it leads and settles on %v, ahead by %v", at, ahead)
	}
}

// patient is three voters of which n1 leads, whose clocks nobody believes, and who wait for a leader for longer than a test takes.
func patient(t *testing.T) *flock {
	t.Helper()
	var skip atomic.Int64
	f := newFlock(t, func(c *Config) {
		begun := time.Now()
		c.Passed = func() time.Duration { return time.Since(begun) + time.Duration(skip.Load()) }
		c.Clock = func() (trusted, synced bool) { return skip.Load() == 0, false }
		c.Peers.Heartbeat, c.Peers.Election, c.Peers.Lease = 20*time.Second, 20*time.Second, 20*time.Second
	})
	f.found("n1")
	f.grow(Voter, "n2", "n3")
	if got := f.leader().name; got != "n1" {
		t.Fatalf("%s leads", got)
	}
	f.until("nobody has an agreement", func() bool {
		skip.Add(int64(time.Hour)) // past what a look that was on its way has brought
		return !slices.ContainsFunc(f.names(), func(name string) bool {
			c := f.bird(name).node.conf
			return c.Agreement.said(c.Passed())
		})
	})
	return f
}

// handTo hands leadership to another.
func (f *flock) handTo(from, to string) {
	f.t.Helper()
	check(f.t, f.bird(from).node.current().raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to)).Error())
	f.until(to+" leads", func() bool { return f.bird(to).node.current().raft.State() == raft.Leader })
}

// A leader that stops before it knows what time it is hands over like any other: nobody waits for an election.
func TestALeaderThatStopsWhileItAsksWhatTimeItIsHandsOver(t *testing.T) {
	f := patient(t)
	for _, name := range []string{"n1", "n3"} {
		f.bird(name).node.Handle(methodStats, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}
	f.handTo("n1", "n2")
	f.bird("n2").down() // it asks for a second
	f.untilWithin(10*time.Second, "another leads", func() bool {
		return f.bird("n1").node.current().raft.State() == raft.Leader || f.bird("n3").node.current().raft.State() == raft.Leader
	})
}

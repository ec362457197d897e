package cluster

import (
	"fmt"
	"time"
)

// Timeouts of a node. The zero value of each takes the default.
type Timeouts struct {
	Heartbeat time.Duration // follower without a leader until it stands for election
	Election  time.Duration // candidate without a majority until it tries again; as Heartbeat
	Lease     time.Duration // leader without contact to a quorum until it steps down; at most Heartbeat
	Commit    time.Duration // idle leader until it tells followers the commit index; also the idle chatter on each link
	Propose   time.Duration // waiting to hand over a proposal, or for a member's answer, when the caller sets no deadline; 5 s
	Write     time.Duration // one write to the log until the disk counts as hung; 10 s

	// Transport bounds each exchange of raft with a peer; 10 s. A snapshot gets as many of it as it has pieces of SnapshotScale octets.
	Transport     time.Duration
	SnapshotScale int
}

// The profiles. A lone node decides with itself; the others wait as long as their network needs.
var (
	alone = Timeouts{Heartbeat: 100 * time.Millisecond, Lease: 100 * time.Millisecond, Commit: 50 * time.Millisecond, SnapshotScale: 256 << 10}
	lan   = Timeouts{Heartbeat: time.Second, Lease: 500 * time.Millisecond, Commit: 50 * time.Millisecond, SnapshotScale: 256 << 10}
	wan   = Timeouts{Heartbeat: 2 * time.Second, Lease: time.Second, Commit: 250 * time.Millisecond, SnapshotScale: 32 << 10}
	space = Timeouts{Heartbeat: 15 * time.Second, Lease: 7500 * time.Millisecond, Commit: 500 * time.Millisecond, SnapshotScale: 16 << 10}
)

// Profile is the time-outs for a kind of network: lan, wan or satellite.
func Profile(network string) (Timeouts, error) {
	switch network {
	case "", "lan":
		return lan, nil
	case "wan":
		return wan, nil
	case "satellite":
		return space, nil
	}
	return Timeouts{}, fmt.Errorf("there is no network profile %q", network)
}

func (t Timeouts) over(d Timeouts) Timeouts {
	t.Heartbeat = or(t.Heartbeat, d.Heartbeat)
	t.Election = or(t.Election, t.Heartbeat)
	t.Lease = or(t.Lease, min(d.Lease, t.Heartbeat))
	t.Commit = or(t.Commit, d.Commit)
	t.Propose = or(t.Propose, 5*time.Second)
	t.Write = or(t.Write, 10*time.Second)
	t.Transport = or(t.Transport, 10*time.Second)
	t.SnapshotScale = or(t.SnapshotScale, d.SnapshotScale)
	return t
}

// Pace is how the leader looks after the members. The zero value of each takes the default.
type Pace struct {
	Poll   time.Duration // between two looks at every member; a heartbeat, a second at least
	Stable time.Duration // without a break and caught up until a node gets its vote; 30 s
	Behind uint64        // entries that a node which has caught up may lack; 250
	Lost   time.Duration // silence until a node counts as lost; 60 s
	// RemoveDead removes a node that is lost for so long, where a majority of the others is well; 0: never.
	RemoveDead time.Duration
}

func (p Pace) over(t Timeouts) Pace {
	p.Poll = or(p.Poll, max(t.Heartbeat, time.Second))
	p.Stable = or(p.Stable, 30*time.Second)
	p.Behind = or(p.Behind, 250)
	p.Lost = or(p.Lost, max(60*time.Second, 10*t.Heartbeat))
	return p
}

package cluster

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// ground is what a leader must stand on to send entries that build on one another: everything that may come before them in the log is
// applied here. It is so from a barrier in the leader's term on, until the outcome of a proposal remains unknown; then another barrier
// settles it.
type ground struct {
	mu     sync.Mutex
	term   uint64 // in which it is firm; 0: it is not
	doubts int
	dated  atomic.Uint64 // the last term in which this node knew what time it is by the others' clocks, or could not
	shaken chan struct{} // holds a token when there is something to settle
	led    chan struct{} // holds one when this node has come to lead
}

func newGround() *ground { return &ground{shaken: make(chan struct{}, 1), led: make(chan struct{}, 1)} }

func put(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

func (g *ground) shake() { put(g.shaken) }
func (g *ground) lead()  { put(g.led) }

// doubt says that a proposal may be applied later.
func (g *ground) doubt() {
	g.mu.Lock()
	g.term = 0
	g.doubts++
	g.mu.Unlock()
	g.shake()
}

func (g *ground) firm() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.term
}

func (g *ground) seen() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.doubts
}

// settled says that a barrier in the term came after so many doubts.
func (g *ground) settled(term uint64, doubts int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.doubts == doubts {
		g.term = term
	}
}

// Term is the term in which this node leads, if all that may come into the log before its next proposal is applied here or was proposed by
// this node in that term; else 0.
func (n *Node) Term() uint64 {
	run := n.current()
	if run == nil {
		return 0
	}
	term := run.ground.firm()
	if term == 0 || run.raft.State() != raft.Leader || run.raft.CurrentTerm() != term {
		return 0
	}
	return term
}

// groundLoop makes the ground firm whenever this node comes to lead or has a doubt.
func (n *Node) groundLoop(run *running) {
	for {
		select {
		case <-run.ground.shaken:
		case <-run.ground.led:
		case <-run.quit:
			return
		}
		n.date(run)
		if run.steady() {
			continue
		}
		retry := time.NewTimer(run.times.Heartbeat)
		select {
		case <-retry.C:
			run.ground.shake()
		case <-run.ground.led: // once more, and it asks what time it is before it does
			retry.Stop()
			run.ground.lead()
		case <-run.quit:
			retry.Stop()
			return
		}
	}
}

// date asks the voters what time it is, where this node comes to lead and nobody has said so lately, as after a start of all of them: time that
// is committed by a clock that is wrong does not run back. Where too few answer in time, this node's own clock must do.
func (n *Node) date(run *running) {
	term := run.raft.CurrentTerm()
	if run.raft.State() != raft.Leader || run.ground.dated.Load() == term {
		return
	}
	if n.port != nil && !n.conf.Agreement.said(n.conf.Passed()) {
		n.askTheTime(run)
	}
	run.ground.dated.Store(term)
	n.wake()
}

// askTheTime asks the voters that are not lost, if they could be a majority that agrees: of two, nobody knows who is right.
func (n *Node) askTheTime(run *running) {
	voters := slices.DeleteFunc(servers(run.raft), func(s raft.Server) bool { return s.Suffrage != raft.Voter })
	most := len(voters)/2 + 1
	others := slices.DeleteFunc(voters, func(s raft.Server) bool {
		p, _ := n.conf.Directory.Peer(string(s.ID))
		return p.LostAt != nil || string(s.ID) == n.conf.NodeID
	})
	if len(others) >= most {
		n.ask(n.life, others, nil, n.answerFor())
		n.weigh(n.views())
	}
}

// steady makes the ground firm with a barrier. It is false when that is worth another attempt.
func (r *running) steady() bool {
	doubts, term := r.ground.seen(), r.raft.CurrentTerm()
	if r.raft.State() != raft.Leader {
		return true // there is nothing to stand on; the next leadership shakes it again
	}
	barrier := make(chan error, 1)
	go func() { barrier <- r.raft.Barrier(r.times.Propose).Error() }() // raft leaves what it has not begun without an answer when it ends
	select {
	case err := <-barrier:
		if err != nil || r.raft.CurrentTerm() != term {
			return false
		}
	case <-r.ground.led: // once more; the barrier may stand behind what the state machine is still at
		r.ground.lead()
		return false
	case <-r.quit:
		return true
	}
	r.ground.settled(term, doubts)
	return true
}

package cluster

import (
	"time"

	"github.com/hashicorp/raft"
)

// A follower learns that an entry is committed with the next entry, or after the commit time-out. Whoever wrote or asked through that
// follower would wait for it as long. So a leader that has answered a member tells it at once how far the log is committed, with the
// message that raft itself would send: an empty AppendEntries.

const nudgeRoom = 64 // requests to nudge that may wait; beyond it raft's own message does

// nudge has the member told. It never blocks.
func (n *Node) nudge(member string) {
	run := n.current()
	if run == nil || run.raft.State() != raft.Leader {
		return
	}
	select {
	case run.nudges <- member:
	default:
	}
}

// nudger tells each member in its turn, one message on its way to each.
type nudger struct {
	run         *running
	id          raft.ServerID
	done        chan string
	busy, again map[string]bool
	told        map[string]uint64 // newest index
}

func (n *Node) nudgeLoop(run *running) {
	g := nudger{run: run, id: raft.ServerID(n.conf.NodeID), done: make(chan string), busy: map[string]bool{}, again: map[string]bool{}, told: map[string]uint64{}}
	for {
		select {
		case member := <-run.nudges:
			g.tell(member)
		case member := <-g.done:
			g.busy[member] = false
			if g.again[member] {
				g.again[member] = false
				g.tell(member)
			}
		case <-run.quit:
			return
		}
	}
}

func (g *nudger) tell(member string) {
	if g.busy[member] {
		g.again[member] = true
		return
	}
	to, ok := g.server(member)
	if !ok {
		return
	}
	word, ok := g.word()
	if !ok || word.LeaderCommitIndex <= g.told[member] {
		return
	}
	g.busy[member], g.told[member] = true, word.LeaderCommitIndex
	g.run.notes.Go(func() {
		insist(g.run.quit, func() (heard bool) {
			var answer raft.AppendEntriesResponse
			err := g.run.trans.AppendEntries(to.ID, to.Address, word, &answer)
			return err != nil || answer.Success || answer.Term > word.Term // raft's own message follows in any case
		})
		select {
		case g.done <- member:
		case <-g.run.quit:
		}
	})
}

// How long a member is told again that does not hold the entry yet: it is the one that the commit did not need, and the entry is on its way.
const (
	insistFirst = time.Millisecond
	insistLast  = 32 * time.Millisecond // later, raft's own message is near
)

func insist(quit <-chan struct{}, say func() (heard bool)) {
	for pause := insistFirst; !say() && pause <= insistLast; pause *= 2 {
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-quit:
			wait.Stop()
			return
		}
	}
}

func (g *nudger) server(member string) (raft.Server, bool) {
	future := g.run.raft.GetConfiguration()
	if future.Error() != nil {
		return raft.Server{}, false
	}
	for _, s := range future.Configuration().Servers {
		if s.ID == raft.ServerID(member) && s.ID != g.id {
			return s, true
		}
	}
	return raft.Server{}, false
}

// word is true for ever: that this node led in the term, and that the entry, which the member has to hold, was committed. The term is the
// same before and after the look at the index, so the node led when it looked.
func (g *nudger) word() (*raft.AppendEntriesRequest, bool) {
	r := g.run.raft
	term := r.CurrentTerm()
	if r.State() != raft.Leader {
		return nil, false
	}
	index := r.CommitIndex()
	var l raft.Log
	if err := g.run.log.GetLog(index, &l); err != nil || r.State() != raft.Leader || r.CurrentTerm() != term {
		return nil, false
	}
	me := g.run.trans.EncodePeer(g.id, g.run.trans.LocalAddr())
	return &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.id), Addr: me},
		Term:      term, PrevLogEntry: index, PrevLogTerm: l.Term, LeaderCommitIndex: index,
	}, true
}

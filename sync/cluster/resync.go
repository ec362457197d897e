package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

const methodResync = "sync.resync"

// refill says for which wish of an operator this node was wiped. It stands beside the log.
type refill struct {
	For    time.Time `json:"for"`    // RepairAt of the node's record
	Loaded bool      `json:"loaded"` // what is derived from the state was built anew
	Wiping bool      `json:"wiping"` // the wipe has begun; a power cut in it leaves a log and a state that do not belong together
}

const refillFile = "refill.json"

func (n *Node) refill() (r refill, err error) {
	if err := readNote(n.conf.Dir, refillFile, &r); err != nil {
		return r, fmt.Errorf("read refill: %w", err)
	}
	return r, nil
}

func (r refill) write(dir string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeAtomic(dir, refillFile, raw)
}

// serveResync wipes this node for a wish of the operator, once, and says whether it has a whole state again. Only the leader asks, and
// only after it has taken this node's vote.
func (n *Node) serveResync(ctx context.Context, from string, body []byte) ([]byte, error) {
	var wish time.Time
	if err := json.Unmarshal(body, &wish); err != nil || from != n.leaderID() && !n.mayLead(from) {
		return nil, quorumLost()
	}
	r, err := n.refill()
	if err != nil {
		return nil, err
	}
	if !r.For.Equal(wish) || r.Wiping {
		if err := n.Resync(ctx, wish); err != nil {
			return nil, err
		}
		return json.Marshal(false)
	}
	if n.machine.AppliedIndex() == 0 || !n.machine.Whole() {
		return json.Marshal(false)
	}
	if !r.Loaded {
		n.machine.Reload()
		r.Loaded = true
		if err := r.write(n.conf.Dir); err != nil {
			return nil, err
		}
	}
	return json.Marshal(true)
}

// mayLead says whether a parked node, which hears no leader, takes a member's word for it.
func (n *Node) mayLead(node string) bool {
	p, ok := n.conf.Directory.Peer(node)
	return n.refillable() && ok && p.Status == Joined && p.Role == Voter
}

// refilled asks a node to begin or to go on, and says whether it is whole.
func (n *Node) refilled(ctx context.Context, p Peer) (done bool, err error) {
	body, err := json.Marshal(p.RepairAt)
	if err != nil {
		return false, err
	}
	raw, err := n.Call(ctx, p.Node, methodResync, body)
	if err == nil {
		err = json.Unmarshal(raw, &done)
	}
	return done, err
}

// Resync throws this node's log and replicated state away and takes part again without them, so that the leader fills it anew. What is
// derived from the state in memory, such as the index of RADIUS, goes on with what it knew until the new state is there. The node must
// have no vote: it would have forgotten what it promised. wish names the occasion; for the same one it happens once.
func (n *Node) Resync(ctx context.Context, wish time.Time) error {
	run := n.current()
	switch {
	case run != nil:
		for _, s := range servers(run.raft) {
			if string(s.ID) == n.conf.NodeID && s.Suffrage == raft.Voter {
				return refuse("resync_voter", "A node that votes cannot be wiped", "Run wispgate cluster repair, which takes its vote first")
			}
		}
	case !n.refillable(): // a parked one has not heard that its vote was taken: the leader did that before it asked
		return n.whyParked()
	}
	if err := n.conf.Directory.note(n.conf.Dir); err != nil { // its records go
		return err
	}
	if err := n.conf.Directory.load(n.conf.Dir); err != nil {
		return err
	}
	n.log.Warn("this node's copy of the state is wiped and filled anew")
	change := func() error {
		if err := (refill{For: wish, Wiping: true}).write(n.conf.Dir); err != nil {
			return err
		}
		return n.endWipe()
	}
	return n.betweenLives(ctx, event{life: make(chan error, 1), change: change})
}

// endWipe does a wipe that has begun, or ends one that was cut off.
func (n *Node) endWipe() error {
	r, err := n.refill()
	if err != nil {
		n.log.Error("it is not known whether this node was being wiped", "error", err) // a log and a state that belong together say that it was not
	}
	if !r.Wiping {
		return nil
	}
	if err := n.wipe(); err != nil {
		return err
	}
	return refill{For: r.For}.write(n.conf.Dir)
}

// wipe empties log, snapshots and state. The vote stays: what this node once promised holds.
func (n *Node) wipe() error {
	kept, err := n.keptVote()
	if err != nil {
		return err
	}
	for _, dir := range []string{"snapshots", "log"} {
		if err := os.RemoveAll(filepath.Join(n.conf.Dir, dir)); err != nil {
			return fmt.Errorf("wipe: %w", err)
		}
	}
	if err := n.machine.Reset(); err != nil {
		return err
	}
	w, err := openWAL(&n.conf)
	if err != nil {
		return err
	}
	return errors.Join(kept.write(w), w.Close())
}

// keptVote is what this node once promised. Where the log no longer says it, it is forgotten: whoever led when its vote was taken has had a
// majority without it note that, and nobody without that note gets a majority of the rest.
func (n *Node) keptVote() (kept vote, err error) {
	w, err := openWAL(&n.conf)
	if damaged(err) {
		n.log.Warn("the node's last vote is lost with its log", "error", err)
		return vote{}, nil
	}
	if err != nil {
		return vote{}, err
	}
	kept, err = voteOf(w)
	return kept, errors.Join(err, w.Close())
}

// vote is what raft keeps in its stable store.
type vote struct {
	term, votedIn uint64
	votedFor      []byte
}

var (
	keyTerm     = []byte("CurrentTerm")
	keyVoteTerm = []byte("LastVoteTerm")
	keyVoteCand = []byte("LastVoteCand")
)

func voteOf(w walStore) (v vote, err error) {
	if v.term, err = w.GetUint64(keyTerm); err != nil {
		return v, fmt.Errorf("read vote: %w", err)
	}
	if v.votedIn, err = w.GetUint64(keyVoteTerm); err != nil {
		return v, fmt.Errorf("read vote: %w", err)
	}
	if v.votedFor, err = w.Get(keyVoteCand); err != nil {
		return v, fmt.Errorf("read vote: %w", err)
	}
	return v, nil
}

func (v vote) write(w walStore) error {
	if v.term == 0 {
		return nil
	}
	err := w.SetUint64(keyTerm, v.term)
	if err == nil && v.votedIn > 0 {
		err = errors.Join(w.SetUint64(keyVoteTerm, v.votedIn), w.Set(keyVoteCand, v.votedFor))
	}
	if err != nil {
		return fmt.Errorf("keep vote: %w", err)
	}
	return nil
}

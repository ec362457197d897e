package cluster

import (
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// Status is what status pages, health facts and metrics show. Nothing in it is better than the truth: a parked node says so.
type Status struct {
	NodeID       string    `json:"node_id"`
	ClusterID    string    `json:"cluster_id"`
	State        string    `json:"state"`            // leader, follower, candidate, parked
	Parked       string    `json:"parked,omitempty"` // why
	Leader       string    `json:"leader,omitempty"` // node id
	Voters       []string  `json:"voters"`
	Others       []string  `json:"others,omitempty"`              // members without a vote
	Members      []View    `json:"members,omitempty"`             // as the leader sees them, or last said
	Removed      bool      `json:"removed,omitempty"`             // as Expelled says
	Histories    []History `json:"histories,omitempty"`           // of this cluster, besides its own, that are at work since a recovery
	ClockAhead   int64     `json:"clock_ahead_seconds,omitempty"` // of the leader's clock, as last heard
	Advertise    string    `json:"advertise,omitempty"`           // where the others are told to reach this node
	Contact      bool      `json:"contact"`                       // it leads, or has heard from a leader within an election time-out
	LeaderMoves  uint64    `json:"leader_moves"`                  // changes of leader that this node has seen since it began
	Term         uint64    `json:"term"`
	Version      uint64    `json:"version"`
	LastTerm     uint64    `json:"last_term"`  // of the last entry, not of the last vote; 0: the log is not open
	LastIndex    uint64    `json:"last_index"` // of the last entry, applied or not
	CommitIndex  uint64    `json:"commit_index"`
	AppliedIndex uint64    `json:"applied_index"`
	DurableIndex uint64    `json:"durable_index"` // in the store; what lies between is in the log and in memory
	FirstIndex   uint64    `json:"first_index"`   // oldest entry kept
	KeepEntries  uint64    `json:"keep_entries"`  // kept below a snapshot
}

// Status gathers the node's figures.
func (n *Node) Status() Status {
	n.mu.RLock()
	run, parked, end := n.run, n.parked, n.parkedAt
	n.mu.RUnlock()
	st := Status{
		NodeID: n.conf.NodeID, ClusterID: n.conf.ClusterID, State: "parked", Parked: parked,
		Version: n.machine.Version(), AppliedIndex: n.machine.AppliedIndex(), DurableIndex: n.machine.DurableIndex(), Removed: n.Expelled() != nil,
	}
	if run == nil {
		st.LastTerm, st.LastIndex = end.Term, end.LastIndex
		return st
	}
	if n.port != nil {
		st.Advertise = n.advertised()
	}
	if run.raft.State() == raft.Follower {
		st.ClockAhead = int64(time.Duration(n.picture.ahead.Load()).Round(time.Second) / time.Second)
	}
	st.State, st.Contact, st.LeaderMoves = stateName(run.raft.State()), n.Contact(), n.moves.Load()
	if n.port != nil {
		st.Members, _ = n.Members()
		st.Histories = n.Histories()
	}
	_, id := run.raft.LeaderWithID()
	st.Leader, st.Term = string(id), run.raft.CurrentTerm()
	end = run.end()
	st.LastTerm, st.LastIndex, st.CommitIndex = end.Term, end.LastIndex, run.raft.CommitIndex()
	st.FirstIndex, _ = run.log.FirstIndex()
	st.KeepEntries = run.raft.ReloadableConfig().TrailingLogs
	if conf := run.raft.GetConfiguration(); conf.Error() == nil {
		for _, s := range conf.Configuration().Servers {
			if s.Suffrage == raft.Voter {
				st.Voters = append(st.Voters, string(s.ID))
			} else {
				st.Others = append(st.Others, string(s.ID))
			}
		}
	}
	return st
}

// end is how far the log goes, what is not applied or committed included.
func (r *running) end() (at Standing) {
	stats := r.raft.Stats()
	number := func(name string) uint64 {
		v, _ := strconv.ParseUint(stats[name], 10, 64) // raft writes numbers there
		return v
	}
	at.Term, at.LastIndex = number("last_log_term"), number("last_log_index")
	if index := number("last_snapshot_index"); index >= at.LastIndex { // the log begins behind it and is empty
		at.Term, at.LastIndex = number("last_snapshot_term"), index
	}
	return at
}

// CertificateEnd is when this node's certificate ends; zero without a cluster port.
func (n *Node) CertificateEnd() time.Time {
	if n.conf.Credentials == nil {
		return time.Time{}
	}
	return n.conf.Credentials.Leaf().NotAfter
}

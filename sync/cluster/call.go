package cluster

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"

	"wispgate/edge"
)

// Handler answers a request of another member, or of this node itself. from is the asking node, proved by its certificate. An *edge.Error
// reaches the caller unchanged; another error becomes internal.
type Handler func(ctx context.Context, from string, body []byte) ([]byte, error)

// MethodIntent is the request that Forward makes.
const MethodIntent = "intent"

// Handle sets the handler of a method. Set it before the node is asked: a method without one is answered "starting".
func (n *Node) Handle(method string, h Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handlers[method] = h
}

func (n *Node) handler(method string) Handler {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.handlers[method]
}

// Call asks a member, or with to "" the leader. It is one hop: who is asked as the leader and is none refuses. ErrQuorumLost means that
// nothing was sent, or that the one who was asked did nothing; ErrUnknownOutcome that the request went out and no answer came.
func (n *Node) Call(ctx context.Context, to, method string, body []byte) ([]byte, error) {
	if to == "" {
		if to = n.leaderID(); to == "" {
			return nil, quorumLost()
		}
	}
	if to == n.conf.NodeID {
		return n.serve(ctx, n.conf.NodeID, method, body)
	}
	return nil, quorumLost()
}

// Forward hands an intent to the leader, which may be this node itself.
func (n *Node) Forward(ctx context.Context, body []byte) ([]byte, error) {
	return n.Call(ctx, "", MethodIntent, body)
}

// serve runs the handler of a method.
func (n *Node) serve(ctx context.Context, from, method string, body []byte) ([]byte, error) {
	h := n.handler(method)
	if h == nil {
		return nil, edge.ErrStarting.Error(edge.Unavailable)
	}
	answer, err := h(ctx, from, body)
	if err != nil {
		e, ok := edge.AsError(err)
		if !ok {
			n.log.Error("request of a member failed", "method", method, "from", from, "error", err)
		}
		return nil, e
	}
	return answer, nil
}

// leaderID is the leader that this node knows, "" for none.
func (n *Node) leaderID() string {
	run := n.current()
	if run == nil {
		return ""
	}
	_, id := run.raft.LeaderWithID()
	return string(id)
}

// Contact says whether this node leads, or has heard from a leader within about one election time-out. It costs a few atomic reads.
func (n *Node) Contact() bool {
	run := n.current()
	if run == nil {
		return false
	}
	switch run.raft.State() {
	case raft.Leader:
		return true
	case raft.Follower:
		_, id := run.raft.LeaderWithID()
		return id != "" && n.conf.Now().Sub(run.raft.LastContact()) <= run.contact
	case raft.Candidate, raft.Shutdown:
	}
	return false
}

// Member is one node of the cluster as raft's configuration has it.
type Member struct {
	Node  string `json:"node"`
	Voter bool   `json:"voter"`
}

// Members lists the nodes that take part, by raft's configuration.
func (n *Node) Members() ([]Member, error) {
	run := n.current()
	if run == nil {
		return nil, n.whyParked()
	}
	conf := run.raft.GetConfiguration()
	if err := conf.Error(); err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	var list []Member
	for _, s := range conf.Configuration().Servers {
		list = append(list, Member{Node: string(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	return list, nil
}

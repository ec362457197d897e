package cluster

import (
	"context"

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
	leader := to == ""
	if leader {
		if to = n.leaderID(); to == "" {
			return nil, quorumLost()
		}
	}
	if to == n.conf.NodeID {
		return n.serve(ctx, n.conf.NodeID, method, body)
	}
	if n.port == nil {
		return nil, quorumLost()
	}
	if len(body) > MaxBody || len(method) > 255 {
		return nil, edge.ErrTooLarge.Error(edge.Invalid)
	}
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	return n.links.call(ctx, to, request{method: method, leader: leader, body: body})
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

// Contact says whether this node leads, or has heard from a leader within about one election time-out: by the network, not by a bundle. It
// costs a few atomic reads.
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
		last := run.raft.LastContact()
		return id != "" && n.conf.Now().Sub(last) <= run.times.Election && n.carried.before(last)
	case raft.Candidate, raft.Shutdown:
	}
	return false
}

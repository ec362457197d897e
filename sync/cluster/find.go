package cluster

import (
	"context"
	"fmt"

	"wispgate/edge"
)

// Find has this node take up where another is, as an operator says who knows. It is believed once that member has proved to be there, and it hears
// from this one in turn. No leader is needed: it is for members that have all moved, each of which would wait for word of another.
func (n *Node) Find(ctx context.Context, node, address string) error {
	switch p, ok := n.conf.Directory.Peer(node); {
	case n.port == nil:
		return ErrNoPort.Error(edge.Conflict)
	case !ok || node == n.conf.NodeID:
		return ErrPeerUnknown.Error(edge.NotFound)
	case p.Status == Removed:
		return ErrPeerRemoved.Error(edge.Conflict)
	}
	if err := checkAddress(address); err != nil {
		return edge.ErrInput.Error(edge.Invalid, edge.Field("/address", "is not host:port", "name it as that node's cluster.advertise does"))
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := n.port.dialAt(dialing, address, node, protoRPC, strict)
	if err != nil {
		return errNotThere(node, address, err)
	}
	_ = conn.Close()
	n.conf.Directory.heard(node, address)
	n.Around(ctx)
	return nil
}

func errNotThere(node, address string, cause error) error {
	return refuse("node_not_there", fmt.Sprintf("Node %s was not met at %s: %v", node, address, cause),
		"See with wispgate cluster list on that node where it is reached, and that its port is let through")
}

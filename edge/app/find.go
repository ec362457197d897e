package app

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"wispgate/edge"
)

// whereabouts is where a node of the cluster is, as its operator says.
type whereabouts struct {
	Node    string `json:"node"`
	Address string `json:"address"`
}

// serveFind takes up where another node is. It goes through the administration's socket because it is about this node alone, and for when no
// leader could commit anything.
func (c *core) serveFind(w http.ResponseWriter, r *http.Request) {
	var in whereabouts
	if err := json.NewDecoder(io.LimitReader(r.Body, 4<<10)).Decode(&in); err != nil {
		answerError(w, edge.ErrInput.Error(edge.Invalid))
		return
	}
	err := c.cluster.Find(r.Context(), in.Node, in.Address)
	if e, ok := edge.AsError(err); err != nil && ok {
		answerError(w, e)
		return
	}
	if err != nil {
		c.log.Error("a node was not looked for", "node", in.Node, "error", err)
		answerError(w, edge.ErrInternal.Error(edge.Internal))
		return
	}
	c.log.Info("a node was found where the operator said", "node", in.Node, "address", in.Address)
	_, _ = w.Write([]byte("{}"))
}

// FindNode has the daemon of a data folder look for another node of its cluster at an address.
func FindNode(ctx context.Context, dir, node, address string) error {
	l := localClient(dir)
	if l == nil {
		return errNoDaemon(dir)
	}
	resp, err := l.do(ctx, http.MethodPost, "/cluster/find", whereabouts{Node: node, Address: address})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

package exec

import (
	"strconv"

	"wispgate/edge"
)

// Origin says from which node's queue an intent comes, and its place there. The cluster takes a queue over strictly in order and each
// place once: how far it has come is a mark, written in the entry that settles the intent. So a queue may be sent again from any point,
// by any road, after any failure.
type Origin struct {
	Node  string `json:"node"`
	Queue string `json:"queue"` // incarnation of the queue: a new disk begins another one
	Seq   uint64 `json:"seq,omitempty"`
	After uint64 `json:"after,omitempty"` // the place before it in the queue; it must be settled
}

func originKey(o Origin) string { return "#pending/" + o.Node + "/" + o.Queue }

// originMark is the last settled place of the queue.
func (x *Exec) originMark(o Origin) (uint64, error) {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	raw, _, err := st.Get(originKey(o))
	return toNumber(raw), err
}

// inOrder answers an intent whose place in its queue is settled, and sends back one that comes before its turn.
func (x *Exec) inOrder(d *draft, in *Intent) (reply edge.Reply, done bool, err error) {
	raw, err := d.begin(in).get(originKey(*in.Origin))
	if err != nil {
		return reply, false, err
	}
	switch mark := toNumber(raw); {
	case mark >= in.Origin.Seq:
		reply, ok, err := x.recorded(d, in)
		if !ok || err != nil { // its answer is no longer kept, or belongs to another
			reply = edge.Reply{Operation: in.Operation, State: "committed", Durability: x.cfg.Durability(), Replayed: true}
		}
		return reply, true, nil
	case mark < in.Origin.After:
		return reply, false, edge.ErrSyncOrder.Error(edge.Unavailable)
	}
	return reply, false, nil
}

func isUnavailable(err error) bool {
	e, ok := edge.AsError(err)
	return ok && e.Kind == edge.Unavailable
}

// String names the place, for ids and logs.
func (o *Origin) String() string { return o.Node + "/" + o.Queue + "/" + strconv.FormatUint(o.Seq, 10) }

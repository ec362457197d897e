package exec

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
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

// settled is how far a queue has been taken over: the last place, and a digest of what stood there, by which an old copy of a disk shows.
type settled struct {
	Seq    uint64 `json:"seq"`
	Digest string `json:"digest,omitempty"`
}

func (s settled) row() []byte { return append(number(s.Seq), s.Digest...) }

func parseSettled(raw []byte) settled {
	if len(raw) < 8 {
		return settled{}
	}
	return settled{toNumber(raw[:8]), string(raw[8:])}
}

// place is the intent's own row.
func (in *Intent) place() settled { return settled{in.Origin.Seq, in.digestOfPlace()} }

// digestOfPlace tells the intent from others that might stand in the same place.
func (in *Intent) digestOfPlace() string {
	sum := sha256.Sum256([]byte(in.scoped() + "\n" + in.Digest))
	return hex.EncodeToString(sum[:8])
}

// originMark is the last settled place of the queue.
func (x *Exec) originMark(o Origin) (settled, error) {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	raw, _, err := st.Get(originKey(o))
	return parseSettled(raw), err
}

// inOrder answers an intent whose place in its queue is settled, and sends back one that comes before its turn.
func (x *Exec) inOrder(d *draft, in *Intent) (reply edge.Reply, done bool, err error) {
	raw, err := d.begin(in).get(originKey(*in.Origin))
	if err != nil {
		return reply, false, err
	}
	switch mark := parseSettled(raw).Seq; {
	case mark >= in.Origin.Seq:
		_, reply, ok, err := x.recorded(d, in)
		if !ok || err != nil { // its answer is no longer kept, or belongs to another
			reply = edge.Reply{Operation: in.Operation, State: "committed", Durability: x.cfg.Durability(), Replayed: true}
		}
		if errors.Is(err, edge.ErrKeyReused.Error(edge.Invalid)) { // a conflict for this very reason leaves the other's answer alone
			c, found, err := conflicts.Find(d.begin(in), in.conflictID())
			if err != nil {
				return reply, false, err
			}
			if found {
				reply.State, reply.Conflict = "conflict", c.ID
			}
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

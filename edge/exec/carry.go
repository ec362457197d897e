package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"wispgate/edge"
)

// A queue may reach the cluster on a stick: what waits in it is written to a bundle, and any member hands it over in the node's place. To
// the cluster it is one more road: each place of a queue is settled once and in order, whoever brings it.

// Reasons for which a carried queue is refused.
var (
	ErrQueueNone    = edge.Reason{Code: "queue_none", Says: "This program keeps no writes for a cluster", Fix: "Export at a node; a relay has nothing that waits"}
	ErrQueueMoved   = edge.Reason{Code: "queue_moved", Says: "The cluster took writes over while they were being exported", Fix: "The link is back: nothing needs to be carried. Look with wispgate sync status"}
	ErrQueueDamaged = edge.Reason{Code: "queue_damaged", Says: "A pending write turned out to be damaged while they were being exported", Fix: "Run the same command again: it leaves that one out, and wispgate doctor names its place"}
	ErrQueueOlder   = edge.Reason{Code: "bundle_queue_older", Says: "The bundle is of an older copy of its node's queue: the cluster has settled other writes in the same places", Fix: "An old copy of that node's disk was started. Carry a bundle to it first (wispgate sync export --for NODE); it then numbers its queue anew, and can be exported again"}
	ErrQueueOrder   = edge.Reason{Code: "bundle_order", Says: "The bundle begins behind writes of its node that the cluster does not have", Fix: "Import the node's earlier bundle first; where there is none, export it anew from the node"}
	ErrQueueWrong   = edge.Reason{Code: "bundle_content", Says: "The bundle does not hold what it says", Fix: "Export it anew from the node; nothing of it was taken"}
)

// QueueRest is what waits in a node's queue: the places First to Last, in order, behind the settled place After. Count is 0 when nothing
// waits.
type QueueRest struct {
	Node  string `json:"node"`
	Queue string `json:"queue"`
	After uint64 `json:"after"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Count int    `json:"count"`
}

func (q QueueRest) origin() Origin { return Origin{Node: q.Node, Queue: q.Queue} }

// QueueRest says what waits here now, as far as it is durable.
func (x *Exec) QueueRest() (QueueRest, error) {
	if x.cfg.Queue == nil {
		return QueueRest{}, ErrQueueNone.Error(edge.Conflict)
	}
	name, err := x.queueName()
	if err != nil {
		return QueueRest{}, err
	}
	q := QueueRest{Node: x.cfg.Node, Queue: name}
	mark, err := x.originMark(q.origin())
	if err != nil {
		return q, err
	}
	same, err := x.holds(mark)
	if err != nil {
		return q, err
	}
	if !same { // an old copy of a disk, about to name its queue anew
		e := edge.ErrStarting.Error(edge.Unavailable)
		e.RetryAfter = 1
		return q, e
	}
	q.After, q.First, q.Last = mark.Seq, max(x.taken(), mark.Seq)+1, x.intactUpTo(x.cfg.Queue.Next()-1)
	if q.Last < q.First {
		q.First, q.Last = 0, 0
		return q, nil
	}
	q.Count = int(q.Last - q.First + 1 - x.lostBetween(q.First, q.Last))
	return q, nil
}

// EachPending visits the intents of a rest, each as it goes to the leader.
func (x *Exec) EachPending(ctx context.Context, q QueueRest, visit func(intent []byte) error) error {
	if q.Count == 0 {
		return nil
	}
	visited := 0
	for next, after := q.First, q.After; next <= q.Last; {
		from := next
		err := x.read(from, drainPage, func(in *Intent, seq uint64) error {
			if seq > q.Last {
				return nil
			}
			o := q.origin()
			o.Seq, o.After = seq, after
			in.Origin, after, next = &o, seq, seq+1
			raw, err := json.Marshal(in)
			if err != nil {
				return fmt.Errorf("encode intent: %w", err)
			}
			if err := visit(raw); err != nil {
				return err
			}
			visited++
			return ctx.Err()
		})
		if (err != nil || next == from) && x.taken() >= from && ctx.Err() == nil {
			return ErrQueueMoved.Error(edge.Conflict)
		}
		if err != nil {
			return err
		}
		if next == from {
			break
		}
	}
	if visited != q.Count {
		return ErrQueueDamaged.Error(edge.Conflict)
	}
	return nil
}

// Reconcile returns when what waits here has been compared with the state as it is now, and what that shows as settled is dropped.
func (x *Exec) Reconcile(ctx context.Context) error {
	for version := x.Version(); !x.pending.idle() && x.pending.looked.Load() < version; {
		x.pending.wake()
		if !pauseFor(ctx, sendRetry, nil) {
			return ctx.Err()
		}
	}
	return nil
}

// Carried holds the records of a bundle against what it says of itself: this queue's intents, all of them, in order.
type Carried struct {
	rest  QueueRest
	after uint64
	count int
}

// Carried begins the check of a rest that was read from a bundle.
func (q QueueRest) Carried() *Carried { return &Carried{rest: q, after: q.After} }

// Intent checks the next record.
func (c *Carried) Intent(raw []byte) (*Intent, error) {
	in, q := new(Intent), c.rest
	if json.Unmarshal(raw, in) != nil || in.check() != nil || in.Origin == nil {
		return nil, ErrQueueWrong.Error(edge.Invalid)
	}
	o := *in.Origin
	if o.Node != q.Node || o.Queue != q.Queue || o.After != c.after || o.Seq <= o.After || o.Seq < q.First || o.Seq > q.Last {
		return nil, ErrQueueWrong.Error(edge.Invalid)
	}
	c.after, c.count = o.Seq, c.count+1
	return in, nil
}

// End checks that nothing is missing.
func (c *Carried) End() error {
	if c.count != c.rest.Count || c.count > 0 && c.after != c.rest.Last || c.rest.Node == "" || c.rest.Queue == "" {
		return ErrQueueWrong.Error(edge.Invalid)
	}
	return nil
}

// TakenOver is what became of a carried queue.
type TakenOver struct {
	New       int       `json:"new" doc:"Writes that the cluster had not seen."`
	Already   int       `json:"already" doc:"Writes that it had, by whatever road they came."`
	Conflicts int       `json:"conflicts" doc:"Of all these, those that its state did not allow and that wait for a decision."`
	IDs       []edge.ID `json:"conflict_ids,omitempty" doc:"The first of them."`

	lost int // settled places of which no answer is kept, although they are recent
}

const (
	maxConflictIDs = 100
	carryTries     = 11 // in a row without progress, half a minute altogether
	freshAnswers   = keepAnswers - 12*time.Hour
)

func (t *TakenOver) count(in *Intent, r *edge.Reply, now time.Time) {
	if r.Replayed {
		t.Already++
	} else {
		t.New++
	}
	if r.State == "conflict" {
		t.Conflicts++
		if len(t.IDs) < maxConflictIDs {
			t.IDs = append(t.IDs, r.Conflict)
		}
	}
	if r.Replayed && r.State != "conflict" && r.Version == 0 && now.Sub(in.At) < freshAnswers {
		t.lost++
	}
}

// TakeOver hands a carried queue to the cluster. A former node's may begin behind places that the cluster lost in a recovery. next yields its intents, as EachPending gave them, then io.EOF; told hears how many are
// settled. It may be repeated, and run at several members at a time: each place counts once. With an error some may have been handed over;
// the result says how many.
func (x *Exec) TakeOver(ctx context.Context, q QueueRest, former bool, next func() ([]byte, error), told func(done int)) (done TakenOver, err error) {
	mark, err := x.agreeOn(ctx, q, former)
	if err != nil {
		return done, err
	}
	c := carrier{Exec: x, records: q.Carried(), next: next, mark: mark, lost: mark.Seq < q.After}
	if mark.Seq > q.Last { // of the places that it says are settled, this bundle holds none: what it holds must be what stood there
		c.mark = settled{}
	}
	for {
		page, err := c.page()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return done, err
		}
		if err := x.settlePage(ctx, page, &done); err != nil {
			return done, err
		}
		done.Already += c.skipped
		c.skipped = 0
		told(done.New + done.Already)
	}
	done.Already += c.skipped
	if done.lost > 0 {
		return done, ErrQueueOlder.Error(edge.Conflict)
	}
	return done, nil
}

// agreeOn asks how far the cluster has come with the queue, and whether the bundle follows on it.
func (x *Exec) agreeOn(ctx context.Context, q QueueRest, former bool) (settled, error) {
	if x.log == nil {
		return settled{}, edge.ErrStarting.Error(edge.Unavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	for {
		mark, err := x.askMark(ctx, q.origin())
		switch {
		case err == nil && mark.Seq < q.After && !former:
			return mark, ErrQueueOrder.Error(edge.Conflict)
		case err == nil:
			return mark, nil
		case !x.log.Contact() || !pauseFor(ctx, retryLeast, nil):
			return mark, err
		}
	}
}

// carrier reads a bundle page by page.
type carrier struct {
	*Exec
	records *Carried
	next    func() ([]byte, error)
	mark    settled // how far the cluster has come; the bundle must hold what it settled last
	lost    bool    // places between the mark and the first intent
	skipped int     // settled, and proved to be the same
	kept    *Intent // read, and of the next page
}

// page is the next intents to submit, as many as one request holds. Those up to the mark are left out: that the last of them is what the
// cluster settled proves that all are.
func (c *carrier) page() (list []*Intent, err error) {
	size := 0
	for most := c.forwardMost(); len(list) < most; {
		in := c.kept
		c.kept = nil
		if in == nil {
			if in, err = c.read(); errors.Is(err, io.EOF) && len(list) > 0 {
				return list, nil
			}
			if err != nil {
				return nil, err
			}
		}
		if size += in.size(); size > forwardOctets && len(list) > 0 {
			c.kept = in
			break
		}
		list = append(list, in)
	}
	return list, nil
}

// read is the next intent behind the mark.
func (c *carrier) read() (*Intent, error) {
	for {
		raw, err := c.next()
		if errors.Is(err, io.EOF) {
			if err := c.records.End(); err != nil {
				return nil, err
			}
			return nil, io.EOF
		}
		if err != nil {
			return nil, err
		}
		in, err := c.records.Intent(raw)
		if err != nil {
			return nil, err
		}
		at := in.Origin
		if at.Seq > c.mark.Seq {
			if at.After < c.mark.Seq && c.mark.Seq > c.records.rest.After { // the place that was settled last is not in it
				return nil, ErrQueueOlder.Error(edge.Conflict)
			}
			if c.lost {
				at.After, c.lost = c.mark.Seq, false
			}
			return in, nil
		}
		if at.Seq == c.mark.Seq && in.digestOfPlace() != c.mark.Digest {
			return nil, ErrQueueOlder.Error(edge.Conflict)
		}
		c.skipped++
	}
}

// settlePage submits a page until each of its intents is settled.
func (x *Exec) settlePage(ctx context.Context, page []*Intent, done *TakenOver) error {
	pause, tries := retryLeast, 0
	for {
		asked, cancel := context.WithTimeout(ctx, drainWithin)
		answers, err := x.submit(asked, page)
		cancel()
		n := 0
		for i := range answers {
			if e := answers[i].Error; e != nil {
				err = e
				break
			}
			done.count(page[i], answers[i].Reply, x.cfg.Now())
			n++
		}
		if page = page[n:]; len(page) == 0 {
			return nil
		}
		if n > 0 {
			pause, tries = retryLeast, 0
		}
		if err == nil {
			err = edge.ErrUnknown.Error(edge.Unavailable)
		}
		if tries++; tries >= carryTries || !pauseFor(ctx, pause, nil) {
			return err
		}
		pause = min(2*pause, retryMost)
	}
}

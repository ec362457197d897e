package exec

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wispgate/edge"
)

// request is what one node asks of the leader, one hop away.
type request struct {
	// Intents to evaluate, in this order. Those with an Origin come from that node's queue.
	Intents []*Intent `json:"intents,omitempty"`
	// Read asks for a version at which everything acknowledged before is included.
	Read bool `json:"read,omitempty"`
	// Mark asks how far a node's queue has been taken over.
	Mark *Origin `json:"mark,omitempty"`
}

// response answers a request.
type response struct {
	Answers []outcome `json:"answers,omitempty"` // of the intents, in order
	Version uint64    `json:"version,omitempty"` // for Read
	Mark    *settled  `json:"mark,omitempty"`
}

// outcome is what became of one intent: a reply, or an error.
type outcome struct {
	Reply *edge.Reply `json:"reply,omitempty"`
	Error *edge.Error `json:"error,omitempty"`
}

// What one request may hold.
const (
	maxForwarded    = 256       // intents
	formerForwarded = 64        // intents, where a member of before ChainLevel might lead
	forwardOctets   = 384 << 10 // of intents, if they are several
)

// forwardMost is how many intents one request may hold at present.
func (x *Exec) forwardMost() int {
	if x.Level() < ChainLevel {
		return formerForwarded
	}
	return maxForwarded
}

// send brings a prepared intent to where it is evaluated and has its waiter finished. It returns within ctx, the patience.
func (x *Exec) send(ctx context.Context, w *waiter) error {
	if x.log == nil {
		return edge.ErrStarting.Error(edge.Unavailable)
	}
	if !x.pending.idle() { // what this node took while it was cut off goes first
		if w.offline {
			return quorumLost()
		}
		if err := x.pending.settled(ctx); err != nil {
			if x.CutOff() {
				return x.cutOff()
			}
			e := edge.ErrRebasing.Error(edge.Unavailable)
			e.RetryAfter = 3
			return e
		}
	}
	answer := quorumLost()
	for {
		switch {
		case x.log.IsLeader():
			return x.enqueue(w)
		case x.CutOff():
			if isQuorumLost(answer) {
				return x.cutOff()
			}
			return answer
		case x.log.Contact():
			reply, err := x.forward(ctx, w.intent)
			if err == nil {
				_ = x.WaitVersion(ctx, reply.Version) // so that the caller reads its own write here; committed it is in any case
				reply.Once = w.once
				x.finish(w, reply, nil)
				return nil
			}
			if x.evaluating(w) {
				return nil // by this node itself, which came to lead meanwhile
			}
			if !undecided(err) {
				return err
			}
			if !isQuorumLost(answer) && isQuorumLost(err) {
				err = answer // once the outcome is unknown, a later attempt that did not leave this node does not settle it
			}
			answer = err
		}
		if !pauseFor(ctx, sendRetry, nil) {
			return answer
		}
	}
}

// sendRetry is the pause between two attempts to reach a leader.
const sendRetry = 20 * time.Millisecond

// pauseFor waits, no longer than until wake closes where there is one, and reports whether ctx goes on.
func pauseFor(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// submit has the leader evaluate intents: this node, where it leads.
func (x *Exec) submit(ctx context.Context, intents []*Intent) ([]outcome, error) {
	if x.log.IsLeader() {
		return x.serveIntents(ctx, intents), nil
	}
	resp, err := x.ask(ctx, request{Intents: intents})
	if err != nil {
		return nil, err
	}
	if len(resp.Answers) != len(intents) {
		return nil, edge.ErrUnknown.Error(edge.Unavailable)
	}
	for _, a := range resp.Answers {
		if (a.Reply == nil) == (a.Error == nil) {
			return nil, edge.ErrUnknown.Error(edge.Unavailable)
		}
	}
	return resp.Answers, nil
}

// ask sends a request to the leader.
func (x *Exec) ask(ctx context.Context, req request) (response, error) {
	raw, err := req.encode(x.Level() >= PackLevel)
	if err != nil {
		return response{}, fmt.Errorf("encode request: %w", err)
	}
	body, err := x.log.Forward(ctx, raw)
	if err != nil {
		if _, ok := edge.AsError(err); !ok {
			err = edge.ErrUnknown.Error(edge.Unavailable)
		}
		return response{}, err
	}
	resp, err := decodeResponse(body)
	if err != nil {
		return response{}, edge.ErrUnknown.Error(edge.Unavailable)
	}
	return resp, nil
}

// Serve answers what another member of the cluster forwards. The caller has proved who it is; a node that does not lead refuses.
func (x *Exec) Serve(ctx context.Context, body []byte) ([]byte, error) {
	req, err := decodeRequest(body)
	if err != nil {
		return nil, edge.ErrInput.Error(edge.Invalid)
	}
	if x.log == nil || !x.log.IsLeader() {
		return nil, quorumLost()
	}
	if len(req.Intents) > maxForwarded {
		return nil, edge.ErrTooLarge.Error(edge.Invalid)
	}
	for _, in := range req.Intents {
		if err := in.check(); err != nil {
			return nil, err
		}
	}
	resp := response{Answers: x.serveIntents(ctx, req.Intents)}
	if req.Read || req.Mark != nil {
		if err := x.log.Linearize(ctx); err != nil {
			return nil, err
		}
		resp.Version = x.Version()
	}
	if req.Mark != nil {
		mark, err := x.originMark(*req.Mark)
		if err != nil {
			return nil, err
		}
		resp.Mark = &mark
	}
	return resp.encode(isParcel(body))
}

// check refuses an intent that no node of ours makes.
func (in *Intent) check() error {
	if in == nil || in.Actor.Tenant == "" || in.Operation == "" || in.Digest == "" || len(in.Calls) == 0 || in.Origin != nil && !in.Acknowledged {
		return edge.ErrInput.Error(edge.Invalid)
	}
	return nil
}

// serveIntents evaluates intents in their order and waits for all of them.
func (x *Exec) serveIntents(ctx context.Context, intents []*Intent) []outcome {
	waiters, joins, outs := make([]*waiter, len(intents)), make([]bool, len(intents)), make([]outcome, len(intents))
	for i, in := range intents {
		w, joined, err := x.join(in)
		switch {
		case err != nil:
		case !joined:
			if err = x.enqueue(w); err != nil {
				x.finish(w, edge.Reply{}, err)
			}
		case x.own(w):
			err = x.enqueue(w)
		}
		if err != nil {
			outs[i].Error = x.shown(in, err)
			continue
		}
		waiters[i], joins[i] = w, joined
	}
	for i, w := range waiters {
		if w == nil {
			continue
		}
		reply, err := w.wait(ctx, joins[i])
		if err != nil {
			outs[i].Error = x.shown(intents[i], err)
			continue
		}
		reply.Once = nil // it never leaves the node that minted it
		if intents[i].Origin != nil {
			reply.Results, reply.Records = nil, nil // whoever asked was answered long ago
		}
		outs[i].Reply = &reply
	}
	return outs
}

// evaluating reports that the intent is in the queue of rounds here.
func (x *Exec) evaluating(w *waiter) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return w.queued
}

// own reports that a waiter is this node's own and prepared: the node came to lead while it was forwarding, and asks itself.
func (x *Exec) own(w *waiter) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return w.ready
}

func (x *Exec) shown(in *Intent, err error) *edge.Error {
	e, ok := edge.AsError(err)
	if !ok {
		x.cfg.Logger.Error("forwarded operation failed", "operation", in.name(), "error", err)
	}
	return e
}

// ReadVersion returns a version that includes everything acknowledged by any node before the call: with it as minimum, a read is
// linearizable.
func (x *Exec) ReadVersion(ctx context.Context) (uint64, error) {
	if x.log == nil {
		return 0, edge.ErrStarting.Error(edge.Unavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Patience)
	defer cancel()
	answer := quorumLost()
	for {
		switch {
		case x.log.IsLeader():
			if err := x.log.Linearize(ctx); err == nil {
				return x.Version(), nil
			}
		case x.log.Contact():
			resp, err := x.ask(ctx, request{Read: true})
			if err == nil {
				return resp.Version, nil
			}
			if !undecided(err) {
				return 0, err
			}
		}
		if !pauseFor(ctx, sendRetry, nil) {
			return 0, answer
		}
	}
}

func quorumLost() error {
	e := edge.ErrQuorumLost.Error(edge.Unavailable)
	e.RetryAfter = 3
	return e
}

// cutOff is the refusal of a node that has been without a leader for a while.
func (x *Exec) cutOff() error {
	e := edge.ErrQuorumLost.Error(edge.Unavailable)
	e.RetryAfter = 3
	e.Message = "This node hears no leader since " + time.Unix(0, x.pending.since.Load()).UTC().Format(time.RFC3339) + ", so nothing can be committed"
	return e
}

func isQuorumLost(err error) bool { return errors.Is(err, edge.ErrQuorumLost.Error(edge.Unavailable)) }

// undecided reports an error that says nothing about the intent itself: the same intent may be sent again.
func undecided(err error) bool {
	return isQuorumLost(err) || errors.Is(err, edge.ErrUnknown.Error(edge.Unavailable)) || errors.Is(err, edge.ErrInFlight.Error(edge.Conflict))
}

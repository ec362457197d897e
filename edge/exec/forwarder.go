package exec

import (
	"context"
	"errors"
	"runtime"

	"wispgate/edge"
)

// A follower's callers send their intents to the leader together: what waits when a request is made goes with it. Each request costs both
// nodes a record of TLS, two wake-ups and a document, however many it holds.

const forwardRoom = 512 // callers that may wait for the next request

// forwarder takes what the callers of this node have for the leader.
type forwarder struct {
	queue chan *forwarded
	ended chan struct{} // closed when nothing is taken any more
}

// forwarded is an intent on its way to the leader.
type forwarded struct {
	in     *Intent
	gone   <-chan struct{} // closed when nobody waits for the answer
	answer chan arrival    // gets one
}

type arrival struct {
	outcome
	err error // there is no outcome
}

func (f *forwarder) init() {
	f.queue, f.ended = make(chan *forwarded, forwardRoom), make(chan struct{})
}

// forward asks the leader to evaluate one intent.
func (x *Exec) forward(ctx context.Context, in *Intent) (edge.Reply, error) {
	c := &forwarded{in: in, gone: ctx.Done(), answer: make(chan arrival, 1)}
	select {
	case x.forwarder.queue <- c:
	case <-x.forwarder.ended:
		return edge.Reply{}, quorumLost()
	case <-ctx.Done():
		return edge.Reply{}, quorumLost()
	}
	to, ok := edge.Hear(c.answer, x.forwarder.ended, ctx.Done())
	switch {
	case !ok:
		return edge.Reply{}, edge.ErrUnknown.Error(edge.Unavailable)
	case to.err != nil:
		return edge.Reply{}, to.err
	case to.Error != nil:
		return edge.Reply{}, to.Error
	}
	return *to.Reply, nil
}

// forwards makes one request after the other of what waits, and waits for none of them.
func (x *Exec) forwards(ctx context.Context) {
	defer close(x.forwarder.ended)
	var next *forwarded // did not fit the last one
	for {
		first := next
		if first == nil {
			select {
			case first = <-x.forwarder.queue:
			case <-ctx.Done():
				return
			}
			runtime.Gosched() // whoever was woken together with the first comes along
		}
		var load []*forwarded
		load, next = x.gather(first)
		if len(load) > 0 {
			x.wg.Go(func() { x.deliver(ctx, load) })
		}
	}
}

// gather takes what waits behind first, as much as one request holds. next is one that it does not hold.
func (x *Exec) gather(first *forwarded) (load []*forwarded, next *forwarded) {
	most := x.forwardMost()
	size := 0
	for c := first; ; {
		select {
		case <-c.gone: // and nothing was sent
		default:
			if size += c.in.size(); size > forwardOctets && len(load) > 0 {
				return load, c
			}
			load = append(load, c)
		}
		if len(load) == most {
			return load, nil
		}
		select {
		case c = <-x.forwarder.queue:
		default:
			return load, nil
		}
	}
}

// deliver sends a request and hands out its answers. Answers that are too long together are asked for one at a time: their intents are
// evaluated once, whoever asks.
func (x *Exec) deliver(ctx context.Context, load []*forwarded) {
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Patience)
	defer cancel()
	intents := make([]*Intent, len(load))
	for i, c := range load {
		intents[i] = c.in
	}
	answers, err := x.submit(ctx, intents)
	if len(load) > 1 && errors.Is(err, edge.ErrTooLarge.Error(edge.Invalid)) {
		for _, c := range load {
			x.deliver(ctx, []*forwarded{c})
		}
		return
	}
	for i, c := range load {
		if err != nil {
			c.answer <- arrival{err: err}
		} else {
			c.answer <- arrival{outcome: answers[i]}
		}
	}
}

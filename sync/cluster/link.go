package cluster

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"wispgate/edge"
)

// links are the connections over which this node asks others: one for each, made when it is needed.
type links struct {
	node *Node

	mu     sync.Mutex
	peers  map[string]*peerLink
	closed bool
	wg     sync.WaitGroup
}

// peerLink is the way to one member.
type peerLink struct {
	slots   chan struct{} // requests in flight
	waiting chan struct{} // callers, those in flight included

	dialing chan struct{} // held by whoever makes the connection
	mu      sync.Mutex
	link    *link
	failed  error // of the last attempt; nil where it succeeded
}

func newLinks(n *Node) *links { return &links{node: n, peers: map[string]*peerLink{}} }

func (l *links) close() {
	l.mu.Lock()
	l.closed = true
	for _, p := range l.peers {
		p.mu.Lock()
		if p.link != nil {
			p.link.close(net.ErrClosed)
		}
		p.mu.Unlock()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

func (l *links) peer(node string) *peerLink {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[node]
	if p == nil {
		p = &peerLink{
			slots: make(chan struct{}, maxInFlight), waiting: make(chan struct{}, maxInFlight+maxWaiting), dialing: make(chan struct{}, 1),
		}
		l.peers[node] = p
	}
	return p
}

// why is the reason for which a member was not reached at the last attempt, with the address at which it says to be reached.
func (l *links) why(node string) string {
	l.mu.Lock()
	p := l.peers[node]
	l.mu.Unlock()
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		return ""
	}
	m, _ := l.node.conf.Directory.Peer(node)
	at := "is " + m.Address
	if h := l.node.conf.Directory.hint(node); h != "" {
		at = fmt.Sprintf("was %s, and is %s by its own word", m.Address, h)
	}
	return fmt.Sprintf("its cluster.advertise %s; %v", at, cmp.Or(errors.Unwrap(p.failed), p.failed))
}

// forget drops the ways to nodes that are members no more.
func (l *links) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for node, p := range l.peers {
		if m, ok := l.node.conf.Directory.Peer(node); ok && m.Status != Removed {
			continue
		}
		p.mu.Lock()
		if p.link != nil {
			p.link.close(net.ErrClosed)
		}
		p.mu.Unlock()
		delete(l.peers, node)
	}
}

// call asks a member over its connection.
func (l *links) call(ctx context.Context, to string, r request) ([]byte, error) {
	p := l.peer(to)
	select {
	case p.waiting <- struct{}{}:
		defer func() { <-p.waiting }()
	default:
		return nil, errOverloaded()
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done(): // nothing was sent; to whoever waited it is as if the other end were away, which it may well be
		return nil, quorumLost()
	}
	k, err := l.open(ctx, to, p)
	if err != nil {
		l.node.log.Debug("member not reached", "to", to, "method", r.method, "error", err)
		if errors.Is(err, errApart) { // as it would say itself
			return nil, ErrPeerGone.Error(edge.Unavailable)
		}
		return nil, quorumLost()
	}
	return k.ask(ctx, r)
}

// open returns the living connection to a member, making it when there is none.
func (l *links) open(ctx context.Context, to string, p *peerLink) (*link, error) {
	select {
	case p.dialing <- struct{}{}:
		defer func() { <-p.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	k := p.link
	p.mu.Unlock()
	if k != nil && !k.dead() {
		return k, nil
	}
	conn, err := l.node.port.dial(ctx, to, protoRPC, strict)
	p.mu.Lock()
	p.failed = err
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	k = newLink(conn, l.node.conf.Now)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.peers[to] != p { // or forgotten meanwhile: nobody would close it
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	l.wg.Go(k.read)
	l.wg.Go(k.ping)
	p.mu.Lock()
	p.link = k
	p.mu.Unlock()
	return k, nil
}

// link is the asking end of a connection. Many requests are on their way at a time, each with an id.
type link struct {
	conn net.Conn
	out  *frames
	now  func() time.Time
	gone chan struct{} // closed with the connection

	mu      sync.Mutex
	last    uint64
	asked   time.Time // when the oldest request went out since it was last heard; zero: none did
	pending map[uint64]chan frame
	err     error // why it is gone
}

func newLink(conn net.Conn, now func() time.Time) *link {
	return &link{conn: conn, out: &frames{conn: conn, now: now}, now: now, gone: make(chan struct{}), pending: map[uint64]chan frame{}}
}

func (k *link) dead() bool {
	select {
	case <-k.gone:
		return true
	default:
		return false
	}
}

func (k *link) close(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil {
		k.err = err
		close(k.gone)
		_ = k.conn.Close()
	}
}

// read hands answers to whoever waits for them.
func (k *link) read() {
	r := bufio.NewReader(k.conn)
	for {
		if err := k.conn.SetReadDeadline(k.now().Add(deadAfter)); err != nil {
			k.close(err)
			return
		}
		f, err := readFrame(r)
		if err != nil {
			k.close(err)
			return
		}
		k.mu.Lock()
		k.asked = time.Time{}
		waiting := k.pending[f.id]
		delete(k.pending, f.id)
		k.mu.Unlock()
		if waiting != nil {
			waiting <- f // has room for one
		}
	}
}

// ping keeps the way through firewalls open and finds out when it is not.
func (k *link) ping() {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-k.gone:
			return
		case <-t.C:
			if err := k.out.write(frame{kind: kindPing}); err != nil {
				k.close(err)
				return
			}
		}
	}
}

// silentAfter is how long a connection may give no sign while a caller waits until the next call makes a new one.
const silentAfter = 3 * time.Second

// ask sends one request and waits for its answer.
func (k *link) ask(ctx context.Context, r request) ([]byte, error) {
	if deadline, ok := ctx.Deadline(); ok {
		r.wait = deadline.Sub(k.now())
	} else {
		r.wait = longestCall
	}
	return k.askRaw(ctx, r.encode())
}

// askRaw sends a request as it is.
func (k *link) askRaw(ctx context.Context, payload []byte) ([]byte, error) {
	answer := make(chan frame, 1)
	k.mu.Lock()
	if k.err != nil {
		k.mu.Unlock()
		return nil, quorumLost()
	}
	k.last++
	id := k.last
	k.pending[id] = answer
	if k.asked.IsZero() {
		k.asked = k.now()
	}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.pending, id)
	}()
	if err := k.out.write(frame{kind: kindRequest, id: id, payload: payload}); err != nil {
		k.close(err)
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	if f, ok := edge.Hear(answer, k.gone, ctx.Done()); ok {
		return f.result()
	}
	if k.dead() {
		return nil, fmt.Errorf("%w: the connection broke", ErrUnknownOutcome)
	}
	k.giveUp(id)
	return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
}

// giveUp tells the other end that nobody waits any more, and closes a connection that has given no sign for long, whoever asked meanwhile: callers that
// have less patience than that come again.
func (k *link) giveUp(id uint64) {
	k.mu.Lock()
	silent := !k.asked.IsZero() && k.now().Sub(k.asked) >= silentAfter
	k.mu.Unlock()
	if silent {
		k.close(errors.New("no sign of life"))
		return
	}
	if err := k.out.write(frame{kind: kindCancel, id: id}); err != nil {
		k.close(err)
	}
}

func (f frame) result() ([]byte, error) {
	switch f.kind {
	case kindAnswer:
		return f.payload, nil
	case kindError:
		e := new(edge.Error)
		if err := json.Unmarshal(f.payload, e); err == nil && e.Code != "" {
			return nil, e
		}
	}
	return nil, fmt.Errorf("%w: the answer cannot be read", ErrUnknownOutcome)
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// wires is a network inside a test: nodes listen under their names and are cut off from each other in either direction.
type wires struct {
	mu        sync.Mutex
	listeners map[string]*wireListener
	cut       map[[2]string]bool
	void      map[string]bool // addresses at which nothing answers, nor refuses
	pipes     map[*halfPipe]struct{}
	dials     int
	octets    atomic.Int64
}

func newWires() *wires {
	return &wires{listeners: map[string]*wireListener{}, cut: map[[2]string]bool{}, void: map[string]bool{}, pipes: map[*halfPipe]struct{}{}}
}

// as is the network as one node sees it.
func (w *wires) as(node string) Network { return wireEnd{w, node} }

// Cut stops everything from one node to another. What is on the way is lost, and so is every connection that needs it.
func (w *wires) Cut(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]string{from, to}] = true
	for p := range w.pipes {
		if p.from == from && p.to == to {
			p.deaden()
		}
	}
}

// Part cuts a node off in both directions from all others.
func (w *wires) Part(node string, others ...string) {
	for _, o := range others {
		if o != node {
			w.Cut(node, o)
			w.Cut(o, node)
		}
	}
}

// Void has attempts to reach an address that nobody listens on swallowed, as in a network that its machine has left.
func (w *wires) Void(address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.void[address] = true
}

// Alias has the listener of an address reached by another one as well; an empty address ends that.
func (w *wires) Alias(alias, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if address == "" {
		delete(w.listeners, alias)
		return
	}
	w.listeners[alias] = w.listeners[address]
}

// Heal ends all cuts.
func (w *wires) Heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = map[[2]string]bool{}
}

func (w *wires) isCut(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[[2]string{from, to}]
}

type wireEnd struct {
	w    *wires
	node string
}

type wireListener struct {
	w      *wires
	addr   string
	accept chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (e wireEnd) Listen(_ context.Context, address string) (net.Listener, error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if e.w.listeners[address] != nil {
		return nil, fmt.Errorf("address %s is taken", address)
	}
	l := &wireListener{w: e.w, addr: address, accept: make(chan net.Conn), closed: make(chan struct{})}
	e.w.listeners[address] = l
	return l, nil
}

func (l *wireListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *wireListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.w.mu.Lock()
		defer l.w.mu.Unlock()
		delete(l.w.listeners, l.addr)
	})
	return nil
}

func (l *wireListener) Addr() net.Addr { return wireAddr(l.addr) }

type wireAddr string

func (wireAddr) Network() string  { return "wire" }
func (a wireAddr) String() string { return string(a) }

// Dial reaches host:port where the host is a node's name. A cut swallows the attempt, as a dead radio link does.
func (e wireEnd) Dial(ctx context.Context, address string) (net.Conn, error) {
	to, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if e.w.isCut(e.node, to) || e.w.isCut(to, e.node) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	e.w.mu.Lock()
	l, void := e.w.listeners[address], e.w.void[address]
	e.w.dials++
	if l == nil && void {
		e.w.mu.Unlock()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	there, back := newHalfPipe(e.w, e.node, to), newHalfPipe(e.w, to, e.node)
	e.w.pipes[there], e.w.pipes[back] = struct{}{}, struct{}{}
	e.w.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	mine := &wireConn{in: back, out: there, name: address, mine: make(chan struct{})}
	theirs := &wireConn{in: there, out: back, name: e.node, mine: make(chan struct{})}
	select {
	case l.accept <- theirs:
		return mine, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// halfPipe carries octets one way, with room for some.
type halfPipe struct {
	w        *wires
	from, to string
	data     chan []byte
	closed   chan struct{}
	once     sync.Once
	dead     chan struct{} // cut: nothing passes any more and nobody is told
	deadOnce sync.Once
}

func newHalfPipe(w *wires, from, to string) *halfPipe {
	return &halfPipe{w: w, from: from, to: to, data: make(chan []byte, 256), closed: make(chan struct{}), dead: make(chan struct{})}
}

func (p *halfPipe) deaden() { p.deadOnce.Do(func() { close(p.dead) }) }

func (p *halfPipe) close() {
	p.once.Do(func() {
		close(p.closed)
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		delete(p.w.pipes, p)
	})
}

type wireConn struct {
	in, out *halfPipe
	name    string
	mine    chan struct{} // closed with this end
	once    sync.Once

	mu          sync.Mutex
	rest        []byte
	read, write time.Time
	turned      chan struct{} // closed when a deadline changes
}

func (c *wireConn) deadline(read bool) (<-chan time.Time, func() bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turned == nil {
		c.turned = make(chan struct{})
	}
	at := c.write
	if read {
		at = c.read
	}
	if at.IsZero() {
		return nil, func() bool { return true }, c.turned
	}
	t := time.NewTimer(time.Until(at))
	return t.C, t.Stop, c.turned
}

func (c *wireConn) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		timeout, stop, turned := c.deadline(true)
		data, remote, dies := c.in.data, c.in.closed, c.in.dead
		select {
		case <-dies: // a dead link brings nothing and does not even tell of the end
			data, remote, dies = nil, nil, nil
		default:
		}
		var err error
		select {
		case c.rest = <-data:
		case <-c.mine: // closed here
			err = net.ErrClosed
		case <-timeout:
			err = os.ErrDeadlineExceeded
		case <-turned:
		case <-dies:
		case <-remote:
			select {
			case c.rest = <-data: // what was under way arrives
			default:
				err = io.EOF
			}
		}
		stop()
		if err != nil {
			return 0, err
		}
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *wireConn) Write(b []byte) (int, error) {
	d := append([]byte(nil), b...)
	for {
		timeout, stop, turned := c.deadline(false)
		select {
		case <-c.mine:
			stop()
			return 0, net.ErrClosed
		case <-c.in.closed:
			stop()
			return 0, io.ErrClosedPipe
		default:
		}
		select {
		case <-c.out.dead: // swallowed
			stop()
			return len(b), nil
		default:
		}
		select {
		case c.out.data <- d:
			stop()
			c.out.w.octets.Add(int64(len(b)))
			return len(b), nil
		case <-c.out.dead:
			stop()
			return len(b), nil
		case <-c.mine:
			stop()
			return 0, net.ErrClosed
		case <-c.in.closed:
			stop()
			return 0, io.ErrClosedPipe
		case <-timeout:
			return 0, os.ErrDeadlineExceeded
		case <-turned:
			stop()
		}
	}
}

func (c *wireConn) Close() error {
	c.once.Do(func() { close(c.mine) })
	c.out.close()
	return nil
}

func (c *wireConn) LocalAddr() net.Addr  { return wireAddr(c.out.from) }
func (c *wireConn) RemoteAddr() net.Addr { return wireAddr(c.name) }

func (c *wireConn) set(read, write bool, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if read {
		c.read = t
	}
	if write {
		c.write = t
	}
	if c.turned != nil {
		close(c.turned)
		c.turned = nil
	}
	return nil
}

func (c *wireConn) SetDeadline(t time.Time) error      { return c.set(true, true, t) }
func (c *wireConn) SetReadDeadline(t time.Time) error  { return c.set(true, false, t) }
func (c *wireConn) SetWriteDeadline(t time.Time) error { return c.set(false, true, t) }

package cluster

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// What the cluster port speaks, told apart by ALPN.
const (
	protoRaft = "wg-raft/1"
	protoRPC  = "wg-rpc/1"
	protoJoin = "wg-join/1"
)

// Bounds of the port. A peer whose connections were cut half-way leaves some behind until keep-alive finds them dead, so its oldest give way.
const (
	maxConns     = 512
	maxPeerConns = 16 // of one member and protocol
	maxShaking   = 32 // in the handshake: strangers can hold no more
	maxJoining   = 4
)

// port is the node's one listener: mutual TLS 1.3 for members, and for nodes that join a handshake in which only the port proves itself.
type port struct {
	node    *Node
	creds   *Credentials
	members *Directory
	network Network
	l       net.Listener
	log     func(msg string, args ...any)

	mu      sync.Mutex
	conns   map[*inbound]struct{}
	streams *raftStream // of the present life of raft, nil while parked
	closed  bool

	shaking, joining chan struct{}
	wg               sync.WaitGroup
	ctx              context.Context // ends the handlers
	cancel           context.CancelFunc
}

// inbound is an accepted connection of a member, or of a node that joins.
type inbound struct {
	conn  *tls.Conn
	from  string
	proto string
	since int // order of arrival

	expelled bool // of a removed node, which hears that it was
}

func openPort(ctx context.Context, n *Node) (*port, error) {
	l, err := n.conf.Network.Listen(ctx, n.conf.Listen)
	if err != nil {
		return nil, errListen(n.conf.Listen, err)
	}
	p := &port{
		node: n, creds: n.conf.Credentials, members: n.conf.Directory, network: n.conf.Network, l: l, log: n.log.Debug,
		conns: map[*inbound]struct{}{}, shaking: make(chan struct{}, maxShaking), joining: make(chan struct{}, maxJoining),
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.wg.Go(p.accept)
	return p, nil
}

func (p *port) close() error {
	p.cancel()
	err := p.l.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.conn.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

func (p *port) accept() {
	for {
		conn, err := p.l.Accept()
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			p.node.log.Warn("cluster port does not accept", "error", err)
			pause := time.NewTimer(100 * time.Millisecond) // out of descriptors, for one
			select {
			case <-pause.C:
			case <-p.ctx.Done():
				pause.Stop()
				return
			}
			continue
		}
		select {
		case p.shaking <- struct{}{}:
			p.wg.Go(func() { p.greet(conn) })
		default:
			_ = conn.Close()
		}
	}
}

// greet makes the handshake and hands the connection to whom it is for.
func (p *port) greet(raw net.Conn) {
	conn := tls.Server(raw, p.serverTLS())
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTimeout)
	err := conn.HandshakeContext(ctx)
	cancel()
	<-p.shaking
	if err != nil {
		_ = raw.Close()
		p.log("handshake at the cluster port failed", "from", raw.RemoteAddr().String(), "error", err)
		return
	}
	state := conn.ConnectionState()
	in := &inbound{conn: conn, proto: state.NegotiatedProtocol}
	expired := false
	if in.proto != protoJoin {
		in.from, expired, err = p.creds.verify(state.PeerCertificates, p.members, p.node.effectiveNow())
		if in.expelled = errors.Is(err, errExpelled) && in.proto == protoRPC; err != nil && !in.expelled {
			_ = conn.Close()
			return
		}
	}
	if !p.keep(in) {
		_ = conn.Close()
		return
	}
	switch {
	case in.proto == protoRaft && !expired:
		p.toRaft(in)
	case in.proto == protoRPC:
		p.node.serveConn(p.ctx, in.conn, in.from, expired, in.expelled)
		p.drop(in)
	case in.proto == protoJoin:
		p.serveJoin(in)
		p.drop(in)
	default:
		p.drop(in)
	}
}

// keep counts a connection in, in place of the member's oldest of the kind when it has too many.
func (p *port) keep(in *inbound) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns) >= maxConns {
		return false
	}
	var oldest *inbound
	same := 0
	for c := range p.conns {
		in.since = max(in.since, c.since+1)
		if c.from == in.from && c.proto == in.proto {
			same++
			if oldest == nil || c.since < oldest.since {
				oldest = c
			}
		}
	}
	if same >= maxPeerConns {
		_ = oldest.conn.Close()
		delete(p.conns, oldest)
	}
	p.conns[in] = struct{}{}
	return true
}

func (p *port) drop(in *inbound) {
	_ = in.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, in)
}

// dropStrangers closes the connections of nodes that are members no more.
func (p *port) dropStrangers() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if m, ok := p.members.Peer(c.from); c.from != "" && !c.expelled && (!ok || m.Status == Removed) {
			_ = c.conn.Close()
		}
	}
}

func (p *port) toRaft(in *inbound) {
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	conn := &leaving{Conn: compress(in.conn), left: func() { p.drop(in) }}
	if streams == nil {
		_ = conn.Close()
		return
	}
	select {
	case streams.accepted <- conn:
	case <-streams.life.Done():
		_ = conn.Close()
	case <-p.ctx.Done():
		_ = conn.Close()
	}
}

// leaving tells when it is closed.
type leaving struct {
	net.Conn
	once sync.Once
	left func()
}

func (c *leaving) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.left)
	return err
}

func (p *port) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protoRaft, protoRPC, protoJoin}, SessionTicketsDisabled: true,
		ClientAuth:     tls.RequestClientCert, // judged below: membership is a record, and dates are not what decides
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.creds.certificate(), nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			switch s.NegotiatedProtocol {
			case protoJoin:
				return nil
			case protoRaft, protoRPC:
				node, expired, err := p.creds.verify(s.PeerCertificates, p.members, p.node.effectiveNow())
				if errors.Is(err, errExpelled) && s.NegotiatedProtocol == protoRPC {
					return nil // it is told so
				}
				if err == nil && expired && s.NegotiatedProtocol == protoRaft {
					err = fmt.Errorf("the certificate of node %s ended more than %d days ago", node, int(certGrace.Hours()/24))
				}
				return err
			}
			return errors.New("no protocol of the cluster was asked for")
		},
	}
}

// leniency is what a dialler puts up with in the certificate of the member that it reaches.
type leniency int

const (
	strict leniency = iota
	anyAge          // for a renewal an old one does not matter
	anyCA           // to hear of another history; and any age
)

// dial reaches a member and proves that it is the one.
func (p *port) dial(ctx context.Context, node, proto string, bears leniency) (*tls.Conn, error) {
	addresses := p.members.addresses(node)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	switch len(addresses) {
	case 0:
		return nil, fmt.Errorf("node %s is not a member", node)
	case 1:
		return p.dialAt(ctx, addresses[0], node, proto, bears)
	}
	// At once, because one that is left swallows the attempt for as long as there is time. The first that proves to be the member is taken.
	type outcome struct {
		conn *tls.Conn
		err  error
	}
	outcomes := make(chan outcome, len(addresses))
	for _, address := range addresses {
		go func() {
			conn, err := p.dialAt(ctx, address, node, proto, bears)
			outcomes <- outcome{conn, err}
		}()
	}
	var conn *tls.Conn
	var errs error
	for range addresses {
		o := <-outcomes
		switch {
		case o.err != nil && errs == nil:
			errs = o.err
		case o.err != nil:
			errs = fmt.Errorf("%w; %w", errs, o.err)
		case conn == nil:
			conn = o.conn
			cancel()
		default:
			_ = o.conn.Close()
		}
	}
	if conn != nil {
		return conn, nil
	}
	return nil, errs
}

// dialAt is dial at one address.
func (p *port) dialAt(ctx context.Context, address, node, proto string, bears leniency) (*tls.Conn, error) {
	raw, err := p.network.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("reach node %s: %w", node, err)
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{proto}, ClientSessionCache: nil,
		InsecureSkipVerify:   true, // VerifyConnection judges: the peer is proved by the cluster's CA and its record, not by a host name
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.creds.certificate(), nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			got, expired, err := p.creds.verify(s.PeerCertificates, p.members, p.node.effectiveNow())
			switch {
			case err != nil && p.creds.apart(s.PeerCertificates, p.members, node):
				if bears == anyCA {
					return nil
				}
				return errApart
			case err != nil:
				return err
			case got != node:
				return fmt.Errorf("node %s answers in place of %s", got, node)
			case expired && bears == strict:
				return fmt.Errorf("the certificate of node %s ended too long ago", node)
			}
			return nil
		},
	}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("reach node %s: %w", node, err)
	}
	if conn.ConnectionState().NegotiatedProtocol != proto {
		_ = conn.Close()
		return nil, fmt.Errorf("node %s does not speak %s", node, proto)
	}
	return conn, nil
}

// raftStream is the port as raft's transport sees it, for one life of raft. Addresses are node ids: a node is found by its record when it
// is dialled, so a new address needs no new configuration.
type raftStream struct {
	port     *port
	id       string
	accepted chan net.Conn
	life     context.Context // ends with Close, and every dial with it
	end      context.CancelFunc

	mu     sync.Mutex
	dialed map[net.Conn]struct{} // raw connections that were made here
}

var _ raft.StreamLayer = (*raftStream)(nil)

// openStream makes the stream of a new life of raft.
func (p *port) openStream(id string) *raftStream {
	s := &raftStream{port: p, id: id, accepted: make(chan net.Conn), dialed: map[net.Conn]struct{}{}}
	s.life, s.end = context.WithCancel(p.ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = s
	return s
}

// Accept implements net.Listener.
func (s *raftStream) Accept() (net.Conn, error) {
	select {
	case c := <-s.accepted:
		return c, nil
	case <-s.life.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The port stays open: forwarding and questions go on while raft is parked. What raft has on its way to
// others ends here: raft waits for it when it stops, and a peer that a link has swallowed would keep it for as long as the transport has
// patience. Connections are cut below TLS, whose farewell a full send buffer would hold up.
func (s *raftStream) Close() error {
	s.end()
	s.mu.Lock()
	for raw := range s.dialed {
		_ = raw.Close()
	}
	s.mu.Unlock()
	p := s.port
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == s {
		p.streams = nil
	}
	for c := range p.conns {
		if c.proto == protoRaft {
			_ = c.conn.NetConn().Close()
		}
	}
	return nil
}

// Addr implements net.Listener.
func (s *raftStream) Addr() net.Addr { return nodeAddr(s.id) }

// Dial implements raft.StreamLayer.
func (s *raftStream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.life, timeout)
	defer cancel()
	conn, err := s.port.dial(ctx, string(address), protoRaft, strict)
	if err != nil {
		return nil, err
	}
	raw := conn.NetConn()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	s.dialed[raw] = struct{}{}
	return compress(&leaving{Conn: conn, left: func() { s.forget(raw) }}), nil
}

func (s *raftStream) forget(raw net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dialed, raw)
}

// nodeAddr is a node id where raft wants an address.
type nodeAddr string

func (nodeAddr) Network() string  { return "node" }
func (a nodeAddr) String() string { return string(a) }

// fingerprintOf is the SHA-256 of a certificate, as tokens carry it.
func fingerprintOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

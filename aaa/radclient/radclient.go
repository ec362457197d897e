// Package radclient asks RADIUS servers: for `radius test`, for simulated routers, and, in Load, for measuring.
//
// It believes nothing unsigned: every reply's Response Authenticator is verified, and replies to Access-Request and
// Status-Server must carry a valid Message-Authenticator unless the caller allows otherwise.
package radclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"wispgate/aaa/packet"
	"wispgate/edge"
)

// The reasons for which a request comes to nothing.
var (
	NoAnswer = edge.Reason{Code: "radius_no_answer", Says: "The server did not answer", Fix: "Check address and port, that the server knows this client's address, and that both hold the same secret"}
	Forged   = edge.Reason{Code: "radius_reply_forged", Says: "Answers came, but none was signed with our secret", Fix: "Set the same secret on both sides"}
	Unsigned = edge.Reason{Code: "radius_reply_unsigned", Says: "The server answers without Message-Authenticator", Fix: "Update the server, or allow unsigned replies on a path nobody else can reach"}
)

// Options change how a Client asks. The zero value works.
type Options struct {
	Timeout       time.Duration // until a retransmission; 0: 1 s
	Tries         int           // datagrams per request; 0: 3
	AllowUnsigned bool          // accept replies without Message-Authenticator
	LocalAddr     *net.UDPAddr  // nil: chosen by the kernel
}

// Request is what to ask. Attrs holds encoded attributes without User-Password, CHAP-Password and
// Message-Authenticator, which the client writes.
type Request struct {
	Code     packet.Code
	Attrs    []byte
	Password *string // nil: none; "" is a password, too
	CHAP     bool    // send the password as CHAP instead of PAP
	Unsigned bool    // leave out Message-Authenticator
}

// Reply is a verified answer.
type Reply struct {
	Code   packet.Code
	Packet []byte // the whole packet
	Took   time.Duration
	Sent   int // datagrams it took
}

// Attrs indexes the reply's attributes.
func (r *Reply) Attrs() (*packet.Attrs, error) {
	a := new(packet.Attrs)
	return a, a.Parse(r.Packet)
}

// Client shares one socket, and so 256 requests at a time, among its callers.
type Client struct {
	conn   *net.UDPConn
	secret *packet.Secret
	opts   Options
	now    func() time.Time
	ids    chan byte
	closed chan struct{}

	mu   sync.Mutex
	wait [256]waiter
}

type waiter struct {
	reply   chan []byte // nil: nobody waits
	request []byte      // header is enough
	forged  bool
	naked   bool
}

// Dial prepares a client; nothing is sent. now measures.
func Dial(server string, secret []byte, now func() time.Time, opts Options) (*Client, error) {
	s, err := packet.NewSecret(secret)
	if err != nil {
		return nil, err
	}
	addr, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		return nil, fmt.Errorf("resolve the radius server: %w", err)
	}
	conn, err := net.DialUDP("udp", opts.LocalAddr, addr)
	if err != nil {
		return nil, fmt.Errorf("reach the radius server: %w", err)
	}
	if opts.Timeout == 0 {
		opts.Timeout = time.Second
	}
	if opts.Tries == 0 {
		opts.Tries = 3
	}
	c := &Client{conn: conn, secret: s, opts: opts, now: now, ids: make(chan byte, 256), closed: make(chan struct{})}
	for i := range 256 {
		c.ids <- byte(i)
	}
	go c.read()
	return c, nil
}

// Close ends every waiting Do and the reader.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.closed
	return err
}

// LocalAddr is where the client's packets come from.
func (c *Client) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// Do asks and waits for the verified reply. It waits for a free Identifier, sends the same octets again after each
// timeout, and returns an *edge.Error that says which way it failed. It may be called by many goroutines.
func (c *Client) Do(ctx context.Context, r Request) (Reply, error) {
	var id byte
	select {
	case id = <-c.ids:
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	case <-c.closed:
		return Reply{}, net.ErrClosed
	}
	defer func() { c.ids <- id }()
	pkt, err := c.build(r, id)
	if err != nil {
		return Reply{}, err
	}
	reply := make(chan []byte, 1)
	c.mu.Lock()
	c.wait[id] = waiter{reply: reply, request: pkt}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.wait[id] = waiter{}
		c.mu.Unlock()
	}()
	return c.exchange(ctx, pkt, id, reply)
}

func (c *Client) exchange(ctx context.Context, pkt []byte, id byte, reply <-chan []byte) (Reply, error) {
	begin := c.now()
	timer := time.NewTimer(c.opts.Timeout)
	defer timer.Stop()
	for try := 1; ; try++ {
		// A refused port shows here or at the reader; the timeout words it.
		if _, err := c.conn.Write(pkt); errors.Is(err, net.ErrClosed) {
			return Reply{}, err
		}
		var b []byte
		var end error
		select {
		case b = <-reply:
		case <-ctx.Done():
			end = ctx.Err()
		case <-c.closed:
			end = net.ErrClosed
		case <-timer.C:
		}
		if b == nil {
			select {
			case b = <-reply: // it came before the end: a select of several that are ready takes any of them
			default:
			}
		}
		switch {
		case b != nil:
			return Reply{Code: packet.Code(b[0]), Packet: b, Took: c.now().Sub(begin), Sent: try}, nil
		case end != nil:
			return Reply{}, end
		case try >= c.opts.Tries:
			return Reply{}, c.silence(id)
		}
		timer.Reset(c.opts.Timeout)
	}
}

// silence words a timeout: was nothing heard, or nothing that could be believed?
func (c *Client) silence(id byte) error {
	c.mu.Lock()
	w := c.wait[id]
	c.mu.Unlock()
	switch {
	case w.naked:
		return Unsigned.Error(edge.Unavailable)
	case w.forged:
		return Forged.Error(edge.Unavailable)
	}
	return NoAnswer.Error(edge.Unavailable)
}

func (c *Client) build(r Request, id byte) ([]byte, error) {
	var authenticator [16]byte
	if _, err := rand.Read(authenticator[:]); err != nil {
		return nil, err
	}
	x := packet.NewHasher()
	pkt := packet.Begin(make([]byte, 0, 512), r.Code, id, authenticator[:])
	if !r.Unsigned {
		pkt = packet.AppendMessageAuthenticator(pkt)
	}
	pkt = append(pkt, r.Attrs...)
	switch {
	case r.Password == nil:
	case r.CHAP:
		v := append([]byte{id}, x.CHAP(id, []byte(*r.Password), authenticator[:])...)
		pkt = packet.Append(pkt, packet.CHAPPassword, v)
	default:
		if len(*r.Password) > packet.MaxPassword {
			return nil, errors.New("a password is longer than 128 octets")
		}
		pkt = packet.Append(pkt, packet.UserPassword, x.Hide(nil, c.secret, []byte(*r.Password), authenticator[:]))
	}
	if len(pkt) > packet.MaxLen {
		return nil, errors.New("a request is longer than 4096 octets")
	}
	packet.Finish(pkt)
	x.SignRequest(c.secret, pkt)
	return pkt, nil
}

// read hands verified replies to those who wait. What does not verify is remembered for the error's sake and otherwise
// ignored: a forger must not be able to end a request.
func (c *Client) read() {
	defer close(c.closed)
	v := newVerifier(c.secret, c.opts.AllowUnsigned)
	buf := make([]byte, packet.MaxLen+1)
	for {
		n, err := c.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // port unreachable: the timeout words it
		}
		pkt, err := packet.Trim(buf[:n])
		if err != nil {
			continue
		}
		c.mu.Lock()
		if w := &c.wait[pkt[1]]; w.reply != nil {
			switch v.verify(pkt, w.request) {
			case good:
				select {
				case w.reply <- append([]byte(nil), pkt...):
				default:
				}
			case forged:
				w.forged = true
			case naked:
				w.naked = true
			}
		}
		c.mu.Unlock()
	}
}

type judgement uint8

const (
	good judgement = iota
	forged
	naked
)

type verifier struct {
	x        *packet.Hasher
	secret   *packet.Secret
	attrs    packet.Attrs
	unsigned bool
}

func newVerifier(s *packet.Secret, allowUnsigned bool) *verifier {
	return &verifier{x: packet.NewHasher(), secret: s, unsigned: allowUnsigned}
}

// answers says which codes may answer a request.
func answers(request, reply packet.Code) bool {
	switch request {
	case packet.AccessRequest:
		return reply == packet.AccessAccept || reply == packet.AccessReject || reply == packet.AccessChallenge
	case packet.AccountingRequest:
		return reply == packet.AccountingResponse
	case packet.StatusServer:
		return reply == packet.AccessAccept || reply == packet.AccountingResponse
	case packet.CoARequest, packet.DisconnectRequest:
		return reply == request+1 || reply == request+2
	}
	return false
}

func (v *verifier) verify(reply, request []byte) judgement {
	code := packet.Code(request[0])
	authenticator := packet.Authenticator(request)
	if !answers(code, packet.Code(reply[0])) || !v.x.VerifyReply(v.secret, reply, authenticator) || v.attrs.Parse(reply) != nil {
		return forged
	}
	i := v.attrs.First(packet.MessageAuthenticator)
	if i < 0 {
		if !v.unsigned && (code == packet.AccessRequest || code == packet.StatusServer) {
			return naked
		}
		return good
	}
	if _, value := v.attrs.At(i); len(value) != 16 || !v.x.VerifyMessageAuthenticator(v.secret, reply, v.attrs.Offset(i), authenticator) {
		return forged
	}
	return good
}

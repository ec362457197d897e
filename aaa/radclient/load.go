package radclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"wispgate/aaa/packet"
)

// Load is a closed-loop load: a constant number of requests outstanding, every reply verified, nothing retransmitted.
type Load struct {
	Server   string
	Secret   []byte
	Requests int           // in all
	Window   int           // outstanding, over all sockets; each socket carries at most 256
	Sockets  int           // 0: as few as the window needs
	Wait     time.Duration // after which an outstanding request is lost; 0: 2 s
	// Attrs appends the attributes of request n, without password and Message-Authenticator; Password returns its
	// password, nil for a request without one (accounting).
	Code          packet.Code
	Attrs         func(dst []byte, n int) []byte
	Password      func(n int) []byte
	CHAP          bool
	AllowUnsigned bool
	Echo          bool // the server sends back what it gets: compare instead of verifying
	Now           func() time.Time
}

// LoadResult is what came of a Load. Latencies are from sending to the verified reply.
type LoadResult struct {
	Sent, Good, Lost, Bad int // Bad: replies that did not verify
	Codes                 map[packet.Code]int
	Took                  time.Duration
	P50, P99, Max         time.Duration
}

// Rate is good replies per second.
func (r *LoadResult) Rate() float64 { return float64(r.Good) / r.Took.Seconds() }

// Run sends the load and returns when every request is answered or lost.
func (l Load) Run(ctx context.Context) (LoadResult, error) {
	secret, err := packet.NewSecret(l.Secret)
	if err != nil {
		return LoadResult{}, err
	}
	if l.Sockets == 0 {
		l.Sockets = (l.Window + 255) / 256
	}
	if l.Wait == 0 {
		l.Wait = 2 * time.Second
	}
	if l.Window < l.Sockets || l.Window > 256*l.Sockets {
		return LoadResult{}, fmt.Errorf("a window of %d does not fit %d sockets", l.Window, l.Sockets)
	}
	lanes := make([]loadLane, l.Sockets)
	begin := l.Now()
	var wg sync.WaitGroup
	for i := range lanes {
		lane := &lanes[i]
		*lane = loadLane{
			load: &l, secret: secret, x: packet.NewHasher(), verifier: newVerifier(secret, l.AllowUnsigned),
			rng: rand.New(rand.NewPCG(rand.Uint64(), uint64(i))), codes: map[packet.Code]int{},
			first: l.Requests * i / l.Sockets, end: l.Requests * (i + 1) / l.Sockets,
			window: l.Window*(i+1)/l.Sockets - l.Window*i/l.Sockets,
		}
		wg.Go(func() { lane.err = lane.run(ctx) })
	}
	wg.Wait()
	res := LoadResult{Codes: map[packet.Code]int{}, Took: l.Now().Sub(begin)}
	var all []time.Duration
	for i := range lanes {
		a := &lanes[i]
		if a.err != nil {
			return res, a.err
		}
		res.Sent, res.Good, res.Lost, res.Bad = res.Sent+a.sent, res.Good+len(a.took), res.Lost+a.lost, res.Bad+a.bad
		for c, n := range a.codes {
			res.Codes[c] += n
		}
		all = append(all, a.took...)
	}
	if slices.Sort(all); len(all) > 0 {
		res.P50, res.P99, res.Max = all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
	}
	return res, nil
}

// loadLane is one socket with up to 256 requests outstanding.
type loadLane struct {
	load     *Load
	secret   *packet.Secret
	x        *packet.Hasher
	verifier *verifier
	rng      *rand.Rand
	conn     *net.UDPConn
	slots    [256]struct {
		pkt  []byte
		sent time.Time
		busy bool
	}
	hidden           []byte
	next, first, end int
	window, out      int
	sent, lost, bad  int
	took             []time.Duration
	codes            map[packet.Code]int
	err              error
}

func (a *loadLane) run(ctx context.Context) error {
	addr, err := net.ResolveUDPAddr("udp", a.load.Server)
	if err != nil {
		return err
	}
	if a.conn, err = net.DialUDP("udp", nil, addr); err != nil {
		return err
	}
	defer func() { _ = a.conn.Close() }()
	_ = a.conn.SetReadBuffer(4 << 20)
	a.next = a.first
	for id := 0; id < a.window && a.next < a.end; id++ {
		if err := a.send(byte(id)); err != nil {
			return err
		}
	}
	buf := make([]byte, packet.MaxLen+1)
	for deadline := 0; a.out > 0; deadline++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if deadline%64 == 0 {
			if err := a.conn.SetReadDeadline(a.load.Now().Add(a.load.Wait)); err != nil {
				return err
			}
		}
		n, err := a.conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err := a.expire(); err != nil {
				return err
			}
			deadline = -1
			continue
		}
		if err != nil {
			return fmt.Errorf("read from the radius server: %w", err)
		}
		if err := a.receive(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

func (a *loadLane) receive(b []byte) error {
	reply, err := packet.Trim(b)
	if err != nil || !a.slots[reply[1]].busy {
		a.bad++    // late, doubled, or nobody's
		return nil //nolint:nilerr // counted; the load goes on
	}
	s := &a.slots[reply[1]]
	if a.load.Echo {
		if len(reply) != len(s.pkt) {
			a.bad++
			return nil
		}
	} else if a.verifier.verify(reply, s.pkt) != good {
		a.bad++
		return nil
	}
	a.took = append(a.took, a.load.Now().Sub(s.sent))
	a.codes[packet.Code(reply[0])]++
	s.busy = false
	a.out--
	if a.next < a.end {
		return a.send(reply[1])
	}
	return nil
}

// expire gives up on what has waited too long and sends the next requests in its place.
func (a *loadLane) expire() error {
	now := a.load.Now()
	for id := range a.slots {
		s := &a.slots[id]
		if !s.busy || now.Sub(s.sent) < a.load.Wait {
			continue
		}
		s.busy = false
		a.out--
		a.lost++
		if a.next < a.end {
			if err := a.send(byte(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *loadLane) send(id byte) error {
	s, n := &a.slots[id], a.next
	a.next++
	var authenticator [16]byte
	binary.LittleEndian.PutUint64(authenticator[:8], a.rng.Uint64())
	binary.LittleEndian.PutUint64(authenticator[8:], a.rng.Uint64())
	p := packet.Begin(s.pkt[:0], a.load.Code, id, authenticator[:])
	if a.load.Code != packet.AccountingRequest {
		p = packet.AppendMessageAuthenticator(p)
	}
	if a.load.Attrs != nil {
		p = a.load.Attrs(p, n)
	}
	if a.load.Password != nil {
		password := a.load.Password(n)
		if a.load.CHAP {
			a.hidden = append(append(a.hidden[:0], id), a.x.CHAP(id, password, authenticator[:])...)
			p = packet.Append(p, packet.CHAPPassword, a.hidden)
		} else {
			a.hidden = a.x.Hide(a.hidden[:0], a.secret, password, authenticator[:])
			p = packet.Append(p, packet.UserPassword, a.hidden)
		}
	}
	packet.Finish(p)
	a.x.SignRequest(a.secret, p)
	s.pkt, s.busy, s.sent = p, true, a.load.Now()
	a.out++
	a.sent++
	if _, err := a.conn.Write(p); err != nil {
		return fmt.Errorf("write to the radius server: %w", err)
	}
	return nil
}

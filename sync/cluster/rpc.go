package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"wispgate/edge"
)

// A frame is its length (32 bit), its kind, the id of the exchange (64 bit) and a payload; numbers are big endian. A request's payload is
// the length of the method, the method, the milliseconds that the caller waits (32 bit), whether it takes the one it asks for the leader,
// and the body. An error's payload is the *edge.Error as JSON.
const (
	frameHead = 1 + 8
	maxFrame  = 1 << 20
	// MaxBody is the most that a request or an answer of a member holds.
	MaxBody = maxFrame - 512

	kindRequest = 1
	kindAnswer  = 2
	kindError   = 3
	kindCancel  = 4
	kindPing    = 5
	kindPong    = 6
)

// Bounds of the exchanges between two nodes.
const (
	maxInFlight  = 64  // of one peer, at each end
	maxWaiting   = 512 // callers that wait for one of those places
	longestCall  = 5 * time.Minute
	writeTimeout = 10 * time.Second
	pingEvery    = 20 * time.Second
	deadAfter    = 3 * pingEvery
)

var errFrame = errors.New("a frame of the cluster's protocol is damaged or too long")

type frame struct {
	kind    byte
	id      uint64
	payload []byte
}

func readFrame(r *bufio.Reader) (f frame, err error) {
	var head [4 + frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < frameHead || n > maxFrame {
		return f, errFrame
	}
	f.kind, f.id = head[4], binary.BigEndian.Uint64(head[5:])
	f.payload = make([]byte, n-frameHead)
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

func (f frame) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(frameHead+len(f.payload)))
	dst = append(dst, f.kind)
	dst = binary.BigEndian.AppendUint64(dst, f.id)
	return append(dst, f.payload...)
}

type request struct {
	method string
	wait   time.Duration
	leader bool // the caller takes this node for the leader
	body   []byte
}

func (r request) encode() []byte {
	out := make([]byte, 0, 6+len(r.method)+len(r.body))
	out = append(out, byte(len(r.method)))
	out = append(out, r.method...)
	out = binary.BigEndian.AppendUint32(out, uint32(min(max(r.wait.Milliseconds(), 0), longestCall.Milliseconds())))
	flag := byte(0)
	if r.leader {
		flag = 1
	}
	return append(append(out, flag), r.body...)
}

func decodeRequest(raw []byte) (r request, err error) {
	if len(raw) < 1 {
		return r, errFrame
	}
	n := int(raw[0])
	if len(raw) < 1+n+5 {
		return r, errFrame
	}
	r.method, raw = string(raw[1:1+n]), raw[1+n:]
	r.wait = min(time.Duration(binary.BigEndian.Uint32(raw))*time.Millisecond, longestCall)
	r.leader, r.body = raw[4]&1 == 1, raw[5:]
	return r, nil
}

// frames writes frames to a connection, one whole frame at a time.
type frames struct {
	mu   sync.Mutex
	conn net.Conn
	now  func() time.Time
}

func (w *frames) write(f frame) error {
	if len(f.payload) > maxFrame-frameHead {
		return errFrame
	}
	raw := f.append(make([]byte, 0, 4+frameHead+len(f.payload)))
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.SetWriteDeadline(w.now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := w.conn.Write(raw)
	return err
}

// serveConn answers a member's requests on one connection until it ends. With expired only a renewal is answered; with expelled only that
// the node was removed, and whether by a recovery.
func (n *Node) serveConn(ctx context.Context, conn net.Conn, from string, expired, expelled bool) {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{node: n, from: from, expired: expired, gone: expelled, out: &frames{conn: conn, now: n.conf.Now}, cancels: map[uint64]context.CancelFunc{}}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		cancel()
		stop()
		_ = conn.Close()
		s.wg.Wait()
	}()
	r := bufio.NewReader(conn)
	for {
		if err := conn.SetReadDeadline(n.conf.Now().Add(deadAfter)); err != nil {
			return
		}
		f, err := readFrame(r)
		if err != nil || s.take(ctx, f) != nil {
			return
		}
	}
}

// server is the answering end of a connection.
type server struct {
	node    *Node
	from    string
	expired bool
	gone    bool // expelled
	out     *frames
	wg      sync.WaitGroup

	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc // of what is being answered
}

func (s *server) take(ctx context.Context, f frame) error {
	switch f.kind {
	case kindPing:
		return s.out.write(frame{kind: kindPong, id: f.id})
	case kindCancel:
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel := s.cancels[f.id]; cancel != nil {
			cancel()
		}
		return nil
	case kindRequest:
	default:
		return errFrame
	}
	r, err := decodeRequest(f.payload)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if len(s.cancels) >= maxInFlight {
		s.mu.Unlock()
		return s.refuse(f.id, errOverloaded())
	}
	ctx, cancel := context.WithTimeout(ctx, r.wait)
	s.cancels[f.id] = cancel
	s.mu.Unlock()
	s.wg.Go(func() {
		answer, err := s.answer(ctx, r)
		s.done(f.id, cancel) // before the other end may count the place as free
		if err == nil && len(answer) > MaxBody {
			err = edge.ErrTooLarge.Error(edge.Invalid)
		}
		if err != nil {
			_ = s.refuse(f.id, err) // the connection's reader meets the same failure
			return
		}
		_ = s.out.write(frame{kind: kindAnswer, id: f.id, payload: answer})
	})
	return nil
}

func (s *server) done(id uint64, cancel context.CancelFunc) {
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cancels, id)
}

func (s *server) answer(ctx context.Context, r request) ([]byte, error) {
	switch {
	case s.gone && r.method == methodMeet:
		return s.node.serveMeet(s.from, r.body)
	case s.gone:
		return nil, ErrPeerGone.Error(edge.Unavailable)
	case s.expired && r.method != methodRenew:
		return nil, errExpired()
	case r.leader && !s.node.IsLeader():
		return nil, quorumLost()
	}
	if r.leader {
		defer s.node.nudge(s.from)
	}
	return s.node.serve(ctx, s.from, r.method, r.body)
}

func (s *server) refuse(id uint64, err error) error {
	e, _ := edge.AsError(err)
	raw, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode refusal: %w", err)
	}
	return s.out.write(frame{kind: kindError, id: id, payload: raw})
}

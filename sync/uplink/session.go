package uplink

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/sync/wire"
)

// session publishes one stream, over one connection after another. All fields below mu are its own goroutine's.
type session struct {
	u      *Uplink
	stream Stream
	name   Name
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	status StreamStatus

	acked  uint64
	relay  string // the relay's session as the last acknowledgement named it
	window []*batch
	bytes  int // of the window
	sent   uint64
	resent uint64
	paused time.Time // the rate allows no more before then
}

func newSession(u *Uplink, st Stream, cancel context.CancelFunc) *session {
	name := st.Name()
	return &session{
		u: u, stream: st, name: name, cancel: cancel, done: make(chan struct{}),
		log:    u.log.With("tenant", name.Tenant, "source", name.Source),
		status: StreamStatus{Name: name, Since: u.cfg.Now()},
	}
}

// run keeps the stream connected until ctx ends.
func (s *session) run(ctx context.Context) {
	defer close(s.done)
	retry := s.u.cfg.RetryMin
	for ctx.Err() == nil {
		worked, err := s.connection(ctx)
		s.window, s.bytes = nil, 0
		if ctx.Err() != nil {
			return
		}
		s.fail(err)
		if worked {
			retry = s.u.cfg.RetryMin
		}
		select {
		case <-ctx.Done():
		case <-time.After(jitter(retry)):
		}
		retry = min(2*retry, s.u.cfg.RetryMax)
	}
}

// jitter spreads d over 50 to 150 %.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d+1) }

// problem is an error with the reason that the status shows.
type problem struct {
	reason edge.Reason
	cause  error
}

func (p *problem) Error() string { return p.cause.Error() }
func (p *problem) Unwrap() error { return p.cause }

var errAhead = errors.New("acknowledged beyond the newest position here")

// fail notes why there is no connection; the same reason again is not logged again.
func (s *session) fail(err error) {
	reason := ReasonLost
	var p *problem
	if errors.As(err, &p) {
		reason = p.reason
	}
	s.mu.Lock()
	news := s.status.Connected || s.status.Problem == nil || s.status.Problem.Code != reason.Code
	if s.status.Connected {
		s.status.Connected, s.status.Since = false, s.u.cfg.Now()
	}
	s.status.Problem = &reason
	s.mu.Unlock()
	if news {
		s.log.Warn("uplink is not sending", "reason", reason.Code, "error", err)
	} else {
		s.log.Debug("uplink still not sending", "reason", reason.Code, "error", err)
	}
}

// connection lives one connection; worked says that it got as far as sending.
func (s *session) connection(ctx context.Context) (worked bool, err error) {
	id := sessionID()
	c, err := s.u.dial(ctx, s.name, id, s.state(id, false, "lost"))
	if err != nil {
		if refused(err) {
			return false, &problem{ReasonRefused, err}
		}
		return false, &problem{ReasonUnreachable, err}
	}
	defer c.close()
	s.acked, s.relay = s.stream.Marks().Acked, ""
	c.publish(wire.Status, true, s.state(id, true, ""))
	if err := s.firstAck(ctx, c, id); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.status.Connected, s.status.Since, s.status.Problem = true, s.u.cfg.Now(), nil
	s.mu.Unlock()
	s.log.Info("uplink is sending", "after", s.acked)
	err = s.pump(ctx, c, id)
	if ctx.Err() != nil {
		c.publish(wire.Status, true, s.state(id, false, "stopped"))
	}
	return true, err
}

func sessionID() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], rand.Uint64())
	return hex.EncodeToString(b[:])
}

func (s *session) state(id string, online bool, reason string) []byte {
	m := s.stream.Marks()
	return wire.Encode(wire.State{
		Incarnation: s.name.Incarnation, Online: online, Reason: reason, Node: s.u.cfg.Node, Session: id,
		BootID: s.u.cfg.BootID, Version: s.u.cfg.Version, Acked: max(m.Acked, s.acked), Last: m.Last, Since: s.u.cfg.Now().UTC(),
	})
}

// firstAck gives the retained acknowledgement a moment to arrive, so that little is sent twice. Without one the stream's own mark holds.
func (s *session) firstAck(ctx context.Context, c conn, id string) error {
	timeout := time.NewTimer(s.u.cfg.AckWait)
	defer timeout.Stop()
	for {
		select {
		case m := <-c.inbox():
			ack, err := s.read(c, m, id)
			if err != nil {
				return err
			}
			if ack {
				return nil
			}
		case err := <-c.lost():
			return &problem{ReasonLost, err}
		case <-timeout.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// feed is a running fetcher.
type feed struct {
	fetcher
	stop func()
}

func (s *session) feed(ctx context.Context, from uint64) *feed {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{fetcher: fetcher{s: s, from: from, pos: from, out: make(chan *batch), failed: make(chan error, 1)}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.run(ctx)
	}()
	f.stop = func() { // a Stream is used by one goroutine at a time
		cancel()
		<-ended
	}
	return f
}

// pump sends what the stream holds and listens to the relay, until the connection or ctx ends.
func (s *session) pump(ctx context.Context, c conn, id string) error {
	s.sent = s.acked
	f := s.feed(ctx, s.acked)
	defer func() { f.stop() }()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.publishStatus()
		now := s.u.cfg.Now()
		timer.Reset(s.repeat(c, now))
		out := f.out
		if len(s.window) >= s.u.cfg.Window || s.bytes >= s.u.cfg.WindowBytes || now.Before(s.paused) {
			out = nil
		}
		select {
		case b := <-out:
			s.send(c, b)
		case m := <-c.inbox():
			if _, err := s.read(c, m, id); err != nil {
				return err
			}
			if from, rewind := s.rewind(); rewind {
				f.stop()
				s.window, s.bytes, s.sent = nil, 0, from
				f = s.feed(ctx, from)
			}
		case err := <-f.failed:
			return &problem{ReasonRead, err}
		case err := <-c.lost():
			return &problem{ReasonLost, err}
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) send(c conn, b *batch) {
	s.window = append(s.window, b)
	s.bytes += len(b.payload)
	s.sent = b.upto
	s.publish(c, b)
	s.u.count("wispgate_uplink_events_sent_total", b.events)
	if rate := s.u.cfg.BytesPerSecond; rate > 0 {
		now := s.u.cfg.Now()
		if s.paused.Before(now) {
			s.paused = now
		}
		s.paused = s.paused.Add(time.Duration(int64(len(b.payload)) * int64(time.Second) / int64(rate)))
	}
}

// publish sends a batch, or sends it again, and says when the next time would be.
func (s *session) publish(c conn, b *batch) {
	wait := min(s.u.cfg.ResendAfter<<min(b.sends, 8), maxResend)
	b.due = s.u.cfg.Now().Add(wait*9/10 + rand.N(wait/5+1))
	if b.sends > 0 {
		s.resent++
		s.u.count("wispgate_uplink_messages_resent_total", 1)
	}
	b.sends++
	c.publish(wire.Events, false, b.payload)
}

// repeat sends again what has been due, and says how long to sleep.
func (s *session) repeat(c conn, now time.Time) time.Duration {
	next := now.Add(time.Hour)
	for _, b := range s.window {
		if !b.due.After(now) {
			s.publish(c, b)
		}
		if b.due.Before(next) {
			next = b.due
		}
	}
	if s.paused.After(now) && s.paused.Before(next) {
		next = s.paused
	}
	return next.Sub(now)
}

// read takes one message from below; ack says that it was an acknowledgement of this incarnation.
func (s *session) read(c conn, m message, id string) (ack bool, err error) {
	switch m.kind {
	case wire.Acks:
		a, err := wire.ParseAck(m.payload)
		if err != nil || a.Incarnation != s.name.Incarnation {
			return false, nil //nolint:nilerr // a stranger's or an old word: nothing of ours depends on it
		}
		return true, s.acknowledged(c, a)
	case wire.Nacks:
		if n, err := wire.ParseNack(m.payload); err == nil && n.Incarnation == s.name.Incarnation {
			s.missing(c, n.After)
		}
	case wire.Status:
		// Another session's death, a late will or a former leader's, must not stay as the last word while this one lives.
		if st, err := wire.ParseState(m.payload); err == nil && st.Session != id && !st.Online {
			c.publish(wire.Status, true, s.state(id, true, ""))
		}
	case wire.Events:
	}
	return false, nil
}

func (s *session) acknowledged(c conn, a wire.Ack) error {
	lostInFlight := s.relay != "" && s.relay != a.Session
	s.relay = a.Session
	if a.Upto > s.acked {
		if last := s.stream.Marks().Last; a.Upto > last {
			return &problem{ReasonRelayAhead, errAhead}
		}
		s.acked = a.Upto
		for len(s.window) > 0 && s.window[0].upto <= s.acked {
			s.bytes -= len(s.window[0].payload)
			s.u.count("wispgate_uplink_events_acked_total", s.window[0].events)
			s.window = s.window[1:]
		}
		if err := s.stream.Acked(s.acked); err != nil {
			s.log.Warn("acknowledgement not noted, it is asked for again", "upto", s.acked, "error", err)
		}
	}
	if lostInFlight {
		s.again(c, s.acked)
	}
	return nil
}

// missing answers a nack. What is older than the window is read again, if this side still has it.
func (s *session) missing(c conn, after uint64) {
	s.u.count("wispgate_uplink_nacks_total", 1)
	if base := s.stream.Marks().Base; after < s.acked && base < s.acked {
		s.acked = max(after, base)
		return // rewind sees that the window does not begin there
	}
	s.again(c, after)
}

// again sends everything beyond a position once more, at once.
func (s *session) again(c conn, after uint64) {
	for _, b := range s.window {
		if b.upto > after {
			s.publish(c, b)
		}
	}
}

// rewind says from where to read anew: when the relay lacks what was acknowledged before, or has more than was read here because another
// publisher of the same stream was faster.
func (s *session) rewind() (from uint64, needed bool) {
	if s.acked > s.sent {
		return s.acked, true
	}
	if len(s.window) > 0 {
		return s.acked, s.window[0].after > s.acked
	}
	return s.acked, s.sent > s.acked
}

func (s *session) publishStatus() {
	events := 0
	for _, b := range s.window {
		events += b.events
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	st.Acked, st.Sent, st.UnderWay, st.Bytes, st.Resent, st.Oldest = s.acked, s.sent, events, s.bytes, s.resent, time.Time{}
	for _, b := range s.window {
		if b.events > 0 {
			st.Oldest = b.oldest
			break
		}
	}
}

func (s *session) snapshot() StreamStatus {
	m := s.stream.Marks()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Acked = max(st.Acked, m.Acked)
	st.Last = m.Last
	if st.Last > st.Acked {
		st.Backlog = st.Last - st.Acked
	}
	return st
}

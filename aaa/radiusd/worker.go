package radiusd

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"wispgate/aaa/acct"
	"wispgate/aaa/packet"
)

// source is where a packet came from and when.
type source struct {
	peer netip.AddrPort // as the socket says it: the address to answer to
	addr netip.Addr     // unmapped, without zone: the address a NAS is known by
	at   int64          // nanoseconds since the server's start
}

// worker reads one socket. Everything but finished belongs to its goroutine.
type worker struct {
	*engine
	conn       *net.UDPConn
	plain      bool // its kernel does not know UDP_SEGMENT
	accounting bool
	cache      *cache
	oob        control
	io         *batch
	fd         uintptr // of conn, which is closed after everybody has stopped
	to         address // of the datagram being served
	served     uint64
	failure    error // of the last receive

	free     []*pending
	made     int // pending values that exist
	delayed  int // of which wait out the reject delay
	finished stack
}

// pending is a request whose answer comes later: from the journal, the wheel or the slow pool. It belongs to the worker
// until handed off, to the other side until it comes back through worker.finished.
type pending struct {
	next    *pending
	w       *worker
	entry   *entry
	gen     uint32
	peer    netip.AddrPort
	to      address
	oob     [controlRoom]byte
	oobLen  int
	due     int64 // wheel tick; 0: at once
	reject  bool
	raw     []byte // the request, for the slow pool
	payload []byte // the record, for the journal
	reply   []byte // empty: say nothing, and let the next retransmission try again
	failed  bool   // count it against who
	passed  bool   // forget what was counted against who
	who     culprit
	nas     *nasEntry
	server  *Server
	outcome Outcome // of an accounting request, to be reported when it is durable
	login   [packet.MaxValue]byte
}

// stack is a list that many push and one takes whole: no lock, no ABA.
type stack struct{ head atomic.Pointer[pending] }

func (s *stack) push(p *pending) {
	for {
		head := s.head.Load()
		p.next = head
		if s.head.CompareAndSwap(head, p) {
			return
		}
	}
}

// take returns everything pushed so far, oldest first.
func (s *stack) take() *pending {
	if s.head.Load() == nil {
		return nil
	}
	var first *pending
	for p := s.head.Swap(nil); p != nil; {
		next := p.next
		p.next, first = first, p
		p = next
	}
	return first
}

const readPause = 50 * time.Millisecond

// loop serves the socket until it is told to stop.
func (w *worker) loop() {
	rc, err := w.conn.SyscallConn()
	for err == nil && !w.s.stopping.Load() {
		if err := rc.Read(w.readable); errors.Is(err, net.ErrClosed) {
			return
		}
		if w.failure != nil {
			w.s.cfg.Logger.Warn("reading the radius socket", "error", w.failure)
			w.failure = nil
			time.Sleep(readPause) // an error that stays must not burn the CPU the other sockets need
		}
	}
}

// readable serves everything that has arrived and returns false to wait for more. The poller's loop calls it again
// after each edge. A batch that was not full has seen the socket empty, so no edge is missed by not asking once more.
func (w *worker) readable(fd uintptr) bool {
	for !w.s.stopping.Load() {
		n, errno := w.io.receive(fd)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		default:
			w.failure = errno
			return true
		}
		w.drain()
		for i := range n {
			data, oob := w.io.datagram(i)
			w.to = w.io.from(i)
			w.serve(data, oob, w.io.peer(i))
		}
		w.flush(w.io)
		if n < batchSize {
			return false
		}
	}
	return true
}

// serve takes one datagram through cache and pipeline.
func (w *worker) serve(datagram, oob []byte, peer netip.AddrPort) {
	now := w.s.cfg.Now()
	src := source{peer: peer, addr: unmapped(peer), at: int64(now.Sub(w.s.start))}
	w.lane.received.Add(1)
	received := w.oob.read(oob)
	if w.oob.drops > 0 {
		w.lane.kernelDrops.Store(uint64(w.oob.drops))
	}
	if !w.begin(src, now) {
		return
	}
	st := w.nas.state
	st.requests.Add(1)
	if unix := now.Unix(); st.lastSeen.Load() != unix {
		st.lastSeen.Store(unix)
	}
	pkt, err := packet.Trim(datagram)
	if err != nil {
		w.drop(StageParse, &Malformed)
		return
	}
	e, found := w.cache.find(peer, pkt, src.at)
	switch found {
	case cacheHit:
		w.lane.hits.Add(1)
		w.send(e.reply)
		return
	case cachePending:
		w.lane.absorbed.Add(1)
		return
	}
	waited := time.Duration(0)
	if received > 0 {
		waited = now.Sub(time.Unix(0, received))
	}
	if !w.accounting && w.s.cfg.StaleAfter > 0 && waited > w.s.cfg.StaleAfter && waited < time.Hour {
		w.drop(StageLimit, &Overloaded) // its router has given up on it
		return
	}
	w.finishRun(w.run(pkt, w.accounting), e)
	if w.served++; w.served%8 == 0 {
		w.lane.took(max(0, waited+w.s.cfg.Now().Sub(now)))
	}
}

// finishRun does what the engine decided.
func (w *worker) finishRun(a action, e *entry) {
	switch a {
	case actDrop:
	case actReply:
		w.cache.take(e, w.src.peer, w.pkt, w.src.at)
		w.send(w.out)
		e.finish(e.gen, w.out)
	case actDelay:
		w.delay(e)
	case actJournal:
		w.journal(e)
	case actSlow:
		w.askSlow(e)
	}
}

func (w *worker) send(reply []byte) {
	if w.io.full(reply) {
		w.flush(w.io)
	}
	w.io.queue(&w.to, reply, w.oob.reply())
}

// flush sends b's replies by this worker's socket and counts what the kernel refused.
func (w *worker) flush(b *batch) {
	if b.flush(w.fd); b.lost > 0 {
		w.lane.refused.Add(b.lost)
		b.lost = 0
	}
}

// hold makes the request pending. It returns nil when the worker holds all it may.
func (w *worker) hold(e *entry) *pending {
	var p *pending
	switch n := len(w.free); {
	case n > 0:
		p, w.free = w.free[n-1], w.free[:n-1]
	case w.made < w.s.cfg.MaxPending:
		w.made++
		p = &pending{w: w, server: w.s, reply: make([]byte, 0, replyRoom)}
	default:
		return nil
	}
	w.cache.take(e, w.src.peer, w.pkt, w.src.at)
	p.entry, p.gen = e, e.gen
	p.peer, p.to, p.nas, p.who = w.src.peer, w.to, w.nas, w.who
	p.oobLen = copy(p.oob[:], w.oob.reply())
	p.due, p.reject, p.failed, p.passed = 0, false, false, false
	p.reply = append(p.reply[:0], w.out...)
	w.s.inFlight.Add(1)
	return p
}

// delay sends the reject later. Rejects may fill three quarters of what a worker holds: a flood of wrong passwords must
// not keep others from being heard.
func (w *worker) delay(e *entry) {
	if w.s.cfg.RejectDelay < 0 {
		w.finishRun(actReply, e)
		return
	}
	if w.delayed >= w.s.cfg.MaxPending*3/4 {
		w.drop(StageLimit, &Overloaded)
		return
	}
	p := w.hold(e)
	if p == nil {
		w.drop(StageLimit, &Overloaded)
		return
	}
	w.delayed++
	p.reject = true
	w.s.post.later(p, w.src.at)
}

func (w *worker) journal(e *entry) {
	p := w.hold(e)
	if p == nil {
		w.drop(StageLimit, &Overloaded)
		return
	}
	if cap(p.payload) == 0 {
		p.payload = make([]byte, 0, acct.MaxSize)
	}
	p.payload = w.rec.Append(p.payload[:0])
	p.outcome = w.outcome
	p.outcome.Login = p.login[:copy(p.login[:], w.outcome.Login)]
	w.s.cfg.Journal.Submit(w.s.cfg.JournalKind, p.payload, p)
}

// Journaled is called by the journal once the record is durable, or cannot be made so: then nothing is answered, and
// the router asks again.
func (p *pending) Journaled(_ uint64, err error) {
	s := p.server
	if err != nil {
		p.reply = p.reply[:0]
	}
	if failed := err != nil; s.journalFailed.Load() != failed && s.journalFailed.CompareAndSwap(!failed, failed) {
		s.journalTurned(err)
	}
	s.post.now(p)
}

// journalTurned says once per outage that accounting stopped, and that it came back. A journal that is merely busy now
// and then would fill the log, so the first word of an outage is at most one in ten seconds.
func (s *Server) journalTurned(err error) {
	now := s.cfg.Now().Unix()
	switch last := s.journalLogged.Load(); {
	case err == nil && last < 0:
		s.journalLogged.Store(-last)
		s.cfg.Logger.Info("accounting is acknowledged again")
	case err != nil && last >= 0 && now-last >= 10:
		s.journalLogged.Store(-now)
		s.cfg.Logger.Error("accounting is not acknowledged because the journal refuses it", "error", err)
	}
}

func (w *worker) askSlow(e *entry) {
	p := w.hold(e)
	if p == nil {
		w.drop(StageLimit, &Overloaded)
		return
	}
	p.raw = append(p.raw[:0], w.pkt...)
	select {
	case w.s.slow <- p:
	default:
		p.reply = p.reply[:0]
		w.drop(StageLimit, &Overloaded)
		w.s.post.now(p)
	}
}

// drain takes back what others have finished. Only here do caches and back-off tables learn of it, so both stay
// without locks.
func (w *worker) drain() {
	for p := w.finished.take(); p != nil; {
		next := p.next
		p.entry.finish(p.gen, p.reply)
		if p.reject {
			w.delayed--
		}
		if w.limits != nil && p.failed {
			w.limits.failed(p.who, w.src.at)
		}
		if w.limits != nil && p.passed {
			w.limits.succeeded(p.who)
		}
		p.nas, p.entry, p.next = nil, nil, nil
		p.outcome = Outcome{}
		w.free = append(w.free, p)
		p = next
	}
}

// accounted counts an accounting request at its end. The postman calls it: an idle worker would learn of it late.
func (w *worker) accounted(p *pending) {
	if len(p.reply) == 0 {
		p.nas.state.drops.Add(1)
		p.outcome.Result, p.outcome.Stage, p.outcome.Reason = Dropped, StageReply, &JournalDown
	} else {
		w.lane.accounting.Add(1)
		p.nas.state.accounting.Add(1)
		p.outcome.Result, p.outcome.Stage = Accounted, StageReply
	}
	w.s.report(w.lane, &p.outcome)
}

package radiusd

import (
	"sync/atomic"
	"time"
)

// The timer wheel: coarse, since a reject delay need not be exact.
const (
	wheelTick  = 20 * time.Millisecond
	wheelSlots = 256
	wheelSpan  = wheelTick * (wheelSlots - 4)
)

// postman sends the answers that come later. One goroutine serves all sockets: it holds the wheel of delayed rejects
// and takes what the journal's committer and the slow pool have finished, so that neither of those ever waits for a
// socket. An idle postman sleeps; its ticker runs only while something is in the wheel.
type postman struct {
	s     *Server
	in    stack
	kick  chan struct{}
	slots [wheelSlots]*pending
	count int
	tick  int64
	held  atomic.Int64
	io    *batch   // replies to be sent together
	via   *worker  // by whose socket
	done  *pending // whose replies they are
}

func newPostman(s *Server) *postman {
	return &postman{s: s, kick: make(chan struct{}, 1), io: newBatch(false)}
}

// now sends p's reply as soon as may be.
func (m *postman) now(p *pending) {
	p.due = 0
	m.push(p)
}

// later sends p's reply after the reject delay.
func (m *postman) later(p *pending, at int64) {
	p.due = (at+int64(m.s.cfg.RejectDelay))/int64(wheelTick) + 1
	m.push(p)
}

func (m *postman) push(p *pending) {
	m.in.push(p)
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// loop runs until stop is closed and everything in flight has been sent or given back.
func (m *postman) loop(stop <-chan struct{}) {
	ticker := time.NewTicker(wheelTick)
	defer ticker.Stop()
	ticking := true
	for {
		if want := m.count > 0; want != ticking {
			if ticking = want; want {
				ticker.Reset(wheelTick)
			} else {
				ticker.Stop()
			}
		}
		select {
		case <-stop:
			m.collect()
			m.flush()
			return
		case <-m.kick:
			m.collect()
		case <-ticker.C:
		}
		m.turn()
	}
}

// collect sends what is due at once and puts the rest into the wheel.
func (m *postman) collect() {
	for p := m.in.take(); p != nil; {
		next := p.next
		if p.due == 0 {
			m.deliver(p)
		} else {
			if m.count == 0 {
				m.tick = m.ticks()
			}
			due := min(max(p.due, m.tick+1), m.tick+wheelSlots-1)
			slot := &m.slots[due%wheelSlots]
			p.next, *slot = *slot, p
			m.count++
			m.held.Add(1)
		}
		p = next
	}
	m.send()
}

func (m *postman) ticks() int64 { return int64(m.s.cfg.Now().Sub(m.s.start)) / int64(wheelTick) }

// turn sends what the time has come for. A clock that jumped ahead empties the wheel; one that went back waits.
func (m *postman) turn() {
	now := m.ticks()
	for end := min(now, m.tick+wheelSlots); m.count > 0 && m.tick < end; {
		m.tick++
		m.empty(&m.slots[m.tick%wheelSlots])
	}
	m.tick = max(m.tick, now)
	m.send()
}

func (m *postman) flush() {
	for i := range m.slots {
		m.empty(&m.slots[i])
	}
	m.send()
}

func (m *postman) empty(slot **pending) {
	p := *slot
	for *slot = nil; p != nil; {
		next := p.next
		m.count--
		m.held.Add(-1)
		m.deliver(p)
		p = next
	}
}

// deliver queues p's reply behind others that leave by the same socket.
func (m *postman) deliver(p *pending) {
	w := p.w
	if w != m.via || m.io.full(p.reply) {
		m.send()
		m.via = w
		m.io.plain = w.plain
	}
	if w.accounting {
		w.accounted(p)
	}
	if len(p.reply) > 0 {
		m.io.queue(&p.to, p.reply, p.oob[:p.oobLen])
	}
	p.next, m.done = m.done, p
}

// send sends what deliver has queued and gives the requests back to their worker.
func (m *postman) send() {
	if m.done == nil {
		return
	}
	m.via.flush(m.io)
	for p := m.done; p != nil; {
		next := p.next
		m.s.inFlight.Add(-1)
		m.via.finished.push(p)
		p = next
	}
	m.done = nil
}

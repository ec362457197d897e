package radiusd

import "net/netip"

// slowLoop verifies password hashes until the channel closes. It runs the request through an engine of its own to reach
// the password, asks the hash, and runs it again with the answer, so that the stages exist once.
func (s *Server) slowLoop(e *engine) {
	for p := range s.slow {
		e.answerSlowly(p)
	}
}

func (e *engine) answerSlowly(p *pending) {
	now := e.s.cfg.Now()
	src := source{peer: p.peer, at: int64(now.Sub(e.s.start))}
	src.addr = unmapped(p.peer)
	p.reply = p.reply[:0]
	a := actDrop
	if e.begin(src, now) {
		a = e.run(p.raw, false)
		if a == actSlow {
			e.known = wrongPassword
			if e.prover.settle(e.login.Password, e.plain) {
				e.known = rightPassword
			}
			if e.begin(src, now) {
				a = e.run(p.raw, false)
			}
			e.known = askSlowly
		}
	}
	clear(e.pw[:])
	if a == actReply || a == actDelay {
		p.reply = append(p.reply, e.out...)
	}
	p.failed, p.passed = e.failed, a == actReply
	if a == actDelay && e.s.cfg.RejectDelay > 0 {
		e.s.post.later(p, src.at)
		return
	}
	e.s.post.now(p)
}

func unmapped(a netip.AddrPort) netip.Addr { return a.Addr().Unmap().WithZone("") }

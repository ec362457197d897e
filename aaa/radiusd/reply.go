package radiusd

import (
	"crypto/subtle"
	"hash/maphash"
	"math"

	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/edge"
)

// reply begins an answer: header and an empty Message-Authenticator, always the first attribute. Only the answer to an
// Accounting-Request has none: no RFC defines it there, and peers disagree on its arithmetic (FreeRADIUS 3.2 computes it
// over 16 zeros and refuses the answer otherwise). Its Response Authenticator covers a request that was itself verified,
// so the forgery of BlastRADIUS has no hold on it.
func (e *engine) reply(code packet.Code) {
	e.out = packet.Begin(e.out[:0], code, e.pkt[1], packet.Authenticator(e.pkt))
	if packet.Code(e.pkt[0]) != packet.AccountingRequest {
		e.out = packet.AppendMessageAuthenticator(e.out)
	}
}

// finish echoes every Proxy-State unchanged and in order (RFC 2865 §5.33), then signs.
func (e *engine) finish() action {
	for i := e.attrs.First(packet.ProxyState); i >= 0; i = e.attrs.Next(i) {
		_, v := e.attrs.At(i)
		if len(e.out)+2+len(v) > packet.MaxLen {
			return e.drop(StageReply, &Malformed)
		}
		e.out = packet.Append(e.out, packet.ProxyState, v)
	}
	if len(e.out) > packet.MaxLen {
		return e.drop(StageReply, &Malformed)
	}
	packet.Finish(e.out)
	e.x.SignReply(e.secret, e.out, packet.Authenticator(e.pkt))
	return actReply
}

// appendPolicy copies what was rendered beforehand and adds what depends on the moment and the login.
func (e *engine) appendPolicy(d *Decision) {
	l, now := e.login, e.req.Now.Unix()
	var timeout uint32
	if p := d.Policy; p != nil {
		e.out = append(e.out, p.Attrs(e.nas.Profile)...)
		if !l.Address.V4 {
			e.out = append(e.out, p.Pool()...)
		}
		if !l.Address.V6 {
			e.out = append(e.out, p.Pools6(e.nas.Profile)...)
		}
		timeout = p.SessionTimeout
		if p.InterimInterval > 0 {
			e.out = packet.AppendUint32(e.out, packet.AcctInterimInterval, jitter(p.InterimInterval, e.credential()))
		}
	}
	e.out = append(e.out, l.Address.Attrs...)
	if d.Until > 0 {
		left := uint32(min(max(d.Until-now, 1), math.MaxUint32))
		if timeout == 0 || left < timeout {
			timeout = left
		}
	}
	if timeout > 0 {
		e.out = packet.AppendUint32(e.out, packet.SessionTimeout, timeout)
	}
}

// jitter spreads interims over ±10 %, always the same for one login, never below 60 s: after a power cut all sessions
// of a tower start at once.
func jitter(interval uint32, id []byte) uint32 {
	h := uint32(2166136261) // FNV-1a
	for _, c := range id {
		h = (h ^ uint32(c)) * 16777619
	}
	spread := uint64(interval) / 5
	return max(dict.MinInterim, interval-uint32(spread/2)+uint32(uint64(h)*(spread+1)>>32))
}

// credential returns the login's id in the engine's scratch: a string would cost an allocation as a slice. The password
// buffer is free by now, and wiping it does no harm.
func (e *engine) credential() []byte { return e.pw[:copy(e.pw[:], e.login.ID)] }

// reject writes an Access-Reject, to be sent after the delay. The sentence goes to the CPE only once the password was
// right: before that it would tell a stranger which logins exist.
func (e *engine) reject(stage Stage, reason *edge.Reason, message string) action {
	if reason == &Malformed {
		return e.drop(StageParse, reason)
	}
	if reason == nil {
		reason = &edge.Reason{}
	}
	e.reply(packet.AccessReject)
	if stage == StageAuthorise {
		if message == "" {
			message = reason.Says
		}
		if message != "" {
			e.out = packet.AppendString(e.out, packet.ReplyMessage, message)
		}
	}
	if eap := e.attrs.Get(packet.EAPMessage); len(eap) >= 2 {
		e.out = append(e.out, packet.EAPMessage, 6, 4, eap[1], 0, 4) // EAP-Failure, RFC 3579 §2.6.3
	}
	if a := e.finish(); a == actDrop {
		return a
	}
	if e.failed && e.limits != nil {
		e.limits.failed(e.who, e.src.at)
	}
	e.nas.state.rejects.Add(1)
	e.outcome.Result, e.outcome.Stage, e.outcome.Reason = Rejected, stage, reason
	e.s.report(e.lane, &e.outcome)
	return actDelay
}

// drop counts a request that gets no answer.
func (e *engine) drop(stage Stage, reason *edge.Reason) action {
	if e.nas != nil {
		e.nas.state.drops.Add(1)
	}
	if reason == &Malformed {
		stage = StageParse
	}
	e.outcome.Result, e.outcome.Stage, e.outcome.Reason = Dropped, stage, reason
	e.s.report(e.lane, &e.outcome)
	return actDrop
}

func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// random returns 64 bits from the runtime's seed for hash tables: unpredictable, not secret.
func (s *Server) random() uint64 { return maphash.Bytes(maphash.MakeSeed(), nil) }

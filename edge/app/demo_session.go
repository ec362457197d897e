package app

import (
	"context"
	"fmt"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
)

// step does what is due for a line: log in, report, or hang up; and says when to come again. One worker at a time has a line.
func (r *routerSim) step(ctx context.Context, l *line) {
	now := time.Now()
	switch {
	case l.s == nil:
		l.due = now.Add(r.login(ctx, l))
	case !now.Before(l.s.Ends):
		l.due = now.Add(r.hangUp(ctx, l))
	default:
		r.report(ctx, l, 3, 0)
		l.due = l.next(reportEvery)
	}
}

// jitter is about d: plus or minus a fifth.
func (l *line) jitter(d time.Duration) time.Duration {
	return d*4/5 + time.Duration(l.rng.Int64N(int64(d)*2/5+1))
}

// next is when an online line is due again: its next report or its end.
func (l *line) next(report time.Duration) time.Time {
	at := time.Now().Add(l.jitter(report))
	if l.s.Ends.Before(at) {
		return l.s.Ends
	}
	return at
}

// login asks whether the subscriber may come online, and reports the session's start when so.
func (r *routerSim) login(ctx context.Context, l *line) time.Duration {
	password, port := l.p.tried(), r.ports.Add(1)
	attrs := l.describe(nil, fmt.Sprintf("8%07x", port&0xfffffff), port)
	reply, err := r.access.Do(ctx, radclient.Request{Code: packet.AccessRequest, Attrs: attrs, Password: &password, CHAP: l.p.chap})
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		r.board.silent.Add(1)
		return l.jitter(tryAgain)
	}
	if reply.Code != packet.AccessAccept {
		r.board.refused.Add(1)
		return l.jitter(tryAgain)
	}
	r.board.accepted.Add(1)
	l.online(&reply, port)
	method := "PAP"
	if l.p.chap {
		method = "CHAP"
	}
	r.board.online.Add(1)
	r.board.tell(happening{
		Kind: wasAccepted, Who: l.p.login, Text: fmt.Sprintf("%-8s %-4s %s", rateOf(&reply), method, reply.Took.Round(10*time.Microsecond)),
	})
	r.report(ctx, l, 1, 0)
	return time.Until(l.next(firstReport))
}

// online makes the session that an Access-Accept allows.
func (l *line) online(reply *radclient.Reply, port uint32) {
	now := time.Now()
	s := &routerSession{
		ID: fmt.Sprintf("8%07x", port&0xfffffff), Login: l.p.login, MAC: l.mac().String(), Port: port, Started: now, Counted: now, Cause: 1,
		IP: [4]byte{100, 64 + byte(l.p.n>>14), byte(l.p.n >> 6), byte(l.p.n<<2) + 2}, Ends: now.Add(shortestSession + time.Duration(l.rng.Int64N(int64(longestSession)))),
	}
	if l.p.n == 0 {
		s.Ends = now.Add(shownSession)
	}
	if attrs, err := reply.Attrs(); err == nil {
		s.Class = append(s.Class, attrs.Get(packet.Class)...)
		if ip := attrs.Get(packet.FramedIPAddress); len(ip) == 4 {
			s.IP = [4]byte(ip)
		}
		if limit, ok := attrs.Uint32(packet.SessionTimeout); ok {
			if end := now.Add(time.Duration(limit) * time.Second); end.Before(s.Ends) {
				s.Ends, s.Cause = end, 5 // Session-Timeout
			}
		}
	}
	l.s = s
}

// rateOf is the rate limit that the node gave.
func rateOf(reply *radclient.Reply) string {
	attrs, err := reply.Attrs()
	if err != nil {
		return ""
	}
	v := attrs.Vendor(mikrotik, 8)
	for i, c := range v {
		if c == ' ' {
			return string(v[:i]) // what follows is bursts
		}
	}
	return string(v)
}

// report sends an accounting record: 1 start, 2 stop, 3 interim. The counters move first.
func (r *routerSim) report(ctx context.Context, l *line, status, cause uint32) bool {
	s, now := l.s, time.Now()
	if dt := min(now.Sub(s.Counted), 2*reportEvery).Seconds(); dt > 0 {
		load := l.p.rate * (0.3 + 1.4*l.rng.Float64())
		s.Out += uint64(load * dt)
		s.In += uint64(load * dt / 8)
	}
	s.Counted = now
	attrs := l.describe(packet.AppendUint32(nil, packet.AcctStatusType, status), s.ID, s.Port)
	attrs = packet.Append(attrs, packet.FramedIPAddress, s.IP[:])
	if len(s.Class) > 0 {
		attrs = packet.Append(attrs, packet.Class, s.Class)
	}
	for _, a := range []struct {
		typ byte
		val uint64
	}{
		{packet.AcctSessionTime, uint64(now.Sub(s.Started) / time.Second)}, {packet.EventTimestamp, uint64(now.Unix())}, {packet.AcctDelayTime, 0},
		{packet.AcctInputOctets, s.In}, {packet.AcctInputGigawords, s.In >> 32}, {packet.AcctInputPackets, s.In / 700},
		{packet.AcctOutputOctets, s.Out}, {packet.AcctOutputGigawords, s.Out >> 32}, {packet.AcctOutputPackets, s.Out / 1200},
	} {
		attrs = packet.AppendUint32(attrs, a.typ, uint32(a.val))
	}
	if cause != 0 {
		attrs = packet.AppendUint32(attrs, packet.AcctTerminateCause, cause)
	}
	if _, err := r.account.Do(ctx, radclient.Request{Code: packet.AccountingRequest, Attrs: attrs}); err != nil {
		r.board.unaccounted.Add(1)
		return false
	}
	r.board.accounted.Add(1)
	return true
}

// hangUp ends a session. The router forgets it only when the node has the record.
func (r *routerSim) hangUp(ctx context.Context, l *line) time.Duration {
	if !r.report(ctx, l, 2, l.s.Cause) {
		return comeBack
	}
	l.s = nil
	r.board.online.Add(-1)
	return l.jitter(comeBack)
}

// describe writes what RouterOS says about a PPPoE subscriber in every request.
func (l *line) describe(attrs []byte, session string, port uint32) []byte {
	attrs = packet.AppendUint32(attrs, packet.ServiceType, 2)    // Framed
	attrs = packet.AppendUint32(attrs, packet.FramedProtocol, 1) // PPP
	attrs = packet.AppendUint32(attrs, packet.NASPort, port)
	attrs = packet.AppendUint32(attrs, packet.NASPortType, 15) // Ethernet
	attrs = packet.AppendString(attrs, packet.UserName, l.p.sent())
	attrs = packet.AppendString(attrs, packet.CallingStationID, l.mac().String())
	attrs = packet.AppendString(attrs, packet.CalledStationID, "pppoe-homes")
	attrs = packet.AppendString(attrs, packet.NASPortID, "ether2-sector-north")
	attrs = packet.AppendString(attrs, packet.AcctSessionID, session)
	attrs = packet.AppendString(attrs, packet.NASIdentifier, demoRouter)
	return packet.Append(attrs, packet.NASIPAddress, []byte{127, 0, 0, 1})
}

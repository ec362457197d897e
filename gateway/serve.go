package gateway

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"wispgate/edge"
)

// serve runs a request that has found its route through the pipeline.
func (s *Server) serve(x *exchange, rt *route) {
	x.rt = rt
	if err := s.cfg.Ready(); err != nil { // without its state the node knows nobody
		e, _ := edge.AsError(err)
		x.refuse(e)
		return
	}
	x.audit = rt.care.audited
	if e := s.identify(x); e != nil {
		s.deny(x, e)
		return
	}
	if e := s.permit(x); e != nil {
		s.refuseAudited(x, e)
		return
	}
	if e := s.throttle(x, rt.care.cost); e != nil {
		x.audit = false // counted, not journaled: a flood must not wear the flash
		x.refuse(e)
		return
	}
	if e := s.queue.enter(x.who.Actor.Tenant, &rt.care); e != nil {
		x.audit = false
		x.refuse(e)
		return
	}
	s.attend(x)
	if x.audit { // outside the queue: whoever waits for the disk keeps no place, so one flush serves many
		s.auditEnd(x)
	}
}

// attend carries out a request that has its place in the queue.
func (s *Server) attend(x *exchange) {
	defer s.queue.leave(&x.rt.care)
	if x.audit {
		if e := s.auditReady(x); e != nil {
			x.audit = false
			x.refuse(e)
			return
		}
	}
	if e := s.run(x); e != nil {
		x.refuse(e)
	}
}

// run judges the input, carries out the operation and answers.
func (s *Server) run(x *exchange) *edge.Error {
	if e := x.preconditions(); e != nil {
		return e
	}
	if e := x.input(); e != nil {
		return e
	}
	ctx := s.base
	if x.rt.care.lane == writeLane || x.minimum > 0 || x.strong || x.rt.own != nil {
		c, cancel := context.WithTimeout(ctx, x.rt.care.timeout)
		defer cancel()
		ctx = c
	}
	switch {
	case x.rt.own != nil:
		return x.rt.own.run(ctx, x)
	case x.rt.op.Command:
		return s.command(ctx, x)
	default:
		return s.query(ctx, x)
	}
}

// identify settles who asks.
func (s *Server) identify(x *exchange) *edge.Error {
	if query := x.ctx.URI().QueryString(); bytes.Contains(query, []byte("wg_live_")) {
		x.records = append(x.records, keyIDIn(query))
		return errKeyInURL.Error(edge.Invalid)
	}
	shown := Shown{Address: x.address, Tenant: view(x.header("X-Tenant-Id")), APIKey: view(x.header("X-Api-Key"))}
	if auth := x.header(fasthttp.HeaderAuthorization); len(auth) > 0 {
		scheme, token, _ := bytes.Cut(auth, []byte(" "))
		if !equalFold(scheme, "bearer") || len(token) == 0 {
			return errBadScheme.Error(edge.Unauthenticated)
		}
		shown.Bearer = view(token)
	}
	if len(shown.Bearer) > maxBearer || len(shown.APIKey) > maxBearer {
		return errBadScheme.Error(edge.Unauthenticated)
	}
	if shown.Bearer == "" && shown.APIKey == "" && x.ctx.IsTLS() {
		if state := x.ctx.TLSConnectionState(); state != nil && len(state.VerifiedChains) > 0 {
			shown.Peer = state.VerifiedChains[0][0]
		}
	}
	// Who takes a node over is nobody yet, also on its own socket.
	open := x.rt.scope() == edge.Public && x.rt.writes()
	shown.Local = shown.Empty() && !open && x.ctx.LocalAddr().Network() == "unix"
	if shown.Empty() {
		if x.rt.scope() != edge.Public {
			return errCredential.Error(edge.Unauthenticated)
		}
		x.who = &anonymous
		return nil
	}
	who, err := s.ports.Authenticator.Authenticate(shown)
	if err != nil {
		e, ok := edge.AsError(err)
		if !ok {
			s.log.Error("authentication failed", "request_id", string(x.id[:]), "error", err)
		}
		return e
	}
	x.who = who
	return nil
}

// anonymous is who asks for public operations without a credential. It holds no scope and belongs to no ISP.
var anonymous = Identity{Actor: edge.Actor{Tenant: edge.System, Subject: "anonymous"}}

// keyIDIn is the public part of the API key in a query, for the audit: the eight characters after the prefix.
func keyIDIn(query []byte) string {
	_, rest, _ := bytes.Cut(query, []byte("wg_live_"))
	id := rest[:min(len(rest), 8)]
	for _, b := range id {
		if b|0x20 < 'a' && (b < '0' || b > '9') || b|0x20 > 'z' {
			return "key"
		}
	}
	return "wg_live_" + string(id)
}

// permit checks the scope of the matched route.
func (s *Server) permit(x *exchange) *edge.Error {
	scope := x.rt.scope()
	if scope == anyScope || x.who.Actor.Has(scope) {
		return nil
	}
	return missing(scope)
}

func missing(scope string) *edge.Error {
	e := edge.ErrScope.Error(edge.Denied)
	e.Message = "The credential lacks the scope " + scope
	return e
}

// throttle charges cost and writes the headers that say how much is left.
func (s *Server) throttle(x *exchange, cost int) *edge.Error {
	var d Decision
	if x.who == &anonymous {
		d = s.ports.Limiter.TakeAddress(x.address, cost, x.started)
	} else {
		d = s.ports.Limiter.Take(x.who, x.rt.class(), cost, x.started)
		x.rateHeaders(&d)
	}
	if d.Allowed {
		return nil
	}
	return limited(&d)
}

func limited(d *Decision) *edge.Error {
	e := errRate.Error(edge.Limited)
	e.RetryAfter = max(1, int((d.RetryAfter+time.Second-1)/time.Second))
	if d.Asked > 0 {
		e.Message = "The rate limit of the " + d.Policies[d.Tightest].Name + " is used up"
	}
	return e
}

// deny answers a request that has not shown who sends it. Each costs its address; beyond the limit the answer is 429 whatever was
// wrong, and the audit counts instead of listing.
func (s *Server) deny(x *exchange, e *edge.Error) {
	x.audit = false
	d := s.ports.Limiter.TakeAddress(x.address, 1, x.started)
	credential := e.Kind == edge.Unauthenticated || e.Code == errKeyInURL.Code
	if !d.Allowed && e.Kind != edge.Internal {
		e = limited(&d)
	}
	if credential {
		s.refuseAudited(x, e)
		return
	}
	x.refuse(e)
}

// refuseAudited answers a refused credential or scope, with a line in the journal before the answer. The first refusal of a source in
// a minute has its own line, the others are counted into one.
func (s *Server) refuseAudited(x *exchange, e *edge.Error) {
	x.refuse(e)
	x.audit = true
	if s.floods.first(x) {
		s.auditEnd(x)
	}
}

// view is b as a string without a copy, valid until the handler returns.
func view(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return unsafeString(b)
}

// wantsEnvelope reports that the client asked for {"success":true,"data":…}.
func (x *exchange) wantsEnvelope() bool {
	return strings.Contains(view(x.header(fasthttp.HeaderAccept)), envelopeType)
}

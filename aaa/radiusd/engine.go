package radiusd

import (
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"wispgate/aaa/acct"
	"wispgate/aaa/packet"
	"wispgate/edge"
)

// action is what the worker does with a request once the engine is through.
type action uint8

const (
	actDrop    action = iota // say nothing
	actReply                 // send e.out
	actDelay                 // send e.out after the reject delay
	actJournal               // send e.out once e.rec is durable
	actSlow                  // ask the slow hash, then run again
)

// engine runs the stages. One per goroutine: all of its memory is its own and reused for every packet.
type engine struct {
	s      *Server
	lane   *lane
	x      *packet.Hasher
	prover *prover
	signer *acct.ClassSigner
	rng    *rand.PCG
	limits *backoff // nil in the slow pool: the worker counts for it
	slow   bool     // this engine belongs to the slow pool
	known  answer   // the slow hash's answer, askSlowly when there is none

	// One request.
	src     source
	pkt     []byte
	attrs   packet.Attrs
	nas     *nasEntry
	secret  *packet.Secret
	signed  bool // a valid Message-Authenticator came with it
	req     Request
	login   *Login
	who     culprit
	failed  bool // the password was wrong: count it against who
	plain   []byte
	pw      [packet.MaxPassword]byte
	rec     acct.Record
	class   acct.Class
	out     []byte
	outcome Outcome
}

func (s *Server) newEngine() *engine {
	l := newLane(len(s.reasonCodes), s.cfg.Recent)
	s.lanes = append(s.lanes, l)
	return &engine{
		s: s, lane: l, x: packet.NewHasher(), prover: newProver(s.bootKey[:]), signer: acct.NewClassSigner(s.cfg.ClassKey),
		rng: rand.NewPCG(s.random(), s.random()), known: askSlowly, out: make([]byte, 0, packet.MaxLen+512),
	}
}

// begin is the stage nas: who sends this, and does the record know it?
func (e *engine) begin(src source, now time.Time) bool {
	e.src, e.login, e.failed, e.signed = src, nil, false, false
	e.outcome = Outcome{At: now, Source: src.addr}
	e.req = Request{Now: now}
	if e.nas = e.s.nas.Load().find(src.addr); e.nas == nil {
		e.s.strangers.saw(src.addr, now)
		e.drop(StageNAS, &NASUnknown)
		return false
	}
	e.req.NAS, e.outcome.NAS = e.nas.NAS, e.nas.NAS
	return true
}

// run takes a whole packet through the stages after nas.
func (e *engine) run(pkt []byte, accounting bool) action {
	e.pkt = pkt
	if e.attrs.Parse(pkt) != nil {
		return e.drop(StageParse, &Malformed)
	}
	code, expected := packet.Code(pkt[0]), packet.AccessRequest
	if accounting {
		expected = packet.AccountingRequest
	}
	if code != expected && code != packet.StatusServer {
		return e.drop(StageParse, &Malformed) // a reply, or the other port's request
	}
	if reason := e.integrity(code); reason != nil {
		return e.drop(StageIntegrity, reason)
	}
	if !e.slow && !e.nas.state.allow(e.src.at, e.s.cfg.NASRate) {
		return e.drop(StageLimit, &RateLimited)
	}
	switch {
	case code == packet.StatusServer:
		return e.status(accounting)
	case accounting:
		return e.account()
	}
	return e.access()
}

// integrity verifies what the packet is signed with and chooses the secret that the reply is signed with.
func (e *engine) integrity(code packet.Code) *edge.Reason {
	authenticator := packet.Authenticator(e.pkt)
	if code == packet.AccountingRequest {
		authenticator = packet.Zeros()
		if !e.try(func(s *packet.Secret) bool { return e.x.VerifyRequest(s, e.pkt) }) {
			return &WrongSecret
		}
	} else {
		e.secret = e.nas.Secret
		if e.nas.Secondary != nil && e.nas.state.secondary.Load() {
			e.secret = e.nas.Secondary
		}
	}
	i := e.attrs.First(packet.MessageAuthenticator)
	if i < 0 {
		return e.unsigned(code)
	}
	if _, v := e.attrs.At(i); len(v) != 16 || e.attrs.Next(i) >= 0 {
		return &Malformed
	}
	off := e.attrs.Offset(i)
	if !e.try(func(s *packet.Secret) bool { return e.x.VerifyMessageAuthenticator(s, e.pkt, off, authenticator) }) {
		return &WrongSecret
	}
	e.signed = true
	if code == packet.AccessRequest && e.nas.state.seenMA.CompareAndSwap(false, true) && e.s.cfg.Observer != nil {
		e.s.cfg.Observer.MessageAuthenticatorSeen(e.nas.NAS)
	}
	return nil
}

// try verifies with the primary secret and, while a secret is being rotated, with the secondary.
func (e *engine) try(verify func(*packet.Secret) bool) bool {
	st := e.nas.state
	if verify(e.nas.Secret) {
		e.secret = e.nas.Secret
		if st.secondary.Load() {
			st.secondary.Store(false)
		}
		return true
	}
	if e.nas.Secondary == nil || !verify(e.nas.Secondary) {
		return false
	}
	e.secret = e.nas.Secondary
	if !st.secondary.Load() {
		st.secondary.Store(true)
	}
	return true
}

// unsigned decides about a packet without Message-Authenticator (RFC 3579 §3.2, RFC 5997 §2, BlastRADIUS).
func (e *engine) unsigned(code packet.Code) *edge.Reason {
	required := code == packet.StatusServer || e.attrs.Has(packet.EAPMessage)
	if code == packet.AccessRequest {
		switch e.nas.RequireMA {
		case Always:
			required = true
		case Auto:
			required = required || e.nas.state.seenMA.Load() || e.attrs.Has(packet.ProxyState)
		}
	}
	if required {
		return &AuthenticatorOff
	}
	return nil
}

// status answers Status-Server: no look-up, no journal, no proxying. On the accounting port only a node that can keep
// accounting answers; the NAS then uses its second server.
func (e *engine) status(accounting bool) action {
	code := packet.AccessAccept
	if accounting {
		if code = packet.AccountingResponse; !e.s.journalReady() {
			return e.drop(StageReply, &JournalDown)
		}
	}
	e.reply(code)
	if a := e.finish(); a == actDrop {
		return a
	}
	e.lane.status.Add(1)
	return actReply
}

// account prepares the record and the answer that goes out once the record is durable.
func (e *engine) account() action {
	if !e.rec.FromPacket(&e.attrs) {
		return e.drop(StageParse, &Malformed)
	}
	e.rec.Arrived = e.req.Now.UnixNano()
	e.rec.Source = e.src.addr
	e.rec.Tenant, e.rec.NAS = e.nas.tenant, e.nas.id
	e.outcome.Login, e.outcome.MAC = e.rec.UserName, e.rec.MAC
	e.reply(packet.AccountingResponse)
	if a := e.finish(); a == actDrop {
		return a
	}
	return actJournal
}

// access is identify, the limit per login, authenticate and authorise.
func (e *engine) access() action {
	r := &e.req
	r.Login = e.attrs.Get(packet.UserName)
	r.LoginMAC, _ = packet.ParseMAC(r.Login)
	r.MAC, _ = packet.ParseMAC(e.attrs.Get(packet.CallingStationID))
	r.CalledStation = e.attrs.Get(packet.CalledStationID)
	r.NASPortID = e.attrs.Get(packet.NASPortID)
	r.ServiceType, _ = e.attrs.Uint32(packet.ServiceType)
	r.NASPortType, _ = e.attrs.Uint32(packet.NASPortType)
	e.outcome.Login, e.outcome.MAC = r.Login, r.MAC

	if len(r.Login) > 0 {
		e.login = e.s.cfg.Directory.Lookup(r)
	}
	var revision uint64
	if e.login != nil {
		revision, e.outcome.Entry = e.login.Password.revision, e.login
	}
	if e.limits != nil {
		e.who = e.limits.culprit(e.nas.tenant, r.Login, r.MAC, revision)
		if e.limits.blocked(e.who, e.src.at) {
			return e.drop(StageLimit, &RateLimited)
		}
	}
	if e.login == nil {
		e.failed = true
		return e.reject(StageIdentify, &UnknownLogin, "")
	}
	verdict, reason := e.authenticate()
	switch {
	case reason != nil:
		return e.reject(StageAuthenticate, reason, "")
	case verdict == askSlowly:
		return actSlow
	}
	if e.limits != nil {
		e.limits.succeeded(e.who)
	}
	return e.authorise()
}

// authenticate checks the one credential the request carries.
func (e *engine) authenticate() (answer, *edge.Reason) {
	pap, chap := e.attrs.Has(packet.UserPassword), e.attrs.Has(packet.CHAPPassword)
	p, r := e.login.Password, &e.req
	switch {
	case e.attrs.Has(packet.EAPMessage), e.attrs.Vendor(311, 25) != nil, e.attrs.Vendor(311, 1) != nil, pap && chap:
		return 0, &BadMethod
	case pap:
		r.Method = MethodPAP
	case chap:
		r.Method = MethodCHAP
	default:
		r.Method = MethodNone
	}
	e.outcome.Method = r.Method
	if e.login.Methods != 0 && e.login.Methods&r.Method == 0 {
		return 0, &BadMethod
	}
	switch {
	case pap:
		return e.pap(p)
	case chap && p.kind != passwordHashed:
		if !e.chap(p) {
			e.failed = true
			return wrongPassword, &BadPassword
		}
	case chap, p.kind != passwordNone:
		return 0, &BadMethod
	}
	return rightPassword, nil
}

func (e *engine) pap(p *Password) (answer, *edge.Reason) {
	hidden := e.attrs.Get(packet.UserPassword)
	var ok bool
	if e.plain, ok = e.x.Reveal(&e.pw, e.secret, hidden, packet.Authenticator(e.pkt)); !ok {
		return 0, &Malformed
	}
	if e.known != askSlowly && p.kind == passwordHashed {
		return e.judge(e.known, noise(e.plain))
	}
	a := e.prover.check(p, e.plain, &e.req)
	if a != rightPassword && !e.signed && e.nas.Secondary != nil && p.kind != passwordHashed {
		// A rotation in progress and nothing signed: the other secret may be the one.
		other := e.nas.Secret
		if e.secret == other {
			other = e.nas.Secondary
		}
		suspect := noise(e.plain)
		e.plain, _ = e.x.Reveal(&e.pw, other, hidden, packet.Authenticator(e.pkt))
		if e.prover.check(p, e.plain, &e.req) == rightPassword {
			e.secret = other
			return rightPassword, nil
		}
		return e.judge(a, suspect && noise(e.plain))
	}
	return e.judge(a, noise(e.plain))
}

// judge turns the answer into a reason. Noise proves nothing while the packet is signed: then the secret is right.
func (e *engine) judge(a answer, noise bool) (answer, *edge.Reason) {
	if a != wrongPassword {
		return a, nil
	}
	if noise && !e.signed {
		return a, &SecretSuspected // the router's fault, not counted against the login
	}
	e.failed = true
	return a, &BadPassword
}

func (e *engine) chap(p *Password) bool {
	v := e.attrs.Get(packet.CHAPPassword)
	challenge := e.attrs.Get(packet.CHAPChallenge)
	if challenge == nil {
		challenge = packet.Authenticator(e.pkt)
	}
	if len(v) != packet.CHAPSize {
		return false
	}
	if p.kind == passwordAny {
		return true
	}
	if p.kind == passwordClear {
		return equal(e.x.CHAP(v[0], p.clear, challenge), v[1:])
	}
	return equal(e.x.CHAP(v[0], nil, challenge), v[1:]) || equal(e.x.CHAP(v[0], e.req.Login, challenge), v[1:])
}

// noise reports whether a decoded password looks like the output of a wrong secret: not text.
func noise(password []byte) bool {
	for _, c := range password {
		if c < ' ' || c == 0x7f {
			return true
		}
	}
	return !utf8.Valid(password)
}

// authorise asks what the login may do now and writes the answer.
func (e *engine) authorise() action {
	d := e.s.cfg.Directory.Decide(&e.req, e.login)
	if d.Verdict == Refuse {
		return e.reject(StageAuthorise, d.Reason, d.Message)
	}
	if e.s.cfg.Sessions != nil && !e.s.cfg.Sessions.Allow(&e.req, e.login) {
		return e.reject(StageAuthorise, &SessionLimit, "")
	}
	e.reply(packet.AccessAccept)
	e.appendPolicy(&d)
	e.class = acct.Class{
		Tenant: e.nas.tenant, Credential: e.credential(), Node: e.s.cfg.Node, Revision: d.Revision, Session: e.rng.Uint64(),
	}
	e.out = e.signer.Append(e.out, &e.class)
	if a := e.finish(); a == actDrop {
		return a
	}
	e.nas.state.accepts.Add(1)
	e.outcome.Result, e.outcome.Stage, e.outcome.Reason = Accepted, StageReply, d.Reason
	e.s.report(e.lane, &e.outcome)
	return actReply
}

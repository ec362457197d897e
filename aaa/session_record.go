package aaa

import (
	"time"

	"wispgate/edge"
)

// RecordInput is a run of a node's accounting facts for one tenant, in the order of its journal.
type RecordInput struct {
	Node        string `json:"node" check:"max=64" doc:"Whose journal."`
	Incarnation string `json:"incarnation" check:"max=32" doc:"Of the journal: a new disk begins a new one."`
	To          uint64 `json:"to" doc:"Everything up to this sequence number is in this run or before it."`
	Facts       []Fact `json:"facts,omitempty" check:"max=500" doc:"In the order of the journal."`
}

// RecordOutput says how far the node's journal is drained.
type RecordOutput struct {
	Position uint64 `json:"position" doc:"The last drained sequence number."`
	Applied  int    `json:"applied" doc:"Facts of this run that were new."`
}

// Drain is how far a node's journal is drained into a tenant's sessions. It is written by the commit that drained it, so that a run
// read twice counts once.
type Drain struct {
	edge.Meta
	Node        string `json:"node" doc:"Whose journal."`
	Incarnation string `json:"incarnation" doc:"Of the journal."`
	Position    uint64 `json:"position"`
}

var drains = &edge.Table[Drain]{
	Name: "aaa.drain", Prefix: "drn", Private: true, Meta: func(d *Drain) *edge.Meta { return &d.Meta },
}

func drainID(tenant, node, incarnation string) edge.ID {
	return edge.DeriveID(drains.Prefix, "drain "+tenant+" "+node+" "+incarnation+"#", 0)
}

func findDrain(v edge.View, node, incarnation string) (Drain, error) {
	id := drainID(v.Actor().Tenant, node, incarnation)
	d, ok, err := drains.Find(v, id)
	if err == nil && !ok {
		d = Drain{Meta: edge.Meta{ID: id}, Node: node, Incarnation: incarnation}
	}
	return d, err
}

// recordSessions turns accounting facts into sessions. It refuses nothing that a NAS may have said: what makes no sense is flagged or
// left out, and the facts stay in the journal.
var recordSessions = edge.Command[RecordInput, RecordOutput]{
	Name: "aaa.session.record", Scope: "aaa:write", Class: edge.Write,
	Summary: "Turn a node's accounting facts into sessions (the drainer's)",
	Handle: func(tx edge.Tx, in RecordInput) (RecordOutput, error) {
		if err := onlySystem(tx); err != nil {
			return RecordOutput{}, err
		}
		d, err := findDrain(tx, in.Node, in.Incarnation)
		if err != nil {
			return RecordOutput{}, err
		}
		r := newRecorder(tx)
		out := RecordOutput{Position: max(d.Position, in.To)}
		for i := range in.Facts {
			if in.Facts[i].Seq <= d.Position {
				continue
			}
			if err := r.record(&in.Facts[i]); err != nil {
				return RecordOutput{}, err
			}
			out.Applied++
		}
		if err := r.finish(); err != nil {
			return RecordOutput{}, err
		}
		if out.Position == d.Position {
			return out, nil
		}
		d.Position = out.Position
		return out, drains.Put(tx, &d)
	},
}

// drainedRef names a journal.
type drainedRef struct {
	Node        string `json:"node" check:"max=64" doc:"Whose journal."`
	Incarnation string `json:"incarnation" check:"max=32" doc:"Of the journal."`
}

// drained tells a drainer where to go on.
var drained = edge.Query[drainedRef, RecordOutput]{
	Name: "aaa.session.drained", Scope: "aaa:read", Class: edge.Read, Summary: "Say how far a node's journal is drained (the drainer's)",
	Handle: func(v edge.View, in drainedRef) (RecordOutput, error) {
		d, err := findDrain(v, in.Node, in.Incarnation)
		return RecordOutput{Position: d.Position}, err
	},
}

// recorder applies facts inside one transaction and reports each touched session once.
type recorder struct {
	tx    edge.Tx
	order []edge.ID // sessions whose totals or end moved, first touched first
	moved map[edge.ID]bool
	terms map[edge.ID]Policy // that were looked up: many sessions share one
}

func newRecorder(tx edge.Tx) recorder {
	return recorder{tx: tx, moved: map[edge.ID]bool{}, terms: map[edge.ID]Policy{}}
}

// policy finds a policy; nil if there is none.
func (r *recorder) policy(id edge.ID) (*Policy, error) {
	if p, ok := r.terms[id]; ok {
		return &p, nil
	}
	p, ok, err := policies.Find(r.tx, id)
	if err != nil || !ok {
		return nil, err
	}
	r.terms[id] = p
	return &p, nil
}

func (r *recorder) record(f *Fact) error {
	if f.Status == "on" || f.Status == "off" {
		return nil // the drainer closes the NAS's sessions in runs of their own: there may be thousands
	}
	key := sessionKey(f.NAS, f.AcctSessionID, f.Login)
	head, err := sessions.By(r.tx, "key", key)
	if isNotFound(err) {
		return r.incarnate(nil, f, false)
	}
	if err != nil {
		return err
	}
	if !f.HasSeconds && f.Status != "start" { // no Session-Time: count from the newest start that can be its own
		if e := head.Epochs[len(head.Epochs)-1]; e.Start <= f.At {
			g := *f
			g.Seconds = uint32(min(f.At-e.Start, maxSeconds))
			f = &g
		}
	}
	s, i, err := r.match(&head, key, f)
	if err != nil {
		return err
	}
	switch {
	case s != nil:
		return r.apply(s, i, f)
	case f.At <= head.FoldedUntil:
		return nil // counted already, or too late to know
	case f.start() < head.Epochs[0].Start:
		return r.incarnate(&head, f, true)
	case !head.active() && head.State != SessionStateStale:
		return r.incarnate(&head, f, false)
	case f.Status == "start":
		return r.incarnate(&head, f, false)
	}
	return r.apply(&head, head.addEpoch(f), f)
}

// match looks for the epoch a fact belongs to in the last incarnations.
func (r *recorder) match(head *Session, key string, f *Fact) (*Session, int, error) {
	const back = 8
	if i := head.epochOf(f); i >= 0 {
		return head, i, nil
	}
	for n := head.LastIncarnated; n > 0 && n > head.LastIncarnated-back; n-- {
		if n == head.Incarnation {
			continue
		}
		s, ok, err := sessions.Find(r.tx, sessionID(head.TenantID, key, n))
		if err != nil {
			return nil, 0, err
		}
		if !ok {
			continue
		}
		if i := s.epochOf(f); i >= 0 {
			return &s, i, nil
		}
	}
	return nil, 0, nil
}

// incarnate begins a session. late is one that began before the head: it gets a record of its own behind it.
func (r *recorder) incarnate(head *Session, f *Fact, late bool) error {
	s := Session{
		NAS: f.NAS, AcctSessionID: f.AcctSessionID, Login: f.Login, Incarnation: 1, Superseded: late, Interim: defaultInterim,
		StartedAt: time.Unix(f.start(), 0).UTC(), Resurrected: f.Status != "start",
	}
	if head != nil {
		s.Incarnation = head.LastIncarnated + 1
		if head.Superseded = !late; !late && head.State != SessionStateClosed {
			r.end(head, head.SeenAt, causeLostService, true)
		}
	}
	if err := r.number(&s); err != nil {
		return err
	}
	if late {
		head.LastIncarnated = s.Incarnation
	} else {
		s.LastIncarnated = s.Incarnation
	}
	if head != nil {
		if err := sessions.Put(r.tx, head); err != nil {
			return err
		}
	}
	if err := r.attribute(&s, f); err != nil {
		return err
	}
	if !late {
		if err := r.supersedeDevice(&s, f); err != nil {
			return err
		}
	}
	s.open(r.tx.Now())
	if s.Resurrected {
		r.tx.Emit(SessionResurrected{s.ID, s.Credential, s.Subscription, s.NAS})
	} else {
		r.tx.Emit(SessionStarted{s.ID, s.Credential, s.Subscription, s.NAS})
	}
	return r.apply(&s, s.addEpoch(f), f)
}

// number gives a new session its id: that of its incarnation, or of the next one whose number no older record holds.
func (r *recorder) number(s *Session) error {
	for ; ; s.Incarnation++ {
		s.ID = sessionID(r.tx.Actor().Tenant, s.key(), s.Incarnation)
		if _, taken, err := sessions.Find(r.tx, s.ID); err != nil || !taken {
			return err
		}
	}
}

// attribute finds whose session it is: by our signed Class, else by the login as RADIUS would.
func (r *recorder) attribute(s *Session, f *Fact) error {
	c, ok, err := Credential{}, false, error(nil)
	if f.Credential != "" {
		c, ok, err = credentials.Find(r.tx, f.Credential)
	}
	if err == nil && !ok && f.Login != "" {
		c, ok, err = findLogin(r.tx, f.Login)
	}
	if err != nil || !ok {
		return err
	}
	s.Credential, s.Subscription = c.ID, c.SubscriptionID
	a, known, err := accesses.Find(r.tx, c.SubscriptionID.With(accesses.Prefix))
	if err != nil {
		return err
	}
	if known {
		s.Customer = a.Customer
		p, err := r.policy(a.Policy)
		if err != nil {
			return err
		}
		if p != nil {
			s.Interim = p.InterimInterval
			s.CapKbps = max(p.DownKbps, p.UpKbps, p.BurstDownKbps, p.BurstUpKbps)
		}
	}
	return r.learn(c, f)
}

// learn binds a login to the first device it comes online with, where it is to.
func (r *recorder) learn(c Credential, f *Fact) error {
	if c.MACBinding != BindingLearn || c.MAC != "" || f.MAC == "" || c.Status == CredentialStatusRevoked {
		return nil
	}
	c.MAC = f.MAC
	_, err := putCredential(r.tx, c, CredentialMACLearned{c.ID, c.MAC})
	return err
}

// supersedeDevice ends older sessions of the same device (or port) on the same NAS: a NAS that lost them will never say so.
func (r *recorder) supersedeDevice(s *Session, f *Fact) error {
	probe := *s
	probe.MAC, probe.Port = f.MAC, f.Port
	key := probe.deviceKey()
	if key == "" || f.Status != "start" {
		return nil
	}
	var older []Session
	for o, err := range sessions.Range(r.tx, "open_device", key) {
		if err != nil {
			return err
		}
		if o.ID != s.ID && o.StartedAt.Before(s.StartedAt) {
			older = append(older, o)
		}
		if len(older) == 8 {
			break
		}
	}
	for i := range older {
		r.end(&older[i], older[i].SeenAt, causeLostService, true)
		if err := sessions.Put(r.tx, &older[i]); err != nil {
			return err
		}
	}
	return nil
}

// apply merges a fact into an epoch of a session and stores it.
func (r *recorder) apply(s *Session, i int, f *Fact) error {
	if s.Credential == "" {
		if err := r.attribute(s, f); err != nil {
			return err
		}
	}
	in, out, secs, state := s.InOctets, s.OutOctets, s.Seconds, s.State
	seen := s.SeenAt
	i = s.date(i, f)
	s.count(i, f)
	s.describe(f)
	last := i == len(s.Epochs)-1
	at := time.Unix(f.At, 0).UTC()
	now := r.tx.Now()
	switch {
	case f.Status == "stop" && last && (s.State != SessionStateClosed || s.Inferred):
		r.end(s, at, causeName(f.Cause), false)
	case s.Superseded && s.State == SessionStateActive:
		r.end(s, at, causeLostService, true)
	case f.Status == "stop" || s.Superseded:
	case s.State == SessionStateActive:
		s.open(now)
	case last && s.Inferred && at.After(*s.EndedAt):
		if gap := at.Sub(seen); gap > s.silence() { // it reports less often than its policy says
			s.Interim = uint32(min(gap/time.Second, 86400))
		}
		s.open(now)
		r.tx.Emit(SessionResurrected{s.ID, s.Credential, s.Subscription, s.NAS})
	}
	if s.InOctets != in || s.OutOctets != out || s.Seconds != secs || s.State != state {
		r.touch(s.ID)
	}
	return sessions.Put(r.tx, s)
}

// end closes a session and says so; the caller stores it.
func (r *recorder) end(s *Session, at time.Time, cause string, inferred bool) {
	if s.EndedAt != nil && s.Inferred && inferred {
		at = *s.EndedAt
	}
	told := s.State == SessionStateClosed
	s.close(at, cause, inferred, r.tx.Now())
	r.touch(s.ID)
	if !told {
		r.tx.Emit(SessionStopped{s.ID, s.Credential, s.Subscription, s.Cause, *s.EndedAt, s.InOctets, s.OutOctets, s.Seconds})
	}
}

func (r *recorder) touch(id edge.ID) {
	if !r.moved[id] {
		r.moved[id] = true
		r.order = append(r.order, id)
	}
}

// finish reports the totals of the sessions that moved, once each.
func (r *recorder) finish() error {
	for _, id := range r.order {
		s, err := sessions.Get(r.tx, id)
		if err != nil {
			return err
		}
		closed := s.State == SessionStateClosed
		if !closed && s.InOctets == 0 && s.OutOctets == 0 && s.Seconds == 0 {
			continue
		}
		r.tx.Emit(SessionMeasured{
			Session: s.ID, Subscription: s.Subscription, Credential: s.Credential, Start: s.StartedAt, At: s.SeenAt,
			InOctets: s.InOctets, OutOctets: s.OutOctets, Seconds: s.Seconds, Closed: closed,
		})
	}
	return nil
}

// rebootInput closes the sessions of a NAS that began before it restarted.
type rebootInput struct {
	NAS edge.ID `json:"nas_id" check:"prefix=nas" doc:"The NAS it came through."`
	At  int64   `json:"at" doc:"Unix seconds of the Accounting-On or -Off."`
}

// rebootOutput says whether some are left.
type rebootOutput struct {
	Closed int  `json:"closed" doc:"How many were closed."`
	More   bool `json:"more" doc:"Some are left."`
}

const rebootRun = 8 // sessions closed per commit: each is a record, its index entries and two events, and what flows add to them

// rebootNAS closes a run of the sessions of a NAS that sent Accounting-On or -Off. It is repeated until none is left; repeating it is
// harmless.
var rebootNAS = edge.Command[rebootInput, rebootOutput]{
	Name: "aaa.session.reboot", Scope: "aaa:write", Class: edge.Write,
	Summary: "Close the sessions of a NAS that restarted (the drainer's)",
	Handle: func(tx edge.Tx, in rebootInput) (rebootOutput, error) {
		if err := onlySystem(tx); err != nil {
			return rebootOutput{}, err
		}
		var run []Session
		at := time.Unix(in.At, 0).UTC()
		more := false
		for s, err := range sessions.Range(tx, "open_nas", string(in.NAS)) {
			if err != nil {
				return rebootOutput{}, err
			}
			if !s.StartedAt.Before(at) {
				continue
			}
			if more = len(run) == rebootRun; more {
				break
			}
			run = append(run, s)
		}
		r := newRecorder(tx)
		for i := range run {
			r.end(&run[i], at, causeNASReboot, true)
			if err := sessions.Put(tx, &run[i]); err != nil {
				return rebootOutput{}, err
			}
		}
		return rebootOutput{len(run), more}, r.finish()
	},
}

// sessionDue lets time pass for a session: active and silent becomes stale, stale becomes closed, closed is forgotten.
var sessionDue = edge.Command[edge.DueInput, edge.None]{
	Name: "aaa.session.due", Scope: "aaa:write", Class: edge.Write,
	Summary: "Let time pass for a session (the timer's)",
	Handle: func(tx edge.Tx, in edge.DueInput) (edge.None, error) {
		if err := onlySystem(tx); err != nil {
			return edge.None{}, err
		}
		s, ok, err := sessions.Find(tx, in.ID)
		if err != nil || !ok || tx.Now().Before(s.DueAt) {
			return edge.None{}, err
		}
		r := newRecorder(tx)
		switch s.State {
		case SessionStateActive:
			s.State, s.Cause, s.Inferred, s.EndedAt = SessionStateStale, causeLostService, true, new(s.SeenAt)
			s.DueAt = tx.Now().Add(staleFor)
			tx.Emit(SessionStale{s.ID, s.Subscription, s.SeenAt})
		case SessionStateStale:
			r.end(&s, *s.EndedAt, causeLostService, true)
		case SessionStateClosed:
			return edge.None{}, forget(tx, &s)
		}
		if err := sessions.Put(tx, &s); err != nil {
			return edge.None{}, err
		}
		return edge.None{}, r.finish()
	},
}

// forget removes a closed session. The head of several incarnations outlives them, so that numbers are not used again.
func forget(tx edge.Tx, s *Session) error {
	if s.Superseded {
		return sessions.Delete(tx, s.ID)
	}
	for n := s.LastIncarnated; n > 0 && n > s.LastIncarnated-8; n-- {
		if n == s.Incarnation {
			continue
		}
		if _, ok, err := sessions.Find(tx, sessionID(s.TenantID, s.key(), n)); err != nil {
			return err
		} else if ok {
			s.DueAt = tx.Now().Add(closedFor)
			return sessions.Put(tx, s)
		}
	}
	return sessions.Delete(tx, s.ID)
}

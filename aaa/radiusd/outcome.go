package radiusd

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wispgate/aaa/packet"
	"wispgate/edge"
)

// Result is what became of a request.
type Result uint8

// The results. Dropped means that nothing was answered.
const (
	Accepted Result = iota
	Rejected
	Dropped
	Accounted
)

var resultNames = [...]string{"accept", "reject", "drop", "accounting"}

// String returns the name metrics use.
func (r Result) String() string { return resultNames[min(int(r), len(resultNames)-1)] }

// MarshalText makes the name the JSON form.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Outcome is one answered or dropped request. Login points into the request: valid during the call only.
type Outcome struct {
	At     time.Time
	Result Result
	Stage  Stage
	Reason *edge.Reason // nil with a plain accept
	NAS    *NAS         // nil: unknown
	Source netip.Addr
	Login  []byte
	MAC    packet.MAC
	Entry  *Login // nil: not found, or not looked up
	Method Method
}

// Event is a kept Outcome, for people.
type Event struct {
	At     time.Time   `json:"at"`
	Result Result      `json:"result"`
	Stage  Stage       `json:"stage"`
	Reason edge.Reason `json:"reason"`
	Tenant string      `json:"tenant"`
	NAS    string      `json:"nas"`
	Source string      `json:"source"`
	Login  string      `json:"login"`
	MAC    string      `json:"mac"`
}

// kept is an Outcome without pointers into packets.
type kept struct {
	Outcome
	login [64]byte
}

// lane holds what one socket counts and remembers: written by its worker (and by the postman for accounting), so that
// no two workers share a cache line. The ring's lock is contended only while somebody looks.
type lane struct {
	received, accepts, accounting, status, hits, absorbed, kernelDrops, refused atomic.Uint64

	rejects, drops []atomic.Uint64 // by reason number
	latency        [len(latencyBounds) + 1]atomic.Uint64
	latencySum     atomic.Int64 // nanoseconds

	mu   sync.Mutex
	ring []kept
	next uint64
}

// latencyBounds are the upper bounds of the latency histogram in seconds, from the kernel's receipt to our answer.
var latencyBounds = [...]float64{0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 1}

func newLane(reasons, recent int) *lane {
	return &lane{rejects: make([]atomic.Uint64, reasons+1), drops: make([]atomic.Uint64, reasons+1), ring: make([]kept, max(recent, 1))}
}

func (l *lane) remember(o *Outcome) {
	l.mu.Lock()
	k := &l.ring[l.next%uint64(len(l.ring))]
	k.Outcome = *o
	k.Login = k.login[:copy(k.login[:], o.Login)]
	l.next++
	l.mu.Unlock()
}

func (l *lane) took(d time.Duration) {
	i, seconds := 0, d.Seconds()
	for i < len(latencyBounds) && seconds > latencyBounds[i] {
		i++
	}
	l.latency[i].Add(1)
	l.latencySum.Add(int64(d))
}

// report counts an outcome, keeps it and tells the observer. It allocates nothing.
func (s *Server) report(l *lane, o *Outcome) {
	switch o.Result {
	case Accepted:
		l.accepts.Add(1)
	case Rejected:
		l.rejects[s.reasonNumber(o.Reason)].Add(1)
	case Dropped:
		l.drops[s.reasonNumber(o.Reason)].Add(1)
	}
	l.remember(o)
	if s.cfg.Observer != nil {
		s.cfg.Observer.Outcome(o)
	}
}

func (s *Server) reasonNumber(r *edge.Reason) int {
	if r != nil {
		if i, ok := s.reasons[r.Code]; ok {
			return i
		}
	}
	return len(s.reasons)
}

// Recent returns the last outcomes at or after since, newest first, at most limit of them. keep chooses; nil keeps all.
func (s *Server) Recent(since time.Time, limit int, keep func(*Event) bool) []Event {
	var all []Event
	for _, l := range s.lanes {
		l.mu.Lock()
		for i := range l.ring {
			if k := &l.ring[i]; !k.At.IsZero() && !k.At.Before(since) {
				if e := k.event(); keep == nil || keep(&e) {
					all = append(all, e)
				}
			}
		}
		l.mu.Unlock()
	}
	slices.SortStableFunc(all, func(a, b Event) int { return b.At.Compare(a.At) })
	return all[:min(limit, len(all))]
}

func (k *kept) event() Event {
	e := Event{
		At: k.At, Result: k.Result, Stage: k.Stage, Source: k.Source.String(), MAC: k.MAC.String(),
		Login: strings.ToValidUTF8(string(k.Login), "\uFFFD"),
	}
	if k.Reason != nil {
		e.Reason = *k.Reason
	}
	if k.NAS != nil {
		e.Tenant, e.NAS = k.NAS.Tenant, k.NAS.ID
	}
	return e
}

// Stats are counters since the start of the program.
type Stats struct {
	Received   uint64 // datagrams
	Accepts    uint64
	Rejects    map[StageReason]uint64
	Drops      map[string]uint64 // by reason code; nothing was answered
	Accounting uint64            // acknowledged
	Status     uint64            // Status-Server answered
	Duplicates uint64            // answered from the reply cache, or absorbed while the first was being worked on

	KernelDrops    uint64 // datagrams the kernel had no room for
	SendsRefused   uint64 // replies the kernel had no room or no route for
	Pending        int    // waiting for the journal, a delay or a slow password
	LatencyBounds  []float64
	LatencyCounts  []uint64 // one more than bounds
	LatencySeconds float64  // sum
}

// StageReason is the dimension of rejects.
type StageReason struct {
	Stage  Stage
	Reason string
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	st := Stats{
		Rejects: map[StageReason]uint64{}, Drops: map[string]uint64{}, LatencyBounds: latencyBounds[:],
		LatencyCounts: make([]uint64, len(latencyBounds)+1), Pending: int(s.inFlight.Load()),
	}
	for _, l := range s.lanes {
		st.Received += l.received.Load()
		st.Accepts += l.accepts.Load()
		st.Accounting += l.accounting.Load()
		st.Status += l.status.Load()
		st.Duplicates += l.hits.Load() + l.absorbed.Load()
		st.KernelDrops += l.kernelDrops.Load()
		st.SendsRefused += l.refused.Load()
		st.LatencySeconds += time.Duration(l.latencySum.Load()).Seconds()
		for i := range l.latency {
			st.LatencyCounts[i] += l.latency[i].Load()
		}
		for i := range l.rejects {
			code, stage := s.reasonName(i)
			if n := l.rejects[i].Load(); n > 0 {
				st.Rejects[StageReason{stage, code}] += n
			}
			if n := l.drops[i].Load(); n > 0 {
				st.Drops[code] += n
			}
		}
	}
	return st
}

func (s *Server) reasonName(i int) (string, Stage) {
	if i < len(own) {
		return own[i].reason.Code, own[i].stage
	}
	if i < len(s.reasonCodes) {
		return s.reasonCodes[i], StageAuthorise
	}
	return "other", StageAuthorise
}

// NAS returns the counters of every NAS in the table.
func (s *Server) NAS() []NASStats {
	t := s.nas.Load()
	list := make([]NASStats, 0, len(t.byID))
	for _, e := range t.byID {
		st := e.state
		list = append(list, NASStats{
			ID: e.ID, Tenant: e.Tenant, Requests: st.requests.Load(), Accepts: st.accepts.Load(), Rejects: st.rejects.Load(),
			Drops: st.drops.Load(), Accounting: st.accounting.Load(), LastSeen: st.lastSeen.Load(), MASeen: st.seenMA.Load(),
			SecondarySecret: st.secondary.Load(),
		})
	}
	slices.SortFunc(list, func(a, b NASStats) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Stranger is an address that sent RADIUS without being in the table.
type Stranger struct {
	Source  netip.Addr
	Packets uint64
	Last    time.Time
}

// strangers is bounded: forged sources cannot fill memory, and the last ones seen stay.
type strangers struct {
	mu   sync.Mutex
	list [64]Stranger
}

func (s *strangers) saw(a netip.Addr, now time.Time) {
	if !s.mu.TryLock() { // somebody else is counting: one packet more or less does not matter
		return
	}
	defer s.mu.Unlock()
	oldest := &s.list[0]
	for i := range s.list {
		x := &s.list[i]
		if x.Source == a {
			x.Packets++
			x.Last = now
			return
		}
		if x.Last.Before(oldest.Last) {
			oldest = x
		}
	}
	*oldest = Stranger{a, 1, now}
}

// Strangers lists the last 64 unknown sources, newest first: the routers somebody forgot to register.
func (s *Server) Strangers() []Stranger {
	s.strangers.mu.Lock()
	list := slices.DeleteFunc(slices.Clone(s.strangers.list[:]), func(x Stranger) bool { return x.Packets == 0 })
	s.strangers.mu.Unlock()
	slices.SortFunc(list, func(a, b Stranger) int { return b.Last.Compare(a.Last) })
	return list
}

package aaa

import (
	"slices"
	"strconv"
	"time"

	"wispgate/edge"
)

// Fact is one accounting packet as the drainer hands it to the session engine.
type Fact struct {
	Seq           uint64  `json:"seq" doc:"Its number in the node's journal."`
	Status        string  `json:"status" check:"enum=start|interim|stop|on|off" doc:"Where it stands."`
	NAS           edge.ID `json:"nas_id" doc:"The NAS it came through."`
	AcctSessionID string  `json:"acct_session_id,omitempty" check:"max=300" doc:"Acct-Session-Id."`
	Login         string  `json:"login,omitempty" check:"max=800" doc:"The login, normalised."`
	Credential    edge.ID `json:"credential_id,omitempty" doc:"From our signed Class."`
	Revision      uint64  `json:"revision,omitempty" doc:"From our signed Class."`
	At            int64   `json:"at" doc:"Unix seconds at which the NAS says it happened, or at which it arrived."`
	Trusted       bool    `json:"trusted,omitempty" doc:"The node's clock was good when it arrived."`
	Boot          string  `json:"boot,omitempty" check:"max=8" doc:"The node's run in which it arrived."`
	Mono          int64   `json:"mono,omitempty" doc:"Seconds since that run began: steps of the clock do not move it."`
	HasSeconds    bool    `json:"has_seconds,omitempty" doc:"Acct-Session-Time was there."`
	Seconds       uint32  `json:"seconds,omitempty" doc:"How long it lasted so far."`
	HasOctets     bool    `json:"has_octets,omitempty" doc:"A counter was there."`
	Gigawords     bool    `json:"gigawords,omitempty" doc:"The octets are true 64-bit values."`
	In            uint64  `json:"in,omitempty" doc:"Octets from the subscriber."`
	Out           uint64  `json:"out,omitempty" doc:"Octets to the subscriber."`
	Cause         uint32  `json:"cause,omitempty" doc:"Why it ended."`
	MAC           string  `json:"mac,omitempty" check:"max=17" doc:"The device's address."`
	IP            string  `json:"ip,omitempty" check:"max=45" doc:"Framed-IP-Address of the session."`
	IPv6          string  `json:"ipv6_prefix,omitempty" check:"max=49" doc:"Framed-IPv6-Prefix of the session."`
	PD            string  `json:"delegated_prefix,omitempty" check:"max=49" doc:"Delegated-IPv6-Prefix of the session."`
	Port          uint32  `json:"nas_port,omitempty" doc:"NAS-Port: a number the NAS chose."`
	PortID        string  `json:"nas_port_id,omitempty" check:"max=800" doc:"NAS-Port-Id: the interface on the NAS."`
	CalledStation string  `json:"called_station,omitempty" check:"max=800" doc:"Called-Station-Id: service or access point."`
}

// Epoch is one run of a session's counters from zero. Start is in Unix seconds: an epoch is told from another by when it began.
type Epoch struct {
	Start     int64    `json:"start" doc:"When it began."`
	Seconds   int64    `json:"seconds" doc:"How long it lasted so far."`
	In        uint64   `json:"in" doc:"Octets from the subscriber."`
	Out       uint64   `json:"out" doc:"Octets to the subscriber."`
	Gigawords bool     `json:"gigawords,omitempty" doc:"The NAS sends the upper 32 bits; without them wraps are inferred."`
	Samples   []Sample `json:"samples,omitempty" doc:"The newest 32-bit counters, from which wraps are inferred in any order of arrival."`
	FirstIn   uint64   `json:"first_in,omitempty" doc:"Upload at the first sample, wraps included."`
	FirstOut  uint64   `json:"first_out,omitempty" doc:"Download at the first sample, wraps included."`
	Trusted   bool     `json:"trusted,omitempty" doc:"The start comes from a good clock."`
	Boot      string   `json:"boot,omitempty" doc:"The node's run that first told of it."`
	Mono      int64    `json:"mono,omitempty" doc:"When it began, in seconds of that run."`
}

// Sample is what a NAS without Gigawords counted after so many seconds.
type Sample struct {
	Seconds int64  `json:"s" doc:"Session time in seconds."`
	In      uint32 `json:"i" doc:"Octets from the subscriber, low 32 bits."`
	Out     uint32 `json:"o" doc:"Octets to the subscriber, low 32 bits."`
}

const (
	startTolerance = 60            // seconds between two estimates of one start
	maxEpochs      = 8             // per session; older ones are folded into one sum
	maxSamples     = 8             // per epoch without Gigawords
	maxRate        = 1_250_000_000 // octets per second: 10 Gbit/s, more than any port at a tower
	maxCounter     = 1<<53 - 1     // what every JSON reader keeps exactly: 9 PB
	maxSeconds     = 100 * 366 * 86400
)

// start is when the fact's run of counters began, as far as the fact itself tells.
func (f *Fact) start() int64 { return f.At - int64(f.Seconds) }

// epochOf finds the epoch a fact belongs to, -1 for none. It is the one that began when the fact's did, by the clock or by the time
// since the node was switched on; or one whose life overlaps the fact's: two runs of one session's counters cannot overlap, so a clock
// was stepped and counting twice would be wrong.
func (s *Session) epochOf(f *Fact) int {
	start := f.start()
	best, dist := -1, int64(startTolerance+1)
	for i, e := range s.Epochs {
		d := max(start-e.Start, e.Start-start)
		if f.Boot != "" && f.Boot == e.Boot {
			mono := f.Mono - int64(f.Seconds)
			d = min(d, max(mono-e.Mono, e.Mono-mono))
		}
		if d < dist {
			best, dist = i, d
		}
	}
	if best >= 0 {
		return best
	}
	for i, e := range s.Epochs {
		if min(f.At, e.Start+e.Seconds)-max(start, e.Start) > startTolerance {
			return i
		}
	}
	return -1
}

// addEpoch begins a run of counters, in order of start, and folds the oldest runs where there are too many.
func (s *Session) addEpoch(f *Fact) int {
	start := f.start()
	i, _ := slices.BinarySearchFunc(s.Epochs, start, byStart)
	s.Epochs = slices.Insert(s.Epochs, i, Epoch{Start: start, Trusted: f.Trusted, Boot: f.Boot, Mono: f.Mono - int64(f.Seconds)})
	for len(s.Epochs) > maxEpochs && i > 0 {
		e := s.Epochs[0]
		s.FoldedIn, s.FoldedOut = clamp(s.FoldedIn+e.In), clamp(s.FoldedOut+e.Out)
		s.FoldedSeconds += uint64(e.Seconds)
		s.FoldedUntil = max(s.FoldedUntil, e.Start+e.Seconds)
		s.Epochs = slices.Delete(s.Epochs, 0, 1)
		i--
	}
	return i
}

// date corrects an epoch's start by the first fact that a good clock dated, and returns where the epoch stands then.
func (s *Session) date(i int, f *Fact) int {
	e := s.Epochs[i]
	if !f.Trusted || e.Trusted || !f.HasSeconds && f.Status != "start" {
		return i
	}
	e.Start, e.Trusted = f.start(), true
	s.Epochs = slices.Delete(s.Epochs, i, i+1)
	i, _ = slices.BinarySearchFunc(s.Epochs, e.Start, byStart)
	s.Epochs = slices.Insert(s.Epochs, i, e)
	if s.FoldedUntil == 0 {
		s.StartedAt = time.Unix(s.Epochs[0].Start, 0).UTC()
	}
	return i
}

func byStart(e Epoch, t int64) int { return int(min(max(e.Start-t, -1), 1)) }

func clamp(n uint64) uint64 { return min(n, maxCounter) }

// count merges a fact's counters into an epoch: the greatest wins, so neither order nor repetition matters.
func (s *Session) count(i int, f *Fact) {
	e := &s.Epochs[i]
	secs := int64(f.Seconds)
	if !f.HasSeconds {
		secs = max(f.At-e.Start, 0)
	}
	secs = min(secs, maxSeconds)
	if f.HasOctets {
		s.UsageKnown = true
		if !possible(f.In, secs) || !possible(f.Out, secs) {
			s.Suspect = true
		} else if f.Gigawords || e.Gigawords {
			e.exact(f.In, f.Out)
		} else if !e.sample(Sample{secs, uint32(f.In), uint32(f.Out)}, s.wrapRate()) {
			s.Suspect = true
		}
	}
	e.Seconds = max(e.Seconds, secs)
	s.total()
}

// wrapRate is the most octets per second that a wrap of a 32-bit counter may imply: twice the plan's rate where it is known, because a
// counter that merely stumbled would otherwise be billed as four gigabytes.
func (s *Session) wrapRate() uint64 {
	if s.CapKbps == 0 {
		return maxRate
	}
	return min(uint64(s.CapKbps)*250, maxRate)
}

// possible reports whether a counter can have reached n octets after so many seconds on any port we know.
func possible(n uint64, secs int64) bool {
	return n <= maxCounter && n <= maxRate*uint64(secs+startTolerance)
}

// exact merges true 64-bit counters. A NAS may send Gigawords only once they are not zero, so what was inferred before is dropped.
func (e *Epoch) exact(in, out uint64) {
	if !e.Gigawords {
		e.In, e.Out = 0, 0
		for _, p := range e.Samples {
			e.In, e.Out = max(e.In, uint64(p.In)), max(e.Out, uint64(p.Out))
		}
		e.Gigawords, e.Samples, e.FirstIn, e.FirstOut = true, nil, 0, 0
	}
	e.In, e.Out = max(e.In, in), max(e.Out, out)
}

// sample merges 32-bit counters: in order of session time, a smaller counter means a wrap. ok is false when that wrap is impossible in
// the time between; then the sample is left out.
func (e *Epoch) sample(p Sample, rate uint64) (ok bool) {
	i, found := slices.BinarySearchFunc(e.Samples, p.Seconds, func(q Sample, t int64) int { return int(min(max(q.Seconds-t, -1), 1)) })
	if found {
		q := &e.Samples[i]
		q.In, q.Out = max(q.In, p.In), max(q.Out, p.Out)
	} else {
		if i == 0 && len(e.Samples) == maxSamples {
			return true // older than all that is kept: a newer total is known
		}
		e.Samples = slices.Insert(e.Samples, i, p)
	}
	if i == 0 && e.FirstIn>>32 == 0 && e.FirstOut>>32 == 0 {
		e.FirstIn, e.FirstOut = uint64(e.Samples[0].In), uint64(e.Samples[0].Out)
	}
	in, out, ok := e.unwrap(rate)
	if !ok {
		if !found {
			e.Samples = slices.Delete(e.Samples, i, i+1)
		}
		in, out, _ = e.unwrap(rate)
	}
	e.In, e.Out = max(e.In, in), max(e.Out, out)
	if len(e.Samples) > maxSamples {
		a, b := e.Samples[0], e.Samples[1]
		e.FirstIn, _ = lift(e.FirstIn, a.In, b.In, b.Seconds-a.Seconds, rate)
		e.FirstOut, _ = lift(e.FirstOut, a.Out, b.Out, b.Seconds-a.Seconds, rate)
		e.Samples = slices.Delete(e.Samples, 0, 1)
	}
	return ok
}

// unwrap adds up the samples.
func (e *Epoch) unwrap(rate uint64) (in, out uint64, ok bool) {
	in, out, ok = e.FirstIn, e.FirstOut, true
	for i := 1; i < len(e.Samples); i++ {
		a, b := e.Samples[i-1], e.Samples[i]
		var okIn, okOut bool
		in, okIn = lift(in, a.In, b.In, b.Seconds-a.Seconds, rate)
		out, okOut = lift(out, a.Out, b.Out, b.Seconds-a.Seconds, rate)
		ok = ok && okIn && okOut
	}
	return in, out, ok
}

// lift is the total after the 32-bit counter went from a to b within secs.
func lift(total uint64, a, b uint32, secs int64, rate uint64) (uint64, bool) {
	if b >= a {
		return clamp(total + uint64(b-a)), true
	}
	step := uint64(b) + 1<<32 - uint64(a)
	if step > rate*uint64(max(secs, 0)) {
		return total, false
	}
	return clamp(total + step), true
}

// total sums the epochs.
func (s *Session) total() {
	s.InOctets, s.OutOctets, s.Seconds = s.FoldedIn, s.FoldedOut, s.FoldedSeconds
	for _, e := range s.Epochs {
		s.InOctets, s.OutOctets = clamp(s.InOctets+e.In), clamp(s.OutOctets+e.Out)
		s.Seconds += uint64(e.Seconds)
	}
}

// describe takes over what a fact says about the session, unless something newer said it.
func (s *Session) describe(f *Fact) {
	at := time.Unix(f.At, 0).UTC()
	newer := !at.Before(s.SeenAt)
	for _, m := range []struct {
		to   *string
		from string
	}{{&s.MAC, f.MAC}, {&s.IP, f.IP}, {&s.IPv6, f.IPv6}, {&s.PD, f.PD}, {&s.PortID, f.PortID}, {&s.CalledStation, f.CalledStation}} {
		if m.from != "" && (newer || *m.to == "") {
			*m.to = m.from
		}
	}
	if f.Port != 0 && (newer || s.Port == 0) {
		s.Port = f.Port
	}
	if f.Revision != 0 && (newer || s.Revision == 0) {
		s.Revision = f.Revision
	}
	if newer {
		s.SeenAt = at
	}
	if first := time.Unix(s.Epochs[0].Start, 0).UTC(); s.FoldedUntil == 0 && first.Before(s.StartedAt) {
		s.StartedAt = first
	}
}

// close ends the session at a time for a cause; inferred ends are reopened by a later packet.
func (s *Session) close(at time.Time, cause string, inferred bool, now time.Time) {
	s.State, s.Cause, s.Inferred = SessionStateClosed, cause, inferred
	s.EndedAt = new(at.UTC())
	s.DueAt = now.Add(closedFor)
}

// open makes the session active.
func (s *Session) open(now time.Time) {
	s.State, s.Cause, s.Inferred, s.EndedAt = SessionStateActive, "", false, nil
	s.DueAt = now.Add(s.silence()).Truncate(time.Second)
}

// The causes that we infer; the others are the NAS's.
const (
	causeLostService = "lost_service"
	causeNASReboot   = "nas_reboot"
)

var causes = [...]string{
	1: "user_request", 2: "lost_carrier", 3: causeLostService, 4: "idle_timeout", 5: "session_timeout", 6: "admin_reset", 7: "admin_reboot",
	8: "port_error", 9: "nas_error", 10: "nas_request", 11: causeNASReboot, 12: "port_unneeded", 13: "port_preempted", 14: "port_suspended",
	15: "service_unavailable", 16: "callback", 17: "user_error", 18: "host_request",
}

// causeName names an Acct-Terminate-Cause (RFC 2866 section 5.10).
func causeName(n uint32) string {
	switch {
	case n == 0:
		return ""
	case n < uint32(len(causes)):
		return causes[n]
	}
	return "cause_" + strconv.FormatUint(uint64(n), 10)
}

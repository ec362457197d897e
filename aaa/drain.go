package aaa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"wispgate/aaa/acct"
	"wispgate/edge"
)

// JournalFact is one record of this node's journal.
type JournalFact struct {
	Seq     uint64
	Kind    uint16
	Trusted bool          // the node's clock was good when it was written
	Boot    string        // names the run of the machine in which it was written; "" if unknown
	Mono    time.Duration // since that run began, whatever the clock was set to meanwhile
	Payload []byte        // valid during the visit
}

// Journal is this node's journal of facts, as far as a drainer needs it. Sequence numbers begin at 1.
type Journal interface {
	// Read visits durable records from a sequence number (0: the oldest kept) and at most most of them; it returns where to go on.
	Read(from uint64, most int, visit func(JournalFact) error) (next uint64, err error)
	// Wait returns when a record with the sequence number is durable.
	Wait(ctx context.Context, seq uint64) error
	// Next is the sequence number of the record that will follow the newest durable one.
	Next() uint64
	// Incarnation names this journal: a new disk begins another one.
	Incarnation() string
}

// Drainer turns this node's accounting facts into sessions, in order and each once: the position is part of the commit that drained
// up to it.
type Drainer struct {
	Node    string // this node's name
	Journal Journal
	Kind    uint16                                     // of accounting records
	Class   func(value []byte) (c acct.Class, ok bool) // reads our signed Class; nil: sessions are found by login
	Logger  *slog.Logger
	OnDrain func(records int, took time.Duration) // for a metric; may be nil
	Now     func() time.Time

	position atomic.Uint64
	current  time.Time // what is not drained came after it
}

// Position is the last sequence number known to be drained durably: what the journal may forget as far as sessions are concerned.
func (d *Drainer) Position() uint64 { return d.position.Load() }

const (
	drainRead     = 500 // records read at once
	drainSessions = 32  // sessions of one commit: each is a record, its index entries and an event, about 3 KB; twice that is halved
	drainIdle     = 64  // reads after which the platform's own mark is written, so that a restart reads little again

	drainGather = 50 * time.Millisecond  // a record waits so long for others to share its commit
	drainShare  = 8                      // while a burst lasts, commits take one part in so many of the time,
	drainBehind = 10 * time.Second       // and after so long one in two: an accept waits 30 s for its Start to be counted
	drainRest   = 250 * time.Millisecond // no rest is longer
	drainAway   = time.Second            // between looks whether the cluster is back
)

// run is a batch in the making for one tenant.
type run struct {
	facts    []Fact
	sessions map[string]bool
}

// Run drains until ctx ends. It is the body of a Worker: an error is retried by its supervisor, from the last durable position.
func (d *Drainer) Run(ctx context.Context, x edge.Executor) error {
	for {
		err := d.drain(ctx, x)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end, not a failure
		}
		if e, ok := edge.AsError(err); !ok || e.Kind != edge.Unavailable {
			return err
		}
		// Cut off from the cluster: the facts stand in the journal, and the work goes on when it is back.
		if err := rest(ctx, drainAway); err != nil {
			return nil //nolint:nilerr // the end, not a failure
		}
	}
}

func (d *Drainer) drain(ctx context.Context, x edge.Executor) error {
	pos, err := d.resume(ctx, x)
	if err != nil {
		return err
	}
	d.current = d.Now()
	for reads := 1; ; reads++ {
		began := d.Now()
		next, records, err := d.drainOnce(ctx, x, pos)
		if err != nil {
			return err
		}
		idle := records < drainRead
		if next-1 > d.position.Load() && (idle || reads%drainIdle == 0) {
			if err := d.mark(ctx, x, edge.System, next-1, nil); err != nil {
				return err
			}
			d.position.Store(next - 1)
		}
		pos = next
		if !idle {
			continue
		}
		d.current = began
		if d.Journal.Next() <= pos {
			if err := d.Journal.Wait(ctx, pos); err != nil {
				return err
			}
			d.current = d.Now()
		}
		if err := rest(ctx, drainGather); err != nil {
			return err
		}
	}
}

// yield lets the front door go first after a commit. While more records arrive than are drained, each commit, the store's flush and its
// compaction would stand before answers that routers wait for, and what waits here is durable already.
func (d *Drainer) yield(ctx context.Context, drained int, arrived uint64, took time.Duration) error {
	if arrived <= uint64(drained) {
		return nil
	}
	share := drainShare
	if d.Now().Sub(d.current) > drainBehind {
		share = 2
	}
	return rest(ctx, min(time.Duration(share-1)*took, drainRest))
}

func rest(ctx context.Context, long time.Duration) error {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resume asks how far the journal was drained.
func (d *Drainer) resume(ctx context.Context, x edge.Executor) (next uint64, err error) {
	in := fmt.Appendf(nil, `{"node":%q,"incarnation":%q}`, d.Node, d.Journal.Incarnation())
	out, _, err := x.Ask(ctx, edge.SystemActor(edge.System, "drain"), drained.Name, in, 0)
	if err != nil {
		return 0, err
	}
	pos := out.(RecordOutput).Position
	d.position.Store(pos)
	return pos + 1, nil
}

// drainOnce reads records from pos on and drains them; next is where to go on.
func (d *Drainer) drainOnce(ctx context.Context, x edge.Executor, pos uint64) (next uint64, records int, err error) {
	start := d.Now()
	runs := map[string]*run{}
	var tenants []string // in order of appearance, so that a replay makes the same commits
	flush := func(tenant string, upto uint64) error {
		r := runs[tenant]
		if r == nil || len(r.facts) == 0 {
			return nil
		}
		began, before := d.Now(), d.Journal.Next()
		if err := d.record(ctx, x, tenant, upto, r.facts); err != nil {
			return err
		}
		err := d.yield(ctx, len(r.facts), d.Journal.Next()-before, d.Now().Sub(began))
		r.facts, r.sessions = r.facts[:0], map[string]bool{}
		return err
	}
	next, err = d.Journal.Read(pos, drainRead, func(jf JournalFact) error {
		records++
		if jf.Kind != d.Kind {
			return nil
		}
		tenant, f, ok := d.fact(jf)
		if !ok {
			d.Logger.Warn("accounting record cannot be read", "seq", jf.Seq)
			return nil
		}
		r := runs[tenant]
		if r == nil {
			r = &run{sessions: map[string]bool{}}
			runs[tenant] = r
			tenants = append(tenants, tenant)
		}
		key := f.AcctSessionID + "\x00" + f.Login
		if len(r.sessions) >= drainSessions && !r.sessions[key] {
			if err := flush(tenant, jf.Seq-1); err != nil {
				return err
			}
		}
		if f.Status == "on" || f.Status == "off" {
			if err := flush(tenant, jf.Seq-1); err != nil {
				return err
			}
			if err := d.reboot(ctx, x, tenant, f); err != nil {
				return err
			}
		}
		r.facts = append(r.facts, f)
		r.sessions[key] = true
		return nil
	})
	if err != nil {
		return pos, 0, fmt.Errorf("drain accounting: %w", err)
	}
	for _, tenant := range tenants {
		if err := flush(tenant, next-1); err != nil {
			return pos, 0, fmt.Errorf("drain accounting: %w", err)
		}
	}
	if d.OnDrain != nil && records > 0 {
		d.OnDrain(records, d.Now().Sub(start))
	}
	return next, records, nil
}

// record commits a run, in halves where it is too large for one entry.
func (d *Drainer) record(ctx context.Context, x edge.Executor, tenant string, upto uint64, facts []Fact) error {
	err := d.mark(ctx, x, tenant, upto, facts)
	if errors.Is(err, edge.ErrTooLarge.Error(edge.Invalid)) && len(facts) > 1 {
		half := len(facts) / 2
		if err := d.record(ctx, x, tenant, facts[half-1].Seq, facts[:half]); err != nil {
			return err
		}
		return d.record(ctx, x, tenant, upto, facts[half:])
	}
	return err
}

// mark runs the record command. Its operation id names the run, so that a retry after an unknown outcome is answered, not repeated.
func (d *Drainer) mark(ctx context.Context, x edge.Executor, tenant string, upto uint64, facts []Fact) error {
	in := RecordInput{Node: d.Node, Incarnation: d.Journal.Incarnation(), To: upto, Facts: facts}
	first := upto
	if len(facts) > 0 {
		first = facts[0].Seq
	}
	key := fmt.Sprintf("drain-%s-%s-%d-%d", d.Node, in.Incarnation, first, upto)
	_, err := edge.Do(ctx, x, edge.SystemActor(tenant, "drain"), key, recordSessions.Name, in)
	if errors.Is(err, edge.ErrKeyReused.Error(edge.Invalid)) {
		// An earlier version of this program said the same run otherwise. The position in the state keeps it from counting twice.
		_, err = edge.Do(ctx, x, edge.SystemActor(tenant, "drain"), "", recordSessions.Name, in)
	}
	return err
}

// reboot closes what a NAS had open before it restarted, a run at a time.
func (d *Drainer) reboot(ctx context.Context, x edge.Executor, tenant string, f Fact) error {
	for n := 0; ; n++ {
		key := fmt.Sprintf("reboot-%s-%s-%d-%d", d.Node, d.Journal.Incarnation(), f.Seq, n)
		reply, err := edge.Do(ctx, x, edge.SystemActor(tenant, "drain"), key, rebootNAS.Name, rebootInput{NAS: f.NAS, At: f.At})
		if err != nil {
			return err
		}
		var out rebootOutput
		if err := json.Unmarshal(reply.Results[0], &out); err != nil {
			return fmt.Errorf("decode answer of %s: %w", rebootNAS.Name, err)
		}
		if !out.More {
			return nil
		}
	}
}

// fact reads a journal record; ok is false for what is no accounting record of a kind we know.
func (d *Drainer) fact(jf JournalFact) (tenant string, f Fact, ok bool) {
	var r acct.Record
	if err := r.Decode(jf.Payload); err != nil {
		return "", f, false
	}
	status, known := map[acct.StatusType]string{acct.Start: "start", acct.Interim: "interim", acct.Stop: "stop", acct.On: "on", acct.Off: "off"}[r.Status]
	tenant = string(r.Tenant)
	f = Fact{
		Seq: jf.Seq, Status: status, NAS: edge.ID(r.NAS), AcctSessionID: text(r.SessionID), Login: factLogin(r.UserName),
		At: happened(&r, jf.Trusted), Trusted: jf.Trusted, HasSeconds: r.Flags&acct.HasSessionTime != 0, Seconds: r.SessionTime,
		HasOctets: r.Flags&(acct.HasInput|acct.HasOutput) != 0, Gigawords: r.Flags&acct.HasGigawords != 0,
		In: r.InputOctets, Out: r.OutputOctets, Cause: r.TerminateCause, MAC: r.MAC.String(),
		IP: addr(r.FramedIP), IPv6: addr(r.Framed6), PD: addr(r.Delegated),
		Port: r.NASPort, PortID: text(r.NASPortID), CalledStation: text(r.CalledStation),
	}
	if jf.Boot != "" {
		f.Boot, f.Mono = jf.Boot[:min(len(jf.Boot), 8)], int64(jf.Mono/time.Second)-int64(min(r.DelayTime, maxDelay))
	}
	if f.AcctSessionID == "" { // against RFC 2866 section 5.5, yet its usage counts
		f.AcctSessionID = "none/" + f.MAC + "/" + f.PortID
	}
	if d.Class != nil && len(r.Class) > 0 {
		if c, ours := d.Class(r.Class); ours && string(c.Tenant) == tenant {
			f.Credential, f.Revision = edge.ID(c.Credential), c.Revision
		}
	}
	return tenant, f, known && tenant != "" && f.NAS.Valid()
}

// maxDelay bounds what Acct-Delay-Time is believed, in seconds: a week.
const maxDelay = 7 * 24 * 3600

// happened is when the NAS says it was: its Event-Timestamp where that is sane, else the arrival less the delay it names.
func happened(r *acct.Record, trusted bool) int64 {
	const tooOld, ahead = 24 * 3600, 60 // seconds
	at := r.Arrived/int64(time.Second) - int64(min(r.DelayTime, maxDelay))
	if r.Flags&acct.HasEventTime == 0 {
		return at
	}
	event := int64(r.EventTime)
	sane := event > at-tooOld && event < at+ahead
	if sane || !trusted && event > 1_600_000_000 {
		return event
	}
	return at
}

// factLogin is a User-Name as sessions keep it: normalised as a login is, else as readable as it can be made.
func factLogin(raw []byte) string {
	if login, ok := appendLogin(nil, raw); ok && utf8.Valid(login) {
		return string(login)
	}
	return text(raw)
}

// text makes octets from a packet fit for JSON and people.
func text(raw []byte) string {
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f {
			return utf8.RuneError
		}
		return c
	}, strings.ToValidUTF8(string(raw), string(utf8.RuneError)))
}

func addr(a interface {
	IsValid() bool
	String() string
}) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

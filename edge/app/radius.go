package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/acct"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
	"wispgate/edge/journal"
)

// kindAccounting is the only kind of the journal of accounting.
const kindAccounting = 1

// radiusJournal is the accounting journal as the front door writes it and the drainer reads it.
type radiusJournal struct{ *journal.Journal }

// Submit implements radiusd.Journal.
func (j radiusJournal) Submit(kind uint8, payload []byte, done radiusd.Done) {
	j.Journal.Submit(journal.Kind(kind), payload, done)
}

// Read implements aaa.Journal.
func (j radiusJournal) Read(from uint64, most int, visit func(aaa.JournalFact) error) (uint64, error) {
	return j.Journal.Read(max(from, j.First()), most, func(r journal.Record) error {
		return visit(aaa.JournalFact{Seq: r.Seq, Kind: uint16(r.Kind), Trusted: r.Quality != journal.Unsynced, Boot: r.Boot.String(), Mono: r.Mono, Payload: r.Payload})
	})
}

// Incarnation implements aaa.Journal.
func (j radiusJournal) Incarnation() string { return incarnation(j.Journal.Incarnation()) }

// signsBound is how many first Message-Authenticators may wait to be recorded.
const signsBound = 64

// classKey is the key of our Class attribute.
func (c *core) classKey() (key [32]byte) {
	copy(key[:], c.vault.MAC(edge.System, "radius class", []byte(c.id.Cluster)))
	return key
}

func (c *core) nodeNumber() uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, c.id.Node)
	return h.Sum64()
}

// openAAA opens the accounting journal and the index that RADIUS is answered from.
func (n *Node) openAAA() (err error) {
	if n.accounting, err = n.openJournal("accounting", journal.Options{}); err != nil {
		return err
	}
	n.index = aaa.NewIndex(n.secrets, n.clockTrusted, n.log)
	n.signs = make(chan aaa.NASSign, signsBound)
	n.facts.auth = newAuthFacts()
	classes := acct.NewClassSigner(n.classKey())
	n.drainer = &aaa.Drainer{
		Node: n.id.Node, Journal: radiusJournal{n.accounting}, Kind: kindAccounting, Class: classes.Parse, Logger: n.log, Now: n.now,
		OnDrain: n.drainMetrics(),
	}
	return nil
}

func (n *Node) drainMetrics() func(int, time.Duration) {
	records := n.metrics.Counter("wispgate_radius_drained_total", "Accounting records turned into sessions and usage.").With()
	seconds := n.metrics.Seconds("wispgate_radius_drain_seconds", "Time of one read of the accounting journal into sessions.").With()
	return func(count int, took time.Duration) {
		records.Add(count)
		seconds.Update(took.Seconds())
	}
}

// listenRADIUS opens the front door. It answers from the index alone: once open it needs no leader.
func (n *Node) listenRADIUS() error {
	r := n.opts.Config.Radius
	delay := r.RejectDelay
	if delay == 0 {
		delay = -1 // switched off; the front door reads zero as its default
	}
	srv, err := radiusd.Listen(radiusd.Config{
		Auth: r.AuthListen, Acct: r.AcctListen, Directory: n.index, Sessions: n.index, Journal: radiusJournal{n.accounting},
		JournalReady: func() bool { return !n.accounting.Stats().Full }, JournalKind: kindAccounting,
		Observer: &aaa.Observer{Signs: n.signs, Next: n.facts.auth.saw}, Reasons: aaa.DecisionReasons(), Logger: n.log, Now: n.now,
		Node: n.nodeNumber(), ClassKey: n.classKey(), Workers: r.Workers, ReceiveBuffer: int(r.RcvBuf), CacheFor: r.CacheTTL, RejectDelay: delay,
	})
	if err != nil {
		return listenError("RADIUS", "radius.auth_listen and radius.acct_listen", err)
	}
	n.radius = srv
	n.index.OnRouters(func(list []*radiusd.NAS) {
		if err := srv.SetNAS(list); err != nil {
			n.log.Error("routers could not be taken over", "error", err)
		}
	})
	ctx, cancel := context.WithCancel(n.ctx)
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	n.onStop("radius", func(context.Context) error {
		cancel()
		return <-done
	})
	return nil
}

// listenError says which address could not be taken and which setting names it.
func listenError(what, keys string, err error) error {
	if e, ok := edge.AsError(err); ok { // the room has said it better, but does not know our settings
		named := *e
		named.Fix = fmt.Sprintf("%s: %s", strings.TrimSuffix(e.Fix, "."), keys)
		return &named
	}
	return &edge.Error{
		Kind: edge.Unavailable, Code: "listen_failed", Message: fmt.Sprintf("%s cannot listen: %v", what, err),
		Fix: fmt.Sprintf("Stop the program that uses the address, or choose another with %s", keys),
	}
}

// writeRADIUSMetrics adds the front door's own counters to a scrape.
func (n *Node) writeRADIUSMetrics(w io.Writer) error {
	st := n.radius.Stats()
	var b bytes.Buffer
	head := func(name, kind, help string) { fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	head("wispgate_radius_requests_total", "counter", "Requests answered, by outcome.")
	rejects := uint64(0)
	for _, v := range st.Rejects {
		rejects += v
	}
	for outcome, v := range map[string]uint64{"accept": st.Accepts, "reject": rejects, "accounting": st.Accounting, "status": st.Status} {
		fmt.Fprintf(&b, "wispgate_radius_requests_total{outcome=%q} %d\n", outcome, v)
	}
	head("wispgate_radius_received_total", "counter", "Datagrams read from the sockets.")
	fmt.Fprintf(&b, "wispgate_radius_received_total %d\n", st.Received)
	head("wispgate_radius_rejects_total", "counter", "Access-Rejects by stage and reason.")
	for k, v := range st.Rejects {
		fmt.Fprintf(&b, "wispgate_radius_rejects_total{stage=%q,reason=%q} %d\n", k.Stage, k.Reason, v)
	}
	head("wispgate_radius_dropped_total", "counter", "Requests that were not answered, by reason.")
	for k, v := range st.Drops {
		fmt.Fprintf(&b, "wispgate_radius_dropped_total{reason=%q} %d\n", k, v)
	}
	fmt.Fprintf(&b, "wispgate_radius_dropped_total{reason=\"kernel_buffer\"} %d\n", st.KernelDrops)
	head("wispgate_radius_duplicates_total", "counter", "Repeated requests answered from the cache or absorbed.")
	fmt.Fprintf(&b, "wispgate_radius_duplicates_total %d\n", st.Duplicates)
	head("wispgate_radius_pending", "gauge", "Requests that wait for the journal, a delay or a slow password.")
	fmt.Fprintf(&b, "wispgate_radius_pending %d\n", st.Pending)
	head("wispgate_radius_request_duration_seconds", "histogram", "From the kernel's receipt to the answer.")
	sum := uint64(0)
	for i, count := range st.LatencyCounts {
		sum += count
		le := "+Inf"
		if i < len(st.LatencyBounds) {
			le = strconv.FormatFloat(st.LatencyBounds[i], 'g', -1, 64)
		}
		fmt.Fprintf(&b, "wispgate_radius_request_duration_seconds_bucket{le=%q} %d\n", le, sum)
	}
	fmt.Fprintf(&b, "wispgate_radius_request_duration_seconds_sum %g\nwispgate_radius_request_duration_seconds_count %d\n", st.LatencySeconds, sum)
	_, err := w.Write(b.Bytes())
	return err
}

// authFacts gathers the front door's refusals, so that a CPE that retries for ever becomes one counted fact a minute. It is called on the
// hot path: a full table only counts.
type authFacts struct {
	mu      sync.Mutex
	refused map[refusalKey]*refusal
	missed  uint64 // refusals of logins that did not fit
}

type refusalKey struct{ tenant, nas, login, reason string }

type refusal struct {
	stage, mac  string
	says, fix   string
	count       uint64
	first, last time.Time
}

const maxRefusals = 1024

func newAuthFacts() *authFacts { return &authFacts{refused: map[refusalKey]*refusal{}} }

// saw takes one outcome. Only refusals of known routers are kept; it may be called by several workers at once.
func (a *authFacts) saw(o *radiusd.Outcome) {
	if o.NAS == nil || o.Reason == nil || o.Result != radiusd.Rejected && o.Result != radiusd.Dropped {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	key := refusalKey{o.NAS.Tenant, o.NAS.ID, string(o.Login[:min(len(o.Login), 64)]), o.Reason.Code}
	r := a.refused[key]
	if r == nil {
		if len(a.refused) >= maxRefusals {
			a.missed++
			return
		}
		r = &refusal{stage: o.Stage.String(), mac: o.MAC.String(), says: o.Reason.Says, fix: o.Reason.Fix, first: o.At}
		a.refused[key] = r
	}
	r.count++
	r.last = o.At
}

// take empties the table.
func (a *authFacts) take() (map[refusalKey]*refusal, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	refused, missed := a.refused, a.missed
	a.refused, a.missed = make(map[refusalKey]*refusal, len(refused)), 0
	return refused, missed
}

// facts turns the gathered refusals into facts of the journal.
func (a *authFacts) facts() (list []fact) {
	refused, _ := a.take()
	for k, r := range refused {
		raw, err := json.Marshal(aaa.AuthRejected{
			Login: string(bytes.ToValidUTF8([]byte(k.login), []byte("\uFFFD"))), Reason: k.reason, Says: r.says, Fix: r.fix, Stage: r.stage,
			NAS: edge.ID(k.nas), MAC: r.mac, Count: r.count, First: r.first.UTC(), Last: r.last.UTC(),
		})
		if err == nil {
			list = append(list, fact{Tenant: k.tenant, Type: aaa.AuthRejected{}.EventName(), Subject: edge.ID(k.nas), Time: r.last.UTC(), Data: raw})
		}
	}
	return list
}

package aaa_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/aaa"
	"wispgate/aaa/acct"
	"wispgate/aaa/packet"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

// memory is a journal in memory.
type memory struct {
	mu      sync.Mutex
	records [][]byte
	grown   chan struct{}
}

func newMemory() *memory { return &memory{grown: make(chan struct{})} }

func (j *memory) append(payloads ...[]byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.records = append(j.records, payloads...)
	close(j.grown)
	j.grown = make(chan struct{})
}

func (j *memory) Read(from uint64, limit int, visit func(aaa.JournalFact) error) (uint64, error) {
	j.mu.Lock()
	list := j.records
	j.mu.Unlock()
	from = max(from, 1)
	for n := 0; n < limit && from <= uint64(len(list)); n++ {
		kind := uint16(1)
		if len(list[from-1]) > 0 && list[from-1][0] == 'x' {
			kind = 2
		}
		if err := visit(aaa.JournalFact{Seq: from, Kind: kind, Trusted: true, Payload: list[from-1]}); err != nil {
			return from, err
		}
		from++
	}
	return from, nil
}

func (j *memory) Wait(ctx context.Context, seq uint64) error {
	for {
		j.mu.Lock()
		have, grown := uint64(len(j.records)) >= seq, j.grown
		j.mu.Unlock()
		if have {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (j *memory) Next() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return uint64(len(j.records)) + 1
}

func (*memory) Incarnation() string { return "00ff" }

func accounting(tenant string, nas edge.ID, status acct.StatusType, id string, secs uint32, in uint64) []byte {
	at := edgetest.Start.Add(time.Duration(secs) * time.Second)
	r := acct.Record{
		Status: status, Flags: acct.HasSessionTime | acct.HasInput | acct.HasGigawords, Arrived: at.UnixNano(), SessionTime: secs, InputOctets: in,
		Tenant: []byte(tenant), NAS: []byte(nas), SessionID: []byte(id), UserName: []byte("Ann"), FramedIP: netip.MustParseAddr("10.1.2.3"),
		MAC: packet.MAC{2, 0, 0, 0, 0, 1}, NASPortID: []byte("ether1"),
	}
	return r.Append(nil)
}

// failing lets the first commands fail after they were done, as an unknown outcome does.
type failing struct {
	edge.Executor
	mu   sync.Mutex
	left int
}

func (f *failing) Do(ctx context.Context, r edge.Request) (edge.Reply, error) {
	reply, err := f.Executor.Do(ctx, r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.left > 0 {
		f.left--
		return edge.Reply{}, errors.New("outcome unknown")
	}
	return reply, err
}

func newDrainer(j aaa.Journal) *aaa.Drainer {
	return &aaa.Drainer{Node: "twr7-a", Journal: j, Kind: 1, Logger: slog.New(slog.DiscardHandler), Now: time.Now}
}

// supervise runs a worker as the node does: again after an error.
func supervise(t *testing.T, x edge.Executor, d *aaa.Drainer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := d.Run(ctx, x); err == nil {
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

func TestTheJournalIsDrainedOnceWhateverFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	j := newMemory()
	const sessions = 120
	for i := range sessions {
		id := fmt.Sprint("s", i)
		j.append(
			accounting("hill", nas1, acct.Start, id, 0, 0),
			accounting("valley", nas2, acct.Interim, id, 60, 5),
			[]byte("x not accounting"), []byte("\x7fcannot be read"),
			accounting("hill", nas1, acct.Interim, id, 300, 1000),
		)
	}
	d := newDrainer(j)
	stop := supervise(t, &failing{Executor: w.Exec, left: 9}, d)
	last := uint64(5 * sessions)
	edgetest.Eventually(t, func() bool { return d.Position() == last }, func() string { return fmt.Sprint(d.Position()) })
	j.append(accounting("hill", nas1, acct.On, "", 1200, 0), accounting("hill", nas1, acct.Start, "new", 1300, 0))
	edgetest.Eventually(t, func() bool { return d.Position() == last+2 }, func() string { return fmt.Sprint(d.Position()) })
	stop()
	check := func() {
		t.Helper()
		open, in := w.sessions(m{"open": true}), uint64(0)
		for _, s := range w.sessions(m{"nas_id": nas1}) {
			in += s.InOctets
		}
		valley := edgetest.Ask[edge.Page[aaa.Session]](t, w.Harness, edgetest.Actor("valley"), "aaa.session.list", m{"open": true, "limit": 200})
		if len(open) != 1 || open[0].AcctSessionID != "new" || in != sessions*1000 || len(valley.Data) != sessions {
			t.Errorf("%d open, %d octets, %d in the other tenant", len(open), in, len(valley.Data))
		}
	}
	check()
	version := w.Version()
	again := newDrainer(j) // a restart goes on behind what is drained
	stop = supervise(t, w.Exec, again)
	edgetest.Eventually(t, func() bool { return again.Position() == last+2 }, func() string { return fmt.Sprint(again.Position()) })
	stop()
	if check(); w.Version() != version {
		t.Errorf("a restart wrote %d entries though nothing was new", w.Version()-version)
	}
	edgetest.NoDrift(t, w.Harness)
}

func TestARunTooLargeForAnEntryIsHalved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	j := newMemory()
	for i := range 16 {
		r := acct.Record{Tenant: []byte("hill"), NAS: []byte(nas1), Status: acct.Interim, Arrived: edgetest.Start.UnixNano(), Flags: acct.HasSessionTime, SessionTime: 60}
		long := make([]byte, packet.MaxValue)
		for k := range long {
			long[k] = '<' // six octets each in JSON
		}
		r.SessionID, r.UserName, r.NASPortID, r.CalledStation = fmt.Append(nil, i), long, long, long
		j.append(r.Append(nil))
	}
	d := newDrainer(j)
	stop := supervise(t, w.Exec, d)
	defer stop()
	edgetest.Eventually(t, func() bool { return d.Position() == 16 }, func() string { return fmt.Sprint(d.Position()) })
	if n := len(w.sessions(m{"nas_id": nas1})); n != 16 {
		t.Errorf("got %d sessions, want 16", n)
	}
	if w.Version() < 3 { // two halves and the platform's mark
		t.Errorf("drained in %d entries, so nothing was too large", w.Version())
	}
}

func TestAReadThatEndsTheJournalExactlyIsMarked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	j := newMemory()
	for range 500 { // as many as are read at once
		j.append([]byte("x not accounting"))
	}
	d := newDrainer(j)
	stop := supervise(t, w.Exec, d)
	defer stop()
	edgetest.Eventually(t, func() bool { return d.Position() == 500 }, func() string { return fmt.Sprint(d.Position()) })
}

func BenchmarkDrain(b *testing.B) {
	w := newWorld(b)
	w.policy("Home", 50_000, 10_000)
	j := newMemory()
	d := newDrainer(j)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Run(ctx, w.Exec) })
	done := uint64(0)
	round := uint32(0)
	b.ReportAllocs()
	for b.Loop() { // one interim of each of 500 sessions
		round++
		var batch [][]byte
		for i := range 500 {
			batch = append(batch, accounting("hill", nas1, acct.Interim, fmt.Sprint(i), 300*round, uint64(round)*1000))
		}
		done += 500
		j.append(batch...)
		for d.Position() < done {
			time.Sleep(time.Millisecond)
		}
	}
	b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "records/s")
	cancel()
	wg.Wait()
}

func TestAClassOfOursNamesTheCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.login(sub1, "ann@inner", "x")
	key := acct.NewClassSigner([32]byte{1})
	forged := acct.NewClassSigner([32]byte{2})
	class := acct.Class{Tenant: []byte("hill"), Credential: []byte(c.ID), Revision: 77, Session: 1}
	j := newMemory()
	foreign := class
	foreign.Tenant = []byte("valley")
	for i, signer := range []*acct.ClassSigner{key, forged, key} {
		r := acct.Record{Tenant: []byte("hill"), NAS: []byte(nas1), Status: acct.Start, Arrived: edgetest.Start.UnixNano(), SessionID: fmt.Append(nil, i), UserName: []byte("outer")}
		if r.Class = signer.Append(nil, &class)[2:]; i == 2 {
			r.Class = signer.Append(nil, &foreign)[2:]
		}
		j.append(r.Append(nil))
	}
	d := newDrainer(j)
	reader := acct.NewClassSigner([32]byte{1})
	d.Class = reader.Parse
	stop := supervise(t, w.Exec, d)
	defer stop()
	edgetest.Eventually(t, func() bool { return d.Position() == 3 }, func() string { return fmt.Sprint(d.Position()) })
	for _, s := range w.sessions(m{"login": "outer"}) {
		if ours := s.AcctSessionID == "0"; ours != (s.Credential == c.ID && s.Revision == 77) {
			t.Errorf("session %s is attributed to %q, revision %d", s.AcctSessionID, s.Credential, s.Revision)
		}
	}
}

func TestSignsAreRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.router("twr7", "10.20.0.1")
	signs := make(chan aaa.NASSign, 1)
	mod := aaa.Module(aaa.Deps{Signs: signs})
	o := aaa.Observer{Signs: signs}
	o.MessageAuthenticatorSeen(w.nas[0])
	o.MessageAuthenticatorSeen(w.nas[0])
	if o.Lost() != 1 {
		t.Errorf("a full queue lost %d, want 1", o.Lost())
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = mod.Workers[0].Run(ctx, w.Exec) })
	seen := func() bool { return ask[aaa.NAS](w, "aaa.nas.get", m{"id": n.ID}).SeenMA }
	edgetest.Eventually(t, seen, func() string { return "not seen" })
	cancel()
	wg.Wait()
	w.router("twr8", "10.20.0.2") // by its answer the index has what was visible before
	if !slices.ContainsFunc(w.nas, func(n *radiusd.NAS) bool { return n.MASeen }) {
		t.Error("the front door is not told after a restart")
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

func TestGoldenEvents(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	const n, p, c, e, s, u = "nas_1", "pol_1", "crd_1", "ent_1", "ses_1", "sub_1"
	var got strings.Builder
	covered := map[string]bool{}
	for _, event := range []edge.Event{
		aaa.NASRegistered{n, "twr7", []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		aaa.NASUpdated{n},
		aaa.NASSecretRotated{n, true},
		aaa.NASSecretRetired{n},
		aaa.NASDisabled{n},
		aaa.NASEnabled{n},
		aaa.NASDeleted{n, "twr7"},
		aaa.PolicyCreated{p, "Home"},
		aaa.PolicyUpdated{p, 7},
		aaa.PolicyArchived{p},
		aaa.CredentialCreated{c, u, "ann"},
		aaa.CredentialUpdated{c},
		aaa.CredentialRotated{c},
		aaa.CredentialLocked{c, "stolen"},
		aaa.CredentialUnlocked{c},
		aaa.CredentialRevoked{c, "gone"},
		aaa.CredentialMACLearned{c, "AA:BB:CC:DD:EE:FF"},
		aaa.SessionStarted{s, c, u, n},
		aaa.SessionResurrected{s, c, u, n},
		aaa.SessionStale{s, u, at},
		aaa.SessionStopped{s, c, u, "user_request", at, 1, 2, 3},
		aaa.SessionMeasured{s, u, c, at, at, 1, 2, 3, true},
		aaa.AuthRejected{"ann", "bad_password", "The password in the CPE is wrong", "Type it again in the CPE", "authenticate", n, "AA:BB:CC:DD:EE:FF", 3, at, at},
		aaa.EntitlementChanged{e, c, u, aaa.Reject, "terminated", aaa.Allow, "active", 9},
	} {
		line, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		covered[event.EventName()] = true
		fmt.Fprintf(&got, "%s %s %s\n", event.EventName(), event.Subject(), line)
	}
	for _, event := range aaa.Module(aaa.Deps{}).Events {
		if !covered[event.EventName()] {
			t.Errorf("%s has no golden form", event.EventName())
		}
	}
	const file = "testdata/events.golden"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("events changed (-golden +now); fields are only ever added:\n%s", diff)
	}
}

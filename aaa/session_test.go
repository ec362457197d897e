package aaa_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/aaa"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

var system = edge.SystemActor("hill", "drain")

// recorder feeds facts as a drainer does, with numbers of a journal of its own.
type recorder struct {
	w    *world
	node string
	seq  uint64
}

func (r *recorder) feed(facts ...aaa.Fact) {
	r.w.t.Helper()
	for i := range facts {
		r.seq++
		facts[i].Seq = r.seq
	}
	in := aaa.RecordInput{Node: r.node, Incarnation: "1", To: r.seq, Facts: facts}
	edgetest.Do[aaa.RecordOutput](r.w.t, r.w.Harness, system, "aaa.session.record", in)
}

const nas1, nas2 = edge.ID("nas_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2d01"), edge.ID("nas_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2d02")

// fact is an accounting packet secs after a session that began at start.
func fact(status string, start time.Time, secs uint32, in, out uint64) aaa.Fact {
	f := aaa.Fact{
		Status: status, NAS: nas1, AcctSessionID: "81000001", Login: "ann", At: start.Unix() + int64(secs), HasSeconds: true, Seconds: secs,
		HasOctets: true, Gigawords: true, In: in, Out: out,
	}
	if status == "start" {
		f.HasOctets, f.Gigawords, f.HasSeconds = false, false, false
	}
	return f
}

func (w *world) sessions(filter m) []aaa.Session {
	w.t.Helper()
	filter["limit"] = 200
	page := ask[edge.Page[aaa.Session]](w, "aaa.session.list", filter)
	slices.SortFunc(page.Data, func(a, b aaa.Session) int { return a.StartedAt.Compare(b.StartedAt) })
	return page.Data
}

func (w *world) one(filter m) aaa.Session {
	w.t.Helper()
	list := w.sessions(filter)
	if len(list) != 1 {
		w.t.Fatalf("got %d sessions, want 1: %+v", len(list), list)
	}
	return list[0]
}

func TestASessionFromStartToStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router("twr7", "10.20.0.1")
	pol := w.policy("Home", 50_000, 10_000)
	c := w.login(sub1, "ann", "s3cret")
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "revision": 1})
	r := recorder{w: w, node: "n1"}
	at := w.Version()
	start := fact("start", edgetest.Start, 0, 0, 0)
	start.MAC, start.IP = "AA:BB:CC:DD:EE:01", "10.1.2.3"
	r.feed(start)
	if s := w.one(m{"open": true}); s.State != aaa.SessionStateActive || s.Credential != c.ID || s.Subscription != sub1 || s.IP != "10.1.2.3" {
		t.Errorf("after Start: %+v", s)
	}
	if d := w.request("ann", "AA:BB:CC:DD:EE:02"); w.index.Allow(d, w.index.Lookup(d)) {
		t.Error("a second device was let in beside the first")
	}
	if d := w.request("ann", "aabb.ccdd.ee01"); !w.index.Allow(d, w.index.Lookup(d)) {
		t.Error("the same device was locked out by its old session")
	}
	r.feed(fact("interim", edgetest.Start, 300, 1000, 9000), fact("interim", edgetest.Start, 600, 2000, 19000))
	stop := fact("stop", edgetest.Start, 900, 3000, 6<<32)
	stop.Cause = 1
	r.feed(stop, stop)
	s := w.one(m{"login": "ANN"})
	if s.State != aaa.SessionStateClosed || s.InOctets != 3000 || s.OutOctets != 6<<32 || s.Seconds != 900 || s.Cause != "user_request" {
		t.Errorf("after Stop: %+v", s)
	}
	want := []string{"aaa.session.started", "aaa.session.stopped"} // measurements are for the flows of the commit only
	if got := edgetest.EventTypes(t, w.Harness, "hill", at); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if len(w.sessions(m{"open": true})) != 0 {
		t.Error("the session is still listed as open")
	}
	edgetest.NoDrift(t, w.Harness)
}

func TestTheSameSessionIDFromTwoRoutersIsTwoSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := recorder{w: w, node: "n1"}
	a, b := fact("interim", edgetest.Start, 300, 10, 20), fact("interim", edgetest.Start, 300, 1, 2)
	b.NAS = nas2
	r.feed(a, b)
	if x, y := w.one(m{"nas_id": nas1}), w.one(m{"nas_id": nas2}); x.InOctets != 10 || y.InOctets != 1 || !x.Resurrected {
		t.Errorf("got %d and %d, want 10 and 1", x.InOctets, y.InOctets)
	}
}

func TestRecordsReadTwiceCountOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := aaa.RecordInput{Node: "n1", Incarnation: "1", To: 2, Facts: []aaa.Fact{fact("start", edgetest.Start, 0, 0, 0), fact("interim", edgetest.Start, 300, 7, 7)}}
	in.Facts[0].Seq, in.Facts[1].Seq = 1, 2
	first := edgetest.Do[aaa.RecordOutput](t, w.Harness, system, "aaa.session.record", in)
	before := w.one(m{"login": "ann"})
	again := edgetest.Do[aaa.RecordOutput](t, w.Harness, system, "aaa.session.record", in)
	if after := w.one(m{"login": "ann"}); first.Applied != 2 || again.Applied != 0 || again.Position != 2 || after.Version != before.Version {
		t.Errorf("first %+v, again %+v, version %d then %d", first, again, before.Version, after.Version)
	}
	in.Incarnation = "2" // a new disk: its numbers begin anew
	if out := edgetest.Do[aaa.RecordOutput](t, w.Harness, system, "aaa.session.record", in); out.Applied != 2 {
		t.Errorf("another journal: %+v", out)
	}
	if s := w.one(m{"login": "ann"}); s.InOctets != 7 {
		t.Errorf("counted twice: %d", s.InOctets)
	}
}

func TestOnlyTheNodeRecordsSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for op, in := range map[string]any{
		"aaa.session.record":                m{"node": "n", "incarnation": "1", "to": 1},
		"aaa.session.reboot":                m{"nas_id": nas1, "at": 1},
		"aaa.session.due":                   m{"id": "ses_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2d01", "at": edgetest.Start},
		"aaa.nas.saw_message_authenticator": m{"id": nas1},
	} {
		if code := edgetest.Code(t, w.Harness, w.a, op, in); code != "scope_missing" {
			t.Errorf("%s by a client: got %s, want scope_missing", op, code)
		}
	}
}

func TestCountersThatMove(t *testing.T) {
	t.Parallel()
	start := edgetest.Start
	plain := func(secs uint32, in uint64) aaa.Fact {
		f := fact("interim", start, secs, in, 0)
		f.Gigawords = false
		return f
	}
	moved := func(f aaa.Fact, by time.Duration) aaa.Fact {
		f.At += int64(by / time.Second)
		return f
	}
	booted := func(f aaa.Fact, mono int64) aaa.Fact {
		f.Boot, f.Mono, f.Trusted = "b1", mono, mono > 1000
		return f
	}
	for _, tc := range []struct {
		name    string
		facts   []aaa.Fact
		in      uint64
		suspect bool
		count   int // sessions
	}{
		{"an interim without Session-Time counts from the start", []aaa.Fact{fact("start", start, 0, 0, 0), func() aaa.Fact {
			f := fact("interim", start, 0, 500, 0)
			f.At, f.HasSeconds = start.Unix()+300, false
			return f
		}()}, 500, false, 1},
		{"a late interim after the stop raises nothing and reopens nothing", []aaa.Fact{fact("stop", start, 900, 900, 0), fact("interim", start, 600, 600, 0)}, 900, false, 1},
		{"a late interim that knows more is counted", []aaa.Fact{fact("stop", start, 900, 900, 0), fact("interim", start, 890, 950, 0)}, 950, false, 1},
		{"counters that start anew are added", []aaa.Fact{fact("interim", start, 900, 900, 0), fact("interim", start.Add(2*time.Hour), 60, 30, 0)}, 930, false, 1},
		{"a stepped clock is not a new run", []aaa.Fact{fact("interim", start, 900, 900, 0), moved(fact("interim", start, 1200, 1000, 0), 10*time.Minute)}, 1000, false, 1},
		{"a clock that is set right at last is not a new run", []aaa.Fact{
			booted(fact("interim", start.Add(-30*24*time.Hour), 300, 500, 0), 1000), booted(fact("interim", start, 600, 1000, 0), 1300),
		}, 1000, false, 1},
		{"a wrap without Gigawords is lifted", []aaa.Fact{plain(300, 4_000_000_000), plain(600, 100)}, 1<<32 + 100, false, 1},
		{"a wrap seen out of order is lifted", []aaa.Fact{plain(600, 100), plain(300, 4_000_000_000)}, 1<<32 + 100, false, 1},
		{"a wrap that no port could do is left out", []aaa.Fact{plain(300, 2_000_000_000), plain(301, 100)}, 2_000_000_000, true, 1},
		{"Gigawords sent only when not zero", []aaa.Fact{plain(300, 4_000_000_000), fact("interim", start, 600, 1<<32+5, 0), plain(200, 3_000_000_000)}, 1<<32 + 5, false, 1},
		{"an impossible counter is left out", []aaa.Fact{fact("interim", start, 300, 50, 0), fact("interim", start, 600, 1<<52, 0)}, 50, true, 1},
		{"a new Start under a closed id is a new session", []aaa.Fact{fact("stop", start, 900, 900, 0), fact("start", start.Add(2*time.Hour), 0, 0, 0), fact("interim", start.Add(2*time.Hour), 60, 10, 0)}, 910, false, 2},
		{"a new Start under an open id is a new session", []aaa.Fact{fact("interim", start, 900, 900, 0), fact("start", start.Add(2*time.Hour), 0, 0, 0)}, 900, false, 2},
		{"what is older than the known session stands behind it", []aaa.Fact{fact("start", start.Add(2*time.Hour), 0, 0, 0), fact("stop", start, 900, 900, 0)}, 900, false, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := recorder{w: w, node: "n1"}
			for _, f := range tc.facts {
				r.feed(f)
			}
			list := w.sessions(m{"login": "ann"})
			var in uint64
			suspect := false
			for _, s := range list {
				in += s.InOctets
				suspect = suspect || s.Suspect
			}
			if in != tc.in || suspect != tc.suspect || len(list) != tc.count {
				t.Errorf("got %d octets, suspect %v, %d sessions, want %d, %v, %d: %+v", in, suspect, len(list), tc.in, tc.suspect, tc.count, list)
			}
			if first := list[0].StartedAt; !first.Equal(start) {
				t.Errorf("started at %v, want %v", first, start)
			}
			edgetest.NoDrift(t, w.Harness)
		})
	}
}

func TestTheCapOfThePlanKeepsAStumblingCounterFromBeingBilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pol := w.policy("Home", 10_000, 10_000)
	w.login(sub1, "ann", "x")
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "revision": 1})
	r := recorder{w: w, node: "n1"}
	for _, f := range []aaa.Fact{fact("interim", edgetest.Start, 300, 1000, 0), fact("interim", edgetest.Start, 600, 900, 0)} {
		f.Gigawords = false
		r.feed(f)
	}
	if s := w.one(m{"login": "ann"}); s.InOctets != 1000 || !s.Suspect {
		t.Errorf("got %d octets, suspect %v, want 1000, true", s.InOctets, s.Suspect)
	}
}

func TestARestartedRouterClosesItsSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := recorder{w: w, node: "n1"}
	for i := range 40 {
		f := fact("interim", edgetest.Start, 300, 1000, 0)
		f.AcctSessionID = fmt.Sprint(i)
		r.feed(f)
	}
	other := fact("interim", edgetest.Start, 300, 1000, 0)
	other.NAS = nas2
	r.feed(other)
	at := edgetest.Start.Add(20 * time.Minute)
	for runs := 1; ; runs++ {
		out := edgetest.Do[struct {
			Closed int
			More   bool
		}](t, w.Harness, system, "aaa.session.reboot", m{"nas_id": nas1, "at": at.Unix()})
		if !out.More {
			if runs != 5 {
				t.Errorf("closed 40 sessions in %d runs, want 5", runs)
			}
			break
		}
	}
	for _, s := range w.sessions(m{"nas_id": nas1}) {
		if s.State != aaa.SessionStateClosed || s.Cause != "nas_reboot" || s.InOctets != 1000 || !s.EndedAt.Equal(at) {
			t.Fatalf("after the restart: %+v", s)
		}
	}
	if s := w.one(m{"nas_id": nas2}); s.State != aaa.SessionStateActive {
		t.Error("another router's session was closed")
	}
	late := fact("interim", edgetest.Start, 600, 1500, 0) // sent before the restart
	late.AcctSessionID = "7"
	again := fact("start", at.Add(time.Minute), 0, 0, 0) // the id used again after it
	again.AcctSessionID = "8"
	r.feed(late, again)
	for _, s := range w.sessions(m{"nas_id": nas1}) {
		switch {
		case s.AcctSessionID == "7" && (s.InOctets != 1500 || s.State != aaa.SessionStateClosed):
			t.Errorf("late record: %+v", s)
		case s.AcctSessionID == "8" && s.Incarnation == 2 && s.State != aaa.SessionStateActive:
			t.Errorf("next use of an id: %+v", s)
		}
	}
	if n := len(w.sessions(m{"nas_id": nas1})); n != 41 {
		t.Errorf("got %d sessions, want 41", n)
	}
	edgetest.NoDrift(t, w.Harness)
}

func TestANewStartOfTheSameDeviceEndsTheOldSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := recorder{w: w, node: "n1"}
	old := fact("start", edgetest.Start, 0, 0, 0)
	old.MAC = "AA:BB:CC:DD:EE:01"
	next := fact("start", edgetest.Start.Add(time.Hour), 0, 0, 0)
	next.AcctSessionID, next.MAC = "81000002", old.MAC
	r.feed(old)
	r.feed(next)
	if list := w.sessions(m{"login": "ann"}); list[0].State != aaa.SessionStateClosed || list[0].Cause != "lost_service" || list[1].State != aaa.SessionStateActive {
		t.Errorf("got %+v", list)
	}
	alive := fact("interim", edgetest.Start, 7200, 5, 5)
	r.feed(alive) // it lives after all
	if list := w.sessions(m{"login": "ann"}); list[0].State != aaa.SessionStateActive {
		t.Errorf("a session that was only believed dead stays closed: %+v", list[0])
	}
}

func TestSilenceMakesASessionStaleThenClosedThenForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := recorder{w: w, node: "n1"}
	r.feed(fact("interim", edgetest.Start, 0, 10, 10))
	state := func() string {
		list := w.sessions(m{"login": "ann"})
		if len(list) == 0 {
			return "forgotten"
		}
		return string(list[0].State)
	}
	due := func(after time.Duration, want string) {
		t.Helper()
		w.Clock.Advance(after)
		edgetest.Eventually(t, func() bool { return state() == want }, state)
	}
	due(17*time.Minute, "stale")
	if len(w.sessions(m{"open": true})) != 0 {
		t.Error("a stale session is listed as open")
	}
	r.feed(fact("interim", edgetest.Start, 1020, 20, 20))
	if s := w.one(m{"login": "ann"}); s.State != aaa.SessionStateActive || s.EndedAt != nil || s.Interim != 1020 {
		t.Errorf("a packet did not bring it back: %+v", s)
	}
	due(2*time.Hour, "stale")
	due(2*time.Hour, "closed")
	if s := w.one(m{"login": "ann"}); !s.EndedAt.Equal(edgetest.Start.Add(17*time.Minute)) || s.Cause != "lost_service" {
		t.Errorf("closed at %v for %s, want when it was last seen", s.EndedAt, s.Cause)
	}
	due(8*24*time.Hour, "forgotten")
	edgetest.NoDrift(t, w.Harness)
}

func TestALearningLoginIsBoundToItsFirstDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.router("twr7", "10.20.0.1")
	pol := w.policy("Home", 50_000, 10_000)
	c := do[aaa.Credential](w, "aaa.credential.create", m{"subscription_id": sub1, "username": "ann", "password": "x", "mac_binding": "learn"})
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "revision": 1})
	check := func(mac, want string) {
		t.Helper()
		if d, _ := w.radius("ann", mac); reasonOf(d) != want {
			t.Errorf("from %s: got %s, want %s", mac, reasonOf(d), want)
		}
	}
	check("AA:BB:CC:DD:EE:01", aaa.CodeActive)
	f := fact("start", edgetest.Start, 0, 0, 0)
	f.MAC = "AA:BB:CC:DD:EE:01"
	(&recorder{w: w, node: "n1"}).feed(f)
	check("AA:BB:CC:DD:EE:01", aaa.CodeActive)
	check("AA:BB:CC:DD:EE:02", aaa.CodeMACMismatch)
	do[aaa.Credential](w, "aaa.credential.rebind", m{"id": c.ID, "mac": "aabb.ccdd.ee02"})
	check("AA:BB:CC:DD:EE:02", aaa.CodeActive)
	check("AA:BB:CC:DD:EE:01", aaa.CodeMACMismatch)
	edgetest.NoDrift(t, w.Harness)
}

// TestTotalsAreRightInEveryOrder draws sessions with several runs of their counters, loses, repeats and shuffles their packets, cuts
// them into batches at random, and compares the sums. Without Gigawords no packet is lost, because a lost one may hide a wrap.
func TestTotalsAreRightInEveryOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := recorder{w: w, node: "n1"}
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		var facts []aaa.Fact
		type key struct {
			nas edge.ID
			id  string
		}
		want := map[key][2]uint64{}
		for s := range rapid.IntRange(1, 3).Draw(rt, "sessions") {
			k := key{rapid.SampledFrom([]edge.ID{nas1, nas2}).Draw(rt, "nas"), fmt.Sprintf("%d-%d", n, s/2)}
			if _, taken := want[k]; taken {
				continue
			}
			giga := rapid.Bool().Draw(rt, "gigawords")
			at := edgetest.Start
			var sum [2]uint64
			for range rapid.IntRange(1, 3).Draw(rt, "runs") {
				packets := rapid.IntRange(1, 8).Draw(rt, "packets")
				var in, out uint64
				secs := uint32(0)
				for p := range packets {
					secs += rapid.Uint32Range(60, 600).Draw(rt, "seconds")
					in += rapid.Uint64Range(0, 3_000_000_000).Draw(rt, "in")
					out += rapid.Uint64Range(0, 3_000_000_000).Draw(rt, "out")
					status := "interim"
					if p == packets-1 && rapid.Bool().Draw(rt, "stop") {
						status = "stop"
					}
					f := fact(status, at, secs, in, out)
					f.NAS, f.AcctSessionID, f.Login = k.nas, k.id, fmt.Sprint("ann", n)
					if f.Gigawords = giga; !giga {
						f.In, f.Out = in&(1<<32-1), out&(1<<32-1)
					} else if p < packets-1 && rapid.Bool().Draw(rt, "lost") {
						continue
					}
					for range rapid.IntRange(1, 2).Draw(rt, "copies") {
						facts = append(facts, f)
					}
				}
				sum[0], sum[1] = sum[0]+in, sum[1]+out
				at = at.Add(time.Duration(secs)*time.Second + rapid.SampledFrom([]time.Duration{3 * time.Minute, time.Hour}).Draw(rt, "pause"))
			}
			want[k] = sum
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		rng.Shuffle(len(facts), func(i, j int) { facts[i], facts[j] = facts[j], facts[i] })
		for len(facts) > 0 {
			cut := min(len(facts), rapid.IntRange(1, 12).Draw(rt, "batch"))
			r.feed(facts[:cut]...)
			facts = facts[cut:]
		}
		for k, sum := range want {
			var in, out uint64
			for _, s := range w.sessions(m{"login": fmt.Sprint("ann", n)}) {
				if s.NAS == k.nas && s.AcctSessionID == k.id {
					in, out = in+s.InOctets, out+s.OutOctets
				}
			}
			if in != sum[0] || out != sum[1] {
				rt.Fatalf("%v: got %d/%d, want %d/%d", k, in, out, sum[0], sum[1])
			}
		}
	})
	edgetest.NoDrift(t, w.Harness)
}

package billing_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"wispgate/billing"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

func report(t interface{ Fatal(...any) }, n *edgetest.Harness, r billing.UsageReport) {
	if _, _, err := edgetest.Try[billing.SessionUsage](n, ann, edge.Request{}, "billing.usage.record", r); err != nil {
		t.Fatal(err)
	}
}

func used(t *testing.T, n *edgetest.Harness, sub edge.ID, from, to string) billing.UsageAnswer {
	t.Helper()
	return edgetest.Ask[billing.UsageAnswer](t, n, ann, "billing.usage.get", billing.UsageRange{ID: sub, From: from, To: to})
}

func octets(in, out, secs uint64) billing.Counters {
	return billing.Counters{InOctets: in, OutOctets: out, Seconds: secs}
}

func TestUsageFallsOnTheLocalDay(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := subscribe(t, n, sell(t, n, offer("HOME10")).ID) // Harare: midnight is 22:00 UTC
	r := billing.UsageReport{Session: "ses_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", Subscription: s.ID, Start: edgetest.Start}
	for _, c := range []struct {
		at    string
		total billing.Counters
	}{
		{"2026-03-31T21:59:00Z", octets(100, 5<<32, 60)}, {"2026-03-31T22:01:00Z", octets(130, 6<<32, 180)}, {"2026-04-01T23:00:00Z", octets(230, 7<<32, 500)},
	} {
		r.At, _ = time.Parse(time.RFC3339, c.at)
		r.Counters = c.total
		report(t, n, r)
	}
	r.Closed = true
	report(t, n, r)
	report(t, n, r)
	got := used(t, n, s.ID, "2026-03-30", "2026-04-02")
	want := []billing.UsageDay{
		{Day: "2026-03-31", Counters: octets(100, 5<<32, 60)}, {Day: "2026-04-01", Counters: octets(30, 1<<32, 120)}, {Day: "2026-04-02", Counters: octets(100, 1<<32, 320)},
	}
	if !cmp.Equal(got.Days, want) || got.Total != r.Counters {
		t.Errorf("got total %+v and days: %s", got.Total, cmp.Diff(want, got.Days))
	}
	var closed int
	for _, typ := range edgetest.EventTypes(t, n, "acme", 0) {
		if typ == "billing.usage.recorded" {
			closed++
		}
	}
	if closed != 1 {
		t.Errorf("got %d recorded events, want one", closed)
	}
	sessions := edgetest.Ask[edge.Page[billing.SessionUsage]](t, n, ann, "billing.usage.sessions", billing.SessionUsageList{ID: s.ID}).Data
	if len(sessions) != 1 || sessions[0].Total != r.Counters || !sessions[0].Closed {
		t.Errorf("got %+v, want the session's raw record", sessions)
	}
	edgetest.NoDrift(t, n)
}

// TestUsageCountsOnceInWhateverOrder gives several sessions' reports lost, doubled and shuffled, and compares with the truth: what the
// latest report of each day said.
func TestUsageCountsOnceInWhateverOrder(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	p := sell(t, n, offer("HOME10"))
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		s := subscribe(t, n, p.ID)
		want := map[string]billing.Counters{}
		var reports []billing.UsageReport
		for k := range rapid.IntRange(1, 3).Draw(rt, "sessions") {
			session := edge.DeriveID("ses", fmt.Sprint("usage ", round), k)
			total, at, last := billing.Counters{}, edgetest.Start, map[string]billing.Counters{}
			var days []string
			for range rapid.IntRange(1, 6).Draw(rt, "reports") {
				at = at.Add(time.Duration(rapid.IntRange(1, 40).Draw(rt, "hours")) * time.Hour)
				total.InOctets += rapid.Uint64Range(0, 1<<40).Draw(rt, "in")
				total.OutOctets += rapid.Uint64Range(0, 1<<40).Draw(rt, "out")
				total.Seconds += 3600
				day := at.Add(2 * time.Hour).Format(time.DateOnly) // Harare is two hours ahead all year
				if _, seen := last[day]; !seen {
					days = append(days, day)
				}
				last[day] = total
				reports = append(reports, billing.UsageReport{Session: session, Subscription: s.ID, Start: edgetest.Start, At: at, Counters: total})
			}
			before := billing.Counters{}
			for _, day := range days {
				l, w := last[day], want[day]
				want[day] = octets(w.InOctets+l.InOctets-before.InOctets, w.OutOctets+l.OutOctets-before.OutOctets, w.Seconds+l.Seconds-before.Seconds)
				before = l
			}
		}
		again := rapid.SliceOfN(rapid.SampledFrom(reports), 0, 6).Draw(rt, "repeated")
		for _, r := range rapid.Permutation(append(again, reports...)).Draw(rt, "order") {
			report(rt, n, r)
		}
		got := map[string]billing.Counters{}
		for _, d := range used(t, n, s.ID, "2026-03-31", "2026-05-01").Days {
			got[d.Day] = d.Counters
		}
		if !cmp.Equal(got, want) {
			rt.Fatalf("got other days than the truth: %s", cmp.Diff(want, got))
		}
	})
	edgetest.NoDrift(t, n)
}

func TestASessionLongerThanItsMarksKeepsItsTotal(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := subscribe(t, n, sell(t, n, offer("HOME10")).ID)
	r := billing.UsageReport{Session: "ses_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", Subscription: s.ID, Start: edgetest.Start}
	for day := range 30 {
		r.At, r.Counters = edgetest.Start.AddDate(0, 0, day), octets(uint64(day+1)*10, uint64(day+1)*100, uint64(day+1))
		report(t, n, r)
	}
	late := r
	late.At, late.Counters = edgetest.Start.AddDate(0, 0, 2), octets(31, 301, 4) // said before, by a record that comes a month late
	report(t, n, late)
	got := used(t, n, s.ID, "2026-03-31", "2026-05-31")
	if got.Total != octets(300, 3000, 30) || len(got.Days) != 30 {
		t.Errorf("got %+v over %d days, want the session's total over 30 days", got.Total, len(got.Days))
	}
	for _, d := range got.Days {
		if d.Counters != octets(10, 100, 1) {
			t.Errorf("%s: got %+v, want a day's equal share", d.Day, d.Counters)
		}
	}
}

func TestAClockThatJumpsMakesNoUsage(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := subscribe(t, n, sell(t, n, offer("HOME10")).ID)
	r := billing.UsageReport{Session: "ses_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", Subscription: s.ID, Start: edgetest.Start}
	for _, c := range []struct {
		day   int
		total uint64
	}{{0, 100}, {2, 60}, {4, 150}, {1, 140}} { // the second was read before the first, by a clock that ran ahead
		r.At, r.Counters = edgetest.Start.AddDate(0, 0, c.day), octets(c.total, 0, 0)
		report(t, n, r)
	}
	got := used(t, n, s.ID, "2026-03-31", "2026-05-31")
	if got.Total.InOctets != 150 {
		t.Errorf("got %d octets over %+v, want the session's 150", got.Total.InOctets, got.Days)
	}
}

func TestUsageIsNeverRefused(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	session := func(i int) edge.ID { return edge.DeriveID("ses", "odd", i) }
	for i, r := range []billing.UsageReport{
		{At: edgetest.Start, Counters: octets(1, 1, 1)},                                                           // a login without a subscription
		{Subscription: "sub_00000000-0000-7000-8000-000000000000", At: edgetest.Start, Counters: octets(1, 1, 1)}, // one that is gone
		{At: time.Time{}, Start: edgetest.Start},                                                                  // a clock that was never set
		{At: edgetest.Start, Counters: octets(1<<64-1, 1<<64-1, 1<<63)},                                           // counters gone mad
	} {
		r.Session = session(i)
		report(t, n, r)
		report(t, n, r)
	}
	n.Clock.Advance(101 * 24 * time.Hour)
	for i := range 4 {
		edgetest.Do[edge.None](t, n, ann, "billing.usage.forget", edge.DueInput{ID: session(i).With("usg"), At: n.Clock.Now()})
	}
	edgetest.Do[edge.None](t, n, ann, "billing.usage.forget", edge.DueInput{ID: session(0).With("usg"), At: n.Clock.Now()})
	edgetest.NoDrift(t, n)
}

func TestRawRecordsStayWhileTheyMayBeAskedFor(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := subscribe(t, n, sell(t, n, offer("HOME10")).ID)
	r := billing.UsageReport{Session: "ses_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", Subscription: s.ID, Start: edgetest.Start, At: edgetest.Start, Counters: octets(1, 2, 3)}
	report(t, n, r)
	forget := func() int {
		edgetest.Do[edge.None](t, n, ann, "billing.usage.forget", edge.DueInput{ID: r.Session.With("usg"), At: n.Clock.Now()})
		return len(edgetest.Ask[edge.Page[billing.SessionUsage]](t, n, ann, "billing.usage.sessions", billing.SessionUsageList{ID: s.ID}).Data)
	}
	n.Clock.Advance(99 * 24 * time.Hour)
	if got := forget(); got != 1 {
		t.Errorf("after 99 days: got %d records, want it kept", got)
	}
	n.Clock.Advance(2 * 24 * time.Hour)
	if got := forget(); got != 0 {
		t.Errorf("after 101 days: got %d records, want it forgotten", got)
	}
	if got := used(t, n, s.ID, "2026-03-31", "2026-03-31").Total; got != r.Counters {
		t.Errorf("got %+v, want the day's total to stay", got)
	}
}

func TestRangesThatCannotBeAnsweredAreRefused(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.Module())
	s := subscribe(t, n, sell(t, n, offer("HOME10")).ID)
	for name, body := range map[string]string{
		"backwards": `"from":"2026-03-02","to":"2026-03-01"`, "93 days": `"from":"2026-01-01","to":"2026-04-03"`,
		"not a date": `"from":"yesterday"`, "a day that is not": `"to":"2026-02-30"`,
	} {
		_, _, err := n.Ask(t.Context(), ann, "billing.usage.get", []byte(`{"id":"`+string(s.ID)+`",`+body+`}`), 0)
		if got := edgetest.CodeOf(t, err); got != "usage_range" {
			t.Errorf("%s: got %s, want usage_range", name, got)
		}
	}
	if got := used(t, n, s.ID, "", ""); got.From != "2026-03-01" || got.To != "2026-03-31" || got.Days == nil {
		t.Errorf("got %+v, want the last 31 days in Harare", got)
	}
}

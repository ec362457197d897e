package limit

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/edge"
	"wispgate/edge/edgetest/bubble"
)

var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

func TestAQuotaMayComeAtOnceAndThenRefillsEvenly(t *testing.T) {
	t.Parallel()
	l := New(Config{Client: Rate{10, time.Second}}, epoch)
	s := Subject{Tenant: "acme", Client: "cli_1"}
	for i := range 10 {
		d := l.Take(s, edge.Read, 1, at(0))
		if !d.Allowed || d.Remaining != int64(9-i) || d.Reset != time.Duration(i+1)*100*time.Millisecond {
			t.Fatalf("request %d: got %+v", i, d)
		}
	}
	d := l.Take(s, edge.Read, 1, at(0))
	if d.Allowed || d.RetryAfter != 100*time.Millisecond || d.Remaining != 0 || d.Reset != time.Second {
		t.Fatalf("eleventh request: got %+v", d)
	}
	if d := l.Take(s, edge.Read, 3, at(0)); d.Allowed || d.RetryAfter != 300*time.Millisecond {
		t.Fatalf("three units: got %+v, want a wait of 300 ms", d)
	}
	if d := l.Take(s, edge.Read, 1, at(100*time.Millisecond-1)); d.Allowed {
		t.Fatal("passed a nanosecond early")
	}
	if d := l.Take(s, edge.Read, 1, at(100*time.Millisecond)); !d.Allowed {
		t.Fatal("refused at the time that Retry-After named")
	}
}

func TestARequestAboveTheQuotaPassesAloneInsteadOfNever(t *testing.T) {
	t.Parallel()
	l := New(Config{Client: Rate{5, time.Second}}, epoch)
	s := Subject{Client: "c"}
	if d := l.Take(s, edge.Report, 50, at(0)); !d.Allowed || d.Remaining != 0 {
		t.Fatalf("got %+v", d)
	}
	if d := l.Take(s, edge.Read, 1, at(0)); d.Allowed {
		t.Fatal("the quota was not used up")
	}
}

func TestARefusedRequestCostsNobodyAnything(t *testing.T) {
	t.Parallel()
	l := New(Config{Tenant: Rate{100, time.Second}, Client: Rate{2, time.Second}}, epoch)
	loud, quiet := Subject{Tenant: "acme", Client: "loud"}, Subject{Tenant: "acme", Client: "quiet"}
	for range 1000 {
		l.Take(loud, edge.Read, 1, at(0))
	}
	d := l.Take(quiet, edge.Read, 1, at(0))
	if !d.Allowed {
		t.Fatal("one client's refused requests used up the tenant's quota")
	}
	if st := l.Stats(); st.Refused != 998 {
		t.Fatalf("got %d refusals, want 998", st.Refused)
	}
}

func TestTheTightestCellAnswers(t *testing.T) {
	t.Parallel()
	l := New(Config{
		Tenant: Rate{100, time.Minute}, Client: Rate{10, time.Minute},
		Classes: map[edge.Class]Rate{edge.Money: {4, time.Minute}}, Plans: map[string]Rate{"trial": {3, time.Minute}},
	}, epoch)
	names := func(d Decision) (s []string) {
		for _, p := range d.Policies() {
			s = append(s, p.Name)
		}
		return s
	}
	for _, c := range []struct {
		subject  Subject
		class    edge.Class
		tightest string
		asked    string
	}{
		{Subject{Tenant: "a", Client: "1"}, edge.Read, "client", "[tenant client]"},
		{Subject{Tenant: "b", Client: "2"}, edge.Money, "class", "[tenant client class]"},
		{Subject{Tenant: "c", Client: "3", Plan: "trial"}, edge.Money, "plan", "[plan tenant client class]"},
		{Subject{Tenant: "d", Client: "4", TenantRate: Rate{2, time.Minute}}, edge.Read, "tenant", "[tenant client]"},
		{Subject{Tenant: "e", Client: "5", ClientRate: Rate{1000, time.Minute}}, edge.Read, "tenant", "[tenant client]"},
	} {
		d := l.Take(c.subject, c.class, 1, at(0))
		if got := d.Policies()[d.Tightest].Name; got != c.tightest || fmt.Sprint(names(d)) != c.asked {
			t.Errorf("%+v %s: tightest %s of %v, want %s of %s", c.subject, c.class, got, names(d), c.tightest, c.asked)
		}
	}
}

func TestObserveCountsAndLetsPass(t *testing.T) {
	t.Parallel()
	l := New(Config{Client: Rate{1, time.Minute}, Address: Rate{1, time.Minute}, Observe: true}, epoch)
	s := Subject{Client: "c"}
	for i := range 5 {
		d := l.Take(s, edge.Read, 1, at(0))
		if !d.Allowed || d.Observed != (i > 0) || d.RetryAfter != 0 {
			t.Fatalf("request %d: got %+v", i, d)
		}
	}
	a := netip.MustParseAddr("192.0.2.1")
	l.TakeAddress(a, 1, at(0))
	if d := l.TakeAddress(a, 1, at(0)); d.Allowed {
		t.Fatal("an address is held also while limits are observed")
	}
	if st := l.Stats(); st.Observed != 4 || st.Refused != 1 {
		t.Fatalf("got %+v", st)
	}
}

func TestAddressesAreCountedBySlash64AndBothSpellingsOfIPv4(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		first, second string
		same          bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
	} {
		l := New(Config{Address: Rate{1, time.Minute}}, epoch)
		first, second := netip.MustParseAddr(c.first), netip.MustParseAddr(c.second)
		if _, used := l.Exhausted(first, at(0)); used {
			t.Fatal("a new address is exhausted")
		}
		l.TakeAddress(first, 1, at(0))
		if _, used := l.Exhausted(second, at(0)); used != c.same {
			t.Errorf("%s then %s: exhausted %v, want %v", c.first, c.second, used, c.same)
		}
		if retry, used := l.Exhausted(first, at(0)); !used || retry != time.Minute {
			t.Errorf("%s: got %v %v, want a minute", c.first, retry, used)
		}
	}
	l := New(Config{Address: Rate{1, time.Minute}}, epoch)
	for range 3 {
		if d := l.TakeAddress(netip.Addr{}, 1, at(0)); !d.Allowed {
			t.Fatal("a unix socket's peer was limited")
		}
	}
}

func TestAMillionInventedKeysDoNotGrowMemory(t *testing.T) {
	l := New(Config{Address: Rate{5, time.Minute}, Client: Rate{5, time.Minute}, Addresses: 1024}, epoch)
	var before, after runtime.MemStats
	flood := func(n, from int) (refused int) {
		for i := range n {
			a := netip.AddrFrom4([4]byte{byte(from), byte(i >> 16), byte(i >> 8), byte(i)})
			if d := l.TakeAddress(a, 1, at(0)); !d.Allowed {
				refused++
			}
		}
		return refused
	}
	flood(5000, 10)
	runtime.GC()
	runtime.ReadMemStats(&before)
	refused := flood(1_000_000, 11)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<10 {
		t.Errorf("memory grew by %d octets", grown)
	}
	if refused < 990_000 {
		t.Errorf("got %d refusals, want nearly all: newcomers share one cell", refused)
	}
	st := l.Stats()
	if st.Addresses > 1024 || st.Evicted != 0 || st.Overflowed < 990_000 {
		t.Errorf("got %+v", st)
	}
	if d := l.Take(Subject{Client: "c"}, edge.Read, 1, at(0)); !d.Allowed {
		t.Error("a flood of addresses reached an identity")
	}
	// Two minutes later every cell is past: newcomers find room again.
	if d := l.TakeAddress(netip.MustParseAddr("198.51.100.7"), 1, at(2*time.Minute)); !d.Allowed || l.Stats().Evicted == 0 {
		t.Errorf("got %+v, want a cell of its own after the flood", d)
	}
}

func TestOnlyPastCellsAreEvicted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := New(Config{Client: Rate{2, time.Second}, Identities: shards * 2}, epoch)
		used := map[string]int64{} // client to its time of the last unit
		var now time.Duration
		for range rapid.IntRange(1, 400).Draw(t, "requests") {
			now += time.Duration(rapid.IntRange(0, 20).Draw(t, "ms")) * time.Millisecond
			name := fmt.Sprint(rapid.IntRange(0, 99).Draw(t, "client"))
			before := l.Stats().Overflowed
			d := l.Take(Subject{Client: name}, edge.Read, 1, at(now))
			if l.Stats().Overflowed != before {
				continue // counted in the shared cell
			}
			interval := int64(500 * time.Millisecond)
			next := max(used[name], int64(now)) + interval
			if want := next-int64(now) <= 2*interval; d.Allowed != want {
				t.Fatalf("client %s at %v: allowed %v, want %v", name, now, d.Allowed, want)
			}
			if d.Allowed {
				used[name] = next
			}
		}
	})
}

// TestAgreesWithTokenBuckets compares with the other way to say the same: buckets that fill, in the same nanoseconds.
func TestAgreesWithTokenBuckets(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Custom(func(t *rapid.T) Rate {
			return Rate{rapid.Int64Range(1, 50).Draw(t, "quota"), time.Duration(rapid.Int64Range(1, 10_000).Draw(t, "window")) * time.Millisecond}
		})
		cfg := Config{Tenant: rate.Draw(t, "tenant"), Client: rate.Draw(t, "client"), Classes: map[edge.Class]Rate{edge.Write: rate.Draw(t, "class")}}
		l := New(cfg, epoch)
		type bucket struct {
			level, cap, unit int64
			at               time.Duration
		}
		buckets := map[string]*bucket{}
		get := func(name string, r Rate, now time.Duration) *bucket {
			b := buckets[name]
			if b == nil {
				unit := int64(r.Window) / r.Quota
				b = &bucket{level: unit * r.Quota, cap: unit * r.Quota, unit: unit, at: now}
				buckets[name] = b
			}
			b.level, b.at = min(b.cap, b.level+int64(now-b.at)), now
			return b
		}
		var now time.Duration
		for range rapid.IntRange(1, 300).Draw(t, "requests") {
			now += time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "dt"))
			tenant := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tenant")
			client := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "client")
			class := rapid.SampledFrom([]edge.Class{edge.Read, edge.Write}).Draw(t, "class")
			cost := rapid.Int64Range(1, 8).Draw(t, "cost")
			asked := []*bucket{get(tenant, cfg.Tenant, now), get(tenant+client, cfg.Client, now)}
			if class == edge.Write {
				asked = append(asked, get(tenant+client+"w", cfg.Classes[class], now))
			}
			want := true
			for _, b := range asked {
				want = want && b.level >= min(cost*b.unit, b.cap)
			}
			for _, b := range asked {
				if want {
					b.level -= min(cost*b.unit, b.cap)
				}
			}
			d := l.Take(Subject{Tenant: tenant, Client: client}, class, int(cost), at(now))
			if d.Allowed != want {
				t.Fatalf("at %v: allowed %v, want %v (%+v)", now, d.Allowed, want, d)
			}
			if !want && d.RetryAfter <= 0 {
				t.Fatalf("refused without a wait: %+v", d)
			}
			tightest := asked[d.Tightest]
			if got := tightest.level / tightest.unit; want && got != d.Remaining {
				t.Fatalf("remaining %d, want %d", d.Remaining, got)
			}
		}
	})
}

func TestConcurrentRequestsNeverPassMoreThanAnyCellAllows(t *testing.T) {
	t.Parallel()
	l := New(Config{Tenant: Rate{1000, time.Hour}, Client: Rate{300, time.Hour}, Identities: shards}, epoch)
	var passed [5]atomic.Int64
	var wg sync.WaitGroup
	for g := range 10 {
		wg.Go(func() {
			s := Subject{Tenant: "acme", Client: fmt.Sprint(g % 5)}
			for range 500 {
				if d := l.Take(s, edge.Read, 1, at(0)); d.Allowed {
					passed[g%5].Add(1)
				}
			}
		})
	}
	wg.Wait()
	var sum int64
	for i := range passed {
		n := passed[i].Load()
		sum += n
		if n > 300 {
			t.Errorf("client %d passed %d times, want at most 300", i, n)
		}
	}
	if sum > 1000 {
		t.Errorf("the tenant passed %d times, want at most 1000", sum)
	}
	if d := l.Take(Subject{Tenant: "acme", Client: "0"}, edge.Read, 1, at(time.Hour)); !d.Allowed || d.Remaining != 299 {
		t.Errorf("after the window: got %+v; a refund must leave nothing behind", d)
	}
}

func TestARequestThatLosesARaceGivesBackWhatItTook(t *testing.T) {
	t.Parallel()
	l := New(Config{}, epoch)
	rate := Rate{1, time.Hour}
	// The same cell twice stands for another request between test and charge: both tests pass, the second charge does not.
	r := request{table: l.subjects, cost: 1}
	r.add(7, "first", rate)
	r.add(7, "second", rate)
	if d := r.take(); d.Allowed || d.Policies()[d.Tightest].Name != "second" || d.RetryAfter != time.Hour {
		t.Fatalf("got %+v", d)
	}
	r = request{table: l.subjects, cost: 1}
	r.add(7, "first", rate)
	if d := r.take(); !d.Allowed {
		t.Errorf("the refused request kept its charge: %+v", d)
	}
}

func TestEvictionUnderConcurrencyLosesNoCharge(t *testing.T) {
	t.Parallel()
	l := New(Config{Client: Rate{50, time.Hour}, Identities: shards}, epoch) // one cell per shard: they push each other out
	var passed atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				if g%2 == 0 {
					if d := l.Take(Subject{Client: "kept"}, edge.Read, 1, at(0)); d.Allowed {
						passed.Add(1)
					}
				} else {
					l.Take(Subject{Client: fmt.Sprint(g, i)}, edge.Read, 1, at(0))
				}
			}
		})
	}
	wg.Wait()
	if n := passed.Load(); n > 100 { // its own cell and, before it had one, the shared one
		t.Errorf("passed %d times, want at most its quota and the shared cell's", n)
	}
}

func TestRetryAfterIsTrueOnTheRealClock(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		l := New(Config{Client: Rate{7, time.Minute}}, time.Now())
		s := Subject{Client: "c"}
		for range 100 {
			d := l.Take(s, edge.Read, 2, time.Now())
			if d.Allowed {
				continue
			}
			time.Sleep(d.RetryAfter - time.Nanosecond)
			if early := l.Take(s, edge.Read, 2, time.Now()); early.Allowed {
				t.Fatal("passed before Retry-After")
			}
			time.Sleep(time.Nanosecond)
			if late := l.Take(s, edge.Read, 2, time.Now()); !late.Allowed {
				t.Fatalf("refused after Retry-After: %+v", late)
			}
		}
	})
}

func TestALoweredRateOrAClockThatWentBackCostsOneWindowAtMost(t *testing.T) {
	t.Parallel()
	l := New(Config{}, epoch)
	s := Subject{Client: "c", ClientRate: Rate{10, time.Hour}}
	for range 10 {
		l.Take(s, edge.Read, 1, at(0))
	}
	s.ClientRate = Rate{10, time.Second}
	if d := l.Take(s, edge.Read, 1, at(0)); d.Allowed || d.RetryAfter > time.Second {
		t.Errorf("after lowering: got %+v", d)
	}
	if d := l.Take(s, edge.Read, 1, at(-24*time.Hour)); d.Allowed || d.RetryAfter > time.Second {
		t.Errorf("after going back: got %+v", d)
	}
}

func TestADecisionDoesNotAllocate(t *testing.T) {
	l := New(Defaults(), epoch)
	s := Subject{Tenant: "acme", Client: "cli_1", ClientRate: Rate{1 << 30, time.Second}, TenantRate: Rate{1 << 30, time.Second}}
	a := netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(1000, func() {
		l.Take(s, edge.Read, 1, epoch)
		l.TakeAddress(a, 1, epoch)
		l.Exhausted(a, epoch)
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func BenchmarkCell(b *testing.B) {
	var c cell
	r := Rate{1 << 30, time.Second}
	start := time.Now()
	for b.Loop() {
		c.charge(int64(time.Since(start)), r, r.price(1))
	}
}

func BenchmarkTakeTenantAndClient(b *testing.B) {
	l := New(Config{}, time.Now())
	s := Subject{Tenant: "acme", Client: "cli_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", TenantRate: Rate{1 << 30, time.Second}, ClientRate: Rate{1 << 30, time.Second}}
	b.ReportAllocs()
	for b.Loop() {
		l.Take(s, edge.Read, 1, time.Now())
	}
}

func BenchmarkTakeParallel(b *testing.B) {
	l := New(Config{}, time.Now())
	var g atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		s := Subject{Tenant: fmt.Sprint(g.Add(1)), Client: "c", TenantRate: Rate{1 << 30, time.Second}, ClientRate: Rate{1 << 30, time.Second}}
		for pb.Next() {
			l.Take(s, edge.Read, 1, time.Now())
		}
	})
}

func BenchmarkExhausted(b *testing.B) {
	l := New(Defaults(), time.Now())
	a := netip.MustParseAddr("192.0.2.1")
	for b.Loop() {
		l.Exhausted(a, time.Now())
	}
}

package relay

import (
	"math"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)

func TestScheduleIsSpreadByAFifthAndEnds(t *testing.T) {
	t.Parallel()
	for n, want := range DefaultSchedule {
		low, high := time.Duration(math.MaxInt64), time.Duration(0)
		for range 500 {
			got, ok := nextAttempt(DefaultSchedule, n+1, OrderNone, 0)
			if !ok {
				t.Fatalf("attempt %d was the last", n+1)
			}
			low, high = min(low, got), max(high, got)
		}
		if low < want*8/10 || high > want*12/10 || high-low < want/5 {
			t.Errorf("attempt %d waits %s to %s, want %s give or take a fifth", n+1, low, high, want)
		}
	}
	if _, ok := nextAttempt(DefaultSchedule, len(DefaultSchedule)+1, OrderPerKey, 0); ok {
		t.Error("the schedule has no end")
	}
	if got, ok := nextAttempt(DefaultSchedule, 100, OrderStrict, 0); !ok || got < 19*time.Hour {
		t.Errorf("a strict endpoint waits %s, %v: it must go on at the last pause", got, ok)
	}
	if got, _ := nextAttempt(DefaultSchedule, 1, OrderNone, time.Hour); got != time.Hour {
		t.Errorf("Retry-After of an hour waits %s", got)
	}
	if got, _ := nextAttempt(DefaultSchedule, 1, OrderNone, 90*24*time.Hour); got != 24*time.Hour {
		t.Errorf("Retry-After of 90 days waits %s", got)
	}
}

func TestRetryAfterInEitherForm(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, " 7 ": 7 * time.Second, "-5": 0, "1e3": 0, "soon": 0, "99999999999999999999": 0,
		"4294967295": 24 * time.Hour,
		t0.Add(time.Hour).Format(http.TimeFormat):        time.Hour,
		t0.Add(-time.Hour).Format(http.TimeFormat):       0,
		t0.Add(9000 * time.Hour).Format(http.TimeFormat): 24 * time.Hour,
	} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, t0); got != want {
			t.Errorf("%q: got %s, want %s", v, got, want)
		}
	}
}

func TestBreakerOpensProbesAndCloses(t *testing.T) {
	t.Parallel()
	var b breaker
	now := t0
	for range 9 {
		b.failed(now)
		now = now.Add(time.Second)
	}
	if b.open || b.allow(now, 5, 0) != 5 {
		t.Fatal("open after nine failures")
	}
	b.failed(now)
	if !b.open || b.allow(now, 5, 0) != 0 {
		t.Fatal("closed after ten failures in a minute")
	}
	b.failed(now.Add(time.Second)) // one that was under way
	now = now.Add(breakerPause)
	if b.allow(now, 5, 0) != 1 || b.allow(now, 5, 1) != 0 {
		t.Error("half open must allow one probe at a time")
	}
	b.failed(now)
	if b.allow(now.Add(breakerPause), 5, 0) != 0 || b.allow(now.Add(2*breakerPause), 5, 0) != 1 {
		t.Error("a failed probe must double the pause")
	}
	for range 20 {
		now = now.Add(time.Hour)
		b.failed(now)
	}
	if b.until.Sub(now) != breakerMaxPause {
		t.Errorf("the pause has grown to %s", b.until.Sub(now))
	}
	b.succeeded()
	if b.open || b.allow(now, 5, 0) != 5 {
		t.Error("a success must close it")
	}
	for range 100 { // one failure every ten seconds never opens it
		now = now.Add(10 * time.Second)
		b.failed(now)
	}
	if b.open || len(b.failures) > breakerFailures {
		t.Errorf("slow failures opened it, or are remembered: %d", len(b.failures))
	}
}

func TestBucketBoundsTheRate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate, burst := rapid.IntRange(1, 1000).Draw(t, "rate"), rapid.IntRange(1, 1000).Draw(t, "burst")
		var b bucket
		now, total := t0, 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "ms")) * time.Millisecond)
			n := rapid.IntRange(0, 20).Draw(t, "n")
			got, next := b.take(now, rate, burst, n)
			if got > n || got < n && !next.After(now) {
				t.Fatalf("took %d of %d, next %s", got, n, next.Sub(now))
			}
			if got < n {
				var c = b
				if more, _ := c.take(next, rate, burst, 1); more != 1 {
					t.Fatalf("nothing at the time announced")
				}
			}
			total += got
		}
		if most := burst + int(now.Sub(t0).Seconds()*float64(rate)) + 1; total > most {
			t.Fatalf("granted %d in %s, at most %d may be", total, now.Sub(t0), most)
		}
	})
}

func TestAddressesOffThePublicInternetAreRefused(t *testing.T) {
	t.Parallel()
	g, err := newGuard([]netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("fd00:9::/32")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for addr, code := range map[string]string{
		"8.8.8.8:443": "", "1.1.1.1:8443": "", "[2606:4700::1111]:443": "", "8.8.8.8:80": "port_refused", "8.8.8.8:25": "port_refused",
		"0.0.0.0:443": "address_refused", "0.1.2.3:443": "address_refused", "127.0.0.1:443": "address_refused", "127.255.0.9:443": "address_refused",
		"10.0.0.1:443": "address_refused", "172.16.0.1:443": "address_refused", "172.31.255.255:443": "address_refused", "172.32.0.1:443": "",
		"192.168.1.1:443": "address_refused", "100.64.0.1:443": "address_refused", "100.127.255.255:443": "address_refused", "100.128.0.1:443": "",
		"169.254.169.254:443": "address_refused", "192.0.0.1:443": "address_refused", "192.0.2.1:443": "address_refused",
		"198.18.0.1:443": "address_refused", "198.51.100.1:443": "address_refused", "203.0.113.1:443": "address_refused",
		"224.0.0.1:443": "address_refused", "239.1.1.1:443": "address_refused", "240.0.0.1:443": "address_refused", "255.255.255.255:443": "address_refused",
		"[::]:443": "address_refused", "[::1]:443": "address_refused", "[fe80::1]:443": "address_refused", "[fe80::1%25eth0]:443": "address_refused",
		"[fc00::1]:443": "address_refused", "[fd12::1]:443": "address_refused", "[ff02::1]:443": "address_refused", "[fec0::1]:443": "address_refused",
		"[::ffff:8.8.8.8]:443": "address_refused", "[::ffff:127.0.0.1]:443": "address_refused", "[::8.8.8.8]:443": "address_refused",
		"[64:ff9b::8.8.8.8]:443": "address_refused", "[64:ff9b:1::1]:443": "address_refused", "[2001::1]:443": "address_refused",
		"[2001:db8::1]:443": "address_refused", "[2002:7f00:1::]:443": "address_refused", "[3fff::1]:443": "address_refused", "[100::1]:443": "address_refused",
		"10.9.1.1:80": "", "10.9.1.1:9999": "", "[fd00:9::1]:80": "", "10.8.1.1:443": "address_refused", "[::ffff:10.9.1.1]:443": "",
		"not an address": "address_refused",
	} {
		got := ""
		if err := g.control(false)("tcp4", addr, nil); err != nil {
			got = err.Error()
		}
		if got != code {
			t.Errorf("%s: got %q, want %q", addr, got, code)
		}
	}
	if err := g.control(true)("tcp4", "8.8.8.8:443", nil); err == nil || err.Error() != "plain_http_refused" {
		t.Errorf("plain http to a public address: %v", err)
	}
	if err := g.control(false)("udp", "8.8.8.8:443", nil); err == nil {
		t.Error("udp is not refused")
	}
}

func TestFiltersChooseEvents(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		filter, event string
		want          bool
	}{
		{"*", "crm.customer.created", true}, {"crm.*", "crm.customer.created", true}, {"crm.customer.*", "crm.customer.created", true},
		{"crm.customer.created", "crm.customer.created", true}, {"crm.customer.create", "crm.customer.created", false},
		{"cr.*", "crm.customer.created", false}, {"billing.*", "crm.customer.created", false},
	} {
		if got := matches([]string{c.filter}, c.event); got != c.want {
			t.Errorf("%s on %s: got %v", c.filter, c.event, got)
		}
	}
	for f, ok := range map[string]bool{"*": true, "a.*": true, "a.b": true, "a*": false, "*.a": false, "": false, "A.b": false, "a..b": false, ".": false, "a.*.b": false} {
		if filterForm.MatchString(f) != ok {
			t.Errorf("filter %q: want valid %v", f, ok)
		}
	}
}

func TestDeliveryIDsLeadBackToTheirEvent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seq := rapid.Uint64Range(0, 1<<62-1).Draw(t, "seq")
		id := deliveryID("whe_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", seq)
		got, ok := seqOfDelivery(id)
		if !ok || got != seq || id == deliveryID("whe_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c34", seq) {
			t.Fatalf("%s leads to %d, want %d", id, got, seq)
		}
	})
}

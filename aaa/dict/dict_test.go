package dict

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"layeh.com/radius"
	peermikrotik "layeh.com/radius/vendors/mikrotik"
	peerwispr "layeh.com/radius/vendors/wispr"

	"wispgate/edge"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden() *Policy {
	return &Policy{
		DownKbps: 100_000, UpKbps: 20_500, BurstDownKbps: 150_000, BurstUpKbps: 30_000, BurstSeconds: 16, Priority: 3,
		QuotaOctets: 5 << 32, Pool: "cgnat", V6Pool: "v6", PDPool: "pd", VLAN: 204, Filter: "home", AddressList: "customers",
		Group: "residential", IdleTimeout: 900, ReplyMessage: "welcome",
		Extra: []Raw{{Vendor: 4413, Type: 1, Value: []byte("x")}},
	}
}

func TestOnePlanForEveryProfileIsGolden(t *testing.T) {
	t.Parallel()
	r, err := Render(golden())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for p := range Profiles {
		fmt.Fprintf(&b, "[%s]\n", p)
		for _, n := range Describe(slices.Concat(r.Attrs(p), r.Pool(), r.Pools6(p))) {
			fmt.Fprintf(&b, "%s = %s\n", n.Name, n.Value)
		}
	}
	static, err := RenderStatic(&Static{
		IPv4: netip.MustParseAddr("203.0.113.9"), IPv6: netip.MustParsePrefix("2001:db8:1::/64"),
		Delegated: netip.MustParsePrefix("2001:db8:8000::/56"), Routes: []string{"192.0.2.0/29 0.0.0.0 1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString("[static]\n")
	for _, n := range Describe(static) {
		fmt.Fprintf(&b, "%s = %s\n", n.Name, n.Value)
	}
	file := filepath.Join("testdata", "profiles.golden")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// The octets are read back by another implementation.
func TestAPeerReadsWhatWeRender(t *testing.T) {
	t.Parallel()
	r, err := Render(golden())
	if err != nil {
		t.Fatal(err)
	}
	attrs, err := radius.ParseAttributes(r.Attrs(MikroTik))
	if err != nil {
		t.Fatal(err)
	}
	p := &radius.Packet{Attributes: attrs}
	const want = "20500k/100M 30M/150M 20500k/100M 16/16 3"
	if got := peermikrotik.MikrotikRateLimit_GetString(p); got != want {
		t.Errorf("rate limit: got %q, want %q", got, want)
	}
	if lo, hi := peermikrotik.MikrotikTotalLimit_Get(p), peermikrotik.MikrotikTotalLimitGigawords_Get(p); lo != 0 || hi != 5 {
		t.Errorf("quota: got %d gigawords and %d, want 5 and 0", hi, lo)
	}
	attrs, err = radius.ParseAttributes(r.Attrs(Generic))
	if err != nil {
		t.Fatal(err)
	}
	p = &radius.Packet{Attributes: attrs}
	if up, down := peerwispr.WISPrBandwidthMaxUp_Get(p), peerwispr.WISPrBandwidthMaxDown_Get(p); up != 20_500_000 || down != 100_000_000 {
		t.Errorf("WISPr: got %d up and %d down, want 20500000 and 100000000", up, down)
	}
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		p    Policy
		want string
	}{
		{Policy{UpKbps: 64, DownKbps: 128_000}, "64k/128M"},
		{Policy{UpKbps: 64, DownKbps: 64, BurstUpKbps: 256, BurstDownKbps: 256, BurstThresholdUpKbps: 128, BurstThresholdDownKbps: 128}, "64k/64k 256k/256k 128k/128k 10/10"},
		{Policy{UpKbps: 1000, DownKbps: 2000, BurstDownKbps: 4000}, "1M/2M 1M/4M 1M/2M 10/10"},
		{Policy{UpKbps: 1000, DownKbps: 2000, Priority: 5}, "1M/2M 0/0 0/0 0/0 5"},
		{Policy{UpKbps: 1000, DownKbps: 2000, MinUpKbps: 100, MinDownKbps: 200}, "1M/2M 0/0 0/0 0/0 8 100k/200k"},
	} {
		if err := tc.p.Check(); err != nil {
			t.Errorf("%s: %v", tc.want, err)
		}
		if got := rateLimit(&tc.p); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestContradictionsAreRefusedByField(t *testing.T) {
	t.Parallel()
	for field, p := range map[string]Policy{
		"/burst_down_kbps":           {DownKbps: 10, UpKbps: 10, BurstDownKbps: 9},
		"/burst_up_kbps":             {BurstUpKbps: 9},
		"/burst_threshold_down_kbps": {DownKbps: 10, UpKbps: 10, BurstDownKbps: 20, BurstThresholdDownKbps: 21},
		"/min_up_kbps":               {DownKbps: 10, UpKbps: 10, MinUpKbps: 11},
		"/up_kbps":                   {DownKbps: 10},
		"/down_kbps":                 {DownKbps: MaxKbps + 1, UpKbps: 1},
		"/priority":                  {Priority: 9},
		"/vlan":                      {VLAN: 4095},
		"/interim_interval":          {InterimInterval: 59},
		"/burst_seconds":             {BurstSeconds: 3601},
		"/pool":                      {Pool: "a\nb"},
		"/address_list":              {AddressList: strings.Repeat("x", 64)},
		"/group":                     {Group: "a\"; /system reset"},
		"/reply_message":             {ReplyMessage: strings.Repeat("x", 254)},
		"/vendor_attrs":              {Extra: make([]Raw, 17)},
		"/vendor_attrs/0":            {Extra: []Raw{{Type: 80, Value: []byte("x")}}},
	} {
		_, err := Render(&p)
		e, ok := errors.AsType[*edge.Error](err)
		if !ok || e.Code != "policy_invalid" || e.Fields[0].Pointer != field || e.Fields[0].Fix == "" {
			t.Errorf("%s: got %v", field, err)
		}
	}
	for field, s := range map[string]Static{
		"/static_ip":   {IPv4: netip.MustParseAddr("127.0.0.1")},
		"/static_ipv6": {IPv6: netip.MustParsePrefix("2001:db8::1/64")},
		"/static_pd":   {Delegated: netip.MustParsePrefix("10.0.0.0/8")},
		"/routes/0":    {Routes: []string{"everything"}},
		"/routes":      {Routes: slices.Repeat([]string{"192.0.2.0/24"}, 9)},
	} {
		_, err := RenderStatic(&s)
		if e, ok := errors.AsType[*edge.Error](err); !ok || e.Fields[0].Pointer != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestProfilesHaveNames(t *testing.T) {
	t.Parallel()
	for p := range Profiles {
		if got, ok := ParseProfile(p.String()); !ok || got != p || p.String() == "" {
			t.Errorf("%d: got %v %v", p, got, ok)
		}
	}
	if _, ok := ParseProfile("unknown"); ok {
		t.Error("an unknown profile was taken")
	}
}

func FuzzDescribe(f *testing.F) {
	r, err := Render(golden())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.Attrs(MikroTik))
	f.Add([]byte{2, 5, 'a', 'b', 'c'})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, n := range Describe(b) {
			if n.Name == "" || !printable([]byte(n.Value)) {
				t.Fatalf("got %q = %q", n.Name, n.Value)
			}
			if n.Name == "User-Password" && n.Value != "***" {
				t.Fatal("a password is shown")
			}
		}
	})
}

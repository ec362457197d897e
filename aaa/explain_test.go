package aaa_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

func TestExplainSaysWhyFromWhatAndWhatIsNext(t *testing.T) {
	t.Parallel()
	w := &world{t: t, a: edgetest.Actor("hill"), trust: true}
	w.index = aaa.NewIndex(lateVault{w}, nil, slog.New(slog.DiscardHandler))
	kept := []radiusd.Event{
		{At: edgetest.Start, Result: radiusd.Rejected, Stage: radiusd.StageAuthenticate, Reason: radiusd.BadPassword, Tenant: "hill", Login: "ANN@example.net", NAS: string(nas1)},
		{At: edgetest.Start, Tenant: "valley", Login: "ann@example.net"},
		{At: edgetest.Start, Tenant: "hill", Login: "bob@example.net"},
	}
	door := aaa.FrontDoor{Recent: func(_ time.Time, limit int, keep func(*radiusd.Event) bool) (list []radiusd.Event) {
		for i := range kept {
			if keep(&kept[i]) && len(list) < limit {
				list = append(list, kept[i])
			}
		}
		return list
	}}
	w.Harness = edgetest.Node(t, aaa.Module(aaa.Deps{Index: w.index, Recent: door}))
	w.index.OnRouters(func(list []*radiusd.NAS) { w.nas = list })
	pol := w.policy("Home", 50_000, 10_000)
	c := w.login(sub1, "ann@example.net", "s3cret")
	until := edgetest.Start.Add(time.Hour)
	w.access(sub1, m{"status": "active", "policy_id": pol.ID, "valid_until": until, "offline_grace_seconds": 3600, "on_expiry": "reject", "revision": 1})
	(&recorder{w: w, node: "n1"}).feed(func() aaa.Fact { f := fact("start", edgetest.Start, 0, 0, 0); f.Login = "ann@example.net"; return f }())

	x := ask[aaa.Explanation](w, "aaa.entitlement.explain", m{"login": "Ann@Example.NET"})
	var sources []string
	for _, r := range x.Records {
		sources = append(sources, r.ID.Prefix())
	}
	if !x.Known || x.Decision != aaa.Allow || x.Reason != aaa.CodeActive || x.Says == "" || x.Fix == "" || !slices.Equal(sources, []string{"acs", "crd", "pol"}) {
		t.Errorf("got %+v", x)
	}
	if now := x.Entitlement.Now; !now.Changes.Equal(until) || now.Next != aaa.CodeGrace || !now.Ends.Equal(until.Add(time.Hour)) || now.Policy.DownKbps != 50_000 {
		t.Errorf("what is next: %+v", now)
	}
	if len(x.Sessions) != 1 || !x.SessionLimit || x.Sessions[0].Credential != c.ID {
		t.Errorf("sessions: %+v", x.Sessions)
	}
	if len(x.Recent) != 1 || x.Recent[0].Reason != "bad_password" || x.Recent[0].Says == "" || x.Recent[0].Stage != "authenticate" || x.Recent[0].Result != "reject" {
		t.Errorf("recent: %+v", x.Recent)
	}
	x = ask[aaa.Explanation](w, "aaa.entitlement.explain", m{"login": "anm@example.net"})
	if x.Known || x.Reason != "unknown_login" || x.Nearest != "ann@example.net" || x.Decision != aaa.Reject {
		t.Errorf("misspelt: %+v", x)
	}
	other := edgetest.Ask[aaa.Explanation](t, w.Harness, edgetest.Actor("valley"), "aaa.entitlement.explain", m{"login": "ann@example.net"})
	if other.Known || other.Nearest != "" {
		t.Errorf("another tenant's login shows: %+v", other)
	}
}

func TestTheScriptHoldsNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := do[aaa.NAS](w, "aaa.nas.register", m{"identifier": `core "7" $x`, "addresses": []string{"10.20.0.1"}, "secret": "radius-secret", "vendor": "mikrotik"})
	s := ask[aaa.Script](w, "aaa.nas.script", m{"id": n.ID, "server": "10.20.0.2"})
	for _, want := range []string{
		`/system identity set name="core \"7\" \$x"`,
		`/radius add service=ppp,hotspot,dhcp,wireless address=10.20.0.2 secret="PASTE-THE-SHARED-SECRET" authentication-port=1812 accounting-port=1813 timeout=1s src-address=10.20.0.1 comment="wispgate"`,
		`/radius incoming set accept=yes port=3799`,
	} {
		if !slices.Contains(s.Lines, want) {
			t.Errorf("%s is missing in\n%s", want, s.Text)
		}
	}
	plain := ask[aaa.Script](w, "aaa.nas.script", m{"id": n.ID, "server": "10.20.0.2", "vendor": "generic", "auth_port": 1645})
	if !strings.Contains(plain.Text, "1645") || strings.Contains(s.Text+plain.Text, "radius-secret") {
		t.Errorf("got\n%s\n%s", s.Text, plain.Text)
	}
}

func TestPoliciesThatNoRouterCouldKeepAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, in := range map[string]m{
		"a zero rate":             {"down_kbps": 0, "up_kbps": 1},
		"a burst below the rate":  {"down_kbps": 10, "up_kbps": 10, "burst_down_kbps": 5},
		"a threshold above it":    {"down_kbps": 10, "up_kbps": 10, "burst_down_kbps": 20, "burst_threshold_down_kbps": 30},
		"a short interim":         {"down_kbps": 10, "up_kbps": 10, "interim_interval": 30},
		"a short session timeout": {"down_kbps": 10, "up_kbps": 10, "session_timeout": 10},
		"a pool with a space":     {"down_kbps": 10, "up_kbps": 10, "pool": "a;b"},
		"a reserved attribute":    {"down_kbps": 10, "up_kbps": 10, "vendor_attrs": []m{{"vendor": 0, "type": 80, "value": "00"}}},
		"no hexadecimal":          {"down_kbps": 10, "up_kbps": 10, "vendor_attrs": []m{{"vendor": 9, "type": 1, "value": "xy"}}},
	} {
		in["name"] = name
		_, _, err := edgetest.Try[aaa.Policy](w.Harness, w.a, edge.Request{}, "aaa.policy.create", in)
		if code := edgetest.CodeOf(t, err); code != "policy_invalid" && code != "input_invalid" {
			t.Errorf("%s: got %s", name, code)
		}
	}
	p := w.policy("Home", 10, 10)
	if p.InterimInterval != 300 {
		t.Errorf("interim interval %d, want 300", p.InterimInterval)
	}
	if code := edgetest.Code(t, w.Harness, w.a, "aaa.policy.create", m{"name": "Home", "down_kbps": 1, "up_kbps": 1}); code != "already_exists" {
		t.Errorf("the same name twice: got %s", code)
	}
	if code := edgetest.Code(t, w.Harness, w.a, "aaa.policy.update", m{"id": p.ID, "down_kbps": 20}); code != "if_match_required" {
		t.Errorf("an update without If-Match: got %s", code)
	}
}

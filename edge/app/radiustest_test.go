package app

import (
	"context"
	"testing"
	"time"

	"wispgate/edge"
)

// radiusNode is a node with one router and one subscriber.
func radiusNode(t *testing.T) (server, acct string) {
	t.Helper()
	n := startNode(t, t.TempDir(), nil)
	n.claim("acme")
	seedRADIUS(n, time.Time{})
	at := n.radius.Addrs()
	return at.Auth[0].String(), at.Acct[0].String()
}

// seedRADIUS makes the router and the subscriber: the login ann, until then where that is not zero, and bob, who is not active.
func seedRADIUS(n *running, until time.Time) {
	n.t.Helper()
	post := func(path string, body map[string]any) string {
		id, _ := n.call(201, "POST", path, body)["id"].(string)
		return id
	}
	post("/api/v1/aaa/nas", map[string]any{"identifier": "core", "addresses": []string{"127.0.0.1"}, "secret": "router secret", "vendor": "mikrotik"})
	policy := post("/api/v1/aaa/policies", map[string]any{"name": "Home", "down_kbps": 50_000, "up_kbps": 10_000})
	plan := post("/api/v1/billing/plans", map[string]any{
		"code": "HOME", "name": "Home", "kind": "recurring", "price": map[string]any{"amount_minor": 100, "currency": "USD"},
		"interval": map[string]any{"unit": "month", "count": 1}, "policy_ref": policy,
	})
	n.call(200, "POST", "/api/v1/billing/plans/"+plan+":publish", map[string]any{})
	customer := post("/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Ann Example", "status": "active"})
	sub := post("/api/v1/billing/subscriptions", map[string]any{"customer_id": customer, "timezone": "UTC", "items": []map[string]any{{"plan_id": plan}}})
	ann := map[string]any{"subscription_id": sub, "username": "ann", "password": "secret of ann", "max_sessions": 0}
	if !until.IsZero() {
		ann["valid_until"] = until
	}
	post("/api/v1/aaa/credentials", ann)
	idle := post("/api/v1/billing/subscriptions", map[string]any{"customer_id": customer, "timezone": "UTC", "items": []map[string]any{{"plan_id": plan}}})
	post("/api/v1/aaa/credentials", map[string]any{"subscription_id": idle, "username": "bob", "password": "secret of bob"})
	n.call(200, "POST", "/api/v1/billing/subscriptions/"+sub+":activate", map[string]any{})
}

func TestRadiusTestNamesWhatRefuses(t *testing.T) {
	t.Parallel()
	server, acct := radiusNode(t)
	good := RadiusTest{Server: server, Login: "ann", Password: "secret of ann", Secret: "router secret", CallingStation: "4C-5E-0C-00-00-01"}
	for name, tc := range map[string]struct {
		change               func(*RadiusTest)
		answer, reason, code string
	}{
		"pap":                 {func(*RadiusTest) {}, "accept", "", ""},
		"chap":                {func(r *RadiusTest) { r.Method = "chap" }, "accept", "", ""},
		"a wrong password":    {func(r *RadiusTest) { r.Password = "x" }, "reject", "not_told", "rejected"},
		"nobody's login":      {func(r *RadiusTest) { r.Login = "nobody" }, "reject", "not_told", "rejected"},
		"not activated":       {func(r *RadiusTest) { r.Login, r.Password = "bob", "secret of bob" }, "reject", "not_active", "rejected"},
		"a wrong secret":      {func(r *RadiusTest) { r.Secret, r.Timeout = "other secret", 150*time.Millisecond }, "silence", "radius_no_answer", "no_answer"},
		"the accounting port": {func(r *RadiusTest) { r.Server, r.Timeout = acct, 150*time.Millisecond }, "silence", "radius_no_answer", "no_answer"},
	} {
		t.Run(name, func(t *testing.T) {
			test := good
			tc.change(&test)
			got, err := test.Run(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			code := ""
			if e, ok := edge.AsError(got.Err()); got.Err() != nil && ok {
				code = e.Code
			}
			if got.Answer != tc.answer || got.Reason != tc.reason || code != tc.code {
				t.Errorf("got %s, reason %q, error %q; want %s, %q, %q", got.Answer, got.Reason, code, tc.answer, tc.reason, tc.code)
			}
			if got.SignatureValid != (tc.answer != "silence") || (len(got.Causes) > 0) != (tc.answer == "silence") {
				t.Errorf("got signature %t, causes %v", got.SignatureValid, got.Causes)
			}
		})
	}
	for name, bad := range map[string]RadiusTest{
		"no secret":      {Server: server, Login: "ann"},
		"no login":       {Server: server, Secret: "x"},
		"a strange kind": {Server: server, Login: "ann", Secret: "x", Method: "eap"},
		"no address":     {Server: "nowhere", Login: "ann", Secret: "x"},
	} {
		if _, err := bad.Run(context.Background()); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestRadiusBenchCountsVerifiedAnswers(t *testing.T) {
	t.Parallel()
	server, acct := radiusNode(t)
	for kind, at := range map[string]string{"pap": server, "chap": server, "status": server, "acct": acct} {
		b := RadiusBench{
			Server: at, Kind: kind, Login: "ann", Logins: 1, Outstanding: 8, Duration: 20 * time.Millisecond, Secret: "router secret", Password: "secret of ann",
		}
		out, err := b.Run(context.Background())
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		got, ok := out.(RadiusBenchResult)
		if !ok || got.Good == 0 || got.Good != got.Sent || got.Lost+got.Bad != 0 {
			t.Errorf("%s: got %+v, want every answer good", kind, out)
		}
	}
	if _, err := (RadiusBench{Server: server, Kind: "eap"}).Run(context.Background()); err == nil {
		t.Error("an unknown kind is accepted")
	}
}

package aaa_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/acct"
	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

// Submit makes the memory a front door's journal, too.
func (j *memory) Submit(_ uint8, payload []byte, done radiusd.Done) {
	j.append(append([]byte(nil), payload...))
	done.Journaled(1, nil)
}

// tower is a node with a real front door on loopback, its journal and its drainer.
type tower struct {
	*world
	server *radiusd.Server
	client map[bool]*radclient.Client // accounting
}

func newTower(t *testing.T) *tower {
	t.Helper()
	w := newWorld(t)
	j, log, key := newMemory(), slog.New(slog.DiscardHandler), [32]byte{7}
	signs := make(chan aaa.NASSign, 8)
	srv, err := radiusd.Listen(radiusd.Config{
		Auth: []string{"127.0.0.1:0"}, Acct: []string{"127.0.0.1:0"}, Directory: w.index, Sessions: w.index, Journal: j, JournalKind: 1,
		Observer: &aaa.Observer{Signs: signs}, Reasons: aaa.DecisionReasons(), Logger: log, Now: w.Clock.Now, ClassKey: key, RejectDelay: -1,
		Workers: 1, StaleAfter: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.index.OnRouters(func(list []*radiusd.NAS) {
		if err := srv.SetNAS(list); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Run(ctx) })
	d := newDrainer(j)
	d.Class = acct.NewClassSigner(key).Parse
	wg.Go(func() { _ = d.Run(ctx, w.Exec) })
	w.router("twr7", "127.0.0.1")
	tw := &tower{world: w, server: srv, client: map[bool]*radclient.Client{}}
	for accounting, addr := range map[bool]netip.AddrPort{false: srv.Addrs().Auth[0], true: srv.Addrs().Acct[0]} {
		c, err := radclient.Dial(addr.String(), []byte("radius-secret"), time.Now, radclient.Options{Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		tw.client[accounting] = c
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return tw
}

// access asks for a login and returns the answer's code and attributes.
func (tw *tower) access(login, password string, chap bool) (packet.Code, *packet.Attrs) {
	tw.t.Helper()
	attrs := packet.AppendString(nil, packet.UserName, login)
	attrs = packet.AppendString(attrs, packet.CallingStationID, "02-00-00-00-00-01")
	return tw.ask(false, radclient.Request{Code: packet.AccessRequest, Attrs: attrs, Password: &password, CHAP: chap})
}

func (tw *tower) ask(accounting bool, r radclient.Request) (packet.Code, *packet.Attrs) {
	tw.t.Helper()
	reply, err := tw.client[accounting].Do(tw.t.Context(), r)
	if err != nil {
		tw.t.Fatal(err)
	}
	a, err := reply.Attrs()
	if err != nil {
		tw.t.Fatal(err)
	}
	return reply.Code, a
}

func TestFromAccessRequestToUsage(t *testing.T) {
	t.Parallel()
	tw := newTower(t)
	pol := do[aaa.Policy](tw.world, "aaa.policy.create", m{"name": "Home", "down_kbps": 50_000, "up_kbps": 10_000, "pool": "homes", "session_timeout": 86400})
	c := tw.login(sub1, "ann@example.net", "s3cret")
	do[aaa.Credential](tw.world, "aaa.credential.create", m{"subscription_id": sub1, "username": "bob", "password": "pap only", "scheme": "argon2id", "static_ip": "10.9.9.9"})
	do[aaa.Credential](tw.world, "aaa.credential.create", m{"subscription_id": sub1, "username": "02:00:00:00:00:01", "type": "mac"})
	until := edgetest.Start.Add(2 * time.Hour)
	tw.world.access(sub1, m{"status": "active", "policy_id": pol.ID, "valid_until": until, "on_expiry": "reject", "revision": 1})

	for _, tc := range []struct {
		login, password string
		chap            bool
		want            packet.Code
	}{
		{"Ann@example.NET", "s3cret", false, packet.AccessAccept},
		{"ann@example.net", "s3cret", true, packet.AccessAccept},
		{"ann@example.net", "wrong", false, packet.AccessReject},
		{"ann@example.net", "", false, packet.AccessReject},
		{"ann@example.net", "ann@example.net", false, packet.AccessReject},
		{"bob", "pap only", false, packet.AccessAccept},
		{"bob", "pap only", true, packet.AccessReject},
		{"0200.0000.0001", "", false, packet.AccessAccept},
		{"eve", "s3cret", false, packet.AccessReject},
	} {
		if got, _ := tw.access(tc.login, tc.password, tc.chap); got != tc.want {
			t.Errorf("%s %q chap %v: got %v, want %v", tc.login, tc.password, tc.chap, got, tc.want)
		}
	}
	_, a := tw.access("ann@example.net", "s3cret", false)
	if timeout, ok := a.Uint32(packet.SessionTimeout); !ok || timeout != 7200 {
		t.Errorf("Session-Timeout %d, want what is paid: 7200", timeout)
	}
	if string(a.Get(packet.FramedPool)) != "homes" {
		t.Errorf("Framed-Pool %q", a.Get(packet.FramedPool))
	}
	tw.accounting(acct.Start, 0, a.Get(packet.Class), 0, 0)
	tw.Clock.Advance(5 * time.Minute)
	tw.accounting(acct.Interim, 300, a.Get(packet.Class), 3, 1000)
	seen := func() bool {
		list := tw.sessions(m{"credential_id": c.ID})
		return len(list) == 1 && list[0].InOctets == 3<<32+1000
	}
	edgetest.Eventually(t, seen, func() string { return fmt.Sprint(tw.sessions(m{"nas_id": tw.nas[0].ID})) })
	if s := tw.one(m{"open": true}); s.Login != "outer" || s.Subscription != sub1 || s.Revision == 0 {
		t.Errorf("session: %+v", s)
	}
	do[aaa.Credential](tw.world, "aaa.credential.revoke", m{"id": c.ID})
	for _, chap := range []bool{false, true} { // whatever the method, the refusal names the revocation
		got, a := tw.access("ann@example.net", "s3cret", chap)
		if got == packet.AccessReject && string(a.Get(packet.ReplyMessage)) == "The login is revoked" {
			continue
		}
		t.Errorf("revoked, CHAP %v: got %v %q", chap, got, a.Get(packet.ReplyMessage))
	}
	tw.world.access(sub1, m{"status": "suspended", "reasons": []string{"dunning"}, "policy_id": pol.ID, "revision": 2})
	if got, a := tw.access("bob", "pap only", false); got != packet.AccessReject || string(a.Get(packet.ReplyMessage)) != "Suspended: unpaid" {
		t.Errorf("unpaid: got %v %q", got, a.Get(packet.ReplyMessage))
	}
}

// accounting sends a packet of one session, whose User-Name is not the login's: the Class tells whose it is.
func (tw *tower) accounting(status acct.StatusType, secs uint32, class []byte, gigawords, in uint32) {
	tw.t.Helper()
	attrs := packet.AppendUint32(nil, packet.AcctStatusType, uint32(status))
	attrs = packet.AppendString(attrs, packet.AcctSessionID, "81000001")
	attrs = packet.AppendString(attrs, packet.UserName, "outer")
	attrs = packet.Append(attrs, packet.Class, class)
	attrs = packet.AppendUint32(attrs, packet.AcctSessionTime, secs)
	attrs = packet.AppendUint32(attrs, packet.AcctInputOctets, in)
	attrs = packet.AppendUint32(attrs, packet.AcctInputGigawords, gigawords)
	attrs = packet.AppendUint32(attrs, packet.EventTimestamp, uint32(edgetest.Start.Unix())+secs)
	if code, _ := tw.ask(true, radclient.Request{Code: packet.AccountingRequest, Attrs: attrs}); code != packet.AccountingResponse {
		tw.t.Fatalf("accounting %v: got %v", status, code)
	}
}

// TestALoginWhoseSecretHasNotComeTakesNoPassword covers the moments in which the index is being filled.
func TestALoginWhoseSecretHasNotComeTakesNoPassword(t *testing.T) {
	t.Parallel()
	tw := newTower(t)
	feed := func(tables map[string]m) {
		for table, rec := range tables {
			raw, err := json.Marshal(rec)
			if err != nil {
				t.Fatal(err)
			}
			tw.index.Watch().Apply(false, 1, []edge.Change{{Tenant: "hill", Table: table, ID: edge.ID(rec["id"].(string)), Val: raw}})
		}
	}
	const id = "0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2e01"
	feed(map[string]m{
		"aaa.policy":      {"id": "pol_" + id, "down_kbps": 1, "up_kbps": 1},
		"aaa.entitlement": {"id": "ent_" + id, "credential_id": "crd_" + id, "login": "ann", "type": "pap_chap", "decision": "allow", "reason": "active", "policy_id": "pol_" + id, "mac_binding": "off"},
	})
	for _, password := range []string{"", "ann", "s3cret"} {
		if got, _ := tw.access("ann", password, false); got != packet.AccessReject {
			t.Errorf("password %q: got %v, want a reject", password, got)
		}
	}
}

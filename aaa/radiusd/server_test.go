package radiusd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"wispgate/aaa/acct"
	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
)

// Every way a login can end, asked over the wire.
func TestLoginsEndWithTheirReason(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	c := n.client(t, n.auth(), testSecret, patient)
	mac := func(b []byte) []byte { return packet.AppendString(b, packet.CallingStationID, "00-e1-0c-38-c8-f8") }
	for name, tc := range map[string]struct {
		user, password string
		chap, none     bool
		extra          []byte
		want           packet.Code
		reason         string
	}{
		"PAP":                               {user: "ann", password: "secret", want: packet.AccessAccept},
		"CHAP":                              {user: "ann", password: "secret", chap: true, want: packet.AccessAccept},
		"PAP with a wrong password":         {user: "ann", password: "Secret", want: packet.AccessReject, reason: "bad_password"},
		"CHAP with a wrong password":        {user: "ann", password: "Secret", chap: true, want: packet.AccessReject, reason: "bad_password"},
		"an empty password":                 {user: "empty", want: packet.AccessAccept},
		"an empty password that is not":     {user: "ann", want: packet.AccessReject, reason: "bad_password"},
		"an unknown login":                  {user: "eve", password: "x", want: packet.AccessReject, reason: "unknown_login"},
		"a hash, right":                     {user: "hash", password: "slow", want: packet.AccessAccept},
		"a hash, wrong":                     {user: "hash", password: "fast", want: packet.AccessReject, reason: "bad_password"},
		"a hash cannot do CHAP":             {user: "hash", password: "slow", chap: true, want: packet.AccessReject, reason: "unsupported_method"},
		"a method the login does not allow": {user: "paponly", password: "pw", chap: true, want: packet.AccessReject, reason: "unsupported_method"},
		"no password at all":                {user: "ann", none: true, want: packet.AccessReject, reason: "unsupported_method"},
		"suspended":                         {user: "due", password: "pw", want: packet.AccessReject, reason: "suspended_unpaid"},
		"a MAC with an empty password":      {user: "1:0:e1:c:38:c8:f8", extra: mac(nil), want: packet.AccessAccept},
		"a MAC with itself, another way":    {user: "00:E1:0C:38:C8:F8", password: "00e10c38c8f8", want: packet.AccessAccept},
		"a MAC with a password":             {user: "00e1.0c38.c8f8", password: "x", want: packet.AccessReject, reason: "bad_password"},
		"a MAC by CHAP":                     {user: "00:E1:0C:38:C8:F8", password: "00:E1:0C:38:C8:F8", chap: true, want: packet.AccessAccept},
		"a MAC without a password":          {user: "00:E1:0C:38:C8:F8", none: true, want: packet.AccessAccept},
		"EAP":                               {user: "ann", none: true, extra: packet.Append(nil, packet.EAPMessage, []byte{2, 9, 0, 5, 1}), want: packet.AccessReject, reason: "unsupported_method"},
		"MS-CHAPv2":                         {user: "ann", none: true, extra: packet.AppendVendor(nil, 311, 25, make([]byte, 50)), want: packet.AccessReject, reason: "unsupported_method"},
	} {
		t.Run(name, func(t *testing.T) {
			password := &tc.password
			if tc.none {
				password = nil
			}
			since := time.Now()
			r, err := ask(t, c, radclient.Request{Code: packet.AccessRequest, Attrs: append(access(tc.user), tc.extra...), Password: password, CHAP: tc.chap})
			if err != nil {
				t.Fatal(err)
			}
			if r.Code != tc.want {
				t.Errorf("got %s, want %s", r.Code, tc.want)
			}
			if r.Packet[packet.HeaderLen] != packet.MessageAuthenticator {
				t.Error("Message-Authenticator is not the first attribute")
			}
			events := n.Recent(since, 1, func(e *Event) bool { return e.Login == tc.user })
			if len(events) != 1 || events[0].Reason.Code != tc.reason {
				t.Errorf("got %+v, want reason %q", events, tc.reason)
			}
			if tc.reason == "unsupported_method" && name == "EAP" {
				a, _ := r.Attrs()
				if got := a.Get(packet.EAPMessage); !bytes.Equal(got, []byte{4, 9, 0, 4}) {
					t.Errorf("got EAP %x, want a failure with the peer's identifier", got)
				}
			}
		})
	}
	n.full.Store(true)
	pw := "secret"
	if _, err := ask(t, c, radclient.Request{Code: packet.AccessRequest, Attrs: access("ann"), Password: &pw}); err != nil {
		t.Fatal(err)
	}
	if got := n.Recent(time.Time{}, 1, nil)[0].Reason.Code; got != "session_limit" {
		t.Errorf("got %s, want session_limit", got)
	}
	st := n.Stats()
	if st.Rejects[StageReason{StageIdentify, "unknown_login"}] != 1 || st.Rejects[StageReason{StageAuthorise, "suspended_unpaid"}] != 1 {
		t.Errorf("got %v", st.Rejects)
	}
}

func TestTheAcceptCarriesThePolicy(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	c := n.client(t, n.auth(), testSecret, patient)
	get := func(user, password string) *packet.Attrs {
		r, err := ask(t, c, radclient.Request{Code: packet.AccessRequest, Attrs: access(user), Password: &password})
		if err != nil || r.Code != packet.AccessAccept {
			t.Fatalf("%s: got %s, %v", user, r.Code, err)
		}
		a, err := r.Attrs()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ann := get("ann", "secret")
	if got := string(ann.Vendor(14988, 8)); got != "5M/20M" {
		t.Errorf("rate limit: got %q, want 5M/20M", got)
	}
	if got := ann.Get(packet.FramedIPAddress); !bytes.Equal(got, []byte{100, 64, 0, 9}) {
		t.Errorf("address: got %v", got)
	}
	if ann.Has(packet.FramedPool) {
		t.Error("a login with a static address is sent to a pool")
	}
	if got, _ := ann.Uint32(packet.SessionTimeout); got != 86_400 {
		t.Errorf("session timeout: got %d, want 86400", got)
	}
	if got, _ := ann.Uint32(packet.AcctInterimInterval); got < 270 || got > 330 {
		t.Errorf("interim: got %d, want 300 ± 10 %%", got)
	}
	class, ok := acct.NewClassSigner([32]byte{}).Parse(ann.Get(packet.Class))
	if !ok || string(class.Credential) != "crd_ann" || string(class.Tenant) != "tnt" || class.Revision != 7 {
		t.Errorf("class: got %+v %v", class, ok)
	}
	if got := string(get("bob", "hunter2").Get(packet.FramedPool)); got != "cgnat" {
		t.Errorf("pool: got %q, want cgnat", got)
	}
	if got, _ := get("until", "pw").Uint32(packet.SessionTimeout); got < 590 || got > 600 {
		t.Errorf("capped session timeout: got %d, want about 600", got)
	}
	pw := "pw"
	r, err := ask(t, c, radclient.Request{Code: packet.AccessRequest, Attrs: access("due"), Password: &pw})
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := r.Attrs(); string(a.Get(packet.ReplyMessage)) != suspended.Says {
		t.Errorf("got %q, want the reason's sentence", a.Get(packet.ReplyMessage))
	}
}

func TestInterimJitterIsSteadyAndBounded(t *testing.T) {
	t.Parallel()
	seen := map[uint32]bool{}
	for i := range 1000 {
		id := fmt.Appendf(nil, "crd_%d", i)
		v := jitter(600, id)
		if v < 540 || v > 660 || v != jitter(600, id) {
			t.Fatalf("%s: got %d, want 540 to 660, always the same", id, v)
		}
		seen[v] = true
		if v := jitter(60, id); v < 60 {
			t.Fatalf("got %d, want at least 60", v)
		}
	}
	if len(seen) < 100 {
		t.Errorf("1000 logins share %d intervals", len(seen))
	}
}

// Message-Authenticator under every policy, and what follows from having seen one.
func TestMessageAuthenticatorPolicies(t *testing.T) {
	t.Parallel()
	proxy := packet.AppendString(nil, packet.ProxyState, "p")
	eap := packet.Append(nil, packet.EAPMessage, []byte{2, 9, 0, 5, 1})
	for name, tc := range map[string]struct {
		policy   MAPolicy
		seen     bool
		extra    []byte
		unsigned bool
		answered bool
	}{
		"auto takes an unsigned one from a NAS that never signed": {policy: Auto, unsigned: true, answered: true},
		"auto refuses it once the NAS has signed":                 {policy: Auto, seen: true, unsigned: true},
		"auto refuses Proxy-State unsigned":                       {policy: Auto, unsigned: true, extra: proxy},
		"auto takes Proxy-State signed":                           {policy: Auto, extra: proxy, answered: true},
		"always refuses unsigned":                                 {policy: Always, unsigned: true},
		"always takes signed":                                     {policy: Always, answered: true},
		"never takes unsigned":                                    {policy: Never, seen: true, unsigned: true, extra: proxy, answered: true},
		"never refuses EAP unsigned all the same":                 {policy: Never, unsigned: true, extra: eap},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t, func(_ *Config, nas *NAS) { nas.RequireMA, nas.MASeen = tc.policy, tc.seen })
			opts := patient
			if !tc.answered {
				opts = quick
			}
			pw := "secret"
			_, err := ask(t, n.client(t, n.auth(), testSecret, opts), radclient.Request{
				Code: packet.AccessRequest, Attrs: append(access("ann"), tc.extra...), Password: &pw, Unsigned: tc.unsigned,
			})
			if answered := err == nil; answered != tc.answered {
				t.Errorf("answered: got %v (%v), want %v", answered, err, tc.answered)
			}
			if !tc.answered {
				n.dropped(t, "message_authenticator_missing", 1)
			}
		})
	}
}

func TestANASThatSignedOnceMustGoOnSigning(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	pw := "secret"
	signed := radclient.Request{Code: packet.AccessRequest, Attrs: access("ann"), Password: &pw}
	unsigned := signed
	unsigned.Unsigned = true
	c := n.client(t, n.auth(), testSecret, patient)
	for _, r := range []radclient.Request{unsigned, signed, signed} {
		if _, err := ask(t, c, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ask(t, n.client(t, n.auth(), testSecret, quick), unsigned); code(err) != "radius_no_answer" {
		t.Errorf("got %v, want silence", err)
	}
	if fmt.Sprint(n.whoSigned()) != "[nas_1]" {
		t.Errorf("persisted: got %v, want nas_1 once", n.whoSigned())
	}
	if err := n.SetNAS([]*NAS{loopback(t)}); err != nil { // a changed record does not forget
		t.Fatal(err)
	}
	if _, err := ask(t, n.client(t, n.auth(), testSecret, quick), unsigned); code(err) != "radius_no_answer" {
		t.Errorf("after a new table: got %v, want silence", err)
	}
}

func TestWrongSecretsAreNamed(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	pw := "secret"
	req := radclient.Request{Code: packet.AccessRequest, Attrs: access("ann"), Password: &pw}
	if _, err := ask(t, n.client(t, n.auth(), "other", quick), req); code(err) != "radius_no_answer" {
		t.Errorf("signed: got %v, want silence", err)
	}
	n.dropped(t, "wrong_secret", 1)
	if got := n.Recent(time.Time{}, 1, nil)[0]; got.Reason.Code != "wrong_secret" || got.Stage != StageIntegrity || got.NAS != "nas_1" {
		t.Errorf("got %+v, want wrong_secret at integrity with the NAS", got)
	}
	req.Unsigned = true
	heard := radclient.Options{Timeout: 2 * time.Second, Tries: 1} // a reply that cannot be believed does not end the wait, and must arrive in it
	if _, err := ask(t, n.client(t, n.auth(), "other", heard), req); code(err) != "radius_reply_forged" {
		t.Errorf("unsigned: got %v, want a reply the client cannot believe", err)
	}
	if got := n.Recent(time.Time{}, 1, nil)[0].Reason.Code; got != "wrong_secret_suspected" {
		t.Errorf("got %s, want wrong_secret_suspected", got)
	}
	acct := radclient.Request{Code: packet.AccountingRequest, Attrs: packet.AppendUint32(nil, packet.AcctStatusType, 1)}
	if _, err := ask(t, n.client(t, n.acct(), "other", quick), acct); code(err) != "radius_no_answer" {
		t.Errorf("accounting: got %v, want silence", err)
	}
	n.dropped(t, "wrong_secret", 2)
	if n.count() != 0 {
		t.Errorf("got %d records, want none", n.count())
	}
}

func TestASecretIsRotatedWithoutAGap(t *testing.T) {
	t.Parallel()
	n := start(t, func(_ *Config, nas *NAS) { nas.Secondary = secretOf(t, "fresh") })
	pw := "secret"
	for _, secret := range []string{testSecret, "fresh", testSecret} {
		for _, r := range []radclient.Request{
			{Code: packet.AccessRequest, Attrs: access("ann"), Password: &pw},
			{Code: packet.StatusServer},
		} {
			if _, err := ask(t, n.client(t, n.auth(), secret, patient), r); err != nil {
				t.Errorf("%s with %s: %v", r.Code, secret, err)
			}
		}
		r := radclient.Request{Code: packet.AccountingRequest, Attrs: packet.AppendUint32(nil, packet.AcctStatusType, 1)}
		if _, err := ask(t, n.client(t, n.acct(), secret, patient), r); err != nil {
			t.Errorf("accounting with %s: %v", secret, err)
		}
	}
}

func TestAnUnsignedRotationFindsTheSecretByThePassword(t *testing.T) {
	t.Parallel()
	n := start(t, func(_ *Config, nas *NAS) { nas.Secondary = secretOf(t, "fresh"); nas.RequireMA = Never })
	pw := "secret"
	for _, secret := range []string{testSecret, "fresh"} {
		r, err := ask(t, n.client(t, n.auth(), secret, patient), radclient.Request{Code: packet.AccessRequest, Attrs: access("ann"), Password: &pw, Unsigned: true})
		if err != nil || r.Code != packet.AccessAccept {
			t.Errorf("%s: got %s, %v", secret, r.Code, err)
		}
	}
}

func TestStatusServer(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	r, err := ask(t, n.client(t, n.auth(), testSecret, patient), radclient.Request{Code: packet.StatusServer})
	if err != nil || r.Code != packet.AccessAccept {
		t.Errorf("auth: got %s, %v", r.Code, err)
	}
	r, err = ask(t, n.client(t, n.acct(), testSecret, patient), radclient.Request{Code: packet.StatusServer})
	if err != nil || r.Code != packet.AccountingResponse {
		t.Errorf("acct: got %s, %v", r.Code, err)
	}
	if _, err := ask(t, n.client(t, n.auth(), testSecret, quick), radclient.Request{Code: packet.StatusServer, Unsigned: true}); code(err) != "radius_no_answer" {
		t.Errorf("unsigned: got %v, want silence", err)
	}
	if n.count() != 0 {
		t.Error("a Status-Server was journaled")
	}
}

func TestAccountingIsAnsweredOnlyOnceItIsDurable(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	n.hold()
	start := packet.AppendString(packet.AppendUint32(access("ann"), packet.AcctStatusType, 1), packet.AcctSessionID, "81")
	c := n.client(t, n.acct(), testSecret, radclient.Options{Timeout: 50 * time.Millisecond, Tries: 100})
	done := make(chan error, 1)
	go func() {
		_, err := c.Do(context.Background(), radclient.Request{Code: packet.AccountingRequest, Attrs: start})
		done <- err
	}()
	eventually(t, "duplicates are absorbed", func() bool { return n.Stats().Duplicates >= 3 })
	select {
	case err := <-done:
		t.Fatalf("answered before the journal had it: %v", err)
	default:
	}
	if n.count() != 1 || n.Stats().Accounting != 0 {
		t.Errorf("got %d records and %d answers, want 1 and 0", n.count(), n.Stats().Accounting)
	}
	n.release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n.count() != 1 || n.Stats().Accounting != 1 {
		t.Errorf("got %d records and %d answers, want 1 and 1", n.count(), n.Stats().Accounting)
	}
	var rec acct.Record
	if err := rec.Decode(n.record(0)); err != nil {
		t.Fatal(err)
	}
	if rec.Status != acct.Start || string(rec.UserName) != "ann" || string(rec.NAS) != "nas_1" || string(rec.Tenant) != "tnt" ||
		rec.Source.String() != "127.0.0.1" || time.Since(time.Unix(0, rec.Arrived)) > time.Minute {
		t.Errorf("got %+v", rec)
	}
}

func TestAJournalThatFailsIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	n.mu.Lock()
	n.broken = context.DeadlineExceeded
	n.mu.Unlock()
	req := radclient.Request{Code: packet.AccountingRequest, Attrs: packet.AppendUint32(nil, packet.AcctStatusType, 3)}
	if _, err := ask(t, n.client(t, n.acct(), testSecret, quick), req); code(err) != "radius_no_answer" {
		t.Errorf("got %v, want silence", err)
	}
	if _, err := ask(t, n.client(t, n.acct(), testSecret, quick), radclient.Request{Code: packet.StatusServer}); code(err) != "radius_no_answer" {
		t.Errorf("status: got %v, want silence while the journal is down", err)
	}
	n.dropped(t, "journal_unavailable", 2)
	if _, err := ask(t, n.client(t, n.auth(), testSecret, patient), radclient.Request{Code: packet.StatusServer}); err != nil {
		t.Errorf("authentication must go on: %v", err)
	}
	n.mu.Lock()
	n.broken = nil
	n.mu.Unlock()
	c := n.client(t, n.acct(), testSecret, patient)
	for _, r := range []radclient.Request{req, {Code: packet.StatusServer}} {
		if _, err := ask(t, c, r); err != nil {
			t.Errorf("after the journal is back: %v", err)
		}
	}
	if got := n.Stats().Drops["journal_unavailable"]; got != 2 {
		t.Errorf("got %d drops, want 2", got)
	}
}

func TestRejectsAreDelayedWithoutWaiting(t *testing.T) {
	t.Parallel()
	n := start(t, func(c *Config, _ *NAS) { c.RejectDelay = 1500 * time.Millisecond; c.Workers = 1 })
	c := n.client(t, n.auth(), testSecret, radclient.Options{Timeout: 100 * time.Millisecond, Tries: 50})
	bad, good := "x", "secret"
	done := make(chan radclient.Reply, 1)
	go func() {
		r, _ := c.Do(context.Background(), radclient.Request{Code: packet.AccessRequest, Attrs: access("ann"), Password: &bad})
		done <- r
	}()
	eventually(t, "the reject is pending", func() bool { return n.Stats().Pending == 1 })
	r, err := ask(t, n.client(t, n.auth(), testSecret, patient), radclient.Request{Code: packet.AccessRequest, Attrs: access("ann"), Password: &good})
	if err != nil || r.Code != packet.AccessAccept {
		t.Errorf("another login had to wait: %v", err)
	}
	reject := <-done
	if reject.Code != packet.AccessReject || reject.Took < 1400*time.Millisecond {
		t.Errorf("got %s after %v, want a reject after 1.5 s", reject.Code, reject.Took)
	}
	if got := n.Stats().Rejects[StageReason{StageAuthenticate, "bad_password"}]; got != 1 {
		t.Errorf("got %d rejects, want 1: retransmissions were counted again", got)
	}
}

func TestAFloodOfWrongPasswordsStaysBounded(t *testing.T) {
	t.Parallel()
	n := start(t, func(c *Config, _ *NAS) { c.RejectDelay, c.MaxPending, c.Workers = 2*time.Second, 64, 1 })
	r := dialRaw(t, n.auth())
	s, x := secretOf(t, testSecret), packet.NewHasher()
	for i := range 2000 {
		auth := fmt.Appendf(nil, "%016d", i)
		p := packet.AppendMessageAuthenticator(packet.Begin(nil, packet.AccessRequest, byte(i), auth))
		p = packet.AppendString(p, packet.UserName, fmt.Sprintf("guess%d", i))
		p = packet.Append(p, packet.UserPassword, x.Hide(nil, s, []byte("x"), auth))
		packet.Finish(p)
		x.SignRequest(s, p)
		r.send(p)
	}
	eventually(t, "all are handled", func() bool { return n.Stats().Drops["radius_overloaded"] >= 2000-48 })
	st := n.Stats()
	if st.Pending > 48 || st.Drops["radius_overloaded"] != 2000-48 {
		t.Errorf("got %d pending and %v, want 48 and the rest dropped", st.Pending, st.Drops)
	}
	pw := "secret"
	if _, err := ask(t, n.client(t, n.auth(), testSecret, patient), radclient.Request{Code: packet.AccessRequest, Attrs: access("ann"), Password: &pw}); err != nil {
		t.Errorf("a good login is not heard: %v", err)
	}
}

func TestOneWhoGuessesIsSlowedDown(t *testing.T) {
	t.Parallel()
	n := start(t, func(c *Config, _ *NAS) { c.Workers, c.Now = 1, standing() }) // the pause does not end while this asks
	c := n.client(t, n.auth(), testSecret, patient)
	from := func(mac string) []byte { return packet.AppendString(access("bob"), packet.CallingStationID, mac) }
	bad, good := "x", "hunter2"
	for range patience {
		if _, err := ask(t, c, radclient.Request{Code: packet.AccessRequest, Attrs: from("00:00:00:00:00:01"), Password: &bad}); err != nil {
			t.Fatal(err)
		}
	}
	short := n.client(t, n.auth(), testSecret, quick)
	if _, err := ask(t, short, radclient.Request{Code: packet.AccessRequest, Attrs: from("00:00:00:00:00:01"), Password: &good}); code(err) != "radius_no_answer" {
		t.Errorf("got %v, want silence", err)
	}
	n.dropped(t, "rate_limited", 1)
	if _, err := ask(t, c, radclient.Request{Code: packet.AccessRequest, Attrs: from("00:00:00:00:00:02"), Password: &good}); err != nil {
		t.Errorf("another CPE with the right password: %v", err)
	}
}

func TestANASThatFloodsIsLimited(t *testing.T) {
	t.Parallel()
	n := start(t, func(c *Config, _ *NAS) { c.NASRate, c.Now = 10, standing() })
	c := n.client(t, n.auth(), testSecret, patient)
	for i := range 10 {
		if _, err := ask(t, c, radclient.Request{Code: packet.StatusServer}); err != nil {
			t.Fatalf("request %d in one second: %v", i+1, err)
		}
	}
	if _, err := ask(t, n.client(t, n.auth(), testSecret, quick), radclient.Request{Code: packet.StatusServer}); code(err) != "radius_no_answer" {
		t.Errorf("one more: got %v, want silence", err)
	}
	n.dropped(t, "rate_limited", 1)
}

func TestTheAnswerLeavesFromTheAddressAsked(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{":0", "0.0.0.0:0"} {
		n := start(t, func(c *Config, _ *NAS) { c.Auth, c.Acct = []string{listen}, []string{listen} })
		targets := []string{"127.0.0.1", "127.0.0.2", "127.9.9.9"}
		if listen == ":0" {
			targets = append(targets, "::1")
		}
		for _, host := range targets {
			for code, port := range map[packet.Code]uint16{packet.AccessRequest: n.Addrs().Auth[0].Port(), packet.AccountingRequest: n.Addrs().Acct[0].Port()} {
				pw, req := "secret", radclient.Request{Code: code, Attrs: packet.AppendUint32(access("ann"), packet.AcctStatusType, 1)}
				if code == packet.AccessRequest {
					req.Password = &pw
				}
				// A connected socket hears nobody but the address it asked.
				c := n.client(t, net.JoinHostPort(host, fmt.Sprint(port)), testSecret, patient)
				if _, err := ask(t, c, req); err != nil {
					t.Errorf("%s at %s: %v", host, listen, err)
				}
			}
		}
	}
}

func TestAnUnknownRouterIsNotAnsweredButShown(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	if err := n.SetNAS(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, n.client(t, n.auth(), testSecret, quick), radclient.Request{Code: packet.StatusServer}); code(err) != "radius_no_answer" {
		t.Errorf("got %v, want silence", err)
	}
	n.dropped(t, "nas_unknown", 1)
	if s := n.Strangers(); len(s) != 1 || s[0].Source.String() != "127.0.0.1" || s[0].Packets != 1 {
		t.Errorf("got %+v", s)
	}
}

func TestAPortInUseIsSaid(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	cfg := n.cfg
	cfg.Auth = []string{n.auth()}
	if _, err := Listen(cfg); code(err) != "radius_port_in_use" {
		t.Errorf("got %v, want radius_port_in_use", err)
	}
}

func TestTheLongestPrefixNamesTheNAS(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	wide, narrow := loopback(t), loopback(t)
	narrow.ID, narrow.Addresses = "nas_2", []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	if err := n.SetNAS([]*NAS{wide, narrow}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, n.client(t, n.auth(), testSecret, patient), radclient.Request{Code: packet.StatusServer}); err != nil {
		t.Fatal(err)
	}
	for _, s := range n.NAS() {
		if want := map[string]uint64{"nas_1": 0, "nas_2": 1}[s.ID]; s.Requests != want {
			t.Errorf("%s: got %d requests, want %d", s.ID, s.Requests, want)
		}
	}
	twin := loopback(t)
	twin.ID = "nas_3"
	if err := n.SetNAS([]*NAS{wide, twin}); code(err) != "nas_address_taken" {
		t.Errorf("got %v, want nas_address_taken", err)
	}
}

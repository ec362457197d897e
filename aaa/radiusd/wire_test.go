package radiusd

import (
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"layeh.com/radius"
	"layeh.com/radius/rfc2865"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
	"wispgate/edge/edgetest/peers"
)

var update = flag.Bool("update", false, "rewrite golden files")

// forge builds a request with everything chosen.
func forge(t testing.TB, code packet.Code, id byte, auth string, signed bool, attrs ...[]byte) []byte {
	t.Helper()
	p := packet.Begin(nil, code, id, []byte(auth))
	if signed {
		p = packet.AppendMessageAuthenticator(p)
	}
	for _, a := range attrs {
		p = append(p, a...)
	}
	packet.Finish(p)
	packet.NewHasher().SignRequest(secretOf(t, testSecret), p)
	return p
}

func pap(t testing.TB, auth, password string) []byte {
	t.Helper()
	return packet.Append(nil, packet.UserPassword, packet.NewHasher().Hide(nil, secretOf(t, testSecret), []byte(password), []byte(auth)))
}

const ra = "0123456789abcdef"

// idle is a server whose workers do not run: the test drives one by hand, with a clock that stands still.
func idle(t testing.TB, change func(*Config, *NAS)) (*Server, *house) {
	t.Helper()
	h := newHouse(t)
	epoch := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cfg := Config{
		Auth: []string{"127.0.0.1:0"}, Acct: []string{"127.0.0.1:0"}, Directory: h, Journal: h, Now: func() time.Time { return epoch },
		Logger: slog.New(slog.DiscardHandler), Workers: 1, RejectDelay: -1, StaleAfter: -1, NASRate: -1,
	}
	nas := loopback(t)
	if change != nil {
		change(&cfg, nas)
	}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	if err := s.SetNAS([]*NAS{nas}); err != nil {
		t.Fatal(err)
	}
	return s, h
}

// The octets of every kind of reply. The session number in Class is random, so Class is cut out and the rest compared.
func TestRepliesAreGolden(t *testing.T) {
	t.Parallel()
	proxy := append(packet.AppendString(nil, packet.ProxyState, "one"), packet.AppendString(nil, packet.ProxyState, "two")...)
	s, h := idle(t, nil)
	h.decisions["crd_until"] = Decision{Verdict: Allow, Policy: h.decisions["crd_ann"].Policy, Until: s.start.Unix() + 100}
	var out strings.Builder
	for _, tc := range []struct {
		name string
		acct bool
		pkt  []byte
	}{
		{"accept", false, forge(t, packet.AccessRequest, 1, ra, true, access("ann"), pap(t, ra, "secret"), proxy)},
		{"accept, capped", false, forge(t, packet.AccessRequest, 1, ra, true, access("until"), pap(t, ra, "pw"))},
		{"reject, unknown", false, forge(t, packet.AccessRequest, 2, ra, true, access("eve"), pap(t, ra, "secret"), proxy)},
		{"reject, suspended", false, forge(t, packet.AccessRequest, 3, ra, true, access("due"), pap(t, ra, "pw"))},
		{"reject, EAP", false, forge(t, packet.AccessRequest, 4, ra, true, access("ann"), packet.Append(nil, packet.EAPMessage, []byte{2, 7, 0, 5, 1}))},
		{"status, auth", false, forge(t, packet.StatusServer, 5, ra, true)},
		{"status, acct", true, forge(t, packet.StatusServer, 6, ra, true, proxy)},
		{"accounting", true, forge(t, packet.AccountingRequest, 7, ra, false, packet.AppendUint32(access("ann"), packet.AcctStatusType, 3), proxy)},
	} {
		w := s.workers[0]
		if tc.acct {
			w = s.workers[1]
		}
		if !w.begin(source{addr: netip.MustParseAddr("127.0.0.1")}, s.cfg.Now()) || w.run(tc.pkt, tc.acct) == actDrop {
			t.Fatalf("%s: dropped", tc.name)
		}
		var a packet.Attrs
		if err := a.Parse(w.out); err != nil {
			t.Fatal(err)
		}
		if !packet.NewHasher().VerifyReply(w.secret, w.out, packet.Authenticator(tc.pkt)) {
			t.Errorf("%s: the Response Authenticator is wrong", tc.name)
		}
		if a.Has(packet.MessageAuthenticator) == (tc.name == "accounting") {
			t.Errorf("%s: Message-Authenticator is there, or missing", tc.name)
		}
		if tc.name != "accounting" && !packet.NewHasher().VerifyMessageAuthenticator(w.secret, w.out, packet.HeaderLen+2, packet.Authenticator(tc.pkt)) {
			t.Errorf("%s: the Message-Authenticator is wrong", tc.name)
		}
		fmt.Fprintf(&out, "[%s]\n%x\n", tc.name, w.out[:4])
		for i := range a.Len() {
			typ, v := a.At(i)
			switch typ {
			case packet.Class:
				v = []byte("*")
			case packet.MessageAuthenticator:
				if a.Has(packet.Class) {
					v = []byte("*")
				}
			}
			fmt.Fprintf(&out, "%d %s\n", typ, hex.EncodeToString(v))
		}
	}
	file := filepath.Join("testdata", "replies.golden")
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// The same request after the reply draws the same octets and has no second effect.
func TestADuplicateDrawsTheSameOctets(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	again := uint64(0)
	for name, tc := range map[string]struct {
		addr string
		pkt  []byte
	}{
		"access":     {n.auth(), forge(t, packet.AccessRequest, 9, ra, true, access("ann"), pap(t, ra, "secret"))},
		"accounting": {n.acct(), forge(t, packet.AccountingRequest, 9, ra, false, packet.AppendUint32(nil, packet.AcctStatusType, 1))},
	} {
		r := dialRaw(t, tc.addr)
		r.send(tc.pkt)
		first := r.receive(time.Minute)
		if first == nil {
			t.Fatalf("%s: no answer", name)
		}
		for range 3 {
			var got []byte
			for tries := 0; got == nil && tries < 60; tries++ { // one that comes before the worker knows of the answer draws nothing yet
				again++
				r.send(tc.pkt)
				got = r.receive(time.Second)
			}
			if !bytes.Equal(got, first) {
				t.Errorf("%s: got %x, want %x", name, got, first)
			}
		}
	}
	if st := n.Stats(); st.Accepts != 1 || st.Accounting != 1 || st.Duplicates != again || n.count() != 1 {
		t.Errorf("got %+v and %d records", st, n.count())
	}
}

// A variant under the same Identifier and Authenticator never draws the cached reply.
func TestAForgedVariantDrawsNothing(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	r := dialRaw(t, n.auth())
	good := forge(t, packet.AccessRequest, 9, ra, true, access("ann"), pap(t, ra, "secret"))
	r.send(good)
	if r.receive(time.Minute) == nil {
		t.Fatal("no answer")
	}
	bent := bytes.Clone(good)
	bent[len(bent)-1] ^= 1
	r.send(bent)
	if got := r.receive(100 * time.Millisecond); got != nil {
		t.Errorf("got %x, want silence", got)
	}
	r.send(good)
	if r.receive(time.Minute) == nil {
		t.Error("the forged variant pushed the reply out of the cache")
	}
}

func TestAnIdentifierMayBeReusedAtOnce(t *testing.T) {
	t.Parallel()
	n := start(t, func(c *Config, _ *NAS) { c.NASRate = -1 })
	s, x := secretOf(t, testSecret), packet.NewHasher()
	r := dialRaw(t, n.auth())
	for i := range 10_000 {
		auth := fmt.Appendf(nil, "%016d", i)
		p := packet.AppendMessageAuthenticator(packet.Begin(nil, packet.AccessRequest, 1, auth))
		p = packet.AppendString(p, packet.UserName, "ann")
		p = packet.Append(p, packet.UserPassword, x.Hide(nil, s, []byte("secret"), auth))
		packet.Finish(p)
		x.SignRequest(s, p)
		r.send(p)
		reply := r.receive(time.Minute)
		if reply == nil || reply[0] != byte(packet.AccessAccept) || !x.VerifyReply(s, reply, auth) {
			t.Fatalf("request %d: got %x", i, reply)
		}
	}
}

func TestPaddingAndRubbish(t *testing.T) {
	t.Parallel()
	n := start(t, nil)
	acct := dialRaw(t, n.acct())
	p := forge(t, packet.AccountingRequest, 1, ra, false, packet.AppendUint32(nil, packet.AcctStatusType, 1))
	acct.send(append(bytes.Clone(p), "padding that is not hashed"...))
	if acct.receive(time.Minute) == nil {
		t.Error("octets beyond Length: no answer")
	}
	acct.send(append(forge(t, packet.AccountingRequest, 2, ra, false, packet.AppendUint32(nil, packet.AcctStatusType, 1)), make([]byte, 60_000)...))
	if acct.receive(time.Minute) == nil {
		t.Error("a datagram of 60 KB with a small packet: no answer")
	}
	auth := dialRaw(t, n.auth())
	bad := [][]byte{
		{}, {1}, make([]byte, 19), make([]byte, 20), p, // accounting on the auth port
		forge(t, packet.AccessRequest, 3, ra, false, []byte{1, 1}),
		forge(t, packet.AccessRequest, 3, ra, false, []byte{1, 200}),
		forge(t, packet.AccessRequest, 3, ra, false, []byte{packet.MessageAuthenticator, 4, 0, 0}),
		forge(t, packet.AccessRequest, 3, ra, true, packet.AppendMessageAuthenticator(nil)),
		forge(t, packet.AccessRequest, 3, ra, false, access("ann"), packet.Append(nil, packet.UserPassword, make([]byte, 15))),
		forge(t, packet.AccessRequest, 3, ra, false, access("ann"), packet.Append(nil, packet.UserPassword, make([]byte, 144))),
		forge(t, packet.AccessAccept, 3, ra, false), forge(t, packet.CoARequest, 3, ra, false), make([]byte, 60_000),
	}
	for _, b := range bad {
		auth.send(b)
	}
	acct.send(forge(t, packet.AccountingRequest, 3, ra, false)) // no Acct-Status-Type
	eventually(t, "all are counted", func() bool { return n.Stats().Drops["malformed"] == uint64(len(bad))+1 })
	if got := auth.receive(50 * time.Millisecond); got != nil {
		t.Errorf("got %x, want silence", got)
	}
	pw := "secret"
	if _, err := ask(t, n.client(t, n.auth(), testSecret, patient), radclient.Request{Code: packet.AccessRequest, Attrs: access("ann"), Password: &pw}); err != nil {
		t.Error(err)
	}
}

func TestARequestThatWaitedTooLongIsDropped(t *testing.T) {
	t.Parallel()
	n := start(t, func(c *Config, _ *NAS) { c.Now = func() time.Time { return time.Now().Add(10 * time.Second) } })
	if _, err := ask(t, n.client(t, n.auth(), testSecret, quick), radclient.Request{Code: packet.StatusServer}); code(err) != "radius_no_answer" {
		t.Errorf("got %v, want silence", err)
	}
	n.dropped(t, "radius_overloaded", 1)
	// Accounting is evidence: it is taken however late.
	if _, err := ask(t, n.client(t, n.acct(), testSecret, patient), radclient.Request{Code: packet.StatusServer}); err != nil {
		t.Error(err)
	}
}

func TestNoneOf1024OutstandingIsLost(t *testing.T) {
	t.Parallel()
	// The second is a wildcard asked at one of many addresses: a connected socket hears no other.
	for listen, host := range map[string]string{"127.0.0.1:0": "127.0.0.1", ":0": "127.0.0.2"} {
		t.Run(listen, func(t *testing.T) { t.Parallel(); noneLost(t, listen, host) })
	}
}

func noneLost(t *testing.T, listen, host string) {
	n := start(t, func(c *Config, _ *NAS) { c.NASRate, c.Auth, c.Acct = -1, []string{listen}, []string{listen} })
	auth := net.JoinHostPort(host, fmt.Sprint(n.Addrs().Auth[0].Port()))
	acct := net.JoinHostPort(host, fmt.Sprint(n.Addrs().Acct[0].Port()))
	for name, l := range map[string]radclient.Load{
		"PAP":        {Server: auth, Code: packet.AccessRequest, Password: func(int) []byte { return []byte("secret") }},
		"CHAP":       {Server: auth, Code: packet.AccessRequest, Password: func(int) []byte { return []byte("secret") }, CHAP: true},
		"accounting": {Server: acct, Code: packet.AccountingRequest},
	} {
		l.Secret, l.Requests, l.Window, l.Now, l.Wait = []byte(testSecret), 10_000, 1024, time.Now, time.Minute
		l.Attrs = func(dst []byte, i int) []byte {
			dst = packet.AppendString(dst, packet.UserName, "ann")
			dst = packet.AppendUint32(dst, packet.AcctSessionTime, uint32(i)) // the same octets would be a duplicate
			return packet.AppendUint32(dst, packet.AcctStatusType, 3)
		}
		res, err := l.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if res.Good != 10_000 || res.Lost+res.Bad != 0 || res.Codes[packet.AccessReject] != 0 {
			t.Errorf("%s: got %+v, want 10000 good", name, res)
		}
	}
	if st := n.Stats(); st.Accepts != 20_000 || st.KernelDrops != 0 || n.count() != 10_000 {
		t.Errorf("got %+v, %d records", st, n.count())
	}
}

// The hot path, worker and socket included, allocates nothing.
func TestTheHotPathAllocatesNothing(t *testing.T) {
	s, h := idle(t, nil)
	sink, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	peer := sink.LocalAddr().(*net.UDPAddr).AddrPort()
	to := address{size: unix.SizeofSockaddrInet4}
	to.raw.Family, to.raw.Port = unix.AF_INET, peer.Port()<<8|peer.Port()>>8
	copy((*unix.RawSockaddrInet4)(unsafe.Pointer(&to.raw)).Addr[:], []byte{127, 0, 0, 1})
	ch := packet.NewHasher().CHAP(7, []byte("secret"), []byte(ra))
	h.records = make([][]byte, 0, 10_000)
	for name, tc := range map[string]struct {
		w   *worker
		pkt []byte
	}{
		"PAP":            {s.workers[0], forge(t, packet.AccessRequest, 0, ra, true, access("ann"), pap(t, ra, "secret"))},
		"PAP with pools": {s.workers[0], forge(t, packet.AccessRequest, 0, ra, true, access("bob"), pap(t, ra, "hunter2"))},
		"a hash, proved": {s.workers[0], forge(t, packet.AccessRequest, 0, ra, true, access("hash"), pap(t, ra, "slow"))},
		"CHAP":           {s.workers[0], forge(t, packet.AccessRequest, 0, ra, true, access("ann"), packet.Append(nil, packet.CHAPPassword, append([]byte{7}, ch...)))},
		"a reject":       {s.workers[0], forge(t, packet.AccessRequest, 0, ra, true, access("due"), pap(t, ra, "pw"))},
		"status":         {s.workers[0], forge(t, packet.StatusServer, 0, ra, true)},
	} {
		hash := h.logins["hash"].Password
		s.workers[0].prover.settle(hash, []byte("slow"))
		before := s.Stats()
		x, secret := packet.NewHasher(), secretOf(t, testSecret)
		if n := testing.AllocsPerRun(500, func() {
			tc.pkt[1]++
			x.SignRequest(secret, tc.pkt)
			tc.w.to = to
			tc.w.serve(tc.pkt, nil, peer)
			tc.w.flush(tc.w.io)
		}); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, n)
		}
		after := s.Stats()
		if after.Received-before.Received != 501 || after.Duplicates > before.Duplicates+260 {
			t.Errorf("%s: the cache answered: %+v", name, after)
		}
	}
	quiet := &instant{}
	s.cfg.Journal = quiet
	w, pkt := s.workers[1], forge(t, packet.AccountingRequest, 0, ra, false, packet.AppendUint32(access("ann"), packet.AcctStatusType, 3))
	x, secret := packet.NewHasher(), secretOf(t, testSecret)
	if n := testing.AllocsPerRun(500, func() {
		pkt[1]++
		x.SignRequest(secret, pkt)
		w.to = to
		w.serve(pkt, nil, peer)
		s.post.collect()
		w.drain()
	}); n != 0 {
		t.Errorf("accounting: got %v allocations, want 0", n)
	}
	if quiet.n < 250 {
		t.Errorf("the journal saw %d records", quiet.n)
	}
}

// instant is a journal that is always done.
type instant struct{ n int }

func (j *instant) Submit(_ uint8, _ []byte, done Done) { j.n++; done.Journaled(1, nil) }

// radclient of FreeRADIUS is a peer nobody here wrote.
func TestRadclientIsContent(t *testing.T) {
	t.Parallel()
	program := peers.NeedProgram(t, "radclient")
	n := start(t, nil)
	run := func(addr, kind, secret, attrs string) string {
		cmd := exec.Command(program, "-x", "-r", "1", "-t", "1", addr, kind, secret)
		cmd.Stdin = strings.NewReader(attrs)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	for name, tc := range map[string]struct{ addr, kind, secret, attrs, want string }{
		"PAP":                      {n.auth(), "auth", testSecret, "User-Name=ann,User-Password=secret,Message-Authenticator=0", "Received Access-Accept"},
		"CHAP":                     {n.auth(), "auth", testSecret, "User-Name=ann,CHAP-Password=secret,Message-Authenticator=0", "Received Access-Accept"},
		"the rate limit by name":   {n.auth(), "auth", testSecret, "User-Name=ann,User-Password=secret,Message-Authenticator=0", `Mikrotik-Rate-Limit = "5M/20M"`},
		"a wrong password":         {n.auth(), "auth", testSecret, "User-Name=ann,User-Password=x,Message-Authenticator=0", "Received Access-Reject"},
		"Status-Server, auth":      {n.auth(), "status", testSecret, "Message-Authenticator=0", "Received Access-Accept"},
		"Status-Server, acct":      {n.acct(), "status", testSecret, "Message-Authenticator=0", "Received Accounting-Response"},
		"accounting":               {n.acct(), "acct", testSecret, "User-Name=ann,Acct-Status-Type=Start,Acct-Session-Id=1", "Received Accounting-Response"},
		"a wrong secret":           {n.auth(), "auth", "other", "User-Name=ann,User-Password=secret,Message-Authenticator=0", "No reply from server"},
		"Proxy-State comes back":   {n.auth(), "auth", testSecret, "User-Name=ann,User-Password=secret,Proxy-State=0x6162,Message-Authenticator=0", "Proxy-State = 0x6162"},
		"Proxy-State without M-A":  {n.auth(), "auth", testSecret, "User-Name=ann,User-Password=secret,Proxy-State=0x6162", "No reply from server"},
		"Status-Server needs M-A":  {n.auth(), "status", testSecret, "NAS-Identifier=x", "No reply from server"},
		"an accept is signed, too": {n.auth(), "auth", testSecret, "User-Name=ann,User-Password=secret,Message-Authenticator=0", "Message-Authenticator = 0x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := run(tc.addr, tc.kind, tc.secret, tc.attrs)
			if name == "Status-Server needs M-A" && strings.Contains(out, "Message-Authenticator") {
				t.Skip("this radclient adds Message-Authenticator by itself")
			}
			if received := out[max(0, strings.Index(out, "Received")):]; !strings.Contains(received, tc.want) {
				t.Errorf("got\n%s\nwant %s", out, tc.want)
			}
		})
	}
}

// layeh's client reads our replies.
func TestLayehIsContent(t *testing.T) {
	t.Parallel()
	n := start(t, func(_ *Config, nas *NAS) { nas.RequireMA = Never })
	p := radius.New(radius.CodeAccessRequest, []byte(testSecret))
	if err := rfc2865.UserName_SetString(p, "ann"); err != nil {
		t.Fatal(err)
	}
	if err := rfc2865.UserPassword_SetString(p, "secret"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := radius.Exchange(ctx, p, n.auth())
	if err != nil {
		t.Fatal(err)
	}
	if reply.Code != radius.CodeAccessAccept || rfc2865.FramedIPAddress_Get(reply).String() != "100.64.0.9" {
		t.Errorf("got %s with %s", reply.Code, rfc2865.FramedIPAddress_Get(reply))
	}
}

// No octets a router sends may stop the pipeline or draw an unsigned answer.
func FuzzPipeline(f *testing.F) {
	f.Add(false, forge(f, packet.AccessRequest, 1, ra, true, access("ann"), pap(f, ra, "secret")))
	f.Add(false, forge(f, packet.AccessRequest, 1, ra, false, access("00:e1:0c:38:c8:f8")))
	f.Add(true, forge(f, packet.AccountingRequest, 1, ra, false, packet.AppendUint32(nil, packet.AcctStatusType, 1)))
	f.Add(false, forge(f, packet.AccessRequest, 1, ra, true, access("ann"), packet.Append(nil, packet.EAPMessage, []byte{2, 7, 0, 5, 1})))
	f.Add(false, forge(f, packet.StatusServer, 1, ra, true, packet.AppendString(nil, packet.ProxyState, "one")))
	f.Add(true, forge(f, packet.StatusServer, 1, ra, true))
	s, _ := idle(f, func(_ *Config, nas *NAS) { nas.RequireMA = Never })
	f.Fuzz(func(t *testing.T, accounting bool, b []byte) {
		w := s.workers[0]
		if accounting {
			w = s.workers[1]
		}
		p, err := packet.Trim(bytes.Clone(b))
		if err != nil || !w.begin(source{addr: netip.MustParseAddr("127.0.0.1")}, s.cfg.Now()) {
			return
		}
		packet.NewHasher().SignRequest(w.nas.Secret, p) // let the fuzzer past the signature
		before := bytes.Clone(p)
		a := w.run(p, accounting)
		if !bytes.Equal(before, p) {
			t.Fatal("the request was changed")
		}
		if a == actDrop || a == actSlow {
			return
		}
		if !packet.NewHasher().VerifyReply(w.secret, w.out, packet.Authenticator(p)) ||
			(p[0] != byte(packet.AccountingRequest) && w.out[packet.HeaderLen] != packet.MessageAuthenticator) {
			t.Fatalf("an answer that is not signed: %x", w.out)
		}
	})
}

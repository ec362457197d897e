package radclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"

	"wispgate/aaa/packet"
	"wispgate/edge"
)

// server answers on loopback with whatever answer makes of a request; nil says nothing.
func server(t *testing.T, answer func(pkt []byte) []byte) string {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, packet.MaxLen)
		for {
			n, peer, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if reply := answer(append([]byte(nil), buf[:n]...)); reply != nil {
				_, _ = c.WriteToUDPAddrPort(reply, peer)
			}
		}
	}()
	return c.LocalAddr().String()
}

// sign makes a reply of a code, signed with a secret, with or without Message-Authenticator.
func sign(t *testing.T, secret string, req []byte, code packet.Code, ma bool, attrs ...byte) []byte {
	t.Helper()
	s, err := packet.NewSecret([]byte(secret))
	if err != nil {
		t.Error(err)
	}
	p := packet.Begin(nil, code, req[1], packet.Authenticator(req))
	if ma {
		p = packet.AppendMessageAuthenticator(p)
	}
	p = append(p, attrs...)
	packet.Finish(p)
	packet.NewHasher().SignReply(s, p, packet.Authenticator(req))
	return p
}

func dial(t *testing.T, addr string, opts Options) *Client {
	t.Helper()
	c, err := Dial(addr, []byte("s3cret"), time.Now, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestOnlySignedRepliesAreBelieved(t *testing.T) {
	t.Parallel()
	bent := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	for name, tc := range map[string]struct {
		answer   func(req []byte) []byte
		code     packet.Code
		unsigned bool // allowed
		want     string
	}{
		"signed":               {func(r []byte) []byte { return sign(t, "s3cret", r, packet.AccessAccept, true) }, packet.AccessRequest, false, ""},
		"another secret":       {func(r []byte) []byte { return sign(t, "other", r, packet.AccessAccept, true) }, packet.AccessRequest, false, Forged.Code},
		"no M-A":               {func(r []byte) []byte { return sign(t, "s3cret", r, packet.AccessAccept, false) }, packet.AccessRequest, false, Unsigned.Code},
		"no M-A, allowed":      {func(r []byte) []byte { return sign(t, "s3cret", r, packet.AccessAccept, false) }, packet.AccessRequest, true, ""},
		"bent":                 {func(r []byte) []byte { return bent(sign(t, "s3cret", r, packet.AccessAccept, true)) }, packet.AccessRequest, false, Forged.Code},
		"a code that does not": {func(r []byte) []byte { return sign(t, "s3cret", r, packet.AccountingResponse, true) }, packet.AccessRequest, false, Forged.Code},
		"accounting":           {func(r []byte) []byte { return sign(t, "s3cret", r, packet.AccountingResponse, false) }, packet.AccountingRequest, false, ""},
		"CoA":                  {func(r []byte) []byte { return sign(t, "s3cret", r, packet.CoANAK, false) }, packet.CoARequest, false, ""},
		"silence":              {func([]byte) []byte { return nil }, packet.AccessRequest, false, NoAnswer.Code},
		"rubbish":              {func([]byte) []byte { return []byte("hello") }, packet.AccessRequest, false, NoAnswer.Code},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := Options{Timeout: 5 * time.Second, Tries: 1, AllowUnsigned: tc.unsigned}
			if tc.want != "" {
				opts.Timeout = time.Second // the answer has to be read before it
			}
			_, err := dial(t, server(t, tc.answer), opts).Do(context.Background(), Request{Code: tc.code})
			got := ""
			if e, ok := errors.AsType[*edge.Error](err); ok {
				got = e.Code
			}
			if got != tc.want || (err != nil && got == "") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestARetransmissionIsTheSameOctets(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	addr := server(t, func(r []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if seen = append(seen, string(r)); len(seen) < 3 {
			return nil
		}
		return sign(t, "s3cret", r, packet.AccessAccept, true)
	})
	pw := "pw"
	r, err := dial(t, addr, Options{Timeout: 50 * time.Millisecond, Tries: 20}).Do(context.Background(), Request{Code: packet.AccessRequest, Password: &pw})
	if err != nil || r.Sent < 3 {
		t.Fatalf("got %+v, %v", r, err)
	}
	mu.Lock()
	defer mu.Unlock()
	for i := range seen {
		if seen[i] != seen[0] {
			t.Errorf("datagram %d differs from the first", i)
		}
	}
}

func TestManyShareOneSocket(t *testing.T) {
	t.Parallel()
	addr := server(t, func(r []byte) []byte {
		var a packet.Attrs
		if a.Parse(r) != nil {
			return nil
		}
		return sign(t, "s3cret", r, packet.AccessAccept, true, packet.Append(nil, packet.UserName, a.Get(packet.UserName))...)
	})
	c := dial(t, addr, Options{Timeout: 5 * time.Second})
	var wg sync.WaitGroup
	for i := range 600 { // more than there are Identifiers
		wg.Go(func() {
			want := fmt.Sprint("user", i)
			r, err := c.Do(context.Background(), Request{Code: packet.AccessRequest, Attrs: packet.AppendString(nil, packet.UserName, want)})
			if err != nil {
				t.Error(err)
				return
			}
			if a, _ := r.Attrs(); string(a.Get(packet.UserName)) != want {
				t.Errorf("got %s's answer, want %s's", a.Get(packet.UserName), want)
			}
		})
	}
	wg.Wait()
}

func TestCloseEndsWaiting(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 1)
	c := dial(t, server(t, func([]byte) []byte { arrived <- struct{}{}; return nil }), Options{Timeout: 5 * time.Second})
	done := make(chan error, 1)
	go func() {
		_, err := c.Do(context.Background(), Request{Code: packet.StatusServer})
		done <- err
	}()
	<-arrived
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want closed", err)
	}
}

// A program that got no processor for a while finds the reply and the end of its patience at once.
func TestAReplyThatIsThereIsNoSilence(t *testing.T) {
	t.Parallel()
	c := dial(t, server(t, func([]byte) []byte { return nil }), Options{Timeout: time.Nanosecond, Tries: 1})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 64 { // a coin at a time
		reply := make(chan []byte, 1)
		reply <- []byte{byte(packet.AccessAccept)}
		if got, err := c.exchange(ended, []byte("?"), 0, reply); err != nil || got.Code != packet.AccessAccept {
			t.Fatalf("got %v, %v; want the reply", got.Code, err)
		}
	}
}

// layeh's server reads what we write: names, hidden passwords, CHAP is checked elsewhere.
func TestAPeerReadsOurPassword(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	addr := server(t, func(r []byte) []byte {
		p, err := radius.Parse(r, []byte("s3cret"))
		if err == nil {
			got <- rfc2865.UserName_GetString(p) + "/" + rfc2865.UserPassword_GetString(p)
		}
		return sign(t, "s3cret", r, packet.AccessAccept, true)
	})
	pw := "correct horse battery staple"
	if _, err := dial(t, addr, Options{Timeout: 5 * time.Second}).Do(context.Background(), Request{
		Code: packet.AccessRequest, Attrs: packet.AppendString(nil, packet.UserName, "ann"), Password: &pw,
	}); err != nil {
		t.Fatal(err)
	}
	if got := <-got; got != "ann/"+pw {
		t.Errorf("got %q", got)
	}
}

func TestTheProbeNamesTheStage(t *testing.T) {
	t.Parallel()
	status := func(r []byte) []byte {
		if packet.Code(r[0]) == packet.StatusServer {
			return sign(t, "s3cret", r, packet.AccessAccept, true)
		}
		return nil
	}
	reject := func(attrs ...byte) func([]byte) []byte {
		return func(r []byte) []byte {
			if b := status(r); b != nil {
				return b
			}
			return sign(t, "s3cret", r, packet.AccessReject, true, attrs...)
		}
	}
	for name, tc := range map[string]struct {
		auth, acct    func([]byte) []byte
		step          int
		stage, reason string
	}{
		"nobody there":         {func([]byte) []byte { return nil }, nil, 0, "nas or integrity", NoAnswer.Code},
		"another secret":       {func(r []byte) []byte { return sign(t, "x", r, packet.AccessAccept, true) }, nil, 0, "integrity", Forged.Code},
		"a login in the pause": {status, nil, 1, "limit", Ignored.Code},
		"a wrong password":     {reject(), nil, 1, "authenticate", Refused.Code},
		"suspended":            {reject(packet.AppendString(nil, packet.ReplyMessage, "unpaid")...), nil, 1, "authorise", Barred.Code},
		"a full disk":          {status, func([]byte) []byte { return nil }, 2, "reply", Deferred.Code},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Probe{Auth: server(t, tc.auth), Secret: []byte("s3cret"), Login: "ann", Now: time.Now, Options: Options{Timeout: time.Second, Tries: 1}}
			if tc.acct != nil {
				p.Acct = server(t, tc.acct)
			}
			steps, err := p.Run(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			s := steps[tc.step]
			if s.OK || s.Stage != tc.stage || s.Reason.Code != tc.reason || s.Reason.Fix == "" {
				t.Errorf("got %+v, want %s at %s", s, tc.reason, tc.stage)
			}
		})
	}
}

func TestALoadCountsWhatIsLostAndWhatIsForged(t *testing.T) {
	t.Parallel()
	n := 0
	addr := server(t, func(r []byte) []byte {
		switch n++; n % 4 {
		case 0:
			return nil
		case 1:
			return sign(t, "x", r, packet.AccessAccept, true)
		}
		return sign(t, "s3cret", r, packet.AccessAccept, true)
	})
	res, err := Load{
		Server: addr, Secret: []byte("s3cret"), Requests: 400, Window: 100, Code: packet.AccessRequest, Now: time.Now, Wait: time.Second,
	}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if res.Sent != 400 || res.Good != 200 || res.Lost != 200 || res.Bad != 100 {
		t.Errorf("got %+v, want 400 sent, 200 good, 200 lost of which 100 bad", res)
	}
}

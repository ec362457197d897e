package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func secret(t testing.TB, s string) *Secret {
	t.Helper()
	x, err := NewSecret([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// The examples of RFC 2865 §7.1 and §7.2: secret xyzzy5461, users nemo (PAP, arctangent) and flopsy (CHAP).
const (
	rfcPAP       = "010000380f403f9473978057bd83d5cb98f4227a01066e656d6f02120dbe708d93d413ce3196e43f782a0aee0406c0a80110050600000003"
	rfcPAPAccept = "0200002686fe220e7624ba2a1005f6bf9b55e0b20606000000010f06000000000e06c0a80103"
	rfcCHAP      = "010100472aee86f08d0d55969ca5978e0d3367a20108666c6f707379031316e97557c316185895f293ff63440772750406c0a8011005060000001406060000000207" +
		"0600000001"
)

func TestThePAPExampleOfRFC2865(t *testing.T) {
	t.Parallel()
	x, s := NewHasher(), secret(t, "xyzzy5461")
	req := unhex(t, rfcPAP)
	var a Attrs
	if err := a.Parse(req); err != nil {
		t.Fatal(err)
	}
	var buf [MaxPassword]byte
	pw, ok := x.Reveal(&buf, s, a.Get(UserPassword), Authenticator(req))
	if !ok || string(pw) != "arctangent" {
		t.Errorf("got %q %v, want arctangent", pw, ok)
	}
	if got := x.Hide(nil, s, []byte("arctangent"), Authenticator(req)); !bytes.Equal(got, a.Get(UserPassword)) {
		t.Errorf("hidden: got %x, want %x", got, a.Get(UserPassword))
	}
	reply := unhex(t, rfcPAPAccept)
	if !x.VerifyReply(s, reply, Authenticator(req)) {
		t.Error("the accept of the RFC does not verify")
	}
	signed := bytes.Clone(reply)
	clear(Authenticator(signed))
	if x.SignReply(s, signed, Authenticator(req)); !bytes.Equal(signed, reply) {
		t.Errorf("signed: got %x, want %x", signed, reply)
	}
	if x.VerifyReply(secret(t, "xyzzy5462"), reply, Authenticator(req)) {
		t.Error("a reply verified with a wrong secret")
	}
}

func TestTheCHAPExampleOfRFC2865(t *testing.T) {
	t.Parallel()
	req := unhex(t, rfcCHAP)
	pkt, err := Trim(req)
	if err != nil {
		t.Fatal(err)
	}
	var a Attrs
	if err := a.Parse(pkt); err != nil {
		t.Fatal(err)
	}
	v := a.Get(CHAPPassword)
	if len(v) != CHAPSize {
		t.Fatalf("got %d octets, want %d", len(v), CHAPSize)
	}
	// The RFC names the password "arctangent" for this user, too.
	if got := NewHasher().CHAP(v[0], []byte("arctangent"), Authenticator(pkt)); !bytes.Equal(got, v[1:]) {
		t.Errorf("got %x, want %x", got, v[1:])
	}
}

func TestPasswordsOfEverySizeComeBack(t *testing.T) {
	t.Parallel()
	x, s, ra := NewHasher(), secret(t, "s"), bytes.Repeat([]byte{7}, 16)
	var buf [MaxPassword]byte
	for n := range MaxPassword + 1 {
		want := bytes.Repeat([]byte{'p'}, n)
		hidden := x.Hide(nil, s, want, ra)
		theirs, err := radius.NewUserPassword(want, []byte("s"), ra)
		if err != nil || !bytes.Equal(hidden, theirs) {
			t.Fatalf("%d: got %x, peer %x (%v)", n, hidden, theirs, err)
		}
		if got, ok := x.Reveal(&buf, s, hidden, ra); !ok || !bytes.Equal(got, want) {
			t.Errorf("%d: got %q %v", n, got, ok)
		}
	}
	for _, n := range []int{1, 15, 17, 144} {
		if _, ok := x.Reveal(&buf, s, make([]byte, n), ra); ok {
			t.Errorf("a hidden password of %d octets was taken", n)
		}
	}
	if pw, ok := x.Reveal(&buf, s, nil, ra); !ok || len(pw) != 0 {
		t.Errorf("an empty value: got %q %v, want an empty password", pw, ok)
	}
}

func TestDatagramsAreBounded(t *testing.T) {
	t.Parallel()
	pkt := func(length int, attrs string) []byte {
		b := make([]byte, HeaderLen, HeaderLen+len(attrs))
		b[2], b[3] = byte(length>>8), byte(length)
		return append(b, unhex(t, attrs)...)
	}
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"a header alone":              {pkt(20, ""), nil},
		"padding is cut":              {pkt(23, "010361ffff"), nil},
		"nothing":                     {nil, errShort},
		"19 octets":                   {make([]byte, 19), errShort},
		"length below a header":       {pkt(19, ""), errLength},
		"length past the datagram":    {pkt(21, ""), errLength},
		"length past 4096":            {append(pkt(4097, ""), make([]byte, 5000)...), errLength},
		"an attribute of length 0":    {pkt(22, "0100"), errAttribute},
		"an attribute of length 1":    {pkt(22, "0101"), errAttribute},
		"an attribute past the end":   {pkt(23, "010461"), errAttribute},
		"half an attribute header":    {pkt(21, "01"), errAttribute},
		"an empty attribute is legal": {pkt(22, "0102"), nil},
		"200 attributes":              {pkt(20+400, repeat("2102", 200)), nil},
		"201 attributes":              {pkt(20+402, repeat("2102", 201)), errMany},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var a Attrs
			p, err := Trim(tc.in)
			if err == nil {
				err = a.Parse(p)
			}
			if !errors.Is(err, tc.want) || (err != nil && !errors.Is(err, ErrMalformed)) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func repeat(s string, n int) (out string) {
	for range n {
		out += s
	}
	return out
}

func TestAttributesAreFound(t *testing.T) {
	t.Parallel()
	p := Begin(nil, AccessRequest, 1, make([]byte, 16))
	p = AppendString(p, ProxyState, "a")
	p = AppendString(p, UserName, "ann")
	p = AppendString(p, ProxyState, "b")
	p = AppendVendor(p, 9, 1, []byte("other vendor"))
	p = append(p, VendorSpecific, 2+4+6+5, 0, 0, 0x3a, 0x8c, 3, 6, '1', '2', '3', '4', 8, 5, 'x', 'y', 'z') // two in one
	p = AppendVendorUint32(p, 14988, 17, 77)
	Finish(p)
	var a Attrs
	if err := a.Parse(p); err != nil {
		t.Fatal(err)
	}
	var states []string
	for i := a.First(ProxyState); i >= 0; i = a.Next(i) {
		_, v := a.At(i)
		states = append(states, string(v))
	}
	if fmt.Sprint(states) != "[a b]" {
		t.Errorf("got %v, want [a b]", states)
	}
	if string(a.Get(UserName)) != "ann" || a.Has(UserPassword) || a.Get(UserPassword) != nil {
		t.Error("get and has disagree with the packet")
	}
	for typ, want := range map[byte]string{3: "1234", 8: "xyz", 17: "\x00\x00\x00M", 1: ""} {
		if got := string(a.Vendor(14988, typ)); got != want {
			t.Errorf("vendor attribute %d: got %q, want %q", typ, got, want)
		}
	}
}

func TestMessageAuthenticators(t *testing.T) {
	t.Parallel()
	x := NewHasher()
	for _, key := range []string{"s", "testing123", repeat("long", 16), repeat("longer than a block", 4)} {
		s := secret(t, key)
		for _, code := range []Code{AccessRequest, StatusServer, AccountingRequest, CoARequest, DisconnectRequest} {
			p := AppendMessageAuthenticator(Begin(nil, code, 9, bytes.Repeat([]byte{3}, 16)))
			p = AppendString(p, UserName, "ann")
			Finish(p)
			x.SignRequest(s, p)
			auth := Authenticator(p)
			computed := code != AccessRequest && code != StatusServer
			if computed {
				auth = Zeros()
				if !x.VerifyRequest(s, p) || !radius.IsAuthenticRequest(p, []byte(key)) {
					t.Errorf("%s, %s: the authenticator does not verify", key, code)
				}
			}
			before := bytes.Clone(p)
			if !x.VerifyMessageAuthenticator(s, p, HeaderLen+2, auth) || !bytes.Equal(before, p) {
				t.Errorf("%s, %s: does not verify, or the packet was left changed", key, code)
			}
			for i := range p {
				if p[i] ^= 1; i >= HeaderLen+2 && x.VerifyMessageAuthenticator(s, p, HeaderLen+2, auth) {
					t.Errorf("%s: octet %d changed and it verified", code, i)
				}
				p[i] ^= 1
			}
		}
	}
}

// The HMAC is checked against an independent implementation in the standard library by way of a fixed vector.
func TestTheStatusServerExampleOfRFC5997(t *testing.T) {
	t.Parallel()
	x, s := NewHasher(), secret(t, "xyzzy5461")
	req := unhex(t, "0cda00268a54f4686fb394c52866e302185d062350125a665e2e1e8411f3e243822097c84fa3")
	if !x.VerifyMessageAuthenticator(s, req, HeaderLen+2, Authenticator(req)) {
		t.Error("the Status-Server of RFC 5997 §6.1 does not verify")
	}
	reply := unhex(t, "02da0014ef0d552a4bf2d693ec2b6fe8b5411d66")
	if !x.VerifyReply(s, reply, Authenticator(req)) {
		t.Error("the answer of RFC 5997 §6.1 does not verify")
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	s := secret(t, "hush-hush")
	if got := fmt.Sprintf("%v %+v %#v %s", s, s, s, s); got != "*** *** *** ***" {
		t.Errorf("got %s", got)
	}
	for _, key := range [][]byte{nil, make([]byte, 256)} {
		if _, err := NewSecret(key); err == nil {
			t.Errorf("a secret of %d octets was taken", len(key))
		}
	}
}

func TestMACsInEveryNotation(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"00:E1:0C:38:C8:F8": "00:E1:0C:38:C8:F8", "00-e1-0c-38-c8-f8": "00:E1:0C:38:C8:F8",
		"00e1.0c38.c8f8": "00:E1:0C:38:C8:F8", "00e10c38c8f8": "00:E1:0C:38:C8:F8", "00e10c-38c8f8": "00:E1:0C:38:C8:F8",
		"1:0:e1:c:38:c8:f8": "00:E1:0C:38:C8:F8", "01:00:e1:0c:38:c8:f8": "00:E1:0C:38:C8:F8", "0:e1:c:38:c8:f8": "00:E1:0C:38:C8:F8",
		"": "", "ann": "", "00:E1:0C:38:C8": "", "00:E1:0C:38:C8:F8:11:22": "", "2:0:e1:c:38:c8:f8": "", "00:E1-0C:38:C8:F8": "",
		"00:E1:0C:38:C8:G8": "", "000:E1:0C:38:C8:F": "", "10.100.200.30": "", "00000000-0000": "", "00:00:00:00:00:00": "",
		"00e1.0c38.c8f": "", ":::::00e10c38": "", "00e10c38c8f8a": "", "1:0:e1:c:38:c8:": "", "123456789012345678": "",
	} {
		got, ok := ParseMAC([]byte(in))
		if got.String() != want || ok != (want != "") {
			t.Errorf("%q: got %s %v, want %q", in, got, ok, want)
		}
	}
}

func TestReadingAndSigningAllocateNothing(t *testing.T) {
	x, s := NewHasher(), secret(t, "testing123")
	p := AppendMessageAuthenticator(Begin(nil, AccessRequest, 9, bytes.Repeat([]byte{3}, 16)))
	p = append(p, UserPassword, 18)
	p = x.Hide(p, s, []byte("pw"), bytes.Repeat([]byte{3}, 16))
	Finish(p)
	x.SignRequest(s, p)
	var a Attrs
	buf := new([MaxPassword]byte)
	mac := []byte("00:E1:0C:38:C8:F8")
	if n := testing.AllocsPerRun(100, func() {
		if a.Parse(p) != nil || !x.VerifyMessageAuthenticator(s, p, HeaderLen+2, Authenticator(p)) {
			t.Fatal("does not verify")
		}
		x.Reveal(buf, s, a.Get(UserPassword), Authenticator(p))
		x.CHAP(1, buf[:4], Authenticator(p))
		ParseMAC(mac)
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, rfcPAP))
	f.Add(unhex(f, rfcPAPAccept))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Trim(b)
		if err != nil {
			return
		}
		var a Attrs
		if a.Parse(p) != nil {
			return
		}
		theirs, err := radius.Parse(p, []byte("s"))
		if err != nil {
			t.Fatalf("we read what the peer refuses: %v", err)
		}
		if got, want := a.Get(UserName), rfc2865.UserName_Get(theirs); string(got) != string(want) {
			t.Fatalf("user name: got %q, peer %q", got, want)
		}
		total := HeaderLen
		for i := range a.Len() {
			_, v := a.At(i)
			total += 2 + len(v)
		}
		if total != len(p) {
			t.Fatalf("attributes cover %d of %d octets", total, len(p))
		}
		a.Vendor(14988, 8)
		for typ := range 256 {
			for i := a.First(byte(typ)); i >= 0; i = a.Next(i) {
				if got, _ := a.At(i); got != byte(typ) {
					t.Fatalf("index of type %d names type %d", typ, got)
				}
			}
		}
	})
}

func FuzzParseMAC(f *testing.F) {
	f.Add([]byte("1:0:e1:c:38:c8:f8"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := ParseMAC(b)
		if ok == m.IsZero() {
			t.Fatalf("ok %v with %s", ok, m)
		}
		if again, _ := ParseMAC([]byte(m.String())); again != m {
			t.Fatalf("got %s, want %s", again, m)
		}
	})
}

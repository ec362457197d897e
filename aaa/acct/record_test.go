package acct

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wispgate/aaa/packet"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func full() Record {
	return Record{
		Status: Interim, Flags: HasInput | HasOutput | HasGigawords | HasSessionTime | HasEventTime, Arrived: 1767225600123456789,
		InputOctets: 1<<40 + 7, OutputOctets: 1<<63 + 9, InputPackets: 1, OutputPackets: 2, SessionTime: 3600, DelayTime: 4,
		EventTime: 1767225600, NASPort: 15728640, TerminateCause: 1, ServiceType: 2, NASPortType: 15,
		MAC:      packet.MAC{0, 1, 2, 3, 4, 5},
		FramedIP: netip.MustParseAddr("100.64.0.9"), Framed6: netip.MustParsePrefix("2001:db8:1::/64"),
		Delegated: netip.MustParsePrefix("2001:db8:8000::/56"), Source: netip.MustParseAddr("10.0.0.1"),
		Tenant: []byte("tnt"), NAS: []byte("nas_1"), SessionID: []byte("81a00001"), MultiSessionID: []byte("m"),
		UserName: []byte("ann"), Class: []byte{0, 255}, NASPortID: []byte("ether1"), NASIdentifier: []byte("tower-3"),
		CallingStation: []byte("00:01:02:03:04:05"), CalledStation: []byte("pppoe"),
	}
}

func TestARecordComesBackAsItWent(t *testing.T) {
	t.Parallel()
	empty := Record{Status: 99}
	for _, f := range empty.fields() {
		*f = []byte{}
	}
	for _, want := range []Record{full(), empty} {
		b := want.Append(nil)
		var got Record
		if err := got.Decode(b); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, compare); d != "" {
			t.Error(d)
		}
		for n := range b {
			if err := new(Record).Decode(b[:n]); !errors.Is(err, ErrRecord) {
				t.Fatalf("cut at %d: got %v, want ErrRecord", n, err)
			}
		}
		if err := new(Record).Decode(append(b, 0)); !errors.Is(err, ErrRecord) {
			t.Errorf("an octet too many: got %v, want ErrRecord", err)
		}
	}
}

// The bytes on disk outlive the program that wrote them.
func TestTheRecordsBytesAreGolden(t *testing.T) {
	t.Parallel()
	const want = "0103002f18867251f555cd15878080808020898080808080808080010102901c0480f2d6ca068080c0070102" +
		"0f000102030405046440000910" + "20010db8000100000000000000000000" + "4010" + "20010db8800000000000000000000000" + "38" +
		"040a000001" + "03746e74056e61735f310838316130303030" + "31016d03616e6e0200ff066574686572310774" + "6f7765722d33" +
		"1130303a30313a30323a30333a30343a3035" + "05" + "7070706f65"
	r := full()
	if got := hex.EncodeToString(r.Append(nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestValuesLongerThanAnAttributeStayBounded(t *testing.T) {
	t.Parallel()
	r := full()
	for _, f := range r.fields() {
		*f = bytes.Repeat([]byte{'x'}, 5000)
	}
	b := r.Append(nil)
	if len(b) > MaxSize {
		t.Errorf("got %d octets, want at most %d", len(b), MaxSize)
	}
	if err := new(Record).Decode(b); err != nil {
		t.Error(err)
	}
}

func request(t *testing.T, attrs ...[]byte) *packet.Attrs {
	t.Helper()
	p := packet.Begin(nil, packet.AccountingRequest, 1, make([]byte, 16))
	for _, a := range attrs {
		p = append(p, a...)
	}
	packet.Finish(p)
	var a packet.Attrs
	if err := a.Parse(p); err != nil {
		t.Fatal(err)
	}
	return &a
}

func TestARecordIsReadFromAPacket(t *testing.T) {
	t.Parallel()
	var r Record
	ok := r.FromPacket(request(t,
		packet.AppendUint32(nil, packet.AcctStatusType, 3),
		packet.AppendUint32(nil, packet.AcctInputOctets, 5),
		packet.AppendUint32(nil, packet.AcctInputGigawords, 2),
		packet.AppendUint32(nil, packet.AcctOutputOctets, 7),
		packet.AppendUint32(nil, packet.AcctSessionTime, 0),
		packet.Append(nil, packet.FramedIPAddress, []byte{100, 64, 0, 9}),
		packet.Append(nil, packet.DelegatedIPv6Prefix, []byte{0, 56, 0x20, 1, 0xd, 0xb8, 0, 0, 1, 7}),
		packet.AppendString(nil, packet.CallingStationID, "1:0:e1:c:38:c8:f8"),
	))
	if !ok || r.Status != Interim || r.InputOctets != 2<<32|5 || r.OutputOctets != 7 {
		t.Errorf("got %v %+v, want interim with 2<<32|5 and 7 octets", ok, r)
	}
	if want := HasInput | HasOutput | HasGigawords | HasSessionTime; r.Flags != want {
		t.Errorf("flags: got %b, want %b", r.Flags, want)
	}
	if r.MAC.String() != "00:E1:0C:38:C8:F8" || r.Delegated.String() != "2001:db8:0:100::/56" {
		t.Errorf("got %s %s", r.MAC, r.Delegated)
	}
	if r.FromPacket(request(t)) {
		t.Error("a packet without Acct-Status-Type was taken as readable")
	}
}

func TestOddPrefixesAreAsAbsent(t *testing.T) {
	t.Parallel()
	for _, v := range [][]byte{{}, {0}, {0, 129}, {0, 64}, {0, 64, 1, 2, 3}, make([]byte, 19)} {
		if p := prefix(v); p.IsValid() {
			t.Errorf("%x: got %s, want none", v, p)
		}
	}
}

func TestAClassIsTrustedOnlyWithItsSignature(t *testing.T) {
	t.Parallel()
	s := NewClassSigner([32]byte{1})
	c := Class{Tenant: []byte("tnt"), Credential: []byte("crd_1"), Node: 3, Revision: 9, Session: 1 << 60}
	attr := s.Append(nil, &c)
	if int(attr[1]) != len(attr) || attr[0] != packet.Class {
		t.Fatalf("header: got %x", attr[:2])
	}
	got, ok := s.Parse(attr[2:])
	if d := cmp.Diff(c, got); !ok || d != "" {
		t.Errorf("ok %v, %s", ok, d)
	}
	for i := range attr[2:] {
		bent := bytes.Clone(attr[2:])
		bent[i] ^= 1
		if _, ok := s.Parse(bent); ok {
			t.Errorf("octet %d changed and the class was trusted", i)
		}
		if _, ok := s.Parse(bent[:i]); ok {
			t.Errorf("cut at %d and the class was trusted", i)
		}
	}
	if _, ok := NewClassSigner([32]byte{2}).Parse(attr[2:]); ok {
		t.Error("a class signed with another key was trusted")
	}
}

func TestEncodingAllocatesNothing(t *testing.T) {
	r, buf := full(), make([]byte, 0, MaxSize)
	var back Record
	s := NewClassSigner([32]byte{1})
	c := Class{Tenant: []byte("tnt"), Credential: []byte("crd_1")}
	if n := testing.AllocsPerRun(100, func() {
		buf = r.Append(buf[:0])
		_ = back.Decode(buf)
		buf = s.Append(buf[:0], &c)
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func FuzzDecode(f *testing.F) {
	r := full()
	f.Add(r.Append(nil))
	f.Add([]byte{1})
	// a last value of 255 octets, where an attribute has 253 at most
	r.CalledStation = nil
	long := r.Append(nil)
	f.Add(append(append(long[:len(long)-1], 255), make([]byte, 255)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again Record
		if r.Decode(b) != nil {
			return
		}
		if err := again.Decode(r.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, again, compare); d != "" {
			t.Fatal(d)
		}
	})
}

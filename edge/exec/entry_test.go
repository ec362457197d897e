package exec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"pgregory.net/rapid"
)

func genOp(t *rapid.T) Op {
	o := Op{Key: "\x01" + rapid.StringN(0, 60, 120).Draw(t, "key")}
	if rapid.Bool().Draw(t, "delete") {
		o.Delete = true
	} else {
		o.Val = rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "val")
	}
	return o
}

func genEntry(t *rapid.T) Entry {
	return Entry{
		Base: rapid.Uint64().Draw(t, "base"),
		Time: rapid.Int64().Draw(t, "time"),
		Term: rapid.Uint64Range(0, maxTerm).Draw(t, "term"),
		Ops:  rapid.SliceOfN(rapid.Custom(genOp), 0, 40).Draw(t, "ops"),
	}
}

func sameEntry(a, b Entry) bool {
	if a.Base != b.Base || a.Time != b.Time || a.Term != b.Term || len(a.Ops) != len(b.Ops) {
		return false
	}
	for i := range a.Ops {
		x, y := a.Ops[i], b.Ops[i]
		if x.Key != y.Key || x.Delete != y.Delete || !bytes.Equal(x.Val, y.Val) {
			return false
		}
	}
	return true
}

func TestAnEntryDecodesToWhatWasEncoded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := genEntry(t)
		raw := e.Append([]byte("before"))
		if !bytes.HasPrefix(raw, []byte("before")) {
			t.Fatal("Append did not append")
		}
		got, err := DecodeEntry(raw[len("before"):])
		if err != nil || !sameEntry(got, e) {
			t.Fatalf("got %+v, %v; want %+v", got, err, e)
		}
		if got, err = DecodeEntry(Pack(raw[len("before"):])); err != nil || !sameEntry(got, e) {
			t.Fatalf("packed: got %+v, %v; want %+v", got, err, e)
		}
		if len(raw) > len("before")+cost(e.Ops)+entryFixed {
			t.Fatalf("an entry of cost %d took %d octets: Fits promises too much", cost(e.Ops), len(raw))
		}
	})
}

func TestAnEntryWithAnyOctetChangedIsRefused(t *testing.T) {
	t.Parallel()
	ops := []Op{{Key: "crm/1", Val: []byte("a")}, {Key: "crm/2", Delete: true}, {Key: "crm/3", Val: bytes.Repeat([]byte("again "), 20)}}
	plain := Entry{Base: 7, Time: 99, Ops: ops}.Append(nil)
	packed := Pack(plain)
	if packed[0] != entryPacked || len(packed) >= len(plain) {
		t.Fatal("nothing was packed")
	}
	for _, raw := range [][]byte{plain, Entry{Base: 7, Time: 99, Term: 3, Ops: ops}.Append(nil), packed} {
		for i := range raw {
			bad := bytes.Clone(raw)
			bad[i] ^= 0x40
			if _, err := DecodeEntry(bad); !errors.Is(err, ErrUndecodable) {
				t.Errorf("format %d, octet %d changed: got %v, want ErrUndecodable", raw[0], i, err)
			}
			if _, err := DecodeEntry(raw[:i]); !errors.Is(err, ErrUndecodable) {
				t.Errorf("format %d, cut at %d: got %v, want ErrUndecodable", raw[0], i, err)
			}
		}
	}
}

// seal makes a body with a right checksum, to reach what lies behind it.
func seal(body ...byte) []byte {
	return binary.LittleEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
}

func TestSealedNonsenseIsRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", MaxOpKey+1)
	for name, raw := range map[string][]byte{
		"nothing":                    {},
		"no body":                    seal(1),
		"newer format":               seal(4, 0, 0, 0),
		"term 0 in the format of it": seal(2, 0, 0, 0, 0),
		"term beyond the limit":      seal(2, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 0),
		"trailing octets":            seal(1, 0, 0, 0, 9),
		"count without operations":   seal(1, 0, 0, 5),
		"count beyond the limit":     seal(1, 0, 0, 0xff, 0xff, 0x7f),
		"shared without a key":       seal(1, 0, 0, 1, 2, 1, 'a', 0),
		"empty key":                  seal(1, 0, 0, 1, 0, 0, 0),
		"reserved key":               seal(1, 0, 0, 1, 0, 1, 0, 0),
		"value beyond the end":       seal(1, 0, 0, 1, 0, 1, 'a', 9, 'x'),
		"number longer than needed":  seal(1, 0x80, 0, 0, 0),
		"key length overflows":       seal(1, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
		"key too long":               Entry{Ops: []Op{{Key: long}}}.Append(nil),
		"packed nothing":             seal(3),
		"packed without octets":      seal(3, 0),
		"packed in what is packed":   seal(append([]byte{3}, s2.Encode(nil, []byte{3, 2, 4, 1, 0, 0, 0})...)...),
		"packed and cut":             seal(append([]byte{3}, s2.Encode(nil, make([]byte, 1000))[:5]...)...),
		"packed beyond the limit":    seal(append([]byte{3}, s2.Encode(nil, make([]byte, MaxEntry))...)...),
		"packed nonsense":            seal(append([]byte{3}, s2.Encode(nil, []byte{1, 0, 0, 5})...)...),
		"too many octets when whole": Entry{Ops: many(1999, strings.Repeat("k", 1000))}.Append(nil),
	} {
		if _, err := DecodeEntry(raw); !errors.Is(err, ErrUndecodable) {
			t.Errorf("%s: got %v, want ErrUndecodable", name, err)
		}
	}
}

func many(n int, prefix string) []Op {
	ops := make([]Op, n)
	for i := range ops {
		ops[i] = Op{Key: prefix + string(rune('a'+i%26)), Delete: true}
	}
	return ops
}

func TestTheLargestEntryThatFitsDecodes(t *testing.T) {
	t.Parallel()
	op := Op{Key: "k"}
	op.Val = make([]byte, MaxEntry-entryFixed-op.Cost())
	if !Fits(1, op.Cost()) || Fits(1, op.Cost()+1) || Fits(MaxOps+1, 0) {
		t.Fatal("Fits is off its bounds")
	}
	raw := Entry{Base: 1 << 63, Time: -1 << 63, Term: maxTerm, Ops: []Op{op}}.Append(nil)
	if len(raw) > MaxEntry {
		t.Fatalf("got %d octets, want at most %d", len(raw), MaxEntry)
	}
	for _, raw := range [][]byte{raw, Pack(raw)} {
		if _, err := DecodeEntry(raw); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatDoesNotPackStaysAsItIs(t *testing.T) {
	t.Parallel()
	raw := Entry{Base: 1, Ops: []Op{{Key: "k", Val: []byte("brief")}}}.Append(nil)
	if got := Pack(raw); !bytes.Equal(got, raw) {
		t.Errorf("got %x, want the entry as it was", got)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(Entry{}.Append(nil))
	f.Add(Entry{Base: 1 << 40, Time: 1, Ops: []Op{{Key: "a", Val: []byte("v")}, {Key: "ab", Delete: true}}}.Append(nil))
	f.Add(seal(1, 0, 0, 1, 2, 1, 'a', 0))
	f.Add(Entry{Base: 3, Time: 1, Term: 9, Ops: []Op{{Key: "a", Val: []byte("v")}}}.Append(nil))
	f.Add(Pack(Entry{Base: 3, Time: 1, Ops: []Op{{Key: "a", Val: make([]byte, 300)}}}.Append(nil)))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Most mutations die at the checksum, so the same octets are tried with a right one too.
		for _, raw := range [][]byte{data, seal(bytes.Clone(data)...)} {
			e, err := DecodeEntry(raw)
			if err != nil {
				if !errors.Is(err, ErrUndecodable) {
					t.Fatalf("got %v, want ErrUndecodable", err)
				}
				continue
			}
			again, err := DecodeEntry(e.Append(nil))
			if err != nil || !sameEntry(again, e) {
				t.Fatalf("decoded, but does not survive encoding again: %v", err)
			}
		}
	})
}

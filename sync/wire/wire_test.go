package wire_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/edge"
	"wispgate/sync/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, diff)
	}
}

func row(position uint64, n int) edge.EventRow {
	return edge.EventRow{
		ID: edge.DeriveID("evt", "op", int(position)*100+n), Type: "crm.customer.created", Tenant: "acme",
		Subject: "cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Actor: "cli_1",
		Operation: "0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", Changed: json.RawMessage(`{"id": "cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"}`),
		Object: json.RawMessage(`{"name": "Ana <ana@example.net>"}`), Position: position,
	}
}

func item(t testing.TB, position uint64, n int) wire.Item {
	t.Helper()
	it, err := wire.NewItem("clu-1", row(position, n), "")
	if err != nil {
		t.Fatal(err)
	}
	return it
}

func head(after, upto uint64) wire.Header {
	return wire.Header{Tenant: "acme", Source: "clu-1", Incarnation: "i1", After: after, Upto: upto}
}

func encode(t testing.TB, h wire.Header, items ...wire.Item) []byte {
	t.Helper()
	raw, err := new(wire.Encoder).Encode(h, items)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func unzip(t *testing.T, raw []byte) []byte {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(zr); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zip(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write(plain)
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEnvelopeAndMessagesKeepTheirShape(t *testing.T) {
	t.Parallel()
	golden(t, "event.json", append(item(t, 7, 0).Raw, '\n'))
	removed := row(8, 0)
	removed.Object = nil
	it, err := wire.NewItem("clu-1", removed, "story-9")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "event_removed.json", append(it.Raw, '\n'))
	h := head(6, 9)
	h.Base, h.Previous = 2, it.Digest()
	golden(t, "batch.ndjson", unzip(t, encode(t, h, item(t, 7, 0), item(t, 7, 1), item(t, 9, 0))))
	golden(t, "state.json", wire.Encode(wire.State{
		Incarnation: "i1", Online: true, Node: "tower-1", Session: "s1", BootID: "b", Version: "1.0.0", Acked: 3, Last: 9,
		Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}))
	golden(t, "ack.json", wire.Encode(wire.Ack{Incarnation: "i1", Upto: 9, Session: "s1"}))
	golden(t, "nack.json", wire.Encode(wire.Nack{Incarnation: "i1", After: 4}))
}

func TestBatchComesBackAsItWasSent(t *testing.T) {
	t.Parallel()
	var enc wire.Encoder
	var dec wire.Decoder
	for range 2 { // the second round runs on the kept buffers
		want := []wire.Item{item(t, 7, 0), item(t, 7, 1), item(t, 9, 0)}
		h := head(6, 12)
		raw, err := enc.Encode(h, want)
		if err != nil {
			t.Fatal(err)
		}
		gotHead, got, err := dec.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		h.Format, h.Events = 1, 3
		if diff := cmp.Diff(h, gotHead); diff != "" {
			t.Errorf("header (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("items (-want +got):\n%s", diff)
		}
		if _, none, err := dec.Decode(encode(t, head(12, 40))); err != nil || len(none) != 0 {
			t.Errorf("empty batch: got %d items, %v", len(none), err)
		}
	}
}

func TestUnknownAttributesTravel(t *testing.T) {
	t.Parallel()
	raw := bytes.Replace(item(t, 7, 0).Raw, []byte(`{`), []byte(`{"newattr":"x",`), 1)
	it, err := wire.ParseEvent(raw)
	if err != nil || !bytes.Contains(it.Raw, []byte("newattr")) {
		t.Errorf("got %s, %v", it.Raw, err)
	}
}

func TestBadBatchesAreRefused(t *testing.T) {
	t.Parallel()
	good := string(unzip(t, encode(t, head(6, 9), item(t, 7, 0), item(t, 9, 0))))
	change := func(from, to string) []byte {
		if !strings.Contains(good, from) {
			t.Fatalf("the case replaces %q, which is not there", from)
		}
		return []byte(strings.Replace(good, from, to, 1))
	}
	cases := map[string][]byte{
		"not compressed":          nil,
		"no header":               []byte("x"),
		"unknown format":          change(`"v":1`, `"v":2`),
		"unknown header member":   change(`"v":1`, `"v":1,"x":1`),
		"another tenant's event":  change(`"tenantid":"acme"`, `"tenantid":"evil"`),
		"another source's event":  change(`"source":"/wispgate/clu-1"`, `"source":"/wispgate/clu-2"`),
		"position below range":    change(`"position":"7"`, `"position":"6"`),
		"position above range":    change(`"position":"9"`, `"position":"10"`),
		"an attribute by case":    change(`"specversion":"1.0"`, `"specversion":"1.0","Position":"8"`),
		"more than the object":    change(`}}}`, `}}} {}`),
		"empty range":             change(`"after":6`, `"after":9`),
		"base above after":        change(`"base":0`, `"base":7`),
		"fewer events than said":  change(`"events":2`, `"events":3`),
		"more events than said":   change(`"events":2`, `"events":1`),
		"negative events":         change(`"events":2`, `"events":-1`),
		"attribute twice":         change(`"specversion":"1.0"`, `"specversion":"1.0","id":"x"`),
		"attribute name not ours": change(`"specversion":"1.0"`, `"specversion":"1.0","Bad-Name":"x"`),
		"not CloudEvents 1.0":     change(`"specversion":"1.0"`, `"specversion":"0.3"`),
		"bad id":                  change(`"id":"evt_`, `"id":"e/`),
		"bad type":                change(`wispgate.crm.customer.created.v1`, `com.example`),
		"bad tenant in header":    change(`"tenant":"acme"`, `"tenant":"a/b"`),
		"not JSON":                change(`"data":{`, `"data":{{`),
		"data missing":            change(`"data":{`, `"datum":{`),
		"last line cut":           []byte(good[:len(good)-1]),
		"not UTF-8":               change("Ana", "\xff\xfe"),
	}
	for name, plain := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw := zip(t, plain)
			if plain == nil {
				raw = []byte(good)
			}
			if _, _, err := new(wire.Decoder).Decode(raw); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("got %v, want it malformed", err)
			}
		})
	}
	t.Run("followed by another gzip member", func(t *testing.T) {
		t.Parallel()
		raw := zip(t, []byte(good))
		if _, _, err := new(wire.Decoder).Decode(append(raw, raw...)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("got %v, want it malformed", err)
		}
	})
	t.Run("positions that run backwards", func(t *testing.T) {
		t.Parallel()
		if _, err := new(wire.Encoder).Encode(head(6, 9), []wire.Item{item(t, 9, 0), item(t, 7, 0)}); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("encode: got %v, want it malformed", err)
		}
	})
}

func TestDecompressionIsBounded(t *testing.T) { // not beside others: what they allocate would count
	const size, times = 64 << 20, 4
	bomb := zip(t, make([]byte, size))
	if len(bomb) > wire.MaxPayload {
		t.Fatalf("the bomb has %d octets and would be refused unread", len(bomb))
	}
	var dec wire.Decoder
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		if _, _, err := dec.Decode(bomb); !errors.Is(err, wire.ErrMalformed) {
			t.Fatalf("got %v, want it malformed", err)
		}
	}
	runtime.ReadMemStats(&after)
	if allocated := (after.TotalAlloc - before.TotalAlloc) / times; allocated > size/8 {
		t.Errorf("a bomb of %d octets made the decoder allocate %d", size, allocated)
	}
}

func TestTopicsRoundTripAndForeignOnesAreRefused(t *testing.T) {
	t.Parallel()
	for _, kind := range []wire.Kind{wire.Events, wire.Status, wire.Acks, wire.Nacks} {
		tenant, source, k, ok := wire.ParseTopic(wire.Topic("acme", "clu-1", kind))
		if !ok || tenant != "acme" || source != "clu-1" || k != kind {
			t.Errorf("got %q %q %q %v", tenant, source, k, ok)
		}
	}
	for _, bad := range []string{
		"", "wg/v1", "wg/v1/acme/clu", "wg/v1/acme/clu/", "wg/v1/acme/clu/x", "wg/v2/acme/clu/ev", "wg/v1//clu/ev", "wg/v1/acme//ev",
		"wg/v1/acme/clu/ev/ev", "wg/v1/+/clu/ev", "wg/v1/a b/clu/ev", "wg/v1/acme/" + strings.Repeat("x", 65) + "/ev", "$SYS/acme/clu/ev",
	} {
		if _, _, _, ok := wire.ParseTopic(bad); ok {
			t.Errorf("%q was taken for a topic", bad)
		}
	}
}

func TestTypeNamesMapBothWays(t *testing.T) {
	t.Parallel()
	if got := wire.EventName(wire.TypeName("billing.credit_note.issued")); got != "billing.credit_note.issued" {
		t.Errorf("got %q", got)
	}
	if got := wire.EventName("com.example.thing"); got != "com.example.thing" {
		t.Errorf("got %q", got)
	}
}

func TestFactIDsAreStableAndDistinct(t *testing.T) {
	t.Parallel()
	a := wire.FactID("tower-1", "9", 5, 0)
	if !a.Valid() || a != wire.FactID("tower-1", "9", 5, 0) {
		t.Errorf("%s is not stable", a)
	}
	for _, b := range []edge.ID{wire.FactID("tower-1", "9", 5, 1), wire.FactID("tower-1", "9", 6, 0), wire.FactID("tower-1", "8", 5, 0), wire.FactID("tower-2", "9", 5, 0)} {
		if a == b {
			t.Errorf("two facts share %s", a)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, head(6, 9), item(f, 7, 0), item(f, 9, 0)))
	f.Add(encode(f, head(6, 9)))
	f.Add([]byte("\x1f\x8b"))
	plain, err := json.Marshal(wire.Header{Format: 1, Tenant: "acme", Source: "clu-1", Incarnation: "i1", After: 6, Upto: 9, Previous: "<\xff", Events: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(slices.Concat(plain, []byte("\n"), item(f, 7, 0).Raw, []byte("\n")))
	var dec wire.Decoder
	f.Fuzz(func(t *testing.T, data []byte) {
		// Most mutations die at the checksum of gzip, so the octets are tried as what is compressed, too.
		for _, raw := range [][]byte{data, zip(t, data)} {
			h, items, err := dec.Decode(raw)
			if err != nil {
				if !errors.Is(err, wire.ErrMalformed) {
					t.Fatalf("error %v is not of this protocol", err)
				}
				continue
			}
			size := 0
			for _, it := range items {
				size += len(it.Raw) + 1
			}
			if size > wire.MaxPlain-4<<10 {
				continue // its header may be longer when it is written again, and no sender fills a batch to the last octet
			}
			again, err := new(wire.Encoder).Encode(h, items)
			if err != nil {
				t.Fatalf("what was decoded does not encode: %v", err)
			}
			h2, items2, err := new(wire.Decoder).Decode(again)
			if err != nil || h2 != h || len(items2) != len(items) {
				t.Fatalf("encoded again it differs: %v", err)
			}
		}
	})
}

// FuzzParseEvent works on the plain envelope, which FuzzDecode rarely reaches through the compression.
func FuzzParseEvent(f *testing.F) {
	f.Add(item(f, 7, 0).Raw)
	f.Add([]byte(`{"specversion":"1.0","specversion":"1.0"}`))
	f.Add(regexp.MustCompile(`"time":"[^"]*"`).ReplaceAll(item(f, 7, 0).Raw, []byte(`"time":"9999-12-31T23:59:59-05:00"`)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		it, err := wire.ParseEvent(raw)
		if err != nil {
			return
		}
		if _, late := it.Time.UTC().MarshalJSON(); late != nil || !json.Valid(it.Raw) || it.TenantID == "" || len(it.Raw) > wire.MaxEvent {
			t.Fatalf("accepted %q", raw)
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add(wire.Encode(wire.Ack{Incarnation: "i1", Upto: 9, Session: "s1"}))
	f.Add(wire.Encode(wire.State{Incarnation: "i1", Node: "n", Session: "s"}))
	f.Add([]byte(`{"incarnation":"i1","node":"n","session":"s","since":"9999-12-31T23:59:59-05:00"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if a, err := wire.ParseAck(raw); err == nil && !wire.ValidName(a.Incarnation) {
			t.Fatal("ack without an incarnation")
		}
		if s, err := wire.ParseState(raw); err == nil {
			if _, late := s.Since.UTC().MarshalJSON(); late != nil || !wire.ValidName(s.Session) {
				t.Fatal("state without a session, or since a moment that cannot be written")
			}
		}
		if n, err := wire.ParseNack(raw); err == nil && !wire.ValidName(n.Incarnation) {
			t.Fatal("nack without an incarnation")
		}
		wire.ParseTopic(string(raw))
	})
}

func BenchmarkDecode64(b *testing.B) {
	items := make([]wire.Item, 64)
	for i := range items {
		items[i] = item(b, uint64(i+1), 0)
	}
	raw := encode(b, head(0, 64), items...)
	var dec wire.Decoder
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := dec.Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*64/b.Elapsed().Seconds(), "events/s")
}

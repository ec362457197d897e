package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"wispgate/edge"
	"wispgate/edge/chunk"
)

type manifest struct {
	Count int `json:"count"`
}

var (
	fileKey = bytes.Repeat([]byte{3}, chunk.KeySize)
	sample  = Head{
		Kind: Writes, Cluster: "north", Incarnation: "i1", Node: "tower7", MadeAt: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), Program: "test",
		Key: []byte("wrapped"),
	}
	signer = newKey()
)

func newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func signed(k *ecdsa.PrivateKey) func([]byte) (Signature, error) {
	return func(digest []byte) (Signature, error) {
		sig, err := ecdsa.SignASN1(rand.Reader, k, digest)
		return Signature{Value: sig}, err
	}
}

func judged(k *ecdsa.PrivateKey) func(Head, []byte, Signature) error {
	return func(_ Head, digest []byte, s Signature) error {
		if !ecdsa.VerifyASN1(&k.PublicKey, digest, s.Value) {
			return refuse(ErrSigner)
		}
		return nil
	}
}

// file is a bundle of n records and, with state, as many octets of a state before them.
func file(t testing.TB, h Head, n, state int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, h, fileKey, manifest{n})
	must(t, err)
	if state > 0 {
		_, err = w.Write(bytes.Repeat([]byte("s"), state))
		must(t, err)
	}
	for i := range n {
		must(t, w.Record(fmt.Appendf(nil, "record %d %s", i, strings.Repeat("x", i%700))))
	}
	must(t, w.Close(signed(signer)))
	if int64(out.Len()) != w.Bytes() {
		t.Fatalf("%d octets were counted and %d written", w.Bytes(), out.Len())
	}
	return out.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func opened(Head) ([]byte, error) { return fileKey, nil }

// read verifies a file as an importing node does.
func read(raw []byte, open func(Head) ([]byte, error), k *ecdsa.PrivateKey) (records, state int, err error) {
	r, err := NewReader(bytes.NewReader(raw), open)
	if err != nil {
		return 0, 0, err
	}
	err = r.Verify(judged(k), func(data []byte, st bool) error {
		if st {
			state += len(data)
			return nil
		}
		if !strings.HasPrefix(string(data), fmt.Sprintf("record %d ", records)) {
			return fmt.Errorf("record %d is %.20q", records, data)
		}
		records++
		return nil
	})
	return records, state, err
}

func code(err error) string {
	if err == nil {
		return "ok"
	}
	e, ok := errors.AsType[*edge.Error](err)
	switch {
	case !ok:
		return err.Error()
	case e.Fix == "":
		return e.Code + " without a fix"
	}
	return e.Code
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ records, state int }{{0, 0}, {1, 0}, {3000, 0}, {0, 1}, {5, 200_000}} {
		records, state, err := read(file(t, sample, tc.records, tc.state), opened, signer)
		if err != nil || records != tc.records || state != tc.state {
			t.Errorf("got %d records, %d octets of state, %v; want %+v", records, state, err, tc)
		}
	}
	raw := file(t, sample, 3, 100_000)
	if bytes.Contains(raw, []byte("record")) {
		t.Error("a record can be read in the file")
	}
	r, err := NewReader(iotest.OneByteReader(bytes.NewReader(raw)), opened)
	must(t, err)
	var m manifest
	must(t, r.Manifest(&m))
	if m.Count != 3 || r.Head().Node != "tower7" {
		t.Errorf("got %+v of %+v", m, r.Head())
	}
	s := r.State()
	got, err := io.ReadAll(s)
	if err != nil || len(got) != 100_000 {
		t.Fatal(len(got), err)
	}
	for i := range 3 {
		if rec, err := s.Next(); err != nil || !strings.HasPrefix(string(rec), fmt.Sprintf("record %d ", i)) {
			t.Fatalf("record %d: %.20q, %v", i, rec, err)
		}
	}
	if _, err := s.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// rehead puts another head before a file's payload, with a check sum that holds.
func rehead(t *testing.T, raw []byte, change func(*Head)) []byte {
	t.Helper()
	h, head, err := readHead(bytes.NewReader(raw))
	must(t, err)
	change(&h)
	now, err := h.encode()
	must(t, err)
	return slices.Concat(now, raw[len(head):])
}

// forged is a file whose frames are given octet for octet, under the right key.
func forged(t *testing.T, frames ...[]byte) []byte {
	t.Helper()
	head, err := sample.encode()
	must(t, err)
	var out bytes.Buffer
	out.Write(head)
	w := chunk.NewWriter(&out, payloadKey(fileKey, head))
	_, err = w.Write(slices.Concat(frames...))
	must(t, err)
	must(t, w.Close())
	return out.Bytes()
}

func raw(kind byte, length uint32, data string) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{kind}, length), data...)
}

func TestAFileThatIsNotWholeIsRefused(t *testing.T) {
	t.Parallel()
	whole := file(t, sample, 400, 0)
	flip := func(at int) []byte { b := slices.Clone(whole); b[at] ^= 1; return b }
	_, head, err := readHead(bytes.NewReader(whole))
	must(t, err)
	long := slices.Concat([]byte("wispgate-bundle 1\n"), []byte{255, 255, 255, 255})
	insane := slices.Concat([]byte("wispgate-bundle 1\n"), []byte{2, 0, 0, 0}, []byte("{}"))
	insane = binary.LittleEndian.AppendUint32(insane, crc32.Checksum(insane, castagnoli))
	other := newKey()
	for name, tc := range map[string]struct {
		file []byte
		want string
	}{
		"nothing":                         {nil, "bundle_foreign"},
		"another file":                    {[]byte("PK\x03\x04 something else entirely"), "bundle_foreign"},
		"a backup":                        {[]byte("wispgate-backup 1\n...."), "bundle_foreign"},
		"no number":                       {[]byte("wispgate-bundle x\n"), "bundle_foreign"},
		"format 0":                        {[]byte("wispgate-bundle 0\n"), "bundle_foreign"},
		"an endless first line":           {[]byte("wispgate-bundle " + strings.Repeat("1", 100)), "bundle_foreign"},
		"a newer format":                  {[]byte("wispgate-bundle 2\n"), "bundle_newer"},
		"cut in the first line":           {whole[:9], "bundle_truncated"},
		"cut behind the first line":       {whole[:19], "bundle_truncated"},
		"cut in the head":                 {whole[:len(head)-20], "bundle_truncated"},
		"cut behind the head":             {whole[:len(head)], "bundle_truncated"},
		"cut in the payload":              {whole[:len(head)+70_000], "bundle_truncated"},
		"cut by one octet":                {whole[:len(whole)-1], "bundle_truncated"},
		"a bit in the head":               {flip(40), "bundle_damaged"},
		"a bit in the payload":            {flip(len(head) + 300), "bundle_damaged"},
		"a bit at the end":                {flip(len(whole) - 3), "bundle_truncated"},
		"something behind the end":        {append(slices.Clone(whole), 'x'), "bundle_truncated"},
		"a head as long as memory":        {long, "bundle_damaged"},
		"an empty head":                   {insane, "bundle_damaged"},
		"another node in the head":        {rehead(t, whole, func(h *Head) { h.Node = "tower8" }), "bundle_damaged"},
		"another key in the head":         {rehead(t, whole, func(h *Head) { h.Key = []byte("x") }), "bundle_damaged"},
		"another kind in the head":        {rehead(t, whole, func(h *Head) { h.Kind = Entries }), "bundle_damaged"},
		"no manifest":                     {forged(t, raw(frameRecord, 2, "{}")), "bundle_damaged"},
		"no signature":                    {forged(t, raw(frameManifest, 2, "{}"), raw(frameRecord, 9, "record 0 ")), "bundle_truncated"},
		"a frame of an unknown kind":      {forged(t, raw(frameManifest, 2, "{}"), raw('?', 1, "r")), "bundle_damaged"},
		"a frame longer than the file":    {forged(t, raw(frameManifest, 2, "{}"), raw(frameRecord, 9000, "r")), "bundle_truncated"},
		"a frame as long as memory":       {forged(t, raw(frameManifest, 2, "{}"), raw(frameRecord, 1<<31, "r")), "bundle_damaged"},
		"a signature that is none":        {forged(t, raw(frameManifest, 2, "{}"), raw(frameSignature, 2, "{}")), "bundle_signer"},
		"a signature that is no JSON":     {forged(t, raw(frameManifest, 2, "{}"), raw(frameSignature, 2, "{]")), "bundle_damaged"},
		"something behind the signature":  {forged(t, raw(frameManifest, 2, "{}"), raw(frameSignature, 2, "{}"), raw(frameRecord, 1, "r")), "bundle_damaged"},
		"a signature as long as the file": {forged(t, raw(frameManifest, 2, "{}"), raw(frameSignature, maxFrame, "{}")), "bundle_damaged"},
	} {
		if _, _, err := read(tc.file, opened, signer); code(err) != tc.want {
			t.Errorf("%s: got %s, want %s", name, code(err), tc.want)
		}
	}
	if _, _, err := read(whole, opened, other); code(err) != "bundle_signer" {
		t.Errorf("signed by another: got %v", err)
	}
	if _, _, err := read(whole, func(Head) ([]byte, error) { return bytes.Repeat([]byte{4}, chunk.KeySize), nil }, signer); code(err) != "bundle_damaged" {
		t.Errorf("another key: got %v", err)
	}
	r, err := NewReader(io.MultiReader(bytes.NewReader(whole[:len(head)+70_000]), iotest.ErrReader(io.ErrClosedPipe)), opened)
	must(t, err)
	if err := r.Verify(judged(signer), nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a failing disk: got %v", err)
	}
}

func TestABundleIsForSomebody(t *testing.T) {
	t.Parallel()
	here := Expect{Cluster: "north", Incarnation: "i1", Node: "n1"}
	for name, tc := range map[string]struct {
		change func(*Head)
		want   string
	}{
		"any member":     {func(*Head) {}, "ok"},
		"this node":      {func(h *Head) { h.For = "n1" }, "ok"},
		"another node":   {func(h *Head) { h.For = "n2" }, "bundle_addressee"},
		"foreign":        {func(h *Head) { h.Cluster = "south" }, "bundle_cluster"},
		"before restore": {func(h *Head) { h.Incarnation = "i0" }, "bundle_incarnation"},
	} {
		h := sample
		tc.change(&h)
		if got := code(here.Check(h)); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}

// FuzzRead: whatever the octets are, reading ends, takes bounded memory, and says ok only of what was signed.
func FuzzRead(f *testing.F) {
	whole, empty := file(f, sample, 20, 100), file(f, sample, 0, 0)
	written := map[[32]byte]bool{sha256.Sum256(whole): true, sha256.Sum256(empty): true}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(empty)
	f.Add([]byte("wispgate-bundle 1\n\x02\x00\x00\x00{}"))
	f.Fuzz(func(t *testing.T, octets []byte) {
		r, err := NewReader(bytes.NewReader(octets), opened)
		if err == nil {
			err = r.Verify(judged(signer), nil)
		}
		if err == nil && !written[sha256.Sum256(octets)] {
			t.Error("a file was taken that nobody wrote")
		}
		if _, ok := errors.AsType[*edge.Error](err); err != nil && !ok {
			t.Errorf("got %v", err)
		}
	})
}

// TestALongFileTakesLittleMemory: a hundred thousand writes pass through a board with 64 MB.
func TestALongFileTakesLittleMemory(t *testing.T) {
	const n = 100_000
	pr, pw := io.Pipe()
	go func() {
		w, err := NewWriter(pw, sample, fileKey, manifest{n})
		record := bytes.Repeat([]byte("write "), 70)
		for i := 0; i < n && err == nil; i++ {
			err = w.Record(record)
		}
		if err == nil {
			err = w.Close(signed(signer))
		}
		pw.CloseWithError(err)
	}()
	held := func() uint64 {
		var mem runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&mem)
		return mem.HeapAlloc
	}
	before, most, records := held(), uint64(0), 0
	r, err := NewReader(pr, opened)
	must(t, err)
	must(t, r.Verify(judged(signer), func([]byte, bool) error {
		if records++; records%20_000 == 0 {
			most = max(most, held())
		}
		return nil
	}))
	if records != n || most > before+4<<20 {
		t.Errorf("%d records, and %d KB more in memory", records, (most-before)>>10)
	}
}

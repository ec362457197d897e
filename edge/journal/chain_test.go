package journal

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"wispgate/edge"
)

// audit makes a closed chained journal of n records and returns its options, key, and the heads in it.
func audit(t *testing.T, n int) (Options, ed25519.PublicKey, []Head) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	opt := small(t.TempDir())
	opt.Chain, opt.Signer = true, priv
	j := open(t, opt)
	for i := range n {
		if _, err := j.Append(t.Context(), 7, payload(i)); err != nil {
			t.Fatal(err)
		}
		if i == n/2 { // a chain must also span a restart
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = open(t, opt)
		}
	}
	seq, err := j.SignHead(t.Context())
	if err != nil || seq != j.Next()-1 {
		t.Fatalf("sign head: got %d, %v", seq, err)
	}
	var heads []Head
	if _, err := j.Read(0, 0, func(r Record) error {
		if r.Kind != KindHead {
			return nil
		}
		h, err := ParseHead(r.Payload)
		heads = append(heads, h)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return opt, pub, heads
}

func TestAnUntouchedChainVerifies(t *testing.T) {
	t.Parallel()
	opt, pub, heads := audit(t, 600)
	if len(heads) != 3 {
		t.Fatalf("got %d heads in 600 records, want one per 256 and one asked for", len(heads))
	}
	r, err := Verify(opt.Dir, pub, heads...)
	if err != nil || !r.OK() || r.Heads != 3 || r.Records != 603 || r.Next != 604 || r.LastHead != 602 || r.Unproven != 1 || !r.Chained {
		t.Fatalf("got %+v, %v", r, err)
	}
	// Trimming takes away the beginning, and the rest still verifies.
	j := open(t, opt)
	if err := j.Trim(300); err != nil {
		t.Fatal(err)
	}
	_ = j.Close()
	if r, err = Verify(opt.Dir, pub, heads...); err != nil || !r.OK() || r.First == 1 {
		t.Fatalf("after trim: got %+v, %v", r, err)
	}
}

func TestTamperingIsFound(t *testing.T) {
	t.Parallel()
	codes := func(r Report) (all []string) {
		for _, p := range r.Problems {
			all = append(all, p.Code)
		}
		return all
	}
	has := func(t *testing.T, r Report, code string) {
		t.Helper()
		if slices.Contains(codes(r), code) {
			return
		}
		t.Fatalf("got problems %v, want %s", codes(r), code)
	}
	segment := func(opt Options, n uint64) string { return filepath.Join(opt.Dir, segmentName(n)) }
	edit := func(t *testing.T, path string, change func(b []byte)) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		change(b)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a byte is changed", func(t *testing.T) {
		t.Parallel()
		opt, pub, _ := audit(t, 300)
		edit(t, segment(opt, 1), func(b []byte) { b[2000] ^= 1 })
		r, err := Verify(opt.Dir, pub)
		if err != nil {
			t.Fatal(err)
		}
		has(t, r, "damaged")
	})
	t.Run("the last record is lost, and a later one takes its room", func(t *testing.T) {
		t.Parallel()
		opt, pub, _ := audit(t, 3)
		j := open(t, opt)
		last, end := j.Next()-1, j.segs[0].end
		edit(t, segment(opt, 1), func(b []byte) { b[end-frameAlign] ^= 1 })
		if _, err := j.Read(1, 0, func(Record) error { return nil }); err != nil || len(j.Losses()) != 1 {
			t.Fatalf("got %+v, %v", j.Losses(), err)
		}
		_ = j.Close()
		for round := range uint64(2) {
			r, err := Verify(opt.Dir, pub)
			if err != nil || r.Next != last+1+round || r.Records != int(last-1+round) || len(r.Problems) != 1 {
				t.Fatalf("round %d: got %+v, %v", round, r, err)
			}
			has(t, r, "damaged")
			j = open(t, opt)
			if seq, err := j.Append(t.Context(), 1, fact(1, 10)); err != nil || seq != last+1+round {
				t.Fatalf("round %d: got record %d, %v", round, seq, err)
			}
			_ = j.Close()
		}
	})
	t.Run("a record is rewritten with a right checksum", func(t *testing.T) {
		t.Parallel()
		opt, pub, _ := audit(t, 300)
		edit(t, segment(opt, 1), func(b []byte) {
			h, _ := parseHeader(b)
			f, ok := parseFrame(b[headerSize:], salt(h.identity, 1))
			if !ok {
				t.Fatal("no first frame")
			}
			f.payload()[0] ^= 1
			binary.LittleEndian.PutUint32(f.raw, crc32.Update(salt(h.identity, 1), castagnoli, f.raw[4:]))
		})
		r, err := Verify(opt.Dir, pub)
		if err != nil {
			t.Fatal(err)
		}
		has(t, r, "chain_broken")
	})
	t.Run("a segment is removed from the middle", func(t *testing.T) {
		t.Parallel()
		opt, pub, _ := audit(t, 600)
		if err := os.Remove(segment(opt, 3)); err != nil {
			t.Fatal(err)
		}
		r, err := Verify(opt.Dir, pub)
		if err != nil {
			t.Fatal(err)
		}
		has(t, r, "gap")
	})
	t.Run("the end is cut off", func(t *testing.T) {
		t.Parallel()
		opt, pub, heads := audit(t, 600)
		j := open(t, opt)
		last := j.segs[len(j.segs)-1].ordinal
		_ = j.Close()
		if err := os.Remove(segment(opt, last)); err != nil {
			t.Fatal(err)
		}
		if r, err := Verify(opt.Dir, pub); err != nil || !r.OK() {
			t.Fatalf("without a known head it cannot show: got %+v, %v", r, err)
		}
		r, err := Verify(opt.Dir, pub, heads[len(heads)-1])
		if err != nil {
			t.Fatal(err)
		}
		has(t, r, "head_missing")
	})
	t.Run("another key signed", func(t *testing.T) {
		t.Parallel()
		opt, _, _ := audit(t, 300)
		other, _, _ := ed25519.GenerateKey(nil)
		r, err := Verify(opt.Dir, other)
		if err != nil {
			t.Fatal(err)
		}
		has(t, r, "head_forged")
	})
	t.Run("the whole journal was replaced", func(t *testing.T) {
		t.Parallel()
		opt, pub, _ := audit(t, 10)
		_, _, heads := audit(t, 10)
		r, err := Verify(opt.Dir, pub, heads[0])
		if err != nil {
			t.Fatal(err)
		}
		has(t, r, "other_journal")
	})
}

func TestVerifyOfAnEmptyFolderSaysSo(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		_, err := Verify(dir, nil)
		if e, ok := edge.AsError(err); !ok || e.Code != "journal_not_found" {
			t.Errorf("got %v", err)
		}
	}
}

func TestChainSettingCannotChange(t *testing.T) {
	t.Parallel()
	opt := small(t.TempDir())
	_ = open(t, opt).Close()
	opt.Chain = true
	_, err := Open(opt)
	if e, ok := edge.AsError(err); !ok || e.Code != "journal_chain" {
		t.Fatalf("got %v", err)
	}
}

// xor is a sealer that shows whether the additional data is bound.
type xor struct{}

func (xor) Seal(dst, plain, aad []byte) []byte {
	dst = append(dst, byte(len(aad)))
	dst = append(dst, aad...)
	for _, b := range plain {
		dst = append(dst, b^0x55)
	}
	return dst
}

func (xor) Open(dst, sealed, aad []byte) ([]byte, error) {
	if n := int(sealed[0]); !bytes.Equal(sealed[1:1+n], aad) {
		return nil, errors.New("moved")
	}
	for _, b := range sealed[1+len(aad):] {
		dst = append(dst, b^0x55)
	}
	return dst, nil
}

func TestSealedPayloadsAreNotOnTheDisk(t *testing.T) {
	t.Parallel()
	opt := small(t.TempDir())
	opt.Seal = xor{}
	j := open(t, opt)
	for i := range 100 {
		if _, err := j.Append(t.Context(), 3, fmt.Appendf(nil, "hidden %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	i := 0
	if _, err := j.Read(0, 0, func(r Record) error {
		if want := fmt.Sprintf("hidden %d", i); string(r.Payload) != want {
			return fmt.Errorf("got %q, want %q", r.Payload, want)
		}
		i++
		return nil
	}); err != nil || i != 100 {
		t.Fatalf("read %d, %v", i, err)
	}
	_ = j.Close()
	entries, _ := os.ReadDir(opt.Dir)
	for _, e := range entries {
		if b, _ := os.ReadFile(filepath.Join(opt.Dir, e.Name())); bytes.Contains(b, []byte("hidden")) {
			t.Fatalf("%s holds plaintext", e.Name())
		}
	}
	opt.Seal = nil
	j = open(t, opt)
	if _, err := j.Read(0, 0, func(Record) error { return nil }); !errors.Is(err, errSealed) {
		t.Fatalf("without the key: got %v", err)
	}
}

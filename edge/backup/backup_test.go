package backup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"wispgate/edge"
	"wispgate/edge/chunk"
)

const passphrase = edge.Secret("four words and a horse")

func pair(t testing.TB) (PrivateKey, PublicKey) {
	t.Helper()
	private := NewPrivateKey()
	public, err := private.Public()
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func write(t testing.TB, keys Keys, payload []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, NewFileKey(), keys)
	if err != nil {
		t.Fatal(err)
	}
	for piece := range slices.Chunk(payload, 7001) { // pieces that meet the borders of chunks anywhere
		if n, err := w.Write(piece); err != nil || n != len(piece) {
			t.Fatal(n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("more")); err == nil {
		t.Fatal("a closed file takes more")
	}
	return out.Bytes()
}

func read(file []byte, o Openers) ([]byte, error) {
	r, err := NewReader(iotest.OneByteReader(bytes.NewReader(file[:min(len(file), 200)])), o)
	if err != nil || len(file) > 200 {
		r, err = NewReader(bytes.NewReader(file), o)
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func code(err error) string {
	if err == nil {
		return "ok"
	}
	e, ok := errors.AsType[*edge.Error](err)
	if !ok {
		return err.Error()
	}
	if e.Fix == "" {
		return e.Code + " without a fix"
	}
	return e.Code
}

func sizes() []int {
	return []int{0, 1, 15, chunk.Size - 1, chunk.Size, chunk.Size + 1, 3 * chunk.Size, 3*chunk.Size + 77}
}

func random(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i * 7919 >> 3)
	}
	return out
}

func TestWhatIsWrittenIsReadByEachWhoMay(t *testing.T) {
	t.Parallel()
	one, oneKey := pair(t)
	two, twoKey := pair(t)
	stranger, _ := pair(t)
	for _, size := range sizes() {
		payload := random(size)
		file := write(t, Keys{Recipients: []PublicKey{oneKey, twoKey}}, payload)
		for name, o := range map[string]Openers{"first key": {PrivateKeys: []PrivateKey{one}}, "second key": {PrivateKeys: []PrivateKey{stranger, two}}} {
			if got, err := read(file, o); err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%d octets, %s: got %d octets, %v", size, name, len(got), err)
			}
		}
	}
	both := write(t, Keys{Passphrase: passphrase, Recipients: []PublicKey{oneKey}}, []byte("payload"))
	locked := write(t, Keys{Passphrase: passphrase}, []byte("payload"))
	forKey := write(t, Keys{Recipients: []PublicKey{oneKey}}, []byte("payload"))
	for name, tc := range map[string]struct {
		file []byte
		with Openers
		want string
	}{
		"passphrase of both":             {both, Openers{Passphrase: passphrase}, "ok"},
		"key of both":                    {both, Openers{PrivateKeys: []PrivateKey{one}}, "ok"},
		"wrong passphrase and right key": {both, Openers{Passphrase: "not these words", PrivateKeys: []PrivateKey{one}}, "ok"},
		"wrong passphrase":               {locked, Openers{Passphrase: "not these words"}, "backup_passphrase_wrong"},
		"nothing":                        {locked, Openers{}, "backup_locked"},
		"nothing for a key":              {forKey, Openers{}, "backup_locked"},
		"passphrase for a key":           {forKey, Openers{Passphrase: passphrase}, "backup_locked"},
		"another's key":                  {forKey, Openers{PrivateKeys: []PrivateKey{two}}, "backup_key_wrong"},
		"a key for a passphrase":         {locked, Openers{PrivateKeys: []PrivateKey{one}}, "backup_key_wrong"},
	} {
		if _, err := read(tc.file, tc.with); code(err) != tc.want {
			t.Errorf("%s: got %s, want %s", name, code(err), tc.want)
		}
	}
	locks, err := ReadLocks(bytes.NewReader(both))
	if diff := cmp.Diff([]Lock{{Type: "passphrase"}, {Type: "x25519", Key: oneKey.String()}}, locks); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if bytes.Contains(forKey, []byte("payload")) {
		t.Error("the payload can be read in the file")
	}
}

func TestAFileNeedsALock(t *testing.T) {
	t.Parallel()
	_, public := pair(t)
	for name, tc := range map[string]struct {
		keys Keys
		want string
	}{
		"nothing":            {Keys{}, "backup_key_missing"},
		"a short passphrase": {Keys{Passphrase: "secret"}, "backup_passphrase_short"},
		"too many keys":      {Keys{Recipients: slices.Repeat([]PublicKey{public}, maxLocks)}, "backup_recipients"},
	} {
		if _, err := NewWriter(io.Discard, NewFileKey(), tc.keys); code(err) != tc.want {
			t.Errorf("%s: got %s, want %s", name, code(err), tc.want)
		}
	}
}

func TestEveryTruncationAndEveryFlippedBitIsNoticed(t *testing.T) {
	t.Parallel()
	private, public := pair(t)
	o := Openers{PrivateKeys: []PrivateKey{private}}
	file := write(t, Keys{Recipients: []PublicKey{public}}, random(2*chunk.Size+500))
	head := len(write(t, Keys{Recipients: []PublicKey{public}}, nil)) - chunk.Overhead
	cuts := []int{0, 1, len(magicPrefix), head - 1, head, head + 1, head + chunk.Overhead, head + chunk.Size + chunk.Overhead, head + 2*(chunk.Size+chunk.Overhead), head + 2*(chunk.Size+chunk.Overhead) + 1, len(file) - chunk.Overhead, len(file) - 1}
	for _, n := range cuts {
		want := "backup_truncated"
		if n <= len(magicPrefix) {
			want = "backup_foreign"
		}
		if _, err := read(file[:n], o); code(err) != want {
			t.Errorf("cut after %d of %d: got %s, want %s", n, len(file), code(err), want)
		}
	}
	if _, err := read(append(slices.Clone(file), 0), o); code(err) != "backup_damaged" && code(err) != "backup_truncated" {
		t.Errorf("one octet more: got %s", code(err))
	}
	full := write(t, Keys{Recipients: []PublicKey{public}}, random(chunk.Size))
	if _, err := read(append(slices.Clone(full), full[len(full)-chunk.Size-chunk.Overhead:]...), o); code(err) == "ok" {
		t.Error("the last chunk once more is taken for more of the file")
	}
	swapped := slices.Clone(file)
	copy(swapped[head:], file[head+chunk.Size+chunk.Overhead:head+2*(chunk.Size+chunk.Overhead)])
	copy(swapped[head+chunk.Size+chunk.Overhead:], file[head:head+chunk.Size+chunk.Overhead])
	if _, err := read(swapped, o); code(err) != "backup_damaged" {
		t.Errorf("two chunks in each other's place: got %s", code(err))
	}
	step := 1
	for at := 0; at < len(file); at += step {
		if at > head {
			step = 997
		}
		flipped := slices.Clone(file)
		flipped[at] ^= 1 << (at % 8)
		if _, err := read(flipped, o); code(err) == "ok" || !strings.HasPrefix(code(err), "backup_") {
			t.Errorf("bit flipped at %d: got %s", at, code(err))
		}
	}
}

// A head that somebody wrote anew, with a right CRC, opens nothing: the key of the payload hangs on it.
func TestTheHeadIsProved(t *testing.T) {
	t.Parallel()
	private, public := pair(t)
	file := write(t, Keys{Recipients: []PublicKey{public}}, random(100))
	h, raw, err := readHead(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	h.Locks = append(h.Locks, lock{Type: "another way in"})
	forged, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(append(forged, file[len(raw):]...), Openers{PrivateKeys: []PrivateKey{private}}); code(err) == "ok" {
		t.Error("a head with a lock more is believed")
	}
}

func TestANewerFormatAndAForeignFileAreNamed(t *testing.T) {
	t.Parallel()
	_, public := pair(t)
	file := string(write(t, Keys{Recipients: []PublicKey{public}}, nil))
	for text, want := range map[string]string{
		strings.Replace(file, magicPrefix+"1", magicPrefix+"2", 1):           "backup_newer",
		strings.Replace(file, magicPrefix+"1", magicPrefix+"99999999999", 1): "backup_foreign",
		strings.Replace(file, magicPrefix+"1", magicPrefix+"0", 1):           "backup_foreign",
		"PK\x03\x04 something else entirely, long enough to hold a head":     "backup_foreign",
		"": "backup_foreign",
	} {
		if _, err := read([]byte(text), Openers{}); code(err) != want {
			t.Errorf("%.20q: got %s, want %s", text, code(err), want)
		}
	}
}

// What a file asks of whoever opens it is bounded before anything in it is proved.
func TestAHeadCannotAskForMuch(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]lock{
		"memory":  {Type: lockPassphrase, Salt: make([]byte, 16), Memory: 1 << 30, Passes: 1},
		"passes":  {Type: lockPassphrase, Salt: make([]byte, 16), Memory: 64, Passes: 1 << 30},
		"no salt": {Type: lockPassphrase, Memory: 64, Passes: 1},
		"none":    {Type: lockPassphrase, Salt: make([]byte, 16)},
	} {
		file, err := (&head{Locks: []lock{l}}).encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read(file, Openers{Passphrase: passphrase}); code(err) != "backup_damaged" {
			t.Errorf("%s: got %s", name, code(err))
		}
	}
	long := append([]byte(magicPrefix+strconv.Itoa(Format)+"\n"), binary.LittleEndian.AppendUint32(nil, 1<<30)...)
	if _, err := read(binary.LittleEndian.AppendUint32(long, crc32.Checksum(long, castagnoli)), Openers{}); code(err) != "backup_damaged" {
		t.Errorf("a head of a gigabyte: got %s", code(err))
	}
	many, err := (&head{Locks: make([]lock, maxLocks+1)}).encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(many, Openers{}); code(err) != "backup_damaged" {
		t.Errorf("too many locks: got %s", code(err))
	}
}

func TestKeysAreTextThatNoticesATypingError(t *testing.T) {
	t.Parallel()
	private, public := pair(t)
	if got, err := ParsePublicKey(public.String()); err != nil || got != public {
		t.Error(got, err)
	}
	file := "# wispgate backup key\n\n" + private.Reveal() + "\n"
	if got, err := ParsePrivateKey(file); err != nil || got != private {
		t.Error(err)
	}
	if s := private.String(); s != "***" {
		t.Errorf("a private key prints %s", s)
	}
	good := public.String()
	for i := len(publicPrefix); i < len(good); i++ {
		bad := []byte(good)
		if bad[i] = 'A'; good[i] == 'A' {
			bad[i] = 'B'
		}
		if _, err := ParsePublicKey(string(bad)); code(err) != "backup_key_invalid" {
			t.Errorf("%s: got %s", bad, code(err))
		}
	}
	for _, bad := range []string{"", "# only a comment", private.Reveal(), good[:len(good)-1], good + "A"} {
		if _, err := ParsePublicKey(bad); code(err) != "backup_key_invalid" {
			t.Errorf("%q: got %s", bad, code(err))
		}
	}
	if _, err := ParsePrivateKey("# nothing\n"); code(err) != "backup_key_invalid" {
		t.Error(err)
	}
}

func preamble() Preamble {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return Preamble{
		Manifest: Manifest{
			Cluster: "north", Incarnation: "0a0b0c0d", Node: "tower7-a", Site: "tower7", Version: 42, Checksum: "00ff", Records: 7, StateBytes: 900,
			StateTime: at, MadeAt: at, Program: "1.2.3", Level: 1, Tenants: []string{"acme"}, Series: []Series{{"acme", "RCT", 9, "aa"}},
		},
		Keys: []Key{{Record: "tky_1", Tenant: "acme", Wrapped: []byte("wrapped")}},
	}
}

func TestThePreambleTravels(t *testing.T) {
	t.Parallel()
	want := preamble()
	raw, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	in := bytes.NewReader(append(raw, "the state"...))
	got, err := ReadPreamble(in)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	if rest, _ := io.ReadAll(in); string(rest) != "the state" {
		t.Errorf("it read on into the state: %q is left", rest)
	}
	for n := range len(raw) {
		if _, err := ReadPreamble(bytes.NewReader(raw[:n])); code(err) != "backup_truncated" {
			t.Fatalf("cut after %d: got %s", n, code(err))
		}
	}
	if _, err := ReadPreamble(strings.NewReader("\xff\xff\xff\xff{}")); code(err) != "backup_damaged" {
		t.Errorf("a manifest of 4 GB: got %s", code(err))
	}
	if _, err := ReadPreamble(strings.NewReader("\x02\x00\x00\x00[]")); code(err) != "backup_damaged" {
		t.Errorf("a manifest that is none: got %s", code(err))
	}
}

// FuzzReader feeds files to the reader: it answers with a code or with exactly what was written, and never takes memory for what is not there.
func FuzzReader(f *testing.F) {
	// always the same key: each process that fuzzes makes its own, and could not open what another one made
	private := PrivateKey{[keySize]byte{1}}
	public, err := private.Public()
	if err != nil {
		f.Fatal(err)
	}
	pre, err := func() ([]byte, error) { p := preamble(); return p.Encode() }()
	if err != nil {
		f.Fatal(err)
	}
	file := write(f, Keys{Recipients: []PublicKey{public}}, append(pre, random(chunk.Size)...))
	f.Add(file, []byte(nil))
	f.Add(file[:300], []byte(nil))
	f.Add([]byte(magicPrefix+"1\n\x02\x00\x00\x00{}"), pre)
	f.Fuzz(func(t *testing.T, in, plain []byte) {
		got, err := read(in, Openers{PrivateKeys: []PrivateKey{private}})
		if err == nil && !bytes.HasPrefix(got, pre) {
			t.Fatalf("a file that nobody wrote opens: %q", got)
		}
		if err != nil && !strings.HasPrefix(code(err), "backup_") {
			t.Fatalf("the refusal has no code: %v", err)
		}
		// The parser behind the encryption meets only what a key holder wrote, and must bear that, too.
		if _, err := ReadPreamble(bytes.NewReader(plain)); err != nil && !strings.HasPrefix(code(err), "backup_") {
			t.Fatalf("the refusal has no code: %v", err)
		}
	})
}

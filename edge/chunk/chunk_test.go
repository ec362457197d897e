package chunk

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
)

var key = bytes.Repeat([]byte{7}, KeySize)

func sealed(t testing.TB, payload []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, key)
	for piece := range slices.Chunk(payload, 7001) { // pieces that meet the borders of chunks anywhere
		if n, err := w.Write(piece); err != nil || n != len(piece) {
			t.Fatal(n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("more")); err == nil {
		t.Fatal("a closed stream takes more")
	}
	return out.Bytes()
}

func pattern(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i * 7919 >> 3)
	}
	return out
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 15, Size - 1, Size, Size + 1, 3 * Size, 3*Size + 77} {
		payload := pattern(n)
		for name, r := range map[string]io.Reader{
			"at once": bytes.NewReader(sealed(t, payload)), "by halves": iotest.HalfReader(bytes.NewReader(sealed(t, payload))),
			"with the end": iotest.DataErrReader(bytes.NewReader(sealed(t, payload))),
		} {
			if got, err := io.ReadAll(NewReader(r, key)); err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%d octets %s: got %d octets, %v", n, name, len(got), err)
			}
		}
	}
}

// TestWhatIsReadIsABeginning: whatever happens to the octets, what comes out is a beginning of what went in, and io.EOF comes only at its
// end.
func TestWhatIsReadIsABeginning(t *testing.T) {
	t.Parallel()
	payload := pattern(3*Size + 77)
	whole := sealed(t, payload)
	flip := func(at int) []byte { b := slices.Clone(whole); b[at] ^= 4; return b }
	const one = Size + Overhead
	for name, tc := range map[string]struct {
		file []byte
		want error
	}{
		"bit in the first chunk":  {flip(100), ErrDamaged},
		"bit in a tag":            {flip(one - 1), ErrDamaged},
		"bit in the last chunk":   {flip(len(whole) - 1), ErrTruncated},
		"cut inside a chunk":      {whole[:one+50], ErrTruncated},
		"cut between chunks":      {whole[:2*one], ErrTruncated},
		"cut to less than a tag":  {whole[:3*one+5], ErrTruncated},
		"nothing":                 {nil, ErrTruncated},
		"chunks swapped":          {slices.Concat(whole[one:2*one], whole[:one], whole[2*one:]), ErrDamaged},
		"a chunk left out":        {slices.Concat(whole[:one], whole[2*one:]), ErrDamaged},
		"a chunk twice":           {slices.Concat(whole[:one], whole), ErrDamaged},
		"something at the end":    {append(slices.Clone(whole), 0), ErrTruncated},
		"a whole stream appended": {slices.Concat(whole, whole), ErrDamaged},
	} {
		got, err := io.ReadAll(NewReader(bytes.NewReader(tc.file), key))
		if !errors.Is(err, tc.want) || !bytes.HasPrefix(payload, got) {
			t.Errorf("%s: got %d octets, %v, want %v", name, len(got), err, tc.want)
		}
	}
	other := bytes.Repeat([]byte{8}, KeySize)
	if _, err := io.ReadAll(NewReader(bytes.NewReader(whole), other)); !errors.Is(err, ErrDamaged) {
		t.Errorf("another key: got %v", err)
	}
	broken := errors.New("the stick was pulled")
	if _, err := io.ReadAll(NewReader(io.MultiReader(bytes.NewReader(whole[:one+9]), iotest.ErrReader(broken)), key)); !errors.Is(err, broken) {
		t.Errorf("a failing disk: got %v", err)
	}
}

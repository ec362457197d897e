package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// filled is a store with n replicated records and two local ones.
func filled(t testing.TB, n int) *Store {
	t.Helper()
	s := open(t, Options{})
	for i := 0; i < n; {
		var b Batch
		for ; i < n && b.Fits(1, 1100); i++ {
			b.Put(fmt.Appendf(nil, "r/%06d", i), bytes.Repeat([]byte{byte(i)}, i%1000))
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "n/keep", "mine", "n/old", "gone soon")
	return s
}

func dump(t testing.TB, s *Store) ([]byte, [32]byte) {
	t.Helper()
	sn := s.Snapshot()
	defer sn.Close()
	var out bytes.Buffer
	d, err := sn.Dump(&out, Replicated)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := sn.Checksum(Replicated)
	if err != nil || plain != d.Checksum {
		t.Fatalf("the dump's checksum is not the store's: %x, %x (%v)", d.Checksum, plain, err)
	}
	var records uint64
	if _, err := ReadDump(bytes.NewReader(out.Bytes()), func(_, _ []byte) error { records++; return nil }); err != nil || records != d.Records {
		t.Fatalf("the dump holds %d records and says %d (%v)", records, d.Records, err)
	}
	return out.Bytes(), d.Checksum
}

func TestTheChecksumSeesEveryOctet(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	seen := map[[32]byte]string{}
	for _, kv := range [][]string{
		{"r/a", "b"}, {"r/ab", ""}, {"r/a", ""}, {"r/b", "a"}, {"r/a", "b", "r/c", ""}, {"r/a", "bc"},
	} {
		put(t, s, kv...)
		_, sum := dump(t, s)
		if other, dup := seen[sum]; dup {
			t.Errorf("%v and %s have one checksum", kv, other)
		}
		seen[sum] = fmt.Sprint(kv)
		var b Batch
		for i := 0; i < len(kv); i += 2 {
			b.Delete([]byte(kv[i]))
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := dump(t, s)
	put(t, s, "n/local", "x")
	if after, _ := dump(t, s); !bytes.Equal(before, after) {
		t.Error("the node's own keyspace is in the dump")
	}
}

func TestARestoreReplacesTheReplicatedKeyspaceOnly(t *testing.T) {
	t.Parallel()
	from := filled(t, 5000)
	stream, want := dump(t, from)
	to := filled(t, 10)
	before := to.Snapshot()
	defer before.Close()

	var local Batch
	local.Put([]byte("n/applied"), []byte("7"))
	local.Delete([]byte("n/old"))
	local.Put([]byte("n/zz"), []byte("last"))
	reopened := ""
	to.OnReopen(func() { reopened += "release " }, func() { reopened += "acquire" })
	got, err := to.Restore(bytes.NewReader(stream), &local)
	if err != nil || got != want {
		t.Fatalf("got %x, %v; want %x", got, err, want)
	}
	if reopened != "release acquire" {
		t.Errorf("holders were told %q", reopened)
	}
	if _, sum := dump(t, to); sum != want {
		t.Error("the restored store has another checksum")
	}
	sn := to.Snapshot()
	if got, want := list(t, sn, "n/", ""), []string{"n/applied=7", "n/keep=mine", "n/zz=last"}; !slices.Equal(got, want) {
		t.Errorf("local keyspace: got %v, want %v", got, want)
	}
	sn.Close()
	if got := list(t, before, "r/", "r/000009"); len(got) != 1 {
		t.Errorf("a snapshot from before the restore changed: %v", got)
	}
	put(t, to, "r/after", "1")
	dir := to.Dir()
	before.Close()
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if states, _ := filepath.Glob(filepath.Join(dir, "state-*")); len(states) != 1 || filepath.Base(states[0]) != "state-000002" {
		t.Errorf("folders left: %v", states)
	}
	again := open(t, Options{Dir: dir})
	sn = again.Snapshot()
	defer sn.Close()
	if v, err := sn.Get([]byte("r/after")); err != nil || string(v) != "1" {
		t.Errorf("a commit after the restore is lost: %q %v", v, err)
	}
	if v, err := sn.Get([]byte("r/004999")); err != nil || len(v) != 999 {
		t.Errorf("the restored state is lost: %d octets, %v", len(v), err)
	}
}

func TestADamagedDumpChangesNothing(t *testing.T) {
	t.Parallel()
	stream, _ := dump(t, filled(t, 300))
	to := filled(t, 3)
	_, before := dump(t, to)
	try := func(what string, raw []byte) {
		t.Helper()
		if _, err := to.Restore(bytes.NewReader(raw), nil); !errors.Is(err, ErrDump) {
			t.Errorf("%s: got %v, want ErrDump", what, err)
		}
	}
	for i := 0; i < len(stream); i += len(stream)/12 + 1 {
		try(fmt.Sprintf("cut at %d", i), stream[:i])
		bad := bytes.Clone(stream)
		bad[i] ^= 1
		try(fmt.Sprintf("octet %d changed", i), bad)
	}
	try("without its end", stream[:len(stream)-1])
	if _, after := dump(t, to); after != before {
		t.Error("a refused dump changed the state")
	}
	states, err := filepath.Glob(filepath.Join(to.Dir(), "state-*"))
	if err != nil || len(states) != 1 {
		t.Errorf("refused restores left %v", states)
	}
	var foreign Batch
	foreign.Put([]byte("r/x"), nil)
	if _, err := to.Restore(bytes.NewReader(stream), &foreign); err == nil {
		t.Error("a restore may not change replicated keys by hand")
	}
}

func TestHalfARestoreIsSweptAtTheNextStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	put(t, s, "r/a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "state-000002")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir})
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half is still there: %v", err)
	}
	sn := s.Snapshot()
	defer sn.Close()
	if got := list(t, sn, "", ""); !slices.Equal(got, []string{"r/a=1"}) {
		t.Errorf("got %v", got)
	}
}

func FuzzReadDump(f *testing.F) {
	s := filled(f, 20)
	stream, _ := dump(f, s)
	f.Add(stream)
	f.Add(stream[:40])
	f.Add([]byte(dumpMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Most mutations die at a block's checksum, so the same octets are tried with right ones too.
		for _, raw := range [][]byte{data, sealed(data)} {
			_, err := ReadDump(bytes.NewReader(raw), func(k, _ []byte) error {
				if len(k) == 0 || len(k) > MaxKey {
					t.Fatalf("key of %d octets", len(k))
				}
				return nil
			})
			if err != nil && !errors.Is(err, ErrDump) {
				t.Fatalf("got %v, want ErrDump", err)
			}
		}
	})
}

// sealed gives each block of a dump the checksum of what it holds.
func sealed(dump []byte) []byte {
	dump = bytes.Clone(dump)
	for at := len(dumpMagic); at+8 <= len(dump); {
		n := int(binary.LittleEndian.Uint32(dump[at:]))
		if n == 0 {
			n = endLength
		}
		payload := dump[at+8:]
		if n > len(payload) {
			break
		}
		binary.LittleEndian.PutUint32(dump[at+4:], crc32.Checksum(payload[:n], castagnoli))
		at += 8 + n
	}
	return dump
}

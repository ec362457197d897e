package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
)

const testSegment = 4 << 10

// brokenMeta refuses to learn of a rotation, as a crash or a full disk at that moment would.
type brokenMeta struct {
	metadb.BoltMetaDB
	broken atomic.Bool
}

func (m *brokenMeta) CommitState(st types.PersistentState) error {
	if m.broken.Load() {
		return errors.New("no room")
	}
	return m.BoltMetaDB.CommitState(st)
}

func logOf(i uint64) *raft.Log {
	return &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i)}, 100+int(i%50))}
}

func closeLog(t *testing.T, w *wal.WAL) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// sealedTail leaves a log in dir whose tail is full and sealed while the metadata know nothing of it; it returns the last index.
func sealedTail(t *testing.T, dir string) uint64 {
	t.Helper()
	meta := &brokenMeta{}
	w, err := wal.Open(dir, wal.WithSegmentSize(testSegment), wal.WithMetaStore(meta), wal.WithLogger(newRaftLog(slog.New(slog.DiscardHandler))))
	if err != nil {
		t.Fatal(err)
	}
	defer closeLog(t, w)
	for i := uint64(1); ; i++ {
		meta.broken.Store(i > 40) // one rotation goes well first
		err := w.StoreLog(logOf(i))
		if errors.Is(err, types.ErrSealed) {
			return i - 1
		}
		if err != nil {
			t.Fatal(err)
		}
		if i > 1000 {
			t.Fatal("the log never became full")
		}
	}
}

func openMended(t *testing.T, dir string) *wal.WAL {
	t.Helper()
	w, err := wal.Open(dir, wal.WithSegmentSize(testSegment), wal.WithLogger(newRaftLog(slog.New(slog.DiscardHandler))), wal.WithSegmentFiler(newSegments(dir)),
		wal.WithMetaStore(&mendingMeta{segmentBytes: testSegment, log: slog.New(slog.DiscardHandler)}))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// holds proves that the log holds 1 to last and nothing more.
func holds(t *testing.T, w *wal.WAL, last uint64) {
	t.Helper()
	if got, err := w.LastIndex(); err != nil || got != last {
		t.Fatalf("last index %d, want %d (%v)", got, last, err)
	}
	for i := uint64(1); i <= last; i++ {
		var got raft.Log
		if err := w.GetLog(i, &got); err != nil || !bytes.Equal(got.Data, logOf(i).Data) {
			t.Fatalf("entry %d of %d: %v", i, last, err)
		}
	}
}

func TestARotationThatWasCutOffIsFinishedWhenTheLogOpens(t *testing.T) {
	dir := t.TempDir()
	last := sealedTail(t, dir)
	plain, err := wal.Open(dir, wal.WithSegmentSize(testSegment), wal.WithLogger(newRaftLog(slog.New(slog.DiscardHandler))))
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.StoreLog(logOf(last + 1)); !errors.Is(err, types.ErrSealed) {
		t.Errorf("raft-wal now recovers by itself (%v): drop the mend", err)
	}
	closeLog(t, plain)
	for range 3 { // opening again changes nothing more
		w := openMended(t, dir)
		holds(t, w, last)
		closeLog(t, w)
	}
	w := openMended(t, dir)
	for i := last + 1; i < last+200; i++ {
		if err := w.StoreLog(logOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, w, last+199)
	closeLog(t, w)
	w = openMended(t, dir)
	holds(t, w, last+199)
	closeLog(t, w)
}

// tailFile is the newest segment.
func tailFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	return files[len(files)-1]
}

// A sealing write (about 300 octets: an entry, the index, the commit) of which only some sectors arrived. The entries before it stay, the log
// works on, and nothing of the torn write comes back later.
func TestASealingWriteThatWasTornLeavesAWorkingLog(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	last := sealedTail(t, whole)
	raw, err := os.ReadFile(tailFile(t, whole))
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(raw, "\x00"))
	for cut := used - 1; cut > used-280; cut -= 13 {
		t.Run(fmt.Sprint(used-cut), func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			torn := bytes.Clone(raw)
			clear(torn[cut : cut+1+(used-cut-1)/3]) // a hole, with what follows it still there
			if bytes.Equal(torn, raw) {
				t.Skip("nothing changed")
			}
			if err := os.WriteFile(tailFile(t, dir), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			w := openMended(t, dir)
			kept, err := w.LastIndex()
			if err != nil || kept < last-1 {
				t.Fatalf("kept %d of %d: an earlier commit is gone (%v)", kept, last, err)
			}
			holds(t, w, kept)
			for i := kept + 1; i < kept+100; i++ {
				if err := w.StoreLog(logOf(i)); err != nil {
					t.Fatalf("entry %d: %v", i, err)
				}
				if i == kept+2 { // reopen while the torn write would still lie behind
					closeLog(t, w)
					w = openMended(t, dir)
					holds(t, w, i)
				}
			}
			holds(t, w, kept+99)
			closeLog(t, w)
			w = openMended(t, dir)
			holds(t, w, kept+99)
			closeLog(t, w)
		})
	}
}

func TestTruncatedAndEmptyTailsOpen(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		w := openMended(t, dir)
		holds(t, w, 0)
		closeLog(t, w)
	}
	w := openMended(t, dir)
	for i := uint64(1); i <= 100; i++ {
		if err := w.StoreLog(logOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.DeleteRange(91, 100); err != nil { // as a follower does with a conflict
		t.Fatal(err)
	}
	closeLog(t, w)
	w = openMended(t, dir)
	holds(t, w, 90)
	for i := uint64(91); i <= 150; i++ {
		if err := w.StoreLog(logOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, w)
	w = openMended(t, dir)
	holds(t, w, 150)
	closeLog(t, w)
}

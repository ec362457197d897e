package cluster

import (
	"bytes"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/types"
)

// made remembers the segments that were made.
type made struct {
	segments

	mu   sync.Mutex
	list []*segmentFile
}

func (m *made) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := m.segments.Create(info)
	if f, ok := w.(*segmentFile); ok {
		m.mu.Lock()
		m.list = append(m.list, f)
		m.mu.Unlock()
	}
	return w, err
}

// writing counts the segments that still hold what they were written with.
func (m *made) writing() (n, all int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.list {
		f.mu.RLock()
		if f.w != nil {
			n++
		}
		f.mu.RUnlock()
	}
	return n, len(m.list)
}

// Full segments keep no buffers, and are read meanwhile and afterwards as before, also where the end of the log is taken back.
func TestAFullSegmentLetsGoOfWhatItWasWrittenWith(t *testing.T) {
	dir := t.TempDir()
	filer := &made{segments: newSegments(dir)}
	w, err := wal.Open(dir, wal.WithSegmentSize(testSegment), wal.WithLogger(newRaftLog(slog.New(slog.DiscardHandler))), wal.WithSegmentFiler(filer))
	check(t, err)
	var last atomic.Uint64
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				n := last.Load()
				if n == 0 {
					continue
				}
				at := n - i%min(n, 300)
				var got raft.Log
				if err := w.GetLog(at, &got); err != nil || !bytes.Equal(got.Data, logOf(at).Data) {
					t.Errorf("entry %d of %d: %v", at, n, err)
					return
				}
			}
		})
	}
	for i := uint64(1); i <= 1000; i++ {
		check(t, w.StoreLog(logOf(i)))
		last.Store(i)
	}
	close(stop)
	readers.Wait()
	holds(t, w, 1000)
	if n, all := filer.writing(); n > 1 || all < 10 {
		t.Errorf("%d of %d segments still hold what they were written with, want the last one alone", n, all)
	}
	check(t, w.DeleteRange(901, 1000))
	holds(t, w, 900)
	for i := uint64(901); i <= 950; i++ {
		check(t, w.StoreLog(logOf(i)))
	}
	holds(t, w, 950)
	check(t, w.DeleteRange(1, 500))
	var got raft.Log
	if err := w.GetLog(500, &got); err == nil {
		t.Error("an entry that was cut off is still read")
	}
	check(t, w.GetLog(501, &got))
	closeLog(t, w)
	w = openMended(t, dir)
	defer closeLog(t, w)
	if n, err := w.LastIndex(); err != nil || n != 950 {
		t.Errorf("last index %d, want 950 (%v)", n, err)
	}
	check(t, w.GetLog(501, &got))
}

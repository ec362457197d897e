package cluster

import (
	"sync"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// segments is raft-wal's own filer, except that a segment that is full lets go of what it was written with. raft-wal v0.4.1 goes on reading a
// sealed segment through its writer as long as it is kept, and with each writer stay a buffer of the largest append to it and 128 KB of
// offsets: a log of 64 MB that was written by one process held 6 MB of them, one that large appends went to some hundred.
type segments struct{ types.SegmentFiler }

func newSegments(dir string) segments { return segments{segment.NewFiler(dir, walfs.New())} }

// Create implements types.SegmentFiler.
func (s segments) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	return s.wrap(info, s.SegmentFiler.Create)
}

// RecoverTail implements types.SegmentFiler.
func (s segments) RecoverTail(info types.SegmentInfo) (types.SegmentWriter, error) {
	return s.wrap(info, s.SegmentFiler.RecoverTail)
}

func (s segments) wrap(info types.SegmentInfo, open func(types.SegmentInfo) (types.SegmentWriter, error)) (types.SegmentWriter, error) {
	w, err := open(info)
	if err != nil {
		return nil, err
	}
	return &segmentFile{filer: s.SegmentFiler, info: info, w: w, r: w}, nil
}

// segmentFile is a segment that is written and then only read.
type segmentFile struct {
	filer types.SegmentFiler
	info  types.SegmentInfo // of the sealed segment, once it is

	mu sync.RWMutex // held for reading by whoever reads or writes the file
	w  types.SegmentWriter
	r  types.SegmentReader // w until the segment is sealed, then w is nil
}

// Append implements types.SegmentWriter.
func (f *segmentFile) Append(entries []types.LogEntry) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.w == nil {
		return types.ErrSealed
	}
	return f.w.Append(entries)
}

// GetLog implements types.SegmentReader.
func (f *segmentFile) GetLog(index uint64) (*types.PooledBuffer, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.r.GetLog(index)
}

// LastIndex implements types.SegmentWriter.
func (f *segmentFile) LastIndex() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.w == nil {
		return f.info.MaxIndex
	}
	return f.w.LastIndex()
}

// Sealed implements types.SegmentWriter. raft-wal asks after each append.
func (f *segmentFile) Sealed() (bool, uint64, error) {
	f.mu.RLock()
	w, start := f.w, f.info.IndexStart
	f.mu.RUnlock()
	if w == nil {
		return true, start, nil
	}
	sealed, start, err := w.Sealed()
	if sealed && err == nil {
		f.shrink(start)
	}
	return sealed, start, err
}

// ForceSeal implements types.SegmentWriter.
func (f *segmentFile) ForceSeal() (uint64, error) {
	f.mu.RLock()
	w, start := f.w, f.info.IndexStart
	f.mu.RUnlock()
	if w == nil {
		return start, nil
	}
	start, err := w.ForceSeal()
	if err == nil {
		f.shrink(start)
	}
	return start, err
}

// shrink puts a reader in the writer's place. Where the file does not open again, the writer stays, which costs memory only.
func (f *segmentFile) shrink(indexStart uint64) {
	info := f.info
	info.IndexStart, info.MaxIndex = indexStart, f.w.LastIndex()
	if info.MaxIndex == 0 {
		return
	}
	r, err := f.filer.Open(info)
	if err != nil {
		return
	}
	f.mu.Lock()
	w := f.w
	f.info, f.r, f.w = info, r, nil
	f.mu.Unlock()
	_ = w.Close() // nobody reads it any more, and what it wrote is synced
}

// Close implements io.Closer.
func (f *segmentFile) Close() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.r.Close()
}

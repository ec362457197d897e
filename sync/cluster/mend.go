package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// mendingMeta is raft-wal's own metadata store that first mends what raft-wal v0.4.1 does not recover from by itself. A segment that is
// full is sealed by one write (an index behind its last entries), and then the metadata learns of it and of the next segment. A crash or
// a full disk between the two leaves a sealed tail, and every append answers "segment is sealed" for ever. A sealing write that was torn
// does the same, although nothing of it counts. And what a torn write leaves behind the last commit could be read as frames later.
//
//   - The tail is sealed and its index is covered by a commit: finish the rotation in the metadata.
//   - Else: overwrite everything behind the last commit with zeros. None of it was acknowledged.
type mendingMeta struct {
	metadb.BoltMetaDB
	segmentBytes int
	log          *slog.Logger
}

// Frames of a segment: a header of 8 octets (type, 3 unused, length or checksum, little endian), the payload, padding to 8.
const (
	frameHeader = 8
	frameCommit = 3
)

func frameSize(payload int) int64 { return int64(frameHeader + (payload+7)/8*8) }

// Load opens the metadata of dir and mends the tail they name.
func (m *mendingMeta) Load(dir string) (types.PersistentState, error) {
	st, err := m.open(dir)
	if err != nil || len(st.Segments) == 0 {
		return st, err
	}
	tail := &st.Segments[len(st.Segments)-1]
	if !tail.SealTime.IsZero() {
		return st, nil
	}
	t, err := inspect(dir, *tail)
	if errors.Is(err, os.ErrNotExist) {
		return st, nil // raft-wal makes it
	}
	if err != nil {
		return st, fmt.Errorf("inspect the tail of the raft log: %w", err)
	}
	if !t.sealed {
		return st, t.clean(m.log)
	}
	tail.SealTime, tail.MaxIndex, tail.IndexStart = tail.CreateTime, t.last, t.indexStart
	next := types.SegmentInfo{
		ID: st.NextSegmentID, BaseIndex: t.last + 1, MinIndex: t.last + 1,
		SizeLimit: uint32(m.segmentBytes), Codec: wal.CodecBinaryV1, CreateTime: tail.CreateTime,
	}
	st.NextSegmentID++
	st.Segments = append(st.Segments, next)
	m.log.Warn("raft log: finished a rotation that was cut off", "last_index", t.last)
	return st, m.CommitState(st)
}

// open reads the metadata once they look like what bbolt has written: it believes each number in the file, and maps it.
func (m *mendingMeta) open(dir string) (st types.PersistentState, err error) {
	if err := checkMeta(dir); err != nil {
		return st, errLogDamaged(dir, fmt.Errorf("%s: %w", metadb.FileName, err))
	}
	if err := tryMeta(dir); err != nil {
		return st, errLogDamaged(dir, fmt.Errorf("%s: %w", metadb.FileName, err))
	}
	return m.BoltMetaDB.Load(dir)
}

// tryMeta opens a copy of the metadata: where that panics or faults, bbolt keeps the file locked for as long as the program runs. A disk without
// room for a copy is not the metadata's fault.
func tryMeta(dir string) (err error) {
	look, err := os.MkdirTemp(dir, "look-*")
	if err != nil {
		return nil
	}
	defer func() { _ = os.RemoveAll(look) }()
	raw, err := os.ReadFile(filepath.Join(dir, metadb.FileName))
	if err != nil || os.WriteFile(filepath.Join(look, metadb.FileName), raw, 0o600) != nil {
		return nil
	}
	before := debug.SetPanicOnFault(true) // a page that names one outside the file
	defer func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			err = fmt.Errorf("it does not open: %v", p)
		}
	}()
	db := new(metadb.BoltMetaDB)
	if _, err = db.Load(look); err == nil {
		_, err = db.GetStable(keyTerm)
	}
	return errors.Join(err, db.Close())
}

// bbolt's file begins with two pages of the same kind, of which the newer one that is whole counts: a head of 16 octets, then magic, version,
// page size, flags, the root's page and sequence, the free list's page, how many pages there are, the transaction, and a checksum (FNV-1a) of all that.
const (
	boltHead  = 16
	boltMagic = 0xED0CDAED
	boltSum   = 56 // where the checksum stands
	boltPage  = 1 << 10
)

// checkMeta says why the metadata of a log's folder are not to be opened.
func checkMeta(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, metadb.FileName)) // some pages
	if errors.Is(err, os.ErrNotExist) {
		segments, err := filepath.Glob(filepath.Join(dir, "*.wal"))
		if err == nil && len(segments) > 0 {
			err = fmt.Errorf("it is missing, and there are %d segments", len(segments))
		}
		return err
	}
	if err != nil {
		return err
	}
	first, size := boltMeta(raw, 0)
	if size == 0 { // the second one says itself where it begins
		for size = boltPage; size <= 1<<16; size *= 2 {
			if pages, own := boltMeta(raw, size); pages > 0 && own == size {
				break
			}
		}
	}
	second, _ := boltMeta(raw, size)
	pages := max(first, second)
	switch {
	case pages == 0:
		return fmt.Errorf("neither of its heads is whole (it has %d bytes)", len(raw))
	case pages > uint64(len(raw)/size):
		return fmt.Errorf("it has %d bytes and names %d pages of %d", len(raw), pages, size)
	}
	return nil
}

// boltMeta reads the head at an offset: how many pages the file has, and their size; 0 where it is not whole.
func boltMeta(raw []byte, at int) (pages uint64, size int) {
	if at+boltHead+boltSum+8 > len(raw) {
		return 0, 0
	}
	m := raw[at+boltHead:]
	h := fnv.New64a()
	_, _ = h.Write(m[:boltSum]) // never fails
	if binary.NativeEndian.Uint32(m) != boltMagic || binary.NativeEndian.Uint64(m[boltSum:]) != h.Sum64() {
		return 0, 0
	}
	return binary.NativeEndian.Uint64(m[40:]), max(int(binary.NativeEndian.Uint32(m[8:])), 1)
}

// tailState is what the file of an unsealed segment really holds.
type tailState struct {
	path       string
	last       uint64 // newest committed index, 0 without any
	end        int64  // where the last commit ends; 0 without any
	sealed     bool   // an index is there and committed
	indexStart uint64
}

func inspect(dir string, info types.SegmentInfo) (t tailState, err error) {
	t.path = filepath.Join(dir, segment.FileName(info))
	w, err := segment.NewFiler(dir, walfs.New()).RecoverTail(info)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	offsets, ok := w.(interface{ OffsetForFrame(uint64) (uint32, error) })
	if t.last = w.LastIndex(); t.last == 0 || !ok {
		return t, nil
	}
	at, err := offsets.OffsetForFrame(t.last)
	if err != nil {
		return t, err
	}
	entry, err := w.GetLog(t.last)
	if err != nil {
		return t, err
	}
	entryEnd := int64(at) + frameSize(len(entry.Bs))
	if err := entry.Close(); err != nil {
		return t, err
	}
	t.end = entryEnd + frameHeader // the commit frame
	found, indexStart, err := w.Sealed()
	if err != nil || !found {
		return t, err
	}
	t.indexStart = indexStart
	switch int64(indexStart) {
	case entryEnd + frameHeader:
		t.sealed = true // no commit between the last entry and the index: one commit covers both, and recovery has accepted it
	case t.end + frameHeader:
		t.sealed, err = t.committed(t.end, int64(indexStart)+int64(4*(t.last-info.BaseIndex+1)))
	}
	return t, err
}

// committed says whether a commit frame that covers the octets from start on stands behind the index that ends at indexEnd.
func (t *tailState) committed(start, indexEnd int64) (bool, error) {
	f, err := os.Open(t.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	end := (indexEnd + 7) / 8 * 8
	raw := make([]byte, end-start+frameHeader)
	if _, err := f.ReadAt(raw, start); err != nil {
		return false, ignoreEOF(err)
	}
	body, head := raw[:end-start], raw[end-start:]
	return head[0] == frameCommit && binary.LittleEndian.Uint32(head[4:]) == crc32.Checksum(body, castagnoli), nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// clean overwrites what lies behind the last commit with zeros, if there is anything. That is the remains of one write that was cut off: with a whole
// batch in it, it is damage, and what was acknowledged stays where it is.
func (t *tailState) clean(log *slog.Logger) error {
	f, err := os.OpenFile(t.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var (
		buf  [64 << 10]byte
		used int64 // octets behind the last commit, up to the last that is not zero
	)
	for at := t.end; ; {
		n, err := f.ReadAt(buf[:], at)
		if rest := bytes.TrimRight(buf[:n], "\x00"); len(rest) > 0 {
			used = at + int64(len(rest)) - t.end
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if used == 0 {
		return nil
	}
	remains := make([]byte, used)
	if _, err := f.ReadAt(remains, t.end); err != nil {
		return err
	}
	if holdsBatch(remains) {
		return errLogDamaged(filepath.Dir(t.path), fmt.Errorf("what follows entry %d cannot be read, and whole batches of entries stand behind it", t.last))
	}
	clear(remains)
	if _, err := f.WriteAt(remains, t.end); err != nil {
		return err
	}
	log.Info("raft log: wiped a write that was cut off", "after_index", t.last)
	return f.Sync()
}

// holdsBatch says whether a batch that matches its checksum stands anywhere behind the end of another. A single write leaves none: it is one batch.
func holdsBatch(raw []byte) bool {
	for at := 0; at+frameHeader <= len(raw); at += 8 {
		if raw[at] == frameCommit && beginsWithBatch(raw[at+frameHeader:]) {
			return true
		}
	}
	return false
}

func beginsWithBatch(raw []byte) bool {
	for at := 0; at+frameHeader <= len(raw); {
		length := binary.LittleEndian.Uint32(raw[at+4:])
		switch raw[at] {
		case frameEntry, frameIndex:
			if int64(length) > int64(len(raw)) { // an int may hold less
				return false
			}
			at += int(frameSize(int(length)))
		case frameCommit:
			return at > 0 && length == crc32.Checksum(raw[:at], castagnoli)
		default:
			return false
		}
	}
	return false
}

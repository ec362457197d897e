package cluster

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// What raft-wal writes of a segment before and between the frames (segment/format.go).
const (
	segmentHeader = 32
	frameEntry    = 1
	frameIndex    = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkFrames compares what the segments hold behind an entry with its checksums, batch by batch. raft-wal writes them and looks only at the last: one that
// does not match there is a write that the power cut short, and nobody was told that it is kept. With a good batch behind it, it is damage.
func checkFrames(dir string, behind uint64) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return fmt.Errorf("list segments: %w", err)
	}
	slices.Sort(paths) // by the first entry, which the names begin with
	for i, path := range paths {
		if i+1 < len(paths) && firstOf(paths[i+1]) <= behind+1 {
			continue
		}
		if err := checkSegment(path, i+1 < len(paths)); err != nil {
			return err
		}
	}
	return nil
}

// firstOf is the first entry of a segment, by its name; 0 for a name that says none.
func firstOf(path string) (first uint64) {
	_, _ = fmt.Sscanf(filepath.Base(path), "%020d-", &first)
	return first
}

// checkSegment reads one in pieces. One that is full ends in a batch with an index, which must be whole as well.
func checkSegment(path string, full bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read segment: %w", err)
	}
	defer func() { _ = f.Close() }()
	r, sum := bufio.NewReaderSize(f, 64<<10), crc32.New(castagnoli)
	if _, err := io.CopyN(sum, r, segmentHeader); err != nil {
		return nil // nothing was written yet
	}
	entry, odd, index := firstOf(path), "", false
	for begin := entry; ; {
		var head [frameHeader]byte
		if _, err := io.ReadFull(r, head[:]); err != nil || head[0] == 0 {
			break
		}
		if head[0] == frameCommit {
			switch {
			case binary.LittleEndian.Uint32(head[4:]) == sum.Sum32():
				if odd != "" {
					return errors.New(odd)
				}
			case odd == "":
				odd = fmt.Sprintf("entries %d to %d do not match their checksum", begin, max(entry, begin+1)-1)
			}
			begin = entry
			sum.Reset()
			continue
		}
		if head[0] == frameEntry {
			entry++
		}
		index = index || head[0] == frameIndex
		_, _ = sum.Write(head[:])
		if _, err := io.CopyN(sum, r, frameSize(int(binary.LittleEndian.Uint32(head[4:])))-frameHeader); err != nil {
			break
		}
	}
	switch {
	case full && odd != "":
		return errors.New(odd)
	case full && !index:
		return fmt.Errorf("what follows entry %d cannot be read", max(entry, 1)-1)
	}
	return nil
}

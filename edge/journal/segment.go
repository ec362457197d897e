package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A segment begins with a header, written together with its first records:
//
//	 0 magic        8 bytes
//	 8 incarnation  u64
//	16 ordinal      u64, must equal the one in the file's name; a recycled file still carries its old one: unused
//	24 base         u64, sequence of the first frame; what an earlier segment holds from here on is void
//	32 flags        u32
//	36 secret       u32, drawn once per journal
//	40 created      i64, nanoseconds since 1970
//	48 previous     32 bytes, hash that the first frame carries
//	80 crc          u32 over bytes 0 to 80
const (
	headerSize   = 96
	headerMagic  = "WGJOURN1"
	markEvery    = 64 // records between two remembered offsets
	segmentExt   = ".seg"
	temporaryExt = ".tmp"
)

// identity is the same in every segment of a journal.
type identity struct {
	incarnation uint64
	secret      uint32
	chained     bool
}

type header struct {
	identity
	ordinal, base uint64
	created       int64
	previous      [hashSize]byte
}

func (h header) append(out []byte) []byte {
	var b [headerSize]byte
	copy(b[:], headerMagic)
	binary.LittleEndian.PutUint64(b[8:], h.incarnation)
	binary.LittleEndian.PutUint64(b[16:], h.ordinal)
	binary.LittleEndian.PutUint64(b[24:], h.base)
	if h.chained {
		binary.LittleEndian.PutUint32(b[32:], flagChained)
	}
	binary.LittleEndian.PutUint32(b[36:], h.secret)
	binary.LittleEndian.PutUint64(b[40:], uint64(h.created))
	copy(b[48:], h.previous[:])
	binary.LittleEndian.PutUint32(b[80:], crc32.Checksum(b[:80], castagnoli))
	return append(out, b[:]...)
}

func parseHeader(b []byte) (header, bool) {
	if len(b) < headerSize || string(b[:8]) != headerMagic ||
		crc32.Checksum(b[:80], castagnoli) != binary.LittleEndian.Uint32(b[80:]) {
		return header{}, false
	}
	h := header{
		identity: identity{
			incarnation: binary.LittleEndian.Uint64(b[8:]), secret: binary.LittleEndian.Uint32(b[36:]),
			chained: binary.LittleEndian.Uint32(b[32:])&flagChained != 0,
		},
		ordinal: binary.LittleEndian.Uint64(b[16:]), base: binary.LittleEndian.Uint64(b[24:]),
		created: int64(binary.LittleEndian.Uint64(b[40:])),
	}
	copy(h.previous[:], b[48:])
	return h, h.base > 0 && h.ordinal > 0
}

// segment is one file. Its fields are guarded by Journal.segMu, except that only the committer changes the last one.
type segment struct {
	ordinal  uint64
	size     int64
	file     file   // open for spares and the last segment only
	base     uint64 // first sequence
	next     uint64 // one past the last durable record it holds
	end      int64  // where the durable records end; 0: nothing written, not even the header
	previous [hashSize]byte
	marks    []uint32 // offset of record base + i*markEvery, as far as it is known
}

func segmentName(ordinal uint64) string { return fmt.Sprintf("%016x%s", ordinal, segmentExt) }

func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentExt)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil && n > 0
}

// mark remembers where a record stands if it is the next one worth remembering.
func (s *segment) mark(seq uint64, offset int64) {
	if d := seq - s.base; d%markEvery == 0 && d/markEvery == uint64(len(s.marks)) {
		s.marks = append(s.marks, uint32(offset))
	}
}

// seek is the nearest known place at or before a record.
func (s *segment) seek(seq uint64) (uint64, int64) {
	if len(s.marks) == 0 {
		return s.base, headerSize
	}
	i := min(int((seq-s.base)/markEvery), len(s.marks)-1)
	return s.base + uint64(i)*markEvery, int64(s.marks[i])
}

// bytesFrom estimates how many bytes the records from seq on take here.
func (s *segment) bytesFrom(seq uint64) int64 {
	switch {
	case s.next <= seq || s.next == s.base:
		return 0
	case seq <= s.base:
		return s.end
	}
	return s.end * int64(s.next-seq) / int64(s.next-s.base)
}

func (s *segment) close() {
	if s.file != nil {
		_ = s.file.Close() // everything that matters was flushed before
		s.file = nil
	}
}

package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"time"
)

// A frame, little endian, padded with zeros to a multiple of 8:
//
//	 0 crc      u32  CRC32C over the salt (journal and segment) and bytes 4 to length
//	 4 length   u32  of the frame without padding
//	 8 sequence u64
//	16 group    u32  sequence minus the first sequence of the same write: all below was durable before this was written
//	20 kind     u16
//	22 quality  u8
//	23 flags    u8
//	24 boot     16 bytes
//	40 mono     i64  nanoseconds since boot
//	48 wall     i64  nanoseconds since 1970
//	56 previous 32 bytes, chained frames only
//	.. payload
const (
	frameHead  = 56
	hashSize   = sha256.Size
	frameAlign = 8

	flagChained = 1 << 0
	flagSealed  = 1 << 1
	flagsKnown  = flagChained | flagSealed
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Record is one durable fact. Payload is valid only during the visit that delivers it.
type Record struct {
	Seq     uint64
	Kind    Kind
	Quality Quality
	Boot    BootID
	Mono    time.Duration // since boot
	Wall    time.Time
	Payload []byte
}

// salt makes a frame valid in its own segment only, so that what an earlier use left in a recycled file is noise. The
// secret, drawn when the journal was made, keeps a payload from passing for a frame.
func salt(id identity, ordinal uint64) uint32 {
	var b [20]byte
	binary.LittleEndian.PutUint64(b[:], id.incarnation)
	binary.LittleEndian.PutUint32(b[8:], id.secret)
	binary.LittleEndian.PutUint64(b[12:], ordinal)
	return crc32.Checksum(b[:], castagnoli)
}

// frame is a decoded view into a buffer that holds it.
type frame struct {
	raw   []byte // without padding
	seq   uint64
	group uint64 // first sequence of the write it was part of
	flags uint8
}

func (f frame) chained() bool { return f.flags&flagChained != 0 }

func (f frame) kind() Kind { return Kind(binary.LittleEndian.Uint16(f.raw[20:])) }

func (f frame) previous() (h [hashSize]byte) {
	copy(h[:], f.raw[frameHead:])
	return h
}

func (f frame) payload() []byte {
	if f.chained() {
		return f.raw[frameHead+hashSize:]
	}
	return f.raw[frameHead:]
}

// hash is what the next chained frame carries. It leaves out the CRC, which depends on the segment.
func (f frame) hash() [hashSize]byte { return sha256.Sum256(f.raw[8:]) }

func (f frame) record() Record {
	return Record{
		Seq: f.seq, Kind: f.kind(), Quality: Quality(f.raw[22]), Boot: BootID(f.raw[24:40]),
		Mono:    time.Duration(binary.LittleEndian.Uint64(f.raw[40:])),
		Wall:    time.Unix(0, int64(binary.LittleEndian.Uint64(f.raw[48:]))),
		Payload: f.payload(),
	}
}

// frameSize is the room that a frame of the given length takes.
func frameSize(length int) int { return (length + frameAlign - 1) &^ (frameAlign - 1) }

// peekLength reads a frame's length field without believing it: 0 when it cannot be one.
func peekLength(buf []byte, limit int) int {
	if len(buf) < frameHead {
		return 0
	}
	n := binary.LittleEndian.Uint32(buf[4:])
	if n < frameHead || uint64(n) > uint64(limit) {
		return 0
	}
	return int(n)
}

// parseFrame decodes the frame at the start of buf. It is total: any bytes give a frame or false.
func parseFrame(buf []byte, salt uint32) (frame, bool) {
	n := peekLength(buf, len(buf))
	if n == 0 {
		return frame{}, false
	}
	raw := buf[:n:n]
	f := frame{raw: raw, seq: binary.LittleEndian.Uint64(raw[8:]), flags: raw[23]}
	back := uint64(binary.LittleEndian.Uint32(raw[16:]))
	if f.seq == 0 || back >= f.seq || f.flags&^flagsKnown != 0 || f.chained() && n < frameHead+hashSize {
		return frame{}, false
	}
	if crc32.Update(salt, castagnoli, raw[4:]) != binary.LittleEndian.Uint32(raw) {
		return frame{}, false
	}
	f.group = f.seq - back
	return f, true
}

// beginFrame appends a frame's fixed part; the caller appends the payload and calls endFrame with the same start.
func beginFrame(out []byte, it *item, seq, group uint64, quality Quality, boot BootID, flags uint8) []byte {
	var h [frameHead]byte
	binary.LittleEndian.PutUint64(h[8:], seq)
	binary.LittleEndian.PutUint32(h[16:], uint32(seq-group))
	binary.LittleEndian.PutUint16(h[20:], uint16(it.kind))
	h[22], h[23] = uint8(quality), flags
	copy(h[24:], boot[:])
	binary.LittleEndian.PutUint64(h[40:], uint64(it.mono))
	binary.LittleEndian.PutUint64(h[48:], uint64(it.wall))
	return append(out, h[:]...)
}

// endFrame fills in length and CRC of the frame that begins at start and pads it.
func endFrame(out []byte, start int, salt uint32) ([]byte, frame) {
	n := len(out) - start
	raw := out[start:]
	binary.LittleEndian.PutUint32(raw[4:], uint32(n))
	binary.LittleEndian.PutUint32(raw, crc32.Update(salt, castagnoli, raw[4:]))
	var zeros [frameAlign]byte
	out = append(out, zeros[:frameSize(n)-n]...)
	return out, frame{raw: out[start : start+n : start+n], seq: binary.LittleEndian.Uint64(out[start+8:]), flags: out[start+23]}
}

// additional is the data that a sealed payload is bound to.
func additional(dst []byte, incarnation, seq uint64, kind Kind) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, incarnation)
	dst = binary.LittleEndian.AppendUint64(dst, seq)
	return binary.LittleEndian.AppendUint16(dst, uint16(kind))
}

package journal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
)

// FuzzScan feeds any bytes to the recovery of the last segment. It must neither panic nor claim more than is there,
// and what it accepts must read the same way twice.
func FuzzScan(f *testing.F) {
	id := identity{incarnation: 7, secret: 9}
	seg := &segment{ordinal: 3, base: 5}
	build := func(n, size int) []byte {
		out := header{identity: id, ordinal: 3, base: 5}.append(nil)
		for i := range n {
			start := len(out)
			out = beginFrame(out, &item{kind: 1}, 5+uint64(i), 5+uint64(i/3*3), Synced, BootID{}, 0)
			out = append(out, make([]byte, size)...)
			out, _ = endFrame(out, start, salt(id, 3))
		}
		return append(out, make([]byte, 256)...)
	}
	f.Add(build(0, 0))
	f.Add(build(9, 13))
	f.Add(build(40, 400))
	torn := build(9, 100)
	clear(torn[1100:1200])
	f.Add(torn)
	length := build(3, 50)
	binary.LittleEndian.PutUint32(length[headerSize+4:], 1<<31)
	f.Add(length)
	// behind a damaged record: one whose padding is cut off, and one that says it was written before the segment was
	one := func(out []byte, seq, group uint64) []byte {
		start := len(out)
		out = append(beginFrame(out, &item{kind: 1}, seq, group, Synced, BootID{}, 0), make([]byte, 13)...)
		out, _ = endFrame(out, start, salt(id, 3))
		return out
	}
	f.Add(one(build(0, 0)[:headerSize], 10, 10)[:headerSize+frameHead+13])
	f.Add(one(one(build(0, 0)[:headerSize], 10, 3), 9, 9))
	// a lost record of a group of three, then a write of which only the end arrived: the cut takes what proved the loss
	lost := build(9, 20)
	at := func(n int) int { return headerSize + n*frameSize(frameHead+20) }
	lost[at(3)]++
	lost[at(6)]++
	f.Add(lost)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < headerSize || len(data) > 1<<16 {
			return
		}
		// Most mutations die at the checksum, so the same octets are tried with right ones too.
		sealed := bytes.Clone(data)
		for at := headerSize; at < len(sealed); at += frameAlign {
			if n := peekLength(sealed[at:], len(sealed)-at); n > 0 {
				binary.LittleEndian.PutUint32(sealed[at:], crc32.Update(salt(id, 3), castagnoli, sealed[at+4:at+n]))
				at += frameSize(n) - frameAlign
			}
		}
		for _, buf := range [][]byte{bytes.Clone(data), sealed} {
			t1, ok := scanTail(buf, seg, id, nil)
			if t1.end < headerSize || t1.end > int64(len(buf)) || t1.wipe > int64(len(buf)) || t1.group > t1.end || t1.next < seg.base {
				t.Fatalf("impossible result %+v for %d bytes", t1, len(buf))
			}
			if !ok {
				continue
			}
			clear(buf[t1.end:max(t1.end, t1.wipe)])
			t2, ok := scanTail(buf, seg, id, t1.lost) // which the first recovery noted
			if !ok || t2.next != t1.next || t2.end != t1.end || t2.wipe != 0 || !slices.Equal(t2.lost, t1.lost) {
				t.Fatalf("after recovery: got %+v, %v, before %+v", t2, ok, t1)
			}
		}
		parseHeader(data)
		if h, err := ParseHead(data[:min(len(data), headSize)]); err == nil {
			h.Verify(make([]byte, 32))
		}
	})
}

package journal

import (
	"encoding/binary"
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
	f.Fuzz(func(t *testing.T, buf []byte) {
		if len(buf) < headerSize || len(buf) > 1<<16 {
			return
		}
		t1, ok := scanTail(buf, seg, id)
		if t1.end < headerSize || t1.end > int64(len(buf)) || t1.wipe > int64(len(buf)) || t1.group > t1.end || t1.next < seg.base {
			t.Fatalf("impossible result %+v for %d bytes", t1, len(buf))
		}
		if !ok {
			return
		}
		clear(buf[t1.end:max(t1.end, t1.wipe)])
		t2, ok := scanTail(buf, seg, id)
		if !ok || t2.next != t1.next || t2.end != t1.end || t2.wipe != 0 {
			t.Fatalf("after recovery: got %+v, %v, before %+v", t2, ok, t1)
		}
		parseHeader(buf)
		if h, err := ParseHead(buf[:min(len(buf), headSize)]); err == nil {
			h.Verify(make([]byte, 32))
		}
	})
}

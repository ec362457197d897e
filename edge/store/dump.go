package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A dump is a magic line, blocks, and an end mark. A block is its length and the CRC-32C of its payload, both 32-bit little endian, then
// the payload: whole records as in the checksum. The end mark is a block of length zero whose CRC covers what follows: the number of
// records (64 bit) and the checksum of them all. Half a dump therefore never looks like a whole one.
const (
	dumpMagic    = "wispgate-dump 1\n"
	dumpBlock    = 64 << 10
	maxDumpBlock = 1 << 20
	endLength    = 8 + sha256.Size
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDump is what reading a dump that is cut off, damaged or foreign matches.
var ErrDump = errors.New("store: dump is damaged")

// Dumped says what a dump holds: how many records, and their checksum.
type Dumped struct {
	Records  uint64
	Checksum [sha256.Size]byte
}

// Dump writes everything under prefix to w; the checksum equals Checksum(prefix). It reads the data once and keeps 64 KB in memory.
func (sn *Snapshot) Dump(w io.Writer, prefix string) (d Dumped, err error) {
	out := bufio.NewWriterSize(w, dumpBlock)
	if _, err := out.WriteString(dumpMagic); err != nil {
		return d, err
	}
	var (
		block   []byte
		summary = NewSummer()
	)
	flush := func() error {
		if len(block) == 0 {
			return nil
		}
		err := writeBlock(out, uint32(len(block)), block)
		block = block[:0]
		return err
	}
	err = sn.Scan([]byte(prefix), nil, func(k, v []byte) (bool, error) {
		k = k[len(prefix):]
		summary.Add(k, v)
		d.Records++
		block = appendRecord(block, k, v)
		if len(block) < dumpBlock {
			return true, nil
		}
		return true, flush()
	})
	if err = errors.Join(err, flush()); err != nil {
		return d, fmt.Errorf("dump: %w", err)
	}
	d.Checksum = summary.Sum()
	end := append(binary.LittleEndian.AppendUint64(nil, d.Records), d.Checksum[:]...)
	if err := errors.Join(writeBlock(out, 0, end), out.Flush()); err != nil {
		return d, fmt.Errorf("dump: %w", err)
	}
	return d, nil
}

func writeBlock(w io.Writer, length uint32, payload []byte) error {
	head := binary.LittleEndian.AppendUint32(nil, length)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(payload, castagnoli))
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

// ReadDump visits the records of a dump in order and returns its checksum once the end mark has proved them complete. Until then what
// visit has seen must not be relied on. k and v are valid only during the visit. Memory is bounded by 1 MB whatever r holds.
func ReadDump(r io.Reader, visit func(k, v []byte) error) (sum [sha256.Size]byte, err error) {
	in := bufio.NewReaderSize(r, dumpBlock)
	magic := make([]byte, len(dumpMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != dumpMagic {
		return sum, fmt.Errorf("%w: it does not begin as one", ErrDump)
	}
	d := dumpReader{in: in, summary: NewSummer(), visit: visit}
	for !d.ended {
		if err := d.block(); err != nil {
			return sum, err
		}
	}
	return d.sum, nil
}

type dumpReader struct {
	in      *bufio.Reader
	visit   func(k, v []byte) error
	buf     []byte
	last    []byte
	count   uint64
	summary *Summer
	sum     [sha256.Size]byte
	ended   bool
}

func (d *dumpReader) block() error {
	var head [8]byte
	if _, err := io.ReadFull(d.in, head[:]); err != nil {
		return fmt.Errorf("%w: it ends before its end mark", ErrDump)
	}
	length, crc := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	if length > maxDumpBlock {
		return fmt.Errorf("%w: a block is too long", ErrDump)
	}
	d.ended = length == 0
	if d.ended {
		length = endLength
	}
	if cap(d.buf) < int(length) {
		d.buf = make([]byte, length)
	}
	d.buf = d.buf[:length]
	if _, err := io.ReadFull(d.in, d.buf); err != nil {
		return fmt.Errorf("%w: it ends inside a block", ErrDump)
	}
	if crc32.Checksum(d.buf, castagnoli) != crc {
		return fmt.Errorf("%w: a block fails its check", ErrDump)
	}
	if d.ended {
		return d.end()
	}
	return d.records()
}

func (d *dumpReader) end() error {
	d.sum = d.summary.Sum()
	if binary.LittleEndian.Uint64(d.buf) != d.count || !bytes.Equal(d.buf[8:], d.sum[:]) {
		return fmt.Errorf("%w: records are missing", ErrDump)
	}
	return nil
}

func (d *dumpReader) records() error {
	for rest := d.buf; len(rest) > 0; {
		klen, n1 := binary.Uvarint(rest)
		vlen, n2 := binary.Uvarint(rest[max(n1, 0):])
		if n1 <= 0 || n2 <= 0 || klen == 0 || klen > MaxKey || klen+vlen > uint64(len(rest)-n1-n2) || vlen > maxDumpBlock {
			return fmt.Errorf("%w: a record does not parse", ErrDump)
		}
		rest = rest[n1+n2:]
		k, v := rest[:klen], rest[klen:klen+vlen]
		rest = rest[klen+vlen:]
		if d.count > 0 && bytes.Compare(d.last, k) >= 0 {
			return fmt.Errorf("%w: records are out of order", ErrDump)
		}
		d.last = append(d.last[:0], k...)
		d.count++
		d.summary.Add(k, v)
		if err := d.visit(k, v); err != nil {
			return err
		}
	}
	return nil
}

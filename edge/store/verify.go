package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/table"
)

// A table is blocks and an index of them. A block is records, their offsets and how many there are, the checksum of all that, and the
// checksum's length; the index is followed by its length, its checksum and the checksum's length. Lengths are 32 bit big endian, checksums
// are CRC-32C in a message of protobuf.
//
// Badger looks at the checksum of an index when it opens a table and at those of blocks never. Asked to, it takes a block that fails for the end
// of its table: a look-up then finds nothing, a scan goes on without, and a compaction leaves the records out for good. So a block is checked
// here, as it is read, and whoever was reading is told.

var errShort = errors.New("it is too short for what it names")

// check holds a block against the checksum at its end.
func check(data []byte) error {
	const length = 4
	if len(data) < 2*length {
		return errShort
	}
	rest := data[:len(data)-length]
	n := binary.BigEndian.Uint32(data[len(rest):])
	if uint64(n) > uint64(len(rest)-length) {
		return errShort
	}
	body, sum := rest[:len(rest)-int(n)], rest[len(rest)-int(n):]
	want, ok := parseChecksum(sum)
	if !ok || want != crc32.Checksum(body, castagnoli) {
		return errors.New("its checksum does not match")
	}
	return nil
}

// parseChecksum reads Badger's message: the kind (field 1, left out for CRC-32C) and the sum (field 2).
func parseChecksum(raw []byte) (sum uint32, ok bool) {
	for len(raw) > 0 {
		tag := raw[0]
		v, n := binary.Uvarint(raw[1:])
		if n <= 0 {
			return 0, false
		}
		raw = raw[1+n:]
		switch {
		case tag == 1<<3 && v == 0:
		case tag == 2<<3 && v <= 1<<32-1:
			sum, ok = uint32(v), true
		default:
			return 0, false
		}
	}
	return sum, ok
}

// verifyTable checks a table's index and its last block, which Badger reads when it opens it, or with whole all of its blocks. It reads the
// file: a mapping would keep what it has touched in memory.
func verifyTable(path string, whole bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	index, err := readIndex(f, info.Size())
	if err != nil {
		return fmt.Errorf("the index of table %s: %w", filepath.Base(path), err)
	}
	var (
		at  fb.BlockOffset
		buf []byte
	)
	n := index.OffsetsLength()
	for i := range n {
		if !whole && i < n-1 {
			continue
		}
		if !index.Offsets(&at, i) || int64(at.Offset())+int64(at.Len()) > info.Size() {
			return fmt.Errorf("the index of table %s: %w", filepath.Base(path), errShort)
		}
		if cap(buf) < int(at.Len()) {
			buf = make([]byte, at.Len())
		}
		buf = buf[:at.Len()]
		if _, err = f.ReadAt(buf, int64(at.Offset())); err == nil {
			err = check(buf)
		}
		if err != nil {
			return blockError(path, int(at.Offset()), err)
		}
	}
	return nil
}

// readIndex reads what stands behind the blocks. Nothing in it is believed before its checksum is.
func readIndex(f *os.File, size int64) (*fb.TableIndex, error) {
	tail := make([]byte, min(size, 4<<10))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return nil, err
	}
	if len(tail) < 12 {
		return nil, errShort
	}
	sum := int64(binary.BigEndian.Uint32(tail[len(tail)-4:]))
	at := int64(len(tail)) - 8 - sum
	if at < 0 {
		return nil, errShort
	}
	length := int64(binary.BigEndian.Uint32(tail[at:]))
	start := size - 8 - sum - length
	if start < 0 {
		return nil, errShort
	}
	raw := make([]byte, length)
	if _, err := f.ReadAt(raw, start); err != nil {
		return nil, err
	}
	want, ok := parseChecksum(tail[at+4 : len(tail)-4])
	if !ok || want != crc32.Checksum(raw, castagnoli) || length == 0 {
		return nil, errors.New("its checksum does not match")
	}
	return fb.GetRootAsTableIndex(raw, 0), nil
}

func blockError(path string, offset int, err error) error {
	return fmt.Errorf("table %s at byte %d: %w", filepath.Base(path), offset, err)
}

// checkTables looks at the tables of a state before Badger opens it: on a damaged index it ends the program. Where blocks are not checked as
// they are read, all of them are checked here.
func checkTables(dir string) error {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	manifest, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("the list of tables: %w", err)
	}
	for id := range manifest.Tables {
		if err := verifyTable(table.NewFilename(id, dir), !mended()); err != nil {
			return err
		}
	}
	return nil
}

// mended says whether scripts/gomended made this program: Badger then has each block checked as it is read.
func mended() bool {
	_, ok := any(new(badger.IteratorOptions)).(interface{ Mended() })
	return ok
}

// Verify checks every octet of every table that the snapshot can see, and says how many there are. It reads all of the state once.
func (sn *Snapshot) Verify() (n int, err error) {
	if !sn.usable() {
		return 0, ErrClosed
	}
	for id := range tables(sn.h.db) {
		switch err := verifyTable(table.NewFilename(id, sn.h.dir), true); {
		case errors.Is(err, fs.ErrNotExist): // compacted meanwhile
		case err != nil:
			return n, sn.h.harm.note(err)
		default:
			n++
		}
	}
	return n, nil
}

// harm is what was found damaged in one opening of the state.
type harm struct {
	found atomic.Int64
	first atomic.Pointer[error]
	dir   string
	tell  func(error) // of the first; nil: nobody
}

// note counts one more find and returns it as an error for people.
func (h *harm) note(cause error) error {
	err := errDamaged(h.dir, cause)
	if h.first.CompareAndSwap(nil, &err) && h.tell != nil {
		go h.tell(err)
	}
	h.found.Add(1)
	return err
}

// err is the first find, nil while there is none.
func (h *harm) err() error {
	if err := h.first.Load(); err != nil {
		return *err
	}
	return nil
}

// since is the damage found since there were n finds. Whoever reads asks afterwards: it may have been what was read.
func (h *harm) since(n int64) error {
	if h.found.Load() == n {
		return nil
	}
	return h.err()
}

// OnDamage has fn called, on a goroutine of its own, with the first damage that is found in the state from now on, or at once with one that was found
// already. Reads go on as far as they meet intact blocks; commits are refused.
func (s *Store) OnDamage(fn func(error)) {
	s.damageMu.Lock()
	s.onDamage = append(s.onDamage, fn)
	s.damageMu.Unlock()
	if err := s.Damage(); err != nil {
		go fn(err)
	}
}

func (s *Store) tellDamage(err error) {
	s.log.Error("the state is damaged", "error", err)
	s.damageMu.Lock()
	fns := s.onDamage
	s.damageMu.Unlock()
	for _, fn := range fns {
		fn(err)
	}
}

// Damage is what was found damaged in the state that is open, nil while nothing was.
func (s *Store) Damage() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.h == nil {
		return nil
	}
	return s.h.harm.err()
}

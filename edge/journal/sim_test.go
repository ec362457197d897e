package journal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// simDisk is a folder whose power can be cut. Until a flush, each sector of 512 bytes may or may not have reached the
// platter, in any order; names reach it in order. A flush that fails marks everything clean and keeps it readable, as
// Linux does, though none of it is on the platter, or with torn any part of it. It behaves the same way each time.
type simDisk struct {
	mu       sync.Mutex
	names    map[string]*simFile
	platter  map[string]*simFile
	pending  []func(map[string]*simFile)
	capacity int64                 // 0: endless
	torn     *rand.Rand            // decides what a failed write or flush leaves behind; nil: half a write, nothing of a flush
	fault    func(op string) error // asked before each operation that changes something
	step     func()                // told before each of them, with mu free
	killed   bool                  // the process is dead: what it still asks for does not happen
}

type simFile struct {
	disk    *simDisk
	data    []byte
	platter []byte
	dirty   map[int]bool
}

const sector = 512

var (
	errFault  = errors.New("injected fault")
	errKilled = errors.New("the process is dead")
)

func newSimDisk() *simDisk {
	return &simDisk{names: map[string]*simFile{}, platter: map[string]*simFile{}}
}

func (d *simDisk) enter(op string) error {
	d.mu.Lock()
	step, fault := d.step, d.fault
	d.mu.Unlock()
	if step != nil {
		step()
	}
	d.mu.Lock()
	killed := d.killed
	d.mu.Unlock()
	if killed {
		return errKilled
	}
	if fault != nil {
		return fault(op)
	}
	return nil
}

func (d *simDisk) List() ([]entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []entry
	for _, n := range slices.Sorted(maps.Keys(d.names)) {
		out = append(out, entry{n, int64(len(d.names[n].data))})
	}
	return out, nil
}

func (d *simDisk) Create(name string, size int64) (file, error) {
	if err := d.enter("create"); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	used := size
	for _, f := range d.names {
		used += int64(len(f.data))
	}
	if d.capacity > 0 && used > d.capacity {
		return nil, syscall.ENOSPC
	}
	f := &simFile{disk: d, data: make([]byte, size), platter: make([]byte, size), dirty: map[int]bool{}}
	d.change(func(m map[string]*simFile) { m[name] = f })
	return f, nil
}

func (d *simDisk) change(op func(map[string]*simFile)) {
	op(d.names)
	d.pending = append(d.pending, op)
}

func (d *simDisk) Open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.names[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (d *simDisk) Rename(from, to string) error {
	if err := d.enter("rename"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[from] == nil {
		return fs.ErrNotExist
	}
	d.change(func(m map[string]*simFile) {
		m[to] = m[from]
		delete(m, from)
	})
	return nil
}

func (d *simDisk) Remove(name string) error {
	if err := d.enter("remove"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return fs.ErrNotExist
	}
	d.change(func(m map[string]*simFile) { delete(m, name) })
	return nil
}

func (d *simDisk) Sync() error {
	if err := d.enter("syncdir"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range d.pending {
		op(d.platter)
	}
	d.pending = nil
	return nil
}

func (d *simDisk) Close() error { return nil }

// cut returns what a machine finds after the power came back.
func (d *simDisk) cut(rng *rand.Rand) *simDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := maps.Clone(d.platter)
	for _, op := range d.pending[:rng.IntN(len(d.pending)+1)] {
		op(names)
	}
	after := newSimDisk()
	after.capacity, after.torn = d.capacity, d.torn
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		if f == nil {
			continue
		}
		data := slices.Clone(f.platter)
		f.persistSome(data, rng)
		g := &simFile{disk: after, data: data, platter: slices.Clone(data), dirty: map[int]bool{}}
		after.names[name], after.platter[name] = g, g
	}
	return after
}

// persistSome puts some unflushed sectors on a platter: none, a part or all of them.
func (f *simFile) persistSome(platter []byte, rng *rand.Rand) {
	chance := rng.IntN(5)
	for _, s := range slices.Sorted(maps.Keys(f.dirty)) {
		if rng.IntN(4) < chance {
			f.persist(platter, s)
		}
	}
}

func (f *simFile) persist(platter []byte, s int) {
	copy(platter[s*sector:min((s+1)*sector, len(platter))], f.data[s*sector:])
}

func (f *simFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *simFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.disk.enter("write")
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	switch {
	case err == nil:
	case errors.Is(err, errKilled):
		p = nil
	case f.disk.torn != nil:
		p = p[:f.disk.torn.IntN(len(p)+1)]
	default:
		p = p[:len(p)/2]
	}
	if int(off)+len(p) > len(f.data) {
		panic("write beyond what was allocated")
	}
	n := copy(f.data[off:], p)
	for s := int(off) / sector; n > 0 && s <= (int(off)+n-1)/sector; s++ {
		f.dirty[s] = true
	}
	return n, err
}

func (f *simFile) Datasync() error {
	err := f.disk.enter("sync")
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	switch {
	case err == nil:
		for s := range f.dirty {
			f.persist(f.platter, s)
		}
	case errors.Is(err, errKilled):
		return err
	case f.disk.torn != nil:
		f.persistSome(f.platter, f.disk.torn)
	}
	clear(f.dirty)
	return err
}

func (f *simFile) Close() error { return nil }

// Package store is the room in which state lies on disk, and the only one that knows Badger. It offers two keyspaces of one database
// (replicated and node-local), consistent snapshots, batches that are one synced transaction each, a checksum, a dump and a restore,
// and a disk guard that stops writing long before a full disk would kill the process. DESIGN.md says why it is as it is.
package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"wispgate/edge/flock"
)

// The keyspaces. Snapshots for other nodes, dumps and checksums know only the replicated one.
const (
	Replicated = "r/" // the same on every node at the same version
	Local      = "n/" // this node's own
)

// Options of Open. Dir is required; the zero value of everything else is what a tower runs with.
type Options struct {
	Dir      string
	Logger   *slog.Logger // nil: silent
	ReadOnly bool         // look without writing; refused while a daemon has the directory open

	Watermarks   Watermarks    // zero: DefaultWatermarks
	BallastBytes int64         // 0: 32 MB, at most 1/16 of the disk; negative: none
	PollEvery    time.Duration // how often the disk guard looks; 0: 500 ms
	DrainWait    time.Duration // how long a change of mode waits for open snapshots; 0: 2 s

	// FreeSpace reports the room this process may use and the size of the file system of dir; nil: statfs.
	FreeSpace func(dir string) (free, total uint64, err error)
}

// Store is an open data directory. All methods are safe for concurrent use.
type Store struct {
	opts Options
	log  *slog.Logger
	lock *os.File
	dev  string // sysfs folder of the block device, "" when unknown

	wmu     sync.Mutex // one writer: commits, restores and changes of mode; taken before mu
	state   string     // name of the folder CURRENT points at
	tamed   string     // newest memtable log that tame has seen
	closed  bool
	reopens []reopen

	mu sync.RWMutex // the handle
	h  *handle      // nil once closed

	guard guard

	damageMu sync.Mutex
	onDamage []func(error)

	commits, ops, logical atomic.Int64
	device0               uint64 // octets the device had written when the store opened
}

// handle is one opening of Badger. It closes when it is retired and its last snapshot is gone.
type handle struct {
	db       *badger.DB
	harm     *harm
	dir      string
	readOnly bool
	refs     atomic.Int64
	idle     chan struct{} // poked, without blocking, whenever refs falls to zero
	retired  atomic.Bool
	retire   func()
	once     sync.Once
}

func (h *handle) release() {
	if h.refs.Add(-1) > 0 {
		return
	}
	select {
	case h.idle <- struct{}{}:
	default:
	}
	if h.retired.Load() {
		h.once.Do(h.retire)
	}
}

// drained waits until no snapshot is open, at most d. No snapshot may be opened meanwhile: the caller holds Store.mu.
func (h *handle) drained(d time.Duration) bool {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	for h.refs.Load() > 0 {
		select {
		case <-h.idle:
		case <-timeout.C:
			return h.refs.Load() == 0
		}
	}
	return true
}

// Open opens the data directory, making it if needed. It fails with code data_in_use when another process holds it, data_newer when a
// newer program wrote it, allocator_faulty on a 32-bit build without the patch, store_corrupt when the state does not open at the
// second attempt or a table is damaged. On a disk below the critical watermark the store opens for reading and turns to writing when space returns.
func Open(opts Options) (*Store, error) {
	opts = opts.withDefaults()
	if err := selfTest(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	opts.Dir = dir
	if !opts.ReadOnly {
		if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	if opts.Dir, err = filepath.EvalSymlinks(opts.Dir); err != nil { // the kernel lists mappings by their real path
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, err := lockDir(opts.Dir, opts.ReadOnly)
	if err != nil {
		return nil, err
	}
	s := &Store{opts: opts, log: opts.Logger, lock: lock, dev: blockDevice(opts.Dir)}
	s.device0 = deviceWritten(s.dev)
	if err := s.start(); err != nil {
		_ = flock.Release(lock)
		return nil, err
	}
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Watermarks == (Watermarks{}) {
		o.Watermarks = DefaultWatermarks
	}
	if o.PollEvery == 0 {
		o.PollEvery = 500 * time.Millisecond
	}
	if o.DrainWait == 0 {
		o.DrainWait = 2 * time.Second
	}
	if o.FreeSpace == nil {
		o.FreeSpace = FreeSpace
	}
	return o
}

func (s *Store) start() error {
	if err := checkFormat(s.opts.Dir, s.opts.ReadOnly); err != nil {
		return err
	}
	state, err := currentState(s.opts.Dir, s.opts.ReadOnly)
	if err != nil {
		return err
	}
	s.state = state
	if s.opts.ReadOnly {
		s.h, err = s.openHandle(state, true)
		return err
	}
	if err := dropOthers(s.opts.Dir, state); err != nil {
		return fmt.Errorf("clean data directory: %w", err)
	}
	s.guard.init(s)
	if s.guard.look() == DiskCritical {
		s.h, err = s.openFull()
	} else {
		s.h, err = s.openHandle(state, false)
	}
	if err != nil {
		return err
	}
	s.tameNewest()
	s.guard.start()
	return nil
}

// openFull opens on a disk that has no room. Reading only needs a store that was closed well; after a crash Badger has to tidy up
// first, for which the ballast is given up.
func (s *Store) openFull() (*handle, error) {
	if _, err := os.Stat(filepath.Join(s.opts.Dir, s.state)); err == nil {
		if h, err := s.openOnce(s.state, true); err == nil {
			return h, nil
		}
	}
	s.guard.dropBallast()
	d := s.guard.read()
	if d.Free < tidyRoom {
		return nil, errDiskLow(d)
	}
	h, err := s.openHandle(s.state, false)
	if err != nil {
		return nil, err
	}
	if err := h.db.Close(); err != nil {
		return nil, errCorrupt(s.opts.Dir, err)
	}
	return s.openHandle(s.state, true)
}

// tidyRoom is what Badger may need to open after a crash and to close again: two memtables as logs and as tables, and the manifest.
const tidyRoom = 8*memTableSize + 1<<20

// openHandle opens Badger, twice if need be: a crash between creating and sizing a file leaves it with no octets, on which the first
// attempt fails and which it mends.
func (s *Store) openHandle(state string, readOnly bool) (*handle, error) {
	h, err := s.openOnce(state, readOnly)
	if err == nil {
		return h, nil
	}
	s.log.Warn("store open failed, trying once more", "error", err)
	if h, err = s.openOnce(state, readOnly); err == nil {
		return h, nil
	}
	// By its text: Badger wraps the error of a memtable's log without keeping it.
	if readOnly && strings.Contains(err.Error(), badger.ErrTruncateNeeded.Error()) {
		return nil, errForeign(s.opts.Dir, "it was not closed cleanly, so it has to be opened for writing once")
	}
	return nil, errCorrupt(s.opts.Dir, err)
}

func (s *Store) openOnce(state string, readOnly bool) (h *handle, err error) {
	dir := filepath.Join(s.opts.Dir, state)
	defer func() {
		if p := recover(); p != nil { // Badger panics on some damaged files
			err = fmt.Errorf("open panicked: %v", p)
		}
	}()
	if err := checkTables(dir); err != nil {
		return nil, err
	}
	found := &harm{dir: dir, tell: s.tellDamage}
	db, err := badger.Open(profile(dir, readOnly, s.log, found))
	if err != nil {
		return nil, err
	}
	if !readOnly {
		if err := errors.Join(syncDir(dir), syncDir(s.opts.Dir)); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	return &handle{db: db, harm: found, dir: dir, readOnly: readOnly, idle: make(chan struct{}, 1)}, nil
}

// Commit writes the batch as one synced transaction: after nil it survives a power cut, after an error none of it was written. It is
// never split; a batch beyond the limits is ErrTooLarge. A batch that puts anything is refused with code disk_low while the disk is
// below the low watermark.
func (s *Store) Commit(b *Batch) error { return s.commit(b, false) }

// CommitReserved is Commit for what was promised already: entries that the cluster has committed, acknowledgements that free room. It
// may use the space between the low and the critical watermark.
func (s *Store) CommitReserved(b *Batch) error { return s.commit(b, true) }

func (s *Store) commit(b *Batch, reserved bool) error {
	if err := b.check(); err != nil {
		return err
	}
	if s.opts.ReadOnly {
		return errReadOnly(s.opts.Dir)
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.closed || s.h == nil {
		return ErrClosed
	}
	if level := s.guard.look(); level == DiskCritical || s.h.readOnly || level == DiskLow && !reserved && b.puts > 0 {
		return errDiskLow(s.guard.state())
	}
	if err := s.h.harm.err(); err != nil { // what it would be compacted with is not to be read
		return err
	}
	if len(b.ops) == 0 {
		return nil
	}
	if err := s.write(b); err != nil {
		return err
	}
	s.commits.Add(1)
	s.ops.Add(int64(len(b.ops)))
	s.logical.Add(int64(b.size))
	s.tameNewest()
	return nil
}

func (s *Store) write(b *Batch) error {
	txn := s.h.db.NewTransaction(true)
	defer txn.Discard()
	for i := range b.ops {
		var err error
		if o := &b.ops[i]; o.delete {
			err = txn.Delete(o.key)
		} else {
			err = txn.Set(o.key, o.val)
		}
		if errors.Is(err, badger.ErrTxnTooBig) {
			return ErrTooLarge
		}
		if err != nil {
			return fmt.Errorf("stage batch: %w", err)
		}
	}
	if err := txn.Commit(); err != nil {
		return fmt.Errorf("commit batch: %w", err)
	}
	return nil
}

// tameNewest prepares a memtable log that Badger has just made, and makes its name durable, before the commit that landed in it is
// acknowledged. It looks at one file name per commit.
func (s *Store) tameNewest() {
	if s.h.readOnly {
		return
	}
	if s.tamed != "" && filepath.Dir(s.tamed) == s.h.dir {
		if _, err := os.Stat(nextMem(s.tamed)); err != nil {
			return
		}
	}
	newest := newestMem(s.h.dir)
	if newest == "" {
		return
	}
	if err := errors.Join(tame(newest), syncDir(s.h.dir)); err != nil {
		s.log.Debug("memtable log not tamed, costs flash only", "error", err)
	}
	s.tamed = newest
}

// newestMem is the path of the memtable log that Badger writes to. Names are zero-padded numbers and ReadDir sorts.
func newestMem(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range slices.Backward(entries) {
		if filepath.Ext(e.Name()) == ".mem" {
			return filepath.Join(dir, e.Name())
		}
	}
	return ""
}

func nextMem(path string) string {
	var n int
	if _, err := fmt.Sscanf(filepath.Base(path), "%d.mem", &n); err != nil {
		return path
	}
	return filepath.Join(filepath.Dir(path), fmt.Sprintf("%05d.mem", n+1))
}

// reopen is what a holder of a long-lived snapshot is told around a change of the underlying handle.
type reopen struct{ release, acquire func() }

// OnReopen registers the holder of a long-lived snapshot. release must close it and must not return before; acquire is called when a
// new one may be opened. Both run on the guard's or the restorer's goroutine and must not call Commit.
func (s *Store) OnReopen(release, acquire func()) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.reopens = append(s.reopens, reopen{release, acquire})
}

// Dir is the data directory's absolute path.
func (s *Store) Dir() string { return s.opts.Dir }

// Close stops the guard, waits for open snapshots, and closes Badger, which flushes its memtable. With snapshots still open after ten
// seconds it leaves Badger as it is and says so: everything committed is durable all the same.
func (s *Store) Close() error {
	s.guard.stop()
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.h
	s.h = nil
	if h == nil {
		_ = flock.Release(s.lock)
		return nil
	}
	if !h.drained(10 * time.Second) {
		return errors.New("close store: snapshots are still open") // and so is Badger: the lock stays with it
	}
	defer func() { _ = flock.Release(s.lock) }()
	if !h.readOnly && s.guard.look() >= DiskLow {
		s.guard.dropBallast() // the last act: room in which Badger can flush
	}
	if err := h.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

var _ io.Closer = (*Store)(nil)

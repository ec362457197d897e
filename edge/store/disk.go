package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Watermark is how near to full the disk is. Higher is worse.
type Watermark int32

// The watermarks and what each asks for.
const (
	DiskOK       Watermark = iota
	DiskWarn               // no dumps or detail logs; trim what was acknowledged; tell the operator
	DiskLow                // refuse writes that grow the state; keep accounting Start and Stop
	DiskCritical           // no write at all; the store is open for reading only
)

func (w Watermark) String() string {
	switch w {
	case DiskOK:
		return "ok"
	case DiskWarn:
		return "warn"
	case DiskLow:
		return "low"
	case DiskCritical:
		return "critical"
	}
	return fmt.Sprintf("watermark(%d)", int32(w))
}

// MarshalText makes the watermark its word in JSON and logs.
func (w Watermark) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText reads the word, for whoever reads a status.
func (w *Watermark) UnmarshalText(text []byte) error {
	for _, level := range []Watermark{DiskOK, DiskWarn, DiskLow, DiskCritical} {
		if level.String() == string(text) {
			*w = level
			return nil
		}
	}
	return fmt.Errorf("store: %q is no watermark", text)
}

// Mark is one threshold of free space: a share of the file system, but never more than AtMost octets (0: no bound), so that a large
// disk is not called full with many GB free.
type Mark struct {
	Percent uint64
	AtMost  uint64
}

func (m Mark) octets(total uint64) uint64 {
	n := total / 100 * m.Percent
	if m.AtMost > 0 {
		n = min(n, m.AtMost)
	}
	return n
}

// Watermarks are the thresholds of free space. Below Warn, Low and Critical the store enters that state; it leaves Low and Critical only
// above Resume, so that it does not flap.
type Watermarks struct {
	Warn, Low, Critical, Resume Mark
}

// DefaultWatermarks suit a data partition from 256 MB to any size.
var DefaultWatermarks = Watermarks{
	Warn:     Mark{20, 4 << 30},
	Low:      Mark{10, 1 << 30},
	Critical: Mark{5, 512 << 20},
	Resume:   Mark{15, 1536 << 20},
}

// next is the state that follows now when free of total octets are free.
func (w Watermarks) next(now Watermark, free, total uint64) Watermark {
	warn := w.Warn.octets(total)
	switch {
	case free < w.Critical.octets(total):
		return DiskCritical
	case free < w.Low.octets(total):
		return max(now, DiskLow)
	case now >= DiskLow && free < w.Resume.octets(total):
		return now
	case free < warn || now != DiskOK && free < warn+warn/10:
		return DiskWarn
	}
	return DiskOK
}

// DiskState is what the guard knows, for status, health facts and metrics. Sizes are octets.
type DiskState struct {
	Level    Watermark `json:"level"`
	Path     string    `json:"path"`
	Free     uint64    `json:"free_bytes"`
	Total    uint64    `json:"total_bytes"`
	Resume   uint64    `json:"resume_bytes"`  // free space from which a store that refuses writes takes them again
	Ballast  uint64    `json:"ballast_bytes"` // 0 when it is given up
	ReadOnly bool      `json:"read_only"`     // Badger is open for reading only
}

const (
	defaultBallast = 32 << 20
	patience       = 20 // looks, so 10 s as a rule
)

// guard watches the free space of one store, refuses what the disk cannot hold, and changes the store between reading and writing.
type guard struct {
	s     *Store
	level atomic.Int32
	kick  chan struct{}
	quit  chan struct{} // nil before start
	done  chan struct{}
	once  sync.Once // closes quit

	mu       sync.Mutex
	last     DiskState
	ballast  uint64 // octets in the ballast file now
	patience int    // looks to let pass after a change of mode that failed; reads wait during each attempt
	watchers map[int]func(DiskState)
	nextID   int
}

func (g *guard) init(s *Store) {
	g.s, g.kick, g.watchers = s, make(chan struct{}, 1), map[int]func(DiskState){}
	if st, err := os.Stat(g.ballastPath()); err == nil {
		g.ballast = uint64(st.Size())
	}
}

func (g *guard) ballastPath() string { return filepath.Join(g.s.opts.Dir, ballastFile) }

func (g *guard) start() {
	g.quit, g.done = make(chan struct{}), make(chan struct{})
	g.settle()
	go func() {
		defer close(g.done)
		tick := time.NewTicker(g.s.opts.PollEvery)
		defer tick.Stop()
		for {
			select {
			case <-g.quit:
				return
			case <-tick.C:
				g.look()
			case <-g.kick:
			}
			g.settle()
		}
	}()
}

func (g *guard) stop() {
	if g.quit != nil {
		g.once.Do(func() { close(g.quit) })
		<-g.done
	}
}

// look asks for the free space and moves the level. It costs one system call, so every commit can afford it: whatever fills the disk
// between two polls is noticed by the first write that would hit it.
func (g *guard) look() Watermark {
	if g.s == nil {
		return DiskOK
	}
	d := g.read()
	g.mu.Lock()
	before := Watermark(g.level.Load())
	usable := d.Free
	if before == DiskCritical && g.ballast == 0 {
		usable -= min(usable, g.wantBallast(d.Total)) // the room of the ballast is not news
	}
	after := before
	if d.Total > 0 {
		after = g.s.opts.Watermarks.next(before, usable, d.Total)
	}
	d.Level, d.Ballast = after, g.ballast
	d.ReadOnly = g.last.ReadOnly
	g.last = d
	g.level.Store(int32(after))
	g.mu.Unlock()
	if after != before {
		select {
		case g.kick <- struct{}{}:
		default:
		}
	}
	return after
}

// read asks the file system without moving anything. An error counts as no news: a store that cannot be asked is not declared full.
func (g *guard) read() DiskState {
	d := DiskState{Path: g.s.opts.Dir}
	free, total, err := g.s.opts.FreeSpace(g.s.opts.Dir)
	if err != nil {
		g.s.log.Warn("free space unknown", "error", err)
		return g.state()
	}
	d.Free, d.Total = free, total
	d.Resume = g.s.opts.Watermarks.Resume.octets(total)
	return d
}

func (g *guard) state() DiskState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// settle brings the store into the mode that the level asks for, and tells the watchers when something changed.
func (g *guard) settle() {
	before := g.state()
	switch {
	case g.patience > 0:
		g.patience--
	case before.Level == DiskCritical && !g.s.readOnlyNow():
		g.dropBallast()
		if err := g.s.changeMode(true); err != nil {
			g.patience = patience
			g.s.log.Error("store still open for writing on a full disk; no write is accepted", "error", err)
		} else {
			g.s.log.Error("disk full: store open for reading only", "path", before.Path, "free_bytes", before.Free)
		}
	case before.Level < DiskLow:
		if err := g.makeBallast(before); err != nil {
			g.s.log.Warn("no ballast", "error", err)
		}
		if g.s.readOnlyNow() {
			if err := g.s.changeMode(false); err != nil {
				g.patience = patience
				g.s.log.Error("store does not open for writing yet", "error", err)
			} else {
				g.s.log.Info("disk has room again: store open for writing", "path", before.Path, "free_bytes", before.Free)
			}
		}
	}
	g.tell()
}

func (g *guard) tell() {
	readOnly := g.s.readOnlyNow()
	g.mu.Lock()
	g.last.ReadOnly, g.last.Ballast = readOnly, g.ballast
	now := g.last
	watchers := make([]func(DiskState), 0, len(g.watchers))
	for _, w := range g.watchers {
		watchers = append(watchers, w)
	}
	g.mu.Unlock()
	for _, w := range watchers {
		w(now)
	}
}

func (g *guard) wantBallast(total uint64) uint64 {
	switch n := g.s.opts.BallastBytes; {
	case n < 0:
		return 0
	case n > 0:
		return uint64(n)
	}
	return min(defaultBallast, total/16)
}

// makeBallast allocates the file whose removal gives Badger the room to flush and close on a full disk. It is not made when that would
// itself bring the disk low.
func (g *guard) makeBallast(d DiskState) error {
	want := g.wantBallast(d.Total)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ballast >= want || d.Free < want+g.s.opts.Watermarks.Low.octets(d.Total) {
		return nil
	}
	f, err := os.OpenFile(g.ballastPath(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(allocate(f, int64(want)), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(g.ballastPath()))
	}
	g.ballast = want
	return nil
}

func (g *guard) dropBallast() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := os.Remove(g.ballastPath()); err == nil {
		g.s.log.Warn("ballast released", "bytes", g.ballast)
	}
	g.ballast = 0
}

func (s *Store) readOnlyNow() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.h == nil || s.h.readOnly
}

// changeMode closes Badger and opens it again for reading only, or for writing. Reads wait meanwhile, some hundred milliseconds. When
// open snapshots do not go away it gives up, with the store as it was, and the guard tries again at its next look.
func (s *Store) changeMode(readOnly bool) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.closed {
		return ErrClosed
	}
	for _, r := range s.reopens {
		r.release()
		defer r.acquire()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.h != nil {
		if !s.h.drained(s.opts.DrainWait) {
			return errors.New("snapshots are still open")
		}
		if err := s.h.db.Close(); err != nil {
			s.log.Error("store did not close well", "error", err)
		}
		s.h = nil
	}
	h, err := s.openHandle(s.state, readOnly)
	if err != nil && readOnly {
		return fmt.Errorf("open for reading: %w", err)
	}
	if err != nil {
		back, backErr := s.openHandle(s.state, true)
		s.h = back
		return fmt.Errorf("open for writing: %w", errors.Join(err, backErr))
	}
	s.h = h
	s.tameNewest()
	return nil
}

// DiskState is what the guard saw last.
func (s *Store) DiskState() DiskState { return s.guard.state() }

// CheckDisk looks at the disk now and returns the disk_low error when a write that grows the state would be refused. Whoever writes
// beside the store, as the Raft log does, asks here first.
func (s *Store) CheckDisk() error {
	if s.guard.look() >= DiskLow {
		return errDiskLow(s.guard.state())
	}
	return nil
}

// WatchDisk calls fn after every look of the guard, on the guard's goroutine; fn must not block. The returned func ends it.
func (s *Store) WatchDisk(fn func(DiskState)) (stop func()) {
	g := &s.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.watchers == nil {
		return func() {}
	}
	id := g.nextID
	g.nextID++
	g.watchers[id] = fn
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.watchers, id)
	}
}

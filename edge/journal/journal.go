// Package journal is a node's own append-only log of facts it witnessed: accounting, audit, health, and as a second
// instance the queue of intents that wait for a quorum. A record is acknowledged only once it is on the disk, everyone
// who waits while one flush runs shares the next one, and what was acknowledged survives a power cut, a full disk and
// a dead store. DESIGN.md beside this file explains the format and why it is so.
package journal

import (
	"context"
	"crypto"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"wispgate/edge"
)

// Limits and defaults. Sizes are in bytes.
const (
	DefaultSegmentBytes = 2 << 20
	DefaultMaxBytes     = 1 << 30
	DefaultReserve      = 8 << 20
	DefaultQueueRecords = 4096
	DefaultQueueBytes   = 2 << 20
	// MaxPayload bounds one record's payload; smaller segments lower it to a quarter of the segment.
	MaxPayload = 256 << 10
	// MaxWindow bounds Options.Window: a NAS retransmits after about three seconds and must be answered well before.
	MaxWindow = 200 * time.Millisecond

	minSegmentBytes = 16 << 10
	maxSegmentBytes = 64 << 20
	commitBytes     = 512 << 10 // most bytes written under one flush; bounds the encode buffer
	headEvery       = 256       // records between two signed heads
)

// Kind says what a record's payload is. The owner of a journal numbers its kinds from 1; 0xff00 and above belong to
// this package.
type Kind uint16

// KindHead marks a signed head of the hash chain, written by the journal itself. Read delivers it like any record, so
// that heads travel upstream with the facts they prove.
const (
	KindHead     Kind = 0xff00
	kindReserved Kind = 0xff00
)

// Done receives the outcome of a Submit. Journaled is called once: by the committer after the flush that made the
// record durable, or, when the record was refused at the door, by the goroutine that submitted it. It must return
// quickly and must not call back into the journal in a way that blocks: every other waiter stands behind it.
// An error other than a refusal means that the outcome is unknown; the record may still appear after a restart.
type Done interface {
	Journaled(seq uint64, err error)
}

// Sealer encrypts payloads at rest. Both append to dst. The additional data binds a payload to its journal, sequence
// and kind, so that one moved to another place does not open.
type Sealer interface {
	Seal(dst, plaintext, additional []byte) []byte
	Open(dst, sealed, additional []byte) ([]byte, error)
}

// Options says how a journal is kept. Dir and Now are required; every other zero value means its default.
type Options struct {
	Dir          string           // folder of its own, made with mode 0700; one process at a time
	SegmentBytes int64            // size of one segment file, 16 KB to 64 MB
	MaxBytes     int64            // bound of the whole folder, at least three segments; beyond it appends are refused
	Reserve      int64            // bytes kept allocated beyond the current segment and its successor, for a full disk
	QueueRecords int              // most records that wait for the disk
	QueueBytes   int              // most payload bytes that wait for the disk
	Window       time.Duration    // extra time to gather records before a flush, 0 to MaxWindow; saves flash, costs latency
	Now          func() time.Time // the clock; its monotonic reading, if any, is used for offsets and durations
	Quality      func() Quality   // how good the clock is, asked once per commit; nil means Unsynced
	Boot         func() Boot      // identity and age of this boot; nil reads the kernel
	Chain        bool             // each record carries the SHA-256 of the one before it
	Signer       crypto.Signer    // Ed25519 key that signs heads of the chain; nil writes no heads
	Seal         Sealer           // seals payloads; nil keeps them plain
	Logger       *slog.Logger     // nil discards
	// OnCommit is told how long each successful write and flush took and how many records it carried, for a histogram.
	OnCommit func(took time.Duration, records int)

	disk    disk // tests put a simulated one here
	stepped bool // no preparer runs: a test calls fillSpares when it wants one, so that its run can be repeated
}

// Journal is safe for use by any number of goroutines.
type Journal struct {
	opt        Options
	disk       disk
	log        *slog.Logger
	id         identity
	maxPayload int
	stamp      stamper

	first atomic.Uint64 // sequence of the oldest record kept
	next  atomic.Uint64 // one past the newest durable record

	mu     sync.Mutex
	in     *batch // what waits for the next commit
	moved  chan struct{}
	closed bool

	wake    chan struct{} // committer: something waits
	prepare chan struct{} // preparer: a spare may be missing
	stop    chan struct{}
	work    sync.WaitGroup

	prepMu  sync.Mutex // held while segment files are made, recycled or removed
	leaving *segment   // trimmed, but its file is not released yet

	segMu    sync.Mutex
	segs     []*segment // oldest first, the last one is being written
	spares   []*segment // allocated, not yet used, ascending ordinals
	losses   []Loss     // found and noted
	found    []Loss     // of these, what this opening found
	ordinal  uint64     // highest ordinal given out
	consumed uint64     // everything below may be forgotten

	writer writer

	counts counters
}

type counters struct {
	commits, records, refused, failures atomic.Uint64
	full                                atomic.Bool
	lastCommit                          atomic.Int64
}

// Stats is a snapshot for metrics and the support bundle. Sizes are in bytes.
type Stats struct {
	First, Next uint64        // records kept: First ≤ sequence < Next
	Bytes       int64         // on disk, allocated reserve included
	MaxBytes    int64         // bound of Bytes
	Unconsumed  int64         // written and not yet released by Trim
	Segments    int           // in use
	Spares      int           // allocated in advance
	Waiting     int           // records waiting for the disk now
	Commits     uint64        // successful flushes since Open
	Records     uint64        // records made durable since Open
	Refused     uint64        // records answered with an error since Open
	Failures    uint64        // segments given up after a failed write or flush since Open
	LastCommit  time.Duration // how long the last successful write and flush took
	Full        bool          // the last append was refused for lack of room
	Lost        uint64        // acknowledged records that are damaged
}

// Incarnation identifies this journal's history. A journal created anew has another one, so (incarnation, sequence)
// is never used twice, not even when a disk was replaced.
func (j *Journal) Incarnation() uint64 { return j.id.incarnation }

// First is the sequence of the oldest record kept, equal to Next when there is none.
func (j *Journal) First() uint64 { return j.first.Load() }

// Next is the sequence that follows the newest durable record.
func (j *Journal) Next() uint64 { return j.next.Load() }

// Stats reports where the journal stands.
func (j *Journal) Stats() Stats {
	s := Stats{
		First: j.First(), Next: j.Next(), MaxBytes: j.opt.MaxBytes,
		Commits: j.counts.commits.Load(), Records: j.counts.records.Load(), Refused: j.counts.refused.Load(),
		Failures: j.counts.failures.Load(), Full: j.counts.full.Load(),
		LastCommit: time.Duration(j.counts.lastCommit.Load()),
	}
	j.mu.Lock()
	s.Waiting = len(j.in.items)
	j.mu.Unlock()
	j.segMu.Lock()
	defer j.segMu.Unlock()
	s.Lost = Lost(unsettled(slices.Clone(j.losses)))
	s.Segments, s.Spares = len(j.segs), len(j.spares)
	s.Bytes = int64(s.Segments+s.Spares) * j.opt.SegmentBytes
	for _, seg := range j.segs {
		s.Unconsumed += seg.bytesFrom(j.consumed)
	}
	return s
}

// Submit hands a record to the committer and returns at once; done learns the outcome. The payload is copied. When
// the queue is full, done is told ErrBusy before Submit returns. It allocates nothing once its buffers have grown.
func (j *Journal) Submit(kind Kind, payload []byte, done Done) {
	if err := j.enqueue(kind, payload, done, false); err != nil {
		j.counts.refused.Add(1)
		done.Journaled(0, err)
	}
}

// Append writes one record and returns once it is durable. When ctx ends first the outcome is unknown.
func (j *Journal) Append(ctx context.Context, kind Kind, payload []byte) (uint64, error) {
	return j.await(ctx, kind, payload, false)
}

func (j *Journal) await(ctx context.Context, kind Kind, payload []byte, head bool) (uint64, error) {
	w := waiters.Get().(*waiter)
	if err := j.enqueue(kind, payload, w, head); err != nil {
		j.counts.refused.Add(1)
		waiters.Put(w)
		return 0, err
	}
	return w.wait(ctx)
}

// wait returns the outcome, also when ctx ended beside it. Where there is none the waiter stays with the committer and is not used again.
func (w *waiter) wait(ctx context.Context) (uint64, error) {
	out, ok := edge.Hear(w.out, ctx.Done(), nil)
	if !ok {
		return 0, ctx.Err()
	}
	waiters.Put(w)
	return out.seq, out.err
}

// Wait returns nil as soon as a record with sequence from or above is durable, so that Read(from) delivers something.
func (j *Journal) Wait(ctx context.Context, from uint64) error {
	for {
		j.mu.Lock()
		if j.next.Load() > from {
			j.mu.Unlock()
			return nil
		}
		if j.closed {
			j.mu.Unlock()
			return ErrClosed
		}
		if j.moved == nil {
			j.moved = make(chan struct{})
		}
		moved := j.moved
		j.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close commits what waits, stops the journal's goroutines and releases the folder. Later appends get ErrClosed.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.announceLocked()
	j.mu.Unlock()
	close(j.stop)
	j.work.Wait()
	j.prepMu.Lock() // a Trim that is under way ends first
	defer j.prepMu.Unlock()
	j.segMu.Lock()
	defer j.segMu.Unlock()
	for _, seg := range slices.Concat(j.segs, j.spares) {
		seg.close()
	}
	return j.disk.Close()
}

// announceLocked wakes everyone in Wait. mu is held.
func (j *Journal) announceLocked() {
	if j.moved != nil {
		close(j.moved)
		j.moved = nil
	}
}

func (j *Journal) enqueue(kind Kind, payload []byte, done Done, head bool) error {
	if len(payload) > j.maxPayload {
		return errTooLarge
	}
	if kind == 0 || kind >= kindReserved && !head {
		return errKind
	}
	now := j.opt.Now()
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return ErrClosed
	}
	b := j.in
	if len(b.items) >= j.opt.QueueRecords || len(b.data)+len(payload) > j.opt.QueueBytes {
		j.mu.Unlock()
		return ErrBusy
	}
	b.items = append(b.items, item{
		kind: kind, head: head, off: len(b.data), len: len(payload), done: done,
		wall: now.UnixNano(), mono: int64(j.stamp.mono(now)),
	})
	b.data = append(b.data, payload...)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return nil
}

// batch is what gathered while the last flush ran. Two of them take turns, so steady state allocates nothing.
type batch struct {
	items []item
	data  []byte
}

type item struct {
	kind       Kind
	head       bool // the committer makes the payload: a signed head
	off, len   int
	wall, mono int64
	done       Done
	seq        uint64 // given by the committer
	err        error  // this item alone failed
}

type outcome struct {
	seq uint64
	err error
}

// waiter turns a Submit into a blocking call.
type waiter struct{ out chan outcome }

func (w *waiter) Journaled(seq uint64, err error) { w.out <- outcome{seq, err} }

var waiters = sync.Pool{New: func() any { return &waiter{out: make(chan outcome, 1)} }}

// Errors that callers match with errors.Is. They are values, so refusing costs no allocation.
var (
	// ErrBusy says that more records wait for the disk than the queue may hold.
	ErrBusy = &edge.Error{
		Kind: edge.Unavailable, Code: "journal_busy", Message: "the journal's queue is full because the disk is slower than the load",
		Fix: "try again in a moment; if it lasts, look for a slow or failing disk",
	}
	// ErrFull says that the journal reached its bound and nothing was trimmed.
	ErrFull = &edge.Error{
		Kind: edge.Unavailable, Code: "journal_full", Message: "the journal has reached its size limit",
		Fix: "restore the uplink so that records can be delivered and forgotten, or raise journal.max_bytes",
	}
	// ErrDiskFull says that the disk has no room and the reserve is used up. Its code is journal_full as well.
	ErrDiskFull = &edge.Error{
		Kind: edge.Unavailable, Code: "journal_full", Message: "the disk is full and the journal's reserve is used up",
		Fix: "free space on the data folder's file system; the journal goes on by itself, without a restart",
	}
	// ErrWrite says that the disk failed to write or flush twice in a row. Whether the record survives is unknown.
	ErrWrite = &edge.Error{
		Kind: edge.Unavailable, Code: "journal_write_failed", Message: "the disk failed to store the record",
		Fix: "check the disk (kernel log, SMART, file system mounted read-only) and replace it if errors go on",
	}
	// ErrClosed says that the journal was closed.
	ErrClosed = &edge.Error{
		Kind: edge.Unavailable, Code: "journal_closed", Message: "the journal is closed", Fix: "try again when the node has started",
	}
	// ErrTrimmed says that a wanted record was released by Trim before.
	ErrTrimmed = &edge.Error{
		Kind: edge.NotFound, Code: "journal_trimmed", Message: "the wanted record is no longer kept", Fix: "read on from First",
	}
	// ErrAhead says that a wanted position lies beyond the journal's end, as one from another incarnation may.
	ErrAhead = &edge.Error{
		Kind: edge.Conflict, Code: "journal_position_unknown", Message: "the wanted position lies beyond the journal's end",
		Fix: "compare the journal's incarnation with the one the position belongs to",
	}

	errTooLarge = &edge.Error{
		Kind: edge.Invalid, Code: "too_large", Message: "the record is larger than the journal takes", Fix: "split it",
	}
	errKind = &edge.Error{
		Kind: edge.Invalid, Code: "journal_kind", Message: "the record kind is zero or reserved", Fix: "use a kind from 1 to 65279",
	}
)

package journal

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"time"
)

// writer is what only the committer touches.
type writer struct {
	seg      *segment // nil: take a new one first
	salt     uint32   // of seg
	idle     *batch
	out      []byte
	marks    []place
	trial    chain // state after out; becomes the chain when out is durable
	chain    chain
	last     int // records in the last batch, to guess how many are about to come
	lastTook time.Duration
	wasFull  bool
	aad      []byte
}

type place struct {
	seq    uint64
	offset int64
}

// chain is the state of the hash chain and the distance to the last signed head.
type chain struct {
	seq       uint64 // next sequence
	hash      [hashSize]byte
	sinceHead int
}

// run is the committer: the one goroutine that writes records and tells those who wait.
func (j *Journal) run() {
	var gather *time.Timer
	if j.opt.Window > 0 {
		gather = time.NewTimer(j.opt.Window)
		gather.Stop()
	}
	for {
		select {
		case <-j.wake:
		case <-j.stop:
			for j.commitWaiting() {
			}
			return
		}
		if gather != nil {
			gather.Reset(j.opt.Window)
			select {
			case <-gather.C:
			case <-j.stop:
				gather.Stop()
			}
		} else {
			j.letGather()
		}
		j.commitWaiting()
	}
}

// letGather gives those who were just answered the moment they need to ask again. Without it a group of n callers
// falls apart into a flush of one and a flush of n-1, and everyone pays two. It costs at most a sixteenth of a flush.
func (j *Journal) letGather() {
	if j.writer.last < 2 {
		return
	}
	begin := j.opt.Now()
	for range 1000 {
		j.mu.Lock()
		n := len(j.in.items)
		j.mu.Unlock()
		if n >= j.writer.last || j.opt.Now().Sub(begin) > j.writer.lastTook/16 {
			return
		}
		runtime.Gosched()
	}
}

// commitWaiting commits everything that waits now and reports whether there was anything.
func (j *Journal) commitWaiting() bool {
	j.mu.Lock()
	b := j.in
	if len(b.items) == 0 {
		j.mu.Unlock()
		return false
	}
	j.in = j.writer.idle
	j.mu.Unlock()
	j.writer.last = len(b.items)
	for items := b.items; len(items) > 0; {
		n, err := j.commitSome(b.data, items)
		for i := range items[:n] {
			j.answer(&items[i], err)
		}
		items = items[n:]
	}
	clear(b.items) // let go of the waiters
	b.items, b.data = b.items[:0], b.data[:0]
	j.writer.idle = b
	return true
}

func (j *Journal) answer(it *item, err error) {
	if err == nil {
		err = it.err
	}
	if err != nil {
		j.counts.refused.Add(1)
		it.done.Journaled(0, err)
		return
	}
	it.done.Journaled(it.seq, nil)
}

// commitSome makes a prefix of items durable, as many as fit one write, and returns how many and their common fate.
// After a failed write or flush the pages may be marked clean though they never reached the disk, so that segment is
// given up and the same records go to the next one, once. When that fails as well, or there is none, nobody knows
// whether they survive: a restart may find them where the first write put them, so they do not count as refused.
func (j *Journal) commitSome(data []byte, items []item) (int, error) {
	w := &j.writer
	tried := 0 // items of the write that failed
	for failed := false; ; {
		if w.seg == nil {
			if err := j.rotate(); err != nil {
				if tried > 0 {
					return tried, ErrWrite
				}
				return len(items), err
			}
		}
		n := j.encode(data, items)
		if n == 0 && len(w.out) == 0 { // no room
			if w.seg.end == 0 {
				return 1, errTooLarge // not even in an empty segment
			}
			w.seg = nil
			continue
		}
		begin := j.opt.Now()
		err := j.write()
		if err == nil {
			j.publish(j.opt.Now().Sub(begin))
			return n, nil
		}
		j.abandon(err)
		if failed {
			return max(n, tried), ErrWrite
		}
		failed, tried = true, n
	}
}

func (j *Journal) write() error {
	w := &j.writer
	if len(w.out) == 0 {
		return nil // every item failed by itself
	}
	if _, err := w.seg.file.WriteAt(w.out, w.seg.end); err != nil {
		return err
	}
	return w.seg.file.Datasync()
}

// publish makes what was just flushed visible to readers.
func (j *Journal) publish(took time.Duration) {
	w := &j.writer
	records := int(w.trial.seq - w.chain.seq)
	w.chain, w.lastTook = w.trial, took
	j.segMu.Lock()
	for _, m := range w.marks {
		w.seg.mark(m.seq, m.offset)
	}
	w.seg.end += int64(len(w.out))
	w.seg.next = w.chain.seq
	j.segMu.Unlock()

	j.next.Store(w.chain.seq)
	j.mu.Lock()
	j.announceLocked()
	j.mu.Unlock()

	j.counts.commits.Add(1)
	j.counts.records.Add(uint64(records))
	j.counts.lastCommit.Store(int64(took))
	if w.wasFull {
		w.wasFull = false
		j.counts.full.Store(false)
		j.log.Info("journal has room again")
	}
	if j.opt.OnCommit != nil {
		j.opt.OnCommit(took, records)
	}
}

// abandon gives up the current segment for ever. Its durable part stays; the header of the segment that follows says
// where that part ends.
func (j *Journal) abandon(cause error) {
	w := &j.writer
	seg := w.seg
	w.seg = nil
	j.counts.failures.Add(1)
	j.log.Error("journal segment given up after a failed write", slog.Uint64("segment", seg.ordinal), slog.Any("error", cause))
	seg.close()
	if seg.end > 0 {
		return
	}
	j.segMu.Lock()
	j.segs = slices.DeleteFunc(j.segs, func(s *segment) bool { return s == seg })
	j.segMu.Unlock()
	if err := j.disk.Remove(segmentName(seg.ordinal)); err != nil {
		j.log.Warn("journal segment not removed", slog.Uint64("segment", seg.ordinal), slog.Any("error", err))
	}
}

// rotate begins a new segment. Its header is written with its first records, so rotation itself costs no flush.
func (j *Journal) rotate() error {
	w := &j.writer
	seg, err := j.takeSpare()
	if err != nil {
		j.counts.full.Store(true)
		if !w.wasFull {
			w.wasFull = true
			j.log.Error("journal refuses records", slog.Any("error", err))
		}
		if errors.Is(err, ErrFull) {
			return ErrFull
		}
		if isFull(err) {
			return ErrDiskFull
		}
		return ErrWrite
	}
	seg.base, seg.next, seg.end, seg.previous = w.chain.seq, w.chain.seq, 0, w.chain.hash
	seg.marks = nil
	j.segMu.Lock()
	if n := len(j.segs); n > 0 {
		j.segs[n-1].close() // readers open it for themselves
	}
	j.segs = append(j.segs, seg)
	j.segMu.Unlock()
	j.writeTo(seg)
	j.kick()
	return nil
}

// writeTo makes seg the one being written.
func (j *Journal) writeTo(seg *segment) {
	j.writer.seg, j.writer.salt = seg, salt(j.id, seg.ordinal)
}

// encode fills out with the frames of as many items as fit and returns how many items that covers. Zero with an
// empty out means that the segment has no room for the first.
func (j *Journal) encode(data []byte, items []item) int {
	w := &j.writer
	w.out, w.marks, w.trial = w.out[:0], w.marks[:0], w.chain
	if w.seg.end == 0 {
		w.out = header{
			identity: j.id, ordinal: w.seg.ordinal, base: w.seg.base,
			created: j.opt.Now().UnixNano(), previous: w.chain.hash,
		}.append(w.out)
	}
	headed := len(w.out)
	quality := Unsynced
	if j.opt.Quality != nil {
		quality = j.opt.Quality()
	}
	n, group := 0, w.chain.seq
	for ; n < len(items) && (n == 0 || len(w.out) < commitBytes); n++ {
		it := &items[n]
		if j.opt.Signer != nil && w.trial.sinceHead >= headEvery && !it.head {
			auto := item{kind: KindHead, head: true, wall: it.wall, mono: it.mono}
			if !j.encodeOne(&auto, nil, group, quality) {
				break
			}
			if auto.err != nil {
				j.log.Warn("journal head not signed", slog.Any("error", auto.err))
				w.trial.sinceHead = 0 // try again after as many records
			}
		}
		if !j.encodeOne(it, data[it.off:it.off+it.len], group, quality) {
			break
		}
	}
	if len(w.out) == headed && n == 0 {
		w.out = w.out[:0]
	}
	return n
}

// encodeOne appends one frame, or reports that the segment has no room for it.
func (j *Journal) encodeOne(it *item, payload []byte, group uint64, quality Quality) bool {
	w := &j.writer
	it.err = nil
	if it.head {
		if payload, it.err = j.signHead(); it.err != nil {
			return true
		}
	}
	var flags uint8
	if j.opt.Chain {
		flags |= flagChained
	}
	sealed := j.opt.Seal != nil && !it.head
	if sealed {
		flags |= flagSealed
	}
	start := len(w.out)
	w.out = beginFrame(w.out, it, w.trial.seq, group, quality, j.stamp.boot, flags)
	if j.opt.Chain {
		w.out = append(w.out, w.trial.hash[:]...)
	}
	if sealed {
		w.aad = additional(w.aad[:0], j.id.incarnation, w.trial.seq, it.kind)
		w.out = j.opt.Seal.Seal(w.out, payload, w.aad)
	} else {
		w.out = append(w.out, payload...)
	}
	if w.seg.end+int64(start+frameSize(len(w.out)-start)) > w.seg.size {
		w.out = w.out[:start]
		return false
	}
	var f frame
	w.out, f = endFrame(w.out, start, w.salt)
	if (w.trial.seq-w.seg.base)%markEvery == 0 {
		w.marks = append(w.marks, place{w.trial.seq, w.seg.end + int64(start)})
	}
	it.seq = w.trial.seq
	w.trial.seq++
	w.trial.sinceHead++
	if it.head {
		w.trial.sinceHead = 0
	}
	if j.opt.Chain {
		w.trial.hash = f.hash()
	}
	return true
}

// signHead makes the payload of a head over everything before it.
func (j *Journal) signHead() ([]byte, error) {
	h := Head{Incarnation: j.id.incarnation, Seq: j.writer.trial.seq - 1, Hash: j.writer.trial.hash}
	sig, err := j.opt.Signer.Sign(rand.Reader, h.message(), crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	h.Signature = sig
	return h.encode(), nil
}

// SignHead writes a signed head now, for instance before a backup or when the node stops, and returns its sequence.
func (j *Journal) SignHead(ctx context.Context) (uint64, error) {
	if j.opt.Signer == nil {
		return 0, errNoSigner
	}
	return j.await(ctx, KindHead, nil, true)
}

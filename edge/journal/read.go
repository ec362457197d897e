package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"sync"
)

const readBytes = 64 << 10

var readBuffers = sync.Pool{New: func() any { b := make([]byte, readBytes); return &b }}

// Read visits durable records in order, from sequence from (0 means the oldest kept) and at most max of them (0 means
// all that are durable now), and returns the sequence to go on with. An error of visit ends the reading and is
// returned with the sequence of the record it was given. ErrTrimmed and ErrAhead say that from is out of range. Damaged records are left out and do
// not count; Losses names them.
func (j *Journal) Read(from uint64, max int, visit func(Record) error) (uint64, error) {
	if from == 0 {
		from = j.First()
	}
	end := j.Next()
	if from > end {
		return from, ErrAhead
	}
	if max > 0 && uint64(max) < end-from {
		end = from + uint64(max)
	}
	for from < end {
		next, skipped, err := j.readSegment(from, end, visit)
		if err != nil {
			return next, err
		}
		from = next
		end = min(end+skipped, j.Next())
	}
	return from, nil
}

// readSegment reads on inside the segment that holds from. skipped is how many damaged records it left out.
func (j *Journal) readSegment(from, end uint64, visit func(Record) error) (next, skipped uint64, err error) {
	s, at, offset, ok := j.locate(from)
	if !ok {
		return from, 0, ErrTrimmed
	}
	f, err := j.disk.Open(segmentName(s.ordinal))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !j.holds(s.ordinal) {
			return from, 0, ErrTrimmed
		}
		return from, 0, fmt.Errorf("open journal segment: %w", err)
	}
	defer func() { _ = f.Close() }()
	r := frameReader{file: f, size: s.end, offset: offset, salt: salt(j.id, s.ordinal)}
	defer r.release()
	for end = min(end, s.next); at < end; at++ {
		start := r.offset
		fr, err := r.next()
		if err != nil || fr.seq != at {
			if !j.holds(s.ordinal) {
				return from, skipped, ErrTrimmed // recycled while we read
			}
			if err != nil && !errors.Is(err, errBadFrame) {
				return from, skipped, fmt.Errorf("read journal segment: %w", err)
			}
			behind, err := j.skip(&s, &r, start, at, from)
			if err != nil {
				return from, skipped, err
			}
			if behind > from {
				skipped += behind - from
				from = behind
			}
			at = behind - 1 // the loop moves on to it
			continue
		}
		if (at-s.base)%markEvery == 0 {
			j.remember(s.ordinal, at, start)
		}
		if at < from {
			continue
		}
		rec := fr.record()
		if fr.flags&flagSealed != 0 {
			if rec.Payload, err = r.open(j, rec); err != nil {
				return at, skipped, err
			}
		}
		if err := visit(rec); err != nil {
			return at, skipped, err
		}
		from = at + 1
	}
	return from, skipped, nil
}

// skip moves a reader of what lies from on, from the damaged record at to the next intact one of the segment, and notes the loss. What was acknowledged
// behind the damage is worth more than an error that stays.
func (j *Journal) skip(s *segment, r *frameReader, start int64, at, from uint64) (behind uint64, err error) {
	buf := make([]byte, s.end)
	if _, err := r.file.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return at, fmt.Errorf("read journal segment: %w", err)
	}
	if !j.holds(s.ordinal) {
		return at, ErrTrimmed
	}
	f, offset, ok := resume(buf, start, at, s.next, r.salt)
	if behind = s.next; ok {
		behind = f.seq
	}
	r.offset, r.buf = offset, nil
	j.lose(Loss{First: at, Last: behind - 1, Segment: segmentName(s.ordinal), settled: behind <= from}, buf)
	return behind, nil
}

// locate copies the bounds of the segment that holds seq, and the nearest place known in it.
func (j *Journal) locate(seq uint64) (s segment, at uint64, offset int64, ok bool) {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	i := sort.Search(len(j.segs), func(i int) bool { return j.segs[i].next > seq })
	if i == len(j.segs) || j.segs[i].base > seq {
		return segment{}, 0, 0, false
	}
	at, offset = j.segs[i].seek(seq)
	s = *j.segs[i]
	s.marks = nil // belongs to the lock
	return s, at, offset, true
}

func (j *Journal) find(ordinal uint64) *segment {
	i := sort.Search(len(j.segs), func(i int) bool { return j.segs[i].ordinal >= ordinal })
	if i == len(j.segs) || j.segs[i].ordinal != ordinal {
		return nil
	}
	return j.segs[i]
}

func (j *Journal) holds(ordinal uint64) bool {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	return j.find(ordinal) != nil
}

// remember keeps the place of every 64th record, so that reading on never starts far behind.
func (j *Journal) remember(ordinal, seq uint64, offset int64) {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	if s := j.find(ordinal); s != nil {
		s.mark(seq, offset)
	}
}

var errBadFrame = errors.New("bad frame")

// frameReader walks frames with one buffer, whatever their size.
type frameReader struct {
	file   file
	size   int64 // nothing at or beyond it is read
	offset int64 // of the next frame
	salt   uint32

	pool  *[]byte
	buf   []byte // what was read from offset on
	plain []byte
	aad   []byte
}

func (r *frameReader) release() {
	if r.pool != nil {
		readBuffers.Put(r.pool)
		r.pool, r.buf = nil, nil
	}
}

// next returns the frame at offset and moves behind it. The frame is valid until the next call.
func (r *frameReader) next() (frame, error) {
	if err := r.fill(frameHead); err != nil {
		return frame{}, err
	}
	n := peekLength(r.buf, int(min(r.size-r.offset, maxSegmentBytes)))
	if n == 0 {
		return frame{}, errBadFrame
	}
	if err := r.fill(n); err != nil {
		return frame{}, err
	}
	f, ok := parseFrame(r.buf, r.salt)
	if !ok {
		return frame{}, errBadFrame
	}
	size := frameSize(n)
	r.offset += int64(size)
	r.buf = r.buf[min(size, len(r.buf)):]
	return f, nil
}

// fill makes sure that n bytes from offset on are in the buffer.
func (r *frameReader) fill(n int) error {
	if len(r.buf) >= n {
		return nil
	}
	if int64(n) > r.size-r.offset {
		return errBadFrame
	}
	if r.pool == nil {
		r.pool = readBuffers.Get().(*[]byte)
	}
	if len(*r.pool) < n {
		*r.pool = make([]byte, n)
	}
	want := (*r.pool)[:min(int64(len(*r.pool)), r.size-r.offset)]
	got, err := r.file.ReadAt(want, r.offset)
	if r.buf = want[:got]; got >= n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return errBadFrame
	}
	return err
}

// open unseals a record's payload.
func (r *frameReader) open(j *Journal, rec Record) ([]byte, error) {
	if j.opt.Seal == nil {
		return nil, errSealed
	}
	r.aad = additional(r.aad[:0], j.id.incarnation, rec.Seq, rec.Kind)
	plain, err := j.opt.Seal.Open(r.plain[:0], rec.Payload, r.aad)
	if err != nil {
		return nil, fmt.Errorf("unseal journal record %d: %w", rec.Seq, err)
	}
	r.plain = plain
	return plain, nil
}

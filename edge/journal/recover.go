package journal

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"wispgate/edge"
)

// Open makes a journal or takes up an old one. It cuts what a power cut left half written behind the last durable
// record. Damaged records in the middle are skipped, noted and named (Losses); a journal whose headers or chain are not to be trusted is refused
// (*edge.Error, code journal_corrupt).
func Open(opt Options) (*Journal, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	d := opt.disk
	if d == nil {
		real, err := openFolder(opt.Dir)
		if err != nil {
			return nil, err
		}
		d = real
	}
	j := &Journal{
		opt: opt, disk: d, log: opt.Logger, in: new(batch),
		wake: make(chan struct{}, 1), prepare: make(chan struct{}, 1), stop: make(chan struct{}),
		maxPayload: int(min(MaxPayload, opt.SegmentBytes/4)),
		stamp:      newStamper(opt.Boot(), opt.Now()),
	}
	j.writer.idle = new(batch)
	if err := j.load(); err != nil {
		for _, seg := range slices.Concat(j.segs, j.spares) {
			seg.close()
		}
		return nil, errors.Join(err, d.Close())
	}
	j.work.Go(j.run)
	if !opt.stepped {
		j.work.Go(j.keepSpares)
	}
	j.kick()
	return j, nil
}

// complete checks the options and fills in defaults.
func (o *Options) complete() error {
	setDefault(&o.SegmentBytes, DefaultSegmentBytes)
	setDefault(&o.MaxBytes, DefaultMaxBytes)
	setDefault(&o.Reserve, DefaultReserve)
	setDefault(&o.QueueRecords, DefaultQueueRecords)
	setDefault(&o.QueueBytes, DefaultQueueBytes)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Boot == nil {
		o.Boot = KernelBoot
	}
	var fields []edge.FieldError
	refuse := func(bad bool, name, reason string) {
		if bad {
			fields = append(fields, edge.FieldError{In: "options", Pointer: name, Reason: reason})
		}
	}
	refuse(o.Dir == "" && o.disk == nil, "Dir", "is required")
	refuse(o.Now == nil, "Now", "is required")
	refuse(o.SegmentBytes < minSegmentBytes || o.SegmentBytes > maxSegmentBytes, "SegmentBytes", "must be 16 KB to 64 MB")
	refuse(o.MaxBytes < 3*o.SegmentBytes, "MaxBytes", "must be at least three segments")
	refuse(o.Reserve < 0, "Reserve", "must not be negative")
	refuse(o.QueueRecords < 0, "QueueRecords", "must not be negative")
	refuse(o.QueueBytes < MaxPayload, "QueueBytes", "must be at least 256 KB")
	refuse(o.Window < 0 || o.Window > MaxWindow, "Window", "must be 0 to 200 ms")
	refuse(o.Signer != nil && !o.Chain, "Signer", "needs Chain")
	if o.Signer != nil {
		_, ok := o.Signer.Public().(ed25519.PublicKey)
		refuse(!ok, "Signer", "must be an Ed25519 key")
	}
	if fields == nil {
		o.SegmentBytes = o.SegmentBytes &^ (frameAlign - 1)
		// The reserve must leave room for records within the bound.
		o.Reserve = min(o.Reserve, o.MaxBytes/2-o.SegmentBytes)
		o.Reserve = max(o.Reserve, 0)
		return nil
	}
	return &edge.Error{
		Kind: edge.Invalid, Code: "journal_options", Message: "the journal's settings do not fit together", Fix: "change the settings named", Fields: fields,
	}
}

func setDefault[T int | int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// load takes stock of the folder and ends with a segment to write to.
func (j *Journal) load() error {
	entries, err := j.disk.List()
	if err != nil {
		return fmt.Errorf("list journal: %w", err)
	}
	var found []*segment
	for _, e := range entries {
		if strings.HasSuffix(e.name, temporaryExt) {
			if err := j.disk.Remove(e.name); err != nil {
				return fmt.Errorf("remove unfinished journal segment: %w", err)
			}
			continue
		}
		if l, ok := parseLoss(e.name); ok {
			if l.settled && !slices.ContainsFunc(entries, func(e entry) bool { return e.name == l.Segment }) {
				if err := j.disk.Remove(e.name); err != nil {
					return fmt.Errorf("remove the note of a journal segment that is gone: %w", err)
				}
				continue
			}
			j.countLocked(l) // nobody else knows this journal yet
		}
		if ordinal, ok := parseSegmentName(e.name); ok {
			found = append(found, &segment{ordinal: ordinal, size: e.size})
			j.ordinal = max(j.ordinal, ordinal)
		}
	}
	if len(found) == 0 {
		return j.create()
	}
	slices.SortFunc(found, func(a, b *segment) int {
		if a.ordinal < b.ordinal {
			return -1
		}
		return 1
	})
	if err := j.sortOut(found); err != nil {
		return err
	}
	return j.takeUp()
}

// create makes the first segment, header and name durable, before anything can be appended.
func (j *Journal) create() error {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	j.id = identity{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint32(b[8:]), j.opt.Chain}
	j.ordinal = 1
	name := segmentName(1)
	f, err := j.disk.Create(name+temporaryExt, j.opt.SegmentBytes)
	if err != nil {
		return fmt.Errorf("create journal: %w", err)
	}
	seg := &segment{ordinal: 1, size: j.opt.SegmentBytes, file: f, base: 1, next: 1, end: headerSize, previous: genesis(j.id)}
	j.segs = []*segment{seg}
	h := header{identity: j.id, ordinal: 1, base: 1, created: j.opt.Now().UnixNano(), previous: seg.previous}
	if _, err = f.WriteAt(h.append(nil), 0); err == nil {
		err = f.Datasync()
	}
	if err == nil {
		err = j.disk.Rename(name+temporaryExt, name)
	}
	if err == nil {
		err = j.disk.Sync()
	}
	if err != nil {
		return fmt.Errorf("create journal: %w", err)
	}
	j.first.Store(1)
	j.next.Store(1)
	j.writeTo(seg)
	j.writer.chain = chain{seq: 1, hash: seg.previous}
	return nil
}

// genesis is what the first record of a chain carries: it binds the chain to its journal.
func genesis(id identity) [hashSize]byte {
	return sha256.Sum256(binary.LittleEndian.AppendUint64([]byte("wispgate journal v1 "), id.incarnation))
}

// sortOut tells segments that hold records from spares and from remains of failed ones.
func (j *Journal) sortOut(found []*segment) error {
	var headers []header
	for _, seg := range found {
		h, used, err := j.readHeader(seg)
		switch {
		case err != nil:
			return err
		case !used:
			j.spares = append(j.spares, seg)
			continue
		case len(headers) == 0:
			j.id = h.identity
		case h.identity != j.id || h.base < headers[len(headers)-1].base:
			return j.corrupt(seg, 0, "its header does not fit the segment before it")
		}
		headers = append(headers, h)
		seg.base, seg.previous, seg.end = h.base, h.previous, seg.size
		if n := len(j.segs); n > 0 {
			j.segs[n-1].next = h.base
		}
		j.segs = append(j.segs, seg)
	}
	if len(j.segs) == 0 {
		return j.corrupt(found[0], 0, "no segment has a readable header")
	}
	if j.id.chained != j.opt.Chain {
		return &edge.Error{
			Kind: edge.Conflict, Code: "journal_chain", Message: "the journal in " + j.opt.Dir + " was made with another chain setting",
			Fix: "start it with the setting it was made with, or with a new folder",
		}
	}
	return nil
}

func (j *Journal) readHeader(seg *segment) (header, bool, error) {
	f, err := j.disk.Open(segmentName(seg.ordinal))
	if err != nil {
		return header{}, false, fmt.Errorf("open journal segment: %w", err)
	}
	defer func() { _ = f.Close() }()
	var b [headerSize]byte
	if seg.size >= headerSize {
		if _, err := f.ReadAt(b[:], 0); err != nil {
			return header{}, false, fmt.Errorf("read journal segment: %w", err)
		}
	}
	h, ok := parseHeader(b[:])
	return h, ok && h.ordinal == seg.ordinal, nil
}

// takeUp scans the last segment, cuts its torn end, makes sure of what it found, and puts the spares in order.
func (j *Journal) takeUp() error {
	seg := j.segs[len(j.segs)-1]
	f, err := j.disk.Open(segmentName(seg.ordinal))
	if err != nil {
		return fmt.Errorf("open journal segment: %w", err)
	}
	seg.file = f
	buf := make([]byte, seg.size)
	if _, err := f.ReadAt(buf, 0); err != nil {
		return fmt.Errorf("read journal segment: %w", err)
	}
	t, ok := scanTail(buf, seg, j.id, j.losses)
	if !ok {
		return j.corrupt(seg, t.end, "a record does not carry the hash of the one before it")
	}
	for _, l := range t.lost { // before the wiping below, which may take what proves the loss
		if j.lose(l, buf) {
			j.found = append(j.found, l)
		}
	}
	if t.wipe > t.end {
		j.log.Info("journal cut after an unclean stop", slog.Uint64("segment", seg.ordinal), slog.Uint64("next", t.next))
	}
	// What lies in the page cache may never have reached the disk: when a flush failed and the process then died, the
	// pages count as clean. Only writing the last group again proves it; earlier groups were acknowledged. For the same
	// reason everything that a torn write could have reached is wiped, whether remains are seen there or not.
	reach := min(t.end+maxWrite, seg.size)
	clear(buf[t.end:reach])
	if _, err := f.WriteAt(buf[t.group:reach], t.group); err != nil {
		return fmt.Errorf("write journal segment: %w", err)
	}
	if err := f.Datasync(); err != nil {
		return fmt.Errorf("flush journal segment: %w", err)
	}
	seg.next, seg.end, seg.marks = t.next, t.end, t.marks
	j.first.Store(j.segs[0].base)
	j.next.Store(t.next)
	j.writeTo(seg)
	j.writer.chain = chain{seq: t.next, hash: t.hash, sinceHead: t.sinceHead}
	if err := j.adoptSpares(seg, buf); err != nil {
		return err
	}
	// The names found here may never have reached the disk either. A segment that was given up and removed would come
	// back in a power cut and void, by its base, what is written to the segment before it from now on; a spare whose
	// name is lost takes the records in it along.
	if err := j.disk.Sync(); err != nil {
		return fmt.Errorf("flush journal folder: %w", err)
	}
	return nil
}

// maxWrite is the most that one write covers: what a torn one left, behind the last record or in a spare, never reaches
// further.
const maxWrite = commitBytes + 2*MaxPayload

// adoptSpares keeps unused files that may serve, and removes the others. buf is room to read into.
func (j *Journal) adoptSpares(last *segment, buf []byte) error {
	spares := j.spares
	j.spares = nil
	for _, seg := range spares {
		name := segmentName(seg.ordinal)
		f, err := j.disk.Open(name)
		if err != nil {
			return fmt.Errorf("open journal spare: %w", err)
		}
		seg.file = f
		n := int(min(seg.size, maxWrite))
		buf = slices.Grow(buf[:0], n)[:n]
		if _, err := f.ReadAt(buf, 0); err != nil {
			seg.close()
			return fmt.Errorf("read journal spare: %w", err)
		}
		remains, lost := j.inspectSpare(buf, seg, last)
		if lost {
			seg.close()
			return j.corrupt(seg, 0, "its header is damaged although it holds records")
		}
		if !remains && seg.ordinal > last.ordinal && seg.size == j.opt.SegmentBytes && len(j.spares) < j.wantSpares() {
			j.spares = append(j.spares, seg)
			continue
		}
		seg.close()
		if err := j.disk.Remove(name); err != nil {
			return fmt.Errorf("remove journal spare: %w", err)
		}
	}
	return nil
}

// inspectSpare looks for records in a file whose header says unused. Above the last segment, records of a torn first
// write may remain; later ones mean that the header was lost, not torn. Below it, whatever the following segment does
// not supersede was acknowledged. A file with remains is of no use even when their sequences are past: should its next
// first write be torn as well, they would look like records that had been acknowledged.
func (j *Journal) inspectSpare(buf []byte, seg, last *segment) (remains, lost bool) {
	crc, above := salt(j.id, seg.ordinal), seg.ordinal > last.ordinal
	var base uint64 // of the following segment
	if !above {
		base = j.segs[slices.IndexFunc(j.segs, func(s *segment) bool { return s.ordinal > seg.ordinal })].base
	}
	for at := 0; at+frameHead <= len(buf); at += frameAlign {
		f, ok := parseFrame(buf[at:], crc)
		switch {
		case !ok:
		case above && f.group > last.next, !above && f.seq < base:
			return true, true
		default:
			remains = true
		}
	}
	return remains || !above, false
}

func (j *Journal) corrupt(seg *segment, offset int64, what string) error {
	return corruptError(j.opt.Dir, seg.ordinal, offset, what)
}

func corruptError(dir string, ordinal uint64, offset int64, what string) error {
	return &edge.Error{
		Kind: edge.Internal, Code: "journal_corrupt",
		Message: fmt.Sprintf("the journal is damaged: %s/%s at byte %d: %s", dir, segmentName(ordinal), offset, what),
		Fix:     "check the disk, move the folder aside (it is evidence and mostly readable), and start again: a new journal begins",
	}
}

// tail is what a scan of the last segment found.
type tail struct {
	next      uint64 // one past the last intact record
	end       int64  // where it ends
	group     int64  // where the last group of records begins; 0 when that write held the header too
	wipe      int64  // remains of a torn write reach to here; 0: none
	hash      [hashSize]byte
	sinceHead int
	marks     []uint32
	lost      []Loss // damaged records that are followed by one that was written only after they were durable, or noted before: no torn write
}

// scanTail reads a segment to its last intact record. notes are of the losses found before: what proved them may be gone. It reports false
// when an intact record does not continue what is before it.
func scanTail(buf []byte, seg *segment, id identity, notes []Loss) (tail, bool) {
	buf = buf[:len(buf)&^(frameAlign-1)] // a file that was cut short may end within a record's padding: that record is not whole
	t := tail{next: seg.base, end: headerSize, hash: seg.previous}
	crc, probe := salt(id, seg.ordinal), segment{base: seg.base}
	afterLoss := false // what the first record behind a loss carries is not to be proved
	for t.end < int64(len(buf)) {
		f, ok := parseFrame(buf[t.end:], crc)
		if !ok || f.seq != t.next || f.group < seg.base || f.chained() != id.chained {
			note, noted := noteOf(notes, segmentName(seg.ordinal), t.next)
			if _, lost := later(buf, t.end, t.next, crc); !lost && !noted {
				break
			}
			behind, at, ok := resume(buf, t.end, t.next, ^uint64(0), crc)
			if !ok { // nothing intact is left behind what was noted; its places are not used again all the same
				t.lost, t.next = append(t.lost, note), note.Last+1
				break
			}
			if behind.chained() != id.chained || behind.group < seg.base {
				return t, false
			}
			t.lost = append(t.lost, Loss{First: t.next, Last: behind.seq - 1, Segment: segmentName(seg.ordinal)})
			t.next, t.end, afterLoss = behind.seq, at, true
			continue
		}
		if id.chained {
			if f.previous() != t.hash && !afterLoss {
				return t, false
			}
			t.hash = f.hash()
		}
		afterLoss = false
		if f.group == f.seq && f.seq != seg.base {
			t.group = t.end
		}
		t.sinceHead++
		if f.kind() == KindHead {
			t.sinceHead = 0
		}
		probe.mark(f.seq, t.end)
		t.next++
		t.end += int64(frameSize(len(f.raw)))
	}
	t.marks = probe.marks
	t.wipe, _ = later(buf, t.end, t.next, crc)
	return t, true
}

// later looks behind offset from for intact records at or above next. lost means that one of them was written after
// next had been durable; wipe is where the last of them ends.
func later(buf []byte, from int64, next uint64, crc uint32) (wipe int64, lost bool) {
	for at := from; at+frameHead <= int64(len(buf)); at += frameAlign {
		if peekLength(buf[at:], len(buf)-int(at)) == 0 || binary.LittleEndian.Uint64(buf[at+8:]) < next {
			continue
		}
		if f, ok := parseFrame(buf[at:], crc); ok {
			if f.group > next {
				return 0, true
			}
			wipe = at + int64(len(f.raw))
		}
	}
	return wipe, false
}

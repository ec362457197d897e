package journal

import (
	"errors"
	"io/fs"
	"log/slog"
	"time"
)

// retryEvery is how often the preparer tries again to allocate what a full disk refused.
const retryEvery = 2 * time.Second

func (j *Journal) wantSpares() int { return 1 + int(j.opt.Reserve/j.opt.SegmentBytes) }

// kick tells the preparer that a spare may be missing.
func (j *Journal) kick() {
	select {
	case j.prepare <- struct{}{}:
	default:
	}
}

// keepSpares is the preparer: it allocates segments ahead of need, so that nothing is allocated between a record and
// its acknowledgement, and so that a full disk finds the reserve in place.
func (j *Journal) keepSpares() {
	retry := time.NewTimer(retryEvery)
	retry.Stop()
	defer retry.Stop()
	short := false
	for {
		select {
		case <-j.stop:
			return
		case <-j.prepare:
		case <-retry.C:
		}
		err := j.fillSpares()
		if failed := err != nil && !errors.Is(err, ErrFull); failed != short {
			short = failed
			if short {
				j.log.Warn("journal reserve is short", slog.Any("error", err))
			} else {
				j.log.Info("journal reserve is complete")
			}
		}
		if short {
			retry.Reset(retryEvery)
		}
	}
}

// fillSpares makes the spares that are missing.
func (j *Journal) fillSpares() error {
	for {
		j.prepMu.Lock()
		missing := j.missingSpares()
		if missing <= 0 {
			j.prepMu.Unlock()
			return nil
		}
		seg, err := j.makeSpareLocked()
		if err == nil {
			j.segMu.Lock()
			j.spares = append(j.spares, seg)
			j.segMu.Unlock()
		}
		j.prepMu.Unlock()
		if err != nil {
			return err
		}
	}
}

func (j *Journal) missingSpares() int {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	return j.wantSpares() - len(j.spares)
}

// takeSpare returns the oldest spare, or makes one on the spot when the preparer was outrun or the reserve is gone.
func (j *Journal) takeSpare() (*segment, error) {
	if seg := j.popSpare(); seg != nil {
		return seg, nil
	}
	j.prepMu.Lock()
	defer j.prepMu.Unlock()
	if seg := j.popSpare(); seg != nil {
		return seg, nil
	}
	return j.makeSpareLocked()
}

func (j *Journal) popSpare() *segment {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	if len(j.spares) == 0 {
		return nil
	}
	seg := j.spares[0]
	j.spares = append(j.spares[:0], j.spares[1:]...)
	return seg
}

// makeSpareLocked allocates one segment under a name of its own. prepMu is held.
func (j *Journal) makeSpareLocked() (*segment, error) {
	ordinal, err := j.claimOrdinal()
	if err != nil {
		return nil, err
	}
	name := segmentName(ordinal)
	f, err := j.disk.Create(name+temporaryExt, j.opt.SegmentBytes)
	if err != nil {
		return nil, err
	}
	err = j.disk.Rename(name+temporaryExt, name)
	if err == nil {
		err = j.disk.Sync()
	}
	if err != nil {
		_ = f.Close()
		for _, left := range []string{name + temporaryExt, name} { // one is there; a disk that keeps it leaves it to the next Open
			_ = j.disk.Remove(left)
		}
		return nil, err
	}
	return &segment{ordinal: ordinal, size: j.opt.SegmentBytes, file: f}, nil
}

// claimOrdinal gives out the next ordinal if the bound allows one more file.
func (j *Journal) claimOrdinal() (uint64, error) {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	if int64(len(j.segs)+len(j.spares)+1)*j.opt.SegmentBytes > j.opt.MaxBytes {
		return 0, ErrFull
	}
	j.ordinal++
	return j.ordinal, nil
}

// Trim forgets records up to and including upto, in whole segments and never the one being written, and returns once
// that is durable. Trimming what was trimmed before, or beyond the end, is harmless.
func (j *Journal) Trim(upto uint64) error {
	j.prepMu.Lock()
	defer j.prepMu.Unlock()
	j.mu.Lock()
	closed := j.closed
	j.mu.Unlock()
	if closed {
		return ErrClosed // the folder may be another process's by now
	}
	for {
		if j.leaving == nil {
			j.leaving = j.cutOldest(upto)
		}
		if j.leaving == nil {
			j.kick()
			return nil
		}
		// One file at a time, each made durable, and one that could not be released is the first to be tried again:
		// after a crash no gap can stand in the middle.
		if err := j.releaseLocked(j.leaving); err != nil {
			return err
		}
		j.leaving = nil
	}
}

// cutOldest takes the oldest segment off the list if everything in it may go. The last one whose header is on the
// disk stays: it carries incarnation and position.
func (j *Journal) cutOldest(upto uint64) *segment {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	j.consumed = max(j.consumed, min(upto, j.next.Load()-1)+1)
	if len(j.segs) < 2 || j.segs[0].next > j.consumed || j.segs[1].end == 0 {
		return nil
	}
	seg := j.segs[0]
	j.segs = append(j.segs[:0], j.segs[1:]...)
	j.first.Store(j.segs[0].base)
	return seg
}

// releaseLocked makes a spare of a segment where one is wanted, which keeps its blocks, and removes it otherwise.
// The rename is the removal: a header whose ordinal differs from the file's name means unused. prepMu is held.
func (j *Journal) releaseLocked(seg *segment) error {
	seg.close()
	old := segmentName(seg.ordinal)
	if seg.size != j.opt.SegmentBytes || j.missingSpares() <= 0 {
		if err := j.disk.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return j.disk.Sync()
	}
	j.segMu.Lock()
	j.ordinal++
	ordinal := j.ordinal
	j.segMu.Unlock()
	switch err := j.disk.Rename(old, segmentName(ordinal)); {
	case errors.Is(err, fs.ErrNotExist): // removed by the attempt before
		return j.disk.Sync()
	case err != nil:
		return err
	}
	seg.ordinal = ordinal // if this fails from here on, the next attempt begins with that name
	if err := j.disk.Sync(); err != nil {
		return err
	}
	f, err := j.disk.Open(segmentName(ordinal))
	if err != nil {
		return err
	}
	j.segMu.Lock()
	j.spares = append(j.spares, &segment{ordinal: ordinal, size: seg.size, file: f})
	j.segMu.Unlock()
	return nil
}

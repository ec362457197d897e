package journal

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Loss is a run of records that were acknowledged and are damaged. What stands before and behind them is intact and is read on.
//
// A loss is noted by a file beside the segment, whose name says which records and which holds the segment as it was found. It stays, also when the
// segment is long gone, until somebody has looked at it and removes it.
type Loss struct {
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	Segment string `json:"segment"`

	settled bool // nobody needed the records any more when they were found: a note, and no loss
}

const (
	damagedExt = ".damaged"
	settledExt = ".settled"
)

func (l Loss) name() string {
	ext := damagedExt
	if l.settled {
		ext = settledExt
	}
	return fmt.Sprintf("%s.lost-%d-%d%s", l.Segment, l.First, l.Last, ext)
}

func parseLoss(name string) (l Loss, ok bool) {
	rest, ok := strings.CutSuffix(name, damagedExt)
	if !ok {
		rest, ok = strings.CutSuffix(name, settledExt)
		l.settled = ok
	}
	segment, places, found := strings.Cut(rest, ".lost-")
	if !ok || !found {
		return l, false
	}
	l.Segment = segment
	n, err := fmt.Sscanf(places, "%d-%d", &l.First, &l.Last)
	return l, n == 2 && err == nil && l.First <= l.Last
}

// FolderLosses are the losses that are noted in a journal's folder, whether it is open or not.
func FolderLosses(dir string) []Loss { return unsettled(folderNotes(dir)) }

// unsettled leaves out the notes of what nobody needed.
func unsettled(notes []Loss) []Loss {
	return slices.DeleteFunc(notes, func(l Loss) bool { return l.settled })
}

func folderNotes(dir string) (list []Loss) {
	entries, err := listFolder(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if l, ok := parseLoss(e.name); ok {
			list = append(list, l)
		}
	}
	return list
}

// Losses are the runs of records that this journal is known to have lost, oldest first.
func (j *Journal) Losses() []Loss {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	return unsettled(slices.Clone(j.losses))
}

// Settled says up to where the journal's reader was done with its records when it was opened. What the opening found damaged before that place was
// lost to nobody. The record at the place itself may be asked for again.
func (j *Journal) Settled(place uint64) {
	j.segMu.Lock()
	defer j.segMu.Unlock()
	for _, l := range j.found {
		i := slices.Index(j.losses, l)
		if l.Last >= place || i < 0 {
			continue
		}
		was := l.name()
		l.settled = true
		if err := j.disk.Rename(was, l.name()); err != nil {
			j.log.Warn("damage that cost nobody anything stays noted as a loss", slog.Any("error", err))
			continue
		}
		j.losses[i] = l
	}
	j.found = nil
}

// covers reports whether another note says no more than this one.
func (l Loss) covers(other Loss) bool {
	return l.Segment == other.Segment && l.First <= other.First && other.Last <= l.Last && (other.settled || !l.settled)
}

// countLocked takes a note among those that are known, each record once: a reader that began within a run of damaged records knew a part of it.
func (j *Journal) countLocked(l Loss) (news bool) {
	if slices.ContainsFunc(j.losses, func(known Loss) bool { return known.covers(l) }) {
		return false
	}
	j.losses = append(slices.DeleteFunc(j.losses, l.covers), l)
	slices.SortFunc(j.losses, func(a, b Loss) int { return cmp.Compare(a.First, b.First) })
	return true
}

// noteOf finds the note of a loss of which only the segment and the first record are known: the longest, as more may have been lost since.
func noteOf(noted []Loss, segment string, first uint64) (note Loss, ok bool) {
	for _, n := range noted {
		if n.Segment == segment && n.First == first && n.Last >= note.Last {
			note, ok = n, true
		}
	}
	return note, ok
}

// Lost is how many records a list of losses comes to.
func Lost(list []Loss) (n uint64) {
	for _, l := range list {
		n += l.Last - l.First + 1
	}
	return n
}

// lose notes a loss once, and says whether it is news. segment is the file's content. Where the note cannot be written the loss is found again as long as
// the segment is kept.
func (j *Journal) lose(l Loss, segment []byte) (news bool) {
	j.segMu.Lock()
	news = j.countLocked(l)
	j.segMu.Unlock()
	if !news {
		return false
	}
	where := []any{slog.String("code", "journal_damaged"), slog.Uint64("first", l.First), slog.Uint64("last", l.Last), slog.String("segment", l.Segment)}
	if l.settled {
		j.log.Warn("records of a journal that nobody needs any more are damaged", where...)
	} else {
		j.log.Error("acknowledged records of a journal are damaged; it goes on with those behind them", where...)
	}
	f, err := j.disk.Create(l.name()+temporaryExt, int64(len(segment)))
	if err == nil {
		_, err = f.WriteAt(segment, 0)
		if err == nil {
			err = f.Datasync()
		}
		_ = f.Close() // what matters is flushed
	}
	if err == nil {
		err = j.disk.Rename(l.name()+temporaryExt, l.name())
	}
	if err == nil {
		err = j.disk.Sync()
	}
	if err != nil {
		j.log.Error("the note of lost records could not be written", slog.Any("error", err))
	}
	return true
}

// resume finds the next intact record behind a damaged one, up to limit.
func resume(buf []byte, from int64, next, limit uint64, crc uint32) (f frame, at int64, ok bool) {
	for at := from; at+frameHead <= int64(len(buf)); at += frameAlign {
		if f, ok := parseFrame(buf[at:], crc); ok && f.seq > next && f.seq < limit {
			return f, at, true
		}
	}
	return frame{}, 0, false
}

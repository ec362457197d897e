package journal

import (
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
}

const damagedExt = ".damaged"

func (l Loss) name() string {
	return fmt.Sprintf("%s.lost-%d-%d%s", l.Segment, l.First, l.Last, damagedExt)
}

func parseLoss(name string) (l Loss, ok bool) {
	rest, ok := strings.CutSuffix(name, damagedExt)
	segment, places, found := strings.Cut(rest, ".lost-")
	if !ok || !found {
		return l, false
	}
	l.Segment = segment
	n, err := fmt.Sscanf(places, "%d-%d", &l.First, &l.Last)
	return l, n == 2 && err == nil && l.First <= l.Last
}

// FolderLosses are the notes of losses in a journal's folder, whether it is open or not.
func FolderLosses(dir string) (list []Loss) {
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
	return slices.Clone(j.losses)
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

// lose notes a loss once. segment is the file's content. Where the note cannot be written the loss is found again as long as the segment is kept.
func (j *Journal) lose(l Loss, segment []byte) {
	j.segMu.Lock()
	known := slices.Contains(j.losses, l)
	if !known {
		j.losses = append(j.losses, l)
		slices.SortFunc(j.losses, func(a, b Loss) int { return int(int64(a.First) - int64(b.First)) })
	}
	j.segMu.Unlock()
	if known {
		return
	}
	j.log.Error("acknowledged records of a journal are damaged and lost; it goes on with those behind them", slog.String("code", "journal_damaged"),
		slog.Uint64("first", l.First), slog.Uint64("last", l.Last), slog.String("segment", l.Segment))
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

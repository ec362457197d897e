package journal

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wispgate/edge"
)

// maxProblems bounds a report; after so many, the verdict is clear.
const maxProblems = 100

// Report is what Verify found.
type Report struct {
	Incarnation uint64    `json:"incarnation"`
	First       uint64    `json:"first"` // records kept: First ≤ sequence < Next
	Next        uint64    `json:"next"`
	Segments    int       `json:"segments"`
	Records     int       `json:"records"`
	Chained     bool      `json:"chained"`
	Heads       int       `json:"heads"`                // signed heads that are good
	LastHead    uint64    `json:"last_head,omitempty"`  // newest record that a good head covers
	Unproven    uint64    `json:"unproven"`             // records after it: the chain holds, but its end could have been cut
	Problems    []Problem `json:"problems,omitempty"`   // at most 100
	Incomplete  bool      `json:"incomplete,omitempty"` // there were more problems than that
}

// OK reports whether nothing is wrong.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// Problem is one thing that is wrong, at a place in a segment file. Codes: damaged, gap, chain_broken, head_wrong,
// head_forged, head_missing, header_wrong, other_journal.
type Problem struct {
	Segment string `json:"segment,omitempty"`
	Offset  int64  `json:"offset,omitempty"`
	Seq     uint64 `json:"seq,omitempty"`
	Code    string `json:"code"`
	Says    string `json:"says"`
}

// Verify checks a journal's folder without changing it: every frame, the sequence without gaps, and for a chained
// journal the chain and its signed heads. key may be nil, then signatures are not checked. known are heads kept
// elsewhere: each must still stand, which proves that nothing up to it was altered or cut off. It may run beside the
// journal's owner. The error says that nothing could be checked; what is wrong inside stands in the report.
func Verify(dir string, key ed25519.PublicKey, known ...Head) (Report, error) {
	v := verifier{key: key, known: map[uint64][]Head{}, notes: folderNotes(dir)}
	segs, err := v.list(dir)
	if err != nil {
		return v.report, err
	}
	for _, h := range known {
		if h.Incarnation != v.id.incarnation || key != nil && !h.Verify(key) {
			v.problem(Problem{Seq: h.Seq, Code: "other_journal", Says: "a known head belongs to another journal or key"})
			continue
		}
		v.known[h.Seq] = append(v.known[h.Seq], h)
	}
	for i, s := range segs {
		var next *header
		if i+1 < len(segs) {
			next = &segs[i+1].header
		}
		if err := v.segment(dir, s, next); err != nil {
			return v.report, err
		}
	}
	v.finish()
	return v.report, nil
}

type verifier struct {
	key    ed25519.PublicKey
	known  map[uint64][]Head
	notes  []Loss
	id     identity
	report Report
	next   uint64
	hash   [hashSize]byte
	name   string
}

type verified struct {
	header
	name string
}

func (v *verifier) problem(p Problem) {
	if len(v.report.Problems) == maxProblems {
		v.report.Incomplete = true
		return
	}
	if p.Segment == "" {
		p.Segment = v.name
	}
	v.report.Problems = append(v.report.Problems, p)
}

// list finds the segments in use, oldest first.
func (v *verifier) list(dir string) ([]verified, error) {
	entries, err := listFolder(dir)
	if err != nil {
		return nil, &edge.Error{
			Kind: edge.NotFound, Code: "journal_not_found", Message: "there is no readable journal in " + dir, Fix: "name the folder that holds the .seg files",
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	var segs []verified
	for _, e := range entries {
		ordinal, ok := parseSegmentName(e.name)
		if !ok {
			continue
		}
		head, err := readStart(filepath.Join(dir, e.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // trimmed meanwhile
		}
		if err != nil {
			return nil, err
		}
		h, ok := parseHeader(head)
		if !ok || h.ordinal != ordinal {
			continue // a spare; if it is one that was damaged, its records are missing and show as a gap
		}
		if len(segs) == 0 {
			v.id = h.identity
		} else if h.identity != v.id {
			v.problem(Problem{Segment: e.name, Code: "other_journal", Says: "the segment belongs to another journal"})
			continue
		}
		segs = append(segs, verified{h, e.name})
	}
	if len(segs) == 0 {
		return nil, &edge.Error{
			Kind: edge.NotFound, Code: "journal_not_found", Message: "there is no journal segment in " + dir, Fix: "name the folder that holds the .seg files",
		}
	}
	first := segs[0]
	v.report.Incarnation, v.report.First, v.report.Chained = v.id.incarnation, first.base, v.id.chained
	v.next, v.hash = first.base, first.previous
	if v.id.chained && first.base == 1 && first.previous != genesis(v.id) {
		v.problem(Problem{Segment: first.name, Code: "chain_broken", Says: "the chain does not begin as this journal's must"})
	}
	return segs, nil
}

func readStart(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, headerSize)
	n, err := f.ReadAt(b, 0)
	if n < headerSize {
		return nil, nil
	}
	return b, err
}

// segment checks one file, up to where the next one takes over.
func (v *verifier) segment(dir string, s verified, following *header) error {
	v.name = s.name
	f, err := os.Open(filepath.Join(dir, s.name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	buf := make([]byte, min(info.Size(), maxSegmentBytes))
	if _, err := f.ReadAt(buf, 0); err != nil {
		return err
	}
	v.report.Segments++
	if s.base != v.next || v.id.chained && s.previous != v.hash {
		v.problem(Problem{Seq: v.next, Code: "header_wrong", Says: fmt.Sprintf("the segment begins at record %d, expected %d, or with another hash", s.base, v.next)})
		v.next, v.hash = s.base, s.previous
	}
	crc, limit := salt(v.id, s.ordinal), ^uint64(0)
	if following != nil {
		limit = following.base
	}
	for at := int64(headerSize); v.next < limit && at < int64(len(buf)); {
		f, ok := parseFrame(buf[at:], crc)
		if ok && f.seq == v.next && f.chained() == v.id.chained {
			v.frame(f, at)
			at += int64(frameSize(len(f.raw)))
			continue
		}
		found, ok := v.resume(buf, at, crc, limit)
		if !ok {
			break // the torn or unused end
		}
		at = found
	}
	if following != nil && v.next < limit {
		v.problem(Problem{Seq: v.next, Code: "gap", Says: fmt.Sprintf("records %d to %d are missing", v.next, limit-1)})
	}
	return nil
}

// resume finds the next intact record behind a damaged place and reports what is missing between.
func (v *verifier) resume(buf []byte, from int64, crc uint32, limit uint64) (int64, bool) {
	note, noted := noteOf(v.notes, v.name, v.next)
	if limit == ^uint64(0) && !noted {
		if _, lost := later(buf, from, v.next, crc); !lost {
			return 0, false
		}
	}
	for at := from; at+frameHead <= int64(len(buf)); at += frameAlign {
		f, ok := parseFrame(buf[at:], crc)
		if !ok || f.seq <= v.next || f.seq >= limit {
			continue
		}
		v.problem(Problem{Offset: from, Seq: v.next, Code: "damaged", Says: fmt.Sprintf("records %d to %d are damaged", v.next, f.seq-1)})
		v.next = f.seq
		if f.chained() {
			v.hash = f.previous()
		}
		return at, true
	}
	if limit == ^uint64(0) && noted { // nothing intact is left behind what was noted, and what comes next comes behind that
		v.problem(Problem{Offset: from, Seq: v.next, Code: "damaged", Says: fmt.Sprintf("records %d to %d are damaged", v.next, note.Last)})
		v.next = note.Last + 1
	}
	return 0, false
}

func (v *verifier) frame(f frame, at int64) {
	if f.chained() {
		if f.previous() != v.hash {
			v.problem(Problem{Offset: at, Seq: f.seq, Code: "chain_broken", Says: "the record does not carry the hash of the one before it"})
		}
		if f.kind() == KindHead {
			v.head(f, at)
		}
		v.hash = f.hash()
		for _, h := range v.known[f.seq] {
			if h.Hash != v.hash {
				v.problem(Problem{Offset: at, Seq: f.seq, Code: "chain_broken", Says: "the record differs from the one that a known head covers"})
			}
		}
		delete(v.known, f.seq)
	}
	v.report.Records++
	v.next++
}

func (v *verifier) head(f frame, at int64) {
	h, err := ParseHead(f.payload())
	switch {
	case err != nil || h.Incarnation != v.id.incarnation || h.Seq != f.seq-1 || h.Hash != f.previous():
		v.problem(Problem{Offset: at, Seq: f.seq, Code: "head_wrong", Says: "the head does not fit the record before it"})
	case v.key != nil && !h.Verify(v.key):
		v.problem(Problem{Offset: at, Seq: f.seq, Code: "head_forged", Says: "the head's signature is not of the given key"})
	default:
		v.report.Heads++
		v.report.LastHead = h.Seq
	}
}

func (v *verifier) finish() {
	v.name = ""
	v.report.Next = v.next
	v.report.Unproven = v.next - 1 - min(v.report.LastHead, v.next-1)
	if v.report.LastHead == 0 {
		v.report.Unproven = v.next - v.report.First
	}
	for seq := range v.known {
		if seq >= v.report.First {
			v.problem(Problem{Seq: seq, Code: "head_missing", Says: "a known head covers a record that is no longer there: the end was cut off"})
		}
	}
	slices.SortStableFunc(v.report.Problems, func(a, b Problem) int {
		return strings.Compare(a.Segment, b.Segment)
	})
}

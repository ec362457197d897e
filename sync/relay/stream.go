package relay

import (
	"cmp"
	"slices"
	"time"

	"wispgate/sync/wire"
)

// streamName identifies a stream and its history.
type streamName struct {
	Tenant, Source, Incarnation string
}

// Mark is how far a stream is stored, contiguously and durably.
type Mark struct {
	Since    uint64    `json:"since"` // position after which this relay began
	Stored   uint64    `json:"stored"`
	Events   uint64    `json:"events"`             // stored, duplicates not counted
	Previous string    `json:"previous,omitempty"` // digest of the last event stored
	SeenAt   time.Time `json:"seen_at"`
	Lost     []Range   `json:"lost,omitempty"`
}

// Range is a part (After, Upto] of a stream.
type Range struct {
	After uint64    `json:"after"`
	Upto  uint64    `json:"upto"`
	At    time.Time `json:"at"`
}

// Bounds of what a stream may make the relay keep.
const (
	maxHeld      = 128     // batches beyond a gap
	maxHeldBytes = 4 << 20 // octets of events in them
	maxLost      = 16      // lost ranges kept for show
)

// arrival is a decoded batch.
type arrival struct {
	head  wire.Header
	items []wire.Item
	size  int
}

// stream puts one stream's batches into order of position. It belongs to the ingest goroutine.
type stream struct {
	name streamName
	mark Mark // as stored
	next Mark // as staged for the commit under way; equal to mark between commits

	held     []*arrival // beyond a gap, by After
	bytes    int
	gapSince time.Time // zero without a gap
	nacked   time.Time
	forked   bool
}

// verdict is what offer made of a batch.
type verdict int

const (
	accepted  verdict = iota // part of what follows the mark, or kept until the gap before it closes
	duplicate                // stored already
	overflow                 // beyond a gap, and no room to keep it; the sender repeats it
)

// offer takes a batch. A stream of which nothing is stored begins wherever its sender still remembers.
func (s *stream) offer(a *arrival, now time.Time) (v verdict, lost bool) {
	fresh := s.next.SeenAt.IsZero()
	s.next.SeenAt = now
	switch {
	case fresh:
		s.next.Since, s.next.Stored = a.head.Base, a.head.Base
	case a.head.Base > s.next.Stored: // forgotten by the sender and never stored here
		s.next.Lost = append(s.next.Lost, Range{After: s.next.Stored, Upto: a.head.Base, At: now})
		if n := len(s.next.Lost); n > maxLost {
			s.next.Lost = slices.Delete(s.next.Lost, 0, n-maxLost)
		}
		s.next.Stored, s.next.Previous = a.head.Base, ""
		lost = true
	}
	if a.head.Upto <= s.next.Stored {
		return duplicate, lost
	}
	at, found := slices.BinarySearchFunc(s.held, a.head.After, func(h *arrival, after uint64) int { return cmp.Compare(h.head.After, after) })
	if found && s.held[at].head.Upto >= a.head.Upto {
		return duplicate, lost
	}
	if a.head.After > s.next.Stored && (len(s.held) >= maxHeld || s.bytes+a.size > maxHeldBytes) {
		return overflow, lost
	}
	s.held = slices.Insert(s.held, at, a)
	s.bytes += a.size
	return accepted, lost
}

// take removes and returns the batch that continues the stream, nil when there is none. Batches that have become superfluous fall away.
func (s *stream) take() *arrival {
	for len(s.held) > 0 && s.held[0].head.After <= s.next.Stored {
		a := s.held[0]
		s.held = slices.Delete(s.held, 0, 1)
		s.bytes -= a.size
		if a.head.Upto <= s.next.Stored {
			continue
		}
		if a.head.After == s.next.Stored && a.head.Previous != "" && s.next.Previous != "" && a.head.Previous != s.next.Previous {
			s.forked = true
		}
		return a
	}
	return nil
}

// settle notes whether a gap is open.
func (s *stream) settle(now time.Time) {
	if len(s.held) == 0 {
		s.gapSince = time.Time{}
	} else if s.gapSince.IsZero() {
		s.gapSince = now
	}
}

// overdue says that a gap has been open for too long and the sender should be asked, at most once per wait.
func (s *stream) overdue(now time.Time, wait time.Duration) bool {
	if s.gapSince.IsZero() || now.Sub(s.gapSince) < wait || now.Sub(s.nacked) < wait {
		return false
	}
	s.nacked = now
	return true
}

// revert forgets what was staged and kept: nothing of it was acknowledged, so all of it comes again.
func (s *stream) revert() {
	s.next, s.held, s.bytes, s.gapSince = s.mark, nil, 0, time.Time{}
	s.next.Lost = slices.Clone(s.mark.Lost)
}

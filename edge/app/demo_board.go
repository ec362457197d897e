package app

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// happeningKind says what happened in the demo.
type happeningKind string

const (
	wasAccepted  happeningKind = "accepted"
	wasRefused   happeningKind = "refused"
	wasSilent    happeningKind = "silent" // dropped by the front door: the router got no answer
	wasMeasured  happeningKind = "usage"
	wasDelivered happeningKind = "webhook"
	wasPutOff    happeningKind = "put off" // the receiver answered 503
	wasRetried   happeningKind = "retried" // delivered after that
	wasForged    happeningKind = "forged"  // a signature that does not verify
	wasLink      happeningKind = "uplink"
	wasNoted     happeningKind = "demo"
)

// happening is one thing to show.
type happening struct {
	At   time.Time
	Kind happeningKind
	Who  string // a login, an event's name
	Code string // a reason's code
	Text string
}

// refusalCount is how often a reason came up, and the last time it did.
type refusalCount struct {
	happening
	Count int
}

// board is where the parts of the demo tell what happens, and where the views read it.
type board struct {
	now func() time.Time

	accepted, refused, silent    atomic.Int64 // as the router saw it
	accounted, unaccounted       atomic.Int64
	online, subscribers, seeded  atomic.Int64
	posted, verified, putOff     atomic.Int64 // webhooks
	retried, repeated, forged    atomic.Int64
	linkUp                       atomic.Bool
	nodeOnline, upBytes, dnBytes atomic.Int64 // as the node counted it
	stored, last, backlog        atomic.Int64 // positions of the tenant's streams

	mu      sync.Mutex
	recent  map[happeningKind][]happening // newest last
	reasons map[string]*refusalCount
	order   []string // of the reasons, as they first came
	lines   chan happening
}

const (
	keptRecent  = 24
	keptReasons = 32
	queuedLines = 256
)

func newBoard(now func() time.Time) *board {
	return &board{now: now, recent: map[happeningKind][]happening{}, reasons: map[string]*refusalCount{}, lines: make(chan happening, queuedLines)}
}

// tell keeps a happening for the views. It never waits: a view that does not keep up misses lines, not numbers.
func (b *board) tell(h happening) {
	if h.At.IsZero() {
		h.At = b.now()
	}
	b.mu.Lock()
	list := append(b.recent[h.Kind], h)
	if len(list) > keptRecent {
		list = append(list[:0:0], list[len(list)-keptRecent:]...)
	}
	b.recent[h.Kind] = list
	if h.Kind == wasRefused || h.Kind == wasSilent {
		b.countLocked(h)
	}
	b.mu.Unlock()
	select {
	case b.lines <- h:
	default:
	}
}

func (b *board) countLocked(h happening) {
	r := b.reasons[h.Code]
	if r == nil {
		if len(b.reasons) >= keptReasons {
			return
		}
		r = &refusalCount{}
		b.reasons[h.Code] = r
		b.order = append(b.order, h.Code)
	}
	r.happening = h
	r.Count++
}

func (b *board) note(text string) { b.tell(happening{Kind: wasNoted, Text: text}) }

// newest returns up to n happenings of the kinds, newest first.
func (b *board) newest(n int, kinds ...happeningKind) []happening {
	b.mu.Lock()
	var list []happening
	for _, k := range kinds {
		list = append(list, b.recent[k]...)
	}
	b.mu.Unlock()
	slices.SortStableFunc(list, func(x, y happening) int { return y.At.Compare(x.At) })
	return list[:min(n, len(list))]
}

// why returns the reasons that came up, in the order in which they first did.
func (b *board) why() []refusalCount {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]refusalCount, len(b.order))
	for i, code := range b.order {
		out[i] = *b.reasons[code]
	}
	return out
}

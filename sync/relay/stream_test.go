package relay

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/sync/wire"
)

func ranged(base, after, upto uint64) *arrival {
	return &arrival{head: wire.Header{Base: base, After: after, Upto: upto}, size: 100}
}

// whatever the order and overlap of what arrives, what is taken is contiguous and complete.
func TestAnyOrderOfArrivalIsTakenInOrderOfPosition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Uint64Range(0, 5).Draw(t, "base")
		end := base + rapid.Uint64Range(1, 60).Draw(t, "length")
		var all []*arrival
		for after := base; after < end; {
			upto := min(after+rapid.Uint64Range(1, 9).Draw(t, "step"), end)
			all = append(all, ranged(base, after, upto))
			after = upto
		}
		for range rapid.IntRange(0, 10).Draw(t, "extra") { // overlaps, as of a second publisher
			after := rapid.Uint64Range(base, end-1).Draw(t, "after")
			all = append(all, ranged(base, after, rapid.Uint64Range(after+1, end).Draw(t, "upto")))
		}
		all = rapid.Permutation(all).Draw(t, "order")
		s := &stream{}
		for _, a := range all {
			if v, lost := s.offer(a, t0); v == overflow || lost {
				t.Fatalf("offer (%d, %d]: %v, lost %v", a.head.After, a.head.Upto, v, lost)
			}
			for a := s.take(); a != nil; a = s.take() {
				if a.head.After > s.next.Stored || a.head.Upto <= s.next.Stored {
					t.Fatalf("took (%d, %d] at %d", a.head.After, a.head.Upto, s.next.Stored)
				}
				s.next.Stored = a.head.Upto
			}
			s.settle(t0)
			if gap := !s.gapSince.IsZero(); gap != (len(s.held) > 0) {
				t.Fatalf("gap %v with %d held", gap, len(s.held))
			}
		}
		if s.next.Stored != end || len(s.held) != 0 || s.bytes != 0 {
			t.Fatalf("stored up to %d of %d, %d held, %d octets", s.next.Stored, end, len(s.held), s.bytes)
		}
	})
}

func TestWhatIsKeptBeyondAGapIsBounded(t *testing.T) {
	t.Parallel()
	s := &stream{}
	s.offer(ranged(0, 0, 1), t0)
	s.next.Stored = s.take().head.Upto
	over := 0
	for i := range uint64(10 * maxHeld) {
		if v, _ := s.offer(ranged(0, 10+i, 11+i), t0); v == overflow {
			over++
		}
	}
	if len(s.held) > maxHeld+1 || over == 0 {
		t.Errorf("%d held, %d refused", len(s.held), over)
	}
	if v, _ := s.offer(ranged(0, 1, 10), t0); v != accepted {
		t.Error("what closes the gap was refused")
	}
}

func TestGapsAreAskedForOnceInAWhile(t *testing.T) {
	t.Parallel()
	s := &stream{}
	s.offer(ranged(0, 5, 6), t0)
	s.settle(t0)
	now := t0
	var asked []string
	for range 100 {
		now = now.Add(time.Second)
		if s.overdue(now, 30*time.Second) {
			asked = append(asked, fmt.Sprint(now.Sub(t0)))
		}
	}
	if got := fmt.Sprint(asked); got != "[30s 1m0s 1m30s]" {
		t.Errorf("asked at %s", got)
	}
}

func TestForgottenPositionsAreALossOnlyWhereSomethingWasStored(t *testing.T) {
	t.Parallel()
	s := &stream{}
	if _, lost := s.offer(ranged(100, 100, 110), t0); lost || s.next.Since != 100 {
		t.Errorf("a stream that is joined late counts as a loss: %v, since %d", lost, s.next.Since)
	}
	s.next.Stored = s.take().head.Upto
	s.mark = s.next
	if _, lost := s.offer(ranged(150, 160, 170), t0); !lost || len(s.next.Lost) != 1 || s.next.Lost[0].After != 110 || s.next.Lost[0].Upto != 150 {
		t.Errorf("lost %v: %+v", lost, s.next.Lost)
	}
	s.revert()
	if s.next.Stored != 110 || len(s.next.Lost) != 0 || len(s.held) != 0 {
		t.Errorf("a commit that failed left %+v", s.next)
	}
	for i := range uint64(3 * maxLost) {
		s.next.Stored = 1000 * i
		s.offer(ranged(1000*i+500, 1000*i+500, 1000*i+501), t0)
	}
	if len(s.next.Lost) != maxLost {
		t.Errorf("%d lost ranges are kept", len(s.next.Lost))
	}
}

func TestAnotherHistoryIsNoticed(t *testing.T) {
	t.Parallel()
	s := &stream{next: Mark{Stored: 10, Previous: "aa", SeenAt: t0}}
	same := ranged(0, 10, 11)
	same.head.Previous = "aa"
	s.offer(same, t0)
	if s.take(); s.forked {
		t.Error("the same history was taken for another")
	}
	s = &stream{next: Mark{Stored: 10, Previous: "aa", SeenAt: t0}}
	other := ranged(0, 10, 11)
	other.head.Previous = "bb"
	s.offer(other, t0)
	if s.take(); !s.forked {
		t.Error("another history went unnoticed")
	}
}

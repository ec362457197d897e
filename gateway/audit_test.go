package gateway

import (
	"context"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/edge/edgetest/bubble"
)

func TestTimesInLinesAreWrittenAsTheirLayoutSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		at := time.Unix(rapid.Int64Range(-2_000_000_000, 200_000_000_000).Draw(rt, "second"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nanosecond")).
			In(time.FixedZone("", rapid.IntRange(-50_000, 50_000).Draw(rt, "zone")))
		if got, want := string(appendTime([]byte("x"), at)), at.UTC().Format(`x"2006-01-02T15:04:05.000Z"`); got != want {
			rt.Fatalf("got %s, want %s", got, want)
		}
	})
}

func TestASharedLimitGivesEveryoneTheirTime(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		base, cancel := context.WithCancel(t.Context())
		l := sharedLimit{limit: 4 * time.Second}
		first := l.at(base, time.Now())
		for range 40 {
			<-time.After(300 * time.Millisecond)
			ctx := l.at(base, time.Now())
			if end, _ := ctx.Deadline(); time.Until(end) < 4*time.Second || time.Until(end) > 5*time.Second {
				t.Errorf("got %s, want 4 to 5 s", time.Until(end))
			}
		}
		if !errors.Is(first.Err(), context.DeadlineExceeded) {
			t.Errorf("the first ended with %v, want its deadline", first.Err())
		}
		last := l.at(base, time.Now())
		if l.at(base, time.Now()) != last {
			t.Error("two at the same moment share nothing")
		}
		cancel()
		if <-last.Done(); !errors.Is(last.Err(), context.Canceled) {
			t.Errorf("got %v after the end of the base", last.Err())
		}
	})
}

package gateway

import (
	"testing"
	"time"

	"pgregory.net/rapid"
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

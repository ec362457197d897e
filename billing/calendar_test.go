package billing_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/billing"
)

// zones with every kind of trouble: half hours, no summer time, midnight gaps and overlaps, both hemispheres, a skipped date.
var someZones = []string{
	"UTC", "Africa/Harare", "Africa/Cairo", "Africa/Casablanca", "America/New_York", "America/Sao_Paulo", "America/Santiago",
	"America/Havana", "America/St_Johns", "America/Asuncion", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Beirut", "Asia/Gaza",
	"Asia/Tehran", "Europe/London", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham", "Atlantic/Azores",
}

func location(t interface{ Fatal(...any) }, name string) *time.Location {
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPeriodsPartitionTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := location(t, rapid.SampledFrom(someZones).Draw(t, "zone"))
		iv := billing.Interval{
			Unit:  rapid.SampledFrom([]billing.Unit{billing.Minute, billing.Hour, billing.Day, billing.Week, billing.Month, billing.Year}).Draw(t, "unit"),
			Count: rapid.Int32Range(1, 40).Draw(t, "count"),
		}
		from := time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)
		anchor := from.Add(time.Duration(rapid.Int64Range(0, 20*365*86400).Draw(t, "anchor")) * time.Second)
		at := anchor.Add(time.Duration(rapid.Int64Range(0, 10*365*86400).Draw(t, "at")) * time.Second)
		k, start, end := iv.PeriodAt(anchor, in, at)
		if at.Before(start) || !at.Before(end) {
			t.Fatalf("%s is not within [%s, %s)", at, start, end)
		}
		if k < 0 && !at.Before(anchor) {
			t.Fatalf("period %d holds an instant after the anchor", k)
		}
		if next, _, _ := iv.PeriodAt(anchor, in, end); next <= k {
			t.Fatalf("the end of period %d lies in period %d", k, next)
		}
		if got := iv.Boundary(anchor, in, k); !got.Equal(start) {
			t.Fatalf("period %d begins at %s and at %s", k, start, got)
		}
	})
}

func TestEveryAnchorDayKeepsItsDay(t *testing.T) {
	t.Parallel()
	in := location(t, "Africa/Harare")
	month := billing.Interval{Unit: billing.Month, Count: 1}
	for day := 1; day <= 31; day++ {
		anchor := time.Date(2026, 1, day, 15, 4, 5, 0, in)
		for k := range int64(120) {
			got := month.Boundary(anchor, in, k)
			y, m, d := got.Date()
			if last := time.Date(y, m+1, 0, 0, 0, 0, 0, in).Day(); d != min(day, last) {
				t.Fatalf("anchor %d, month %d: got day %d, want %d", day, k, d, min(day, last))
			}
			if want := time.Month(k%12 + 1); m != want {
				t.Fatalf("anchor %d, month %d: got %s, want %s", day, k, m, want)
			}
		}
	}
}

func TestADayBeginsAtItsFirstInstant(t *testing.T) {
	t.Parallel()
	day := billing.Interval{Unit: billing.Day, Count: 1}
	for _, c := range []struct{ name, zone, anchor, want string }{
		{"midnight on a plain day", "Africa/Harare", "2026-03-30T15:00:00Z", "2026-03-30T22:00:00Z"},
		{"the first instant after a gap at midnight", "America/Santiago", "2026-09-05T15:00:00Z", "2026-09-06T04:00:00Z"},
		{"midnight where the gap was later in the night", "Europe/London", "2026-03-28T15:00:00Z", "2026-03-29T00:00:00Z"},
		{"the earlier of two midnights", "America/Havana", "2026-10-31T15:00:00Z", "2026-11-01T04:00:00Z"},
		{"the next date where one was skipped", "Pacific/Apia", "2011-12-30T03:00:00Z", "2011-12-30T10:00:00Z"},
	} {
		anchor, _ := time.Parse(time.RFC3339, c.anchor)
		in := location(t, c.zone)
		if got := day.Boundary(anchor, in, 1).UTC().Format(time.RFC3339); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestMinutesAndHoursAreAbsolute(t *testing.T) {
	t.Parallel()
	in := location(t, "America/New_York")
	anchor := time.Date(2026, 3, 8, 1, 30, 0, 0, in) // half an hour before the clocks go forward
	got := billing.Interval{Unit: billing.Minute, Count: 90}.Boundary(anchor, in, 1)
	if got.Sub(anchor) != 90*time.Minute {
		t.Errorf("got %s, want 90 minutes", got.Sub(anchor))
	}
}

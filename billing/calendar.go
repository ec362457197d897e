package billing

import (
	"sync"
	"time"
	_ "time/tzdata" // zones must be the same on every node, also where the system has none

	"wispgate/edge"
)

// Unit is what an interval counts.
type Unit string

// The units. Minutes and hours are absolute durations; from days on they are local dates.
const (
	Minute Unit = "minute"
	Hour   Unit = "hour"
	Day    Unit = "day"
	Week   Unit = "week"
	Month  Unit = "month"
	Year   Unit = "year"
)

// Values lists the units, for the schema.
func (Unit) Values() []string { return []string{"minute", "hour", "day", "week", "month", "year"} }

// Interval is the length of a period: count units.
type Interval struct {
	Unit  Unit  `json:"unit" doc:"What is counted." example:"month"`
	Count int32 `json:"count" check:"min=1 max=1000" doc:"How many." example:"1"`
}

// ErrTimezone is the reason for a zone that does not exist.
var ErrTimezone = edge.Reason{Code: "timezone_unknown", Says: "The time zone is not known", Fix: "Use a name of the IANA database such as Africa/Harare"}

// zones keeps the zones that were loaded; only existing names enter, so it is bounded by the IANA database.
var zones sync.Map // string → *time.Location

// zone returns the location of an IANA name.
func zone(name string) (*time.Location, error) {
	if l, ok := zones.Load(name); ok {
		return l.(*time.Location), nil
	}
	l, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		return nil, ErrTimezone.Error(edge.Invalid, edge.Field("/timezone", "is not an IANA time zone", "use a name such as Africa/Harare"))
	}
	zones.Store(name, l)
	return l, nil
}

// Boundary is the instant at which period k begins (and period k−1 ends) for an anchor in a zone. It is computed from the anchor, never
// from the period before: no drift, no skipped month. Periods partition time: start inclusive, end exclusive. The day of a month or
// year is min(anchor, length of the month), so the 31st means the last day.
//
// For units from days on the anchor's local date counts, not its time of day.
func (iv Interval) Boundary(anchor time.Time, in *time.Location, k int64) time.Time {
	n := k * int64(iv.Count)
	switch iv.Unit {
	case Minute:
		return anchor.Add(time.Duration(n) * time.Minute)
	case Hour:
		return anchor.Add(time.Duration(n) * time.Hour)
	default:
	}
	y, m, d := anchor.In(in).Date()
	switch iv.Unit {
	case Week:
		d += int(7 * n)
	case Month, Year:
		if iv.Unit == Year {
			n *= 12
		}
		months := int64(y)*12 + int64(m) - 1 + n
		y, m = int(months/12), time.Month(months%12+1)
		d = min(d, daysIn(y, m))
	default:
		d += int(n)
	}
	return startOfDay(y, m, d, in)
}

func daysIn(y int, m time.Month) int { return time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Day() }

// startOfDay is the first instant of a local date: local midnight, or in a gap of the clocks the first instant after it; where midnight
// happens twice, the earlier. Days beyond the month's end run over into the next month.
func startOfDay(y int, m time.Month, d int, in *time.Location) time.Time {
	const reach = 36 * time.Hour // further than midnight is from noon, whatever the clocks do
	noon, midnight := time.Date(y, m, d, 12, 0, 0, 0, in), time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	_, before := noon.Add(-reach).Zone()
	_, after := noon.Zone()
	for _, offset := range []int{max(before, after), min(before, after)} { // the larger offset is the earlier instant
		t := midnight.Add(-time.Duration(offset) * time.Second).In(in)
		if t.Format(time.DateTime) == midnight.Format(time.DateTime) {
			return t
		}
	}
	start, end := noon.ZoneBounds()
	if start.Before(noon.Add(-reach)) { // the zone skipped the whole date
		return end
	}
	return start
}

// PeriodAt returns the number of the period that holds t and its bounds.
func (iv Interval) PeriodAt(anchor time.Time, in *time.Location, t time.Time) (k int64, start, end time.Time) {
	var length time.Duration
	switch iv.Unit {
	case Minute:
		length = time.Minute
	case Hour:
		length = time.Hour
	case Day:
		length = 24 * time.Hour
	case Week:
		length = 7 * 24 * time.Hour
	case Month:
		length = 30 * 24 * time.Hour
	case Year:
		length = 365 * 24 * time.Hour
	}
	k = int64(t.Sub(anchor) / (length * time.Duration(iv.Count))) // a guess, right within a few periods per century
	for start = iv.Boundary(anchor, in, k); start.After(t); start = iv.Boundary(anchor, in, k) {
		k--
	}
	for end = iv.Boundary(anchor, in, k+1); !end.After(t); end = iv.Boundary(anchor, in, k+1) {
		k, start = k+1, end
	}
	return k, start, end
}

// localDay is the local date of t as YYYY-MM-DD.
func localDay(t time.Time, in *time.Location) string { return t.In(in).Format(time.DateOnly) }

package app

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// benchTable is what a run found: one line for each thing measured, beside its yardstick from the same run. The lines are figures, not
// gates: a shared machine may miss what a quiet one reaches, so nothing here fails a build.
type benchTable struct {
	out  io.Writer // told as it goes; the whole table comes at the end
	rows [][]string
}

// bound is a target for a value: at most, or at least.
type bound struct {
	limit float64
	least bool
	unit  string
}

func atMost(limit float64, unit string) bound  { return bound{limit, false, unit} }
func atLeast(limit float64, unit string) bound { return bound{limit, true, unit} }

func (b bound) String() string {
	sign := "<="
	if b.least {
		sign = ">="
	}
	return fmt.Sprintf("%s %s%s", sign, figure(b.limit), b.unit)
}

func (b bound) met(v float64) bool {
	if b.least {
		return v >= b.limit
	}
	return v <= b.limit
}

// figure prints three digits that mean something.
func figure(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// row adds a value with its target.
func (t *benchTable) row(what, measured, yardstick string, value float64, target bound) {
	verdict := "ok"
	if !target.met(value) {
		verdict = "missed"
	}
	t.add(what, measured, yardstick, figure(value)+target.unit, target.String(), verdict)
}

// note adds a figure that has no target.
func (t *benchTable) note(what, measured, yardstick string, value float64, unit string) {
	t.add(what, measured, yardstick, figure(value)+unit, "", "")
}

func (t *benchTable) skip(what, why string) { t.add(what, "skipped: "+why, "", "", "", "skipped") }

func (t *benchTable) add(row ...string) {
	t.rows = append(t.rows, row)
	fmt.Fprintf(t.out, "  %s\n", strings.Join(row, " | "))
}

// write prints the table.
func (t *benchTable) write(w io.Writer) {
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "what\tmeasured\tyardstick, same run\tvalue\ttarget\t")
	fmt.Fprintln(tw, "====\t========\t===================\t=====\t======\t")
	for _, r := range t.rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush()
}

func micros(d time.Duration) string { return fmt.Sprintf("%.1f us", float64(d.Nanoseconds())/1e3) }

func ratioOf(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }

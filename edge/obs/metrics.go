package obs

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/VictoriaMetrics/metrics"
)

// MaxSeries bounds the series of one metric. Beyond it, further label values count together under "other", so that
// nothing from outside can grow the memory.
const MaxSeries = 1024

// SecondsBounds are the histogram buckets for durations, in seconds: 100 µs to 10 s.
var SecondsBounds = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

type (
	// Counter only goes up.
	Counter = metrics.Counter
	// Gauge goes both ways.
	Gauge = metrics.Gauge
	// Histogram counts observations in buckets.
	Histogram = metrics.PrometheusHistogram
)

// Registry holds a program's metrics. There is no global one. Registering panics on a name against the rules, which
// is a fault of the program that its first test shows: wispgate_ in front, base units, _total on counters and nothing
// else, a name used for one thing only.
type Registry struct {
	mu       sync.Mutex
	families map[string]*family
	process  bool
}

type family struct {
	name, help, kind string
	labels           []string
	set              *metrics.Set
	mu               sync.Mutex
	series           map[string]any
}

// NewRegistry makes an empty registry.
func NewRegistry() *Registry { return &Registry{families: map[string]*family{}} }

var (
	metricName = regexp.MustCompile(`^wispgate(_[a-z0-9]+)+$`)
	labelName  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

func (r *Registry) family(name, help, kind string, labels []string) *family {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.families[name]; f != nil {
		if f.kind != kind || f.help != help || !slices.Equal(f.labels, labels) {
			panic("obs: metric " + name + " is registered twice with different meanings")
		}
		return f
	}
	switch total := strings.HasSuffix(name, "_total"); {
	case !metricName.MatchString(name), help == "", total != (kind == "counter"), strings.HasSuffix(name, "_ms"),
		strings.HasSuffix(name, "_milliseconds"), slices.ContainsFunc(labels, func(l string) bool { return !labelName.MatchString(l) }):
		panic("obs: metric " + name + " breaks the naming rules")
	}
	f := &family{name: name, help: help, kind: kind, labels: labels, set: metrics.NewSet(), series: map[string]any{}}
	r.families[name] = f
	return f
}

// series finds or makes one series of a family.
func series[T any](f *family, values []string, make func(full string) T) T {
	if len(values) != len(f.labels) {
		panic(fmt.Sprintf("obs: metric %s takes %d label values, got %d", f.name, len(f.labels), len(values)))
	}
	key := strings.Join(values, "\xff")
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.series[key]; ok {
		return s.(T)
	}
	if len(f.series) >= MaxSeries && len(values) > 0 {
		values = slices.Repeat([]string{"other"}, len(values))
		key = strings.Join(values, "\xff")
		if s, ok := f.series[key]; ok {
			return s.(T)
		}
	}
	s := make(f.full(values))
	f.series[key] = s
	return s
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (f *family) full(values []string) string {
	if len(values) == 0 {
		return f.name
	}
	var b strings.Builder
	b.WriteString(f.name)
	for i, v := range values {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(f.labels[i])
		b.WriteString(`="`)
		_, _ = labelEscapes.WriteString(&b, strings.ToValidUTF8(v, "?"))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// Metrics with labels. With costs a look-up and allocates: code on a hot path keeps what it returns.
type (
	// CounterVec is a counter for each combination of label values.
	CounterVec struct{ f *family }
	// GaugeVec is a gauge for each combination of label values.
	GaugeVec struct{ f *family }
	// HistogramVec is a histogram for each combination of label values.
	HistogramVec struct {
		f      *family
		bounds []float64
	}
)

// Counter registers a counter; without labels, use With() once.
func (r *Registry) Counter(name, help string, labels ...string) CounterVec {
	return CounterVec{r.family(name, help, "counter", labels)}
}

// With is the series for these label values, in the order of the labels.
func (v CounterVec) With(values ...string) *Counter { return series(v.f, values, v.f.set.NewCounter) }

// Gauge registers a gauge that is set by the program.
func (r *Registry) Gauge(name, help string, labels ...string) GaugeVec {
	return GaugeVec{r.family(name, help, "gauge", labels)}
}

// With is the series for these label values, in the order of the labels.
func (v GaugeVec) With(values ...string) *Gauge {
	return series(v.f, values, func(full string) *Gauge { return v.f.set.NewGauge(full, nil) })
}

// Func makes the series for these label values ask read at each scrape. read must be quick and safe for concurrent use.
func (v GaugeVec) Func(read func() float64, values ...string) {
	series(v.f, values, func(full string) *Gauge { return v.f.set.NewGauge(full, read) })
}

// GaugeFunc registers a gauge without labels that is read at each scrape.
func (r *Registry) GaugeFunc(name, help string, read func() float64) {
	r.Gauge(name, help).Func(read)
}

// Seconds registers a histogram of durations in seconds with SecondsBounds.
func (r *Registry) Seconds(name, help string, labels ...string) HistogramVec {
	return r.Histogram(name, help, SecondsBounds, labels...)
}

// Histogram registers a histogram with its own ascending bounds.
func (r *Registry) Histogram(name, help string, bounds []float64, labels ...string) HistogramVec {
	return HistogramVec{r.family(name, help, "histogram", labels), bounds}
}

// With is the series for these label values, in the order of the labels.
func (v HistogramVec) With(values ...string) *Histogram {
	return series(v.f, values, func(full string) *Histogram { return v.f.set.NewPrometheusHistogramExt(full, v.bounds) })
}

// WritePrometheus writes everything in the Prometheus text format, families in the order of their names.
func (r *Registry) WritePrometheus(w io.Writer) error {
	r.mu.Lock()
	all := make([]*family, 0, len(r.families))
	for _, f := range r.families {
		all = append(all, f)
	}
	process := r.process
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	var b bytes.Buffer
	for _, f := range all {
		f.mu.Lock()
		n := len(f.series)
		f.mu.Unlock()
		if n > 0 {
			fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.name, strings.ReplaceAll(f.help, "\n", " "), f.name, f.kind)
			f.set.WritePrometheus(&b)
		}
	}
	if process {
		writeProcess(&b)
	}
	_, err := w.Write(b.Bytes())
	return err
}

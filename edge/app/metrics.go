package app

import (
	"sync"
	"time"

	"wispgate/edge/obs"
)

// execMetrics counts what the write path does; it implements exec.Observer.
type execMetrics struct {
	seconds  obs.HistogramVec
	outcomes obs.CounterVec
	rounds   obs.CounterVec
	round    *obs.Histogram
	intents  *obs.Histogram

	mu    sync.RWMutex
	known map[string]operationSeries // by operation: the declared ones and no others
}

// operationSeries are the two series that nearly every call of an operation counts in.
type operationSeries struct {
	seconds *obs.Histogram
	ok      *obs.Counter
}

func newExecMetrics(r *obs.Registry) *execMetrics {
	return &execMetrics{
		known:    map[string]operationSeries{},
		seconds:  r.Seconds("wispgate_exec_command_seconds", "Time to evaluate one operation.", "command"),
		outcomes: r.Counter("wispgate_exec_commands_total", "Operations evaluated, by outcome.", "command", "outcome"),
		rounds:   r.Counter("wispgate_exec_rounds_total", "Rounds of intents, by outcome.", "outcome"),
		round:    r.Seconds("wispgate_exec_round_seconds", "Time of one round, evaluation to applied.").With(),
		intents:  r.Histogram("wispgate_exec_round_intents", "Intents in one round.", []float64{1, 2, 4, 8, 16, 32, 64}).With(),
	}
}

func (m *execMetrics) Command(name, outcome string, took time.Duration) {
	s := m.series(name)
	s.seconds.Update(took.Seconds())
	if outcome == "ok" {
		s.ok.Inc()
		return
	}
	m.outcomes.With(name, outcome).Inc()
}

func (m *execMetrics) series(name string) operationSeries {
	m.mu.RLock()
	s, ok := m.known[name]
	m.mu.RUnlock()
	if ok {
		return s
	}
	s = operationSeries{m.seconds.With(name), m.outcomes.With(name, "ok")}
	m.mu.Lock()
	m.known[name] = s
	m.mu.Unlock()
	return s
}

func (m *execMetrics) Round(intents int, outcome string, took time.Duration) {
	m.rounds.With(outcome).Inc()
	m.round.Update(took.Seconds())
	m.intents.Update(float64(intents))
}

// namedMetrics takes complete metric names, as relay and uplink say them; a name may carry one label in Prometheus' form.
type namedMetrics struct {
	registry *obs.Registry
	help     string
}

// Add counts.
func (m namedMetrics) Add(name string, n int) {
	base, label, value := splitMetric(name)
	if label == "" {
		m.registry.Counter(base, m.help).With().Add(n)
		return
	}
	m.registry.Counter(base, m.help, label).With(value).Add(n)
}

// Observe takes a duration.
func (m namedMetrics) Observe(name string, d time.Duration) {
	m.registry.Seconds(name, m.help).With().Update(d.Seconds())
}

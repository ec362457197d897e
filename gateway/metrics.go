package gateway

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"wispgate/edge"
)

// counters are the gateway's own, in the text form of Prometheus. No dimension takes a value that a client could choose.
type counters struct {
	running  atomic.Int64
	requests [len(statusClasses)]atomic.Int64
	byClass  []histogram // by place in edge.Classes, the last for requests without a route
	refused  sync.Map    // reason code to *atomic.Int64
	audits   histogram
	lost     atomic.Int64 // audit lines
}

var statusClasses = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"}

// latencies of the latency histograms, in seconds.
var latencies = [...]time.Duration{
	time.Millisecond / 4, time.Millisecond, 4 * time.Millisecond, 16 * time.Millisecond, 64 * time.Millisecond, 256 * time.Millisecond,
	time.Second, 4 * time.Second,
}

type histogram struct {
	buckets [len(latencies) + 1]atomic.Int64
	sum     atomic.Int64 // nanoseconds
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(latencies) && d > latencies[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

func newCounters() *counters { return &counters{byClass: make([]histogram, len(edge.Classes())+1)} }

func (c *counters) begin() { c.running.Add(1) }

func (c *counters) end(x *exchange, took time.Duration) {
	c.running.Add(-1)
	if i := x.status/100 - 1; i >= 0 && i < len(c.requests) {
		c.requests[i].Add(1)
	}
	i := len(c.byClass) - 1
	if x.rt != nil {
		i = x.rt.place
	}
	c.byClass[i].observe(took)
	if x.code != "" {
		n, ok := c.refused.Load(x.code)
		if !ok {
			n, _ = c.refused.LoadOrStore(x.code, &atomic.Int64{})
		}
		n.(*atomic.Int64).Add(1) //nolint:forcetypeassert // only counters are stored
	}
}

func (c *counters) audit(took time.Duration, err error) {
	c.audits.observe(took)
	if err != nil {
		c.lost.Add(1)
	}
}

// WriteMetrics writes the gateway's counters in the text form of Prometheus.
func (s *Server) WriteMetrics(w io.Writer) {
	c := s.counts
	family(w, "wispgate_gateway_requests_running", "gauge", "Requests under way.")
	sample(w, "wispgate_gateway_requests_running", "", c.running.Load())
	family(w, "wispgate_gateway_requests_total", "counter", "Requests answered, by class of status.")
	for i, class := range statusClasses {
		sample(w, "wispgate_gateway_requests_total", `status="`+class+`"`, c.requests[i].Load())
	}
	family(w, "wispgate_gateway_refused_total", "counter", "Requests refused, by reason.")
	c.refused.Range(func(code, n any) bool {
		sample(w, "wispgate_gateway_refused_total", fmt.Sprintf("code=%q", code), n.(*atomic.Int64).Load()) //nolint:forcetypeassert // see end
		return true
	})
	family(w, "wispgate_gateway_request_duration_seconds", "histogram", "From the request's head to its answer, by class of operation.")
	for i, class := range append(edge.Classes(), "none") {
		c.byClass[i].write(w, "wispgate_gateway_request_duration_seconds", fmt.Sprintf("class=%q", class))
	}
	family(w, "wispgate_gateway_audit_duration_seconds", "histogram", "Until an audit line was durable.")
	c.audits.write(w, "wispgate_gateway_audit_duration_seconds", "")
	family(w, "wispgate_gateway_audit_lost_total", "counter", "Audit lines that could not be written; their commands were refused.")
	sample(w, "wispgate_gateway_audit_lost_total", "", c.lost.Load())
	family(w, "wispgate_gateway_access_lines_dropped_total", "counter", "Lines of the access log that were left out under load.")
	sample(w, "wispgate_gateway_access_lines_dropped_total", "", s.access.lost())
	family(w, "wispgate_gateway_queue_waiting", "gauge", "Requests that wait for their tenant's turn.")
	sample(w, "wispgate_gateway_queue_waiting", `lane="read"`, int64(s.queue.depth(readLane)))
	sample(w, "wispgate_gateway_queue_waiting", `lane="write"`, int64(s.queue.depth(writeLane)))
	family(w, "wispgate_gateway_connections_open", "gauge", "Open connections.")
	sample(w, "wispgate_gateway_connections_open", "", int64(s.app.Server().GetOpenConnectionsCount()))
}

func family(w io.Writer, name, kind, help string) {
	_, _ = fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func sample(w io.Writer, name, labels string, v int64) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	_, _ = fmt.Fprintf(w, "%s%s %d\n", name, labels, v)
}

func (h *histogram) write(w io.Writer, name, labels string) {
	comma := ""
	if labels != "" {
		comma = ","
	}
	total := int64(0)
	for i := range h.buckets {
		total += h.buckets[i].Load()
		bound := "+Inf"
		if i < len(latencies) {
			bound = fmt.Sprint(latencies[i].Seconds())
		}
		_, _ = fmt.Fprintf(w, "%s_bucket{%s%sle=%q} %d\n", name, labels, comma, bound, total)
	}
	braces := ""
	if labels != "" {
		braces = "{" + labels + "}"
	}
	_, _ = fmt.Fprintf(w, "%s_sum%s %g\n%s_count%s %d\n", name, braces, time.Duration(h.sum.Load()).Seconds(), name, braces, total)
}

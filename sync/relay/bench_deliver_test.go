package relay_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkDeliver delivers events from a source over the embedded broker to an endpoint on loopback, alone and beside one that never
// answers: the second must cost the first less than a twentieth.
func BenchmarkDeliver(b *testing.B) {
	for _, beside := range []string{"alone", "beside-a-dead-endpoint"} {
		b.Run(beside, func(b *testing.B) {
			g := start(b, nil)
			var n atomic.Int64
			done := make(chan struct{})
			good := receive(b, nil)
			good.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if n.Add(1) == int64(b.N) {
					close(done)
				}
			})
			g.endpoint(good.URL, map[string]any{"concurrency": 32})
			if beside != "alone" {
				dead := receive(b, func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
				g.endpoint(dead.URL, map[string]any{"timeout_seconds": 60, "name": "dead"})
			}
			src := newSource("clu-1")
			src.emit(b, b.N, 50)
			b.ResetTimer()
			publish(b, g.relay.Status().Plain, src)
			select {
			case <-done:
			case <-time.After(2 * time.Minute):
				b.Fatalf("%d of %d delivered: %+v", n.Load(), b.N, g.relay.Status())
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

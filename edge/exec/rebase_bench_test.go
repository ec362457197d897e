package exec_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
)

// BenchmarkRebase accepts b.N writes at a tower that is cut off and hands them over. It reports how long one takes to be accepted, to be
// handed over and to be evaluated anew at a restart, in microseconds, and the heap with all of them pending.
func BenchmarkRebase(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n, "-pending"), func(b *testing.B) {
			for b.Loop() {
				rebaseOf(b, n)
			}
		})
	}
}

func rebaseOf(b *testing.B, n int) {
	b.Helper()
	c := edgetest.NewCluster(b, 2, edgetest.Modules(offline(), syncPart()), quick)
	defer c.Close()
	tower := c.Nodes[1]
	tower.CutAndNotice()
	each := func(from time.Time) float64 { return float64(time.Since(from).Microseconds()) / float64(n) }
	began := time.Now()
	for i := range n {
		edgetest.Do[box](b, tower.Harness, acme, makeBox.Name, newBox{Common: edge.Common{Metadata: map[string]string{"note": "paid at the tower"}}, Label: fmt.Sprint(i), Color: "red"})
	}
	b.ReportMetric(each(began), "µs/accepted")
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	b.ReportMetric(float64(mem.HeapInuse)/(1<<20), "MB-heap")
	began = time.Now()
	tower = c.Restart(tower)
	edgetest.Eventually(b, 5*time.Minute, func() bool { return tower.Loaded() }, func() string { return fmt.Sprint(tower.Exec.Pending()) })
	b.ReportMetric(each(began), "µs/reloaded")
	edgetest.Eventually(b, time.Minute, tower.CutOff, func() string { return "not cut off" })
	began = time.Now()
	tower.HealAndDrain()
	b.ReportMetric(each(began), "µs/rebased")
	c.Agree()
}

package exec_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
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
	edgetest.Eventually(b, func() bool { return tower.Loaded() }, func() string { return fmt.Sprint(tower.Exec.Pending()) })
	b.ReportMetric(each(began), "µs/reloaded")
	edgetest.Eventually(b, func() bool { return tower.Loaded() && tower.CutOff() }, func() string { return "not cut off" })
	began = time.Now()
	tower.HealAndDrain()
	b.ReportMetric(each(began), "µs/rebased")
	c.Agree()
}

// BenchmarkCarry exports what waits at a tower that is cut off and hands it over at another member. It reports how long each takes for one
// write, in microseconds, and the octets of one on the stick.
func BenchmarkCarry(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n, "-pending"), func(b *testing.B) {
			for b.Loop() {
				carryOf(b, n)
			}
		})
	}
}

func carryOf(b *testing.B, n int) {
	b.Helper()
	c := edgetest.NewCluster(b, 2, edgetest.Modules(offline(), syncPart()), quick)
	defer c.Close()
	leader, tower := c.Nodes[0], c.Nodes[1]
	tower.CutAndNotice()
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				edgetest.Do[box](b, tower.Harness, acme, makeBox.Name, newBox{Label: fmt.Sprint(i), Color: "red"})
			}
		})
	}
	wg.Wait()
	each := func(from time.Time) float64 { return float64(time.Since(from).Microseconds()) / float64(n) }
	stick, err := os.Create(filepath.Join(b.TempDir(), "stick"))
	if err != nil {
		b.Fatal(err)
	}
	defer stick.Close()
	q, err := tower.QueueRest()
	if err != nil || q.Count != n {
		b.Fatal(q, err)
	}
	began := time.Now()
	out := bufio.NewWriter(stick)
	octets := 0
	err = tower.EachPending(b.Context(), q, func(raw []byte) error {
		octets += len(raw) + 1
		_, err := out.Write(append(raw, '\n'))
		return err
	})
	if err = errors.Join(err, out.Flush()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(each(began), "µs/exported")
	b.ReportMetric(float64(octets)/float64(n), "octets/write")
	if _, err := stick.Seek(0, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	in := bufio.NewScanner(stick)
	began = time.Now()
	got, err := leader.TakeOver(b.Context(), q, false, func() ([]byte, error) {
		if !in.Scan() {
			return nil, errors.Join(in.Err(), io.EOF)
		}
		return in.Bytes(), nil
	}, func(int) {})
	if err != nil || got.New != n {
		b.Fatal(got, err)
	}
	b.ReportMetric(each(began), "µs/taken-over")
	tower.HealAndDrain()
	c.Agree()
}

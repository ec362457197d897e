package cluster

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// yardstick is F: the time of one 4 KB append with fdatasync into preallocated room, on the disk of dir.
func yardstick(b *testing.B, dir string, n int) time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "yardstick"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const block = 4096
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(n+1)*block); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, block)
	start := time.Now()
	for i := range n {
		if _, err := f.WriteAt(buf, int64(i)*block); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start) / time.Duration(n)
}

// BenchmarkPropose compares one committed write of 1 KB with F, measured before and after in the same run.
func BenchmarkPropose(b *testing.B) {
	dir := b.TempDir()
	w := raise(b, dir, store.Options{}, conf(dir))
	defer w.close(b)
	val := make([]byte, 1024)
	before := yardstick(b, dir, 200)
	start := w.store.Stats()
	version := w.machine.Version()
	b.ResetTimer()
	for b.Loop() {
		e := exec.Entry{Base: version, Time: 1, Ops: []exec.Op{{Key: "bench/1", Val: val}}}
		if err := <-w.node.Propose(b.Context(), e.Append(nil)); err != nil {
			b.Fatal(err)
		}
		version++
	}
	b.StopTimer()
	if err := w.machine.Flush(); err != nil {
		b.Fatal(err)
	}
	end := w.store.Stats()
	f := (before + yardstick(b, dir, 200)) / 2
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(f), "F/op")
	b.ReportMetric(float64(f.Nanoseconds()), "ns/F")
	if end.DeviceBytes > 0 {
		b.ReportMetric(float64(end.DeviceBytes-start.DeviceBytes)/float64(b.N), "device-B/op")
	}
}

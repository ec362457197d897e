package obs

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process adds build_info and the metrics of process and Go runtime under their usual names.
func (r *Registry) Process(version string) {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	r.Gauge("wispgate_build_info", "Always 1; the labels say what runs.", "version", "revision", "go_version", "arch").
		With(version, revision, runtime.Version(), runtime.GOARCH).Set(1)
	r.mu.Lock()
	r.process = true
	r.mu.Unlock()
}

// goMetrics are read from the runtime at each scrape.
var goMetrics = []struct{ name, kind, help, source string }{
	{"go_goroutines", "gauge", "Number of goroutines.", "/sched/goroutines:goroutines"},
	{"go_gomaxprocs", "gauge", "Threads that run Go code at once.", "/sched/gomaxprocs:threads"},
	{"go_gc_cycles_total", "counter", "Completed garbage collections.", "/gc/cycles/total:gc-cycles"},
	{"go_heap_objects_bytes", "gauge", "Memory of live and not yet swept objects.", "/memory/classes/heap/objects:bytes"},
	{"go_heap_allocated_bytes_total", "counter", "Memory ever allocated on the heap.", "/gc/heap/allocs:bytes"},
	{"go_memory_mapped_bytes", "gauge", "All memory mapped by the Go runtime.", "/memory/classes/total:bytes"},
	{"go_memory_limit_bytes", "gauge", "The runtime's soft memory limit.", "/gc/gomemlimit:bytes"},
}

func writeProcess(b *bytes.Buffer) {
	samples := make([]metrics.Sample, len(goMetrics))
	for i, m := range goMetrics {
		samples[i].Name = m.source
	}
	metrics.Read(samples)
	for i, m := range goMetrics {
		if samples[i].Value.Kind() == metrics.KindUint64 {
			writeOne(b, m.name, m.kind, m.help, float64(samples[i].Value.Uint64()))
		}
	}
	var use syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &use) == nil {
		cpu := time.Duration(use.Utime.Nano() + use.Stime.Nano())
		writeOne(b, "process_cpu_seconds_total", "counter", "User and system time used.", cpu.Seconds())
	}
	if stat, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(stat)); len(fields) > 1 {
			if pages, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
				writeOne(b, "process_resident_memory_bytes", "gauge", "Memory resident in RAM.", float64(pages)*float64(os.Getpagesize()))
			}
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		writeOne(b, "process_open_fds", "gauge", "Open file descriptors.", float64(len(fds)-1)) // less the one that lists them
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		writeOne(b, "process_max_fds", "gauge", "Most file descriptors allowed.", float64(limit.Cur))
	}
	if start, ok := startTime(); ok {
		writeOne(b, "process_start_time_seconds", "gauge", "When the process began, in Unix time.", start)
	}
}

func writeOne(b *bytes.Buffer, name, kind, help string, v float64) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, help, name, kind, name, strconv.FormatFloat(v, 'g', -1, 64))
}

// startTime is the boot time plus the process's start in clock ticks, of which Linux has 100 a second everywhere.
func startTime() (float64, bool) {
	self, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, false
	}
	// The command's name in parentheses may hold anything; the fields begin behind the last one. Start is field 22.
	fields := strings.Fields(string(self[bytes.LastIndexByte(self, ')')+1:]))
	if len(fields) < 20 {
		return 0, false
	}
	ticks, err := strconv.ParseFloat(fields[19], 64)
	if err != nil {
		return 0, false
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	_, rest, ok := strings.Cut(string(stat), "\nbtime ")
	line, _, _ := strings.Cut(rest, "\n")
	boot, err := strconv.ParseFloat(line, 64)
	return boot + ticks/100, ok && err == nil
}

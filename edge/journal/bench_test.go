package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

type sink struct{ done chan struct{} }

func (s *sink) Journaled(uint64, error) { s.done <- struct{}{} }

// TestSubmitAllocatesNothing counts everything: the caller's side, the committer, the write and the flush.
func TestSubmitAllocatesNothing(t *testing.T) {
	opt := small(t.TempDir())
	opt.SegmentBytes, opt.MaxBytes = 8<<20, 64<<20 // no rotation while we count
	j := open(t, opt)
	waitFor(t, func() bool { return j.Stats().Spares == 1 })
	s, p := &sink{make(chan struct{}, 1)}, make([]byte, 400)
	one := func() {
		j.Submit(1, p, s)
		<-s.done
	}
	for range 100 {
		one()
	}
	if n := testing.AllocsPerRun(500, one); n != 0 {
		t.Fatalf("got %v allocations per record, want 0", n)
	}
}

func TestAFullQueueRefusesAtOnce(t *testing.T) {
	t.Parallel()
	d := newSimDisk()
	opt := simOptions(d)
	opt.QueueRecords = 10
	j := open(t, opt)
	release := make(chan struct{})
	d.mu.Lock()
	d.fault = func(op string) error {
		if op == "sync" {
			<-release
		}
		return nil
	}
	d.mu.Unlock()
	var c counter
	submit := func() { c.wait.Add(1); j.Submit(1, []byte("x"), &c) }
	submit()
	waitFor(t, func() bool { return j.Stats().Waiting == 0 }) // the committer hangs in its flush
	for range 15 {
		submit()
	}
	if c.failed.Load() != 5 {
		t.Fatalf("got %d refusals, want 5", c.failed.Load())
	}
	close(release)
	c.wait.Wait()
	if c.ok.Load() != 11 || j.Stats().Refused != 5 {
		t.Fatalf("got %d acknowledged, %+v", c.ok.Load(), j.Stats())
	}
}

// BenchmarkAck compares the time from Submit to Journaled, at so many outstanding records of 400 bytes, with the
// yardstick F: one bare 4 KB append to preallocated room and its fdatasync, alternating in the same run. Reported are
// p50 and p99 in F, and records per F.
func BenchmarkAck(b *testing.B) {
	for _, outstanding := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("outstanding=%d", outstanding), func(b *testing.B) {
			opt := Options{Dir: b.TempDir(), MaxBytes: 256 << 20, Now: time.Now}
			j := open(b, opt)
			yard := newYardstick(b)
			var all, bare []time.Duration
			records := 0
			var busy time.Duration
			for b.Loop() {
				bare = append(bare, yard.append(b)...)
				begin := time.Now()
				got := closedLoop(j, outstanding, 20)
				busy += time.Since(begin)
				records += len(got)
				all = append(all, got...)
				if err := j.Trim(j.Next() - 1); err != nil {
					b.Fatal(err)
				}
			}
			f := float64(quantile(bare, .5))
			b.ReportMetric(float64(quantile(all, .5))/f, "p50/F")
			b.ReportMetric(float64(quantile(all, .99))/f, "p99/F")
			b.ReportMetric(float64(records)*f/float64(busy), "records/F")
			b.ReportMetric(f/1e3, "F-µs")
		})
	}
}

// closedLoop keeps n callers busy for so many rounds each and returns how long each record took.
func closedLoop(j *Journal, n, rounds int) []time.Duration {
	took := make([][]time.Duration, n)
	var work sync.WaitGroup
	for i := range n {
		work.Go(func() {
			s, p := &sink{make(chan struct{}, 1)}, make([]byte, 400)
			for range rounds {
				begin := time.Now()
				j.Submit(1, p, s)
				<-s.done
				took[i] = append(took[i], time.Since(begin))
			}
		})
	}
	work.Wait()
	return slices.Concat(took...)
}

type yardstick struct {
	f   *os.File
	off int64
}

func newYardstick(b *testing.B) *yardstick {
	f, err := os.Create(filepath.Join(b.TempDir(), "yardstick"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	if err := allocate(f, 64<<20); err != nil {
		b.Fatal(err)
	}
	return &yardstick{f: f}
}

func (y *yardstick) append(b *testing.B) (took []time.Duration) {
	page := make([]byte, 4096)
	for range 20 {
		begin := time.Now()
		if _, err := y.f.WriteAt(page, y.off); err != nil {
			b.Fatal(err)
		}
		if err := datasync(y.f); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		y.off = (y.off + 4096) % (64 << 20)
	}
	return took
}

func quantile(d []time.Duration, q float64) time.Duration {
	slices.Sort(d)
	return d[min(int(float64(len(d))*q), len(d)-1)]
}

// TestDeviceBytes measures what reaches the block device per fact of 400 bytes. It needs a file system of its own, named
// by WISPGATE_SMALL_FS, and its device's statistics, as /sys/block/loop0/stat, named by WISPGATE_BLOCK_STAT.
func TestDeviceBytes(t *testing.T) {
	root, stat := os.Getenv("WISPGATE_SMALL_FS"), os.Getenv("WISPGATE_BLOCK_STAT")
	if root == "" || stat == "" {
		t.Skip("WISPGATE_SMALL_FS and WISPGATE_BLOCK_STAT do not name a file system and its device")
	}
	written := func() int64 {
		text, err := os.ReadFile(stat)
		if err != nil {
			t.Fatal(err)
		}
		sectors, err := strconv.ParseInt(strings.Fields(string(text))[6], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return sectors * 512
	}
	// Most bytes per fact, from what a single write and groups of 8 and 64 may cost.
	for group, most := range map[int]int64{1: 16 << 10, 8: 3 << 10, 64: 1 << 10} {
		j := open(t, Options{Dir: filepath.Join(root, "bytes", strconv.Itoa(group)), MaxBytes: 16 << 20, Reserve: 2 << 20, Now: time.Now})
		waitFor(t, func() bool { return j.Stats().Spares == 2 })
		before := written()
		facts := int64(len(closedLoop(j, group, 1920/group)))
		per := (written() - before) / facts
		t.Logf("groups of %d: %d bytes per fact of 400, amplification %.1f, %d commits", group, per, float64(per)/400, j.Stats().Commits)
		if per > most {
			t.Errorf("groups of %d: %d bytes per fact, at most %d are allowed", group, per, most)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir(), MaxBytes: 64 << 20, Now: time.Now})
	closedLoop(j, 256, 40)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := j.Read(0, 0, func(Record) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10240, "ns/record")
}

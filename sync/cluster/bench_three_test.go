package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// newThree is a flock of three voters that speak TLS over loopback and wait as long as nodes in the field do.
func newThree(b *testing.B) *flock {
	b.Helper()
	f := newFlock(b, func(c *Config) {
		c.Peers = Timeouts{}
		c.Pace.Lost = 0
	})
	f.tcp = true
	f.found("n1")
	f.grow(Voter, "n2", "n3")
	f.settled()
	return f
}

// ordered are the nodes, the leader first.
func (f *flock) ordered() []*bird {
	leader := f.leader()
	list := []*bird{leader}
	for _, name := range slices.Sorted(slices.Values(f.names())) {
		if name != leader.name {
			list = append(list, f.birds[name])
		}
	}
	return list
}

const benchValue = 1 << 10

// noise is text that compresses no better than JSON does.
func noise(n int) string {
	raw := make([]byte, n/2)
	_, _ = rand.Read(raw) // it never fails
	return hex.EncodeToString(raw)
}

// BenchmarkThree compares three nodes with three of etcd, where it is installed, on the same disk in the same run: values of 1 KB, from
// many callers at once and from one alone. The figures are medians of turns that alternate; the CPU of a write is that of all nodes
// and their callers.
//
//	go test ./sync/cluster -run '^$' -bench Three -benchtime 1x
func BenchmarkThree(b *testing.B) {
	f := newThree(b)
	peer := newEtcd(b, b.TempDir())
	for _, callers := range []int{64, 256} {
		for _, where := range []string{"leader", "spread"} {
			b.Run(fmt.Sprintf("callers=%d/at=%s", callers, where), func(b *testing.B) {
				for b.Loop() {
					compareBatched(b, f, peer, callers, where == "spread")
				}
			})
		}
	}
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			compareAlone(b, f, peer)
		}
	})
}

// compareBatched lets many callers write at once, in turns of two seconds.
func compareBatched(b *testing.B, f *flock, peer *etcd, callers int, spread bool) {
	b.Helper()
	birds := f.ordered()
	values := make([]string, 1<<10) // of their own for each write: what is written twice could be stored once
	for i := range values {
		values[i] = noise(benchValue)
	}
	member := func(caller int) int {
		if spread {
			return caller % 3
		}
		return 0
	}
	var ours, theirs batched
	for range 5 {
		ours.turn(b, nil, callers, func(ctx context.Context, caller, n int) error {
			return birds[member(caller)].write(ctx, "", fmt.Sprint("c", caller, "-", n%64), values[(caller*64+n)%len(values)])
		})
		if peer != nil {
			theirs.turn(b, peer.servers, callers, func(ctx context.Context, caller, n int) error {
				return peer.put(ctx, member(caller), fmt.Sprint("c", caller, "-", n%64), values[(caller*64+n)%len(values)])
			})
		}
	}
	b.ReportMetric(ours.median(), "writes/s")
	b.ReportMetric(ours.each(), "µs-cpu/write")
	if peer != nil {
		b.ReportMetric(theirs.median(), "etcd/s")
		b.ReportMetric(theirs.each(), "etcd-µs-cpu/write")
		b.ReportMetric(ours.median()/theirs.median(), "x-etcd")
	}
}

// rate is how many writes a second so many callers get done, and how many that were.
func rate(b *testing.B, callers int, write func(ctx context.Context, caller, n int) error) (perSecond float64, writes int64) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	begin := time.Now()
	for caller := range callers {
		wg.Go(func() {
			for n := 0; time.Since(begin) < 2*time.Second && failed.Load() == nil; n++ {
				if err := write(ctx, caller, n); ctx.Err() != nil {
					failed.Store(&err)
				} else if err == nil { // an election on a busy machine is part of the figure
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	return float64(done.Load()) / took.Seconds(), done.Load()
}

// compareAlone lets one caller write, beside one append with fdatasync (F) and one round trip over loopback.
func compareAlone(b *testing.B, f *flock, peer *etcd) {
	b.Helper()
	birds := f.ordered()
	value := noise(benchValue)
	var ours, follower, theirs, flush, trip []time.Duration
	each := func(list *[]time.Duration, n int, op func(n int) error) {
		for i := range n {
			begin := time.Now()
			if err := op(i); err != nil {
				b.Fatal(err)
			}
			*list = append(*list, time.Since(begin))
		}
	}
	echo := newEcho(b)
	ctx := within(b, 5*time.Minute)
	for range 6 {
		each(&ours, 50, func(n int) error { return birds[0].write(ctx, "", fmt.Sprint("alone-", n), value) })
		flush = append(flush, yardstick(b, f.dir, 50))
		each(&trip, 50, func(int) error { return echo() })
		each(&follower, 50, func(n int) error { return birds[1].write(ctx, "", fmt.Sprint("alone-", n), value) })
		if peer != nil {
			each(&theirs, 50, func(n int) error { return peer.put(ctx, 0, fmt.Sprint("alone-", n), value) })
		}
	}
	yard := middle(flush) + middle(trip)
	b.ReportMetric(float64(middle(ours))/float64(yard), "F+rtt/write")
	b.ReportMetric(float64(middle(follower))/float64(yard), "F+rtt/forwarded")
	b.ReportMetric(float64(middle(ours).Microseconds()), "µs/write")
	b.ReportMetric(float64(yard.Microseconds()), "µs/F+rtt")
	if peer != nil {
		b.ReportMetric(float64(middle(ours))/float64(middle(theirs)), "x-etcd")
	}
}

func middle(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

// newEcho is a round trip of 1 KB over loopback.
func newEcho(b *testing.B) func() error {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(b, err)
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	check(b, err)
	b.Cleanup(func() { _ = c.Close() })
	buf := make([]byte, benchValue)
	return func() error {
		_, err := c.Write(buf)
		_, readErr := io.ReadFull(c, buf)
		return errors.Join(err, readErr)
	}
}

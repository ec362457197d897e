package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// batched is what turns of many callers came to. The CPU that they used is counted, because a rate says little on a machine that others use.
type batched struct {
	rates  []float64
	writes int64
	spent  time.Duration
}

// turn lets the callers write. What it uses is counted in this process and in the servers'.
func (t *batched) turn(b *testing.B, servers []int, callers int, write func(ctx context.Context, caller, n int) error) {
	b.Helper()
	before := used(b, servers)
	perSecond, writes := rate(b, callers, write)
	t.spent += used(b, servers) - before
	t.rates = append(t.rates, perSecond)
	t.writes += writes
}

func (t *batched) median() float64 {
	slices.Sort(t.rates)
	return t.rates[len(t.rates)/2]
}

// each is the microseconds of CPU, user and system, for each write.
func (t *batched) each() float64 {
	return float64(t.spent.Microseconds()) / float64(max(t.writes, 1))
}

// used is the CPU that this process and the servers have used so far.
func used(b *testing.B, servers []int) (sum time.Duration) {
	b.Helper()
	for _, pid := range append([]int{os.Getpid()}, servers...) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		check(b, err)
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on
		const ticks = 100                                                         // a second, on every Linux
		for _, f := range fields[11:13] {                                         // user and system
			n, err := strconv.ParseInt(f, 10, 64)
			check(b, err)
			sum += time.Duration(n) * time.Second / ticks
		}
	}
	return sum
}

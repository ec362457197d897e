package aaa_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/acct"
	"wispgate/edge"
	"wispgate/edge/edgetest/bubble"
)

// slowLog takes so long for a commit, and arrive is what comes to the journal meanwhile.
type slowLog struct {
	took   time.Duration
	away   time.Time // no quorum before it
	arrive func()
	facts  []int // of each commit
	ends   []time.Time
}

func (x *slowLog) Do(ctx context.Context, r edge.Request) (edge.Reply, error) {
	select {
	case <-time.After(x.took):
	case <-ctx.Done():
		return edge.Reply{}, ctx.Err()
	}
	if time.Now().Before(x.away) {
		return edge.Reply{}, edge.ErrQuorumLost.Error(edge.Unavailable)
	}
	var in aaa.RecordInput
	if err := json.Unmarshal(r.Calls[0].In, &in); err != nil {
		return edge.Reply{}, err
	}
	if len(in.Facts) > 0 {
		x.facts, x.ends = append(x.facts, len(in.Facts)), append(x.ends, time.Now())
		x.arrive()
	}
	return edge.Reply{}, nil
}

func (*slowLog) Ask(context.Context, edge.Actor, string, json.RawMessage, uint64) (any, uint64, error) {
	return aaa.RecordOutput{}, 0, nil
}

func (*slowLog) ReadVersion(context.Context) (uint64, error) { return 0, nil }

// pace drains in a world where time stands still unless somebody waits, until enough says so.
func pace(t *testing.T, x *slowLog, j *memory, enough func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	arrive := x.arrive
	x.arrive = func() {
		if arrive(); enough() {
			cancel()
		}
	}
	if err := newDrainer(j).Run(ctx, x); err != nil {
		t.Fatal(err)
	}
}

func start(n int) []byte { return accounting("hill", nas1, acct.Start, fmt.Sprint("s", n), 0, 0) }

func TestTheDrainerLetsABurstPass(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		j, n := newMemory(), 0
		more := func(count int) {
			for range count {
				n++
				j.append(start(n))
			}
		}
		more(500) // as many as are read at once
		const took = 10 * time.Millisecond
		x := &slowLog{took: took, arrive: func() { more(33) }} // each commit holds 32 sessions
		begin := time.Now()
		pace(t, x, j, func() bool { return time.Since(begin) > 15*time.Second })
		for i := 2; i < len(x.ends); i++ {
			want := 8 * took
			if x.ends[i-1].Sub(begin) > 10*time.Second {
				want = 2 * took
			}
			if x.facts[i] != 32 || x.facts[i-1] != 32 {
				continue // the rest of a read
			}
			if got := x.ends[i].Sub(x.ends[i-1]); got != want {
				t.Fatalf("commit %d, %v after the beginning, came %v after the one before it; want %v", i, x.ends[i].Sub(begin), got, want)
			}
		}
		if len(x.ends) < 150 {
			t.Errorf("%d commits in 15 s of a burst", len(x.ends))
		}
	})
}

func TestTheDrainerGathersAndDoesNotRestWithoutNeed(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		j := newMemory()
		const took = 10 * time.Millisecond
		x := &slowLog{took: took, arrive: func() {}}
		began := time.Now()
		for n := range 40 { // one each 5 ms, then silence
			time.AfterFunc(time.Duration(n+1)*5*time.Millisecond, func() { j.append(start(n)) })
		}
		total := func() (n int) {
			for _, f := range x.facts {
				n += f
			}
			return n
		}
		pace(t, x, j, func() bool { return total() == 40 })
		if len(x.facts) > 8 {
			t.Errorf("%d commits of %v for 40 records in 200 ms", len(x.facts), x.facts)
		}
		if late := time.Since(began); late > 300*time.Millisecond {
			t.Errorf("the last record was drained after %v", late)
		}
	})
}

func TestTheDrainerWaitsForTheClusterAndLosesNothing(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		j := newMemory()
		began := time.Now()
		x := &slowLog{took: time.Millisecond, away: began.Add(time.Hour), arrive: func() {}}
		for n := range 40 {
			time.AfterFunc(time.Duration(n)*time.Minute, func() { j.append(start(n)) })
		}
		total := func() (n int) {
			for _, f := range x.facts {
				n += f
			}
			return n
		}
		pace(t, x, j, func() bool { return total() == 40 })
		if got := time.Since(began); got > time.Hour+5*time.Second {
			t.Errorf("drained %v after the beginning, want soon after an hour", got)
		}
	})
}

package gateway

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest/bubble"
)

func TestAQuietTenantIsServedBesideAFlood(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		q := newFairQueue(QueueConfig{Reading: 2, Waiting: 64, Wait: 500 * time.Millisecond})
		c := classes[edge.Read]
		const work = 10 * time.Millisecond
		var loud, loudRefused atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 128 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if q.enter("loud", &c) != nil {
						loudRefused.Add(1)
						time.Sleep(work) // a client's pause, on the bubble's clock
						continue
					}
					time.Sleep(work)
					loud.Add(1)
					q.leave(&c)
				}
			})
		}
		var worst time.Duration
		for range 50 {
			time.Sleep(7 * time.Millisecond)
			start := time.Now()
			if e := q.enter("quiet", &c); e != nil {
				t.Fatalf("the quiet tenant was refused: %v", e)
			}
			worst = max(worst, time.Since(start))
			time.Sleep(work)
			q.leave(&c)
		}
		close(stop)
		wg.Wait()
		if worst > 3*work*quantum/2 {
			t.Errorf("the quiet tenant waited %v, want at most one turn of the other", worst)
		}
		if loud.Load() == 0 || loudRefused.Load() == 0 {
			t.Errorf("the loud tenant was served %d and refused %d times, want both", loud.Load(), loudRefused.Load())
		}
		if l := &q.lanes[readLane]; l.free != 2 || l.waiting != 0 || len(l.ring) != 0 || len(l.tenants) != 0 {
			t.Errorf("afterwards %d places are free and %d wait, want 2 and none", l.free, l.waiting)
		}
	})
}

func TestAWaitHasAnEnd(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		q := newFairQueue(QueueConfig{Writing: 1, Wait: 500 * time.Millisecond})
		c := classes[edge.Write]
		if e := q.enter("a", &c); e != nil {
			t.Fatal(e)
		}
		start := time.Now()
		e := q.enter("b", &c)
		if e == nil || e.Code != "overloaded" || e.RetryAfter < 1 || time.Since(start) != 500*time.Millisecond {
			t.Errorf("got %v after %v, want overloaded after 500 ms", e, time.Since(start))
		}
		if q.depth(writeLane) != 0 {
			t.Errorf("got %d waiting, want none left behind", q.depth(writeLane))
		}
		q.leave(&c)
		if e := q.enter("b", &c); e != nil {
			t.Errorf("got %v once the place was free, want nil", e)
		}
	})
}

func TestReportsGiveWayFirst(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		q := newFairQueue(QueueConfig{Reading: 1, Waiting: 8, Total: 8, Wait: time.Second})
		read, report := classes[edge.Read], classes[edge.Report]
		if e := q.enter("a", &read); e != nil {
			t.Fatal(e)
		}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { _ = q.enter(string(rune('b'+i)), &read) })
		}
		synctest.Wait()
		if e := q.enter("z", &report); e == nil {
			t.Error("a report waits in a queue that is half full, want it refused")
		}
		var admitted error
		wg.Go(func() {
			if e := q.enter("z", &read); e != nil {
				admitted = e
			}
		})
		synctest.Wait()
		if q.depth(readLane) != 5 {
			t.Errorf("got %d waiting, want the read to wait where the report could not", q.depth(readLane))
		}
		for range 5 {
			q.leave(&read)
		}
		wg.Wait()
		if admitted != nil {
			t.Errorf("got %v, want the read admitted", admitted)
		}
	})
}

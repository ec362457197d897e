// Package queuetest is the conformance suite of relay.Queue: what the embedded queue and one in a database promise alike.
package queuetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/sync/relay"
)

const (
	tenant   = "acme"
	endpoint = edge.ID("whe_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33")
)

var t0 = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)

// Subject is a Queue with what the suite needs besides.
type Subject struct {
	relay.Queue
	Commit func(jobs ...relay.Job) error // enqueues in a transaction of its own
	Reopen func() Subject                // as after a crash
}

func job(seq uint64, key string) relay.Job {
	return relay.Job{Tenant: tenant, Endpoint: endpoint, Seq: seq, Event: edge.DeriveID("evt", "e", int(seq)), Type: "a.b.c", Key: key, At: t0}
}

func (q *Subject) lease(t *testing.T, order relay.Order, n int, now time.Time) []relay.Delivery {
	t.Helper()
	leased, _, err := q.Lease(tenant, endpoint, order, n, now)
	if err != nil {
		t.Fatal(err)
	}
	return leased
}

func seqs(ds []relay.Delivery) string {
	list := []uint64{}
	for _, d := range ds {
		list = append(list, d.Seq)
	}
	return fmt.Sprint(list)
}

// Conform holds a queue to what every Queue must do. open makes an empty one.
func Conform(t *testing.T, open func(t *testing.T) Subject) {
	t.Helper()
	ok, bad := relay.Attempt{At: t0, Code: 200, Outcome: "delivered"}, relay.Attempt{At: t0, Code: 500, Outcome: "http_500"}
	ctx := t.Context()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keys := []string{"x", "y", "x", "z", "x"}
	fill := func(t *testing.T, q *Subject) {
		for i, k := range keys {
			must(t, q.Commit(job(uint64(i+1), k)))
		}
	}
	cases := map[string]func(t *testing.T, q Subject){
		"in order of position, each leased once": func(t *testing.T, q Subject) {
			fill(t, &q)
			first, second := q.lease(t, relay.OrderNone, 3, t0), q.lease(t, relay.OrderNone, 9, t0)
			if seqs(first) != "[1 2 3]" || seqs(second) != "[4 5]" || len(q.lease(t, relay.OrderNone, 9, t0)) != 0 {
				t.Errorf("leased %s then %s", seqs(first), seqs(second))
			}
			q.Release(first[1])
			if again := q.lease(t, relay.OrderNone, 9, t0); seqs(again) != "[2]" || again[0].Attempts != 0 {
				t.Errorf("a released lease came back as %s", asText(again))
			}
		},
		"acknowledged is gone for good": func(t *testing.T, q Subject) {
			fill(t, &q)
			for _, d := range q.lease(t, relay.OrderNone, 2, t0) {
				must(t, q.Ack(ctx, d, ok))
			}
			q = q.Reopen()
			if got := q.lease(t, relay.OrderNone, 9, t0); seqs(got) != "[3 4 5]" {
				t.Errorf("left %s", seqs(got))
			}
		},
		"a crash ends leases and loses nothing": func(t *testing.T, q Subject) {
			fill(t, &q)
			q.lease(t, relay.OrderNone, 9, t0)
			q = q.Reopen()
			if got := q.lease(t, relay.OrderNone, 9, t0); seqs(got) != "[1 2 3 4 5]" {
				t.Errorf("after a crash %s", seqs(got))
			}
		},
		"a failed one waits for its time and says when": func(t *testing.T, q Subject) {
			fill(t, &q)
			must(t, q.Nack(ctx, q.lease(t, relay.OrderNone, 1, t0)[0], bad, t0.Add(time.Minute)))
			rest, next, err := q.Lease(tenant, endpoint, relay.OrderNone, 9, t0)
			if err != nil || seqs(rest) != "[2 3 4 5]" || !next.Equal(t0.Add(time.Minute)) {
				t.Errorf("%s, next %s, %v", seqs(rest), next, err)
			}
			q = q.Reopen()
			got := q.lease(t, relay.OrderNone, 1, t0.Add(time.Minute))
			if seqs(got) != "[1]" || got[0].Attempts != 1 || len(got[0].Log) != 1 || got[0].Log[0].Code != 500 {
				t.Errorf("came back as %s", asText(got))
			}
		},
		"per key, a failing delivery holds back its own key alone": func(t *testing.T, q Subject) {
			fill(t, &q)
			first := q.lease(t, relay.OrderPerKey, 9, t0)
			if seqs(first) != "[1 2 4]" {
				t.Fatalf("leased %s", seqs(first))
			}
			must(t, q.Nack(ctx, first[0], bad, t0.Add(time.Minute)))
			must(t, q.Ack(ctx, first[1], ok))
			must(t, q.Ack(ctx, first[2], ok))
			if got := q.lease(t, relay.OrderPerKey, 9, t0); len(got) != 0 {
				t.Errorf("the failing key was overtaken: %s", seqs(got))
			}
			q = q.Reopen()
			for want := uint64(1); want <= 5; want += 2 {
				got := q.lease(t, relay.OrderPerKey, 9, t0.Add(time.Minute))
				if len(got) != 1 || got[0].Seq != want {
					t.Fatalf("got %s, want %d", seqs(got), want)
				}
				must(t, q.Ack(ctx, got[0], ok))
			}
		},
		"per key, a dead letter lets the key go on": func(t *testing.T, q Subject) {
			fill(t, &q)
			must(t, q.Dead(ctx, q.lease(t, relay.OrderPerKey, 1, t0)[0], bad))
			if got := q.lease(t, relay.OrderPerKey, 9, t0); seqs(got) != "[2 3 4]" {
				t.Errorf("leased %s", seqs(got))
			}
		},
		"strict is one at a time and never skips": func(t *testing.T, q Subject) {
			fill(t, &q)
			head := q.lease(t, relay.OrderStrict, 9, t0)
			if seqs(head) != "[1]" || len(q.lease(t, relay.OrderStrict, 9, t0)) != 0 {
				t.Fatalf("leased %s", seqs(head))
			}
			must(t, q.Nack(ctx, head[0], bad, t0.Add(time.Minute)))
			q = q.Reopen()
			none, next, err := q.Lease(tenant, endpoint, relay.OrderStrict, 9, t0)
			if err != nil || len(none) != 0 || !next.Equal(t0.Add(time.Minute)) {
				t.Errorf("the head was skipped: %s, next %s, %v", seqs(none), next, err)
			}
			must(t, q.Ack(ctx, q.lease(t, relay.OrderStrict, 9, t0.Add(time.Minute))[0], ok))
			if got := q.lease(t, relay.OrderStrict, 9, t0); seqs(got) != "[2]" {
				t.Errorf("next was %s", seqs(got))
			}
		},
		"a replay resets, keeps the record, and makes what was missing": func(t *testing.T, q Subject) {
			fill(t, &q)
			all := q.lease(t, relay.OrderNone, 4, t0)
			must(t, q.Ack(ctx, all[0], ok))
			must(t, q.Dead(ctx, all[1], bad))
			must(t, q.Nack(ctx, all[2], bad, t0.Add(time.Hour)))
			// all[3] stays under way; 5 is ready; 6 was never enqueued
			var jobs []relay.Job
			for s := uint64(1); s <= 6; s++ {
				jobs = append(jobs, job(s, "x"))
			}
			n, err := q.Replay(ctx, t0, jobs...)
			if err != nil || n != 5 {
				t.Fatalf("replayed %d, %v", n, err)
			}
			q.Release(all[3])
			got := q.lease(t, relay.OrderNone, 9, t0)
			slices.SortFunc(got, func(a, b relay.Delivery) int { return int(a.Seq) - int(b.Seq) })
			if seqs(got) != "[1 2 3 4 5 6]" {
				t.Fatalf("due are %s", seqs(got))
			}
			if d := got[1]; d.Attempts != 0 || d.Replays != 1 || len(d.Log) != 1 || d.Status != relay.Pending || d.DoneAt != nil {
				t.Errorf("the dead letter came back as %s", asText(got[1:2]))
			}
			for _, d := range got {
				must(t, q.Ack(ctx, d, ok))
			}
			q = q.Reopen()
			if left := q.lease(t, relay.OrderNone, 9, t0.Add(48*time.Hour)); len(left) != 0 {
				t.Errorf("a row is left twice: %s", seqs(left))
			}
		},
		"the log of attempts is bounded": func(t *testing.T, q Subject) {
			must(t, q.Commit(job(1, "x")))
			for i := range 3 * relay.MaxLog {
				d := q.lease(t, relay.OrderNone, 1, t0)
				if len(d) != 1 || d[0].Attempts != i || len(d[0].Log) > relay.MaxLog {
					t.Fatalf("after %d attempts: %s", i, asText(d))
				}
				must(t, q.Nack(ctx, d[0], bad, t0))
			}
		},
		"endpoints and tenants are apart": func(t *testing.T, q Subject) {
			must(t, q.Commit(job(1, "x")))
			other := endpoint.With("whf")
			for _, c := range []struct {
				name string
				id   edge.ID
			}{{"other", endpoint}, {tenant, other}} {
				if got, _, err := q.Lease(c.name, c.id, relay.OrderNone, 9, t0); err != nil || len(got) != 0 {
					t.Errorf("%s/%s leased %s, %v", c.name, c.id, seqs(got), err)
				}
			}
		},
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, open(t))
		})
	}
}

func asText(v any) string { return fmt.Sprintf("%+v", v) }

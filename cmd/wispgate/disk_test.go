package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
	"wispgate/edge/edgetest/peers"
)

// flood sends Stop records from many sessions at once until ctx ends or one stays unanswered, and keeps the book of what was acknowledged.
type flood struct {
	w       *tower
	client  *radclient.Client
	next    atomic.Int64
	refused atomic.Bool

	mu   sync.Mutex
	book map[string]record // what was acknowledged
	open []record          // what was not
}

func newFlood(w *tower) *flood {
	w.t.Helper()
	c, err := radclient.Dial(w.acct, []byte(nasSecret), time.Now, radclient.Options{Timeout: 500 * time.Millisecond, Tries: 4})
	must(w.t, err)
	w.t.Cleanup(func() { _ = c.Close() })
	return &flood{w: w, client: c, book: map[string]record{}}
}

// send asks for one record's acknowledgement.
func (f *flood) send(r record) bool {
	reply, err := f.client.Do(f.w.t.Context(), radclient.Request{Code: packet.AccountingRequest, Attrs: r.attrs()})
	ok := err == nil && reply.Code == packet.AccountingResponse
	f.mu.Lock()
	defer f.mu.Unlock()
	if ok {
		f.book[r.session] = r
	} else {
		f.open = append(f.open, r)
	}
	return ok
}

// untilRefused fills the journal's reserve: each lane reports one long session, and every fiftieth record is a short session of its own, so
// that what the state must hold later stays small.
func (f *flood) untilRefused() {
	f.w.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	var wg sync.WaitGroup
	wordy := strings.Repeat("x", 180) // what a router may call a session: the reserve is full of fewer records
	for lane := range 60 {            // fewer than ann may have at once
		long := record{session: fmt.Sprintf("long-%03d-%s", lane, wordy), status: 3, began: time.Now().Add(-24 * time.Hour)}
		wg.Go(func() {
			for !f.refused.Load() && time.Now().Before(deadline) {
				n := f.next.Add(1)
				r := record{session: fmt.Sprintf("short-%06d-%s", n, wordy), status: 2, began: time.Now().Add(-time.Minute), seconds: 60, in: uint64(n), out: 1000}
				if n%50 != 0 {
					long.seconds, long.in, long.out = long.seconds+1, long.in+uint64(n%1000), long.out+1000
					r = long
				}
				if !f.send(r) {
					f.refused.Store(true)
				}
			}
		})
	}
	wg.Wait()
	if !f.refused.Load() {
		f.w.t.Fatalf("%d records were acknowledged on a full disk and its reserve has no end", f.next.Load())
	}
}

// again sends what was not acknowledged until it is.
func (f *flood) again() {
	f.w.t.Helper()
	open := f.open
	f.open = nil
	for _, r := range open {
		eventually(f.w.t, "accounting is acknowledged again", func() (bool, string) { return f.send(r), r.session })
	}
	f.open = nil
}

// accepted asks once and expects an Access-Accept.
func (w *tower) accepted(c *radclient.Client) {
	w.t.Helper()
	password := annPassword
	reply, err := c.Do(w.t.Context(), radclient.Request{Code: packet.AccessRequest, Attrs: packet.AppendString(nil, packet.UserName, "ann"), Password: &password})
	must(w.t, err)
	if reply.Code != packet.AccessAccept {
		w.t.Fatalf("ann was answered with code %d", reply.Code)
	}
}

// TestAFullDiskRefusesWritesAndKeepsAuthenticating fills the disk under a node, kills the node on it, and makes room again.
func TestAFullDiskRefusesWritesAndKeepsAuthenticating(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("fills a file system of its own; not with -short")
	}
	disk := peers.MountTiny(t, 288)
	w := newTower(t, disk, "", `mqtt_listen: "", mqtt_plain_listen: "127.0.0.1:1"`, "mqtt://127.0.0.1:1")
	w.node.env = []string{"WISPGATE_STORAGE__JOURNAL_RESERVE=2MiB", "WISPGATE_STORAGE__BALLAST=4MiB", "WISPGATE_UPLINK__ENABLED=false"}
	w.node.start()
	w.api = w.node.claim()
	w.sell()
	auth, err := radclient.Dial(w.auth, []byte(nasSecret), time.Now, radclient.Options{Timeout: time.Second, Tries: 3})
	must(t, err)
	t.Cleanup(func() { _ = auth.Close() })
	ann := map[string]any{"kind": "person", "name": "Full Example", "external_id": "full"}

	w.flushed() // a disk that goes from roomy to full within the second is the one case that needs room before a restart shows everything
	filler := peers.FillUp(t, disk)
	refusesWrites(t, w, ann)
	for range 200 {
		w.accepted(auth)
	}
	f := newFlood(w)
	f.untilRefused()
	if n := f.next.Load(); n < 1000 {
		t.Errorf("only %d records were sent before the reserve was used up", n)
	}
	w.accepted(auth)
	w.api.must(t, http.MethodGet, "/api/v1/crm/customers/"+w.customer, nil, nil)

	// It starts on the full disk, too: reads and RADIUS are served, writes are still refused.
	w.node.kill()
	w.node.launch()
	eventually(t, "the node answers on a full disk", func() (bool, string) {
		a := w.api.ask(http.MethodGet, "/api/v1/crm/customers/"+w.customer, "", nil)
		return a.status == http.StatusOK, a.String()
	})
	w.accepted(auth)
	refusesWrites(t, w, ann)

	must(t, os.Remove(filler))
	_ = os.Remove(filler + "2")
	var id string
	eventually(t, "writes resume without a restart", func() (bool, string) {
		a := w.api.ask(http.MethodPost, "/api/v1/crm/customers", "full-1", ann)
		var out struct {
			ID string `json:"id"`
		}
		_ = json.Unmarshal(a.body, &out)
		id = out.ID
		return a.status == http.StatusCreated, a.String()
	})
	w.api.must(t, http.MethodGet, "/api/v1/crm/customers/"+id, nil, nil)
	f.again()
	f.counted()
	w.accepted(auth)
	w.node.stop()
	if log := w.node.tail(1 << 20); strings.Contains(log, "SIGBUS") || strings.Contains(log, "panic") {
		t.Errorf("the log speaks of a crash:\n%s", w.node.tail(4000))
	}
	t.Logf("%d records of %d sessions", f.next.Load(), len(f.book))
}

// flushed waits until the store holds what the log holds.
func (w *tower) flushed() {
	w.t.Helper()
	eventually(w.t, "the store holds everything", func() (bool, string) {
		var s struct {
			Cluster struct {
				Applied uint64 `json:"applied_index"`
				Durable uint64 `json:"durable_index"`
			} `json:"cluster"`
		}
		w.api.must(w.t, http.MethodGet, "/api/v1/sync/status", nil, &s)
		return s.Cluster.Applied == s.Cluster.Durable, fmt.Sprintf("%+v", s)
	})
}

// refusesWrites expects a refusal that says which disk is full, and how full.
func refusesWrites(t *testing.T, w *tower, in any) {
	t.Helper()
	var a answer
	eventually(t, "a write is refused", func() (bool, string) {
		a = w.api.ask(http.MethodPost, "/api/v1/crm/customers", "full-1", in)
		return a.code() == "disk_low", a.String()
	})
	var p struct {
		Detail string `json:"detail"`
		Fix    string `json:"fix"`
	}
	must(t, json.Unmarshal(a.body, &p))
	if a.status != http.StatusServiceUnavailable || !strings.Contains(p.Detail, w.node.data) || !strings.Contains(p.Detail, " free of ") || p.Fix == "" {
		t.Errorf("the refusal %s does not say which disk, how much is free and what to do", a)
	}
	var s struct {
		Disk struct {
			Level string `json:"level"`
		} `json:"disk"`
	}
	w.api.must(t, http.MethodGet, "/api/v1/sync/status", nil, &s)
	if s.Disk.Level != "critical" && s.Disk.Level != "low" {
		t.Errorf("status says the disk is %q", s.Disk.Level)
	}
}

// counted waits until every acknowledged record is in the bill, once.
func (f *flood) counted() {
	f.w.t.Helper()
	var want, got uint64
	for _, r := range f.book {
		want += r.in
	}
	eventually(f.w.t, "every acknowledged record is counted once", func() (bool, string) {
		var used struct {
			Total struct {
				In uint64 `json:"in_octets"`
			} `json:"total"`
		}
		f.w.api.must(f.w.t, http.MethodGet, "/api/v1/billing/subscriptions/"+f.w.sub+"/usage", nil, &used)
		got = used.Total.In
		return got == want, fmt.Sprintf("got %d octets, want %d of %d records", got, want, len(f.book))
	})
}

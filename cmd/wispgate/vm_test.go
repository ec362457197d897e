package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
)

// mounts are how disks are mounted, in turn. Where the file system's journal commits only when a flush asks for it, nothing but the node
// makes data durable, and most forgo what ext4 does of itself for programs that forget to. An eager kernel writes to the disk all the time
// and does not flush, so that much is in the disk's cache when the power goes; with another most of it is still in the kernel's.
var mounts = []string{
	"commit=300,noauto_da_alloc", "commit=300,noauto_da_alloc eager=yes", "commit=300,noauto_da_alloc,data=writeback",
	"commit=300,noauto_da_alloc,data=writeback eager=yes", "rw", "rw eager=yes",
}

// paid makes payments, each once, beside a load.
func (l *load) pay(lane int, made map[string]string) {
	for n := 0; l.ctx.Err() == nil; n++ {
		key := fmt.Sprintf("pay-%d-%d-%d", l.turn, lane, n)
		a, ok := l.settle("/api/v1/billing/payments", key, map[string]any{
			"customer_id": l.w.customer, "method": "cash", "amount": map[string]any{"amount_minor": 100 + n, "currency": "USD"}, "note": key,
		})
		if !ok {
			return
		}
		var out struct {
			ID string `json:"id"`
		}
		if a.status != http.StatusCreated || json.Unmarshal(a.body, &out) != nil || out.ID == "" {
			l.problem("%s: %s", key, a)
			return
		}
		l.mu.Lock()
		made[key] = out.ID
		l.mu.Unlock()
	}
}

// paidOnce compares the payments with the book, and checks the chain of the receipts that were printed for them.
func (l *load) paidOnce(made map[string]string) {
	t := l.w.t
	t.Helper()
	type payment struct {
		ID   string `json:"id"`
		Note string `json:"note"`
	}
	stored := map[string]string{}
	for _, p := range list[payment](t, l.w.api, "/api/v1/billing/payments") {
		if stored[p.Note] != "" {
			t.Errorf("payment %s is stored twice", p.Note)
		}
		stored[p.Note] = p.ID
	}
	for key, id := range made {
		if stored[key] != id {
			t.Errorf("payment %s was acknowledged as %s and is stored as %q", key, id, stored[key])
		}
	}
	if len(stored) != len(made) {
		t.Errorf("%d payments are stored, %d were made", len(stored), len(made))
	}
	checked := 0
	for cursor := ""; ; {
		var chain struct {
			Checked  int    `json:"checked"`
			Findings []any  `json:"findings"`
			Next     string `json:"next_cursor"`
		}
		l.w.api.must(t, http.MethodGet, "/api/v1/billing/receipts/n7?limit=200"+cursor, nil, &chain)
		checked += chain.Checked
		if len(chain.Findings) > 0 {
			t.Errorf("the chain of receipts: %v", chain.Findings)
		}
		if chain.Next == "" {
			break
		}
		cursor = "&cursor=" + chain.Next
	}
	if checked != len(made) {
		t.Errorf("the chain has %d receipts, want %d", checked, len(made))
	}
}

// TestAMachineLosesItsPower cuts the power of a whole machine under load, again and again: node, kernel and the caches of both are gone, and
// of its disk stays what was flushed. Each time it starts by itself and has everything that was acknowledged, once.
func TestAMachineLosesItsPower(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	g := newGuest(t, 1, seed, func(int) string { return "" })
	g.power.Lies = os.Getenv("WISPGATE_VM_LIES") != "" // it must fail then
	rng := rand.New(rand.NewPCG(seed, 1))
	m := g.nodes[0]
	g.mount = mounts[0]
	g.boot()
	g.first(m)
	g.claim(m)
	g.ready()
	w := &tower{t: t, api: m.client, router: router, auth: fmt.Sprintf("127.0.0.1:%d", m.auth), acct: fmt.Sprintf("127.0.0.1:%d", m.acct)}
	w.sell()
	l := &load{w: w, customers: map[string]string{}, sessions: map[string][2]uint64{}}
	paid := map[string]string{}
	var all peers.Cut
	began := time.Now()
	for i := range peers.Rounds(t, vmRounds, 0) {
		l.run(8, 1)
		for lane := range 4 {
			l.wg.Go(func() { l.pay(lane, paid) })
		}
		atRandom(100*time.Millisecond, 5*time.Second)
		cut := g.cut()
		g.mount = mounts[rng.IntN(len(mounts))]
		g.boot()
		if rng.IntN(4) == 0 { // once more, while it starts
			atRandom(0, time.Since(began)/time.Duration(i+1))
			all.Add(g.cut())
			g.boot()
		}
		g.ready()
		l.finish()
		l.customersOnce()
		l.paidOnce(paid)
		l.sessionsExact()
		g.sound()
		all.Add(cut)
		t.Logf("%s, cut %d (%s): %d customers, %d payments, %d sessions; of the disk's writes %+v", time.Since(began).Round(time.Second), i+1, g.mount, len(l.customers), len(paid), len(l.sessions), cut)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("seed %d: %d customers, %d replays, %d payments, %d sessions, %d accepts; of the disk's writes %+v", seed, len(l.customers), l.replayed.Load(), len(paid), len(l.sessions), l.accepted.Load(), all)
}

// TestAFirstStartLosesItsPower cuts the power while a node makes its folder. When it is back the node finishes that by itself.
func TestAFirstStartLosesItsPower(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i := range max(1, peers.Rounds(t, vmRounds, 0)/4) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			g := newGuest(t, 1, seed+uint64(i), func(int) string { return "" })
			m := g.nodes[0]
			g.mount = mounts[i%len(mounts)]
			g.boot()
			g.first(m)
			atRandom(0, 5*time.Second)
			cut := g.cut()
			g.boot()
			g.claim(m)
			g.ready()
			(&tower{t: t, api: m.client, router: router}).sell()
			g.sound()
			t.Logf("seed %d: of the disk's writes %+v", seed+uint64(i), cut)
		})
	}
}

// through makes customers, each once, through one node of several. One that accepts a write for later has acknowledged it, too.
func (l *load) through(node string, lane int, acked map[string]string) {
	for n := 0; l.ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s-%d-%d-%d", node, l.turn, lane, n)
		a, ok := l.settle("/api/v1/crm/customers", key, map[string]any{"kind": "person", "name": "Customer " + key, "external_id": key})
		if !ok {
			return
		}
		var out struct {
			ID string `json:"id"`
		}
		if a.status != http.StatusCreated && a.status != http.StatusAccepted || json.Unmarshal(a.body, &out) != nil {
			l.problem("%s: %s", key, a)
			return
		}
		l.mu.Lock()
		acked[key] = out.ID
		l.mu.Unlock()
	}
}

// TestASiteLosesItsPower cuts the power of three nodes at once, each with a disk of its own. Each time they find each other by themselves, and
// every one of them has everything that any of them acknowledged, once.
func TestASiteLosesItsPower(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	// An emulated processor is slow, and three nodes share it: with the time-outs of a LAN they would elect each other all the time.
	g := newGuest(t, 3, seed, func(i int) string {
		return fmt.Sprintf("cluster: {listen: \"127.0.0.1:%d\", network: satellite}\n", 7846+i)
	})
	g.mount = mounts[0]
	g.boot()
	g.first(g.nodes[0])
	g.claim(g.nodes[0])
	const local = "wispgate --socket /disk/n7/data/wispgate.sock "
	eventually(t, "it leads", func() (bool, string) {
		a := g.nodes[0].client.ask(http.MethodGet, "/api/v1/sync/status", "", nil)
		return strings.Contains(string(a.body), `"state":"leader"`), a.String()
	})
	for _, m := range g.nodes[1:] {
		var invited struct {
			Token string `json:"token"`
		}
		must(t, json.Unmarshal([]byte(g.run(local+"cluster invite --role voter -o json")), &invited))
		g.run("wispgate cluster join -c /nodes/%s.yaml %s", m.name, invited.Token)
		g.first(m)
		m.client = g.client(m)
		m.client.key = g.nodes[0].client.key
	}
	g.ready()
	eventually(t, "all of them vote", func() (bool, string) {
		var s struct {
			Cluster struct {
				Voters []string `json:"voters"`
			} `json:"cluster"`
		}
		a := g.nodes[0].client.ask(http.MethodGet, "/api/v1/sync/status", "", nil)
		return json.Unmarshal(a.body, &s) == nil && len(s.Cluster.Voters) == len(g.nodes), a.String()
	})
	var loads []*load
	acked := make([]map[string]string, len(g.nodes))
	for i, m := range g.nodes {
		acked[i] = map[string]string{}
		loads = append(loads, &load{w: &tower{t: t, api: m.client}})
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range max(1, peers.Rounds(t, vmRounds, 0)/4) {
		for n, l := range loads {
			l.begin()
			for lane := range 3 {
				l.wg.Go(func() { l.through(g.nodes[n].name, lane, acked[n]) })
			}
		}
		atRandom(time.Second, 6*time.Second)
		cut := g.cut()
		g.mount = mounts[rng.IntN(len(mounts))]
		g.boot()
		g.ready()
		for _, l := range loads {
			l.decided()
		}
		all := g.everywhere(acked)
		eventually(t, "the copies are compared", func() (bool, string) {
			out, status := g.ask(local + "cluster verify")
			if status == "6" {
				t.Fatalf("the copies differ:\n%s", out)
			}
			return status == "0", out // without a leader, for a moment, it is asked again
		})
		g.sound()
		t.Logf("seed %d, cut %d (%s): %d customers; of the disks' writes %+v", seed, i+1, g.mount, all, cut)
		if t.Failed() {
			t.FailNow()
		}
	}
}

// everywhere compares what each node has with what any of them acknowledged.
func (g *guest) everywhere(acked []map[string]string) (all int) {
	g.t.Helper()
	for _, m := range g.nodes {
		eventually(g.t, "nothing waits at "+m.name, func() (bool, string) {
			var s struct {
				Pending struct {
					Waiting int  `json:"waiting"`
					CutOff  bool `json:"cut_off"`
				} `json:"pending"`
			}
			a := m.client.ask(http.MethodGet, "/api/v1/sync/status", "", nil)
			return a.err == nil && json.Unmarshal(a.body, &s) == nil && s.Pending.Waiting == 0 && !s.Pending.CutOff, a.String()
		})
	}
	for _, m := range g.nodes {
		stored := map[string]string{}
		eventually(g.t, m.name+" has caught up", func() (bool, string) {
			a := m.client.ask(http.MethodGet, "/api/v1/crm/customers?limit=1&consistency=strong", "", nil)
			return a.status == http.StatusOK, a.String()
		})
		for _, c := range list[customer](g.t, m.client, "/api/v1/crm/customers") {
			if stored[c.ExternalID] != "" {
				g.t.Errorf("%s has %s twice", m.name, c.ExternalID)
			}
			stored[c.ExternalID] = c.ID
		}
		all = 0
		for _, book := range acked {
			all += len(book)
			for key, id := range book {
				if stored[key] == "" || id != "" && stored[key] != id {
					g.t.Errorf("%s was acknowledged as %q, and %s has it as %q", key, id, m.name, stored[key])
				}
			}
		}
		if len(stored) != all {
			g.t.Errorf("%s has %d customers, %d were made", m.name, len(stored), all)
		}
	}
	return all
}

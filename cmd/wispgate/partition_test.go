package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
)

// lan is a switch with one network namespace for each node on it. What goes between two nodes can be cut, in one direction or both, and
// narrowed. Everything is made by the test and gone with it.
type lan struct {
	t     testing.TB
	name  string
	hosts []string
}

// newLAN needs root, iproute2 and iptables.
func newLAN(t testing.TB, n int) *lan {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	peers.NeedProgram(t, "ip")
	peers.NeedProgram(t, "iptables")
	l := &lan{t: t, name: fmt.Sprintf("wg%d", os.Getpid()%100000)}
	l.sh("ip", "netns", "add", l.name)
	t.Cleanup(func() { l.drop(l.name) })
	l.in(l.name, "ip", "link", "add", "br0", "type", "bridge")
	l.in(l.name, "ip", "link", "set", "br0", "up")
	for i := range n {
		host := fmt.Sprintf("%sn%d", l.name, i)
		l.sh("ip", "netns", "add", host)
		t.Cleanup(func() { l.drop(host) })
		port := fmt.Sprintf("p%d", i)
		l.in(l.name, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
		l.in(l.name, "ip", "link", "set", port, "master", "br0", "up")
		l.in(host, "ip", "addr", "add", l.addr(i)+"/24", "dev", "eth0")
		l.in(host, "ip", "link", "set", "eth0", "up")
		l.in(host, "ip", "link", "set", "lo", "up")
		l.hosts = append(l.hosts, host)
	}
	return l
}

func (l *lan) addr(i int) string { return fmt.Sprintf("10.97.3.%d", i+1) }

func (l *lan) sh(args ...string) {
	l.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (l *lan) in(ns string, args ...string) {
	l.t.Helper()
	l.sh(append([]string{"ip", "netns", "exec", ns}, args...)...)
}

// drop removes a namespace of ours; one that is gone already is no matter.
func (l *lan) drop(ns string) { _ = exec.Command("ip", "netns", "del", ns).Run() }

// deaf keeps what from sends from being heard by node.
func (l *lan) deaf(node, from int) {
	l.t.Helper()
	l.in(l.hosts[node], "iptables", "-A", "INPUT", "-s", l.addr(from), "-j", "DROP")
}

// apart cuts a node from all others.
func (l *lan) apart(node int) {
	l.t.Helper()
	for i := range l.hosts {
		if i != node {
			l.deaf(node, i)
			l.deaf(i, node)
		}
	}
}

// narrow bounds what a node sends, in kbit/s.
func (l *lan) narrow(node, kbit int) {
	l.t.Helper()
	l.in(l.hosts[node], "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", fmt.Sprintf("%dkbit", kbit), "burst", "16kb", "latency", "200ms")
}

// heal takes everything back.
func (l *lan) heal() {
	l.t.Helper()
	for _, h := range l.hosts {
		l.in(h, "iptables", "-F", "INPUT")
		_ = exec.Command("ip", "netns", "exec", h, "tc", "qdisc", "del", "dev", "eth0", "root").Run()
	}
}

// campaign is a cluster on a network that fails, and the book of what people were told.
type campaign struct {
	t     *testing.T
	net   *lan
	disks []*disk
	nodes []*towerNode

	mu    sync.Mutex
	acked map[string]string // key -> the claim that it took
}

func newCampaign(t *testing.T, n int) *campaign {
	t.Helper()
	c := &campaign{t: t, net: newLAN(t, n), acked: map[string]string{}}
	for i := range n {
		d := newDisk(t, 700)
		c.disks = append(c.disks, d)
		m := &towerNode{program: newProgram(t, "serve", d.dir, named(fmt.Sprint("n", i+1))+fmt.Sprintf(`
radius: {auth_listen: [":1812"], acct_listen: [":1813"], workers: 1, reject_delay: 0s}
api: {listen: ":8443", admin_listen: ""}
cluster: {listen: "%s:7846"}
`, c.net.addr(i)), 8443)}
		m.wrap = []string{"ip", "netns", "exec", c.net.hosts[i]}
		m.api = m.local()
		c.nodes = append(c.nodes, m)
	}
	first := c.nodes[0]
	first.start()
	eventually(t, "it is claimed", func() (bool, string) {
		code, err := os.ReadFile(first.data + "/claim-code")
		if err != nil {
			return false, err.Error()
		}
		a := first.api.ask(http.MethodPost, "/api/v1/claim", "claim", map[string]any{"code": strings.TrimSpace(string(code)), "tenant": "acme", "name": "Acme"})
		return a.status < 300, a.String()
	})
	for _, m := range c.nodes[1:] {
		m.joins(first, "voter")
	}
	c.allVote()
	return c
}

func (c *campaign) allVote() {
	c.t.Helper()
	eventually(c.t, "all of them vote", func() (bool, string) {
		out := c.nodes[0].run("status", "-o", "jsonl")
		var s struct {
			Cluster struct {
				Voters []string `json:"voters"`
			} `json:"cluster"`
		}
		return json.Unmarshal([]byte(out), &s) == nil && len(s.Cluster.Voters) == len(c.nodes), out
	})
}

// claimant takes claims, each of which only one may have, through one node. A claim is an external id; a key names the attempt.
func (c *campaign) claimant(ctx context.Context, node int, lane int) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("k-%d-%d-%d", node, lane, n)
		claim := fmt.Sprintf("claim-%d", rand.IntN(40+n)) // contested at first, then ever less
		for ctx.Err() == nil {
			a := c.nodes[node].api.ask(http.MethodPost, "/api/v1/crm/customers", key, map[string]any{"kind": "person", "name": key, "external_id": claim})
			if a.err == nil && (a.status == http.StatusCreated || a.status == http.StatusAccepted) {
				c.mu.Lock()
				c.acked[key] = claim
				c.mu.Unlock()
				break
			}
			if a.code() == "already_exists" || a.code() == "sync_conflict" {
				break
			}
			if a.err == nil && a.status != http.StatusConflict && a.status < 500 {
				c.t.Errorf("%s: %s", key, a)
				return
			}
			pause(ctx, 30*time.Millisecond)
		}
	}
}

// settle waits until the network's harm is undone and compares what people were told with what there is.
func (c *campaign) settle() {
	c.t.Helper()
	eventually(c.t, "nothing waits any more", func() (bool, string) {
		state := ""
		for _, m := range c.nodes {
			var s struct {
				Pending struct {
					Waiting int  `json:"waiting"`
					CutOff  bool `json:"cut_off"`
				} `json:"pending"`
			}
			a := m.api.ask(http.MethodGet, "/api/v1/sync/status", "", nil)
			if a.err != nil || json.Unmarshal(a.body, &s) != nil || s.Pending.Waiting > 0 || s.Pending.CutOff {
				return false, state + a.String()
			}
			state += fmt.Sprintf("%+v ", s)
		}
		return true, state
	})
	agree(c.t, c.nodes...)
	type customer struct {
		Name       string `json:"name"`
		ExternalID string `json:"external_id"`
	}
	type conflict struct {
		Operation string `json:"operation"`
	}
	holder, takes := map[string]string{}, map[string]int{}
	for _, p := range list[customer](c.t, c.nodes[1].api, "/api/v1/crm/customers") {
		if was, twice := holder[p.ExternalID]; twice {
			c.t.Errorf("%s is held by %s and %s", p.ExternalID, was, p.Name)
		}
		holder[p.ExternalID] = p.Name
		takes[p.Name]++
	}
	conflicts := map[string]bool{}
	for _, f := range list[conflict](c.t, c.nodes[2].api, "/api/v1/sync/conflicts") {
		conflicts[f.Operation] = true
	}
	for key, claim := range c.acked {
		if takes[key] == 1 && holder[claim] == key {
			continue
		}
		if takes[key] != 0 || !conflicts[key] {
			c.t.Errorf("%s was told that it has %s: %s has it, %s is there %d times, in conflict: %v", key, claim, holder[claim], key, takes[key], conflicts[key])
		}
	}
	var drift struct {
		Drift []any `json:"drift"`
	}
	if c.nodes[0].api.must(c.t, http.MethodGet, "/api/v1/sync/drift", nil, &drift); len(drift.Drift) > 0 {
		c.t.Errorf("drift %v", drift.Drift)
	}
	c.t.Logf("%d acknowledged, %d conflicts, %d claims taken", len(c.acked), len(conflicts), len(holder))
}

// harm does one thing to the network or a node, for a while.
func (c *campaign) harm(rng *rand.Rand) string {
	c.t.Helper()
	n := len(c.nodes)
	victim := rng.IntN(n)
	other := (victim + 1 + rng.IntN(n-1)) % n
	lasts := time.Duration(1500+rng.IntN(3000)) * time.Millisecond
	what := ""
	kinds := 7
	if c.disks[victim].image != "" {
		kinds = 10
	}
	switch rng.IntN(kinds) {
	case 0:
		what = fmt.Sprintf("n%d is cut off", victim+1)
		c.net.apart(victim)
	case 1:
		what = fmt.Sprintf("n%d does not hear n%d", victim+1, other+1)
		c.net.deaf(victim, other)
	case 2:
		what = fmt.Sprintf("n%d is cut off and back, again and again", victim+1)
		for range 4 {
			c.net.apart(victim)
			pause(c.t.Context(), 300*time.Millisecond)
			c.net.heal()
			pause(c.t.Context(), 200*time.Millisecond)
		}
		lasts = 0
	case 3:
		what = fmt.Sprintf("n%d is killed", victim+1)
		c.nodes[victim].kill()
		pause(c.t.Context(), lasts/2)
		c.nodes[victim].start()
		lasts = 0
	case 4:
		what = fmt.Sprintf("n%d sends 64 kbit/s", victim+1)
		c.net.narrow(victim, 64)
	case 5:
		what = fmt.Sprintf("nobody hears anybody, but n%d and n%d", victim+1, other+1)
		for i := range n {
			if i != victim && i != other {
				c.net.apart(i)
			}
		}
	case 6:
		what = fmt.Sprintf("n%d stands still, as a machine that is moved", victim+1)
		must(c.t, c.nodes[victim].cmd.Process.Signal(syscall.SIGSTOP))
		pause(c.t.Context(), lasts)
		must(c.t, c.nodes[victim].cmd.Process.Signal(syscall.SIGCONT))
		lasts = 0
	case 7:
		what = fmt.Sprintf("the power of n%d is cut", victim+1)
		c.disks[victim].cut(c.nodes[victim].program, lasts/4)
		lasts = 0
	case 8:
		what = fmt.Sprintf("the disk of n%d is full", victim+1)
		filler := peers.FillUp(c.t, c.disks[victim].dir)
		pause(c.t.Context(), lasts)
		must(c.t, os.Remove(filler))
		_ = os.Remove(filler + "2")
		lasts = 0
	case 9:
		what = fmt.Sprintf("n%d flushes slowly", victim+1)
		slowFlushes(c.t, c.nodes[victim].program, lasts)
		lasts = 0
	}
	pause(c.t.Context(), lasts)
	c.net.heal()
	return what
}

// TestAClusterOnABadNetwork runs three real nodes in network namespaces and on disks of their own under cuts in one and in both directions,
// flapping and narrow links, kills, pauses, power cuts, full disks and slow flushes, while people take claims of which only one can be right. WISPGATE_HARMS=n is how many times harm is done.
func TestAClusterOnABadNetwork(t *testing.T) {
	t.Parallel()
	onBuilt(t)
	c := newCampaign(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range c.nodes {
		wg.Go(func() { c.claimant(ctx, i, 0) })
		wg.Go(func() { c.claimant(ctx, i, 1) })
	}
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	var done []string
	for range peers.Rounds(t, "WISPGATE_HARMS", 6) {
		done = append(done, c.harm(rng))
		pause(ctx, time.Second)
	}
	cancel()
	wg.Wait()
	c.settle()
	t.Logf("seed %d: %s", seed, strings.Join(done, "; "))
}

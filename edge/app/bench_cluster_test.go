package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radbench"
	"wispgate/aaa/radclient"
	"wispgate/edge"
)

// BenchmarkCluster measures three nodes, each a process of the built binary, on one disk: what a killed leader, a node that was away and a
// node that was cut off cost, and what RADIUS clients notice of it. scripts/bench runs it once and names the binary in WISPGATE_BENCH;
// WISPGATE_BENCH_SUBSCRIBERS, WISPGATE_BENCH_MISSED, WISPGATE_BENCH_PENDING and WISPGATE_BENCH_PARTS (failover, wan, rejoin, rebase) narrow it.
func BenchmarkCluster(b *testing.B) {
	binary := os.Getenv("WISPGATE_BENCH")
	if binary == "" {
		b.Skip("WISPGATE_BENCH does not name a built binary: use make bench")
	}
	c := &clusterBench{B: b, table: benchTable{out: os.Stderr}, subscribers: benchCount("SUBSCRIBERS", 20_000)}
	c.prepare(binary)
	runParts([]benchPart{
		{"failover", func() { c.failover("LAN", 3) }}, {"rejoin", c.rejoin}, {"rebase", func() { c.rebase(benchCount("PENDING", 10_000), 20) }},
		{"cutoff", func() { c.rebase(benchCount("CUT_OFF", 100_000), 0) }}, {"wan", c.wan},
	})
	for _, n := range c.nodes {
		n.stop()
	}
	c.table.write(os.Stdout)
}

// askEvery is how often a node is asked how it stands while something is measured.
const askEvery = 50 * time.Millisecond

func benchCount(name string, fallback int) int {
	if n, err := strconv.Atoi(os.Getenv("WISPGATE_BENCH_" + name)); err == nil {
		return n
	}
	return fallback
}

type clusterBench struct {
	*testing.B
	nodes       []*benchNode
	key         string
	subscribers int
	table       benchTable
	made        atomic.Int64
	rest        map[*benchNode]time.Duration // p99 of a login at rest
	echo        *radbench.Process            // a bare UDP echo, which shares the processors with the nodes
	echoed      time.Duration                // its p99 while work ran in the last beside
}

const benchClusterConfig = "cluster: {listen: %q, network: %s}\n"

// prepare makes the cluster: one node with all subscribers, then two more that fill themselves from it.
func (c *clusterBench) prepare(binary string) {
	for i := range 3 {
		n := newBenchNode(c, binary)
		n.cluster = freeAddr(c, "tcp")
		n.name = fmt.Sprintf("n%d", i+1)
		n.configure("lan")
		c.nodes = append(c.nodes, n)
	}
	first := c.nodes[0]
	first.command("cluster", "init", "-c", first.config, "--name", "bench")
	first.start()
	first.apiReady("")
	c.key = first.claim()
	first.client.key = c.key
	begin, w := time.Now(), watchMemory(c.nodes...)
	first.seed(c.subscribers)
	c.table.note(fmt.Sprintf("seed %d subscribers through the API", c.subscribers), time.Since(begin).Round(time.Second).String(), "", float64(c.subscribers)/time.Since(begin).Seconds(), "/s")
	w.row(&c.table, "seeding")
	w = watchMemory(c.nodes...)
	for _, n := range c.nodes[1:] {
		var token struct {
			Token string `json:"token"`
		}
		raw := first.command("--socket", filepath.Join(first.dir, "wispgate.sock"), "cluster", "invite", "--role", "voter", "-o", "json")
		if err := json.Unmarshal(raw, &token); err != nil {
			c.Fatal(err)
		}
		n.command("cluster", "join", "-c", n.config, token.Token)
		n.start()
		n.apiReady(c.key)
	}
	first.untilEvery(askEvery, 3*time.Minute, "three voters", func() error {
		if s, err := first.status(); err != nil || len(s.Cluster.Voters) != 3 {
			return fmt.Errorf("%v, %s", s.Cluster, fmt.Sprint(err))
		}
		return nil
	})
	c.settled()
	w.row(&c.table, "joining")
	time.Sleep(40 * time.Second) // what joining and seeding took for a moment is given back
	w = watchMemory(c.nodes...)
	c.rest, c.echo = map[*benchNode]time.Duration{}, startPeer(c, radbench.RoleEcho, "echo")
	for i, p := range c.beside(c.nodes, func() { time.Sleep(10 * time.Second) }) {
		c.rest[c.nodes[i]] = p
	}
	w.row(&c.table, "at rest")
}

// settled waits until every node has the same version.
func (c *clusterBench) settled() {
	c.nodes[0].untilEvery(askEvery, 10*time.Minute, "one version everywhere", func() error {
		var versions []uint64
		for _, n := range c.nodes {
			s, err := n.status()
			if err != nil {
				return err
			}
			versions = append(versions, s.Cluster.Version)
		}
		if slices.Min(versions) != slices.Max(versions) {
			return fmt.Errorf("versions %v", versions)
		}
		return nil
	})
}

// leader is the node that leads, and the others.
func (c *clusterBench) leader() (leader *benchNode, others []*benchNode) {
	c.nodes[0].untilEvery(askEvery, time.Minute, "a leader", func() error {
		leader, others = nil, nil
		for _, n := range c.nodes {
			if s, err := n.status(); err == nil && s.Cluster.State == "leader" {
				leader = n
			} else {
				others = append(others, n)
			}
		}
		if leader == nil || len(others) != len(c.nodes)-1 {
			return errors.New("none")
		}
		return nil
	})
	return leader, others
}

// site writes a record that needs the quorum, at a node, and reports whether it was committed.
func (c *clusterBench) site(n *benchNode) bool {
	i := c.made.Add(1)
	status, _ := n.post("/api/v1/inventory/sites", fmt.Sprintf(`{"code":"B%d","name":"Tower %d","kind":"tower","timezone":"UTC"}`, i, i))
	return status == http.StatusCreated
}

// failover kills the leader ten times and waits for the first acknowledged write through another node.
func (c *clusterBench) failover(profile string, target float64) {
	const rounds = 10
	var times []time.Duration
	var worst []time.Duration // p99 of logins at the survivors, as a multiple of rest
	var ratios []float64
	for range rounds {
		dead, others := c.leader()
		for i, p := range c.beside(others, func() {
			dead.kill()
			begin := time.Now()
			for !c.site(others[0]) {
				if time.Since(begin) > time.Minute {
					c.Fatal("no write is acknowledged a minute after the leader died")
				}
			}
			times = append(times, time.Since(begin))
			time.Sleep(time.Until(begin.Add(4 * time.Second)))
		}) {
			worst = append(worst, p)
			ratios = append(ratios, ratioOf(p, c.rest[others[i]]))
		}
		dead.start()
		dead.apiReady(c.key)
		c.settled()
	}
	what := "failover, " + profile + ": kill -9 of the leader to the first acknowledged write"
	c.table.row(what+", worst of "+strconv.Itoa(rounds), "median "+median(times).Round(10*time.Millisecond).String(), "", slices.Max(times).Seconds(), atMost(target, " s"))
	slices.Sort(ratios)
	c.table.row("RADIUS p99 during elections, "+profile+", median of rounds", median(worst).Round(10*time.Microsecond).String(), "at rest "+median(c.rests()).Round(10*time.Microsecond).String(), ratios[len(ratios)/2], atMost(1.5, " x"))
}

// atRest is the yardstick of logins beside some work.
func (c *clusterBench) atRest(n *benchNode) string {
	return fmt.Sprintf("at rest %v; an echo beside it %v", c.rest[n].Round(10*time.Microsecond), c.echoed.Round(10*time.Microsecond))
}

func (c *clusterBench) rests() (list []time.Duration) {
	for _, p := range c.rest {
		list = append(list, p)
	}
	return list
}

// wan is failover with the time-outs for voters that are far apart.
func (c *clusterBench) wan() {
	for _, n := range c.nodes {
		n.configure("wan")
		n.stop()
		n.start()
	}
	for _, n := range c.nodes {
		n.apiReady(c.key)
	}
	c.settled()
	c.failover("WAN", 6)
}

// rejoin lets a node miss writes, by many callers at once, and waits until it has the leader's version.
func (c *clusterBench) rejoin() {
	leader, others := c.leader()
	away := others[0]
	away.kill()
	missed := benchCount("MISSED", 100_000)
	begin := time.Now()
	entries := c.applied(leader)
	w := watchMemory(c.nodes...)
	c.customers(leader, missed, 128)
	w.row(&c.table, "under writes")
	entries = c.applied(leader) - entries
	c.table.note(fmt.Sprintf("%d customers, 128 callers, through the API of the leader", missed), fmt.Sprintf("%.0f entries", float64(entries)), "", float64(missed)/time.Since(begin).Seconds(), "/s")
	w = watchMemory(c.nodes...)
	p99 := c.beside([]*benchNode{leader, others[1]}, func() {
		begin = away.start()
		away.apiReady(c.key)
		want := c.applied(leader)
		away.untilEvery(askEvery, 10*time.Minute, "the version of the leader", func() error {
			if got := c.applied(away); got < want {
				return fmt.Errorf("applied %d of %d", got, want)
			}
			return nil
		})
	})
	c.table.row(fmt.Sprintf("rejoin after %d missed writes", missed), fmt.Sprintf("%d entries", entries), "", time.Since(begin).Seconds(), atMost(20, " s"))
	c.table.row("RADIUS p99 of the leader while another node catches up", p99[0].Round(10*time.Microsecond).String(), c.atRest(leader), ratioOf(p99[0], c.rest[leader]), atMost(1.5, " x"))
	w.row(&c.table, "rejoining")
	c.settled()
}

func (c *clusterBench) applied(n *benchNode) uint64 {
	s, err := n.status()
	if err != nil {
		return 0
	}
	return s.Cluster.Version
}

// customers records so many customers at a node.
func (c *clusterBench) customers(n *benchNode, count, callers int) {
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(count))
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				i := c.made.Add(1)
				body := fmt.Sprintf(`{"kind":"person","name":"Customer %d"}`, i)
				for try := 0; ; try++ {
					if status, err := n.post("/api/v1/crm/customers", body); status == http.StatusCreated || status == http.StatusAccepted {
						break
					} else if try == 20 {
						c.Errorf("a customer is not recorded: %d %v", status, err)
						return
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	if c.Failed() {
		c.FailNow()
	}
}

// rebase cuts a node off by stopping the two others, lets it accept customers, and waits until the cluster has them all.
func (c *clusterBench) rebase(count int, target float64) {
	leader, others := c.leader()
	tower := others[0]
	for _, n := range []*benchNode{leader, others[1]} {
		n.signal(syscall.SIGSTOP)
	}
	tower.untilEvery(askEvery, time.Minute, "the tower is cut off", func() error {
		if s, err := tower.status(); err != nil || !s.Pending.CutOff {
			return fmt.Errorf("not cut off: %s", fmt.Sprint(err))
		}
		return nil
	})
	begin, w := time.Now(), watchMemory(c.nodes...)
	c.customers(tower, count, 64)
	accepted := time.Since(begin)
	w.row(&c.table, fmt.Sprintf("%d pending", count))
	c.table.note(fmt.Sprintf("%d writes accepted by a node that is cut off, 64 callers", count), accepted.Round(10*time.Millisecond).String(), "", float64(count)/accepted.Seconds(), "/s")
	begin, w = time.Now(), watchMemory(c.nodes...)
	for _, n := range []*benchNode{leader, others[1]} {
		n.signal(syscall.SIGCONT)
	}
	p99 := c.beside([]*benchNode{tower}, func() {
		tower.untilEvery(askEvery, 20*time.Minute, "the pending writes are handed over", func() error {
			s, err := tower.status()
			if err != nil || s.Pending.Waiting > 0 {
				return fmt.Errorf("%d wait, %s", s.Pending.Waiting, fmt.Sprint(err))
			}
			return nil
		})
	})
	took := time.Since(begin)
	what := fmt.Sprintf("rebase of %d pending writes, from the end of the cut", count)
	if target > 0 {
		c.table.row(what, "", "", took.Seconds(), atMost(target, " s"))
		c.table.row("RADIUS p99 of the node that rebases", p99[0].Round(10*time.Microsecond).String(), c.atRest(tower), ratioOf(p99[0], c.rest[tower]), atMost(1.5, " x"))
	} else {
		c.table.note(what, "", "", took.Seconds(), " s")
	}
	w.row(&c.table, "rebasing "+strconv.Itoa(count))
	c.settled()
}

// beside sends each node 200 logins a second while work runs, and returns their p99, a lost one as the time it was waited for. As many
// datagrams go to the bare echo.
func (c *clusterBench) beside(nodes []*benchNode, work func()) []time.Duration {
	const lanes, every = 4, 20 * time.Millisecond
	times := make([][]time.Duration, len(nodes)+1)
	var mu sync.Mutex
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range times {
		for lane := range lanes {
			wg.Go(func() {
				ask := c.echoes()
				if i < len(nodes) {
					ask = c.logins(nodes[i], lane, lanes)
				}
				took := timesOf(ask, every, stop)
				mu.Lock()
				defer mu.Unlock()
				times[i] = append(times[i], took...)
			})
		}
	}
	work()
	close(stop)
	wg.Wait()
	p99 := make([]time.Duration, len(times))
	for i, list := range times {
		slices.Sort(list)
		p99[i] = list[len(list)*99/100]
	}
	c.echoed = p99[len(nodes)]
	return p99[:len(nodes)]
}

// timesOf asks at each tick and returns how long each answer took.
func timesOf(ask func(), every time.Duration, stop <-chan struct{}) (times []time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return times
		case <-tick.C:
		}
		begin := time.Now()
		ask()
		times = append(times, time.Since(begin))
	}
}

// logins returns what logs in one subscriber after another, every one of so many lanes others.
func (c *clusterBench) logins(n *benchNode, lane, lanes int) func() {
	client, err := radclient.Dial(n.auth, []byte(radbench.Secret), time.Now, radclient.Options{Timeout: 2 * time.Second, Tries: 1})
	if err != nil {
		c.Error(err)
		return func() {}
	}
	c.Cleanup(func() { _ = client.Close() })
	password, i := "secret", lane-lanes
	return func() {
		i += lanes
		_, _ = client.Do(context.Background(), radclient.Request{Code: packet.AccessRequest, Attrs: loginAttrs(nil, i%c.subscribers), Password: &password})
	}
}

// echoes returns what sends a datagram as long as a login to the bare echo and waits for it.
func (c *clusterBench) echoes() func() {
	conn, err := net.Dial("udp", c.echo.Auth)
	if err != nil {
		c.Error(err)
		return func() {}
	}
	c.Cleanup(func() { _ = conn.Close() })
	data, into := make([]byte, 120), make([]byte, 256)
	return func() {
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := conn.Write(data); err == nil {
			_, _ = conn.Read(into)
		}
	}
}

// configure writes the configuration of a node of a cluster.
func (n *benchNode) configure(network string) {
	n.b.Helper()
	conf := strings.Replace(fmt.Sprintf(benchConfig, n.dir, n.auth, n.acct, n.api, n.admin), "id: bench", "id: "+n.name, 1) + fmt.Sprintf(benchClusterConfig, n.cluster, network)
	if err := os.WriteFile(n.config, []byte(conf), 0o600); err != nil {
		n.b.Fatal(err)
	}
}

// command runs the program beside the daemon.
func (n *benchNode) command(args ...string) []byte {
	n.b.Helper()
	cmd := asOthers(n.binary, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		n.b.Fatalf("%v: %v\n%s", args, err, said.Bytes())
	}
	return out
}

// benchStatus is what the benchmark reads of a node's status.
type benchStatus struct {
	Cluster struct {
		State   string   `json:"state"`
		Voters  []string `json:"voters"`
		Version uint64   `json:"version"`
	} `json:"cluster"`
	Pending struct {
		Waiting int64 `json:"waiting"`
		CutOff  bool  `json:"cut_off"`
	} `json:"pending"`
}

func (n *benchNode) status() (s benchStatus, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = n.client.once(ctx, http.MethodGet, "/api/v1/sync/status", "", nil, &s)
	return s, err
}

// post sends a write once, with an idempotency key of its own.
func (n *benchNode) post(path, body string) (status int, err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, n.base+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+n.client.key)
	req.Header.Set("Idempotency-Key", string(edge.DeriveID("op", body, 0)))
	resp, err := n.client.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = errors.New(string(raw))
	}
	return resp.StatusCode, err
}

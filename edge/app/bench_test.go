package app

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// BenchmarkProduct measures the built binary, as a process of its own, against its yardsticks in the same run: a bare UDP echo, a bare
// Fiber answer, one append with fdatasync, and FreeRADIUS where it is installed. scripts/bench runs it once (-benchtime=1x) and names
// the binary in WISPGATE_BENCH; WISPGATE_BENCH_SUBSCRIBERS and WISPGATE_BENCH_PARTS narrow it.
func BenchmarkProduct(b *testing.B) {
	binary := os.Getenv("WISPGATE_BENCH")
	if binary == "" {
		b.Skip("WISPGATE_BENCH does not name a built binary: use make bench")
	}
	p := &productBench{B: b, table: benchTable{out: os.Stderr}, subscribers: benchCount("SUBSCRIBERS", 20_000)}
	p.node = newBenchNode(b, binary)
	p.prepare()
	runParts([]benchPart{
		{"start", p.starts}, {"pap", p.pap}, {"allocations", p.allocations}, {"memory", p.memory}, {"get", p.get}, {"write", p.write},
		{"accounting", p.accounting}, {"loss", p.loss}, {"kill", p.kill},
	})
	p.node.stop()
	p.table.write(os.Stdout)
}

type benchPart struct {
	name string
	run  func()
}

// runParts runs the parts that WISPGATE_BENCH_PARTS matches, all where it is not set.
func runParts(parts []benchPart) {
	only := regexp.MustCompile(os.Getenv("WISPGATE_BENCH_PARTS"))
	for _, part := range parts {
		if only.MatchString(part.name) {
			part.run()
		}
	}
}

type productBench struct {
	*testing.B
	node        *benchNode
	key         string
	subscribers int
	table       benchTable
}

// prepare seeds the node through its API.
func (p *productBench) prepare() {
	p.node.start()
	p.node.apiReady("")
	p.key = p.node.claim()
	p.node.client.key = p.key
	begin, w := time.Now(), watchMemory(p.node)
	p.node.seed(p.subscribers)
	took := time.Since(begin)
	w.row(&p.table, "seeding")
	w = watchMemory(p.node)
	time.Sleep(20 * time.Second)
	w.row(&p.table, "20 s after seeding")
	p.table.note(fmt.Sprintf("seed %d subscribers through the API", p.subscribers), took.Round(time.Second).String(), "", float64(p.subscribers)/took.Seconds(), "/s")
}

// starts measures from the start of the process to its first Access-Accept, after a clean stop and after a kill.
func (p *productBench) starts() {
	for _, how := range []string{"a clean stop", "kill -9"} {
		var times []time.Duration
		for range 3 {
			if how == "kill -9" {
				p.node.kill()
			} else {
				p.node.stop()
			}
			begin := p.node.start()
			p.node.accepted(p.subscribers / 2)
			times = append(times, time.Since(begin))
			p.node.apiReady(p.key)
		}
		t := median(times)
		p.table.row("first Access-Accept after "+how, t.Round(time.Millisecond).String(), "", t.Seconds(), atMost(2, " s"))
	}
}

// pap compares logins: Message-Authenticator both ways, entitlement, session limit, policy, counters.
func (p *productBench) pap() {
	ctx := context.Background()
	servers := []*radbench.Process{
		startPeer(p, radbench.RoleEcho, "echo"), {Name: "wispgate", PID: p.node.pid(), Auth: p.node.auth, Acct: p.node.acct},
	}
	free, err := radbench.FreeRADIUS(ctx, p.TempDir(), min(p.subscribers, 10_000), time.Now)
	if err == nil {
		defer func() { _ = free.Stop() }()
		servers = append(servers, free)
	}
	rows, cmpErr := radbench.Compare(ctx, radbench.Options{Kind: radbench.PAP, Requests: 40_000, Logins: min(p.subscribers, 10_000), Now: time.Now}, servers...)
	if cmpErr != nil {
		p.Fatal(cmpErr)
	}
	echo, ours := rows[0], rows[1]
	if n := ours.Codes[packet.AccessAccept]; n != ours.Good {
		p.Errorf("only %d of %d logins were accepted: the figures are of refusals", n, ours.Good)
	}
	const what = "PAP login, full pipeline, CPU"
	p.table.note(what, micros(ours.CPU), "UDP echo "+micros(echo.CPU), ratioOf(ours.CPU, echo.CPU), " x echo")
	if len(rows) == 3 {
		p.table.row(what, micros(ours.CPU), "FreeRADIUS files "+micros(rows[2].CPU), ratioOf(ours.CPU, rows[2].CPU), atMost(1.0/3, " x"))
	} else {
		p.table.skip(what+" beside FreeRADIUS", err.Error())
	}
	p.table.row("PAP logins lost", fmt.Sprintf("%.0f logins/s, p99 %s", ours.Rate, ours.P99.Round(10*time.Microsecond)), "", float64(ours.Lost+ours.Bad), atMost(0, ""))
	logins, err := p.load(p.node.auth, packet.AccessRequest, 1024, 40_000, nil).Run(ctx)
	if err != nil {
		p.Fatal(err)
	}
	p.table.row("logins lost, 1,024 outstanding", fmt.Sprintf("%.0f/s, p99 %s", logins.Rate(), logins.P99.Round(time.Millisecond)), "", float64(logins.Lost+logins.Bad), atMost(0, ""))
}

// allocations runs the tests that count them: from datagram to datagram, and the look-up of the entitlement.
func (p *productBench) allocations() {
	const what = "allocations per login and per accounting request"
	cmd := exec.Command("go", "test", "-count=1", "-run", "AllocatesNothing|AllocateNothing|NoAllocation", "-v", "../../aaa", "../../aaa/radiusd", "../../edge/journal")
	out, err := cmd.CombinedOutput()
	ran := len(regexp.MustCompile(`(?m)^--- PASS`).FindAll(out, -1))
	switch {
	case err != nil:
		p.table.add(what, "not 0: see go test -run Alloc ./aaa/...", "", "", "0", "missed")
	case ran == 0:
		p.table.skip(what, "no such tests")
	default:
		p.table.row(what, fmt.Sprintf("%d tests", ran), "", 0, atMost(0, ""))
	}
}

// load asks for logins in turn, or sends what attrs appends.
func (p *productBench) load(server string, code packet.Code, window, requests int, attrs func([]byte, int) []byte) radclient.Load {
	l := radclient.Load{Server: server, Secret: []byte(radbench.Secret), Code: code, Window: window, Requests: requests, Now: time.Now, Wait: 5 * time.Second, Attrs: attrs}
	if attrs == nil {
		l.Attrs = func(dst []byte, n int) []byte { return loginAttrs(dst, n%p.subscribers) }
		l.Password = func(int) []byte { return []byte("secret") }
	}
	return l
}

// interim is usage of one session of each subscriber, growing from request to request.
func (p *productBench) interim(base int) func([]byte, int) []byte {
	return func(dst []byte, n int) []byte {
		return acctAttrs(dst, base+n%p.subscribers, n%p.subscribers, 3, uint32(n/p.subscribers+1))
	}
}

func acctAttrs(dst []byte, session, login int, status, count uint32) []byte {
	dst = packet.AppendString(dst, packet.UserName, radbench.Login(login))
	dst = packet.AppendString(dst, packet.CallingStationID, fmt.Sprintf("02:00:%02X:%02X:%02X:%02X", session>>24&255, session>>16&255, session>>8&255, session&255))
	dst = packet.AppendUint32(dst, packet.AcctStatusType, status)
	dst = packet.AppendString(dst, packet.AcctSessionID, "s"+strconv.Itoa(session))
	dst = packet.AppendUint32(dst, packet.AcctInputOctets, 1000*count)
	return packet.AppendUint32(dst, packet.AcctSessionTime, 60*count)
}

// customers asks for one customer after the other, in an order that has nothing to do with how they lie on the disk.
func (p *productBench) customers() func(int) []byte {
	all := make([][]byte, p.subscribers)
	for i := range all {
		id := edge.DeriveID("cus", "bench customer", i*7919%p.subscribers)
		all[i] = getRequest("/api/v1/crm/customers/"+string(id), p.key)(0)
	}
	return func(n int) []byte { return all[n%len(all)] }
}

// get compares keyed reads with a bare answer of Fiber, over TLS and over unix sockets: of a plan, the same again and again, which has a
// line in the access log, and of customers, another each time, whose line in the audit journal is durable before the answer.
func (p *productBench) get() {
	peer := startPeer(p, "fiber", p.node.dir)
	plan := getRequest("/api/v1/billing/plans/"+string(p.node.plan), p.key)
	customer := p.customers()
	for _, way := range []struct {
		name       string
		secure     bool
		ours, bare httpTarget
	}{
		{"TLS", true, httpTarget{network: "tcp", address: p.node.api}, httpTarget{network: "tcp", address: peer.Auth}},
		{"unix socket", false, httpTarget{network: "unix", address: filepath.Join(p.node.dir, "wispgate.sock")}, httpTarget{network: "unix", address: peer.Acct}},
	} {
		way.ours.pid, way.ours.secure, way.ours.request = p.node.pid(), way.secure, plan
		way.bare.pid, way.bare.secure, way.bare.request = peer.PID, way.secure, getRequest("/hello", p.key)
		audited := way.ours
		audited.request = customer
		const conns = 32
		t := cpuOf(p, 5, conns, 20_000, way.ours, way.bare)
		p.table.row("keyed, limited, logged GET of a plan, "+way.name+", CPU", micros(t[0]), "bare Fiber "+micros(t[1]), ratioOf(t[0], t[1]), atMost(2, " x"))
		a := cpuOf(p, 2, conns, 8_000, audited)
		p.table.row("the same with a durable audit line, of customers in turn", micros(a[0]), "bare Fiber "+micros(t[1]), ratioOf(a[0], t[1]), atMost(2, " x"))
		if way.secure {
			p.auditLatency(audited, way.ours, conns)
		}
	}
}

// auditLatency tells what waiting for the group commit adds to a read.
func (p *productBench) auditLatency(audited, logged httpTarget, conns int) {
	with, err := audited.hammer(conns, 4000)
	if err != nil {
		p.Fatal(err)
	}
	without, err := logged.hammer(conns, 4000)
	if err != nil {
		p.Fatal(err)
	}
	a, l := median(with), median(without)
	p.table.note("latency of the audit's group commit, 32 connections", micros(a), "the logged GET "+micros(l), float64((a-l).Nanoseconds())/1e3, " us more")
}

// write compares one write through the API, alone, with one append and fdatasync on the same disk, in turns. The kernel's own share, and
// the audit's, come from the benchmarks of their rooms.
func (p *productBench) write() {
	yard, err := newDiskYard(filepath.Join(p.node.dir, "..", "yardstick"))
	if err != nil {
		p.Fatal(err)
	}
	defer yard.Close()
	target := httpTarget{
		pid: p.node.pid(), network: "tcp", address: p.node.api, secure: true,
		request: postRequest("/api/v1/crm/customers", p.key, "bench-"+strconv.FormatInt(time.Now().UnixNano(), 36), func(n int) string {
			return fmt.Sprintf(`{"kind":"person","name":"Customer %d"}`, n)
		}),
	}
	var ours, bare []time.Duration
	octets := p.node.procValue("io", "write_bytes")
	const rounds, each = 6, 50
	for round := range rounds {
		took, err := target.repeat(round*each, (round+1)*each)
		if err != nil {
			p.Fatal(err)
		}
		ours = append(ours, took...)
		took, err = yard.measure(each)
		if err != nil {
			p.Fatal(err)
		}
		bare = append(bare, took...)
	}
	octets = p.node.procValue("io", "write_bytes") - octets
	t, f := median(ours), median(bare)
	p.table.row("a write through the API: TLS, commit, audit", micros(t), "4 KB append + fdatasync (F) "+micros(f), ratioOf(t, f), atMost(3.5, " F"))
	p.table.note("octets written per API write (/proc/PID/io)", "commit, state and audit", "", octets/(rounds*each)/1024, " KB")
	p.figures("a commit of the kernel: evaluate, log, apply", "../../sync/cluster", "BenchmarkPropose", `([\d.]+) F/op`, atMost(3.5, " F"))
	p.figures("an audit line alone, p50", "../../edge/journal", "BenchmarkAck/outstanding=1$", `([\d.]+) p50/F`, atMost(1.5, " F"))
}

// figures runs another room's benchmark and takes one figure from what it prints.
func (p *productBench) figures(what, pkg, name, pattern string, target bound) {
	out, err := exec.Command("go", "test", "-run", "^$", "-bench", name, "-benchtime=400x", pkg).CombinedOutput()
	m := regexp.MustCompile(pattern).FindSubmatch(out)
	if err != nil || m == nil {
		p.table.skip(what, "the benchmark of "+pkg+" did not run")
		return
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		p.Fatal(err)
	}
	p.table.row(what, name, "F in the same benchmark", v, target)
}

// accounting compares records that are durable before their answer, at 32 outstanding: new sessions here and there. The node stands still
// while its peer is measured, so that what it still drains takes nothing from the peer.
func (p *productBench) accounting() {
	const what = "durable accounting, 32 outstanding"
	ctx := context.Background()
	free, err := radbench.FreeRADIUSWithSQLite(ctx, p.TempDir(), time.Now)
	if err == nil {
		defer func() { _ = free.Stop() }()
	}
	peerless := err
	var ours, theirs []float64
	lost := 0
	for round := range 5 {
		l := p.load(p.node.acct, packet.AccountingRequest, 32, 10_000, p.starting(round*10_000))
		res, err := l.Run(ctx)
		if err != nil {
			p.Fatal(err)
		}
		ours, lost = append(ours, res.Rate()), lost+res.Lost+res.Bad
		if free == nil {
			continue
		}
		l = p.load(free.Acct, packet.AccountingRequest, 32, 1000, p.starting(round*1000))
		l.AllowUnsigned = true
		p.node.signal(syscall.SIGSTOP)
		res, err = l.Run(ctx)
		p.node.signal(syscall.SIGCONT)
		if err != nil {
			p.Fatal(err)
		}
		theirs = append(theirs, res.Rate())
	}
	slices.Sort(ours)
	rate := ours[len(ours)/2]
	p.table.row("accounting records lost, 32 outstanding", "of 50000", "", float64(lost), atMost(0, ""))
	if free == nil {
		p.table.skip(what, peerless.Error())
		return
	}
	slices.Sort(theirs)
	yard := theirs[len(theirs)/2]
	p.table.row(what, fmt.Sprintf("%.0f/s", rate), fmt.Sprintf("FreeRADIUS with sqlite in WAL mode %.0f/s", yard), rate/yard, atLeast(10, " x"))
}

// starting begins sessions that nobody began before.
func (p *productBench) starting(from int) func([]byte, int) []byte {
	return func(dst []byte, n int) []byte { return acctAttrs(dst, 1<<24+from+n, (from+n)%p.subscribers, 1, 0) }
}

// acknowledged and drained are the node's own counts of accounting records since its start.
func (p *productBench) acknowledged() float64 {
	return p.node.counter(`wispgate_radius_requests_total{outcome="accounting"}`)
}

// loss sends 1,024 at a time and waits until the journal is drained: everything answered must have become usage.
func (p *productBench) loss() {
	const requests = 40_000
	res, err := p.load(p.node.acct, packet.AccountingRequest, 1024, requests, p.interim(0)).Run(context.Background())
	if err != nil {
		p.Fatal(err)
	}
	p.table.row("accounting lost, 1,024 outstanding", fmt.Sprintf("%d of %d at %.0f/s, p99 %s", res.Good, requests, res.Rate(), res.P99.Round(time.Millisecond)), "", float64(res.Lost+res.Bad), atMost(0, ""))
	backlog := float64(0)
	begin := time.Now()
	p.node.until(10*time.Minute, "the journal to be drained", func() error {
		// Both since the process began, so that an older backlog cannot stand in for a record that is missing.
		if backlog = p.acknowledged() - p.node.counter("wispgate_radius_drained_total"); backlog > 0 {
			time.Sleep(100 * time.Millisecond)
			return fmt.Errorf("%.0f records wait", backlog)
		}
		return nil
	})
	p.table.row("acknowledged records that the drainer has not counted", "drained in "+time.Since(begin).Round(100*time.Millisecond).String(), "", max(backlog, 0), atMost(0, ""))
}

// kill ends the node in the middle of accounting, and looks for every session whose beginning was acknowledged.
func (p *productBench) kill() {
	const enough = 3000
	c, err := radclient.Dial(p.node.acct, []byte(radbench.Secret), time.Now, radclient.Options{Timeout: 2 * time.Second, Tries: 1})
	if err != nil {
		p.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var next, count atomic.Int64
	var mu sync.Mutex
	acked := map[string]bool{}
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1))
				if _, err := c.Do(ctx, radclient.Request{Code: packet.AccountingRequest, Attrs: acctAttrs(nil, 1<<28+n, 1, 1, 0)}); err != nil {
					continue
				}
				mu.Lock()
				acked["s"+strconv.Itoa(1<<28+n)] = true
				mu.Unlock()
				count.Add(1)
			}
		})
	}
	p.node.until(time.Minute, "the load", func() error {
		if count.Load() < enough {
			return fmt.Errorf("%d of %d records acknowledged", count.Load(), enough)
		}
		return nil
	})
	p.node.kill()
	cancel()
	callers.Wait()
	_ = c.Close()
	p.node.start()
	p.node.apiReady(p.key)
	missing := len(acked)
	begin := time.Now()
	for end := begin.Add(2 * time.Minute); missing > 0 && time.Now().Before(end); time.Sleep(time.Second) {
		known := p.sessions(radbench.Login(1))
		missing = 0
		for id := range acked {
			if !known[id] {
				missing++
			}
		}
	}
	p.table.row("acknowledged accounting lost by kill -9", fmt.Sprintf("%d acknowledged", len(acked)), "", float64(missing), atMost(0, ""))
}

// sessions are the Acct-Session-Ids that the API knows of a login.
func (p *productBench) sessions(login string) map[string]bool {
	known := map[string]bool{}
	for cursor := ""; ; {
		var page struct {
			Data []struct {
				Session string `json:"acct_session_id"`
			} `json:"data"`
			Next string `json:"next_cursor"`
		}
		q := url.Values{"login": {login}, "limit": {"200"}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		if err := p.node.client.call(context.Background(), "GET", "/api/v1/aaa/sessions?"+q.Encode(), "", nil, &page); err != nil {
			p.Fatal(err)
		}
		for _, s := range page.Data {
			known[s.Session] = true
		}
		if cursor = page.Next; cursor == "" {
			return known
		}
	}
}

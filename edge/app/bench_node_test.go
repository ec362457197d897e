package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wispgate/aaa/packet"
	"wispgate/aaa/radbench"
	"wispgate/aaa/radclient"
	"wispgate/edge"
)

// benchNode is the built binary as a process of its own: "wispgate serve" over one data folder, started and stopped as often as needed.
type benchNode struct {
	b                     testing.TB
	binary, dir, config   string
	auth, acct, api, base string
	admin                 string
	name, cluster         string // of one among others
	cmd                   *exec.Cmd
	running               atomic.Int64 // its process id, 0 while it is down
	ended                 chan error
	client                *demoClient
	nas, plan             edge.ID
}

const benchConfig = `node: {id: bench, data_dir: %q, log_level: warn, log_format: text}
radius: {auth_listen: [%q], acct_listen: [%q]}
api: {listen: %q, admin_listen: %q, max_conns_per_ip: 1024}
limits: {client_per_minute: 10000000, tenant_per_minute: 10000000, unauthenticated_per_minute: 1000000}
`

func newBenchNode(b testing.TB, binary string) *benchNode {
	n := &benchNode{b: b, binary: binary, dir: filepath.Join(b.TempDir(), "data")}
	n.auth, n.acct, n.api, n.admin = freeAddr(b, "udp"), freeAddr(b, "udp"), freeAddr(b, "tcp"), freeAddr(b, "tcp")
	n.base, n.config = "https://"+n.api, filepath.Join(b.TempDir(), "wispgate.yaml")
	if err := os.WriteFile(n.config, fmt.Appendf(nil, benchConfig, n.dir, n.auth, n.acct, n.api, n.admin), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if n.cmd != nil {
			n.kill()
		}
	})
	return n
}

// freeAddr is a loopback address that nobody uses now.
func freeAddr(b testing.TB, network string) string {
	b.Helper()
	if network == "udp" {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (n *benchNode) pid() int { return n.cmd.Process.Pid }

// start starts the process and returns when it began.
// asOthers is a command that runs with the priority of everybody. scripts/bench lets the load run before it where the system allows it: in the
// field it comes from machines of its own.
func asOthers(name string, args ...string) *exec.Cmd {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if nice := 20 - raw; err == nil && nice < 0 { // the system call counts from 40 to 1
		return exec.Command("nice", append([]string{"-n", strconv.Itoa(-nice), name}, args...)...)
	}
	return exec.Command(name, args...)
}

func (n *benchNode) start() time.Time {
	n.cmd = asOthers(n.binary, "serve", "--config", n.config)
	n.cmd.Stdout, n.cmd.Stderr = io.Discard, os.Stderr
	begin := time.Now()
	if err := n.cmd.Start(); err != nil {
		n.b.Fatal(err)
	}
	n.running.Store(int64(n.cmd.Process.Pid))
	cmd, ended := n.cmd, make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	n.ended = ended
	return begin
}

// stop ends the process cleanly and returns how long that took.
func (n *benchNode) stop() time.Duration {
	begin := time.Now()
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	n.wait()
	return time.Since(begin)
}

func (n *benchNode) signal(s syscall.Signal) {
	if err := n.cmd.Process.Signal(s); err != nil {
		n.b.Fatal(err)
	}
}

func (n *benchNode) kill() {
	_ = n.cmd.Process.Kill()
	n.wait()
}

func (n *benchNode) wait() {
	n.running.Store(0)
	select {
	case <-n.ended:
	case <-time.After(30 * time.Second):
		_ = n.cmd.Process.Kill()
		<-n.ended
		n.b.Error("the node did not stop within 30 s")
	}
	n.cmd = nil
}

// until asks again and again until ask has no complaint.
func (n *benchNode) until(within time.Duration, what string, ask func() error) {
	n.b.Helper()
	n.untilEvery(2*time.Millisecond, within, what, ask)
}

// untilEvery asks at longer intervals, where asking costs something.
func (n *benchNode) untilEvery(pause, within time.Duration, what string, ask func() error) {
	n.b.Helper()
	deadline := time.Now().Add(within)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.b.Fatalf("%s: %v", what, err)
		}
		time.Sleep(pause)
	}
}

// apiReady waits for the API and makes a client that holds key.
func (n *benchNode) apiReady(key string) {
	n.until(30*time.Second, "the API", func() error {
		c, err := net.Dial("tcp", n.api)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	var err error
	if n.client, err = newDemoClient(n.base, filepath.Join(n.dir, "tls", "ca.crt")); err != nil {
		n.b.Fatal(err)
	}
	if t, ok := n.client.http.Transport.(*http.Transport); ok {
		t.MaxIdleConnsPerHost = 128
	}
	n.client.key = key
}

// accepted waits for the first Access-Accept.
func (n *benchNode) accepted(login int) {
	n.until(30*time.Second, "the first Access-Accept", func() error {
		c, err := radclient.Dial(n.auth, []byte(radbench.Secret), time.Now, radclient.Options{Timeout: 3 * time.Millisecond, Tries: 1})
		if err != nil {
			return err
		}
		defer c.Close()
		password := "secret"
		r, err := c.Do(context.Background(), radclient.Request{Code: packet.AccessRequest, Attrs: loginAttrs(nil, login), Password: &password})
		if err == nil && r.Code != packet.AccessAccept {
			return errors.New("refused")
		}
		return err
	})
}

func loginAttrs(dst []byte, n int) []byte {
	return packet.AppendString(packet.AppendString(dst, packet.UserName, radbench.Login(n)), packet.CallingStationID, "00:E1:0C:38:C8:F8")
}

// claim takes the new node over.
func (n *benchNode) claim() string {
	var code []byte
	n.until(10*time.Second, "the claim code", func() (err error) {
		code, err = os.ReadFile(filepath.Join(n.dir, "claim-code"))
		return err
	})
	key, err := n.client.claim(context.Background(), edge.Secret(strings.TrimSpace(string(code))))
	if err != nil {
		n.b.Fatal(err)
	}
	return key
}

// seed makes the tower and so many subscribers through the API, in batches of five that eight callers send at once.
func (n *benchNode) seed(count int) {
	ctx := context.Background()
	one := func(cmd command) edge.ID {
		answers, err := n.client.batch(ctx, "seed-"+cmd.Op, []command{cmd})
		if err != nil {
			n.b.Fatal(cmd.Op, ": ", err)
		}
		id, err := createdID(answers[0])
		if err != nil {
			n.b.Fatal(err)
		}
		return id
	}
	n.nas = one(command{"aaa.nas.register", map[string]any{
		"identifier": "bench", "addresses": []string{"127.0.0.1"}, "secret": radbench.Secret, "vendor": "mikrotik", "require_message_authenticator": "always",
	}})
	policy := one(command{"aaa.policy.create", map[string]any{
		"name": "Home 20", "down_kbps": 20_000, "up_kbps": 5_000, "pool": "homes", "idle_timeout": 900, "session_timeout": 40_000, "interim_interval": 300,
	}})
	plan := one(command{"billing.plan.create", map[string]any{
		"code": "HOME20", "name": "Home 20", "kind": "recurring", "price": map[string]any{"amount_minor": 2500, "currency": "USD"},
		"interval": map[string]any{"unit": "month", "count": 1}, "policy_ref": policy,
	}})
	n.plan = plan
	one(command{"billing.plan.publish", map[string]any{"id": plan}})
	work := make(chan int)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for first := range work {
				var list []command
				for i := first; i < min(first+perBatch, count); i++ {
					list = append(list, benchSubscriber(i, plan)...)
				}
				if _, err := n.client.batch(ctx, "subscribers-"+strconv.Itoa(first), list); err != nil {
					n.b.Error(err)
					return
				}
			}
		})
	}
	for i := 0; i < count && !n.b.Failed(); i += perBatch {
		work <- i
	}
	close(work)
	callers.Wait()
	if n.b.Failed() {
		n.b.FailNow()
	}
}

func benchSubscriber(i int, plan edge.ID) []command {
	customer, subscription := edge.DeriveID("cus", "bench customer", i), edge.DeriveID("sub", "bench subscription", i)
	return []command{
		{"crm.customer.create", map[string]any{
			"id": customer, "kind": "person", "given_name": "Ann", "family_name": "Example " + strconv.Itoa(i), "status": "active", "language": "en",
			"timezone": demoZone, "currency": demoCurrency, "emails": []string{fmt.Sprintf("ann%d@example.com", i)},
		}},
		{"billing.subscription.create", map[string]any{
			"id": subscription, "customer_id": customer, "timezone": demoZone, "items": []map[string]any{{"plan_id": plan}},
		}},
		{"aaa.credential.create", aaaLogin{SubscriptionID: subscription, Username: radbench.Login(i), Password: "secret"}},
		{"billing.subscription.activate", map[string]any{"id": subscription}},
	}
}

// counter reads one sample of the node's metrics: the name with its labels.
func (n *benchNode) counter(name string) float64 {
	resp, err := http.Get("http://" + n.admin + "/metrics")
	if err != nil {
		n.b.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		n.b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				n.b.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// procValue reads one line of a file of /proc/PID, in its own unit.
func (n *benchNode) procValue(file, name string) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", n.pid(), file))
	if err != nil {
		n.b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			v, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				n.b.Fatal(err)
			}
			return v
		}
	}
	n.b.Fatalf("/proc/PID/%s has no %s", file, name)
	return 0
}

package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"wispgate/edge"
	"wispgate/gateway"
	"wispgate/gateway/limit"
)

// BenchmarkRequest compares requests through the whole gateway with a bare Fiber answer, in one run, over loopback sockets. The figure
// that counts is cpu-us/op: user and system time of this process per request. The client is a process of its own.
func BenchmarkRequest(b *testing.B) {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/hello", func(c *fiber.Ctx) error { return c.SendString("Hello, World!") })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	app.Handler() // builds the routes
	go func() { _ = app.Server().Serve(ln) }()
	defer func() { _ = app.Shutdown() }()

	limits := limit.New(limit.Config{Tenant: limit.Rate{Quota: 1 << 40, Window: time.Minute}, Client: limit.Rate{Quota: 1 << 40, Window: time.Minute}}, time.Now())
	m := open(b, func(c *gateway.Config, p *gateway.Ports) {
		p.Limiter = limiter{limits}
		c.AccessLog = io.Discard
	})
	id := m.make("bolt")
	fixed := open(b, func(c *gateway.Config, p *gateway.Ports) {
		p.Limiter = limiter{limits}
		p.Executor = constant{p.Executor}
		c.AccessLog = io.Discard
	})
	get := func(path string) []byte {
		return []byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAuthorization: Bearer full\r\nAccept: */*\r\n\r\n")
	}
	for _, bb := range []struct {
		name, addr string
		request    []byte
	}{
		{"bare Fiber", ln.Addr().String(), get("/hello")},
		{"gateway without kernel", fixed.addr, get("/api/v1/shop/items/" + id)},
		{"gateway and kernel", m.addr, get("/api/v1/shop/items/" + id)},
	} {
		b.Run(bb.name, func(b *testing.B) { hammer(b, bb.addr, bb.request) })
	}
}

// hammer lets a client process send the request over eight connections and reports this process's CPU per request.
func hammer(b *testing.B, addr string, request []byte) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	client := exec.Command(self)
	client.Env = append(os.Environ(), clientEnv+"="+addr, "WISPGATE_BENCH_REQUESTS="+strconv.Itoa(b.N))
	client.Stdin, client.Stderr = bytes.NewReader(request), os.Stderr
	b.ReportAllocs()
	before := cpu()
	start := time.Now()
	if err := client.Run(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "req/s")
}

// clientEnv makes the test program a client of the address it names.
const clientEnv = "WISPGATE_BENCH_CLIENT"

// runClient sends what stands on standard input again and again.
func runClient(addr string) error {
	const conns = 8
	request, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	total, err := strconv.Atoi(os.Getenv("WISPGATE_BENCH_REQUESTS"))
	if err != nil {
		return err
	}
	errs := make(chan error, conns)
	for i := range conns {
		n := total / conns
		if i == 0 {
			n += total % conns
		}
		go func() { errs <- repeat(addr, request, n) }()
	}
	for range conns {
		err = errors.Join(err, <-errs)
	}
	return err
}

func repeat(addr string, request []byte, n int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 4096)
	for range n {
		if _, err := c.Write(request); err != nil {
			return err
		}
		if err := skipAnswer(r); err != nil {
			return err
		}
	}
	return nil
}

// skipAnswer reads one answer with a Content-Length without allocating.
func skipAnswer(r *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && string(line[9:12]) != "200" {
			return fmt.Errorf("got %s", line)
		}
		if len(line) > 16 && string(line[:16]) == "Content-Length: " {
			length = 0
			for _, d := range line[16 : len(line)-2] {
				length = length*10 + int(d-'0')
			}
		}
		if len(line) == 2 {
			_, err := r.Discard(length)
			return err
		}
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// constant answers every read at once, so that the gateway's own share shows.
type constant struct{ edge.Executor }

func (constant) Ask(context.Context, edge.Actor, string, json.RawMessage, uint64) (any, uint64, error) {
	return held, 1, nil
}

var held = item{Meta: edge.Meta{ID: foreign, TenantID: "acme", Version: 3}, Name: "bolt", Shelf: "top", Cents: 5}

// limiter fits the real limiter to the gateway, as edge/app does.
type limiter struct{ *limit.Limiter }

func (l limiter) Take(id *gateway.Identity, class edge.Class, cost int, now time.Time) gateway.Decision {
	return decided(l.Limiter.Take(limit.Subject{Tenant: id.Actor.Tenant, Client: id.Actor.Subject}, class, cost, now))
}

func (l limiter) TakeAddress(a netip.Addr, cost int, now time.Time) gateway.Decision {
	return decided(l.Limiter.TakeAddress(a, cost, now))
}

func decided(d limit.Decision) gateway.Decision {
	out := gateway.Decision{Allowed: d.Allowed, RetryAfter: d.RetryAfter, Tightest: d.Tightest, Remaining: d.Remaining, Reset: d.Reset}
	for i, p := range d.Policies() {
		out.Policies[i] = gateway.Policy{Name: p.Name, Rate: gateway.Rate(p.Rate)}
		out.Asked++
	}
	return out
}

package app

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"wispgate/aaa/radbench"
)

// benchPeer makes the test program one of the peers it measures against.
const benchPeer = "WISPGATE_BENCH_PEER"

func TestMain(m *testing.M) {
	var err error
	switch peer := os.Getenv(benchPeer); peer {
	case "":
		os.Exit(m.Run())
	case "echo":
		err = radbench.Child(context.Background(), radbench.RoleEcho, os.Stdin, os.Stdout, time.Now, nil)
	default:
		err = hello(peer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// hello is a bare Fiber program that answers two words: over TLS with the node's own certificate, and over a unix socket. It ends with
// its standard input.
func hello(dataDir string) error {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/hello", func(c *fiber.Ctx) error { return c.SendString("Hello, World!") })
	app.Handler() // builds the routes
	cert, err := tls.LoadX509KeyPair(filepath.Join(dataDir, "tls", "server.crt"), filepath.Join(dataDir, "tls", "server.key"))
	if err != nil {
		return err
	}
	secure, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	socket := filepath.Join(dataDir, "hello.sock")
	plain, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	for _, l := range []net.Listener{secure, plain} {
		go func() { _ = app.Server().Serve(l) }()
	}
	fmt.Printf("ready %s %s\n", secure.Addr(), socket)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startPeer starts this program as a peer.
func startPeer(b testing.TB, role radbench.Role, peer string) *radbench.Process {
	b.Helper()
	cmd := asOthers(os.Args[0])
	cmd.Env = append(os.Environ(), benchPeer+"="+peer)
	cmd.Stderr = os.Stderr
	p, err := radbench.Start(role, cmd)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Stop() })
	return p
}

// httpTarget is a server, and a request that it answers with 200 or 201.
type httpTarget struct {
	pid              int
	network, address string
	secure           bool
	request          func(n int) []byte
}

// hammer sends so many requests over so many kept connections, and returns how long each took.
func (t httpTarget) hammer(conns, requests int) ([]time.Duration, error) {
	type result struct {
		took []time.Duration
		err  error
	}
	results := make(chan result, conns)
	for i := range conns {
		go func() {
			took, err := t.repeat(requests*i/conns, requests*(i+1)/conns)
			results <- result{took, err}
		}()
	}
	var all []time.Duration
	var err error
	for range conns {
		r := <-results
		all, err = append(all, r.took...), errors.Join(err, r.err)
	}
	return all, err
}

func (t httpTarget) repeat(from, to int) ([]time.Duration, error) {
	c, err := net.Dial(t.network, t.address)
	if err != nil {
		return nil, err
	}
	if t.secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	defer c.Close()
	took := make([]time.Duration, 0, to-from)
	r := bufio.NewReaderSize(c, 8192)
	for n := from; n < to; n++ {
		begin := time.Now()
		if _, err := c.Write(t.request(n)); err != nil {
			return took, err
		}
		if err := skipAnswer(r); err != nil {
			return took, err
		}
		took = append(took, time.Since(begin))
	}
	return took, nil
}

// skipAnswer reads an answer with a Content-Length.
func skipAnswer(r *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && (len(line) < 12 || line[9] != '2') {
			rest, _ := r.Peek(r.Buffered())
			return fmt.Errorf("got %s%s", line, rest)
		}
		if value, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return err
			}
		}
		if len(line) == 2 {
			_, err := r.Discard(length)
			return err
		}
	}
}

func getRequest(path, key string) func(int) []byte {
	raw := []byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAuthorization: Bearer " + key + "\r\nAccept: */*\r\n\r\n")
	return func(int) []byte { return raw }
}

func postRequest(path, key, prefix string, body func(n int) string) func(int) []byte {
	return func(n int) []byte {
		text := body(n)
		return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAuthorization: Bearer %s\r\nIdempotency-Key: %s-%d\r\n"+
			"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, key, prefix, n, len(text), text)
	}
}

// cpuOf lets the targets take turns and returns the median CPU time of each per request. One round goes first and is not counted.
func cpuOf(b testing.TB, rounds, conns, requests int, targets ...httpTarget) []time.Duration {
	b.Helper()
	all := make([][]time.Duration, len(targets))
	for round := range rounds + 1 {
		for i, t := range targets {
			before, err := radbench.CPU(t.pid)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := t.hammer(conns, requests); err != nil {
				b.Fatal(err)
			}
			after, err := radbench.CPU(t.pid)
			if err != nil {
				b.Fatal(err)
			}
			if round > 0 {
				all[i] = append(all[i], (after-before)/time.Duration(requests))
			}
		}
	}
	medians := make([]time.Duration, len(targets))
	for i := range all {
		medians[i] = median(all[i])
	}
	return medians
}

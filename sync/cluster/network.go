package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/s2"
)

// Network is how nodes reach each other below TLS. The default is TCP; tests put a network of their own under whole clusters.
type Network interface {
	Listen(ctx context.Context, address string) (net.Listener, error)
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// tcp is the network.
type tcp struct{}

func (tcp) Listen(ctx context.Context, address string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
}

func (tcp) Dial(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// checkAddress refuses what cannot be dialled.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || len(address) > 300 {
		return fmt.Errorf("the address is not host:port")
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return errors.New("the address is that of no machine")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("the address has no port")
	}
	return nil
}

// compressBlock is the largest piece that is compressed at a time: it bounds the memory of a connection.
const compressBlock = 64 << 10

// compressed is a connection whose octets are compressed, each write for itself, so that nothing waits for more. Raft's entries are mostly
// JSON, and radio links are slow.
type compressed struct {
	net.Conn
	r io.Reader

	mu sync.Mutex
	w  *s2.Writer
}

func compress(c net.Conn) net.Conn {
	return &compressed{
		Conn: c,
		r:    s2.NewReader(c, s2.ReaderMaxBlockSize(compressBlock), s2.ReaderAllocBlock(4<<10)),
		w:    s2.NewWriter(c, s2.WriterBlockSize(compressBlock), s2.WriterConcurrency(1), s2.WriterFlushOnWrite()),
	}
}

func (c *compressed) Read(b []byte) (int, error) { return c.r.Read(b) }

func (c *compressed) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.w.Write(b)
}

// The time-outs of connections.
const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
)

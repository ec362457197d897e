package gateway

import (
	"io"
	"net"
	"time"
)

// lingering makes a listener's connections close in two steps. A connection that is closed while octets of its client are unread is
// reset by the kernel, and the reset destroys an answer on its way: who sent too large a body would never read the 413.
type lingering struct{ net.Listener }

// Accept implements net.Listener.
func (l lingering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		return &lingerConn{tcp}, nil
	}
	return c, err
}

type lingerConn struct{ *net.TCPConn }

// How much of a refused request is still read, and for how long, so that the client reads our answer. Where nothing waits to be read the
// connection closes at once.
const (
	lingerOctets = 256 << 10
	lingerLook   = time.Millisecond
	lingerTime   = 300 * time.Millisecond
)

// Close implements net.Conn.
func (c *lingerConn) Close() error {
	if c.CloseWrite() == nil && c.unread(lingerLook, 1) {
		c.unread(lingerTime, lingerOctets)
	}
	return c.TCPConn.Close()
}

// unread drops up to n octets that the client has sent and reports whether there were any.
func (c *lingerConn) unread(wait time.Duration, n int64) bool {
	if c.SetReadDeadline(time.Now().Add(wait)) != nil { //nolint:forbidigo // the kernel's deadline, not our clock
		return false
	}
	got, _ := io.CopyN(io.Discard, c.TCPConn, n)
	return got > 0
}

package radiusd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"wispgate/edge"
)

// ErrPortInUse says that another program holds the port.
var ErrPortInUse = edge.Reason{Code: "radius_port_in_use", Says: "Another program already listens on the RADIUS port", Fix: "Stop it (often freeradius or a second wispgate), or choose other ports in the configuration"}

// listen opens n sockets that share one address; the kernel gives each source to one of them for good. The first bind
// is exclusive, so that a second program of the same user is noticed instead of getting half of the packets.
func listen(addr string, n, buffer int) (conns []*net.UDPConn, granted int, err error) {
	probe, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", addr) //nolint:forbidigo // binding an address waits for nothing
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, 0, ErrPortInUse.Error(edge.Unavailable)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("listen for radius: %w", err)
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, 0, errors.Join(err, probe.Close())
	}
	local := probe.LocalAddr().(*net.UDPAddr)
	port, wildcard := local.Port, local.IP.IsUnspecified()
	if err := probe.Close(); err != nil {
		return nil, 0, fmt.Errorf("listen for radius: %w", err)
	}
	addr = net.JoinHostPort(host, fmt.Sprint(port))
	for range n {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return onSocket(c, func(fd int) (err error) {
				if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err == nil {
					granted, err = prepare(fd, buffer, wildcard)
				}
				return err
			})
		}}
		c, err := lc.ListenPacket(context.Background(), "udp", addr) //nolint:forbidigo // binding an address waits for nothing
		if err != nil {
			for _, c := range conns {
				_ = c.Close()
			}
			return nil, 0, fmt.Errorf("listen for radius: %w", err)
		}
		conns = append(conns, c.(*net.UDPConn))
	}
	return conns, granted, nil
}

func onSocket(c syscall.RawConn, do func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// sendBuffer holds the replies of a storm in octets: a full one loses replies rather than making anybody wait.
const sendBuffer = 1 << 20

// prepare asks for what each datagram should tell (the address it was sent to, when it arrived, how many were lost
// before it) and for a large receive buffer. A socket bound to one address answers from it anyway, so only a wildcard
// asks where a datagram went. It returns the granted size in octets.
func prepare(fd, buffer int, wildcard bool) (int, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return 0, err
	}
	switch {
	case !wildcard:
	case domain == unix.AF_INET6:
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	default:
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	if err != nil {
		return 0, err
	}
	// Without these a kernel is still served; the stale check and the drop counter then see nothing.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil { // needs CAP_NET_ADMIN
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
			return 0, err
		}
	}
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return size / 2, err // the kernel doubles it for its own bookkeeping
}

// descriptor returns the number of the socket, for calls that move several datagrams. It is valid until c is closed.
func descriptor(c *net.UDPConn) (fd uintptr) {
	if rc, err := c.SyscallConn(); err == nil {
		_ = rc.Control(func(n uintptr) { fd = n })
	}
	return fd
}

// segments reports whether the kernel knows UDP_SEGMENT (Linux 4.18). An older one would ignore the control message and
// send all replies of a message as one datagram.
func segments(c *net.UDPConn) bool {
	rc, err := c.SyscallConn()
	return err == nil && onSocket(rc, func(fd int) error {
		_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		return err
	}) == nil
}

// controlRoom holds every control message we ask for, on 32 and 64 bits.
const controlRoom = 128

// control reads and writes the control messages of one socket in memory of its own.
type control struct {
	v4, v6   [controlRoom]byte // templates of IP_PKTINFO and IPV6_PKTINFO
	n4, n6   int
	out      []byte
	drops    uint32
	received int64
}

func (c *control) init() {
	c.n4 = copy(c.v4[:], unix.PktInfo4(&unix.Inet4Pktinfo{}))
	c.n6 = copy(c.v6[:], unix.PktInfo6(&unix.Inet6Pktinfo{}))
}

// read takes the messages of one datagram and returns when the kernel received it, in Unix nanoseconds, 0 if unknown.
func (c *control) read(oob []byte) int64 {
	c.out, c.received = nil, 0
	data := unix.CmsgLen(0)
	for len(oob) >= unix.SizeofCmsghdr {
		h, value, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(value) >= unix.SizeofInet4Pktinfo:
			// Answer from the address asked, by whatever interface the routes say: index 0.
			copy(c.v4[data+4:data+8], value[4:8])
			c.out = c.v4[:c.n4]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(value) >= unix.SizeofInet6Pktinfo:
			copy(c.v6[data:data+16], value[:16])
			clear(c.v6[data+16 : data+20])
			if value[0] == 0xfe && value[1]&0xc0 == 0x80 { // a link-local address means nothing without its link
				copy(c.v6[data+16:data+20], value[16:20])
			}
			c.out = c.v6[:c.n6]
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_TIMESTAMPNS_NEW && len(value) >= 16:
			c.received = int64(binary.NativeEndian.Uint64(value))*1e9 + int64(binary.NativeEndian.Uint64(value[8:]))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(value) >= 4:
			c.drops = binary.NativeEndian.Uint32(value)
		}
		oob = rest
	}
	return c.received
}

// reply returns the control message that makes the answer leave from the address asked; nil if the kernel did not say.
func (c *control) reply() []byte { return c.out }

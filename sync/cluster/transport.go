package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// alpn separates raft's traffic from forwarding on the same port.
const alpn = "wg-raft/1"

// newTransport is in memory for a node that stands alone, else TCP under mutual TLS. There is no plain TCP: whoever could reach the port
// could write the log.
func newTransport(c *Config) (raft.Transport, func() error, error) {
	if c.BindAddr == "" {
		_, t := raft.NewInmemTransport(raft.ServerAddress(c.NodeID))
		return t, t.Close, nil
	}
	if c.TLS == nil || c.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, nil, errors.New("raft over the network needs a TLS configuration that verifies both sides")
	}
	conf := c.TLS.Clone()
	conf.NextProtos = []string{alpn}
	conf.MinVersion = tls.VersionTLS13
	l, err := tls.Listen("tcp", c.BindAddr, conf)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for raft: %w", err)
	}
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: stream{l, conf}, MaxPool: 3, Timeout: 10 * time.Second, Logger: newRaftLog(c.Logger),
	})
	return t, t.Close, nil
}

// stream dials and accepts with the same TLS configuration.
type stream struct {
	net.Listener
	conf *tls.Config
}

func (s stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: timeout}, Config: s.conf}
	return d.DialContext(context.Background(), "tcp", string(address)) //nolint:forbidigo // bounded by the timeout; raft hands over no context
}

package cluster

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// newTransport is in memory for a node that stands alone, else raft's streams on the node's port. There is no plain TCP: whoever could
// reach the port could write the log.
func (n *Node) newTransport(times Timeouts, snaps *snapshots) (raft.Transport, func() error) {
	if n.port == nil {
		_, t := raft.NewInmemTransport(raft.ServerAddress(n.conf.NodeID))
		return t, t.Close
	}
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.port.openStream(n.conf.NodeID), MaxPool: 3, Timeout: times.Transport, Logger: newRaftLog(n.conf.Logger),
	})
	t.TimeoutScale = times.SnapshotScale
	g := &guarded{NetworkTransport: t, queue: queue{rpcs: make(chan raft.RPC), quit: make(chan struct{}), stands: snaps.stands}}
	go g.forward(t.Consumer()) // ends with quit, or when a carried state that it waits behind is done
	return g, func() error {
		t.CloseStreams()
		close(g.quit)
		return errors.Join(t.Close(), g.hush())
	}
}

// guarded is raft's transport whose heartbeats can be waited for. Raft answers them on the connection's own goroutine, where it may write
// its term, and its Shutdown does not wait for that: a log closed meanwhile would end the program.
type guarded struct {
	*raft.NetworkTransport
	queue

	mu     sync.RWMutex
	silent bool
}

// Consumer implements raft.Transport: requests of the network, and carried ones.
func (g *guarded) Consumer() <-chan raft.RPC { return g.rpcs }

// SetHeartbeatHandler implements raft.Transport.
func (g *guarded) SetHeartbeatHandler(beat func(raft.RPC)) {
	g.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		g.mu.RLock()
		defer g.mu.RUnlock()
		if g.silent {
			rpc.Respond(nil, raft.ErrTransportShutdown)
			return
		}
		beat(rpc)
	})
}

// hush refuses heartbeats from now on, and lets those that are being answered come to their end for a while: on a disk that hangs they do
// not, and then the log stays open, too.
func (g *guarded) hush() error {
	hushed := make(chan struct{})
	go func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.silent = true
		close(hushed)
	}()
	wait := time.NewTimer(stopWait)
	defer wait.Stop()
	select {
	case <-hushed:
		return nil
	case <-wait.C:
		return errHung
	}
}

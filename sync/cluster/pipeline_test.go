package cluster

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// line is raft's stream over loopback.
type line struct{ net.Listener }

func (line) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(address), timeout)
}

// pipelineTo makes a pipeline to a follower that answers as it is told to.
func pipelineTo(t *testing.T, answer func(*raft.AppendEntriesRequest) *raft.AppendEntriesResponse) raft.AppendPipeline {
	t.Helper()
	transport := func() *raft.NetworkTransport {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		tr := raft.NewNetworkTransport(line{ln}, 3, time.Minute, nil)
		t.Cleanup(func() { _ = tr.Close() })
		return tr
	}
	follower, leader := transport(), &guarded{NetworkTransport: transport()}
	quit := make(chan struct{})
	t.Cleanup(func() { close(quit) })
	go func() {
		for {
			select {
			case rpc := <-follower.Consumer():
				rpc.Respond(answer(rpc.Command.(*raft.AppendEntriesRequest)), nil)
			case <-quit:
				return
			}
		}
	}()
	p, err := leader.AppendEntriesPipeline("n2", follower.LocalAddr())
	check(t, err)
	t.Cleanup(func() { check(t, p.Close()) })
	return p
}

// Raft's reader leaves a pipeline at the first refusal; whatever its writer sends before it notices must not keep the writer.
func TestAWriterIsNotKeptByAReaderThatLeft(t *testing.T) {
	t.Parallel()
	p := pipelineTo(t, func(req *raft.AppendEntriesRequest) *raft.AppendEntriesResponse {
		return &raft.AppendEntriesResponse{Term: req.Term, Success: req.PrevLogEntry == 0}
	})
	written := make(chan error, 1)
	go func() {
		for i := range uint64(16) { // the first is taken, all others are refused
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1, PrevLogEntry: i}, new(raft.AppendEntriesResponse)); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for i, want := range []bool{true, false} {
		if a := <-p.Consumer(); a.Request().PrevLogEntry != uint64(i) || a.Response().Success != want {
			t.Fatalf("answer %d is to request %d and says %v, want %v", i, a.Request().PrevLogEntry, a.Response().Success, want)
		}
	}
	select {
	case err := <-written:
		check(t, err)
	case <-time.After(time.Minute):
		t.Error("the writer waits for a reader")
	}
}

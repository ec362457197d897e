package cluster

import (
	"sync"

	"github.com/hashicorp/raft"
)

// AppendEntriesPipeline implements raft.Transport.
func (g *guarded) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := g.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	p := &pipeline{AppendPipeline: inner, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	go p.hand()
	return p, nil
}

// pipeline keeps raft from waiting for itself. At the first answer that is no success raft's reader of a pipeline leaves, but its writer
// may send another request before it notices: a select of two that are ready takes either. The transport's own pipeline waits for a reader
// of the answer before it takes the request after next, so the writer would stand there for good: that follower would get nothing more for
// as long as this node leads, and raft would not end when it is told to. Here everything behind such an answer is read and dropped.
type pipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	once    sync.Once
	closed  chan struct{}
}

func (p *pipeline) hand() {
	left := false // the reader has what makes it leave
	for {
		select {
		case a := <-p.AppendPipeline.Consumer():
			if left {
				continue
			}
			left = !a.Response().Success || a.Response().Term > a.Request().Term
			select {
			case p.answers <- a:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}

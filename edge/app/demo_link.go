package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// demoLink stands for the backhaul between tower and NOC: a TCP proxy that can be cut.
type demoLink struct {
	ln     net.Listener
	to     string
	dialer net.Dialer

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

func listenLink(addr, to string) (*demoLink, error) {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for the uplink: %w", err)
	}
	return &demoLink{ln: ln, to: to, conns: map[net.Conn]struct{}{}}, nil
}

// run forwards until ctx ends; then every connection is closed.
func (l *demoLink) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = l.ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	for {
		conn, err := l.ln.Accept()
		if err != nil {
			break // closed
		}
		wg.Go(func() { l.forward(ctx, conn) })
	}
	l.set(true)
	wg.Wait()
}

// set cuts the link or mends it.
func (l *demoLink) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for c := range l.conns {
			_ = c.Close()
		}
	}
}

// hold registers a connection; false when the link is cut.
func (l *demoLink) hold(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *demoLink) drop(c net.Conn) {
	_ = c.Close()
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
}

func (l *demoLink) forward(ctx context.Context, from net.Conn) {
	defer l.drop(from)
	if !l.hold(from) {
		return
	}
	to, err := l.dialer.DialContext(ctx, "tcp", l.to)
	if err != nil {
		return
	}
	defer l.drop(to)
	if !l.hold(to) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(to, from)
		_ = to.Close() // ends the copy below
	}()
	_, _ = io.Copy(from, to)
	_ = from.Close()
	<-done
}

// How the flaky link behaves: the first cut comes soon enough to be seen.
const (
	firstCut = 50 * time.Second
	cutEvery = 2 * time.Minute
	cutFor   = 15 * time.Second
)

// weather cuts the link now and then.
func (l *demoLink) weather(ctx context.Context, b *board) {
	wait := func(d time.Duration) bool {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for pause := firstCut; wait(pause); pause = cutEvery {
		l.set(true)
		b.linkUp.Store(false)
		b.tell(happening{Kind: wasLink, Text: "The backhaul is down. Subscribers stay online; events wait on the tower"})
		if !wait(cutFor) {
			return
		}
		l.set(false)
		b.linkUp.Store(true)
		b.tell(happening{Kind: wasLink, Text: "The backhaul is back. What waited goes out, in order"})
	}
}

package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/store"
)

func TestALoneNodeAnswersItself(t *testing.T) {
	dir := t.TempDir()
	w := raise(t, dir, store.Options{}, conf(dir))
	if !w.node.Contact() {
		t.Error("a lone leader has no contact with itself")
	}
	if _, err := w.node.Forward(t.Context(), nil); code(err) != "starting" {
		t.Errorf("got %v without a handler, want starting", err)
	}
	denied := &edge.Error{Kind: edge.Denied, Code: "no", Message: "No", Fix: "Stop", RetryAfter: 7}
	w.node.Handle(MethodIntent, func(_ context.Context, from string, body []byte) ([]byte, error) {
		switch string(body) {
		case "denied":
			return nil, denied
		case "broken":
			return nil, errors.New("a detail")
		}
		return []byte(from + " " + string(body)), nil
	})
	if got, err := w.node.Forward(t.Context(), []byte("hello")); err != nil || string(got) != "n1 hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := w.node.Forward(t.Context(), []byte("denied")); !errors.Is(err, denied) {
		t.Errorf("got %v, want the handler's own error", err)
	}
	if _, err := w.node.Forward(t.Context(), []byte("broken")); code(err) != "internal" {
		t.Errorf("got %v, want internal", err)
	}
	if _, err := w.node.Call(t.Context(), "n2", MethodIntent, nil); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v from nobody, want quorum_lost", err)
	}
	if list, _ := w.node.Members(); len(list) != 1 || list[0].Node != "n1" || !list[0].Voter || list[0].State != "leader" {
		t.Errorf("got %v", list)
	}
	w.close(t)
	if w.node.Contact() {
		t.Error("a node that is shut down has contact")
	}
	if _, err := w.node.Forward(t.Context(), nil); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v after the end, want quorum_lost", err)
	}
}

// TestAPlaceIsFreeOnceTheAnswerIsThere fills every place, answers one, and asks again before the server's write has returned.
func TestAPlaceIsFreeOnceTheAnswerIsThere(t *testing.T) {
	here, there := net.Pipe()
	n := &Node{conf: Config{Now: time.Now}, log: slog.New(slog.DiscardHandler), handlers: map[string]Handler{}}
	asked, answer := make(chan struct{}, 2*maxInFlight), make(chan struct{})
	n.Handle("hold", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		asked <- struct{}{}
		select {
		case <-answer:
		case <-ctx.Done():
		}
		return nil, nil
	})
	held := &heldConn{Conn: there, wrote: make(chan struct{}), release: make(chan struct{})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		n.serveConn(t.Context(), held, "n2", false, false)
	}()
	out := &frames{conn: here, now: time.Now}
	wait := func(what string, ch <-chan struct{}) {
		t.Helper()
		select {
		case <-ch:
		case <-within(t, time.Minute).Done():
			t.Fatal("not in time: " + what)
		}
	}
	hold := request{method: "hold", wait: time.Minute}.encode()
	for id := range maxInFlight {
		check(t, out.write(frame{kind: kindRequest, id: uint64(id), payload: hold}))
		wait("a request is taken", asked)
	}
	go func() { _, _ = io.Copy(io.Discard, here) }()
	answer <- struct{}{}
	wait("the answer is written", held.wrote)
	check(t, out.write(frame{kind: kindRequest, id: maxInFlight, payload: hold}))
	wait("a request in the place that is free again is taken", asked)
	close(held.release)
	close(answer)
	_ = here.Close()
	<-served
}

// heldConn delivers its first write and returns from it when it is released.
type heldConn struct {
	net.Conn
	once           sync.Once
	wrote, release chan struct{}
}

func (c *heldConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.once.Do(func() {
		close(c.wrote)
		<-c.release
	})
	return n, err
}

// hastyConn is the way to one that answers and closes at once: its answer and its end are both read before the request's Write returns.
type hastyConn struct {
	net.Conn
	answer io.Writer
	ended  chan struct{}
}

func (c *hastyConn) Write(b []byte) (int, error) {
	if _, err := c.answer.Write(frame{kind: kindAnswer, id: 1, payload: []byte("yes")}.append(nil)); err != nil {
		return 0, err
	}
	_ = c.answer.(io.Closer).Close()
	<-c.ended
	return len(b), nil
}

func (c *hastyConn) Close() error { close(c.ended); return c.Conn.Close() }

// The node that joins asks once, and the one that lets it in answers and closes. An answer that arrived is never called unknown.
func TestAnAnswerBeforeTheEndIsHeard(t *testing.T) {
	for range 64 { // a coin at a time
		near, far := net.Pipe()
		k := newLink(&hastyConn{Conn: near, answer: far, ended: make(chan struct{})}, time.Now)
		go k.read()
		if got, err := k.askRaw(t.Context(), nil); err != nil || string(got) != "yes" {
			t.Fatalf("got %q, %v; want the answer", got, err)
		}
	}
}

// TestACallerOfLittlePatienceFindsADeadConnectionToo: the leader's look waits two seconds for an answer, again and again. Where a firewall has forgotten the
// connection, nothing ever comes back over it, and nobody says so.
func TestACallerOfLittlePatienceFindsADeadConnectionToo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		k := newLink(here, time.Now)
		var both sync.WaitGroup
		both.Go(k.read)
		both.Go(func() { _, _ = io.Copy(io.Discard, there) })
		begun := time.Now()
		for !k.dead() && time.Since(begun) < time.Minute {
			ctx, cancel := context.WithTimeout(t.Context(), silentAfter/2)
			_, err := k.ask(ctx, request{method: methodStats})
			cancel()
			if !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("got %v", err)
			}
		}
		if took := time.Since(begun); took > 2*silentAfter {
			t.Errorf("it was found dead after %v", took)
		}
		k.close(net.ErrClosed)
		check(t, there.Close())
		both.Wait()
	})
}

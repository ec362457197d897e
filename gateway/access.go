package gateway

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"

	"wispgate/gateway/plan"
)

// accessLog keeps a line per plain read: requests append to a buffer, one goroutine writes it. It is not fsynced, and it never holds a
// request up: while the writer is behind, lines are dropped and counted.
type accessLog struct {
	w       io.Writer
	wake    chan struct{}
	mu      sync.Mutex
	buf     []byte // being filled
	spare   []byte
	dropped int64
}

const (
	accessBuffer = 64 << 10
	accessFlush  = time.Second
)

func newAccessLog(w io.Writer) *accessLog {
	l := &accessLog{w: w, wake: make(chan struct{}, 1)}
	if w != nil {
		l.buf, l.spare = make([]byte, 0, accessBuffer), make([]byte, 0, accessBuffer)
	}
	return l
}

// add appends the line of a request. Above half a buffer only every eighth is kept, refusals apart; full, none.
func (l *accessLog) add(x *exchange, took time.Duration) {
	if l.w == nil {
		return
	}
	line := appendAccess(x.line[:0], x, took)
	x.line = line
	l.mu.Lock()
	sampled := len(l.buf) > accessBuffer/2 && x.status < 400 && x.id[39]&7 != 0
	if sampled || len(l.buf)+len(line) > accessBuffer {
		l.dropped++
		l.mu.Unlock()
		return
	}
	l.buf = append(l.buf, line...)
	full := len(l.buf) > accessBuffer/4
	l.mu.Unlock()
	if full {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

func appendAccess(b []byte, x *exchange, took time.Duration) []byte {
	b = append(b, `{"time":`...)
	b = appendTime(b, x.started)
	b = appendMember(b, "request_id", x.request())
	if client := x.header("X-Request-Id"); len(client) > 0 {
		b = appendMember(b, "client_request_id", view(client[:min(len(client), 64)]))
	}
	if trace := x.header("Traceparent"); len(trace) > 0 {
		b = appendMember(b, "traceparent", view(trace[:min(len(trace), 64)]))
	}
	if x.who != nil {
		b = appendMember(b, "tenant", x.who.Actor.Tenant)
		b = appendMember(b, "actor", x.who.Actor.Subject)
	}
	b = appendAddress(b, x.address)
	b = append(b, `,"method":`...)
	b = plan.AppendString(b, x.method()[:min(len(x.method()), 16)])
	if x.rt != nil {
		b = appendMember(b, "operation", x.operation())
	} else {
		path := x.path()
		b = appendMember(b, "path", view(path[:min(len(path), 128)]))
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(x.status), 10)
	b = appendMember(b, "code", x.code)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, int64(len(x.ctx.Response.Body())), 10)
	b = append(b, `,"took_us":`...)
	b = strconv.AppendInt(b, took.Microseconds(), 10)
	return append(b, '}', '\n')
}

func (l *accessLog) run(ctx context.Context) {
	if l.w == nil {
		return
	}
	t := time.NewTicker(accessFlush)
	defer t.Stop()
	for {
		select {
		case <-l.wake:
		case <-t.C:
		case <-ctx.Done():
			l.flush()
			return
		}
		l.flush()
	}
}

// flush swaps the buffers and writes outside the mutex. Only run calls it.
func (l *accessLog) flush() {
	l.mu.Lock()
	full := l.buf
	l.buf = l.spare[:0]
	l.mu.Unlock()
	if len(full) > 0 {
		if _, err := l.w.Write(full); err != nil {
			l.mu.Lock()
			l.dropped++
			l.mu.Unlock()
		}
	}
	l.spare = full[:0]
}

func (l *accessLog) lost() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

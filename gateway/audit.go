package gateway

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

// An audit line is one JSON object per command, refused credential, refused scope and read of secrets. It names who did what to which
// records and what came of it; it holds no body, no secret, and no text of the client's that is not escaped.

const auditTimeout = 5 * time.Second // at least, for the group commit of one line

// auditReady refuses work that could not be accounted for: after a line was lost, a probe must be written before anything else runs.
func (s *Server) auditReady(x *exchange) *edge.Error {
	if !s.auditBroken.Load() {
		return nil
	}
	x.status, x.code = 0, "probe"
	return s.append(x, x.auditLine())
}

// auditEnd appends the line of a request that has its answer. When it cannot, the answer is taken back: what was done is found again
// with the same Idempotency-Key.
func (s *Server) auditEnd(x *exchange) {
	if e := s.append(x, x.auditLine()); e != nil {
		x.refuse(e)
	}
}

func (s *Server) append(x *exchange, line []byte) *edge.Error {
	start := s.cfg.Now()
	err := s.ports.Auditor.Audit(s.auditLimit.at(s.base, start), line)
	s.counts.audit(s.cfg.Now().Sub(start), err)
	if err == nil {
		s.auditBroken.Store(false)
		return nil
	}
	if !s.auditBroken.Swap(true) {
		s.log.Error("audit line could not be written", "request_id", string(x.id[:]), "error", err)
	}
	return errAudit.Error(edge.Unavailable)
}

// sharedLimit hands out contexts that end after limit, or up to a quarter later: whoever asks within that quarter shares one. A context
// and timer of its own would cost a line as much as all else about it.
type sharedLimit struct {
	limit time.Duration

	mu   sync.Mutex
	made time.Time
	ctx  context.Context // it is what is shared
}

func (l *sharedLimit) at(base context.Context, now time.Time) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil || now.Sub(l.made) >= l.limit/4 || l.ctx.Err() != nil {
		ctx, cancel := context.WithTimeout(base, l.limit+l.limit/4)
		context.AfterFunc(ctx, cancel) // its timer ends it: those who hold it may still wait
		l.made, l.ctx = now, ctx
	}
	return l.ctx
}

func (x *exchange) auditLine() []byte {
	b := append(x.line[:0], `{"time":`...)
	b = appendTime(b, x.started)
	b = appendMember(b, "request_id", x.request())
	b = appendMember(b, "operation_id", x.op)
	b = appendMember(b, "node", x.s.cfg.Node)
	if x.who != nil {
		b = appendMember(b, "tenant", x.who.Actor.Tenant)
		b = appendMember(b, "actor", x.who.Actor.Subject)
		b = appendMember(b, "key", x.who.Actor.Key)
	}
	b = appendAddress(b, x.address)
	b = appendMember(b, "operation", x.operation())
	b = append(b, `,"records":[`...)
	for i, r := range x.records {
		if i > 0 {
			b = append(b, ',')
		}
		b = plan.AppendString(b, r)
	}
	b = append(b, `],"status":`...)
	b = strconv.AppendInt(b, int64(x.status), 10)
	b = appendMember(b, "code", x.code)
	if x.dryRun {
		b = append(b, `,"dry_run":true`...)
	}
	if x.version > 0 {
		b = append(b, `,"version":`...)
		b = strconv.AppendUint(b, x.version, 10)
	}
	x.line = append(b, '}')
	return x.line
}

// appendTime writes "2006-01-02T15:04:05.000Z", by hand: every request has a line, and AppendFormat would read the layout each time.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(append(b, '"'), year, 4)
	b = appendDigits(append(b, '-'), int(month), 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), hour, 2)
	b = appendDigits(append(b, ':'), minute, 2)
	b = appendDigits(append(b, ':'), second, 2)
	b = appendDigits(append(b, '.'), t.Nanosecond()/1e6, 3)
	return append(b, 'Z', '"')
}

// appendDigits writes the last n decimal digits of v.
func appendDigits(b []byte, v, n int) []byte {
	b = append(b, "0000"[:n]...)
	for i := len(b) - 1; n > 0; i, n = i-1, n-1 {
		b[i] += byte(v % 10)
		v /= 10
	}
	return b
}

func appendAddress(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return b
	}
	b = append(b, `,"address":"`...)
	b = a.AppendTo(b)
	return append(b, '"')
}

// floods counts the refusals of one source within a minute into one line, so that a flood does not wear out the flash. The first is
// written at once.
type floods struct {
	s  *Server
	mu sync.Mutex
	at map[source]int // refusals beyond the first
}

// source is an address (IPv6 by /64) and what it was refused for.
type source struct {
	address netip.Prefix
	code    string
}

const (
	maxSources  = 1024 // beyond it, sources share one line
	floodWindow = time.Minute
)

func newFloods(s *Server) *floods { return &floods{s: s, at: map[source]int{}} }

// first reports whether the refusal is its source's first in this minute and needs a line of its own.
func (f *floods) first(x *exchange) bool {
	bits := 32
	if x.address.Is6() {
		bits = 64
	}
	p, _ := x.address.Prefix(bits)
	key := source{p, x.code}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.at[key]
	if !ok && len(f.at) >= maxSources {
		key = source{code: "other"}
		n, ok = f.at[key]
	}
	if ok {
		n++
	}
	f.at[key] = n
	return !ok
}

func (f *floods) run(ctx context.Context) {
	t := time.NewTicker(floodWindow)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			f.flush()
		case <-ctx.Done():
			return
		}
	}
}

// flush writes a line for every source that was refused more than once, and forgets them all.
func (f *floods) flush() {
	f.mu.Lock()
	counted := f.at
	f.at = map[source]int{}
	f.mu.Unlock()
	for key, n := range counted {
		if n == 0 {
			continue
		}
		b := append([]byte(`{"time":`), appendTime(nil, f.s.cfg.Now())...)
		b = appendMember(b, "node", f.s.cfg.Node)
		if key.address.IsValid() {
			b = appendMember(b, "address", key.address.String())
		}
		b = appendMember(b, "code", key.code)
		b = append(b, `,"refused_again":`...)
		b = append(strconv.AppendInt(b, int64(n), 10), '}')
		ctx, cancel := context.WithTimeout(f.s.base, auditTimeout)
		if err := f.s.ports.Auditor.Audit(ctx, b); err != nil {
			f.s.log.Error("audit line of counted refusals could not be written", "error", err)
		}
		cancel()
	}
}

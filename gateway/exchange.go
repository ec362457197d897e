package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

// exchange is one request and its answer: the only thing that handlers see. Strings and slices taken from ctx are reused after the
// handler returns; whatever outlives it is copied where it leaves.
type exchange struct {
	s   *Server
	ctx *fasthttp.RequestCtx
	id  [40]byte // req_UUIDv7
	state

	// What is kept from one request to the next.
	records []string // ids that the request names or made
	check   plan.Checker
	in      []byte // the operation's input, assembled
	out     bytes.Buffer
	enc     *json.Encoder // writes to out
	line    []byte
}

// state is what belongs to one request alone.
type state struct {
	rt      *route            // nil until routed
	params  [maxParams]string // of the path, still escaped
	who     *Identity
	started time.Time
	address netip.Addr

	status  int
	code    string // reason of a refusal
	op      string // operation id of a write
	version uint64 // of the write, or that was read
	audit   bool   // a line in the journal, not in the access log

	key     string // Idempotency-Key
	ifMatch uint64
	dryRun  bool
	minimum uint64
	strong  bool // the read goes through the leader
	wrapped bool // the client asked for the envelope
}

type ctxKey struct{}

// exchangeKey is where fasthttp's context keeps the exchange.
var exchangeKey any = ctxKey{}

var exchanges = sync.Pool{New: func() any {
	x := &exchange{}
	x.enc = json.NewEncoder(&x.out)
	x.enc.SetEscapeHTML(false)
	return x
}}

// begin makes the exchange of a request and gives it its id.
func (s *Server) begin(ctx *fasthttp.RequestCtx) *exchange {
	x, _ := exchanges.Get().(*exchange)
	x.s, x.ctx = s, ctx
	x.started = s.cfg.Now()
	x.address = addressOf(ctx.RemoteAddr())
	newRequestID(&x.id, x.started.UnixMilli())
	ctx.SetUserValue(exchangeKey, x)
	s.counts.begin()
	return x
}

// newRequestID writes req_ and a UUID of version 7 (RFC 9562 section 5.7). Request ids name lines in logs; they guard nothing.
func newRequestID(id *[40]byte, unixMilli int64) {
	var u [16]byte
	binary.BigEndian.PutUint64(u[:8], uint64(unixMilli)<<16|rand.Uint64()&0x0fff|0x7000)
	binary.BigEndian.PutUint64(u[8:], rand.Uint64()&^(3<<62)|1<<63)
	copy(id[:4], "req_")
	hex.Encode(id[4:12], u[0:4])
	hex.Encode(id[13:17], u[4:6])
	hex.Encode(id[18:22], u[6:8])
	hex.Encode(id[23:27], u[8:10])
	hex.Encode(id[28:40], u[10:16])
	id[12], id[17], id[22], id[27] = '-', '-', '-', '-'
}

// end writes the access line and gives the exchange back.
func (s *Server) end(x *exchange) {
	took := s.cfg.Now().Sub(x.started)
	s.counts.end(x, took)
	if !x.audit {
		s.access.add(x, took)
	}
	x.ctx.RemoveUserValue(exchangeKey)
	x.check.Reset()
	x.out.Reset()
	if cap(x.in) > maxBody || x.out.Cap() > maxBody {
		return // an unusual size is not kept
	}
	clear(x.records)
	x.s, x.ctx, x.state, x.in, x.records = nil, nil, state{}, x.in[:0], x.records[:0]
	exchanges.Put(x)
}

func addressOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// request is the request's id, valid until the exchange ends.
func (x *exchange) request() string { return view(x.id[:]) }

func (x *exchange) header(name string) []byte   { return x.ctx.Request.Header.Peek(name) }
func (x *exchange) set(name, value string)      { x.ctx.Response.Header.Set(name, value) }
func (x *exchange) path() []byte                { return x.ctx.URI().PathOriginal() }
func (x *exchange) method() []byte              { return x.ctx.Method() }
func (x *exchange) setInt(name string, v int64) { x.set(name, strconv.FormatInt(v, 10)) }

// body is the body as it came. Fiber's Body would inflate it, without a bound.
func (x *exchange) body() []byte { return x.ctx.Request.Body() }

// operation is the name the logs and metrics know the request by.
func (x *exchange) operation() string {
	if x.rt == nil {
		return ""
	}
	return x.rt.name()
}

func (rt *route) name() string {
	if rt.op != nil {
		return rt.op.Name
	}
	return rt.own.name
}

// send answers with a body. It copies what it is given.
func (x *exchange) send(status int, contentType string, body []byte) {
	x.status = status
	r := &x.ctx.Response
	r.SetStatusCode(status)
	if contentType != "" {
		r.Header.SetContentType(contentType)
	}
	r.SetBody(body)
	h := &r.Header
	h.SetCanonical(headRequestID, x.id[:])
	h.SetCanonical(headCache, valueNoStore)
	h.SetCanonical(headSniff, valueNoSniff)
}

// Names and values of the headers on every answer, in the spelling that needs no further work.
var (
	headRequestID, headCache, headSniff        = []byte("X-Request-Id"), []byte("Cache-Control"), []byte("X-Content-Type-Options")
	headPolicy, headRate, headTag, headVersion = []byte("Ratelimit-Policy"), []byte("Ratelimit"), []byte("Etag"), []byte("Wispgate-Version-Read")
	valueNoStore, valueNoSniff                 = []byte("no-store"), []byte("nosniff")
)

// refuse answers with a problem document.
func (x *exchange) refuse(e *edge.Error) {
	status := statusOf(e)
	x.code = e.Code
	if status == 401 {
		x.set("WWW-Authenticate", `Bearer realm="wispgate"`)
	}
	if after := retryAfter(e, status); after > 0 {
		x.setInt("Retry-After", int64(after))
	}
	x.ctx.Response.Header.Del("Etag")
	x.out.Reset()
	x.send(status, problemType, appendProblem(x.out.AvailableBuffer(), e, x.request(), x.op))
}

// retryAfter is in seconds: what the error says, else two seconds where a retry makes sense at all.
func retryAfter(e *edge.Error, status int) int {
	if e.RetryAfter > 0 {
		return e.RetryAfter
	}
	if status == 429 || status == 503 || e.Code == edge.ErrInFlight.Code {
		return 2
	}
	return 0
}

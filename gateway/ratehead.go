package gateway

import (
	"strconv"
	"time"
)

// rateHeaders writes RateLimit-Policy and RateLimit as draft-ietf-httpapi-ratelimit-headers has them. The draft may still move: its
// names stand in this file and in problem.go only.
func (x *exchange) rateHeaders(d *Decision) {
	if d.Asked == 0 {
		return
	}
	b := x.line[:0]
	for i := range d.Asked {
		if i > 0 {
			b = append(b, ", "...)
		}
		p := &d.Policies[i]
		b = append(b, '"')
		b = append(b, p.Name...)
		b = append(b, `";q=`...)
		b = strconv.AppendInt(b, p.Quota, 10)
		b = append(b, ";w="...)
		b = strconv.AppendInt(b, int64(p.Window/time.Second), 10)
	}
	h := &x.ctx.Response.Header
	h.SetCanonical(headPolicy, b)
	b = append(b[:0], '"')
	b = append(b, d.Policies[d.Tightest].Name...)
	b = append(b, `";r=`...)
	b = strconv.AppendInt(b, max(d.Remaining, 0), 10)
	b = append(b, ";t="...)
	t := d.Reset
	if !d.Allowed {
		t = d.RetryAfter // Retry-After and t must agree
	}
	b = strconv.AppendInt(b, int64((t+time.Second-1)/time.Second), 10)
	h.SetCanonical(headRate, b)
	x.line = b
}

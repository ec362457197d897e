package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"html"
	"strings"

	"github.com/valyala/fasthttp"

	"wispgate/edge"
	"wispgate/gateway/web"
)

// page is a Page with its tag.
type page struct {
	Page
	tag string
}

func newPage(p Page) *page {
	sum := sha256.Sum256(p.Body)
	return &page{Page: p, tag: `"` + hex.EncodeToString(sum[:12]) + `"`}
}

const pageMaxAge = "no-cache" // keep, but ask: the tag answers

// policy lets a page load only what this node serves.
var policy = [2]string{"Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}

func (d *documents) addOwnPages() {
	for _, p := range []Page{
		{Path: "/docs", Type: "text/html; charset=utf-8", Body: web.Docs},
		{Path: "/docs/docs.js", Type: "text/javascript; charset=utf-8", Body: web.DocsScript},
		{Path: "/docs/docs.css", Type: "text/css; charset=utf-8", Body: web.DocsStyle},
		{Path: "/problems", Type: "text/html; charset=utf-8", Body: problemIndex(d.s.reasons)},
	} {
		p.Head = [][2]string{policy}
		d.pages[p.Path] = newPage(p)
	}
	for _, r := range d.s.reasons {
		d.pages[problemBase+r.Code] = newPage(Page{
			Path: problemBase + r.Code, Type: "text/html; charset=utf-8", Body: problemPage(r), Head: [][2]string{policy},
		})
	}
}

func (d *documents) page(path []byte) *page { return d.pages[string(path)] }

const pageTop = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">` +
	`<link rel="stylesheet" href="/docs/docs.css"><title>`

func problemPage(r edge.Reason) []byte {
	var b strings.Builder
	b.WriteString(pageTop + html.EscapeString(r.Code) + `</title><h1>` + html.EscapeString(r.Says) + `</h1><p>` + html.EscapeString(r.Fix) +
		`.</p><p>Code: <code>` + html.EscapeString(r.Code) + `</code></p><p><a href="/problems">All reasons</a></p></html>`)
	return []byte(b.String())
}

func problemIndex(reasons []edge.Reason) []byte {
	var b strings.Builder
	b.WriteString(pageTop + `Reason codes</title><h1>Reason codes</h1><table><tr><th>Code<th>What is wrong<th>What to do</tr>`)
	for _, r := range reasons {
		code := html.EscapeString(r.Code)
		b.WriteString(`<tr><td><a href="/problems/` + code + `"><code>` + code + `</code></a><td>` + html.EscapeString(r.Says) + `<td>` + html.EscapeString(r.Fix) + `</tr>`)
	}
	b.WriteString(`</table></html>`)
	return []byte(b.String())
}

// servePage answers a page to GET and HEAD, or 304 to who has it.
func (s *Server) servePage(x *exchange, p *page) {
	switch {
	case string(x.method()) != "GET" && string(x.method()) != "HEAD":
		x.set("Allow", "GET, HEAD")
		s.deny(x, errMethod.Error(edge.Invalid))
		return
	case len(x.body()) > 0:
		s.deny(x, errBody.Error(edge.Invalid))
		return
	}
	x.set("ETag", p.tag)
	for _, h := range p.Head {
		x.set(h[0], h[1])
	}
	if h := x.header(fasthttp.HeaderIfNoneMatch); len(h) > 0 && tagListed(h, []byte(p.tag)) {
		x.send(fasthttp.StatusNotModified, "", nil)
	} else {
		x.send(fasthttp.StatusOK, p.Type, p.Body)
	}
	x.set("Cache-Control", pageMaxAge)
	x.set("Referrer-Policy", "no-referrer")
}

package gateway

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"unsafe"

	"github.com/valyala/fasthttp"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// input assembles the operation's input as one JSON object: path parameters first, then query or body. All that is wrong with it is
// said at once; a body is judged only when the address is right.
func (x *exchange) input() *edge.Error {
	x.wrapped = x.wantsEnvelope()
	x.in = append(x.in[:0], '{')
	for i, p := range x.rt.params {
		text := x.params[i]
		raw, ok := unescape(nil, unsafe.Slice(unsafe.StringData(text), len(text)), false)
		if !ok {
			x.check.Violate("path", p.Name, "holds an escape that is not valid", "percent-encode UTF-8")
			continue
		}
		x.member(p.Name)
		x.in = p.Append(&x.check, x.in, "path", raw)
		if x.audit && edge.ID(view(raw)).Valid() {
			x.records = append(x.records, string(raw))
		}
	}
	x.query()
	if len(x.check.Errors) > 0 {
		return errParameter.Error(edge.Invalid, x.check.Errors...)
	}
	if e := x.mergeBody(); e != nil {
		return e
	}
	x.in = append(x.in, '}')
	return nil
}

// member begins a member of the input.
func (x *exchange) member(name string) {
	if len(x.in) > 1 {
		x.in = append(x.in, ',')
	}
	x.in = append(x.in, '"')
	x.in = append(x.in, name...)
	x.in = append(x.in, '"', ':')
}

// query judges the query string: every parameter is declared, and comes once unless it is a list.
func (x *exchange) query() {
	raw := x.ctx.URI().QueryString()
	var seen []string
	var lists map[string][][]byte
	for len(raw) > 0 && len(x.check.Errors) < plan.MaxErrors {
		var pair []byte
		pair, raw, _ = bytes.Cut(raw, []byte("&"))
		if len(pair) == 0 {
			continue
		}
		k, v, _ := bytes.Cut(pair, []byte("="))
		name, ok := unescape(nil, k, true)
		value, ok2 := unescape(nil, v, true)
		if !ok || !ok2 {
			x.check.Violate("query", string(name), "holds an escape that is not valid", "percent-encode UTF-8")
			continue
		}
		p := x.rt.query[string(name)]
		if p != nil && p.List {
			if lists == nil {
				lists = map[string][][]byte{}
			}
			lists[p.Name] = append(lists[p.Name], value)
			continue
		}
		if contains(seen, string(name)) {
			x.check.Violate("query", string(name), "appears twice", "send it once")
			continue
		}
		seen = append(seen, string(name))
		switch {
		case p != nil:
			x.member(p.Name)
			x.in = p.Append(&x.check, x.in, "query", value)
		case !x.reservedParam(string(name), value):
			x.check.Violate("query", string(name), "is not a known parameter", "remove it; the OpenAPI document lists the parameters")
		}
	}
	for name, values := range lists {
		x.member(name)
		x.in = x.rt.query[name].AppendList(&x.check, x.in, "query", values)
		seen = append(seen, name)
	}
	for _, name := range x.rt.required {
		if !contains(seen, name) {
			x.check.Violate("query", name, "is required", "add it")
		}
	}
}

func contains(list []string, s string) bool {
	return slices.Contains(list, s)
}

// reservedParam reads the gateway's own parameters; false means that the route has none of that name.
func (x *exchange) reservedParam(name string, value []byte) bool {
	switch {
	case name == paramDryRun && x.rt.writes():
		switch string(value) {
		case "true":
			x.dryRun = true
		case "false":
		default:
			x.check.Violate("query", name, "has the wrong type", "send true or false")
		}
	case name == paramMinVersion && !x.rt.writes() && x.rt.op != nil:
		n, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil || n > math.MaxInt64 {
			x.check.Violate("query", name, "is not a version", "send the Wispgate-Version-Written of the write")
		}
		x.minimum = n
	case name == paramStrong && !x.rt.writes() && x.rt.op != nil:
		switch string(value) {
		case "strong":
			x.strong = true
		case "local":
		default:
			x.check.Violate("query", name, "is not one of the allowed values", "send local or strong")
		}
	default:
		return false
	}
	return true
}

// unescape decodes percent escapes strictly; in a query a plus is a blank.
func unescape(dst, s []byte, plus bool) ([]byte, bool) {
	if bytes.IndexByte(s, '%') < 0 && (!plus || bytes.IndexByte(s, '+') < 0) {
		return s, true
	}
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case b == '+' && plus:
			dst = append(dst, ' ')
		case b == '%':
			if i+2 >= len(s) || hexValue(s[i+1]) < 0 || hexValue(s[i+2]) < 0 {
				return s, false
			}
			dst = append(dst, byte(hexValue(s[i+1])<<4|hexValue(s[i+2])))
			i += 2
		default:
			dst = append(dst, b)
		}
	}
	return dst, true
}

// mergeBody judges the body and puts its members behind those of the address.
func (x *exchange) mergeBody() *edge.Error {
	body := x.body()
	if x.rt.body == nil {
		if len(body) > 0 {
			return errBody.Error(edge.Invalid)
		}
		return nil
	}
	if len(body) > x.rt.care.body {
		return edge.ErrTooLarge.Error(edge.Invalid)
	}
	if len(body) == 0 {
		if !x.rt.body.NeedsNothing() {
			body = []byte("{}") // every required member is named in the answer
		} else {
			return nil
		}
	} else if !isJSON(x.header(fasthttp.HeaderContentType)) {
		return errMediaType.Error(edge.Invalid)
	}
	if !x.rt.body.Check(&x.check, body) {
		return x.refusedBody()
	}
	if inner := bytes.TrimSpace(between(body)); len(inner) > 0 {
		if len(x.in) > 1 {
			x.in = append(x.in, ',')
		}
		x.in = append(x.in, inner...)
	}
	return nil
}

func (x *exchange) refusedBody() *edge.Error {
	if x.check.Unreadable {
		return errJSON.Error(edge.Invalid, x.check.Errors...)
	}
	return edge.ErrInput.Error(edge.Invalid, x.check.Errors...)
}

// between is what stands inside the outermost braces of an object that the plan has passed.
func between(object []byte) []byte {
	return object[bytes.IndexByte(object, '{')+1 : bytes.LastIndexByte(object, '}')]
}

// isJSON accepts application/json with an optional charset of UTF-8.
func isJSON(contentType []byte) bool {
	kind, parameter, _ := bytes.Cut(contentType, []byte(";"))
	if !equalFold(bytes.TrimSpace(kind), "application/json") {
		return false
	}
	parameter = bytes.TrimSpace(parameter)
	return len(parameter) == 0 || equalFold(parameter, "charset=utf-8") || equalFold(parameter, `charset="utf-8"`)
}

// preconditions reads Idempotency-Key and If-Match.
func (x *exchange) preconditions() *edge.Error {
	if !x.rt.writes() {
		return nil
	}
	key, ok := idempotencyKey(x.header("Idempotency-Key"), x.header("X-Idempotency-Key"))
	if !ok {
		return errIdemKey.Error(edge.Invalid)
	}
	if x.key = key; key == "" && x.rt.care.needsKey {
		return errIdemNeeded.Error(edge.Invalid)
	}
	x.op = key
	if h := x.header(fasthttp.HeaderIfNoneMatch); len(h) > 0 && (string(h) != "*" || !x.rt.Created) {
		return errIfMatch.Error(edge.Invalid)
	}
	h := x.header(fasthttp.HeaderIfMatch)
	if len(h) == 0 {
		return nil
	}
	if x.rt.op == nil || !x.rt.op.Matches {
		return errIfMatch.Error(edge.Invalid)
	}
	version, ok := tagVersion(h)
	switch {
	case !ok:
		return errIfMatch.Error(edge.Invalid)
	case version == 0:
		return edge.ErrVersion.Error(edge.Conflict) // no record is at version 0
	}
	x.ifMatch = version
	return nil
}

// tagVersion reads one strong entity tag as a record version. Weak tags never match a change (RFC 9110 section 13.1.1).
func tagVersion(h []byte) (uint64, bool) {
	if len(h) < 3 || h[0] != '"' || h[len(h)-1] != '"' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(h[1:len(h)-1]), 10, 64)
	return n, err == nil
}

// idempotencyKey reads the key, quoted or bare, from the header or its older alias.
func idempotencyKey(key, alias []byte) (string, bool) {
	key, ok := bareKey(key)
	alias, ok2 := bareKey(alias)
	if !ok || !ok2 {
		return "", false
	}
	switch {
	case len(key) == 0:
		key = alias
	case len(alias) > 0 && !bytes.Equal(key, alias):
		return "", false
	}
	return string(key), true
}

func bareKey(h []byte) ([]byte, bool) {
	if len(h) == 0 {
		return nil, true
	}
	if len(h) > 2 && h[0] == '"' && h[len(h)-1] == '"' {
		h = h[1 : len(h)-1]
	}
	if len(h) > 255 {
		return nil, false
	}
	for _, b := range h {
		if b <= ' ' || b >= 0x7f || b == '"' || b == '\\' {
			return nil, false
		}
	}
	return h, true
}

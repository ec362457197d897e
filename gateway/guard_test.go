package gateway_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wispgate/gateway"
)

const head = "GET /api/v1/shop/items HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer full\r\n"

func post(extra, body string) string {
	return "POST /api/v1/shop/items HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer full\r\nContent-Type: application/json\r\n" + extra + "\r\n" + body
}

// TestRequestsWithTwoReadingsAreRefused sends bytes that parsers have disagreed about. Nothing may be done by any of them, and where
// the framing is in doubt the connection must end.
func TestRequestsWithTwoReadingsAreRefused(t *testing.T) {
	t.Parallel()
	m := open(t)
	good := `{"name":"smuggled","shelf":"top","cents":1}`
	n := strconv.Itoa(len(good))
	chunked := strconv.FormatInt(int64(len(good)), 16) + "\r\n" + good + "\r\n0\r\n\r\n"
	target := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer full\r\n\r\n"
	}
	for _, tt := range []struct {
		name, request string
		status        int
		code          string
		closed        bool
	}{
		{"chunked and a length", post("Transfer-Encoding: chunked\r\nContent-Length: "+n+"\r\n", chunked), 400, "malformed_request", true},
		{"a length and chunked", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", chunked), 400, "malformed_request", true},
		{"identity and a length", post("Transfer-Encoding: identity\r\nContent-Length: "+n+"\r\n", good), 400, "malformed_request", true},
		{"a space before the colon", post("Transfer-Encoding : chunked\r\nContent-Length: "+n+"\r\n", good), 400, "malformed_request", true},
		{"chunked misspelt", post("Transfer-Encoding: xchunked\r\n", chunked), 400, "malformed_request", true},
		{"chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunked), 400, "", true},
		{"chunked on a folded line", post("Transfer-Encoding:\r\n chunked\r\n", chunked), 400, "malformed_request", true},
		{"two lengths that differ", post("Content-Length: "+n+"\r\nContent-Length: 3\r\n", good), 400, "", true},
		{"two lengths that agree", post("Content-Length: "+n+"\r\nContent-Length: "+n+"\r\n", good), 400, "", true},
		{"a length with a sign", post("Content-Length: +"+n+"\r\n", good), 400, "malformed_request", true},
		{"a list of lengths", post("Content-Length: "+n+", "+n+"\r\n", good), 400, "malformed_request", true},
		{"a hexadecimal length", post("Content-Length: 0x10\r\n", good), 400, "malformed_request", true},
		{"a negative length", post("Content-Length: -1\r\n", good), 400, "malformed_request", true},
		{"a length beyond 64 bits", post("Content-Length: 18446744073709551616\r\n", good), 0, "", true},
		{"a chunk size with 0x", post("Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n"), 400, "malformed_request", true},
		{"a negative chunk size", post("Transfer-Encoding: chunked\r\n", "-3\r\nabc\r\n0\r\n\r\n"), 400, "malformed_request", true},
		{"a chunk size that overflows", post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"), 0, "", true},
		{"junk after a chunk", post("Transfer-Encoding: chunked\r\n", "3\r\nabcX\r\n0\r\n\r\n"), 400, "malformed_request", true},
		{"chunked in HTTP/1.0", strings.Replace(post("Transfer-Encoding: chunked\r\n", chunked), "HTTP/1.1", "HTTP/1.0", 1), 400, "", true},
		{"a folded header", head + "X-A: b\r\n c\r\n\r\n", 400, "malformed_request", true},
		{"a space inside a name", head + "X Foo: b\r\n\r\n", 400, "malformed_request", true},
		{"a header without a name", head + ": b\r\n\r\n", 400, "malformed_request", true},
		{"a header without a colon", head + "xyz\r\n\r\n", 400, "malformed_request", true},
		{"NUL in a header", head + "X-A: a\x00b\r\n\r\n", 400, "malformed_request", true},
		{"a bare carriage return in a header", head + "X-A: a\rb\r\n\r\n", 400, "malformed_request", true},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400, "malformed_request", true},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "", true},
		{"HTTP/9.9", strings.Replace(head, "HTTP/1.1", "HTTP/9.9", 1) + "\r\n", 505, "protocol_unsupported", true},
		{"a foreign authority", "GET http://evil/api/v1/shop/items HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer full\r\n\r\n", 400, "malformed_request", true},
		{"a hundred and one headers", head + strings.Repeat("X-A: b\r\n", 100) + "\r\n", 431, "headers_too_large", true},
		{"9 KB of headers", head + "X-A: " + strings.Repeat("b", 9000) + "\r\n\r\n", 431, "headers_too_large", true},
		{"two credentials of one kind", head + "Authorization: Bearer none\r\n\r\n", 400, "credential_ambiguous", true},
		{"two API keys", "GET / HTTP/1.1\r\nHost: h\r\nX-API-Key: full\r\nx-api-key: full\r\n\r\n", 400, "credential_ambiguous", true},
		{"credentials of both kinds", head + "X-API-Key: full\r\n\r\n", 400, "credential_ambiguous", true},
		{"two If-Match", head + "If-Match: \"1\"\r\nIf-Match: \"2\"\r\n\r\n", 400, "header_repeated", true},
		{"a body on GET", strings.Replace(head, "\r\nHost", "\r\nContent-Length: 2\r\nHost", 1) + "\r\n{}", 400, "body_unexpected", false},
		{"an unknown method", strings.Replace(head, "GET", "FOO", 1) + "\r\n", 405, "method_not_allowed", false},
		{"a method in lower case", strings.Replace(head, "GET", "get", 1) + "\r\n", 405, "method_not_allowed", false},
		{"OPTIONS", strings.Replace(head, "GET", "OPTIONS", 1) + "\r\n", 405, "method_not_allowed", false},
		{"TRACE", strings.Replace(head, "GET", "TRACE", 1) + "\r\n", 405, "method_not_allowed", false},
		{"an empty segment", target("/api/v1//shop/items"), 400, "target_invalid", false},
		{"two slashes at the front", target("//api/v1/shop/items"), 400, "target_invalid", false},
		{"a dot segment", target("/api/v1/./shop/items"), 400, "target_invalid", false},
		{"two dots", target("/docs/../api/v1/shop/items"), 400, "target_invalid", false},
		{"two dots at the end", target("/docs/.."), 400, "target_invalid", false},
		{"an escaped dot", target("/docs/%2E%2e/api"), 400, "target_invalid", false},
		{"an escaped slash", target("/api/v1/shop%2Fitems"), 400, "target_invalid", false},
		{"an escaped backslash", target("/api/v1/shop%5citems"), 400, "target_invalid", false},
		{"a backslash", target(`/api/v1\shop`), 400, "target_invalid", false},
		{"an escaped NUL", target("/api/v1/shop%00"), 400, "target_invalid", false},
		{"an escaped NUL in the query", target("/api/v1/shop/items?cursor=a%00"), 400, "target_invalid", false},
		{"an escape that is none", target("/api/v1/%zz"), 400, "", false},
		{"a fragment", target("/api/v1/shop/items#x"), 400, "", false},
		{"another case", target("/API/v1/shop/items"), 404, "route_unknown", false},
		{"a slash at the end", target("/api/v1/shop/items/"), 404, "route_unknown", false},
		{"parameters in the path", target("/api/v1/shop/items;x=1"), 404, "route_unknown", false},
		{"an asterisk", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400, "", true},
		{"HTTP/2 by prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, "", true},
		{"TLS on the plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed_request", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body, closed := m.raw(tt.request)
			if tt.status == 0 {
				if status < 400 {
					t.Fatalf("got status %d %s, want it refused", status, body)
				}
			} else if status != tt.status {
				t.Fatalf("got status %d %s, want %d", status, body, tt.status)
			}
			if tt.code != "" && !strings.Contains(body, `"code":"`+tt.code+`"`) {
				t.Errorf("got %s, want code %s", body, tt.code)
			}
			if tt.closed && !closed {
				t.Errorf("the connection stays open, want it closed")
			}
			for _, secret := range []string{"full", "smuggled", "evil"} {
				if strings.Contains(body, secret) {
					t.Errorf("the answer repeats %q of the request: %s", secret, body)
				}
			}
		})
	}
	a := m.call("GET", "/api/v1/shop/items", "full", "")
	if m.want(a, 200, ""); !bytes.Contains(a.body, []byte(`"data":[]`)) {
		t.Errorf("a refused request had an effect: %s", a.body)
	}
	if strings.Contains(m.logs.String(), "Bearer") || strings.Contains(m.access.String(), "Bearer") {
		t.Error("a credential is in the log")
	}
}

func TestAnAbsoluteTargetOfOurOwnHostIsServed(t *testing.T) {
	t.Parallel()
	m := open(t)
	if status, body, _ := m.raw("GET http://h/api/v1/shop/items HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer full\r\nConnection: close\r\n\r\n"); status != 200 {
		t.Errorf("got %d %s, want 200", status, body)
	}
}

// TestBodiesAreBoundedAndNeverInflated counts allocations, so it runs alone.
func TestBodiesAreBoundedAndNeverInflated(t *testing.T) {
	m := open(t)
	big := `{"name":"` + strings.Repeat("x", 97<<10) + `"}`
	m.want(m.call("POST", "/api/v1/shop/items", "full", big), 413, "too_large")
	m.want(m.call("POST", "/api/v1/shop/items", "", `{"name":"`+strings.Repeat("x", 17<<10)+`"}`), 413, "too_large")
	m.want(m.call("POST", "/api/v1/shop/items", "full", "name=a", "Content-Type", "application/x-www-form-urlencoded"), 415, "media_type_unsupported")
	m.want(m.call("POST", "/api/v1/shop/items", "full", `{"name":"a"}`, "Content-Type", "application/json; charset=latin-1"), 415, "media_type_unsupported")
	m.want(m.call("POST", "/api/v1/shop/items", "full", "--x\r\n\r\n--x--", "Content-Type", "multipart/form-data; boundary=x"), 415, "media_type_unsupported")
	m.want(m.call("POST", "/api/v1/shop/items", "full", `{"name":"c","shelf":"top","cents":1}`, "Content-Type", `application/json; charset="UTF-8"`), 201, "")

	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	zeros := bytes.Repeat([]byte(" "), 1<<20)
	for range 64 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if bomb.Len() > 90<<10 {
		t.Fatalf("the bomb has %d octets, want it below the body cap", bomb.Len())
	}
	grown := growth(func() {
		m.want(m.call("POST", "/api/v1/shop/items", "full", bomb.String(), "Content-Encoding", "gzip"), 415, "encoding_unsupported")
	})
	if grown > 2<<20 {
		t.Errorf("a bomb of 64 MB grew memory by %d octets, want less than 2 MB", grown)
	}
}

// growth is how much f allocates, collected or not.
func growth(f func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestHostileJSONIsRefusedSmallAndWithoutEcho(t *testing.T) {
	t.Parallel()
	m := open(t)
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"secret%d":"hunter2"`, i)
		}
		return b.String()[1:]
	}
	for name, tt := range map[string]struct {
		body, code string
		status     int
	}{
		"deep arrays":       {strings.Repeat("[", 90_000), "json_invalid", 400},
		"deep objects":      {strings.Repeat(`{"a":`, 18_000), "json_invalid", 400},
		"a long number":     {`{"cents":` + strings.Repeat("9", 90_000) + `}`, "input_invalid", 422},
		"many unknown":      {`{` + keys(400) + `}`, "input_invalid", 422},
		"a large map":       {`{"metadata":{` + keys(3000) + `}}`, "input_invalid", 422},
		"a long string":     {`{"name":"` + strings.Repeat("hunter2", 12_000) + `"}`, "input_invalid", 422},
		"long unknown name": {`{"` + strings.Repeat("hunter2", 12_000) + `":1}`, "input_invalid", 422},
		"read-only members": {`{"name":"a","shelf":"top","cents":1,"id":"itm_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33","version":7,"tenant_id":"rival"}`, "input_invalid", 422},
	} {
		a := m.call("POST", "/api/v1/shop/items", "full", tt.body)
		if a.StatusCode != tt.status || a.code(t) != tt.code {
			t.Errorf("%s: got %d %.200s, want %d %s", name, a.StatusCode, a.body, tt.status, tt.code)
		}
		if len(a.body) > 16<<10 {
			t.Errorf("%s: the answer has %d octets, want at most 16 KB", name, len(a.body))
		}
		if strings.Contains(string(a.body), "hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2") || strings.Contains(string(a.body), "rival") {
			t.Errorf("%s: the answer repeats the request: %.300s", name, a.body)
		}
		if n := strings.Count(string(a.body), `"reason"`); n > 50 {
			t.Errorf("%s: got %d errors, want at most 50", name, n)
		}
	}
}

func TestSlowClientsAreClosedAndOthersServed(t *testing.T) {
	t.Parallel()
	m := open(t, func(c *gateway.Config, _ *gateway.Ports) { c.ReadTimeout = 300 * time.Millisecond })
	var wg sync.WaitGroup
	for _, begun := range []string{
		head,                                   // headers without an end
		"GET / HTTP/1.1\nHost: h\n",            // bare line feeds
		post("Content-Length: 50\r\n", `{"na`), // a body that never comes
		post("Transfer-Encoding: chunked\r\n", "5\r\nab"), // a chunk that never comes
		"", // silence
	} {
		wg.Go(func() {
			c, err := net.Dial("tcp", m.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, begun)
			raw, err := io.ReadAll(c)
			if err != nil {
				t.Errorf("%.20q: got %v, want the server to close", begun, err)
			}
			if len(raw) > 0 && !bytes.HasPrefix(raw, []byte("HTTP/1.1 408")) && !bytes.HasPrefix(raw, []byte("HTTP/1.1 400")) {
				t.Errorf("%.20q: got %.60q, want 408 or 400", begun, raw)
			}
		})
	}
	m.want(m.call("GET", "/api/v1/shop/items", "full", ""), 200, "")
	wg.Wait()
}

// TestPipelinedRequestsKeepApart sends many different requests on one connection without waiting: buffers that leak from one to the
// next show up as wrong records.
func TestPipelinedRequestsKeepApart(t *testing.T) {
	t.Parallel()
	m := open(t)
	const conns, each = 4, 50
	var wg sync.WaitGroup
	for c := range conns {
		wg.Go(func() {
			conn, err := net.Dial("tcp", m.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			var out strings.Builder
			for i := range each {
				body := fmt.Sprintf(`{"name":"n-%d-%d-%s","shelf":"top","cents":%d}`, c, i, strings.Repeat("x", i%20), i)
				out.WriteString(post(fmt.Sprintf("Idempotency-Key: key-%d-%d\r\nContent-Length: %d\r\n", c, i, len(body)), body))
			}
			go func() { _, _ = io.WriteString(conn, out.String()) }()
			r := bufio.NewReader(conn)
			for i := range each {
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Errorf("answer %d: %v", i, err)
					return
				}
				raw, _ := io.ReadAll(res.Body)
				if want := fmt.Sprintf(`"name":"n-%d-%d-%s"`, c, i, strings.Repeat("x", i%20)); res.StatusCode != 201 || !strings.Contains(string(raw), want) {
					t.Errorf("got %d %s, want %s", res.StatusCode, raw, want)
				}
				if got, want := res.Header.Get("Wispgate-Operation"), fmt.Sprintf("key-%d-%d", c, i); got != want {
					t.Errorf("got operation %s, want %s", got, want)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, line := range m.ledger.all() {
		seen[line[strings.Index(line, `"operation_id"`):strings.Index(line, `"node"`)]] = true
	}
	if len(seen) != conns*each {
		t.Errorf("the audit names %d operations, want %d", len(seen), conns*each)
	}
}

package gateway

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"wispgate/edge"
)

// guard refuses what fasthttp reads but no gateway should pass on: framing that two parsers could read differently, headers beyond
// count, paths with two readings. It sees the bytes as they came. nil means that the request may go on; closing says that the
// connection must not be used again, because its framing is in doubt.
func guard(h *fasthttp.RequestHeader) (refused *edge.Reason, closing bool) {
	if p := h.Protocol(); string(p) != "HTTP/1.1" && string(p) != "HTTP/1.0" {
		return &errProtocol, true
	}
	if r := guardHeaders(h.RawHeaders()); r != nil {
		return r, true
	}
	target := h.RequestURI()
	if len(target) == 0 || target[0] != '/' {
		if r := guardAbsolute(target, h.Host()); r != nil {
			return r, true
		}
		target = target[bytes.Index(target, []byte("://"))+3:]
		slash := bytes.IndexAny(target, "/?")
		if slash < 0 {
			return nil, false
		}
		target = target[slash:]
	}
	if !plainTarget(target) {
		return &errTarget, false
	}
	return nil, false
}

// once are the headers that may come only once: whoever reads the first and whoever reads the last must read the same.
var once = []string{"authorization", "x-api-key", "x-tenant-id", "content-type", "content-length", "content-encoding",
	"transfer-encoding", "host", "if-match", "if-none-match", "idempotency-key", "x-idempotency-key"}

// guardHeaders walks the header block once.
func guardHeaders(raw []byte) *edge.Reason {
	var seen, count int
	for len(raw) > 0 {
		line := raw
		if i := bytes.IndexByte(raw, '\n'); i >= 0 {
			line, raw = raw[:i], raw[i+1:]
		} else {
			raw = nil
		}
		if n := len(line); n > 0 && line[n-1] == '\r' {
			line = line[:n-1]
		}
		if len(line) == 0 {
			continue
		}
		if count++; count > maxHeaders {
			return &errHeadersLarge
		}
		if line[0] == ' ' || line[0] == '\t' {
			return &errMalformed // a folded line (RFC 9112 section 5.2)
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || bytes.ContainsAny(line[:colon], " \t") {
			return &errMalformed
		}
		if i := onceIndex(line[:colon]); i >= 0 {
			if seen&(1<<i) != 0 {
				if i < 2 {
					return &errAmbiguous
				}
				return &errRepeated
			}
			seen |= 1 << i
		}
	}
	const framing = 1<<4 | 1<<6 // Content-Length and Transfer-Encoding together (RFC 9112 section 6.1)
	switch {
	case seen&framing == framing:
		return &errMalformed
	case seen&3 == 3:
		return &errAmbiguous
	}
	return nil
}

func onceIndex(name []byte) int {
	switch len(name) {
	case 4, 8, 9, 11, 12, 13, 14, 15, 16, 17:
	default:
		return -1
	}
	for i, o := range once {
		if len(o) == len(name) && equalFold(name, o) {
			return i
		}
	}
	return -1
}

// equalFold compares ASCII without regard to case; lower is in lower case.
func equalFold(s []byte, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i, b := range s {
		if b >= 'A' && b <= 'Z' {
			b |= 0x20
		}
		if b != lower[i] {
			return false
		}
	}
	return true
}

// guardAbsolute accepts an absolute-form target whose authority is the Host.
func guardAbsolute(target, host []byte) *edge.Reason {
	scheme, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok || !equalFold(scheme, "http") && !equalFold(scheme, "https") {
		return &errMalformed
	}
	authority := rest
	if i := bytes.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	if !bytes.EqualFold(authority, host) {
		return &errMalformed
	}
	return nil
}

// plainTarget accepts paths with one reading only. In the query just control characters are refused, escaped NUL included: a login
// may hold a backslash or a slash there.
func plainTarget(target []byte) bool {
	path := target
	for i, b := range target {
		if b <= ' ' || b == 0x7f {
			return false
		}
		if b == '%' && i+2 < len(target) && target[i+1] == '0' && target[i+2] == '0' {
			return false
		}
	}
	if before, _, ok := bytes.Cut(target, []byte{'?'}); ok {
		path = before
	}
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '\\', '#', '"', '<', '>':
			return false
		case '/':
			if dotSegment(path[i+1:]) {
				return false
			}
		case '%':
			if i+2 >= len(path) || !plainEscape(path[i+1], path[i+2]) {
				return false
			}
		}
	}
	return true
}

// dotSegment reports that rest begins with "/" (an empty segment), "./" or "../".
func dotSegment(rest []byte) bool {
	if len(rest) > 0 && rest[0] == '/' {
		return true
	}
	segment := rest
	if before, _, ok := bytes.Cut(rest, []byte{'/'}); ok {
		segment = before
	}
	return string(segment) == "." || string(segment) == ".."
}

// plainEscape refuses escapes of ".", "/", "\" and control characters, and what is no escape.
func plainEscape(a, b byte) bool {
	high, low := hexValue(a), hexValue(b)
	if high < 0 || low < 0 {
		return false
	}
	c := byte(high<<4 | low)
	return c >= 0x20 && c != 0x7f && c != '.' && c != '/' && c != '\\'
}

func hexValue(b byte) int {
	switch {
	case b >= '0' && b <= '9':
		return int(b - '0')
	case b|0x20 >= 'a' && b|0x20 <= 'f':
		return int(b|0x20-'a') + 10
	}
	return -1
}

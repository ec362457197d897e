package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/sync/wire"
)

const (
	connectTimeout = 5 * time.Second
	keepAlive      = 30 * time.Second
	keepAnswer     = 4 << 10  // octets of an answer that are kept
	drainAnswer    = 64 << 10 // octets that are read so that the connection can be used again
	maxHeader      = 16 << 10
)

// Outcomes of an attempt, beyond delivered and http_{status}.
const (
	outcomeDelivered = "delivered"
	outcomeTimeout   = "timeout"
	outcomeDNS       = "dns_failed"
	outcomeConnect   = "connect_failed"
	outcomeTLS       = "tls_failed"
	outcomeAnswer    = "answer_unreadable"
	outcomeSecret    = "secret_unreadable"
	outcomeRedirect  = "redirect_refused"
)

// sender makes single attempts. It follows no redirect and uses no proxy from the environment; where it may connect is the guard's to say.
type sender struct {
	secure, plain *http.Client
	agent         string
	now           func() time.Time
}

func newSender(g *guard, agent string, roots *tls.Config, now func() time.Time) *sender {
	client := func(plain bool) *http.Client {
		return &http.Client{
			Transport: &http.Transport{
				Proxy: nil, DialContext: g.dialer(plain).DialContext, TLSClientConfig: roots.Clone(),
				TLSHandshakeTimeout: connectTimeout, DisableCompression: true, ForceAttemptHTTP2: true,
				MaxIdleConns: 512, MaxIdleConnsPerHost: 8, MaxConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
				MaxResponseHeaderBytes: maxHeader,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &sender{secure: client(false), plain: client(true), agent: agent, now: now}
}

func (s *sender) close() {
	s.secure.CloseIdleConnections()
	s.plain.CloseIdleConnections()
}

// result is what became of one attempt.
type result struct {
	Attempt
	retryAfter time.Duration
	cause      error // for the log; may name addresses
}

func (r *result) ok() bool { return r.Outcome == outcomeDelivered }

// send posts body to url with a signature of every key. The timeout covers everything from resolution to the end of the answer.
func (s *sender) send(ctx context.Context, url, id string, body []byte, keys [][]byte, timeout time.Duration) (r result) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := s.now()
	sum := sha256.Sum256(body)
	r.At, r.BodyHash = start.UTC(), hex.EncodeToString(sum[:])
	defer func() { r.Took = s.now().Sub(start).Milliseconds() }()

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		r.Outcome, r.cause = reasonURL.Code, err
		return r
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	req.Header.Set("User-Agent", s.agent)
	req.Header.Set(wire.HeaderID, id)
	req.Header.Set(wire.HeaderTimestamp, strconv.FormatInt(start.Unix(), 10))
	req.Header.Set(wire.HeaderSignature, wire.Sign(id, start, body, keys...))
	client := s.secure
	if req.URL.Scheme == "http" {
		client = s.plain
	}
	resp, err := client.Do(req)
	if err != nil {
		r.Outcome, r.cause = failure(err), err
		return r
	}
	defer resp.Body.Close()
	r.Code = resp.StatusCode
	r.retryAfter = retryAfter(resp.Header, s.now())
	answer, err := io.ReadAll(io.LimitReader(resp.Body, keepAnswer))
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, drainAnswer))
	}
	r.Answer = answer
	switch {
	case r.Code >= 200 && r.Code < 300: // the head decides: an answer that breaks off was a yes all the same
		r.Outcome = outcomeDelivered
	case err != nil:
		r.Outcome, r.cause = outcomeAnswer, err
	case r.Code >= 300 && r.Code < 400:
		r.Outcome = outcomeRedirect
	default:
		r.Outcome = "http_" + strconv.Itoa(r.Code)
	}
	return r
}

// failure names what went wrong before there was an answer.
func failure(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason.Code
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return outcomeTimeout
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return outcomeDNS
	}
	_, verify := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	if verify || record || alert || strings.Contains(err.Error(), "tls: ") ||
		strings.Contains(err.Error(), "HTTP response to HTTPS client") { // an error without a type
		return outcomeTLS
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return outcomeConnect
	}
	return outcomeAnswer
}

// outcomeReasons explain the outcomes that have no reason elsewhere.
var outcomeReasons = []edge.Reason{
	{Code: outcomeTimeout, Says: "The endpoint did not answer in time", Fix: "Answer with 2xx at once and work afterwards, or raise timeout_seconds"},
	{Code: outcomeDNS, Says: "The endpoint's name does not resolve", Fix: "Correct the URL, or the name's DNS records"},
	{Code: outcomeConnect, Says: "The endpoint does not accept connections", Fix: "Start the receiver, or open its firewall for the relay"},
	{Code: outcomeTLS, Says: "The endpoint's TLS cannot be trusted", Fix: "Give the receiver a valid certificate for its name, TLS 1.2 or newer"},
	{Code: outcomeAnswer, Says: "The endpoint's answer broke off or cannot be read", Fix: "See the receiver's log; the delivery is tried again"},
	{Code: outcomeSecret, Says: "The endpoint's signing secret cannot be opened on this node", Fix: "Rotate the endpoint's secret, or restore the node's keys"},
	{Code: outcomeRedirect, Says: "The endpoint answered with a redirect, which is never followed", Fix: "Set the endpoint's URL to where the redirect leads"},
}

package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// demoClient speaks to the API as any other program would: over HTTPS, with the site's CA and a key.
type demoClient struct {
	base string
	key  string
	http *http.Client
}

func newDemoClient(base, caFile string) (*demoClient, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read the site's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the CA file %s holds no PEM certificate", caFile)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 4}
	return &demoClient{base: base, http: &http.Client{Transport: transport, Timeout: 20 * time.Second}}, nil
}

func (c *demoClient) close() { c.http.CloseIdleConnections() }

const (
	demoAnswer = 8 << 20 // octets of an answer at most
	demoTries  = 8
)

// call sends a request until it is answered with something that repeating cannot change. With a key for idempotency a write that was
// cut off is answered with its first answer.
func (c *demoClient) call(ctx context.Context, method, path, idempotency string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode a request: %w", err)
		}
	}
	for try := 1; ; try++ {
		after, err := c.once(ctx, method, path, idempotency, body, out)
		if err == nil || after == 0 || try == demoTries || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(after)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// once sends a request once; after is how long to wait before another try, 0 when there is no use.
func (c *demoClient) once(ctx context.Context, method, path, idempotency string, body []byte, out any) (after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("make a request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	} else {
		req.Body = http.NoBody
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if idempotency != "" {
		req.Header.Set("Idempotency-Key", idempotency)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 200 * time.Millisecond, fmt.Errorf("ask the API: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, demoAnswer))
	if err != nil {
		return 200 * time.Millisecond, fmt.Errorf("read the API's answer: %w", err)
	}
	if resp.StatusCode < 300 {
		if out == nil {
			return 0, nil
		}
		if err := json.Unmarshal(raw, out); err != nil {
			return 0, fmt.Errorf("read the API's answer to %s %s: %w", method, path, err)
		}
		return 0, nil
	}
	// A conflict that names a time says that the first try is still running.
	later := resp.Header.Get("Retry-After")
	if later != "" || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		seconds, _ := strconv.Atoi(later)
		after = max(time.Duration(seconds)*time.Second, 200*time.Millisecond)
	}
	return after, demoRefusal(resp.StatusCode, raw)
}

// demoRefusal is the error that a problem document was made from.
func demoRefusal(status int, raw []byte) error {
	var p struct {
		Detail string            `json:"detail"`
		Code   string            `json:"code"`
		Fix    string            `json:"fix"`
		Errors []edge.FieldError `json:"errors"`
	}
	if json.Unmarshal(raw, &p) != nil || p.Code == "" {
		return fmt.Errorf("the API answered %d", status)
	}
	e := &edge.Error{Kind: edge.Internal, Code: p.Code, Message: p.Detail, Fix: p.Fix, Fields: p.Errors}
	switch {
	case status == http.StatusUnauthorized:
		e.Kind = edge.Unauthenticated
	case status == http.StatusConflict:
		e.Kind = edge.Conflict
	case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
		e.Kind = edge.Unavailable
	case status < http.StatusInternalServerError:
		e.Kind = edge.Invalid
	}
	return e
}

// command is one item of a batch.
type command struct {
	Op string `json:"op"`
	In any    `json:"in"`
}

// batch runs commands as one: all or none. The answers are in the order of the commands.
func (c *demoClient) batch(ctx context.Context, idempotency string, list []command) ([]json.RawMessage, error) {
	in := struct {
		Mode  string    `json:"mode"`
		Items []command `json:"items"`
	}{"atomic", list}
	var out struct {
		Results []struct {
			Data json.RawMessage `json:"data"`
		} `json:"results"`
	}
	if err := c.call(ctx, http.MethodPost, "/api/v1/batch", idempotency, in, &out); err != nil {
		return nil, err
	}
	if len(out.Results) != len(list) {
		return nil, fmt.Errorf("the API answered %d of %d commands", len(out.Results), len(list))
	}
	answers := make([]json.RawMessage, len(list))
	for i, r := range out.Results {
		answers[i] = r.Data
	}
	return answers, nil
}

// createdID reads the id of a record that an answer holds.
func createdID(answer json.RawMessage) (edge.ID, error) {
	var r struct {
		ID edge.ID `json:"id"`
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		return "", fmt.Errorf("read an answer: %w", err)
	}
	return r.ID, nil
}

// whoami reports whether the key works.
func (c *demoClient) whoami(ctx context.Context) (bool, error) {
	if c.key == "" {
		return false, nil
	}
	err := c.call(ctx, http.MethodGet, "/api/v1/identity/whoami", "", nil, nil)
	var e *edge.Error
	if errors.As(err, &e) && e.Kind == edge.Unauthenticated {
		return false, nil
	}
	return err == nil, err
}

// claim takes the program over with its one-time code and returns the key that it shows once.
func (c *demoClient) claim(ctx context.Context, code edge.Secret) (key string, err error) {
	var out struct {
		Secret string `json:"secret"`
	}
	in := map[string]string{"code": code.Reveal(), "tenant": demoTenant, "name": demoISP}
	if err := c.call(ctx, http.MethodPost, "/api/v1/claim", "", in, &out); err != nil {
		return "", err
	}
	if key = strings.TrimSpace(out.Secret); key == "" {
		return "", errors.New("the claim's answer shows no key")
	}
	return key, nil
}

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"wispgate/edge"
	"wispgate/edge/config"
)

// target is the node or relay that a command talks to: a URL with a key, a stored profile, or this machine's own socket.
type target struct {
	url, keyFile, caFile, profile, socket, tenant string
	timeout                                       time.Duration
}

func (t *target) flags(f *pflag.FlagSet) {
	f.StringVar(&t.url, "url", "", "address of the node or relay, e.g. https://tower7:8443 (WISPGATE_URL)")
	f.StringVar(&t.keyFile, "key-file", "", "file that holds the API key (or WISPGATE_KEY in the environment)")
	f.StringVar(&t.caFile, "ca-file", "", "CA certificate to trust, e.g. the node's tls/ca.crt (WISPGATE_CA_FILE)")
	f.StringVar(&t.profile, "profile", "", "stored profile to use (WISPGATE_PROFILE); see wispgate profile")
	f.StringVar(&t.socket, "socket", "", "unix socket of the daemon on this machine (WISPGATE_SOCKET)")
	f.StringVar(&t.tenant, "tenant", "", "tenant to act for over the socket, or among those of the key")
	f.DurationVar(&t.timeout, "timeout", 30*time.Second, "how long to wait for an answer")
}

// client speaks to the target.
type client struct {
	base   string
	key    string
	tenant string
	http   *http.Client
}

// profile is a stored target. The key stays in its own file.
type profile struct {
	URL     string `json:"url"`
	KeyFile string `json:"key_file,omitempty"`
	CAFile  string `json:"ca_file,omitempty"`
}

func profilesPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration folder: %w", err)
	}
	return filepath.Join(dir, "wispgate", "profiles.json"), nil
}

func loadProfiles() (map[string]profile, error) {
	path, err := profilesPath()
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return map[string]profile{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read profiles: %w", err)
	}
	list := map[string]profile{}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read profiles %s: %w", path, err)
	}
	return list, nil
}

// first returns the first value that is not empty.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// client resolves the target: flags before environment before profile before the local socket.
func (c *cli) client() (*client, error) {
	t := c.target
	p := profile{}
	name := first(t.profile, c.env("WISPGATE_PROFILE"))
	list, err := loadProfiles()
	if err != nil {
		return nil, err
	}
	if name != "" {
		var ok bool
		if p, ok = list[name]; !ok {
			return nil, usageError(fmt.Sprintf("there is no profile %q; wispgate profile list shows them", name))
		}
	} else if t.url == "" && c.env("WISPGATE_URL") == "" && t.socket == "" && c.env("WISPGATE_SOCKET") == "" {
		p = list["default"]
	}
	base := first(t.url, c.env("WISPGATE_URL"), p.URL)
	if base == "" {
		named := first(t.socket, c.env("WISPGATE_SOCKET"))
		return c.local(first(named, filepath.Join(config.Default().Node.DataDir, "wispgate.sock")), named != "")
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, usageError("the address must look like https://host:8443")
	}
	key := c.env("WISPGATE_KEY")
	if file := first(t.keyFile, p.KeyFile); file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the key: %w", err)
		}
		key = strings.TrimSpace(string(raw))
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if file := first(t.caFile, c.env("WISPGATE_CA_FILE"), p.CAFile); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, usageError("the CA file holds no PEM certificate")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &client{base: strings.TrimRight(base, "/"), key: key, tenant: t.tenant, http: &http.Client{Transport: transport, Timeout: t.timeout}}, nil
}

// localBase is the address of every request over the socket.
const localBase = "http://local"

// local speaks to the daemon on this machine; who may open the socket needs no key. named: the user has said where it is.
func (c *cli) local(path string, named bool) (*client, error) {
	_, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, errSocketDenied(path)
	case err != nil && named:
		return nil, &edge.Error{
			Kind: edge.Unavailable, Code: "no_target", Message: "There is no socket " + path,
			Fix: "It is wispgate.sock in the data folder of a daemon that runs: look whether this is the folder, and start wispgate serve where it does not run",
		}
	case err != nil:
		return nil, &edge.Error{
			Kind: edge.Unavailable, Code: "no_target", Message: "No node was named and no daemon runs on this machine",
			Fix: "Give --url and a key, store them with wispgate profile set, or start wispgate serve",
		}
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &client{base: localBase, tenant: c.target.tenant, http: &http.Client{
		Transport: &http.Transport{DialContext: dial}, Timeout: c.target.timeout,
	}}, nil
}

// call is one request to the API.
type call struct {
	method, path string
	query        url.Values
	body         []byte
	header       http.Header
}

// maxAnswer bounds what the client reads of an answer.
const maxAnswer = 64 << 20

// do sends the request and returns the answer's body and headers; a refusal is an *edge.Error.
func (c *client) do(ctx context.Context, r call) ([]byte, http.Header, error) {
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(r.body))
	if err != nil {
		return nil, nil, fmt.Errorf("make request: %w", err)
	}
	maps.Copy(req.Header, r.header)
	if len(r.body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	} else {
		req.Body = http.NoBody
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if c.tenant != "" {
		req.Header.Set("X-Tenant-ID", c.tenant)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, unreachable(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, nil, unreachable(err)
	}
	if resp.StatusCode >= 400 {
		return nil, resp.Header, refusal(resp, raw)
	}
	return raw, resp.Header, nil
}

func errSocketDenied(path string) error {
	return &edge.Error{
		Kind: edge.Denied, Code: "socket_denied", Message: "This user may not open the socket " + path + " of the daemon",
		Fix: "Run this as root or as the user that runs wispgate, or give --url and a key",
	}
}

func unreachable(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Net == "unix" && op.Addr != nil {
		if errors.Is(err, os.ErrPermission) {
			return errSocketDenied(op.Addr.String())
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return &edge.Error{
				Kind: edge.Unavailable, Code: "unreachable", Message: "No daemon answers at the socket " + op.Addr.String(),
				Fix: "Start wispgate serve, or wait until it has started; its log says why where it ends",
			}
		}
	}
	e := &edge.Error{Kind: edge.Unavailable, Code: "unreachable", Message: "The node cannot be reached: " + rootCause(err), Fix: "Check address and network, and that wispgate runs there"}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		e.Code, e.Message, e.Fix = "ca_unknown", "The node's certificate is signed by a CA that this machine does not trust", "Give the node's CA with --ca-file: tls/ca.crt in its data folder, or its /ca.crt"
	}
	return e
}

func rootCause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err.Error()
	}
	return err.Error()
}

// refusal turns a problem document back into the error it was made from.
func refusal(resp *http.Response, raw []byte) error {
	var p struct {
		Detail string `json:"detail"`
		Code   string `json:"code"`
		Fix    string `json:"fix"`
		Errors []struct {
			edge.FieldError
			Name string `json:"name"`
		} `json:"errors"`
		Request string `json:"request_id"`
	}
	if json.Unmarshal(raw, &p) != nil || p.Code == "" {
		p.Detail, p.Code = "The server answered "+resp.Status, "failed"
	}
	e := &edge.Error{Kind: kindOf(resp.StatusCode), Code: p.Code, Message: p.Detail, Fix: p.Fix}
	if e.Kind == edge.Internal && p.Request != "" {
		e.Fix = strings.TrimSpace(e.Fix + " (request " + p.Request + ")")
	}
	for _, f := range p.Errors {
		f.Pointer = first(f.Pointer, f.Name)
		e.Fields = append(e.Fields, f.FieldError)
	}
	return e
}

func kindOf(status int) edge.Kind {
	switch status {
	case http.StatusUnauthorized:
		return edge.Unauthenticated
	case http.StatusForbidden:
		return edge.Denied
	case http.StatusNotFound:
		return edge.NotFound
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired:
		return edge.Conflict
	case http.StatusTooManyRequests:
		return edge.Limited
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return edge.Unavailable
	}
	if status < 500 {
		return edge.Invalid
	}
	return edge.Internal
}

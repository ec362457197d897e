package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/edge/obs"
	"wispgate/gateway/ca"
	"wispgate/gateway/identity"
)

func tlsDir(dataDir string) string { return filepath.Join(dataDir, "tls") }

// writeCertificate makes a key and its certificate and writes both, with the CA to trust, to a folder.
func writeCertificate(authority *ca.Authority, node string, also []string, life time.Duration, out string) (IssuedCertificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return IssuedCertificate{}, fmt.Errorf("make key: %w", err)
	}
	cert, err := authority.IssueClient(ca.Node, node, key.Public(), life, also...)
	if err != nil {
		return IssuedCertificate{}, &edge.Error{Kind: edge.Invalid, Code: "name_invalid", Message: "The certificate cannot be issued: " + err.Error(), Fix: "Name the node as its node.id says"}
	}
	keyPEM, err := ca.KeyPEM(key)
	if err != nil {
		return IssuedCertificate{}, err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return IssuedCertificate{}, fmt.Errorf("make folder: %w", err)
	}
	issued := IssuedCertificate{
		Node: node, Also: also, Cert: filepath.Join(out, node+".crt"), Key: filepath.Join(out, node+".key"), CA: filepath.Join(out, "relay-ca.crt"),
	}
	return issued, errors.Join(
		writeFile(issued.Key, keyPEM, 0o600), writeFile(issued.Cert, cert, 0o644), writeFile(issued.CA, authority.PEM(), 0o644),
	)
}

// RearmClaim arms a new claim code in a data folder whose node has an owner already: the way back in when the last key was lost. The
// daemon reads it at the next claim; no restart is needed.
func RearmClaim(dataDir string) (edge.Secret, error) {
	log, _, err := obs.NewLogger(os.Stderr, obs.LogOptions{Level: "error"})
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dataDir, "node.json")); err != nil {
		return "", &edge.Error{Kind: edge.NotFound, Code: "data_dir", Message: "There is no node in that data folder", Fix: "Name the data folder with --data-dir"}
	}
	return identity.NewClaimFile(dataDir, time.Now, log).Arm(true)
}

// splitMetric takes a name with at most one label apart: name{label="value"}.
func splitMetric(name string) (base, label, value string) {
	base, rest, ok := strings.Cut(name, "{")
	if !ok {
		return base, "", ""
	}
	label, value, _ = strings.Cut(strings.TrimSuffix(rest, "}"), "=")
	return base, label, strings.Trim(value, `"`)
}

// untilDone waits for the end of ctx or for a fault of the state machine, and stops.
func (c *core) untilDone(ctx context.Context, stop func() error) error {
	select {
	case <-ctx.Done():
		c.log.Info("stopping")
		return stop()
	case <-c.machine.Failed():
		return errors.Join(c.machine.Fatal(), stop())
	}
}

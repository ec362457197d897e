package app

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"wispgate/edge/store"
	"wispgate/edge/vault"
)

// writeFile replaces a file by way of a temporary one, so that a power cut leaves the old or the new bytes.
func writeFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func shortRandom() string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// auditKey is the node's Ed25519 key for the heads of its audit chain, made at the first start.
func auditKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, "audit.key")
	seed, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		seed = make([]byte, ed25519.SeedSize)
		_, _ = rand.Read(seed)
		err = writeFile(path, seed, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("audit key %s is damaged: restore it from a backup, or move it and the audit folder away", path)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func writePublic(path string, pub ed25519.PublicKey) error {
	want := []byte(hex.EncodeToString(pub) + "\n")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return writeFile(path, want, 0o644)
}

// secrets is the vault as the executor needs it.
type secrets struct{ *vault.Vault }

// Digest implements the executor's Secrets.
func (secrets) Digest(plaintext string) (string, error) { return vault.Digest(plaintext) }

// VerifyDigest implements what the AAA index asks of a vault.
func (secrets) VerifyDigest(digest, plaintext string) (bool, error) {
	return vault.VerifyDigest(digest, plaintext)
}

// clientTLS is the TLS of an outgoing connection: the CAs to trust (the system's without a file) and a client certificate, if any.
func clientTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("read the broker's CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA file %s holds no PEM certificate", caFile)
		}
	}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

const systemKey = store.Local + "vault/system"

// openSystem loads the key of the platform's own tenant, made at the first start. It seals nothing that other nodes must read: it serves
// the digests of what is asked before any tenant exists.
func (s secrets) openSystem(st *store.Store) error {
	snap := st.Snapshot()
	defer snap.Close()
	wrapped, err := snap.Get([]byte(systemKey))
	if errors.Is(err, store.ErrNotFound) {
		if wrapped, err = s.NewTenantKey("system"); err == nil {
			var b store.Batch
			b.Put([]byte(systemKey), wrapped)
			err = st.Commit(&b)
		}
	}
	if err == nil {
		err = s.LoadTenantKey("system", wrapped)
	}
	if err != nil {
		return fmt.Errorf("open the platform's key: %w", err)
	}
	return nil
}

// memoryTotal is the smaller of the machine's memory and its cgroup's limit, in octets; 0 when unknown.
func memoryTotal() uint64 {
	total := uint64(0)
	if raw, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
				kb, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
				if err == nil {
					total = kb << 10
				}
			}
		}
	}
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64); err == nil && n > 0 && (total == 0 || n < total) {
			total = n
		}
	}
	return total
}

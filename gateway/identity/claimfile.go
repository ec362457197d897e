package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"wispgate/edge"
)

// ClaimFile keeps the node's claim code in a folder of the node: claim.json holds its digest, claim-code the code itself for whoever can
// read the node's files (mode 0600), until it is spent. The command line arms a code there while the daemon runs: the files are read at
// each check.
type ClaimFile struct {
	dir string
	now func() time.Time
	log *slog.Logger

	mu sync.Mutex // one reader or writer of this process
}

// claimState is claim.json.
type claimState struct {
	Digest  string    `json:"digest"` // hex SHA-256 of the code: 80 random bits are beyond guessing
	Rearmed bool      `json:"rearmed"`
	At      time.Time `json:"at"`
}

const (
	claimJSON = "claim.json"
	claimCode = "claim-code"

	claimChars = 16 // of five bits each
	crockford  = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// NewClaimFile keeps a claim code in dir, which must exist.
func NewClaimFile(dir string, now func() time.Time, log *slog.Logger) *ClaimFile {
	return &ClaimFile{dir: dir, now: now, log: log}
}

// Path is where the code itself can be read until it is spent.
func (c *ClaimFile) Path() string { return filepath.Join(c.dir, claimCode) }

// Arm makes a code, for a node without any tenant (rearmed false) or, at an operator's wish, for one that has. An unspent code of the
// first boot stays: a restart must not change what was printed. The code is "" when its file was taken away meanwhile. Show it once.
func (c *ClaimFile) Arm(rearmed bool) (code edge.Secret, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !rearmed {
		switch _, err := c.loadLocked(); {
		case err == nil:
			raw, err := os.ReadFile(c.Path())
			if errors.Is(err, fs.ErrNotExist) {
				return "", nil
			}
			return edge.Secret(strings.TrimSpace(string(raw))), err
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
	}
	var random [claimChars]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	var b strings.Builder
	for i, r := range random {
		if i > 0 && i%4 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(crockford[r&31])
	}
	state, err := json.Marshal(claimState{Digest: claimDigest(b.String()), Rearmed: rearmed, At: c.now().UTC()})
	if err != nil {
		return "", fmt.Errorf("encode claim code: %w", err)
	}
	// The digest last: a code that can be read but does not work yet is better than one that works and cannot be read.
	if err := writeFile(c.Path(), []byte(b.String()+"\n")); err != nil {
		return "", err
	}
	return edge.Secret(b.String()), writeFile(filepath.Join(c.dir, claimJSON), state)
}

func (c *ClaimFile) loadLocked() (s claimState, err error) {
	raw, err := os.ReadFile(filepath.Join(c.dir, claimJSON))
	if err != nil {
		return s, fmt.Errorf("read claim code: %w", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("read claim code: %w; run wispgate key rearm", err)
	}
	return s, nil
}

// Check implements Claims.
func (c *ClaimFile) Check(code edge.Secret) (Proof, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.loadLocked()
	if errors.Is(err, fs.ErrNotExist) {
		return Proof{}, ErrClaimClosed.Error(edge.Conflict)
	}
	if err != nil {
		return Proof{}, err
	}
	if subtle.ConstantTimeCompare([]byte(claimDigest(code.Reveal())), []byte(s.Digest)) != 1 {
		return Proof{}, ErrClaimCode.Error(edge.Unauthenticated)
	}
	return Proof{ID: s.id(), Rearmed: s.Rearmed}, nil
}

// Spend implements Claims.
func (c *ClaimFile) Spend(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.loadLocked()
	if err != nil || s.id() != id {
		return // spent before, or another code is armed by now
	}
	err = errors.Join(os.Remove(filepath.Join(c.dir, claimJSON)), os.Remove(c.Path()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("files of the spent claim code could not be removed; remove them by hand", "dir", c.dir, "error", err)
	}
}

// id names a code in public: a digest of its digest.
func (s claimState) id() string {
	sum := sha256.Sum256([]byte("wispgate claim id v1\x00" + s.Digest))
	return hex.EncodeToString(sum[:16])
}

// claimDigest digests a code as people type it: any case, O for 0, I and L for 1, with or without hyphens and spaces.
func claimDigest(code string) string {
	plain := strings.NewReplacer("O", "0", "I", "1", "L", "1", "-", "", " ", "").Replace(strings.ToUpper(code))
	sum := sha256.Sum256([]byte("wispgate claim v1\x00" + plain))
	return hex.EncodeToString(sum[:])
}

// writeFile replaces a file of mode 0600 whole: temporary file, fsync, rename, fsync of the directory.
func writeFile(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("open directory of %s: %w", path, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

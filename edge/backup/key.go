package backup

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"wispgate/edge"
)

// Text forms of the key pair: the prefix, then 32 octets and four of their SHA-256, base64url. A public key with a typing error would lock
// every night's backup for nobody, so it is noticed.
const (
	publicPrefix  = "wgb-public-"
	privatePrefix = "wgb-private-"
	sumSize       = 4
)

var (
	kem  = hpke.DHKEM(ecdh.X25519())
	text = base64.RawURLEncoding.Strict()
)

// PublicKey locks backups; it is no secret.
type PublicKey struct{ raw [keySize]byte }

// PrivateKey opens what was locked for its public key. It belongs where the backups do not lie.
type PrivateKey struct{ raw [keySize]byte }

// NewPrivateKey draws a key.
func NewPrivateKey() PrivateKey {
	var k PrivateKey
	_, _ = rand.Read(k.raw[:]) // never fails: it ends the program instead
	return k
}

// Public is the key's other half.
func (k PrivateKey) Public() (PublicKey, error) {
	private, err := kem.NewPrivateKey(k.raw[:])
	if err != nil {
		return PublicKey{}, fmt.Errorf("derive public key: %w", err)
	}
	return PublicKey{[keySize]byte(private.PublicKey().Bytes())}, nil
}

// Reveal is the private key's text, to be written to its file.
func (k PrivateKey) Reveal() string { return spell(privatePrefix, k.raw) }

// String keeps the key out of logs.
func (PrivateKey) String() string { return "***" }

// String is the public key's text.
func (k PublicKey) String() string { return spell(publicPrefix, k.raw) }

// ParsePublicKey reads what String wrote.
func ParsePublicKey(s string) (PublicKey, error) {
	raw, err := parseKey(publicPrefix, s)
	return PublicKey{raw}, err
}

// ParsePrivateKey reads a private key's file: comment lines and one line with the key.
func ParsePrivateKey(file string) (PrivateKey, error) {
	for line := range strings.Lines(file) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			raw, err := parseKey(privatePrefix, line)
			return PrivateKey{raw}, err
		}
	}
	return PrivateKey{}, errKeyText
}

func spell(prefix string, raw [keySize]byte) string {
	return prefix + text.EncodeToString(append(raw[:], keySum(prefix, raw)...))
}

func keySum(prefix string, raw [keySize]byte) []byte {
	sum := sha256.Sum256(append([]byte(prefix), raw[:]...))
	return sum[:sumSize]
}

func parseKey(prefix, s string) (raw [keySize]byte, err error) {
	body, ok := strings.CutPrefix(s, prefix)
	all, err := text.DecodeString(body)
	if !ok || err != nil || len(all) != keySize+sumSize {
		return raw, errKeyText
	}
	if raw = [keySize]byte(all[:keySize]); !bytes.Equal(all[keySize:], keySum(prefix, raw)) {
		return raw, errKeyText
	}
	return raw, nil
}

// FileKey is the random key of one file. Everything in the file hangs on it, and it lies in the head, wrapped for each that may open it.
type FileKey struct{ raw [keySize]byte }

// NewFileKey draws one.
func NewFileKey() FileKey {
	var k FileKey
	_, _ = rand.Read(k.raw[:])
	return k
}

// Seed is a key derived for one purpose, a constant of the program, beside the encryption of the file.
func (k FileKey) Seed(purpose string) []byte {
	return k.derive(nil, "wispgate backup seed v1 "+purpose)
}

func (k FileKey) derive(salt []byte, info string) []byte {
	out, err := hkdf.Key(sha256.New, k.raw[:], salt, info, keySize)
	if err != nil {
		panic(fmt.Sprintf("backup: derive: %v", err)) // only for lengths that cannot occur
	}
	return out
}

// Keys are what a new file is locked with: a passphrase, public keys, or both. Each alone opens it.
type Keys struct {
	Passphrase edge.Secret
	Recipients []PublicKey
}

// Openers are what may open a file.
type Openers struct {
	Passphrase  edge.Secret
	PrivateKeys []PrivateKey
}

package vault

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// argon2id parameters for new digests: 19 MiB and 2 passes (OWASP's floor). Digests name their own parameters, so these may change.
const (
	argonMemory = 19 << 10 // KiB
	argonPasses = 2
	argonSalt   = 16
	argonKey    = 32
)

// argonSlots bounds how many digests are computed at once: each takes argonMemory.
var argonSlots = make(chan struct{}, 2)

var errDigest = errors.New("vault: not an argon2id digest of known parameters")

// Digest is a slow salted one-way hash of what a person types, in PHC string form. It takes tens of milliseconds.
func Digest(plaintext string) (string, error) {
	salt := make([]byte, argonSalt)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("read random salt: %w", err)
	}
	sum := argon(plaintext, salt, argonPasses, argonMemory, argonKey)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, argonMemory, argonPasses, b64.EncodeToString(salt), b64.EncodeToString(sum)), nil
}

// VerifyDigest reports whether plaintext has the digest. Parameters beyond four times ours are refused rather than computed.
func VerifyDigest(digest, plaintext string) (bool, error) {
	parts := strings.Split(digest, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return false, errDigest
	}
	var memory, passes uint32
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=1", &memory, &passes); err != nil || n != 2 || memory > 4*argonMemory || passes > 16 || passes == 0 {
		return false, errDigest
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(want) < 16 || len(want) > 64 {
		return false, errDigest
	}
	got := argon(plaintext, salt, passes, memory, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

func argon(plaintext string, salt []byte, passes, memory, length uint32) []byte {
	argonSlots <- struct{}{}
	defer func() { <-argonSlots }()
	return argon2.IDKey([]byte(plaintext), salt, passes, memory, 1, length)
}

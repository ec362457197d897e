package edge

import (
	"errors"
	"log/slog"
)

// Secret is plaintext on its way in: a password, a shared secret. It prints as *** and refuses to be encoded, so it cannot enter an
// intent, a log or an answer. A command's Prepare seals or digests it and clears the field before the intent is made.
type Secret string

const redacted = "***"

var errSecretEncoded = errors.New("a plaintext secret must be sealed in Prepare before the intent is made")

// String prints ***.
func (s Secret) String() string { return redacted }

// GoString prints *** for %#v.
func (s Secret) GoString() string { return redacted }

// LogValue redacts the secret in logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses, except for the empty secret: plaintext does not leave the process.
func (s Secret) MarshalText() ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	return nil, errSecretEncoded
}

// Reveal returns the plaintext. Each call is a place to review.
func (s Secret) Reveal() string { return string(s) }

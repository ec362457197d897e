package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// The headers of a Standard Webhooks request.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

const (
	secretPrefix = "whsec_"
	minSecret    = 24 // octets, Standard Webhooks "Signature scheme"
	maxSecret    = 64
)

// ErrSecret refuses a signing secret.
var ErrSecret = edge.Reason{
	Code: "webhook_secret_invalid", Says: "The signing secret is not one of Standard Webhooks",
	Fix: "Leave it out to have one made, or give whsec_ and the base64 of 24 to 64 octets",
}

// FormatSecret writes 24 to 64 random octets in the form that Standard Webhooks libraries take: whsec_ and base64.
func FormatSecret(key []byte) edge.Secret {
	return edge.Secret(secretPrefix + base64.StdEncoding.EncodeToString(key))
}

// ParseSecret is the inverse of FormatSecret.
func ParseSecret(s edge.Secret) ([]byte, error) {
	text, ok := strings.CutPrefix(s.Reveal(), secretPrefix)
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(key) < minSecret || len(key) > maxSecret {
		return nil, ErrSecret.Error(edge.Invalid)
	}
	return key, nil
}

// Sign is the value of webhook-signature: one v1 signature per active key over id.timestamp.body, apart by spaces, so that a receiver
// goes on verifying while it changes from the old secret to the new.
func Sign(id string, at time.Time, body []byte, keys ...[]byte) string {
	head := id + "." + strconv.FormatInt(at.Unix(), 10) + "."
	var b strings.Builder
	for i, key := range keys {
		if i > 0 {
			b.WriteByte(' ')
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(head))
		mac.Write(body)
		b.WriteString("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return b.String()
}

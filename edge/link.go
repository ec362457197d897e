package edge

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// Link is one number of a series that a node owns, chained to the number before it and signed by the node: a receipt printed with no
// uplink can be proved later, and one that is missing or altered shows.
type Link struct {
	Series    string `json:"series" check:"max=64" doc:"Name of the series." example:"RCT"`
	Node      string `json:"node" check:"max=64" doc:"Node that owns it." example:"tower7-a"`
	Number    uint64 `json:"number" doc:"Place in the series, from 1." example:"42"`
	Previous  string `json:"previous,omitempty" check:"max=64" doc:"Hash of the link before; absent in the first."`
	Hash      string `json:"hash" check:"max=64" doc:"SHA-256 of series, node, number, previous and content, in hexadecimal."`
	Signature string `json:"signature" check:"max=88" doc:"Ed25519 over the hash by the node's key, in base64."`
}

// linkDomain keeps signatures of links apart from all others of the node's key.
const linkDomain = "wispgate link v1\n"

// Seal computes the link's hash over content, which is encoded as JSON, and signs it.
func (l *Link) Seal(content any, sign func(message []byte) []byte) error {
	hash, err := l.digest(content)
	if err != nil {
		return err
	}
	l.Hash = hash
	l.Signature = base64.StdEncoding.EncodeToString(sign([]byte(linkDomain + hash)))
	return nil
}

// Verify reports whether the link was made over this content by the holder of the key.
func (l Link) Verify(content any, key ed25519.PublicKey) bool {
	hash, err := l.digest(content)
	if err != nil || hash != l.Hash || len(key) != ed25519.PublicKeySize {
		return false
	}
	sig, err := base64.StdEncoding.DecodeString(l.Signature)
	return err == nil && ed25519.Verify(key, []byte(linkDomain+hash), sig)
}

// Follows reports whether the link comes directly after another one of its series.
func (l Link) Follows(before Link) bool {
	return l.Series == before.Series && l.Node == before.Node && l.Number == before.Number+1 && l.Previous == before.Hash
}

func (l *Link) digest(content any) (string, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, part := range []string{l.Series, l.Node, strconv.FormatUint(l.Number, 10), l.Previous} {
		h.Write([]byte(strconv.Itoa(len(part)) + ":" + part)) // each with its length, so that no two links read alike
	}
	h.Write(raw)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Package wire is what uplink and relay say to each other over MQTT: topics, batches of CloudEvents with the range of positions they
// cover, births, deaths and acknowledgements; and the signature under which the relay passes an event on to a webhook.
//
// Everything read here comes from outside: every parser is strict about what it needs, bounded in what it takes, and fuzzed.
package wire

import (
	"errors"
	"strings"
)

// Bounds of what is read. A sender stays well below them; sizes are octets.
const (
	MaxPayload = 512 << 10 // a batch as MQTT carries it, compressed
	MaxPlain   = 512 << 10 // a batch decompressed
	MaxEvent   = 192 << 10 // one event's envelope
	MaxEvents  = 4096      // events in one batch
	maxControl = 2 << 10   // a birth, death, ack or nack
)

// ErrMalformed is what every parser's error wraps: the message is not of this protocol, whoever sent it.
var ErrMalformed = errors.New("malformed message")

// Kind is the last level of a topic.
type Kind string

// The kinds of message of a stream. Events flow up; State is retained and also the last will; Ack is retained and flows down, as does
// Nack.
const (
	Events Kind = "ev"
	Status Kind = "state"
	Acks   Kind = "ack"
	Nacks  Kind = "nack"
)

const root = "wg/v1/"

// Topic is wg/v1/{tenant}/{source}/{kind}. Tenant and source must be names (ValidName).
func Topic(tenant, source string, kind Kind) string {
	return root + tenant + "/" + source + "/" + string(kind)
}

// Filter subscribes to one kind of message of every stream.
func Filter(kind Kind) string { return root + "+/+/" + string(kind) }

// ParseTopic splits a topic; ok is false for anything that Topic does not build.
func ParseTopic(topic string) (tenant, source string, kind Kind, ok bool) {
	rest, ok := strings.CutPrefix(topic, root)
	if !ok || len(topic) > 256 {
		return "", "", "", false
	}
	tenant, rest, _ = strings.Cut(rest, "/")
	source, last, ok := strings.Cut(rest, "/")
	switch kind = Kind(last); kind {
	case Events, Status, Acks, Nacks:
	default:
		return "", "", "", false
	}
	if !ok || !ValidName(tenant) || !ValidName(source) {
		return "", "", "", false
	}
	return tenant, source, kind, true
}

// ValidName reports whether s may be a tenant, a source or an incarnation: 1 to 64 letters, digits, dots, hyphens and underscores. It
// holds no separator of a topic, a key or a URI.
func ValidName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

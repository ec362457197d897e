package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"wispgate/edge"
)

// Event is the public envelope of an event: CloudEvents 1.0 in JSON, content mode structured. The last five attributes are extensions;
// Position is a decimal string because a CloudEvents integer has only 32 bits.
type Event struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"` // /wispgate/{source}
	Type            string          `json:"type"`   // wispgate.{domain}.{noun}.{verb}.v1
	Subject         string          `json:"subject,omitempty"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	TenantID        string          `json:"tenantid"`
	Actor           string          `json:"actor,omitempty"`
	CorrelationID   string          `json:"correlationid,omitempty"`
	CausationID     string          `json:"causationid,omitempty"` // the operation id
	Position        uint64          `json:"position,string"`
	Data            json.RawMessage `json:"data"`
}

// Data is the body of every event: the record as the API shows it after the change, absent when it was removed, and the event itself.
type Data struct {
	Object  json.RawMessage `json:"object,omitempty"`
	Changed json.RawMessage `json:"changed"`
}

// Item is an event of a stream: its attributes and the octets that travel, are stored and are signed.
type Item struct {
	Event
	Raw []byte // the envelope on one line
}

// Digest identifies the octets of an item, to recognise a history that was written twice.
func (it *Item) Digest() string {
	sum := sha256.Sum256(it.Raw)
	return hex.EncodeToString(sum[:])
}

const (
	specVersion = "1.0"
	contentJSON = "application/json"
	typePrefix  = "wispgate."
	sourceRoot  = "/wispgate/"
)

// SourceURI is the source attribute of the events of a cluster or node.
func SourceURI(source string) string { return sourceRoot + source }

// TypeName is the public type of an event: wispgate.crm.customer.created.v1.
func TypeName(event string) string { return typePrefix + event + ".v1" }

// EventName is the inverse of TypeName, whatever the version: crm.customer.created. What is not ours comes back unchanged.
func EventName(typ string) string {
	name, ok := strings.CutPrefix(typ, typePrefix)
	if !ok {
		return typ
	}
	if i := strings.LastIndex(name, ".v"); i > 0 {
		name = name[:i]
	}
	return name
}

// NewItem makes the envelope of a stored event row or of a node fact in the shape of one. Correlation ties events of one story
// together; "" stands for the operation that caused this one.
func NewItem(source string, row edge.EventRow, correlation string) (Item, error) {
	data, err := json.Marshal(Data{Object: row.Object, Changed: row.Changed})
	if err != nil {
		return Item{}, fmt.Errorf("encode data of event %s: %w", row.ID, err)
	}
	if correlation == "" {
		correlation = row.Operation
	}
	e := Event{
		SpecVersion: specVersion, ID: string(row.ID), Source: SourceURI(source), Type: TypeName(row.Type), Subject: string(row.Subject),
		Time: row.Time.UTC(), DataContentType: contentJSON, TenantID: row.Tenant, Actor: row.Actor, CorrelationID: correlation,
		CausationID: row.Operation, Position: row.Position, Data: data,
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return Item{}, fmt.Errorf("encode event %s: %w", row.ID, err)
	}
	if err := e.check(); err != nil {
		return Item{}, fmt.Errorf("event %s: %w", row.ID, err)
	}
	if len(raw) > MaxEvent {
		return Item{}, fmt.Errorf("event %s has %d octets, at most %d fit: %w", row.ID, len(raw), MaxEvent, ErrMalformed)
	}
	return Item{Event: e, Raw: raw}, nil
}

// FactID is the id of the n-th event made from a node's journal record: a pure function of where the record stands.
func FactID(node, incarnation string, sequence uint64, n int) edge.ID {
	return edge.DeriveID("evt", node+"/"+incarnation+"/"+strconv.FormatUint(sequence, 10), n)
}

const maxAttributes = 32

// ParseEvent reads an envelope. It demands the attributes that the relay works with, refuses a name given twice, and carries attributes
// it does not know as long as CloudEvents allows their names.
func ParseEvent(raw []byte) (Item, error) {
	if len(raw) > MaxEvent || !utf8.Valid(raw) || bytes.IndexByte(raw, '\n') >= 0 {
		return Item{}, malformed("event is too long, not UTF-8 or not one line")
	}
	it := Item{Raw: raw}
	if err := json.Unmarshal(raw, &it.Event); err != nil {
		return Item{}, malformed("event is not JSON, or an attribute has the wrong type")
	}
	if !attributesOnce(raw) {
		return Item{}, malformed("event has an attribute twice, too many, or one with a bad name")
	}
	if err := it.check(); err != nil {
		return Item{}, err
	}
	return it, nil
}

// attributesOnce walks the names of a JSON object that is known to be well formed. A decoder would take the last of two equal names,
// and match them whatever their case.
func attributesOnce(raw []byte) bool {
	var seen [maxAttributes][]byte
	n, depth := 0, 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			start := i + 1
			for i++; raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
			if rest := bytes.TrimLeft(raw[i+1:], " \t\r"); depth != 1 || len(rest) == 0 || rest[0] != ':' {
				continue
			}
			name := raw[start:i]
			if n == maxAttributes || !attributeName(name) {
				return false
			}
			for _, s := range seen[:n] {
				if bytes.Equal(s, name) {
					return false
				}
			}
			seen[n] = name
			n++
		}
	}
	return true
}

// attributeName: CloudEvents 1.0 §3.1, lower-case letters and digits.
func attributeName(s []byte) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}

func (e *Event) check() error {
	switch {
	case e.SpecVersion != specVersion:
		return malformed("event is not CloudEvents 1.0")
	case !edge.ID(e.ID).Valid():
		return malformed("event id is not prefix_UUID")
	case !strings.HasPrefix(e.Source, sourceRoot) || !ValidName(e.Source[len(sourceRoot):]):
		return malformed("event source is not /wispgate/…")
	case !validType(e.Type):
		return malformed("event type is not wispgate.….vN")
	case !ValidName(e.TenantID):
		return malformed("event tenant is not a name")
	case e.Time.IsZero() || !writable(e.Time):
		return malformed("event has no time, or one that cannot be written")
	case e.DataContentType != contentJSON:
		return malformed("event data is not JSON")
	case len(e.Data) == 0 || e.Data[0] != '{':
		return malformed("event data is not an object")
	case len(e.Subject) > 256 || len(e.Actor) > 256 || len(e.CorrelationID) > 256 || len(e.CausationID) > 256:
		return malformed("an event attribute is longer than 256 octets")
	}
	return nil
}

// writable reports whether the moment can be written in UTC: RFC 3339 has years of four digits, and time.Time reads the last hours of 9999 at any offset.
func writable(t time.Time) bool {
	year := t.UTC().Year()
	return year >= 0 && year <= 9999
}

func validType(s string) bool {
	rest, ok := strings.CutPrefix(s, typePrefix)
	parts := strings.Split(rest, ".")
	if !ok || len(s) > 128 || len(parts) < 3 {
		return false
	}
	for _, p := range parts[:len(parts)-1] {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			return false
		}
	}
	version := parts[len(parts)-1]
	return len(version) > 1 && version[0] == 'v' && strings.Trim(version[1:], "0123456789") == ""
}

func malformed(what string) error { return fmt.Errorf("%s: %w", what, ErrMalformed) }

var errTooLarge = errors.New("batch is larger than a message may be")

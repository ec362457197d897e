package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// State is the retained word on a stream: a birth while its sender is connected, a death once it is not. The death is the connection's
// last will and repeats Session, so that a late will is told from a newer birth.
type State struct {
	Incarnation string    `json:"incarnation"`
	Online      bool      `json:"online"`
	Reason      string    `json:"reason,omitempty"` // of a death: lost, or stopped
	Node        string    `json:"node"`             // who speaks for the stream
	Session     string    `json:"session"`          // one connection of that node
	BootID      string    `json:"boot_id,omitempty"`
	Version     string    `json:"version,omitempty"` // of the program
	Acked       uint64    `json:"acked"`
	Last        uint64    `json:"last"`
	Since       time.Time `json:"since"`
}

// Ack says that the relay holds everything up to Upto on its own disk. Session names the relay's connection: a change means that what
// was under way may be lost, and is worth sending again at once.
type Ack struct {
	Incarnation string `json:"incarnation"`
	Upto        uint64 `json:"upto"`
	Session     string `json:"session"`
}

// Nack asks for everything after After once more: a gap has not closed by itself.
type Nack struct {
	Incarnation string `json:"incarnation"`
	After       uint64 `json:"after"`
}

// Encode makes the message of a State, Ack or Nack.
func Encode(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("wire: encode %T: %v", v, err)) // plain structs: only a year beyond 9999 could
	}
	return raw
}

// ParseState reads a birth or death. Members that a newer program adds are ignored.
func ParseState(raw []byte) (s State, err error) {
	if err := control(raw, &s); err != nil {
		return State{}, err
	}
	if !ValidName(s.Incarnation) || !ValidName(s.Node) || !ValidName(s.Session) {
		return State{}, malformed("state names its stream badly")
	}
	if !writable(s.Since) {
		return State{}, malformed("state is since a moment that cannot be written")
	}
	return s, nil
}

// ParseAck reads an acknowledgement.
func ParseAck(raw []byte) (a Ack, err error) {
	if err := control(raw, &a); err != nil {
		return Ack{}, err
	}
	if !ValidName(a.Incarnation) || !ValidName(a.Session) {
		return Ack{}, malformed("ack names its stream badly")
	}
	return a, nil
}

// ParseNack reads a request to send again.
func ParseNack(raw []byte) (n Nack, err error) {
	if err := control(raw, &n); err != nil {
		return Nack{}, err
	}
	if !ValidName(n.Incarnation) {
		return Nack{}, malformed("nack names its stream badly")
	}
	return n, nil
}

func control(raw []byte, into any) error {
	if len(raw) > maxControl {
		return malformed("control message is too long")
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return malformed("control message cannot be read")
	}
	return nil
}

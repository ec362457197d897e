package backup

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"wispgate/edge"
)

// The payload: the manifest and the tenants' keys, each as its length (32 bit, little endian) and JSON, then the state as the machine
// writes it, up to the end.

// Bounds of the parts before the state, in octets. 32 MB are some 100,000 tenants' keys.
const (
	maxManifest = 32 << 20
	maxKeys     = 32 << 20
)

// Manifest says what a backup is of.
type Manifest struct {
	Cluster     string    `json:"cluster" doc:"Cluster it was made of."`
	Incarnation string    `json:"incarnation" doc:"History of that cluster."`
	Node        string    `json:"node" doc:"Node that made it."`
	Site        string    `json:"site" doc:"Where that node stood."`
	Version     uint64    `json:"version" doc:"Version of the state in it."`
	Checksum    string    `json:"checksum" doc:"SHA-256 of the replicated state at that version."`
	Records     uint64    `json:"records" doc:"Records of the state, its indexes included."`
	StateBytes  int64     `json:"state_bytes" doc:"Length of the state in the file."`
	StateTime   time.Time `json:"state_time" doc:"Time of the newest commit in it."`
	MadeAt      time.Time `json:"made_at" doc:"When the backup was made."`
	Program     string    `json:"program" doc:"Version of the program that made it."`
	Level       int       `json:"feature_level" doc:"What a program must know to read it."`
	Tenants     []string  `json:"tenants" doc:"Whose keys are in it."`
	AuditKey    string    `json:"audit_key" doc:"Public key of the node's audit log and receipts, hexadecimal."`
	Series      []Series  `json:"series" doc:"Last numbers of the node's own series."`
}

// Series is how far a number series of the node had come.
type Series struct {
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	Number uint64 `json:"number"`
	Hash   string `json:"hash,omitempty"` // of the last link, hexadecimal
}

// Key is a tenant's data key, wrapped under the file's key.
type Key struct {
	Record  edge.ID `json:"record,omitempty"` // of the key; "" for the platform's own
	Tenant  string  `json:"tenant"`
	Wrapped []byte  `json:"wrapped"`
}

// Preamble is everything before the state.
type Preamble struct {
	Manifest Manifest
	Keys     []Key
}

// Encode is the preamble as it stands in the payload.
func (p *Preamble) Encode() ([]byte, error) {
	var out []byte
	for _, part := range []any{p.Manifest, p.Keys} {
		raw, err := json.Marshal(part)
		if err != nil {
			return nil, fmt.Errorf("encode manifest: %w", err)
		}
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(raw))), raw...)
	}
	return out, nil
}

// ReadPreamble reads the parts before the state.
func ReadPreamble(r io.Reader) (p Preamble, err error) {
	if err := readPart(r, maxManifest, &p.Manifest); err != nil {
		return p, err
	}
	return p, readPart(r, maxKeys, &p.Keys)
}

// readPart takes memory only for what is there, whatever the length claims.
func readPart(r io.Reader, most uint32, v any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return cutOff(err)
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n > most {
		return errDamaged
	}
	raw, err := io.ReadAll(io.LimitReader(r, int64(n)))
	switch {
	case err != nil:
		return err
	case len(raw) < int(n):
		return errTruncated
	case json.Unmarshal(raw, v) != nil:
		return errDamaged
	}
	return nil
}

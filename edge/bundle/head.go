package bundle

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"time"
)

// Bounds of what a file may say before anything in it is proved.
const (
	magicPrefix = "wispgate-bundle "
	maxMagic    = len(magicPrefix) + 10
	maxHead     = 8 << 10
	maxName     = 64
)

// Head is the part of the file that can be read without a key.
type Head struct {
	Kind        string    `json:"kind"`
	Cluster     string    `json:"cluster"`
	Incarnation string    `json:"incarnation"` // of the cluster's history
	Node        string    `json:"node"`        // that made and signed it
	For         string    `json:"for,omitempty"`
	MadeAt      time.Time `json:"made_at"`
	Program     string    `json:"program"`
	Key         []byte    `json:"key"` // of the file, wrapped for who may open it
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode is the head as it stands in the file: the magic line, its length, itself, and a CRC-32C that tells a flipped bit from a wrong
// key. What proves it is the encryption that follows: its key hangs on every octet here.
func (h *Head) encode() ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(body) > maxHead {
		return nil, errors.New("bundle: the head is too long")
	}
	out := append([]byte(magicPrefix+strconv.Itoa(Format)+"\n"), binary.LittleEndian.AppendUint32(nil, uint32(len(body)))...)
	out = append(out, body...)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli)), nil
}

// readHead reads the head and returns it with its octets.
func readHead(r io.Reader) (h Head, raw []byte, err error) {
	if raw, err = readMagic(r); err != nil {
		return h, nil, err
	}
	take := func(n int) ([]byte, error) {
		part := make([]byte, n)
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, cutOff(err)
		}
		raw = append(raw, part...)
		return part, nil
	}
	length, err := take(4)
	if err != nil {
		return h, nil, err
	}
	n := binary.LittleEndian.Uint32(length)
	if n > maxHead {
		return h, nil, refuse(ErrDamaged)
	}
	body, err := take(int(n))
	if err != nil {
		return h, nil, err
	}
	want := crc32.Checksum(raw, castagnoli)
	sum, err := take(4)
	if err != nil {
		return h, nil, err
	}
	if binary.LittleEndian.Uint32(sum) != want || json.Unmarshal(body, &h) != nil || !h.sound() {
		return h, nil, refuse(ErrDamaged)
	}
	return h, raw, nil
}

func (h *Head) sound() bool {
	for _, name := range []string{h.Cluster, h.Node, h.For, h.Incarnation, h.Program} {
		if len(name) > maxName {
			return false
		}
	}
	return h.Cluster != "" && h.Node != "" && (h.Kind == Writes || h.Kind == Entries) && len(h.Key) > 0
}

// readMagic reads the first line and refuses another format before anything else is looked at.
func readMagic(r io.Reader) ([]byte, error) {
	var line []byte
	var one [1]byte
	for len(line) < maxMagic {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			if !errors.Is(err, io.EOF) {
				return nil, err
			}
			break
		}
		if line = append(line, one[0]); one[0] == '\n' || !bytes.HasPrefix(line, []byte(magicPrefix)[:min(len(line), len(magicPrefix))]) {
			break
		}
	}
	number, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), magicPrefix)
	format, err := strconv.ParseUint(number, 10, 32)
	switch {
	case len(line) > 0 && line[len(line)-1] != '\n' && strings.HasPrefix(magicPrefix, string(line)):
		return nil, refuse(ErrTruncated)
	case !ok || err != nil || line[len(line)-1] != '\n':
		return nil, refuse(ErrForeign)
	case format > Format:
		return nil, refuse(ErrNewer)
	case format == 0:
		return nil, refuse(ErrForeign)
	}
	return line, nil
}

// cutOff is the error of a read inside the file.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse(ErrTruncated)
	}
	return err
}

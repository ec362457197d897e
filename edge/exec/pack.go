package exec

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/s2"
)

// What an operation answers is mostly the record that it wrote, so an entry holds nearly everything twice. A packed entry takes half the
// room in the log, in memory and on the wire.

// Pack is the encoded entry as every node of PackLevel reads it, or raw itself where that is no shorter. It takes memory of its own size only.
func Pack(raw []byte) []byte {
	body := raw[:len(raw)-crcLen]
	block := s2.Encode(nil, body)
	if 1+len(block) >= len(body) {
		return raw
	}
	packed := append(make([]byte, 0, 1+len(block)+crcLen), entryPacked)
	packed = append(packed, block...)
	return binary.LittleEndian.AppendUint32(packed, crc32.Checksum(packed, castagnoli))
}

// unpack returns the body that a packed entry holds, one octet at least.
func unpack(block []byte) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	if err != nil || n < 1 || n > MaxEntry-crcLen {
		return nil, fmt.Errorf("%w: what is packed has no such length", ErrUndecodable)
	}
	body, err := s2.Decode(nil, block)
	if err != nil {
		return nil, fmt.Errorf("%w: it does not unpack", ErrUndecodable)
	}
	return body, nil
}

package journal

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"

	"wispgate/edge"
)

// Head is a signed statement: the record Seq of this journal, and with it everything before, has this hash. Heads kept
// elsewhere, as upstream, prove later that nothing was changed or cut off.
type Head struct {
	Incarnation uint64
	Seq         uint64
	Hash        [hashSize]byte
	Signature   []byte // Ed25519
}

const headSize = 8 + 8 + hashSize + ed25519.SignatureSize

// message is what is signed.
func (h Head) message() []byte {
	b := binary.LittleEndian.AppendUint64([]byte("wispgate journal head v1\x00"), h.Incarnation)
	b = binary.LittleEndian.AppendUint64(b, h.Seq)
	return append(b, h.Hash[:]...)
}

// Verify reports whether the key signed the head.
func (h Head) Verify(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && len(h.Signature) == ed25519.SignatureSize && ed25519.Verify(key, h.message(), h.Signature)
}

func (h Head) encode() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, headSize), h.Incarnation)
	b = binary.LittleEndian.AppendUint64(b, h.Seq)
	b = append(b, h.Hash[:]...)
	return append(b, h.Signature...)
}

// ParseHead decodes the payload of a KindHead record.
func ParseHead(payload []byte) (Head, error) {
	if len(payload) != headSize {
		return Head{}, errors.New("journal head has the wrong length")
	}
	h := Head{Incarnation: binary.LittleEndian.Uint64(payload), Seq: binary.LittleEndian.Uint64(payload[8:])}
	copy(h.Hash[:], payload[16:])
	h.Signature = append(h.Signature, payload[16+hashSize:]...)
	return h, nil
}

var (
	errNoSigner = &edge.Error{
		Kind: edge.Invalid, Code: "journal_no_signer", Message: "this journal has no key to sign heads with", Fix: "open it with a signer",
	}
	errSealed = errors.New("journal record is sealed and no key was given")
)

package authn

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"

	"wispgate/edge"
)

// An API key is wg_live_<8 id>_<43 secret><6 checksum>: fixed length, letters and digits without order. The id finds the record, the
// secret is 256 random bits, the checksum (CRC-32, IEEE, of all before it) drops cut and mistyped keys without a look into any record
// and keeps secret scanners exact.
const (
	// Prefix begins every key.
	Prefix = "wg_live_"

	idAt     = len(Prefix)
	idLen    = 8
	secretAt = idAt + idLen + 1
	// 62^43 is the first power above 2^256, 62^6 above 2^32.
	secretLen = 43
	sumAt     = secretAt + secretLen
	sumLen    = 6

	// KeyLen is the length of every key.
	KeyLen = sumAt + sumLen

	alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// Algorithm says how a secret's digest was made, so that another one may follow without new keys.
type Algorithm byte

// SHA256 is the digest of the 43 characters of the secret. Of 256 random bits a fast hash is enough.
const SHA256 Algorithm = 1

// Digest is what a record keeps of a secret.
type Digest [sha256.Size]byte

// Minted is a new key. Only Token is secret: it is shown once and kept nowhere.
type Minted struct {
	ID       string // the 8 characters that find the record
	Token    edge.Secret
	Digest   Digest
	LastFour string // of the secret, for people to tell keys apart: 232 bits stay unknown
}

// Mint makes a secret for the key's record from 32 random octets. All secrets of a record share its id, which follows from the record's:
// so a secret can be made without looking at the record.
func Mint(record edge.ID, random func(n int) []byte) Minted {
	id, secret := TokenID(record), baseN(random(32), secretLen)
	head := Prefix + id + "_" + secret
	return Minted{
		ID: id, Token: edge.Secret(head + checksum(head)), Digest: digest(secret), LastFour: secret[secretLen-4:],
	}
}

// TokenID is the 8 characters by which keys of the record are found.
func TokenID(record edge.ID) string {
	sum := sha256.Sum256([]byte(record))
	number := binary.BigEndian.Uint64(sum[:]) % (62 * 62 * 62 * 62 * 62 * 62 * 62 * 62)
	return baseN(binary.BigEndian.AppendUint64(nil, number), idLen)
}

// baseN writes a big-endian number in n digits of the alphabet.
func baseN(number []byte, n int) string {
	number = append([]byte(nil), number...)
	out := make([]byte, n)
	for i := n - 1; i >= 0; i-- {
		rest := 0
		for j, b := range number {
			rest = rest<<8 | int(b)
			number[j] = byte(rest / len(alphabet)) // rest < 62*256
			rest %= len(alphabet)
		}
		out[i] = alphabet[rest]
	}
	return string(out)
}

func checksum(head string) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], crc32.ChecksumIEEE([]byte(head)))
	return baseN(b[:], sumLen)
}

// digest hashes a secret without copying it to the heap.
func digest(secret string) Digest {
	var b [secretLen]byte
	copy(b[:], secret)
	return sha256.Sum256(b[:])
}

// wellFormed reports whether the token has a key's length, alphabet and checksum. It does not allocate.
func wellFormed(token string) bool {
	if len(token) != KeyLen || token[:idAt] != Prefix || token[secretAt-1] != '_' {
		return false
	}
	for i := idAt; i < KeyLen; i++ {
		if !digit[token[i]] && i != secretAt-1 {
			return false
		}
	}
	crc := ^uint32(0)
	for i := range sumAt { // crc32.Update would move the token to the heap
		crc = crc32.IEEETable[byte(crc)^token[i]] ^ crc>>8
	}
	crc = ^crc
	for i := KeyLen - 1; i >= sumAt; i-- {
		if token[i] != alphabet[crc%62] {
			return false
		}
		crc /= 62
	}
	return crc == 0
}

var digit = func() (t [256]bool) {
	for _, c := range []byte(alphabet) {
		t[c] = true
	}
	return t
}()

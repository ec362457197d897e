package backup

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"wispgate/edge"
)

// argon2id of the passphrase: what a board of 64 MB can spare. The head names its own parameters, so these may change; what a file asks
// for is bounded, since nobody has proved yet who wrote it.
const (
	minPassphrase = 12
	argonMemory   = 19 << 10 // KiB
	argonPasses   = 4
	argonSalt     = 16
	maxMemory     = 256 << 10
	maxPasses     = 16
)

// Types of a lock. Others are skipped: a newer program may know more ways in.
const (
	lockPassphrase = "passphrase"
	lockKey        = "x25519"
)

// lock is the file key wrapped for one who may open the file.
type lock struct {
	Type string `json:"type"`

	Salt   []byte `json:"salt,omitempty"` // of a passphrase
	Memory uint32 `json:"memory_kib,omitempty"`
	Passes uint32 `json:"passes,omitempty"`

	Key string `json:"key,omitempty"` // the public key, as text

	Wrapped []byte `json:"wrapped"`
}

// head is the part of the file that can be read without a key.
type head struct {
	Locks []lock `json:"locks"`
}

// Lock says how a file can be opened.
type Lock struct {
	Type string `json:"type"`          // passphrase or x25519
	Key  string `json:"key,omitempty"` // the public key
}

func (h *head) count() (passphrase bool, keys int) {
	for i := range h.Locks {
		switch h.Locks[i].Type {
		case lockPassphrase:
			passphrase = true
		case lockKey:
			keys++
		}
	}
	return passphrase, keys
}

// newHead wraps the file key for everyone in keys.
func newHead(key FileKey, keys Keys) (*head, error) {
	h := &head{}
	switch n := utf8.RuneCountInString(keys.Passphrase.Reveal()); {
	case n == 0 && len(keys.Recipients) == 0:
		return nil, errNoLock
	case n > 0 && n < minPassphrase:
		return nil, errWeak
	case len(keys.Recipients) >= maxLocks:
		return nil, errManyLocks
	case n > 0:
		l := lock{Type: lockPassphrase, Salt: make([]byte, argonSalt), Memory: argonMemory, Passes: argonPasses}
		_, _ = rand.Read(l.Salt)
		l.Wrapped = l.stretch(keys.Passphrase).Seal(nil, make([]byte, nonceSize), key.raw[:], []byte(lockPassphrase))
		h.Locks = append(h.Locks, l)
	}
	for _, r := range keys.Recipients {
		pub, err := kem.NewPublicKey(r.raw[:])
		if err != nil {
			return nil, errKeyText
		}
		wrapped, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(lockInfo), key.raw[:])
		if err != nil {
			return nil, fmt.Errorf("wrap the key of the backup: %w", err)
		}
		h.Locks = append(h.Locks, lock{Type: lockKey, Key: r.String(), Wrapped: wrapped})
	}
	return h, nil
}

const (
	lockInfo  = "wispgate backup key v1"
	nonceSize = 12
)

// stretch is the cipher under the key that argon2id makes of the passphrase. Its salt is new for each file, so its nonce may be zero.
func (l *lock) stretch(passphrase edge.Secret) cipher.AEAD {
	return gcm(argon2.IDKey([]byte(passphrase.Reveal()), l.Salt, l.Passes, l.Memory, 1, keySize))
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err == nil {
		var aead cipher.AEAD
		if aead, err = cipher.NewGCM(block); err == nil {
			return aead
		}
	}
	panic(fmt.Sprintf("backup: cipher: %v", err)) // only for key lengths that cannot occur
}

// encode is the head as it stands in the file: the magic line, its length, itself, and a CRC-32C that tells a flipped bit from a wrong
// passphrase. What proves it is the encryption that follows: its key hangs on every octet here.
func (h *head) encode() ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	out := append([]byte(magicPrefix+strconv.Itoa(Format)+"\n"), binary.LittleEndian.AppendUint32(nil, uint32(len(body)))...)
	out = append(out, body...)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli)), nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readHead reads the head and returns it with its octets.
func readHead(r io.Reader) (*head, []byte, error) {
	raw, err := readMagic(r)
	if err != nil {
		return nil, nil, err
	}
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, nil, cutOff(err)
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n > maxHead {
		return nil, nil, errDamaged
	}
	raw = append(raw, length[:]...)
	rest := make([]byte, n+4)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, nil, cutOff(err)
	}
	raw = append(raw, rest...)
	if all, sum := raw[:len(raw)-4], raw[len(raw)-4:]; crc32.Checksum(all, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return nil, nil, errDamaged
	}
	h := new(head)
	if err := json.Unmarshal(rest[:n], h); err != nil || len(h.Locks) > maxLocks {
		return nil, nil, errDamaged
	}
	return h, raw, nil
}

func readMagic(r io.Reader) ([]byte, error) {
	const longest = len(magicPrefix) + 10
	raw := make([]byte, 0, longest)
	one := make([]byte, 1)
	for !bytes.HasSuffix(raw, []byte("\n")) {
		if _, err := io.ReadFull(r, one); err != nil {
			if err = cutOff(err); errors.Is(err, errTruncated) {
				err = errForeign
			}
			return nil, err
		}
		if raw = append(raw, one[0]); len(raw) > longest || !strings.HasPrefix(string(raw), magicPrefix[:min(len(raw), len(magicPrefix))]) {
			return nil, errForeign
		}
	}
	format, err := strconv.ParseUint(string(raw[len(magicPrefix):len(raw)-1]), 10, 32)
	switch {
	case err != nil || format == 0:
		return nil, errForeign
	case format > Format:
		return nil, errNewer(format)
	}
	return raw, nil
}

// cutOff makes the end of a file an error for people; any other error stays what it is.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTruncated
	}
	return err
}

// open finds the file key with what the openers hold.
func (h *head) open(o Openers) (key FileKey, err error) {
	for i := range h.Locks {
		raw, lockErr := h.Locks[i].open(o)
		if len(raw) == keySize && lockErr == nil {
			return FileKey{[keySize]byte(raw)}, nil
		}
		err = errors.Join(lockErr, err)
	}
	switch {
	case errors.Is(err, errPassphrase):
		return key, errPassphrase
	case err != nil:
		return key, errDamaged
	case len(o.PrivateKeys) > 0:
		return key, errPrivateKey
	}
	return key, errLocked(h)
}

// open unwraps the key, or returns nothing where the openers hold nothing for this lock.
func (l *lock) open(o Openers) ([]byte, error) {
	switch l.Type {
	case lockPassphrase:
		if o.Passphrase == "" {
			return nil, nil
		}
		if l.Memory > maxMemory || l.Passes > maxPasses || l.Passes == 0 || l.Memory < 8 || len(l.Salt) < 8 || len(l.Salt) > 64 {
			return nil, errDamaged
		}
		raw, err := l.stretch(o.Passphrase).Open(nil, make([]byte, nonceSize), l.Wrapped, []byte(lockPassphrase))
		if err != nil {
			return nil, errPassphrase
		}
		return raw, nil
	case lockKey:
		for _, k := range o.PrivateKeys {
			pub, err := k.Public()
			if err != nil || pub.String() != l.Key {
				continue
			}
			private, err := kem.NewPrivateKey(k.raw[:])
			if err != nil {
				return nil, errKeyText
			}
			raw, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(lockInfo), l.Wrapped)
			if err != nil {
				return nil, errDamaged
			}
			return raw, nil
		}
	}
	return nil, nil
}

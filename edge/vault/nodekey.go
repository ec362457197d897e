package vault

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"wispgate/edge"
)

// KeyFile is the name of the node key in the vault's folder: 32 random bytes, mode 0600.
const KeyFile = "node.key"

// nodeKey reads the node key, making it when there is none.
func nodeKey(dir string) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make vault folder: %w", err)
	}
	path := filepath.Join(dir, KeyFile)
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(dir, path); err != nil {
			return nil, fmt.Errorf("make node key: %w", err)
		}
		return readKey(path)
	}
	return key, err
}

func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &edge.Error{
			Kind: edge.Invalid, Code: "vault_key_mode", Message: "the node key " + path + " can be read by others",
			Fix: "run chmod 600 on it, and replace the tenants' keys if somebody may have read it",
		}
	}
	if info.Size() != keySize {
		return nil, &edge.Error{
			Kind: edge.Invalid, Code: "vault_key_damaged", Message: "the node key " + path + " is not 32 bytes long",
			Fix: "restore it from the site's backup; a new one could not open what the old one sealed",
		}
	}
	return os.ReadFile(path)
}

// makeKey writes the key completely before it gets its name. A link, unlike a rename, never replaces a key that
// another process made meanwhile.
func makeKey(dir, path string) error {
	key := make([]byte, keySize)
	_, _ = rand.Read(key)
	tmp, err := os.CreateTemp(dir, KeyFile+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(key)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		// Some file systems for memory cards know no links.
		if err := os.Rename(tmp.Name(), path); err != nil {
			return err
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sealer seals bytes that never leave this node, such as its journal, under a key derived from the node key. It fits
// journal.Sealer.
type Sealer struct{ aead cipher.AEAD }

// Sealer makes the sealer for one purpose, a constant of the program.
func (v *Vault) Sealer(purpose string) *Sealer {
	return &Sealer{gcm(derive(v.node, "wispgate node seal v1 "+purpose))}
}

// Seal appends nonce, ciphertext and tag to dst.
func (s *Sealer) Seal(dst, plaintext, additional []byte) []byte {
	var zeros [nonceSize]byte
	dst = append(dst, zeros[:]...)
	nonce := dst[len(dst)-nonceSize:]
	_, _ = rand.Read(nonce) // in place, because an array of its own would be allocated
	return s.aead.Seal(dst, nonce, plaintext, additional)
}

// Open appends the plaintext to dst.
func (s *Sealer) Open(dst, sealed, additional []byte) ([]byte, error) {
	if len(sealed) < nonceSize+tagSize {
		return nil, errNotSealed
	}
	out, err := s.aead.Open(dst, sealed[:nonceSize], sealed[nonceSize:], additional)
	if err != nil {
		return nil, errWrongPlace
	}
	return out, nil
}

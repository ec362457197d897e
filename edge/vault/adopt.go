package vault

import (
	"crypto/hpke"
	"fmt"
	"strings"
)

// SeedPublicKey is the public half of the key pair of a seed of 32 octets: WrapFor wraps tenants' keys to it, and whoever has the seed, as
// from a backup, adopts them.
func SeedPublicKey(seed []byte) ([]byte, error) {
	private, err := seedKey(seed)
	if err != nil {
		return nil, err
	}
	return private.PublicKey().Bytes(), nil
}

func seedKey(seed []byte) (hpke.PrivateKey, error) {
	private, err := kem.NewPrivateKey(derive(seed, "wispgate carry v1"))
	if err != nil {
		return nil, fmt.Errorf("derive key pair: %w", err)
	}
	return private, nil
}

// Adopt opens a tenant's key that was wrapped to the seed's public key and returns it wrapped for this node.
func (v *Vault) Adopt(name string, wrapped, seed []byte) ([]byte, error) {
	private, err := seedKey(seed)
	if err != nil {
		return nil, err
	}
	body, ok := strings.CutPrefix(string(wrapped), sharedPrefix)
	if !ok {
		return nil, errWrapped
	}
	raw, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sharedPrefix+name), []byte(body))
	if err != nil || len(raw) != keySize {
		return nil, errWrapped
	}
	return v.wrap(name, raw), nil
}

// Package vault keeps secrets at rest. A node key, a file that never leaves the machine, wraps one or more data keys
// per tenant; a data key seals values into text that any record can carry. A sealed value opens only in the place it
// was sealed for: tenant, record, field and key are bound to it. Log, state, snapshots and backups hold sealed values
// and wrapped keys, nothing else.
package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
	"sync"

	"wispgate/edge"
)

const (
	keySize   = 32
	nonceSize = 12
	tagSize   = 16
	idSize    = 8
	// MaxPlaintext bounds what Seal takes, in bytes; larger things belong in the document store.
	MaxPlaintext = 64 << 10

	sealedPrefix  = "v1."     // then the key id, a dot, and nonce, ciphertext and tag
	wrappedPrefix = "wk1\x00" // under the node key itself
	sharedPrefix  = "wk2\x00" // to the node's public key (HPKE, RFC 9180, X25519)
	handedPrefix  = "wk3\x00" // other octets to the node's public key
)

var (
	text = base64.RawURLEncoding.Strict()
	kem  = hpke.DHKEM(ecdh.X25519())
)

// Vault is safe for concurrent use.
type Vault struct {
	node    []byte // the node key; everything used is derived from it
	nodes   cipher.AEAD
	private hpke.PrivateKey

	mu      sync.RWMutex
	tenants map[string]*tenant
}

type tenant struct {
	current *key
	keys    map[string]*key
}

// key is one data key of one tenant, ready for use.
type key struct {
	id      string // 16 hexadecimal digits, derived from the key itself
	aead    cipher.AEAD
	macs    sync.Map // purpose → *sync.Pool of hash.Hash
	macSeed []byte
}

// Open reads the node key from dir, or makes it at first boot.
func Open(dir string) (*Vault, error) {
	node, err := nodeKey(dir)
	if err != nil {
		return nil, err
	}
	private, err := kem.NewPrivateKey(derive(node, "wispgate share v1"))
	if err != nil {
		return nil, fmt.Errorf("derive node key pair: %w", err)
	}
	return &Vault{node: node, nodes: gcm(derive(node, "wispgate wrap v1")), private: private, tenants: map[string]*tenant{}}, nil
}

// NewTenantKey draws a data key for a tenant and returns it wrapped for this node. It seals nothing until LoadTenantKey:
// a key whose record is never committed must not seal anything, or nobody could open that again.
func (v *Vault) NewTenantKey(name string) ([]byte, error) {
	raw := make([]byte, keySize)
	_, _ = rand.Read(raw) // never fails: it ends the program instead
	return v.wrap(name, raw), nil
}

// LoadTenantKey makes a wrapped data key usable. The last one loaded seals; loading in the order of their making is
// the caller's part. Loading a key again changes nothing but which one seals.
func (v *Vault) LoadTenantKey(name string, wrapped []byte) error {
	raw, err := v.unwrap(name, wrapped)
	if err != nil {
		return err
	}
	v.add(name, raw)
	return nil
}

// PublicKey is the node's public key, to which other nodes of the cluster wrap tenant keys for it.
func (v *Vault) PublicKey() []byte { return v.private.PublicKey().Bytes() }

// WrapFor wraps a tenant's key, given as wrapped for this node, for the node with that public key, whose vault then
// loads it like its own. The public key must come over a channel that proves whose it is.
func (v *Vault) WrapFor(name string, wrapped, publicKey []byte) ([]byte, error) {
	raw, err := v.unwrap(name, wrapped)
	if err != nil {
		return nil, err
	}
	pub, err := kem.NewPublicKey(publicKey)
	if err != nil {
		return nil, errPublicKey
	}
	body, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sharedPrefix+name), raw)
	if err != nil {
		return nil, fmt.Errorf("wrap tenant key: %w", err)
	}
	return append([]byte(sharedPrefix), body...), nil
}

// SealFor seals octets of one purpose, a constant of the program, for the node with that public key: what one node hands to another
// besides tenants' keys. The public key must come over a channel that proves whose it is.
func (v *Vault) SealFor(purpose string, publicKey, plaintext []byte) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, errTooLarge
	}
	pub, err := kem.NewPublicKey(publicKey)
	if err != nil {
		return nil, errPublicKey
	}
	body, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(handedPrefix+purpose), plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal for another node: %w", err)
	}
	return append([]byte(handedPrefix), body...), nil
}

// OpenFor opens what another node sealed for this one and this purpose.
func (v *Vault) OpenFor(purpose string, sealed []byte) ([]byte, error) {
	body, ok := strings.CutPrefix(string(sealed), handedPrefix)
	if !ok {
		return nil, errWrapped
	}
	plain, err := hpke.Open(v.private, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(handedPrefix+purpose), []byte(body))
	if err != nil {
		return nil, errWrapped
	}
	return plain, nil
}

// Has reports whether the tenant has a key loaded.
func (v *Vault) Has(name string) bool { return v.current(name) != nil }

// KeyID is the id of the key that seals for the tenant, empty when none is loaded. A sealed value whose KeyOf differs
// is due for sealing again.
func (v *Vault) KeyID(name string) string {
	if k := v.current(name); k != nil {
		return k.id
	}
	return ""
}

// KeyOf is the id of the key that a sealed value was sealed with, empty when it is not a sealed value.
func KeyOf(sealed string) string {
	id, _, ok := split(sealed)
	if !ok {
		return ""
	}
	return id
}

// IsSealed reports whether s has the form that Seal gives.
func IsSealed(s string) bool { return KeyOf(s) != "" }

// Seal encrypts a value for its place and returns text of printable characters without spaces.
func (v *Vault) Seal(name, record, field string, plaintext []byte) (string, error) {
	k := v.current(name)
	if k == nil {
		return "", errNoKey
	}
	if len(plaintext) > MaxPlaintext {
		return "", errTooLarge
	}
	s := scratches.Get().(*scratch)
	defer s.release()
	s.buf = slices.Grow(s.buf[:0], nonceSize+len(plaintext)+tagSize)
	nonce := s.buf[:nonceSize]
	_, _ = rand.Read(nonce)
	body := k.aead.Seal(nonce, nonce, plaintext, s.bind(name, record, field, k.id))
	s.text = append(s.text[:0], sealedPrefix...)
	s.text = append(s.text, k.id...)
	s.text = append(s.text, '.')
	s.text = text.AppendEncode(s.text, body)
	return string(s.text), nil
}

// Unseal opens a value that was sealed for this very tenant, record and field.
func (v *Vault) Unseal(name, record, field, sealed string) ([]byte, error) {
	id, body, ok := split(sealed)
	if !ok {
		return nil, errNotSealed
	}
	k := v.key(name, id)
	if k == nil {
		return nil, errNoKey
	}
	s := scratches.Get().(*scratch)
	defer s.release()
	s.text = append(s.text[:0], body...)
	raw, err := text.AppendDecode(s.buf[:0], s.text)
	s.buf = raw
	if err != nil || len(raw) < nonceSize+tagSize || text.EncodedLen(len(raw)) != len(body) { // a decoder leaves out line breaks, which sealing never writes
		return nil, errNotSealed
	}
	plain, err := k.aead.Open(make([]byte, 0, len(raw)-nonceSize-tagSize), raw[:nonceSize], raw[nonceSize:], s.bind(name, record, field, id))
	if err != nil {
		return nil, errWrongPlace
	}
	return plain, nil
}

// MAC is HMAC-SHA256 of data under a key of the tenant's own for this purpose, for digests of things that hold
// secrets. It is the same on every node of the tenant, and for as long as the tenant's current key is; nil when no key
// is loaded. Purposes are constants of the program, never input.
func (v *Vault) MAC(name, purpose string, data []byte) []byte {
	k := v.current(name)
	if k == nil {
		return nil
	}
	return k.mac(purpose, data)
}

// MACWith is MAC under a named key of the tenant, to compare with a digest that an earlier key made.
func (v *Vault) MACWith(name, id, purpose string, data []byte) []byte {
	k := v.key(name, id)
	if k == nil {
		return nil
	}
	return k.mac(purpose, data)
}

func (k *key) mac(purpose string, data []byte) []byte {
	pool, ok := k.macs.Load(purpose)
	if !ok {
		seed := derive(k.macSeed, purpose)
		pool, _ = k.macs.LoadOrStore(purpose, &sync.Pool{New: func() any { return hmac.New(sha256.New, seed) }})
	}
	h := pool.(*sync.Pool).Get().(hash.Hash)
	h.Reset()
	h.Write(data)
	sum := h.Sum(make([]byte, 0, sha256.Size))
	h.Reset()
	pool.(*sync.Pool).Put(h)
	return sum
}

func (v *Vault) current(name string) *key {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if t := v.tenants[name]; t != nil {
		return t.current
	}
	return nil
}

func (v *Vault) key(name, id string) *key {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if t := v.tenants[name]; t != nil {
		return t.keys[id]
	}
	return nil
}

func (v *Vault) add(name string, raw []byte) {
	k := &key{
		id:      hex.EncodeToString(derive(raw, "wispgate key id v1")[:idSize]),
		aead:    gcm(derive(raw, "wispgate seal v1")),
		macSeed: derive(raw, "wispgate mac v1"),
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tenants[name]
	if t == nil {
		t = &tenant{keys: map[string]*key{}}
		v.tenants[name] = t
	}
	if old := t.keys[k.id]; old != nil {
		k = old
	}
	t.keys[k.id], t.current = k, k
}

func (v *Vault) wrap(name string, raw []byte) []byte {
	out := make([]byte, len(wrappedPrefix)+nonceSize, len(wrappedPrefix)+nonceSize+keySize+tagSize)
	copy(out, wrappedPrefix)
	nonce := out[len(wrappedPrefix):]
	_, _ = rand.Read(nonce)
	return v.nodes.Seal(out, nonce, raw, []byte(wrappedPrefix+name))
}

func (v *Vault) unwrap(name string, wrapped []byte) ([]byte, error) {
	if body, ok := strings.CutPrefix(string(wrapped), sharedPrefix); ok {
		raw, err := hpke.Open(v.private, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sharedPrefix+name), []byte(body))
		if err != nil || len(raw) != keySize {
			return nil, errWrapped
		}
		return raw, nil
	}
	body, ok := strings.CutPrefix(string(wrapped), wrappedPrefix)
	if !ok || len(body) != nonceSize+keySize+tagSize {
		return nil, errWrapped
	}
	raw, err := v.nodes.Open(nil, []byte(body[:nonceSize]), []byte(body[nonceSize:]), []byte(wrappedPrefix+name))
	if err != nil {
		return nil, errWrapped
	}
	return raw, nil
}

// split takes a sealed value apart without decoding it.
func split(sealed string) (id, body string, ok bool) {
	rest, ok := strings.CutPrefix(sealed, sealedPrefix)
	if !ok || len(rest) < 2*idSize+1 || rest[2*idSize] != '.' {
		return "", "", false
	}
	for _, c := range []byte(rest[:2*idSize]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", "", false
		}
	}
	return rest[:2*idSize], rest[2*idSize+1:], true
}

// scratch holds what sealing needs besides its result. It is wiped before it is used again.
type scratch struct{ buf, text, place []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) release() {
	clear(s.buf[:cap(s.buf)])
	scratches.Put(s)
}

// bind is the additional data: each part with its length, so that no two places read alike.
func (s *scratch) bind(parts ...string) []byte {
	s.place = s.place[:0]
	for _, p := range parts {
		s.place = binary.LittleEndian.AppendUint32(s.place, uint32(len(p)))
		s.place = append(s.place, p...)
	}
	return s.place
}

func derive(secret []byte, info string) []byte {
	out, err := hkdf.Key(sha256.New, secret, nil, info, keySize)
	if err != nil {
		panic(fmt.Sprintf("vault: derive: %v", err)) // only for lengths that cannot occur
	}
	return out
}

func gcm(raw []byte) cipher.AEAD {
	block, err := aes.NewCipher(raw)
	if err == nil {
		var aead cipher.AEAD
		if aead, err = cipher.NewGCM(block); err == nil {
			return aead
		}
	}
	panic(fmt.Sprintf("vault: cipher: %v", err)) // only for key lengths that cannot occur
}

var (
	errNoKey = &edge.Error{
		Kind: edge.Unavailable, Code: "vault_key_missing", Message: "the tenant's key is not on this node",
		Fix: "let the node catch up with its cluster, or give it the key again with a site restore",
	}
	errNotSealed = &edge.Error{
		Kind: edge.Internal, Code: "vault_not_sealed", Message: "a stored secret is not in sealed form", Fix: "set the secret again",
	}
	errWrongPlace = &edge.Error{
		Kind: edge.Internal, Code: "vault_wrong_place", Message: "a sealed secret does not belong to this record, or was altered",
		Fix: "set the secret again; if nobody moved it, look into who could write the data folder",
	}
	errWrapped = &edge.Error{
		Kind: edge.Unavailable, Code: "vault_wrapped_key", Message: "a tenant's key was not wrapped for this node",
		Fix: "restore this node's node.key file, or have another node of the cluster wrap the key for it",
	}
	errPublicKey = &edge.Error{
		Kind: edge.Invalid, Code: "vault_public_key", Message: "the other node's public key is not a valid one", Fix: "let that node send its key again",
	}
	errTooLarge = &edge.Error{
		Kind: edge.Invalid, Code: "too_large", Message: "the secret is larger than 64 KB", Fix: "store it as a document",
	}
)

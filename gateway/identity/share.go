package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"wispgate/edge"
)

// SharedKey is a tenant's data key wrapped for one node's vault.
type SharedKey struct {
	For     string `json:"for" check:"max=64" doc:"Public key of the vault it is wrapped for, base64."`
	Wrapped string `json:"wrapped" check:"max=512" doc:"The wrapped key, base64."`
}

// KeyRing holds the records of the tenants' data keys, wrapped as they are, so that nodes can wrap them for each other.
type KeyRing struct {
	mu      sync.Mutex
	keys    map[edge.ID]TenantKey
	changed chan struct{}
}

// NewKeyRing makes an empty one.
func NewKeyRing() *KeyRing {
	return &KeyRing{keys: map[edge.ID]TenantKey{}, changed: make(chan struct{})}
}

// Changed is closed at the next change.
func (r *KeyRing) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *KeyRing) put(recs map[edge.ID]TenantKey) {
	if r == nil || len(recs) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.keys, recs)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *KeyRing) all() []TenantKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.keys), func(a, b TenantKey) int { return cmpID(a.ID, b.ID) })
}

func cmpID(a, b edge.ID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// wrappedFor is the key as node can open it: the share made for it, else as its maker wrapped it for itself.
func (k *TenantKey) wrappedFor(node string) ([]byte, bool, error) {
	text, shared := k.Wrapped, false
	if s, ok := k.Shared[node]; ok {
		text, shared = s.Wrapped, true
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, shared, fmt.Errorf("read wrapped key of %s: %w", k.Slug, err)
	}
	return raw, shared, nil
}

// Share gives a node a tenant's data key.
type Share struct {
	ID      edge.ID `json:"id" check:"prefix=tky" doc:"The key's record."`
	Node    string  `json:"node" check:"min=1 max=64" doc:"The node it is wrapped for."`
	For     string  `json:"for" check:"max=64" doc:"Public key of that node's vault, base64."`
	Wrapped string  `json:"wrapped" check:"max=512" doc:"The wrapped key, base64."`
}

// shareKey stores a tenant's data key as wrapped for a node. It is a node's own work: no route leads to it.
var shareKey = edge.Command[Share, edge.None]{
	Name: "identity.tenant_key.share", Scope: "identity:write", Class: edge.Admin, Summary: "Give a node of the cluster a tenant's data key",
	Handle: func(tx edge.Tx, in Share) (none edge.None, err error) {
		if err := onlyOperator(tx); err != nil {
			return none, err
		}
		k, err := tenantKeys.Get(tx, in.ID)
		if err != nil || k.Shared[in.Node].For == in.For {
			return none, err
		}
		shared := map[string]SharedKey{in.Node: {For: in.For, Wrapped: in.Wrapped}}
		for node, s := range k.Shared {
			if node != in.Node {
				shared[node] = s
			}
		}
		k.Shared = shared
		return none, tenantKeys.Put(tx, &k)
	},
}

// Wrapper wraps a key that this node can open for another node's vault.
type Wrapper interface {
	Has(tenant string) bool
	WrapFor(tenant string, wrapped, publicKey []byte) ([]byte, error)
}

// Recipient is a node that must be able to open every tenant's key.
type Recipient struct {
	Node     string
	VaultKey string // base64
}

var keeper = edge.SystemActor(edge.System, "keys")

// ShareKeys wraps every tenant's key that this node can open for the recipients that lack it, at most some at a time, and says whether
// more is to do. A key that this node cannot open is another's to share.
func ShareKeys(ctx context.Context, x edge.Executor, r *KeyRing, w Wrapper, node string, to []Recipient) (more bool, err error) {
	const atOnce = 64
	var errs []error
	done := 0
	for _, k := range r.all() {
		for _, rcpt := range to {
			if rcpt.VaultKey == "" || k.Shared[rcpt.Node].For == rcpt.VaultKey || rcpt.Node == node && w.Has(k.Slug) {
				continue
			}
			if done++; done > atOnce {
				return true, errors.Join(errs...)
			}
			if err := share(ctx, x, &k, w, node, rcpt); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return false, errors.Join(errs...)
}

func (k *TenantKey) wrap(w Wrapper, node, vaultKey string) ([]byte, error) {
	public, err := base64.StdEncoding.DecodeString(vaultKey)
	if err != nil {
		return nil, fmt.Errorf("read vault key: %w", err)
	}
	mine, _, err := k.wrappedFor(node)
	if err != nil {
		return nil, err
	}
	return w.WrapFor(k.Slug, mine, public)
}

func share(ctx context.Context, x edge.Executor, k *TenantKey, w Wrapper, node string, to Recipient) error {
	wrapped, err := k.wrap(w, node, to.VaultKey)
	if err != nil {
		return nil //nolint:nilerr // this node cannot open it; the one that made it can
	}
	_, err = edge.Do(ctx, x, keeper, "", "identity.tenant_key.share", Share{
		ID: k.ID, Node: to.Node, For: to.VaultKey, Wrapped: base64.StdEncoding.EncodeToString(wrapped),
	})
	if err != nil {
		return fmt.Errorf("share the key of %s with %s: %w", k.Slug, to.Node, err)
	}
	return nil
}

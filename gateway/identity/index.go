package identity

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"wispgate/edge"
	"wispgate/gateway/authn"
	"wispgate/gateway/limit"
)

// Index holds in memory what verification needs of every key: the record, its digests, and what its client and tenant allow, folded
// into one value for each key. A watch feeds it, from the state at start and from each commit, so it needs no network and no disk.
type Index struct {
	log  *slog.Logger
	bind func(*authn.Identity) any

	mu      sync.RWMutex
	keys    map[string]*authn.Key // by the 8 characters in their text
	rows    map[edge.ID]*row      // by key record
	clients map[edge.ID]*owner    // by client record
	tenants map[string]*tenantRow // by slug
	uses    map[edge.ID]*authn.LastUse
}

// row is what is kept of a key and its digests.
type row struct {
	tenant  string
	client  edge.ID
	scopes  []string
	sites   []edge.ID
	allow   []netip.Prefix
	revoked bool
	known   bool // the key's record has arrived, not only its digests
	secrets [2]authn.Secret
}

// owner is what is kept of a client.
type owner struct {
	id     edge.ID
	known  bool
	status ClientStatus
	scopes []string
	sites  []edge.ID
	plan   string
	limits *Limits
	keys   map[edge.ID]struct{}
}

type tenantRow struct {
	slug   string
	known  bool
	status Status
	limits *Limits
	keys   map[edge.ID]struct{}
}

// NewIndex makes an empty index. bind, if not nil, attaches to each identity what the caller wants to find there; it runs when records
// change, not when requests come.
func NewIndex(log *slog.Logger, bind func(*authn.Identity) any) *Index {
	x := &Index{log: log, bind: bind, uses: map[edge.ID]*authn.LastUse{}}
	x.resetLocked()
	return x
}

// Key implements authn.Records.
func (x *Index) Key(id string) *authn.Key {
	x.mu.RLock()
	k := x.keys[id]
	x.mu.RUnlock()
	return k
}

// Tenants counts the tenants: none means that the node waits to be claimed.
func (x *Index) Tenants() (n int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, t := range x.tenants {
		if t.known {
			n++
		}
	}
	return n
}

// Only is the slug of the only tenant, "" where there are none or several.
func (x *Index) Only() (slug string) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for name, t := range x.tenants {
		switch {
		case !t.known:
		case slug != "":
			return ""
		default:
			slug = name
		}
	}
	return slug
}

// Has reports whether there is a tenant with the slug.
func (x *Index) Has(slug string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.tenants[slug] != nil && x.tenants[slug].known
}

func (x *Index) resetLocked() {
	x.keys, x.rows = map[string]*authn.Key{}, map[edge.ID]*row{}
	x.clients, x.tenants = map[edge.ID]*owner{}, map[string]*tenantRow{}
}

func (x *Index) watch() edge.Watch {
	return edge.Watch{
		Name: "identity.index", Tables: []string{tenants.Name, clients.Name, keys.Name, keySecrets.Name},
		Apply: func(reset bool, _ uint64, changes []edge.Change) { x.apply(reset, changes) },
	}
}

// apply takes changes in, then folds every key that they touch anew. Records may arrive in any order.
func (x *Index) apply(reset bool, changes []edge.Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if reset {
		x.resetLocked()
	}
	touched := map[edge.ID]struct{}{}
	for _, c := range changes {
		if err := x.takeLocked(c, touched); err != nil {
			// A record that cannot be read refuses its keys; the others go on.
			x.log.Error("identity record cannot be read", "table", c.Table, "record", c.ID, "error", err)
		}
	}
	for id := range touched {
		x.foldLocked(id)
	}
}

func (x *Index) takeLocked(c edge.Change, touched map[edge.ID]struct{}) error {
	switch c.Table {
	case tenants.Name:
		return x.takeTenantLocked(c, touched)
	case clients.Name:
		return x.takeClientLocked(c, touched)
	case keys.Name:
		touched[c.ID] = struct{}{}
		return x.takeKeyLocked(c)
	case keySecrets.Name:
		id := c.ID.With("key")
		touched[id] = struct{}{}
		return x.takeSecretLocked(id, c)
	}
	return nil
}

func (x *Index) takeTenantLocked(c edge.Change, touched map[edge.ID]struct{}) error {
	var rec Tenant
	if err := decode(c.Val, &rec); err != nil || rec.Slug == "" {
		return err // tenants are never removed
	}
	t := x.tenantLocked(rec.Slug)
	t.known, t.status, t.limits = true, rec.Status, rec.Limits
	for id := range t.keys {
		touched[id] = struct{}{}
	}
	return nil
}

func (x *Index) takeClientLocked(c edge.Change, touched map[edge.ID]struct{}) error {
	var rec Client
	err := decode(c.Val, &rec)
	o := x.ownerLocked(c.ID)
	o.known, o.status, o.scopes, o.sites, o.plan, o.limits = err == nil && c.Val != nil, rec.Status, rec.Scopes, rec.Sites, rec.Plan, rec.Limits
	for id := range o.keys {
		touched[id] = struct{}{}
	}
	return err
}

func (x *Index) takeKeyLocked(c edge.Change) error {
	var rec Key
	err := decode(c.Val, &rec)
	r := x.rowLocked(c.ID)
	if err != nil || c.Val == nil {
		r.known = false
		return err
	}
	o, t := x.ownerLocked(rec.Client), x.tenantLocked(c.Tenant)
	o.keys[c.ID], t.keys[c.ID] = struct{}{}, struct{}{}
	*r = row{ // words that most keys of a client have in common are kept once
		tenant: t.slug, client: o.id, scopes: shared(rec.Scopes, o.scopes), sites: rec.Sites, allow: rec.Allow,
		revoked: rec.RevokedAt != nil, known: true, secrets: r.secrets,
	}
	return nil
}

func (x *Index) takeSecretLocked(key edge.ID, c edge.Change) error {
	var rec KeySecret
	err := decode(c.Val, &rec)
	r := x.rowLocked(key)
	r.secrets = [2]authn.Secret{}
	for i, s := range rec.Secrets[:min(len(rec.Secrets), 2)] {
		digest, bad := hex.DecodeString(s.Digest)
		if bad != nil || len(digest) != len(authn.Digest{}) || s.Algorithm < 1 || s.Algorithm > 255 {
			return fmt.Errorf("secret %d of the key is damaged", i)
		}
		r.secrets[i] = authn.Secret{
			Algorithm: authn.Algorithm(s.Algorithm), Digest: authn.Digest(digest), Expires: s.ExpiresAt, Older: i > 0, // 1 to 255
		}
	}
	return err
}

// shared is list, in the memory of same where both hold the same.
func shared(list, same []string) []string {
	if slices.Equal(list, same) {
		return same
	}
	return list
}

func decode(val []byte, rec any) error {
	if val == nil {
		return nil
	}
	return json.Unmarshal(val, rec)
}

func (x *Index) rowLocked(id edge.ID) *row {
	r := x.rows[id]
	if r == nil {
		r = &row{}
		x.rows[id] = r
	}
	return r
}

func (x *Index) ownerLocked(id edge.ID) *owner {
	o := x.clients[id]
	if o == nil {
		o = &owner{id: id, keys: map[edge.ID]struct{}{}}
		x.clients[id] = o
	}
	return o
}

func (x *Index) tenantLocked(slug string) *tenantRow {
	t := x.tenants[slug]
	if t == nil {
		t = &tenantRow{slug: slug, keys: map[edge.ID]struct{}{}}
		x.tenants[slug] = t
	}
	return t
}

// foldLocked makes the value that verification sees of a key.
func (x *Index) foldLocked(id edge.ID) {
	r, token := x.rows[id], authn.TokenID(id)
	if r == nil || !r.known {
		delete(x.keys, token)
		if r != nil && r.secrets[0].Algorithm == 0 {
			delete(x.rows, id)
			delete(x.uses, id)
		}
		return
	}
	c, t := x.ownerLocked(r.client), x.tenantLocked(r.tenant)
	sites, none := commonSites(r.sites, c.sites)
	k := &authn.Key{Secrets: r.secrets, Allow: r.allow, Use: x.uses[id], Identity: &authn.Identity{
		Actor: edge.Actor{Tenant: r.tenant, Subject: string(r.client), Key: string(id), Scopes: shared(commonScopes(r.scopes, c.scopes), r.scopes)},
		Limits: limit.Subject{
			Tenant: r.tenant, Client: string(r.client), Plan: c.plan, TenantRate: t.limits.rate(), ClientRate: c.limits.rate(),
		},
	}}
	for _, s := range sites {
		k.Identity.Actor.Sites = append(k.Identity.Actor.Sites, string(s))
	}
	switch {
	case r.revoked:
		k.Refused = &authn.ErrRevoked
	case !c.known || c.status != Enabled:
		k.Refused = &authn.ErrClient
	case !t.known || t.status != Active:
		k.Refused = &authn.ErrSuspended
	case none:
		k.Refused = &authn.ErrSite
	}
	if k.Use == nil {
		k.Use = &authn.LastUse{}
		x.uses[id] = k.Use
	}
	if x.bind != nil {
		k.Identity.Bound = x.bind(k.Identity)
	}
	x.keys[token] = k
}

// loadKeys makes the tenants' data keys usable on every node as their records arrive.
func loadKeys(p Ports) edge.Watch {
	return edge.Watch{
		Name: "identity.tenant_keys", Tables: []string{tenantKeys.Name},
		Apply: func(_ bool, _ uint64, changes []edge.Change) {
			seen := map[edge.ID]TenantKey{}
			for _, c := range changes {
				var rec TenantKey
				if c.Val == nil {
					continue // keys are never removed
				}
				if err := decode(c.Val, &rec); err != nil {
					p.Logger.Error("record of a tenant's data key cannot be read", "record", c.ID, "error", err)
					continue
				}
				seen[c.ID] = rec
				p.loadKey(&rec)
			}
			p.Ring.put(seen)
		},
	}
}

// loadKey makes one key usable, if this node can open it. Another node's key comes later, when somebody who can has shared it.
func (p *Ports) loadKey(rec *TenantKey) {
	wrapped, shared, err := rec.wrappedFor(p.Node)
	if err == nil {
		err = p.Vault.LoadTenantKey(rec.Slug, wrapped)
	}
	switch {
	case err == nil:
	case shared || p.Ring == nil:
		p.Logger.Error("data key of a tenant cannot be opened with this node's key", "tenant", rec.Slug, "error", err)
	default:
		p.Logger.Info("data key of a tenant is not shared with this node yet", "tenant", rec.Slug)
	}
}

// spendClaims forgets the node's code once its use is committed, by whichever node.
func spendClaims(p Ports) edge.Watch {
	return edge.Watch{
		Name: "identity.claims", Tables: []string{claims.Name},
		Apply: func(_ bool, _ uint64, changes []edge.Change) {
			for _, c := range changes {
				var rec Claim
				if err := decode(c.Val, &rec); err == nil && rec.Code != "" {
					p.Claims.Spend(rec.Code)
				}
			}
		},
	}
}

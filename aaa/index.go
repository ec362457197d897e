package aaa

import (
	"encoding/hex"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
)

// Vault opens sealed secrets and checks digests. Every node of a cluster can.
type Vault interface {
	Unseal(tenant, record, field, sealed string) ([]byte, error)
	VerifyDigest(digest, plaintext string) (bool, error)
}

// Index is what RADIUS is answered from: routers, logins by name, policies rendered per vendor, open sessions per login. A Watch feeds
// it with every applied commit. Looking up and deciding take no lock and allocate nothing; a login's secret is opened when it is first
// asked for.
type Index struct {
	vault   Vault
	log     *slog.Logger
	trusted func() bool
	seed    maphash.Seed
	tenants atomic.Pointer[map[string]*tenantIndex]
	version atomic.Uint64

	mu       sync.Mutex // held by the feeder; guards what follows
	nas      map[tenantID]*nasParts
	routers  []*radiusd.NAS
	onRouter []func([]*radiusd.NAS)
}

type tenantID struct {
	tenant string
	id     edge.ID
}

const shards = 256

// tenantIndex holds one tenant's logins and policies.
type tenantIndex struct {
	name   string
	logins [shards]atomic.Pointer[map[string]*Subscriber]
	open   [shards]openShard

	// Only the feeder touches these.
	byCred   map[uuid]*Subscriber
	policies map[edge.ID]*policySlot
	sessions map[uuid]openSession
}

type uuid [16]byte

func uuidOf(id edge.ID) (u uuid) {
	_, text, _ := strings.Cut(string(id), "_")
	_, _ = hex.Decode(u[:], []byte(strings.ReplaceAll(text, "-", "")))
	return u
}

func (u uuid) id(prefix string) edge.ID { return edge.ID(prefix + "_" + edge.FormatUUID(u)) }

// policySlot is where a policy stands; logins point to it, so a change of the policy reaches all of them at once.
type policySlot struct{ atomic.Pointer[policyEntry] }

// policyEntry is a policy ready to be said to any router.
type policyEntry struct {
	rendered *dict.Rendered
	revision uint64
}

// Subscriber is a login as the front door sees it. It is immutable but for the state it shares with its successors.
type Subscriber struct {
	Terms
	Login       string
	MaxSessions uint16
	Revision    uint64

	typ        CredentialType
	binding    MACBinding
	mac        packet.MAC
	address    radiusd.Address
	cred       uuid
	policy     *policySlot
	exhausted  *policySlot
	allowedNAS []uuid
	tenant     *tenantIndex
	secret     *secretState
	entry      atomic.Pointer[radiusd.Login]
}

// secretState is a login's secret. It outlives changes of the entitlement, so that what a slow hash has proved stays proved.
type secretState struct {
	scheme   Scheme
	revision uint64                 // of the record
	kept     atomic.Pointer[string] // sealed or a digest; nil once the password is there
	password atomic.Pointer[radiusd.Password]
}

// NewIndex returns an empty index; Watch feeds it. trusted says whether the clock can be believed, nil: always.
func NewIndex(vault Vault, trusted func() bool, log *slog.Logger) *Index {
	if trusted == nil {
		trusted = func() bool { return true }
	}
	ix := &Index{vault: vault, log: log, trusted: trusted, seed: maphash.MakeSeed()}
	ix.clear()
	return ix
}

func (ix *Index) clear() {
	ix.tenants.Store(&map[string]*tenantIndex{})
	ix.nas = map[tenantID]*nasParts{}
}

// Watch is the declaration that feeds the index.
func (ix *Index) Watch() edge.Watch {
	return edge.Watch{
		Name:   "aaa.index",
		Tables: []string{policies.Name, nasTable.Name, nasSecrets.Name, entitlements.Name, credentialSecrets.Name, sessions.Name},
		Apply:  ix.apply,
	}
}

// Version is the state that the index shows.
func (ix *Index) Version() uint64 { return ix.version.Load() }

// find looks a login up: the name normalised, else the same as a MAC address.
func (ix *Index) find(tenant string, raw []byte, mac packet.MAC) *Subscriber {
	t := (*ix.tenants.Load())[tenant]
	if t == nil {
		return nil
	}
	var buf [maxLogin]byte
	name, ok := appendLogin(buf[:0], raw)
	if !ok {
		return nil
	}
	if s := t.find(ix.seed, name); s != nil {
		return s
	}
	if mac.IsZero() {
		return nil
	}
	return t.find(ix.seed, mac.Compact(buf[:0]))
}

func (t *tenantIndex) find(seed maphash.Seed, name []byte) *Subscriber {
	m := t.logins[maphash.Bytes(seed, name)%shards].Load()
	if m == nil {
		return nil
	}
	return (*m)[string(name)]
}

// login is the front door's form of the subscriber, made when it is first asked for; nil while its secret does not open.
func (s *Subscriber) login(ix *Index) *radiusd.Login {
	if l := s.entry.Load(); l != nil {
		return l
	}
	l := &radiusd.Login{ID: string(s.cred.id(credentials.Prefix)), Address: s.address, Ref: s}
	if l.Password = s.password(ix, l.ID); l.Password == nil {
		return nil
	}
	s.entry.Store(l)
	return l
}

// password opens the login's secret, once.
func (s *Subscriber) password(ix *Index, id string) *radiusd.Password {
	st := s.secret
	kept := st.kept.Load()
	if p := st.password.Load(); p != nil { // stored before kept is dropped
		return p
	}
	if kept == nil {
		return s.withoutSecret(id)
	}
	var p *radiusd.Password
	if st.scheme == SchemeArgon {
		p = radiusd.HashedPassword(id, st.revision, func(password []byte) bool {
			ok, err := ix.vault.VerifyDigest(*kept, string(password))
			return ok && err == nil
		})
	} else {
		plain, err := ix.vault.Unseal(s.tenant.name, id, secretField, *kept)
		if err != nil {
			ix.log.Error("secret of a login does not open", "tenant", s.tenant.name, "credential", id, "error", err)
			return nil
		}
		p = radiusd.ClearPassword(plain, st.revision)
		clear(plain)
	}
	st.password.Store(p)
	st.kept.Store(nil)
	return p
}

// withoutSecret is the password of a login that has no secret: a MAC login needs none. A revoked one's secret is gone; any password
// leads to the decision, which says why. One whose secret has not come yet (the index is being filled) takes no password at all.
func (s *Subscriber) withoutSecret(id string) *radiusd.Password {
	if s.typ == TypeMAC {
		return radiusd.NoPassword(0)
	}
	if s.Reason == CodeRevoked {
		return radiusd.AnyPassword()
	}
	return radiusd.HashedPassword(id, 0, func([]byte) bool { return false })
}

// resolve is the policy that a decision asks for, nil when it does not exist.
func (s *Subscriber) resolve(d *Decision) *policyEntry {
	slot := s.policy
	if d.Fallback {
		slot = s.exhausted
	}
	if slot == nil {
		return nil
	}
	return slot.Load()
}

// admitsNAS reports whether the login may come through the router.
func (s *Subscriber) admitsNAS(nas string) bool {
	return len(s.allowedNAS) == 0 || slices.Contains(s.allowedNAS, uuidOf(edge.ID(nas)))
}

// admitsMAC reports whether the login may come from the device. A learning login takes any until it has learned one.
func (s *Subscriber) admitsMAC(mac packet.MAC) bool {
	return s.binding == BindingOff || s.mac.IsZero() || s.mac == mac
}

// OnRouters calls do with the present list of routers, and again whenever it changes. The lists are not changed afterwards.
func (ix *Index) OnRouters(do func([]*radiusd.NAS)) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.onRouter = append(ix.onRouter, do)
	do(ix.routers)
}

// Reopen tries again to open the routers' secrets: to be called when a tenant's key has been loaded after the index.
func (ix *Index) Reopen() {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.publishRouters()
}

// publishRouters makes the list of routers anew. One whose secret does not open is left out: it cannot be answered.
func (ix *Index) publishRouters() {
	list := make([]*radiusd.NAS, 0, len(ix.nas))
	keyless := map[string]int{} // routers of tenants whose key is still to come
	for key, p := range ix.nas {
		if p.rec == nil || p.secret == nil || p.rec.Status == NASStatusDisabled {
			continue
		}
		n, err := p.router(ix.vault, key.tenant)
		if e, ok := edge.AsError(err); ok && e.Code == "vault_key_missing" {
			keyless[key.tenant]++
			continue
		}
		if err != nil {
			ix.log.Error("secret of a router does not open", "tenant", key.tenant, "nas", key.id, "error", err)
			continue
		}
		list = append(list, n)
	}
	for tenant, n := range keyless {
		ix.log.Warn("routers of a tenant get no answers until its key has come from the cluster", "tenant", tenant, "routers", n)
	}
	slices.SortFunc(list, func(a, b *radiusd.NAS) int { return strings.Compare(a.Tenant+a.ID, b.Tenant+b.ID) })
	ix.routers = list
	for _, do := range ix.onRouter {
		do(list)
	}
}

// apply takes over a commit.
func (ix *Index) apply(reset bool, version uint64, changes []edge.Change) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	b := builder{ix: ix, shards: map[*atomic.Pointer[map[string]*Subscriber]]map[string]*Subscriber{}}
	if reset {
		ix.clear()
		b.routers = true
	}
	for i := range changes {
		if err := b.change(&changes[i]); err != nil {
			ix.log.Error("record cannot be indexed", "table", changes[i].Table, "id", changes[i].ID, "error", err)
		}
	}
	for p, m := range b.shards {
		p.Store(&m)
	}
	if b.routers {
		ix.publishRouters()
	}
	ix.version.Store(version)
}

// tenant returns the tenant's part, making it if need be.
func (b *builder) tenant(name string) *tenantIndex {
	old := *b.ix.tenants.Load()
	if t := old[name]; t != nil {
		return t
	}
	t := &tenantIndex{name: strings.Clone(name), byCred: map[uuid]*Subscriber{}, policies: map[edge.ID]*policySlot{}, sessions: map[uuid]openSession{}}
	next := maps.Clone(old)
	next[t.name] = t
	b.ix.tenants.Store(&next)
	return t
}

func (t *tenantIndex) slot(id edge.ID) *policySlot {
	if id == "" {
		return nil
	}
	s := t.policies[id]
	if s == nil {
		s = &policySlot{}
		t.policies[id] = s
	}
	return s
}

package aaa

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync/atomic"

	"wispgate/aaa/dict"
	"wispgate/aaa/packet"
	"wispgate/aaa/radiusd"
	"wispgate/edge"
)

// builder gathers one commit's changes, so that each touched map is copied once.
type builder struct {
	ix      *Index
	shards  map[*atomic.Pointer[map[string]*Subscriber]]map[string]*Subscriber
	routers bool // the list of routers changed
}

func (b *builder) change(c *edge.Change) error {
	switch c.Table {
	case policies.Name:
		return b.policy(c)
	case nasTable.Name, nasSecrets.Name:
		return b.nasPart(c)
	case entitlements.Name:
		return b.entitlement(c)
	case credentialSecrets.Name:
		return b.secret(c)
	case sessions.Name:
		return b.session(c)
	}
	return nil
}

func (b *builder) policy(c *edge.Change) error {
	slot := b.tenant(c.Tenant).slot(c.ID)
	if c.Val == nil {
		slot.Store(nil)
		return nil
	}
	var p Policy
	if err := json.Unmarshal(c.Val, &p); err != nil {
		return err
	}
	plan, err := p.plan()
	if err != nil {
		return err
	}
	r, err := dict.Render(&plan)
	if err != nil {
		return err
	}
	slot.Store(&policyEntry{rendered: r, revision: p.Revision()})
	return nil
}

// nasParts are a router's two records; they may come in either order.
type nasParts struct {
	rec    *NAS
	secret *NASSecret
}

func (b *builder) nasPart(c *edge.Change) error {
	b.routers = true
	key := tenantID{c.Tenant, c.ID.With(nasTable.Prefix)}
	p := b.ix.nas[key]
	if p == nil {
		p = &nasParts{}
		b.ix.nas[key] = p
	}
	var err error
	if c.Table == nasTable.Name {
		p.rec, err = decodeRecord[NAS](c.Val)
	} else {
		p.secret, err = decodeRecord[NASSecret](c.Val)
	}
	if p.rec == nil && p.secret == nil {
		delete(b.ix.nas, key)
	}
	return err
}

// decodeRecord reads a record, nil for a removed one.
func decodeRecord[T any](val []byte) (*T, error) {
	if val == nil {
		return nil, nil
	}
	rec := new(T)
	if err := json.Unmarshal(val, rec); err != nil {
		return nil, err
	}
	return rec, nil
}

// router is the front door's form of a NAS.
func (p *nasParts) router(vault Vault, tenant string) (*radiusd.NAS, error) {
	id := string(p.rec.ID)
	primary, err := openShared(vault, tenant, id, p.secret.Primary)
	if err != nil {
		return nil, err
	}
	secondary, err := openShared(vault, tenant, id, p.secret.Secondary)
	if err != nil {
		return nil, err
	}
	profile, ok := dict.ParseProfile(string(p.rec.Vendor))
	if !ok {
		return nil, fmt.Errorf("vendor %q has no profile", p.rec.Vendor)
	}
	n := &radiusd.NAS{
		ID: id, Tenant: tenant, Name: p.rec.Identifier, Secret: primary, Secondary: secondary, Profile: profile, MASeen: p.rec.SeenMA,
		CoAPort: p.rec.CoAPort,
	}
	switch p.rec.Require {
	case RequireAuto:
		n.RequireMA = radiusd.Auto
	case RequireAlways:
		n.RequireMA = radiusd.Always
	case RequireNever:
		n.RequireMA = radiusd.Never
	}
	for _, a := range p.rec.Addresses {
		n.Addresses = append(n.Addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	return n, nil
}

// openShared opens a shared secret, nil for none.
func openShared(vault Vault, tenant, record, sealed string) (*packet.Secret, error) {
	if sealed == "" {
		return nil, nil
	}
	plain, err := vault.Unseal(tenant, record, secretField, sealed)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return packet.NewSecret(plain)
}

func (b *builder) entitlement(c *edge.Change) error {
	t, id := b.tenant(c.Tenant), uuidOf(c.ID)
	old := t.byCred[id]
	if c.Val == nil {
		if old != nil {
			b.drop(t, old)
			delete(t.byCred, id)
		}
		return nil
	}
	var e Entitlement
	if err := json.Unmarshal(c.Val, &e); err != nil {
		return err
	}
	s, err := subscriberOf(t, &e)
	if err != nil {
		return err
	}
	if old != nil {
		s.secret = old.secret
		if old.Login != "" && old.Login != s.Login {
			b.drop(t, old)
		}
	}
	b.put(t, s)
	return nil
}

// noSecret is what logins without a secret share.
func noSecret() *secretState { return &secretState{scheme: SchemeNone} }

// subscriberOf makes the compact form of an entitlement. Words that repeat become the constants, so that the decoded ones are freed.
func subscriberOf(t *tenantIndex, e *Entitlement) (*Subscriber, error) {
	s := &Subscriber{
		Terms: e.Terms, Login: strings.Clone(e.Login), MaxSessions: e.MaxSessions, Revision: e.Revision, typ: oneOf(e.Type, TypePAPCHAP, TypeMAC),
		binding: oneOf(e.MACBinding, BindingOff, BindingLearn, BindingLocked), cred: uuidOf(e.Credential),
		policy: t.slot(e.Policy), exhausted: t.slot(e.Exhausted), tenant: t, secret: noSecret(),
	}
	s.Verdict = oneOf(e.Verdict, Allow, Throttle, Walled, Reject)
	s.OnExpiry = oneOf(e.OnExpiry, "", Allow, Throttle, Walled, Reject)
	s.Reason = reasonFor(e.Reason).Code
	s.mac, _ = packet.ParseMAC([]byte(e.MAC))
	for _, n := range e.AllowedNAS {
		s.allowedNAS = append(s.allowedNAS, uuidOf(n))
	}
	var st dict.Static
	if e.StaticIP != nil {
		st.IPv4, s.address.V4 = *e.StaticIP, true
	}
	if e.StaticPD != nil {
		st.Delegated, s.address.V6 = *e.StaticPD, true
	}
	var err error
	s.address.Attrs, err = dict.RenderStatic(&st)
	return s, err
}

// oneOf returns the constant equal to v, so that decoded copies of it can be freed.
func oneOf[T comparable](v T, of ...T) T {
	for _, c := range of {
		if c == v {
			return c
		}
	}
	return v
}

func (b *builder) secret(c *edge.Change) error {
	t, id := b.tenant(c.Tenant), uuidOf(c.ID)
	s := &Subscriber{cred: id, tenant: t}
	if old := t.byCred[id]; old != nil {
		s = old.successor()
	}
	s.secret = noSecret()
	if c.Val != nil {
		var rec CredentialSecret
		if err := json.Unmarshal(c.Val, &rec); err != nil {
			return err
		}
		s.secret = &secretState{scheme: oneOf(rec.Scheme, SchemeSealed, SchemeArgon), revision: rec.Version}
		s.secret.kept.Store(new(strings.Clone(rec.Value)))
	}
	b.put(t, s)
	return nil
}

// successor is a copy that has not been asked for yet.
func (s *Subscriber) successor() *Subscriber {
	return &Subscriber{
		Terms: s.Terms, Login: s.Login, MaxSessions: s.MaxSessions, Revision: s.Revision, typ: s.typ, binding: s.binding, mac: s.mac,
		address: s.address, cred: s.cred, policy: s.policy, exhausted: s.exhausted, allowedNAS: s.allowedNAS, tenant: s.tenant, secret: s.secret,
	}
}

// put stores a login under its credential and, once it has a name, under that.
func (b *builder) put(t *tenantIndex, s *Subscriber) {
	t.byCred[s.cred] = s
	if s.Login != "" {
		b.shard(t, s.Login)[s.Login] = s
	}
}

func (b *builder) drop(t *tenantIndex, s *Subscriber) {
	if m := b.shard(t, s.Login); m[s.Login] != nil && m[s.Login].cred == s.cred {
		delete(m, s.Login)
	}
}

// shard returns the copy of the login's shard that this commit writes.
func (b *builder) shard(t *tenantIndex, login string) map[string]*Subscriber {
	p := &t.logins[hashLogin(b.ix, login)]
	m := b.shards[p]
	if m == nil {
		m = map[string]*Subscriber{}
		if old := p.Load(); old != nil {
			m = maps.Clone(*old)
		}
		b.shards[p] = m
	}
	return m
}

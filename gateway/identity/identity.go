// Package identity is the domain of who may ask: tenants, their clients, and the API keys of clients. A tenant record belongs to the
// platform's own tenant (edge.System) and is made by its operator, or once by whoever holds the claim code of a new node; clients and keys
// belong to their tenant.
//
// Invariants: a tenant's slug is unique and never changes. No one grants, directly or by rotating or enabling, more than they hold. A key
// has at most two active secrets; digests live in a private table, plaintext nowhere. A revoked key stays revoked. A claim code works
// once. Nothing here is ever written offline.
//
// Events: identity.tenant.created, updated, claimed; identity.client.created, updated, disabled, enabled; identity.key.created, rotated,
// retired, revoked.
package identity

import (
	"log/slog"

	"wispgate/edge"
	"wispgate/gateway/authn"
)

// Vault makes and loads the data keys with which tenants' secrets are sealed.
type Vault interface {
	// NewTenantKey draws a key and returns it wrapped; it seals nothing until it is loaded.
	NewTenantKey(tenant string) (wrapped []byte, err error)
	// LoadTenantKey makes a wrapped key usable.
	LoadTenantKey(tenant string, wrapped []byte) error
}

// Ports are the rooms that identity stands on. All but the last two are required.
type Ports struct {
	Vault  Vault
	Claims Claims
	Index  *Index // fed by the module, read by authn
	Logger *slog.Logger

	// Node and Ring let the nodes of a cluster share the tenants' keys; without them there is one node.
	Node string
	Ring *KeyRing
}

// Module is everything identity offers.
func Module(p Ports) edge.Module {
	claim, create, createKey, rotate := claimCommand(p).Op(), createTenant(p).Op(), CreateKey.Op(), RotateKey.Op()
	share := shareKey.Op()
	updateTenant, getTenant, listTenants := UpdateTenant.Op(), GetTenant.Op(), ListTenants.Op()
	createClient, updateClient, disable, enable := CreateClient.Op(), UpdateClient.Op(), DisableClient.Op(), EnableClient.Op()
	getClient, listClients := GetClient.Op(), ListClients.Op()
	retire, revoke, getKey, listKeys, whoami := RetireKey.Op(), RevokeKey.Op(), GetKey.Op(), ListKeys.Op(), WhoAmI.Op()
	return edge.Module{
		Name:    "identity",
		Summary: "Tenants, the clients that may ask, and their keys.",
		Tables:  []edge.AnyTable{tenants, tenantKeys, claims, clients, keys, keySecrets},
		Ops: []*edge.Op{
			claim, create, updateTenant, getTenant, listTenants, createClient, updateClient, disable, enable, getClient, listClients,
			createKey, rotate, retire, revoke, getKey, listKeys, whoami, share,
		},
		Routes: []edge.Route{
			{Method: "POST", Path: "/api/v1/claim", Op: claim, Created: true},
			{Method: "GET", Path: "/api/v1/identity/whoami", Op: whoami},
			{Method: "POST", Path: "/api/v1/identity/tenants", Op: create, Created: true},
			{Method: "GET", Path: "/api/v1/identity/tenants", Op: listTenants},
			{Method: "GET", Path: "/api/v1/identity/tenants/{id}", Op: getTenant},
			{Method: "PATCH", Path: "/api/v1/identity/tenants/{id}", Op: updateTenant},
			{Method: "POST", Path: "/api/v1/identity/clients", Op: createClient, Created: true},
			{Method: "GET", Path: "/api/v1/identity/clients", Op: listClients},
			{Method: "GET", Path: "/api/v1/identity/clients/{id}", Op: getClient},
			{Method: "PATCH", Path: "/api/v1/identity/clients/{id}", Op: updateClient},
			{Method: "POST", Path: "/api/v1/identity/clients/{id}:disable", Op: disable},
			{Method: "POST", Path: "/api/v1/identity/clients/{id}:enable", Op: enable},
			{Method: "POST", Path: "/api/v1/identity/keys", Op: createKey, Created: true},
			{Method: "GET", Path: "/api/v1/identity/keys", Op: listKeys},
			{Method: "GET", Path: "/api/v1/identity/keys/{id}", Op: getKey},
			{Method: "POST", Path: "/api/v1/identity/keys/{id}:rotate", Op: rotate},
			{Method: "POST", Path: "/api/v1/identity/keys/{id}:retire", Op: retire},
			{Method: "POST", Path: "/api/v1/identity/keys/{id}:revoke", Op: revoke},
		},
		Events: []edge.Event{
			TenantCreated{}, TenantUpdated{}, TenantClaimed{}, ClientCreated{}, ClientUpdated{}, ClientDisabled{}, ClientEnabled{},
			KeyCreated{}, KeyRotated{}, KeyRetired{}, KeyRevoked{},
		},
		Reasons: append([]edge.Reason{
			ErrTenantInvalid, ErrOperatorOnly, ErrClientInvalid, ErrClientDisabled, ErrClientSelf, ErrKeyInvalid, ErrKeyLimit, ErrKeyEnded,
			ErrKeyRotating, ErrGrant, ErrClaimCode, ErrClaimClosed, ErrClaimSpent, ErrAnonymous,
		}, authn.Reasons()...),
		Watches: []edge.Watch{p.Index.watch(), loadKeys(p), spendClaims(p)},
	}
}

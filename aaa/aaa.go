// Package aaa owns who may come online and who is: NASes and their secrets, policies, logins (credentials), the entitlement derived for
// each login, and the sessions that accounting tells of.
//
// Invariants. A NAS address belongs to one NAS among all tenants, a login to one credential per tenant. A login's entitlement follows
// from its credential and its subscription's access in the same commit, and a rebuild gives the same octets. One pure function, Decide,
// decides for RADIUS and for explain. A secret is sealed before the intent is made; it lives in private records and is opened in memory
// only. An accounting fact counts once, whatever the order, repetition or loss on its way.
//
// Events: aaa.nas.*, aaa.policy.*, aaa.credential.*, aaa.entitlement.changed, aaa.session.*. DESIGN.md in this folder says why policies
// are referred to instead of copied, and how sessions are counted.
package aaa

import (
	"context"
	"slices"

	"wispgate/aaa/radiusd"
	"wispgate/edge"
)

// Deps is what the domain needs of the node. Index is required on nodes that answer RADIUS; the others are optional.
type Deps struct {
	Index   *Index
	Drainer *Drainer       // nil: this process keeps no accounting journal
	Trusted func() bool    // whether the clock can be believed; nil: yes
	Recent  Recent         // the front door's memory of attempts
	Signs   <-chan NASSign // from the front door: a NAS has sent its first valid Message-Authenticator
}

// NASSign says that a NAS signs its requests.
type NASSign struct {
	Tenant string
	NAS    edge.ID
}

func (d *Deps) trusted() bool { return d.Trusted == nil || d.Trusted() }

// Module is everything the domain offers.
func Module(d Deps) edge.Module {
	entGet, entList, why := getEntitlement(d.trusted).Op(), listEntitlements(d.trusted).Op(), explain(&d).Op()
	m := edge.Module{
		Name: "aaa", Summary: "Who may come online, with what, and who is: NASes, policies, logins, entitlements and sessions.",
		Tables: []edge.AnyTable{
			nasTable, nasSecrets, policies, credentials, credentialSecrets, accesses, entitlements, sessions, drains,
		},
		Events: []edge.Event{
			NASRegistered{}, NASUpdated{}, NASSecretRotated{}, NASSecretRetired{}, NASDisabled{}, NASEnabled{}, NASDeleted{},
			PolicyCreated{}, PolicyUpdated{}, PolicyArchived{},
			CredentialCreated{}, CredentialUpdated{}, CredentialRotated{}, CredentialLocked{}, CredentialUnlocked{}, CredentialRevoked{},
			CredentialMACLearned{}, EntitlementChanged{},
			SessionStarted{}, SessionResurrected{}, SessionStale{}, SessionStopped{}, SessionMeasured{},
			AuthRejected{}, // from the nodes' journals
		},
		Reasons: slices.Concat(decisionReasons, commandReasons, radiusd.Reasons()),
	}
	m.Ops = []*edge.Op{SetAccess.Op(), sawMessageAuthenticator.Op(), recordSessions.Op(), rebootNAS.Op(), sessionDue.Op(), drained.Op()}
	for _, r := range []edge.Route{
		{Method: "POST", Path: "/api/v1/aaa/nas", Op: RegisterNAS.Op(), Created: true},
		{Method: "GET", Path: "/api/v1/aaa/nas", Op: ListNAS.Op()},
		{Method: "GET", Path: "/api/v1/aaa/nas/{id}", Op: GetNAS.Op()},
		{Method: "PATCH", Path: "/api/v1/aaa/nas/{id}", Op: UpdateNAS.Op()},
		{Method: "DELETE", Path: "/api/v1/aaa/nas/{id}", Op: DeleteNAS.Op()},
		{Method: "POST", Path: "/api/v1/aaa/nas/{id}:rotate-secret", Op: RotateNASSecret.Op()},
		{Method: "POST", Path: "/api/v1/aaa/nas/{id}:retire-secret", Op: RetireNASSecret.Op()},
		{Method: "POST", Path: "/api/v1/aaa/nas/{id}:disable", Op: DisableNAS.Op()},
		{Method: "POST", Path: "/api/v1/aaa/nas/{id}:enable", Op: EnableNAS.Op()},
		{Method: "GET", Path: "/api/v1/aaa/nas/{id}:script", Op: ScriptNAS.Op()},
		{Method: "POST", Path: "/api/v1/aaa/policies", Op: CreatePolicy.Op(), Created: true},
		{Method: "GET", Path: "/api/v1/aaa/policies", Op: ListPolicies.Op()},
		{Method: "GET", Path: "/api/v1/aaa/policies/{id}", Op: GetPolicy.Op()},
		{Method: "PATCH", Path: "/api/v1/aaa/policies/{id}", Op: UpdatePolicy.Op()},
		{Method: "POST", Path: "/api/v1/aaa/policies/{id}:archive", Op: ArchivePolicy.Op()},
		{Method: "POST", Path: "/api/v1/aaa/credentials", Op: CreateCredential.Op(), Created: true},
		{Method: "GET", Path: "/api/v1/aaa/credentials", Op: ListCredentials.Op()},
		{Method: "GET", Path: "/api/v1/aaa/credentials/{id}", Op: GetCredential.Op()},
		{Method: "PATCH", Path: "/api/v1/aaa/credentials/{id}", Op: UpdateCredential.Op()},
		{Method: "POST", Path: "/api/v1/aaa/credentials/{id}:rotate", Op: RotateCredential.Op()},
		{Method: "POST", Path: "/api/v1/aaa/credentials/{id}:rebind", Op: RebindCredential.Op()},
		{Method: "POST", Path: "/api/v1/aaa/credentials/{id}:lock", Op: LockCredential.Op()},
		{Method: "POST", Path: "/api/v1/aaa/credentials/{id}:unlock", Op: UnlockCredential.Op()},
		{Method: "POST", Path: "/api/v1/aaa/credentials/{id}:revoke", Op: RevokeCredential.Op()},
		{Method: "GET", Path: "/api/v1/aaa/entitlements", Op: entList},
		{Method: "GET", Path: "/api/v1/aaa/entitlements/{id}", Op: entGet},
		{Method: "GET", Path: "/api/v1/aaa/entitlements:explain", Op: why},
		{Method: "GET", Path: "/api/v1/aaa/sessions", Op: ListSessions.Op()},
		{Method: "GET", Path: "/api/v1/aaa/sessions/{id}", Op: GetSession.Op()},
	} {
		m.Routes, m.Ops = append(m.Routes, r), append(m.Ops, r.Op)
	}
	if d.Index != nil {
		m.Watches = append(m.Watches, d.Index.Watch())
	}
	if d.Drainer != nil {
		m.Workers = append(m.Workers, edge.Worker{Name: "aaa-drain", On: edge.EveryNode, Run: d.Drainer.Run})
	}
	if d.Signs != nil {
		m.Workers = append(m.Workers, edge.Worker{Name: "aaa-signs", On: edge.EveryNode, Run: d.rememberSigns})
	}
	return m
}

// rememberSigns keeps, over restarts, which NASes sign their requests. One lost here is seen again with the NAS's next request after a
// restart, so a failed command is not repeated.
func (d *Deps) rememberSigns(ctx context.Context, x edge.Executor) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-d.Signs:
			_, err := edge.Do(ctx, x, edge.SystemActor(s.Tenant, "radius"), "", sawMessageAuthenticator.Name, NASRef{ID: s.NAS})
			if err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

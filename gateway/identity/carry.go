package identity

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"wispgate/edge"
)

// A backup carries the tenants' data keys beside the state, and a restore puts them into the state anew, wrapped for the new node. Both look
// at the records themselves, with no node running.

// TenantKeyPrefix is where the records of the tenants' data keys lie in the replicated keyspace.
func TenantKeyPrefix() string { return edge.TablePrefix(edge.System, tenantKeys.Name) }

// CarriedKey is what a record of a tenant's data key says.
type CarriedKey struct {
	Record  edge.ID
	Tenant  string
	Wrapped []byte // as the asked node can open it
}

// ReadTenantKey reads a record of a tenant's data key for a node.
func ReadTenantKey(record []byte, node string) (CarriedKey, error) {
	var k TenantKey
	if err := decode(record, &k); err != nil {
		return CarriedKey{}, fmt.Errorf("read the record of a tenant's key: %w", err)
	}
	wrapped, _, err := k.wrappedFor(node)
	return CarriedKey{Record: k.ID, Tenant: k.Slug, Wrapped: wrapped}, err
}

// AdoptTenantKey is the record with the key wrapped for a node that takes the cluster over; what it held for others is gone.
func AdoptTenantKey(record, wrapped []byte) ([]byte, error) {
	var k TenantKey
	if err := decode(record, &k); err != nil {
		return nil, fmt.Errorf("read the record of a tenant's key: %w", err)
	}
	k.Wrapped, k.Shared = base64.StdEncoding.EncodeToString(wrapped), nil
	k.Version++
	return json.Marshal(k)
}

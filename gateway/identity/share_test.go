package identity

import (
	"encoding/base64"
	"log/slog"
	"testing"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/vault"
)

// TestEveryNodeOfAClusterOpensEveryTenantsSecrets makes a tenant at one node, shares its key, and opens at the others what was sealed.
func TestEveryNodeOfAClusterOpensEveryTenantsSecrets(t *testing.T) {
	t.Parallel()
	vaults, rings := map[string]*vault.Vault{}, map[string]*KeyRing{}
	open := func(node string) *vault.Vault {
		v, err := vault.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		vaults[node], rings[node] = v, NewKeyRing()
		return v
	}
	a, b, c := open("a"), open("b"), open("c")
	ports := func(node string) Ports {
		log := slog.New(slog.DiscardHandler)
		return Ports{Vault: vaults[node], Claims: NewClaimFile(t.TempDir(), nil, log), Index: NewIndex(log, nil), Logger: log, Node: node, Ring: rings[node]}
	}
	// One executor stands for the cluster's log; the watches of the other nodes' modules hear the same commits.
	m := Module(ports("a"))
	for _, node := range []string{"b", "c"} {
		w := loadKeys(ports(node))
		w.Name += "." + node
		m.Watches = append(m.Watches, w)
	}
	h := edgetest.Node(t, m)
	if _, err := edge.Do(t.Context(), h, edge.SystemActor(edge.System, "console"), "", "identity.tenant.create", map[string]string{"slug": "acme", "name": "Acme"}); err != nil {
		t.Fatal(err)
	}
	sealed, err := a.Seal("acme", "rec_1", "secret", []byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Unseal("acme", "rec_1", "secret", sealed); err == nil {
		t.Fatal("a node opens a key that nobody shared with it")
	}
	key := func(v *vault.Vault) string { return base64.StdEncoding.EncodeToString(v.PublicKey()) }
	// b leads but cannot open the key; a, which made it, gives it to the leader.
	to := []Recipient{{"a", key(a)}, {"b", key(b)}, {"c", key(c)}}
	for _, step := range []struct {
		node string
		to   []Recipient
	}{{"b", to}, {"a", to[1:2]}, {"b", to}, {"b", to}} {
		if more, err := ShareKeys(t.Context(), h, rings[step.node], vaults[step.node], step.node, step.to); err != nil || more {
			t.Fatalf("%s shares: %v, %v", step.node, more, err)
		}
	}
	for node, v := range vaults {
		if plain, err := v.Unseal("acme", "rec_1", "secret", sealed); err != nil || string(plain) != "s3cret" {
			t.Errorf("%s opens %q, %v", node, plain, err)
		}
	}
	before := h.Version()
	if _, err := ShareKeys(t.Context(), h, rings["b"], b, "b", to); err != nil || h.Version() != before {
		t.Errorf("sharing again changes something: %v", err)
	}
	// A node whose vault was made anew gets the key again.
	b2 := open("b2")
	if _, err := ShareKeys(t.Context(), h, rings["a"], a, "a", []Recipient{{"b", key(b2)}}); err != nil || h.Version() == before {
		t.Errorf("a new vault gets nothing: %v", err)
	}
	someone := edge.Actor{Tenant: "acme", Subject: "cli_1", Scopes: []string{"all:write"}}
	_, err = edge.Do(t.Context(), h, someone, "", "identity.tenant_key.share", Share{ID: "tky_x", Node: "c", For: "k", Wrapped: "w"})
	if e, ok := edge.AsError(err); !ok || e.Code != "operator_only" {
		t.Errorf("a tenant shares keys: %v", err)
	}
}

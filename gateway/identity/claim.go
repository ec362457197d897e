package identity

import (
	"wispgate/edge"
)

// Claims is the node's own claim code: it stands beside the state, on the node alone, because it proves that somebody holds the node.
type Claims interface {
	// Check compares a code. A refusal is ErrClaimCode or ErrClaimClosed as an *edge.Error.
	Check(code edge.Secret) (Proof, error)
	// Spend forgets the code with this id, if it is the present one. It must be quick.
	Spend(id string)
}

// Proof says that a code was right: its public id, and whether an operator armed it on a node that has tenants already.
type Proof struct {
	ID      string `json:"id" check:"max=64" doc:"Public id of the code."`
	Rearmed bool   `json:"rearmed,omitempty" doc:"An operator armed it on a claimed node."`
}

// Reasons of claims.
var (
	ErrClaimCode   = edge.Reason{Code: "claim_code_wrong", Says: "The claim code is not right", Fix: "Read it again from the node's console, log or claim-code file; letters and digits only count"}
	ErrClaimClosed = edge.Reason{Code: "claim_closed", Says: "The node is claimed, or no claim code is armed", Fix: "Use a key of its tenant; if all are lost, run wispgate key rearm on the node"}
	ErrClaimSpent  = edge.Reason{Code: "claim_spent", Says: "The claim code was used already", Fix: "Use the key that the first claim showed; if it is lost, run wispgate key rearm on the node"}
)

// Claim is the record of a code that was used, so that it works once in the whole cluster.
type Claim struct {
	edge.Meta
	Code    string  `json:"code" check:"max=64" doc:"Public id of the code."`
	Tenant  edge.ID `json:"tenant" doc:"The tenant that was claimed."`
	Rearmed bool    `json:"rearmed" doc:"Whether an operator had armed it anew."`
}

var claims = &edge.Table[Claim]{
	Name: "identity.claim", Prefix: "clm", Meta: func(c *Claim) *edge.Meta { return &c.Meta },
	Indexes: []edge.Index[Claim]{{Name: "code", Unique: true, Keys: func(c *Claim) []string { return []string{c.Code} }}},
}

// TenantClaimed says that somebody who holds a node has taken a tenant over with its claim code.
type TenantClaimed struct {
	Tenant  edge.ID `json:"tenant"`
	Slug    string  `json:"slug"`
	Rearmed bool    `json:"rearmed"`
}

// EventName implements edge.Event.
func (TenantClaimed) EventName() string { return "identity.tenant.claimed" }

// Subject implements edge.Event.
func (e TenantClaimed) Subject() edge.ID { return e.Tenant }

// ClaimInput is what a claim takes.
type ClaimInput struct {
	Code       edge.Secret `json:"code" check:"min=16 max=64" doc:"The node's claim code, from its console, log or claim-code file." example:"7K2M-9QXA-4TRV-C0DE"`
	Tenant     string      `json:"tenant" check:"min=1 max=32 format=slug" doc:"The tenant's word: 1 to 32 of a-z, 0-9 and -. It never changes." example:"acme"`
	Name       string      `json:"name" check:"min=1 max=120" doc:"Name of the ISP as people use it." example:"Acme Wireless"`
	Proof      *Proof      `json:"proof,omitempty" check:"internal"`
	WrappedKey string      `json:"wrapped_key,omitempty" check:"internal"`
	Minted     *Minted     `json:"minted,omitempty" check:"internal"`
}

// Claimed is what a claim made. The key's secret is the member "secret" of the first answer.
type Claimed struct {
	Tenant Tenant `json:"tenant"`
	Client Client `json:"client"`
	Key    Key    `json:"key"`
}

// claimCommand is how a new node gets its first tenant, client and key, without any default account: whoever holds the node shows its
// code. An operator who lost all keys arms a new code on the node and claims again, the same tenant or another.
func claimCommand(p Ports) edge.Command[ClaimInput, Claimed] {
	return edge.Command[ClaimInput, Claimed]{
		Name: "identity.claim", Scope: edge.Public, Class: edge.Admin, Summary: "Take a new node over with its claim code",
		Prepare: func(pr edge.Prep, in *ClaimInput) error {
			if err := onlyNode("/proof", in.Proof == nil && in.WrappedKey == "" && in.Minted == nil); err != nil {
				return err
			}
			proof, err := p.Claims.Check(in.Code)
			if err != nil {
				return err
			}
			if in.WrappedKey, err = wrapNew(p, in.Tenant); err != nil {
				return err
			}
			in.Code, in.Proof, in.Minted = "", &proof, mint(pr, pr.FirstID("key"))
			return nil
		},
		Handle: func(tx edge.Tx, in ClaimInput) (Claimed, error) { return in.claim(tx) },
	}
}

func (in *ClaimInput) claim(tx edge.Tx) (out Claimed, err error) {
	key := tx.NewID("key") // first: the secret was minted for it
	system, err := edge.Inside(tx, edge.SystemActor(edge.System, "claim"))
	if err != nil {
		return out, err
	}
	if out.Tenant, err = in.tenant(system); err != nil {
		return out, err
	}
	used := Claim{Meta: edge.Meta{ID: tx.NewID("clm")}, Code: in.Proof.ID, Tenant: out.Tenant.ID, Rearmed: in.Proof.Rearmed}
	if err := claims.Put(system, &used); err != nil {
		return out, err
	}
	inside, err := edge.Inside(tx, edge.SystemActor(in.Tenant, "claim"))
	if err != nil {
		return out, err
	}
	all := []string{"all:read", "all:write"}
	out.Client = Client{Meta: edge.Meta{ID: tx.NewID("cli")}, Name: "Administrator", Kind: Person, Scopes: all, Status: Enabled}
	if err := out.Client.create(inside); err != nil {
		return out, err
	}
	out.Key = Key{Meta: edge.Meta{ID: key}, Client: out.Client.ID, Name: "Claim", Scopes: all, ExpiresAt: expiry(tx, nil)}
	if err := out.Key.create(inside, &out.Client, in.Minted); err != nil {
		return out, err
	}
	system.Emit(TenantClaimed{out.Tenant.ID, in.Tenant, in.Proof.Rearmed})
	return out, nil
}

// tenant is the one to claim. A code from the first boot makes one, and only where none exists; an armed one may also return to one.
func (in *ClaimInput) tenant(tx edge.Tx) (Tenant, error) {
	switch _, err := claims.By(tx, "code", in.Proof.ID); {
	case err == nil:
		return Tenant{}, ErrClaimSpent.Error(edge.Conflict)
	case !isNotFound(err):
		return Tenant{}, err
	}
	if !in.Proof.Rearmed {
		for _, err := range tenants.Range(tx, "", "") {
			if err == nil {
				err = ErrClaimClosed.Error(edge.Conflict)
			}
			return Tenant{}, err
		}
	}
	t, err := tenants.By(tx, "slug", in.Tenant)
	if err == nil || !isNotFound(err) {
		return t, err
	}
	t = Tenant{Meta: edge.Meta{ID: tx.NewID("ten")}, Slug: in.Tenant, Name: in.Name, Status: Active}
	err = t.create(tx, in.WrappedKey)
	return t, err
}

func isNotFound(err error) bool {
	e, ok := edge.AsError(err)
	return ok && e.Kind == edge.NotFound
}

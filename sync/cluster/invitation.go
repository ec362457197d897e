package cluster

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"wispgate/edge"
)

// An invitation lets one node in: its secret has 128 bits and ends after a quarter of an hour.
const (
	secretOctets   = 16
	invitationLife = 15 * time.Minute
)

// Invitation is the record of a token. It holds the secret's digest only.
type Invitation struct {
	edge.Meta
	Digest    string    `json:"digest" check:"max=64" doc:"SHA-256 of the secret."`
	Role      Role      `json:"role" doc:"What the node will be." example:"replica"`
	Replaces  string    `json:"replaces,omitempty" check:"max=64" doc:"The node whose place it takes."`
	ExpiresAt time.Time `json:"expires_at" doc:"When it ends."`
	UsedBy    string    `json:"used_by,omitempty" check:"max=64" doc:"The node that used it."`
}

// Reasons of invitations.
var (
	ErrTokenWrong   = edge.Reason{Code: "token_wrong", Says: "The token is not one of this cluster", Fix: "Copy it whole, or make another with wispgate cluster invite"}
	ErrTokenExpired = edge.Reason{Code: "token_expired", Says: "The token has expired", Fix: "Make another with wispgate cluster invite and use it within a quarter of an hour"}
	ErrTokenUsed    = edge.Reason{Code: "token_used", Says: "The token was used already", Fix: "Make another with wispgate cluster invite: a token lets one node in"}
	ErrNoPort       = edge.Reason{Code: "cluster_closed", Says: "This node has no cluster port, so no other can join it", Fix: "Set cluster.listen and cluster.advertise, and start it again"}
)

var invitations = &edge.Table[Invitation]{
	Name: "sync.invitation", Prefix: "jtk", Meta: func(i *Invitation) *edge.Meta { return &i.Meta },
	Indexes: []edge.Index[Invitation]{
		{Name: "digest", Unique: true, Keys: func(i *Invitation) []string { return []string{i.Digest} }},
	},
	Due: &edge.Due[Invitation]{At: func(i *Invitation) time.Time { return i.ExpiresAt.Add(24 * time.Hour) }, Run: "sync.invitation.expire"},
}

// NodeInvited says that a token was made.
type NodeInvited struct {
	Invitation edge.ID `json:"invitation"`
	Role       Role    `json:"role"`
	Replaces   string  `json:"replaces,omitempty"`
}

// EventName implements edge.Event.
func (NodeInvited) EventName() string { return "sync.node.invited" }

// Subject implements edge.Event.
func (e NodeInvited) Subject() edge.ID { return e.Invitation }

// token is what an invitation looks like on its way to the new node: where to knock, whom to trust there, and the secret.
type token struct {
	Address string `json:"a"`
	CA      string `json:"c"` // SHA-256 of the cluster's CA, hex
	Secret  string `json:"s"` // hex
}

const tokenPrefix = "wgjoin1."

func (t token) String() string {
	raw, err := json.Marshal(t) //nolint:gosec // the secret is what a token is
	if err != nil {
		return "" // strings always encode
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

func parseToken(s string) (t token, err error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	raw, bad := base64.RawURLEncoding.DecodeString(body)
	if !ok || bad != nil || len(raw) > 2048 || json.Unmarshal(raw, &t) != nil || !isHex(t.CA, sha256.Size) || !isHex(t.Secret, secretOctets) ||
		checkAddress(t.Address) != nil {
		return token{}, ErrTokenWrong.Error(edge.Invalid)
	}
	return t, nil
}

// isHex reports whether s is n octets in hex.
func isHex(s string, n int) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == n
}

func secretDigest(secret string) string {
	sum := sha256.Sum256([]byte("wispgate join v1\x00" + secret))
	return hex.EncodeToString(sum[:])
}

// NewInvitation is what an invitation is made from.
type NewInvitation struct {
	Role     Role   `json:"role,omitempty" doc:"What the node will be: replica unless given." example:"replica"`
	Replaces string `json:"replaces,omitempty" check:"max=64" doc:"Name of the node whose place it takes, with its role unless one is given."`
	Digest   string `json:"digest,omitempty" check:"internal"`
}

func invite(p Ports) edge.Command[NewInvitation, Invitation] {
	return edge.Command[NewInvitation, Invitation]{
		Name: "sync.invitation.create", Scope: "sync:write", Class: edge.Admin, Summary: "Make a one-time token with which a node joins the cluster",
		Prepare: func(pr edge.Prep, in *NewInvitation) error {
			if in.Digest != "" {
				return edge.ErrInput.Error(edge.Invalid, edge.Field("/digest", "is filled by the node", "leave it out"))
			}
			if pr.Actor().Tenant != edge.System {
				return ErrOperator.Error(edge.Denied)
			}
			n := p.live()
			if n == nil || n.port == nil {
				return ErrNoPort.Error(edge.Conflict)
			}
			secret := hex.EncodeToString(pr.Random(secretOctets))
			in.Digest = secretDigest(secret)
			pr.Once("token", edge.Secret(n.token(secret).String()))
			return nil
		},
		Handle: func(tx edge.Tx, in NewInvitation) (Invitation, error) {
			if err := onlyOperator(tx); err != nil {
				return Invitation{}, err
			}
			i := Invitation{
				Meta: edge.Meta{ID: tx.NewID("jtk")}, Digest: in.Digest, Role: in.Role, Replaces: in.Replaces,
				ExpiresAt: tx.Now().UTC().Add(invitationLife),
			}
			if i.Replaces != "" {
				old, err := livePeer(tx, i.Replaces)
				if err != nil {
					return Invitation{}, err
				}
				if i.Role == "" {
					i.Role = old.Role
				}
			}
			if i.Role == "" {
				i.Role = Replica
			}
			if !slices.Contains(i.Role.Values(), string(i.Role)) {
				return Invitation{}, edge.ErrInput.Error(edge.Invalid, edge.Field("/role", "is neither voter nor replica", "use one of them"))
			}
			if err := invitations.Put(tx, &i); err != nil {
				return Invitation{}, err
			}
			tx.Emit(NodeInvited{i.ID, i.Role, i.Replaces})
			return i, nil
		},
	}
}

// use spends the invitation on a node. The same node with the same key may ask again: its first answer may have been lost.
func (i *Invitation) use(tx edge.Tx, node string) error {
	if i.UsedBy != "" {
		return ErrTokenUsed.Error(edge.Conflict)
	}
	if !tx.Now().Before(i.ExpiresAt) {
		return ErrTokenExpired.Error(edge.Denied)
	}
	i.UsedBy = node
	return invitations.Put(tx, i)
}

// Admission is a node that shows an invitation.
type Admission struct {
	Registration
	Digest string `json:"digest" check:"max=64" doc:"SHA-256 of the token's secret."`
}

// newEnough refuses a node that cannot read what every member can, and the cluster may store.
func (in *Admission) newEnough(v edge.View) error {
	all, err := allPeers(v)
	if err != nil || len(all) == 0 {
		return err
	}
	common := all[0].FeatureLevel
	for i := range all {
		common = min(common, all[i].FeatureLevel)
	}
	if in.FeatureLevel < common {
		return ErrPeerOld.Error(edge.Conflict)
	}
	return nil
}

// admit lets a node in: it spends the invitation and makes the node's record.
var admit = edge.Command[Admission, Peer]{
	Name: "sync.node.admit", Scope: "sync:write", Class: edge.Admin, Summary: "Let an invited node in",
	Handle: func(tx edge.Tx, in Admission) (Peer, error) {
		if err := onlyCluster(tx); err != nil {
			return Peer{}, err
		}
		if err := in.check(); err != nil {
			return Peer{}, err
		}
		i, err := invitations.By(tx, "digest", in.Digest)
		if e, ok := edge.AsError(err); err != nil && ok && e.Kind == edge.NotFound {
			err = ErrTokenWrong.Error(edge.Denied)
		}
		if err != nil {
			return Peer{}, err
		}
		was, err := peer(tx, in.Node)
		switch {
		case err == nil && was.Status == Joining && i.UsedBy == in.Node && was.Fingerprint == in.Fingerprint:
			return was, nil
		case err == nil:
			return Peer{}, ErrPeerExists.Error(edge.Conflict)
		}
		if e, ok := edge.AsError(err); !ok || e.Kind != edge.NotFound {
			return Peer{}, err
		}
		if err := in.newEnough(tx); err != nil {
			return Peer{}, err
		}
		if err := i.use(tx, in.Node); err != nil {
			return Peer{}, err
		}
		p := Peer{Meta: edge.Meta{ID: tx.NewID("nod")}, Role: i.Role, Status: Joining, JoinedAt: tx.Now().UTC()}
		in.apply(&p)
		if err := peerTable.Put(tx, &p); err != nil {
			return Peer{}, err
		}
		tx.Emit(NodeJoined{p.ID, p.Node, p.Role})
		return p, i.replace(tx, p.Node)
	},
}

// replace notes at the old node who takes its place. The leader's worker removes it when that cannot hurt.
func (i *Invitation) replace(tx edge.Tx, by string) error {
	if i.Replaces == "" {
		return nil
	}
	old, err := peer(tx, i.Replaces)
	if err != nil || old.Status == Removed {
		return err
	}
	_, err = old.change(tx, func(p *Peer) { p.ReplacedBy = by })
	return err
}

// expire forgets an invitation a day after its end.
var expire = edge.Command[edge.DueInput, edge.None]{
	Name: "sync.invitation.expire", Scope: "sync:write", Class: edge.Admin, Summary: "Forget an invitation that has ended",
	Handle: func(tx edge.Tx, in edge.DueInput) (none edge.None, err error) {
		if err := onlyOperator(tx); err != nil {
			return none, err
		}
		i, ok, err := invitations.Find(tx, in.ID)
		if err != nil || !ok || tx.Now().Before(i.ExpiresAt) {
			return none, err
		}
		return none, invitations.Delete(tx, i.ID)
	},
}

var listInvitations = edge.Query[edge.ListInput, edge.Page[Invitation]]{
	Name: "sync.invitation.list", Scope: "sync:read", Class: edge.Read, Summary: "List the invitations of the last day",
	Handle: func(v edge.View, in edge.ListInput) (edge.Page[Invitation], error) {
		if err := onlyOperator(v); err != nil {
			return edge.Page[Invitation]{}, err
		}
		return invitations.List(v, "", "", in)
	},
}

package cluster

import (
	"slices"
	"strings"
	"time"

	"wispgate/edge"
)

// Role is what a node is meant to be.
type Role string

// The roles. Every node holds everything; only voters decide what is committed.
const (
	Voter   Role = "voter"
	Replica Role = "replica"
)

// Values lists the roles, for the schema.
func (Role) Values() []string { return []string{string(Voter), string(Replica)} }

// PeerStatus says how far a node belongs to the cluster.
type PeerStatus string

// The states of a node.
const (
	Joining PeerStatus = "joining" // its record stands; it has not caught up yet
	Joined  PeerStatus = "member"
	Removed PeerStatus = "removed" // for ever: a machine that comes back joins under another name
)

// Values lists the states, for the schema.
func (PeerStatus) Values() []string {
	return []string{string(Joining), string(Joined), string(Removed)}
}

// Peer is the record of a node of the cluster. Role, address and removal are wishes that the leader's worker carries out; Voter and Status
// say how far it has come.
type Peer struct {
	edge.Meta
	Node           string     `json:"node" check:"max=64" doc:"Name of the node (its node.id); never used again once removed." example:"tower7-a"`
	Site           string     `json:"site" check:"max=64" doc:"Where it stands." example:"tower7"`
	Address        string     `json:"address" check:"max=300" doc:"Where the other nodes reach its cluster port." example:"10.8.0.7:7846"`
	Role           Role       `json:"role" doc:"What it is meant to be." example:"voter"`
	Voter          bool       `json:"voter" doc:"Whether it has a vote now."`
	Preferred      bool       `json:"preferred" doc:"Whether leadership should be here when this node is well."`
	Status         PeerStatus `json:"status" doc:"joining, member or removed." example:"member"`
	VaultKey       string     `json:"vault_key" check:"max=64" doc:"Public key for which tenants' keys are wrapped, base64."`
	Fingerprint    string     `json:"fingerprint" check:"max=64" doc:"SHA-256 of the public key of its certificates."`
	Serial         string     `json:"serial" check:"max=40" doc:"Serial number of its certificate."`
	CertificateEnd time.Time  `json:"certificate_end" doc:"When its certificate ends."`
	FeatureLevel   int64      `json:"feature_level" doc:"What its program can do; a feature waits until every member has its level."`
	ProgramVersion string     `json:"program_version" check:"max=64" doc:"Version of its program."`
	JoinedAt       time.Time  `json:"joined_at" doc:"When it was let in."`
	RemovedAt      *time.Time `json:"removed_at,omitempty" doc:"When it was removed."`
	LostAt         *time.Time `json:"lost_at,omitempty" doc:"Since when the leader has not heard of it, or had not when it was removed; absent while it does."`
	LeadAt         *time.Time `json:"lead_at,omitempty" doc:"When an operator asked that it lead."`
	LedAt          *time.Time `json:"led_at,omitempty" doc:"When it came to lead as asked."`
	RepairAt       *time.Time `json:"repair_at,omitempty" doc:"Since when it is to be filled anew from the leader; absent when it is sound."`
	ReplacedBy     string     `json:"replaced_by,omitempty" check:"max=64" doc:"The node that takes its place."`
}

// Reasons of membership.
var (
	ErrOperator    = edge.Reason{Code: "cluster_operator_only", Says: "Only the operator of the cluster may do this", Fix: "Run wispgate cluster on one of its nodes"}
	ErrPeerUnknown = edge.Reason{Code: "node_unknown", Says: "No node of the cluster has this name", Fix: "wispgate cluster list shows the nodes"}
	ErrPeerExists  = edge.Reason{Code: "node_exists", Says: "A node of this name belongs to the cluster, or did once", Fix: "Give the new node another node.id: a name is never used twice"}
	ErrPeerOld     = edge.Reason{Code: "node_too_old", Says: "The program of the node is older than what the cluster stores", Fix: "Install the version that wispgate cluster list shows on the others, and join again with the same token"}
	ErrPeerRemoved = edge.Reason{Code: "node_removed", Says: "The node was removed from the cluster", Fix: "Empty its data folder and let it join again, under another node.id"}
	ErrPeerGone    = edge.Reason{Code: "node_expelled", Says: "This node was removed from the cluster: the others refuse it, and what it took would never reach them", Fix: "Use another node of the cluster. What waits here (wispgate sync status counts it) is carried there with wispgate sync export and, there, wispgate sync import --removed; then empty the data folder and join under another node.id"}
	ErrQuorumRisk  = edge.Reason{Code: "quorum_at_risk", Says: "Without this voter the others that are well would be no majority, and nothing could be committed", Fix: "Bring the silent voters back or add another voter first; --force goes on in spite of it"}
	ErrLastVoter   = edge.Reason{Code: "last_voter", Says: "This is the only voter of the cluster", Fix: "Promote another node first"}
	ErrNotVoter    = edge.Reason{Code: "node_no_voter", Says: "Only a voter can lead", Fix: "Promote the node first and wait until wispgate cluster list shows that it votes"}
	ErrSilent      = edge.Reason{Code: "node_silent", Says: "The node does not answer the leader, so it cannot lead", Fix: "See wispgate cluster list for why; ask again when it answers, or name another voter"}
	ErrRepairLast  = edge.Reason{Code: "repair_alone", Says: "There is no other node from which this one could be filled anew", Fix: "Restore it from a backup"}
	ErrFounded     = edge.Reason{Code: "cluster_founded", Says: "The cluster has its first node already", Fix: "Invite this node from one of the cluster's nodes"}
)

// letters of names that stand in certificates, files and addresses.
const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

func validName(s string) bool { return s != "" && len(s) <= 64 && strings.Trim(s, nameLetters) == "" }

var peerTable = &edge.Table[Peer]{
	Name: "sync.node", Prefix: "nod", Meta: func(p *Peer) *edge.Meta { return &p.Meta },
	Indexes: []edge.Index[Peer]{
		{Name: "node", Unique: true, Keys: func(p *Peer) []string { return []string{p.Node} }},
	},
}

// peer reads a node by its name.
func peer(v edge.View, node string) (Peer, error) {
	p, err := peerTable.By(v, "node", node)
	if e, ok := edge.AsError(err); ok && err != nil && e.Kind == edge.NotFound {
		return p, ErrPeerUnknown.Error(edge.NotFound)
	}
	return p, err
}

// livePeer reads a node that is not removed.
func livePeer(v edge.View, node string) (Peer, error) {
	p, err := peer(v, node)
	if err == nil && p.Status == Removed {
		err = ErrPeerRemoved.Error(edge.Conflict)
	}
	return p, err
}

// allPeers reads every node that is not removed.
func allPeers(v edge.View) ([]Peer, error) {
	var list []Peer
	for p, err := range peerTable.Range(v, "", "") {
		if err != nil {
			return nil, err
		}
		if p.Status != Removed {
			list = append(list, p)
		}
	}
	return list, nil
}

const (
	// lateWord is how long before the leader missed a node that node may have accepted what nobody heard of.
	lateWord = time.Hour
	// carriedFor is how long after a node was removed what waits there is expected to be carried to the cluster.
	carriedFor = 30 * 24 * time.Hour
)

// Unheard is since when a node may hold writes that it has not handed over; the zero time where none does. A node counts as lost until it is back and
// nothing waits in it any more; one that was removed while it was lost, until nobody carries here any more what waits there.
func Unheard(v edge.View) (since time.Time, err error) {
	var all []Peer
	for p, err := range peerTable.Range(v, "", "") {
		if err != nil {
			return since, err
		}
		all = append(all, p)
	}
	return unheard(all, v.Now()), nil
}

func unheard(all []Peer, now time.Time) (since time.Time) {
	for i := range all {
		p := &all[i]
		if p.Status == Removed && (p.RemovedAt == nil || now.Sub(*p.RemovedAt) > carriedFor) {
			continue
		}
		if p.LostAt != nil && (since.IsZero() || p.LostAt.Before(since)) {
			since = *p.LostAt
		}
	}
	if !since.IsZero() {
		since = since.Add(-lateWord)
	}
	return since
}

// mayLose refuses to take the vote of a node when the voters that remain and are well would be no majority of those that remain. force
// overrules it, but never for the last voter.
func mayLose(all []Peer, node string, well []string, force bool) error {
	rest, fit := 0, 0
	for i := range all {
		if p := &all[i]; p.Node != node && p.Voter {
			rest++
			if slices.Contains(well, p.Node) {
				fit++
			}
		}
	}
	switch {
	case rest == 0:
		return ErrLastVoter.Error(edge.Conflict)
	case fit < rest/2+1 && !force:
		return ErrQuorumRisk.Error(edge.Conflict)
	}
	return nil
}

// mayLead says whether nothing that is wished of the node would end its lead again.
func (p *Peer) mayLead() bool {
	return p.Status != Removed && p.Role == Voter && p.RepairAt == nil && p.ReplacedBy == ""
}

// lose makes the record that of a removed node. Since when it was lost, if it was, stays.
func (p *Peer) lose(at time.Time) {
	p.Status, p.Voter, p.Preferred, p.RemovedAt = Removed, false, false, new(at.UTC())
	p.LeadAt, p.LedAt, p.RepairAt = nil, nil, nil
}

// survive makes the record that of a node which goes on alone. Whether it has its vote the leader's worker sees.
func (p *Peer) survive() {
	p.Role, p.Status, p.RemovedAt, p.ReplacedBy = Voter, Joined, nil, ""
	p.LostAt, p.LeadAt, p.LedAt, p.RepairAt = nil, nil, nil, nil
}

// NodeJoined says that a node was let into the cluster.
type NodeJoined struct {
	ID   edge.ID `json:"id"`
	Node string  `json:"node"`
	Role Role    `json:"role"`
}

// NodePromoted says that a node has a vote.
type NodePromoted struct {
	ID   edge.ID `json:"id"`
	Node string  `json:"node"`
}

// NodeDemoted says that a node has no vote any more.
type NodeDemoted struct {
	ID   edge.ID `json:"id"`
	Node string  `json:"node"`
}

// NodeRemoved says that a node does not belong to the cluster any more.
type NodeRemoved struct {
	ID   edge.ID `json:"id"`
	Node string  `json:"node"`
	Why  string  `json:"why,omitempty"`
}

// NodeUpdated says that fields of a node's record changed.
type NodeUpdated struct {
	ID     edge.ID  `json:"id"`
	Node   string   `json:"node"`
	Fields []string `json:"fields"`
}

// NodeLost says that the leader has not heard of a node for a while.
type NodeLost struct {
	ID   edge.ID `json:"id"`
	Node string  `json:"node"`
}

// NodeFound says that a node which was lost is heard of again.
type NodeFound struct {
	ID   edge.ID `json:"id"`
	Node string  `json:"node"`
}

// EventName implements edge.Event.
func (NodeJoined) EventName() string { return "sync.node.joined" }

// Subject implements edge.Event.
func (e NodeJoined) Subject() edge.ID { return e.ID }

// EventName implements edge.Event.
func (NodePromoted) EventName() string { return "sync.node.promoted" }

// Subject implements edge.Event.
func (e NodePromoted) Subject() edge.ID { return e.ID }

// EventName implements edge.Event.
func (NodeDemoted) EventName() string { return "sync.node.demoted" }

// Subject implements edge.Event.
func (e NodeDemoted) Subject() edge.ID { return e.ID }

// EventName implements edge.Event.
func (NodeRemoved) EventName() string { return "sync.node.removed" }

// Subject implements edge.Event.
func (e NodeRemoved) Subject() edge.ID { return e.ID }

// EventName implements edge.Event.
func (NodeUpdated) EventName() string { return "sync.node.updated" }

// Subject implements edge.Event.
func (e NodeUpdated) Subject() edge.ID { return e.ID }

// EventName implements edge.Event.
func (NodeLost) EventName() string { return "sync.node.lost" }

// Subject implements edge.Event.
func (e NodeLost) Subject() edge.ID { return e.ID }

// EventName implements edge.Event.
func (NodeFound) EventName() string { return "sync.node.found" }

// Subject implements edge.Event.
func (e NodeFound) Subject() edge.ID { return e.ID }

// onlyOperator refuses everybody but the platform's own tenant, to which no API credential belongs.
func onlyOperator(v edge.View) error {
	if v.Actor().Tenant != edge.System {
		return ErrOperator.Error(edge.Denied)
	}
	return nil
}

// self is the actor of the cluster's own commands.
var self = edge.SystemActor(edge.System, "cluster")

// onlyCluster refuses everybody but the cluster itself.
func onlyCluster(v edge.View) error {
	if a := v.Actor(); a.Tenant != edge.System || a.Subject != self.Subject {
		return ErrOperator.Error(edge.Denied)
	}
	return nil
}

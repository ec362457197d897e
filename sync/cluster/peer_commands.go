package cluster

import (
	"slices"
	"time"

	"wispgate/edge"
)

// Registration is what a node says of itself.
type Registration struct {
	Node           string    `json:"node" check:"min=1 max=64" doc:"Name of the node."`
	Site           string    `json:"site,omitempty" check:"max=64" doc:"Where it stands."`
	Address        string    `json:"address" check:"min=1 max=300" doc:"Where its cluster port is reached."`
	VaultKey       string    `json:"vault_key" check:"max=64" doc:"Public key of its vault, base64."`
	Fingerprint    string    `json:"fingerprint" check:"max=64" doc:"SHA-256 of its public key."`
	Serial         string    `json:"serial" check:"max=40" doc:"Serial number of its certificate."`
	CertificateEnd time.Time `json:"certificate_end" doc:"When its certificate ends."`
	FeatureLevel   int64     `json:"feature_level" doc:"What its program can do."`
	ProgramVersion string    `json:"program_version,omitempty" check:"max=64" doc:"Version of its program."`
}

func (in *Registration) apply(p *Peer) {
	p.Node, p.Site, p.Address, p.Fingerprint, p.VaultKey = in.Node, in.Site, in.Address, in.Fingerprint, in.VaultKey
	p.Serial, p.CertificateEnd, p.FeatureLevel, p.ProgramVersion = in.Serial, in.CertificateEnd.UTC(), in.FeatureLevel, in.ProgramVersion
}

func (in *Registration) check() error {
	switch {
	case !validName(in.Node):
		return edge.ErrInput.Error(edge.Invalid, edge.Field("/node", "is not 1 to 64 letters, digits, - _ .", "name the node so with node.id"))
	case checkAddress(in.Address) != nil:
		return edge.ErrInput.Error(edge.Invalid, edge.Field("/address", "is not host:port", "name it so with cluster.advertise"))
	}
	return nil
}

// foundNode records the first node of a cluster: the one that was alone.
var foundNode = edge.Command[Registration, Peer]{
	Name: "sync.node.register", Scope: "sync:write", Class: edge.Admin, Summary: "Record the first node of a cluster",
	Handle: func(tx edge.Tx, in Registration) (Peer, error) {
		if err := onlyCluster(tx); err != nil {
			return Peer{}, err
		}
		if err := in.check(); err != nil {
			return Peer{}, err
		}
		for p, err := range peerTable.Range(tx, "", "") {
			if err == nil && p.Status == Removed { // of a cluster that was founded again
				continue
			}
			if err == nil && p.Node != in.Node {
				err = ErrFounded.Error(edge.Conflict)
			}
			return p, err
		}
		p := Peer{Meta: edge.Meta{ID: tx.NewID("nod")}, Role: Voter, Voter: true, Status: Joined, JoinedAt: tx.Now().UTC()}
		in.apply(&p)
		if err := peerTable.Put(tx, &p); err != nil {
			return Peer{}, err
		}
		tx.Emit(NodeJoined{p.ID, p.Node, p.Role})
		return p, nil
	},
}

// announceNode takes over what a node says of itself: a new address, certificate or program.
var announceNode = edge.Command[Registration, Peer]{
	Name: "sync.node.announce", Scope: "sync:write", Class: edge.Admin, Summary: "Take over what a node says of itself",
	Handle: func(tx edge.Tx, in Registration) (Peer, error) {
		if err := onlyCluster(tx); err != nil {
			return Peer{}, err
		}
		if err := in.check(); err != nil {
			return Peer{}, err
		}
		p, err := livePeer(tx, in.Node)
		if err != nil {
			return Peer{}, err
		}
		if p.Fingerprint != "" { // pinned: another key is another node. None yet: it has founded the cluster again
			in.Fingerprint = p.Fingerprint
		}
		return p.change(tx, func(p *Peer) { in.apply(p) })
	},
}

// change stores what set makes of the record and says which fields changed; nothing happens when none did.
func (p Peer) change(tx edge.Tx, set func(*Peer)) (Peer, error) {
	now := p
	set(&now)
	fields, err := edge.Changed(&p, &now)
	if err != nil || len(fields) == 0 {
		return p, err
	}
	if err := peerTable.Put(tx, &now); err != nil {
		return Peer{}, err
	}
	tx.Emit(NodeUpdated{now.ID, now.Node, fields})
	return now, nil
}

// Settled is what the leader's worker has seen or done.
type Settled struct {
	Node     string `json:"node" check:"max=64" doc:"The node."`
	Voter    *bool  `json:"voter,omitempty" doc:"Whether it has a vote."`
	Caught   bool   `json:"caught,omitempty" doc:"It has caught up: it is a member."`
	Lost     *bool  `json:"lost,omitempty" doc:"Whether it is silent."`
	Repaired bool   `json:"repaired,omitempty" doc:"It was filled anew."`
	Leads    bool   `json:"leads,omitempty" doc:"It came to lead as asked."`
	Removed  string `json:"removed,omitempty" check:"max=120" doc:"It is removed, and why."`
}

// settle records what the leader's worker has seen or done.
var settle = edge.Command[Settled, Peer]{
	Name: "sync.node.settle", Scope: "sync:write", Class: edge.Admin, Summary: "Record what became of a node",
	Handle: func(tx edge.Tx, in Settled) (Peer, error) {
		if err := onlyCluster(tx); err != nil {
			return Peer{}, err
		}
		was, err := livePeer(tx, in.Node)
		if err != nil {
			return Peer{}, err
		}
		p := was
		in.apply(&p, tx.Now())
		if fields, err := edge.Changed(&was, &p); err != nil || len(fields) == 0 {
			return was, err
		}
		if err := peerTable.Put(tx, &p); err != nil {
			return Peer{}, err
		}
		in.tell(tx, &was, &p)
		return p, nil
	},
}

func (in *Settled) apply(p *Peer, now time.Time) {
	edge.Set(&p.Voter, in.Voter)
	if in.Caught && p.Status == Joining {
		p.Status = Joined
	}
	switch {
	case in.Lost == nil:
	case !*in.Lost:
		p.LostAt = nil
	case p.LostAt == nil:
		p.LostAt = new(now.UTC())
	}
	if in.Repaired {
		p.RepairAt = nil
	}
	if in.Leads {
		p.LedAt = new(now.UTC())
	}
	if in.Removed != "" {
		p.lose(now)
	}
}

func (in *Settled) tell(tx edge.Tx, was, p *Peer) {
	switch {
	case p.Status == Removed:
		tx.Emit(NodeRemoved{p.ID, p.Node, in.Removed})
		return
	case p.Voter && !was.Voter:
		tx.Emit(NodePromoted{p.ID, p.Node})
	case !p.Voter && was.Voter:
		tx.Emit(NodeDemoted{p.ID, p.Node})
	case p.Status != was.Status, in.Repaired:
		tx.Emit(NodeUpdated{p.ID, p.Node, []string{"status"}})
	}
	switch {
	case p.LostAt != nil && was.LostAt == nil:
		tx.Emit(NodeLost{p.ID, p.Node})
	case p.LostAt == nil && was.LostAt != nil:
		tx.Emit(NodeFound{p.ID, p.Node})
	}
}

// Survivors are the nodes that go on after a recovery.
type Survivors struct {
	Nodes []string `json:"nodes" check:"min=1 max=64 item.max=64" doc:"The nodes that go on."`
}

// recovered removes every node but those with which an operator began the cluster's history anew. Those are voters from now on, whatever
// they were: a replica is, too, and nobody is left of whom its old cluster wished something else.
var recovered = edge.Command[Survivors, edge.None]{
	Name: "sync.node.recover", Scope: "sync:write", Class: edge.Admin, Summary: "Remove the nodes that did not survive a recovery",
	Handle: func(tx edge.Tx, in Survivors) (none edge.None, err error) {
		if err := onlyCluster(tx); err != nil {
			return none, err
		}
		var all []Peer
		for p, err := range peerTable.Range(tx, "", "") {
			if err != nil {
				return none, err
			}
			all = append(all, p)
		}
		for i := range all {
			p := &all[i]
			if slices.Contains(in.Nodes, p.Node) {
				if _, err := p.change(tx, (*Peer).survive); err != nil {
					return none, err
				}
				continue
			}
			if p.Status == Removed {
				continue
			}
			if p.LostAt == nil { // the old leader may have heard it, this history does not
				p.LostAt = new(tx.Now().UTC())
			}
			p.lose(tx.Now())
			if err := peerTable.Put(tx, p); err != nil {
				return none, err
			}
			tx.Emit(NodeRemoved{p.ID, p.Node, "recovery"})
		}
		return none, nil
	},
}

package cluster

import (
	"slices"

	"wispgate/edge"
)

// Ports are what the module's declarations stand on. All may be nil for declarations only.
type Ports struct {
	Directory *Directory
	Live      func() *Node // nil until the node is open
}

func (p Ports) live() *Node {
	if p.Live == nil {
		return nil
	}
	return p.Live()
}

// well stamps which voters are well at this moment: the leader asks them. Only the operator's commands make it do so, and not
// those that go on whatever it says.
func (p Ports) well(prep edge.Prep, force bool) []string {
	if n := p.live(); n != nil && !force && prep.Actor().Tenant == edge.System {
		return n.votersNow(n.life)
	}
	return nil
}

// among is what a command of the operator that may cost a vote looks at: the node, as find reads it by its name, and all nodes that belong to
// the cluster.
func among(tx edge.Tx, node string, find func(edge.View, string) (Peer, error)) (p Peer, all []Peer, err error) {
	if err := onlyOperator(tx); err != nil {
		return p, nil, err
	}
	if p, err = find(tx, node); err != nil {
		return p, nil, err
	}
	all, err = allPeers(tx)
	return p, all, err
}

// named is the node, not a removed one, that a command of the operator names.
func named(tx edge.Tx, node string) (Peer, error) {
	if err := onlyOperator(tx); err != nil {
		return Peer{}, err
	}
	return livePeer(tx, node)
}

// PeerRef names a node.
type PeerRef struct {
	Node string `json:"node" check:"min=1 max=64" doc:"Name of the node." example:"tower7-a"`
}

var promote = edge.Command[PeerRef, Peer]{
	Name: "sync.node.promote", Scope: "sync:write", Class: edge.Admin, Summary: "Give a node a vote once it has caught up",
	Handle: func(tx edge.Tx, in PeerRef) (Peer, error) {
		p, err := named(tx, in.Node)
		if err != nil {
			return Peer{}, err
		}
		return p.change(tx, func(p *Peer) { p.Role = Voter })
	},
}

// Demotion says which voter to make a replica.
type Demotion struct {
	Node  string   `json:"node" check:"min=1 max=64" doc:"Name of the node." example:"tower7-a"`
	Force bool     `json:"force,omitempty" doc:"Even where the voters that are left and well are no majority."`
	Well  []string `json:"well,omitempty" check:"internal max=64 item.max=64"`
}

func demote(p Ports) edge.Command[Demotion, Peer] {
	return edge.Command[Demotion, Peer]{
		Name: "sync.node.demote", Scope: "sync:write", Class: edge.Admin, Summary: "Take a node's vote and keep it as a replica",
		Prepare: func(prep edge.Prep, in *Demotion) error { in.Well = p.well(prep, in.Force); return nil },
		Handle: func(tx edge.Tx, in Demotion) (Peer, error) {
			p, all, err := among(tx, in.Node, livePeer)
			if err == nil && p.Voter {
				err = mayLose(all, p.Node, in.Well, in.Force)
			}
			if err != nil {
				return Peer{}, err
			}
			return p.change(tx, func(p *Peer) { p.Role = Replica })
		},
	}
}

// Removal says which node to remove.
type Removal struct {
	Node  string   `json:"node" check:"min=1 max=64" doc:"Name of the node." example:"tower7-a"`
	Force bool     `json:"force,omitempty" doc:"Even where the voters that are left and well are no majority."`
	Well  []string `json:"well,omitempty" check:"internal max=64 item.max=64"`
}

func remove(p Ports) edge.Command[Removal, Peer] {
	return edge.Command[Removal, Peer]{
		Name: "sync.node.remove", Scope: "sync:write", Class: edge.Admin, Summary: "Remove a node for ever",
		Prepare: func(prep edge.Prep, in *Removal) error { in.Well = p.well(prep, in.Force); return nil },
		Handle: func(tx edge.Tx, in Removal) (Peer, error) {
			p, all, err := among(tx, in.Node, peer)
			if err != nil || p.Status == Removed {
				return p, err
			}
			if p.Voter {
				if err := mayLose(all, p.Node, in.Well, in.Force); err != nil {
					return Peer{}, err
				}
			}
			p.lose(tx.Now())
			if err := peerTable.Put(tx, &p); err != nil {
				return Peer{}, err
			}
			tx.Emit(NodeRemoved{p.ID, p.Node, "operator"})
			return p, nil
		},
	}
}

// Transfer says which voter is to lead.
type Transfer struct {
	Node string   `json:"node" check:"min=1 max=64" doc:"Name of the node." example:"tower7-a"`
	Well []string `json:"well,omitempty" check:"internal max=64 item.max=64"`
}

func lead(p Ports) edge.Command[Transfer, Peer] {
	return edge.Command[Transfer, Peer]{
		Name: "sync.node.lead", Scope: "sync:write", Class: edge.Admin, Summary: "Hand leadership to a node",
		Prepare: func(prep edge.Prep, in *Transfer) error { in.Well = p.well(prep, false); return nil },
		Handle: func(tx edge.Tx, in Transfer) (Peer, error) {
			p, err := named(tx, in.Node)
			switch {
			case err != nil:
				return Peer{}, err
			case !p.Voter || !p.mayLead():
				return Peer{}, ErrNotVoter.Error(edge.Conflict)
			case len(in.Well) > 0 && !slices.Contains(in.Well, p.Node): // none: nobody knows
				return Peer{}, ErrSilent.Error(edge.Conflict)
			}
			return p.change(tx, func(p *Peer) { p.LeadAt, p.LedAt = new(tx.Now().UTC()), nil })
		},
	}
}

// Repair says which node to fill anew.
type Repair struct {
	Node string   `json:"node" check:"min=1 max=64" doc:"Name of the node." example:"tower7-a"`
	Well []string `json:"well,omitempty" check:"internal max=64 item.max=64"`
}

func repair(p Ports) edge.Command[Repair, Peer] {
	return edge.Command[Repair, Peer]{
		Name: "sync.node.repair", Scope: "sync:write", Class: edge.Admin, Summary: "Wipe a node's copy of the state and fill it anew from the leader",
		Prepare: func(prep edge.Prep, in *Repair) error { in.Well = p.well(prep, false); return nil },
		Handle: func(tx edge.Tx, in Repair) (Peer, error) {
			p, all, err := among(tx, in.Node, livePeer)
			if err != nil {
				return Peer{}, err
			}
			others := 0
			for i := range all {
				if all[i].Voter && all[i].Node != p.Node {
					others++
				}
			}
			if others == 0 {
				return Peer{}, ErrRepairLast.Error(edge.Conflict)
			}
			if p.Voter && mayLose(all, p.Node, in.Well, false) != nil { // it gives its vote away meanwhile
				e := ErrQuorumRisk.Error(edge.Conflict)
				e.Fix = "Bring the silent voters back or add another voter first"
				return Peer{}, e
			}
			return p.change(tx, func(p *Peer) { p.RepairAt = new(tx.Now().UTC()) })
		},
	}
}

// PeerChange carries the members of a node's record that an operator may change.
type PeerChange struct {
	Node      string `json:"node" check:"min=1 max=64" doc:"Name of the node." example:"tower7-a"`
	Preferred *bool  `json:"preferred,omitempty" doc:"Whether leadership should be here when this node is well."`
}

var updatePeer = edge.Command[PeerChange, Peer]{
	Name: "sync.node.update", Scope: "sync:write", Class: edge.Admin, Summary: "Change what is wished of a node",
	Handle: func(tx edge.Tx, in PeerChange) (Peer, error) {
		p, err := named(tx, in.Node)
		if err != nil {
			return Peer{}, err
		}
		if in.Preferred != nil && *in.Preferred && p.Role != Voter { // it would be shown as preferred and never lead
			return Peer{}, ErrNotVoter.Error(edge.Conflict)
		}
		return p.change(tx, func(p *Peer) { edge.Set(&p.Preferred, in.Preferred) })
	},
}

var getPeer = edge.Query[PeerRef, Peer]{
	Name: "sync.node.get", Scope: "sync:read", Class: edge.Read, Summary: "Show the record of a node",
	Handle: func(v edge.View, in PeerRef) (Peer, error) {
		if err := onlyOperator(v); err != nil {
			return Peer{}, err
		}
		return peer(v, in.Node)
	},
}

// PeerList filters the list of nodes.
type PeerList struct {
	edge.ListInput
	Removed bool `json:"removed,omitempty" doc:"Removed nodes, too."`
}

var listPeers = edge.Query[PeerList, edge.Page[Peer]]{
	Name: "sync.node.list", Scope: "sync:read", Class: edge.Read, Summary: "List the records of the nodes",
	Handle: func(v edge.View, in PeerList) (edge.Page[Peer], error) {
		if err := onlyOperator(v); err != nil {
			return edge.Page[Peer]{}, err
		}
		also := "present"
		if in.Removed {
			also = "all"
		}
		f := edge.Filter[Peer]{Also: []string{also}, Keep: func(p *Peer) bool { return in.Removed || p.Status != Removed }}
		return peerTable.Select(v, f, in.ListInput)
	},
}

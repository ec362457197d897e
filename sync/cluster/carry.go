package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"wispgate/edge"
)

// What the leader would send a cut-off member may reach it on a stick: to raft a carried excerpt of the log is an AppendEntries, or an
// InstallSnapshot, that was long on its way. This file signs bundles and keeps in mind how far members have come; excerpt.go writes an
// excerpt, and carried.go feeds it to raft.

// Reasons for which nothing is exported or taken.
var (
	ErrCarryAlone    = edge.Reason{Code: "bundle_alone", Says: "This node is the whole cluster, so there is nobody to carry anything to", Fix: "Nothing waits here. To keep a copy elsewhere, make a backup"}
	ErrCarryLeader   = edge.Reason{Code: "bundle_not_leader", Says: "Only the leader can say what the cluster has committed", Fix: "Run it at the node that leads: wispgate sync status names it"}
	ErrCarryWhere    = edge.Reason{Code: "bundle_position", Says: "Nobody here knows how far that node's log goes", Fix: "Import a bundle of that node first, or give --from with the last_index that wispgate sync status shows there; --from 0 always works and is the largest"}
	ErrCarrySelf     = edge.Reason{Code: "bundle_self", Says: "The bundle would be for this very node", Fix: "Name the node that is cut off"}
	ErrCarryGap      = edge.Reason{Code: "bundle_gap", Says: "This node lacks log entries that come before those in the bundle", Fix: "Export it anew at the leader, with --from and this node's commit_index as wispgate sync status shows it"}
	ErrCarryTerm     = edge.Reason{Code: "bundle_term", Says: "The bundle is of a leader that is none any more, as far as this node knows", Fix: "Export it anew at the leader of today; where this node's own term is ahead of the cluster's, only the link helps"}
	ErrCarryLeads    = edge.Reason{Code: "bundle_not_follower", Says: "This node leads, so it takes log entries from nobody", Fix: "Import it at the node that is cut off"}
	ErrCarryDamaged  = edge.Reason{Code: "bundle_entries", Says: "The log entries in the bundle do not follow on each other", Fix: "Export it anew at the leader; nothing of it was taken"}
	ErrCarryRefused  = edge.Reason{Code: "bundle_refused", Says: "The log did not take the bundle", Fix: "Look at the node's log; then import it again: what it has taken already is skipped"}
	ErrCarryOvertook = edge.Reason{Code: "bundle_overtaken", Says: "The leader cut its log while the bundle was being written", Fix: "Export it again"}
)

// carryReasons lists them.
func carryReasons() []edge.Reason {
	return []edge.Reason{
		ErrCarryAlone, ErrCarryLeader, ErrCarryWhere, ErrCarrySelf, ErrCarryGap, ErrCarryTerm, ErrCarryLeads, ErrCarryDamaged, ErrCarryRefused, ErrCarryOvertook,
	}
}

// Position is how far a node's log goes. Up to Commit it is the cluster's; what lies beyond may be cut away again.
type Position struct {
	Last     uint64 `json:"last_index"`
	LastTerm uint64 `json:"last_term"`
	Commit   uint64 `json:"commit_index"`
	Term     uint64 `json:"term"`
}

// Position is this node's.
func (n *Node) Position() (p Position, err error) {
	if n.port == nil {
		return p, ErrCarryAlone.Error(edge.Conflict)
	}
	run := n.current()
	if run == nil {
		return p, n.whyParked()
	}
	p = Position{Last: run.raft.LastIndex(), Commit: run.raft.CommitIndex(), Term: run.raft.CurrentTerm()}
	p.Commit = n.committed(run)
	if p.LastTerm, err = run.termOf(p.Last); errors.Is(err, raft.ErrLogNotFound) { // it is a snapshot's: the commit index serves
		p.Last, err = p.Commit, nil
	}
	return p, err
}

// committed is up to where the log is surely the cluster's. Raft forgets its commit index with each start; what was applied is in the state.
// A state that came as a snapshot may be ahead of the log.
func (n *Node) committed(run *running) uint64 {
	return max(run.raft.CommitIndex(), min(n.machine.AppliedIndex(), run.raft.LastIndex()))
}

// termOf is the term of an entry in the log.
func (r *running) termOf(index uint64) (uint64, error) {
	if index == 0 {
		return 0, nil
	}
	var l raft.Log
	err := r.log.GetLog(index, &l)
	return l.Term, err
}

// SignBundle signs a bundle's digest with the key of this node's certificate.
func (n *Node) SignBundle(digest []byte) (value, certificate []byte, err error) {
	if n.port == nil {
		return nil, nil, ErrCarryAlone.Error(edge.Conflict)
	}
	return n.conf.Credentials.signDigest(digest)
}

// VerifyBundle names the node that signed a bundle, and says whether it was removed. The date of its certificate does not matter: a node that was
// cut off for long could not renew it. What counts is the record.
func (n *Node) VerifyBundle(digest, value, certificate []byte) (node string, removed bool, err error) {
	if n.port == nil {
		return "", false, ErrCarryAlone.Error(edge.Conflict)
	}
	return n.conf.Credentials.verifyDigest(digest, value, certificate, n.conf.Directory)
}

// SealForMember seals a bundle's key for a member that is not removed.
func (n *Node) SealForMember(node string, key []byte) ([]byte, error) {
	if n.port == nil {
		return nil, ErrCarryAlone.Error(edge.Conflict)
	}
	p, ok := n.conf.Directory.Peer(node)
	switch {
	case !ok:
		return nil, ErrPeerUnknown.Error(edge.NotFound)
	case p.Status == Removed:
		return nil, ErrPeerRemoved.Error(edge.Conflict)
	}
	public, err := base64.StdEncoding.DecodeString(p.VaultKey)
	if err != nil {
		return nil, fmt.Errorf("read vault key: %w", err)
	}
	return n.conf.Vault.SealFor(purposeCarry, public, key)
}

// OpenForMember opens what SealForMember sealed for this node.
func (n *Node) OpenForMember(sealed []byte) ([]byte, error) {
	if n.port == nil {
		return nil, ErrCarryAlone.Error(edge.Conflict)
	}
	return n.conf.Vault.OpenFor(purposeCarry, sealed)
}

const (
	purposeCarry   = "carried bundle v1"
	methodPosition = "sync.position"
	carriedFile    = "carried.json"
	maxNoted       = 1024 // nodes
)

// notedPosition tells the leader how far a member's log goes.
type notedPosition struct {
	Node     string   `json:"node"`
	Position Position `json:"position"`
}

// NotePosition keeps how far a member's log goes, as its bundle says, for the way back. The leader is told; one that is elected later asks
// for another bundle.
func (n *Node) NotePosition(ctx context.Context, node string, p Position) error {
	raw, err := json.Marshal(notedPosition{node, p})
	if err == nil {
		err = n.keepPosition(node, p)
	}
	if err != nil || n.IsLeader() {
		return err
	}
	_, err = n.Call(ctx, "", methodPosition, raw)
	return err
}

func (n *Node) servePosition(_ context.Context, _ string, body []byte) ([]byte, error) {
	var p notedPosition
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, edge.ErrInput.Error(edge.Invalid)
	}
	return nil, n.keepPosition(p.Node, p.Position)
}

// keepPosition never goes back: an older bundle may be imported later.
func (n *Node) keepPosition(node string, p Position) error {
	if m, ok := n.conf.Directory.Peer(node); !ok || m.Status == Removed {
		return ErrPeerUnknown.Error(edge.NotFound)
	}
	n.carryMu.Lock()
	defer n.carryMu.Unlock()
	all, err := n.positions()
	if err != nil {
		return err
	}
	if old, ok := all[node]; ok && (old.Commit > p.Commit || old == p) || !ok && len(all) >= maxNoted {
		return nil
	}
	all[node] = p
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return writeAtomic(n.conf.Dir, carriedFile, raw)
}

func (n *Node) positions() (map[string]Position, error) {
	all := map[string]Position{}
	raw, err := os.ReadFile(filepath.Join(n.conf.Dir, carriedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read carried positions: %w", err)
	}
	if json.Unmarshal(raw, &all) != nil {
		all = map[string]Position{} // it can be had again, from a bundle
	}
	return all, nil
}

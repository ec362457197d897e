package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/raft"

	"wispgate/edge"
	"wispgate/edge/exec"
)

// Refound makes a cluster of this one node over a state that is there already, as after a restored backup. Its log begins behind the state,
// under a snapshot that names it: a node that joins later is behind everything the log holds, and so gets the state, not a log whose first
// entry builds on a version it does not have. The folder must be empty; with anything there it refuses with code cluster_exists.
func Refound(conf Config, machine *exec.Machine) error {
	conf, err := conf.withDefaults()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(conf.Dir, 0o700); err != nil {
		return fmt.Errorf("found cluster again: %w", err)
	}
	if held, err := os.ReadDir(conf.Dir); err != nil || len(held) > 0 {
		return errors.Join(err, errExists(conf.Dir))
	}
	if machine.DurableIndex() == 0 {
		return errors.New("found cluster again: there is no state")
	}
	if err := beginBehind(&conf, machine); err != nil {
		return fmt.Errorf("found cluster again: %w", err)
	}
	return identity{ClusterID: conf.ClusterID, NodeID: conf.NodeID, Ready: true}.write(conf.Dir)
}

func beginBehind(conf *Config, machine *exec.Machine) (err error) {
	wal, snaps, err := openLog(conf, machine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wal.Close()) }()
	const term = 1
	alone := raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: raft.ServerID(conf.NodeID), Address: raft.ServerAddress(conf.NodeID)},
	}}
	at := machine.DurableIndex()
	sink, err := snaps.Create(raft.SnapshotVersionMax, at, term, alone, at, nil)
	if err != nil {
		return err
	}
	return errors.Join(sink.Close(), wal.SetUint64(keyTerm, term))
}

// PeerPrefix is where the records of the nodes lie in the replicated keyspace.
func PeerPrefix() string { return edge.TablePrefix(edge.System, peerTable.Name) }

// PeerName is the name in the record of a node.
func PeerName(record []byte) (string, error) {
	var p Peer
	if err := json.Unmarshal(record, &p); err != nil {
		return "", fmt.Errorf("read the record of a node: %w", err)
	}
	return p.Node, nil
}

// RefoundPeer is the record of a node of the old cluster as it stands in the one that node founds again, with the name in it: removed, or,
// where the founder bears the old name, what it will be once it has said who it is. Nil: it stays as it is.
func RefoundPeer(record []byte, node, vaultKey string, at time.Time) (now []byte, name string, err error) {
	var p Peer
	if err := json.Unmarshal(record, &p); err != nil {
		return nil, "", fmt.Errorf("read the record of a node: %w", err)
	}
	switch {
	case p.Node == node:
		p.Role, p.Voter, p.Status, p.RemovedAt, p.ReplacedBy = Voter, true, Joined, nil, ""
		p.LostAt, p.LeadAt, p.LedAt, p.RepairAt = nil, nil, nil, nil
		p.VaultKey, p.Fingerprint, p.Serial = vaultKey, "", ""
	case p.Status == Removed:
		return nil, p.Node, nil
	default:
		p.lose(at)
	}
	p.Version++
	now, err = json.Marshal(p)
	return now, p.Node, err
}

package cluster

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"wispgate/edge/exec"
)

// Recover makes this node the only one of its cluster, offline, when the majority of the voters is gone for good. It changes history:
// what the others had acknowledged and this node never heard of is lost, and whatever the log holds here counts as committed. The nodes
// left behind are refused from now on; they are emptied and join again. The caller mints a new incarnation of the cluster with it.
//
// Raft's own RecoverCluster would load and copy the state; here the state is its own snapshot, so one entry with the new configuration at
// the end of the log says it all: raft goes by the newest configuration in its log, committed or not, and a single voter commits it.
func Recover(conf Config, machine *exec.Machine) (err error) {
	if conf, err = conf.withDefaults(); err != nil {
		return err
	}
	id, err := ownIdentity(&conf)
	if err != nil {
		return err
	}
	w, snaps, err := openLog(&conf, machine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := snaps.resume(conf.Logger); err != nil {
		return err
	}
	entry, err := successor(w, snaps, conf.NodeID)
	if err != nil {
		return err
	}
	id.Survivors = []string{conf.NodeID}
	if err := id.write(conf.Dir); err != nil {
		return err
	}
	if err := w.StoreLog(entry); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// successor is the entry that follows the log and makes the node its only voter.
func successor(w walStore, snaps *snapshots, node string) (*raft.Log, error) {
	last, err := w.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("read raft log: %w", err)
	}
	newest, err := snaps.newest()
	if err != nil {
		return nil, err
	}
	if applied := snaps.machine.AppliedIndex(); applied > max(last, newest.Index) {
		return nil, errLogBehind(applied, max(last, newest.Index))
	}
	term, err := w.GetUint64(keyTerm)
	if err != nil {
		return nil, fmt.Errorf("read raft log: %w", err)
	}
	if last > 0 {
		var l raft.Log
		if err := w.GetLog(last, &l); err != nil {
			return nil, fmt.Errorf("read raft log: %w", err)
		}
		term = max(term, l.Term)
	}
	term = max(term, newest.Term)
	if err := w.SetUint64(keyTerm, term); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(node), Address: raft.ServerAddress(node)}}}
	return &raft.Log{Index: max(last, newest.Index) + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(alone)}, nil
}

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
//
// A node that does not hold the key of the cluster's CA, as a replica, makes a new CA: with the old one it could let nobody in. Whoever was
// signed by the old one has to join again anyway.
func Recover(conf Config, machine *exec.Machine) (at Standing, err error) {
	if conf, err = conf.withDefaults(); err != nil {
		return at, err
	}
	id, err := ownIdentity(&conf)
	if err != nil {
		return at, err
	}
	w, snaps, err := openLog(&conf, machine)
	if err != nil {
		return at, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := snaps.resume(conf.Logger); err != nil {
		return at, err
	}
	if at, err = standing(w, snaps); err != nil {
		return at, err
	}
	entry, err := successor(w, snaps, conf.NodeID)
	if err != nil {
		return at, err
	}
	id.Survivors = []string{conf.NodeID}
	if err := id.write(conf.Dir); err != nil {
		return at, err
	}
	if conf.Credentials != nil { // before the log: a new history never shows itself with what half belongs to the old one
		if at.NewCA, err = conf.Credentials.succeed(later(conf.Now(), machine.LastTime())); err != nil {
			return at, err
		}
	}
	if err := w.StoreLog(entry); err != nil {
		return at, fmt.Errorf("recover: %w", err)
	}
	if err := forgetRemoval(conf.Dir); err != nil { // whoever had removed this node has no part in the new history
		return at, fmt.Errorf("recover: %w", err)
	}
	return at, nil
}

// Standing is how far the log of a node goes. Of two nodes of one cluster the one whose last entry has the higher term holds everything that
// was acknowledged, as far as any of the two does; of two in the same term the one with the higher index. That is raft's own rule for whom
// a voter may elect. The version says less: an entry counts there only once it is applied.
type Standing struct {
	Term      uint64 `json:"last_term"` // of the last entry
	LastIndex uint64 `json:"last_index"`
	Version   uint64 `json:"version"` // of the state, once all that the log holds is applied
	NewCA     bool   `json:"new_ca"`
}

// Stands says how far the log of a folder goes, for the choice of the node to recover. The node must not run.
func Stands(conf Config, machine *exec.Machine) (at Standing, err error) {
	if conf, err = conf.withDefaults(); err != nil {
		return at, err
	}
	if _, err := ownIdentity(&conf); err != nil {
		return at, err
	}
	w, snaps, err := openLog(&conf, machine)
	if err != nil {
		return at, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if at, err = standing(w, snaps); err == nil && conf.Credentials != nil {
		at.NewCA = !conf.Credentials.holdsCA()
	}
	return at, err
}

// standing looks at the log's end, and counts what of its tail the state will take.
func standing(w walStore, snaps *snapshots) (at Standing, err error) {
	first, err1 := w.FirstIndex()
	last, err2 := w.LastIndex()
	newest, err3 := snaps.newest()
	if err := errors.Join(err1, err2, err3); err != nil {
		return at, fmt.Errorf("read raft log: %w", err)
	}
	machine := snaps.machine
	at = Standing{Term: newest.Term, LastIndex: newest.Index, Version: machine.Version()}
	for i := max(first, machine.AppliedIndex()+1, 1); i <= last; i++ {
		var l raft.Log
		if err := w.GetLog(i, &l); err != nil {
			return at, fmt.Errorf("read raft log: %w", err)
		}
		if l.Type != raft.LogCommand {
			continue
		}
		e, err := exec.DecodeEntry(l.Data)
		if err != nil {
			return at, err
		}
		if e.Follows(at.Version, l.Term) {
			at.Version++
		}
	}
	if last > at.LastIndex {
		var l raft.Log
		if err := w.GetLog(last, &l); err != nil {
			return at, fmt.Errorf("read raft log: %w", err)
		}
		at.Term, at.LastIndex = l.Term, last
	}
	return at, nil
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

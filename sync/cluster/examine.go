package cluster

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft-wal/metadb"

	"wispgate/edge/exec"
)

// ExamineFolder is as much of Examine as needs no state: what can be seen of a log whose state does not open as it is. It changes nothing.
func ExamineFolder(dir string) error {
	id, err := readIdentity(dir)
	if err != nil {
		return err
	}
	if gone(dir, id) {
		return errLogGone(dir, 0)
	}
	if err := NewDirectory().load(dir); err != nil {
		return err
	}
	dir = filepath.Join(dir, "log")
	if err = checkMeta(dir); err == nil {
		err = tryMeta(dir)
	}
	if err != nil {
		return errLogDamaged(dir, fmt.Errorf("%s: %w", metadb.FileName, err))
	}
	return nil
}

// Examine says what would keep the node of a folder from opening its log: another identity, a log that does not open, or one that does not
// belong to the state. The node must not run.
func Examine(conf Config, machine *exec.Machine) (err error) {
	if conf, err = conf.withDefaults(); err != nil {
		return err
	}
	if id, err := readIdentity(conf.Dir); err == nil && gone(conf.Dir, id) && machine.AppliedIndex() > 0 {
		return errLogGone(conf.Dir, machine.AppliedIndex())
	}
	if _, err := ownIdentity(&conf); err != nil {
		return err
	}
	if err := NewDirectory().load(conf.Dir); err != nil {
		return err
	}
	n := &Node{conf: conf, machine: machine}
	if r, err := n.refill(); err == nil && r.Wiping { // the start ends that first
		return nil
	}
	w, snaps, err := openLog(&conf, machine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := n.belong(w, snaps); err != nil {
		return err
	}
	_, err = persisted(w, snaps, machine.DurableIndex())
	return err
}

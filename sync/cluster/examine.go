package cluster

import (
	"errors"

	"wispgate/edge/exec"
)

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
	w, snaps, err := openLog(&conf, machine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := (&Node{conf: conf, machine: machine}).belong(w, snaps); err != nil {
		return err
	}
	_, err = persisted(w, snaps, machine.DurableIndex())
	return err
}

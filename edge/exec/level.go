package exec

import (
	"context"
	"encoding/binary"
	"fmt"

	"wispgate/edge"
)

// The feature level is what every node of the cluster can read. A command that stores a form which older programs do not know declares the
// level it needs, and is refused until every member has reported it: an older leader that rewrites such a record would drop what it does not
// know. The level is part of the state, so that it is the same on every node at the same version, and it never falls.

// levelKey holds the level: 64 bit, big endian.
const levelKey = "#level"

// ErrLevel is why a command has to wait for the upgrade of other nodes.
var ErrLevel = edge.Reason{Code: "feature_pending", Says: "Not every node of the cluster can read what this would store", Fix: "Upgrade the nodes that wispgate cluster list shows with an older version; it works from then on"}

// Level is the cluster's feature level. A state without one has level 1.
func (x *Exec) Level() int64 {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	return levelIn(st)
}

func levelOf(raw []byte, ok bool, err error) (int64, error) {
	if err != nil || !ok {
		return 1, err
	}
	if len(raw) != 8 {
		return 1, fmt.Errorf("the record of the feature level is damaged")
	}
	return int64(binary.BigEndian.Uint64(raw)), nil
}

// RaiseLevel commits that every member reads what level stores. A lower one than holds already changes nothing.
func (x *Exec) RaiseLevel(ctx context.Context, level int64) error {
	return x.internal(ctx, func(t *tx) error {
		raw, err := t.get(levelKey)
		now, err := levelOf(raw, raw != nil, err)
		if err != nil || level <= now {
			return err
		}
		t.kernelPut(levelKey, number(uint64(level)))
		return nil
	})
}

// reached refuses a command whose stored form is above the level.
func (t *tx) reached(op *edge.Op) error {
	if op.Level <= 1 {
		return nil
	}
	raw, err := t.get(levelKey)
	level, err := levelOf(raw, raw != nil, err)
	if err != nil || op.Level <= level {
		return err
	}
	return ErrLevel.Error(edge.Unavailable)
}

// levelIn is the level of a state; 1 where it cannot be read.
func levelIn(st *State) int64 {
	level, err := levelOf(st.Get(levelKey))
	if err != nil {
		return 1
	}
	return level
}

// checkLevel refuses to open a state that a newer program has written in forms this one does not know.
func (x *Exec) checkLevel() error {
	level := x.Level()
	if x.cfg.FeatureLevel == 0 || level <= x.cfg.FeatureLevel {
		return nil
	}
	return &edge.Error{
		Kind: edge.Unavailable, Code: "data_newer", Message: fmt.Sprintf("The state has feature level %d, this program knows %d", level, x.cfg.FeatureLevel),
		Fix: "Start the version that wrote it, or a newer one; a downgrade is not possible, a backup from before is",
	}
}

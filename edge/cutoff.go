package edge

import "time"

// CutOff reports that the view is the overlay of a node without a quorum, where a command is accepted before the cluster has seen it.
// Limits on what an isolated tower may promise are checked there and nowhere else: at the rebase the same command runs on the true
// state with Acknowledged, where an exceeded limit is an event and not a refusal. Nothing else may depend on it.
func CutOff(v View) bool {
	c, ok := v.(interface{ CutOff() bool })
	return ok && c.CutOff()
}

// FirstID is the id that Prep.FirstID gave on the node that took the intent up: what stands on paper. It is that of the first NewID(prefix),
// except where the intent's key has become another write's while the node was cut off, and records of that have the ids.
func FirstID(tx Tx, prefix string) ID {
	f, ok := tx.(interface{ FirstID(prefix string) ID })
	if !ok {
		return ""
	}
	return f.FirstID(prefix)
}

// AcceptedAt is when a node said yes to the intent under evaluation: the time of what was promised there and then, which a rebase days
// later must not move. It is Now for an intent that nobody has accepted before, and never later than Now.
func AcceptedAt(tx Tx) time.Time {
	if a, ok := tx.(interface{ AcceptedAt() time.Time }); ok {
		return a.AcceptedAt()
	}
	return tx.Now()
}

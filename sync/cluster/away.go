package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Absence is what Away goes by besides the Status: what time it is at the node, since when it is cut off, and that writes wait there.
type Absence struct {
	Now   time.Time
	Since *time.Time
	Waits string // as in "1 write waits"
}

// reachFor is how old an answer may be of a voter that counts as in reach. The node asks them all before it says how it stands, so this is only for
// one whose program is older and remembers.
const reachFor = 10 * time.Second

// Away says how a node stands that hears no leader, and what to do about it.
func (st *Status) Away(a Absence) (says, fix string) {
	switch {
	case st.Removed:
		return fmt.Sprintf("Node %s was removed from the cluster, and the others refuse it. %s here, and nothing is handed over", st.NodeID, a.Waits), ErrPeerGone.Fix
	case st.State == parkedState:
		return fmt.Sprintf("Node %s takes no part in the cluster: %s", st.NodeID, st.Parked), "See the log of wispgate; with a full disk, free space"
	case len(st.Voters) == 0:
		return Newcomer(st.Advertise), NewcomerFix
	}
	var near, far []View // voters besides this one that answer, and that do not
	for _, m := range st.Members {
		switch {
		case m.Node == st.NodeID || !m.Voter:
		case m.Silent || m.Seen.IsZero() || a.Now.Sub(m.Seen) >= reachFor:
			far = append(far, m)
		default:
			near = append(near, m)
		}
	}
	if says, fix = st.deaf(near, far); says != "" {
		return says, fix
	}
	reached, fit, others := []string{}, 0, ""
	if slices.Contains(st.Voters, st.NodeID) {
		fit, others = 1, "other "
	}
	for _, m := range near {
		if m.State == parkedState {
			reached = append(reached, m.Node+" (parked)")
		} else {
			reached, fit = append(reached, m.Node), fit+1
		}
	}
	since, whom, need := "", "none", len(st.Voters)/2+1
	if a.Since != nil {
		since = " since " + a.Since.Local().Format(time.DateTime)
	}
	if len(reached) > 0 {
		whom = strings.Join(reached, ", ")
	}
	says = fmt.Sprintf("Node %s hears no leader%s; of the %svoters it reaches %s. ", st.NodeID, since, others, whom)
	if fit >= need { // so it is not for want of nodes
		return says + "They would be enough, and none of them leads yet", "Ask again in a few seconds; if it stays so, see with wispgate cluster list on each of them whom it reaches"
	}
	says += fmt.Sprintf("%d of %d voters must hear each other before anything is committed", need, len(st.Voters))
	for _, m := range far {
		if m.Problem != "" {
			says += fmt.Sprintf("; %s does not answer%s", m.Node, m.Because())
		}
	}
	moved := st.moved()
	if moved {
		says += fmt.Sprintf("; node %s itself is reached at %s now, which the others cannot know before they hear it", st.NodeID, st.Advertise)
	}
	if fix = NoMajorityFix; moved || len(reached) == 0 {
		fix += ". " + MovedFix
	}
	return says, fix
}

// deaf is Away of a node that reaches the leader, or somebody who hears it; "" for one that does not.
func (st *Status) deaf(near, far []View) (says, fix string) {
	for _, m := range near {
		if m.State == "leader" {
			return fmt.Sprintf("Node %s reaches %s, which leads, and does not hear it", st.NodeID, m.Node),
				"Look at this node's cluster.advertise and at the way to its port, and that no copy of it runs elsewhere"
		}
	}
	for _, m := range near {
		if m.Leader == "" || m.Leader == st.NodeID || m.Leader == m.Node {
			continue
		}
		says = fmt.Sprintf("Node %s reaches %s, which hears %s lead, and does not hear it itself", st.NodeID, m.Node, m.Leader)
		if i := slices.IndexFunc(far, func(v View) bool { return v.Node == m.Leader }); i >= 0 {
			says += far[i].Because()
		}
		return says, fmt.Sprintf("Look at the network between this node and %s. Until then use %s", m.Leader, m.Node)
	}
	return "", ""
}

// moved says whether this node is reached elsewhere than its record says.
func (st *Status) moved() bool {
	return slices.ContainsFunc(st.Members, func(m View) bool { return m.Node == st.NodeID && m.Address != "" })
}

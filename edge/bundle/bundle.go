// Package bundle is the file in which writes and log entries are carried between a cut-off node and its cluster: encrypted for who may
// open it, signed by who made it. It knows octets and keys, no queue and no log: edge/exec and sync/cluster say what goes in and what
// becomes of it. DESIGN.md says why it is as it is.
package bundle

import (
	"fmt"
	"strings"

	"wispgate/edge"
)

// Format is the version of the file that this program writes. A file of a higher one is refused.
const Format = 1

// The kinds of a bundle.
const (
	Writes  = "writes"  // what a cut-off node has accepted, for any member of the cluster
	Entries = "entries" // what the cluster has committed, for one node
)

// The reasons for which a file is refused as it stands.
var (
	ErrForeign   = edge.Reason{Code: "bundle_foreign", Says: "The file is no bundle of wispgate", Fix: "Name a file that wispgate sync export wrote"}
	ErrNewer     = edge.Reason{Code: "bundle_newer", Says: "The bundle was written by a newer program than this one", Fix: "Update this node, then import it again"}
	ErrDamaged   = edge.Reason{Code: "bundle_damaged", Says: "The bundle is damaged, or was altered", Fix: "Copy it again from where it was exported, or export it anew; nothing of it was taken"}
	ErrTruncated = edge.Reason{Code: "bundle_truncated", Says: "The bundle ends too early, or its last part is damaged", Fix: "Copy it again and compare its size, or export it anew; nothing of it was taken"}
	ErrLocked    = edge.Reason{Code: "bundle_locked", Says: "This node cannot open the bundle", Fix: "Import it at a member of the cluster that it was made for, or export it anew"}
	ErrSigner    = edge.Reason{Code: "bundle_signer", Says: "The bundle is not signed by a node that belongs to the cluster as this node knows it", Fix: "wispgate cluster list shows who belongs to it"}
	ErrRemoved   = edge.Reason{Code: "bundle_removed", Says: "The bundle is of a node that was removed from the cluster", Fix: "If the machine was in your hands until the bundle was made, take over what waited there: wispgate sync import --removed NODE FILE"}
	ErrCluster   = edge.Reason{Code: "bundle_cluster", Says: "The bundle is of another cluster", Fix: "Import it at a node of that cluster"}
	ErrHistory   = edge.Reason{Code: "bundle_incarnation", Says: "The bundle is of another history of this cluster: it was recovered or restored in between", Fix: "After a recovery, what waited at a node that was left behind is taken over with wispgate sync import --removed NODE FILE; else let that node join anew"}
	ErrAddressee = edge.Reason{Code: "bundle_addressee", Says: "The bundle was made for another node", Fix: "Import it there, or export one for this node with wispgate sync export --for"}
)

// Reasons lists them.
func Reasons() []edge.Reason {
	return []edge.Reason{ErrForeign, ErrNewer, ErrDamaged, ErrTruncated, ErrLocked, ErrSigner, ErrRemoved, ErrCluster, ErrHistory, ErrAddressee}
}

func refuse(r edge.Reason) *edge.Error { return r.Error(edge.Invalid) }

// Expect is what a node demands of a bundle before it opens it. What waited at the removed node Former is taken whatever the incarnation: a recovery,
// which begins another, removes all others.
type Expect struct{ Cluster, Incarnation, Node, Former string }

// Check refuses a bundle that is not for this node. A foreign one is named, so that whoever holds three sticks can tell them apart.
func (x Expect) Check(h Head) error {
	said := func(r edge.Reason, what, is, want string) error {
		e := refuse(r)
		e.Message = fmt.Sprintf("%s (%s %s, here %s)", strings.TrimSuffix(r.Says, "."), what, is, want)
		return e
	}
	switch {
	case h.Cluster != x.Cluster:
		return said(ErrCluster, "cluster", h.Cluster, x.Cluster)
	case h.Incarnation != x.Incarnation && (h.Kind != Writes || h.Node != x.Former):
		return said(ErrHistory, "incarnation", h.Incarnation, x.Incarnation)
	case h.For != "" && h.For != x.Node:
		return said(ErrAddressee, "node", h.For, x.Node)
	}
	return nil
}

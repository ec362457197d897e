package cluster

import (
	"fmt"
	"path/filepath"

	"wispgate/edge"
)

// What a proposal can meet besides exec.ErrStale. They match by code with errors.Is.
var (
	// ErrQuorumLost: nothing was proposed; the same proposal may succeed later.
	ErrQuorumLost = edge.ErrQuorumLost.Error(edge.Unavailable)
	// ErrUnknownOutcome: the proposal may or may not be committed. Ask again with the same operation id: the state decides.
	ErrUnknownOutcome = edge.ErrUnknown.Error(edge.Unavailable)
)

// NoMajorityFix is what an operator does about a cluster without a leader.
const NoMajorityFix = "Bring back the voters that are away, and the network between them; where a majority is gone for good, see wispgate cluster recover --help"

// MovedFix is what an operator does where no node knows where another is.
const MovedFix = "Where all the voters that live have moved to other addresses at once, none knows where the others are: tell one of them with " +
	"wispgate cluster find NODE ADDRESS, or give one its old address again, beside the new one, until wispgate cluster list shows a leader"

// NewcomerFix is what an operator does about a node that has joined and that no other reaches.
const NewcomerFix = "Wait a minute. Then see on another node with wispgate cluster list why this one is silent there; cluster.advertise is what the others dial, and a " +
	"firewall may stand before it"

// Newcomer says how a node stands that has joined and has not heard its leader yet.
func Newcomer(advertised string) string {
	return "This node has joined its cluster, and no leader has reached it yet at " + advertised
}

func quorumLost() error {
	e := edge.ErrQuorumLost.Error(edge.Unavailable)
	e.RetryAfter = 3
	return e
}

func refuse(code, message, fix string) *edge.Error {
	return &edge.Error{Kind: edge.Unavailable, Code: code, Message: message, Fix: fix}
}

func errExists(dir string) error {
	return refuse("cluster_exists", "The directory "+dir+" already holds a cluster, or a state without one",
		"Open it as it is; to begin anew, move the data directory aside first")
}

func errNoCluster(dir string) error {
	return refuse("cluster_missing", "The directory "+dir+" holds no cluster", "Run wispgate cluster init, or join an existing cluster")
}

func errIdentity(what string) error {
	return refuse("cluster_foreign", "The data belongs to another "+what+" than the configuration names",
		"Set the configuration back to the identity that wrote the data, or use the right data directory")
}

// anotherCopy is how a node whose copy is of no use comes to another.
const anotherCopy = "move the data folder aside; have another member make an invitation (wispgate cluster invite --replaces NODE) and join under " +
	"another node.id, or, for a node that stood alone, wispgate restore"

func errLogBehind(applied, last uint64) error {
	return refuse("log_behind_state", fmt.Sprintf("The state includes log entry %d but the log ends at %d: they do not belong together", applied, last),
		"Where the folder of the log was lost or exchanged, put it back. Else this copy is of no use: "+anotherCopy)
}

// repairIt is what to do at a node whose copy no longer serves and that starts all the same.
const repairIt = "Where a newer wispgate ran here, start that one. Else check the disk: at another member run wispgate cluster repair NODE, which fills this one anew; where it stands alone, keep the data folder " +
	"and restore the last backup (wispgate restore)"

func errLogDamaged(dir string, cause error) error {
	return refuse("log_damaged", fmt.Sprintf("The log in %s is damaged: %v", dir, cause), repairIt)
}

func errLogGone(dir string, applied uint64) error {
	says := "The folder of the log, " + dir + ", holds no log"
	if applied > 0 {
		says += fmt.Sprintf(", and the state includes log entry %d", applied)
	}
	return refuse("log_missing", says,
		"Put the folder back where it was. Else this copy is of no use: "+anotherCopy)
}

func errNotedDamaged(dir string, cause error) error {
	return refuse("members_damaged", fmt.Sprintf("The note of the members, %s, cannot be read: %v", filepath.Join(dir, notedFile), cause),
		"Check the disk. A node that has its state writes the note anew by itself; one that waits to be filled by its cluster has to join anew: "+anotherCopy)
}

func errStateBehind(durable, snapshot uint64) error {
	return refuse("state_behind_log", fmt.Sprintf("The state ends at log entry %d but the log was cut at %d: entries between are missing", durable, snapshot),
		"Where the folder of the state was lost or exchanged, put it back. Else this copy is of no use: "+anotherCopy)
}

func errOverloaded() error {
	e := refuse("overloaded", "Too many requests wait for this node's peer", "Ask again in a second with the same Idempotency-Key")
	e.RetryAfter = 1
	return e
}

const codeExpired = "certificate_expired"

func errExpired() error {
	return refuse(codeExpired, "The certificate of the asking node ended too long ago for anything but its renewal",
		"Let it renew its certificate, which it does by itself; look at its clock if it does not")
}

func errPortMissing(others int) error {
	return refuse("cluster_port_missing", fmt.Sprintf("This node shares its log with %d others and has no port to reach them", others),
		"Set cluster.listen and cluster.advertise as they were; to go on without the others for ever, see wispgate cluster recover")
}

func errListen(address string, err error) error {
	return refuse("listen", fmt.Sprintf("The cluster port cannot listen on %q: %v", address, err),
		"Free the port, or choose another with cluster.listen")
}

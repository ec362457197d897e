package cluster

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"wispgate/edge"
)

// removal is written down beside the log of a node once a member that it trusts, or its own record, has said that it was removed: it knows so after a
// restart too, and when nobody answers any more. Else it would accept again what can never arrive.
type removal struct {
	By string    `json:"by"` // the member; the node itself where its own record said so
	At time.Time `json:"at"`
}

const removalFile = "removed.json"

// Expelled is why nothing that this node takes would ever reach the cluster: a member that it trusts has said that it was removed, or its own record
// says so, and since then it has heard no leader. nil: it was not, as far as it knows.
func (n *Node) Expelled() error {
	if !n.removed() || n.Contact() {
		return nil
	}
	return ErrPeerGone.Error(edge.Unavailable)
}

func (n *Node) removed() bool { return n.gone.Load() || n.recordedRemoved() }

// recordedRemoved says whether this node is removed by its own record, which it got before the leader let go of it.
func (n *Node) recordedRemoved() bool {
	p, ok := n.conf.Directory.Peer(n.conf.NodeID)
	return ok && p.Status == Removed
}

// NotedRemoved says whether the node of a folder has written down that it was removed. Nothing but a removal is ever written there, so what cannot be
// read is one.
func NotedRemoved(dir string) (bool, error) {
	var r removal
	err := readNote(dir, removalFile, &r)
	return err != nil || r.By != "", err
}

// recallRemoval takes up what an earlier run wrote down.
func (n *Node) recallRemoval() {
	noted, err := NotedRemoved(n.conf.Dir)
	if err != nil {
		n.log.Error("the note that this node was removed cannot be read: it counts until a leader is heard", "error", err)
	}
	n.gone.Store(noted)
}

// expel keeps in mind that a member, or this node's own record, has said that it was removed.
func (n *Node) expel(by string) {
	n.goneMu.Lock()
	defer n.goneMu.Unlock()
	if n.Contact() { // as after a recovery by another: this side goes on
		return
	}
	if !n.gone.Swap(true) {
		n.log.Error("this node was removed from the cluster: it accepts nothing any more", "by", by)
	}
	if _, err := os.Stat(filepath.Join(n.conf.Dir, removalFile)); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	raw, err := json.Marshal(removal{By: by, At: n.conf.Now().UTC()})
	if err == nil {
		err = writeAtomic(n.conf.Dir, removalFile, raw)
	}
	if err != nil {
		n.log.Error("that this node was removed is not written down yet", "error", err)
	}
}

// readmit takes that back on a node that leads or hears a leader: its side goes on. Where its own record says that it was removed, that leader
// has only not let go of it yet.
func (n *Node) readmit() {
	n.goneMu.Lock()
	defer n.goneMu.Unlock()
	if !n.gone.Load() || n.recordedRemoved() || !n.Contact() {
		return
	}
	if err := forgetRemoval(n.conf.Dir); err != nil {
		n.log.Error("the note that this node was removed stays", "error", err)
		return
	}
	n.gone.Store(false)
	n.log.Warn("this node hears a leader again, and is not removed any more")
}

func forgetRemoval(dir string) error {
	if err := os.Remove(filepath.Join(dir, removalFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

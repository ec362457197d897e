package cluster

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// refused fails unless a node says that it was removed, after it has asked its voters once more.
func (f *flock) refused(b *bird, when string) {
	f.t.Helper()
	was := b.asked()
	f.until(b.name+" has asked once more", func() bool {
		b.node.Around(within(f.t, 5*time.Second))
		return b.asked() > was
	})
	if !b.node.Status().Removed || code(b.node.Expelled()) != ErrPeerGone.Code {
		f.t.Errorf("%s has forgotten that it was removed: %s\n%s", b.name, when, f.state())
	}
}

// asked is when a node that hears no leader last asked its voters.
func (b *bird) asked() time.Duration {
	b.node.picture.mu.Lock()
	defer b.node.picture.mu.Unlock()
	return b.node.picture.asked
}

func (b *bird) noted() bool {
	_, err := os.Stat(filepath.Join(b.logDir(), removalFile))
	return err == nil
}

func (f *flock) hears(b *bird) {
	f.t.Helper()
	f.until(b.name+" hears that it was removed", func() bool { return b.node.Expelled() != nil && b.noted() })
}

// Whoever forgot it with a restart would accept what never arrives. Only who begins anew with it is no longer bound.
func TestARemovedNodeRemembersThatItWas(t *testing.T) {
	f := three(t, nil)
	f.settled()
	left := f.bird(f.others(f.leader().name)[0])
	check(t, f.do("sync.node.remove", Removal{Node: left.name}))
	f.hears(left)
	f.wires.Part(left.name, f.names()...)
	f.refused(left, "cut off")
	left.down()
	left.up()
	if left.node.Expelled() == nil {
		t.Error("it accepts writes from its start until it has asked")
	}
	f.refused(left, "started while it is cut off")
	left.down()
	delete(f.birds, left.name)
	_, err := left.recover()
	check(t, err)
	if left.noted() {
		t.Error("one that begins anew still takes itself for removed")
	}
	left.up()
	t.Cleanup(left.down)
	check(t, left.node.WaitLeader(within(t, time.Minute)))
	check(t, left.write(within(t, 10*time.Second), "w1", "k", "anew"))
	f.until("it is a member by its record as well", func() bool { p, _ := left.members.Peer(left.name); return p.Status == Joined })
	if left.node.removed() || left.node.Status().Removed {
		t.Errorf("the only node says that it was removed: %+v", left.node.Status())
	}
}

// The leader that removes itself knows by its log of those only that went on: once these are silent there is nobody whom it could ask.
func TestARemovedLeaderRemembersThatItWas(t *testing.T) {
	f := three(t, nil)
	f.settled()
	lead := f.leader()
	first, last := f.bird(f.others(lead.name)[0]), f.bird(f.others(lead.name)[1])
	check(t, f.do("sync.node.remove", Removal{Node: first.name}))
	f.until("two voters", func() bool { return len(f.leader().node.Status().Voters) == 2 })
	first.down()
	lead = f.leader()
	if lead == last {
		last = f.bird(f.others(lead.name)[0])
	}
	check(t, f.do("sync.node.remove", Removal{Node: lead.name}))
	f.hears(lead)
	last.down()
	f.refused(lead, "nobody answers any more")
}

// What is not readable was a removal: nothing else is written there.
func TestADamagedNoteOfARemovalCounts(t *testing.T) {
	f := newFlock(t, nil)
	b := f.found("n1")
	b.down()
	check(t, os.WriteFile(filepath.Join(b.logDir(), removalFile), []byte("\x00\x00"), 0o600))
	n := &Node{conf: b.config(), log: slog.New(slog.DiscardHandler)}
	n.recallRemoval()
	if !n.removed() {
		t.Error("it does not count")
	}
	b.up()
	check(t, b.node.WaitLeader(within(t, time.Minute)))
	f.until("it is taken back by a node that leads", func() bool { return !b.noted() && !b.node.removed() })
}

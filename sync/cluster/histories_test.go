package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"
)

// meets waits until a node shows another history.
func (f *flock) meets(b *bird, other, incarnation string) {
	f.t.Helper()
	f.until(b.name+" has met "+other, func() bool {
		return slices.ContainsFunc(b.node.Status().Histories, func(h History) bool { return h.Node == other && h.Incarnation == incarnation })
	})
}

// The voter of a pair comes back after its replica was recovered, with a CA of its own: both are at work, and both say so.
func TestBothSidesSayThatAnotherHistoryIsAtWork(t *testing.T) {
	f := newFlock(t, nil)
	old := f.found("n1")
	f.grow(Replica, "n2")
	f.settledAt(f.bird("n2"))
	left := f.bird("n2")
	old.down()
	left.down()
	_, err := left.recover()
	check(t, err)
	left.up()
	f.until("it leads alone", func() bool { return left.node.IsLeader() && len(left.members.Peers()) == 1 })
	if h := left.node.Histories(); len(h) > 0 {
		t.Errorf("before the other is back: %+v", h)
	}
	old.up()
	check(t, old.node.WaitLeader(within(t, time.Minute)))
	f.meets(old, "n2", "i2")
	f.meets(left, "n1", "i1")
	for b, other := range map[*bird]string{old: "n2", left: "n1"} {
		f.until("the event is made at "+b.name, func() bool {
			b.node.meetings.mu.Lock()
			defer b.node.meetings.mu.Unlock()
			return b.node.meetings.told[other] != ""
		})
		if !b.node.IsLeader() || b.node.Expelled() != nil {
			t.Errorf("%s does not lead its own side any more: %+v", b.name, b.node.Status())
		}
	}
}

// Two of three voters come back after the third was recovered. It has kept the CA; the one of the two that does not lead hears it from its leader.
func TestAMajorityThatComesBackAfterARecoverySaysSo(t *testing.T) {
	f := three(t, nil)
	f.settled()
	for _, b := range f.birds {
		b.down()
	}
	left := f.bird("n3")
	_, err := left.recover()
	check(t, err)
	left.up()
	f.until("it leads alone", func() bool { return left.node.IsLeader() && len(left.members.Peers()) == 1 })
	f.bird("n1").up()
	f.hears(f.bird("n1"))
	if h := left.node.Histories(); len(h) > 0 {
		t.Errorf("one that hears no leader is no history: %+v", h)
	}
	f.bird("n2").up()
	for _, name := range []string{"n1", "n2"} {
		f.meets(f.bird(name), "n3", "i2")
	}
	f.until("n3 has met one of them", func() bool {
		h := left.node.Histories()
		return len(h) > 0 && h[0].Incarnation == "i1" && h[0].Leader != ""
	})
	f.until("n1, which hears a leader of its side, takes back that it is removed", func() bool { return !f.bird("n1").noted() && !f.bird("n1").node.removed() })
}

// Nobody is taken for another history who cannot prove to be a member, and no member of one that this node has not left.
func TestAnotherHistoryIsProved(t *testing.T) {
	f := newFlock(t, nil)
	f.found("n1")
	f.grow(Replica, "n2")
	left, old := f.bird("n2"), f.bird("n1")
	f.settledAt(left)
	old.down()
	left.down()
	_, err := left.recover()
	check(t, err)
	left.up()
	f.until("it goes on alone", func() bool { return left.node.IsLeader() && len(left.members.Peers()) == 1 })
	creds, now := left.node.conf.Credentials, time.Now()
	ca, err := LoadCredentials(old.keysDir(), "c1", "n1") // with the key of the old CA
	check(t, err)
	stranger, err := MakeCredentials(t.TempDir(), "c1", "n1", now)
	check(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	for name, tc := range map[string]struct {
		node   string
		key    *ecdsa.PrivateKey
		signer *Credentials
		told   bool
	}{
		"a member that was left behind":         {"n1", ca.key, ca, true},
		"its name, another key":                 {"n1", key, ca, false},
		"its name and key, a stranger's CA":     {"n1", ca.key, stranger, false},
		"a node that was none, by the old CA":   {"n7", key, ca, false},
		"the one that goes on, by the old CA":   {"n2", creds.key, ca, false},
		"a member that was left, by the new CA": {"n1", ca.key, creds, true},
	} {
		leaf, err := tc.signer.issue(tc.node, tc.key.Public(), now)
		check(t, err)
		if _, _, err := creds.verify([]*x509.Certificate{leaf}, left.members, now); errors.Is(err, errExpelled) != tc.told || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// As the other side sees it: whoever answers in place of n2 needs n2's key.
	members := NewDirectory()
	check(t, members.load(old.logDir()))
	for name, tc := range map[string]struct {
		node   string
		key    *ecdsa.PrivateKey
		signer *Credentials
		apart  bool
	}{
		"n2 with its new CA": {"n2", creds.key, creds, true}, "n2 with the old CA": {"n2", creds.key, ca, false},
		"another key": {"n2", key, creds, false}, "another name": {"n1", creds.key, creds, false},
	} {
		leaf, err := tc.signer.issue(tc.node, tc.key.Public(), now)
		check(t, err)
		if got := ca.apart([]*x509.Certificate{leaf}, members, "n2"); got != tc.apart {
			t.Errorf("%s: apart is %v", name, got)
		}
	}
	for name, said := range map[string]string{
		"of its own history": `{"incarnation":"i2","leader":"n1"}`, "of one it never left": `{"incarnation":"i9","leader":"n1"}`,
		"without a leader": `{"incarnation":"i1"}`, "nonsense": `[`,
	} {
		if _, err := left.node.serveMeet("n1", []byte(said)); err == nil && len(left.node.Histories()) > 0 {
			t.Errorf("%s: %+v", name, left.node.Histories())
		}
	}
	if _, err := left.node.serveMeet("n1", []byte(`{"incarnation":"i1","leader":"n1"}`)); err != nil || len(left.node.Histories()) != 1 {
		t.Errorf("got %v, %+v", err, left.node.Histories())
	}
}

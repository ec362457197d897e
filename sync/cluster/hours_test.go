package cluster

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"wispgate/edge/edgetest/bubble"
)

// TestAnHourOfAWANCluster runs three nodes with the WAN profile, all of them from TLS to the store, in a bubble of time of its own: an hour
// passes in seconds. A node that was cut off does not depose anybody when it returns, leadership moves when its holder is cut off, and
// fails over within the time promised. With -short the hour is a quarter of one.
func TestAnHourOfAWANCluster(t *testing.T) {
	silence := time.Hour
	if testing.Short() {
		silence = time.Hour / 4
	}
	bubble.Test(t, func(t *testing.T) {
		f := &flock{t: t, dir: t.TempDir(), wires: newWires(), clock: time.Now, patience: 10 * time.Minute, birds: map[string]*bird{}, conf: func(c *Config) {
			c.Timeouts, c.Pace = Timeouts{}, Pace{}
			c.Peers, _ = Profile("wan")
		}}
		defer func() {
			f.close()
			time.Sleep(time.Minute) // what was about to end ends
		}()
		f.found("n1")
		f.grow(Voter, "n2", "n3")
		l := f.leader()
		f.put("w0", "k", "first")
		moves := l.node.Status().LeaderMoves

		away := f.bird(f.others(l.name)[0])
		f.wires.Part(away.name, f.names()...)
		time.Sleep(silence)
		p, _ := l.members.Peer(away.name)
		if p.LostAt == nil {
			t.Error("a node that was silent for long does not count as lost")
		}
		f.put("w1", "k", "while it was away")
		f.wires.Heal()
		f.until("it is back", func() bool { p, _ := l.members.Peer(away.name); return p.LostAt == nil && away.node.Contact() })
		if got := l.node.Status(); got.State != "leader" || got.LeaderMoves != moves {
			t.Errorf("its return moved leadership: %+v", got)
		}
		f.settled()

		f.wires.Part(l.name, f.names()...)
		begun := time.Now()
		f.until("another leads", func() bool { n := f.leader(); return n != l })
		if took := time.Since(begun); took > 2*6*time.Second {
			t.Errorf("failover took %s", took)
		}
		if err := l.node.Linearize(t.Context()); !errors.Is(err, ErrQuorumLost) {
			t.Errorf("a leader that was cut off reads: %v", err)
		}
		f.put("w2", "k", "under another")
		f.wires.Heal()
		f.settled()

		t.Log(fmt.Sprint("octets on the wires: ", f.wires.octets.Load()))
	})
}

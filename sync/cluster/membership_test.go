package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/exec"
	"wispgate/edge/store"
)

func TestATokenLetsOneNodeInOnceWithinItsTime(t *testing.T) {
	f := newFlock(t, nil)
	f.found("n1")
	tok := f.invite(Replica, "")

	if _, err := f.bird("x1").join("wgjoin1.AAAA"); code(err) != "token_wrong" {
		t.Errorf("a token of no form: got %v", err)
	}
	forged, err := parseToken(tok)
	check(t, err)
	forged.Secret = "00000000000000000000000000000000"
	if _, err := f.bird("x2").join(forged.String()); code(err) != "token_wrong" {
		t.Errorf("another secret: got %v", err)
	}
	forged, _ = parseToken(tok)
	forged.CA = fmt.Sprintf("%064d", 0)
	if _, err := f.bird("x3").join(forged.String()); code(err) != "cluster_unproved" {
		t.Errorf("another CA: got %v", err)
	}

	_, err = f.bird("n2").join(tok)
	check(t, err)
	if _, err := f.bird("x4").join(tok); code(err) != "token_used" {
		t.Errorf("a second use: got %v", err)
	}
	if _, err := f.bird("n2").join(tok); code(err) != "cluster_exists" {
		t.Errorf("a folder that holds a cluster: got %v", err)
	}
	f.bird("n2").up()
	f.until("n2 follows", func() bool { p, _ := f.leader().members.Peer("n2"); return p.Status == Joined })

	// The same node name from another machine.
	other := f.bird("n5")
	other.name = "n2"
	if _, err := other.join(f.invite(Replica, "")); code(err) != "node_exists" {
		t.Errorf("a name that is taken: got %v", err)
	}
	delete(f.birds, "n5")

	late := f.invite(Replica, "")
	now := f.clock
	f.clock = func() time.Time { return now().Add(time.Hour) }
	f.bird("n1").down()
	f.bird("n1").up() // with a clock that is an hour on
	if _, err := f.bird("x6").join(late); code(err) != "token_expired" {
		t.Errorf("a token that has expired: got %v", err)
	}
}

// TestAFirstAttemptThatWasNotAnsweredHoldsForTheSecond breaks the connection between the admission and its answer.
func TestAFirstAttemptThatWasNotAnsweredHoldsForTheSecond(t *testing.T) {
	f := newFlock(t, nil)
	f.found("n1")
	tok := f.invite(Voter, "")
	b := f.bird("n2")
	b.openVault()
	j := Joiner{
		Token: tok, Node: b.name, Advertise: b.advert, Dir: b.logDir(), CredentialsDir: b.keysDir(), Vault: b.vault,
		Network: f.wires.as(b.name), Now: f.clock,
	}
	broken := errors.New("the power went")
	if _, err := j.Join(within(t, time.Minute), func(Welcome) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if exists, err := Exists(b.logDir()); err != nil || exists {
		t.Fatalf("a half join counts: %v, %v", exists, err)
	}
	_, err := b.join(tok)
	check(t, err)
	b.up()
	f.until("n2 votes", func() bool { p, _ := f.leader().members.Peer("n2"); return p.Voter })
}

// muteNetwork lets nothing of the first answer through, and ends the connection once the question has been acted on.
type muteNetwork struct {
	Network
	acted <-chan struct{}
	dials atomic.Int32
	gone  bool // after the first dial
}

func (n *muteNetwork) Dial(ctx context.Context, address string) (net.Conn, error) {
	first := n.dials.Add(1) == 1
	if !first && n.gone {
		return nil, errors.New("connection refused")
	}
	conn, err := n.Network.Dial(ctx, address)
	if err == nil && first {
		conn = &muteConn{Conn: conn, acted: n.acted}
	}
	return conn, err
}

type muteConn struct {
	net.Conn
	writes atomic.Int32
	acted  <-chan struct{}
}

func (c *muteConn) Write(b []byte) (int, error) { c.writes.Add(1); return c.Conn.Write(b) }

func (c *muteConn) Read(b []byte) (int, error) {
	if c.writes.Load() < 2 { // the handshake: a hello, and the end
		return c.Conn.Read(b)
	}
	<-c.acted
	return 0, io.ErrUnexpectedEOF
}

// TestAnAnswerThatIsLostIsAskedForAgain loses the answer to a node that was let in.
func TestAnAnswerThatIsLostIsAskedForAgain(t *testing.T) {
	f := newFlock(t, nil)
	lead := f.found("n1")
	b := f.bird("n2")
	b.openVault()
	acted := make(chan struct{})
	lossy := &muteNetwork{Network: f.wires.as(b.name), acted: acted}
	j := Joiner{
		Token: f.invite(Replica, ""), Node: b.name, Advertise: b.advert, Dir: b.logDir(), CredentialsDir: b.keysDir(), Vault: b.vault,
		Network: lossy, Now: f.clock,
	}
	ctx := within(t, time.Minute)
	var w Welcome
	var err error
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		w, err = j.Join(ctx, func(Welcome) error { return nil })
	}()
	f.until("n2 is let in", func() bool { p, ok := lead.members.Peer("n2"); return ok && p.Status == Joining })
	close(acted)
	<-joined
	check(t, err)
	if lossy.dials.Load() != 2 || w.Role != Replica {
		t.Errorf("let in as %q after asking %d times, want a replica after 2", w.Role, lossy.dials.Load())
	}
}

// TestAnAnswerThatIsLostIsNoRefusal has the cluster go out of reach after a question that it may have acted on: the node must keep its key.
func TestAnAnswerThatIsLostIsNoRefusal(t *testing.T) {
	f := newFlock(t, nil)
	f.found("n1")
	b := f.bird("n2")
	b.openVault()
	tok, acted := f.invite(Replica, ""), make(chan struct{})
	close(acted)
	_, err := Joiner{
		Token: tok, Node: b.name, Advertise: b.advert, Dir: b.logDir(), CredentialsDir: b.keysDir(), Vault: b.vault,
		Network: &muteNetwork{Network: f.wires.as(b.name), acted: acted, gone: true}, Now: f.clock,
	}.Join(within(t, time.Minute), func(Welcome) error { return nil })
	if !errors.Is(err, ErrUnanswered) {
		t.Errorf("got %v", err)
	}
	_, err = b.join(tok)
	check(t, err)
}

// TestALoneNodeTakesWritesWhileItGrows has the time-outs of a cluster be longer than anybody's patience: the lone node begins its log anew
// with them when the first other joins, and whoever writes at that moment waits a little and is not refused.
func TestALoneNodeTakesWritesWhileItGrows(t *testing.T) {
	f := newFlock(t, func(c *Config) { c.Peers.Heartbeat, c.Peers.Election = 20*time.Second, 20*time.Second })
	b := f.found("n1")
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			if err := b.write(within(t, 10*time.Second), fmt.Sprint("w", i), "k", "v"); err != nil {
				t.Errorf("write %d: %v", i, err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	f.grow(Replica, "n2")
	close(done)
	<-ended
	f.settled()
}

func TestOnlyTheOperatorManagesTheCluster(t *testing.T) {
	f := newFlock(t, nil)
	b := f.found("n1")
	ctx := within(t, time.Minute)
	admin := edge.Actor{Tenant: "acme", Subject: "cli_1", Scopes: []string{"all:read", "all:write"}}
	for op, in := range map[string]any{
		"sync.invitation.create": NewInvitation{}, "sync.node.promote": PeerRef{"n1"}, "sync.node.demote": Demotion{Node: "n1"},
		"sync.node.remove": Removal{Node: "n1"}, "sync.node.lead": Transfer{Node: "n1"}, "sync.node.repair": PeerRef{"n1"},
		"sync.node.update": PeerChange{Node: "n1"}, "sync.check.start": edge.None{},
		"sync.node.register": b.node.registration(), "sync.node.announce": b.node.registration(), "sync.node.settle": Settled{Node: "n1", Removed: "x"},
		"sync.node.recover": Survivors{Nodes: []string{"n2"}}, "sync.node.admit": Admission{Registration: b.node.registration()},
	} {
		if _, err := edge.Do(ctx, b.exec, admin, "", op, in); code(err) != "cluster_operator_only" {
			t.Errorf("%s for a tenant's administrator: got %v", op, err)
		}
	}
	for _, op := range []string{"sync.node.register", "sync.node.announce", "sync.node.settle", "sync.node.recover", "sync.node.admit", "sync.history.meet"} {
		var in any = b.node.registration()
		switch op {
		case "sync.node.settle":
			in = Settled{Node: "n1", Removed: "x"}
		case "sync.node.recover":
			in = Survivors{Nodes: []string{"n2"}}
		case "sync.history.meet":
			in = MetHistory{"n1", "i2"}
		}
		if _, err := edge.Do(ctx, b.exec, operator, "", op, in); code(err) != "cluster_operator_only" {
			t.Errorf("%s, the cluster's own, for the operator: got %v", op, err)
		}
	}
	for _, op := range []string{"sync.node.list", "sync.invitation.list", "sync.check.list"} {
		if _, _, err := b.exec.Ask(ctx, admin, op, nil, 0); code(err) != "cluster_operator_only" {
			t.Errorf("%s for a tenant's administrator: got %v", op, err)
		}
	}
}

func TestWhatWouldBreakTheQuorumIsRefused(t *testing.T) {
	f := newFlock(t, nil)
	f.found("n1")
	if err := f.do("sync.node.remove", Removal{Node: "n1", Force: true}); code(err) != "last_voter" {
		t.Errorf("the last voter, by force: got %v", err)
	}
	if err := f.do("sync.node.remove", Removal{Node: "nobody"}); code(err) != "node_unknown" {
		t.Errorf("nobody: got %v", err)
	}
	f.grow(Voter, "n2", "n3")
	dead := "n3"
	if f.leader().name == dead {
		dead = "n2"
	}
	f.bird(dead).down()
	f.until("the leader misses "+dead, func() bool { return len(f.leader().node.wellVoters()) == 2 })
	alive := "n1"
	if f.leader().name == alive {
		alive = map[string]string{"n3": "n2", "n2": "n3"}[dead]
	}
	for op, in := range map[string]any{"sync.node.remove": Removal{Node: alive}, "sync.node.demote": Demotion{Node: alive}} {
		if err := f.do(op, in); code(err) != "quorum_at_risk" {
			t.Errorf("%s of a voter that is needed: got %v", op, err)
		}
	}
	check(t, f.do("sync.node.remove", Removal{Node: dead}))
	f.until("the dead node is out", func() bool { return len(f.leader().node.Status().Voters) == 2 })
	if err := f.do("sync.node.promote", PeerRef{dead}); code(err) != "node_removed" {
		t.Errorf("a node that was removed: got %v", err)
	}
	f.put("w", "k", "two are a majority of two")
	f.settled()
}

// To be filled anew a node gives its vote away. Where the others that are well would be no majority, that would stop the cluster.
func TestARepairThatWouldBreakTheQuorumIsRefused(t *testing.T) {
	f := three(t, nil)
	f.put("w1", "k", "v")
	f.settled()
	away := f.others(f.leader().name)
	f.bird(away[0]).down()
	f.until("the leader misses it", func() bool { return len(f.leader().node.wellVoters()) == 2 })
	if err := f.do("sync.node.repair", PeerRef{away[1]}); code(err) != ErrQuorumRisk.Code {
		t.Errorf("got %v, want %s", err, ErrQuorumRisk.Code)
	}
	if err := f.leader().write(within(t, 10*time.Second), "w2", "k", "v2"); err != nil {
		t.Errorf("the cluster takes no write any more: %v", err)
	}
}

func TestARemovedNodeIsRefusedAndItsConnectionsEnd(t *testing.T) {
	f := three(t, nil)
	f.grow(Replica, "n4")
	gone := f.bird("n4")
	f.settled() // it knows whom it would ask
	f.until("it is answered while it belongs", func() bool {
		_, err := gone.node.Call(within(t, time.Second), "", methodReadIndex, nil)
		return err == nil
	})
	check(t, f.do("sync.node.remove", Removal{Node: "n4"}))
	f.until("n4 is refused by all", func() bool {
		for _, to := range []string{"n1", "n2", "n3"} {
			if _, err := gone.node.Call(within(t, time.Second), to, methodStats, nil); err == nil {
				return false
			}
		}
		return !gone.node.Contact()
	})
	f.until("n4 says that it was removed", func() bool { return gone.node.Status().Removed && code(gone.node.Expelled()) == "node_expelled" })
	for _, name := range []string{"n1", "n2", "n3"} {
		if conn, err := gone.node.port.dial(within(t, 5*time.Second), name, protoRaft, anyAge); err == nil {
			// TLS 1.3 tells the client after its handshake.
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err = conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s lets a removed node in: %v", name, err)
			}
			conn.Close()
		}
		for _, method := range []string{methodStats, methodReadIndex, MethodIntent, methodRenew, methodCAKey} {
			if _, err := gone.node.Call(within(t, 5*time.Second), name, method, nil); code(err) != "node_expelled" && code(err) != "quorum_lost" {
				t.Errorf("%s answers a removed node's %s: %v", name, method, err)
			}
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	f := newFlock(t, nil)
	b := f.found("n1")
	other, err := MakeCredentials(t.TempDir(), "c1", "n1", time.Now()) // the right names, another CA
	check(t, err)
	var forged tls.Certificate
	{ // the cluster's CA, but for a node that no record names
		leaf, err := b.node.conf.Credentials.issue("n9", other.key.Public(), time.Now())
		check(t, err)
		forged = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: other.key}
	}
	var stolen tls.Certificate
	{ // the cluster's CA and a member's name, but not the key its record pins
		leaf, err := b.node.conf.Credentials.issue("n1", other.key.Public(), time.Now())
		check(t, err)
		stolen = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: other.key}
	}
	for name, cert := range map[string]*tls.Certificate{
		"no certificate": nil, "another CA": other.certificate(), "no member": &forged, "another key": &stolen,
	} {
		for _, proto := range []string{protoRaft, protoRPC, "http/1.1"} {
			raw, err := f.wires.as("x").Dial(within(t, time.Minute), b.advert)
			check(t, err)
			conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}}
			if cert != nil {
				conf.Certificates = []tls.Certificate{*cert}
			}
			conn := tls.Client(raw, conf)
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			if err = conn.Handshake(); err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s by %s: got in (%v)", name, proto, err)
			}
			conn.Close()
		}
	}
}

func TestAnExpiredCertificateRenewsItselfEvenAfterAYear(t *testing.T) {
	f := newFlock(t, nil)
	b := f.found("n1")
	f.grow(Replica, "n2")
	r := f.bird("n2")
	was := r.node.conf.Credentials.Leaf()
	r.down()
	b.down()
	// Everything was off for a year: the leader signs its own, the replica asks for one with what it has.
	f.clock = func() time.Time { return time.Now().AddDate(1, 0, 0) }
	b.up()
	check(t, b.node.WaitLeader(within(t, time.Minute)))
	r.up()
	f.until("the replica has a new certificate and follows", func() bool {
		p, ok := b.members.Peer("n2")
		return r.node.conf.Credentials.Leaf().NotAfter.After(was.NotAfter) && ok && p.Serial == r.node.conf.Credentials.Leaf().SerialNumber.Text(16) &&
			r.machine.Version() == b.machine.Version()
	})
	if r.node.conf.Credentials.Fingerprint() != keyFingerprint(was.PublicKey) {
		t.Error("the renewed certificate has another key")
	}
}

// TestANodeWhoseClockStoodStillRenewsWhatTheOthersRefuse lets a replica come back after two months with the clock of two months ago: a board
// without a battery, whose time server is behind the very link. By its own clock its certificate is fresh.
func TestANodeWhoseClockStoodStillRenewsWhatTheOthersRefuse(t *testing.T) {
	f := newFlock(t, func(c *Config) {
		if c.NodeID == "n2" {
			c.Now = time.Now
		}
	})
	f.found("n1")
	f.grow(Replica, "n2")
	b, r := f.bird("n1"), f.bird("n2")
	f.until("the replica is a member", func() bool { p, ok := r.members.Peer("n2"); return ok && p.Status == Joined })
	r.down()
	b.down()
	f.clock = func() time.Time { return time.Now().AddDate(0, 2, 0) }
	b.up()
	check(t, b.node.WaitLeader(within(t, time.Minute)))
	f.put("w1", "k", "v")
	r.up()
	f.until("the replica follows", func() bool { return r.machine.Version() == b.machine.Version() })
}

// TestGrace holds what an expired certificate is good for.
func TestGrace(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	c, err := MakeCredentials(t.TempDir(), "c1", "n1", now)
	check(t, err)
	d := NewDirectory()
	d.noted = map[string]Peer{"n1": {Node: "n1", Status: Joined, Fingerprint: c.Fingerprint()}}
	chain := c.certificate().Leaf
	for name, tt := range map[string]struct {
		at      time.Time
		expired bool
	}{
		"fresh":                        {now, false},
		"before it begins":             {now.AddDate(-30, 0, 0), false},
		"after its end":                {now.Add(certLife + time.Hour), false},
		"at the end of the grace":      {now.Add(certLife + certGrace - time.Minute), false},
		"after the grace":              {now.Add(certLife + certGrace + time.Hour), true},
		"when everything lay for long": {now.AddDate(9, 0, 0), true},
	} {
		who, expired, err := c.verify([]*x509.Certificate{chain}, d, tt.at)
		if err != nil || who != "n1" || expired != tt.expired {
			t.Errorf("%s: got %s, %v, %v", name, who, expired, err)
		}
	}
	d.noted["n1"] = Peer{Node: "n1", Status: Removed, Fingerprint: c.Fingerprint()}
	if _, _, err := c.verify([]*x509.Certificate{chain}, d, now); err == nil {
		t.Error("a removed node is verified")
	}
}

func TestAnAddressChangesByItsRecord(t *testing.T) {
	f := three(t, nil)
	b := f.bird("n3")
	if f.leader() == b {
		check(t, f.do("sync.node.lead", Transfer{Node: "n1"}))
		f.until("n1 leads", func() bool { return f.leader().name == "n1" })
	}
	b.down()
	b.advert = "n3:9999"
	b.up()
	f.until("all know the new address", func() bool {
		for _, name := range []string{"n1", "n2"} {
			if p, _ := f.bird(name).members.Peer("n3"); p.Address != "n3:9999" {
				return false
			}
		}
		return true
	})
	f.put("w", "k", "v")
	f.settled()
	for _, s := range servers(f.leader().node.current().raft) {
		if string(s.ID) != string(s.Address) {
			t.Errorf("raft's configuration holds an address: %v", s)
		}
	}
}

// What a node says of its new address cannot be committed while nobody leads, and nobody can lead before the others reach it there.
func TestAFollowerThatMovedWhileTheQuorumWasLostIsFound(t *testing.T) {
	f := three(t, nil)
	f.leadAt("n2")
	f.bird("n3").down()
	f.put("w", "k", "n3 misses this") // so n2 alone can be elected of the two
	f.bird("n1").down()
	f.until("n2 leads no more", func() bool { return !f.bird("n2").node.Contact() })
	f.move("n3", "n3:9999")
	f.until("n2 leads and knows the new address", func() bool {
		p, _ := f.bird("n2").members.Peer("n3")
		return f.bird("n2").node.IsLeader() && p.Address == "n3:9999"
	})
	f.put("w2", "k", "v")
	if at := f.bird("n2").members.addresses("n3"); len(at) != 1 || at[0] != "n3:9999" {
		t.Errorf("with the record in place n3 is sought at %v", at)
	}
}

// Where all have moved, nobody knows anybody: one that is reached at its old address as well, for as long as it takes, brings them together.
func TestNodesThatAllMovedMeetAtOneOldAddress(t *testing.T) {
	f := three(t, nil)
	f.leadAt("n1")
	for name := range f.birds {
		f.bird(name).down()
	}
	for name := range f.birds {
		f.move(name, name+":9999")
	}
	f.until("n2 says where it has sought the others", func() bool {
		n2 := f.bird("n2").node
		n2.Around(within(t, 10*time.Second))
		st := n2.Status()
		says, fix := st.Away(Absence{Now: f.clock()})
		return strings.Contains(says, "n1:7846") && strings.Contains(says, "n3:7846") && strings.Contains(fix, "old address") && st.Advertise == "n2:9999"
	})
	f.wires.Alias("n3:7846", "n3:9999")
	f.until("all know the new addresses", func() bool {
		for _, b := range f.birds {
			for name := range f.birds {
				if p, _ := b.members.Peer(name); p.Address != name+":9999" {
					return false
				}
			}
		}
		return true
	})
	f.wires.Alias("n3:7846", "")
	f.put("w", "k", "v")
	f.settled()
}

// Or an operator tells one of them where the others are.
func TestNodesThatAllMovedMeetWhereAnOperatorSays(t *testing.T) {
	f := three(t, nil)
	f.leadAt("n1")
	for name := range f.birds {
		f.bird(name).down()
	}
	for name := range f.birds {
		f.move(name, name+":9999")
	}
	n2 := f.bird("n2").node
	for _, wrong := range []struct{ node, address, code string }{
		{"n9", "n1:9999", "node_unknown"}, {"n2", "n2:9999", "node_unknown"}, {"n1", "n1", "input_invalid"}, {"n1", "n3:9999", "node_not_there"}, {"n1", "n1:1", "node_not_there"},
	} {
		if err := n2.Find(within(t, 10*time.Second), wrong.node, wrong.address); code(err) != wrong.code {
			t.Errorf("%s at %s: got %v, want %s", wrong.node, wrong.address, err, wrong.code)
		}
	}
	check(t, n2.Find(within(t, 10*time.Second), "n1", "n1:9999"))
	check(t, n2.Find(within(t, 10*time.Second), "n3", "n3:9999"))
	f.put("w", "k", "v")
	f.until("all know the new addresses", func() bool {
		for _, b := range f.birds {
			for name := range f.birds {
				if p, _ := b.members.Peer(name); p.Address != name+":9999" {
					return false
				}
			}
		}
		return true
	})
	f.settled()
}

// Who is cut off from the leader alone is told by another who leads.
func TestAVoterThatIsCutOffFromTheLeaderAloneSaysWhoLeads(t *testing.T) {
	f := three(t, nil)
	f.leadAt("n1")
	f.wires.Part("n1", "n3")
	f.until("n3 names the leader", func() bool {
		n3 := f.bird("n3").node
		n3.Around(within(t, 10*time.Second))
		st := n3.Status()
		says, fix := st.Away(Absence{Now: f.clock()})
		return !st.Contact && strings.Contains(says, "reaches n2, which hears n1 lead") && strings.Contains(fix, "between this node and n1")
	})
}

// What is not in the record is believed of the member itself only, and for as long as the record says what it said then.
func TestAnAddressThatIsHeardOfStandsBesideTheRecord(t *testing.T) {
	d := NewDirectory()
	set := func(address string, status PeerStatus) {
		raw, err := json.Marshal(Peer{Meta: edge.Meta{ID: "nod_1"}, Node: "n1", Address: address, Status: status})
		check(t, err)
		d.apply(false, []edge.Change{{Tenant: edge.System, Table: peerTable.Name, ID: "nod_1", Val: raw}})
	}
	want := func(what string, addresses ...string) {
		t.Helper()
		if got := d.addresses("n1"); !slices.Equal(got, addresses) {
			t.Errorf("%s: sought at %v, want %v", what, got, addresses)
		}
	}
	d.heard("n1", "a:2")
	want("a stranger")
	set("a:1", Joined)
	want("nothing heard", "a:1")
	d.heard("n1", "a:2")
	d.heard("n1", "a:3")
	want("the last word", "a:3", "a:1")
	for _, wrong := range []string{"", "a", "0.0.0.0:1"} {
		d.heard("n1", wrong)
		want("no address", "a:3", "a:1")
	}
	set("a:1", Joined)
	want("another field of the record has changed", "a:3", "a:1")
	d.heard("n1", "a:1")
	want("it is back", "a:1")
	d.heard("n1", "a:2")
	set("a:4", Joined)
	set("a:1", Joined)
	want("the record has changed since", "a:1")
	d.heard("n1", "a:2")
	set("a:1", Removed)
	want("a removed one")
	if len(d.hints) != 0 {
		t.Errorf("kept of nobody: %v", d.hints)
	}
}

// Who answers elsewhere has to be the member that is sought, and a wrong word does not keep it from being found where the record says.
func TestAWrongAddressThatIsHeardOfDoesNoHarm(t *testing.T) {
	f := newFlock(t, nil)
	f.found("n1")
	f.grow(Replica, "n2", "n3")
	n1 := f.bird("n1")
	f.wires.Void("n2:1")
	for _, address := range []string{"n3:7846", "n2:1"} {
		n1.members.heard("n2", address)
		conn, err := n1.node.port.dial(within(t, 10*time.Second), "n2", protoRPC, strict)
		check(t, err)
		if to := conn.NetConn().(*wireConn).name; to != "n2:7846" {
			t.Errorf("with %s it reached %s", address, to)
		}
		check(t, conn.Close())
	}
	f.bird("n2").down()
	n1.members.heard("n2", "n3:7846")
	if _, err := n1.node.port.dial(within(t, 10*time.Second), "n2", protoRPC, strict); err == nil || !strings.Contains(err.Error(), "node n3 answers in place of n2") {
		t.Errorf("another member there: got %v", err)
	}
}

func TestADeadNodeIsReplacedInOneCommand(t *testing.T) {
	f := three(t, nil)
	if f.leader().name == "n3" {
		check(t, f.do("sync.node.lead", Transfer{Node: "n1"}))
		f.until("another leads", func() bool { return f.leader().name != "n3" })
	}
	f.bird("n3").down()
	delete(f.birds, "n3")
	_, err := f.bird("n4").join(f.invite("", "n3"))
	check(t, err)
	f.bird("n4").up()
	f.until("n4 has taken the place of n3", func() bool {
		l := f.leader()
		p, _ := l.members.Peer("n4")
		old, _ := l.members.Peer("n3")
		return p.Voter && old.Status == Removed && len(l.node.Status().Voters) == 3
	})
	f.settled()
}

// A node joins by a member whose leader dies before it has answered: by the next one, and long before the member gives up.
func TestANodeJoinsThoughTheLeaderDies(t *testing.T) {
	f := three(t, nil)
	f.settled()
	dies := f.leader()
	by := f.bird(f.others(dies.name)[0])
	reply, err := edge.Do(within(t, 10*time.Second), by.exec, operator, "", "sync.invitation.create", NewInvitation{})
	check(t, err)
	f.wires.Part(dies.name, f.names()...) // its connections stay open, and nothing comes back over them
	n4 := f.bird("n4")
	n4.openVault()
	_, err = Joiner{
		Token: reply.Once[0]["token"], Node: "n4", Site: "site-n4", Advertise: n4.advert, Version: "test", Dir: n4.logDir(), CredentialsDir: n4.keysDir(),
		Vault: n4.vault, Network: f.network("n4"), Now: f.clock,
	}.Join(within(t, joinTimeout-5*time.Second), func(Welcome) error { return nil })
	check(t, err)
}

// A node that is replaced while it lives keeps its place until it has handed over what it accepted alone: removed, it could not any more.
func TestAReplacedNodeHandsOverFirst(t *testing.T) {
	var waits atomic.Int64
	waits.Store(7)
	f := newFlock(t, func(c *Config) {
		if c.NodeID == "n2" {
			c.Pending = waits.Load
		}
	})
	f.found("n1")
	f.grow(Replica, "n2")
	f.until("the leader knows what waits", func() bool { g, _ := f.leader().node.picture.get("n2"); return g.Pending == 7 })
	_, err := f.bird("n3").join(f.invite("", "n2"))
	check(t, err)
	f.bird("n3").up()
	f.until("the new one is a member", func() bool { p, _ := f.leader().members.Peer("n3"); return p.Status == Joined })
	for range 10 { // looks of the leader
		if p, _ := f.leader().members.Peer("n2"); p.Status == Removed {
			t.Fatal("it was removed, and what it accepted is lost")
		}
		time.Sleep(50 * time.Millisecond)
	}
	waits.Store(0)
	f.until("it is removed", func() bool { p, _ := f.leader().members.Peer("n2"); return p.Status == Removed })
}

func TestADeadNodeIsRemovedWhereThePolicySaysSo(t *testing.T) {
	f := three(t, func(c *Config) { c.Pace.Lost, c.Pace.RemoveDead = 3*time.Second, 8*time.Second })
	f.grow(Replica, "n4")
	f.bird("n4").down()
	delete(f.birds, "n4")
	f.until("n4 is gone", func() bool { p, _ := f.leader().members.Peer("n4"); return p.Status == Removed })
	events, _, err := f.leader().exec.Events(edge.System, 0, 1<<20)
	check(t, err)
	seen := map[string]int{}
	for _, e := range events {
		seen[e.Type]++
	}
	for _, want := range []string{"sync.node.invited", "sync.node.joined", "sync.node.promoted", "sync.node.lost", "sync.node.removed"} {
		if seen[want] == 0 {
			t.Errorf("no event %s among %v", want, seen)
		}
	}
}

func TestLeadershipStaysWhereItIsPreferred(t *testing.T) {
	f := three(t, nil)
	check(t, f.do("sync.node.update", PeerChange{Node: "n2", Preferred: new(true)}))
	f.until("n2 leads", func() bool { return f.leader().name == "n2" })
	f.bird("n2").down()
	f.until("another leads", func() bool { return f.leader().name != "n2" })
	f.bird("n2").up()
	f.until("n2 leads again", func() bool { return f.leader().name == "n2" })
	check(t, f.do("sync.node.lead", Transfer{Node: "n3"}))
	f.until("n3 leads, because an operator asked", func() bool { return f.leader().name == "n3" })
	f.grow(Replica, "n4")
	if err := f.do("sync.node.update", PeerChange{Node: "n4", Preferred: new(true)}); code(err) != "node_no_voter" {
		t.Errorf("a replica, which never leads, is preferred: got %v", err)
	}
	check(t, f.do("sync.node.update", PeerChange{Node: "n4", Preferred: new(false)}))
	f.settled()
}

// An operator's wish that a node lead is met once and no more: what is asked of the node afterwards goes on, and it does not get the lead back.
func TestAWishThatANodeLeadsIsMetOnce(t *testing.T) {
	f := three(t, nil)
	for _, next := range []struct {
		op   string
		in   any
		done func(p Peer) bool
	}{
		{"sync.node.repair", Repair{Node: "n2"}, func(p Peer) bool { return p.RepairAt == nil && p.Voter }},
		{"sync.node.demote", Demotion{Node: "n2"}, func(p Peer) bool { return !p.Voter }},
	} {
		check(t, f.do("sync.node.lead", Transfer{Node: "n2"}))
		f.until("n2 leads", func() bool { return f.leader().name == "n2" })
		term := f.leader().node.Status().Term
		check(t, f.do(next.op, next.in))
		f.until(next.op+" is done", func() bool {
			p, _ := f.leader().members.Peer("n2")
			return next.done(p) && f.leader().name != "n2"
		})
		if moves := f.leader().node.Status().Term - term; moves > 20 {
			t.Errorf("%s took %d changes of leader", next.op, moves)
		}
	}
	if err := f.do("sync.node.lead", Transfer{Node: "n2"}); code(err) != ErrNotVoter.Code {
		t.Errorf("a replica is to lead: got %v", err)
	}
}

func TestANodeThatDoesNotAnswerIsNotToLead(t *testing.T) {
	f := three(t, nil)
	away := f.others(f.leader().name)[0]
	f.bird(away).down()
	if err := f.do("sync.node.lead", Transfer{Node: away}); code(err) != ErrSilent.Code {
		t.Errorf("got %v, want %s", err, ErrSilent.Code)
	}
	if p, _ := f.leader().members.Peer(away); p.LeadAt != nil {
		t.Errorf("the wish stands: %+v", p)
	}
}

func TestADemotedNodeLosesItsVoteAndTheKeyOfTheCA(t *testing.T) {
	f := three(t, nil)
	f.leader()
	check(t, f.do("sync.node.demote", Demotion{Node: f.leader().name})) // the leader itself: it hands over first
	f.until("two voters and a replica without the CA's key", func() bool {
		st := f.leader().node.Status()
		if len(st.Voters) != 2 || len(st.Others) != 1 {
			return false
		}
		return !f.bird(st.Others[0]).node.conf.Credentials.holdsCA()
	})
	replica := f.leader().node.Status().Others[0]
	check(t, f.do("sync.node.promote", PeerRef{replica}))
	f.until("three voters", func() bool {
		return len(f.leader().node.Status().Voters) == 3 && f.bird(replica).node.conf.Credentials.holdsCA()
	})
	f.settled()
}

// A node that was demoted may not have heard that it is to forget the key: it knew no leader at that moment, or the link was down. It is told
// until it has.
func TestAReplicaIsToldToForgetTheKeyOfTheCAUntilItHas(t *testing.T) {
	f := newFlock(t, nil)
	lead := f.found("n1")
	f.grow(Replica, "n2")
	key, err := lead.node.conf.Credentials.caKeyDER()
	check(t, err)
	replica := f.bird("n2").node.conf.Credentials
	check(t, replica.takeCAKey(key))
	f.until("the replica holds no key of the CA", func() bool { return !replica.holdsCA() })
	f.grow(Voter, "n3")
	f.until("the voter has it", func() bool { return f.bird("n3").node.conf.Credentials.holdsCA() })
	f.settled()
}

func TestANodeAmongOthersDoesNotStartWithoutItsPort(t *testing.T) {
	f := newFlock(t, nil)
	b := f.found("n1")
	f.grow(Replica, "n2")
	f.bird("n2").down()
	b.down()
	s, err := store.Open(store.Options{Dir: filepath.Join(b.dir, "store"), BallastBytes: -1})
	check(t, err)
	m, err := exec.NewMachine(s, exec.MachineOptions{})
	check(t, err)
	c := b.config()
	c.Listen = ""
	if _, err := Open(c, m); code(err) != "cluster_port_missing" {
		t.Errorf("got %v", err)
	}
	check(t, errors.Join(m.Close(), s.Close()))
}

// While a node is away that may have queued what was committed under the same key, answers are kept for it, and for a while after it was removed: what
// waits there may be carried.
func TestTheClusterKnowsSinceWhenANodeMayHoldWrites(t *testing.T) {
	f := three(t, nil)
	lead, away := f.leader(), f.bird("n2")
	if away == lead {
		away = f.bird("n3")
	}
	since := func() time.Time {
		t.Helper()
		out, _, err := f.leader().exec.Ask(t.Context(), self, unheardSince.Name, json.RawMessage("{}"), 0)
		check(t, err)
		return out.(missing).Since
	}
	if since := since(); !since.IsZero() {
		t.Errorf("nobody is away, and something may wait since %v", since)
	}
	begin := time.Now()
	away.down()
	f.until("it is missed", func() bool { return !since().IsZero() })
	if since := since(); since.After(begin) || begin.Sub(since) > 2*lateWord {
		t.Errorf("something may wait since %v, it is away since %v", since, begin)
	}
	away.up()
	f.until("it is back, and nothing waits", func() bool { return since().IsZero() })
	away.down()
	f.until("it is missed again", func() bool { return !since().IsZero() })
	was := since()
	check(t, f.do("sync.node.remove", Removal{Node: away.name}))
	if now := since(); !now.Equal(was) {
		t.Errorf("something may wait since %v; before the node was removed, since %v", now, was)
	}
	gone := time.Now()
	p := Peer{Status: Joined, LostAt: new(gone.Add(-time.Hour))}
	p.lose(gone)
	if since := unheard([]Peer{p}, gone.Add(carriedFor-time.Minute)); since.IsZero() {
		t.Error("what waits at a removed node may be carried, and nothing is kept for it")
	}
	if since := unheard([]Peer{p}, gone.Add(carriedFor+time.Minute)); !since.IsZero() {
		t.Errorf("answers are kept since %v for a node that was removed long ago", since)
	}
}

// TestAVoterThatHasJustDiedIsNotCountedOn: the leader misses a dead voter only after a heartbeat or more. A command that takes a vote asks anew.
func TestAVoterThatHasJustDiedIsNotCountedOn(t *testing.T) {
	for op, in := range map[string]func(string) any{
		"sync.node.remove": func(node string) any { return Removal{Node: node} }, "sync.node.demote": func(node string) any { return Demotion{Node: node} },
		"sync.node.repair": func(node string) any { return PeerRef{node} },
	} {
		t.Run(op, func(t *testing.T) {
			f := newFlock(t, func(c *Config) { // sightings count for six seconds
				c.Peers.Heartbeat, c.Peers.Election, c.Peers.Lease = 2*time.Second, 2*time.Second, 2*time.Second
			})
			f.found("n1")
			f.grow(Voter, "n2", "n3")
			var lead *bird
			f.until("the leader sees all", func() bool { lead = f.leader(); return len(lead.node.wellVoters()) == 3 })
			rest := f.others(lead.name)
			f.wires.Part(rest[0], lead.name, rest[1])
			if err := f.do(op, in(rest[1])); code(err) != "quorum_at_risk" {
				t.Errorf("of %s, right after %s has died: got %v", rest[1], rest[0], err)
			}
			if p, _ := lead.members.Peer(rest[1]); p.Role != Voter || p.RepairAt != nil || p.Status != Joined {
				t.Errorf("%s is %+v", rest[1], p)
			}
		})
	}
}

// TestTheLeaderSaysAtOnceWhoIsSilent: who does not answer is named so with the next look, and a leader that has just begun knows from the one before it
// when it was last heard.
func TestTheLeaderSaysAtOnceWhoIsSilent(t *testing.T) {
	f := three(t, func(c *Config) { c.Pace.Lost = time.Hour })
	f.grow(Replica, "n4")
	old := f.leader().name
	f.bird(old).down()
	f.until("the new leader and its followers say that "+old+" is silent, and since when", func() bool {
		said := 0
		for name, b := range f.birds {
			if name == old || !b.node.Contact() {
				continue
			}
			for _, v := range b.node.Status().Members {
				if v.Silent != (v.Node == old) || v.Seen.IsZero() {
					return false
				}
			}
			said++
		}
		return said == 3
	})
}

// TestANodeWithoutALeaderSaysWhomItReachesNow: what it shows was measured when it was asked, not remembered.
func TestANodeWithoutALeaderSaysWhomItReachesNow(t *testing.T) {
	f := three(t, func(c *Config) { c.Pace.Lost = time.Hour })
	f.grow(Replica, "n4")
	f.settled()
	reached := func(name string) (list []string) {
		b := f.bird(name)
		b.node.Around(within(t, 10*time.Second))
		for _, v := range b.node.Status().Members {
			if v.Voter && v.Node != name && !v.Silent && time.Since(v.Seen) < 10*time.Second {
				list = append(list, v.Node+" "+v.State)
			}
		}
		return list
	}
	f.bird("n2").down()
	f.bird("n3").down()
	f.until("n1 and n4 hear no leader", func() bool { return !f.bird("n1").node.Contact() && !f.bird("n4").node.Contact() })
	n1 := f.bird("n1").node
	f.until("nothing counts that n1 heard before they died", func() bool { return !n1.picture.freshAround(n1.conf.Passed()) })
	if got := reached("n1"); len(got) != 0 {
		t.Errorf("n1 says that it reaches %q of two that have died", got)
	}
	f.until("n1 stands for election", func() bool { return f.bird("n1").node.Status().State == "candidate" })
	if got := reached("n4"); len(got) != 1 || got[0] != "n1 candidate" && got[0] != "n1 follower" {
		t.Errorf("n4 says that it reaches %q, want n1 and that it does not lead", got)
	}
	f.bird("n2").up()
	f.until("all that live hear a leader", func() bool {
		return f.bird("n1").node.Contact() && f.bird("n4").node.Contact() && f.bird("n2").node.Contact()
	})
}

// TestHalfOfTheVotersDoNotTakeALeaderOfBeforeForOneOfNow: four voters are cut in two halves, and neither can decide. The half that had not led reaches
// nobody who leads.
func TestHalfOfTheVotersDoNotTakeALeaderOfBeforeForOneOfNow(t *testing.T) {
	f := newFlock(t, func(c *Config) { c.Pace.Lost = time.Hour })
	f.found("n1")
	f.grow(Voter, "n2", "n3", "n4")
	f.settled()
	lead := f.leader().name
	rest := f.others(lead)
	f.wires.Part(rest[0], lead, rest[2])
	f.wires.Part(rest[1], lead, rest[2])
	half := f.bird(rest[0])
	f.until(half.name+" hears no leader", func() bool { return !half.node.Contact() })
	half.node.Around(within(t, 10*time.Second))
	for _, v := range half.node.Status().Members {
		if answers := v.Node == half.name || v.Node == rest[1]; v.Silent == answers || answers && v.State == "leader" {
			t.Errorf("%s, which reaches %s alone, says %+v", half.name, rest[1], v)
		}
	}
	f.wires.Heal()
	f.until("they hear a leader again", func() bool { return half.node.Contact() })
}

// What a node last knew of the others' votes may be of the past: who answers takes its announcement, and who hears a leader before one that hears none.
func TestAnAnnouncementGoesToWhoeverAnswers(t *testing.T) {
	var p picture
	now := time.Unix(1, 0)
	p.note("a", stats{Leader: "x"}, errors.New("away"), now, 0)
	p.note("b", stats{}, nil, now, 0)
	p.note("d", stats{Leader: "x"}, nil, now, 0)
	p.note("c", stats{Leader: "x"}, nil, now, 0)
	if got := p.answering(); !slices.Equal(got, []string{"c", "d", "b"}) {
		t.Errorf("got %v", got)
	}
}

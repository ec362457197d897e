package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"wispgate/edge/edgetest/bubble"
)

// gatedWAL is a log on a disk whose next write waits, and may fail.
type gatedWAL struct {
	*raft.InmemStore
	mu   sync.Mutex
	gate chan error // nil: the disk works
}

func (g *gatedWAL) Close() error      { return nil }
func (g *gatedWAL) IsMonotonic() bool { return true }

func (g *gatedWAL) close() chan error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gate = make(chan error)
	return g.gate
}

func (g *gatedWAL) StoreLogs(logs []*raft.Log) error {
	g.mu.Lock()
	gate := g.gate
	g.gate = nil
	g.mu.Unlock()
	if gate != nil {
		if err := <-gate; err != nil {
			return err
		}
	}
	return g.InmemStore.StoreLogs(logs)
}

func (g *gatedWAL) last() uint64 {
	i, _ := g.LastIndex() // memory never fails
	return i
}

// said is a state machine that remembers what it was told.
type said struct {
	mu   sync.Mutex
	list []string
}

func (s *said) Apply(log *raft.Log) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, string(log.Data))
	return nil
}

func (s *said) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

func (s *said) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (s *said) Restore(io.ReadCloser) error         { return errors.New("none") }

// voter is one of three that run raft as it was built, on logs whose disk the test holds.
type voter struct {
	*raft.Raft
	wal   *gatedWAL
	log   *logStore
	fsm   *said
	trans *raft.InmemTransport
	beats *beats
	snaps *raft.InmemSnapshotStore
}

// beats is a transport whose heartbeats and votes the test holds.
type beats struct {
	*raft.InmemTransport
	queue
	beat   func(raft.RPC)
	votes  chan struct{} // closed: what others answer to a candidate arrives
	states atomic.Int64  // snapshots that it began to send
}

func (b *beats) Consumer() <-chan raft.RPC               { return b.rpcs }
func (b *beats) SetHeartbeatHandler(beat func(raft.RPC)) { b.beat = beat }

func (b *beats) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, answer *raft.RequestVoteResponse) error {
	if err := b.InmemTransport.RequestVote(id, to, req, answer); err != nil {
		return err
	}
	<-b.votes
	return nil
}

func (b *beats) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, answer *raft.InstallSnapshotResponse, data io.Reader) error {
	b.states.Add(1)
	return b.InmemTransport.InstallSnapshot(id, to, req, answer, data)
}

// heartbeat has a node hear another as the leader of a term, the way heartbeats come by a network.
func (v *voter) heartbeat(from *voter, term uint64) {
	id := []byte(from.trans.LocalAddr())
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: id, Addr: id}
	v.beats.beat(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: header, Term: term}, RespChan: make(chan raft.RPCResponse, 1)})
	synctest.Wait()
}

// ahead runs a test in a bubble, if raft was built to send while it writes.
func ahead(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if _, mended := any(new(raft.Raft)).(interface{ Mended() }); !mended {
		const why = "only scripts/gomended builds a raft that sends while it writes"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	bubble.Test(t, f)
}

// threeVoters gives a leader and two others, in a bubble. Each starts with what is in its log.
func threeVoters(t *testing.T) (leader *voter, others []*voter) {
	t.Helper()
	var servers raft.Configuration
	var all []*voter
	for i := range 3 {
		addr := raft.ServerAddress(fmt.Sprint("v", i))
		servers.Servers = append(servers.Servers, raft.Server{ID: raft.ServerID(addr), Address: addr})
		_, trans := raft.NewInmemTransport(addr)
		wal := &gatedWAL{InmemStore: raft.NewInmemStore()}
		b := &beats{InmemTransport: trans, queue: queue{rpcs: make(chan raft.RPC), quit: make(chan struct{}), stands: func() (uint64, uint64) { return 0, 0 }}, votes: make(chan struct{})}
		close(b.votes)
		go b.forward(trans.Consumer())
		t.Cleanup(func() { close(b.quit) })
		all = append(all, &voter{wal: wal, log: &logStore{walStore: wal, timeout: time.Hour, unfit: func(error) {}}, fsm: &said{}, trans: trans, beats: b})
	}
	for i, v := range all {
		for _, o := range all {
			v.trans.Connect(o.trans.LocalAddr(), o.trans)
		}
		rc := raft.DefaultConfig()
		rc.LocalID, rc.Logger = servers.Servers[i].ID, hclog.NewNullLogger()
		snaps := raft.NewInmemSnapshotStore()
		v.snaps = snaps
		check(t, raft.BootstrapCluster(rc, v.log, v.log, snaps, v.beats, servers))
		r, err := raft.NewRaft(rc, v.fsm, v.log, v.log, snaps, v.beats)
		check(t, err)
		v.Raft = r
	}
	t.Cleanup(func() {
		for _, v := range all {
			check(t, v.Shutdown().Error())
		}
	})
	return chosen(t, all)
}

// chosen waits for one of them to lead.
func chosen(t *testing.T, all []*voter) (leader *voter, others []*voter) {
	t.Helper()
	for patience := 60; leader == nil; patience-- {
		if patience == 0 {
			t.Fatal("nobody leads after a minute")
		}
		time.Sleep(time.Second) // of the bubble's time
		others = nil
		for _, v := range all {
			if v.State() == raft.Leader {
				leader = v
			} else {
				others = append(others, v)
			}
		}
	}
	return leader, others
}

// applied holds that each has applied just these entries, once what is on its way has arrived.
func applied(t *testing.T, all []*voter, want ...string) {
	t.Helper()
	time.Sleep(time.Minute) // of the bubble's time
	for _, v := range all {
		if got := v.fsm.all(); !slices.Equal(got, want) {
			t.Errorf("applied: %q, want %q", got, want)
		}
	}
}

// done gives a future's outcome when there is one.
func done(f raft.Future) chan error {
	c := make(chan error, 1)
	go func() { c <- f.Error() }()
	return c
}

// The others have an entry while the leader's own disk is still at it, it is acknowledged when the leader has it as well, and what follows goes the same way.
func TestALeaderSendsWhileItWrites(t *testing.T) {
	ahead(t, func(t *testing.T) {
		leader, others := threeVoters(t)
		for i := range 3 {
			next, commit := leader.wal.last()+1, leader.CommitIndex()
			gate := leader.wal.close()
			entry := fmt.Sprint("entry ", i)
			outcome := done(leader.Apply([]byte(entry), 0))
			time.Sleep(time.Second)
			synctest.Wait()
			for _, o := range others {
				var log raft.Log
				if err := o.wal.GetLog(next, &log); err != nil || string(log.Data) != entry {
					t.Fatalf("a follower has %q at %d while the leader writes (%v), want %q", log.Data, next, err, entry)
				}
			}
			if leader.wal.last() != next-1 || leader.CommitIndex() != commit || len(outcome) != 0 {
				t.Fatalf("the leader's log ends at %d, committed is %d, %d outcomes, before its own disk answered", leader.wal.last(), leader.CommitIndex(), len(outcome))
			}
			gate <- nil
			check(t, <-outcome)
		}
		applied(t, append(others, leader), "entry 0", "entry 1", "entry 2")
	})
}

// A leader that cannot write what the others have leads no more, and does not believe that it has it: it gets the entry from the next one. Whoever asked was not told that it failed for good.
func TestALeaderThatCannotWriteWhatItSent(t *testing.T) {
	ahead(t, func(t *testing.T) {
		old, others := threeVoters(t)
		check(t, old.Apply([]byte("before"), 0).Error())
		next := old.wal.last() + 1
		gate := old.wal.close()
		outcome := done(old.Apply([]byte("sent"), 0))
		time.Sleep(time.Second)
		gate <- errors.New("no disk")
		if err := <-outcome; err == nil || errors.Is(err, raft.ErrNotLeader) {
			t.Errorf("got %v: whether it is committed is not known", err)
		}
		if last := old.LastIndex(); last != next-1 {
			t.Errorf("it believes its log to end at %d, want %d", last, next-1)
		}
		leader, _ := chosen(t, append(others, old))
		if leader == old {
			t.Fatal("a node whose log is shorter was elected")
		}
		check(t, leader.Apply([]byte("after"), 0).Error())
		applied(t, append(others, old), "before", "sent", "after")
	})
}

// Entries that only the leader had are gone with its failure: another takes their place.
func TestWhatOnlyAFailedLeaderHadGivesWay(t *testing.T) {
	ahead(t, func(t *testing.T) {
		old, others := threeVoters(t)
		check(t, old.Apply([]byte("before"), 0).Error())
		time.Sleep(time.Second)
		next := old.wal.last() + 1
		gate := old.wal.close()
		old.trans.DisconnectAll()
		outcome := done(old.Apply([]byte("lost"), 0))
		for _, o := range others {
			o.trans.Disconnect(old.trans.LocalAddr())
		}
		leader, _ := chosen(t, others)
		check(t, leader.Apply([]byte("instead"), 0).Error())
		gate <- errors.New("no disk")
		if err := <-outcome; err == nil {
			t.Error("acknowledged")
		}
		var log raft.Log
		if err := old.log.GetLog(next, &log); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("it still shows %q at %d (%v)", log.Data, next, err)
		}
		for _, o := range others {
			o.trans.Connect(old.trans.LocalAddr(), old.trans)
			old.trans.Connect(o.trans.LocalAddr(), o.trans)
		}
		applied(t, append(others, old), "before", "instead")
	})
}

// An entry that was sent and could not be written is not one that a snapshot has taken the place of: no follower gets the state for it, which would set its
// configuration back to that of the snapshot.
func TestAFailedWriteSendsNoState(t *testing.T) {
	ahead(t, func(t *testing.T) {
		leader, others := threeVoters(t)
		check(t, leader.Apply([]byte("before"), 0).Error())
		time.Sleep(time.Second)
		snap, err := leader.snaps.Create(1, 1, 1, leader.GetConfiguration().Configuration(), 1, leader.trans)
		check(t, err)
		check(t, snap.Close())
		away := others[0]
		leader.trans.Disconnect(away.trans.LocalAddr())
		time.Sleep(30 * time.Second) // of the bubble's time; the pauses between attempts grow to ten seconds
		gate := leader.wal.close()
		outcome := done(leader.Apply([]byte("sent"), 0))
		time.Sleep(12 * time.Second) // whoever sends to the one that is away waits for the next attempt, now with that entry
		for _, o := range others {
			o.trans.DisconnectAll()
		}
		leader.trans.Connect(away.trans.LocalAddr(), away.trans)
		gate <- errors.New("no disk")
		if err := <-outcome; err == nil {
			t.Error("acknowledged")
		}
		time.Sleep(time.Minute)
		if n := leader.beats.states.Load(); n > 0 {
			t.Errorf("it sent its state %d times to a node that lacks one entry", n)
		}
	})
}

// A change of the configuration that could not be written is none: the node counts votes by the one that its log holds.
func TestAConfigurationThatCouldNotBeWrittenIsNone(t *testing.T) {
	ahead(t, func(t *testing.T) {
		leader, others := threeVoters(t)
		for _, v := range append(others, leader) {
			v.trans.DisconnectAll() // nobody tells it the entry again
		}
		gate := leader.wal.close()
		outcome := done(leader.RemoveServer(raft.ServerID(others[0].trans.LocalAddr()), 0, 0))
		time.Sleep(100 * time.Millisecond) // of the bubble's time
		gate <- errors.New("no disk")
		if err := <-outcome; err == nil {
			t.Error("acknowledged")
		}
		synctest.Wait()
		if got := leader.GetConfiguration().Configuration().Servers; len(got) != 3 {
			t.Errorf("its configuration is %v", got)
		}
	})
}

// What a request has checked is all that it commits. A goroutine of a former leader that waited for its next attempt knows how far the next one has committed, and
// what a follower holds beyond the request may be what the former leader sent and nobody else has.
func TestARequestCommitsWhatItHasChecked(t *testing.T) {
	ahead(t, func(t *testing.T) {
		leader, others := threeVoters(t)
		check(t, leader.Apply([]byte("before"), 0).Error())
		time.Sleep(time.Second)
		away, next, term := others[0], leader.wal.last()+1, leader.CurrentTerm()
		for _, v := range append(others, leader) {
			v.trans.DisconnectAll()
		}
		id := []byte(leader.trans.LocalAddr())
		header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: id, Addr: id}
		ask := func(prev, prevTerm, commit uint64, entries ...*raft.Log) {
			t.Helper()
			answer := make(chan raft.RPCResponse, 1)
			away.beats.pass(raft.RPC{RespChan: answer, Command: &raft.AppendEntriesRequest{
				RPCHeader: header, Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm, LeaderCommitIndex: commit, Entries: entries,
			}})
			if a := <-answer; a.Error != nil || !a.Response.(*raft.AppendEntriesResponse).Success {
				t.Fatalf("refused: %+v", a)
			}
		}
		entry := func(i uint64, text string) *raft.Log {
			return &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: []byte(text)}
		}
		ask(next-1, term, next-1, entry(next, "kept"), entry(next+1, "kept as well"), entry(next+2, "lost"))
		ask(next-1, term, next+9, entry(next, "kept"))
		synctest.Wait()
		if got := away.fsm.all(); !slices.Equal(got, []string{"before", "kept"}) {
			t.Errorf("applied: %q", got)
		}
		ask(next+1, term, next+9)
		synctest.Wait()
		if got := away.fsm.all(); !slices.Equal(got, []string{"before", "kept", "kept as well"}) {
			t.Errorf("applied: %q", got)
		}
	})
}

// A node that is made a voter has the entry that says so before the leader's own disk answers. Its word counts all the same: without it nothing would
// be committed where another voter is dead.
func TestTheWordOfANewVoterCounts(t *testing.T) {
	ahead(t, func(t *testing.T) {
		leader, others := threeVoters(t)
		joins, dies := others[0], others[1]
		id := func(v *voter) raft.ServerID { return raft.ServerID(v.trans.LocalAddr()) }
		check(t, leader.DemoteVoter(id(joins), 0, 0).Error())
		time.Sleep(time.Second)
		leader.trans.Disconnect(dies.trans.LocalAddr())
		dies.trans.DisconnectAll()
		next, gate := leader.wal.last()+1, leader.wal.close()
		outcome := done(leader.AddVoter(id(joins), joins.trans.LocalAddr(), 0, 0))
		time.Sleep(100 * time.Millisecond) // of the bubble's time; two voters of which one is silent have a leader for half a second
		if joins.wal.last() != next {
			t.Fatalf("the new voter's log ends at %d while the leader writes, want %d", joins.wal.last(), next)
		}
		gate <- nil
		time.Sleep(time.Minute)
		if len(outcome) == 0 {
			t.Fatalf("nothing is committed behind %d", leader.CommitIndex())
		}
		check(t, <-outcome)
	})
}

// A leader that hears of a newer one writes nothing in that one's term: another entry with that index and term would pass for its own.
func TestALeaderWritesInItsOwnTerm(t *testing.T) {
	ahead(t, func(t *testing.T) {
		leader, others := threeVoters(t)
		check(t, leader.Apply([]byte("before"), 0).Error())
		term := leader.CurrentTerm()
		leader.heartbeat(others[0], term+1)
		outcome := leader.Apply([]byte("late"), 0).Error()
		var log raft.Log
		check(t, leader.wal.GetLog(leader.wal.last(), &log))
		if log.Term != term {
			t.Errorf("it wrote %q in term %d, and led in %d (%v)", log.Data, log.Term, term, outcome)
		}
		if leader.CurrentTerm() != term+1 || leader.State() == raft.Leader {
			t.Errorf("%v in term %d after a heartbeat in term %d", leader.State(), leader.CurrentTerm(), term+1)
		}
	})
}

// A leader whose disk keeps it hears of a newer one at once, and what it still begins then is of its own term.
func TestALeaderHearsOfAnotherWhileItWrites(t *testing.T) {
	ahead(t, func(t *testing.T) {
		leader, others := threeVoters(t)
		term, gate := leader.CurrentTerm(), leader.wal.close()
		added := done(leader.AddNonvoter("v9", "v9", 0, 0))
		time.Sleep(100 * time.Millisecond) // of the bubble's time
		_, joins := raft.NewInmemTransport("v9")
		leader.trans.Connect("v9", joins)
		leader.heartbeat(others[0], term+1)
		if _, id := leader.LeaderWithID(); leader.State() != raft.Follower || id != raft.ServerID(others[0].trans.LocalAddr()) {
			t.Errorf("%v of %q while it writes", leader.State(), id)
		}
		gate <- nil
		if err := <-added; err == nil {
			t.Error("a leader that was not any more added a node")
		}
		for patience := time.After(time.Second); ; { // of the bubble's time
			select {
			case rpc := <-joins.Consumer():
				if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && req.Term > term {
					t.Errorf("it sends as if it led in term %d", req.Term)
				}
				continue
			case <-patience:
			}
			break
		}
	})
}

// A candidate that hears of a newer leader does not lead in that one's term with the votes of its own.
func TestACandidateLeadsInItsOwnTerm(t *testing.T) {
	ahead(t, func(t *testing.T) {
		old, others := threeVoters(t)
		for _, v := range others {
			v.beats.votes = make(chan struct{})
			v.trans.Disconnect(old.trans.LocalAddr())
		}
		old.trans.DisconnectAll()
		stands, other := others[0], others[1]
		for term := old.CurrentTerm(); stands.CurrentTerm() == term; time.Sleep(time.Millisecond) { // of the bubble's time
			if other.CurrentTerm() > term {
				stands, other = other, stands
			}
		}
		synctest.Wait()
		term := stands.CurrentTerm()
		stands.heartbeat(other, term+1)
		close(stands.beats.votes)
		synctest.Wait()
		if stands.State() == raft.Leader && stands.CurrentTerm() != term {
			t.Errorf("it leads in term %d, and was elected in %d", stands.CurrentTerm(), term)
		}
		close(other.beats.votes)
	})
}

// What is in memory is what is being written and the entry before it, and nothing that another leader's entries or a deletion took away.
func TestEntriesInMemory(t *testing.T) {
	wal := &gatedWAL{InmemStore: raft.NewInmemStore()}
	l := &logStore{walStore: wal, timeout: time.Hour, unfit: func(error) {}}
	entries := func(from, to uint64) (list []*raft.Log) {
		for i := from; i <= to; i++ {
			list = append(list, &raft.Log{Index: i, Term: i})
		}
		return list
	}
	holds := func(when string, want ...uint64) {
		t.Helper()
		var got []uint64
		for i := range uint64(20) {
			var log raft.Log
			if l.inMemory(i, &log) {
				if log.Index != i || log.Term != i {
					t.Errorf("%s: asked for %d, got %+v", when, i, log)
				}
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	holds("at first")
	first := entries(1, 3)
	l.Ahead(first)
	holds("while they are written", 1, 2, 3)
	check(t, l.StoreLogs(first))
	holds("written", 3)
	second := entries(4, 5)
	l.Ahead(second)
	holds("with the one before", 3, 4, 5)
	check(t, l.DeleteRange(1, 3))
	holds("after a snapshot", 4, 5)
	check(t, l.StoreLogs(second))
	check(t, l.StoreLogs(entries(6, 6)))
	holds("after another leader's")
	third := entries(7, 9)
	l.Ahead(third)
	check(t, l.StoreLogs(third))
	check(t, l.DeleteRange(8, 9))
	holds("after a conflict")
	l.Ahead(entries(14, 15)) // as behind a snapshot that was received
	holds("behind a gap", 14, 15)
	fourth := entries(8, 8)
	l.Ahead(fourth)
	gate := wal.close()
	go func() { gate <- errors.New("no disk") }()
	if err := l.StoreLogs(fourth); err == nil {
		t.Fatal("stored")
	}
	holds("after a write that failed")
}

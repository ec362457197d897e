package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"wispgate/edge"
	"wispgate/edge/store"
)

const (
	methodStats = "sync.stats"
	methodWell  = "sync.well" // to the leader: which voters answer now
)

// stats is what a member tells the leader that looks at it.
type stats struct {
	LastIndex    uint64 `json:"last_index"`
	AppliedIndex uint64 `json:"applied_index"`
	Version      uint64 `json:"version"`
	State        string `json:"state"`
	DiskLow      bool   `json:"disk_low,omitempty"`
	HoldsCA      bool   `json:"holds_ca,omitempty"`
	Pending      int64  `json:"pending,omitempty"` // writes it has accepted alone and not handed over
	Address      string `json:"address,omitempty"` // where it is reached
	Leader       string `json:"leader,omitempty"`  // that it hears, or is

	Clock  time.Time `json:"clock,omitzero"`   // where it trusts it
	Synced bool      `json:"synced,omitempty"` // something disciplines it
}

// View is how the leader sees a member, or how a node does that hears no leader.
type View struct {
	Node    string    `json:"node"`
	Seen    time.Time `json:"seen,omitzero"`    // last answer, to this leader or the one before it; zero: none is known
	Silent  bool      `json:"silent,omitempty"` // it did not answer when it was last asked
	Lag     uint64    `json:"lag"`              // log entries behind the leader
	Version uint64    `json:"version"`          // of its state
	State   string    `json:"state"`            // leader, follower, candidate, parked
	DiskLow bool      `json:"disk_low,omitempty"`
	Voter   bool      `json:"voter"`
	Clock   time.Time `json:"clock,omitzero"` // as it was at the last answer, and what has passed since; absent: it does not trust it, or is silent
	Synced  bool      `json:"clock_synced,omitempty"`
	Problem string    `json:"problem,omitempty"` // why it is not reached, where it is not
	History string    `json:"history,omitempty"` // the incarnation that it goes on with, where that is another
	Address string    `json:"address,omitempty"` // where it says to be reached, where its record says otherwise
	Leader  string    `json:"leader,omitempty"`  // that it hears, where it is not the one who looks
}

// Because is why a member is not reached, for the end of a sentence; "" where that is not known.
func (v *View) Because() string {
	if v.Problem == "" {
		return ""
	}
	return ": " + v.Problem
}

// picture is what the leader knows of the members, and what a follower was told of it.
type picture struct {
	mu   sync.Mutex
	seen map[string]*sighting
	told []View    // by the leader
	at   time.Time // when

	ahead atomic.Int64 // of the leader's clock by this one, nanoseconds

	looking  chan struct{} // held while it asks the voters
	around   []View        // as this node itself sees the members, while it hears no leader
	aroundAt time.Time
	asked    time.Duration // when, whatever happened to the clock
}

type sighting struct {
	stats
	first time.Time     // answers without a break since
	last  time.Time     // zero: none
	begun time.Time     // since when it is looked at
	heard time.Duration // after the program's start
}

func (p *picture) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = map[string]*sighting{}
}

func (p *picture) note(node string, s stats, err error, now time.Time, passed time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.seen[node]
	if g == nil {
		if p.seen == nil {
			p.seen = map[string]*sighting{}
		}
		g = &sighting{begun: now}
		p.seen[node] = g
	}
	if err != nil {
		g.first = time.Time{}
		return
	}
	if g.first.IsZero() {
		g.first = now
	}
	g.stats, g.last, g.heard = s, now, passed
}

// toldBy is how a leader last saw each member.
func (p *picture) toldBy() map[string]View {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := map[string]View{}
	for _, v := range p.told {
		told[v.Node] = v
	}
	return told
}

func (p *picture) get(node string) (sighting, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.seen[node]
	if g == nil {
		return sighting{}, false
	}
	return *g, true
}

// answering are the members that answered when they were last asked, those that hear a leader first.
func (p *picture) answering() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list, deaf []string
	for node, g := range p.seen {
		switch {
		case g.first.IsZero():
		case g.Leader != "":
			list = append(list, node)
		default:
			deaf = append(deaf, node)
		}
	}
	slices.Sort(list)
	slices.Sort(deaf)
	return append(list, deaf...)
}

func (p *picture) keep(nodes map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.seen, func(node string, _ *sighting) bool { return !nodes[node] })
}

func (p *picture) tell(list []View, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told, p.at = list, now
}

// hear takes over how the leader sees the members. Its times are by its clock, which may be days from this one: what it says of itself is of now.
func (p *picture) hear(list []View, leader string, now time.Time) {
	for _, v := range list {
		if v.Node != leader || v.Seen.IsZero() {
			continue
		}
		ahead := now.Sub(v.Seen)
		for i := range list {
			if !list[i].Seen.IsZero() {
				list[i].Seen = list[i].Seen.Add(ahead)
			}
		}
		p.ahead.Store(int64(ahead))
		break
	}
	p.tell(list, now)
}

// Members is how the leader sees the members, and when it was so: now on the leader, on others when it last said so. A node that hears no
// leader says what it sees itself.
func (n *Node) Members() ([]View, time.Time) {
	if n.IsLeader() {
		return n.views(), n.conf.Now()
	}
	contact := n.Contact()
	n.picture.mu.Lock()
	defer n.picture.mu.Unlock()
	if !contact && n.picture.aroundAt.After(n.picture.at) {
		return slices.Clone(n.picture.around), n.picture.aroundAt
	}
	return slices.Clone(n.picture.told), n.picture.at
}

// toldMembers is how the leader sees the members, and when it was so, however long ago.
func (n *Node) toldMembers() ([]View, time.Time) {
	if n.IsLeader() {
		return n.views(), n.conf.Now()
	}
	n.picture.mu.Lock()
	defer n.picture.mu.Unlock()
	return n.picture.told, n.picture.at
}

// views is how this node sees the members.
func (n *Node) views() []View {
	run := n.current()
	if run == nil {
		return nil
	}
	last, now := run.raft.LastIndex(), n.conf.Now()
	told := n.picture.toldBy()
	var list []View
	apart := n.meetings.list(now)
	for _, s := range servers(run.raft) {
		v := View{Node: string(s.ID), Voter: s.Suffrage == raft.Voter, Address: n.conf.Directory.hint(string(s.ID))}
		if v.Node == n.conf.NodeID {
			v.Seen, v.State, v.Version, v.DiskLow = now, stateName(run.raft.State()), n.machine.Version(), n.diskLow()
			v.Clock, v.Synced = n.ownClock()
			v.Address = n.elsewhere()
		} else if g, ok := n.picture.get(v.Node); ok {
			v.Seen, v.State, v.Version, v.DiskLow, v.Silent = g.last, g.State, g.Version, g.DiskLow, g.first.IsZero()
			v.Clock, v.Synced = g.clockOf(n.conf.Passed())
			if g.Leader != n.conf.NodeID { // as all do, where this one leads
				v.Leader = g.Leader
			}
			if g.first.IsZero() {
				v.Problem = n.links.why(v.Node)
			}
			if last > g.LastIndex && !g.last.IsZero() {
				v.Lag = last - g.LastIndex
			}
		}
		if was := told[v.Node]; was.Seen.After(v.Seen) { // a new leader has seen nobody yet, but was told
			v.Seen, v.Lag = was.Seen, max(v.Lag, was.Lag)
		}
		if i := slices.IndexFunc(apart, func(h History) bool { return h.Node == v.Node }); i >= 0 {
			v.History = apart[i].Incarnation
		}
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b View) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

func servers(r *raft.Raft) []raft.Server {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return slices.Clone(f.Configuration().Servers) // raft hands every caller the same
}

// freshFor is how old a sighting may be for its node to count as well.
func (n *Node) freshFor() time.Duration { return max(5*n.conf.Pace.Poll, 3*n.conf.Peers.Election) }

// wellVoters are the voters that the leader has heard of lately, and whose last answer is not missing. nil: nobody knows.
func (n *Node) wellVoters() []string {
	list, at := n.toldMembers()
	now := n.conf.Now()
	if now.Sub(at) > n.freshFor() {
		return nil
	}
	var well []string
	for _, v := range list {
		if v.Voter && !v.Silent && v.State != parkedState && !v.Seen.IsZero() && at.Sub(v.Seen) <= n.freshFor() {
			well = append(well, v.Node)
		}
	}
	return well
}

// answerFor is how long a voter has to answer when somebody waits to hear who is there: enough for a new connection over a satellite.
func (n *Node) answerFor() time.Duration {
	return min(max(n.conf.Pace.Poll, time.Second), 3*time.Second)
}

// votersNow has the leader ask the voters at this moment, and returns those that can vote. A voter that has died is not missed for a heartbeat or
// two, and in that time nobody may take the vote of another in the belief that all are there. nil: nobody knows.
func (n *Node) votersNow(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, 2*n.answerFor()+time.Second)
	defer cancel()
	raw, err := n.Call(ctx, "", methodWell, nil)
	if e, ok := edge.AsError(err); ok && err != nil && e.Code == edge.ErrStarting.Code { // a leader whose program does not know the question
		return n.wellVoters()
	}
	var well []string
	if err != nil || json.Unmarshal(raw, &well) != nil {
		return nil
	}
	return well
}

// serveWell answers votersNow on the leader. It leaves the picture alone: who is late for so short a deadline has not failed a look.
func (n *Node) serveWell(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	run := n.current()
	if run == nil {
		return nil, quorumLost()
	}
	ctx, cancel := context.WithTimeout(ctx, n.answerFor())
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	well := []string{}
	for _, s := range servers(run.raft) {
		if s.Suffrage != raft.Voter {
			continue
		}
		wg.Go(func() {
			var st stats
			raw, err := n.Call(ctx, string(s.ID), methodStats, nil)
			if err != nil || json.Unmarshal(raw, &st) != nil || st.State == parkedState {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			well = append(well, string(s.ID))
		})
	}
	wg.Wait()
	slices.Sort(well)
	return json.Marshal(well)
}

func (n *Node) diskLow() bool { return n.machine.Store().DiskState().Level >= store.DiskLow }

// whereabouts is what a node that hears no leader says to the voters that it asks: so they find it where its record does not say yet.
type whereabouts struct {
	Address string `json:"address"`
}

// serveStats answers the leader's look, and takes over how it sees the others.
func (n *Node) serveStats(_ context.Context, from string, body []byte) ([]byte, error) {
	var told []View
	var seeks whereabouts
	if json.Unmarshal(body, &seeks) == nil {
		n.conf.Directory.heard(from, seeks.Address)
	} else if err := json.Unmarshal(body, &told); err == nil && from == n.leaderID() {
		n.picture.hear(told, from, n.conf.Now())
		n.weigh(told)
	}
	return json.Marshal(n.stats())
}

func (n *Node) stats() stats {
	s := stats{
		AppliedIndex: n.machine.AppliedIndex(), Version: n.machine.Version(), State: parkedState, DiskLow: n.diskLow(),
		HoldsCA: n.conf.Credentials != nil && n.conf.Credentials.holdsCA(),
	}
	s.Clock, s.Synced = n.ownClock()
	if n.port != nil {
		s.Address = n.advertised()
	}
	if n.Contact() {
		s.Leader = n.leaderID()
	}
	if n.conf.Pending != nil {
		s.Pending = n.conf.Pending()
	}
	if run := n.current(); run != nil {
		s.LastIndex, s.State = run.raft.LastIndex(), stateName(run.raft.State())
	}
	return s
}

// parkedState is the state of a node that takes no part.
const parkedState = "parked"

func stateName(s raft.RaftState) string {
	switch s {
	case raft.Leader:
		return "leader"
	case raft.Candidate:
		return "candidate"
	case raft.Follower:
		return "follower"
	case raft.Shutdown:
	}
	return parkedState
}

// look asks every member how it is, and as the leader tells it how the others are.
func (n *Node) look(ctx context.Context, run *running) {
	views := n.views()
	told, err := json.Marshal(views)
	if err != nil {
		return
	}
	n.picture.tell(views, n.conf.Now()) // what it shows once it leads no more
	n.ask(ctx, servers(run.raft), told, max(n.conf.Pace.Poll, 2*time.Second))
	n.weigh(n.views())
}

// lookAround keeps in mind which voters a node reaches that hears no leader.
func (n *Node) lookAround(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.Around(ctx)
	}
}

// aroundFor is how old an answer may be of a voter that is said to be in reach.
const aroundFor = time.Second

// Around is look on a node that hears no leader: which voters it reaches is what an operator needs to know then, and as it is now. So whoever shows
// the node's Status calls it before; it waits for the answers unless others are a second old at most. It leaves the replicas alone, of which
// there may be a hundred, each of them looking. A node that hears a leader asks nobody.
func (n *Node) Around(ctx context.Context) {
	run := n.current()
	if run == nil || n.port == nil {
		return
	}
	if n.Contact() {
		n.readmit()
		return
	}
	if n.recordedRemoved() {
		n.expel(n.conf.NodeID)
	}
	select {
	case n.picture.looking <- struct{}{}:
		defer func() { <-n.picture.looking }()
	case <-ctx.Done():
		return
	}
	voters := slices.DeleteFunc(servers(run.raft), func(s raft.Server) bool { return s.Suffrage != raft.Voter })
	if len(voters) == 0 || len(voters) == 1 && string(voters[0].ID) == n.conf.NodeID || n.picture.freshAround(n.conf.Passed()) {
		return
	}
	where, err := json.Marshal(whereabouts{n.advertised()})
	if err != nil {
		return
	}
	n.ask(ctx, voters, where, n.answerFor())
	views := n.views()
	n.picture.mu.Lock()
	n.picture.around, n.picture.aroundAt, n.picture.asked = views, n.conf.Now(), n.conf.Passed()
	n.picture.mu.Unlock()
	n.weigh(views)
}

// freshAround says whether the voters were asked a moment ago, and after a leader was last heard.
func (p *picture) freshAround(passed time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.aroundAt.After(p.at) && passed-p.asked < aroundFor
}

// ask asks members how they are, and waits so long for their answers.
func (n *Node) ask(ctx context.Context, members []raft.Server, told []byte, wait time.Duration) {
	nodes := map[string]bool{}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range members {
		node := string(s.ID)
		nodes[node] = true
		if node == n.conf.NodeID {
			continue
		}
		wg.Go(func() {
			var st stats
			raw, err := n.Call(ctx, node, methodStats, told)
			if err == nil {
				if err = json.Unmarshal(raw, &st); err == nil {
					n.conf.Directory.heard(node, st.Address)
				}
			} else if e, ok := edge.AsError(err); ok {
				switch e.Code {
				case ErrPeerGone.Code:
					n.expel(node) // one that says so is enough: after a recovery the others were left behind as well
					n.meet(ctx, node)
				case codeExpired:
					n.stale.Store(true)
				}
			}
			n.picture.note(node, st, err, n.conf.Now(), n.conf.Passed())
		})
	}
	wg.Wait()
	n.picture.keep(nodes)
}

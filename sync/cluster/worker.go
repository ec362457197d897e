package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"wispgate/edge"
)

// awaitLead returns when this node leads, with a context that ends when it does not any more.
func (n *Node) awaitLead(ctx context.Context) (context.Context, context.CancelFunc, bool) {
	for {
		n.mu.RLock()
		changed := n.changed
		n.mu.RUnlock()
		if n.IsLeader() {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, false
		}
	}
	leading, cancel := context.WithCancel(ctx)
	go func() {
		for {
			n.mu.RLock()
			changed := n.changed
			n.mu.RUnlock()
			if !n.IsLeader() {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-leading.Done():
				return
			}
		}
	}()
	return leading, cancel, true
}

// Leading runs work while this node leads, again and again until ctx ends or work fails. The context that work is given ends when
// leadership does.
func (n *Node) Leading(ctx context.Context, work func(ctx context.Context) error) error {
	for ctx.Err() == nil {
		leading, cancel, ok := n.awaitLead(ctx)
		if !ok {
			break
		}
		err := work(leading)
		lost := leading.Err() != nil
		cancel()
		if !lost { // it ended by itself
			return err
		}
	}
	return nil
}

// leadLoop looks after the members while this node leads.
func (n *Node) leadLoop(ctx context.Context, x edge.Executor) {
	again := time.NewTicker(n.conf.Pace.Poll)
	defer again.Stop()
	for ctx.Err() == nil {
		n.leadOnce(ctx, x)
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

func (n *Node) leadOnce(ctx context.Context, x edge.Executor) {
	_ = n.Leading(ctx, func(ctx context.Context) error {
		n.picture.reset()
		if err := n.Barrier(ctx); err != nil { // what the former leader committed may not be applied here yet
			return err
		}
		tick := time.NewTicker(n.conf.Pace.Poll)
		defer tick.Stop()
		for {
			changed := n.conf.Directory.Changed()
			if run := n.current(); run != nil {
				n.look(ctx, run)
				if err := n.reconcile(ctx, x); err != nil && ctx.Err() == nil {
					n.log.Warn("membership not brought forward, trying again", "error", err)
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			case <-changed:
			}
		}
	})
}

// errWait says that a step was made whose effect must be seen before the next.
var errWait = errors.New("a step was made")

// reconcile makes one step from what is to what the records wish. The order matters: what protects the quorum goes first.
func (n *Node) reconcile(ctx context.Context, x edge.Executor) error {
	w := &work{n: n, x: x, run: n.current(), now: n.conf.Now()}
	if w.run == nil {
		return nil
	}
	w.servers = servers(w.run.raft)
	w.peers = n.conf.Directory.Peers()
	for _, step := range []func(context.Context) error{
		w.spare, w.recover, w.authorise, w.found, w.observe, w.lead, w.evict, w.add, w.demote, w.disarm, w.repair, w.promote, w.replace, w.removeDead, w.handOver, w.compare,
	} {
		if err := step(ctx); err != nil {
			if errors.Is(err, errWait) {
				return nil
			}
			return err
		}
	}
	return nil
}

// work is one look of the leader at its members.
type work struct {
	n       *Node
	x       edge.Executor
	run     *running
	now     time.Time
	servers []raft.Server
	peers   []Peer
}

func (w *work) server(node string) (s raft.Server, ok bool) {
	i := slices.IndexFunc(w.servers, func(s raft.Server) bool { return string(s.ID) == node })
	if i < 0 {
		return s, false
	}
	return w.servers[i], true
}

func (w *work) peer(node string) (p Peer, ok bool) {
	i := slices.IndexFunc(w.peers, func(p Peer) bool { return p.Node == node })
	if i < 0 {
		return p, false
	}
	return w.peers[i], true
}

func (w *work) self(node string) bool { return node == w.n.conf.NodeID }

func (w *work) do(ctx context.Context, op string, in any) error {
	ctx, cancel := w.n.bounded(ctx)
	defer cancel()
	if _, err := edge.Do(ctx, w.x, self, "", op, in); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return errWait
}

func (w *work) settle(ctx context.Context, s Settled) error { return w.do(ctx, "sync.node.settle", s) }

// changed waits for a change of raft's configuration.
func (w *work) changed(f raft.Future) error {
	if err := f.Error(); err != nil {
		return fmt.Errorf("change membership: %w", err)
	}
	return errWait
}

const changeTimeout = 10 * time.Second

// caught says whether a member answers and lacks no more than a few entries, and for how long it has answered without a break.
func (w *work) caught(node string) (since time.Duration, ok bool) {
	g, seen := w.n.picture.get(node)
	if !seen || g.first.IsZero() || g.State == "parked" || g.LastIndex+w.n.conf.Pace.Behind < w.run.raft.LastIndex() {
		return 0, false
	}
	return w.now.Sub(g.first), true
}

// recover removes the nodes that an operator left behind.
func (w *work) recover(ctx context.Context) error {
	id, err := readIdentity(w.n.conf.Dir)
	if err != nil || len(id.Survivors) == 0 {
		return err
	}
	if err := w.do(ctx, "sync.node.recover", Survivors{Nodes: id.Survivors}); !errors.Is(err, errWait) {
		return err
	}
	id.Survivors = nil
	return errors.Join(id.write(w.n.conf.Dir), errWait)
}

// authorise makes a CA of its own on a node that is the whole cluster and holds no key of one: a replica with which an operator began anew before
// Recover did so. The old key went with the voters, and only nodes that were removed trust it.
func (w *work) authorise(context.Context) error {
	creds := w.n.conf.Credentials
	if creds == nil || len(w.servers) != 1 || len(w.peers) != 1 || !w.self(w.peers[0].Node) {
		return nil
	}
	made, err := creds.succeed(w.n.effectiveNow())
	if made {
		w.n.log.Warn("the key of the cluster's CA is gone with its voters: this node has made another CA")
	}
	return err
}

// found records the first node: the one that was alone.
func (w *work) found(ctx context.Context) error {
	if _, ok := w.n.conf.Directory.Peer(w.n.conf.NodeID); ok || len(w.servers) != 1 {
		return nil
	}
	return w.do(ctx, "sync.node.register", w.n.registration())
}

// observe writes down what has become of members: caught up, lost or found, with a vote or without.
func (w *work) observe(ctx context.Context) error {
	for _, p := range w.peers {
		s, in := w.server(p.Node)
		if !in {
			continue
		}
		if voter := s.Suffrage == raft.Voter; voter != p.Voter {
			return w.settle(ctx, Settled{Node: p.Node, Voter: &voter})
		}
		_, caught := w.caught(p.Node)
		if p.Status == Joining && caught {
			return w.settle(ctx, Settled{Node: p.Node, Caught: true})
		}
		if w.self(p.Node) {
			if p.LostAt != nil {
				return w.settle(ctx, Settled{Node: p.Node, Lost: new(false)})
			}
			continue
		}
		g, ok := w.n.picture.get(p.Node)
		if !ok {
			continue
		}
		heard := g.last
		if heard.IsZero() {
			heard = g.begun
		}
		lost := w.now.Sub(heard) > w.n.conf.Pace.Lost
		// What a node took while it was lost is seen first: until it has handed that over, it counts as lost.
		found := !lost && !g.last.IsZero() && g.Pending == 0
		if lost && p.LostAt == nil || found && p.LostAt != nil {
			return w.settle(ctx, Settled{Node: p.Node, Lost: &lost})
		}
	}
	return nil
}

// transfer hands leadership to a voter that has caught up.
func (w *work) transfer(node, why string) error {
	w.n.log.Info("handing leadership over", "to", node, "why", why)
	if err := w.run.raft.LeadershipTransferToServer(raft.ServerID(node), raft.ServerAddress(node)).Error(); err != nil {
		return fmt.Errorf("hand leadership to %s: %w", node, err)
	}
	return errWait
}

// fit says whether another node may be given the lead: it can be elected, and would not give the lead away again.
func (w *work) fit(node string) bool {
	s, _ := w.server(node)
	g, ok := w.n.picture.get(node)
	_, caught := w.caught(node)
	p, _ := w.peer(node)
	return s.Suffrage == raft.Voter && s.ID != "" && !w.self(node) && ok && caught && !g.DiskLow && p.mayLead()
}

// heir is the voter that is best placed to lead: well, with room on its disk, preferred, furthest on.
func (w *work) heir() string {
	best, bestPreferred, bestIndex := "", false, uint64(0)
	for _, s := range w.servers {
		node := string(s.ID)
		if !w.fit(node) {
			continue
		}
		g, _ := w.n.picture.get(node)
		p, _ := w.peer(node)
		if best == "" || p.Preferred && !bestPreferred || p.Preferred == bestPreferred && g.LastIndex > bestIndex {
			best, bestPreferred, bestIndex = node, p.Preferred, g.LastIndex
		}
	}
	return best
}

// leadWish is how long an operator's wish that a node lead stands.
const leadWish = time.Minute

// lead follows an operator's wish, until it is met.
func (w *work) lead(ctx context.Context) error {
	var newest *Peer
	for i := range w.peers {
		if p := &w.peers[i]; p.LeadAt != nil && (newest == nil || p.LeadAt.After(*newest.LeadAt)) {
			newest = p
		}
	}
	switch {
	case newest == nil || newest.LedAt != nil || w.n.effectiveNow().Sub(*newest.LeadAt) > leadWish:
		return nil
	case w.self(newest.Node):
		return w.settle(ctx, Settled{Node: newest.Node, Leads: true})
	case !w.fit(newest.Node):
		return nil
	}
	return w.transfer(newest.Node, "an operator asked")
}

// evict takes removed nodes out of raft's configuration.
func (w *work) evict(context.Context) error {
	for _, s := range w.servers {
		node := string(s.ID)
		p, ok := w.n.conf.Directory.Peer(node)
		if !ok || p.Status != Removed {
			continue
		}
		if w.self(node) {
			if heir := w.heir(); heir != "" {
				return w.transfer(heir, "this node was removed")
			}
			continue
		}
		w.n.log.Info("a node leaves", "node", node)
		return w.changed(w.run.raft.RemoveServer(s.ID, 0, changeTimeout))
	}
	return nil
}

// add lets nodes take part that were let in: without a vote at first.
func (w *work) add(ctx context.Context) error {
	for _, p := range w.peers {
		if _, in := w.server(p.Node); in {
			continue
		}
		if w.run.alone { // the time-outs of a lone node would hold no other
			return errors.Join(w.n.newLife(ctx), errWait)
		}
		w.n.log.Info("a node begins to follow", "node", p.Node)
		return w.changed(w.run.raft.AddNonvoter(raft.ServerID(p.Node), raft.ServerAddress(p.Node), 0, changeTimeout))
	}
	return nil
}

// demote takes the vote of nodes that are to have none.
func (w *work) demote(context.Context) error {
	for _, p := range w.peers {
		s, _ := w.server(p.Node)
		if s.Suffrage != raft.Voter || s.ID == "" || p.Role == Voter && p.RepairAt == nil {
			continue
		}
		if p.Role == Voter && mayLose(w.peers, p.Node, w.n.wellVoters(), false) != nil {
			continue // another has fallen silent since the repair was asked for: it waits
		}
		if w.self(p.Node) {
			if heir := w.heir(); heir != "" {
				return w.transfer(heir, "this node is to have no vote")
			}
			continue
		}
		return w.changed(w.run.raft.DemoteVoter(s.ID, 0, changeTimeout))
	}
	return nil
}

// disarm has nodes without a vote forget the key of the cluster's CA, again at each look until they have: a node that was just demoted may
// know no leader yet, and takes nobody's word for it.
func (w *work) disarm(ctx context.Context) error {
	for _, p := range w.peers {
		s, in := w.server(p.Node)
		if !in || s.Suffrage == raft.Voter || p.Role == Voter || w.self(p.Node) {
			continue
		}
		if g, ok := w.n.picture.get(p.Node); !ok || g.first.IsZero() || !g.HoldsCA {
			continue
		}
		if _, err := w.n.Call(ctx, p.Node, methodDropKey, nil); err != nil {
			w.n.log.Info("a node without a vote still holds the key of the cluster's CA", "node", p.Node, "error", err)
		}
	}
	return nil
}

// repair fills a node anew that has lost its vote for it.
func (w *work) repair(ctx context.Context) error {
	for _, p := range w.peers {
		s, in := w.server(p.Node)
		if p.RepairAt == nil || !in || s.Suffrage == raft.Voter || w.self(p.Node) {
			continue
		}
		g, ok := w.n.picture.get(p.Node)
		if !ok || g.first.IsZero() {
			continue
		}
		done, err := w.n.refilled(ctx, p)
		switch {
		case err != nil:
			w.n.log.Warn("a node is not filled anew yet", "node", p.Node, "error", err)
		case done:
			if _, caught := w.caught(p.Node); caught {
				return w.settle(ctx, Settled{Node: p.Node, Repaired: true})
			}
		}
	}
	return nil
}

// promote gives a vote to nodes that are meant to have one, have been stable for a while and have caught up.
func (w *work) promote(ctx context.Context) error {
	for _, p := range w.peers {
		s, in := w.server(p.Node)
		if !in || s.Suffrage == raft.Voter || p.Role != Voter || p.RepairAt != nil || p.Status != Joined {
			continue
		}
		if since, caught := w.caught(p.Node); !caught || since < w.n.conf.Pace.Stable {
			continue
		}
		if g, _ := w.n.picture.get(p.Node); !g.HoldsCA {
			if err := w.n.handCAKey(ctx, p); err != nil {
				w.n.log.Warn("a node does not get the key of the cluster's CA yet", "node", p.Node, "error", err)
				continue
			}
		}
		w.n.log.Info("a node gets its vote", "node", p.Node)
		return w.changed(w.run.raft.AddVoter(s.ID, s.Address, 0, changeTimeout))
	}
	return nil
}

// replace removes nodes whose place another has taken: at once when they are lost, else when the other is what they were.
func (w *work) replace(ctx context.Context) error {
	for _, p := range w.peers {
		if p.ReplacedBy == "" {
			continue
		}
		heir, ok := w.peer(p.ReplacedBy)
		ready := ok && heir.Status == Joined && (heir.Voter || heir.Role == Replica)
		g, seen := w.n.picture.get(p.Node)
		lost := seen && w.now.Sub(later(g.last, g.begun)) >= w.n.conf.Pace.Lost
		if !ready && (w.self(p.Node) || !lost) || w.handsOver(p.Node, g, lost) {
			continue
		}
		if p.Voter && mayLose(w.peers, p.Node, w.n.wellVoters(), false) != nil {
			continue
		}
		return w.settle(ctx, Settled{Node: p.Node, Removed: "replaced by " + p.ReplacedBy})
	}
	return nil
}

// handsOver says whether a node that is not lost has writes that it accepted alone, or has not said yet. Removed, it could not hand them over any more.
func (w *work) handsOver(node string, g sighting, lost bool) bool {
	if w.self(node) {
		return w.n.stats().Pending > 0
	}
	return !lost && (g.last.IsZero() || g.Pending > 0)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// removeDead removes nodes that are lost for longer than the operator allows, where a majority of the others is well.
func (w *work) removeDead(ctx context.Context) error {
	after := w.n.conf.Pace.RemoveDead
	if after == 0 {
		return nil
	}
	for _, p := range w.peers {
		if p.LostAt == nil || w.self(p.Node) || w.n.effectiveNow().Sub(*p.LostAt) < after {
			continue
		}
		if p.Voter && mayLose(w.peers, p.Node, w.n.wellVoters(), false) != nil {
			continue
		}
		return w.settle(ctx, Settled{Node: p.Node, Removed: "lost for longer than cluster.remove_dead_after"})
	}
	return nil
}

// spare gives leadership away when this disk runs low: nothing that grows could be written here.
func (w *work) spare(context.Context) error {
	if !w.n.diskLow() {
		return nil
	}
	if heir := w.heir(); heir != "" {
		return w.transfer(heir, "the disk is low")
	}
	return nil
}

// handOver gives leadership to a preferred node that has been well for a while.
func (w *work) handOver(context.Context) error {
	heir := w.heir()
	if heir == "" {
		return nil
	}
	me, _ := w.peer(w.n.conf.NodeID)
	other, _ := w.peer(heir)
	if since, _ := w.caught(heir); other.Preferred && !me.Preferred && since >= w.n.conf.Pace.Stable && !w.wished(me) {
		return w.transfer(heir, "it is preferred")
	}
	return nil
}

// wished says whether an operator asked for this leader a short while ago.
func (w *work) wished(p Peer) bool {
	const stands = 15 * time.Minute
	return p.LeadAt != nil && w.n.effectiveNow().Sub(*p.LeadAt) < stands
}

package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"wispgate/edge"
)

// methodMeet is what a node asks that was told it is removed: whether a recovery did it. It is all that a removed node is answered.
const methodMeet = "sync.meet"

const (
	meetEvery = 10 * time.Second // a handshake each
	metFor    = 10 * time.Minute // how long after the last word of it another history is shown
)

// HistoryFix is what an operator does where two histories of a cluster go on.
const HistoryFix = "Decide which of the two goes on. Stop every node of the other, enter here by hand what it took since, empty their data folders, and let them join " +
	"under another node.id: see docs/cluster.md"

// History is another history of this cluster, as one of its nodes told: after a recovery those that were left behind came back, and both sides
// take each other's part for lost.
type History struct {
	Node        string    `json:"node"` // that told
	Incarnation string    `json:"incarnation"`
	Leader      string    `json:"leader,omitempty"`
	Version     uint64    `json:"version,omitempty"` // of the state there
	Seen        time.Time `json:"seen"`
}

// Says is that in a sentence for people.
func (h *History) Says() string {
	return fmt.Sprintf("Two histories of this cluster are at work since a recovery: node %s goes on with another (incarnation %s), and neither takes over what the other commits",
		h.Node, h.Incarnation)
}

// LeftBehind is that in a sentence where the node that met it was removed: nothing is committed on its side.
func (h *History) LeftBehind() string {
	return fmt.Sprintf("A recovery has left this node behind: node %s goes on with another history of this cluster (incarnation %s)", h.Node, h.Incarnation)
}

// HistoryMet says that a node of another history of this cluster was met: after a recovery both sides are at work.
type HistoryMet struct {
	ID          edge.ID `json:"id"`
	Node        string  `json:"node"`
	Incarnation string  `json:"incarnation"`
}

// EventName implements edge.Event.
func (HistoryMet) EventName() string { return "sync.history.met" }

// Subject implements edge.Event.
func (e HistoryMet) Subject() edge.ID { return e.ID }

// MetHistory is a node of another history that was met.
type MetHistory struct {
	Node        string `json:"node" check:"max=64" doc:"The node."`
	Incarnation string `json:"incarnation" check:"max=64" doc:"The history that it goes on with."`
}

// meetHistory tells the world. Nothing else changes: which history goes on people decide.
var meetHistory = edge.Command[MetHistory, edge.None]{
	Name: "sync.history.meet", Scope: "sync:write", Class: edge.Admin, Summary: "Say that another history of the cluster was met",
	Handle: func(tx edge.Tx, in MetHistory) (none edge.None, err error) {
		if err := onlyCluster(tx); err != nil {
			return none, err
		}
		p, err := peer(tx, in.Node)
		if err == nil {
			tx.Emit(HistoryMet{p.ID, p.Node, in.Incarnation})
		}
		return none, err
	},
}

// meetings are the nodes of other histories that this node has met.
type meetings struct {
	mu    sync.Mutex
	asked map[string]time.Time
	met   map[string]History
	told  map[string]string // node: the incarnation for which the event is made
}

// due says whether to ask a node again.
func (m *meetings) due(node string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.asked[node]; ok && now.Sub(at) < meetEvery {
		return false
	}
	if m.asked == nil {
		m.asked = map[string]time.Time{}
	}
	m.asked[node] = now
	return true
}

// note keeps what was heard and says whether it is news.
func (m *meetings) note(h History) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.met == nil {
		m.met, m.told = map[string]History{}, map[string]string{}
	}
	news = m.met[h.Node].Incarnation != h.Incarnation
	m.met[h.Node] = h
	return news
}

func (m *meetings) list(now time.Time) (list []History) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for node, h := range m.met {
		if now.Sub(h.Seen) > metFor {
			delete(m.met, node)
			continue
		}
		list = append(list, h)
	}
	return list
}

// tell runs say unless it was said of this meeting already.
func (m *meetings) tell(h History, say func() error) error {
	m.mu.Lock()
	done := m.told[h.Node] == h.Incarnation
	m.mu.Unlock()
	if done {
		return nil
	}
	if err := say(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told[h.Node] = h.Incarnation
	return nil
}

// greeting is what two histories say to each other.
type greeting struct {
	Incarnation string `json:"incarnation"`
	Leader      string `json:"leader,omitempty"` // "": it hears none, so nothing is committed there
	Version     uint64 `json:"version"`
}

func (n *Node) greeting() greeting {
	g := greeting{Incarnation: n.conf.Incarnation, Version: n.machine.Version()}
	if n.Contact() {
		g.Leader = n.leaderID()
	}
	return g
}

// meet asks a member by which this node was told that it is removed whether it has begun another history. It has proved itself by the key that
// its record here pins, whatever CA it has now.
func (n *Node) meet(ctx context.Context, node string) {
	if !n.meetings.due(node, n.conf.Now()) {
		return
	}
	said, err := json.Marshal(n.greeting())
	if err != nil {
		return
	}
	raw, err := n.callOnce(ctx, node, methodMeet, said, anyCA)
	var g greeting
	if err == nil {
		err = json.Unmarshal(raw, &g)
	}
	switch {
	case err != nil:
		n.log.Debug("a member that has removed this node does not say more", "node", node, "error", err)
	case g.Incarnation != "" && g.Incarnation != n.conf.Incarnation:
		n.met(node, g)
	}
}

// serveMeet answers a removed node, on one that has recovered its cluster. Only who goes on with a history that was left here then, and hears a
// leader of it, is another history: others have come back alone and hear that they are removed.
func (n *Node) serveMeet(from string, body []byte) ([]byte, error) {
	if len(n.conf.Former) == 0 {
		return nil, ErrPeerGone.Error(edge.Unavailable)
	}
	var g greeting
	if err := json.Unmarshal(body, &g); err != nil {
		return nil, ErrPeerGone.Error(edge.Unavailable)
	}
	if g.Leader != "" && g.Incarnation != n.conf.Incarnation && slices.Contains(n.conf.Former, g.Incarnation) {
		n.met(from, g)
	}
	return json.Marshal(n.greeting())
}

// met notes another history, and says so: in the log, and once to the world where this side has a leader.
func (n *Node) met(node string, g greeting) {
	h := History{Node: node, Incarnation: g.Incarnation, Leader: g.Leader, Version: g.Version, Seen: n.conf.Now()}
	if n.meetings.note(h) {
		n.log.Error("another history of this cluster is at work: a recovery left nodes behind that are back, or this node is one of them",
			"node", node, "incarnation", h.Incarnation, "leader", h.Leader, "own_incarnation", n.conf.Incarnation)
	}
	n.mu.RLock()
	x := n.x
	n.mu.RUnlock()
	if x == nil || !n.Contact() {
		return
	}
	n.spawn(func() {
		ctx, cancel := n.bounded(n.life)
		defer cancel()
		err := n.meetings.tell(h, func() error {
			_, err := edge.Do(ctx, x, self, "met-"+n.conf.Incarnation+"-"+h.Node+"-"+h.Incarnation, "sync.history.meet", MetHistory{h.Node, h.Incarnation})
			return err
		})
		if err != nil && ctx.Err() == nil {
			n.log.Warn("the event of another history is not made yet", "error", err)
		}
	})
}

// Histories are other histories of this cluster that are at work, as this node or its leader has met them lately.
func (n *Node) Histories() []History {
	list := n.meetings.list(n.conf.Now())
	views, at := n.toldMembers()
	for _, v := range views {
		if v.History != "" && n.conf.Now().Sub(at) <= metFor && !slices.ContainsFunc(list, func(h History) bool { return h.Node == v.Node }) {
			list = append(list, History{Node: v.Node, Incarnation: v.History, Seen: at})
		}
	}
	slices.SortFunc(list, func(a, b History) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

// errApart says that a member is there and has another CA: it has begun another history.
var errApart = errors.New("the node has begun another history of the cluster, with another CA")

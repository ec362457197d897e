package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"wispgate/edge"
)

// CarriedLog holds the entries of an excerpt against what it says of itself, one by one: they follow on each other from Prev to Commit, and
// their terms never fall.
type CarriedLog struct {
	part        LogPart
	index, term uint64
}

// Carried begins the check of a part that was read from a bundle.
func (p LogPart) Carried() (*CarriedLog, error) {
	if !p.sound() {
		return nil, ErrCarryDamaged.Error(edge.Invalid)
	}
	if p.State != nil {
		if err := soundConfiguration(p.State.Configuration); err != nil {
			return nil, err
		}
	}
	return &CarriedLog{part: p, index: p.Prev, term: p.PrevTerm}, nil
}

// soundConfiguration decodes a configuration, on which raft would panic where it cannot be read.
func soundConfiguration(raw []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = ErrCarryDamaged.Error(edge.Invalid)
		}
	}()
	if len(raft.DecodeConfiguration(raw).Servers) == 0 {
		return ErrCarryDamaged.Error(edge.Invalid)
	}
	return nil
}

// Entry checks the next entry.
func (c *CarriedLog) Entry(raw []byte) (*raft.Log, error) {
	l, err := parseLog(raw)
	if err != nil {
		return nil, err
	}
	if l.Index != c.index+1 || l.Index > c.part.Commit || l.Term < c.term || l.Term > c.part.Term {
		return nil, ErrCarryDamaged.Error(edge.Invalid)
	}
	if l.Type == raft.LogConfiguration {
		if err := soundConfiguration(l.Data); err != nil {
			return nil, err
		}
	}
	c.index, c.term = l.Index, l.Term
	return l, nil
}

// End checks that nothing is missing.
func (c *CarriedLog) End() error {
	if c.index != c.part.Commit {
		return ErrCarryDamaged.Error(edge.Invalid)
	}
	return nil
}

// LogTaken is what came of a carried excerpt.
type LogTaken struct {
	Was       uint64 `json:"was" doc:"Version of the state before."`
	Version   uint64 `json:"version" doc:"Version of the state now."`
	Entries   uint64 `json:"entries" doc:"Log entries in the bundle."`
	Installed bool   `json:"installed,omitempty" doc:"Whether the whole state was replaced."`
}

// LogSource is what is read of a bundle: the state, then the entries up to io.EOF.
type LogSource interface {
	io.Reader
	Next() ([]byte, error)
}

// How much is fed to raft at once: what a leader sends, and for how long an answer is waited for.
const (
	feedEntries = 64
	feedOctets  = 1 << 20
	feedWithin  = 2 * time.Minute
)

// TakeLog feeds a carried excerpt to raft, as if its leader had just sent it. Raft judges: its checks of term, previous entry and matching
// log are the same for a stick as for a wire. It may be repeated; what is there is skipped.
func (n *Node) TakeLog(ctx context.Context, part LogPart, src LogSource, told func(entries uint64)) (taken LogTaken, err error) {
	n.feedMu.Lock()
	defer n.feedMu.Unlock()
	run := n.current()
	switch {
	case n.port == nil:
		return taken, ErrCarryAlone.Error(edge.Conflict)
	case run == nil:
		return taken, n.whyParked()
	case run.raft.State() == raft.Leader:
		return taken, ErrCarryLeads.Error(edge.Conflict)
	case part.Term < run.raft.CurrentTerm():
		return taken, errTerm(part.Term, run.raft.CurrentTerm())
	}
	if err := n.machine.Store().CheckDisk(); err != nil {
		return taken, err
	}
	checked, err := part.Carried()
	if err != nil {
		return taken, err
	}
	n.carried.begin()
	defer func() { n.carried.end(run.raft.LastContact()) }()
	f := &feeder{node: n, run: run, part: part, checked: checked, src: src, told: told}
	taken = LogTaken{Was: n.machine.Version(), Entries: part.Entries()}
	if part.State != nil {
		if taken.Installed, err = f.state(ctx); err != nil {
			return taken, err
		}
	}
	if err := f.entries(ctx); err != nil {
		return taken, err
	}
	if index, err := n.lastCommand(run, part.Commit); err == nil {
		_ = n.waitApplied(ctx, index) // it is committed in any case
	}
	taken.Version = n.machine.Version()
	return taken, nil
}

// carriedUpTo is up to when a leader was heard by a bundle, which is no sign of a link. It compares times as the process measures them: where the wall
// clock is set back after an import, a node that is linked would take itself for cut off until it has caught up.
type carriedUpTo struct{ at atomic.Pointer[time.Time] }

// begin says that from here on whatever is heard is a bundle's, and end up to when.
func (c *carriedUpTo) begin() { c.at.Store(new(endOfTime)) }

func (c *carriedUpTo) end(last time.Time) { c.at.Store(&last) }

// before reports that a leader that was heard at that time was heard by the network.
func (c *carriedUpTo) before(last time.Time) bool {
	at := c.at.Load()
	return at == nil || last.After(*at)
}

var endOfTime = time.Unix(1<<40, 0)

func errTerm(bundle, here uint64) error {
	e := ErrCarryTerm.Error(edge.Conflict)
	e.Message = fmt.Sprintf("The bundle is of a leader that is none any more, as far as this node knows (term %d, here %d)", bundle, here)
	return e
}

// feeder feeds one excerpt.
type feeder struct {
	node    *Node
	run     *running
	part    LogPart
	checked *CarriedLog
	src     LogSource
	told    func(uint64)
}

func (f *feeder) header() raft.RPCHeader {
	return raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(f.part.Leader), Addr: f.run.trans.EncodePeer(raft.ServerID(f.part.Leader), raft.ServerAddress(f.part.Leader)),
	}
}

// state has the state installed, unless the log holds the entry at which it stands: then it is older than what is here, and an entry that
// this node has acknowledged must never be taken away from it. Nothing else reaches raft meanwhile.
func (f *feeder) state(ctx context.Context) (installed bool, err error) {
	g := f.run.guard
	g.turn.Lock()
	defer g.turn.Unlock()
	// Raft answers in order, so all that came before this is done when it is answered.
	if err := f.append(ctx, &raft.AppendEntriesRequest{}); err != nil {
		return false, err
	}
	term, err := f.run.termOf(f.part.Prev)
	switch {
	case err != nil && !errors.Is(err, raft.ErrLogNotFound):
		return false, fmt.Errorf("read raft log: %w", err)
	case err == nil && term == f.part.PrevTerm, f.node.committed(f.run) >= f.part.Prev:
		_, err := io.Copy(io.Discard, f.src)
		return false, err
	}
	req := &raft.InstallSnapshotRequest{
		RPCHeader: f.header(), SnapshotVersion: raft.SnapshotVersionMax, Term: f.part.Term,
		LastLogIndex: f.part.Prev, LastLogTerm: f.part.PrevTerm, Size: f.part.State.Size,
		Configuration: f.part.State.Configuration, ConfigurationIndex: f.part.State.ConfigurationIndex,
	}
	answer, err := f.ask(ctx, req, f.src, 0)
	if err != nil {
		return false, err
	}
	resp, ok := answer.(*raft.InstallSnapshotResponse)
	if !ok || !resp.Success {
		return false, ErrCarryRefused.Error(edge.Unavailable)
	}
	return true, nil
}

// entries feeds the entries a page at a time, from where this node's log is surely the cluster's: what is before that may be cut. Each page
// commits no further than itself: what the log holds beyond may still be another leader's.
func (f *feeder) entries(ctx context.Context) error {
	prev, prevTerm := f.part.Prev, f.part.PrevTerm
	from := f.node.committed(f.run)
	for last := false; !last; {
		var page []*raft.Log
		size := 0
		for len(page) < feedEntries && size < feedOctets && !last {
			l, err := f.next()
			switch {
			case err != nil:
				return err
			case l == nil:
				last = true
			case l.Index <= from:
				prev, prevTerm = l.Index, l.Term
			default:
				page, size = append(page, l), size+len(l.Data)
			}
		}
		if prev < from { // all that is in the bundle is here
			break
		}
		req := &raft.AppendEntriesRequest{PrevLogEntry: prev, PrevLogTerm: prevTerm, Entries: page, LeaderCommitIndex: prev}
		if len(page) > 0 {
			end := page[len(page)-1]
			prev, prevTerm = end.Index, end.Term
			req.LeaderCommitIndex = prev
		}
		if err := f.append(ctx, req); err != nil {
			return err
		}
		f.told(prev - f.part.Prev)
	}
	return nil
}

// next is the next entry, nil after the last.
func (f *feeder) next() (*raft.Log, error) {
	raw, err := f.src.Next()
	if errors.Is(err, io.EOF) {
		return nil, f.checked.End()
	}
	if err != nil {
		return nil, err
	}
	return f.checked.Entry(raw)
}

// append has raft take entries. An answer without success means that the entry before them is not the one here.
func (f *feeder) append(ctx context.Context, req *raft.AppendEntriesRequest) error {
	req.RPCHeader, req.Term = f.header(), f.part.Term
	f.run.guard.known(req)
	answer, err := f.ask(ctx, req, nil, feedWithin)
	if err != nil {
		return err
	}
	resp, ok := answer.(*raft.AppendEntriesResponse)
	switch {
	case !ok:
		return ErrCarryRefused.Error(edge.Unavailable)
	case resp.Term > f.part.Term:
		return errTerm(f.part.Term, resp.Term)
	case !resp.Success:
		return ErrCarryGap.Error(edge.Conflict)
	}
	return nil
}

// ask hands raft a request on the way on which those of the network come, and waits for its answer; 0: however long.
func (f *feeder) ask(ctx context.Context, req any, body io.Reader, within time.Duration) (any, error) {
	if within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: req, Reader: body, RespChan: answer}
	select {
	case f.run.guard.rpcs <- rpc:
	case <-f.run.quit:
		return nil, ErrCarryRefused.Error(edge.Unavailable)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a, ok := edge.Hear(answer, f.run.quit, ctx.Done())
	switch {
	case ok && a.Error == nil:
		return a.Response, nil
	case !ok && ctx.Err() != nil: // raft still has the request and, of a state, the reader
		return nil, ctx.Err()
	case ok:
		f.node.log.Warn("raft refused what was carried here", "error", a.Error)
	}
	return nil, ErrCarryRefused.Error(edge.Unavailable)
}

func unixNano(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// queue is the way to raft on which requests of the network and carried ones meet, one after the other.
type queue struct {
	rpcs   chan raft.RPC
	quit   chan struct{}               // closed when raft takes no more
	turn   sync.Mutex                  // held while one is handed over, and for as long as nothing may come between
	stands func() (index, term uint64) // where this node's snapshot stands
}

// known takes the entry before the new ones off a request where it is the one at which this node's snapshot stands: it is here, in the state.
// Raft looks for it in the log, which begins behind it, and refuses; the leader would go back entry by entry and send the state once more.
//
// Nor does the log hold what comes before. A leader that left this node far behind, and does not know of a state that was carried here, begins
// there: raft would look for those entries, refuse, and be sent the same again for as long as that leader leads. They are in the state.
func (q *queue) known(req *raft.AppendEntriesRequest) {
	index, term := q.stands()
	switch {
	case index == 0:
	case req.PrevLogEntry == index && req.PrevLogTerm == term:
		if req.PrevLogEntry, req.PrevLogTerm = 0, 0; len(req.Entries) == 0 { // as below
			req.LeaderCommitIndex = min(req.LeaderCommitIndex, index)
		}
	case req.PrevLogEntry < index && len(req.Entries) > 0:
		last := req.Entries[len(req.Entries)-1].Index
		here := slices.IndexFunc(req.Entries, func(l *raft.Log) bool { return l.Index > index })
		if here < 0 {
			here = len(req.Entries)
		}
		if here == 0 || req.Entries[here-1].Index == index && req.Entries[here-1].Term != term {
			return // no leader of this cluster sends that; raft is to judge it
		}
		// What the log holds beyond may still be another leader's: raft would commit all of it by a request without entries.
		req.PrevLogEntry, req.PrevLogTerm, req.Entries, req.LeaderCommitIndex = 0, 0, req.Entries[here:], min(req.LeaderCommitIndex, last)
	}
}

// forward hands over what the network brings until quit.
func (q *queue) forward(from <-chan raft.RPC) {
	for {
		select {
		case rpc := <-from:
			q.pass(rpc)
		case <-q.quit:
			return
		}
	}
}

func (q *queue) pass(rpc raft.RPC) {
	q.turn.Lock()
	defer q.turn.Unlock()
	if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
		q.known(req)
	}
	select {
	case q.rpcs <- rpc:
	case <-q.quit:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

// InTurn has a heartbeat that changes who leads wait until raft's main loop comes to it, as every other request does: raft answers heartbeats on the
// goroutine of their connection, and a term that changes beside the loop is in the entries that it writes meanwhile, as if this node led in that term
// (hashicorp/raft, issue 695). The library calls it where scripts/gomended built it.
func (q *queue) InTurn(rpc raft.RPC) { go q.pass(rpc) }

package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"wispgate/edge"
)

// LogPart is what an excerpt of the log says of itself: what a leader says in an AppendEntries beside the entries, for all of them at once.
type LogPart struct {
	Leader   string `json:"leader"`
	Term     uint64 `json:"term"`
	Prev     uint64 `json:"prev_index"` // the entry before the first
	PrevTerm uint64 `json:"prev_term"`
	Commit   uint64 `json:"commit_index"` // and the last entry

	// State says that a state comes before the entries, because the log does not reach back far enough. It stands at Prev.
	State *StatePart `json:"state,omitempty"`
}

// Entries is how many there are.
func (p LogPart) Entries() uint64 { return p.Commit - p.Prev }

// sound refuses what no leader says.
func (p LogPart) sound() bool {
	return p.Leader != "" && p.Term > 0 && p.Prev <= p.Commit && p.PrevTerm <= p.Term && (p.Prev == 0) == (p.PrevTerm == 0) &&
		(p.State == nil || p.State.Size > 0 && p.Prev > 0)
}

// StatePart is what a leader says in an InstallSnapshot beside the state.
type StatePart struct {
	Size               int64  `json:"size"`
	Configuration      []byte `json:"configuration"`
	ConfigurationIndex uint64 `json:"configuration_index"`
}

// Excerpt is what a member lacks, held ready on the leader.
type Excerpt struct {
	Part LogPart

	run   *running
	state io.ReadCloser // nil without
}

// ExcerptFor gathers what a member lacks: from after the entry *from, or as far back as this node knows that it must.
func (n *Node) ExcerptFor(ctx context.Context, node string, from *uint64) (*Excerpt, error) {
	run, err := n.proveLead(ctx, node)
	if err != nil {
		return nil, err
	}
	part := LogPart{Leader: n.conf.NodeID, Term: run.raft.CurrentTerm(), Commit: run.raft.CommitIndex()}
	if from != nil {
		part.Prev = *from
	} else if part.Prev, err = n.lastOf(run, node); err != nil {
		return nil, err
	}
	part.Prev = min(part.Prev, part.Commit)
	x := &Excerpt{Part: part, run: run}
	x.Part.PrevTerm, err = run.termOf(part.Prev)
	first, ferr := run.log.FirstIndex()
	switch {
	case ferr != nil:
		return nil, fmt.Errorf("read raft log: %w", ferr)
	case errors.Is(err, raft.ErrLogNotFound), err == nil && part.Prev+1 < first:
		if err = x.withState(); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("read raft log: %w", err)
	}
	if run.raft.CurrentTerm() != part.Term { // what was read may not be what this leader holds
		return nil, errors.Join(ErrCarryLeader.Error(edge.Unavailable), x.Close())
	}
	return x, nil
}

// proveLead refuses where nothing can be exported for the member.
func (n *Node) proveLead(ctx context.Context, node string) (*running, error) {
	run := n.current()
	switch {
	case n.port == nil:
		return nil, ErrCarryAlone.Error(edge.Conflict)
	case node == n.conf.NodeID:
		return nil, ErrCarrySelf.Error(edge.Invalid)
	case run == nil:
		return nil, n.whyParked()
	case run.raft.State() != raft.Leader:
		e := ErrCarryLeader.Error(edge.Conflict)
		if leader := n.leaderID(); leader != "" {
			e.Message = "Only the leader can say what the cluster has committed, and that is " + leader
			e.Fix = "Run it at node " + leader
		}
		return nil, e
	}
	if p, ok := n.conf.Directory.Peer(node); !ok {
		return nil, ErrPeerUnknown.Error(edge.NotFound)
	} else if p.Status == Removed {
		return nil, ErrPeerRemoved.Error(edge.Conflict)
	}
	_, err := n.readIndex(ctx) // also: an entry of its own term is committed, so that all up to the commit index is
	return run, err
}

// lastOf is the last entry that the member and this leader surely have in common, as far as anybody has said: the member by a bundle, or
// when this leader last saw it.
func (n *Node) lastOf(run *running, node string) (uint64, error) {
	n.carryMu.Lock()
	all, err := n.positions()
	n.carryMu.Unlock()
	if err != nil {
		return 0, err
	}
	noted, known := all[node]
	last := noted.Commit
	if term, err := run.termOf(noted.Last); known && err == nil && term == noted.LastTerm {
		last = max(last, noted.Last) // same index, same term: same log
	}
	if seen, ok := n.picture.get(node); ok && !seen.last.IsZero() {
		known, last = true, max(last, seen.AppliedIndex)
	}
	if !known {
		return 0, ErrCarryWhere.Error(edge.Conflict)
	}
	return last, nil
}

// withState puts the state, as it is now, before the entries.
func (x *Excerpt) withState() error {
	list, err := x.run.snaps.List()
	switch {
	case err != nil:
		return err
	case len(list) == 0: // cut just now, and its name is not written yet
		return ErrCarryOvertook.Error(edge.Unavailable)
	}
	meta, state, err := x.run.snaps.Open(list[0].ID)
	if err != nil {
		return fmt.Errorf("hold the state: %w", err)
	}
	x.state = state
	x.Part.Prev, x.Part.PrevTerm = meta.Index, meta.Term
	x.Part.Commit = max(x.Part.Commit, meta.Index)
	x.Part.State = &StatePart{Size: meta.Size, Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex}
	return nil
}

// Close lets go of what is held.
func (x *Excerpt) Close() error {
	if x.state == nil {
		return nil
	}
	return x.state.Close()
}

// WriteState writes the state, where there is one.
func (x *Excerpt) WriteState(w io.Writer) error {
	if x.state == nil {
		return nil
	}
	n, err := io.Copy(w, x.state)
	if err == nil && n != x.Part.State.Size {
		err = fmt.Errorf("the state has %d octets, not %d", n, x.Part.State.Size)
	}
	return err
}

// Each visits the entries, encoded.
func (x *Excerpt) Each(ctx context.Context, visit func(entry []byte) error) error {
	for i := x.Part.Prev + 1; i <= x.Part.Commit; i++ {
		var l raft.Log
		if err := x.run.log.GetLog(i, &l); errors.Is(err, raft.ErrLogNotFound) {
			return ErrCarryOvertook.Error(edge.Unavailable)
		} else if err != nil {
			return fmt.Errorf("read raft log: %w", err)
		}
		if err := visit(encodeLog(&l)); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// logHead is what stands before an entry's data: index, term, type, when it was appended, and the length of the extensions that come last.
const logHead = 8 + 8 + 1 + 8 + 4

func encodeLog(l *raft.Log) []byte {
	b := make([]byte, 0, logHead+len(l.Data)+len(l.Extensions))
	b = binary.BigEndian.AppendUint64(b, l.Index)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	at := int64(0)
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	return append(append(b, l.Data...), l.Extensions...)
}

func parseLog(raw []byte) (*raft.Log, error) {
	if len(raw) < logHead {
		return nil, ErrCarryDamaged.Error(edge.Invalid)
	}
	l := &raft.Log{Index: binary.BigEndian.Uint64(raw), Term: binary.BigEndian.Uint64(raw[8:]), Type: raft.LogType(raw[16])}
	at, ext := int64(binary.BigEndian.Uint64(raw[17:])), uint64(binary.BigEndian.Uint32(raw[25:]))
	body := raw[logHead:]
	if ext > uint64(len(body)) || l.Type > raft.LogConfiguration || l.Type == raft.LogAddPeerDeprecated || l.Type == raft.LogRemovePeerDeprecated {
		return nil, ErrCarryDamaged.Error(edge.Invalid)
	}
	if at != 0 {
		l.AppendedAt = unixNano(at)
	}
	cut := len(body) - int(ext)
	if l.Data = body[:cut:cut]; ext > 0 {
		l.Extensions = body[cut:]
	}
	return l, nil
}

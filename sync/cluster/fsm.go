package cluster

import (
	"io"

	"github.com/hashicorp/raft"

	"wispgate/edge/exec"
)

// fsm hands committed entries to the machine, a batch at a time.
type fsm struct {
	machine *exec.Machine
	applied *broadcast
	waiting *backlog
}

var _ raft.BatchingFSM = fsm{}

func (f fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch answers each log with an error or nil. Configuration entries are raft's own business.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	entries := make([]exec.LogEntry, 0, len(logs))
	slot := make([]int, 0, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			entries = append(entries, exec.LogEntry{Index: l.Index, Term: l.Term, Data: l.Data})
			slot = append(slot, i)
		}
	}
	for i, err := range f.machine.ApplyBatch(entries) {
		if err != nil {
			answers[slot[i]] = err
		}
	}
	f.waiting.done(logs[len(logs)-1].Index)
	f.applied.wake()
	return answers
}

// Snapshot makes what is applied durable, so that the log below it may go. The state is the snapshot: nothing is copied. A machine that
// met an entry it could not apply must keep the log, so it refuses.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.machine.Fatal(); err != nil {
		return nil, err
	}
	if err := f.machine.Flush(); err != nil {
		return nil, err
	}
	return nothing{}, nil
}

func (f fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	defer f.applied.wake()
	return f.machine.Restore(r)
}

// nothing is the snapshot that is already where it belongs.
type nothing struct{}

func (nothing) Persist(raft.SnapshotSink) error { return nil }
func (nothing) Release()                        {}

package cluster

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// appends remembers what is stored at once.
type appends struct {
	walStore
	calls [][]*raft.Log
}

func (a *appends) LastIndex() (uint64, error) { return 0, nil }

func (a *appends) StoreLogs(logs []*raft.Log) error {
	a.calls = append(a.calls, logs)
	return nil
}

func TestALargeAppendGoesToTheLogInPieces(t *testing.T) {
	var wal appends
	l := &logStore{walStore: &wal, timeout: time.Minute, unfit: func(err error) { t.Error(err) }}
	var logs []*raft.Log
	for i := range 64 {
		logs = append(logs, &raft.Log{Index: uint64(i + 1), Data: make([]byte, 100<<10)})
	}
	logs = append(logs, &raft.Log{Index: 65, Data: make([]byte, 2*appendMost)}, &raft.Log{Index: 66})
	check(t, l.StoreLogs(logs))
	next := uint64(1)
	for _, call := range wal.calls {
		size := 0
		for _, log := range call {
			if log.Index != next {
				t.Fatalf("got entry %d, want %d", log.Index, next)
			}
			next++
			size += len(log.Data)
		}
		if size > appendMost && len(call) > 1 {
			t.Errorf("%d entries of %d octets went to the log at once", len(call), size)
		}
	}
	if next != 67 {
		t.Errorf("entry %d was not stored", next)
	}
}

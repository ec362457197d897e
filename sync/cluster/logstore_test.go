package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	"wispgate/edge/edgetest/bubble"

	"github.com/hashicorp/raft"
)

// appends remembers what is stored at once.
type appends struct {
	walStore
	calls [][]*raft.Log
}

func (a *appends) GetLog(index uint64, log *raft.Log) error {
	*log = raft.Log{Index: index, Data: make([]byte, backlogMost/4)}
	return nil
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

// A follower takes entries no faster than it applies them, so that what waits for the state machine stays small. It waits no longer than a
// moment: with a state machine that stands still the log goes on.
func TestTheLogWaitsForTheStateMachine(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var wal appends
		l := &logStore{walStore: &wal, timeout: time.Minute, unfit: func(err error) { t.Error(err) }}
		read := func(from, to uint64) {
			for i := from; i <= to; i++ {
				check(t, l.GetLog(i, new(raft.Log)))
			}
		}
		store := func(index uint64) { check(t, l.StoreLog(&raft.Log{Index: index})) }
		read(1, 4)
		store(5) // there is room
		read(5, 5)
		go store(6)
		synctest.Wait()
		if len(wal.calls) != 1 {
			t.Fatal("an entry was stored while too much waits")
		}
		l.waiting.done(1)
		synctest.Wait()
		if len(wal.calls) != 2 {
			t.Fatal("no entry was stored although there is room")
		}
		read(1, 1) // to be sent: it is applied
		store(7)
		read(6, 7)
		begin := time.Now()
		store(8)
		if got := time.Since(begin); got != backlogWait {
			t.Errorf("waited %v for a state machine that stands still, want %v", got, backlogWait)
		}
		l.leads.Store(true)
		begin = time.Now()
		store(9)
		if got := time.Since(begin); got != 0 {
			t.Errorf("a leader waited %v", got)
		}
	})
}

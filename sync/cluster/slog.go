package cluster

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// raftLog gives the lines of raft and its log store to slog, one level lower than they claim: an election on a tower is a fact, not an
// alarm, and what needs a person is said by this package itself. What repeats is said the first time, the second, the fourth and so on:
// a member that is away for days costs raft three lines a second.
type raftLog struct {
	hclog.Logger // answers what nobody calls
	log          *slog.Logger
	said         *repeats
}

func newRaftLog(log *slog.Logger) hclog.Logger {
	return raftLog{Logger: hclog.NewNullLogger(), log: log, said: &repeats{times: map[string]uint64{}}}
}

// repeats counts lines by what they say.
type repeats struct {
	mu    sync.Mutex
	times map[string]uint64
}

const maxRepeats = 256 // different lines that are counted

// count returns how often a line was there, and whether to say it now.
func (r *repeats) count(line string) (times uint64, say bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.times) >= maxRepeats && r.times[line] == 0 {
		clear(r.times)
	}
	r.times[line]++
	n := r.times[line]
	return n, n&(n-1) == 0
}

func (l raftLog) Log(level hclog.Level, msg string, args ...any) {
	if level < hclog.Warn {
		l.log.Debug("raft", attrs(msg, args)...)
		return
	}
	times, say := l.said.count(msg + peerOf(args))
	if !say {
		return
	}
	list := attrs(msg, args)
	if times > 1 {
		list = append(list, slog.Uint64("times", times))
	}
	if level >= hclog.Error {
		l.log.Warn("raft", list...)
		return
	}
	l.log.Info("raft", list...)
}

// peerOf is the member that a line is about, "" for none.
func peerOf(args []any) string {
	for i := 0; i+1 < len(args); i += 2 {
		switch key, _ := args[i].(string); key {
		case "peer", "target", "server-id", "id":
			return fmt.Sprint(" ", args[i+1])
		}
	}
	return ""
}

func attrs(msg string, args []any) []any {
	list := make([]any, 0, 2+len(args)/2)
	list = append(list, slog.String("detail", msg))
	for i := 0; i+1 < len(args); i += 2 {
		if key, ok := args[i].(string); ok {
			list = append(list, slog.Any(strings.ReplaceAll(key, "-", "_"), args[i+1]))
		}
	}
	return list
}

func (l raftLog) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l raftLog) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l raftLog) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l raftLog) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l raftLog) IsDebug() bool { return true }
func (l raftLog) IsInfo() bool  { return true }
func (l raftLog) IsWarn() bool  { return true }
func (l raftLog) IsError() bool { return true }

func (l raftLog) With(...any) hclog.Logger       { return l }
func (l raftLog) Named(string) hclog.Logger      { return l }
func (l raftLog) ResetNamed(string) hclog.Logger { return l }

package cluster

import (
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLog gives the lines of raft and its log store to slog, one level lower than they claim: an election on a tower is a fact, not an
// alarm, and what needs a person is said by this package itself.
type raftLog struct {
	hclog.Logger // answers what nobody calls
	log          *slog.Logger
}

func newRaftLog(log *slog.Logger) hclog.Logger {
	return raftLog{Logger: hclog.NewNullLogger(), log: log}
}

func (l raftLog) Log(level hclog.Level, msg string, args ...any) {
	attrs := make([]any, 0, 1+len(args)/2)
	attrs = append(attrs, slog.String("detail", msg))
	for i := 0; i+1 < len(args); i += 2 {
		if key, ok := args[i].(string); ok {
			attrs = append(attrs, slog.Any(strings.ReplaceAll(key, "-", "_"), args[i+1]))
		}
	}
	switch {
	case level >= hclog.Error:
		l.log.Warn("raft", attrs...)
	case level == hclog.Warn:
		l.log.Info("raft", attrs...)
	default:
		l.log.Debug("raft", attrs...)
	}
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

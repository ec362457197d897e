package cluster

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestWhatRaftRepeatsIsSaidLessAndLess(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := newRaftLog(slog.New(slog.NewTextHandler(&out, nil)))
	for range 1000 {
		l.Error("failed to heartbeat to", "peer", "n2", "error", "refused")
		l.Error("failed to heartbeat to", "peer", "n3", "error", "refused")
		l.Debug("not shown")
	}
	l.Warn("election timeout reached")
	if got := strings.Count(out.String(), "heartbeat"); got != 20 { // 1, 2, 4 … 512 of each
		t.Errorf("got %d lines, want 20:\n%s", got, out.String())
	}
	if !strings.Contains(out.String(), "times=512") || strings.Count(out.String(), "election") != 1 {
		t.Errorf("got %s", out.String())
	}
	for i := range 3 * maxRepeats {
		l.Error(strings.Repeat("x", i))
	}
	if n := len(l.(raftLog).said.times); n > maxRepeats {
		t.Errorf("%d lines are counted", n)
	}
}

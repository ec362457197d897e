package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"wispgate/edge"
	"wispgate/edge/config"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/obs"
)

// night is a nightly whose backups are small files, in a bubble's time.
func night(t *testing.T, set config.Backup) *nightly {
	t.Helper()
	if set.At == "" {
		set.At = "03:10"
	}
	g := obs.NewRegistry()
	return &nightly{
		set: set, dir: t.TempDir(), prefix: "north-a-", now: time.Now, zone: time.FixedZone("CAT", 2*3600), log: slog.New(slog.DiscardHandler),
		room: func() bool { return true },
		write: func(_ context.Context, path string) (BackupFile, error) {
			return BackupFile{File: path, Bytes: 4}, os.WriteFile(path, []byte("good"), 0o600)
		},
		last: g.Gauge("wispgate_a", "A.").With(), took: g.Gauge("wispgate_b", "B.").With(), octets: g.Gauge("wispgate_c", "C.").With(),
		failed: g.Counter("wispgate_d_total", "D.", "reason"),
	}
}

// during runs the worker for a while of the bubble's time.
func (n *nightly) during(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.run(ctx) }()
	<-time.After(d)
	synctest.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestABackupIsMadeEveryNightAtItsTimeAndTheOldOnesGo(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		n := night(t, config.Backup{Keep: 3})
		for _, name := range []string{"north-a-b-19990101T000000Z.wgb", "north-a-notes.wgb", "other.txt"} { // another node's, and nobody's
			if err := os.WriteFile(filepath.Join(n.dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		half := filepath.Join(n.dir, ".north-a-19991231T000000Z.wgb.123")
		if err := os.WriteFile(half, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.during(t, 4*24*time.Hour+30*time.Minute) // from midnight UTC, 02:00 local
		want := []string{"north-a-20000102T011000Z.wgb", "north-a-20000103T011000Z.wgb", "north-a-20000104T011000Z.wgb"}
		if got := ownBackups(n.dir, n.prefix, n.now()); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		all, err := os.ReadDir(n.dir)
		if err != nil || len(all) != 6 {
			t.Errorf("the folder holds %v (%v): foreign files must stay, halves must go", all, err)
		}
		if at := time.Unix(int64(n.last.Get()), 0).UTC(); at.Format(backupTime) != "20000104T011000Z" {
			t.Errorf("the newest is said to be of %v", at)
		}
	})
}

func TestAMissedNightIsMadeUpForAndTheFirstComesAtOnce(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		n := night(t, config.Backup{Keep: 7})
		n.during(t, 2*time.Minute)
		if got := ownBackups(n.dir, n.prefix, n.now()); len(got) != 1 {
			t.Fatalf("after two minutes: %v", got)
		}
		<-time.After(50 * time.Hour) // switched off
		again := night(t, n.set)
		again.dir = n.dir
		again.during(t, 2*time.Minute)
		if got := ownBackups(n.dir, n.prefix, n.now()); len(got) != 2 {
			t.Errorf("after two days off: %v", got)
		}
		once := night(t, n.set)
		once.dir = n.dir
		once.during(t, 2*time.Minute) // a restart in the day makes none
		if got := ownBackups(n.dir, n.prefix, n.now()); len(got) != 2 {
			t.Errorf("after a restart: %v", got)
		}
	})
}

func TestWhatFailsIsCountedAndTriedAgain(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		n := night(t, config.Backup{Keep: 7})
		good, full, broken := n.write, true, true
		n.room = func() bool { return !full }
		n.write = func(ctx context.Context, path string) (BackupFile, error) {
			if broken {
				return BackupFile{}, errors.New("no")
			}
			return good(ctx, path)
		}
		n.during(t, 90*time.Minute)
		if got := n.failed.With("disk").Get(); got != 2 || n.last.Get() != 0 {
			t.Errorf("without room: counted %d, newest %v", got, n.last.Get())
		}
		full = false
		n.due = time.Time{}
		n.during(t, 90*time.Minute)
		if got := n.failed.With("failed").Get(); got != 2 {
			t.Errorf("failing: counted %d", got)
		}
		broken = false
		n.during(t, 90*time.Minute)
		if got := ownBackups(n.dir, n.prefix, n.now()); len(got) != 1 {
			t.Errorf("in order again: %v", got)
		}
	})
}

func TestAClockThatIsSetBackDoesNotStopTheBackups(t *testing.T) {
	t.Parallel()
	n := night(t, config.Backup{Keep: 7})
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	n.now = func() time.Time { return at }
	n.look(t.Context())
	at = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	n.look(t.Context())
	at = at.Add(24 * time.Hour)
	n.look(t.Context())
	if got := ownBackups(n.dir, n.prefix, n.now()); len(got) != 2 {
		t.Errorf("got %v, want one of 2030 and one of 2026", got)
	}
}

// However many backups a clock that was ahead has left, those of today stay, and one that was dated ahead is not taken for last night's.
func TestBackupsThatWereDatedAheadGoFirst(t *testing.T) {
	t.Parallel()
	n := night(t, config.Backup{Keep: 2})
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	n.now = func() time.Time { return at }
	backUp := func() {
		n.due = time.Time{}
		n.look(t.Context())
	}
	backUp()
	at = at.Add(24 * time.Hour)
	backUp()
	at = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	if newest, _ := newestBackup(n.dir, n.prefix, at); !newest.IsZero() {
		t.Errorf("the newest is said to be of %v", newest)
	}
	for _, want := range [][]string{
		{"north-a-20300102T120000Z.wgb", "north-a-20260101T120000Z.wgb"},
		{"north-a-20260101T120000Z.wgb", "north-a-20260102T120000Z.wgb"},
	} {
		backUp()
		if got := ownBackups(n.dir, n.prefix, at); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		at = at.Add(24 * time.Hour)
	}
}

func TestANodeWritesItsBackupForAKeyThatItDoesNotHold(t *testing.T) {
	t.Parallel()
	dir, work := t.TempDir(), t.TempDir()
	pair, err := NewBackupKey(filepath.Join(work, "noc.key"))
	if err != nil {
		t.Fatal(err)
	}
	n := startNode(t, dir, func(c *config.Config) { c.Backup.Recipients = []string{pair.PublicKey} })
	n.claim("acme")
	path := filepath.Join(work, "now.wgb")
	made, err := n.writeNightly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(pair.PrivateFile)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyBackup(path, BackupOpeners{PrivateKey: edge.Secret(private)}, nil)
	if err != nil || got.Checksum != made.Checksum || got.Tenants[0] != "acme" {
		t.Errorf("got %+v, %v", got, err)
	}
}

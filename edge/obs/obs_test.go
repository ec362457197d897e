package obs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"wispgate/edge"
	"wispgate/edge/edgetest/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogIsJSONAwayFromATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, level, err := NewLogger(&out, LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("hidden")
	log.Info("something happened", slog.String("site", "tower7"))
	level.Set(slog.LevelDebug)
	log.Debug("shown")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %q", out.String())
	}
	var first map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first["msg"] != "something happened" || first["site"] != "tower7" {
		t.Fatalf("got %v, %v", first, err)
	}
	for _, o := range []LogOptions{{Level: "loud"}, {Format: "xml"}} {
		if _, _, err := NewLogger(io.Discard, o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestSecretsNeverEnterTheLog(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		ring := NewRing(10)
		var out bytes.Buffer
		log, _, err := NewLogger(&out, LogOptions{Format: format, Ring: ring})
		if err != nil {
			t.Fatal(err)
		}
		log.Info("by type", slog.Any("value", edge.Secret("hunter2")), slog.Any("nested", struct{ P edge.Secret }{"hunter2"}))
		log.Info("by key", slog.String("password", "hunter2"), slog.String("nas_secret", "hunter2"), slog.Group("g", slog.String("token", "hunter2")))
		log.With(slog.String("api_key", "hunter2")).Info("by with")
		kept, _ := ring.Lines()
		if all := out.String() + strings.Join(kept, ""); strings.Contains(all, "hunter2") || !strings.Contains(all, "***") {
			t.Errorf("%s: %s", format, all)
		}
	}
}

func TestRingKeepsTheNewestLines(t *testing.T) {
	t.Parallel()
	r := NewRing(3)
	if lines, total := r.Lines(); lines != nil || total != 0 {
		t.Fatalf("empty: got %q", lines)
	}
	var group sync.WaitGroup
	for i := range 10 {
		fmt.Fprintf(r, "line %d\n", i)
		group.Go(func() { r.Lines() })
	}
	group.Wait()
	lines, total := r.Lines()
	if total != 10 || !slices.Equal(lines, []string{"line 7", "line 8", "line 9"}) {
		t.Fatalf("got %q of %d", lines, total)
	}
	fmt.Fprint(r, strings.Repeat("x", 10<<10))
	if lines, _ = r.Lines(); len(lines[2]) != maxRingLine {
		t.Fatalf("a line of %d bytes is kept", len(lines[2]))
	}
	var out strings.Builder
	if n, err := r.WriteTo(&out); err != nil || int(n) != out.Len() || strings.Count(out.String(), "\n") != 3 {
		t.Fatalf("got %d, %v, %q", n, err, out.String())
	}
}

func TestMetricsAreWhatPrometheusReads(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	requests := r.Counter("wispgate_radius_requests_total", "Requests by outcome.", "code", "outcome")
	requests.With("access", "accept").Add(3)
	requests.With("access", `odd "quoted\`).Inc()
	r.Gauge("wispgate_sessions", "Live sessions.").With().Set(7)
	r.GaugeFunc("wispgate_disk_free_bytes", "Free space.", func() float64 { return 12 })
	r.Seconds("wispgate_journal_commit_seconds", "Time of a write and flush.").With().Update(0.003)
	if first, second := requests.With("access", "accept"), requests.With("access", "accept"); first != second {
		t.Fatal("a series is made twice")
	}
	r.Counter("wispgate_radius_requests_total", "Requests by outcome.", "code", "outcome").With("access", "accept").Inc()
	r.Process("1.2.3")
	var out bytes.Buffer
	if err := r.WritePrometheus(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# HELP wispgate_radius_requests_total Requests by outcome.\n# TYPE wispgate_radius_requests_total counter\n",
		`wispgate_radius_requests_total{code="access",outcome="accept"} 4`,
		`wispgate_radius_requests_total{code="access",outcome="odd \"quoted\\"} 1`,
		"wispgate_sessions 7\n", "wispgate_disk_free_bytes 12\n", "# TYPE wispgate_journal_commit_seconds histogram\n",
		`wispgate_journal_commit_seconds_bucket{le="0.0025"} 0`, `wispgate_journal_commit_seconds_bucket{le="0.005"} 1`,
		"wispgate_journal_commit_seconds_count 1\n", `wispgate_build_info{version="1.2.3",`, "\nprocess_resident_memory_bytes ",
		"\nprocess_cpu_seconds_total ", "\ngo_goroutines ", "\nprocess_open_fds ", "\nprocess_start_time_seconds ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing %q", want)
		}
	}
	start := strings.Split(out.String(), "\nprocess_start_time_seconds ")[1]
	start, _, _ = strings.Cut(start, "\n")
	if at, err := strconv.ParseFloat(start, 64); err != nil || time.Since(time.Unix(int64(at), 0)).Abs() > 10*time.Minute {
		t.Errorf("start time %s is not now: %v", start, err)
	}
	promtool(t, out.Bytes())
}

// promtool lets the real reader judge, where it is installed.
func promtool(t *testing.T, text []byte) {
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing; install Debian's prometheus package")
		}
		t.Log("promtool is not installed: its check is left out")
		return
	}
	cmd := exec.Command(path, "check", "metrics")
	cmd.Stdin = bytes.NewReader(text)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v: %s", err, said)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	c := r.Counter("wispgate_test_total", "Test.", "reason")
	for i := range 3 * MaxSeries {
		c.With(strconv.Itoa(i)).Inc()
	}
	var out bytes.Buffer
	if err := r.WritePrometheus(&out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "wispgate_test_total{"); n != MaxSeries+1 {
		t.Fatalf("got %d series", n)
	}
	if want := fmt.Sprintf(`wispgate_test_total{reason="other"} %d`, 2*MaxSeries); !strings.Contains(out.String(), want) {
		t.Fatalf("missing %s", want)
	}
}

func TestNamesAgainstTheRulesPanic(t *testing.T) {
	t.Parallel()
	for name, register := range map[string]func(*Registry){
		"no prefix":            func(r *Registry) { r.Counter("requests_total", "x") },
		"counter sans total":   func(r *Registry) { r.Counter("wispgate_requests", "x") },
		"gauge with total":     func(r *Registry) { r.Gauge("wispgate_x_total", "x") },
		"milliseconds":         func(r *Registry) { r.Gauge("wispgate_wait_ms", "x") },
		"no help":              func(r *Registry) { r.Gauge("wispgate_x", "") },
		"bad label":            func(r *Registry) { r.Gauge("wispgate_x", "x", "A-B") },
		"two meanings":         func(r *Registry) { r.Gauge("wispgate_x", "x"); r.Gauge("wispgate_x", "y") },
		"too few label values": func(r *Registry) { r.Gauge("wispgate_x", "x", "a").With() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: did not panic", name)
				}
			}()
			register(NewRegistry())
		}()
	}
}

func TestWorkersAreStartedAgainAfterAPause(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var restarts []time.Duration
		begin := time.Now()
		g := NewGroup(t.Context(), slog.New(slog.DiscardHandler), time.Now, func(name string) {
			if name != "flaky" {
				t.Errorf("got %q", name)
			}
			restarts = append(restarts, time.Since(begin))
		})
		runs := 0
		g.Go("flaky", func(context.Context) error {
			if runs++; runs == 3 {
				panic("third time")
			}
			return errors.New("no")
		})
		g.Go("finishes", func(context.Context) error { return nil })
		g.Go("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		// Pauses of 1, 2, 4 … 60 s, each half to one and a half times: about a dozen runs, never a flood.
		if runs < 8 || runs > 25 || len(restarts) != runs {
			t.Fatalf("got %d runs, %d restarts", runs, len(restarts))
		}
		if got := g.Running(); !slices.Equal(got, []string{"flaky", "waits"}) {
			t.Fatalf("running: %v", got)
		}
		if err := g.Stop(t.Context()); err != nil || len(g.Running()) != 0 {
			t.Fatalf("got %v, running %v", err, g.Running())
		}
		g.Go("late", func(context.Context) error { t.Error("started after Stop"); return nil })
	})
}

func TestStopNamesWorkersThatHang(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	g := NewGroup(t.Context(), slog.New(slog.DiscardHandler), time.Now, nil)
	g.Go("stuck", func(context.Context) error { <-release; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := g.Stop(ctx)
	if e, ok := edge.AsError(err); !ok || e.Code != "worker_hangs" || !strings.Contains(e.Message, "stuck") {
		t.Fatalf("got %v", err)
	}
	close(release)
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The time for stopping is one for all that stops: a group comes to its turn when others have spent it.
func TestWorkersThatHaveEndedDoNotHang(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 64 {
		g := NewGroup(t.Context(), slog.New(slog.DiscardHandler), time.Now, nil)
		if err := g.Stop(ctx); err != nil {
			t.Fatalf("nothing runs: %v", err)
		}
	}
}

func TestClockQualityFollowsTheKernel(t *testing.T) {
	t.Parallel()
	now, synced, known := time.Unix(1e9, 0), false, true
	c := NewClock(func() time.Time { return now })
	asked := 0
	c.read = func() (ClockState, bool) { asked++; return ClockState{Synced: synced}, known }
	step := func(d time.Duration, want Quality) {
		t.Helper()
		now = now.Add(d)
		if got := c.Quality(); got != want {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	step(0, Unsynced)
	synced = true
	step(10*time.Millisecond, Unsynced) // remembered
	step(time.Second, Synced)
	synced = false
	step(2*time.Second, Holdover)
	step(23*time.Hour, Holdover)
	step(2*time.Hour, Unsynced)
	step(time.Hour, Unsynced)
	synced = true
	step(time.Minute, Synced)
	known = false
	step(time.Minute, Holdover)
	if asked > 9 {
		t.Fatalf("the kernel was asked %d times", asked)
	}
	q, _ := ClockQuality()
	if q != Unsynced && q != Synced || Synced.String() != "synced" || Holdover.String() != "holdover" || Unsynced.String() != "unsynced" {
		t.Fatalf("got %v", q)
	}
}

func TestTheNullDeviceIsNoTerminal(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	plain, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, w := range []io.Writer{null, plain, io.Discard} {
		if isTerminal(w) {
			t.Errorf("%v counts as a terminal", w)
		}
	}
}

func BenchmarkCounter(b *testing.B) {
	c := NewRegistry().Counter("wispgate_x_total", "x").With()
	for b.Loop() {
		c.Inc()
	}
}

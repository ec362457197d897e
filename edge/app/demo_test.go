package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wispgate/edge"
)

// tape keeps what a demo prints.
type tape struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *tape) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *tape) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// runningDemo is a demo under test.
type runningDemo struct {
	t    *testing.T
	dir  string
	out  *tape
	stop context.CancelFunc
	done chan error
	end  func() error // what Demo returned
}

const testSubscribers = 24

func startDemo(t *testing.T, dir string) *runningDemo {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningDemo{t: t, dir: dir, out: &tape{}, stop: cancel, done: make(chan error, 1)}
	go func() {
		r.done <- Demo(ctx, DemoOptions{Dir: dir, Subscribers: testSubscribers, Seed: 7, Plain: true, Flaky: true, Version: "test", Out: r.out, Log: io.Discard})
	}()
	r.end = sync.OnceValue(func() error { return <-r.done })
	t.Cleanup(func() {
		cancel()
		_ = r.end()
	})
	return r
}

// until polls for a line that matches.
func (r *runningDemo) until(pattern string) string {
	r.t.Helper()
	re := regexp.MustCompile(`(?m)^.*` + pattern + `.*$`)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if line := re.FindString(r.out.String()); line != "" {
			return line
		}
		<-ticker.C
		if len(r.done) > 0 {
			r.t.Fatalf("the demo ended before %q: %v\n%s", pattern, r.end(), r.out)
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("no line matches %q:\n%s", pattern, r.out)
		}
	}
}

func (r *runningDemo) halt() {
	r.t.Helper()
	begin := time.Now()
	r.stop()
	if err := r.end(); err != nil {
		r.t.Fatalf("stop: %v\n%s", err, r.out)
	}
	if took := time.Since(begin); took > stopWithin {
		r.t.Errorf("stopping took %s", took)
	}
	if !strings.Contains(r.out.String(), "Stopped. Everything is kept in "+r.dir) {
		r.t.Errorf("the end says nothing:\n%s", r.out)
	}
}

// curls are the lines as they were printed.
func (r *runningDemo) curls() []string {
	return regexp.MustCompile(`(?m)^  (curl .*)$`).FindAllString(r.out.String(), -1)
}

// curl runs a printed line in a shell and returns the JSON of its answer.
func (r *runningDemo) curl(line string) map[string]any {
	r.t.Helper()
	out, err := exec.Command("sh", "-c", line+` -sS -w '\n%{http_code}'`).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s: %v: %s", line, err, out)
	}
	body, status, _ := cutLast(strings.TrimSpace(string(out)), "\n")
	if status != "200" {
		r.t.Fatalf("%s: status %s: %s", line, status, body)
	}
	answer := map[string]any{}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		r.t.Fatalf("%s: %v: %s", line, err, body)
	}
	return answer
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// get asks for another path with the credentials of the first printed line.
func (r *runningDemo) get(path string) map[string]any {
	r.t.Helper()
	return r.curl(regexp.MustCompile(`/api/v1/[^']*`).ReplaceAllLiteralString(r.curls()[0], path))
}

func (r *runningDemo) version() float64 {
	r.t.Helper()
	v, ok := r.get("/api/v1/sync/checksum")["version"].(float64)
	if !ok {
		r.t.Fatal("the checksum names no version")
	}
	return v
}

// open are the open sessions' ids.
func (r *runningDemo) open() map[string]bool {
	r.t.Helper()
	ids := map[string]bool{}
	list, _ := r.get("/api/v1/aaa/sessions?open=true&limit=200")["data"].([]any)
	for _, s := range list {
		ids[fmt.Sprint(s.(map[string]any)["id"])] = true
	}
	return ids
}

// reported polls until the router has reported on one of the sessions after the time.
func (r *runningDemo) reported(sessions map[string]bool, after time.Time) {
	r.t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); <-ticker.C {
		list, _ := r.get("/api/v1/aaa/sessions?open=true&limit=200")["data"].([]any)
		for _, s := range list {
			session, _ := s.(map[string]any)
			seen, err := time.Parse(time.RFC3339, fmt.Sprint(session["last_seen_at"]))
			if err != nil {
				r.t.Fatal(err)
			}
			if sessions[fmt.Sprint(session["id"])] && seen.After(after) {
				return
			}
		}
	}
	r.t.Error("no session of the first run goes on")
}

func needCurl(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("curl is missing")
		}
		t.Skip("curl is missing")
	}
}

// showsEverything waits until each thing that the first run promises has been printed.
func (r *runningDemo) showsEverything() {
	r.t.Helper()
	r.until(`accepted  \S+@demo  \S+M/\S+M`)
	for _, code := range []string{
		"bad_password", "unknown_login", "suspended_unpaid", "suspended_admin", "login_revoked", "login_expired", "login_not_yet_valid",
		"mac_mismatch", "session_limit", "login_locked", "not_active", "nas_not_allowed", "unsupported_method",
	} {
		if line := r.until(`refused   \S+  ` + code + `  `); !strings.Contains(line, ". ") {
			r.t.Errorf("the refusal says no remedy: %s", line)
		}
	}
	r.until(`silent    .*  wrong_secret  `)
	r.until(`silent    .*  nas_unknown  `)
	r.until(`webhook   \S+  Signature verified, first attempt`)
	r.until(`usage     \+\S+ [kM]?B down`)
	r.until(`put off   \S+  `)
	r.until(`retried   \S+  Signature verified, attempt 2`)
	r.until(`status    online [1-9]\d* of 24 .* webhooks verified [1-9]\d*, retried [1-9]\d*, forged 0`)
}

// TestDemo runs the whole product twice in one folder: what the screen promises happens, the printed lines work, and the second run goes on
// where the first one stopped.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole product")
	}
	needCurl(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), // fasthttp's own, which end by themselves within ten seconds, or never: its clock
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error")) // raft leaves what it has not begun without an answer
	r := startDemo(t, filepath.Join(t.TempDir(), "a demo")) // the space is part of the test: printed lines quote it
	r.showsEverything()
	lines := r.curls()
	if len(lines) != 3 {
		t.Fatalf("got curl lines %q, want three", lines)
	}
	if got, _ := r.curl(lines[0])["data"].([]any); len(got) != 3 {
		t.Errorf("the first line lists %d customers, want 3", len(got))
	}
	if got := r.curl(lines[1])["reason"]; got != "suspended_unpaid" {
		t.Errorf("the second line explains %v, want suspended_unpaid", got)
	}
	if got := r.curl(lines[2])["status"]; got != "suspended" {
		t.Errorf("the third line makes the subscription %v, want suspended", got)
	}
	r.checkKeyFiles()
	second := Demo(context.Background(), DemoOptions{Dir: r.dir, Out: io.Discard, Log: io.Discard})
	if e, ok := edge.AsError(second); !ok || e.Code != errDemoRuns.Code {
		t.Errorf("a second demo in the same folder: got %v", second)
	}
	before, sessions := r.version(), r.open()
	if len(sessions) == 0 {
		t.Fatal("no session is open")
	}
	r.halt()

	restart := time.Now()
	again := startDemo(t, r.dir)
	again.until("WISPGate demo continues: 24 subscribers of seed 7")
	again.until("curl .*:suspend")
	if !slices.Equal(again.curls(), lines) {
		t.Errorf("the second run prints other lines:\n%q\nwant\n%q", again.curls(), lines)
	}
	for _, line := range lines { // as they were printed by the first run
		again.curl(line)
	}
	again.curl(strings.Replace(lines[2], ":suspend", ":reactivate", 1))
	again.until(`webhook   billing\.subscription\.reactivated  Signature verified`)
	if after := again.version(); after <= before {
		t.Errorf("the second run is at version %v, the first was at %v", after, before)
	}
	if got, _ := again.get("/api/v1/crm/customers?limit=200")["data"].([]any); len(got) != testSubscribers {
		t.Errorf("the second run holds %d customers, want %d", len(got), testSubscribers)
	}
	again.reported(sessions, restart)
	again.halt()
}

func (r *runningDemo) checkKeyFiles() {
	r.t.Helper()
	for _, name := range []string{"demo.json", "key", "header"} {
		if info, err := os.Stat(filepath.Join(r.dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			r.t.Errorf("%s: %v, %v; want mode 0600", name, info, err)
		}
	}
}

func TestDemoRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	var held holder
	defer held.close()
	taken := held.freeTCP()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "thesis.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(statePath(broken), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		o    DemoOptions
		code string
	}{
		"a port in use":            {DemoOptions{Dir: filepath.Join(t.TempDir(), "d"), Subscribers: 30, Port: taken}, "port_in_use"},
		"no port":                  {DemoOptions{Dir: filepath.Join(t.TempDir(), "d"), Subscribers: 30, Port: 70000}, "input_invalid"},
		"too few subscribers":      {DemoOptions{Dir: filepath.Join(t.TempDir(), "d"), Subscribers: 3}, "input_invalid"},
		"a folder of other things": {DemoOptions{Dir: full, Subscribers: 30}, "demo_folder"},
		"a damaged state":          {DemoOptions{Dir: broken, Subscribers: 30}, "demo_folder"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.o.Out, tc.o.Log = io.Discard, io.Discard
			err := Demo(context.Background(), tc.o)
			e, ok := edge.AsError(err)
			if !ok || e.Code != tc.code || e.Fix == "" && len(e.Fields) == 0 {
				t.Errorf("got %v, want code %s with a remedy", err, tc.code)
			}
		})
	}
	if list, err := os.ReadDir(full); err != nil || len(list) != 2 { // and the lock
		t.Errorf("the folder of other things was touched: %v, %v", list, err)
	}
}

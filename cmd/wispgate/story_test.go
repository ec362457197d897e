package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"wispgate/edge/edgetest/peers"
)

// TestStories runs testdata/script: what a person does at a command line, with the built program and real peers.
//
// A story has the ports $PORT1 to $PORT8, and these commands beside testscript's own:
//
//	ready DIR            waits until the daemon with the data folder DIR leads and shows its claim code or is claimed
//	json NAME PATH       sets $NAME to what the last command's JSON holds at PATH (a.b.0.c)
//	text NAME FILE       sets $NAME to the content of FILE, trimmed
//	exits CODE ARG...    runs a program and expects its exit code
//	radius EXPECT PORT SECRET FILE   sends FILE by radclient; its extension, auth or acct, says what it is; EXPECT may be silence
//	until TEXT ARG...    runs wispgate with ARGs until its output holds TEXT, or what a /PATTERN/ matches; with ! until it does not
//	hook start PORT      starts a webhook receiver; hook trust SECRET; hook heard TYPE N waits until it heard N distinct events of a type;
//	                     hook deliveries N waits until it was called N times
//	flip DIR             turns over one bit in the middle of what is written in DIR's largest file
func TestStories(t *testing.T) {
	t.Parallel()
	built := filepath.Dir(binary(t))
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			for i := 1; i <= 8; i++ {
				env.Setenv("PORT"+strconv.Itoa(i), strconv.Itoa(freePort(t)))
			}
			env.Setenv("PATH", built+string(os.PathListSeparator)+env.Getenv("PATH")+string(os.PathListSeparator)+"/usr/sbin")
			env.Setenv("HOME", env.WorkDir)
			env.Values[hookKey{}] = &storyHook{t: t}
			return nil
		},
		Condition: func(name string) (bool, error) {
			program, ok := strings.CutPrefix(name, "peer:")
			if !ok {
				return false, fmt.Errorf("unknown condition %s", name)
			}
			peers.NeedProgram(t, program)
			return true, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": storyReady, "json": storyJSON, "text": storyText, "radius": storyRadius, "until": storyUntil, "hook": storyHookCmd,
			"flip": storyFlip, "exits": storyExits,
		},
	})
}

// pollLimit is far beyond what anything takes: a node that joins gets its vote after half a minute.
const pollLimit = 2 * time.Minute

// poll asks every few milliseconds until ok, for a story.
func poll(ts *testscript.TestScript, what string, ok func() bool, state func() string) {
	deadline := time.Now().Add(pollLimit)
	pause := time.NewTicker(30 * time.Millisecond)
	defer pause.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not within %s: %s", what, pollLimit, state())
		}
		<-pause.C
	}
}

func storyReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	p := &program{data: ts.MkAbs(args[0])}
	var last answer
	poll(ts, "the daemon in "+args[0]+" leads", func() bool {
		last = p.local().ask(http.MethodGet, "/api/v1/sync/status", "", nil)
		if !bytes.Contains(last.body, []byte(`"state":"leader"`)) {
			return false
		}
		_, unclaimed := os.Stat(filepath.Join(p.data, "claim-code"))
		raw, _ := os.ReadFile(filepath.Join(p.data, "claim.json"))
		return unclaimed == nil || bytes.Contains(raw, []byte("claimed"))
	}, last.String)
}

// storyJSON reads a member of the last command's output.
func storyJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: json NAME PATH")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for step := range strings.SplitSeq(args[1], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(at) {
				ts.Fatalf("%s: there is no element %s", args[1], step)
			}
			v = at[i]
		default:
			v = nil
		}
	}
	if v == nil {
		ts.Fatalf("the output has no %s", args[1])
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

func storyText(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: text NAME FILE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// storyExits runs a command and compares its exit code, which testscript's own exec does not tell.
func storyExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, code := args[0], "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		code = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if code != want {
		ts.Fatalf("exit code %s, want %s", code, want)
	}
}

func storyRadius(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: radius EXPECT PORT SECRET FILE")
	}
	kind := strings.TrimPrefix(filepath.Ext(args[3]), ".")
	err := ts.Exec("radclient", "-x", "-r", "2", "-t", "2", "-f", ts.MkAbs(args[3]), "127.0.0.1:"+args[1], kind, args[2])
	got := "silence"
	for _, name := range []string{"Access-Accept", "Access-Reject", "Accounting-Response"} {
		if strings.Contains(ts.ReadFile("stdout"), "Received "+name) {
			got = name
		}
	}
	if got != args[0] {
		ts.Fatalf("radclient: got %s, want %s (%v)", got, args[0], err)
	}
}

// storyUntil runs a command until it succeeds and shows a text, or what a pattern between slashes matches; negated, until it does not.
func storyUntil(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] until TEXT|/PATTERN/ ARG...")
	}
	pattern := regexp.QuoteMeta(args[0])
	if p := args[0]; len(p) > 2 && p[0] == '/' && p[len(p)-1] == '/' {
		pattern = p[1 : len(p)-1]
	}
	want, err := regexp.Compile(pattern)
	ts.Check(err)
	poll(ts, "wispgate "+strings.Join(args[1:], " ")+" shows "+args[0], func() bool {
		err := ts.Exec("wispgate", args[1:]...)
		return err == nil && want.MatchString(ts.ReadFile("stdout")) != neg
	}, func() string { return ts.ReadFile("stdout") + ts.ReadFile("stderr") })
}

type hookKey struct{}

// storyHook is a story's webhook receiver.
type storyHook struct {
	t  testing.TB
	mu sync.Mutex
	h  *hook
}

func storyHookCmd(ts *testscript.TestScript, neg bool, args []string) {
	s, ok := ts.Value(hookKey{}).(*storyHook)
	if neg || !ok || len(args) < 2 {
		ts.Fatalf("usage: hook start PORT | trust SECRET | heard TYPE N")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch args[0] {
	case "start":
		port, err := strconv.Atoi(args[1])
		ts.Check(err)
		s.h = newHook(s.t, port)
	case "trust":
		ts.Check(s.h.trust(args[1]))
	case "heard":
		poll(ts, "the receiver heard "+args[1], func() bool { return fmt.Sprint(s.h.distinct(args[1])) == args[2] }, func() string {
			s.h.mu.Lock()
			defer s.h.mu.Unlock()
			return fmt.Sprint(s.h.types, s.h.bad)
		})
	case "deliveries": // of all events together
		poll(ts, "the receiver was called "+args[1]+" times", func() bool { return fmt.Sprint(s.h.deliveries()) == args[1] },
			func() string { return fmt.Sprint(s.h.deliveries()) })
	default:
		ts.Fatalf("hook: no %s", args[0])
	}
	if bad := s.h.refused(); len(bad) > 0 {
		ts.Fatalf("the receiver refused %v", bad)
	}
}

// deliveries is how often the receiver was called in all.
func (h *hook) deliveries() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, times := range h.heard {
		n += times
	}
	return n
}

// storyFlip turns over one bit in the middle of what is written in a folder's largest file.
func storyFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip DIR")
	}
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*"))
	ts.Check(err)
	name, content := "", []byte(nil)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		ts.Check(err)
		if raw = bytes.TrimRight(raw, "\x00"); len(raw) > len(content) {
			name, content = file, raw
		}
	}
	if len(content) == 0 {
		ts.Fatalf("nothing is written in %s", args[0])
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	ts.Check(err)
	at := len(content) / 2
	_, err = f.WriteAt([]byte{content[at] ^ 1}, int64(at))
	ts.Check(errors.Join(err, f.Close()))
}

// TestEveryVerbHasHelp walks the whole command tree: each verb must say what it does and refuse a wrong number of arguments with exit code 2.
func TestEveryVerbHasHelp(t *testing.T) {
	t.Parallel()
	var walk func(path []string)
	seen := 0
	walk = func(path []string) {
		var out, errs bytes.Buffer
		if code := run(t.Context(), append(path, "--help"), stdio{in: strings.NewReader(""), out: &out, err: &errs}); code != 0 {
			t.Fatalf("wispgate %s --help: exit %d: %s", strings.Join(path, " "), code, errs.String())
		}
		seen++
		sc, in := bufio.NewScanner(&out), false
		for sc.Scan() {
			line := sc.Text()
			switch {
			case strings.HasSuffix(line, ":") && !strings.HasPrefix(line, " "):
				in = !strings.HasPrefix(line, "Usage") && !strings.HasPrefix(line, "Flags") && !strings.HasPrefix(line, "Global") && !strings.HasPrefix(line, "Exit")
			case in && strings.HasPrefix(line, "  "):
				name, summary, _ := strings.Cut(strings.TrimSpace(line), " ")
				if strings.TrimSpace(summary) == "" {
					t.Errorf("wispgate %s %s says nothing about itself", strings.Join(path, " "), name)
				}
				walk(append(path[:len(path):len(path)], name))
			}
		}
	}
	walk(nil)
	if seen < 100 {
		t.Errorf("only %d commands were found", seen)
	}
}

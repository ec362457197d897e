package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wispgate/edge/edgetest/peers"
)

// The shell blocks that people read in README.md and docs/ run here, as they stand, against real processes of the built binary. A block
// belongs to a story when HTML comments stand right before it:
//
//	<!-- story: first-steps -->     it runs, after the story's earlier blocks and in the same shell
//	<!-- expect: answer +accept --> its output must match this expression
//	<!-- within: 5s -->             it is asked again until it does
//
// Only addresses and folders are put in the place of the documented ones.

// block is one shell block of a page.
type block struct {
	page   string
	line   int // of its first line of code
	code   string
	expect []*regexp.Regexp
	within string // seconds, "" for once
}

func (b *block) at() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

var directive = regexp.MustCompile(`^\s*<!-- (story|expect|within): (.+) -->$`)

// storyBlocks reads the blocks of one story off a page.
func storyBlocks(page, text, story string) (blocks []block, err error) {
	said := map[string][]string{}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if m := directive.FindStringSubmatch(lines[i]); m != nil {
			said[m[1]] = append(said[m[1]], m[2])
			continue
		}
		fence := strings.TrimLeft(lines[i], " ")
		indent := strings.Repeat(" ", len(lines[i])-len(fence))
		mine := len(said["story"]) == 1 && said["story"][0] == story
		if fence != "```sh" {
			if len(said) > 0 {
				return nil, fmt.Errorf("%s:%d: a story's comments must stand right before a block of sh", page, i+1)
			}
			continue
		}
		b := block{page: page, line: i + 2}
		var code []string
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "```"; i++ {
			code = append(code, strings.TrimPrefix(lines[i], indent))
		}
		b.code = strings.Join(code, "\n")
		for _, e := range said["expect"] {
			re, err := regexp.Compile("(?m)" + e)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", b.at(), err)
			}
			b.expect = append(b.expect, re)
		}
		if len(said["within"]) > 0 {
			b.within = strings.TrimSuffix(said["within"][0], "s")
		}
		if mine {
			blocks = append(blocks, b)
		}
		clear(said)
	}
	return blocks, nil
}

// pages of a story, in the order in which they are told.
func pageBlocks(t *testing.T, story string, pages ...string) (all []block) {
	t.Helper()
	for _, page := range pages {
		raw, err := os.ReadFile(filepath.Join("..", "..", page))
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := storyBlocks(page, string(raw), story)
		if err != nil {
			t.Fatal(err)
		}
		if len(blocks) == 0 {
			t.Fatalf("%s tells nothing of the story %q", page, story)
		}
		all = append(all, blocks...)
	}
	return all
}

func TestDocsReadme(t *testing.T) {
	t.Parallel()
	newWorld(t).mustTell(pageBlocks(t, "readme", "README.md"))
}

func TestDocsStory(t *testing.T) {
	t.Parallel()
	newWorld(t).mustTell(pageBlocks(t, "tower", "docs/first-steps.md", "docs/api.md", "docs/offline.md", "docs/money.md", "docs/webhooks.md", "docs/operating.md"))
}

// TestDocsCanFail proves that the other tests notice: a command that fails, an output that differs, a comment that is misplaced.
func TestDocsCanFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct{ page, problem string }{
		"command fails":    {"<!-- story: x -->\n```sh\necho before\nwispgate key claim\necho after\n```\n", "page.md:3: exit status 2"},
		"output differs":   {"<!-- story: x -->\n<!-- expect: pear -->\n```sh\necho apple\n```\n", "page.md:4: the output does not match"},
		"never comes true": {"<!-- story: x -->\n<!-- expect: pear -->\n<!-- within: 0s -->\n```sh\necho apple\n```\n", "page.md:5: exit status"},
		"misplaced":        {"<!-- story: x -->\ntext\n", "right before a block"},
	} {
		blocks, err := storyBlocks("page.md", c.page, "x")
		if err == nil {
			err = w.tell(blocks)
		}
		if err == nil || !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s: got %v, want %q", name, err, c.problem)
		}
	}
}

var metricName = regexp.MustCompile(`\bwispgate_[a-z_]+`)

// TestDocsAlerts holds the alert rules against their unit tests, and against what a node and a relay measure.
func TestDocsAlerts(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile(filepath.Join("..", "..", "docs", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	err = filepath.WalkDir(filepath.Join("..", ".."), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, name := range metricName.FindAllString(string(raw), -1) {
			known[name] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range metricName.FindAllString(string(rules), -1) {
		if !known[name] {
			t.Errorf("nothing measures %s", name)
		}
	}
	promtool := peers.NeedProgram(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"}, {"test", "rules", "alerts.test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = filepath.Join("..", "..", "docs")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args[0], err, out)
		}
	}
}

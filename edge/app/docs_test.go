package app

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"wispgate/edge"
	"wispgate/edge/config"
	"wispgate/gateway"
)

// The reference pages under docs/reference are made from the declarations, so they cannot say anything else than the program does.
// Write them anew with: go test ./edge/app -run Docs -update

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("..", "..", "docs", "reference", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("docs/reference/%s is not what the declarations say; look at the difference and run with -update", name)
	}
}

func TestDocsConfiguration(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	b.WriteString("# Configuration\n\nOne YAML file, named with `--config` or `WISPGATE_CONFIG`; every key has a default, and an unknown key is an error.\n" +
		"Each key can be set in the environment instead: `radius.workers` is `WISPGATE_RADIUS__WORKERS`. A secret `key` may be given as\n" +
		"`key_file`, the path of a file that holds it. `wispgate config check` says everything that is wrong, `wispgate config show --origin`\n" +
		"where each value comes from, `wispgate config schema` prints a JSON Schema for editors.\n\nThe file with every key and its default:\n\n```yaml\n")
	if err := config.Example(&b); err != nil {
		t.Fatal(err)
	}
	b.WriteString("```\n")
	golden(t, "configuration.md", b.Bytes())
}

func TestDocsReasons(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# Reasons\n\nEvery refusal has a stable code. The same code stands in the API's problem documents, in RADIUS counters and facts, in `explain`,\nin the CLI and here.\n")
	table := func(title string, list []edge.Reason) {
		if len(list) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n| code | what is wrong | what to do |\n|---|---|---|\n", title)
		list = slices.Clone(list)
		slices.SortFunc(list, func(a, b edge.Reason) int { return strings.Compare(a.Code, b.Code) })
		for _, r := range list {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r.Code, cellText(r.Says), cellText(r.Fix))
		}
	}
	table("Every operation", edge.KernelReasons())
	table("The gateway", gateway.Reasons())
	for _, m := range Declarations() {
		table(m.Name, m.Reasons)
	}
	golden(t, "reasons.md", []byte(b.String()))
}

func cellText(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

func TestDocsEvents(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# Events\n\nEvery event is a row of the commit that made it true, and goes upstream as a CloudEvent 1.0: `type` is `wispgate.NAME.v1`, `subject` the\n" +
		"record's id, `data.changed` the members below, `data.object` the record as the API shows it after the commit. `tenantid`, `actor`,\n" +
		"`causationid` (the operation id) and `position` (the version) are extension attributes. A node serves the same as a machine-readable\ncatalogue at `/api/v1/events.json`.\n")
	for _, m := range Declarations() {
		if len(m.Events) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n| event | changed |\n|---|---|\n", m.Name)
		for _, e := range m.Events {
			if edge.IsInner(e) {
				continue
			}
			s, err := edge.SchemaFor(e)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range s.Fields {
				names = append(names, "`"+f.Name+"`")
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", e.EventName(), strings.Join(names, ", "))
		}
	}
	golden(t, "events.md", []byte(b.String()))
}

func TestDocsOperations(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# Operations\n\nEvery operation of the API with its route, scope and CLI verb. The OpenAPI document, with every schema, is served at\n`/api/v1/openapi.json`.\n")
	for _, m := range Declarations() {
		if len(m.Routes) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| route | scope | CLI | what it does |\n|---|---|---|---|\n", m.Name, m.Summary)
		for _, r := range m.Routes {
			verb := strings.Join(strings.Fields(strings.ReplaceAll(r.Op.Domain()+" "+r.Op.Noun()+" "+r.Op.Verb(), "_", "-")), " ")
			fmt.Fprintf(&b, "| `%s %s` | `%s` | `%s` | %s |\n", r.Method, r.Path, r.Op.Scope, verb, cellText(r.Op.Summary))
		}
	}
	golden(t, "operations.md", []byte(b.String()))
}

var docLink = regexp.MustCompile(`\]\(([^)#:\s]+)(#[^)]*)?\)`)

// TestDocsLinks resolves every relative link of the pages people read.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/reference/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	for _, page := range pages {
		if filepath.Base(page) == "THIRD_PARTY_NOTICES.md" {
			continue
		}
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range docLink.FindAllStringSubmatch(string(raw), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: the link %s leads nowhere", page, m[1])
			}
		}
	}
}

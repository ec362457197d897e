package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wispgate/edge/journal"
	"wispgate/edge/vault"
)

// pretendFile is a resource that does not exist, in the shape of a domain's file.
const pretendFile = `package inventory

import "wispgate/edge"

// Cage is a fenced place at a site.
type Cage struct {
	edge.Meta
	Label string  ` + "`json:\"label\" check:\"min=1 max=40\" doc:\"What stands on its door.\" example:\"C3\"`" + `
	Site  edge.ID ` + "`json:\"site_id\" check:\"prefix=sit\" doc:\"Where it is.\"`" + `
}

var cages = &edge.Table[Cage]{
	Name: "inventory.cage", Prefix: "cag", Meta: func(c *Cage) *edge.Meta { return &c.Meta },
	Indexes: []edge.Index[Cage]{{Name: "label", Unique: true, Keys: func(c *Cage) []string { return []string{c.Label} }}},
}

// CageAdded says that a cage was added.
type CageAdded struct {
	Cage  edge.ID ` + "`json:\"cage\"`" + `
	Label string  ` + "`json:\"label\"`" + `
}

// EventName implements edge.Event.
func (CageAdded) EventName() string { return "inventory.cage.added" }

// Subject implements edge.Event.
func (e CageAdded) Subject() edge.ID { return e.Cage }

// NewCage is what a cage is made from.
type NewCage struct {
	edge.Common
	Label string  ` + "`json:\"label\" check:\"min=1 max=40\" doc:\"What stands on its door.\" example:\"C3\"`" + `
	Site  edge.ID ` + "`json:\"site_id\" check:\"prefix=sit\" doc:\"Where it is.\"`" + `
}

// AddCage adds a cage.
var AddCage = edge.Command[NewCage, Cage]{
	Name: "inventory.cage.add", Scope: "inventory:write", Class: edge.Write, Summary: "Fence a place in",
	Handle: func(tx edge.Tx, in NewCage) (Cage, error) {
		if _, err := sites.Get(tx, in.Site); err != nil {
			return Cage{}, err
		}
		c := Cage{Meta: in.Meta(tx.NewID("cag")), Label: in.Label, Site: in.Site}
		if err := cages.Put(tx, &c); err != nil {
			return Cage{}, err
		}
		tx.Emit(CageAdded{c.ID, c.Label})
		return c, nil
	},
}

// CageRef names a cage.
type CageRef struct {
	ID edge.ID ` + "`json:\"id\" check:\"prefix=cag\" doc:\"The cage.\"`" + `
}

// GetCage answers one cage.
var GetCage = edge.Query[CageRef, Cage]{
	Name: "inventory.cage.get", Scope: "inventory:read", Class: edge.Read, Summary: "Read a cage",
	Handle: func(v edge.View, in CageRef) (Cage, error) { return cages.Get(v, in.ID) },
}
`

// pretendLines are what the domain's Module says of it.
var pretendLines = strings.NewReplacer(
	"[]edge.AnyTable{", "[]edge.AnyTable{cages, ",
	"[]*edge.Op{", "[]*edge.Op{AddCage.Op(), GetCage.Op(), ",
	"[]edge.Event{", "[]edge.Event{CageAdded{}, ",
	"Routes: []edge.Route{", `Routes: []edge.Route{
			{Method: "POST", Path: "/api/v1/inventory/cages", Op: AddCage.Op(), Created: true},
			{Method: "GET", Path: "/api/v1/inventory/cages/{id}", Op: GetCage.Op()},`,
)

// buildPretend builds the program with one more file in one domain's folder, and lines in its Module. Nothing else is touched.
func buildPretend(t *testing.T) string {
	t.Helper()
	module, err := os.ReadFile("../../inventory/inventory.go")
	must(t, err)
	return buildWith(t, map[string]string{"inventory/cage.go": pretendFile, "inventory/inventory.go": pretendLines.Replace(string(module))})
}

// buildWith builds the program with other contents of some files, named from the root of the source.
func buildWith(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	must(t, err)
	replace := map[string]string{}
	for name, content := range files {
		path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		must(t, os.WriteFile(path, []byte(content), 0o600))
		replace[filepath.Join(root, name)] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	out := filepath.Join(dir, "wispgate")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay.json"), "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	return out
}

// TestAResourceIsOneFileAndItsLines builds the product with a resource that nobody has heard of, and finds it everywhere.
func TestAResourceIsOneFileAndItsLines(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the program; not with -short")
	}
	built := buildPretend(t)
	port := freePort(t)
	w := newTower(t, t.TempDir(), "", fmt.Sprintf(`mqtt_listen: "", mqtt_plain_listen: "127.0.0.1:%d"`, port), fmt.Sprintf("mqtt://127.0.0.1:%d", port))
	w.node.bin, w.relay.bin = built, built
	w.relay.start()
	w.noc = w.relay.claim()
	w.node.start()
	w.api = w.node.claim()
	site := w.api.create(t, "/api/v1/inventory/sites", map[string]any{"code": "TWR7", "name": "Hill Farm", "kind": "tower", "timezone": "UTC"})

	// the API: route, schema, unique index, scope
	cage := w.api.create(t, "/api/v1/inventory/cages", map[string]any{"label": "C3", "site_id": site})
	if a := w.api.ask(http.MethodPost, "/api/v1/inventory/cages", "", map[string]any{"label": "C3", "site_id": site}); a.status != http.StatusConflict {
		t.Errorf("the same label again: %s", a)
	}
	if a := w.api.ask(http.MethodPost, "/api/v1/inventory/cages", "", map[string]any{"label": "C4", "colour": "red"}); a.code() != "input_invalid" {
		t.Errorf("an unknown member: %s", a)
	}
	if a := w.node.client().ask(http.MethodGet, "/api/v1/inventory/cages/"+cage, "", nil); a.status != http.StatusUnauthorized {
		t.Errorf("without a key: %s", a)
	}
	for path, want := range map[string]string{
		"/api/v1/openapi.json": `"/api/v1/inventory/cages/{id}"`, "/api/v1/events.json": "inventory.cage.added",
	} {
		if a := w.api.ask(http.MethodGet, path, "", nil); a.status != http.StatusOK || !bytes.Contains(a.body, []byte(want)) {
			t.Errorf("%s knows nothing of %s: %d", path, want, a.status)
		}
	}

	// the CLI
	cli := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(built, args...)
		cmd.Env = append(os.Environ(), "WISPGATE_URL="+w.node.url, "WISPGATE_KEY="+w.api.key, "WISPGATE_CA_FILE="+filepath.Join(w.node.data, "tls", "ca.crt"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("wispgate %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	if help := cli("inventory", "cage", "add", "--help"); !strings.Contains(help, "What stands on its door") || !strings.Contains(help, "--site-id") {
		t.Errorf("the help of inventory cage add says\n%s", help)
	}
	if got := cli("inventory", "cage", "get", cage, "-o", "json"); !strings.Contains(got, `"label": "C3"`) {
		t.Errorf("inventory cage get: %s", got)
	}
	cli("inventory", "cage", "add", "--label", "C5", "--site-id", site)

	// the event, at the relay
	eventually(t, "the relay holds both events", func() (bool, string) {
		events := list[storedEvent](t, w.noc, "/api/v1/relay/events?type=inventory.cage.added")
		return len(events) == 2, fmt.Sprint(events)
	})

	// the audit log
	w.node.stop()
	if n := auditLines(t, w.node.data, `"inventory.cage.add"`); n < 2 {
		t.Errorf("the audit log names inventory.cage.add %d times", n)
	}
}

// auditLines counts the lines of a stopped node's audit log that hold a text.
func auditLines(t *testing.T, data, text string) (n int) {
	t.Helper()
	keys, err := vault.Open(filepath.Join(data, "keys"))
	must(t, err)
	log, err := journal.Open(journal.Options{Dir: filepath.Join(data, "audit"), Seal: keys.Sealer("journal audit"), Chain: true, Now: time.Now})
	must(t, err)
	defer func() { must(t, log.Close()) }()
	_, err = log.Read(log.First(), 10_000, func(r journal.Record) error {
		if bytes.Contains(r.Payload, []byte(text)) {
			n++
		}
		return nil
	})
	must(t, err)
	return n
}

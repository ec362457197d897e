package edgetest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"wispgate/edge"
)

// GoldenEvents compares one sample of every event of the module with testdata/events/<name>.json: an event's shape is a contract, and
// fields are only ever added. UPDATE_GOLDEN=1 rewrites the files; review the diff.
func GoldenEvents(t *testing.T, m edge.Module, samples ...edge.Event) {
	t.Helper()
	missing := map[string]bool{}
	for _, e := range m.Events {
		missing[e.EventName()] = true
	}
	for _, e := range samples {
		name := e.EventName()
		if !missing[name] {
			t.Errorf("%s: the module does not declare it, or it is sampled twice", name)
		}
		delete(missing, name)
		if !e.Subject().Valid() {
			t.Errorf("%s: the sample's subject %q is not an id", name, e.Subject())
		}
		raw, err := json.MarshalIndent(e, "", "  ")
		must(t, err)
		raw = append(raw, '\n')
		path := filepath.Join("testdata", "events", name+".json")
		if os.Getenv("UPDATE_GOLDEN") != "" {
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			must(t, os.WriteFile(path, raw, 0o644))
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%s: %v; run with UPDATE_GOLDEN=1 and review the file", name, err)
		} else if string(want) != string(raw) {
			t.Errorf("%s: got %s, want %s", name, raw, want)
		}
	}
	for name := range missing {
		t.Errorf("%s: there is no sample", name)
	}
}

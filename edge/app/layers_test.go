package app

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "wispgate/"

// layer is a line of the table in ARCHITECTURE.md: which of our packages a package may import, and of which third-party engines it is
// the only room. "x/..." stands for x and everything below it.
type layer struct {
	path    string
	ours    []string
	engines []string
}

var layers = []layer{
	{"edge", nil, nil},
	{"edge/config", []string{"edge"}, []string{"github.com/goccy/go-yaml/..."}},
	{"edge/obs", []string{"edge"}, []string{"github.com/VictoriaMetrics/metrics"}},
	{"edge/journal", []string{"edge", "edge/flock"}, nil},
	{"edge/vault", []string{"edge"}, []string{"golang.org/x/crypto/argon2"}},
	{"edge/chunk", nil, nil},
	{"edge/flock", nil, nil},
	{"edge/backup", []string{"edge", "edge/chunk"}, []string{"golang.org/x/crypto/argon2"}},
	{"edge/bundle", []string{"edge", "edge/chunk"}, nil},
	{"edge/store", []string{"edge", "edge/flock"}, []string{"github.com/dgraph-io/badger/v4/...", "github.com/dgraph-io/ristretto/v2/..."}},
	{"edge/exec", []string{"edge", "edge/store", "edge/journal"}, nil},
	{"sync/cluster", []string{"edge", "edge/store", "edge/exec"}, []string{"github.com/hashicorp/..."}},
	{"sync/wire", []string{"edge"}, nil},
	{"sync/uplink", []string{"edge", "edge/journal", "sync/wire"}, []string{"github.com/eclipse/paho.mqtt.golang/..."}},
	{"sync/relay", []string{"edge", "edge/store", "edge/journal", "sync/wire"}, []string{"github.com/eclipse/paho.mqtt.golang/...", "github.com/mochi-mqtt/..."}},
	{"sync/relay/queuetest", []string{"edge", "sync/relay"}, nil},
	// The room of the relay's scaled mode; nothing is in it yet.
	{"sync/relay/postgres", []string{"edge", "sync/relay", "sync/wire"}, []string{"github.com/jackc/pgx/v5/...", "github.com/riverqueue/river/..."}},
	{"aaa", []string{"edge", "aaa/..."}, nil},
	{"aaa/...", []string{"edge", "aaa/..."}, []string{"layeh.com/radius/..."}},
	{"billing/...", []string{"edge", "billing/..."}, nil},
	{"crm/...", []string{"edge", "crm/..."}, nil},
	{"inventory/...", []string{"edge", "inventory/..."}, nil},
	{"gateway/authn", []string{"edge", "gateway/..."}, []string{"github.com/golang-jwt/jwt/v5"}},
	{"gateway/...", []string{"edge", "gateway/..."}, []string{"github.com/gofiber/fiber/v2/...", "github.com/valyala/fasthttp/..."}},
	{"edge/edgetest/bubble", nil, nil},
	{"edge/edgetest/peers", nil, nil},
	{"edge/edgetest", []string{"edge", "edge/store", "edge/exec", "edge/journal", "edge/vault", "sync/cluster"}, nil},
	{"edge/app/...", []string{"..."}, nil},
	{"images/...", []string{"edge", "edge/config"}, nil},
	{"cmd/wispgate", []string{"edge", "edge/app/...", "edge/config"}, []string{"github.com/spf13/cobra", "github.com/spf13/pflag"}},
}

// shared are third-party packages that every room may use: small, without state of their own.
var shared = []string{"golang.org/x/sys/...", "golang.org/x/crypto/...", "github.com/klauspost/compress/s2"}

// testOnly are imported by tests and nothing else.
var testOnly = []string{
	"wispgate/edge/edgetest/...", "wispgate/sync/relay/queuetest", "github.com/google/go-cmp/...", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/rogpeppe/go-internal/...",
	"github.com/anishathalye/porcupine", "github.com/standard-webhooks/...", "github.com/santhosh-tekuri/jsonschema/...",
}

type listed struct {
	ImportPath                string
	Imports                   []string
	TestImports, XTestImports []string
	Standard                  bool
}

// TestLayers holds the import rules: domains speak only to edge, and each engine is known in one room.
func TestLayers(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		path := strings.TrimPrefix(p.ImportPath, root)
		l := layerOf(path)
		if l == nil {
			t.Errorf("package %s: no line of the layer table names it; add one, in a commit of its own", path)
			continue
		}
		for _, imp := range p.Imports {
			if why := l.refuses(imp); why != "" {
				t.Errorf("package %s imports %s: %s", path, imp, why)
			}
		}
	}
}

// layerOf finds the most exact line.
func layerOf(path string) *layer {
	var best *layer
	for i, l := range layers {
		if match(l.path, path) && (best == nil || len(strings.TrimSuffix(l.path, "/...")) > len(strings.TrimSuffix(best.path, "/...")) || l.path == path) {
			best = &layers[i]
		}
	}
	return best
}

func match(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, path) })
}

func (l layer) refuses(imp string) string {
	if matchAny(testOnly, imp) {
		return "only tests may"
	}
	if ours, ok := strings.CutPrefix(imp, root); ok {
		if matchAny(l.ours, ours) {
			return ""
		}
		return "its layer may not"
	}
	if !strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") || matchAny(l.engines, imp) {
		return ""
	}
	if l.path == "edge" {
		return "edge uses the standard library only"
	}
	if matchAny(shared, imp) {
		return ""
	}
	for _, o := range layers {
		if matchAny(o.engines, imp) {
			return "it belongs to " + o.path
		}
	}
	if l.path == "edge/app/..." {
		return ""
	}
	return "no room is named for it"
}

func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Standard"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []listed
	dec := json.NewDecoder(out)
	for {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLayersDeps compares what the binary links with a committed list, so that every new dependency is a visible line of a diff.
// Write it anew with: go test ./edge/app -run LayersDeps -update
func TestLayersDeps(t *testing.T) {
	t.Parallel()
	const golden = "../../cmd/wispgate/deps.txt"
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./cmd/wispgate")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the binary links other packages than cmd/wispgate/deps.txt says; look at the difference, then run with -update")
	}
}

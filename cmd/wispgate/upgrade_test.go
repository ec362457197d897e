package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
	"wispgate/sync/cluster"
)

// towerNode is a node of a cluster of real processes.
type towerNode struct {
	*program
	auth string // of RADIUS
	api  *apiClient
}

// newMember prepares a node with a cluster port on loopback. dir holds its data folder.
func newMember(t testing.TB, name, dir string) *towerNode {
	t.Helper()
	m := &towerNode{auth: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	api, port := freePort(t), freePort(t)
	m.program = newProgram(t, "serve", dir, named(name)+fmt.Sprintf(`
radius: {auth_listen: [%q], acct_listen: ["127.0.0.1:%d"], workers: 1, reject_delay: 0s}
api: {listen: "127.0.0.1:%d", admin_listen: ""}
cluster: {listen: "127.0.0.1:%d"}
`, m.auth, freePort(t), api, port), api)
	m.api = m.local()
	return m
}

// run runs the command line against the member's own socket and returns what it printed.
func (m *towerNode) run(args ...string) string {
	m.t.Helper()
	cmd := exec.Command(binary(m.t), append([]string{"--socket", filepath.Join(m.data, "wispgate.sock")}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			m.t.Fatalf("wispgate %s: %v: %s", strings.Join(args, " "), err, failed.Stderr)
		}
		m.t.Fatal(err)
	}
	return string(out)
}

// joins lets the member into the cluster of another and starts it.
func (m *towerNode) joins(other *towerNode, role string) {
	m.t.Helper()
	var invited struct {
		Token string `json:"token"`
	}
	must(m.t, json.Unmarshal([]byte(other.run("cluster", "invite", "--role", role, "-o", "json")), &invited))
	line := append(slices.Clone(m.wrap), m.exe(), "cluster", "join", "-c", m.conf, invited.Token)
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("join: %v\n%s", err, out)
	}
	m.start()
}

// level is what the member says of its cluster.
func (m *towerNode) checksum() (sum string, version uint64) {
	m.t.Helper()
	var c struct {
		Version  uint64 `json:"version"`
		Checksum string `json:"checksum"`
	}
	m.api.must(m.t, http.MethodGet, "/api/v1/sync/checksum", nil, &c)
	return c.Checksum, c.Version
}

// agree waits until all members have the same state.
func agree(t *testing.T, members ...*towerNode) {
	t.Helper()
	eventually(t, "all nodes have the same state", func() (bool, string) {
		first, version := members[0].checksum()
		var state strings.Builder
		fmt.Fprint(&state, version)
		for _, m := range members[1:] {
			sum, v := m.checksum()
			fmt.Fprint(&state, " ", v)
			if sum != first || v != version {
				return false, state.String()
			}
		}
		return true, state.String()
	})
}

// unpack lays a data folder of an earlier version.
func unpack(t *testing.T, archive, to string) {
	t.Helper()
	f, err := os.Open(archive)
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		path := filepath.Join(to, filepath.Clean("/"+h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			must(t, os.MkdirAll(path, 0o700))
		case tar.TypeReg:
			raw, err := io.ReadAll(io.LimitReader(r, 64<<20))
			must(t, err)
			must(t, os.WriteFile(path, raw, 0o600))
		}
	}
}

// A data folder that a lone node of the first version left goes on: its records, its secrets and its audit, and it becomes a cluster whose
// second node lets the same people in.
func TestADataFolderOfAnEarlierVersionGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unpack(t, filepath.Join("testdata", "data", "lone-0.1.tar.gz"), dir)
	old := newMember(t, "old-a", dir)
	secret, err := os.ReadFile(filepath.Join(old.data, "rs"))
	must(t, err)
	password, err := os.ReadFile(filepath.Join(old.data, "pw"))
	must(t, err)
	accepts := func(m *towerNode, login string) {
		t.Helper()
		c, err := radclient.Dial(m.auth, secret, time.Now, radclient.Options{Timeout: time.Second, Tries: 3})
		must(t, err)
		defer c.Close()
		plain := string(password)
		eventually(t, "the login is accepted", func() (bool, string) {
			reply, err := c.Do(t.Context(), radclient.Request{Code: packet.AccessRequest, Attrs: packet.AppendString(nil, packet.UserName, login), Password: &plain})
			if err != nil {
				return false, err.Error()
			}
			return reply.Code == packet.AccessAccept, fmt.Sprint(reply.Code)
		})
	}
	old.start()
	api := old.api
	type customer struct {
		Name string `json:"name"`
	}
	if all := list[customer](t, api, "/api/v1/crm/customers"); len(all) != 20 {
		t.Errorf("got %d customers, want the twenty", len(all))
	}
	var drift struct {
		Records int   `json:"records"`
		Drift   []any `json:"drift"`
	}
	if api.must(t, http.MethodGet, "/api/v1/sync/drift", nil, &drift); drift.Records == 0 || len(drift.Drift) > 0 {
		t.Errorf("got %+v, want records without drift", drift)
	}
	// The operator's own writes can be followed over the socket, too.
	if a := api.ask(http.MethodPost, "/api/v1/crm/customers", "by-hand", map[string]any{"kind": "person", "name": "By Hand"}); a.status != http.StatusCreated {
		t.Errorf("a write: %s", a)
	}
	var op struct {
		State string `json:"state"`
	}
	if api.must(t, http.MethodGet, "/api/v1/sync/operations/by-hand", nil, &op); op.State != "committed" {
		t.Errorf("got %+v", op)
	}
	accepts(old, "user10")
	if out, err := exec.Command(binary(t), "audit", "verify", "--dir", old.data).CombinedOutput(); err != nil {
		t.Errorf("the audit is not intact: %v\n%s", err, out)
	}
	second := newMember(t, "new-b", t.TempDir())
	second.joins(old, "replica")
	agree(t, old, second)
	accepts(second, "user20")
	second.stop()
	old.stop()
}

// versions are the program of the former version, which reads one level less, and the present one with a resource that needs its level.
func versions(t *testing.T) (former, next string) {
	t.Helper()
	read := func(path string) string {
		raw, err := os.ReadFile(filepath.Join("../..", path))
		must(t, err)
		return string(raw)
	}
	present := fmt.Sprintf("const FeatureLevel = %d", cluster.FeatureLevel)
	level := strings.Replace(read("sync/cluster/level.go"), present, fmt.Sprintf("const FeatureLevel = %d", cluster.FeatureLevel-1), 1)
	needs := fmt.Sprintf("Level: %d", cluster.FeatureLevel)
	cage := strings.Replace(pretendFile, "Scope: \"inventory:write\", Class: edge.Write,", "Scope: \"inventory:write\", Class: edge.Write, "+needs+",", 1)
	if strings.Contains(level, present) || !strings.Contains(cage, needs) {
		t.Fatal("the next version is no other")
	}
	former = buildWith(t, map[string]string{"sync/cluster/level.go": level})
	next = buildWith(t, map[string]string{"inventory/cage.go": cage, "inventory/inventory.go": pretendLines.Replace(read("inventory/inventory.go"))})
	return former, next
}

// writers create customers through every member, each with a key of its own that is asked again until it is answered, and keep the book.
type writers struct {
	mu    sync.Mutex
	acked map[string]bool
}

func (w *writers) run(ctx context.Context, m *towerNode, who string) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprint(who, "-", n)
		for ctx.Err() == nil {
			a := m.api.ask(http.MethodPost, "/api/v1/crm/customers", key, map[string]any{"kind": "person", "name": "Person " + key, "external_id": key})
			if a.err == nil && (a.status == http.StatusCreated || a.status == http.StatusAccepted) {
				w.mu.Lock()
				w.acked[key] = true
				w.mu.Unlock()
				break
			}
			if a.err == nil && a.status < 500 && a.status != http.StatusConflict && a.status != http.StatusTooManyRequests {
				m.t.Errorf("%s: %s", key, a)
				return
			}
			pause(ctx, 50*time.Millisecond)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Three nodes are upgraded one after the other while people work. Nothing is lost or doubled, the versions agree while they are mixed, and
// what the older ones could not read stays off until the last is gone.
func TestARollingUpgradeLosesNothing(t *testing.T) {
	t.Parallel()
	onBuilt(t)
	former, next := versions(t)
	var members []*towerNode
	for _, name := range []string{"n1", "n2", "n3"} {
		m := newMember(t, name, t.TempDir())
		m.bin = former
		members = append(members, m)
	}
	first := members[0]
	first.start()
	first.claim()
	for _, m := range members[1:] {
		m.joins(first, "voter")
	}
	eventually(t, "all three vote", func() (bool, string) {
		out := first.run("status", "-o", "jsonl")
		return strings.Contains(out, `"voters":["n1","n2","n3"]`), out
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &writers{acked: map[string]bool{}}
	var wg sync.WaitGroup
	for _, m := range members {
		for lane := range 2 {
			wg.Go(func() { w.run(ctx, m, fmt.Sprint(m.url[len(m.url)-5:], "-", lane)) })
		}
	}
	site := first.api.create(t, "/api/v1/inventory/sites", map[string]any{"code": "TWR7", "name": "Hill Farm", "kind": "tower", "timezone": "UTC"})
	grown := func(least int) {
		t.Helper()
		eventually(t, "people go on working", func() (bool, string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.acked) >= least, fmt.Sprint(len(w.acked))
		})
	}
	grown(30)
	for i, m := range members {
		m.stop()
		m.bin = next
		m.start()
		grown(60 + 30*i)
		if i < len(members)-1 {
			eventually(t, "a feature of the next version waits", func() (bool, string) {
				a := m.api.ask(http.MethodPost, "/api/v1/inventory/cages", "", map[string]any{"label": fmt.Sprint("C", i), "site_id": site})
				if a.status == http.StatusCreated {
					t.Fatalf("with %d of 3 nodes upgraded: %s", i+1, a)
				}
				return a.code() == "feature_pending", a.String()
			})
		}
	}
	eventually(t, "the feature is on", func() (bool, string) {
		a := first.api.ask(http.MethodPost, "/api/v1/inventory/cages", "cage", map[string]any{"label": "on", "site_id": site})
		return a.status == http.StatusCreated, a.String()
	})
	cancel()
	wg.Wait()
	agree(t, members...)
	type customer struct {
		ExternalID string `json:"external_id"`
	}
	have := map[string]int{}
	for _, c := range list[customer](t, members[1].api, "/api/v1/crm/customers") {
		have[c.ExternalID]++
	}
	for key := range w.acked {
		if have[key] != 1 {
			t.Errorf("%s was acknowledged and is there %d times", key, have[key])
		}
	}
	// A node of the former version does not open what the cluster may store now.
	last := members[2]
	last.stop()
	last.bin = former
	last.launch()
	select {
	case err := <-last.done:
		last.cmd = nil
		if err == nil || !strings.Contains(last.tail(2000), "data_newer") {
			t.Errorf("a downgrade: %v\n%s", err, last.tail(2000))
		}
	case <-time.After(pollLimit):
		t.Error("a downgraded node starts")
	}
	t.Logf("%d customers", len(w.acked))
}

package app

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"wispgate/edge"
)

// A folder whose log is lost holds a state all the same: to join another cluster with it would take the only copy away.
func TestAJoinLeavesAStateAloneWhoseLogIsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := startNode(t, dir, nil)
	n.claim("acme")
	n.stopNode()
	aside := filepath.Join(t.TempDir(), "log")
	if err := os.Rename(logDir(dir), aside); err != nil {
		t.Fatal(err)
	}
	_, err := JoinCluster(t.Context(), Options{Config: testConfig(dir), Version: "test", Log: io.Discard, Out: io.Discard}, "token", ClusterPlace{Listen: "127.0.0.1:0", Advertise: "127.0.0.1:1"})
	if e, ok := edge.AsError(err); err == nil || !ok || e.Code != "cluster_exists" {
		t.Errorf("got %v", err)
	}
	if err := os.Rename(aside, logDir(dir)); err != nil {
		t.Fatal(err)
	}
	key := n.key
	n = startNode(t, dir, nil)
	n.key = key
	n.call(200, "GET", "/api/v1/crm/customers", nil)
}

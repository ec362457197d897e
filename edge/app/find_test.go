package app

import "testing"

// TestANodeIsToldWhereAnotherIs: through its socket, and a refusal crosses it as it is.
func TestANodeIsToldWhereAnotherIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	code := func() string { return errCode(FindNode(t.Context(), dir, "tower8", "10.8.0.8:7846")) }
	if got := code(); got != "no_target" {
		t.Errorf("without a daemon: got %s", got)
	}
	startNode(t, dir, nil)
	if got := code(); got != "cluster_closed" {
		t.Errorf("a node that stands alone: got %s", got)
	}
}

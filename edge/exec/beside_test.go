package exec_test

import (
	"encoding/json"
	"testing"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
)

// asks makes a box under a key of the caller's choice.
func asks(m *edgetest.Member, key, in string) (box, edge.Reply, error) {
	return edgetest.Try[box](m.Harness, acme, edge.Request{Key: key}, makeBox.Name, json.RawMessage(in))
}

func operation(t *testing.T, m *edgetest.Member, key string) exec.OperationState {
	t.Helper()
	return edgetest.Ask[exec.OperationState](t, m.Harness, acme, "sync.operation.get", exec.OperationRef{Operation: key})
}

// TestAKeyThatBecameAnotherWritesIsAConflictThatCanBeRetried gives one key to a cut-off tower and to the leader, with other contents.
func TestAKeyThatBecameAnotherWritesIsAConflictThatCanBeRetried(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	tower.CutAndNotice()
	promised, r, err := asks(tower, "k", `{"label":"tower"}`)
	if err != nil || r.State != "pending" || r.Version != 0 {
		t.Fatalf("got %+v, %v", r, err)
	}
	if _, r, err = asks(tower, "k", `{"label":"tower"}`); err != nil || !r.Replayed || r.Version != 0 {
		t.Errorf("repeated while it is pending: %+v, %v", r, err)
	}
	first, _, err := asks(leader, "k", `{"label":"leader"}`)
	if err != nil {
		t.Fatal(err)
	}
	tower.HealAndDrain()
	c.Agree()
	list := openConflicts(t, leader)
	if len(list) != 1 || list[0].Operation != "k" || list[0].Reason.Code != "idempotency_key_reused" {
		t.Fatalf("got %+v", list)
	}
	id := list[0].ID
	if got := operation(t, tower, "k"); got.State != "conflict" || got.Conflict != id || len(got.Others) != 1 || got.Others[0].State != "committed" || got.Others[0].Record != first.ID {
		t.Errorf("got %+v", got)
	}
	_, _, err = asks(tower, "k", `{"label":"tower"}`)
	if e, _ := edge.AsError(err); edgetest.CodeOf(t, err) != "sync_conflict" || e.Fix == "" {
		t.Errorf("repeated: got %v", err)
	}
	if b, r, err := asks(tower, "k", `{"label":"leader"}`); err != nil || !r.Replayed || b.ID != first.ID {
		t.Errorf("the other one, repeated: got %+v, %v", r, err)
	}
	if _, _, err := asks(tower, "k", `{"label":"neither"}`); edgetest.CodeOf(t, err) != "idempotency_key_reused" {
		t.Errorf("a third content: got %v", err)
	}
	edgetest.Do[exec.Conflict](t, tower.Harness, acme, "sync.conflict.resolve", exec.ResolveConflict{ID: id, Action: "retry"})
	if got := labels(t, leader); len(got) != 2 {
		t.Errorf("the leader shows %v", got)
	}
	b, r, err := asks(tower, "k", `{"label":"tower"}`)
	if err != nil || !r.Replayed || b.Label != "tower" || b.ID == promised.ID || r.Operation != "k" {
		t.Errorf("repeated after the decision: %+v %+v, %v", b, r, err)
	}
	if got := operation(t, tower, "k"); got.State != "committed" || got.Record != b.ID || len(got.Others) != 1 || got.Others[0].Record != first.ID {
		t.Errorf("got %+v", got)
	}
	c.Agree()
	edgetest.NoDrift(t, leader.Harness)
}

// TestARetryKeepsTheIDsThatAreFree holds that what was sealed for the tower's record opens, where the key's other write made none of its id, and that
// otherwise nobody is given a record whose secret is lost.
func TestARetryKeepsTheIDsThatAreFree(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	red := edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "red"})
	tower.CutAndNotice()
	free, _, err := asks(tower, "free", `{"label":"a","secret":"hidden"}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := asks(tower, "held", `{"label":"b","secret":"hidden"}`); err != nil {
		t.Fatal(err)
	}
	if _, _, err := edgetest.Try[box](leader.Harness, acme, edge.Request{Key: "free"}, paintBox.Name, paint{red.ID, "red"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := asks(leader, "held", `{"label":"c"}`); err != nil {
		t.Fatal(err)
	}
	tower.HealAndDrain()
	for _, f := range openConflicts(t, leader) {
		in := exec.ResolveConflict{ID: f.ID, Action: "retry"}
		if f.Operation == "held" {
			if got := edgetest.Code(t, leader.Harness, acme, "sync.conflict.resolve", in); got != "conflict_secret" {
				t.Errorf("got %s", got)
			}
			continue
		}
		edgetest.Do[exec.Conflict](t, leader.Harness, acme, "sync.conflict.resolve", in)
	}
	if b, r, err := asks(leader, "free", `{"label":"a","secret":"hidden"}`); err != nil || !r.Replayed || b.ID != free.ID {
		t.Errorf("got %s, %v, want %s", b.ID, err, free.ID)
	}
	c.Agree()
	edgetest.NoDrift(t, leader.Harness)
}

// TestADismissedWriteSaysSo asks for a write that somebody has let go.
func TestADismissedWriteSaysSo(t *testing.T) {
	t.Parallel()
	c, leader, tower := pair(t)
	tower.CutAndNotice()
	if _, _, err := asks(tower, "k", `{"label":"a"}`); err != nil {
		t.Fatal(err)
	}
	edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "a"})
	tower.HealAndDrain()
	f := openConflicts(t, leader)[0]
	if got := operation(t, tower, "k"); got.State != "conflict" || got.Conflict != f.ID {
		t.Errorf("got %+v", got)
	}
	edgetest.Do[exec.Conflict](t, leader.Harness, acme, "sync.conflict.resolve", exec.ResolveConflict{ID: f.ID, Action: "dismiss", Note: "there is one"})
	c.Agree()
	if got := operation(t, tower, "k"); got.State != "dismissed" || got.Conflict != f.ID || got.DecidedBy != acme.Subject || got.DecidedAt == nil || got.Note != "there is one" {
		t.Errorf("got %+v", got)
	}
	_, _, err := asks(tower, "k", `{"label":"a"}`)
	if e, _ := edge.AsError(err); edgetest.CodeOf(t, err) != "sync_dismissed" || e.Kind != edge.Conflict {
		t.Errorf("repeated: got %v", err)
	}
}

// TestAKeyIsLookedUpForItsClient holds that who may read conflicts may name another client, and that nobody is asked to send again what another
// has sent.
func TestAKeyIsLookedUpForItsClient(t *testing.T) {
	t.Parallel()
	_, leader, _ := pair(t)
	if _, _, err := asks(leader, "k", `{"label":"a"}`); err != nil {
		t.Fatal(err)
	}
	other := edge.Actor{Tenant: "acme", Subject: "cli_other", Scopes: []string{"sync:read"}}
	ref := exec.OperationRef{Operation: "k"}
	look := func() error {
		raw, err := json.Marshal(ref)
		if err == nil {
			_, _, err = leader.Exec.Ask(t.Context(), other, "sync.operation.get", raw, 0)
		}
		return err
	}
	err := look()
	if e, _ := edge.AsError(err); edgetest.CodeOf(t, err) != "not_found" || e.Message != "No write of this client with this key has been answered here within the last four days" {
		t.Errorf("got %v", err)
	}
	ref.Client = acme.Subject
	if got := edgetest.Ask[exec.OperationState](t, leader.Harness, other, "sync.operation.get", ref); got.State != "committed" {
		t.Errorf("got %+v", got)
	}
	other.Scopes = []string{"test:write"}
	if err := look(); edgetest.CodeOf(t, err) != "scope_missing" {
		t.Errorf("without the scope: got %v", err)
	}
}

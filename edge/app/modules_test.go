package app

import (
	"testing"

	"wispgate/edge"
)

// TestModules builds every module and refuses what must not start: duplicates, missing scopes, unbounded inputs, dangling routes.
func TestModules(t *testing.T) {
	t.Parallel()
	if err := edge.Check(Declarations()); err != nil {
		t.Error(err)
	}
}

// TestModulesFlows holds the shape of the flows: every event is declared, every name is used once, and same-commit chains end.
func TestModulesFlows(t *testing.T) {
	t.Parallel()
	events := map[string]bool{}
	for _, m := range Declarations() {
		for _, e := range m.Events {
			events[e.EventName()] = true
		}
	}
	names := map[string]bool{}
	for _, f := range Flows() {
		if !events[f.Event] {
			t.Errorf("flow %s: event %s is not declared", f.Name, f.Event)
		}
		if names[f.Name] {
			t.Errorf("flow %s is declared twice", f.Name)
		}
		names[f.Name] = true
	}
}

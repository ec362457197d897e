package cluster

import (
	"fmt"
	"testing"
)

func TestALoneNodeBecomesAClusterOfThree(t *testing.T) {
	f := newFlock(t, nil)
	f.found("n1")
	for i := range 20 {
		f.put(fmt.Sprint("w", i), fmt.Sprint("k", i), "alone")
	}
	f.grow(Voter, "n2", "n3")
	f.grow(Replica, "n4")
	f.put("together", "k0", "together")
	f.settled()
	for _, name := range []string{"n2", "n3", "n4"} {
		b := f.bird(name)
		if r, err := b.read(t.Context(), "k0"); err != nil || r.Value != "together" {
			t.Errorf("%s reads %q, %v", name, r.Value, err)
		}
		if got, want := b.node.conf.Credentials.holdsCA(), name != "n4"; got != want {
			t.Errorf("%s holds the key of the CA: %v", name, got)
		}
		f.settledAt(b)
	}
}

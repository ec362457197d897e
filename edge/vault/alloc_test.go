//go:build !race

package vault

import "testing"

// The race detector empties pools at random, so this counts only without it.

func TestOnlyTheOutputIsAllocated(t *testing.T) {
	v := open(t, "isp")
	plain, sealed := []byte("a shared secret"), ""
	for name, f := range map[string]func(){
		"seal":   func() { sealed, _ = v.Seal("isp", "record", "field", plain) },
		"unseal": func() { _, _ = v.Unseal("isp", "record", "field", sealed) },
		"mac":    func() { v.MAC("isp", "purpose", plain) },
	} {
		sealed, _ = v.Seal("isp", "record", "field", plain)
		if n := testing.AllocsPerRun(200, f); n > 1 {
			t.Errorf("%s: got %v allocations, want 1", name, n)
		}
	}
}

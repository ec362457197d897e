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

func TestTheNodeSealerAllocatesNothing(t *testing.T) {
	s := open(t).Sealer("journal")
	plain, place := []byte("an accounting fact"), []byte("place")
	sealed, opened := make([]byte, 0, 256), make([]byte, 0, 256)
	if n := testing.AllocsPerRun(200, func() {
		sealed = s.Seal(sealed[:0], plain, place)
		opened, _ = s.Open(opened[:0], sealed, place)
	}); n != 0 || string(opened) != string(plain) {
		t.Fatalf("got %v allocations, %q", n, opened)
	}
}

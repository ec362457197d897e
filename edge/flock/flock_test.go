package flock

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func open(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func expect(t *testing.T, what string, f *os.File, shared, want bool) {
	t.Helper()
	if taken, err := Take(f, shared); err != nil || taken != want {
		t.Errorf("%s: taken %v, %v; want %v", what, taken, err, want)
	}
}

func TestALockIsOneProcesssAloneOrSharedAndEndsWithItsRelease(t *testing.T) {
	name := filepath.Join(t.TempDir(), "LOCK")
	first, second, third := open(t, name), open(t, name), open(t, name)
	expect(t, "a free lock", first, false, true)
	expect(t, "one that is held, alone", second, false, false)
	expect(t, "one that is held, shared", second, true, false)

	// A child of another goroutine holds copies of all files from its fork until it has become its program.
	fd, err := syscall.Dup(int(first.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := Release(first); err != nil {
		t.Fatal(err)
	}
	expect(t, "one that was released, with a copy of its file about", second, true, true)
	expect(t, "one that is shared, shared", third, true, true)
	if err := Release(third); err != nil {
		t.Fatal(err)
	}
	expect(t, "one that is shared, alone", open(t, name), false, false)
}

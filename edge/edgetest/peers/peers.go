// Package peers is what tests need of the machine they run on: peer programs, file systems to fill and to cut off, patience. It imports
// nothing of ours, so every package's tests may use it.
package peers

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// NeedProgram returns the path of a peer program. A missing one skips the test; under CI=true that is a failure, because there the peers
// are installed.
func NeedProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("the peer program %s is missing", name)
	}
	t.Skipf("the peer program %s is not installed", name)
	return ""
}

// Eventually polls until ok, and fails with what state says at the deadline.
func Eventually(t testing.TB, what string, ok func() bool, state func() any) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(3 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("never came: %s; state %+v", what, state())
		}
	}
}

// Rounds is how often a campaign runs: the number in the environment variable, else the usual one.
func Rounds(t testing.TB, variable string, usual int) int {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// NeedRoot skips without the rights to mount. In CI that is a failure: these cases must have run somewhere.
func NeedRoot(t testing.TB, programs ...string) {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root, to mount a file system"
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing = p
		}
	}
	switch {
	case missing == "":
	case os.Getenv("CI") == "true" && os.Geteuid() == 0:
		t.Fatalf("this test needs %s", missing)
	default:
		t.Skipf("this test needs %s", missing)
	}
}

// Run runs a program that must succeed.
func Run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// MakeImage makes an ext4 of mb megabytes in a file.
func MakeImage(t testing.TB, mb int64) string {
	t.Helper()
	NeedRoot(t, "mkfs.ext4", "mount", "umount")
	image := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(mb<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	Run(t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	return image
}

// MountImage mounts an image on a loop device until the returned func is called. The journal commits only when a flush asks for it, so
// that nothing but the program under test makes data durable.
func MountImage(t testing.TB, image string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,commit=300", image, dir).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("loop mount: %v: %s", err, out)
		}
		t.Skipf("this machine does not mount loop devices: %s", out)
	}
	return dir, func() { Run(t, "umount", dir) }
}

// MountTiny mounts a fresh ext4 of mb megabytes for the length of the test.
func MountTiny(t testing.TB, mb int64) string {
	t.Helper()
	dir, unmount := MountImage(t, MakeImage(t, mb))
	t.Cleanup(unmount)
	return dir
}

// FillUp takes every free block of the file system of dir and returns the first of its files.
func FillUp(t testing.TB, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "filler")
	if _, err := os.Stat(name); err == nil {
		name += "2"
	}
	f, err := os.Create(name)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return name
		}
		t.Fatal(err)
	}
	defer f.Close()
	for chunk := 1 << 20; chunk >= 4096; {
		if _, err := f.Write(make([]byte, chunk)); err != nil {
			chunk /= 2
		}
	}
	f.Sync() // fails on a full disk; what counts is that the blocks are taken
	return strings.TrimSuffix(name, "2")
}

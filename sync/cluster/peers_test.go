package cluster

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// needRoot skips without the rights to mount. In CI that is a failure: these cases must have run somewhere.
func needRoot(t testing.TB, programs ...string) {
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

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// makeImage makes an ext4 of mb megabytes in a file.
func makeImage(t testing.TB, mb int64) string {
	t.Helper()
	needRoot(t, "mkfs.ext4", "mount", "umount")
	image := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(mb<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	return image
}

// mountImage mounts an image on a loop device until the returned func is called. The journal commits only when a flush asks for it, so
// that nothing but the program under test makes data durable.
func mountImage(t testing.TB, image string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,commit=300", image, dir).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("loop mount: %v: %s", err, out)
		}
		t.Skipf("this machine does not mount loop devices: %s", out)
	}
	return dir, func() { run(t, "umount", dir) }
}

// mountTiny mounts a fresh ext4 of mb megabytes for the length of the test.
func mountTiny(t testing.TB, mb int64) string {
	t.Helper()
	dir, unmount := mountImage(t, makeImage(t, mb))
	t.Cleanup(unmount)
	return dir
}

// fillUp takes every free block of the file system of dir and returns the first of its files.
func fillUp(t testing.TB, dir string) string {
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

package store

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"wispgate/edge/edgetest/peers"
)

// TestThe32BitBuildsBothWays builds this package's tests for 386 and armv7, without the mended allocator and with it. The plain build
// must fail its self-test and refuse to open; the mended one must carry more than 4 MB through flush, reopening and restore, octet for
// octet. It compiles everything four times, so it runs in CI and where GO32=1 asks for it.
func TestThe32BitBuildsBothWays(t *testing.T) {
	if os.Getenv("CI") != "true" && os.Getenv("GO32") == "" {
		t.Skip("compiles for two other processors: set GO32=1")
	}
	if strconv.IntSize == 32 {
		t.Skip("runs from a 64-bit build")
	}
	for _, target := range []struct {
		name, emulator string
		env            []string
	}{
		{"386", "", []string{"GOARCH=386"}},
		{"armv7", "qemu-arm-static", []string{"GOARCH=arm", "GOARM=7"}},
	} {
		t.Run(target.name, func(t *testing.T) {
			if target.emulator != "" {
				peers.NeedProgram(t, target.emulator)
			}
			plain, err := try32(t, "go", target.env, target.emulator, "TheAllocatorOfThisBuildIsSound|TheLargestBatch")
			if err == nil || !strings.Contains(plain, "refuses to open the store") || !strings.Contains(plain, "this build corrupts data") {
				t.Errorf("the plain build must refuse; got %v: %s", err, plain)
			}
			mended, err := try32(t, "../../scripts/gomended", target.env, target.emulator,
				"TheAllocatorOfThisBuildIsSound|TheLargestBatch|ARestoreReplaces|TheChecksum|ADirectory")
			if err != nil {
				t.Errorf("the mended build: %v: %s", err, mended)
			}
		})
	}
}

// try32 builds the tests with the given go command and runs some of them.
func try32(t *testing.T, goCommand string, env []string, emulator, tests string) (string, error) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "store.test")
	build := exec.Command(goCommand, "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), append(env, "CGO_ENABLED=0")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", goCommand, err, out)
	}
	args := []string{binary, "-test.run", tests, "-test.short"}
	if emulator != "" {
		args = append([]string{emulator}, args...)
	}
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

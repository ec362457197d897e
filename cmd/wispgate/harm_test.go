package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"wispgate/edge/edgetest/peers"
)

// disk is a file system of one node's own, in an image file, so that it can be full and lose its power alone. Where the machine mounts no
// loop devices it is a plain folder, without an image.
type disk struct {
	t     testing.TB
	dir   string
	image string
}

func newDisk(t testing.TB, mb int64) *disk {
	t.Helper()
	d := &disk{t: t, dir: t.TempDir()}
	image := peers.MakeImage(t, mb)
	if out, err := d.mount(image); err != nil {
		t.Logf("no disks of their own: %v: %s", err, out)
		return d
	}
	d.image = image
	t.Cleanup(func() { _ = exec.Command("umount", "-l", d.dir).Run() })
	return d
}

// mount mounts an image. Its journal commits only when a flush asks for it, so that nothing but the node makes data durable.
func (d *disk) mount(image string) ([]byte, error) {
	return exec.Command("mount", "-o", "loop,commit=300", image, d.dir).CombinedOutput()
}

// cut takes the power from a node: what its disk held at one moment is all that is there when it starts again. The node is held for the
// length of the copy, so that it is one moment.
func (d *disk) cut(p *program, dark time.Duration) {
	d.t.Helper()
	must(d.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	left := filepath.Join(filepath.Dir(d.image), "left.img")
	peers.Run(d.t, "cp", "--reflink=auto", "--sparse=always", d.image, left)
	p.kill()
	peers.Run(d.t, "umount", d.dir)
	must(d.t, os.Rename(left, d.image))
	pause(d.t.Context(), dark)
	if out, err := d.mount(d.image); err != nil {
		d.t.Fatalf("mount what the power cut left: %v: %s", err, out)
	}
	p.start()
}

// slowFlushes makes each flush of a node take 30 ms longer for a while, where strace may look on.
func slowFlushes(t testing.TB, p *program, lasts time.Duration) {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		pause(t.Context(), lasts)
		return
	}
	const flushes = "fsync,fdatasync,msync"
	cmd := exec.Command(path, "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(p.cmd.Process.Pid), "-e", "trace="+flushes, "-e", "inject="+flushes+":delay_exit=30000")
	must(t, cmd.Start())
	pause(t.Context(), lasts)
	must(t, cmd.Process.Signal(syscall.SIGINT)) // it lets go of the node
	_ = cmd.Wait()
}

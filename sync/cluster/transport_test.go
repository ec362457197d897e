package cluster

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"wispgate/edge/store"
)

// A snapshot travels as raft carries it: opened live at one node, spooled by the sink of another, opened there, restored.
func TestASnapshotTravelsWithoutASecondCopyAtTheSender(t *testing.T) {
	fromDir, toDir := t.TempDir(), t.TempDir()
	from, to := raise(t, fromDir, store.Options{}, conf(fromDir)), raise(t, toDir, store.Options{}, conf(toDir))
	defer from.close(t)
	defer to.close(t)
	val := strings.Repeat("v", 5000)
	for i := range 60 {
		if err := from.write(t, strings.Repeat("k", i+1), val); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.node.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if err := from.write(t, "later", "than the snapshot's index"); err != nil {
		t.Fatal(err)
	}
	sending, err := newSnapshots(filepath.Join(fromDir, "raft", "snapshots"), from.machine)
	if err != nil {
		t.Fatal(err)
	}
	list, err := sending.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("got %v, %v", list, err)
	}
	meta, stream, err := sending.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	receiving, err := newSnapshots(t.TempDir(), to.machine)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := receiving.Create(meta.Version, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := copyAll(sink, stream)
	if err != nil || n != meta.Size {
		t.Fatalf("got %d octets, %d promised (%v)", n, meta.Size, err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	_, arrived, err := receiving.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := (fsm{to.machine, new(broadcast), new(backlog)}).Restore(arrived); err != nil {
		t.Fatal(err)
	}
	v1, sum1, err1 := from.machine.Checksum()
	v2, sum2, err2 := to.machine.Checksum()
	if err1 != nil || err2 != nil || v1 != v2 || sum1 != sum2 {
		t.Errorf("version %d %x and %d %x (%v, %v)", v1, sum1, v2, sum2, err1, err2)
	}
	if left, err := receiving.names(spoolSuffix); err != nil || len(left) > 0 {
		t.Errorf("spool left behind: %v %v", left, err)
	}
}

func copyAll(to io.Writer, from io.ReadCloser) (int64, error) {
	n, err := io.Copy(to, from)
	return n, errors.Join(err, from.Close())
}

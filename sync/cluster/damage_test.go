package cluster

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"

	"wispgate/edge/edgetest/peers"
	"wispgate/edge/exec"
	"wispgate/edge/store"
)

// entryFrames finds where the entries of a segment begin, and how long they are.
func entryFrames(t testing.TB, path string) (at, size []int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	check(t, err)
	const fileHeader = 32
	for i := fileHeader; i+frameHeader <= len(raw) && raw[i] != 0; {
		n := int(binary.LittleEndian.Uint32(raw[i+4:]))
		switch raw[i] {
		case frameEntry:
			at, size = append(at, i+frameHeader), append(size, n)
		case frameIndex:
			return at, size
		default:
			n = 0
		}
		i += int(frameSize(n))
	}
	return at, size
}

// flipEntry damages the third entry from the end of a node's log.
func (b *bird) flipEntry(t testing.TB) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(b.logDir(), "log", "*.wal"))
	check(t, err)
	path := list[len(list)-1]
	at, size := entryFrames(t, path)
	if len(at) < 3 {
		t.Fatalf("%s holds %d entries", path, len(at))
	}
	n := len(at) - 3
	flipFile(t, path, at[n]+size[n]*2/3)
}

func flipFile(t testing.TB, path string, at int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	check(t, err)
	for i := at; i < min(at+8, len(raw)); i++ {
		raw[i] ^= 0x5A
	}
	check(t, os.WriteFile(path, raw, 0o600))
}

// A member whose log is damaged starts, answers from its state, takes no part, says what to do, and is filled anew by what it says.
func TestADamagedLogParksAMemberUntilItIsFilledAnew(t *testing.T) {
	f := three(t, nil)
	f.put("w", "k", "v")
	f.settled()
	meta := func(b *bird) string { return filepath.Join(b.logDir(), "log", metadb.FileName) }
	for _, c := range []struct {
		what string
		do   func(b *bird)
	}{
		{"metadata without an octet", func(b *bird) { check(t, os.Truncate(meta(b), 0)) }},
		{"metadata that are cut", func(b *bird) { check(t, os.Truncate(meta(b), 10_000)) }},
		{"metadata that are none", func(b *bird) { check(t, os.WriteFile(meta(b), bytes.Repeat([]byte("x"), 32<<10), 0o600)) }},
		{"no metadata", func(b *bird) { check(t, os.Remove(meta(b))) }},
		{"the head of a segment", func(b *bird) { flipFile(t, tailFile(t, filepath.Dir(meta(b))), 0) }},
		{"an entry that the state has not seen", func(b *bird) {
			kept := filepath.Join(t.TempDir(), "store")
			check(t, os.CopyFS(kept, os.DirFS(filepath.Join(b.dir, "store"))))
			b.up()
			for i := range 5 {
				f.put(fmt.Sprint("u", i), fmt.Sprint("u", i), "v")
				f.settledAt(b) // each in a batch of its own
			}
			b.down()
			check(t, os.RemoveAll(filepath.Join(b.dir, "store")))
			check(t, os.Rename(kept, filepath.Join(b.dir, "store")))
			b.flipEntry(t)
		}},
	} {
		b := f.bird(f.others(f.leader().name)[0])
		b.down()
		c.do(b)
		if err := b.examine(t); code(err) != "log_damaged" {
			t.Errorf("%s: the doctor sees %v", c.what, err)
		}
		b.up()
		if s := b.node.Status(); s.Parked != parkedDamaged {
			t.Fatalf("%s: %+v", c.what, s)
		}
		if err := b.node.Linearize(t.Context()); code(err) != "log_damaged" {
			t.Errorf("%s: got %v", c.what, err)
		}
		if v := b.value("k"); v != "v" {
			t.Errorf("%s: reads end: %q", c.what, v)
		}
		check(t, f.do("sync.node.repair", PeerRef{b.name}))
		f.until(c.what+": it is filled anew and votes again", func() bool {
			p, _ := f.leader().members.Peer(b.name)
			return p.RepairAt == nil && p.Voter && len(f.leader().node.Status().Voters) == 3
		})
		f.settled()
	}
}

// stopped is the configuration of a node that does not run.
func (b *bird) stopped() Config {
	c := b.config()
	c.Listen = ""
	return c
}

// examine is what the doctor asks of a node that is down.
func (b *bird) examine(t testing.TB) error {
	t.Helper()
	s, err := store.Open(store.Options{Dir: filepath.Join(b.dir, "store"), BallastBytes: -1})
	check(t, err)
	m, err := exec.NewMachine(s, exec.MachineOptions{})
	check(t, err)
	defer func() { check(t, m.Close()); check(t, s.Close()) }()
	return Examine(b.stopped(), m)
}

// Members that were noted are of use only to a node without records, so damage there keeps nobody from starting.
func TestADamagedNoteOfMembersIsWrittenAnew(t *testing.T) {
	f := three(t, nil)
	f.settled() // a node that has no records yet needs the note
	b := f.bird(f.others(f.leader().name)[0])
	b.down()
	path := filepath.Join(b.logDir(), notedFile)
	check(t, os.WriteFile(path, []byte("xxx"), 0o600))
	if err := b.examine(t); code(err) != "members_damaged" {
		t.Errorf("the doctor sees %v", err)
	}
	b.up()
	f.settled()
	f.until("the note is written anew", func() bool { return NewDirectory().load(b.logDir()) == nil })
}

func TestALogThatIsGoneIsNamed(t *testing.T) {
	f := three(t, nil)
	b := f.bird(f.others(f.leader().name)[0])
	b.down()
	check(t, os.RemoveAll(b.logDir()))
	if err := b.examine(t); code(err) != "log_missing" {
		t.Errorf("the doctor sees %v", err)
	}
	s, err := store.Open(store.Options{Dir: filepath.Join(b.dir, "store"), BallastBytes: -1})
	check(t, err)
	m, err := exec.NewMachine(s, exec.MachineOptions{})
	check(t, err)
	if err := Bootstrap(b.stopped(), m); code(err) != "log_missing" {
		t.Errorf("got %v", err)
	}
	check(t, m.Close())
	check(t, s.Close())
}

// Whatever is flipped or cut in the metadata of a log, they open as they were or are refused.
func TestDamagedMetadataOfTheLogNeverEndTheProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := Config{Dir: dir, NodeID: "n1", ClusterID: "c1", Logger: slog.New(slog.DiscardHandler)}.withDefaults()
	check(t, err)
	w, err := openWAL(&c)
	check(t, err)
	for i := uint64(1); i <= 20; i++ {
		check(t, w.StoreLog(logOf(i)))
	}
	check(t, w.Set(keyVoteCand, []byte("n1")))
	check(t, w.Close())
	path := filepath.Join(dir, "log", metadb.FileName)
	sound, err := os.ReadFile(path)
	check(t, err)
	refused := 0
	try := func(what string, raw []byte) {
		check(t, os.WriteFile(path, raw, 0o600))
		w, err := openWAL(&c)
		switch {
		case err == nil:
			var l raft.Log
			if last, _ := w.LastIndex(); last != 20 || w.GetLog(7, &l) != nil {
				t.Errorf("%s: the log ends at %d", what, last)
			}
			check(t, w.Close())
		case damaged(err):
			refused++
		default:
			t.Errorf("%s: %v", what, err)
		}
	}
	for at := 0; at < len(sound); at += 61 {
		raw := bytes.Clone(sound)
		for i := at; i < min(at+8, len(raw)); i++ {
			raw[i] ^= 0x5A
		}
		try(fmt.Sprint("flipped at ", at), raw)
	}
	for n := 0; n < len(sound); n += 1000 {
		try(fmt.Sprint("cut at ", n), sound[:n])
	}
	if refused < 10 {
		t.Error(refused)
	}
	try("sound", sound)
}

// Every batch but the last, which the power may have cut short, is held against its checksum; what the state has seen is not read.
func TestBatchesAreHeldAgainstTheirChecksums(t *testing.T) {
	f := newFlock(t, func(c *Config) { c.SegmentBytes = 8 << 10 })
	b := f.found("n1")
	for i := range 60 {
		f.put(fmt.Sprint("u", i), fmt.Sprint("u", i), "v")
	}
	b.down()
	dir := filepath.Join(b.logDir(), "log")
	list, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	check(t, err)
	if len(list) < 3 {
		t.Fatalf("%d segments", len(list))
	}
	check(t, checkFrames(dir, 0))
	tail := len(list) - 1
	for i, path := range list {
		at, size := entryFrames(t, path)
		for n := range at {
			flipFile(t, path, at[n]+size[n]/2)
			err, last := checkFrames(dir, 0), i == tail && n == len(at)-1
			if (err == nil) != last {
				t.Errorf("segment %d of %d, entry %d of %d: got %v", i+1, len(list), n+1, len(at), err)
			}
			if i < tail && checkFrames(dir, firstOf(list[tail])) != nil {
				t.Errorf("segment %d is read although the state is beyond it", i+1)
			}
			flipFile(t, path, at[n]+size[n]/2)
			if i == tail { // where the log opens, what follows is looked at
				continue
			}
			flipFile(t, path, at[n]-frameHeader)
			if checkFrames(dir, 0) == nil {
				t.Errorf("segment %d of %d, the frame of entry %d of %d: nothing is found", i+1, len(list), n+1, len(at))
			}
			flipFile(t, path, at[n]-frameHeader)
		}
	}
	check(t, checkFrames(dir, 0))
}

// raft-wal takes the first frame of the tail that it cannot read for the end of the log, as a write that the power cut short leaves it. With whole
// batches behind it, that is damage: nothing of it is wiped, and the node does not begin as if those entries had never been.
func TestAFrameThatCannotBeReadIsNotTheEndOfALogThatGoesOn(t *testing.T) {
	f := newFlock(t, nil)
	b := f.found("n1")
	for i := range 20 {
		f.put(fmt.Sprint("u", i), fmt.Sprint("u", i), "v")
	}
	b.down()
	path := tailFile(t, filepath.Join(b.logDir(), "log"))
	sound, err := os.ReadFile(path)
	check(t, err)
	at, _ := entryFrames(t, path)
	for what, harm := range map[string]func(raw []byte, frame int){
		"a header of zeros": func(raw []byte, frame int) { clear(raw[frame : frame+frameHeader]) },
		"a sector of zeros": func(raw []byte, frame int) { clear(raw[frame&^511 : frame&^511+512]) },
		"an unknown kind":   func(raw []byte, frame int) { raw[frame] = 0x77 },
		"a wrong length":    func(raw []byte, frame int) { raw[frame+6] ^= 0x5A },
	} {
		for _, n := range []int{0, len(at) / 2, len(at) - 4} {
			raw := bytes.Clone(sound)
			harm(raw, at[n]-frameHeader)
			check(t, os.WriteFile(path, raw, 0o600))
			w, err := openWAL(&Config{Dir: b.logDir(), SegmentBytes: b.config().SegmentBytes, Logger: slog.New(slog.DiscardHandler)})
			if !damaged(err) {
				last, _ := w.LastIndex()
				t.Errorf("%s, entry %d of %d: the log opens and ends at %d (%v)", what, n+1, len(at), last, err)
				check(t, w.Close())
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, raw) {
				t.Errorf("%s, entry %d of %d: the segment was changed (%v)", what, n+1, len(at), err)
			}
		}
	}
	check(t, os.WriteFile(path, sound, 0o600))
	b.up()
	f.settled()
}

// The power goes while a node that is to be filled anew is being wiped: it starts, ends that, and is filled.
func TestAWipeThatWasCutOffIsEnded(t *testing.T) {
	f := newFlock(t, nil)
	f.found("n1")
	f.grow(Replica, "n2")
	f.put("w", "k", "v")
	f.settled()
	b := f.bird("n2")
	b.down()
	check(t, f.do("sync.node.repair", PeerRef{b.name}))
	p, _ := f.leader().members.Peer(b.name)
	wish, err := json.Marshal(map[string]any{"for": p.RepairAt, "wiping": true})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(b.logDir(), refillFile), wish, 0o600))
	for _, dir := range []string{"snapshots", "log"} { // and the state is still there
		check(t, os.RemoveAll(filepath.Join(b.logDir(), dir)))
	}
	check(t, b.examine(t))
	b.up()
	f.until("it is filled anew", func() bool {
		p, _ := f.leader().members.Peer(b.name)
		return p.RepairAt == nil && b.value("k") == "v"
	})
	f.settled()
}

// A node that starts on a full disk does not look at its log. When there is room it does, and a damaged one is named and can be repaired.
func TestADamagedLogIsNamedWhenAFullDiskHasRoomAgain(t *testing.T) {
	dir := t.TempDir()
	c := conf(dir)
	w := raise(t, dir, store.Options{}, c)
	check(t, w.write(t, "a", "1"))
	w.close(t)
	check(t, os.Truncate(filepath.Join(c.Dir, "log", metadb.FileName), 0))
	var full atomic.Bool
	full.Store(true)
	s, err := store.Open(store.Options{Dir: filepath.Join(dir, "store"), BallastBytes: -1, PollEvery: 5 * time.Millisecond, FreeSpace: func(string) (uint64, uint64, error) {
		if full.Load() {
			return 1 << 20, 1000 << 20, nil
		}
		return 900 << 20, 1000 << 20, nil
	}})
	check(t, err)
	m, err := exec.NewMachine(s, exec.MachineOptions{})
	check(t, err)
	n, err := Open(c, m)
	check(t, err)
	w = &tower{s, m, n}
	defer w.close(t)
	if why := n.Status().Parked; why != parkedDisk {
		t.Errorf("parked: %q", why)
	}
	full.Store(false)
	peers.Eventually(t, "it is named", func() bool { return n.Status().Parked == parkedDamaged && code(n.Damage()) == "log_damaged" }, func() any { return n.Status() })
}

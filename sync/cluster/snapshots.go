package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"wispgate/edge/exec"
)

// snapshots is a raft.SnapshotStore that writes only what a snapshot is called: the state in the store is its content, and Open streams
// that live. A snapshot that arrives from a leader is spooled until the machine has taken it over.
type snapshots struct {
	dir     string
	machine *exec.Machine
	last    atomic.Pointer[record] // newest; nil: none
}

var _ raft.SnapshotStore = (*snapshots)(nil)

// record is the file of a snapshot. Flushed is the last command that the store held when it was taken: a state that ends before it has
// lost what the log no longer holds. Installed is the last command in a state that came from a leader: it may lie beyond Index, because a
// snapshot is sent as the state stands when it is sent.
type record struct {
	raft.SnapshotMeta
	Flushed   uint64
	Installed uint64 `json:",omitempty"`
}

const (
	metaSuffix  = ".json"
	spoolSuffix = ".state"
)

func newSnapshots(dir string, m *exec.Machine) (*snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	s := &snapshots{dir: dir, machine: m}
	newest, err := s.newest()
	if err == nil && newest.Index > 0 {
		s.last.Store(&newest)
	}
	return s, err
}

// stands is where the newest snapshot stands whose state the machine holds: up to there this node has what the cluster committed.
func (s *snapshots) stands() (index, term uint64) {
	r := s.last.Load()
	if r == nil || s.machine.AppliedIndex() < max(r.Flushed, r.Installed) {
		return 0, 0
	}
	return r.Index, r.Term
}

func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	meta := raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%020d-%020d", index, term), Index: index, Term: term,
		Configuration: conf, ConfigurationIndex: confIndex,
	}
	return &sink{store: s, meta: record{SnapshotMeta: meta, Flushed: s.machine.DurableIndex()}}, nil
}

// List names the newest snapshot only: older ones describe states that no longer exist.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	names, err := s.names(metaSuffix)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	meta, err := s.read(names[len(names)-1])
	if err != nil {
		return nil, err
	}
	return []*raft.SnapshotMeta{&meta.SnapshotMeta}, nil
}

// newest is the newest snapshot's record, empty when there is none.
func (s *snapshots) newest() (record, error) {
	names, err := s.names(metaSuffix)
	if err != nil || len(names) == 0 {
		return record{}, err
	}
	r, err := s.read(names[len(names)-1])
	if err != nil {
		return record{}, err
	}
	return *r, nil
}

// resume installs a snapshot that had arrived whole when the node stopped before the machine took it over: raft counts it as installed.
// Pieces of one that had not arrived go.
func (s *snapshots) resume(log *slog.Logger) error {
	newest, err := s.newest()
	if err != nil {
		return err
	}
	spools, err := s.names(spoolSuffix)
	if err != nil {
		return err
	}
	for _, id := range spools {
		path := filepath.Join(s.dir, id+spoolSuffix)
		if id == newest.ID && s.machine.DurableIndex() < newest.Installed {
			log.Info("installing a snapshot that arrived before the last stop", "index", newest.Installed)
			if err := s.install(path); err != nil {
				return err
			}
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove snapshot: %w", err)
		}
	}
	return nil
}

func (s *snapshots) install(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("install snapshot: %w", err)
	}
	defer f.Close()
	if err := s.machine.Restore(f); err != nil {
		return fmt.Errorf("install snapshot: %w", err)
	}
	return nil
}

// names lists the ids of the files with suffix, oldest first: ids sort by index, then term.
func (s *snapshots) names(suffix string) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *snapshots) read(id string) (*record, error) {
	raw, err := os.ReadFile(filepath.Join(s.dir, id+metaSuffix))
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	meta := new(record)
	if err := json.Unmarshal(raw, meta); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return meta, nil
}

// Open gives the spooled stream of a snapshot that has just arrived, else the state as it is now. That may be ahead of the snapshot's
// index; the receiver then skips the entries it already has.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, err := s.read(filepath.Base(id))
	if err != nil {
		return nil, nil, err
	}
	if f, err := os.Open(filepath.Join(s.dir, meta.ID+spoolSuffix)); err == nil {
		return &meta.SnapshotMeta, &spooled{File: f, store: s, index: meta.Installed}, nil
	}
	t, err := s.machine.Transfer()
	if err != nil {
		return nil, nil, err
	}
	if meta.Size, err = t.Size(); err != nil {
		t.Close()
		return nil, nil, err
	}
	r, w := io.Pipe()
	go func() {
		defer t.Close()
		w.CloseWithError(t.Write(w))
	}()
	return &meta.SnapshotMeta, r, nil
}

// spooled removes itself once the machine holds the state.
type spooled struct {
	*os.File
	store *snapshots
	index uint64
}

func (f *spooled) Close() error {
	err := f.File.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	if f.store.machine.DurableIndex() >= f.index {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// sink becomes a snapshot when it is closed. What is written to it goes to the spool.
type sink struct {
	store *snapshots
	meta  record
	spool *os.File
}

func (k *sink) ID() string { return k.meta.ID }

func (k *sink) Write(b []byte) (int, error) {
	if k.spool == nil {
		f, err := os.Create(filepath.Join(k.store.dir, k.meta.ID+spoolSuffix))
		if err != nil {
			return 0, fmt.Errorf("receive snapshot: %w", err)
		}
		k.spool = f
	}
	n, err := k.spool.Write(b)
	k.meta.Size += int64(n)
	return n, err
}

func (k *sink) Close() error {
	if k.spool != nil {
		info, err := exec.ReadStateInfo(io.NewSectionReader(k.spool, 0, k.meta.Size))
		if err = errors.Join(err, k.spool.Sync(), k.spool.Close()); err != nil {
			return fmt.Errorf("receive snapshot: %w", err)
		}
		k.meta.Installed = info.Index
	}
	raw, err := json.Marshal(k.meta)
	if err != nil {
		return err
	}
	if err := writeAtomic(k.store.dir, k.meta.ID+metaSuffix, raw); err != nil {
		return err
	}
	if last := k.store.last.Load(); last == nil || last.ID <= k.meta.ID {
		k.store.last.Store(&k.meta)
	}
	return k.store.forgetBefore(k.meta.ID)
}

func (k *sink) Cancel() error {
	if k.spool == nil {
		return nil
	}
	return errors.Join(k.spool.Close(), os.Remove(k.spool.Name()))
}

func (s *snapshots) forgetBefore(id string) error {
	for _, suffix := range []string{metaSuffix, spoolSuffix} {
		names, err := s.names(suffix)
		if err != nil {
			return err
		}
		for _, old := range names {
			if old < id {
				if err := os.Remove(filepath.Join(s.dir, old+suffix)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// writeAtomic replaces dir/name by a temporary file, fsync, rename and fsync of the folder.
func writeAtomic(dir, name string, data []byte) error {
	tmp, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

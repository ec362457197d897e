package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/ristretto/v2/z"
)

// streamBuffer is how much of a restore is handed to Badger at a time, in octets.
const streamBuffer = 128 << 10

// Restore replaces everything under Replicated by the dump in r, keeps everything under Local except what local puts or deletes there,
// and returns the checksum of what it installed. The new state is built in a folder beside the old one, reopened and compared, and only
// then does CURRENT point at it: a failure or a power cut at any moment leaves the old state or the new one, whole. It refuses early
// when the disk cannot hold both. Commits wait; snapshots opened before go on reading the old state, which is deleted after the last
// of them closes.
func (s *Store) Restore(r io.Reader, local *Batch) (sum [sha256.Size]byte, err error) {
	if s.opts.ReadOnly {
		return sum, errReadOnly(s.opts.Dir)
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.closed || s.h == nil {
		return sum, ErrClosed
	}
	if err := s.roomForRestore(); err != nil {
		return sum, err
	}
	name, err := nextState(s.opts.Dir)
	if err != nil {
		return sum, fmt.Errorf("restore: %w", err)
	}
	fresh := filepath.Join(s.opts.Dir, name)
	h, sum, err := s.build(name, r, local)
	if err == nil {
		err = writeAtomic(s.opts.Dir, currentFile, []byte(name+"\n"))
		if err != nil {
			err = errors.Join(err, h.db.Close())
		}
	}
	if err != nil {
		return sum, errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(fresh))
	}
	s.switchTo(name, h)
	return sum, nil
}

func (s *Store) roomForRestore() error {
	level := s.guard.look()
	lsm, vlog := s.h.db.Size()
	if d := s.guard.state(); level >= DiskLow || s.h.readOnly || d.Total > 0 && d.Free < uint64(lsm+vlog)+tidyRoom {
		return errDiskLow(d)
	}
	return nil
}

// build fills a fresh folder, closes it, opens it again, and compares what it holds with what the dump promised.
func (s *Store) build(name string, r io.Reader, local *Batch) (h *handle, sum [sha256.Size]byte, err error) {
	h, err = s.openHandle(name, false)
	if err != nil {
		return nil, sum, err
	}
	sum, err = s.fill(h.db, r, local)
	if err = errors.Join(err, h.db.Close()); err != nil {
		return nil, sum, err
	}
	if h, err = s.openHandle(name, false); err != nil {
		return nil, sum, err
	}
	h.refs.Add(1)
	sn := &Snapshot{h: h, txn: h.db.NewTransaction(false)}
	got, err := sn.Checksum(Replicated)
	sn.Close()
	if err == nil && got != sum {
		err = fmt.Errorf("%w: what was written reads back differently", ErrDump)
	}
	if err != nil {
		return nil, sum, errors.Join(err, h.db.Close())
	}
	return h, sum, nil
}

// fill streams both keyspaces in key order, as Badger's stream writer wants them: Local sorts before Replicated.
func (s *Store) fill(db *badger.DB, r io.Reader, local *Batch) (sum [sha256.Size]byte, err error) {
	w := &streamer{sw: db.NewStreamWriter(), buf: z.NewBuffer(streamBuffer*2, "restore")}
	defer func() { _ = w.buf.Release() }()
	if err := w.sw.Prepare(); err != nil {
		return sum, err
	}
	if err = s.mergeLocal(w, local); err == nil {
		sum, err = ReadDump(r, func(k, v []byte) error { return w.put(append([]byte(Replicated), k...), v) })
	}
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		w.sw.Cancel()
		return sum, err
	}
	return sum, w.sw.Flush()
}

// mergeLocal writes this node's own keyspace with the changes in local laid over it.
func (s *Store) mergeLocal(w *streamer, local *Batch) error {
	changes := map[string]op{}
	if local != nil {
		for _, o := range local.ops {
			changes[string(o.key)] = o
		}
	}
	keys := make([]string, 0, len(changes))
	for k := range changes {
		if len(k) <= len(Local) || k[:len(Local)] != Local {
			return fmt.Errorf("restore may change only keys under %s", Local)
		}
		keys = append(keys, k)
	}
	slices.Sort(keys)
	// changed writes the changes that sort before limit ("" for all of them).
	changed := func(limit string) error {
		for len(keys) > 0 && (limit == "" || keys[0] < limit) {
			if o := changes[keys[0]]; !o.delete {
				if err := w.put(o.key, o.val); err != nil {
					return err
				}
			}
			keys = keys[1:]
		}
		return nil
	}
	sn := s.Snapshot()
	defer sn.Close()
	err := sn.Scan([]byte(Local), nil, func(k, v []byte) (bool, error) {
		if err := changed(string(k)); err != nil {
			return false, err
		}
		if _, replaced := changes[string(k)]; replaced {
			return true, nil
		}
		return true, w.put(k, v)
	})
	if err != nil {
		return err
	}
	return changed("")
}

type streamer struct {
	sw  *badger.StreamWriter
	buf *z.Buffer
}

func (w *streamer) put(k, v []byte) error {
	badger.KVToBuffer(&pb.KV{Key: k, Value: v, Version: 1}, w.buf)
	if w.buf.LenNoPadding() < streamBuffer {
		return nil
	}
	return w.flush()
}

func (w *streamer) flush() error {
	err := w.sw.Write(w.buf)
	w.buf.Reset()
	return err
}

// switchTo makes h the handle that everyone reads from now on, and lets the old one go when its last snapshot is closed.
func (s *Store) switchTo(name string, h *handle) {
	for _, r := range s.reopens {
		r.release()
		defer r.acquire()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.h
	old.retire = func() {
		if err := errors.Join(old.db.Close(), os.RemoveAll(old.dir)); err != nil {
			s.log.Warn("replaced state not removed; it goes at the next start", "error", err)
		}
	}
	s.h, s.state = h, name
	old.retired.Store(true)
	if old.refs.Load() == 0 {
		old.once.Do(old.retire)
	}
	s.tameNewest()
}

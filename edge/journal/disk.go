package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"wispgate/edge"
	"wispgate/edge/flock"
)

// disk is the folder that a journal lives in. The real one is below; the power-cut test has one that forgets.
type disk interface {
	List() ([]entry, error)
	Create(name string, size int64) (file, error) // allocated, and flushed except for its name
	Open(name string) (file, error)
	Rename(from, to string) error
	Remove(name string) error
	Sync() error // makes names durable
	Close() error
}

type file interface {
	io.ReaderAt
	io.WriterAt
	Datasync() error
	Close() error
}

type entry struct {
	name string
	size int64
}

// folder is a disk on the file system, held by a lock for one process.
type folder struct {
	dir  string
	lock *os.File
}

func openFolder(dir string) (*folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make journal folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal lock: %w", err)
	}
	if taken, err := flock.Take(lock, false); err != nil || !taken {
		_ = lock.Close()
		return nil, &edge.Error{
			Kind: edge.Unavailable, Code: "journal_in_use", Message: "the journal in " + dir + " is in use by another process",
			Fix: "stop the other wispgate, or give this one its own node.data_dir",
		}
	}
	return &folder{dir: dir, lock: lock}, nil
}

func (d *folder) path(name string) string { return filepath.Join(d.dir, name) }

func (d *folder) List() ([]entry, error) { return listFolder(d.dir) }

func listFolder(dir string) ([]entry, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []entry
	for _, n := range names {
		info, err := n.Info()
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			out = append(out, entry{n.Name(), info.Size()})
		}
	}
	return out, nil
}

func (d *folder) Create(name string, size int64) (file, error) {
	f, err := os.OpenFile(d.path(name), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = allocate(f, size)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(d.path(name)) // gives back what was allocated; the error that matters is the first
		return nil, err
	}
	return realFile{f}, nil
}

func (d *folder) Open(name string) (file, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return realFile{f}, nil
}

func (d *folder) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }

func (d *folder) Remove(name string) error { return os.Remove(d.path(name)) }

func (d *folder) Sync() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *folder) Close() error { return flock.Release(d.lock) }

type realFile struct{ *os.File }

func (f realFile) Datasync() error { return datasync(f.File) }

// zeroFill allocates where the file system knows no fallocate.
func zeroFill(f *os.File, size int64) error {
	zeros := make([]byte, 64<<10)
	for off := int64(0); off < size; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// isFull tells a full disk or quota from a broken one.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

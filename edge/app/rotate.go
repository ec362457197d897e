package app

import (
	"fmt"
	"os"
	"sync"
)

// rotating is a log file that is moved to NAME.1 when it has grown to its bound: two files at most.
type rotating struct {
	path  string
	bound int64

	mu   sync.Mutex
	file *os.File
	size int64
}

func openRotating(path string, bound int64) (*rotating, error) {
	r := &rotating{path: path, bound: bound}
	return r, r.openLocked()
}

func (r *rotating) openLocked() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	r.file, r.size = f, info.Size()
	return nil
}

// Write implements io.Writer.
func (r *rotating) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size+int64(len(p)) > r.bound && r.size > 0 {
		if err := r.turnLocked(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(p)
	r.size += int64(n)
	return n, err
}

func (r *rotating) turnLocked() error {
	if err := r.file.Close(); err != nil {
		return fmt.Errorf("turn log over: %w", err)
	}
	if err := os.Rename(r.path, r.path+".1"); err != nil {
		return fmt.Errorf("turn log over: %w", err)
	}
	return r.openLocked()
}

// Close implements io.Closer.
func (r *rotating) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file.Close()
}

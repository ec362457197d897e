package app

import (
	"bytes"
	"os"
	"syscall"
	"time"
)

// diskYard is the yardstick of every durable thing: appends of 4 KB to a preallocated file, each with fdatasync.
type diskYard struct {
	*os.File
	off int64
}

const (
	yardPage = 4096
	yardRoom = 4 << 20
)

func newDiskYard(path string) (*diskYard, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, yardRoom)); err != nil {
		return nil, err
	}
	return &diskYard{File: f}, f.Sync()
}

func (y *diskYard) measure(n int) ([]time.Duration, error) {
	page := bytes.Repeat([]byte{1}, yardPage)
	took := make([]time.Duration, n)
	for i := range took {
		begin := time.Now()
		if _, err := y.WriteAt(page, y.off); err != nil {
			return nil, err
		}
		if err := syscall.Fdatasync(int(y.Fd())); err != nil {
			return nil, err
		}
		took[i] = time.Since(begin)
		y.off = (y.off + yardPage) % yardRoom
	}
	return took, nil
}

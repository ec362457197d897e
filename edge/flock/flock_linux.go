package flock

import (
	"errors"
	"os"
	"syscall"
)

func take(f *os.File, shared bool) (bool, error) {
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func drop(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

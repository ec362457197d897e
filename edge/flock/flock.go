// Package flock keeps folders and files to one process, flock(2). The kernel drops a lock when the process dies.
package flock

import (
	"errors"
	"os"
)

// Take takes the lock of f without waiting, shared with others that share it or for this process alone. taken is false when another open file
// of the same name holds it.
func Take(f *os.File, shared bool) (taken bool, err error) { return take(f, shared) }

// Release ends the lock and closes f. Closing alone would not end it at once while another goroutine starts a program: the child holds a copy of
// the file until it has become that program.
func Release(f *os.File) error { return errors.Join(drop(f), f.Close()) }

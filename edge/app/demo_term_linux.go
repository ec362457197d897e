package app

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// terminalSize is the size of the terminal behind f in columns and rows; ok is false when there is none.
func terminalSize(f *os.File) (width, height int, ok bool) {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, false
	}
	width, height = int(ws.Col), int(ws.Row)
	if width == 0 || height == 0 {
		width, height = 80, 24
	}
	return width, height, true
}

// unlockFile ends the lock at once, also while a child that another goroutine starts holds a copy of the file.
func unlockFile(f *os.File) {
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	_ = f.Close()
}

// lockFile takes a file for this process until it is unlocked; ok is false when another one has it.
func lockFile(f *os.File) (ok bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

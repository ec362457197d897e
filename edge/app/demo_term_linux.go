package app

import (
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

//go:build !linux

package app

import "os"

// terminalSize knows no terminals here: the demo prints lines.
func terminalSize(*os.File) (width, height int, ok bool) { return 0, 0, false }

func unlockFile(f *os.File) { _ = f.Close() }

// lockFile locks nothing here: node and relay lock their own folders.
func lockFile(*os.File) (ok bool, err error) { return true, nil }

//go:build !linux

package app

import "os"

// terminalSize knows no terminals here: the demo prints lines.
func terminalSize(*os.File) (width, height int, ok bool) { return 0, 0, false }

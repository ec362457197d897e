//go:build !linux

package journal

import "os"

// Other systems are for development only: slower.

func allocate(f *os.File, size int64) error { return zeroFill(f, size) }

func datasync(f *os.File) error { return f.Sync() }

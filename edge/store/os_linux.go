package store

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4/table"
)

// FreeSpace is the room on the file system of dir that this process may use, and its size, in octets.
func FreeSpace(dir string) (free, total uint64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	unit := uint64(st.Bsize)
	// Blocks reserved for the super user are nobody's room: counting them in the size would make a full disk look 5 % free.
	return uint64(st.Bavail) * unit, (uint64(st.Blocks) - uint64(st.Bfree) + uint64(st.Bavail)) * unit, nil
}

func allocate(f *os.File, size int64) error {
	return syscall.Fallocate(int(f.Fd()), 0, 0, size)
}

// tame prepares one memtable log: its blocks are allocated, so that a store into the mapping cannot meet a full disk (SIGBUS), and its
// mapping is advised as random, so that a page fault does not drag a whole read-ahead window into the next msync. Best effort: an
// error costs flash or safety margin, never correctness.
func tame(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return errors.Join(allocate(f, st.Size()), adviseRandom(path))
}

// Advice of madvise(2).
const (
	madvRandom   = 1
	madvDontNeed = 4  // of a shared mapping of a file: takes the pages out of the mapping; what they hold stays in the page cache
	madvPageout  = 21 // Linux 5.4; takes clean pages out of the page cache, too, and of no mapping anything that is nowhere else
)

func adviseRandom(path string) error {
	return advise(func(_, name string) uintptr {
		if name == path {
			return madvRandom
		}
		return 0
	})
}

// unmapTables takes the pages of tables out of their mappings. Those that are held stay in the page cache, where a later read finds them. Others,
// which are being written or are on their way out, may have gone meanwhile and their addresses be somebody else's: there only advice is allowed
// that destroys nothing whatever is there, and a later read has to go to the disk.
func unmapTables(dir string, held map[uint64]struct{}) error {
	return advise(func(_, name string) uintptr {
		if len(name) <= len(dir) || name[len(dir)] != '/' || !strings.HasPrefix(name, dir) {
			return 0
		}
		id, ok := table.ParseFileID(name)
		if !ok {
			return 0
		}
		if _, ok := held[id]; ok {
			return madvDontNeed
		}
		return madvPageout
	})
}

// RelaxProgram takes the pages of the running program out of its memory, as Relax does with tables: those that only a start needed stay in
// the page cache. Best effort.
func RelaxProgram() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	_ = advise(func(mode, name string) uintptr {
		if name == exe && mode[1] == '-' { // what can be written is not in the file
			return madvDontNeed
		}
		return 0
	})
}

// advise gives the kernel the advice that choose names, 0 for none, on this process's mappings of files. A mapping that nobody holds may go
// away meanwhile and its addresses be used anew.
func advise(choose func(mode, name string) uintptr) error {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		span, rest, _ := strings.Cut(lines.Text(), " ")
		name := strings.IndexByte(rest, '/') // before it come only mode, offset, device and inode
		if name < 4 {
			continue
		}
		advice := choose(rest[:4], rest[name:])
		if advice == 0 {
			continue
		}
		lo, hi, _ := strings.Cut(span, "-")
		start, err1 := strconv.ParseUint(lo, 16, strconv.IntSize)
		end, err2 := strconv.ParseUint(hi, 16, strconv.IntSize)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		_, _, errno := syscall.Syscall(syscall.SYS_MADVISE, uintptr(start), uintptr(end-start), advice)
		if errno != 0 && errno != syscall.ENOMEM && errno != syscall.EINVAL { // gone meanwhile; an older kernel
			return errno
		}
	}
	return lines.Err()
}

// blockDevice is the sysfs folder of the device that dir lies on, or "" where there is none (tmpfs, overlay).
func blockDevice(dir string) string {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return ""
	}
	dev := uint64(st.Dev)
	major := (dev>>8)&0xfff | (dev>>32)&^0xfff
	minor := dev&0xff | (dev>>12)&^0xff
	path := fmt.Sprintf("/sys/dev/block/%d:%d", uint32(major), uint32(minor))
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// deviceWritten is the number of octets written to the device since boot, by everyone; 0 where it cannot be known.
func deviceWritten(dev string) uint64 {
	const sectorsWritten, sector = 6, 512
	raw, err := os.ReadFile(filepath.Join(dev, "stat"))
	if dev == "" || err != nil {
		return 0
	}
	fields := strings.Fields(string(raw))
	if len(fields) <= sectorsWritten {
		return 0
	}
	n, _ := strconv.ParseUint(fields[sectorsWritten], 10, 64)
	return n * sector
}

// readAhead is the device's read-ahead in octets. A partition has none of its own: its disk's counts.
func readAhead(dev string) uint64 {
	for _, rel := range []string{"queue/read_ahead_kb", "../queue/read_ahead_kb"} {
		raw, err := os.ReadFile(dev + "/" + rel) // not Join: ".." must follow the symbolic link
		if dev == "" || err != nil {
			continue
		}
		kb, _ := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
		return kb << 10
	}
	return 0
}

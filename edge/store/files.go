package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"wispgate/edge/flock"
)

// Format is the version of the data directory that this program writes. A directory of a higher one is refused.
const Format = 1

// The files of the data directory. DIR/CURRENT names the folder in which the state lives; a restore fills another one beside it and
// then switches.
const (
	lockFile    = "LOCK"
	formatFile  = "FORMAT"
	currentFile = "CURRENT"
	ballastFile = "BALLAST"
	statePrefix = "state-"
)

// checkFormat refuses a directory of a newer format, and stamps a new one.
func checkFormat(dir string, readOnly bool) error {
	raw, err := os.ReadFile(filepath.Join(dir, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		if readOnly {
			return errForeign(dir, "it holds no FORMAT file, so nothing was ever written there")
		}
		return writeAtomic(dir, formatFile, []byte(strconv.Itoa(Format)+"\n"))
	}
	if err != nil {
		return fmt.Errorf("read data format: %w", err)
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || have < 1 {
		return errForeign(dir, "its FORMAT file holds no version number")
	}
	if have > Format {
		return errNewer(dir, have)
	}
	return nil
}

// currentState returns the name of the folder that CURRENT points at, choosing the first one for a new directory.
func currentState(dir string, readOnly bool) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		first := stateName(1)
		if readOnly {
			return "", errForeign(dir, "it holds no CURRENT file, so nothing was ever written there")
		}
		return first, writeAtomic(dir, currentFile, []byte(first+"\n"))
	}
	if err != nil {
		return "", fmt.Errorf("read current state: %w", err)
	}
	name := strings.TrimSpace(string(raw))
	if _, ok := stateNumber(name); !ok {
		return "", errForeign(dir, "its CURRENT file names no state folder")
	}
	return name, nil
}

func stateName(n int) string { return fmt.Sprintf("%s%06d", statePrefix, n) }

func stateNumber(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, statePrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n > 0 && stateName(n) == name
}

// nextState names a folder that does not exist yet, with a number above all that do.
func nextState(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	highest := 0
	for _, e := range entries {
		if n, ok := stateNumber(strings.TrimSuffix(e.Name(), lostSuffix)); ok {
			highest = max(highest, n)
		}
	}
	return stateName(highest + 1), nil
}

// dropOthers removes the state folders that CURRENT does not name: halves of a restore that did not finish, or what a finished one replaced.
func dropOthers(dir, current string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := stateNumber(e.Name()); ok && e.Name() != current {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockDir takes the lock of a data directory until flock.Release.
func lockDir(dir string, shared bool) (*os.File, error) {
	flags := os.O_RDWR | os.O_CREATE
	if shared {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of %s: %w", dir, err)
	}
	taken, err := flock.Take(f, shared)
	if taken {
		return f, nil
	}
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return nil, errInUse(dir)
}

const lostSuffix = ".aside"

// SetAside renames the state folder that does not open, so that nothing of it is deleted, and leaves the directory ready for an empty
// state. It returns the new name. The store must not be open.
func SetAside(dir string) (string, error) {
	lock, err := lockDir(dir, false)
	if err != nil {
		return "", err
	}
	defer func() { _ = flock.Release(lock) }()
	name, err := currentState(dir, false)
	if err != nil {
		return "", err
	}
	next, err := nextState(dir)
	if err != nil {
		return "", err
	}
	aside := filepath.Join(dir, name+lostSuffix)
	if err := os.Rename(filepath.Join(dir, name), aside); err != nil {
		return "", fmt.Errorf("set state aside: %w", err)
	}
	return aside, writeAtomic(dir, currentFile, []byte(next+"\n"))
}

// writeAtomic replaces dir/name by a temporary file, fsync, rename and fsync of the folder: a power cut leaves the old or the new.
func writeAtomic(dir, name string, data []byte) error {
	tmp, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(0o600), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

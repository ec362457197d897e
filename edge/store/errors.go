package store

import (
	"errors"
	"fmt"

	"wispgate/edge"
)

// Sentinels of the room. What a person may see is an *edge.Error; these are for callers that branch.
var (
	ErrNotFound = errors.New("store: key not found")
	ErrTooLarge = errors.New("store: batch is larger than one transaction")
	ErrClosed   = errors.New("store: closed")

	errKey = errors.New("store: key is empty or longer than MaxKey")
)

func errInUse(dir string) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "data_in_use",
		Message: "The data directory " + dir + " is in use by another process",
		Fix:     "Stop the other wispgate that serves this directory, or point this one at a directory of its own",
	}
}

func errNewer(dir string, have int) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "data_newer",
		Message: fmt.Sprintf("The data directory %s has format %d and this program knows formats up to %d", dir, have, Format),
		Fix:     "Run the newer wispgate that wrote it, or restore a backup made with this version into an empty directory",
	}
}

func errForeign(dir, detail string) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "data_unreadable",
		Message: "The data directory " + dir + " cannot be used: " + detail,
		Fix:     "Check the path; if it is right, move the directory aside and restore the last backup",
	}
}

func errCorrupt(dir string, cause error) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "store_corrupt",
		Message: fmt.Sprintf("The state in %s does not open: %v", dir, cause),
		Fix:     "Keep the folder, move it aside, and let the node rebuild from a peer or from the last backup",
	}
}

func errDamaged(dir string, cause error) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "store_damaged",
		Message: fmt.Sprintf("The state in %s is damaged: %v", dir, cause),
		Fix: "Check the disk. For a node of a cluster run wispgate cluster repair NODE at another member, which fills it anew; where it stands alone, stop it, " +
			"keep the folder, and restore the last backup (wispgate restore)",
	}
}

func errDiskLow(d DiskState) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "disk_low",
		Message: fmt.Sprintf("The disk of %s has %s free of %s", d.Path, humanBytes(d.Free), humanBytes(d.Total)),
		Fix: fmt.Sprintf("Free space on the file system of %s until %s are free; writing then resumes by itself, without a restart",
			d.Path, humanBytes(d.Resume)),
		RetryAfter: 30,
	}
}

func errReadOnly(dir string) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "read_only",
		Message: "The data directory " + dir + " was opened for reading only",
		Fix:     "Send the write to the daemon that serves this directory",
	}
}

func humanBytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := n, 0
	for value >= 1024*1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%d.%d %ciB", value/1024, value%1024*10/1024, units[unit])
}

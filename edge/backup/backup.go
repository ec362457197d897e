// Package backup is the file format of a node's backup: what it holds, encrypted and authenticated so that it can lie anywhere. It knows
// octets and keys, no store and no cluster; edge/app says what goes in and what becomes of it. DESIGN.md says why it is as it is.
package backup

import (
	"fmt"

	"wispgate/edge"
)

// Format is the version of the file that this program writes. A file of a higher one is refused.
const Format = 1

// Bounds of what a file may say before anything in it is proved.
const (
	magicPrefix = "wispgate-backup "
	maxHead     = 16 << 10
	maxLocks    = 32
	keySize     = 32
)

// Errors that people read. Each is a stable code with what to do.
var (
	errForeign = &edge.Error{
		Kind: edge.Invalid, Code: "backup_foreign", Message: "The file is no backup of wispgate", Fix: "Name a file that wispgate backup wrote",
	}
	errDamaged = &edge.Error{
		Kind: edge.Invalid, Code: "backup_damaged", Message: "The backup is damaged, or was altered", Fix: "Take another copy of it, or the backup of the night before",
	}
	errTruncated = &edge.Error{
		Kind: edge.Invalid, Code: "backup_truncated", Message: "The backup ends too early, or its last part is damaged", Fix: "Copy it again and compare its size, or take the backup of the night before",
	}
	errNoLock = &edge.Error{
		Kind: edge.Invalid, Code: "backup_key_missing", Message: "Nothing was named with which the backup could be locked",
		Fix: "Give --passphrase-file or WISPGATE_BACKUP_PASSPHRASE, or public keys with --recipient or backup.recipients; wispgate backup keygen makes a pair",
	}
	errWeak = &edge.Error{
		Kind: edge.Invalid, Code: "backup_passphrase_short", Message: fmt.Sprintf("The passphrase has less than %d characters", minPassphrase),
		Fix: "Take several words, or 16 random letters",
	}
	errPassphrase = &edge.Error{
		Kind: edge.Denied, Code: "backup_passphrase_wrong", Message: "The passphrase does not open this backup", Fix: "Give the passphrase that was in force when it was made",
	}
	errPrivateKey = &edge.Error{
		Kind: edge.Denied, Code: "backup_key_wrong", Message: "The private key does not open this backup",
		Fix: "Give the key whose public half was among backup.recipients when it was made; wispgate backup show names it",
	}
	errKeyText = &edge.Error{
		Kind: edge.Invalid, Code: "backup_key_invalid", Message: "This is not a backup key, or it has a typing error",
		Fix: "Copy it whole: a public key begins with " + publicPrefix + ", a private one with " + privatePrefix,
	}
	errManyLocks = &edge.Error{
		Kind: edge.Invalid, Code: "backup_recipients", Message: fmt.Sprintf("A backup can be locked for %d public keys at most", maxLocks-1), Fix: "Name fewer",
	}
)

func errNewer(format uint64) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "backup_newer", Message: fmt.Sprintf("The backup has format %d and this program knows formats up to %d", format, Format),
		Fix: "Use the newer wispgate that made it",
	}
}

// errLocked says what would open the file, where nothing that fits was given.
func errLocked(h *head) error {
	var fix string
	passphrase, keys := h.count()
	switch {
	case passphrase && keys > 0:
		fix = "Give its passphrase with --passphrase-file or WISPGATE_BACKUP_PASSPHRASE, or a private key with --private-key-file"
	case passphrase:
		fix = "Give its passphrase with --passphrase-file or WISPGATE_BACKUP_PASSPHRASE"
	default:
		fix = "Give a private key with --private-key-file"
	}
	return &edge.Error{Kind: edge.Denied, Code: "backup_locked", Message: "The backup is locked", Fix: fix}
}

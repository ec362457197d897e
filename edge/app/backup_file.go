package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"wispgate/edge"
	"wispgate/edge/backup"
)

// BackupLocks are what a backup is locked with: a passphrase, public keys, or both. Each alone opens it.
type BackupLocks struct {
	Passphrase edge.Secret
	Recipients []string // public keys, as wispgate backup keygen printed them
}

func (l BackupLocks) keys() (backup.Keys, error) {
	k := backup.Keys{Passphrase: l.Passphrase}
	for _, text := range l.Recipients {
		r, err := backup.ParsePublicKey(text)
		if err != nil {
			return k, err
		}
		k.Recipients = append(k.Recipients, r)
	}
	return k, nil
}

// BackupOpeners are what may open a backup.
type BackupOpeners struct {
	Passphrase edge.Secret
	PrivateKey edge.Secret // the content of a private key's file
}

func (o BackupOpeners) openers() (backup.Openers, error) {
	out := backup.Openers{Passphrase: o.Passphrase}
	if o.PrivateKey == "" {
		return out, nil
	}
	k, err := backup.ParsePrivateKey(o.PrivateKey.Reveal())
	out.PrivateKeys = []backup.PrivateKey{k}
	return out, err
}

// BackupFile says what a backup is, once it was written or read whole.
type BackupFile struct {
	File  string        `json:"file"`
	Bytes int64         `json:"bytes"`
	Took  string        `json:"took,omitempty"`
	Locks []backup.Lock `json:"locks"`
	backup.Manifest
}

// BackupProgress is told how far a backup has come, in octets of the payload.
type BackupProgress func(done, total int64)

// backupStream is a payload on its way: what it is wrapped for, how long it is, and how it is written.
type backupStream struct {
	key   backup.FileKey
	total int64
	write func(ctx context.Context, w io.Writer) error
}

// writeBackup writes a locked file by way of a temporary one. What is written is parsed and compared with its manifest on its way, so that
// a file which gets its name can be restored.
func writeBackup(ctx context.Context, path string, locks BackupLocks, s backupStream, progress BackupProgress) (out BackupFile, err error) {
	begin := time.Now()
	keys, err := locks.keys()
	if err != nil {
		return out, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return out, backupPlaceError(path, err)
	}
	defer func() {
		if err != nil {
			_ = errors.Join(f.Close(), os.Remove(f.Name()))
			err = backupPlaceError(path, firstKnown(err))
		}
	}()
	buffered := bufio.NewWriterSize(f, 256<<10)
	locked, err := backup.NewWriter(buffered, s.key, keys)
	if err != nil {
		return out, err
	}
	pre, err := throughCheck(ctx, locked, s, progress)
	if err == nil {
		err = errors.Join(locked.Close(), buffered.Flush(), f.Sync())
	}
	if err != nil {
		return out, err
	}
	if out.Bytes, err = f.Seek(0, io.SeekCurrent); err != nil {
		return out, err
	}
	if err = f.Close(); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	out.File, out.Manifest, out.Locks, out.Took = path, pre.Manifest, lockedFor(keys), time.Since(begin).Round(time.Millisecond).String()
	return out, err
}

// firstKnown is the first error in a joined one that people can read.
func firstKnown(err error) error {
	if e, ok := errors.AsType[*edge.Error](err); ok {
		return e
	}
	return err
}

func backupPlaceError(path string, err error) error {
	var p *os.PathError
	if !errors.As(err, &p) {
		return err
	}
	return &edge.Error{
		Kind: edge.Unavailable, Code: "backup_place", Message: fmt.Sprintf("The backup cannot be written to %s: %v", path, p.Err),
		Fix: "Name a file in a folder that exists, has room, and is writable for whoever makes the backup",
	}
}

func lockedFor(k backup.Keys) []backup.Lock {
	out := []backup.Lock{}
	if k.Passphrase != "" {
		out = append(out, backup.Lock{Type: "passphrase"})
	}
	for _, r := range k.Recipients {
		out = append(out, backup.Lock{Type: "x25519", Key: r.String()})
	}
	return out
}

// throughCheck writes a payload to w and, at the same time, to its check.
func throughCheck(ctx context.Context, w io.Writer, s backupStream, progress BackupProgress) (backup.Preamble, error) {
	r, toCheck := io.Pipe()
	type verdict struct {
		pre backup.Preamble
		err error
	}
	checked := make(chan verdict, 1)
	go func() {
		pre, err := checkPayload(r)
		_ = r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		checked <- verdict{pre, err}
	}()
	var done int64
	counted := writerFunc(func(b []byte) (int, error) {
		if done += int64(len(b)); progress != nil {
			progress(done, s.total)
		}
		return len(b), nil
	})
	err := s.write(ctx, io.MultiWriter(w, toCheck, counted))
	_ = toCheck.CloseWithError(err) // nil: the end
	v := <-checked
	return v.pre, errors.Join(err, v.err)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// VerifyBackup opens a file and reads it to its end: every chunk, the manifest, the tenants' keys, the state and its checksum. It needs no node.
func VerifyBackup(path string, o BackupOpeners, progress BackupProgress) (BackupFile, error) {
	return readBackup(path, o, progress, checkPayload)
}

// ShowBackup opens a file as far as its manifest.
func ShowBackup(path string, o BackupOpeners) (BackupFile, error) {
	return readBackup(path, o, nil, backup.ReadPreamble)
}

func readBackup(path string, o BackupOpeners, progress BackupProgress, read func(io.Reader) (backup.Preamble, error)) (out BackupFile, err error) {
	f, size, err := openBackup(path)
	if err != nil {
		return out, err
	}
	defer func() { _ = f.Close() }()
	r, err := openLocks(f, size, o, progress)
	if err != nil {
		return out, err
	}
	pre, err := read(r)
	return BackupFile{File: path, Bytes: size, Locks: r.Locks(), Manifest: pre.Manifest}, firstKnown(err)
}

func openBackup(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, &edge.Error{
			Kind: edge.NotFound, Code: "backup_unreadable", Message: fmt.Sprintf("The backup %s cannot be read: %v", path, errors.Unwrap(err)), Fix: "Check the path and its permissions",
		}
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// openLocks opens the file with what fits. progress counts octets of the file.
func openLocks(f io.Reader, size int64, o BackupOpeners, progress BackupProgress) (*backup.Reader, error) {
	openers, err := o.openers()
	if err != nil {
		return nil, err
	}
	var done int64
	counted := writerFunc(func(b []byte) (int, error) {
		if done += int64(len(b)); progress != nil {
			progress(done, size)
		}
		return len(b), nil
	})
	return backup.NewReader(bufio.NewReaderSize(io.TeeReader(f, counted), 256<<10), openers)
}

// BackupKey is a new key pair for backups.
type BackupKey struct {
	PublicKey   string `json:"public_key"`
	PrivateFile string `json:"private_key_file"`
}

// NewBackupKey makes a key pair and writes the private half to a new file.
func NewBackupKey(path string) (BackupKey, error) {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return BackupKey{}, &edge.Error{
			Kind: edge.Conflict, Code: "backup_key_exists", Message: "There is something at " + path + " already", Fix: "Name another file: a key that is replaced opens none of its backups any more",
		}
	}
	private := backup.NewPrivateKey()
	public, err := private.Public()
	if err != nil {
		return BackupKey{}, err
	}
	text := "# Opens the backups of wispgate that are locked for\n# " + public.String() + "\n# Keep it where the backups do not lie; without it they cannot be opened.\n" + private.Reveal() + "\n"
	return BackupKey{public.String(), path}, backupPlaceError(path, writeFile(path, []byte(text), 0o600))
}

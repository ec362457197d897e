package backup

import (
	"crypto/sha256"
	"errors"
	"io"

	"wispgate/edge/chunk"
)

// The payload is a stream of edge/chunk, whose key hangs on the file's key and on every octet of the head.

// payloadKey is the key of the stream.
func (k FileKey) payloadKey(head []byte) []byte {
	sum := sha256.Sum256(head)
	return k.derive(sum[:], "wispgate backup payload v1")
}

// Writer encrypts what is written to it. Close writes the last chunk; without it the file does not open.
type Writer struct{ *chunk.Writer }

// NewWriter writes the head of a new file.
func NewWriter(w io.Writer, key FileKey, keys Keys) (*Writer, error) {
	h, err := newHead(key, keys)
	if err != nil {
		return nil, err
	}
	raw, err := h.encode()
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	return &Writer{chunk.NewWriter(w, key.payloadKey(raw))}, nil
}

// Reader decrypts a file. What it returns is proved chunk by chunk; that the file is whole is proved by io.EOF.
type Reader struct {
	chunks *chunk.Reader
	key    FileKey
	head   *head
}

// NewReader reads the head and opens the file with what fits.
func NewReader(r io.Reader, o Openers) (*Reader, error) {
	h, raw, err := readHead(r)
	if err != nil {
		return nil, err
	}
	key, err := h.open(o)
	if err != nil {
		return nil, err
	}
	return &Reader{chunks: chunk.NewReader(r, key.payloadKey(raw)), key: key, head: h}, nil
}

// Key is the file's key.
func (r *Reader) Key() FileKey { return r.key }

// Locks says how the file can be opened.
func (r *Reader) Locks() []Lock { return r.head.locks() }

// ReadLocks says how a file can be opened, without opening it.
func ReadLocks(r io.Reader) ([]Lock, error) {
	h, _, err := readHead(r)
	if err != nil {
		return nil, err
	}
	return h.locks(), nil
}

func (h *head) locks() []Lock {
	out := make([]Lock, 0, len(h.Locks))
	for i := range h.Locks {
		out = append(out, Lock{h.Locks[i].Type, h.Locks[i].Key})
	}
	return out
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.chunks.Read(p)
	switch {
	case errors.Is(err, chunk.ErrDamaged):
		err = errDamaged
	case errors.Is(err, chunk.ErrTruncated):
		err = errTruncated
	}
	return n, err
}

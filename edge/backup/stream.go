package backup

import (
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
)

// The payload is chunks of 64 KB, each sealed with AES-256-GCM. The nonce is the chunk's number and whether it is the last one, so chunks
// can neither change places, nor be left out, nor be added: what opens up to the end is what was written.

// Writer encrypts what is written to it. Close writes the last chunk; without it the file does not open.
type Writer struct {
	w      io.Writer
	sealer chunks
	buf    []byte
	err    error
}

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
	return &Writer{w: w, sealer: newChunks(key, raw), buf: make([]byte, 0, chunkSize+tagSize)}, nil
}

// chunks counts the nonces of one file.
type chunks struct {
	aead  cipher.AEAD
	count uint64
}

func newChunks(key FileKey, head []byte) chunks {
	sum := sha256.Sum256(head)
	return chunks{aead: gcm(key.derive(sum[:], "wispgate backup payload v1"))}
}

func (c *chunks) nonce(last bool) []byte {
	var n [nonceSize]byte
	binary.BigEndian.PutUint64(n[3:11], c.count)
	if last {
		n[11] = 1
	}
	return n[:]
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		if len(w.buf) == chunkSize { // more follows, so it is not the last one
			w.err = w.flush(false)
			continue
		}
		take := min(len(p), chunkSize-len(w.buf))
		w.buf = append(w.buf, p[:take]...)
		p, n = p[take:], n+take
	}
	return n, w.err
}

func (w *Writer) flush(last bool) error {
	out := w.sealer.aead.Seal(w.buf[:0], w.sealer.nonce(last), w.buf, nil)
	w.sealer.count++
	w.buf = w.buf[:0]
	_, err := w.w.Write(out)
	return err
}

// errClosed is the answer of a Writer after Close.
var errClosed = errors.New("backup: written after its end")

// Close writes the last chunk. It does not close what lies below.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	err := w.flush(true)
	w.err = errClosed
	return err
}

// Reader decrypts a file. What it returns is proved chunk by chunk; that the file is whole is proved by io.EOF.
type Reader struct {
	r      io.Reader
	key    FileKey
	head   *head
	opener chunks
	buf    []byte // one sealed chunk and the octet behind it
	have   int    // of buf
	plain  []byte // opened and not yet returned
	out    []byte
	err    error
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
	return &Reader{r: r, key: key, head: h, opener: newChunks(key, raw), buf: make([]byte, chunkSize+tagSize+1)}, nil
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
	for len(r.plain) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.err = r.next()
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// next opens one chunk. It reads one octet further, to know whether the chunk is the last one; the last one ends with io.EOF.
func (r *Reader) next() error {
	n, err := io.ReadFull(r.r, r.buf[r.have:])
	r.have += n
	last := err != nil
	if last && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	sealed := r.buf[:min(r.have, chunkSize+tagSize)]
	plain, err := r.opener.aead.Open(r.out[:0], r.opener.nonce(last), sealed, nil)
	switch {
	case err == nil:
	case last:
		return r.why(sealed)
	default:
		return errDamaged
	}
	r.opener.count++
	r.out, r.plain = plain, plain
	if last {
		return io.EOF
	}
	r.buf[0], r.have = r.buf[chunkSize+tagSize], 1
	return nil
}

// why tells a file that was cut from one that was altered. Cut between two chunks, its end opens as a chunk that is not the last one; cut
// inside a chunk, what is left proves nothing.
func (r *Reader) why(sealed []byte) error {
	if len(sealed) < chunkSize+tagSize {
		return errTruncated
	}
	if _, err := r.opener.aead.Open(nil, r.opener.nonce(false), sealed, nil); err == nil {
		return errTruncated
	}
	return errDamaged
}

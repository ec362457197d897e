// Package chunk encrypts a stream of any length in bounded memory, so that what is read is proved piece by piece, and whole at its end.
//
// The stream is chunks of 64 KB, each sealed with AES-256-GCM. The nonce is the chunk's number and whether it is the last one, so chunks
// can neither change places, nor be left out, nor be added. A key serves one stream, ever: derive it from a random one of the file's own.
package chunk

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Lengths in octets: of a key, of a chunk before it is sealed, and what sealing adds to it.
const (
	KeySize  = 32
	Size     = 64 << 10
	Overhead = 16

	nonceSize = 12
)

var (
	// ErrDamaged: the stream was altered, or the key is another stream's.
	ErrDamaged = errors.New("chunk: the stream is damaged")
	// ErrTruncated: the stream ends before its last chunk, or inside it.
	ErrTruncated = errors.New("chunk: the stream ends too early")
	errClosed    = errors.New("chunk: written after its end")
)

// numbered is the cipher that counts chunks.
type numbered struct {
	aead  cipher.AEAD
	count uint64
}

func newNumbered(key []byte) numbered {
	if len(key) == KeySize {
		block, err := aes.NewCipher(key)
		if err == nil {
			if aead, err := cipher.NewGCM(block); err == nil {
				return numbered{aead: aead}
			}
		}
	}
	panic(fmt.Sprintf("chunk: a key of %d octets", len(key))) // a mistake of the program
}

func (c *numbered) nonce(last bool) []byte {
	var n [nonceSize]byte
	binary.BigEndian.PutUint64(n[3:11], c.count)
	if last {
		n[11] = 1
	}
	return n[:]
}

// Writer encrypts what is written to it. Close writes the last chunk; without it the stream does not open.
type Writer struct {
	w      io.Writer
	sealer numbered
	buf    []byte
	err    error
}

// NewWriter begins a stream under a key that is this stream's alone.
func NewWriter(w io.Writer, key []byte) *Writer {
	return &Writer{w: w, sealer: newNumbered(key), buf: make([]byte, 0, Size+Overhead)}
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		if len(w.buf) == Size { // more follows, so it is not the last one
			w.err = w.flush(false)
			continue
		}
		take := min(len(p), Size-len(w.buf))
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

// Close writes the last chunk. It does not close what lies below.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	err := w.flush(true)
	w.err = errClosed
	return err
}

// Reader decrypts a stream. What it returns is proved; that nothing is missing is proved by io.EOF.
type Reader struct {
	r      io.Reader
	opener numbered
	buf    []byte // one sealed chunk and the octet behind it
	have   int    // of buf
	plain  []byte // opened and not yet returned
	out    []byte
	err    error
}

// NewReader reads a stream that a Writer with the same key wrote.
func NewReader(r io.Reader, key []byte) *Reader {
	return &Reader{r: r, opener: newNumbered(key), buf: make([]byte, Size+Overhead+1)}
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
	sealed := r.buf[:min(r.have, Size+Overhead)]
	plain, err := r.opener.aead.Open(r.out[:0], r.opener.nonce(last), sealed, nil)
	switch {
	case err == nil:
	case last:
		return r.why(sealed)
	default:
		return ErrDamaged
	}
	r.opener.count++
	r.out, r.plain = plain, plain
	if last {
		return io.EOF
	}
	r.buf[0], r.have = r.buf[Size+Overhead], 1
	return nil
}

// why tells a stream that was cut from one that was altered. Cut between two chunks, its end opens as a chunk that is not the last one; cut
// inside a chunk, what is left proves nothing.
func (r *Reader) why(sealed []byte) error {
	if len(sealed) < Size+Overhead {
		return ErrTruncated
	}
	if _, err := r.opener.aead.Open(nil, r.opener.nonce(false), sealed, nil); err == nil {
		return ErrTruncated
	}
	return ErrDamaged
}

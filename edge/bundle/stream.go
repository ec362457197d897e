package bundle

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"wispgate/edge/chunk"
)

// The payload is frames: a kind, a length (32 bit, little endian) and that many octets. The first is the manifest, the last the signature
// over everything before it, head included.
const (
	frameManifest  = 'M'
	frameRecord    = 'R'
	frameState     = 'S'
	frameSignature = 'Z'

	frameHead    = 5
	maxFrame     = 1 << 20
	maxSignature = 16 << 10
	statePiece   = 32 << 10
)

// Signature says who made the file. Certificate proves the key.
type Signature struct {
	Certificate []byte `json:"certificate"` // DER
	Value       []byte `json:"value"`
}

// payloadKey hangs on the head, so that a head which was changed opens nothing.
func payloadKey(key, head []byte) []byte {
	sum := sha256.Sum256(head)
	out, err := hkdf.Key(sha256.New, key, sum[:], "wispgate bundle payload v1", chunk.KeySize)
	if err != nil {
		panic(fmt.Sprintf("bundle: derive: %v", err)) // only for lengths that cannot occur
	}
	return out
}

// Writer writes a bundle: the manifest, then records and state in any order, then Close.
type Writer struct {
	chunks *chunk.Writer
	sum    hash.Hash
	bytes  *counter
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// NewWriter writes the head and the manifest. key is the file's own, new and random; the head holds it wrapped.
func NewWriter(w io.Writer, h Head, key []byte, manifest any) (*Writer, error) {
	head, err := h.encode()
	if err != nil {
		return nil, err
	}
	count := &counter{w: w}
	if _, err := count.Write(head); err != nil {
		return nil, err
	}
	b := &Writer{chunks: chunk.NewWriter(count, payloadKey(key, head)), sum: sha256.New(), bytes: count}
	b.sum.Write(head)
	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return b, b.frame(frameManifest, raw)
}

func (b *Writer) frame(kind byte, data []byte) error {
	if len(data) > maxFrame {
		return fmt.Errorf("bundle: a record of %d octets", len(data))
	}
	head := binary.LittleEndian.AppendUint32([]byte{kind}, uint32(len(data)))
	for _, p := range [][]byte{head, data} {
		b.sum.Write(p)
		if _, err := b.chunks.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// Record writes one record.
func (b *Writer) Record(data []byte) error { return b.frame(frameRecord, data) }

// Write writes a piece of the state. It implements io.Writer.
func (b *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), statePiece)]
		if err := b.frame(frameState, piece); err != nil {
			return n, err
		}
		p, n = p[len(piece):], n+len(piece)
	}
	return n, nil
}

// Bytes is how many octets of the file are written.
func (b *Writer) Bytes() int64 { return b.bytes.n }

// Close has the file signed and ends it. It does not close what lies below.
func (b *Writer) Close(sign func(digest []byte) (Signature, error)) error {
	s, err := sign(b.sum.Sum(nil))
	if err != nil {
		return err
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := b.frame(frameSignature, raw); err != nil {
		return err
	}
	return b.chunks.Close()
}

// Reader reads a bundle. Whoever acts on a file reads it twice: once with Verify, which proves that it is whole and whose it is.
type Reader struct {
	head      Head
	manifest  []byte
	plain     io.Reader
	sum       hash.Hash
	digest    []byte
	signature Signature
	err       error
}

// NewReader reads head and manifest. open judges the head and unwraps the file's key.
func NewReader(r io.Reader, open func(Head) (key []byte, err error)) (*Reader, error) {
	h, raw, err := readHead(r)
	if err != nil {
		return nil, err
	}
	key, err := open(h)
	if err != nil {
		return nil, err
	}
	b := &Reader{head: h, plain: chunk.NewReader(r, payloadKey(key, raw)), sum: sha256.New()}
	b.sum.Write(raw)
	kind, data, err := b.frame()
	if err != nil {
		return nil, err
	}
	if kind != frameManifest {
		return nil, refuse(ErrDamaged)
	}
	b.manifest = data
	return b, nil
}

// Head is the part that was readable without a key.
func (b *Reader) Head() Head { return b.head }

// Manifest decodes what NewWriter was given.
func (b *Reader) Manifest(v any) error {
	if json.Unmarshal(b.manifest, v) != nil {
		return refuse(ErrDamaged)
	}
	return nil
}

// Next returns the next record, or piece of the state. After the last one it is io.EOF, and then the file was whole.
func (b *Reader) Next() (data []byte, state bool, err error) {
	if b.err != nil {
		return nil, false, b.err
	}
	kind, data, err := b.frame()
	switch {
	case err != nil:
	case kind == frameRecord || kind == frameState:
		return data, kind == frameState, nil
	case kind == frameSignature && json.Unmarshal(data, &b.signature) == nil:
		err = b.end()
	default:
		err = refuse(ErrDamaged)
	}
	b.err = err
	return nil, false, err
}

// end makes sure that nothing stands behind the signature.
func (b *Reader) end() error {
	var one [1]byte
	switch _, err := io.ReadFull(b.plain, one[:]); {
	case errors.Is(err, io.EOF):
		return io.EOF
	case err != nil:
		return unsealed(err)
	}
	return refuse(ErrDamaged)
}

// frame reads a frame. It takes memory only for what is there, whatever the length claims.
func (b *Reader) frame() (kind byte, data []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(b.plain, head[:]); err != nil {
		return 0, nil, unsealed(err)
	}
	kind, n := head[0], binary.LittleEndian.Uint32(head[1:])
	if n > maxFrame || kind == frameSignature && n > maxSignature {
		return 0, nil, refuse(ErrDamaged)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(b.plain, data); err != nil {
		return 0, nil, unsealed(err)
	}
	if kind == frameSignature {
		b.digest = b.sum.Sum(nil)
	}
	b.sum.Write(head[:])
	b.sum.Write(data)
	return kind, data, nil
}

// unsealed is the error of a read in the payload. One that ends between chunks without a signature was never written so.
func unsealed(err error) error {
	switch {
	case errors.Is(err, chunk.ErrTruncated), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(ErrTruncated)
	case errors.Is(err, chunk.ErrDamaged):
		return refuse(ErrDamaged)
	}
	return err
}

// Verify reads the rest of the file and proves that it is whole and signed. judge says whether the signature of this digest is by the node
// that the head names; visit, which may be nil, sees everything on the way and may refuse.
func (b *Reader) Verify(judge func(h Head, digest []byte, s Signature) error, visit func(data []byte, state bool) error) error {
	for {
		data, state, err := b.Next()
		if errors.Is(err, io.EOF) {
			return judge(b.head, b.digest, b.signature)
		}
		if err == nil && visit != nil {
			err = visit(data, state)
		}
		if err != nil {
			return err
		}
	}
}

// State is the pieces of the state that come next, as one stream. It ends before the first record, which Next then returns.
func (b *Reader) State() *State { return &State{b: b} }

// State reads pieces of the state.
type State struct {
	b      *Reader
	piece  []byte
	record []byte // the first record behind the state
	ended  error
}

// Read implements io.Reader.
func (s *State) Read(p []byte) (int, error) {
	for len(s.piece) == 0 {
		if s.ended != nil {
			return 0, io.EOF
		}
		data, state, err := s.b.Next()
		switch {
		case errors.Is(err, io.EOF):
			s.ended = io.EOF
		case err != nil:
			return 0, err
		case !state:
			s.record, s.ended = data, io.EOF
		default:
			s.piece = data
		}
	}
	n := copy(p, s.piece)
	s.piece = s.piece[n:]
	return n, nil
}

// Next returns the records behind the state, the first included.
func (s *State) Next() ([]byte, error) {
	if data := s.record; data != nil {
		s.record = nil
		return data, nil
	}
	if errors.Is(s.b.err, io.EOF) {
		return nil, io.EOF
	}
	data, state, err := s.b.Next()
	if err == nil && state {
		err = refuse(ErrDamaged)
	}
	return data, err
}

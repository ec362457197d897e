package exec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"wispgate/edge"
)

// Limits of one entry. Every node refuses what exceeds them, so a leader closes a round before them; Fits says when.
const (
	MaxEntry   = 128 << 10 // octets of an encoded entry
	MaxOps     = 2000      // operations; one store transaction holds 3,000
	MaxOpKey   = 1 << 10   // octets of one key
	opOverhead = 8         // octets an operation costs at most besides key and value
	entryFixed = 32        // octets an entry costs at most besides its operations
)

// ErrUndecodable is what decoding an entry that is damaged, foreign or of a newer format matches. A node that meets one in its log stops.
var ErrUndecodable = errors.New("exec: entry does not decode")

// entryError is ErrUndecodable of one entry of the log, for people.
type entryError struct {
	says  *edge.Error
	cause error
}

func unreadable(index uint64, cause error) error {
	return entryError{&edge.Error{
		Kind: edge.Unavailable, Code: "entry_undecodable", Message: fmt.Sprintf("Entry %d of the log cannot be read", index),
		Fix: "Where a newer wispgate wrote it, start that one. Else check the disk; for a node of a cluster run wispgate cluster repair NODE at another " +
			"member, which fills it anew; where it stands alone, keep the data folder and restore the last backup (wispgate restore)",
	}, cause}
}

func (e entryError) Error() string   { return e.says.Message + ": " + e.cause.Error() }
func (e entryError) Unwrap() []error { return []error{e.says, e.cause} }

// Op is one effect: a put or a delete of one key of the replicated keyspace. Keys are without the keyspace prefix; those that begin with
// a zero octet belong to the machine.
type Op struct {
	Key    string
	Val    []byte
	Delete bool
}

// Cost is the octets that the operation counts against MaxEntry, before keys are compressed.
func (o Op) Cost() int { return len(o.Key) + len(o.Val) + opOverhead }

// Entry is what the log carries: the effects of one round of intents, and the version of the state they were evaluated on.
type Entry struct {
	Base uint64 // the version that the effects build on; applied to any other, the entry is stale
	Time int64  // time of the round, nanoseconds since 1970 UTC
	Term uint64 // that of the log in which alone the entry is valid: it builds on entries that were on their way. 0: any
	Ops  []Op   // in order; the last one on a key wins
}

// Follows says whether the entry, in a log's entry of a term, builds on the state at a version. Applied to any other it changes nothing.
func (e *Entry) Follows(version, term uint64) bool {
	return e.Base == version && (e.Term == 0 || e.Term == term)
}

// Fits says whether ops operations of cost octets together (Op.Cost) make one entry.
func Fits(ops, cost int) bool { return ops <= MaxOps && cost+entryFixed <= MaxEntry }

// Check says why the entry cannot be encoded or applied, in the words of DecodeEntry. Encoding an entry that fails it is a bug of the caller.
func (e Entry) Check() error {
	cost := 0
	for i := range e.Ops {
		if err := checkOp(&e.Ops[i]); err != nil {
			return err
		}
		cost += e.Ops[i].Cost()
	}
	if !Fits(len(e.Ops), cost) {
		return errors.New("entry has too many operations or octets")
	}
	return nil
}

func checkOp(o *Op) error {
	switch {
	case o.Key == "" || len(o.Key) > MaxOpKey:
		return errors.New("key is empty or too long")
	case o.Key[0] == 0:
		return errors.New("key is reserved")
	case o.Delete && len(o.Val) > 0:
		return errors.New("delete carries a value")
	}
	return nil
}

// The encoding: the octet 1, or 2 where there is a term; base (uvarint); time (varint); the term (uvarint), not 0, in format 2; number of
// operations (uvarint); per operation the octets of key shared with the key before, doubled, plus 1 for a delete (uvarint), the rest of
// the key and the value, each behind its length (uvarint); CRC-32C of all that, little endian. Format 3 is the octet 3; one of the
// others without its checksum, as a block of S2; CRC-32C of all that.
const (
	entryFormat = 1
	entryOfTerm = 2
	entryPacked = 3
)

// The feature levels at which every node reads later formats.
const (
	ChainLevel = 2 // entries of a term
	PackLevel  = 3 // packed entries, and requests to the leader as parcels
)

// maxTerm keeps a term within the octets that an entry may cost. A log that gets there chains no more.
const maxTerm = 1<<35 - 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends the encoded entry to dst.
func (e Entry) Append(dst []byte) []byte {
	start := len(dst)
	size, format := entryFixed, byte(entryFormat)
	for i := range e.Ops {
		size += e.Ops[i].Cost()
	}
	if e.Term != 0 {
		format = entryOfTerm
	}
	dst = append(slices.Grow(dst, size), format)
	dst = binary.AppendUvarint(dst, e.Base)
	dst = binary.AppendVarint(dst, e.Time)
	if e.Term != 0 {
		dst = binary.AppendUvarint(dst, e.Term)
	}
	dst = binary.AppendUvarint(dst, uint64(len(e.Ops)))
	last := ""
	for i := range e.Ops {
		o := &e.Ops[i]
		shared := sharedPrefix(last, o.Key)
		head := uint64(shared) << 1
		if o.Delete {
			head |= 1
		}
		dst = binary.AppendUvarint(dst, head)
		dst = binary.AppendUvarint(dst, uint64(len(o.Key)-shared))
		dst = append(dst, o.Key[shared:]...)
		if !o.Delete {
			dst = binary.AppendUvarint(dst, uint64(len(o.Val)))
			dst = append(dst, o.Val...)
		}
		last = o.Key
	}
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func sharedPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

const crcLen = 4

// DecodeEntry reads what Append or Pack wrote. The values of the result alias data, or are of its own where it was packed. It accepts nothing
// else: every failure matches ErrUndecodable. Memory is bounded by MaxEntry and MaxOps whatever data claims.
func DecodeEntry(data []byte) (Entry, error) {
	body, err := unsealed(data)
	if err != nil {
		return Entry{}, err
	}
	if body[0] == entryPacked {
		if body, err = unpack(body[1:]); err != nil {
			return Entry{}, err
		}
	}
	if body[0] != entryFormat && body[0] != entryOfTerm {
		return Entry{}, fmt.Errorf("%w: format %d, this program knows %d to %d", ErrUndecodable, body[0], entryFormat, entryPacked)
	}
	d := decoder{rest: body[1:]}
	e := d.entry(body[0])
	if d.bad == "" && len(d.rest) > 0 {
		d.bad = "octets follow its end"
	}
	if d.bad == "" {
		if err := e.Check(); err != nil {
			d.bad = err.Error()
		}
	}
	if d.bad != "" {
		return Entry{}, fmt.Errorf("%w: %s", ErrUndecodable, d.bad)
	}
	return e, nil
}

// unsealed is the body of an encoded entry, one octet at least, without its checksum.
func unsealed(data []byte) ([]byte, error) {
	if len(data) > MaxEntry || len(data) < 1+crcLen {
		return nil, fmt.Errorf("%w: it has %d octets", ErrUndecodable, len(data))
	}
	body, tail := data[:len(data)-crcLen], data[len(data)-crcLen:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(tail) {
		return nil, fmt.Errorf("%w: the checksum does not match", ErrUndecodable)
	}
	return body, nil
}

// decoder reads a body; the first fault sticks in bad and later reads yield zeros.
type decoder struct {
	rest []byte
	bad  string
}

func (d *decoder) entry(format byte) Entry {
	e := Entry{Base: d.uvarint(), Time: d.varint()}
	if format == entryOfTerm {
		if e.Term = d.uvarint(); d.bad == "" && (e.Term == 0 || e.Term > maxTerm) {
			d.bad = "the term is none"
		}
	}
	count := d.uvarint()
	if count > MaxOps {
		d.bad = "too many operations"
	}
	if d.bad != "" {
		return e
	}
	e.Ops = make([]Op, 0, min(int(count), len(d.rest)/2))
	last := ""
	for range int(count) {
		o := d.op(last)
		if d.bad != "" {
			return e
		}
		e.Ops = append(e.Ops, o)
		last = o.Key
	}
	return e
}

func (d *decoder) op(last string) (o Op) {
	head := d.uvarint()
	shared := head >> 1
	if shared > uint64(len(last)) {
		d.bad = "a key shares more than there is"
		return o
	}
	rest := d.bytes(MaxOpKey)
	var key strings.Builder
	key.Grow(int(shared) + len(rest))
	key.WriteString(last[:shared])
	key.Write(rest)
	o.Key, o.Delete = key.String(), head&1 == 1
	if !o.Delete {
		o.Val = d.bytes(MaxEntry)
	}
	return o
}

func (d *decoder) bytes(limit uint64) []byte {
	n := d.uvarint()
	if d.bad == "" && (n > limit || n > uint64(len(d.rest))) {
		d.bad = "a length goes beyond its end"
	}
	if d.bad != "" {
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.take(n)
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	d.take(n)
	return v
}

// take consumes a varint of n octets and refuses one written longer than needed, so that an entry has one encoding of its numbers.
func (d *decoder) take(n int) {
	if n <= 0 || n > 1 && d.rest[n-1] == 0 {
		if d.bad == "" {
			d.bad = "a number does not parse"
		}
		return
	}
	d.rest = d.rest[n:]
}

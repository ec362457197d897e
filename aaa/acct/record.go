// Package acct is the form in which a node keeps an accounting packet: the record that is journaled before the router
// gets its answer and drained into sessions and usage afterwards. The format is versioned, bounded and self-contained:
// a record says everything that a later reader needs, without the packet and without any secret.
package acct

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"wispgate/aaa/packet"
)

// StatusType is Acct-Status-Type (RFC 2866 §5.1).
type StatusType uint32

// The status types that have rules of their own; any other is kept as it came.
const (
	Start   StatusType = 1
	Stop    StatusType = 2
	Interim StatusType = 3
	On      StatusType = 7
	Off     StatusType = 8
)

// String returns the name, or the number of a type without one.
func (s StatusType) String() string {
	switch s {
	case Start:
		return "start"
	case Stop:
		return "stop"
	case Interim:
		return "interim"
	case On:
		return "on"
	case Off:
		return "off"
	}
	return fmt.Sprintf("status %d", uint32(s))
}

// Flags say which optional numbers the packet carried; zero and absent mean different things in accounting.
type Flags uint16

// The flags.
const (
	HasInput     Flags = 1 << iota // Acct-Input-Octets
	HasOutput                      // Acct-Output-Octets
	HasGigawords                   // at least one Gigawords attribute: the octets are true 64-bit values
	HasSessionTime
	HasDelay
	HasEventTime
	HasNASPort
	HasCause
)

// Record is one accounting packet. Octets are cumulative; input is what the subscriber sent (upload). Byte slices point
// into the packet or the journal's buffer: a reader that keeps them copies them.
type Record struct {
	Status  StatusType
	Flags   Flags
	Arrived int64 // Unix nanoseconds, the node's clock

	InputOctets, OutputOctets   uint64
	InputPackets, OutputPackets uint32
	SessionTime                 uint32 // seconds
	DelayTime                   uint32 // seconds the router kept the packet before sending it
	EventTime                   uint32 // Unix seconds, the router's clock
	NASPort                     uint32
	TerminateCause              uint32
	ServiceType, NASPortType    uint32

	MAC       packet.MAC
	FramedIP  netip.Addr   // IPv4; invalid if absent
	Framed6   netip.Prefix // Framed-IPv6-Prefix
	Delegated netip.Prefix // Delegated-IPv6-Prefix
	Source    netip.Addr   // where the packet came from

	Tenant, NAS    []byte // of the router's record
	SessionID      []byte
	MultiSessionID []byte
	UserName       []byte
	Class          []byte
	NASPortID      []byte
	NASIdentifier  []byte
	CallingStation []byte // as sent; MAC holds the canonical form where it is one
	CalledStation  []byte
}

// Version is the first octet of an encoded record. A reader of a newer journal refuses what it does not know.
const Version = 1

// MaxSize bounds an encoded record in octets: ten values of at most 253 octets and the fixed part.
const MaxSize = 10*(packet.MaxValue+1) + 160

// ErrRecord says that bytes are not an accounting record of a known version.
var ErrRecord = errors.New("not an accounting record")

// fields lists the variable parts in their order on disk. Only ever append to it, with a new Version.
func (r *Record) fields() [10]*[]byte {
	return [10]*[]byte{
		&r.Tenant, &r.NAS, &r.SessionID, &r.MultiSessionID, &r.UserName, &r.Class, &r.NASPortID, &r.NASIdentifier,
		&r.CallingStation, &r.CalledStation,
	}
}

// Append encodes the record at the end of dst. Values longer than an attribute can be are cut at 253 octets.
func (r *Record) Append(dst []byte) []byte {
	be := binary.BigEndian
	dst = append(dst, Version)
	dst = binary.AppendUvarint(dst, uint64(r.Status))
	dst = be.AppendUint16(dst, uint16(r.Flags))
	dst = be.AppendUint64(dst, uint64(r.Arrived))
	for _, v := range [...]uint64{
		r.InputOctets, r.OutputOctets, uint64(r.InputPackets), uint64(r.OutputPackets), uint64(r.SessionTime),
		uint64(r.DelayTime), uint64(r.EventTime), uint64(r.NASPort), uint64(r.TerminateCause), uint64(r.ServiceType),
		uint64(r.NASPortType),
	} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = append(dst, r.MAC[:]...)
	dst = appendAddr(dst, r.FramedIP)
	dst = appendPrefix(dst, r.Framed6)
	dst = appendPrefix(dst, r.Delegated)
	dst = appendAddr(dst, r.Source)
	for _, f := range r.fields() {
		v := (*f)[:min(len(*f), packet.MaxValue)]
		dst = append(dst, byte(len(v)))
		dst = append(dst, v...)
	}
	return dst
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return append(dst, 0)
	case a.Is4():
		b := a.As4()
		return append(append(dst, 4), b[:]...)
	}
	b := a.As16()
	return append(append(dst, 16), b[:]...)
}

func appendPrefix(dst []byte, p netip.Prefix) []byte {
	if !p.IsValid() {
		return append(dst, 0)
	}
	dst = appendAddr(dst, p.Addr())
	return append(dst, byte(p.Bits()))
}

// Decode reads an encoded record into r, whose slices then point into b. Octets after the record are an error: a
// record is a whole journal payload.
func (r *Record) Decode(b []byte) error {
	d := decoder{b: b}
	if v := d.octet(); v != Version {
		return fmt.Errorf("%w of version %d", ErrRecord, Version)
	}
	*r = Record{Status: StatusType(d.u32())}
	r.Flags = Flags(d.fixed(2))
	r.Arrived = int64(d.fixed(8))
	r.InputOctets, r.OutputOctets = d.uvarint(), d.uvarint()
	for _, p := range [...]*uint32{
		&r.InputPackets, &r.OutputPackets, &r.SessionTime, &r.DelayTime, &r.EventTime, &r.NASPort, &r.TerminateCause,
		&r.ServiceType, &r.NASPortType,
	} {
		*p = d.u32()
	}
	copy(r.MAC[:], d.take(6))
	r.FramedIP = d.addr()
	r.Framed6 = d.prefix()
	r.Delegated = d.prefix()
	r.Source = d.addr()
	for _, f := range r.fields() {
		n := int(d.octet())
		*f = d.take(n)
		d.bad = d.bad || n > packet.MaxValue
	}
	if d.bad || len(d.b) != 0 {
		return ErrRecord
	}
	return nil
}

// decoder consumes b and remembers the first thing wrong.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) octet() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) fixed(n int) (v uint64) {
	for _, c := range d.take(n) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.take(max(n, 0)); n <= 0 {
		d.bad = true
	}
	return v
}

func (d *decoder) u32() uint32 {
	v := d.uvarint()
	d.bad = d.bad || v>>32 != 0
	return uint32(v)
}

func (d *decoder) addr() netip.Addr {
	switch n := d.octet(); n {
	case 0:
	case 4, 16:
		if a, ok := netip.AddrFromSlice(d.take(int(n))); ok {
			return a
		}
	default:
		d.bad = true
	}
	return netip.Addr{}
}

func (d *decoder) prefix() netip.Prefix {
	a := d.addr()
	if !a.IsValid() {
		return netip.Prefix{}
	}
	p := netip.PrefixFrom(a, int(d.octet()))
	d.bad = d.bad || !p.IsValid()
	return p
}

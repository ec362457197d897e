// Package packet reads, writes and authenticates RADIUS packets (RFC 2865, 2866, 2869, 3579) without allocating.
//
// It holds no policy: the server, the client, CoA and EAP share it. Every reader is bounded and treats its input as
// hostile; every writer appends to a slice its caller owns. A value returned by a reader points into the packet.
package packet

import (
	"encoding/binary"
	"errors"
)

// Code is the first octet of a packet.
type Code uint8

// The codes of RFC 2865, 2866, 5176 and 5997.
const (
	AccessRequest      Code = 1
	AccessAccept       Code = 2
	AccessReject       Code = 3
	AccountingRequest  Code = 4
	AccountingResponse Code = 5
	AccessChallenge    Code = 11
	StatusServer       Code = 12
	DisconnectRequest  Code = 40
	DisconnectACK      Code = 41
	DisconnectNAK      Code = 42
	CoARequest         Code = 43
	CoAACK             Code = 44
	CoANAK             Code = 45
)

// String returns the name the RFCs use.
func (c Code) String() string {
	switch c {
	case AccessRequest:
		return "Access-Request"
	case AccessAccept:
		return "Access-Accept"
	case AccessReject:
		return "Access-Reject"
	case AccountingRequest:
		return "Accounting-Request"
	case AccountingResponse:
		return "Accounting-Response"
	case AccessChallenge:
		return "Access-Challenge"
	case StatusServer:
		return "Status-Server"
	case DisconnectRequest:
		return "Disconnect-Request"
	case DisconnectACK:
		return "Disconnect-ACK"
	case DisconnectNAK:
		return "Disconnect-NAK"
	case CoARequest:
		return "CoA-Request"
	case CoAACK:
		return "CoA-ACK"
	case CoANAK:
		return "CoA-NAK"
	}
	return "unknown"
}

// Attribute numbers, RFC 2865 to 6911.
const (
	UserName             = 1
	UserPassword         = 2
	CHAPPassword         = 3
	NASIPAddress         = 4
	NASPort              = 5
	ServiceType          = 6
	FramedProtocol       = 7
	FramedIPAddress      = 8
	FramedIPNetmask      = 9
	FilterID             = 11
	FramedMTU            = 12
	ReplyMessage         = 18
	FramedRoute          = 22
	State                = 24
	Class                = 25
	VendorSpecific       = 26
	SessionTimeout       = 27
	IdleTimeout          = 28
	CalledStationID      = 30
	CallingStationID     = 31
	NASIdentifier        = 32
	ProxyState           = 33
	AcctStatusType       = 40
	AcctDelayTime        = 41
	AcctInputOctets      = 42
	AcctOutputOctets     = 43
	AcctSessionID        = 44
	AcctSessionTime      = 46
	AcctInputPackets     = 47
	AcctOutputPackets    = 48
	AcctTerminateCause   = 49
	AcctMultiSessionID   = 50
	AcctInputGigawords   = 52
	AcctOutputGigawords  = 53
	EventTimestamp       = 55
	CHAPChallenge        = 60
	NASPortType          = 61
	TunnelType           = 64
	TunnelMediumType     = 65
	EAPMessage           = 79
	MessageAuthenticator = 80
	TunnelPrivateGroupID = 81
	AcctInterimInterval  = 85
	NASPortID            = 87
	FramedPool           = 88
	NASIPv6Address       = 95
	FramedIPv6Prefix     = 97
	FramedIPv6Pool       = 100
	ErrorCause           = 101
	DelegatedIPv6Prefix  = 123
	FramedIPv6Address    = 168
)

// Sizes in octets, and the bound on attributes in one packet.
const (
	HeaderLen     = 20
	MaxLen        = 4096
	MaxValue      = 253 // the largest value of one attribute
	MaxAttributes = 200
	authOffset    = 4
)

// ErrMalformed is the reason of every refusal to read a packet; the errors that wrap it say which rule was broken.
var ErrMalformed = errors.New("malformed packet")

type malformed string

func (m malformed) Error() string        { return string(m) }
func (m malformed) Is(target error) bool { return target == ErrMalformed }

const (
	errShort     = malformed("fewer octets than a header")
	errLength    = malformed("length field out of bounds")
	errAttribute = malformed("attribute length out of bounds")
	errMany      = malformed("more than 200 attributes")
)

// Trim returns the packet inside a datagram: its Length field checked, padding cut off (RFC 2865 §3).
func Trim(datagram []byte) ([]byte, error) {
	if len(datagram) < HeaderLen {
		return nil, errShort
	}
	n := int(binary.BigEndian.Uint16(datagram[2:4]))
	if n < HeaderLen || n > MaxLen || n > len(datagram) {
		return nil, errLength
	}
	return datagram[:n], nil
}

// Authenticator returns the 16 octets of the header's authenticator field; they point into pkt.
func Authenticator(pkt []byte) []byte { return pkt[authOffset:HeaderLen] }

// Attrs is the index of one packet's attributes. The zero value is ready; a reused one allocates nothing.
type Attrs struct {
	pkt   []byte
	n     int
	off   [MaxAttributes]uint16
	first [256]uint8 // number of the first attribute of a type, plus one
}

// Parse walks the attributes of pkt, which must be a whole packet as Trim returns it, and remembers where each begins.
func (a *Attrs) Parse(pkt []byte) error {
	a.pkt, a.n = pkt, 0
	clear(a.first[:])
	for i := HeaderLen; i < len(pkt); {
		if len(pkt)-i < 2 {
			return errAttribute
		}
		size := int(pkt[i+1])
		if size < 2 || i+size > len(pkt) {
			return errAttribute
		}
		if a.n == MaxAttributes {
			return errMany
		}
		a.off[a.n] = uint16(i)
		a.n++
		if t := pkt[i]; a.first[t] == 0 {
			a.first[t] = uint8(a.n)
		}
		i += size
	}
	return nil
}

// Len returns the number of attributes.
func (a *Attrs) Len() int { return a.n }

// At returns type and value of attribute i, 0 ≤ i < Len.
func (a *Attrs) At(i int) (typ byte, value []byte) {
	o := int(a.off[i])
	return a.pkt[o], a.pkt[o+2 : o+int(a.pkt[o+1]) : o+int(a.pkt[o+1])]
}

// First returns the index of the first attribute of a type, or -1.
func (a *Attrs) First(typ byte) int { return int(a.first[typ]) - 1 }

// Next returns the index of the next attribute of the same type after i, or -1.
func (a *Attrs) Next(i int) int {
	typ := a.pkt[a.off[i]]
	for i++; i < a.n; i++ {
		if a.pkt[a.off[i]] == typ {
			return i
		}
	}
	return -1
}

// Has reports whether an attribute of the type is present.
func (a *Attrs) Has(typ byte) bool { return a.first[typ] != 0 }

// Get returns the value of the first attribute of a type, nil if there is none. An empty value is not nil.
func (a *Attrs) Get(typ byte) []byte {
	i := a.First(typ)
	if i < 0 {
		return nil
	}
	_, v := a.At(i)
	return v
}

// Uint32 returns the first attribute of a type as an integer; a value of another size is as absent.
func (a *Attrs) Uint32(typ byte) (uint32, bool) {
	if v := a.Get(typ); len(v) == 4 {
		return binary.BigEndian.Uint32(v), true
	}
	return 0, false
}

// Vendor returns the value of the first sub-attribute (vendor, typ), nil if there is none. Several sub-attributes may
// share one attribute 26; a malformed vendor attribute is skipped, not an error (RFC 2865 §5.26 leaves its inside free).
func (a *Attrs) Vendor(vendor uint32, typ byte) []byte {
	for i := a.First(VendorSpecific); i >= 0; i = a.Next(i) {
		_, v := a.At(i)
		if len(v) < 6 || binary.BigEndian.Uint32(v) != vendor {
			continue
		}
		for v = v[4:]; len(v) >= 2; {
			size := int(v[1])
			if size < 2 || size > len(v) {
				break
			}
			if v[0] == typ {
				return v[2:size]
			}
			v = v[size:]
		}
	}
	return nil
}

// Offset returns where the attribute's value begins in the packet.
func (a *Attrs) Offset(i int) int { return int(a.off[i]) + 2 }

// Begin appends a header with an empty Length field, to be set by Finish.
func Begin(dst []byte, code Code, id byte, authenticator []byte) []byte {
	dst = append(dst, byte(code), id, 0, 0)
	return append(dst, authenticator[:16]...)
}

// Append appends one attribute. A value longer than 253 octets is cut: callers bound their values, or split them.
func Append(dst []byte, typ byte, value []byte) []byte {
	if len(value) > MaxValue {
		value = value[:MaxValue]
	}
	dst = append(dst, typ, byte(len(value)+2))
	return append(dst, value...)
}

// AppendString appends one text attribute.
func AppendString(dst []byte, typ byte, value string) []byte {
	if len(value) > MaxValue {
		value = value[:MaxValue]
	}
	dst = append(dst, typ, byte(len(value)+2))
	return append(dst, value...)
}

// AppendUint32 appends one integer attribute.
func AppendUint32(dst []byte, typ byte, v uint32) []byte {
	return append(dst, typ, 6, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// AppendVendor appends one vendor attribute with one sub-attribute of at most 247 octets.
func AppendVendor(dst []byte, vendor uint32, typ byte, value []byte) []byte {
	if len(value) > MaxValue-6 {
		value = value[:MaxValue-6]
	}
	n := byte(len(value))
	dst = append(dst, VendorSpecific, n+8, byte(vendor>>24), byte(vendor>>16), byte(vendor>>8), byte(vendor), typ, n+2)
	return append(dst, value...)
}

// AppendVendorUint32 appends one vendor attribute with one integer.
func AppendVendorUint32(dst []byte, vendor uint32, typ byte, v uint32) []byte {
	return append(dst, VendorSpecific, 12, byte(vendor>>24), byte(vendor>>16), byte(vendor>>8), byte(vendor), typ, 6,
		byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// AppendMessageAuthenticator appends an attribute 80 of zeros, to be filled by a Hasher.
func AppendMessageAuthenticator(dst []byte) []byte {
	var zero [16]byte
	dst = append(dst, MessageAuthenticator, 18)
	return append(dst, zero[:]...)
}

// Finish writes the Length field of a packet that Begin started at index 0.
func Finish(pkt []byte) { binary.BigEndian.PutUint16(pkt[2:4], uint16(len(pkt))) }

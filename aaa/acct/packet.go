package acct

import (
	"net/netip"

	"wispgate/aaa/packet"
)

// FromPacket fills the record from an Accounting-Request's attributes; slices point into the packet. What the node
// knows itself (Arrived, Source, Tenant, NAS) is left to the caller. It reports whether Acct-Status-Type was there: a
// packet without it cannot be understood by anyone.
func (r *Record) FromPacket(a *packet.Attrs) bool {
	*r = Record{
		SessionID: a.Get(packet.AcctSessionID), MultiSessionID: a.Get(packet.AcctMultiSessionID),
		UserName: a.Get(packet.UserName), Class: a.Get(packet.Class), NASPortID: a.Get(packet.NASPortID),
		NASIdentifier: a.Get(packet.NASIdentifier), CallingStation: a.Get(packet.CallingStationID),
		CalledStation: a.Get(packet.CalledStationID),
	}
	status, ok := a.Uint32(packet.AcctStatusType)
	r.Status = StatusType(status)
	r.MAC, _ = packet.ParseMAC(r.CallingStation)
	r.InputOctets = r.octets(a, packet.AcctInputOctets, packet.AcctInputGigawords, HasInput)
	r.OutputOctets = r.octets(a, packet.AcctOutputOctets, packet.AcctOutputGigawords, HasOutput)
	r.SessionTime = r.number(a, packet.AcctSessionTime, HasSessionTime)
	r.DelayTime = r.number(a, packet.AcctDelayTime, HasDelay)
	r.EventTime = r.number(a, packet.EventTimestamp, HasEventTime)
	r.NASPort = r.number(a, packet.NASPort, HasNASPort)
	r.TerminateCause = r.number(a, packet.AcctTerminateCause, HasCause)
	r.InputPackets = r.number(a, packet.AcctInputPackets, 0)
	r.OutputPackets = r.number(a, packet.AcctOutputPackets, 0)
	r.ServiceType = r.number(a, packet.ServiceType, 0)
	r.NASPortType = r.number(a, packet.NASPortType, 0)
	if v := a.Get(packet.FramedIPAddress); len(v) == 4 {
		r.FramedIP = netip.AddrFrom4([4]byte(v))
	}
	r.Framed6 = prefix(a.Get(packet.FramedIPv6Prefix))
	r.Delegated = prefix(a.Get(packet.DelegatedIPv6Prefix))
	return ok
}

func (r *Record) number(a *packet.Attrs, typ byte, flag Flags) uint32 {
	v, ok := a.Uint32(typ)
	if ok {
		r.Flags |= flag
	}
	return v
}

// octets joins the low and the high 32 bits of a counter (RFC 2869 §5.1).
func (r *Record) octets(a *packet.Attrs, low, high byte, flag Flags) uint64 {
	lo := r.number(a, low, flag)
	hi := r.number(a, high, HasGigawords)
	return uint64(hi)<<32 | uint64(lo)
}

// prefix reads the value of an IPv6 prefix attribute: reserved octet, length, and as many address octets as the sender
// liked, at most 16 (RFC 3162 §2.3, RFC 4818 §3). Host bits are cleared; anything else is as absent.
func prefix(v []byte) netip.Prefix {
	if len(v) < 2 || len(v) > 18 || v[1] > 128 || (len(v)-2)*8 < int(v[1]) {
		return netip.Prefix{}
	}
	var a [16]byte
	copy(a[:], v[2:])
	p, err := netip.AddrFrom16(a).Prefix(int(v[1]))
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

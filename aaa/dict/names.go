package dict

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"unicode"
	"unicode/utf8"

	"wispgate/aaa/packet"
)

// Named is one attribute as people read it.
type Named struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type kind uint8

const (
	octets kind = iota
	text
	number
	address
	prefix6
	hidden // never shown
)

type entry struct {
	name string
	kind kind
}

// Describe names the attributes of a packet or a rendered policy for people. What it does not know it shows by number
// and in hexadecimal; what is secret it shows as ***. Malformed octets end the list.
func Describe(attrs []byte) []Named {
	var out []Named
	for len(attrs) >= 2 && attrs[1] >= 2 && int(attrs[1]) <= len(attrs) {
		typ, v := attrs[0], attrs[2:attrs[1]]
		attrs = attrs[attrs[1]:]
		if typ != packet.VendorSpecific || len(v) < 4 {
			out = append(out, describe(standardNames(typ), "Attr-"+strconv.Itoa(int(typ)), v))
			continue
		}
		vendor := binary.BigEndian.Uint32(v)
		for v = v[4:]; len(v) >= 2 && v[1] >= 2 && int(v[1]) <= len(v); v = v[v[1]:] {
			fallback := "Vendor-" + strconv.FormatUint(uint64(vendor), 10) + "-" + strconv.Itoa(int(v[0]))
			out = append(out, describe(vendorNames(vendor, v[0]), fallback, v[2:v[1]]))
		}
	}
	return out
}

func describe(e entry, fallback string, v []byte) Named {
	if e.name == "" {
		e.name = fallback
	}
	n := Named{Name: e.name, Value: "0x" + hex.EncodeToString(v)}
	switch {
	case e.kind == hidden:
		n.Value = "***"
	case e.kind == number && len(v) == 4:
		n.Value = strconv.FormatUint(uint64(binary.BigEndian.Uint32(v)), 10)
	case e.kind == address && len(v) == 4:
		n.Value = netip.AddrFrom4([4]byte(v)).String()
	case e.kind == prefix6 && len(v) >= 2 && len(v) <= 18 && v[1] <= 128:
		var a [16]byte
		copy(a[:], v[2:])
		n.Value = netip.PrefixFrom(netip.AddrFrom16(a), int(v[1])).String()
	case e.kind == text && printable(v):
		n.Value = string(v)
	}
	return n
}

// printable keeps control characters of a hostile peer away from terminals.
func printable(v []byte) bool {
	for i := 0; i < len(v); {
		r, size := utf8.DecodeRune(v[i:])
		if (r == utf8.RuneError && size == 1) || !unicode.IsPrint(r) {
			return false
		}
		i += size
	}
	return true
}

func standardNames(typ byte) entry {
	switch typ {
	case packet.UserName:
		return entry{"User-Name", text}
	case packet.UserPassword:
		return entry{"User-Password", hidden}
	case packet.CHAPPassword:
		return entry{"CHAP-Password", hidden}
	case packet.NASIPAddress:
		return entry{"NAS-IP-Address", address}
	case packet.NASPort:
		return entry{"NAS-Port", number}
	case packet.ServiceType:
		return entry{"Service-Type", number}
	case packet.FramedProtocol:
		return entry{"Framed-Protocol", number}
	case packet.FramedIPAddress:
		return entry{"Framed-IP-Address", address}
	case packet.FilterID:
		return entry{"Filter-Id", text}
	case packet.ReplyMessage:
		return entry{"Reply-Message", text}
	case packet.FramedRoute:
		return entry{"Framed-Route", text}
	case packet.State:
		return entry{"State", octets}
	case packet.Class:
		return entry{"Class", octets}
	case packet.SessionTimeout:
		return entry{"Session-Timeout", number}
	case packet.IdleTimeout:
		return entry{"Idle-Timeout", number}
	case packet.CalledStationID:
		return entry{"Called-Station-Id", text}
	case packet.CallingStationID:
		return entry{"Calling-Station-Id", text}
	case packet.NASIdentifier:
		return entry{"NAS-Identifier", text}
	case packet.ProxyState:
		return entry{"Proxy-State", octets}
	case packet.AcctStatusType:
		return entry{"Acct-Status-Type", number}
	case packet.AcctSessionID:
		return entry{"Acct-Session-Id", text}
	case packet.NASPortType:
		return entry{"NAS-Port-Type", number}
	case packet.TunnelType:
		return entry{"Tunnel-Type", number}
	case packet.TunnelMediumType:
		return entry{"Tunnel-Medium-Type", number}
	case packet.TunnelPrivateGroupID:
		return entry{"Tunnel-Private-Group-Id", text}
	case packet.EAPMessage:
		return entry{"EAP-Message", octets}
	case packet.MessageAuthenticator:
		return entry{"Message-Authenticator", octets}
	case packet.AcctInterimInterval:
		return entry{"Acct-Interim-Interval", number}
	case packet.NASPortID:
		return entry{"NAS-Port-Id", text}
	case packet.FramedPool:
		return entry{"Framed-Pool", text}
	case packet.FramedIPv6Prefix:
		return entry{"Framed-IPv6-Prefix", prefix6}
	case packet.FramedIPv6Pool:
		return entry{"Framed-IPv6-Pool", text}
	case packet.ErrorCause:
		return entry{"Error-Cause", number}
	case packet.DelegatedIPv6Prefix:
		return entry{"Delegated-IPv6-Prefix", prefix6}
	case 171:
		return entry{"Delegated-IPv6-Prefix-Pool", text}
	}
	return entry{}
}

// vendorNames covers what the renderer writes and what carries secrets.
func vendorNames(vendor uint32, typ byte) entry {
	switch uint64(vendor)<<8 | uint64(typ) {
	case vendorMikroTik<<8 | 3:
		return entry{"Mikrotik-Group", text}
	case vendorMikroTik<<8 | 8:
		return entry{"Mikrotik-Rate-Limit", text}
	case vendorMikroTik<<8 | 16:
		return entry{"Mikrotik-Wireless-PSK", hidden}
	case vendorMikroTik<<8 | 17:
		return entry{"Mikrotik-Total-Limit", number}
	case vendorMikroTik<<8 | 18:
		return entry{"Mikrotik-Total-Limit-Gigawords", number}
	case vendorMikroTik<<8 | 19:
		return entry{"Mikrotik-Address-List", text}
	case vendorMikroTik<<8 | 22:
		return entry{"Mikrotik-Delegated-IPv6-Pool", text}
	case vendorMikroTik<<8 | 26:
		return entry{"Mikrotik-Wireless-VLANID", number}
	case vendorMikroTik<<8 | 27:
		return entry{"Mikrotik-Wireless-VLANID-Type", number}
	case vendorWISPr<<8 | 7:
		return entry{"WISPr-Bandwidth-Max-Up", number}
	case vendorWISPr<<8 | 8:
		return entry{"WISPr-Bandwidth-Max-Down", number}
	case vendorCambium<<8 | 21:
		return entry{"Cambium-ePMP-Data-VLAN-Id", number}
	case vendorCambium<<8 | 26:
		return entry{"Cambium-ePMP-Max-Burst-Uplink-Rate", number}
	case vendorCambium<<8 | 27:
		return entry{"Cambium-ePMP-Max-Burst-Downlink-Rate", number}
	case vendorCanopy<<8 | 6:
		return entry{"Motorola-Canopy-ULBR", number}
	case vendorCanopy<<8 | 7:
		return entry{"Motorola-Canopy-ULBL", number}
	case vendorCanopy<<8 | 8:
		return entry{"Motorola-Canopy-DLBR", number}
	case vendorCanopy<<8 | 9:
		return entry{"Motorola-Canopy-DLBL", number}
	case vendorCanopy<<8 | 21:
		return entry{"Motorola-Canopy-VLIGVID", number}
	case vendorCisco<<8 | 1:
		return entry{"Cisco-AVPair", text}
	case vendorERX<<8 | 26:
		return entry{"ERX-Qos-Profile-Name", text}
	case vendorERX<<8 | 65:
		return entry{"ERX-Service-Activate", octets}
	case vendorHuawei<<8 | 2:
		return entry{"Huawei-Input-Average-Rate", number}
	case vendorHuawei<<8 | 3:
		return entry{"Huawei-Input-Peak-Rate", number}
	case vendorHuawei<<8 | 5:
		return entry{"Huawei-Output-Average-Rate", number}
	case vendorHuawei<<8 | 6:
		return entry{"Huawei-Output-Peak-Rate", number}
	case vendorHuawei<<8 | 95:
		return entry{"Huawei-Policy-Name", text}
	case vendorChilliSpot<<8 | 3:
		return entry{"ChilliSpot-Max-Total-Octets", number}
	case vendorChilliSpot<<8 | 4:
		return entry{"ChilliSpot-Bandwidth-Max-Up", number}
	case vendorChilliSpot<<8 | 5:
		return entry{"ChilliSpot-Bandwidth-Max-Down", number}
	case vendorChilliSpot<<8 | 23:
		return entry{"ChilliSpot-Max-Total-Gigawords", number}
	}
	return entry{}
}

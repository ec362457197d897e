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
			out = append(out, describe(standardNames[typ], "Attr-"+strconv.Itoa(int(typ)), v))
			continue
		}
		vendor := binary.BigEndian.Uint32(v)
		for v = v[4:]; len(v) >= 2 && v[1] >= 2 && int(v[1]) <= len(v); v = v[v[1]:] {
			fallback := "Vendor-" + strconv.FormatUint(uint64(vendor), 10) + "-" + strconv.Itoa(int(v[0]))
			out = append(out, describe(vendorNames[uint64(vendor)<<8|uint64(v[0])], fallback, v[2:v[1]]))
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

// standardNames covers what routers and we send each other.
var standardNames = map[byte]entry{
	packet.UserName:             {"User-Name", text},
	packet.UserPassword:         {"User-Password", hidden},
	packet.CHAPPassword:         {"CHAP-Password", hidden},
	packet.NASIPAddress:         {"NAS-IP-Address", address},
	packet.NASPort:              {"NAS-Port", number},
	packet.ServiceType:          {"Service-Type", number},
	packet.FramedProtocol:       {"Framed-Protocol", number},
	packet.FramedIPAddress:      {"Framed-IP-Address", address},
	packet.FilterID:             {"Filter-Id", text},
	packet.ReplyMessage:         {"Reply-Message", text},
	packet.FramedRoute:          {"Framed-Route", text},
	packet.State:                {"State", octets},
	packet.Class:                {"Class", octets},
	packet.SessionTimeout:       {"Session-Timeout", number},
	packet.IdleTimeout:          {"Idle-Timeout", number},
	packet.CalledStationID:      {"Called-Station-Id", text},
	packet.CallingStationID:     {"Calling-Station-Id", text},
	packet.NASIdentifier:        {"NAS-Identifier", text},
	packet.ProxyState:           {"Proxy-State", octets},
	packet.AcctStatusType:       {"Acct-Status-Type", number},
	packet.AcctSessionID:        {"Acct-Session-Id", text},
	packet.NASPortType:          {"NAS-Port-Type", number},
	packet.TunnelType:           {"Tunnel-Type", number},
	packet.TunnelMediumType:     {"Tunnel-Medium-Type", number},
	packet.TunnelPrivateGroupID: {"Tunnel-Private-Group-Id", text},
	packet.EAPMessage:           {"EAP-Message", octets},
	packet.MessageAuthenticator: {"Message-Authenticator", octets},
	packet.AcctInterimInterval:  {"Acct-Interim-Interval", number},
	packet.NASPortID:            {"NAS-Port-Id", text},
	packet.FramedPool:           {"Framed-Pool", text},
	packet.FramedIPv6Prefix:     {"Framed-IPv6-Prefix", prefix6},
	packet.FramedIPv6Pool:       {"Framed-IPv6-Pool", text},
	packet.ErrorCause:           {"Error-Cause", number},
	packet.DelegatedIPv6Prefix:  {"Delegated-IPv6-Prefix", prefix6},
	171:                         {"Delegated-IPv6-Prefix-Pool", text},
}

// vendorNames covers what the renderer writes and what carries secrets; the key is vendor<<8 | type.
var vendorNames = map[uint64]entry{
	vendorMikroTik<<8 | 3:    {"Mikrotik-Group", text},
	vendorMikroTik<<8 | 8:    {"Mikrotik-Rate-Limit", text},
	vendorMikroTik<<8 | 16:   {"Mikrotik-Wireless-PSK", hidden},
	vendorMikroTik<<8 | 17:   {"Mikrotik-Total-Limit", number},
	vendorMikroTik<<8 | 18:   {"Mikrotik-Total-Limit-Gigawords", number},
	vendorMikroTik<<8 | 19:   {"Mikrotik-Address-List", text},
	vendorMikroTik<<8 | 22:   {"Mikrotik-Delegated-IPv6-Pool", text},
	vendorMikroTik<<8 | 26:   {"Mikrotik-Wireless-VLANID", number},
	vendorMikroTik<<8 | 27:   {"Mikrotik-Wireless-VLANID-Type", number},
	vendorWISPr<<8 | 7:       {"WISPr-Bandwidth-Max-Up", number},
	vendorWISPr<<8 | 8:       {"WISPr-Bandwidth-Max-Down", number},
	vendorCambium<<8 | 21:    {"Cambium-ePMP-Data-VLAN-Id", number},
	vendorCambium<<8 | 26:    {"Cambium-ePMP-Max-Burst-Uplink-Rate", number},
	vendorCambium<<8 | 27:    {"Cambium-ePMP-Max-Burst-Downlink-Rate", number},
	vendorCanopy<<8 | 6:      {"Motorola-Canopy-ULBR", number},
	vendorCanopy<<8 | 7:      {"Motorola-Canopy-ULBL", number},
	vendorCanopy<<8 | 8:      {"Motorola-Canopy-DLBR", number},
	vendorCanopy<<8 | 9:      {"Motorola-Canopy-DLBL", number},
	vendorCanopy<<8 | 21:     {"Motorola-Canopy-VLIGVID", number},
	vendorCisco<<8 | 1:       {"Cisco-AVPair", text},
	vendorERX<<8 | 26:        {"ERX-Qos-Profile-Name", text},
	vendorERX<<8 | 65:        {"ERX-Service-Activate", octets},
	vendorHuawei<<8 | 2:      {"Huawei-Input-Average-Rate", number},
	vendorHuawei<<8 | 3:      {"Huawei-Input-Peak-Rate", number},
	vendorHuawei<<8 | 5:      {"Huawei-Output-Average-Rate", number},
	vendorHuawei<<8 | 6:      {"Huawei-Output-Peak-Rate", number},
	vendorHuawei<<8 | 95:     {"Huawei-Policy-Name", text},
	vendorChilliSpot<<8 | 3:  {"ChilliSpot-Max-Total-Octets", number},
	vendorChilliSpot<<8 | 4:  {"ChilliSpot-Bandwidth-Max-Up", number},
	vendorChilliSpot<<8 | 5:  {"ChilliSpot-Bandwidth-Max-Down", number},
	vendorChilliSpot<<8 | 23: {"ChilliSpot-Max-Total-Gigawords", number},
}

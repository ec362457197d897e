package dict

import (
	"fmt"
	"slices"
	"strconv"

	"wispgate/aaa/packet"
)

// Profile is a family of routers that understand the same attributes.
type Profile uint8

// The profiles. Generic sends the standard attributes and WISPr, which most captive portals and many routers read.
const (
	Generic Profile = iota
	MikroTik
	CambiumEPMP
	CambiumPMP450
	Cisco
	Juniper
	Huawei
	ChilliSpot
	AccelPPP
	Profiles // how many there are
)

var profileNames = [Profiles]string{"generic", "mikrotik", "cambium_epmp", "cambium_pmp450", "cisco", "juniper", "huawei", "chillispot", "accel_ppp"}

// String returns the name a NAS record uses.
func (p Profile) String() string {
	if p < Profiles {
		return profileNames[p]
	}
	return "unknown"
}

// ProfileNames lists the names in order.
func ProfileNames() []string { return profileNames[:] }

// ParseProfile returns the profile of a NAS record's vendor; ok is false for a name that is not in the list.
func ParseProfile(name string) (p Profile, ok bool) {
	i := slices.Index(profileNames[:], name)
	return Profile(max(i, 0)), i >= 0
}

// Enterprise numbers.
const (
	vendorCisco      = 9
	vendorCanopy     = 161
	vendorHuawei     = 2011
	vendorERX        = 4874
	vendorWISPr      = 14122
	vendorChilliSpot = 14559
	vendorMikroTik   = 14988
	vendorCambium    = 17713
)

// Rendered is a policy as octets, one set per profile, ready to be copied into a reply. It is immutable and shared by
// every login that has the policy.
type Rendered struct {
	attrs [Profiles][]byte
	pool  []byte // Framed-Pool: only beside no static address
	pools [Profiles][]byte
	// SessionTimeout and InterimInterval depend on the moment and the login, so the server writes them.
	SessionTimeout, InterimInterval uint32
}

// Attrs returns the attributes of the policy for a profile, without timeouts. Do not change them.
func (r *Rendered) Attrs(p Profile) []byte { return r.attrs[min(p, Profiles-1)] }

// Pool returns the attributes that choose an IPv4 pool, for a login without a static address.
func (r *Rendered) Pool() []byte { return r.pool }

// Pools6 returns the attributes that choose IPv6 pools, for a login without a static prefix.
func (r *Rendered) Pools6(p Profile) []byte { return r.pools[min(p, Profiles-1)] }

// Render checks a policy and renders it for every profile. The error is an *edge.Error naming the fields.
func Render(p *Policy) (*Rendered, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	r := &Rendered{SessionTimeout: p.SessionTimeout, InterimInterval: p.InterimInterval}
	if p.Pool != "" {
		r.pool = packet.AppendString(nil, packet.FramedPool, p.Pool)
	}
	for v := range Profiles {
		r.attrs[v] = slices.Clip(vendors[v](p, standard(p)))
		for _, x := range p.Extra {
			r.attrs[v] = appendRaw(r.attrs[v], x)
		}
		r.pools[v] = pools6(p, v)
	}
	return r, nil
}

// RenderStatic checks addresses and renders them; the attributes are the same for every profile.
func RenderStatic(s *Static) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	var b []byte
	if s.IPv4.IsValid() {
		b = packet.Append(b, packet.FramedIPAddress, s.IPv4.AsSlice())
	}
	if s.IPv6.IsValid() {
		b = appendPrefix(b, packet.FramedIPv6Prefix, s.IPv6.Addr().As16(), s.IPv6.Bits())
	}
	if s.Delegated.IsValid() {
		b = appendPrefix(b, packet.DelegatedIPv6Prefix, s.Delegated.Addr().As16(), s.Delegated.Bits())
	}
	for _, route := range s.Routes {
		b = packet.AppendString(b, packet.FramedRoute, route)
	}
	return b, nil
}

func appendPrefix(dst []byte, typ byte, a [16]byte, bits int) []byte {
	n := (bits + 7) / 8
	dst = append(dst, typ, byte(4+n), 0, byte(bits))
	return append(dst, a[:n]...)
}

func appendRaw(dst []byte, x Raw) []byte {
	if x.Vendor == 0 {
		return packet.Append(dst, x.Type, x.Value)
	}
	return packet.AppendVendor(dst, x.Vendor, x.Type, x.Value)
}

// standard renders what every profile gets: service, filter, idle timeout and the VLAN of RFC 3580.
func standard(p *Policy) (b []byte) {
	if p.Filter != "" {
		b = packet.AppendString(b, packet.FilterID, p.Filter)
	}
	if p.IdleTimeout > 0 {
		b = packet.AppendUint32(b, packet.IdleTimeout, p.IdleTimeout)
	}
	if p.VLAN > 0 {
		b = packet.AppendUint32(b, packet.TunnelType, 13)
		b = packet.AppendUint32(b, packet.TunnelMediumType, 6)
		b = packet.AppendString(b, packet.TunnelPrivateGroupID, strconv.Itoa(int(p.VLAN)))
	}
	if p.ReplyMessage != "" {
		b = packet.AppendString(b, packet.ReplyMessage, p.ReplyMessage)
	}
	return b
}

func pools6(p *Policy, v Profile) (b []byte) {
	if p.V6Pool != "" {
		b = packet.AppendString(b, packet.FramedIPv6Pool, p.V6Pool)
	}
	if p.PDPool != "" {
		if v == MikroTik {
			return packet.AppendVendor(b, vendorMikroTik, 22, []byte(p.PDPool))
		}
		return packet.AppendString(b, 171, p.PDPool) // Delegated-IPv6-Prefix-Pool, RFC 6911
	}
	return b
}

// vendors is the closed set: how each profile says what the standard attributes cannot.
var vendors = [Profiles]func(*Policy, []byte) []byte{
	Generic: wispr, MikroTik: mikrotik, CambiumEPMP: cambiumEPMP, CambiumPMP450: cambiumPMP450, Cisco: cisco, Juniper: juniper,
	Huawei: huawei, ChilliSpot: chillispot, AccelPPP: accelPPP,
}

// wispr takes bit/s in 32 bits: rates above 4.29 Gbit/s are sent as the largest number.
func wispr(p *Policy, b []byte) []byte {
	if p.DownKbps == 0 {
		return b
	}
	b = packet.AppendVendorUint32(b, vendorWISPr, 7, clamp(uint64(p.UpKbps)*1000))
	return packet.AppendVendorUint32(b, vendorWISPr, 8, clamp(uint64(p.DownKbps)*1000))
}

func clamp(v uint64) uint32 { return uint32(min(v, 1<<32-1)) }

func mikrotik(p *Policy, b []byte) []byte {
	if p.DownKbps > 0 {
		b = packet.AppendVendor(b, vendorMikroTik, 8, []byte(rateLimit(p)))
	}
	if p.QuotaOctets > 0 {
		b = packet.AppendVendorUint32(b, vendorMikroTik, 17, uint32(p.QuotaOctets))
		if high := uint32(p.QuotaOctets >> 32); high > 0 {
			b = packet.AppendVendorUint32(b, vendorMikroTik, 18, high)
		}
	}
	if p.AddressList != "" {
		b = packet.AppendVendor(b, vendorMikroTik, 19, []byte(p.AddressList))
	}
	if p.Group != "" {
		b = packet.AppendVendor(b, vendorMikroTik, 3, []byte(p.Group))
	}
	if p.VLAN > 0 {
		b = packet.AppendVendorUint32(b, vendorMikroTik, 26, uint32(p.VLAN))
		b = packet.AppendVendorUint32(b, vendorMikroTik, 27, 0)
	}
	return b
}

// rateLimit writes Mikrotik-Rate-Limit: rx/tx as the router sees it, so the subscriber's upload stands first. Fields
// are positional: what follows the last one said is left out, what stands before it is filled with neutral values.
func rateLimit(p *Policy) string {
	out := pair(p.UpKbps, p.DownKbps)
	burst := p.BurstUpKbps > 0 || p.BurstDownKbps > 0
	floor := p.MinUpKbps > 0 || p.MinDownKbps > 0
	if !burst && p.Priority == 0 && !floor {
		return out
	}
	if burst {
		seconds := p.BurstSeconds
		if seconds == 0 {
			seconds = 10
		}
		out += " " + pair(or(p.BurstUpKbps, p.UpKbps), or(p.BurstDownKbps, p.DownKbps)) +
			" " + pair(or(p.BurstThresholdUpKbps, p.UpKbps), or(p.BurstThresholdDownKbps, p.DownKbps)) +
			fmt.Sprintf(" %d/%d", seconds, seconds)
	} else {
		out += " 0/0 0/0 0/0"
	}
	if p.Priority > 0 || floor {
		out += " " + strconv.Itoa(int(or(uint32(p.Priority), 8)))
	}
	if floor {
		out += " " + pair(p.MinUpKbps, p.MinDownKbps)
	}
	return out
}

func or(v, other uint32) uint32 {
	if v == 0 {
		return other
	}
	return v
}

func pair(up, down uint32) string { return rate(up) + "/" + rate(down) }

// rate writes kbit/s in RouterOS notation, where k and M are powers of 1000.
func rate(kbps uint32) string {
	switch {
	case kbps == 0:
		return "0"
	case kbps%1000 == 0:
		return strconv.Itoa(int(kbps/1000)) + "M"
	}
	return strconv.Itoa(int(kbps)) + "k"
}

// cambiumEPMP: VLAN and burst by the vendor's attributes, rates by WISPr, which cnPilot reads too.
func cambiumEPMP(p *Policy, b []byte) []byte {
	b = wispr(p, b)
	if p.VLAN > 0 {
		b = packet.AppendVendorUint32(b, vendorCambium, 21, uint32(p.VLAN))
	}
	if p.BurstUpKbps > 0 {
		b = packet.AppendVendorUint32(b, vendorCambium, 26, p.BurstUpKbps)
	}
	if p.BurstDownKbps > 0 {
		b = packet.AppendVendorUint32(b, vendorCambium, 27, p.BurstDownKbps)
	}
	return b
}

// cambiumPMP450 takes rates in kbit/s and burst allocations in kbit: what may be sent above the rate in one burst.
func cambiumPMP450(p *Policy, b []byte) []byte {
	if p.DownKbps > 0 {
		b = packet.AppendVendorUint32(b, vendorCanopy, 6, p.UpKbps)
		b = packet.AppendVendorUint32(b, vendorCanopy, 7, burstKbit(p.UpKbps, p.BurstUpKbps, p.BurstSeconds))
		b = packet.AppendVendorUint32(b, vendorCanopy, 8, p.DownKbps)
		b = packet.AppendVendorUint32(b, vendorCanopy, 9, burstKbit(p.DownKbps, p.BurstDownKbps, p.BurstSeconds))
	}
	if p.VLAN > 0 {
		b = packet.AppendVendorUint32(b, vendorCanopy, 21, uint32(p.VLAN))
	}
	return b
}

// burstKbit is the bucket that lets a burst last its time: (burst - rate) × seconds, at least one second of the rate.
func burstKbit(kbps, burst, seconds uint32) uint32 {
	if burst <= kbps {
		return kbps
	}
	return max(kbps, clamp(uint64(burst-kbps)*uint64(or(seconds, 10))))
}

func cisco(p *Policy, b []byte) []byte {
	av := func(s string) { b = packet.AppendVendor(b, vendorCisco, 1, []byte(s)) }
	if p.DownKbps > 0 {
		av(fmt.Sprintf("lcp:interface-config#1=rate-limit input %d %d %d conform-action transmit exceed-action drop", bits(p.UpKbps), bucket(p.UpKbps), 2*bucket(p.UpKbps)))
		av(fmt.Sprintf("lcp:interface-config#2=rate-limit output %d %d %d conform-action transmit exceed-action drop", bits(p.DownKbps), bucket(p.DownKbps), 2*bucket(p.DownKbps)))
	}
	if p.AddressList != "" {
		av("ip:inacl=" + p.AddressList)
	}
	return b
}

func bits(kbps uint32) uint64 { return uint64(kbps) * 1000 }

// bucket is Cisco's usual 1.5 seconds of the rate, in octets.
func bucket(kbps uint32) uint64 { return bits(kbps) * 3 / 16 }

func juniper(p *Policy, b []byte) []byte {
	if p.DownKbps > 0 {
		service := fmt.Sprintf("internet(%d,%d)", bits(p.UpKbps), bits(p.DownKbps))
		b = packet.AppendVendor(b, vendorERX, 65, append([]byte{1}, service...)) // tag 1
	}
	if p.Group != "" {
		b = packet.AppendVendor(b, vendorERX, 26, []byte(p.Group))
	}
	return b
}

func huawei(p *Policy, b []byte) []byte {
	if p.DownKbps > 0 {
		b = packet.AppendVendorUint32(b, vendorHuawei, 2, clamp(bits(p.UpKbps)))
		b = packet.AppendVendorUint32(b, vendorHuawei, 3, clamp(bits(max(p.BurstUpKbps, p.UpKbps))))
		b = packet.AppendVendorUint32(b, vendorHuawei, 5, clamp(bits(p.DownKbps)))
		b = packet.AppendVendorUint32(b, vendorHuawei, 6, clamp(bits(max(p.BurstDownKbps, p.DownKbps))))
	}
	if p.Group != "" {
		b = packet.AppendVendor(b, vendorHuawei, 95, []byte(p.Group))
	}
	return b
}

// chillispot: bandwidth in kbit/s (4 up, 5 down) and the total octets with their gigawords (3, 23).
func chillispot(p *Policy, b []byte) []byte {
	if p.DownKbps > 0 {
		b = packet.AppendVendorUint32(b, vendorChilliSpot, 4, p.UpKbps)
		b = packet.AppendVendorUint32(b, vendorChilliSpot, 5, p.DownKbps)
	}
	if p.QuotaOctets > 0 {
		b = packet.AppendVendorUint32(b, vendorChilliSpot, 3, uint32(p.QuotaOctets))
		if high := uint32(p.QuotaOctets >> 32); high > 0 {
			b = packet.AppendVendorUint32(b, vendorChilliSpot, 23, high)
		}
	}
	return b
}

// accelPPP reads its shaper from Filter-Id as down/up in kbit/s; a filter of the policy's own goes first and wins.
func accelPPP(p *Policy, b []byte) []byte {
	if p.DownKbps > 0 && p.Filter == "" {
		b = packet.AppendString(b, packet.FilterID, fmt.Sprintf("%d/%d", p.DownKbps, p.UpKbps))
	}
	return b
}

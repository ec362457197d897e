package plan

import (
	"net/netip"
	"strings"
	"unsafe"

	"wispgate/edge"
)

// formats judges each of edge.Formats on decoded text. A name that is missing here refuses to start.
var formats = map[string]func([]byte) bool{
	"email":     isEmail,
	"date":      isDate,
	"date-time": isDateTime,
	"id":        func(s []byte) bool { return edge.ID(view(s)).Valid() },
	"ip":        isIP,
	"cidr":      isCIDR,
	"mac":       isMAC,
	"e164":      isE164,
	"uri":       isURI,
	"hex":       isHex,
	"currency":  isCurrency,
	"timezone":  isTimezone,
	"slug":      isSlug,
}

// formatHelp shows each form to people.
var formatHelp = map[string]string{
	"email":     "name@example.net",
	"date":      "YYYY-MM-DD",
	"date-time": "RFC 3339, such as 2026-01-31T12:00:00Z",
	"id":        "prefix_UUID in lower case",
	"ip":        "an IPv4 or IPv6 address without zone",
	"cidr":      "address/bits",
	"mac":       "six octets, such as 02:00:5e:10:00:01",
	"e164":      "+ and 2 to 15 digits",
	"uri":       "an absolute URI (RFC 3986)",
	"hex":       "an even number of hexadecimal digits",
	"currency":  "an ISO 4217 code",
	"timezone":  "an IANA name, such as Europe/Berlin",
	"slug":      "lower-case words joined by hyphens",
}

// view is s as a string without a copy: valid for the duration of the check only, and never kept.
func view(s []byte) string { return unsafe.String(unsafe.SliceData(s), len(s)) }

func isDigit(b byte) bool { return b >= '0' && b <= '9' }
func isLower(b byte) bool { return b >= 'a' && b <= 'z' }
func isAlpha(b byte) bool { return isLower(b | 0x20) }
func isAlnum(b byte) bool { return isDigit(b) || isAlpha(b) }

// isEmail accepts an address as people write it (RFC 5321 dot-string at a host name), with non-ASCII letters (RFC 6531); no quoted
// local parts, no address literals.
func isEmail(s []byte) bool {
	local, host, ok := strings.Cut(view(s), "@")
	if !ok || len(local) == 0 || len(local) > 64 || len(host) == 0 || len(host) > 253 {
		return false
	}
	dot := true
	for i := range len(local) {
		b := local[i]
		switch {
		case b == '.':
			if dot {
				return false
			}
			dot = true
			continue
		case isAlnum(b), b >= 0x80, strings.IndexByte("!#$%&'*+-/=?^_`{|}~", b) >= 0:
		default:
			return false
		}
		dot = false
	}
	return !dot && isHost(host)
}

// isHost accepts host names of labels of letters, digits and inner hyphens.
func isHost(s string) bool {
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			if b := s[i]; !isAlnum(b) && b != '-' && b < 0x80 {
				return false
			}
			continue
		}
		if n := i - start; n == 0 || n > 63 || s[start] == '-' || s[i-1] == '-' {
			return false
		}
		start = i + 1
	}
	return true
}

// two reads two digits, -1 when they are none.
func two(s []byte) int {
	if !isDigit(s[0]) || !isDigit(s[1]) {
		return -1
	}
	return int(s[0]-'0')*10 + int(s[1]-'0')
}

func isDate(s []byte) bool {
	if len(s) != 10 || s[4] != '-' || s[7] != '-' {
		return false
	}
	century, year, month, day := two(s), two(s[2:]), two(s[5:]), two(s[8:])
	if century < 0 || year < 0 || month < 1 || month > 12 || day < 1 {
		return false
	}
	days := [...]int{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month-1]
	if y := century*100 + year; month == 2 && y%4 == 0 && (y%100 != 0 || y%400 == 0) {
		days = 29
	}
	return day <= days
}

// isDateTime accepts what time.Time reads: RFC 3339 with capital T and Z, no leap second. It refuses a moment that lies in the year 10000 or before the
// year 0 in UTC, in which records keep it: time.Time reads that, and cannot be written then.
func isDateTime(s []byte) bool {
	if len(s) < 20 || len(s) > 35 || !isDate(s[:10]) || s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return false
	}
	hour, minute, sec := two(s[11:]), two(s[14:]), two(s[17:])
	if hour < 0 || hour > 23 || minute < 0 || minute > 59 || sec < 0 || sec > 59 {
		return false
	}
	date, s := view(s[:10]), s[19:]
	if s[0] == '.' {
		n := 1
		for n < len(s) && isDigit(s[n]) {
			n++
		}
		if n == 1 {
			return false
		}
		s = s[n:]
	}
	if len(s) == 1 {
		return s[0] == 'Z'
	}
	if len(s) != 6 || s[0] != '+' && s[0] != '-' || s[3] != ':' {
		return false
	}
	h, m := two(s[1:]), two(s[4:])
	if h < 0 || h > 23 || m < 0 || m > 59 {
		return false
	}
	local, offset := 60*hour+minute, 60*h+m
	if s[0] == '-' {
		return date != "9999-12-31" || local+offset < 24*60
	}
	return date != "0000-01-01" || local >= offset
}

func isIP(s []byte) bool {
	a, err := netip.ParseAddr(view(s))
	return err == nil && a.Zone() == ""
}

func isCIDR(s []byte) bool {
	_, err := netip.ParsePrefix(view(s))
	return err == nil
}

// isMAC accepts six octets: 02:00:5e:10:00:01, 02-00-5E-10-00-01, 0200.5e10.0001 or 02005e100001.
func isMAC(s []byte) bool {
	switch len(s) {
	case 12:
		return hexRun(s)
	case 14:
		return s[4] == '.' && s[9] == '.' && hexRun(s[:4]) && hexRun(s[5:9]) && hexRun(s[10:])
	case 17:
		for i, b := range s {
			if i%3 == 2 {
				if b != s[2] || b != ':' && b != '-' {
					return false
				}
			} else if unhex(b) < 0 {
				return false
			}
		}
		return true
	}
	return false
}

func hexRun(s []byte) bool {
	for _, b := range s {
		if unhex(b) < 0 {
			return false
		}
	}
	return true
}

func isHex(s []byte) bool { return len(s)%2 == 0 && hexRun(s) }

func isE164(s []byte) bool {
	if len(s) < 3 || len(s) > 16 || s[0] != '+' || s[1] == '0' {
		return false
	}
	for _, b := range s[1:] {
		if !isDigit(b) {
			return false
		}
	}
	return true
}

// isURI accepts an absolute URI: a scheme, something after it, only characters and escapes that RFC 3986 allows.
func isURI(s []byte) bool {
	i := 0
	for i < len(s) && (isAlpha(s[i]) || i > 0 && (isDigit(s[i]) || s[i] == '+' || s[i] == '-' || s[i] == '.')) {
		i++
	}
	if i == 0 || i+1 >= len(s) || s[i] != ':' {
		return false
	}
	for i++; i < len(s); i++ {
		b := s[i]
		switch {
		case isAlnum(b), strings.IndexByte("-._~:/?#[]@!$&'()*+,;=", b) >= 0:
		case b == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			i += 2
		default:
			return false
		}
	}
	return true
}

// isTimezone checks the form of an IANA name; whether it exists is the domain's to say, which has the data.
func isTimezone(s []byte) bool {
	if len(s) == 0 || !isAlpha(s[0]) {
		return false
	}
	for i, b := range s {
		switch {
		case isAlnum(b), b == '_', b == '-', b == '+':
		case b == '/' && i+1 < len(s) && isAlpha(s[i+1]):
		default:
			return false
		}
	}
	return true
}

func isSlug(s []byte) bool {
	hyphen := true
	for _, b := range s {
		if b == '-' && hyphen || b != '-' && !isLower(b) && !isDigit(b) {
			return false
		}
		hyphen = b == '-'
	}
	return !hyphen
}

// isCurrency finds the code among words of three letters and a blank.
func isCurrency(s []byte) bool {
	if len(s) != 3 {
		return false
	}
	for i := 0; i < len(currencies); i += 4 {
		if currencies[i:i+3] == view(s) {
			return true
		}
	}
	return false
}

// currencies are the codes of ISO 4217 that money can be kept in: no metals, bonds, test or "no currency" codes.
const currencies = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF " +
	"CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD " +
	"HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD " +
	"MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR " +
	"SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS " +
	"VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG "

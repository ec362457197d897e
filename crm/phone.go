package crm

import "strings"

// Phone is a number under which a customer is reached.
type Phone struct {
	Number string `json:"number" check:"max=16" doc:"E.164: plus, country code, subscriber number." example:"+263771234567"`
	Label  string `json:"label,omitempty" check:"max=32" doc:"What it is for." example:"mobile"`
}

// PhoneInput is a number as people write it.
type PhoneInput struct {
	Number string `json:"number" check:"min=3 max=32" doc:"International (+263 77 123 4567, 00263…) or, with calling_code given, national (077 123 4567)." example:"+263 77 123 4567"`
	Label  string `json:"label,omitempty" check:"max=32" doc:"What it is for." example:"mobile"`
}

// e164 brings a number as people write it into E.164 (ITU-T E.164: at most 15 digits, country code first). National numbers need the
// country's calling code; their trunk zero is stripped. ok is false for what cannot be a number.
func e164(raw, callingCode string) (number string, ok bool) {
	raw = strings.ReplaceAll(strings.TrimSpace(raw), "(0)", "")
	international := strings.HasPrefix(raw, "+")
	var digits strings.Builder
	for i, r := range raw {
		switch {
		case r >= '0' && r <= '9':
			digits.WriteRune(r)
		case r == '+' && i == 0, strings.ContainsRune(" -./()\u00a0", r):
		default:
			return "", false
		}
	}
	d := digits.String()
	if rest, is := strings.CutPrefix(d, "00"); is && !international {
		d, international = rest, true
	}
	if !international {
		if callingCode == "" {
			return "", false
		}
		d = callingCode + strings.TrimPrefix(d, "0")
	}
	if len(d) < 7 || len(d) > 15 || d[0] == '0' {
		return "", false
	}
	return "+" + d, true
}

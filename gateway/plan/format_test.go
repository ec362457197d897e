package plan

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"wispgate/edge"
)

func TestFormats(t *testing.T) {
	t.Parallel()
	for _, name := range edge.Formats {
		if formats[name] == nil || formatHelp[name] == "" {
			t.Errorf("format %s has no check or no help", name)
		}
	}
	for _, tt := range []struct {
		format  string
		good    []string
		refused []string
	}{
		{"email", []string{"a@b", "ada.l+x@example.net", "jörg@bücher.example", strings.Repeat("a", 64) + "@b.c"},
			[]string{"", "a", "@b", "a@", "a@@b", "a b@c", ".a@b", "a.@b", "a..b@c", "a@-b", "a@b-", "a@b..c", strings.Repeat("a", 65) + "@b", "a@b\n", `"a"@b`, "a@[1.2.3.4]", "a@b,c@d"}},
		{"date", []string{"2026-01-31", "2024-02-29", "2000-02-29"}, []string{"2026-02-29", "1900-02-29", "2026-13-01", "2026-00-01", "2026-01-00", "2026-1-1", "2026-01-32", "20260101", "2026-01-01T"}},
		{"date-time", []string{"2026-01-31T00:00:00Z", "2026-01-31T23:59:59.999999999+14:00"},
			[]string{"2026-01-31", "2026-01-31t00:00:00Z", "2026-01-31T00:00:00z", "2026-01-31T24:00:00Z", "2026-01-31T00:00:60Z", "2026-01-31T00:00:00", "2026-01-31T00:00:00.Z", "2026-01-31T00:00:00+2:00", "2026-01-31T00:00:00+24:00", "2026-01-31 00:00:00Z"}},
		{"id", []string{"cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"}, []string{"", "cus_", "cus_0199F1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", "0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", "cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33x"}},
		{"ip", []string{"10.0.0.1", "::1", "2001:db8::1", "::ffff:10.0.0.1"}, []string{"", "10.0.0", "10.0.0.256", "010.0.0.1", "fe80::1%eth0", "10.0.0.1/24", "[::1]"}},
		{"cidr", []string{"10.0.0.0/8", "10.1.2.3/8", "2001:db8::/32"}, []string{"10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "/8"}},
		{"mac", []string{"02:00:5e:10:00:01", "02-00-5E-10-00-01", "0200.5e10.0001", "02005e100001"}, []string{"", "02:00:5e:10:00", "02:00-5e:10:00:01", "02:00:5e:10:00:0g", "0200:5e10:0001"}},
		{"e164", []string{"+263771234567", "+12"}, []string{"263771234567", "+0123", "+1", "+1234567890123456", "+12 34", "+"}},
		{"uri", []string{"https://example.net/a?b=c#d", "mailto:a@b", "urn:x:y", "https://[::1]:8/%20"}, []string{"", "example.net", "//example.net", "https:", "https://a b", "https://%zz", "1http://a", "https://é", "https://a\\b"}},
		{"hex", []string{"", "00ff", "AB"}, []string{"0", "0g", "0x00"}},
		{"currency", []string{"USD", "EUR", "ZWG", "AED"}, []string{"", "usd", "US", "USDX", "XXX", "ZZZ", "D A"}},
		{"timezone", []string{"UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+2"}, []string{"", "/UTC", "Europe/", "../etc/passwd", "Europe//Berlin", "Europe/../x", "a b"}},
		{"slug", []string{"a", "hill-farm-7"}, []string{"", "-a", "a-", "a--b", "A", "a_b"}},
	} {
		for _, s := range tt.good {
			if !formats[tt.format]([]byte(s)) {
				t.Errorf("%s %q: got refused, want accepted", tt.format, s)
			}
		}
		for _, s := range tt.refused {
			if formats[tt.format]([]byte(s)) {
				t.Errorf("%s %q: got accepted, want refused", tt.format, s)
			}
		}
	}
}

// FuzzDateTime holds the hand-written reading against the one that decodes it later: what is accepted must decode.
func FuzzDateTime(f *testing.F) {
	for _, s := range []string{"2026-01-31T00:00:00Z", "2024-02-29T12:34:56.789+05:30", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-00:00",
		"9999-12-31T23:59:59-05:00", "0000-01-01T00:00:00+00:01"} { // in UTC, a year that cannot be written
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var at time.Time
		err := at.UnmarshalJSON([]byte(`"` + s + `"`))
		if isDateTime([]byte(s)) && err != nil {
			t.Errorf("%q: got accepted, but it does not decode: %v", s, err)
		}
		if _, err := at.UTC().MarshalJSON(); isDateTime([]byte(s)) && err != nil {
			t.Errorf("%q: got accepted, but a record cannot keep it: %v", s, err)
		}
	})
}

var patternForms = []string{
	`^[a-z][a-z0-9_.-]{2,31}$`, `^[0-9]{5}(-[0-9]{4})?$`, `^[A-Z]{2}[0-9]{4}$`, `^a*ab$`, `^[a-c]{0,3}x?[d-f]+$`, `^x+y*z$`, `^[a-z]+[0-9]*[a-z]$`,
	`^é+[^a-z]*$`, `(?i)^abc$`, `^(ab)+$`, `abc`, `^abc`, `^a{2,4}?b$`, `^\d{3}$`, `^[^/]+$`, `^$`, `^a$|b`,
}

func TestSimplePatternsRunAsSteps(t *testing.T) {
	t.Parallel()
	for i, want := range []bool{true, false, true, false, true, true, false, false, false, false, false, false, false, false, true, false, false} {
		if i == 7 || i == 13 {
			continue // overlapping classes and a class after folding: either way is right
		}
		if got := compilePattern(regexp.MustCompile(patternForms[i])).steps != nil; got != want {
			t.Errorf("%s: got steps %t, want %t", patternForms[i], got, want)
		}
	}
}

// FuzzPattern holds the step walk against RE2.
func FuzzPattern(f *testing.F) {
	for i := range patternForms {
		for _, s := range []string{"", "abc", "ada_l", "12345-6789", "AB1234", "aab", "xyz", "aaé", "ab\n", "x1y"} {
			f.Add(i, s)
		}
	}
	f.Fuzz(func(t *testing.T, i int, s string) {
		if !strings.Contains(strings.ToValidUTF8(s, ""), s) {
			return // match expects valid UTF-8
		}
		text := patternForms[(i%len(patternForms)+len(patternForms))%len(patternForms)]
		re := regexp.MustCompile(text)
		if got, want := compilePattern(re).match([]byte(s)), re.MatchString(s); got != want {
			t.Errorf("%s on %q: got %t, want %t", text, s, got, want)
		}
	})
}

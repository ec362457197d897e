package crm

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"wispgate/edge"
)

// folded gives each Latin letter with a mark its plain form, so that "Moyo-Pérez" is found by "perez".
var folded = func() map[rune]string {
	m := map[rune]string{'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'đ': "d", 'ð': "d", 'þ': "th", 'ł': "l", 'ı': "i", 'ħ': "h"}
	for plain, marked := range map[string]string{
		"a": "àáâãäåāăą", "c": "çćĉċč", "d": "ď", "e": "èéêëēĕėęě", "g": "ĝğġģ", "h": "ĥ", "i": "ìíîïĩīĭįi̇", "j": "ĵ", "k": "ķ",
		"l": "ĺļľŀ", "n": "ñńņňŉ", "o": "òóôõöōŏő", "r": "ŕŗř", "s": "śŝşšș", "t": "ţťŧț", "u": "ùúûüũūŭůűų", "w": "ŵ", "y": "ýÿŷ", "z": "źżž",
	} {
		for _, r := range marked {
			if unicode.IsLetter(r) && r >= utf8.RuneSelf {
				m[r] = plain
			}
		}
	}
	return m
}()

const (
	maxWords      = 16 // words of one customer that the index holds
	maxWordOctets = 48 // of one word; longer ones are found by their beginning
)

// words splits names into the words by which they are found: lower case, without marks, sorted, each once.
func words(names ...string) []string {
	var list []string
	for _, name := range names {
		for w := range strings.FieldsFuncSeq(strings.ToLower(name), func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
		}) {
			list = append(list, fold(w))
		}
	}
	list = slices.DeleteFunc(list, func(w string) bool { return w == "" })
	slices.Sort(list)
	list = slices.Compact(list)
	return list[:min(len(list), maxWords)]
}

func fold(word string) string {
	var b strings.Builder
	for _, r := range word {
		plain, ok := folded[r]
		switch {
		case unicode.IsMark(r):
			continue
		case !ok:
			plain = string(r)
		}
		if b.Len()+len(plain) > maxWordOctets {
			break
		}
		b.WriteString(plain)
	}
	return b.String()
}

// crockford is an alphabet without letters that are read as digits.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// numberOf derives the try-th candidate for a customer's number from its id: eight letters in two groups, the same on every node and
// at every evaluation, so a number written down at a cut-off tower is still right after the rebase.
func numberOf(id edge.ID, try int) string {
	bits := uint64(0)
	hash := string(edge.DeriveID("cus", "number "+string(id), try))
	for _, c := range hash[len(hash)-10:] {
		bits = bits<<4 | uint64(strings.IndexRune("0123456789abcdef", c))
	}
	var b [9]byte
	for i := range b {
		if i == 4 {
			b[i] = '-'
			continue
		}
		b[i] = crockford[bits&31]
		bits >>= 5
	}
	return string(b[:])
}

// numberMarks builds its table once: made for each number it was a tenth of what an import allocates.
var numberMarks = strings.NewReplacer(" ", "", "-", "")

// numberKey is the form in which customer numbers are compared: upper case, without spaces and hyphens.
func numberKey(number string) string {
	return numberMarks.Replace(strings.ToUpper(number))
}

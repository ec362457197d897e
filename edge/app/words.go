package app

import (
	"fmt"
	"strings"
)

// Agree is a number with the words that follow it, for one and for several.
func Agree[N int | int64 | uint64](n N, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n) + " " + several
}

// Count is a number of things.
func Count[N int | int64 | uint64](n N, thing string) string {
	several := thing + "s"
	if stem, ok := strings.CutSuffix(thing, "y"); ok {
		several = stem + "ies"
	}
	return Agree(n, thing, several)
}

// Waits says how many writes wait.
func Waits[N int | int64 | uint64](n N) string { return Agree(n, "write waits", "writes wait") }

package config

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Example writes a configuration file in which every key stands, explained, commented out and at its default. As it
// is, it says nothing.
func Example(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "# wispgate configuration. Every key has a default; uncomment what should differ.")
	fmt.Fprintln(b, "# Environment variables override the file: WISPGATE_RADIUS__WORKERS=2 for radius.workers.")
	exampleSection(b, reflect.TypeFor[Config](), "")
	return b.Flush()
}

func exampleSection(b *bufio.Writer, t reflect.Type, indent string) {
	for f := range t.Fields() {
		name := f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Struct {
			fmt.Fprintf(b, "\n%s# %s\n%s%s:\n", indent, f.Tag.Get("doc"), indent, name)
			exampleSection(b, f.Type, indent+"  ")
			continue
		}
		value := exampleValue(f)
		fmt.Fprintf(b, "%s# %s%s\n%s# %s: %s\n", indent, f.Tag.Get("doc"), exampleLimits(f), indent, name, value)
		if f.Type == secretType {
			fmt.Fprintf(b, "%s# %s_file: \"\"\n", indent, name)
		}
	}
}

func exampleValue(f reflect.StructField) string {
	def := f.Tag.Get("default")
	switch {
	case f.Type == listType && def == "":
		return "[]"
	case f.Type == listType:
		return `["` + strings.ReplaceAll(def, ",", `", "`) + `"]`
	case f.Type.Kind() == reflect.String:
		return `"` + def + `"`
	}
	return def
}

func exampleLimits(f reflect.StructField) string {
	switch {
	case f.Tag.Get("enum") != "":
		return " One of " + strings.ReplaceAll(f.Tag.Get("enum"), ",", ", ") + "."
	case f.Tag.Get("min") != "":
		return " From " + f.Tag.Get("min") + " to " + f.Tag.Get("max") + "."
	case f.Tag.Get("example") != "":
		return " For instance " + f.Tag.Get("example") + "."
	}
	return ""
}

package config

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Setting is one key as config show prints it. Secrets are redacted.
type Setting struct {
	Key     string   `json:"key"`
	Value   string   `json:"value"`
	Origin  string   `json:"origin"`
	Type    string   `json:"type"`
	Default string   `json:"default,omitempty"`
	Enum    []string `json:"enum,omitempty"`
	Min     string   `json:"min,omitempty"`
	Max     string   `json:"max,omitempty"`
	Doc     string   `json:"doc"`
}

// Settings lists every key with its value, origin and documentation, in the order of the file. origins may be nil.
func (c Config) Settings(origins Origins) []Setting {
	var out []Setting
	for _, k := range keys(reflect.ValueOf(&c).Elem(), "") {
		s := Setting{
			Key: k.path, Value: text(k.value), Origin: origins[k.path].String(), Type: typeName(k.value),
			Default: k.tag("default"), Min: k.tag("min"), Max: k.tag("max"), Doc: k.tag("doc"),
		}
		if e := k.tag("enum"); e != "" {
			s.Enum = strings.Split(e, ",")
		}
		out = append(out, s)
	}
	return out
}

// Show writes every key with its value and, unless origins is nil, where the value came from.
func (c Config) Show(w io.Writer, origins Origins) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range c.Settings(origins) {
		value := s.Value
		if value == "" {
			value = `""`
		}
		var err error
		if origins == nil {
			_, err = fmt.Fprintf(table, "%s\t%s\n", s.Key, value)
		} else {
			_, err = fmt.Fprintf(table, "%s\t%s\t%s\n", s.Key, value, s.Origin)
		}
		if err != nil {
			return err
		}
	}
	return table.Flush()
}

// Change is one key that differs between two configurations, secrets redacted.
type Change struct {
	Key string `json:"key"`
	Old string `json:"old"`
	New string `json:"new"`
}

// Diff lists the keys whose values differ, for config diff and the log line of a reload.
func Diff(old, new Config) []Change {
	var out []Change
	after := keys(reflect.ValueOf(&new).Elem(), "")
	for i, k := range keys(reflect.ValueOf(&old).Elem(), "") {
		if !reflect.DeepEqual(k.value.Interface(), after[i].value.Interface()) {
			out = append(out, Change{k.path, text(k.value), text(after[i].value)})
		}
	}
	return out
}

func typeName(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return "duration"
	case v.Type() == bytesType:
		return "size"
	case v.Type() == listType:
		return "list"
	case v.Type() == secretType:
		return "secret"
	case v.Kind() == reflect.Bool:
		return "boolean"
	case v.Kind() == reflect.Int:
		return "integer"
	}
	return "text"
}

// property is the part of JSON Schema (2020-12) that the configuration needs; the order of its fields is the order in
// the output.
type property struct {
	Schema      string               `json:"$schema,omitempty"`
	Title       string               `json:"title,omitempty"`
	Description string               `json:"description,omitempty"`
	Type        any                  `json:"type,omitempty"`
	Default     any                  `json:"default,omitempty"`
	Examples    []any                `json:"examples,omitempty"`
	Enum        []string             `json:"enum,omitempty"`
	Pattern     string               `json:"pattern,omitempty"`
	Minimum     *int64               `json:"minimum,omitempty"`
	Maximum     *int64               `json:"maximum,omitempty"`
	Items       *property            `json:"items,omitempty"`
	Properties  map[string]*property `json:"properties,omitempty"`
	Additional  *bool                `json:"additionalProperties,omitempty"`
}

// Schema is the JSON Schema of the file, for editors.
func Schema() []byte {
	root := section(reflect.TypeFor[Config](), "")
	root.Schema, root.Title = "https://json-schema.org/draft/2020-12/schema", "wispgate configuration"
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("config: schema: " + err.Error()) // plain structs of text and numbers
	}
	return append(out, '\n')
}

func section(t reflect.Type, doc string) *property {
	// A section whose lines are all comments is null.
	p := &property{Description: doc, Type: []string{"object", "null"}, Properties: map[string]*property{}, Additional: new(false)}
	if doc == "" {
		p.Type = "object"
	}
	for f := range t.Fields() {
		name := f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Struct {
			p.Properties[name] = section(f.Type, f.Tag.Get("doc"))
			continue
		}
		p.Properties[name] = leafProperty(f)
		if f.Type == secretType {
			p.Properties[name+"_file"] = &property{Type: "string", Description: "File that holds " + name + ": one line, not readable by everybody."}
		}
	}
	return p
}

func leafProperty(f reflect.StructField) *property {
	p := &property{Description: f.Tag.Get("doc")}
	def, hasDefault := f.Tag.Lookup("default")
	if hasDefault {
		p.Default = def
	}
	if e := f.Tag.Get("example"); e != "" {
		p.Examples = []any{e}
	}
	if e := f.Tag.Get("enum"); e != "" {
		p.Enum = strings.Split(e, ",")
	}
	limits := ""
	if low, high := f.Tag.Get("min"), f.Tag.Get("max"); low != "" || high != "" {
		limits = " From " + low + " to " + high + "."
	}
	switch t := f.Type; {
	case t == durationType:
		p.Type, p.Pattern = []string{"string", "integer"}, `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`
		p.Description += limits
	case t == bytesType:
		p.Type, p.Pattern = []string{"string", "integer"}, `^[0-9]+ ?([KMGT]i?B|B)?$`
		p.Description += limits
	case t == listType:
		p.Type, p.Items = "array", &property{Type: "string"}
		if p.Default = []string{}; def != "" {
			p.Default = strings.Split(def, ",")
		}
		if p.Examples != nil {
			p.Examples = []any{p.Examples}
		}
	case t.Kind() == reflect.Bool:
		p.Type, p.Default = "boolean", def == "true"
	case t.Kind() == reflect.Int:
		n, _ := strconv.Atoi(def)
		p.Type, p.Default = "integer", n
		p.Minimum, p.Maximum = number(f.Tag.Get("min")), number(f.Tag.Get("max"))
	default:
		p.Type = "string"
	}
	return p
}

func number(s string) *int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

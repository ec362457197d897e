package edge

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// This is the only file of the kernel that uses reflection: it reads the shape of inputs, outputs and events once, at start.

// SchemaType is the JSON type of a schema.
type SchemaType string

// The JSON types. Any is allowed in answers only.
const (
	Object  SchemaType = "object"
	Array   SchemaType = "array"
	Map     SchemaType = "map" // an object with free names
	String  SchemaType = "string"
	Integer SchemaType = "integer"
	Boolean SchemaType = "boolean"
	Any     SchemaType = "any"
)

// Schema describes a JSON value. Min and Max bound an integer's value, a string's length in characters, an array's items or a map's
// members; nil means unbounded.
type Schema struct {
	Type     SchemaType
	Name     string // of the Go type, for components; "" for unnamed ones
	Doc      string
	Example  string
	Format   string // email, date, date-time, uuid-id, ip, cidr, mac, e164, uri, hex, currency
	Prefix   string // of an id, "" for any
	Min, Max *int64
	Pattern  *regexp.Regexp
	Enum     []string
	Nullable bool // pointer: absent or null
	Secret   bool // write-only
	Fields   []SchemaField
	Key      *Schema // of a map
	Item     *Schema // of an array or map
}

// SchemaField is a member of an object.
type SchemaField struct {
	Name     string
	Required bool
	Schema   *Schema
}

// Field returns the member with the name, nil when there is none.
func (s *Schema) Field(name string) *SchemaField {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

// maxSafe bounds integers to what every JSON reader keeps exactly: 2^53-1.
const maxSafe = 1<<53 - 1

// internalWord in a check tag keeps a member out of the schema: Prepare fills it, and a client that sends it is refused.
const internalWord = "internal"

// SchemaOf reads the schema of a Go type. Members are required unless omitempty or a pointer. The check tag holds constraints apart
// by spaces: min= max= format= prefix= enum=a|b item.… key.… internal; the tags pattern, doc and example stand alone. A member that is
// internal is no part of the schema: Prepare fills it.
func SchemaOf[T any]() (*Schema, error) { return schemaOf(reflect.TypeFor[T](), nil) }

// SchemaFor reads the schema of v's type.
func SchemaFor(v any) (*Schema, error) { return schemaOf(reflect.TypeOf(v), nil) }

// structs keeps the schema of each struct type: a record is the input and output of many operations, which share its members.
var structs sync.Map // reflect.Type to *Schema

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

func schemaOf(t reflect.Type, above []reflect.Type) (*Schema, error) {
	if slices.Contains(above, t) {
		return nil, fmt.Errorf("type %s contains itself", t)
	}
	above = append(above[:len(above):len(above)], t)
	switch t {
	case reflect.TypeFor[time.Time]():
		return &Schema{Type: String, Format: "date-time", Max: new(int64(35))}, nil
	case reflect.TypeFor[ID]():
		return &Schema{Type: String, Format: "id", Max: new(int64(45))}, nil
	case reflect.TypeFor[Secret]():
		return &Schema{Type: String, Secret: true}, nil
	case reflect.TypeFor[netip.Addr]():
		return &Schema{Type: String, Format: "ip", Max: new(int64(45))}, nil
	case reflect.TypeFor[netip.Prefix]():
		return &Schema{Type: String, Format: "cidr", Max: new(int64(49))}, nil
	case reflect.TypeFor[json.RawMessage]():
		return &Schema{Type: Any}, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		s, err := schemaOf(t.Elem(), above)
		if err == nil {
			s.Nullable = true
		}
		return s, err
	case reflect.Bool:
		return &Schema{Type: Boolean}, nil
	case reflect.String:
		return &Schema{Type: String, Enum: enumOf(t)}, nil
	case reflect.Int, reflect.Int64:
		return &Schema{Type: Integer, Min: new(int64(-maxSafe)), Max: new(int64(maxSafe))}, nil
	case reflect.Int32:
		return &Schema{Type: Integer, Min: new(int64(-1 << 31)), Max: new(int64(1<<31 - 1))}, nil
	case reflect.Uint, reflect.Uint64:
		return &Schema{Type: Integer, Min: new(int64(0)), Max: new(int64(maxSafe))}, nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return &Schema{Type: Integer, Min: new(int64(0)), Max: new(int64(1)<<t.Bits() - 1)}, nil
	case reflect.Slice:
		item, err := schemaOf(t.Elem(), above)
		return &Schema{Type: Array, Item: item}, err
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return nil, fmt.Errorf("map %s: keys must be strings", t)
		}
		item, err := schemaOf(t.Elem(), above)
		return &Schema{Type: Map, Key: &Schema{Type: String}, Item: item}, err
	case reflect.Struct:
		if t.Implements(textMarshaler) {
			return &Schema{Type: String}, nil
		}
		if known, ok := structs.Load(t); ok {
			return new(*known.(*Schema)), nil // its members are shared: who constrains it changes the copy
		}
		s, err := structSchema(t, above)
		if err == nil {
			structs.Store(t, new(*s))
		}
		return s, err
	default:
		return nil, fmt.Errorf("type %s has no schema: no floats, interfaces, channels or functions", t)
	}
}

// enumOf returns the values of string types that list them.
func enumOf(t reflect.Type) []string {
	if e, ok := reflect.Zero(t).Interface().(interface{ Values() []string }); ok {
		return e.Values()
	}
	return nil
}

func structSchema(t reflect.Type, above []reflect.Type) (*Schema, error) {
	s := &Schema{Type: Object, Name: t.Name()}
	if i := strings.IndexByte(s.Name, '['); i >= 0 { // generic: Page[wispgate/crm.Customer] is CustomerPage
		arg := s.Name[i+1 : len(s.Name)-1]
		s.Name = arg[strings.LastIndexByte(arg, '.')+1:] + s.Name[:i]
	}
	for f := range t.Fields() {
		tag, hasTag := f.Tag.Lookup("json")
		name, opts, _ := strings.Cut(tag, ",")
		if name == "-" || !f.IsExported() || slices.Contains(strings.Fields(f.Tag.Get("check")), internalWord) {
			continue
		}
		fs, err := schemaOf(f.Type, above)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", t.Name(), f.Name, err)
		}
		if f.Anonymous && !hasTag {
			s.Fields = append(s.Fields, fs.Fields...)
			continue
		}
		if name == "" {
			return nil, fmt.Errorf("%s.%s: the JSON name is missing", t.Name(), f.Name)
		}
		if err := fs.constrain(f.Tag); err != nil {
			return nil, fmt.Errorf("%s.%s: %w", t.Name(), f.Name, err)
		}
		optional := fs.Nullable || slices.Contains(strings.Split(opts, ","), "omitempty") || slices.Contains(strings.Split(opts, ","), "omitzero")
		s.Fields = append(s.Fields, SchemaField{Name: name, Required: !optional, Schema: fs})
	}
	for i, f := range s.Fields {
		if slices.ContainsFunc(s.Fields[:i], func(o SchemaField) bool { return o.Name == f.Name }) {
			return nil, fmt.Errorf("%s: member %s is declared twice", t.Name(), f.Name)
		}
	}
	return s, nil
}

// Formats are the string formats that a schema may name; a gateway checks each.
var Formats = []string{"email", "date", "date-time", "id", "ip", "cidr", "mac", "e164", "uri", "hex", "currency", "timezone", "slug"}

func (s *Schema) constrain(tag reflect.StructTag) error {
	s.Doc, s.Example = tag.Get("doc"), tag.Get("example")
	if p := tag.Get("pattern"); p != "" {
		re, err := regexp.Compile(p)
		if err != nil {
			return fmt.Errorf("pattern: %w", err)
		}
		s.Pattern = re
	}
	for word := range strings.FieldsSeq(tag.Get("check")) {
		k, v, _ := strings.Cut(word, "=")
		on := s
		if rest, ok := strings.CutPrefix(k, "item."); ok && s.Item != nil {
			k, on = rest, s.Item
		} else if rest, ok := strings.CutPrefix(k, "key."); ok && s.Key != nil {
			k, on = rest, s.Key
		}
		if err := on.rule(k, v); err != nil {
			return fmt.Errorf("check %q: %w", word, err)
		}
	}
	return nil
}

func (s *Schema) rule(k, v string) error {
	switch k {
	case "min", "max":
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return err
		}
		if k == "min" {
			s.Min = &n
		} else {
			s.Max = &n
		}
	case "enum":
		s.Enum = strings.Split(v, "|")
	case "prefix":
		s.Prefix = v
	case "format":
		if !slices.Contains(Formats, v) {
			return fmt.Errorf("unknown format")
		}
		s.Format = v
	default:
		return fmt.Errorf("unknown constraint")
	}
	return nil
}

// Unbounded names what an input must bound and does not: every string, array and map has a maximum, and nothing is of any type.
func (s *Schema) Unbounded() []error { return s.unbounded("") }

func (s *Schema) unbounded(at string) (errs []error) {
	switch s.Type {
	case Object:
		for _, f := range s.Fields {
			errs = append(errs, f.Schema.unbounded(at+"/"+f.Name)...)
		}
	case Array, Map:
		if s.Max == nil {
			errs = append(errs, fmt.Errorf("%s: the maximum number of items is missing", at))
		}
		errs = append(errs, s.Item.unbounded(at+"/*")...)
		if s.Key != nil {
			errs = append(errs, s.Key.unbounded(at+"/*")...)
		}
	case String:
		if s.Max == nil && s.Enum == nil {
			errs = append(errs, fmt.Errorf("%s: the maximum length is missing", at))
		}
	case Any:
		errs = append(errs, fmt.Errorf("%s: an input must have a type", at))
	case Integer, Boolean:
	}
	return errs
}

func decoder[In any]() func(raw []byte) (any, error) { return decoderOf(reflect.TypeFor[In]()) }

// decoderOf returns a reader of inputs of type t; what it returns points to one.
func decoderOf(t reflect.Type) func(raw []byte) (any, error) {
	short := loneText(t)
	return func(raw []byte) (any, error) {
		in := reflect.New(t)
		if len(raw) > 0 && (short == nil || !short(raw, in.Elem())) {
			if err := json.Unmarshal(raw, in.Interface()); err != nil {
				return nil, unreadable(err)
			}
		}
		return in.Interface(), nil
	}
}

func unreadable(err error) error {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		return ErrInput.Error(Invalid, Field("/"+strings.ReplaceAll(te.Field, ".", "/"), "has the wrong type", "use a "+te.Type.String()))
	}
	return ErrInput.Error(Invalid, Field("", "cannot be read", "send the documented shape"))
}

// loneText returns a reader of inputs that hold one string and nothing else, as reads by id do: {"id":"…"}, just as the gateway writes it
// from a path. What the reader does not take is left to encoding/json, as is everything where loneText returns nil.
func loneText(t reflect.Type) func(raw []byte, in reflect.Value) bool {
	if t.Kind() != reflect.Struct || t.NumField() != 1 {
		return nil
	}
	f := t.Field(0)
	at := reflect.PointerTo(f.Type)
	name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
	if f.Type.Kind() != reflect.String || !f.IsExported() || f.Anonymous || name == "" || name == "-" || strings.Contains(opts, "string") ||
		at.Implements(reflect.TypeFor[json.Unmarshaler]()) || at.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) ||
		reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	head := `{"` + name + `":"`
	return func(raw []byte, in reflect.Value) bool {
		n := len(raw) - len(`"}`)
		if n < len(head) || string(raw[:len(head)]) != head || string(raw[n:]) != `"}` {
			return false
		}
		for _, b := range raw[len(head):n] {
			if b < ' ' || b > '~' || b == '"' || b == '\\' {
				return false
			}
		}
		in.Field(0).SetString(string(raw[len(head):n]))
		return true
	}
}

// Secrets returns the addresses of the plaintext secrets in an input (a pointer to a struct), in declaration order.
func Secrets(in any) []*Secret {
	var found []*Secret
	collectSecrets(reflect.ValueOf(in), &found)
	return found
}

func collectSecrets(v reflect.Value, found *[]*Secret) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			collectSecrets(v.Elem(), found)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				collectSecrets(v.Field(i), found)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			collectSecrets(v.Index(i), found)
		}
	case reflect.String:
		if s, ok := v.Addr().Interface().(*Secret); ok {
			*found = append(*found, s)
		}
	default:
	}
}

package config

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// Bytes is a size. In text it is a number with an optional unit: KB, MB, GB, TB count in thousands, KiB to TiB in 1024.
type Bytes int64

var byteUnits = []struct {
	name string
	size int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseBytes reads a size such as 64MiB.
func ParseBytes(s string) (Bytes, error) {
	unit := int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, errors.New("must be a size such as 512MiB or 2GB")
	}
	return Bytes(n * unit), nil
}

// String uses the largest unit that loses nothing.
func (b Bytes) String() string {
	for _, u := range []int{3, 2, 1, 0, 7, 6, 5, 4} {
		if u := byteUnits[u]; b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[Bytes]()
	secretType   = reflect.TypeFor[edge.Secret]()
	listType     = reflect.TypeFor[[]string]()
)

// setText gives a key a value from text: environment, default, or a YAML scalar.
func setText(v reflect.Value, s string) error {
	switch {
	case v.Type() == durationType:
		d, err := time.ParseDuration(s)
		if s == "0" {
			d, err = 0, nil
		}
		if err != nil {
			return errors.New("must be a duration such as 500ms, 5s or 1h30m")
		}
		v.SetInt(int64(d))
	case v.Type() == bytesType:
		b, err := ParseBytes(s)
		if err != nil {
			return err
		}
		v.SetInt(int64(b))
	case v.Type() == listType:
		list := []string{}
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		v.Set(reflect.ValueOf(list))
	case v.Kind() == reflect.Bool:
		if s != "true" && s != "false" {
			return errors.New("must be true or false")
		}
		v.SetBool(s == "true")
	case v.Kind() == reflect.Int:
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return errors.New("must be a whole number")
		}
		v.SetInt(n)
	case v.Kind() == reflect.String:
		if strings.ContainsAny(s, "\x00\n\r") {
			return errors.New("must be one line")
		}
		v.SetString(s)
	default:
		panic("config: no rule for type " + v.Type().String())
	}
	return nil
}

// text is the inverse of setText, with secrets redacted.
func text(v reflect.Value) string {
	if v.Type() == secretType {
		if v.String() == "" {
			return ""
		}
		return "***"
	}
	if v.Type() == listType {
		return strings.Join(v.Interface().([]string), ", ")
	}
	return fmt.Sprint(v.Interface())
}

// key is one leaf of the configuration.
type key struct {
	path  string // radius.auth_listen
	field reflect.StructField
	value reflect.Value
}

func (k key) tag(name string) string { return k.field.Tag.Get(name) }

// keys lists the leaves below v in the order of the file.
func keys(v reflect.Value, prefix string) []key {
	var out []key
	for i := range v.NumField() {
		f := v.Type().Field(i)
		path := prefix + f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Struct {
			out = append(out, keys(v.Field(i), path+".")...)
			continue
		}
		out = append(out, key{path, f, v.Field(i)})
	}
	return out
}

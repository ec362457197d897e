package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// member is one name and value of a JSON object, in the order the server sent them.
type member struct {
	name string
	val  any
}

// object keeps the order of a JSON object's members.
type object []member

func (o object) get(name string) (any, bool) {
	for _, m := range o {
		if m.name == name {
			return m.val, true
		}
	}
	return nil, false
}

// at returns a member by its path: a name, or names apart by dots, as a record's table shows them.
func (o object) at(path string) (any, bool) {
	if val, ok := o.get(path); ok || !strings.ContainsAny(path, ".[") {
		return val, ok
	}
	for _, m := range flatten(nil, "", o) {
		if m.name == path {
			return m.val, true
		}
	}
	name, rest, _ := strings.Cut(path, ".")
	below, ok := o.get(name)
	if row, is := below.(object); ok && is && rest != "" { // an object below an object
		return row.at(rest)
	}
	return nil, false
}

// parse reads JSON into object, []any, string, json.Number, bool or nil.
func parse(raw []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return parseValue(dec)
}

func parseValue(dec *json.Decoder) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		o := object{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			val, err := parseValue(dec)
			if err != nil {
				return nil, err
			}
			o = append(o, member{name.(string), val})
		}
		_, err := dec.Token()
		return o, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			val, err := parseValue(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, val)
		}
		_, err := dec.Token()
		return list, err
	}
	return tok, nil
}

// show prints a value of ours as if the API had sent it.
func (c *cli) show(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.print(raw)
}

// print writes an answer in the form that -o asks for.
func (c *cli) print(raw []byte) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	v, err := parse(raw)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch c.output {
	case "json":
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.std.out, b.String())
	case "jsonl":
		err = c.printLines(raw)
	case "yaml":
		var b strings.Builder
		yamlValue(&b, v, 0, false)
		_, err = io.WriteString(c.std.out, strings.TrimPrefix(b.String(), "\n"))
	case "name":
		err = c.printNames(v)
	case "table", "":
		err = c.printTable(v)
	default:
		err = usageError("-o takes table, json, yaml, jsonl or name")
	}
	return err
}

// printNames prints what each record goes by: its id or, where it is named otherwise, that.
func (c *cli) printNames(v any) error {
	for _, row := range rowsOf(v) {
		i := slices.IndexFunc(nameMembers, func(name string) bool { _, ok := row.get(name); return ok })
		if i < 0 {
			return usageError("what this shows has no names: take -o json")
		}
		name, _ := row.get(nameMembers[i])
		if _, err := fmt.Fprintln(c.std.out, cell(name)); err != nil {
			return err
		}
	}
	return nil
}

// nameMembers are what a record may go by, best first.
var nameMembers = []string{"id", "node", "name", "check"}

func (c *cli) printLines(raw []byte) error {
	var page struct {
		Data []json.RawMessage `json:"data"`
	}
	if json.Unmarshal(raw, &page) != nil || page.Data == nil {
		page.Data = []json.RawMessage{raw}
	}
	for _, item := range page.Data {
		var b bytes.Buffer
		if err := json.Compact(&b, item); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(c.std.out, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// rowsOf returns the records of a page, or the one record.
func rowsOf(v any) []object {
	o, ok := v.(object)
	if !ok {
		return nil
	}
	data, isPage := o.get("data")
	list, isList := data.([]any)
	if !isPage || !isList {
		return []object{o}
	}
	rows := []object{}
	for _, item := range list {
		if row, ok := item.(object); ok {
			rows = append(rows, row)
		}
	}
	return rows
}

func (c *cli) printTable(v any) error {
	o, ok := v.(object)
	if !ok {
		_, err := fmt.Fprintln(c.std.out, cell(v))
		return err
	}
	if text, ok := o.get("text"); ok && strings.Contains(fmt.Sprint(text), "\n") { // made to be pasted
		for line := range strings.SplitSeq(strings.TrimRight(fmt.Sprint(text), "\n"), "\n") {
			if _, err := fmt.Fprintln(c.std.out, cell(line)); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(c.std.out, 0, 8, 2, ' ', 0)
	if _, isPage := o.get("data"); isPage {
		if err := c.pageTable(w, o); err != nil {
			return err
		}
	} else if err := c.recordTable(w, o); err != nil {
		return err
	}
	return w.Flush()
}

// quiet are the members that a table leaves out unless asked for.
var quiet = []string{"tenant_id", "version", "created_at", "created_by", "updated_at", "updated_by", "metadata", "tags", "external_id", "archived_at"}

// maxColumns keeps a table within a terminal.
const maxColumns = 8

func (c *cli) pageTable(w io.Writer, page object) error {
	rows := rowsOf(page)
	if len(rows) == 0 {
		_, _ = fmt.Fprintln(c.std.err, "Nothing found.")
		return nil
	}
	cols := c.columns
	for _, col := range cols {
		in := func(row object) bool { _, ok := row.at(col); return ok }
		if !slices.ContainsFunc(rows, in) && (c.declared == nil || !c.declared(col)) {
			return usageError(fmt.Sprintf("no record has %q; -o json shows what they have", col))
		}
	}
	if len(cols) == 0 {
		cols = c.usual
	}
	if len(cols) == 0 {
		for _, row := range rows {
			for _, m := range row {
				if _, nested := m.val.(object); !nested && !slices.Contains(quiet, m.name) && !slices.Contains(cols, m.name) && len(cols) < maxColumns {
					cols = append(cols, m.name)
				}
			}
		}
	}
	if !c.noHead {
		_, _ = fmt.Fprintln(w, strings.ToUpper(strings.Join(cols, "\t")))
	}
	for _, row := range rows {
		cells := make([]string, len(cols))
		for i, col := range cols {
			cells[i] = "-"
			val, ok := row.at(col)
			if id, is := val.(string); ok && is && col == "by" && c.who != nil {
				val = c.who(id)
			}
			if ok {
				cells[i] = cell(val)
			}
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	if next, ok := page.get("next_cursor"); ok {
		_, _ = fmt.Fprintf(c.std.err, "More follows: --cursor %s, or --all\n", cell(next))
	}
	return nil
}

// recordTable prints a record as a line per value: all of them, or those that --columns names; without headers the values alone.
func (c *cli) recordTable(w io.Writer, o object) error {
	fields := flatten(nil, "", o)
	if len(c.columns) > 0 {
		all := fields
		fields = nil
		for _, name := range c.columns {
			i := slices.IndexFunc(all, func(m member) bool { return m.name == name })
			if i < 0 {
				return usageError(fmt.Sprintf("the answer has no %q; without --columns it shows what it has", name))
			}
			fields = append(fields, all[i])
		}
	}
	for _, m := range fields {
		if c.noHead {
			_, _ = fmt.Fprintln(w, cell(m.val))
			continue
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\n", m.name, cell(m.val))
	}
	return nil
}

// flatten appends the values below o, each under its path.
func flatten(fields []member, prefix string, o object) []member {
	for _, m := range o {
		switch val := m.val.(type) {
		case object:
			fields = flatten(fields, prefix+m.name+".", val)
			continue
		case []any:
			if len(val) > 0 && isObject(val[0]) {
				for i, item := range val {
					if row, ok := item.(object); ok {
						fields = flatten(fields, fmt.Sprintf("%s%s[%d].", prefix, m.name, i), row)
					}
				}
				continue
			}
		}
		fields = append(fields, member{prefix + m.name, m.val})
	}
	return fields
}

func isObject(v any) bool { _, ok := v.(object); return ok }

// cell is a value on one line. Control characters are escaped: a name from a record must not drive the terminal.
func cell(v any) string {
	switch val := v.(type) {
	case nil:
		return "-"
	case string:
		if val == "" {
			return "-"
		}
		if !needsEscape(val) {
			return val
		}
		q := strconv.Quote(val)
		return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
	case []any:
		parts := make([]string, len(val))
		for i, item := range val {
			parts[i] = cell(item)
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	case object:
		parts := make([]string, len(val))
		for i, m := range val {
			parts[i] = m.name + "=" + cell(m.val)
		}
		return strings.Join(parts, " ")
	default:
		return fmt.Sprint(val)
	}
}

func needsEscape(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) })
}

// yamlValue writes block YAML. Strings that could be read as something else are quoted as JSON, which is YAML too.
func yamlValue(b *strings.Builder, v any, depth int, inList bool) {
	pad := strings.Repeat("  ", depth)
	switch val := v.(type) {
	case object:
		if len(val) == 0 {
			b.WriteString(" {}\n")
			return
		}
		for i, m := range val {
			if i > 0 || !inList {
				if i == 0 {
					b.WriteString("\n")
				}
				b.WriteString(pad)
			}
			b.WriteString(yamlString(m.name) + ":")
			yamlValue(b, m.val, depth+1, false)
		}
	case []any:
		if len(val) == 0 {
			b.WriteString(" []\n")
			return
		}
		b.WriteString("\n")
		for _, item := range val {
			b.WriteString(strings.Repeat("  ", max(depth-1, 0)) + "- ")
			if isObject(item) {
				yamlValue(b, item, max(depth, 1), true)
			} else {
				var s strings.Builder
				yamlValue(&s, item, depth, false)
				b.WriteString(strings.TrimPrefix(s.String(), " "))
			}
		}
	case nil:
		b.WriteString(" null\n")
	case string:
		b.WriteString(" " + yamlString(val) + "\n")
	default:
		b.WriteString(" " + fmt.Sprint(val) + "\n")
	}
}

func yamlString(s string) string {
	plain := s != "" && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "~"}, strings.ToLower(s))
	for i, r := range s {
		ok := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && (r == '-' || r == '.' || r == '/' || r >= '0' && r <= '9')
		plain = plain && ok
	}
	if plain {
		return s
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(raw)
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// yaml applies the file. The syntax tree is walked here rather than decoded by the library, so that every key keeps
// its line, every fault is found at once, and anchors, tags and merges, which a configuration does not need, are
// refused instead of expanded.
func (l *loader) yaml(src []byte) {
	if line := tooDeep(src); line > 0 {
		l.find("file", "is nested too deeply", "a configuration has sections, keys and lists", Origin{Source: "file", Name: l.file, Line: line})
		return
	}
	file, err := parser.ParseBytes(src, 0)
	if err != nil {
		at := Origin{Source: "file", Name: l.file, Line: 1}
		reason := "is not readable YAML"
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) {
			at.Line = syntax.Token.Position.Line
			reason += ": " + syntax.Message
		}
		l.find("file", reason, "mind the indentation and put text with special characters in quotes", at)
		return
	}
	for i, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if i > 0 {
			l.find("file", "holds more than one document", "remove what follows ---", l.at(doc.Body))
			return
		}
		l.section(doc.Body, l.config, "")
	}
}

// tooDeep returns the line at which brackets or markers nest deeper than any configuration, or 0. The parser recurses,
// and takes minutes for a file of nothing but brackets. Quotes are not looked at: 64 open brackets are wrong anywhere.
func tooDeep(src []byte) int {
	const most = 64
	line, open, markers := 1, 0, 0
	for _, c := range src {
		switch c {
		case '\n':
			line, markers = line+1, 0
		case '[', '{':
			open++
		case ']', '}':
			open = max(0, open-1)
		case '-', '?', ':', '&', '!', '*':
			markers++
		}
		if open > most || markers > 4*most {
			return line
		}
	}
	return 0
}

func (l *loader) at(n ast.Node) Origin {
	return Origin{Source: "file", Name: l.file, Line: n.GetToken().Position.Line}
}

// section applies a mapping to a struct.
func (l *loader) section(n ast.Node, v reflect.Value, prefix string) {
	var entries []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.NullNode, *ast.CommentGroupNode:
		return // a section with nothing in it, as when every line is a comment
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		l.find(strings.TrimSuffix(prefix, "."), "must be written out; anchors and tags are not used here", "", l.at(n))
		return
	default:
		l.find(strings.TrimSuffix(prefix, "."), "must be a section of keys and values", "", l.at(n))
		return
	}
	seen := map[string]bool{}
	for _, e := range entries {
		name := e.Key.GetToken().Value
		path, at := prefix+name, l.at(e.Key)
		if seen[name] {
			l.find(path, "is given twice", "keep one of them", at)
			continue
		}
		seen[name] = true
		l.entry(e.Value, v, path, name, at)
	}
}

func (l *loader) entry(n ast.Node, v reflect.Value, path, name string, at Origin) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := f.Tag.Get("yaml")
		switch {
		case key == name && f.Type.Kind() == reflect.Struct:
			l.section(n, v.Field(i), path+".")
			return
		case key == name:
			l.leaf(n, v.Field(i), path, at)
			return
		case key+"_file" == name && f.Type == secretType:
			var s string
			if l.leaf(n, reflect.ValueOf(&s).Elem(), path, at); s != "" {
				path = strings.TrimSuffix(path, "_file")
				l.secretFiles[path], l.origins[path] = s, at
			}
			return
		}
	}
	l.find(path, "is not a configuration key"+l.suggest(path), "", at)
}

func (l *loader) leaf(n ast.Node, v reflect.Value, path string, at Origin) {
	var err error
	switch n := n.(type) {
	case *ast.NullNode, *ast.CommentGroupNode:
		return // a key without a value keeps its default
	case *ast.SequenceNode:
		err = setList(v, n.Values)
	default:
		var s string
		s, err = scalar(n, v.Kind() == reflect.String)
		switch {
		case err != nil:
		case v.Type() == listType:
			err = errors.New("must be a list")
		default:
			err = setText(v, s)
		}
	}
	if err != nil {
		l.find(path, err.Error(), "", at)
		return
	}
	if _, known := l.origins[path]; known {
		l.origins[path] = at
	}
}

func setList(v reflect.Value, nodes []ast.Node) error {
	if v.Type() != listType {
		return errors.New("must be a single value")
	}
	list := []string{}
	for i, n := range nodes {
		s, err := scalar(n, true)
		if err != nil || s == "" {
			return fmt.Errorf("must be a list of texts; item %d is not", i+1)
		}
		list = append(list, s)
	}
	v.Set(reflect.ValueOf(list))
	return nil
}

// scalar is a node's text. Text keys take numbers and words as they are written, so that site: 0012 stays 0012.
func scalar(n ast.Node, wantText bool) (string, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	case *ast.InfinityNode, *ast.NanNode:
		if wantText {
			return n.GetToken().Value, nil
		}
		return "", errors.New("must be a finite number")
	}
	return "", errors.New("must be a plain value; anchors, tags and nested structures are not used here")
}

// suggest proposes the key that was probably meant.
func (l *loader) suggest(path string) string {
	var names []string
	for _, k := range keys(l.config, "") {
		names = append(names, k.path)
		if k.value.Type() == secretType {
			names = append(names, k.path+"_file")
		}
		for section := k.path; strings.Contains(section, "."); {
			section = section[:strings.LastIndexByte(section, '.')]
			if !slices.Contains(names, section) {
				names = append(names, section)
			}
		}
	}
	section, last := path[:strings.LastIndexByte(path, '.')+1], path[strings.LastIndexByte(path, '.')+1:]
	best, least := "", max(2, len(path)/4)+1
	for _, n := range names {
		if len(last) > 3 && strings.HasPrefix(n, section) && strings.HasSuffix(n, "_"+last) {
			return "; did you mean " + n + "?" // listen for auth_listen
		}
		if d := distance(path, n); d < least {
			best, least = n, d
		}
	}
	for _, n := range names {
		if best == "" && n[strings.LastIndexByte(n, '.')+1:] == last {
			best = n // the right key in the wrong section
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is the number of single-letter edits between a and b. Both are short: keys of at most 128 bytes count.
func distance(a, b string) int {
	if len(a) > 128 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for i := range row {
		row[i] = i
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

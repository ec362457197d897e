package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"wispgate/edge"
)

// domainCmds makes the client verbs of every module: wispgate DOMAIN NOUN VERB, from nothing but the declarations.
func (c *cli) domainCmds(modules []edge.Module) []*cobra.Command {
	var cmds []*cobra.Command
	for _, m := range modules {
		domain := &cobra.Command{Use: m.Name, Short: m.Summary, GroupID: "api"}
		nouns := map[string]*cobra.Command{}
		seen := map[string]bool{}
		for _, r := range m.Routes {
			if seen[r.Op.Name] { // a second route is an alias
				continue
			}
			seen[r.Op.Name] = true
			noun := r.Op.Noun()
			if noun == "" { // such as identity.whoami
				domain.AddCommand(c.verb(r))
				continue
			}
			if nouns[noun] == nil {
				nouns[noun] = &cobra.Command{Use: kebab(noun), Short: "Work with " + strings.ReplaceAll(noun, "_", " ") + " records"}
				domain.AddCommand(nouns[noun])
			}
			nouns[noun].AddCommand(c.verb(r))
		}
		if domain.HasSubCommands() {
			cmds = append(cmds, domain)
		}
	}
	return cmds
}

func kebab(s string) string { return strings.ReplaceAll(s, "_", "-") }

// verb is the command of one route: path parameters are arguments, the other members of the input are flags.
func (c *cli) verb(r edge.Route) *cobra.Command {
	params := r.PathParams()
	var use strings.Builder
	use.WriteString(kebab(r.Op.Verb()))
	for _, p := range params {
		use.WriteString(" " + strings.ToUpper(p))
	}
	in := &inputs{values: map[string]func() (any, bool, error){}}
	opts := &verbOptions{}
	cmd := &cobra.Command{
		Use: use.String(), Short: strings.TrimSuffix(r.Op.Summary, "."), Args: takes(params...),
		Long: fmt.Sprintf("%s\n\nCalls %s %s; needs the scope %s.", r.Op.Summary, r.Method, r.Path, r.Op.Scope),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.runVerb(cmd.Context(), r, params, args, in, opts)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	for _, field := range r.Op.In.Fields {
		if !slices.Contains(params, field.Name) {
			in.add(f, kebab(field.Name), []string{field.Name}, field.Schema, field.Required, c.std.in)
		}
	}
	if r.Op.Command {
		f.StringVarP(&opts.data, "file", "f", "", "read the input as JSON from a file, - for standard input; flags override it")
		f.BoolVar(&opts.dryRun, "dry-run", false, "show what would happen and change nothing")
		f.StringVar(&opts.key, "idempotency-key", "", "repeat a command safely with the same key; one is minted for what moves money")
		if r.Op.Matches {
			f.StringVar(&opts.match, "if-match", "", "version the record must have; * takes the present one")
		}
	} else if r.Op.In.Field("cursor") != nil {
		f.BoolVar(&opts.all, "all", false, "follow the cursor to the end")
	}
	return cmd
}

// takes refuses another number of arguments than these, and names them.
func takes(params ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(params) {
			return nil
		}
		want := "no argument"
		if len(params) > 0 {
			want = strings.ToUpper(strings.Join(params, " "))
		}
		return usageError(fmt.Sprintf("%s takes %s, not %d arguments", cmd.CommandPath(), want, len(args)))
	}
}

type verbOptions struct {
	data, key, match string
	dryRun, all      bool
}

// inputs are the flags of a verb, each with the path of the member it fills.
type inputs struct {
	names  []string
	paths  [][]string
	values map[string]func() (any, bool, error)
}

// add makes the flag of one member; the members of an object get flags of their own, apart by dots.
func (in *inputs) add(f *pflag.FlagSet, name string, path []string, s *edge.Schema, required bool, stdin io.Reader) {
	help := describeSchema(s, required)
	get := func(read func() (any, error)) {
		in.names = append(in.names, name)
		in.paths = append(in.paths, path)
		in.values[name] = func() (any, bool, error) {
			if !f.Changed(flagName(name, s)) {
				return nil, false, nil
			}
			v, err := read()
			return v, true, err
		}
	}
	switch {
	case s.Secret:
		v := f.String(name+"-file", "", help+"; read from this file, - for standard input")
		get(func() (any, error) { return readSecret(*v, stdin) })
	case s.Type == edge.Boolean:
		v := f.Bool(name, false, help)
		get(func() (any, error) { return *v, nil })
	case s.Type == edge.Integer:
		v := f.Int64(name, 0, help)
		get(func() (any, error) { return *v, nil })
	case s.Type == edge.String:
		v := f.String(name, "", help)
		get(func() (any, error) { return *v, nil })
	case s.Type == edge.Array && s.Item.Type == edge.String:
		v := f.StringSlice(name, nil, help)
		get(func() (any, error) { return *v, nil })
	case s.Type == edge.Map && s.Item.Type == edge.String:
		v := f.StringToString(name, nil, help)
		get(func() (any, error) { return *v, nil })
	case s.Type == edge.Object:
		for _, field := range s.Fields {
			in.add(f, name+"."+kebab(field.Name), append(path[:len(path):len(path)], field.Name), field.Schema, field.Required && required, stdin)
		}
	default:
		v := f.String(name, "", help+" (JSON)")
		get(func() (any, error) {
			if !json.Valid([]byte(*v)) {
				return nil, usageError("--" + name + " takes JSON")
			}
			return json.RawMessage(*v), nil
		})
	}
}

func flagName(name string, s *edge.Schema) string {
	if s.Secret {
		return name + "-file"
	}
	return name
}

func readSecret(path string, stdin io.Reader) (string, error) {
	var raw []byte
	var err error
	if path == "-" {
		raw, err = io.ReadAll(io.LimitReader(stdin, 4096))
	} else {
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

// describeSchema is a flag's help: the declaration's own words and its bounds.
func describeSchema(s *edge.Schema, required bool) string {
	parts := []string{}
	if s.Doc != "" {
		parts = append(parts, strings.TrimSuffix(s.Doc, "."))
	}
	if len(s.Enum) > 0 {
		parts = append(parts, "one of "+strings.Join(s.Enum, ", "))
	}
	if s.Format != "" && s.Format != "id" {
		parts = append(parts, "form "+s.Format)
	}
	if s.Example != "" {
		parts = append(parts, "e.g. "+s.Example)
	}
	if required {
		parts = append(parts, "required")
	}
	return strings.Join(parts, "; ")
}

// body assembles the input: the file's members, overridden by flags.
func (in *inputs) body(opts *verbOptions, stdin io.Reader) (map[string]any, error) {
	body := map[string]any{}
	if opts.data != "" {
		raw, err := readInput(opts.data, stdin)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &body); err != nil {
			return nil, usageError("the input file is not a JSON object")
		}
	}
	for i, name := range in.names {
		v, set, err := in.values[name]()
		if err != nil {
			return nil, err
		}
		if set {
			put(body, in.paths[i], v)
		}
	}
	return body, nil
}

func readInput(path string, stdin io.Reader) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(stdin, 1<<20))
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the input: %w", err)
	}
	return raw, nil
}

func put(m map[string]any, path []string, v any) {
	for _, name := range path[:len(path)-1] {
		next, ok := m[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[name] = next
		}
		m = next
	}
	m[path[len(path)-1]] = v
}

// runVerb sends the request and prints the answer.
func (c *cli) runVerb(ctx context.Context, r edge.Route, params, args []string, in *inputs, opts *verbOptions) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	req := call{method: r.Method, path: r.Path, query: url.Values{}, header: http.Header{}}
	for i, p := range params {
		req.path = strings.Replace(req.path, "{"+p+"}", url.PathEscape(args[i]), 1)
	}
	body, err := in.body(opts, c.std.in)
	if err != nil {
		return err
	}
	if r.Method == http.MethodGet || r.Method == http.MethodDelete {
		for name, v := range body {
			req.query.Set(name, queryValue(v))
		}
	} else if req.body, err = json.Marshal(body); err != nil {
		return err
	}
	if opts.dryRun {
		req.query.Set("dry_run", "true")
	}
	minted := opts.key == "" && r.Op.Class == edge.Money && !opts.dryRun
	if minted {
		opts.key = mintKey()
	}
	if opts.key != "" {
		req.header.Set("Idempotency-Key", opts.key)
	}
	if err := c.setMatch(ctx, cl, r, &req, opts.match); err != nil {
		return err
	}
	if r.Op.Name == "sync.conflict.list" {
		c.who = clientNames(ctx, cl)
	}
	c.usual, c.declared = usualColumns[r.Op.Name], func(path string) bool { return r.Op.Out != nil && has(r.Op.Out, path) }
	if opts.all {
		return c.followPages(ctx, cl, req)
	}
	raw, header, err := cl.do(ctx, req)
	if err != nil {
		if e, ok := edge.AsError(err); minted && ok && e.Kind == edge.Unavailable { // it may have been done
			_, _ = fmt.Fprintf(c.std.err, "Send it again with --idempotency-key %s: it is done once.\n", opts.key)
		}
		return err
	}
	c.remark(header)
	return c.print(raw)
}

// remark says on standard error what the answer's headers say beside the result.
func (c *cli) remark(h http.Header) {
	if h.Get("Idempotency-Replayed") == "true" {
		_, _ = fmt.Fprintln(c.std.err, "This is the first answer, given again; nothing was done twice.")
	}
	if h.Get("Wispgate-Sync-State") == "pending" {
		op := h.Get("Wispgate-Operation")
		_, _ = fmt.Fprintf(c.std.err, "Accepted on this node, not yet in the cluster: operation %s. Follow it with: wispgate sync operation get %s\n", op, shellWord(op))
	}
}

// shellWord is s as a shell takes it for one word.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@"
	if s != "" && strings.Trim(s, plain) == "" && s[0] != '-' {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// mintKey makes the key that a command which moves money insists on, for somebody who gives none.
func mintKey() string {
	var random [10]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	return edge.NewUUIDv7(time.Now().UnixMilli(), random)
}

func queryValue(v any) string {
	switch val := v.(type) {
	case string:
		return val
	case []string:
		return strings.Join(val, ",")
	default:
		raw, err := json.Marshal(val)
		if err != nil {
			return ""
		}
		return string(raw)
	}
}

// setMatch adds If-Match; * or, where the operation insists, nothing given reads the record's present version first.
func (c *cli) setMatch(ctx context.Context, cl *client, r edge.Route, req *call, match string) error {
	if match == "" && !r.Op.NeedsMatch {
		return nil
	}
	if match == "" || match == "*" {
		path, _, _ := strings.Cut(req.path, ":")
		_, header, err := cl.do(ctx, call{method: http.MethodGet, path: path})
		if err != nil {
			return err
		}
		match = header.Get("ETag")
	}
	if _, err := strconv.ParseUint(match, 10, 64); err == nil {
		match = `"` + match + `"`
	}
	req.header.Set("If-Match", match)
	return nil
}

// followPages prints page after page. What is one document, JSON or YAML, becomes one, in the shape of a single page.
func (c *cli) followPages(ctx context.Context, cl *client, req call) error {
	whole := c.output == "json" || c.output == "yaml"
	all := []json.RawMessage{}
	for {
		raw, _, err := cl.do(ctx, req)
		if err != nil {
			return err
		}
		var page struct {
			Data       []json.RawMessage `json:"data"`
			NextCursor string            `json:"next_cursor,omitempty"`
			HasMore    bool              `json:"has_more"`
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		next := page.NextCursor
		if all = append(all, page.Data...); whole && next != "" {
			req.query.Set("cursor", next)
			continue
		}
		page.NextCursor, page.HasMore = "", false
		if whole {
			page.Data = all
		}
		if err := c.show(page); err != nil || next == "" {
			return err
		}
		all, c.noHead = all[:0], true
		req.query.Set("cursor", next)
	}
}

// usualColumns are those of a list whose records say what matters in a member of a member.
var usualColumns = map[string][]string{
	"sync.conflict.list": {"id", "status", "calls[0].op", "reason.code", "by", "node", "accepted_at", "operation"},
}

// clientNames gives the names of clients by their ids, as far as whoever asks may see them; a person reads names.
func clientNames(ctx context.Context, cl *client) func(string) string {
	known := map[string]string{}
	return func(id string) string {
		if !strings.HasPrefix(id, "cli_") {
			return id
		}
		if known[id] == "" {
			known[id] = id
			var found struct{ Name string }
			raw, _, err := cl.do(ctx, call{method: http.MethodGet, path: "/api/v1/identity/clients/" + url.PathEscape(id)})
			if err == nil && json.Unmarshal(raw, &found) == nil && found.Name != "" {
				known[id] = found.Name
			}
		}
		return known[id]
	}
}

// has says whether a page's records may have a member of this path.
func has(page *edge.Schema, path string) bool {
	at := page
	if data := page.Field("data"); data != nil && data.Schema.Item != nil {
		at = data.Schema.Item
	}
	for name := range strings.SplitSeq(path, ".") {
		name, _, indexed := strings.Cut(name, "[")
		if at.Type == edge.Map {
			return true
		}
		f := at.Field(name)
		if f == nil {
			return false
		}
		if at = f.Schema; indexed && at.Item != nil {
			at = at.Item
		}
	}
	return true
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"wispgate/edge"
	"wispgate/edge/app"
)

// stdio is where a command reads and writes: results to out, everything else to err.
type stdio struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

const long = `wispgate authenticates subscribers at a tower, with or without uplink, and serves one API over billing, CRM, AAA and inventory.

It is daemon and client in one. Start with "wispgate demo" to see the whole product on loopback.

Exit codes: 0 ok, 1 failed, 2 usage or invalid input, 3 not allowed, 4 not found, 5 unreachable or unavailable, 6 conflict.`

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, std stdio) int {
	cli := &cli{std: std, env: os.Getenv}
	root := cli.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if asked := outputOf(args); asked != "" { // a wrong flag before it kept it from being read
		cli.output = asked
	}
	return cli.fail(cmd, err)
}

// outputOf is what a command line says after -o.
func outputOf(args []string) (form string) {
	for i, arg := range args {
		if arg == "--" {
			break
		}
		for _, flag := range []string{"--output", "-o"} {
			if arg == flag && i+1 < len(args) {
				form = args[i+1]
			} else if rest, ok := strings.CutPrefix(arg, flag); ok && rest != "" && (flag == "-o" || rest[0] == '=') {
				form = strings.TrimPrefix(rest, "=")
			}
		}
	}
	return form
}

// cli is one invocation.
type cli struct {
	std     stdio
	env     func(string) string
	target  target
	output  string
	columns []string
	noHead  bool

	usual    []string               // columns of a page where --columns names none; nil: what it has
	who      func(id string) string // the name behind the id in a table's column "by"; nil: the id itself
	declared func(path string) bool // whether the operation's records may have such a member; nil: nobody knows
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use: "wispgate", Short: "Keep a tower in business when the backhaul is dead", Long: long,
		SilenceErrors: true, SilenceUsage: true, Version: version,
	}
	root.SetIn(c.std.in)
	root.SetOut(c.std.out)
	root.SetErr(c.std.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Sprintf("%s. Run %q for what it takes", err, cmd.CommandPath()+" --help"))
	})
	f := root.PersistentFlags()
	f.StringVarP(&c.output, "output", "o", "table", "form of results: table, json, yaml, jsonl or name")
	f.StringSliceVar(&c.columns, "columns", nil, "columns of a table, in order; of one record, the values to show")
	f.BoolVar(&c.noHead, "no-headers", false, "leave out a table's first line, and the names of one record's values")
	c.target.flags(f)
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "ask", Title: "Ask and operate:"},
		&cobra.Group{ID: "api", Title: "The API, by domain:"}, &cobra.Group{ID: "tool", Title: "Tools:"},
	)
	root.SetHelpCommandGroupID("tool")
	root.SetCompletionCommandGroupID("tool")
	root.AddCommand(c.serveCmd(), c.relayCmd(), c.demoCmd())
	root.AddCommand(c.statusCmd(), c.explainCmd(), c.radiusCmd(), c.keyCmd(), c.clusterCmd(), c.syncCmd(), c.webhookCmd(), c.auditCmd(), c.backupCmd(), c.restoreCmd(), c.doctorCmd(), c.profileCmd())
	for _, domain := range c.domainCmds(app.Declarations()) {
		if own, _, err := root.Find([]string{domain.Name()}); err == nil && own != root { // such as the relay's records, under the program's own word
			join(own, domain)
			continue
		}
		root.AddCommand(domain)
	}
	root.AddCommand(c.benchCmd(), c.certCmd(), c.configCmd(), c.supportCmd(), c.versionCmd())
	refuseUnknown(root)
	return root
}

// join puts the generated commands of a domain under the words that stand there already.
func join(own, domain *cobra.Command) {
	for _, noun := range domain.Commands() {
		if had, _, err := own.Find([]string{noun.Name()}); err == nil && had != own {
			had.AddCommand(noun.Commands()...)
			continue
		}
		own.AddCommand(noun)
	}
}

// refuseUnknown makes commands that only group others refuse a word they do not know, instead of answering with their help.
func refuseUnknown(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		refuseUnknown(sub)
	}
	if cmd.Runnable() || !cmd.HasSubCommands() {
		return
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		text := fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0])
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text += "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return usageError(text)
	}
}

func (c *cli) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version, commit and platform", GroupID: "tool", Args: takes(),
		RunE: func(*cobra.Command, []string) error { return c.show(app.Version(version, commit)) },
	}
}

// usageError is a mistake on the command line.
func usageError(text string) error {
	return &edge.Error{Kind: edge.Invalid, Code: "usage", Message: text}
}

// fail prints the error and returns the exit code of its kind. With -o json it is a problem document.
func (c *cli) fail(cmd *cobra.Command, err error) int {
	e := known(err)
	if c.output == "json" || c.output == "jsonl" {
		if e.Code == "usage" && e.Fix == "" {
			said := *e
			said.Fix = fmt.Sprintf("Run %q for what it takes", cmd.CommandPath()+" --help")
			e = &said
		}
		_ = writeJSON(c.std.err, e)
	} else {
		_, _ = fmt.Fprintln(c.std.err, "wispgate:", describe(e))
	}
	return e.Kind.ExitCode()
}

// known gives every error a code, and what to do where that can be told: what cobra says of a command line, and what the system says of a file.
func known(err error) *edge.Error {
	if e, ok := errors.AsType[*edge.Error](err); ok {
		return e
	}
	e := &edge.Error{Kind: edge.Internal, Code: "failed", Message: err.Error()}
	var path *fs.PathError
	var link *os.LinkError
	name := ""
	switch {
	case errors.As(err, &path):
		name = path.Path
	case errors.As(err, &link):
		name = link.New
	}
	switch {
	case strings.HasPrefix(e.Message, "unknown command") || strings.HasPrefix(e.Message, "required flag") || strings.Contains(e.Message, "arg(s)"):
		e.Kind, e.Code = edge.Invalid, "usage"
	case name == "":
	case errors.Is(err, syscall.EROFS):
		e.Kind, e.Code, e.Fix = edge.Unavailable, "file_read_only", "The file system of "+name+" is read-only: mount it for writing, after a look at the kernel's log for why it is not"
	case errors.Is(err, fs.ErrNotExist):
		e.Kind, e.Code, e.Fix = edge.Invalid, "file_missing", "Look whether the path is right: "+name
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Code, e.Fix = edge.Denied, "file_denied", "Run this as a user who may open "+name+": root, or the one that runs wispgate"
	}
	return e
}

// describe is the error as a person reads it: what, where, what to do.
func describe(e *edge.Error) string {
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(e.Message, "."))
	said := false
	for _, f := range e.Fields {
		fmt.Fprintf(&b, "\n  %s %s", strings.TrimPrefix(f.Pointer, "/"), f.Reason)
		if f.Limit != "" {
			b.WriteString(" (" + f.Limit + ")")
		}
		if f.Fix != "" {
			b.WriteString(": " + f.Fix)
		}
		said = said || f.Fix == e.Fix
	}
	if e.Fix != "" && !said {
		b.WriteString("\n  " + e.Fix)
	}
	if e.Code != "usage" && e.Code != "failed" {
		b.WriteString("\n  (" + e.Code + ")")
	}
	return b.String()
}

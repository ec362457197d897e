package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"wispgate/edge"
	"wispgate/edge/app"
	"wispgate/edge/config"
)

const syncLong = `See what waits for the cluster, decide what it did not allow, and carry both ways on a stick or a phone where no link does.

A node that has lost its cluster accepts what may wait and keeps it until the link is back; then it hands everything over by itself. Only
where the link stays away for long is there something to carry, in four steps.

  1. at the tower     wispgate sync export --out /media/stick/tower7.wgb
  2. at any member    wispgate sync import /media/stick/tower7.wgb
  3. at the leader    wispgate sync export --for tower7-a --out /media/stick/back.wgb
  4. at the tower     wispgate sync import /media/stick/back.wgb

After 2 the cluster has the tower's writes, after 4 the tower has the cluster's, and knows that its own have arrived. Steps may be repeated,
left out, or overtaken by the link: every write counts once.`

// syncCmd joins words of its own with the generated ones of the domain.
func (c *cli) syncCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "sync", Short: "See what waits for the cluster, decide conflicts, carry writes by hand", Long: syncLong, GroupID: "ask"}
	cmd.AddCommand(c.syncStatus(), c.syncExport(), c.syncImport(), c.syncResolve())
	c.alias(cmd, "sync", "conflict", map[string]string{"list": "conflicts"})
	return cmd
}

// syncStanding is what "sync status" shows.
type syncStanding struct {
	Node          string     `json:"node"`
	State         string     `json:"state"`
	Leader        string     `json:"leader"`
	CutOff        bool       `json:"cut_off"`
	CutOffSince   *time.Time `json:"cut_off_since,omitempty"`
	Pending       int64      `json:"pending"`
	Oldest        *time.Time `json:"oldest_pending,omitempty"`
	Problem       string     `json:"problem,omitempty"`
	Lost          uint64     `json:"lost,omitempty"`
	OpenConflicts string     `json:"open_conflicts"`
	Lag           string     `json:"lag"`
	Version       uint64     `json:"version"`
	Term          uint64     `json:"term"`
	CommitIndex   uint64     `json:"commit_index"`
	LastTerm      uint64     `json:"last_term"`
	LastIndex     uint64     `json:"last_index"`
	Removed       bool       `json:"removed,omitempty"`

	loading   bool
	histories []app.OtherHistory
	away, fix string // of a node that hears no leader
}

func (c *cli) syncStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what waits here, since when the node is cut off, who leads, and open conflicts", Args: takes(),
		Long: `Show how this node stands to its cluster: how many writes wait and since when, whether it is cut off, which node leads, how many log entries
it lacks as the leader last said ("-": nobody has said), and how many conflicts of the tenant are open (--tenant, where there are several).
last_term and last_index are those of the last entry in its log, applied or not: of nodes without a leader, the one where they are highest holds the most.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.standing(cmd.Context())
			if err != nil {
				return err
			}
			if s.loading {
				_, _ = fmt.Fprintln(c.std.err, "This node reads in what waits, after its start. Until then it shows a part of it, and takes no write that may wait.")
			}
			if s.Lost > 0 {
				_, _ = fmt.Fprintf(c.std.err, "The disk has damaged what was accepted here, and %s lost. wispgate doctor says which, and what to do.\n", app.Agree(s.Lost, "write is", "writes are"))
			}
			c.warnHistories(s.histories, s.Removed)
			switch {
			case s.Removed:
				_, _ = fmt.Fprintln(c.std.err, "This node was removed from the cluster, and the others refuse it. "+app.Removed.Fix)
			case s.State == "parked":
				_, _ = fmt.Fprintln(c.std.err, "This node takes no part in the cluster at the moment; wispgate cluster list says why.")
			case s.CutOff:
				_, _ = fmt.Fprintln(c.std.err, "This node hears no leader. It keeps what may wait and hands it over when the link is back; wispgate cluster list shows whom it reaches.")
				if s.away != "" {
					_, _ = fmt.Fprintf(c.std.err, "%s.\n%s.\n", s.away, s.fix)
				}
			}
			return c.show(s)
		},
	}
}

func (c *cli) standing(ctx context.Context) (s syncStanding, err error) {
	cl, err := c.client()
	if err != nil {
		return s, err
	}
	var st struct {
		Node    string            `json:"node"`
		Cluster app.ClusterStatus `json:"cluster"`
		Clock   struct {
			Now time.Time `json:"now"`
		} `json:"clock"`
		Pending struct {
			Waiting int64
			Oldest  *time.Time
			CutOff  bool `json:"cut_off"`
			Loading bool
			Since   *time.Time
			Problem string
			Lost    uint64
		} `json:"pending"`
	}
	raw, _, err := cl.do(ctx, call{method: http.MethodGet, path: "/api/v1/sync/status"})
	if err == nil {
		err = json.Unmarshal(raw, &st)
	}
	if err != nil {
		return s, err
	}
	s = syncStanding{
		Node: st.Node, State: st.Cluster.State, Leader: st.Cluster.Leader, CutOff: st.Pending.CutOff, CutOffSince: st.Pending.Since, Pending: st.Pending.Waiting,
		Oldest: st.Pending.Oldest, Problem: st.Pending.Problem, Lost: st.Pending.Lost, Lag: "-", Version: st.Cluster.Version, Term: st.Cluster.Term,
		CommitIndex: st.Cluster.CommitIndex, LastTerm: st.Cluster.LastTerm, LastIndex: st.Cluster.LastIndex, Removed: st.Cluster.Removed, loading: st.Pending.Loading,
		histories: st.Cluster.Histories,
	}
	if s.CutOff && !st.Cluster.Contact {
		s.away, s.fix = st.Cluster.Away(app.Absence{Now: st.Clock.Now, Since: st.Pending.Since, Waits: app.Waits(st.Pending.Waiting)})
	}
	for _, m := range st.Cluster.Members {
		if m.Node == st.Node && !m.Seen.IsZero() && !s.CutOff {
			s.Lag = strconv.FormatUint(m.Lag, 10)
		}
	}
	var page struct {
		Data []struct{}
		More bool `json:"has_more"`
	}
	raw, _, err = cl.do(ctx, call{method: http.MethodGet, path: "/api/v1/sync/conflicts", query: url.Values{"status": {"open"}, "limit": {"200"}}})
	if err == nil {
		err = json.Unmarshal(raw, &page)
	}
	if s.OpenConflicts = strconv.Itoa(len(page.Data)); page.More {
		s.OpenConflicts += "+"
	}
	return s, err
}

func (c *cli) syncResolve() *cobra.Command {
	var note, key string
	cmd := &cobra.Command{
		Use: "resolve ID retry|dismiss", Short: "Decide about a write that the cluster did not allow", Args: takes("id", "retry|dismiss"),
		Long: `Decide about a conflict: retry does what was asked after all, on the state as it is now; dismiss lets it go. "wispgate sync conflict get ID" shows what was
asked, why it was not allowed, and which scope whoever decides must hold.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] != "retry" && args[1] != "dismiss" {
				return usageError("a conflict is resolved with retry or dismiss, not " + strconv.Quote(args[1]))
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			in := map[string]string{"action": args[1]}
			if note != "" {
				in["note"] = note
			}
			req := call{method: http.MethodPost, path: "/api/v1/sync/conflicts/" + url.PathEscape(args[0]) + ":resolve", header: http.Header{}}
			if key != "" {
				req.header.Set("Idempotency-Key", key)
			}
			if req.body, err = json.Marshal(in); err != nil {
				return err
			}
			raw, header, err := cl.do(cmd.Context(), req)
			if err != nil {
				return err
			}
			c.remark(header)
			return c.print(raw)
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why")
	cmd.Flags().StringVar(&key, "idempotency-key", "", "repeat the decision safely with the same key")
	return cmd
}

func (c *cli) syncExport() *cobra.Command {
	var o app.CarryOut
	var out string
	var from uint64
	force := false
	cmd := &cobra.Command{
		Use: "export", Short: "Write what waits here, or with --for what a cut-off node lacks, to a file that can be carried", Args: takes(),
		Long: `Write a bundle: a file that is encrypted for the cluster and signed by this node.

Without --for, at the node that is cut off: the writes that wait in it, from the first that the cluster has not settled, and how far its log
goes. Any member of the cluster opens it; import it at one that is in touch with the leader.

With --for NODE, at the leader: the log entries that NODE lacks, or the whole state where the log does not reach back so far. Only NODE opens
it. The leader knows how far NODE's log goes from a bundle of NODE's that was imported, or from when it last heard of it; else give --from, with
what "wispgate sync status" shows at NODE as commit_index.

It changes nothing, may be repeated, and speaks to the daemon on this machine.`,
	}
	cmd.Flags().StringVar(&o.For, "for", "", "name of the node that is cut off, at the leader")
	cmd.Flags().Uint64Var(&from, "from", 0, "with --for: the log entry up to which that node has everything")
	cmd.Flags().StringVar(&out, "out", "", "file to write, - for standard output")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	_ = cmd.MarkFlagRequired("out")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := c.daemonDir()
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("from") {
			o.From = &from
		}
		say, end := c.meter()
		defer end()
		made, err := writeBundle(out, force, c.std.out, func(w io.Writer) (app.Exported, error) {
			n := int64(0)
			return app.ExportBundle(cmd.Context(), dir, o, writerFunc(func(b []byte) (int, error) {
				if n += int64(len(b)); say != nil {
					say("%d KB written", n>>10)
				}
				return w.Write(b)
			}))
		})
		end()
		if err != nil {
			return err
		}
		if out == "-" {
			_, err = fmt.Fprintln(c.std.err, toldExport(&made))
			return err
		}
		if made.File = out; c.output != "table" {
			return c.show(made)
		}
		_, err = fmt.Fprintln(c.std.out, toldExport(&made))
		return err
	}
	return cmd
}

type writerFunc func([]byte) (int, error)

// Write implements io.Writer.
func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// writeBundle writes a file that is whole or not there: a temporary one, flushed to the stick, then its name.
func writeBundle(path string, force bool, stdout io.Writer, write func(io.Writer) (app.Exported, error)) (made app.Exported, err error) {
	if path == "-" {
		return write(stdout)
	}
	if _, err := os.Stat(path); err == nil && !force {
		return made, &edge.Error{Kind: edge.Conflict, Code: "file_exists", Message: "The file " + path + " is there already", Fix: "Name another, or replace it with --force"}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return made, fmt.Errorf("write bundle: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	made, err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	return made, err
}

// toldExport says what a bundle holds and what to do with it.
func toldExport(m *app.Exported) string {
	size := fmt.Sprintf("%d KB", (m.Bytes+1023)>>10)
	if m.For == "" {
		if m.Writes == 0 {
			return fmt.Sprintf("Nothing waits at %s. The bundle (%s) tells the leader how far its log goes: import it there before wispgate sync export --for %s", m.Node, size, m.Node)
		}
		flag := ""
		if m.Removed {
			flag = "--removed " + shellWord(m.Node) + " "
		}
		return fmt.Sprintf("%s of %s, %s. Import it at any member that is in touch with the leader: wispgate sync import %s%s",
			app.Count(m.Writes, "write"), m.Node, size, flag, shellWord(cmp.Or(m.File, "FILE")))
	}
	what := fmt.Sprintf("%s after %d", app.Count(m.Entries, "log entry"), m.FromIndex)
	if m.State {
		what = "The whole state, and " + app.Count(m.Entries, "log entry") + " after it"
	}
	return fmt.Sprintf("%s for %s, %s. Import it there: wispgate sync import %s", what, m.For, size, shellWord(cmp.Or(m.File, "FILE")))
}

func (c *cli) syncImport() *cobra.Command {
	var former string
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Take a carried bundle over: a node's writes at a member, or the cluster's log at that node", Args: takes("file"),
		Long: `Take a bundle over that "wispgate sync export" wrote; FILE may be - for standard input. It is checked to its end first: one that is damaged, cut short, of
another cluster, or not signed by a member is refused with nothing done.

Writes of a cut-off node: import them at any member that is in touch with the leader. Each counts once, however often and by whatever road it
comes. What the cluster's state does not allow becomes a conflict, which somebody decides: see "wispgate sync conflicts".

Writes of a node that was removed while they waited there, or that a recovery left behind: name it with --removed. Whoever has the disk of such a node
can make a bundle, so take only one of a machine that was in your hands until the bundle was made.

Log entries for this node: import them here. The node then shows what the cluster shows, and forgets the writes that the cluster has settled.
It stays cut off as long as there is no link.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := c.daemonDir()
			if err != nil {
				return err
			}
			in := c.std.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("read bundle: %w", err)
				}
				defer func() { _ = f.Close() }()
				in = f
			}
			say, end := c.meter()
			defer end()
			got, err := app.ImportBundle(cmd.Context(), dir, in, former, func(done, total uint64) {
				if say != nil {
					say("%d of %d", done, total)
				}
			})
			end()
			if err != nil {
				return err
			}
			if c.output != "table" {
				return c.show(got)
			}
			_, err = fmt.Fprintln(c.std.out, toldImport(&got))
			return err
		},
	}
	cmd.Flags().StringVar(&former, "removed", "", "name of the removed node whose writes are taken over all the same")
	return cmd
}

// toldImport says what became of a bundle and what is left to do.
func toldImport(g *app.Imported) string {
	if g.Kind == "entries" {
		s := fmt.Sprintf("The state is at version %d, was at %d. ", g.Version, g.Was)
		if g.Version == g.Was {
			s = "Nothing new: this node has all that the bundle holds. "
		}
		return s + fmt.Sprintf("Of the writes of this node %d arrived, %d wait", g.Settled, g.Waiting)
	}
	if g.Writes == 0 {
		return "No writes were in it. How far the log of " + g.Node + " goes is noted: wispgate sync export --for " + g.Node
	}
	s := fmt.Sprintf("%s handed over, %d already there, %s", app.Count(g.New, "write"), g.Already, app.Count(g.Conflicts, "conflict"))
	for i, id := range g.IDs {
		if i == shownConflicts {
			return s + "\n  more of them: wispgate sync conflicts --status open --node " + shellWord(g.Node)
		}
		s += "\n  wispgate sync conflict get " + string(id)
	}
	return s
}

const shownConflicts = 10

// daemonDir is the data folder of the daemon on this machine, as its socket names it.
func (c *cli) daemonDir() (string, error) {
	if c.target.url != "" || c.target.profile != "" {
		return "", usageError("this goes through the daemon on this machine: run it there, without --url and --profile")
	}
	return filepath.Dir(first(c.target.socket, c.env("WISPGATE_SOCKET"), filepath.Join(config.Default().Node.DataDir, "wispgate.sock"))), nil
}

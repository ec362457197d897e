package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wispgate/edge"
	"wispgate/edge/app"
)

const clusterLong = `Make a cluster of nodes, look after it, and mend it. Every command but init, join and recover speaks to the daemon on this machine,
over its socket: who may open it is the cluster's operator.

A cluster commits what a majority of its voters holds, so voters come in odd numbers: three survive the loss of one, five of two. Every
other node is a replica: it holds everything, answers reads and RADIUS, takes part in no decision, and may be cut off at will.

Two nodes at a site: two voters are worse than one, because the loss of either stops both. Either
  - keep one voter and make the other node a replica. When the voter dies for good, run "wispgate cluster recover" on the replica; or
  - put a third voter on any box that is always on, at the site or elsewhere, as a witness. It needs a disk and trust like any other.

A region of towers: three or five voters where links and power are best, on different power; every tower a replica.`

// clusterCmd is the way to build, see and mend a cluster.
func (c *cli) clusterCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Make a cluster of nodes, look after it, mend it", Long: clusterLong, GroupID: "ask"}
	cmd.AddCommand(
		c.clusterInit(), c.clusterInvite(), c.clusterJoin(), c.clusterList(), c.clusterRole("promote"), c.clusterRole("demote"),
		c.clusterRemove(), c.clusterTransfer(), c.clusterPrefer(), c.clusterFind(), c.clusterVerify(), c.clusterRepair(), c.clusterRecover(),
	)
	return cmd
}

func (c *cli) clusterInit() *cobra.Command {
	var name string
	var place app.ClusterPlace
	cmd := &cobra.Command{
		Use: "init", Short: "Name a new cluster and make its first node, in an empty data folder", Args: takes(),
		Long: `Name a new cluster and make its first node in an empty data folder, before its first start. It makes the cluster's CA too.
A node that runs already needs none of this: it is a cluster of one. Set cluster.listen and cluster.advertise, start it again, and invite.`,
	}
	file := c.configFlag(cmd)
	placeFlags(cmd, &place)
	cmd.Flags().StringVar(&name, "name", "", "name of the cluster: lower-case letters, digits and hyphens; default: node.cluster, else the node's own name")
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, _, err := c.load(*file)
		if err != nil {
			return err
		}
		if name != "" {
			cfg.Node.Cluster = name
		}
		if err := cfg.Check(); err != nil {
			return err
		}
		made, err := app.InitCluster(cfg, name, place)
		if err != nil {
			return err
		}
		return c.show(made)
	}
	return cmd
}

func placeFlags(cmd *cobra.Command, p *app.ClusterPlace) {
	cmd.Flags().StringVar(&p.Advertise, "advertise", "", "host:port at which the other nodes reach this one; default: cluster.advertise, else the address listened on")
	cmd.Flags().StringVar(&p.Listen, "listen", "", "address of the cluster port; default: cluster.listen, else :7846")
}

func (c *cli) clusterInvite() *cobra.Command {
	var role, replaces string
	cmd := &cobra.Command{
		Use: "invite", Short: "Make a one-time token with which another node joins", Args: takes(),
		Long: `Make a token that lets one node in within a quarter of an hour. It carries this node's address, the fingerprint of the cluster's CA and a
secret; whoever has it can join, so hand it over as you would a password. Run "wispgate cluster join TOKEN" on the new node.

With --replaces the new node takes the place of another, dead or alive: that one is removed as soon as this cannot hurt.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := map[string]any{}
			if role != "" {
				in["role"] = role
			}
			if replaces != "" {
				in["replaces"] = replaces
			}
			raw, err := c.operate(cmd.Context(), http.MethodPost, "/api/v1/sync/invitations", in)
			if err != nil {
				return err
			}
			if c.output != "table" {
				return c.print(raw)
			}
			var made struct {
				Token   string    `json:"token"`
				Role    string    `json:"role"`
				Expires time.Time `json:"expires_at"`
			}
			if err := json.Unmarshal(raw, &made); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			_, _ = fmt.Fprintf(c.std.err, "One node may join as a %s until %s. On it, run this, with the address of that machine in place of HOST:\n\n", made.Role, made.Expires.Local().Format(time.TimeOnly))
			_, err = fmt.Fprintf(c.std.out, "wispgate cluster join %s --advertise HOST:7846\n", made.Token)
			return err
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "voter or replica; default: replica, or the role of the node that is replaced")
	cmd.Flags().StringVar(&replaces, "replaces", "", "name of the node whose place the new one takes")
	return cmd
}

func (c *cli) clusterJoin() *cobra.Command {
	var place app.ClusterPlace
	cmd := &cobra.Command{
		Use: "join TOKEN", Short: "Make this machine's node one of a cluster, before its first start", Args: takes("token"),
		Long: `Make this machine's node one of the token's cluster. The daemon must not run, and the data folder must be empty or that of a node that
nobody has claimed. Then start the daemon: it fills itself from the leader, and a voter gets its vote once it has kept up for half a minute.`,
	}
	file := c.configFlag(cmd)
	placeFlags(cmd, &place)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, origins, err := c.load(*file)
		if err != nil {
			return err
		}
		joined, err := app.JoinCluster(cmd.Context(), c.options(cfg, origins), args[0], place)
		if err != nil {
			return err
		}
		return c.show(joined)
	}
	return cmd
}

// operate asks the daemon on this machine as the cluster's operator.
func (c *cli) operate(ctx context.Context, method, path string, in any) ([]byte, error) {
	c.target.tenant = first(c.target.tenant, edge.System)
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	req := call{method: method, path: path}
	if in != nil {
		if req.body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	raw, header, err := cl.do(ctx, req)
	c.remark(header)
	e, ok := edge.AsError(err)
	if err != nil && ok {
		e = keyless(e)
		err = e
	}
	switch {
	case err == nil || !ok:
	case e.Code == edge.ErrQuorumLost.Code:
		err = c.noMajority(ctx, cl, e)
	case cl.base != localBase && (e.Kind == edge.Denied || e.Kind == edge.Unauthenticated): // no key is the operator's
		err = &edge.Error{
			Kind: e.Kind, Code: e.Code, Message: "The cluster's operator speaks to a node over its socket; a key from elsewhere does not do",
			Fix: "Run this on one of the cluster's machines, without --url, --profile and WISPGATE_URL",
		}
	}
	return raw, err
}

// keyless is a refusal as it helps who gave a command of the operator, which carries no Idempotency-Key of his.
func keyless(e *edge.Error) *edge.Error {
	plain := *e
	if e.Code == edge.ErrUnknown.Code {
		plain.Fix = "Look with wispgate cluster list whether it was done; where not, run the same command again. Twice does no harm"
	}
	plain.Fix = strings.ReplaceAll(plain.Fix, " with the same Idempotency-Key", "")
	return &plain
}

// noMajority says to the operator of a cluster that cannot decide how it stands and what can be done, instead of to ask again.
func (c *cli) noMajority(ctx context.Context, cl *client, lost *edge.Error) error {
	var st clusterStatus
	raw, _, err := cl.do(ctx, call{method: http.MethodGet, path: "/api/v1/sync/status"})
	if err != nil || json.Unmarshal(raw, &st) != nil || st.Cluster.Contact {
		return lost // between two leaders, or not to be asked
	}
	e := st.refusal()
	e.RetryAfter = lost.RetryAfter
	return e
}

// refusal is away as that with which a command is refused.
func (st *clusterStatus) refusal() *edge.Error {
	e := &edge.Error{Kind: edge.Unavailable, Code: edge.ErrQuorumLost.Code}
	if st.Cluster.Removed {
		e.Code = app.Removed.Code
	}
	e.Message, e.Fix = st.away()
	return e
}

// away says how a node stands that hears no leader, and what to do about it.
func (st *clusterStatus) away() (says, fix string) {
	return st.Cluster.Away(app.Absence{Now: st.Clock.Now, Since: st.Pending.Since, Waits: app.Waits(st.Pending.Waiting)})
}

// wellFor is how old the last answer to the leader may be of a node that counts as well, where it has missed none.
const wellFor = 30 * time.Second

// clusterMember is a line of "cluster list".
type clusterMember struct {
	Node        string `json:"node"`
	Site        string `json:"site"`
	Role        string `json:"role"`
	State       string `json:"state"`
	Leader      bool   `json:"leader"`
	Preferred   bool   `json:"preferred"`
	Address     string `json:"address"`
	Contact     string `json:"contact"`
	Lag         uint64 `json:"lag"`
	Version     string `json:"version"`
	Certificate string `json:"certificate_end"`

	heir, well bool // may lead, as far as the records say; answers
}

type peerRecord struct {
	Node, Site, Role, Status, Address string
	Voter, Preferred                  bool
	ProgramVersion                    string     `json:"program_version"`
	CertificateEnd                    time.Time  `json:"certificate_end"`
	LostAt                            *time.Time `json:"lost_at"`
	RepairAt                          *time.Time `json:"repair_at"`
	ReplacedBy                        string     `json:"replaced_by"`
}

type clusterStatus struct {
	Node    string            `json:"node"`
	Cluster app.ClusterStatus `json:"cluster"`
	Pending struct {
		Since   *time.Time `json:"since"`
		Waiting int64      `json:"waiting"`
	} `json:"pending"`
	Clock struct {
		Now time.Time `json:"now"`
	} `json:"clock"`
}

// members puts the records and the leader's view together.
func (c *cli) members(ctx context.Context) ([]clusterMember, clusterStatus, error) {
	var st clusterStatus
	raw, err := c.operate(ctx, http.MethodGet, "/api/v1/sync/status", nil)
	if err == nil {
		err = json.Unmarshal(raw, &st)
	}
	if err != nil {
		return nil, st, err
	}
	var page struct{ Data []peerRecord }
	if raw, err = c.operate(ctx, http.MethodGet, "/api/v1/sync/nodes?limit=200", nil); err == nil {
		err = json.Unmarshal(raw, &page)
	}
	if err != nil {
		return nil, st, err
	}
	list := []clusterMember{}
	for _, p := range page.Data {
		m := clusterMember{
			Node: p.Node, Site: p.Site, Role: p.Role, State: p.Status, Leader: p.Node == st.Cluster.Leader, Preferred: p.Preferred,
			Address: p.Address, Contact: "-", Version: p.ProgramVersion, Certificate: p.CertificateEnd.UTC().Format(time.DateOnly),
			heir: p.Voter && p.Role == "voter" && p.RepairAt == nil && p.ReplacedBy == "",
		}
		switch {
		case p.Status == "removed":
		case p.RepairAt != nil && p.LostAt != nil:
			m.State = "repairing, lost"
		case p.RepairAt != nil:
			m.State = "repairing"
		case p.LostAt != nil:
			m.State = "lost"
		case p.ReplacedBy != "":
			m.State = "replaced by " + p.ReplacedBy
		case p.Role == "voter" && !p.Voter && p.Status == "member":
			m.State = "catching up"
		}
		for _, v := range st.Cluster.Members {
			if v.Node == p.Node && !v.Seen.IsZero() {
				age := max(st.Clock.Now.Sub(v.Seen), 0)
				m.Contact, m.Lag, m.well = age.Round(time.Second).String(), v.Lag, age < wellFor && !v.Silent && p.LostAt == nil
			}
			if v.Node == p.Node && v.Address != "" {
				m.Address = v.Address
			}
			if v.Node == p.Node && v.Silent && p.LostAt == nil {
				m.State = silentState(m.State)
			}
		}
		if p.Node == st.Node && p.Status != "removed" && st.Cluster.Advertise != "" { // which nobody may have heard yet
			m.Address = st.Cluster.Advertise
		}
		if m.Contact == "-" && p.LostAt != nil && p.Status != "removed" {
			m.Contact = ">" + max(st.Clock.Now.Sub(*p.LostAt), 0).Round(time.Second).String()
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b clusterMember) int { return cmp.Compare(a.Node, b.Node) })
	return list, st, nil
}

// silentState is the state of a node that did not answer when it was last asked; CONTACT says for how long.
func silentState(state string) string {
	if state == "member" {
		return "silent"
	}
	return state + ", silent"
}

// memberColumns are those of "cluster list" as a table: more than a table has by itself.
var memberColumns = []string{"node", "role", "state", "leader", "preferred", "address", "contact", "lag", "version", "certificate_end"}

func (c *cli) clusterList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the nodes: role, state, leader, contact, lag, version, certificate", Args: takes(),
		Long: `List the nodes of the cluster. State is what the record says, and "silent" for one that did not answer when it was last asked, "lost" after a
minute of that; contact is how long ago it last answered. On a node that hears no leader it says which voters this one reaches at the moment.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, st, err := c.members(cmd.Context())
			if err != nil {
				return err
			}
			switch {
			case len(list) == 0 && st.newcomer():
				_, _ = fmt.Fprintf(c.std.err, "%s.\n%s.\n", app.Newcomer(st.Cluster.Advertise), app.NewcomerFix)
			case len(list) == 0:
				_, _ = fmt.Fprintf(c.std.err, "Node %s stands alone. Set cluster.listen and cluster.advertise and start it again, then invite others.\n", st.Node)
			}
			if !st.Cluster.Contact && len(list) > 0 {
				says, fix := st.away()
				_, _ = fmt.Fprintf(c.std.err, "%s. Roles and states are as it last heard them.\n%s.\n", says, fix)
			}
			c.warnHistories(st.Cluster.Histories, st.Cluster.Removed)
			for _, m := range st.Cluster.Members {
				if m.Problem != "" && st.Cluster.Contact {
					_, _ = fmt.Fprintf(c.std.err, "Node %s is silent%s.\n", m.Node, m.Because())
				}
			}
			c.usual = memberColumns
			return c.show(map[string]any{"data": list})
		},
	}
}

// newcomer says whether the node has joined a cluster and not heard of it since: one that stands alone has itself for a voter.
func (st *clusterStatus) newcomer() bool {
	return !st.Cluster.Contact && len(st.Cluster.Voters) == 0 && st.Cluster.State != "parked"
}

// warnHistories says where another history of the cluster is at work. A node that was removed has none of its own; what to do there is said besides.
func (c *cli) warnHistories(list []app.OtherHistory, removed bool) {
	for _, h := range list {
		if removed {
			_, _ = fmt.Fprintf(c.std.err, "%s.\n", h.LeftBehind())
			continue
		}
		_, _ = fmt.Fprintf(c.std.err, "%s.\n%s.\n", h.Says(), app.HistoryFix)
	}
}

// clusterRole is promote or demote.
func (c *cli) clusterRole(verb string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "promote NODE", Short: "Give a replica a vote, once it has kept up for half a minute", Args: takes("node"),
		Long: "Make a replica a voter. The leader gives it its vote once it has answered without a break for half a minute and lacks no more than 250\nentries. Keep the number of voters odd.",
	}
	force := false
	if verb == "demote" {
		cmd.Use, cmd.Short = "demote NODE", "Take a node's vote and keep it as a replica"
		cmd.Long = "Make a voter a replica. Refused where the voters that would be left and are well are no majority of those left, because nothing could\nbe committed then; --force goes on in spite of it."
		cmd.Flags().BoolVar(&force, "force", false, "even where the voters that are left and well are no majority")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.nodeVerb(cmd.Context(), args[0], verb, force)
	}
	return cmd
}

// nodeVerb asks for something to be done with a node and shows its record.
func (c *cli) nodeVerb(ctx context.Context, node, verb string, force bool) error {
	in := map[string]any{}
	if force {
		in["force"] = true
	}
	raw, err := c.operate(ctx, http.MethodPost, "/api/v1/sync/nodes/"+url.PathEscape(node)+":"+verb, in)
	if err != nil {
		return err
	}
	return c.print(raw)
}

func (c *cli) clusterFind() *cobra.Command {
	return &cobra.Command{
		Use: "find NODE ADDRESS", Short: "Tell this node where another is, when all have moved at once", Args: takes("node", "address"),
		Long: `Tell this node where another of the cluster is reached now (HOST:PORT), and have it look there. It is for nodes that have all moved to other
addresses at once: none of them knows where another is, and without a leader no record can say so. One that moves alone is found by the
others without it. On one of the nodes, name each of the others; they hear from it where it is, and the records follow as soon as one leads.
Whoever answers there has to prove to be that node. It speaks to the daemon on this machine.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := c.daemonDir()
			if err != nil {
				return err
			}
			if err := app.FindNode(cmd.Context(), dir, args[0], args[1]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.std.out, "Node %s was met at %s.\n", args[0], args[1])
			return err
		},
	}
}

func (c *cli) clusterRemove() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "Remove a node from the cluster for ever", Args: takes("node"),
		Long: `Remove a node. Its certificate is refused from then on, and its name is never used again: the machine, emptied, may join under another.
The last voter cannot be removed. Nor can a voter where those that would be left and are well are no majority of those left: once it is
gone nothing could be committed any more. --force goes on in spite of that, for when you know that a silent voter is about to return.

What waits at a node that is cut off does not arrive by itself any more once the node is removed: it has to be carried, with "wispgate sync export" there
and "wispgate sync import --removed NODE" here. So let a tower that can still deliver do so first.

To replace a dead node use "wispgate cluster invite --replaces NODE": it removes the old one when the time is right.
When a majority of the voters is dead nothing can be removed at all, because that, too, must be committed: see "wispgate cluster recover".`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.nodeVerb(cmd.Context(), args[0], "remove", force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even where the voters that are left and well are no majority")
	return cmd
}

func (c *cli) clusterTransfer() *cobra.Command {
	return &cobra.Command{
		Use: "transfer [NODE]", Short: "Hand leadership to another voter, as before maintenance", GroupID: "",
		Long: "Hand leadership to NODE, or to the voter that is furthest on. It waits until the other leads. A node that does not answer, or that is to\nlose its vote or its copy, is refused.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd.CommandPath() + " takes one node at most")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), c.target.timeout)
			defer cancel()
			node := ""
			if len(args) == 1 {
				node = args[0]
			} else if best, err := c.bestHeir(ctx); err != nil {
				return err
			} else {
				node = best
			}
			if _, err := c.operate(ctx, http.MethodPost, "/api/v1/sync/nodes/"+url.PathEscape(node)+":lead", map[string]any{}); err != nil {
				return err
			}
			return c.await(ctx, "The other node does not lead yet", func() (bool, error) {
				_, st, err := c.members(ctx)
				if err != nil || st.Cluster.Leader != node {
					return false, err
				}
				return true, c.show(map[string]string{"leader": node})
			})
		},
	}
}

func (c *cli) bestHeir(ctx context.Context) (string, error) {
	list, st, err := c.members(ctx)
	if err != nil {
		return "", err
	}
	if !st.Cluster.Contact {
		return "", st.refusal()
	}
	best := -1
	for i, m := range list {
		if m.heir && m.well && !m.Leader && (best < 0 || m.Preferred && !list[best].Preferred || m.Preferred == list[best].Preferred && m.Lag < list[best].Lag) {
			best = i
		}
	}
	if best < 0 {
		return "", &edge.Error{Kind: edge.Conflict, Code: "no_heir", Message: "No other voter is well", Fix: "wispgate cluster list shows who is; invite or promote another"}
	}
	return list[best].Node, nil
}

// await asks again and again until done. A node that is between two leaders is asked again, too.
func (c *cli) await(ctx context.Context, late string, done func() (bool, error)) error {
	pause := time.NewTicker(200 * time.Millisecond)
	defer pause.Stop()
	for {
		ok, err := done()
		if e, is := edge.AsError(err); err != nil && (!is || e.Kind != edge.Unavailable) {
			return err
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return &edge.Error{Kind: edge.Unavailable, Code: "not_yet", Message: late, Fix: "Look with wispgate cluster list; --timeout sets how long to wait"}
		case <-pause.C:
		}
	}
}

func (c *cli) clusterPrefer() *cobra.Command {
	off := false
	cmd := &cobra.Command{
		Use: "prefer NODE", Short: "Have leadership stay at a voter whenever it is well", Args: takes("node"),
		Long: "Have leadership stay at NODE whenever that node is well. A replica never leads, so it is refused: promote it first.",
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := c.operate(cmd.Context(), http.MethodPatch, "/api/v1/sync/nodes/"+url.PathEscape(args[0]), map[string]any{"preferred": !off})
			if err != nil {
				return err
			}
			return c.print(raw)
		},
	}
	cmd.Flags().BoolVar(&off, "off", false, "do not prefer it any more")
	return cmd
}

func (c *cli) clusterVerify() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Compare every node's copy of the state now", Args: takes(),
		Long: "Have every node hash its copy of the state at one and the same version, and compare. The leader does this by itself once a day.\nExit code 6 where a copy differs: fill that node anew with \"wispgate cluster repair NODE\".",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), max(c.target.timeout, 3*time.Minute))
			defer cancel()
			raw, err := c.operate(ctx, http.MethodPost, "/api/v1/sync/checks", map[string]any{})
			if err != nil {
				return err
			}
			var check struct {
				ID       string     `json:"id"`
				Finished *time.Time `json:"finished_at"`
				Nodes    []struct {
					Node  string `json:"node"`
					State string `json:"state"`
				} `json:"nodes"`
			}
			if err := json.Unmarshal(raw, &check); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			err = c.await(ctx, "The comparison is not done yet", func() (bool, error) {
				if raw, err = c.operate(ctx, http.MethodGet, "/api/v1/sync/checks/"+check.ID, nil); err != nil {
					return false, err
				}
				return json.Unmarshal(raw, &check) == nil && check.Finished != nil, nil
			})
			if err != nil {
				return err
			}
			if err := c.show(map[string]any{"data": check.Nodes}); err != nil {
				return err
			}
			for _, n := range check.Nodes {
				if n.State == "mismatched" {
					return &edge.Error{Kind: edge.Conflict, Code: "checksum_mismatch", Message: "The copy of node " + n.Node + " differs from the others'", Fix: "Run wispgate cluster repair " + n.Node}
				}
			}
			return nil
		},
	}
}

func (c *cli) clusterRepair() *cobra.Command {
	return &cobra.Command{
		Use: "repair NODE", Short: "Wipe a node's copy of the state and fill it anew from the leader", Args: takes("node"),
		Long: "Take a node's vote, wipe its log and state, fill it anew from the leader, and give the vote back. Its RADIUS goes on from memory; its\njournals and what waits for the cluster stay. Watch it with \"wispgate cluster list\".",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.nodeVerb(cmd.Context(), args[0], "repair", false)
		},
	}
}

func (c *cli) clusterRecover() *cobra.Command {
	yes, dryRun := false, false
	cmd := &cobra.Command{
		Use: "recover", Short: "Make this node the only one of its cluster, when the majority is gone for good", Args: takes(),
		Long: `Make the node of this data folder the only one of its cluster. For the day when a majority of the voters is dead and does not return: as
long as one may, wait, because nothing that was acknowledged is lost yet.

The daemon must not run. Choose the node whose log goes furthest: the highest "last_term", and among those that share it the highest
"last_index". "wispgate sync status" shows both where the daemon runs, and --dry-run in the folder of one that is stopped. Do not go by "version": an
entry counts there only once it is applied. What other nodes had acknowledged and this one never received is lost.

The cluster begins a new incarnation, so the NOC tells its history from the old one's. A replica makes a new CA for it, since only voters hold
the key of the old one. All other nodes are removed: let those that live deliver what waits in them (wispgate status: pending), then empty their
data folders and let them join again.`,
	}
	file := c.configFlag(cmd)
	cmd.Flags().BoolVar(&yes, "yes-the-others-are-gone", false, "say that you have read this and mean it")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show how far this node's log goes and change nothing")
	cmd.RunE = func(*cobra.Command, []string) error {
		if !yes && !dryRun {
			return usageError("recover changes history: read wispgate cluster recover --help, then say --yes-the-others-are-gone")
		}
		cfg, _, err := c.load(*file)
		if err != nil {
			return err
		}
		done, err := app.RecoverCluster(cfg, c.std.err, dryRun)
		if err != nil {
			return err
		}
		return c.show(done)
	}
	return cmd
}

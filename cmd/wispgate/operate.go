package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"wispgate/edge"
	"wispgate/edge/app"
	"wispgate/edge/config"
)

// get fetches and prints one path.
func (c *cli) get(ctx context.Context, path string, query url.Values) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	raw, _, err := cl.do(ctx, call{method: http.MethodGet, path: path, query: query})
	if err != nil {
		return err
	}
	return c.print(raw)
}

func (c *cli) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how a node is: state, streams, disk, clock", GroupID: "ask", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.get(cmd.Context(), "/api/v1/sync/status", nil) },
	}
}

func (c *cli) explainCmd() *cobra.Command {
	return &cobra.Command{
		Use: "explain LOGIN", Short: "Say why a login is allowed or refused, from which records, and what changes it next", GroupID: "ask",
		Args: takes("login"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.get(cmd.Context(), "/api/v1/aaa/entitlements:explain", url.Values{"login": args})
		},
	}
}

func (c *cli) auditCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Verify the audit log", GroupID: "ask"}
	var dir, pub string
	verify := &cobra.Command{
		Use: "verify", Short: "Check an audit journal's hash chain, signed heads and gaps, offline", Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			report, err := app.VerifyAudit(dir, pub)
			if err != nil {
				return err
			}
			if err := c.show(report); err != nil {
				return err
			}
			return report.Err()
		},
	}
	verify.Flags().StringVar(&dir, "dir", "/var/lib/wispgate", "data folder of the node, or the audit folder itself")
	verify.Flags().StringVar(&pub, "public-key", "", "file with the node's public audit key, kept elsewhere; default: the one in the folder")
	cmd.AddCommand(verify)
	return cmd
}

func (c *cli) keyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Claim a node, and make, list, rotate and revoke API keys", GroupID: "ask"}
	var code, tenant, name string
	claim := &cobra.Command{
		Use: "claim", Short: "Claim a new node with its one-time code: makes the first tenant and its first key", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := json.Marshal(map[string]string{"code": code, "tenant": tenant, "name": name})
			if err != nil {
				return err
			}
			return c.postUnkeyed(cmd.Context(), "/api/v1/claim", body)
		},
	}
	claim.Flags().StringVar(&code, "code", "", "the code that the node printed at its first start")
	claim.Flags().StringVar(&tenant, "as", "", "short name of the new tenant: lower-case letters, digits and hyphens")
	claim.Flags().StringVar(&name, "name", "", "the ISP's full name")
	for _, f := range []string{"code", "as", "name"} {
		_ = claim.MarkFlagRequired(f)
	}
	var dataDir string
	rearm := &cobra.Command{
		Use: "rearm", Short: "Make a new claim code on this machine, for when the last key was lost", Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			code, err := app.RearmClaim(dataDir)
			if err == nil {
				err = c.show(map[string]string{"claim_code": code.Reveal()})
			}
			return err
		},
	}
	rearm.Flags().StringVar(&dataDir, "data-dir", config.Default().Node.DataDir, "data folder of the node or relay")
	cmd.AddCommand(claim, rearm)
	c.alias(cmd, "identity", "key", map[string]string{"create": "", "list": "", "get": "", "rotate": "", "retire": "", "revoke": ""})
	return cmd
}

// postUnkeyed sends a body without a key, even where one for another program is at hand, and prints the answer.
func (c *cli) postUnkeyed(ctx context.Context, path string, body []byte) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	cl.key = ""
	raw, _, err := cl.do(ctx, call{method: http.MethodPost, path: path, body: body})
	if err != nil {
		return err
	}
	return c.print(raw)
}

// alias puts verbs of a domain's noun under a shorter command, under another name where one is given.
func (c *cli) alias(cmd *cobra.Command, domain, noun string, verbs map[string]string) {
	for _, m := range app.Declarations() {
		if m.Name != domain {
			continue
		}
		for _, r := range m.Routes {
			as, ok := verbs[r.Op.Verb()]
			if !ok || r.Op.Noun() != noun {
				continue
			}
			v := c.verb(r)
			if as != "" {
				v.Use = as + v.Use[len(kebab(r.Op.Verb())):]
			}
			cmd.AddCommand(v)
			delete(verbs, r.Op.Verb())
		}
	}
}

func (c *cli) webhookCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "webhook", Short: "Manage a relay's webhook endpoints, look at deliveries, replay", GroupID: "ask"}
	c.alias(cmd, "relay", "endpoint", map[string]string{
		"create": "", "list": "", "get": "", "update": "", "delete": "", "rotate_secret": "", "enable": "", "disable": "", "test": "",
	})
	c.alias(cmd, "relay", "delivery", map[string]string{"list": "deliveries", "get": "delivery", "replay": ""})
	return cmd
}

func (c *cli) certCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "cert", Short: "Issue certificates from a relay's own CA", GroupID: "tool"}
	var dataDir, out string
	var clusters []string
	var days int
	issue := &cobra.Command{
		Use: "issue NODE", Short: "Make a node's client certificate for the relay's broker, on the relay's machine", Args: takes("node"),
		Long: `Make a key and a client certificate with which the node NODE (its node.id) may speak to the relay's embedded broker, for itself and for
the clusters named with --cluster. Copy the three files to the node and name them with uplink.cert_file, uplink.key_file and uplink.ca_file.`,
		RunE: func(_ *cobra.Command, args []string) error {
			issued, err := app.IssueCertificate(dataDir, args[0], clusters, time.Duration(days)*24*time.Hour, out, c.std.err)
			if err != nil {
				return err
			}
			return c.show(issued)
		},
	}
	issue.Flags().StringVar(&dataDir, "data-dir", config.Default().Relay.DataDir, "data folder of the relay")
	issue.Flags().StringSliceVar(&clusters, "cluster", nil, "cluster the node belongs to, where its name is another than the node's")
	issue.Flags().IntVar(&days, "days", 1825, "how long the certificate holds; five years at most. Issue another before it ends: the node's metrics tell when")
	issue.Flags().StringVar(&out, "out", ".", "folder for the files")
	cmd.AddCommand(issue)
	return cmd
}

func (c *cli) profileCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "profile", Short: "Store addresses and keys of nodes and relays", GroupID: "ask"}
	set := &cobra.Command{
		Use: "set NAME", Short: "Store --url, --key-file and --ca-file under a name; default is used when nothing else is said", Args: takes("name"),
		RunE: func(_ *cobra.Command, args []string) error {
			return c.storeProfile(args[0], &profile{URL: c.target.url, KeyFile: c.target.keyFile, CAFile: c.target.caFile})
		},
	}
	remove := &cobra.Command{
		Use: "remove NAME", Short: "Forget a profile", Args: takes("name"),
		RunE: func(_ *cobra.Command, args []string) error { return c.storeProfile(args[0], nil) },
	}
	list := &cobra.Command{
		Use: "list", Short: "List the profiles", Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			all, err := loadProfiles()
			if err != nil {
				return err
			}
			type row struct {
				Name string `json:"name"`
				profile
			}
			rows := []row{}
			for name, p := range all {
				rows = append(rows, row{name, p})
			}
			return c.show(map[string]any{"data": rows})
		},
	}
	cmd.AddCommand(set, list, remove)
	return cmd
}

// storeProfile writes or, with nil, removes a profile: a temporary file, then a rename.
func (c *cli) storeProfile(name string, p *profile) error {
	all, err := loadProfiles()
	if err != nil {
		return err
	}
	if p == nil {
		delete(all, name)
	} else {
		if p.URL == "" {
			return usageError("a profile needs --url")
		}
		for _, file := range []*string{&p.KeyFile, &p.CAFile} { // it is used from other folders, too
			if *file == "" {
				continue
			}
			if *file, err = filepath.Abs(*file); err != nil {
				return fmt.Errorf("store profile: %w", err)
			}
		}
		all[name] = *p
	}
	path, err := profilesPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("store profile: %w", err)
	}
	raw, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fmt.Errorf("store profile: %w", err)
	}
	return os.Rename(tmp, path)
}

func (c *cli) radiusCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "radius", Short: "Test the RADIUS front door", GroupID: "ask"}
	var o app.RadiusTest
	var passwordFile, secretFile string
	test := &cobra.Command{
		Use: "test LOGIN", Short: "Send a real Access-Request and name the stage that refuses it", Args: takes("login"),
		Long: `Send a real Access-Request, as a router would, and show the answer, its attributes and, for a refusal, the reason. The router's shared
secret and the password are read from files, or from WISPGATE_RADIUS_SECRET and WISPGATE_RADIUS_PASSWORD.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Login = args[0]
			var err error
			if o.Password, err = c.secret(passwordFile, "WISPGATE_RADIUS_PASSWORD"); err != nil {
				return err
			}
			if o.Secret, err = c.secret(secretFile, "WISPGATE_RADIUS_SECRET"); err != nil {
				return err
			}
			result, err := o.Run(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.show(result); err != nil {
				return err
			}
			return result.Err()
		},
	}
	f := test.Flags()
	f.StringVar(&o.Server, "server", "127.0.0.1:1812", "address of the node's authentication port")
	f.StringVar(&o.Method, "method", "pap", "pap or chap")
	f.StringVar(&o.CallingStation, "mac", "", "Calling-Station-Id to send")
	f.StringVar(&passwordFile, "password-file", "", "file with the login's password")
	f.StringVar(&secretFile, "secret-file", "", "file with the router's shared secret")
	f.DurationVar(&o.Timeout, "wait", 3*time.Second, "how long to wait for the answer")
	cmd.AddCommand(test)
	return cmd
}

func (c *cli) secret(file, env string) (edge.Secret, error) {
	if file == "" {
		return edge.Secret(c.env(env)), nil
	}
	s, err := readSecret(file, c.std.in)
	return edge.Secret(s), err
}

func (c *cli) benchCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure a node or this machine", GroupID: "tool"}
	var r app.RadiusBench
	radius := &cobra.Command{
		Use: "radius", Short: "Load a RADIUS server and check every answer", Args: takes(),
		Long: `Send Access-Requests or accounting with a fixed number outstanding, verify every Response Authenticator and Message-Authenticator, and
print rate, latency, losses and, for a process on this machine (--pid), its CPU time per good answer.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if r.Secret, err = c.secret(r.SecretFile, "WISPGATE_RADIUS_SECRET"); err != nil {
				return err
			}
			if r.Password, err = c.secret(r.PasswordFile, "WISPGATE_RADIUS_PASSWORD"); err != nil {
				return err
			}
			result, err := r.Run(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(result)
		},
	}
	f := radius.Flags()
	f.StringVar(&r.Server, "server", "127.0.0.1:1812", "address to load")
	f.StringVar(&r.Kind, "kind", "pap", "pap, chap, acct or status")
	f.StringVar(&r.Login, "login", "", "login to use; %d in it counts from 0 to --logins")
	f.IntVar(&r.Logins, "logins", 1, "how many logins to cycle through")
	f.IntVar(&r.Outstanding, "outstanding", 32, "requests in flight")
	f.DurationVar(&r.Duration, "duration", 5*time.Second, "how long")
	f.IntVar(&r.PID, "pid", 0, "process whose CPU time to measure")
	f.StringVar(&r.SecretFile, "secret-file", "", "file with the shared secret (or WISPGATE_RADIUS_SECRET)")
	f.StringVar(&r.PasswordFile, "password-file", "", "file with the password (or WISPGATE_RADIUS_PASSWORD)")
	var s app.StoreBench
	st := &cobra.Command{
		Use: "store", Short: "Write, flush, reopen and compare records in a temporary store: proves this machine and build", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			result, err := s.Run(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(result)
		},
	}
	st.Flags().StringVar(&s.Dir, "dir", "", "folder on the disk to measure; default: the temporary folder")
	st.Flags().IntVar(&s.Records, "records", 20000, "records of about 1 KB to write")
	cmd.AddCommand(radius, st)
	return cmd
}

func (c *cli) supportCmd() *cobra.Command {
	var o app.SupportOptions
	cmd := &cobra.Command{
		Use: "support-bundle", Short: "Collect what support needs into one archive, without subscribers' data or secrets", GroupID: "tool", Args: takes(),
	}
	file := c.configFlag(cmd)
	cmd.Flags().StringVar(&o.Out, "out", "", "archive to write; default: wispgate-support-TIME.tar.gz here")
	cmd.Flags().BoolVar(&o.Preview, "preview", false, "list what it would hold and write nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, origins, err := c.load(*file)
		if err != nil {
			return err
		}
		o.Config, o.Origins, o.Version = cfg, origins, app.Version(version, commit)
		manifest, err := app.SupportBundle(cmd.Context(), o)
		if err != nil {
			return err
		}
		return c.show(manifest)
	}
	return cmd
}

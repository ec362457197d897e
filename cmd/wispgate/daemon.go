package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"wispgate/edge/app"
	"wispgate/edge/config"
)

// configFlag is where serve, relay and the config verbs find the configuration file.
func (c *cli) configFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("config", "c", "", "configuration file (WISPGATE_CONFIG); without one the defaults and the environment hold")
}

func (c *cli) load(path string) (config.Config, config.Origins, error) {
	return config.Load(first(path, c.env("WISPGATE_CONFIG")), os.Environ())
}

func (c *cli) options(cfg config.Config, origins config.Origins) app.Options {
	return app.Options{Config: cfg, Origins: origins, Version: version, Commit: commit, Log: c.std.err, Out: c.std.out}
}

func (c *cli) serveCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a node: RADIUS, API and uplink", GroupID: "run", Args: takes(),
		Long: `Run a node in the foreground until SIGINT or SIGTERM. The first start makes the data folder, the site CA and a one-time claim
code, which it prints and keeps in the data folder until the node is claimed; there is no default account.`,
	}
	file := c.configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, origins, err := c.load(*file)
		if err != nil {
			return err
		}
		return app.Serve(cmd.Context(), c.options(cfg, origins))
	}
	return cmd
}

func (c *cli) relayCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "relay", Short: "Run the NOC's relay: MQTT in, signed webhooks out", GroupID: "run", Args: takes(),
		Long: `Run the relay in the foreground until SIGINT or SIGTERM: it takes the towers' events from its embedded MQTT broker, or from the
one that relay.broker names, keeps them, and delivers signed webhooks.`,
	}
	file := c.configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, origins, err := c.load(*file)
		if err != nil {
			return err
		}
		return app.Relay(cmd.Context(), c.options(cfg, origins))
	}
	return cmd
}

func (c *cli) demoCmd() *cobra.Command {
	var o app.DemoOptions
	cmd := &cobra.Command{
		Use: "demo", Short: "Run the whole product on loopback", GroupID: "run", Args: takes(),
		Long: `Run a tower node, a relay with an embedded broker, a simulated MikroTik router that sends real RADIUS packets for a few hundred
seeded subscribers, and a webhook receiver, all on loopback. Ctrl-C stops it; a second run continues from the same folder.`,
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "data", "wispgate-demo", "folder for everything the demo keeps")
	f.IntVar(&o.Subscribers, "subscribers", app.DemoSubscribers, "how many subscribers to seed in a new folder")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of names, passwords and traffic")
	f.IntVar(&o.Port, "port", 8443, "port of the node's API; the others are chosen beside it")
	f.BoolVar(&o.Plain, "plain", false, "print lines instead of a screen, as without a terminal")
	f.BoolVar(&o.Flaky, "flaky", true, "let the uplink drop and the webhook receiver fail now and then")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.Version, o.Commit, o.Out, o.Log = version, commit, c.std.out, c.std.err
		return app.Demo(cmd.Context(), o)
	}
	return cmd
}

func (c *cli) configCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show and describe the configuration", GroupID: "tool"}
	check := &cobra.Command{Use: "check", Short: "Check a configuration file and say everything that is wrong", Args: takes()}
	file := c.configFlag(check)
	check.RunE = func(*cobra.Command, []string) error {
		cfg, _, err := c.load(*file)
		if err == nil {
			err = cfg.Check()
		}
		if err == nil {
			_, err = fmt.Fprintln(c.std.out, "The configuration is valid.")
		}
		return err
	}
	show := &cobra.Command{Use: "show", Short: "Show every key with its value", Args: takes()}
	showFile := c.configFlag(show)
	origin := show.Flags().Bool("origin", false, "say for each key where its value comes from: file and line, environment or default")
	show.RunE = func(*cobra.Command, []string) error {
		cfg, origins, err := c.load(*showFile)
		if err != nil {
			return err
		}
		if c.output != "table" {
			return c.show(map[string]any{"data": cfg.Settings(origins)})
		}
		if !*origin {
			origins = nil
		}
		return cfg.Show(c.std.out, origins)
	}
	schema := &cobra.Command{Use: "schema", Short: "Print the JSON Schema of the configuration file, for editors", Args: takes()}
	schema.RunE = func(*cobra.Command, []string) error {
		_, err := c.std.out.Write(config.Schema())
		return err
	}
	cmd.AddCommand(check, show, schema)
	return cmd
}

package main

import (
	"github.com/spf13/cobra"

	"wispgate/edge/app"
	"wispgate/edge/config"
)

// doctorCmd looks a node over.
func (c *cli) doctorCmd() *cobra.Command {
	var deep bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look a node over, running or stopped: what is well, what is not, what to do", GroupID: "ask", Args: takes(),
		Long: `Look a node over, whether it runs or not: configuration, folder, disk, clock, ports, store and log, journals, audit, certificates, cluster,
what waits, conflicts, uplink, backups. Each check is one line: ok, warn or fail, and what to do. It changes nothing.

Exit codes: 0 nothing failed (warnings may stand), 1 a check failed, 2 wrong usage.`,
	}
	file := c.configFlag(cmd)
	dir := dataDirFlag(cmd)
	cmd.Flags().BoolVar(&deep, "deep", false, "what takes long, too: read every journal, compute every derived record and the checksum anew")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.loadFor(*file, *dir)
		if err != nil { // the folder is worth a look all the same
			cfg = config.Default()
			if *dir != "" {
				cfg.Node.DataDir = *dir
			}
		}
		d := app.Doctor(cmd.Context(), app.DoctorOptions{Config: cfg, ConfigErr: err, Deep: deep, Log: c.std.err})
		if err := c.show(d); err != nil {
			return err
		}
		return d.Err()
	}
	return cmd
}

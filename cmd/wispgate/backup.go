package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"wispgate/edge/app"
	"wispgate/edge/config"
)

const backupLong = `Write a backup of the node of a data folder: its state at one version, and the tenants' keys that open the secrets in it. It works while the
node runs, which hands the state over through its socket, and on the folder of one that is stopped. The node's own key and TLS keys are never in it.

The file is locked with a passphrase, from --passphrase-file or WISPGATE_BACKUP_PASSPHRASE, or for public keys, from --recipient or
backup.recipients in the configuration, or both: each alone opens it. "wispgate backup keygen" makes a pair.

A node makes a backup every night by itself once backup.recipients or backup.passphrase is set.`

// backupCmd makes backups and looks at them.
func (c *cli) backupCmd() *cobra.Command {
	var out string
	var force bool
	var locks backupLocks
	cmd := &cobra.Command{Use: "backup", Short: "Back a node up, and verify and show backups", Long: backupLong, GroupID: "ask", Args: takes()}
	file := c.configFlag(cmd)
	dir := dataDirFlag(cmd)
	cmd.Flags().StringVar(&out, "out", "", "file to write")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	cmd.Flags().StringSliceVar(&locks.recipients, "recipient", nil, "public key to lock the backup for, besides those of the configuration")
	cmd.Flags().StringVar(&locks.passphraseFile, "passphrase-file", "", "file with the passphrase (or WISPGATE_BACKUP_PASSPHRASE)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.loadFor(*file, *dir)
		if err != nil {
			return err
		}
		with, err := c.locks(cfg, locks)
		if err != nil {
			return err
		}
		progress, end := c.progress()
		defer end()
		made, err := app.MakeBackup(cmd.Context(), app.BackupOptions{
			Config: cfg, Version: version, Out: out, Force: force, Locks: with, Progress: progress, Log: c.std.err,
		})
		end()
		if err != nil {
			return err
		}
		return c.show(made)
	}
	cmd.AddCommand(c.backupVerify(), c.backupShow(), c.backupKeygen())
	return cmd
}

// backupLocks are the flags that say with what a new backup is locked.
type backupLocks struct {
	passphraseFile string
	recipients     []string
}

func (c *cli) locks(cfg config.Config, l backupLocks) (app.BackupLocks, error) {
	passphrase, err := c.secret(l.passphraseFile, "WISPGATE_BACKUP_PASSPHRASE")
	if passphrase == "" {
		passphrase = cfg.Backup.Passphrase
	}
	return app.BackupLocks{Passphrase: passphrase, Recipients: append(l.recipients, cfg.Backup.Recipients...)}, err
}

func dataDirFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("data-dir", "", "data folder of the node; default: node.data_dir")
}

// loadFor is the configuration, with another data folder where one is named.
func (c *cli) loadFor(file, dataDir string) (config.Config, error) {
	cfg, _, err := c.load(file)
	if dataDir != "" {
		cfg.Node.DataDir = dataDir
	}
	return cfg, err
}

// openerFlags say with what a backup is opened.
func (c *cli) openerFlags(cmd *cobra.Command) func() (app.BackupOpeners, error) {
	passphraseFile := cmd.Flags().String("passphrase-file", "", "file with the backup's passphrase (or WISPGATE_BACKUP_PASSPHRASE)")
	keyFile := cmd.Flags().String("private-key-file", "", "file with a private key that wispgate backup keygen made")
	return func() (o app.BackupOpeners, err error) {
		if o.Passphrase, err = c.secret(*passphraseFile, "WISPGATE_BACKUP_PASSPHRASE"); err == nil && *keyFile != "" {
			o.PrivateKey, err = c.secret(*keyFile, "")
		}
		return o, err
	}
}

func (c *cli) backupVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify FILE", Short: "Open a backup and check everything in it, without a node", Args: takes("file"),
		Long: `Open a backup and read it to its end: every chunk is authenticated, the state in it is parsed and its checksum compared with the one that
the node had when it made the backup. It needs no node and no disk space.`,
	}
	openers := c.openerFlags(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		o, err := openers()
		if err != nil {
			return err
		}
		progress, end := c.progress()
		defer end()
		got, err := app.VerifyBackup(args[0], o, progress)
		end()
		if err != nil {
			return err
		}
		return c.show(got)
	}
	return cmd
}

func (c *cli) backupShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show FILE", Short: "Show what a backup is of: cluster, version, time, checksum", Args: takes("file")}
	openers := c.openerFlags(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		o, err := openers()
		if err != nil {
			return err
		}
		got, err := app.ShowBackup(args[0], o)
		if err != nil {
			return err
		}
		return c.show(got)
	}
	return cmd
}

func (c *cli) backupKeygen() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "keygen", Short: "Make a key pair for backups: the public key locks, the private one opens", Args: takes(),
		Long: `Make a key pair for backups. The public key goes into backup.recipients of every node; the private one opens their backups and belongs where
neither the nodes nor the backups are, with a copy: without it the backups are worth nothing.`,
	}
	cmd.Flags().StringVar(&out, "out", "", "file for the private key; it must not exist")
	_ = cmd.MarkFlagRequired("out")
	cmd.RunE = func(*cobra.Command, []string) error {
		pair, err := app.NewBackupKey(out)
		if err != nil {
			return err
		}
		return c.show(pair)
	}
	return cmd
}

const restoreLong = `Make a node of a backup, in an empty data folder: a cluster of its own, with the backup's state, the secrets in it, and a new history.

The nodes of the old cluster count as removed; they must not go on beside the new one, so wipe their data folders. The new node has a name of its
own, given with --node or node.id, that no node of the old cluster had, because those may have numbered receipts that the backup does not hold. Whatever goes wrong, the folder stays empty.`

// restoreCmd makes a node of a backup.
func (c *cli) restoreCmd() *cobra.Command {
	var o app.RestoreOptions
	cmd := &cobra.Command{Use: "restore FILE", Short: "Make a node of a backup, in an empty data folder", Long: restoreLong, GroupID: "ask", Args: takes("file")}
	file := c.configFlag(cmd)
	dir := dataDirFlag(cmd)
	openers := c.openerFlags(cmd)
	cmd.Flags().StringVar(&o.Node, "node", "", "name of the new node; default: node.id, else one is drawn")
	cmd.Flags().BoolVar(&o.SameNode, "same-node", false, "keep the name of the node that made the backup and is gone for good; its number series go on with a large gap")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if o.Config, err = c.loadFor(*file, *dir); err != nil {
			return err
		}
		if o.Openers, err = openers(); err != nil {
			return err
		}
		progress, end := c.progress()
		defer end()
		o.File, o.Progress, o.Log = args[0], progress, c.std.err
		made, err := app.RestoreBackup(cmd.Context(), o)
		end()
		if err != nil {
			return err
		}
		return c.show(made)
	}
	return cmd
}

// progressEvery is how often a person is told.
const progressEvery = 200 * time.Millisecond

// progress tells a person at a terminal how far a long work has come; end clears the line. Elsewhere it says nothing.
func (c *cli) progress() (tell app.BackupProgress, end func()) {
	say, end := c.meter()
	if say == nil {
		return nil, end
	}
	return func(done, total int64) {
		say("%3d %%  %d of %d MB", done*100/max(total, 1), done>>20, total>>20)
	}, end
}

// meter writes one line again and again for a person at a terminal, not too often; say is nil elsewhere, and end clears the line.
func (c *cli) meter() (say func(format string, args ...any), end func()) {
	if f, ok := c.std.err.(*os.File); !ok || !isTerminal(f) {
		return nil, func() {}
	}
	var last time.Time
	said := false
	say = func(format string, args ...any) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last, said = now, true
			_, _ = fmt.Fprintf(c.std.err, "\r"+format+" ", args...)
		}
	}
	return say, func() {
		if said {
			_, _ = io.WriteString(c.std.err, "\r\x1b[K")
			said = false
		}
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

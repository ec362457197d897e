package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wispgate/edge/backup"
	"wispgate/edge/config"
	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/edge/vault"
)

const (
	nightlyLook  = time.Minute // how often the clock is looked at: it may be set meanwhile
	nightlyAgain = time.Hour   // after a backup that failed or had no room
	backupSuffix = ".wgb"
	backupTime   = "20060102T150405Z"
)

// nightly makes the backups of a node, one a day.
type nightly struct {
	set    config.Backup
	dir    string
	prefix string // of the names of this node's backups
	now    func() time.Time
	zone   *time.Location
	room   func() bool // whether the disk has room for more than it must hold
	write  func(ctx context.Context, path string) (BackupFile, error)
	log    *slog.Logger

	due    time.Time
	last   *obs.Gauge
	took   *obs.Gauge
	octets *obs.Gauge
	failed obs.CounterVec
}

// startBackups begins the nightly backups, where they are configured.
func (c *core) startBackups() {
	set := c.opts.Config.Backup
	if !set.On() {
		return
	}
	g := c.metrics
	n := &nightly{
		set: set, dir: backupDir(c.dir, set), prefix: backupPrefix(c.id), now: c.effectiveTime, zone: time.Local, log: c.log,
		room:   func() bool { return c.store.DiskState().Level < store.DiskWarn },
		write:  c.writeNightly,
		last:   g.Gauge("wispgate_backup_last_timestamp_seconds", "When the newest good backup of this node was made; 0: never.").With(),
		took:   g.Gauge("wispgate_backup_seconds", "How long the newest backup took.").With(),
		octets: g.Gauge("wispgate_backup_bytes", "Size of the newest backup.").With(),
		failed: g.Counter("wispgate_backup_failures_total", "Nightly backups that were not made, by reason: failed, or disk for want of room.", "reason"),
	}
	c.group.Go("backup", n.run)
}

func backupDir(dataDir string, set config.Backup) string {
	return orElse(set.Dir, filepath.Join(dataDir, "backup"))
}

func backupPrefix(id nodeID) string { return id.Cluster + "-" + id.Node + "-" }

// writeNightly makes one backup of the open node.
func (c *core) writeNightly(ctx context.Context, path string) (BackupFile, error) {
	set := c.opts.Config.Backup
	key := backup.NewFileKey()
	public, err := vault.SeedPublicKey(key.Seed(carrySeed))
	if err != nil {
		return BackupFile{}, err
	}
	p, err := c.source().begin(public)
	if err != nil {
		return BackupFile{}, err
	}
	defer p.close()
	return writeBackup(ctx, path, BackupLocks{Passphrase: set.Passphrase, Recipients: set.Recipients}, backupStream{key, p.size(), p.write}, nil)
}

// run looks at the clock until ctx ends. A night that the node slept through is made up for after the start, and the first backup of all is
// made then, too: it shows whether they work.
func (n *nightly) run(ctx context.Context) error {
	newest, size := newestBackup(n.dir, n.prefix, n.now())
	if !newest.IsZero() {
		n.due = n.next(newest)
		n.last.Set(float64(newest.Unix()))
		n.octets.Set(float64(size))
	}
	return every(ctx, nightlyLook, func() error {
		n.look(ctx)
		return nil
	})
}

// next is the first time of day of a backup after t.
func (n *nightly) next(t time.Time) time.Time {
	hour, minute := n.set.Time()
	t = t.In(n.zone)
	at := time.Date(t.Year(), t.Month(), t.Day(), hour, minute, 0, 0, n.zone)
	if !at.After(t) {
		at = time.Date(t.Year(), t.Month(), t.Day()+1, hour, minute, 0, 0, n.zone)
	}
	return at
}

// look makes the backup that is due.
func (n *nightly) look(ctx context.Context) {
	now := n.now()
	if n.due.Sub(now) > 25*time.Hour { // the clock was set back
		n.due = n.next(now)
	}
	if now.Before(n.due) {
		return
	}
	n.due = now.Add(nightlyAgain)
	if !n.room() {
		n.failed.With("disk").Inc()
		n.log.Warn("no backup was made: the disk has less room than storage.warn_free_percent; trying again in an hour", "dir", n.dir)
		return
	}
	err := os.MkdirAll(n.dir, 0o700)
	var made BackupFile
	if err == nil {
		n.sweep()
		made, err = n.write(ctx, filepath.Join(n.dir, n.prefix+now.UTC().Format(backupTime)+backupSuffix))
	}
	if err != nil {
		if ctx.Err() == nil {
			n.failed.With("failed").Inc()
			n.log.Error("no backup was made; trying again in an hour", "dir", n.dir, "error", err)
		}
		return
	}
	n.due = n.next(now)
	took := n.now().Sub(now)
	n.last.Set(float64(now.Unix()))
	n.took.Set(took.Seconds())
	n.octets.Set(float64(made.Bytes))
	n.log.Info("backup made", "file", made.File, "version", made.Version, "bytes", made.Bytes, "took", took.String())
	if err := n.forget(); err != nil {
		n.log.Warn("old backups were not removed", "dir", n.dir, "error", err)
	}
}

// sweep removes what a backup that was cut off left.
func (n *nightly) sweep() {
	left, err := filepath.Glob(filepath.Join(n.dir, "."+n.prefix+"*"+backupSuffix+".*"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		n.log.Warn("half a backup was not removed", "dir", n.dir, "error", err)
	}
}

// forget removes the oldest of this node's backups beyond those that are kept.
func (n *nightly) forget() error {
	names := ownBackups(n.dir, n.prefix, n.now())
	var errs []error
	for _, name := range names[:max(0, len(names)-n.set.Keep)] {
		errs = append(errs, os.Remove(filepath.Join(n.dir, name)))
	}
	return errors.Join(errs...)
}

// ownBackups are the names of a node's backups, oldest first. Those that were dated by a clock which was ahead are no newer than those of today, however
// many there are, and go first. Other files, and those of other nodes, are nobody's business here.
func ownBackups(dir, prefix string, now time.Time) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if _, ok := backupMadeAt(e.Name(), prefix); ok && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		first, _ := backupMadeAt(a, prefix)
		second, _ := backupMadeAt(b, prefix)
		if ahead := first.After(now); ahead != second.After(now) {
			if ahead {
				return -1
			}
			return 1
		}
		return first.Compare(second)
	})
	return names
}

func backupMadeAt(name, prefix string) (time.Time, bool) {
	stamp, ok := strings.CutPrefix(strings.TrimSuffix(name, backupSuffix), prefix)
	at, err := time.Parse(backupTime, stamp)
	return at, ok && err == nil && strings.HasSuffix(name, backupSuffix)
}

// newestBackup is when a node's newest backup was made, and its size; the zero time when there is none, or none of which that is known.
func newestBackup(dir, prefix string, now time.Time) (time.Time, int64) {
	names := ownBackups(dir, prefix, now)
	if len(names) == 0 {
		return time.Time{}, 0
	}
	newest := names[len(names)-1]
	at, _ := backupMadeAt(newest, prefix)
	if at.After(now) {
		return time.Time{}, 0
	}
	info, err := os.Stat(filepath.Join(dir, newest))
	if err != nil {
		return time.Time{}, 0
	}
	return at, info.Size()
}

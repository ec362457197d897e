package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// The profile for a board with 64 MB, and for everything larger too: one profile is one behaviour. Each figure is the outcome of a measurement; DESIGN.md in this folder says which.
const (
	memTableSize   = 2 << 20
	tableSize      = 512 << 10
	blockSize      = 16 << 10
	levelSize      = 32 << 20
	valueThreshold = 128 << 10 // above every value, so the value log stays empty and needs no collection
	valueLogSize   = 4 << 20
	indexCache     = 2 << 20
)

func profile(dir string, readOnly bool, log *slog.Logger, h *harm) badger.Options {
	o := badger.DefaultOptions(dir).
		WithLogger(badgerLog{log, h}).
		WithReadOnly(readOnly).
		WithBypassLockGuard(true). // the directory above has a lock of ours, which ends when it is given back
		WithSyncWrites(true).
		WithMemTableSize(memTableSize).
		WithNumMemtables(2).
		WithBaseTableSize(tableSize).
		WithBlockSize(blockSize).
		WithBaseLevelSize(levelSize).
		WithNumLevelZeroTables(8).
		WithNumLevelZeroTablesStall(16).
		WithNumCompactors(2).
		WithNumGoroutines(1).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(indexCache).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(valueLogSize).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false).
		WithMetricsEnabled(false)
	// Tables of one size on every level: a compaction allocates twice a table's size for each of its builders, which at the default
	// doubling per level is hundreds of MB.
	o.TableSizeMultiplier = 1
	return o
}

// badgerLog gives Badger's lines to slog one level lower than it thinks they deserve: what matters comes back as an error.
// It is also how a Badger that scripts/gomended has mended finds who checks its blocks.
type badgerLog struct {
	log  *slog.Logger
	harm *harm
}

func (l badgerLog) Errorf(format string, args ...any)   { l.line(slog.LevelWarn, format, args) }
func (l badgerLog) Warningf(format string, args ...any) { l.line(slog.LevelInfo, format, args) }
func (l badgerLog) Infof(format string, args ...any)    { l.log.Debug("badger", detail(format, args)) }
func (l badgerLog) Debugf(string, ...any)               {}

// line is silent once the state is damaged: Badger then tries the same compaction many times a second.
func (l badgerLog) line(level slog.Level, format string, args []any) {
	if l.harm.err() == nil {
		l.log.LogAttrs(context.Background(), level, "badger", detail(format, args)) //nolint:forbidigo // a line belongs to no request
	}
}

// CheckBlock is called with every block as it is read, or with the error of reading it.
func (l badgerLog) CheckBlock(path string, offset int, data []byte, err error) error {
	if err == nil {
		err = check(data)
	}
	if err == nil {
		return nil
	}
	return l.harm.note(blockError(path, offset, err))
}

// Damages is how many blocks have failed so far.
func (l badgerLog) Damages() int64 { return l.harm.found.Load() }

func detail(format string, args []any) slog.Attr {
	return slog.String("detail", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

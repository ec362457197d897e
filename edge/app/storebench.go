package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"wispgate/edge/store"
)

// StoreBench writes, flushes, reopens and compares records in a store of its own. It proves a machine and a build: a 32-bit build without
// its patched allocator, or a disk that lies, does not pass.
type StoreBench struct {
	Dir     string
	Records int
}

// StoreResult is what StoreBench measured. Ratios are against one 4 KB append with fdatasync on the same disk in the same run.
type StoreResult struct {
	Platform     string `json:"platform"`
	Records      int    `json:"records"`
	Compared     int    `json:"compared"`
	WriteSeconds string `json:"write_seconds"`
	CommitMicros int64  `json:"commit_micros"`
	SyncMicros   int64  `json:"sync_micros"`
	Ratio        string `json:"commit_to_sync_ratio"`
}

// Run does it; the folder is removed afterwards.
func (b StoreBench) Run(ctx context.Context) (r StoreResult, err error) {
	dir, err := os.MkdirTemp(b.Dir, "wispgate-bench-")
	if err != nil {
		return r, fmt.Errorf("make a folder to measure in: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r = StoreResult{Platform: runtime.GOOS + "/" + runtime.GOARCH, Records: b.Records}
	start := time.Now()
	commits, err := b.write(ctx, dir)
	if err != nil {
		return r, err
	}
	took := time.Since(start)
	r.WriteSeconds = fmt.Sprintf("%.2f", took.Seconds())
	r.CommitMicros = took.Microseconds() / int64(max(commits, 1))
	if r.Compared, err = b.compare(dir); err != nil {
		return r, err
	}
	sync, err := syncTime(filepath.Join(dir, "yardstick"))
	r.SyncMicros = sync.Microseconds()
	if sync > 0 {
		r.Ratio = fmt.Sprintf("%.2f", float64(r.CommitMicros)/float64(max(r.SyncMicros, 1)))
	}
	return r, err
}

const benchBatch = 100

func benchRecord(i int) (key, val []byte) {
	key = fmt.Appendf(nil, "%sbench/%08d", store.Replicated, i)
	return key, bytes.Repeat(fmt.Appendf(nil, "%08d-", i*7919), 110)
}

func (b StoreBench) open(dir string) (*store.Store, error) {
	return store.Open(store.Options{Dir: filepath.Join(dir, "state"), Logger: slog.New(slog.DiscardHandler), BallastBytes: -1})
}

func (b StoreBench) write(ctx context.Context, dir string) (commits int, err error) {
	s, err := b.open(dir)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}()
	for i := 0; i < b.Records; i += benchBatch {
		var batch store.Batch
		for j := i; j < min(i+benchBatch, b.Records); j++ {
			batch.Put(benchRecord(j))
		}
		if err := s.Commit(&batch); err != nil {
			return commits, err
		}
		commits++
		if ctx.Err() != nil {
			return commits, ctx.Err()
		}
	}
	return commits, nil
}

func (b StoreBench) compare(dir string) (n int, err error) {
	s, err := b.open(dir)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}()
	snap := s.Snapshot()
	defer snap.Close()
	for i := range b.Records {
		key, want := benchRecord(i)
		got, err := snap.Get(key)
		if err != nil || !bytes.Equal(got, want) {
			return n, fmt.Errorf("record %d does not read back as it was written (%w): do not use this machine or build", i, err)
		}
		n++
	}
	return n, nil
}

// syncTime is the median of 51 appends of 4 KB, each with fdatasync, to a preallocated file.
func syncTime(path string) (time.Duration, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	const n, page = 51, 4096
	if _, err := f.Write(make([]byte, n*page)); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	times := make([]time.Duration, n)
	buf := bytes.Repeat([]byte{1}, page)
	for i := range times {
		start := time.Now()
		if _, err := f.WriteAt(buf, int64(i*page)); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times[i] = time.Since(start)
	}
	return median(times), nil
}

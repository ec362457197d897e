package store

import "path/filepath"

// Stats is what metrics, the support bundle and the benchmarks show. Sizes are octets; counters start at Open.
type Stats struct {
	Bytes        int64  `json:"bytes"`         // tables and logs on disk
	Tables       int    `json:"tables"`        // sorted tables
	Commits      int64  `json:"commits"`       // transactions written
	Ops          int64  `json:"ops"`           // puts and deletes in them
	LogicalBytes int64  `json:"logical_bytes"` // keys, values and overhead in them
	DeviceBytes  uint64 `json:"device_bytes"`  // what the whole device wrote meanwhile, other programs included; 0: unknown
	ReadAhead    uint64 `json:"read_ahead_bytes"`
	State        string `json:"state"` // folder in use
}

// Stats gathers the figures; cheap enough for a scrape.
func (s *Store) Stats() Stats {
	st := Stats{
		Commits: s.commits.Load(), Ops: s.ops.Load(), LogicalBytes: s.logical.Load(),
		ReadAhead: readAhead(s.dev),
	}
	if now := deviceWritten(s.dev); now > s.device0 {
		st.DeviceBytes = now - s.device0
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.h == nil {
		return st
	}
	st.State = filepath.Base(s.h.dir)
	lsm, vlog := s.h.db.Size()
	st.Bytes = lsm + vlog
	for _, level := range s.h.db.Levels() {
		st.Tables += level.NumTables
	}
	return st
}

// Relax gives back the memory that reading has mapped in: on a small board, after a start or a compaction, it is wanted elsewhere. Best
// effort; what is needed again is read again.
func (s *Store) Relax() { _ = pageOut(s.opts.Dir) }

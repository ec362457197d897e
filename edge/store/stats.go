package store

import (
	"maps"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

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

// Relax takes the tables out of this process's memory: Badger maps each whole, and what a scan, a start or a compaction has touched stays until
// the table goes. The pages stay in the page cache, where the kernel takes them when it wants them, so it costs a read little and may be called
// often. It is a snapshot's, of any age, because opening one waits for the commit that is in flight. Best effort.
func (sn *Snapshot) Relax() error {
	if !sn.usable() {
		return ErrClosed
	}
	db := sn.h.db
	before := tables(db)
	it := sn.txn.NewIterator(badger.IteratorOptions{}) // holds every table that is in use now
	defer it.Close()
	held := tables(db)
	maps.DeleteFunc(held, func(id uint64, _ struct{}) bool { // in use before and after, and no number is used twice
		_, was := before[id]
		return !was
	})
	return unmapTables(sn.h.dir, held)
}

// tables are the numbers of the tables that are in use.
func tables(db *badger.DB) map[uint64]struct{} {
	list := db.Tables()
	ids := make(map[uint64]struct{}, len(list))
	for i := range list {
		ids[list[i].ID] = struct{}{}
	}
	return ids
}

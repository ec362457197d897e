package exec

import (
	"fmt"
	"slices"
	"strings"

	"wispgate/edge"
)

// watchPage is how many records a watch is handed at once while it loads.
const watchPage = 1000

// loadWatches feeds every watch the records there are. It runs before the log does, so nothing is missed in between.
func (x *Exec) loadWatches() error {
	st := x.look()
	defer st.Close()
	for _, w := range x.watches {
		if err := loadWatch(st, w); err != nil {
			return fmt.Errorf("load watch %s: %w", w.Name, err)
		}
	}
	return nil
}

func loadWatch(st *State, w edge.Watch) error {
	reset, page := true, make([]edge.Change, 0, watchPage)
	flush := func() {
		w.Apply(reset, st.Version(), page)
		reset, page = false, page[:0:0]
	}
	tenants, err := tenantsOf(st)
	for _, tenant := range tenants {
		for _, table := range w.Tables {
			if err != nil {
				return err
			}
			err = st.Scan(edge.TablePrefix(tenant, table), "", func(key string, val []byte) (bool, error) {
				if _, _, id, ok := edge.ParseRecordKey(key); ok {
					page = append(page, edge.Change{Tenant: tenant, Table: table, ID: id, Val: slices.Clone(val)})
				}
				if len(page) == watchPage {
					flush()
				}
				return true, nil
			})
		}
	}
	if err == nil && (reset || len(page) > 0) {
		flush()
	}
	return err
}

// tenantsOf lists the tenants that have keys, jumping from one to the next: a start reads the tables it needs and no others.
func tenantsOf(st *State) (tenants []string, err error) {
	for from := ""; ; {
		found := ""
		err := st.Scan("", from, func(key string, _ []byte) (bool, error) {
			found = key
			return false, nil
		})
		if err != nil || found == "" {
			return tenants, err
		}
		owner, _, _ := strings.Cut(found, "/")
		if !strings.HasPrefix(owner, "#") && owner != "*" {
			tenants = append(tenants, owner)
		}
		from = owner + "0" // the octet after the slash
	}
}

// onApply hands an applied entry's changes to the watches, in version order, and wakes whoever waits for the version. What the overlay
// of pending intents hides is told when the overlay changes. What an emptied state is filled with again the watches know, and more.
func (x *Exec) onApply(version uint64, ops []Op) {
	x.pending.mu.Lock()
	if version > x.told {
		if x.pending.patch != nil {
			ops = x.unhidden(ops)
		}
		x.tell(version, ops)
		x.told = version
	}
	x.pending.mu.Unlock()
	x.advance(version)
}

// unhidden drops what the overlay writes, too, and what no watch is told of.
func (x *Exec) unhidden(ops []Op) []Op {
	st := x.lookLocked()
	defer st.Close()
	kept := make([]Op, 0, len(ops))
	for _, op := range ops {
		if !st.usable() {
			return ops
		}
		if !x.watched(op.Key) {
			continue
		}
		if _, hidden, err := st.pending.get(st.base.sn, op.Key); err != nil || !hidden {
			kept = append(kept, op)
		}
	}
	return kept
}

// watched reports whether some watch is told of a key.
func (x *Exec) watched(key string) bool {
	_, table, _, ok := edge.ParseRecordKey(key)
	return ok && slices.ContainsFunc(x.watches, func(w edge.Watch) bool { return slices.Contains(w.Tables, table) })
}

// tell hands changes to the watches.
func (x *Exec) tell(version uint64, ops []Op) {
	for _, w := range x.watches {
		var changes []edge.Change
		for _, op := range ops {
			tenant, table, id, ok := edge.ParseRecordKey(op.Key)
			if !ok || !slices.Contains(w.Tables, table) {
				continue
			}
			c := edge.Change{Tenant: tenant, Table: table, ID: id}
			if !op.Delete {
				c.Val = slices.Clone(op.Val)
			}
			changes = append(changes, c)
		}
		if len(changes) > 0 {
			w.Apply(false, version, changes)
		}
	}
}

// onRestore feeds the watches anew after another node's snapshot has replaced the state.
func (x *Exec) onRestore(version uint64) {
	if err := x.loadWatches(); err != nil {
		x.cfg.Logger.Error("watches could not be loaded after a restore; restart the node", "error", err)
	}
	x.pending.mu.Lock()
	x.told = version
	x.pending.mu.Unlock()
	x.advance(version)
}

func (x *Exec) advance(version uint64) {
	x.mu.Lock()
	x.version = version
	close(x.applied)
	x.applied = make(chan struct{})
	x.mu.Unlock()
}

// changed returns a channel that closes at the next applied version.
func (x *Exec) changed() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.applied
}

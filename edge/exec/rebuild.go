package exec

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strings"

	"wispgate/edge"
)

// Drift is one key whose stored value is not what its sources say.
type Drift struct {
	Key     string `json:"key"`
	Problem string `json:"problem"` // missing, stray or different
}

// RebuildReport is what a rebuild found. Keys counts the derived keys that were compared.
type RebuildReport struct {
	Version uint64  `json:"version"`
	Records int     `json:"records"`
	Keys    int     `json:"keys"`
	Drift   []Drift `json:"drift"`
}

const maxDrift = 1000 // findings kept in a report

// Rebuild computes every index entry and derived record anew from the records and compares octet by octet. With repair the differences
// are committed as entries of their own; without it nothing is written.
func (x *Exec) Rebuild(ctx context.Context, repair bool) (RebuildReport, error) {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	want, rep, err := x.derivedKeys(ctx, st)
	if err != nil {
		return rep, err
	}
	fix := layer{}
	note := func(key, problem string, val []byte) {
		if len(rep.Drift) < maxDrift {
			rep.Drift = append(rep.Drift, Drift{key, problem})
			fix[key] = val
		}
	}
	err = st.Scan("", "", func(key string, val []byte) (bool, error) {
		if !x.isDerived(key) {
			return true, nil
		}
		switch w, ok := want[key]; {
		case !ok:
			note(key, "stray", nil)
		case !bytes.Equal(w, val):
			note(key, "different", w)
		}
		delete(want, key)
		return true, nil
	})
	if err != nil {
		return rep, err
	}
	for key, val := range want {
		note(key, "missing", val)
	}
	if repair && len(fix) > 0 {
		err = x.repair(ctx, st.Version(), fix)
	}
	return rep, err
}

// repair writes the fixes if the state is still the one that was compared.
func (x *Exec) repair(ctx context.Context, version uint64, fix layer) error {
	return x.internal(ctx, func(t *tx) error {
		if t.Version() != version {
			return edge.ErrVersion.Error(edge.Conflict)
		}
		maps.Copy(t.writes, fix)
		return nil
	})
}

// derivedKeys computes what the records imply.
func (x *Exec) derivedKeys(ctx context.Context, st *State) (map[string][]byte, RebuildReport, error) {
	rep := RebuildReport{Version: st.Version(), Drift: []Drift{}}
	want := map[string][]byte{}
	derived := map[string][]edge.AnyTable{} // by source table
	for _, t := range x.tables {
		if d, ok := t.(interface{ Source() edge.AnyTable }); ok {
			derived[d.Source().TableName()] = append(derived[d.Source().TableName()], t)
		}
	}
	err := st.Scan("", "", func(key string, val []byte) (bool, error) {
		tenant, name, id, ok := edge.ParseRecordKey(key)
		table := x.tables[name]
		if !ok || table == nil {
			return true, ctx.Err()
		}
		if _, isDerived := table.(interface{ Source() edge.AnyTable }); isDerived {
			return true, nil
		}
		rep.Records++
		entries, err := table.Entries(tenant, val)
		if err != nil {
			return false, fmt.Errorf("record %s: %w", id, err)
		}
		for k, v := range entries {
			want[k] = []byte(v)
		}
		v := &view{exec: x, state: st, actor: edge.SystemActor(tenant, "rebuild"), now: st.Time()}
		for _, d := range derived[name] {
			raw, _, err := d.Derive(v, id)
			if err != nil {
				return false, fmt.Errorf("derive %s of %s: %w", d.TableName(), id, err)
			}
			if raw != nil {
				want[edge.TablePrefix(tenant, d.TableName())+string(id.With(d.IDPrefix()))] = raw
			}
		}
		return true, nil
	})
	rep.Keys = len(want)
	return want, rep, err
}

// isDerived reports whether a key follows from records: index and due entries, and rows of derived tables.
func (x *Exec) isDerived(key string) bool {
	if strings.HasPrefix(key, edge.DuePrefix) {
		return true
	}
	_, rest, ok := strings.Cut(key, "/")
	if !ok {
		return false
	}
	table, _, _ := strings.Cut(rest, "/")
	if name, _, ok := strings.Cut(table, "#"); ok {
		return x.tables[name] != nil
	}
	_, ok = x.tables[table].(interface{ Source() edge.AnyTable })
	return ok
}

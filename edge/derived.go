package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Derived is a table whose records follow from other records: one per record of From, with the same UUID under its own prefix.
// Of is pure, so a rebuild gives identical bytes; it must not depend on the clock (put an until into the record instead).
type Derived[T any] struct {
	Name   string   // domain.noun
	Prefix string   // of its ids
	From   AnyTable // whose records it follows
	Of     func(v View, source ID) (rec T, ok bool, err error)
}

// Find returns the derived record of the source record, ok false when there is none.
func (d *Derived[T]) Find(v View, source ID) (rec T, ok bool, err error) {
	raw, err := v.Get(d.key(v, source))
	if err != nil || raw == nil {
		return rec, false, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, false, fmt.Errorf("decode %s: %w", d.Name, err)
	}
	return rec, true, nil
}

// Refresh computes the derived record of the source anew and writes it if it changed; was and now are nil where there was or is none.
func (d *Derived[T]) Refresh(tx Tx, source ID) (was, now *T, changed bool, err error) {
	key := d.key(tx, source)
	old, err := tx.Get(key)
	if err != nil {
		return nil, nil, false, err
	}
	if old != nil {
		was = new(T)
		if err := json.Unmarshal(old, was); err != nil {
			return nil, nil, false, fmt.Errorf("decode %s: %w", d.Name, err)
		}
	}
	raw, _, err := d.Derive(tx, source)
	if err != nil || bytes.Equal(raw, old) {
		return was, was, false, err
	}
	if raw == nil {
		tx.Delete(key)
		return was, nil, true, nil
	}
	now = new(T)
	if err := json.Unmarshal(raw, now); err != nil {
		return nil, nil, false, fmt.Errorf("decode %s: %w", d.Name, err)
	}
	tx.Put(key, raw)
	return was, now, true, nil
}

func (d *Derived[T]) key(v View, source ID) string {
	return recordKey(v.Actor().Tenant, d.Name, source.With(d.Prefix))
}

// TableName implements AnyTable.
func (d *Derived[T]) TableName() string { return d.Name }

// IDPrefix implements AnyTable.
func (d *Derived[T]) IDPrefix() string { return d.Prefix }

// DueRun implements AnyTable: derived records are never due.
func (d *Derived[T]) DueRun() string { return "" }

// Raw implements AnyTable. A derived record has no version of its own.
func (d *Derived[T]) Raw(v View, id ID) ([]byte, uint64, error) {
	raw, err := v.Get(d.key(v, id))
	return raw, 0, err
}

// Entries implements AnyTable: derived records have no indexes.
func (d *Derived[T]) Entries(string, []byte) (map[string]string, error) { return nil, nil }

// Derive implements AnyTable; id may be the source's or the record's own.
func (d *Derived[T]) Derive(v View, id ID) ([]byte, bool, error) {
	rec, ok, err := d.Of(v, id.With(d.From.IDPrefix()))
	if err != nil || !ok {
		return nil, true, err
	}
	raw, err := json.Marshal(rec)
	if err != nil {
		return nil, true, fmt.Errorf("encode %s: %w", d.Name, err)
	}
	return raw, true, nil
}

// RecordSchema implements AnyTable.
func (d *Derived[T]) RecordSchema() (*Schema, error) { return SchemaOf[T]() }

// Check implements AnyTable.
func (d *Derived[T]) Check() []error {
	errs := checkTable(d.Name, d.Prefix)
	if d.From == nil || d.Of == nil {
		errs = append(errs, fmt.Errorf("table %s: From or Of is missing", d.Name))
	}
	return errs
}

// Source is the table whose records the derived ones follow.
func (d *Derived[T]) Source() AnyTable { return d.From }

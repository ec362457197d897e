package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Table is a typed collection of records of one kind and its other ways in. It builds every key and puts the tenant into it; no
// handler concatenates keys, which is what keeps tenants apart.
type Table[T any] struct {
	Name    string         // domain.noun, e.g. crm.customer
	Prefix  string         // of its ids, e.g. cus
	Meta    func(*T) *Meta // where the record keeps its Meta
	Indexes []Index[T]     // other ways in; "external_id" is added by the table
	Due     *Due[T]        // what falls due, nil for nothing
	Private bool           // never shown: sealed secrets and digests live in private tables beside the record they belong to
}

// Index is another way into a Table. Keys is pure: same record, same keys, no clock. A unique key has one holder per tenant; a global
// one has one holder among all tenants (a NAS address on a shared tower).
type Index[T any] struct {
	Name   string
	Unique bool
	Global bool
	Keys   func(*T) []string
}

// Due says when a record falls due and which command then runs with DueInput. The leader's timer makes an intent whose operation id
// derives from record and due time, so that firing twice is harmless. A zero time is never due.
type Due[T any] struct {
	At  func(*T) time.Time
	Run string // command name; its input is DueInput
}

// DueInput is the input of a command that runs because a record fell due.
type DueInput struct {
	ID ID        `json:"id"`
	At time.Time `json:"at"`
}

// AnyTable is a Table or Derived with its type erased, for the kernel.
type AnyTable interface {
	// TableName is domain.noun; IDPrefix the prefix of its ids, "" where the table shares another's.
	TableName() string
	IDPrefix() string
	// Raw returns the stored bytes of a record, nil when absent, and its record version.
	Raw(v View, id ID) (val []byte, version uint64, err error)
	// Entries returns the index and due keys of a stored record with their values: what a rebuild must find.
	Entries(tenant string, val []byte) (map[string]string, error)
	// Derive recomputes the record at id from its sources, nil when there should be none; ok is false for tables that are not derived.
	Derive(v View, id ID) (val []byte, ok bool, err error)
	// DueRun is the command that runs when a record falls due, "" for none.
	DueRun() string
	// Check names what is wrong with the declaration.
	Check() []error
	// RecordSchema describes the record as the API shows it.
	RecordSchema() (*Schema, error)
}

const (
	maxIndexKey = 512 // octets of one index key; longer is refused as input_invalid
	globalSpace = "*" // the tenant part of keys that are unique among all tenants
)

// recordKey is where a record stands: tenant/table/id.
func recordKey(tenant, table string, id ID) string { return tenant + "/" + table + "/" + string(id) }

// indexPrefix is where the holders of one index key stand: tenant/table#index/key NUL.
func indexPrefix(tenant, table, index, key string) string {
	return tenant + "/" + table + "#" + index + "/" + key + "\x00"
}

// TablePrefix is the prefix of the keys of all records of a table inside a tenant.
func TablePrefix(tenant, table string) string { return tenant + "/" + table + "/" }

// ParseRecordKey splits a record's key; ok is false for index, due and kernel keys.
func ParseRecordKey(key string) (tenant, table string, id ID, ok bool) {
	tenant, rest, ok := strings.Cut(key, "/")
	if !ok || tenant == globalSpace || strings.HasPrefix(tenant, "#") { // # begins the kernel's own keys
		return "", "", "", false
	}
	table, last, ok := strings.Cut(rest, "/")
	if !ok || strings.ContainsAny(table, "#!") || strings.Contains(last, "/") {
		return "", "", "", false
	}
	return tenant, table, ID(last), true
}

// DuePrefix begins the keys of the due index: #due/time/tenant/table/id. Times sort as they pass.
const DuePrefix = "#due/"

func dueKey(at time.Time, tenant, table string, id ID) string {
	return DuePrefix + at.UTC().Format(dueLayout) + "/" + recordKey(tenant, table, id)
}

const dueLayout = "20060102T150405.000000000Z"

// ParseDueKey splits a key of the due index.
func ParseDueKey(key string) (at time.Time, tenant, table string, id ID, ok bool) {
	rest, ok := strings.CutPrefix(key, DuePrefix)
	if !ok {
		return at, "", "", "", false
	}
	stamp, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return at, "", "", "", false
	}
	at, err := time.Parse(dueLayout, stamp)
	if err != nil {
		return at, "", "", "", false
	}
	tenant, table, id, ok = ParseRecordKey(rest)
	return at, tenant, table, id, ok
}

// DueUpTo is the key before which everything is due at t.
func DueUpTo(t time.Time) string { return DuePrefix + t.UTC().Format(dueLayout) + "0" }

// Find returns the record with the id, ok false when the actor's tenant has none.
func (t *Table[T]) Find(v View, id ID) (rec T, ok bool, err error) {
	raw, err := v.Get(recordKey(v.Actor().Tenant, t.Name, id))
	if err != nil || raw == nil {
		return rec, false, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, false, fmt.Errorf("decode %s: %w", t.Name, err)
	}
	return rec, true, nil
}

// Get returns the record with the id, or not_found.
func (t *Table[T]) Get(v View, id ID) (T, error) {
	rec, ok, err := t.Find(v, id)
	if err == nil && !ok {
		err = t.notFound()
	}
	return rec, err
}

func (t *Table[T]) notFound() *Error {
	e := ErrNotFound.Error(NotFound)
	_, noun, _ := strings.Cut(t.Name, ".")
	e.Message = "There is no such " + strings.ReplaceAll(noun, "_", " ")
	return e
}

// By returns the holder of a unique key, or not_found.
func (t *Table[T]) By(v View, index, key string) (rec T, err error) {
	ix, err := t.index(index)
	if err != nil {
		return rec, err
	}
	if !ix.Unique {
		return rec, fmt.Errorf("%s: index %s is not unique", t.Name, index)
	}
	holder, err := v.Get(t.uniqueKey(ix, v.Actor().Tenant, key))
	if err != nil {
		return rec, err
	}
	if holder == nil {
		return rec, t.notFound()
	}
	tenant, id := splitHolder(v.Actor().Tenant, ix.Global, holder)
	if tenant != v.Actor().Tenant {
		return rec, t.notFound()
	}
	return t.Get(v, id)
}

// Range yields the records whose index holds key, in id order; with index "" every record of the tenant. It reads as it goes: stop
// early where you can, and prefer List where a client waits.
func (t *Table[T]) Range(v View, index, key string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		err := t.scan(v, index, key, "", func(rec T) (bool, error) { return yield(rec, nil), nil })
		if err != nil {
			var zero T
			yield(zero, err)
		}
	}
}

// scan visits records after the given id.
func (t *Table[T]) scan(v View, index, key string, after ID, visit func(T) (bool, error)) error {
	tenant := v.Actor().Tenant
	if index == "" {
		prefix := TablePrefix(tenant, t.Name)
		return v.Scan(prefix, next(prefix, after), func(_ string, val []byte) (bool, error) {
			var rec T
			if err := json.Unmarshal(val, &rec); err != nil {
				return false, fmt.Errorf("decode %s: %w", t.Name, err)
			}
			return visit(rec)
		})
	}
	ix, err := t.index(index)
	if err != nil {
		return err
	}
	if ix.Unique {
		rec, err := t.By(v, index, key)
		if errors.Is(err, ErrNotFound.Error(NotFound)) || err == nil && t.Meta(&rec).ID <= after {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = visit(rec)
		return err
	}
	prefix := indexPrefix(tenant, t.Name, index, key)
	return v.Scan(prefix, next(prefix, after), func(k string, _ []byte) (bool, error) {
		rec, err := t.Get(v, ID(k[len(prefix):]))
		if err != nil {
			return false, err
		}
		return visit(rec)
	})
}

// next is the first key after id under prefix.
func next(prefix string, id ID) string {
	if id == "" {
		return prefix
	}
	return prefix + string(id) + "\x00"
}

// Put writes a new record or a changed one: it stamps Meta, checks unique keys and writes the index entries, all in this commit. A
// changed record must have been read in this View or carry the stored version, else version_moved.
func (t *Table[T]) Put(tx Tx, rec *T) error {
	m, actor := t.Meta(rec), tx.Actor()
	if m.ID.Prefix() != t.Prefix {
		return fmt.Errorf("put %s: id %q lacks the prefix %s", t.Name, m.ID, t.Prefix)
	}
	key := recordKey(actor.Tenant, t.Name, m.ID)
	old, err := tx.Get(key)
	if err != nil {
		return err
	}
	m.TenantID, m.UpdatedAt, m.UpdatedBy = actor.Tenant, tx.Now().UTC(), actor.Subject
	var was *T
	if old == nil {
		if m.Version != 0 {
			return t.notFound()
		}
		m.CreatedAt, m.CreatedBy = m.UpdatedAt, m.UpdatedBy
	} else {
		was = new(T)
		if err := json.Unmarshal(old, was); err != nil {
			return fmt.Errorf("decode %s: %w", t.Name, err)
		}
		if wm := t.Meta(was); wm.Version != m.Version {
			e := ErrVersion.Error(Conflict)
			e.Version = wm.Version
			return e
		}
	}
	m.Version++
	raw, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode %s: %w", t.Name, err)
	}
	if err := t.reindex(tx, was, rec); err != nil {
		return err
	}
	tx.Put(key, raw)
	return nil
}

// Delete removes the record and its index entries. A record that is not there is not_found.
func (t *Table[T]) Delete(tx Tx, id ID) error {
	rec, err := t.Get(tx, id)
	if err != nil {
		return err
	}
	if err := t.reindex(tx, &rec, nil); err != nil {
		return err
	}
	tx.Delete(recordKey(tx.Actor().Tenant, t.Name, id))
	return nil
}

// reindex replaces the index entries of was by those of now; either may be nil.
func (t *Table[T]) reindex(tx Tx, was, now *T) error {
	tenant := tx.Actor().Tenant
	before, err := t.entries(tenant, was)
	if err != nil {
		return err
	}
	after, err := t.entries(tenant, now)
	if err != nil {
		return err
	}
	return replaceEntries(tx, t.Name, before, after)
}

func replaceEntries(tx Tx, table string, before, after []indexEntry) error {
	for _, e := range before {
		if !hasEntry(after, e) {
			tx.Delete(e.key)
		}
	}
	for _, e := range after {
		if hasEntry(before, e) {
			continue
		}
		if e.unique {
			holder, err := tx.Get(e.key)
			if err != nil {
				return err
			}
			if holder != nil {
				return uniqueConflict(table, e.index)
			}
		}
		tx.Put(e.key, []byte(e.val))
	}
	return nil
}

func uniqueConflict(table, index string) *Error {
	e := ErrUnique.Error(Conflict, Field("/"+index, "is held by another record", "use another value"))
	_, noun, _ := strings.Cut(table, ".")
	e.Message = fmt.Sprintf("Another %s already holds this %s", strings.ReplaceAll(noun, "_", " "), strings.ReplaceAll(index, "_", " "))
	return e
}

type indexEntry struct {
	key, val, index string
	unique          bool
}

func hasEntry(list []indexEntry, e indexEntry) bool {
	for i := range list {
		if list[i].key == e.key && list[i].val == e.val {
			return true
		}
	}
	return false
}

// entries lists a record's index and due keys in declaration order.
func (t *Table[T]) entries(tenant string, rec *T) ([]indexEntry, error) {
	if rec == nil {
		return nil, nil
	}
	m := t.Meta(rec)
	var list []indexEntry
	add := func(ix Index[T], key string) error {
		if len(key) > maxIndexKey || strings.IndexByte(key, 0) >= 0 {
			return ErrInput.Error(Invalid, Field("/"+ix.Name, "is too long or holds a NUL", fmt.Sprintf("use at most %d octets without NUL", maxIndexKey)))
		}
		if ix.Unique {
			list = append(list, indexEntry{t.uniqueKey(ix, tenant, key), holderValue(tenant, ix.Global, m.ID), ix.Name, true})
		} else {
			list = append(list, indexEntry{indexPrefix(tenant, t.Name, ix.Name, key) + string(m.ID), "", ix.Name, false})
		}
		return nil
	}
	if m.ExternalID != "" {
		if err := add(externalID[T](), m.ExternalID); err != nil {
			return nil, err
		}
	}
	for _, ix := range t.Indexes {
		for _, k := range ix.Keys(rec) {
			if err := add(ix, k); err != nil {
				return nil, err
			}
		}
	}
	if t.Due != nil {
		if at := t.Due.At(rec); !at.IsZero() {
			list = append(list, indexEntry{dueKey(at, tenant, t.Name, m.ID), "", "due", false})
		}
	}
	return list, nil
}

func externalID[T any]() Index[T] { return Index[T]{Name: "external_id", Unique: true} }

func (t *Table[T]) index(name string) (Index[T], error) {
	if name == "external_id" {
		return externalID[T](), nil
	}
	for _, ix := range t.Indexes {
		if ix.Name == name {
			return ix, nil
		}
	}
	return Index[T]{}, ErrIndexUnknown.Error(Invalid)
}

func (t *Table[T]) uniqueKey(ix Index[T], tenant, key string) string {
	if ix.Global {
		tenant = globalSpace
	}
	return strings.TrimSuffix(indexPrefix(tenant, t.Name, ix.Name, key), "\x00")
}

// holderValue is what a unique key holds: the id, preceded by the tenant where all tenants share the key.
func holderValue(tenant string, global bool, id ID) string {
	if global {
		return tenant + "/" + string(id)
	}
	return string(id)
}

func splitHolder(tenant string, global bool, holder []byte) (string, ID) {
	if global {
		owner, id, _ := bytes.Cut(holder, []byte("/"))
		return string(owner), ID(id)
	}
	return tenant, ID(holder)
}

// TableName implements AnyTable.
func (t *Table[T]) TableName() string { return t.Name }

// IDPrefix implements AnyTable.
func (t *Table[T]) IDPrefix() string { return t.Prefix }

// DueRun implements AnyTable.
func (t *Table[T]) DueRun() string {
	if t.Due == nil {
		return ""
	}
	return t.Due.Run
}

// Raw implements AnyTable.
func (t *Table[T]) Raw(v View, id ID) ([]byte, uint64, error) {
	raw, err := v.Get(recordKey(v.Actor().Tenant, t.Name, id))
	if err != nil || raw == nil {
		return nil, 0, err
	}
	version, err := storedVersion(raw)
	if err != nil {
		return nil, 0, fmt.Errorf("decode %s: %w", t.Name, err)
	}
	if t.Private {
		return nil, version, nil
	}
	return raw, version, nil
}

// storedVersion reads the version of a stored record without decoding the rest. Inside a string the quotes would be escaped, so the first
// match before any nested object is the member itself.
func storedVersion(raw []byte) (uint64, error) {
	const member = `,"version":`
	if i := bytes.Index(raw, []byte(member)); i > 0 && bytes.IndexByte(raw[1:i], '{') < 0 {
		var n uint64
		digits := raw[i+len(member):]
		for len(digits) > 0 && digits[0] >= '0' && digits[0] <= '9' {
			n, digits = n*10+uint64(digits[0]-'0'), digits[1:]
		}
		if n > 0 {
			return n, nil
		}
	}
	var m struct {
		Version uint64 `json:"version"`
	}
	err := json.Unmarshal(raw, &m)
	return m.Version, err
}

// Entries implements AnyTable.
func (t *Table[T]) Entries(tenant string, val []byte) (map[string]string, error) {
	rec := new(T)
	if err := json.Unmarshal(val, rec); err != nil {
		return nil, fmt.Errorf("decode %s: %w", t.Name, err)
	}
	list, err := t.entries(tenant, rec)
	if err != nil {
		return nil, err
	}
	m := make(map[string]string, len(list))
	for _, e := range list {
		m[e.key] = e.val
	}
	return m, nil
}

// Derive implements AnyTable: a Table is never derived.
func (t *Table[T]) Derive(View, ID) ([]byte, bool, error) { return nil, false, nil }

// RecordSchema implements AnyTable.
func (t *Table[T]) RecordSchema() (*Schema, error) { return SchemaOf[T]() }

// Check implements AnyTable.
func (t *Table[T]) Check() []error {
	errs := checkTable(t.Name, t.Prefix)
	if t.Meta == nil {
		errs = append(errs, fmt.Errorf("table %s: Meta is missing", t.Name))
	}
	return append(errs, checkIndexes(t.Name, t.Indexes)...)
}

func checkTable(name, prefix string) (errs []error) {
	if d, n, ok := strings.Cut(name, "."); !ok || d == "" || n == "" || strings.ContainsAny(name, "/#!") {
		errs = append(errs, fmt.Errorf("table %q: the name must be domain.noun", name))
	}
	if !(ID(prefix + "_00000000-0000-0000-0000-000000000000")).Valid() {
		errs = append(errs, fmt.Errorf("table %s: the id prefix %q must be 2 to 8 letters or digits", name, prefix))
	}
	return errs
}

func checkIndexes[T any](table string, list []Index[T]) (errs []error) {
	seen := map[string]bool{"external_id": true, "due": true}
	for _, ix := range list {
		errs = append(errs, checkIndex(table, ix.Name, ix.Keys != nil, ix.Unique, ix.Global, seen)...)
	}
	return errs
}

func checkIndex(table, name string, keys, unique, global bool, seen map[string]bool) (errs []error) {
	if name == "" || !keys || seen[name] || strings.ContainsAny(name, "/#!") {
		errs = append(errs, fmt.Errorf("table %s: index %q is unnamed, without Keys or declared twice", table, name))
	}
	seen[name] = true
	if global && !unique {
		errs = append(errs, fmt.Errorf("table %s: index %s is global but not unique", table, name))
	}
	return errs
}

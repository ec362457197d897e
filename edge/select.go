package edge

import (
	"fmt"
	"strings"
)

// Filter narrows a list beyond one index key. Index and Key are as in List, and Keep thins the page by further conditions.
type Filter[T any] struct {
	Index, Key string
	Prefix     bool     // every index key that begins with Key, in key order; such keys are at most 100 octets long
	Also       []string // the further conditions' values: they tie the cursor to them
	Keep       func(*T) bool
}

// maxLooked bounds how many records one page of Select looks at, however few of them Keep accepts.
const maxLooked = 1000

// Select returns a page of the records that the filter accepts. A page may hold fewer records than the limit, even none, and still
// have more behind it: it ends when maxLooked records were looked at, so a rare match never holds up the node.
func (t *Table[T]) Select(v View, f Filter[T], in ListInput) (Page[T], error) {
	limit := in.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	limit = min(limit, MaxLimit)
	list := strings.Join(append([]string{v.Actor().Tenant, t.Name, f.Index, f.Key, fmt.Sprint(f.Prefix)}, f.Also...), "\x00")
	after, err := openCursor(list, in.Cursor)
	if err != nil {
		return Page[T]{}, err
	}
	page, looked, last := Page[T]{Data: []T{}}, 0, ID("")
	visit := func(at ID, rec T) bool {
		if len(page.Data) == limit || looked == maxLooked {
			page.HasMore = true
			return false
		}
		looked, last = looked+1, at
		if f.Keep == nil || f.Keep(&rec) {
			page.Data = append(page.Data, rec)
		}
		return true
	}
	if f.Prefix {
		err = t.scanPrefix(v, f.Index, f.Key, string(after), visit)
	} else {
		err = t.scan(v, f.Index, f.Key, after, func(rec T) (bool, error) { return visit(t.Meta(&rec).ID, rec), nil })
	}
	if err != nil {
		return Page[T]{}, err
	}
	if page.HasMore {
		page.NextCursor = sealCursor(list, last)
	}
	return page, nil
}

// scanPrefix visits each record once for the index keys that begin with prefix, after the position of a former visit. A position is the
// rest of the index entry's key: index key, NUL, id.
func (t *Table[T]) scanPrefix(v View, index, prefix, after string, visit func(ID, T) bool) error {
	ix, err := t.index(index)
	if err != nil {
		return err
	}
	if ix.Unique || ix.Keys == nil {
		return fmt.Errorf("%s: index %s cannot be searched by prefix", t.Name, index)
	}
	base := strings.TrimSuffix(indexPrefix(v.Actor().Tenant, t.Name, index, ""), "\x00")
	from := base + prefix
	if after != "" {
		from = base + after + "\x00"
	}
	return v.Scan(base+prefix, from, func(k string, _ []byte) (bool, error) {
		key, id, ok := strings.Cut(k[len(base):], "\x00")
		if !ok {
			return true, nil
		}
		rec, err := t.Get(v, ID(id))
		if err != nil {
			return false, err
		}
		for _, other := range ix.Keys(&rec) { // found under a smaller key already
			if other < key && strings.HasPrefix(other, prefix) {
				return true, nil
			}
		}
		return visit(ID(k[len(base):]), rec), nil
	})
}

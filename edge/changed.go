package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// stamped are the members that Table.Put writes by itself: a change of theirs alone is no change.
var stamped = []string{"id", "tenant_id", "version", "created_at", "created_by", "updated_at", "updated_by"}

// Changed names the members in which two states of a record differ, sorted by their JSON names; what Table.Put stamps does not count.
// It is what an updated event carries, and an update for which it is empty is success without effect.
func Changed[T any](was, now *T) ([]string, error) {
	before, err := members(was)
	if err != nil {
		return nil, err
	}
	after, err := members(now)
	if err != nil {
		return nil, err
	}
	var names []string
	for name, val := range after {
		if !bytes.Equal(val, before[name]) {
			names = append(names, name)
		}
		delete(before, name)
	}
	for name := range before {
		names = append(names, name)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(stamped, n) })
	slices.Sort(names)
	return names, nil
}

func members(rec any) (map[string]json.RawMessage, error) {
	raw, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", rec, err)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("decode %T: %w", rec, err)
	}
	return m, nil
}

package exec

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"wispgate/edge"
)

// Seen is what an accepting node had before it when it said yes to a change of a record: the version, and a digest of each member that
// the change names. At the rebase a change of other members stands beside it, the same change is none, and another one is a conflict.
type Seen struct {
	Version uint64            `json:"version"`
	Members map[string]string `json:"members,omitempty"`
}

// remember notes what the intent's record looks like here and now.
func (x *Exec) remember(st *State, in *Intent) error {
	if len(in.Calls) != 1 {
		return nil
	}
	record, version, input, err := x.compared(&view{exec: x, state: st, actor: in.Actor}, in)
	if err != nil || version == 0 {
		return err
	}
	in.Seen = &Seen{Version: version, Members: map[string]string{}}
	for name := range input {
		in.Seen.Members[name] = memberDigest(record[name])
	}
	return nil
}

// compared reads the record that the intent's only call is about, and the call's input, both by member. version is 0 where there is none.
func (x *Exec) compared(v edge.View, in *Intent) (record map[string]json.RawMessage, version uint64, input map[string]json.RawMessage, err error) {
	op := x.ops[in.Calls[0].Op]
	if op == nil || !op.Matches {
		return nil, 0, nil, nil
	}
	decoded, err := op.Decode(in.Calls[0].In)
	if err != nil {
		return nil, 0, nil, err
	}
	id := op.Record(decoded)
	table := x.byID[id.Prefix()]
	if table == nil {
		return nil, 0, nil, nil
	}
	raw, version, err := table.Raw(v, id)
	if err != nil || raw == nil {
		return nil, 0, nil, err
	}
	if err := json.Unmarshal(raw, &record); err != nil {
		return nil, 0, nil, fmt.Errorf("decode %s: %w", table.TableName(), err)
	}
	if err := json.Unmarshal(in.Calls[0].In, &input); err != nil {
		return nil, 0, nil, fmt.Errorf("decode input of %s: %w", op.Name, err)
	}
	delete(input, "id")
	var removed []string // members that the change takes away by name
	if json.Unmarshal(input["clear"], &removed) == nil && op.In.Field("clear") != nil {
		delete(input, "clear")
		for _, name := range removed {
			input[name] = nil
		}
	}
	return record, version, input, nil
}

func memberDigest(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// fieldConflict refuses a rebased change of a member that somebody else has set otherwise meanwhile.
func (x *Exec) fieldConflict(t *tx) error {
	in := t.intent
	if in.Seen == nil || !t.ack {
		return nil
	}
	record, version, input, err := x.compared(t, in)
	if err != nil || version == 0 {
		return err
	}
	// The same version proves nothing: where the node had changed the record before, it is one that only its overlay counted, and the cluster
	// has reached it by another change. The members tell.
	var fields []edge.FieldError
	for _, name := range slices.Sorted(maps.Keys(input)) {
		if memberDigest(record[name]) != in.Seen.Members[name] && !bytes.Equal(record[name], input[name]) {
			fields = append(fields, edge.Field("/"+name, "was set otherwise meanwhile", "decide which value holds"))
		}
	}
	if fields == nil {
		return nil
	}
	return edge.ErrFieldConflict.Error(edge.Conflict, fields...)
}

package exec

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"wispgate/edge"
)

func TestAnAnswerIsEncodedAsJSONDoes(t *testing.T) {
	t.Parallel()
	result := func(v any) json.RawMessage {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	odd := result(map[string]any{"text": `<b>,"r":[</b>` + "\u2028", "list": []int{1, 2}, "none": nil})
	for name, a := range map[string]answer{
		"no results":   {Digest: "d"},
		"none, listed": {Digest: "d", Results: []json.RawMessage{}},
		"one":          {Digest: "0a1b", Version: 7, Results: []json.RawMessage{result(strings.Repeat("v", 100))}},
		"several":      {Digest: "0a1b", Version: 7, Results: []json.RawMessage{odd, result(nil), odd}, Conflict: edge.ID("scf_1"), Pending: true},
		"odd digest":   {Digest: `x","r":[1]`, Version: 1 << 63, Results: []json.RawMessage{odd}},
	} {
		got, err := a.encode()
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// What a node has acknowledged waits where it cannot be seen whether it is done; a conflict would ask a person to decide about the disk.
func TestAStateThatCannotBeReadIsNoConflict(t *testing.T) {
	t.Parallel()
	why := edge.ErrQuorumLost.Error(edge.Unavailable)
	made, _, err := new(Exec).raise(nil, &Intent{Origin: &Origin{Node: "n2", Queue: "q", Seq: 1}}, why)
	if made != nil || !errors.Is(err, why) {
		t.Errorf("got %v, %v", made, err)
	}
}

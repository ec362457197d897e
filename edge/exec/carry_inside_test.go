package exec

import (
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"

	"wispgate/edge"
)

// Where a member of before ChainLevel might lead, a request holds no more intents than that takes: also one that is made of a bundle.
func TestABundleIsHandedOverInRequestsThatTheLeaderTakes(t *testing.T) {
	t.Parallel()
	x, _ := follower(t, formerForwarded)
	x.cfg.Now = time.Now
	const writes = 2*formerForwarded + 1
	q := QueueRest{Node: "n2", Queue: "q", First: 1, Last: writes, Count: writes}
	n := uint64(0)
	c := carrier{Exec: x, records: q.Carried(), next: func() ([]byte, error) {
		if n++; n > writes {
			return nil, io.EOF
		}
		return json.Marshal(Intent{
			Operation: fmt.Sprint("o", n), Actor: edge.Actor{Tenant: "acme", Subject: "cli"}, Digest: "d", Acknowledged: true,
			Calls: []edge.Call{{Op: "test", In: json.RawMessage(`{}`)}}, Origin: &Origin{Node: "n2", Queue: "q", Seq: n, After: n - 1},
		})
	}}
	done := 0
	for done < writes {
		page, err := c.page()
		if err != nil {
			t.Fatal(err)
		}
		answers, err := x.submit(t.Context(), page)
		if err != nil {
			t.Fatalf("%d intents at once: %v", len(page), err)
		}
		done += len(answers)
	}
}

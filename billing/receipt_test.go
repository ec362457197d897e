package billing_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wispgate/billing"
	"wispgate/edge"
	"wispgate/edge/edgetest"
)

// meddling is what somebody with a key to the database does: a record written anew, or gone with its place in the index.
type meddling struct {
	ID    edge.ID `json:"id" check:"prefix=pay"`
	Entry string  `json:"entry,omitempty" check:"max=200"`
	Raw   string  `json:"raw,omitempty" check:"max=100000"`
}

var meddle = edge.Command[meddling, edge.None]{
	Name: "test.payment.meddle", Scope: "test:write", Class: edge.Write, Summary: "Write into the database",
	Handle: func(tx edge.Tx, in meddling) (edge.None, error) {
		key := edge.TablePrefix("acme", "billing.payment") + string(in.ID)
		if in.Raw != "" {
			tx.Put(key, []byte(in.Raw))
			return edge.None{}, nil
		}
		tx.Delete(key)
		tx.Delete("acme/billing.payment#receipt/" + in.Entry + "\x00" + string(in.ID))
		return edge.None{}, nil
	},
}

func TestWhoMeddlesWithReceiptsIsFound(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, billing.ModuleWith(edgetest.Key), edge.Module{Name: "test", Ops: []*edge.Op{meddle.Op()}})
	var all []payment
	for i := range 9 {
		all = append(all, pay(t, n, cash(int64(100+i), "")))
	}
	rewrite := func(p payment) {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		edgetest.Do[edge.None](t, n, ann, meddle.Name, meddling{ID: p.ID, Raw: string(raw)})
	}
	lowered := all[1]
	lowered.Amount.AmountMinor = 1
	rewrite(lowered)
	for _, gone := range all[3:5] {
		edgetest.Do[edge.None](t, n, ann, meddle.Name, meddling{ID: gone.ID, Entry: fmt.Sprintf("n1/%012d", gone.Receipt.Link.Number)})
	}
	forged := all[7] // signed anew over other words, by another key
	l := forged.Receipt.Link
	if err := l.Seal("anything", func(m []byte) []byte { return m[:64] }); err != nil {
		t.Fatal(err)
	}
	forged.Receipt.Link.Hash = l.Hash
	rewrite(forged)
	problems := func(c billing.Chain) (list []string) {
		for _, f := range c.Findings {
			list = append(list, fmt.Sprintf("%d-%d %s", f.Number, f.Last, f.Problem))
		}
		return list
	}
	whole := edgetest.Ask[billing.Chain](t, n, ann, "billing.receipt.chain", billing.ChainInput{Node: "n1"})
	want := []string{"2-0 content", "4-5 missing", "8-0 content", "9-0 hash"}
	if got := problems(whole); !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var paged []string
	in := billing.ChainInput{Node: "n1", Limit: 2}
	for {
		c := edgetest.Ask[billing.Chain](t, n, ann, "billing.receipt.chain", in)
		paged = append(paged, problems(c)...)
		if in.Cursor = c.NextCursor; in.Cursor == "" {
			break
		}
	}
	if !cmp.Equal(paged, want) {
		t.Errorf("by pages: got %v, want %v", paged, want)
	}
	got := edgetest.Ask[billing.ReceiptVerdicts](t, n, ann, "billing.receipt.verify", billing.VerifyInput{ID: lowered.ID}).Receipts[0]
	if got.Content || got.Signature != "wrong" {
		t.Errorf("the lowered amount: got %+v", got)
	}
	given := edgetest.Ask[billing.Chain](t, n, ann, "billing.receipt.chain", billing.ChainInput{Node: "n1", PublicKey: hex.EncodeToString(edgetest.Key("n1"))})
	if known := edgetest.Ask[billing.Chain](t, n, ann, "billing.receipt.chain", billing.ChainInput{Node: "n1"}); !cmp.Equal(given, known) {
		t.Errorf("with the key given as in audit.pub: %+v, else %+v", given, known)
	}
	other := edgetest.Ask[billing.Chain](t, n, ann, "billing.receipt.chain", billing.ChainInput{Node: "n1", PublicKey: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="})
	if n := len(other.Findings); n != len(whole.Findings)+5 {
		t.Errorf("by another key: %d findings, want each receipt's signature among them", n)
	}
	before := n.Machine.Version()
	edgetest.Do[billing.Chain](t, n, ann, "billing.receipt.audit", billing.ChainInput{Node: "n1"})
	alarms := edgetest.EventTypes(t, n, "acme", before)
	if len(alarms) != 4 || slices.ContainsFunc(alarms, func(e string) bool { return e != "billing.collector.chain_broken" }) {
		t.Errorf("got alarms %v", alarms)
	}
	if c := edgetest.Ask[billing.Chain](t, n, ann, "billing.receipt.chain", billing.ChainInput{Node: "n2"}); c.Checked != 0 || len(c.Findings) != 0 {
		t.Errorf("a node without receipts: got %+v", c)
	}
	for name, q := range map[string]billing.ChainInput{"cursor_invalid": {Node: "n1", Cursor: "3.x"}, "public_key_invalid": {Node: "n1", PublicKey: "AAAA"}} {
		if _, _, err := n.Ask(t.Context(), ann, "billing.receipt.chain", mustJSON(t, q), 0); edgetest.CodeOf(t, err) != name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
}

func mustJSON(t *testing.T, v any) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

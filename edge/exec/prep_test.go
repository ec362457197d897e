package exec_test

import (
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
)

type slip struct {
	Label string    `json:"label" check:"max=20"`
	Link  edge.Link `json:"link,omitzero" check:"internal"`
}

// sellBox gives a box away for a slip. It is refused while there is no box of the label, after its number was taken.
var sellBox = edge.Command[slip, slip]{
	Name: "test.box.sell", Scope: "test:write", Summary: "Sell a box.", Class: edge.Money, Offline: true,
	Prepare: func(p edge.Prep, in *slip) (err error) {
		in.Link, err = p.Link("RCT", func(uint64) any { return in.Label })
		return err
	},
	Handle: func(tx edge.Tx, in slip) (slip, error) {
		_, err := boxes.By(tx, "label", in.Label)
		return in, err
	},
}

func withSlips() edge.Module {
	m := offline()
	m.Ops = append(m.Ops, sellBox.Op(), openBox.Op())
	return m
}

func TestAPaymentThatComesAgainHasTheNumberItHad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := edgetest.Open(t, dir, edgetest.Modules(withSlips()))
	sell := func(key, label string) (slip, error) {
		out, _, err := edgetest.Try[slip](h, acme, edge.Request{Key: key}, sellBox.Name, slip{Label: label})
		return out, err
	}
	for _, label := range []string{"a", "b"} {
		edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: label})
	}
	if _, _, err := edgetest.Try[slip](h, acme, edge.Request{DryRun: true}, sellBox.Name, slip{Label: "a"}); err != nil {
		t.Fatal(err)
	}
	first, err := sell("k1", "a")
	if err != nil || first.Link.Number != 1 || !first.Link.Verify("a", edgetest.Key("n1")) {
		t.Fatalf("after a dry run: got %+v, %v, want number 1, signed", first.Link, err)
	}
	if _, err := sell("k2", "later"); edgetest.CodeOf(t, err) != "not_found" {
		t.Fatal(err)
	}
	h.Close()
	h = edgetest.Open(t, dir, edgetest.Modules(withSlips()))
	third, err := sell("k3", "b")
	if err != nil || third.Link.Number != 3 {
		t.Fatalf("got %+v, %v, want number 3", third.Link, err)
	}
	edgetest.Do[box](t, h, acme, makeBox.Name, newBox{Label: "later"})
	second, err := sell("k2", "later")
	if err != nil || !second.Link.Follows(first.Link) || !third.Link.Follows(second.Link) {
		t.Errorf("the chain has a gap: %+v, %+v, %+v, %v", first.Link, second.Link, third.Link, err)
	}
	if _, err := sell("k2", "a"); edgetest.CodeOf(t, err) != "idempotency_key_reused" {
		t.Errorf("the same key with another body: %v", err)
	}
}

// openBox notes when somebody said yes.
var openBox = edge.Command[paint, box]{
	Name: "test.box.open", Scope: "test:write", Summary: "Note when.", Class: edge.Write, Offline: true,
	Handle: func(tx edge.Tx, in paint) (box, error) {
		b, err := boxes.Get(tx, in.ID)
		if err != nil {
			return b, err
		}
		b.Color = edge.AcceptedAt(tx).Format("15:04:05")
		return b, boxes.Put(tx, &b)
	},
}

func TestWhenANodeSaidYesStaysAtTheRebase(t *testing.T) {
	t.Parallel()
	c := edgetest.NewCluster(t, 2, edgetest.Modules(withSlips(), syncPart()), quick)
	leader, tower := c.Nodes[0], c.Nodes[1]
	b := edgetest.Do[box](t, leader.Harness, acme, makeBox.Name, newBox{Label: "a"})
	if got := edgetest.Do[box](t, tower.Harness, acme, openBox.Name, paint{ID: b.ID}); got.Color != "12:00:00" {
		t.Errorf("with a quorum: got %s", got.Color)
	}
	tower.CutAndNotice()
	tower.Clock.Advance(time.Hour)
	edgetest.Do[box](t, tower.Harness, acme, openBox.Name, paint{ID: b.ID})
	if got := labels(t, tower)["a"]; got != "13:00:00" {
		t.Errorf("at the tower: got %s", got)
	}
	leader.Clock.Advance(5 * time.Hour)
	tower.Clock.Advance(4 * time.Hour)
	tower.HealAndDrain()
	for _, m := range c.Nodes {
		if got := labels(t, m)["a"]; got != "13:00:00" {
			t.Errorf("%s after the rebase: got %s, want the time of the promise", m.Name, got)
		}
	}
	c.Agree()
}

func TestWhatCameTwiceMayNoteIt(t *testing.T) {
	t.Parallel()
	stamp := edge.Command[slip, box]{
		Name: "test.box.stamp", Scope: "test:write", Summary: "Stamp a box.", Class: edge.Money, Offline: true, Prepare: sellBox.Prepare,
		Handle: func(tx edge.Tx, in slip) (box, error) {
			b := box{Meta: edge.Meta{ID: tx.NewID("box")}, Label: in.Label, Color: in.Link.Node}
			tx.Emit(boxMade{b.ID, b.Label})
			return b, boxes.Put(tx, &b)
		},
		Again: func(tx edge.Tx, in slip) error {
			b, err := boxes.Get(tx, tx.NewID("box"))
			if err != nil {
				return err
			}
			b.Color += " " + in.Link.Node
			tx.Emit(boxMade{b.ID, b.Label})
			return boxes.Put(tx, &b)
		},
	}
	m := offline()
	m.Ops = append(m.Ops, stamp.Op())
	c := edgetest.NewCluster(t, 2, edgetest.Modules(m, syncPart()), quick)
	leader, tower := c.Nodes[0], c.Nodes[1]
	tower.CutAndNotice()
	for _, at := range []*edgetest.Member{tower, leader} {
		for _, key := range []string{"k1", "k2"} {
			if _, _, err := edgetest.Try[box](at.Harness, acme, edge.Request{Key: key}, stamp.Name, slip{Label: key}); err != nil {
				t.Fatal(err)
			}
		}
	}
	tower.HealAndDrain()
	for _, n := range c.Nodes {
		if got := labels(t, n); len(got) != 2 || got["k1"] != "n1 n2" || got["k2"] != "n1 n2" {
			t.Errorf("%s has %v, want each box once, stamped by both", n.Name, got)
		}
	}
	c.Agree()
	if got := edgetest.EventTypes(t, leader.Harness, "acme", 0); len(got) != 2 {
		t.Errorf("got events %v, want those of the first time", got)
	}
}

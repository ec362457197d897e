package billing

import (
	"fmt"
	"strings"

	"wispgate/edge"
)

// ChainInput names a node whose receipts are checked, a page of them at a time.
type ChainInput struct {
	Node      string `json:"node" check:"min=1 max=64" doc:"The node that issued them." example:"tower7-a"`
	PublicKey string `json:"public_key,omitempty" check:"max=64" doc:"The node's Ed25519 public key, hexadecimal as in its audit.pub or in base64; absent: as this node knows it."`
	Limit     int    `json:"limit,omitempty" check:"min=1 max=200" doc:"Receipts to look at, 200 unless given."`
	Cursor    string `json:"cursor,omitempty" check:"max=300" doc:"next_cursor of the answer before."`
}

// ChainFinding is a place where receipts do not follow each other.
type ChainFinding struct {
	Number    uint64  `json:"number" doc:"The number where it shows." example:"43"`
	Last      uint64  `json:"last,omitempty" doc:"Where several numbers in a row are missing: the last of them."`
	Problem   string  `json:"problem" check:"enum=missing|hash|content|signature|repeated" doc:"missing: no payment bears the number. hash: it does not follow the one before. content: the payment does not say what was signed. signature: the node's key did not sign it. repeated: it was used twice." example:"missing"`
	PaymentID edge.ID `json:"payment_id" check:"prefix=pay" doc:"The payment where it shows; for missing numbers the one after them."`
}

// Chain is what a check of a node's receipts found.
type Chain struct {
	Node       string         `json:"node" check:"max=64" doc:"The node."`
	First      uint64         `json:"first" doc:"First number there is; 0 for none."`
	Last       uint64         `json:"last" doc:"Last number looked at; 0 for none."`
	Checked    int            `json:"checked" doc:"Receipts looked at."`
	Signatures bool           `json:"signatures" doc:"Whether signatures were checked. A node knows its own key only: where it is false, ask the node that issued them, or give its public_key (audit.pub in its data folder; a backup of it shows it, too)."`
	Findings   []ChainFinding `json:"findings" check:"max=1000" doc:"What is wrong, in order; empty: nothing."`
	NextCursor string         `json:"next_cursor,omitempty" check:"max=300" doc:"Pass it as cursor to go on; absent: the chain's end is reached."`
}

// getChain checks a node's receipts: a missing, altered or repeated one shows.
func getChain(keys Keyring) edge.Query[ChainInput, Chain] {
	return edge.Query[ChainInput, Chain]{
		Name: "billing.receipt.chain", Scope: "billing:read", Class: edge.Report, Summary: "Check a node's chain of receipts: gaps, broken links, signatures",
		Handle: func(v edge.View, in ChainInput) (Chain, error) { return in.check(v, keys) },
	}
}

// AuditReceipts checks as the query does and raises an alarm for each finding. It knows no keys but the one given: what a command does
// must not depend on where it is evaluated.
var AuditReceipts = edge.Command[ChainInput, Chain]{
	Name: "billing.receipt.audit", Scope: "billing:write", Class: edge.Write, Summary: "Check a node's chain of receipts and raise an alarm for each finding",
	Handle: func(tx edge.Tx, in ChainInput) (Chain, error) {
		c, err := in.check(tx, nil)
		for _, f := range c.Findings {
			tx.Emit(CollectorChainBroken{f.PaymentID, c.Node, f.Number, f.Problem})
		}
		return c, err
	},
}

// check looks at a page of a node's receipts.
func (in ChainInput) check(v edge.View, keys Keyring) (Chain, error) {
	c := Chain{Node: in.Node, Findings: []ChainFinding{}}
	keys, err := keys.orGiven(in.PublicKey)
	if err != nil {
		return c, err
	}
	last, cursor := uint64(0), ""
	if in.Cursor != "" {
		at, rest, ok := strings.Cut(in.Cursor, ".")
		if _, err := fmt.Sscanf(at, "%d", &last); err != nil || !ok {
			return c, edge.ErrCursor.Error(edge.Invalid)
		}
		cursor = rest
	}
	if in.Limit == 0 {
		in.Limit = edge.MaxLimit
	}
	page, err := payments.Select(v, edge.Filter[Payment]{Index: "receipt", Key: in.Node + "/", Prefix: true}, edge.ListInput{Limit: in.Limit, Cursor: cursor})
	if err != nil {
		return c, err
	}
	key := keys(in.Node)
	c.Signatures, c.Last = key != nil, last
	for _, p := range page.Data {
		for _, r := range p.papers() {
			if r.Link.Node != in.Node || r.Link.Number < c.Last {
				continue
			}
			if err := c.add(v, r, p.ID); err != nil {
				return c, err
			}
			if key != nil && !r.Link.Verify(r.content, key) && r.intact() {
				c.found(r.Link.Number, problemSignature, p.ID)
			}
			c.Last = r.Link.Number
			break // a further one of the same node stands at its own number
		}
	}
	if page.HasMore {
		c.NextCursor = fmt.Sprintf("%d.%s", c.Last, page.NextCursor)
	}
	return c, nil
}

func (c *Chain) found(number uint64, problem string, payment edge.ID) {
	c.Findings = append(c.Findings, ChainFinding{Number: number, Problem: problem, PaymentID: payment})
}

// add holds a receipt against the one before it.
func (c *Chain) add(v edge.View, r paper, payment edge.ID) error {
	if c.Checked++; c.First == 0 {
		c.First = r.Link.Number
	}
	if !r.intact() {
		c.found(r.Link.Number, problemContent, payment)
	}
	if r.Link.Number == c.Last {
		c.found(r.Link.Number, problemRepeated, payment)
		return nil
	}
	gap := uint64(0) // the first missing number
	for n := c.Last + 1; n < r.Link.Number && gap == 0; n++ {
		here, err := papersAt(v, c.Node, n)
		if err != nil {
			return err
		}
		if len(here) == 0 { // not a second receipt of a payment that was looked at already
			gap = n
		}
	}
	if gap > 0 {
		f := ChainFinding{Number: gap, Problem: problemMissing, PaymentID: payment}
		if r.Link.Number-1 > gap {
			f.Last = r.Link.Number - 1
		}
		c.Findings = append(c.Findings, f)
		return nil
	}
	before, err := papersAt(v, c.Node, r.Link.Number-1)
	if err == nil && (r.Link.Number > 1 && !follows(r.Link, before) || r.Link.Number == 1 && r.Link.Previous != "") {
		c.found(r.Link.Number, problemHash, payment)
	}
	return err
}

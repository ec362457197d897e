package billing

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// ErrNoReceipt is the reason where a payment has no receipt.
var ErrNoReceipt = edge.Reason{Code: "receipt_missing", Says: "The payment has no receipt", Fix: "Ask for the payment itself; mirror entries of reversals have none"}

// ErrKeyForm is the reason for a public key that is none.
var ErrKeyForm = edge.Reason{Code: "public_key_invalid", Says: "The public key cannot be read", Fix: "Give the line of the node's audit.pub, or the 32 octets of its Ed25519 key in base64"}

// receiptWidth is how many characters a line of an 80 mm printer holds.
const receiptWidth = 48

// ReceiptText is a receipt as it is printed.
type ReceiptText struct {
	PaymentID edge.ID  `json:"payment_id" doc:"The payment."`
	Number    string   `json:"number" check:"max=100" doc:"Number of the receipt." example:"RCT-tower7-a-42"`
	Width     int      `json:"width" doc:"Characters in a line." example:"48"`
	Lines     []string `json:"lines" check:"max=60 item.max=48" doc:"Lines for an 80 mm printer, in ASCII."`
	Code      string   `json:"code" check:"max=400" doc:"What a QR code under it holds: number, hash and signature."`
}

// GetReceipt answers the receipt of a payment as text. The same payment gives the same text, whenever and wherever it is asked.
var GetReceipt = edge.Query[PaymentRef, ReceiptText]{
	Name: "billing.receipt.get", Scope: "billing:read", Class: edge.Read, Summary: "Read a payment's receipt as text for a printer",
	Handle: func(v edge.View, in PaymentRef) (ReceiptText, error) {
		p, err := payments.Get(v, in.ID)
		if err != nil {
			return ReceiptText{}, err
		}
		papers := p.papers()
		if len(papers) == 0 {
			return ReceiptText{}, ErrNoReceipt.Error(edge.NotFound)
		}
		r := papers[0]
		local, err := zone(zoneOf(v, p.SubscriptionID))
		if err != nil {
			local = time.UTC
		}
		return ReceiptText{
			PaymentID: p.ID, Number: r.Number, Width: receiptWidth, Lines: r.print(local),
			Code: strings.Join([]string{r.Number, r.Link.Hash, r.Link.Signature}, " "),
		}, nil
	},
}

// print sets what was signed, which never changes: not what became of the payment since.
func (r paper) print(in *time.Location) []string {
	p := r.content
	lines := []string{centred("RECEIPT"), centred(r.Number), ""}
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, twoColumns(name, value)...)
		}
	}
	add("Date", p.ReceivedAt.In(in).Format("2006-01-02 15:04 MST"))
	if r.ClockUntrusted {
		add("clock", "untrusted")
	}
	add("Customer", string(p.Customer))
	add("Subscription", string(p.Subscription))
	add("Collector", p.Collector)
	if p.Device != "" {
		add("Device", p.Device+" no. "+strconv.FormatUint(p.DeviceSeq, 10))
	}
	lines = append(lines, strings.Repeat("-", receiptWidth))
	add("Paid by "+strings.ReplaceAll(string(p.Method), "_", " "), p.Amount.String())
	add("Reference", p.Reference)
	if p.Tendered != nil {
		add("Tendered", p.Tendered.String())
		add("Change", p.Change.String())
	}
	lines = append(lines, strings.Repeat("-", receiptWidth))
	add("Payment", string(p.Payment))
	add("Hash", r.Link.Hash)
	if r.Link.Previous != "" {
		add("Follows", r.Link.Previous)
	}
	return lines
}

// twoColumns sets a name at the left and a value at the right, below each other where they do not fit.
func twoColumns(name, value string) (lines []string) {
	name, value = ascii(name), ascii(value)
	if gap := receiptWidth - len(name) - len(value); gap > 0 {
		return []string{name + strings.Repeat(" ", gap) + value}
	}
	for lines = []string{name}; len(value) > receiptWidth; value = value[receiptWidth:] {
		lines = append(lines, value[:receiptWidth])
	}
	return append(lines, strings.Repeat(" ", receiptWidth-len(value))+value)
}

func centred(s string) string {
	s = ascii(s)
	if len(s) >= receiptWidth {
		return s[:receiptWidth]
	}
	return strings.Repeat(" ", (receiptWidth-len(s))/2) + s
}

// ascii leaves what every printer can set.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// String writes the amount with its decimals and currency: 12.50 USD.
func (m Money) String() string {
	decimals, _ := m.Currency.Exponent()
	digits := fmt.Sprintf("%0*d", decimals+1, magnitude(m.AmountMinor))
	sign := ""
	if m.AmountMinor < 0 {
		sign = "-"
	}
	if decimals > 0 {
		digits = digits[:len(digits)-decimals] + "." + digits[len(digits)-decimals:]
	}
	return sign + digits + " " + string(m.Currency)
}

// What can be wrong with a chain of receipts.
const (
	problemMissing   = "missing"   // a number that no payment holds
	problemHash      = "hash"      // it does not name the hash of the one before
	problemContent   = "content"   // the payment does not say what was signed
	problemSignature = "signature" // it was not signed by the node's key
	problemRepeated  = "repeated"  // the number was used twice
)

// VerifyInput names a payment and, where the node does not know it, the public key.
type VerifyInput struct {
	ID        edge.ID `json:"id" check:"prefix=pay" doc:"The payment."`
	PublicKey string  `json:"public_key,omitempty" check:"max=64" doc:"Ed25519 public key of the node that issued the receipt, hexadecimal as in its audit.pub or in base64; absent: as this node knows it."`
}

// Verdict is what a check of one receipt found.
type Verdict struct {
	Number    string `json:"number" check:"max=100" doc:"Number of the receipt." example:"RCT-tower7-a-42"`
	Content   bool   `json:"content" doc:"Whether the payment says what was signed."`
	Signature string `json:"signature" check:"enum=right|wrong|key_unknown" doc:"Whether the node signed it. key_unknown: a node knows its own key only; ask the one that issued it, or give its public_key."`
	Previous  string `json:"previous" check:"enum=first|follows|missing|broken" doc:"Whether it follows the receipt before it."`
	Next      string `json:"next" check:"enum=last|follows|broken" doc:"Whether the receipt with the next number follows; last where there is none."`
	Repeated  bool   `json:"repeated,omitempty" doc:"Whether another payment bears the same number."`
}

// ReceiptVerdicts are the verdicts about all receipts that were printed for a payment.
type ReceiptVerdicts struct {
	PaymentID edge.ID   `json:"payment_id" doc:"The payment."`
	Receipts  []Verdict `json:"receipts" check:"max=33" doc:"Its receipts, the first one first."`
}

// verifyReceipt checks the receipts of a payment: what they say, who signed, and whether they stand in their chains.
func verifyReceipt(keys Keyring) edge.Query[VerifyInput, ReceiptVerdicts] {
	return edge.Query[VerifyInput, ReceiptVerdicts]{
		Name: "billing.receipt.verify", Scope: "billing:read", Class: edge.Report, Summary: "Check a payment's receipt: content, signature and place in the chain",
		Handle: func(v edge.View, in VerifyInput) (ReceiptVerdicts, error) {
			p, err := payments.Get(v, in.ID)
			if err != nil {
				return ReceiptVerdicts{}, err
			}
			find, err := keys.orGiven(in.PublicKey)
			if err != nil {
				return ReceiptVerdicts{}, err
			}
			answer := ReceiptVerdicts{p.ID, []Verdict{}}
			for _, r := range p.papers() {
				verdict, err := judge(v, r, find)
				if err != nil {
					return ReceiptVerdicts{}, err
				}
				answer.Receipts = append(answer.Receipts, verdict)
			}
			if len(answer.Receipts) == 0 {
				err = ErrNoReceipt.Error(edge.NotFound)
			}
			return answer, err
		},
	}
}

// orGiven is the keyring, or one that holds the key given by whoever asks.
func (k Keyring) orGiven(text string) (Keyring, error) {
	if text == "" {
		if k == nil {
			k = func(string) ed25519.PublicKey { return nil }
		}
		return k, nil
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		raw, err = base64.StdEncoding.DecodeString(text)
	}
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, ErrKeyForm.Error(edge.Invalid, edge.FieldError{In: "query", Pointer: "public_key", Reason: "is not an Ed25519 public key", Fix: "give its 32 octets, hexadecimal or in base64"})
	}
	return func(string) ed25519.PublicKey { return raw }, nil
}

func judge(v edge.View, r paper, keys Keyring) (Verdict, error) {
	l := r.Link
	verdict := Verdict{Number: r.Number, Content: r.intact(), Signature: "key_unknown", Previous: "first", Next: "last"}
	if key := keys(l.Node); key != nil {
		verdict.Signature = "wrong"
		if l.Verify(r.content, key) {
			verdict.Signature = "right"
		}
	}
	same, err := papersAt(v, l.Node, l.Number)
	if err != nil {
		return verdict, err
	}
	verdict.Repeated = len(same) > 1
	if l.Number > 1 || l.Previous != "" {
		before, err := papersAt(v, l.Node, l.Number-1)
		if err != nil {
			return verdict, err
		}
		verdict.Previous = place(len(before) > 0, follows(l, before))
	}
	next, err := papersAt(v, l.Node, l.Number+1)
	if len(next) > 0 {
		verdict.Next = place(true, next[0].Link.Follows(l))
	}
	return verdict, err
}

func place(there, follows bool) string {
	switch {
	case !there:
		return "missing"
	case follows:
		return "follows"
	}
	return "broken"
}

// intact reports whether the hash is that of the content.
func (r paper) intact() bool {
	l := edge.Link{Series: r.Link.Series, Node: r.Link.Node, Number: r.Link.Number, Previous: r.Link.Previous}
	err := l.Seal(r.content, func([]byte) []byte { return nil })
	return err == nil && l.Hash == r.Link.Hash
}

package exec

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// What nodes ask of the leader, and its answers, is mostly JSON that was encoded before: inputs and results. A parcel carries these beside the
// document that they belong to, so that no end reads them once more as a part of it: the octet 1, with which no document begins; the document,
// with null in place of each; then each of them, in the document's order. All stand behind their length (uvarint). A node of PackLevel reads
// both forms and answers in the form in which it was asked.
const parcelMark = 1

var errParcel = errors.New("exec: a parcel does not decode")

func isParcel(body []byte) bool { return len(body) > 0 && body[0] == parcelMark }

func appendParcel(document any, parts []json.RawMessage) ([]byte, error) {
	raw, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	size := 1 + binary.MaxVarintLen32 + len(raw)
	for _, p := range parts {
		size += binary.MaxVarintLen32 + len(p)
	}
	body := append(make([]byte, 0, size), parcelMark)
	body = append(binary.AppendUvarint(body, uint64(len(raw))), raw...)
	for _, p := range parts {
		body = append(binary.AppendUvarint(body, uint64(len(p))), p...)
	}
	return body, nil
}

// parcel is what lies in one behind the octet that marks it.
type parcel struct{ rest []byte }

func openParcel(body []byte, document any) (*parcel, error) {
	p := &parcel{body[1:]}
	raw, err := p.next()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, document); err != nil {
		return nil, fmt.Errorf("%w: %w", errParcel, err)
	}
	return p, nil
}

// next is the next part. It aliases the parcel.
func (p *parcel) next() ([]byte, error) {
	n, width := binary.Uvarint(p.rest)
	if width <= 0 || n == 0 || n > uint64(len(p.rest)-width) {
		return nil, errParcel
	}
	part := p.rest[width : width+int(n) : width+int(n)]
	p.rest = p.rest[width+int(n):]
	return part, nil
}

func (p *parcel) end() error {
	if len(p.rest) > 0 {
		return errParcel
	}
	return nil
}

// detached adds what leaves its document to parts. What is missing is null, as in a document.
func detached(parts []json.RawMessage, raw json.RawMessage) []json.RawMessage {
	if len(raw) == 0 {
		raw = json.RawMessage("null")
	}
	return append(parts, raw)
}

// encode is the request as a parcel, or as a document.
func (r request) encode(asParcel bool) ([]byte, error) {
	if !asParcel || len(r.Intents) == 0 {
		return json.Marshal(r)
	}
	var parts []json.RawMessage
	bare := make([]*Intent, len(r.Intents))
	for i, in := range r.Intents {
		c := *in
		c.Calls = slices.Clone(in.Calls)
		for j := range c.Calls {
			parts, c.Calls[j].In = detached(parts, c.Calls[j].In), nil
		}
		bare[i] = &c
	}
	r.Intents = bare
	return appendParcel(r, parts)
}

func decodeRequest(body []byte) (r request, err error) {
	if !isParcel(body) {
		return r, json.Unmarshal(body, &r)
	}
	p, err := openParcel(body, &r)
	if err != nil {
		return r, err
	}
	for _, in := range r.Intents {
		if in == nil {
			return r, errParcel
		}
		for j := range in.Calls {
			if in.Calls[j].In, err = p.next(); err != nil {
				return r, err
			}
		}
	}
	return r, p.end()
}

// encode is the response as a parcel, or as a document.
func (r response) encode(asParcel bool) ([]byte, error) {
	if !asParcel {
		return json.Marshal(r)
	}
	var parts []json.RawMessage
	bare := slices.Clone(r.Answers)
	for i := range bare {
		if bare[i].Reply == nil {
			continue
		}
		c := *bare[i].Reply
		for _, result := range c.Results {
			parts = detached(parts, result)
		}
		if c.Results != nil {
			c.Results = make([]json.RawMessage, len(c.Results))
		}
		bare[i].Reply = &c
	}
	r.Answers = bare
	return appendParcel(r, parts)
}

func decodeResponse(body []byte) (r response, err error) {
	if !isParcel(body) {
		return r, json.Unmarshal(body, &r)
	}
	p, err := openParcel(body, &r)
	if err != nil {
		return r, err
	}
	for _, a := range r.Answers {
		if a.Reply == nil {
			continue
		}
		for j := range a.Reply.Results {
			if a.Reply.Results[j], err = p.next(); err != nil {
				return r, err
			}
		}
	}
	return r, p.end()
}

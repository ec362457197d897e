package wire

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Header says which part of which stream a batch covers: every event with a position in (After, Upto] is in it, so a range without
// events is an empty batch and leaves no gap to explain.
type Header struct {
	Format      int    `json:"v"`
	Tenant      string `json:"tenant"`
	Source      string `json:"source"`
	Incarnation string `json:"incarnation"` // of the cluster or journal: positions of two incarnations do not compare
	Base        uint64 `json:"base"`        // the sender has forgotten everything up to here, and cannot send it again
	After       uint64 `json:"after"`
	Upto        uint64 `json:"upto"`
	Previous    string `json:"previous,omitempty"` // digest of the last event at or before After; "" when the sender does not know it
	Events      int    `json:"events"`
}

const format = 1

func (h *Header) check() error {
	switch {
	case h.Format != format:
		return malformed("batch format is unknown")
	case !ValidName(h.Tenant) || !ValidName(h.Source) || !ValidName(h.Incarnation):
		return malformed("batch names its stream badly")
	case h.Upto <= h.After || h.Base > h.After:
		return malformed("batch range is empty or below its base")
	case h.Events < 0 || h.Events > MaxEvents:
		return malformed("batch has too many events")
	case len(h.Previous) > 64:
		return malformed("batch digest is too long")
	}
	return nil
}

// checkItem holds an event against the batch: its stream, its tenant, its place in order.
func (h *Header) checkItem(it *Item, last uint64) error {
	switch {
	case it.TenantID != h.Tenant || it.Source != SourceURI(h.Source):
		return malformed("event is of another stream than its batch")
	case it.Position <= h.After || it.Position > h.Upto || it.Position < last:
		return malformed("event is out of the batch's range or order")
	}
	return nil
}

// Encoder writes batches. It keeps its compressor, about 1 MB, so share one. Not safe for concurrent use.
type Encoder struct {
	zip *gzip.Writer
	out bytes.Buffer
}

// Encode makes the message of a batch: gzip over a line of header and one line per event, so that `mosquitto_sub | zcat` shows it.
// The items must be in order and within the header's range.
func (e *Encoder) Encode(h Header, items []Item) ([]byte, error) {
	h.Format, h.Events = format, len(items)
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	e.out.Reset()
	if e.zip == nil {
		if e.zip, err = gzip.NewWriterLevel(&e.out, gzip.BestSpeed); err != nil {
			return nil, fmt.Errorf("encode batch: %w", err)
		}
	} else {
		e.zip.Reset(&e.out)
	}
	plain := len(head) + 1
	_, _ = e.zip.Write(append(head, '\n')) // a bytes.Buffer does not fail
	last := uint64(0)
	for i := range items {
		if err := h.checkItem(&items[i], last); err != nil {
			return nil, fmt.Errorf("encode batch: %w", err)
		}
		last = items[i].Position
		plain += len(items[i].Raw) + 1
		_, _ = e.zip.Write(items[i].Raw)
		_, _ = e.zip.Write([]byte{'\n'})
	}
	if err := e.zip.Close(); err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	if plain > MaxPlain || e.out.Len() > MaxPayload {
		return nil, fmt.Errorf("encode batch: %w", errTooLarge)
	}
	return bytes.Clone(e.out.Bytes()), nil
}

// Decoder reads batches. It keeps its decompressor. Not safe for concurrent use.
type Decoder struct {
	zip *gzip.Reader
}

// Decode reads a batch and checks it whole: bounds, ranges, order, and that every event belongs to the header's stream. The items share
// one allocation and do not alias payload.
func (d *Decoder) Decode(payload []byte) (h Header, items []Item, err error) {
	plain, err := d.inflate(payload)
	if err != nil {
		return h, nil, err
	}
	head, rest, ok := bytes.Cut(plain, []byte{'\n'})
	if !ok {
		return h, nil, malformed("batch has no header")
	}
	if err := strictJSON(head, &h); err != nil {
		return h, nil, malformed("batch header cannot be read")
	}
	if err := h.check(); err != nil {
		return h, nil, err
	}
	items = make([]Item, 0, min(h.Events, len(rest)/64+1)) // an envelope has more than 64 octets
	last := uint64(0)
	for len(rest) > 0 {
		line, after, ok := bytes.Cut(rest, []byte{'\n'})
		if !ok || len(items) == h.Events {
			return h, nil, malformed("batch does not hold what its header says")
		}
		it, err := ParseEvent(line[:len(line):len(line)])
		if err != nil {
			return h, nil, err
		}
		if err := h.checkItem(&it, last); err != nil {
			return h, nil, err
		}
		last, rest = it.Position, after
		items = append(items, it)
	}
	if len(items) != h.Events {
		return h, nil, malformed("batch does not hold what its header says")
	}
	return h, items, nil
}

func (d *Decoder) inflate(payload []byte) ([]byte, error) {
	if len(payload) > MaxPayload {
		return nil, malformed("batch is too large")
	}
	src := bytes.NewReader(payload)
	var err error
	if d.zip == nil {
		d.zip, err = gzip.NewReader(src)
	} else {
		err = d.zip.Reset(src)
	}
	if err != nil {
		return nil, malformed("batch is not compressed")
	}
	d.zip.Multistream(false)
	var plain bytes.Buffer
	plain.Grow(min(4*len(payload), MaxPlain))
	n, err := io.Copy(&plain, io.LimitReader(d.zip, MaxPlain+1))
	if err != nil || n > MaxPlain || src.Len() > 0 {
		return nil, malformed("batch is damaged, too large or followed by more")
	}
	return plain.Bytes(), nil
}

// strictJSON decodes exactly one value without unknown members.
func strictJSON(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return ErrMalformed
	}
	return nil
}

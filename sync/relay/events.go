package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
	"wispgate/sync/wire"
)

// stored is an event as the relay keeps it.
type stored struct {
	Seq  uint64
	Meta storedMeta
	Raw  []byte // the envelope, exactly as it came
}

type storedMeta struct {
	At          time.Time `json:"at"` // when it was stored
	Source      string    `json:"source"`
	Incarnation string    `json:"incarnation,omitempty"` // "" for what the relay made itself
}

func (s *stored) item() (wire.Item, error) { return wire.ParseEvent(s.Raw) }

// putEvent stages an event under a sequence number.
func putEvent(tx Tx, tenant string, id edge.ID, s stored) error {
	head, err := json.Marshal(s.Meta)
	if err != nil {
		return fmt.Errorf("encode meta of event %s: %w", id, err)
	}
	val := make([]byte, 0, len(head)+1+len(s.Raw))
	val = append(append(append(val, head...), '\n'), s.Raw...)
	tx.Put(eventKey(tenant, s.Seq), val)
	var seq [8]byte
	binary.BigEndian.PutUint64(seq[:], s.Seq)
	tx.Put(eventIDKey(tenant, id), seq[:])
	return nil
}

func decodeStored(seq uint64, val []byte) (s stored, err error) {
	head, raw, ok := bytes.Cut(val, []byte{'\n'})
	if !ok {
		return s, fmt.Errorf("event %d: meta is missing", seq)
	}
	if err := json.Unmarshal(head, &s.Meta); err != nil {
		return s, fmt.Errorf("event %d: decode meta: %w", seq, err)
	}
	s.Seq, s.Raw = seq, bytes.Clone(raw)
	return s, nil
}

// getEvent returns the event with the sequence number, ok false when the tenant has none.
func getEvent(sn *store.Snapshot, tenant string, seq uint64) (s stored, ok bool, err error) {
	val, err := sn.Get(eventKey(tenant, seq))
	if errors.Is(err, store.ErrNotFound) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("get event %d: %w", seq, err)
	}
	s, err = decodeStored(seq, val)
	return s, err == nil, err
}

// seqOf looks an event up by its id.
func seqOf(sn *store.Snapshot, tenant string, id edge.ID) (seq uint64, ok bool, err error) {
	val, err := sn.Get(eventIDKey(tenant, id))
	if errors.Is(err, store.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil || len(val) != 8 {
		return 0, false, fmt.Errorf("look up event: %w", err)
	}
	return binary.BigEndian.Uint64(val), true, nil
}

// scanEvents visits the tenant's events from a sequence number on, in order, until visit says no more.
func scanEvents(sn *store.Snapshot, tenant string, from uint64, visit func(stored) (more bool, err error)) error {
	prefix := eventPrefix(tenant)
	return sn.Scan([]byte(prefix), eventKey(tenant, from), func(k, v []byte) (bool, error) {
		seq, ok := unhex16(string(k[len(prefix):]))
		if !ok {
			return false, fmt.Errorf("event key %q is damaged", k)
		}
		s, err := decodeStored(seq, v)
		if err != nil {
			return false, err
		}
		return visit(s)
	})
}

// seqAt returns the sequence number of the tenant's first event stored at t or later, by halving: events are stored in order of time.
func seqAt(sn *store.Snapshot, tenant string, t time.Time, last uint64) (uint64, error) {
	low, high := uint64(0), last+1 // the answer lies in [low, high]
	for low < high {
		mid := low + (high-low)/2
		found := false
		var seq uint64
		var at time.Time
		err := scanEvents(sn, tenant, mid, func(s stored) (bool, error) {
			found, seq, at = true, s.Seq, s.Meta.At
			return false, nil
		})
		if err != nil {
			return 0, err
		}
		if found && at.Before(t) {
			low = seq + 1
		} else {
			high = mid
		}
	}
	return low, nil
}

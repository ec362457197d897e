package exec

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"wispgate/edge"
)

// Event rows stand at #ev/tenant/version/number, versions in sixteen and numbers in four hexadecimal digits. #head/tenant holds the last
// version with events of the tenant, #mark/name/tenant how far a reader (a stream, an after-flow) has come.
const (
	eventPrefix = "#ev/"
	headPrefix  = "#head/"
	markPrefix  = "#mark/"
	// StreamMark is the mark of the tenant's upstream: what the relay has stored.
	StreamMark = "stream"
)

func eventKey(tenant string, version uint64, n int) string {
	return fmt.Sprintf("%s%s/%016x/%04x", eventPrefix, tenant, version, n)
}

func headKey(tenant string) string       { return headPrefix + tenant }
func markKey(name, tenant string) string { return markPrefix + name + "/" + tenant }

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func toNumber(raw []byte) uint64 {
	if len(raw) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(raw)
}

// Events returns the tenant's event rows of versions in (after, upto], where upto is the version up to which the answer is complete:
// the state's version, or less when maxBytes cut it (at a version's end; the first version with events is always whole).
func (x *Exec) Events(tenant string, after uint64, maxBytes int) (rows []edge.EventRow, upto uint64, err error) {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	return events(st, tenant, after, maxBytes)
}

func events(st *State, tenant string, after uint64, maxBytes int) (rows []edge.EventRow, upto uint64, err error) {
	upto = max(st.Version(), after)
	size, last := 0, uint64(0)
	prefix := eventPrefix + tenant + "/"
	err = st.Scan(prefix, eventKey(tenant, after+1, 0), func(key string, val []byte) (bool, error) {
		version, err := eventVersion(key[len(prefix):])
		if err != nil {
			return false, err
		}
		if size += len(val); size > maxBytes && len(rows) > 0 && version != last {
			upto = last
			return false, nil
		}
		var row edge.EventRow
		if err := json.Unmarshal(val, &row); err != nil {
			return false, fmt.Errorf("decode event row: %w", err)
		}
		row.Position, last = version, version
		rows = append(rows, row)
		return true, nil
	})
	return rows, upto, err
}

func eventVersion(rest string) (uint64, error) {
	hexVersion, _, _ := strings.Cut(rest, "/")
	v, err := strconv.ParseUint(hexVersion, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("event key: %w", err)
	}
	return v, nil
}

// WaitEvents returns once the tenant has an event after the version.
func (x *Exec) WaitEvents(ctx context.Context, tenant string, after uint64) error {
	for {
		wake := x.changed()
		st := x.cfg.Machine.Snapshot()
		raw, _, err := st.Get(headKey(tenant))
		st.Close()
		if err != nil || toNumber(raw) > after {
			return err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Changed returns a channel that closes at the next applied version.
func (x *Exec) Changed() <-chan struct{} { return x.changed() }

// Heads returns each tenant's last version with events.
func (x *Exec) Heads() (map[string]uint64, error) {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	return heads(st)
}

func heads(st *State) (map[string]uint64, error) {
	m := map[string]uint64{}
	err := st.Scan(headPrefix, "", func(key string, val []byte) (bool, error) {
		m[key[len(headPrefix):]] = toNumber(val)
		return true, nil
	})
	return m, err
}

// Mark returns how far a reader has come in the tenant's events.
func (x *Exec) Mark(name, tenant string) (uint64, error) {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	raw, _, err := st.Get(markKey(name, tenant))
	return toNumber(raw), err
}

// SetMark commits how far a reader has come; marks never go back.
func (x *Exec) SetMark(ctx context.Context, name, tenant string, version uint64) error {
	return x.internal(ctx, func(t *tx) error {
		raw, err := t.get(markKey(name, tenant))
		if err != nil || toNumber(raw) >= version {
			return err
		}
		t.kernelPut(markKey(name, tenant), number(version))
		return nil
	})
}

// trimEvents removes rows that every reader has passed, a bounded number at once.
func (x *Exec) trimEvents(ctx context.Context, tenant string) (bool, error) {
	return x.part(ctx, func(t *tx) (more bool, err error) {
		upto, old, err := x.passed(t, tenant)
		if err != nil {
			return false, err
		}
		prefix := eventPrefix + tenant + "/"
		var gone []string
		err = t.scan(prefix, "", func(key string, val []byte) (bool, error) {
			version, err := eventVersion(key[len(prefix):])
			if err != nil {
				return false, err
			}
			if version > upto && !olderThan(val, old) {
				return false, nil
			}
			if len(gone) == pruneBatch {
				more = true
				return false, nil
			}
			gone = append(gone, key)
			return true, nil
		})
		for _, k := range gone {
			t.kernelDelete(k)
		}
		return more, err
	})
}

// passed is the version that every after-flow and the stream have passed; old is the time before which rows go even if no stream took
// them, zero while a stream is expected to.
func (x *Exec) passed(t *tx, tenant string) (upto uint64, old time.Time, err error) {
	upto = t.Version()
	readers := []string{}
	for _, f := range x.after {
		readers = append(readers, f.Name)
	}
	if x.cfg.EventRetention > 0 {
		old = t.Now().Add(-x.cfg.EventRetention)
	}
	for _, name := range append(readers, StreamMark) {
		raw, err := t.get(markKey(name, tenant))
		if err != nil {
			return 0, old, err
		}
		upto = min(upto, toNumber(raw))
	}
	return upto, old, nil
}

func olderThan(val []byte, limit time.Time) bool {
	if limit.IsZero() {
		return false
	}
	var row struct {
		Time time.Time `json:"time"`
	}
	return json.Unmarshal(val, &row) == nil && row.Time.Before(limit)
}

// janitor removes what nobody needs any more: answers past their time, if there is a clock to say so, and events that every reader has passed.
func (x *Exec) janitor(ctx context.Context) {
	for pauseFor(ctx, janitorEvery, nil) {
		if !x.log.IsLeader() {
			continue
		}
		heads, err := x.Heads()
		for tenant := range heads {
			if err == nil {
				err = x.untilDone(ctx, func() (bool, error) { return x.trimEvents(ctx, tenant) })
			}
		}
		if err == nil && x.clockTrusted() {
			err = x.untilDone(ctx, func() (bool, error) { return x.pruneAnswers(ctx) })
		}
		if err != nil && ctx.Err() == nil {
			x.cfg.Logger.Warn("housekeeping failed, trying again later", "error", err)
		}
	}
}

const janitorEvery = 30 * time.Second

func (x *Exec) untilDone(ctx context.Context, step func() (more bool, err error)) error {
	for {
		more, err := step()
		if err != nil || !more || ctx.Err() != nil {
			return err
		}
	}
}

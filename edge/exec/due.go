package exec

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"wispgate/edge"
)

// dueLoop is the leader's timer over the due index: what is due becomes an intent whose operation id derives from record and due time,
// so firing twice is harmless. With an untrusted clock nothing falls due.
func (x *Exec) dueLoop(ctx context.Context) {
	failed := map[string]time.Time{} // due key -> not before; bounded by dueBatch per look
	for {
		wake := x.changed()
		wait := dueIdle
		if x.log.IsLeader() && x.clockTrusted() {
			var err error
			if wait, err = x.fireDue(ctx, failed); err != nil && ctx.Err() == nil {
				x.cfg.Logger.Warn("due records could not be read", "error", err)
				wait = dueIdle
			}
		}
		if !pauseFor(ctx, wait, wake) {
			return
		}
	}
}

func (x *Exec) clockTrusted() bool { return x.cfg.Trusted == nil || x.cfg.Trusted() }

const (
	dueIdle  = time.Second     // longest wait between looks at the clock
	dueBatch = 64              // records fired per look
	dueRetry = 5 * time.Minute // after a refusal, e.g. by a state that changed meanwhile
)

type dueItem struct {
	key, tenant, run string
	in               edge.DueInput
}

// fireDue runs what is due and returns how long nothing more will be.
func (x *Exec) fireDue(ctx context.Context, failed map[string]time.Time) (time.Duration, error) {
	items, next, err := x.dueItems(failed)
	if err != nil {
		return 0, err
	}
	for _, it := range items {
		err := x.fire(ctx, it)
		if err == nil {
			err = x.moved(it)
		}
		if err != nil {
			if len(failed) >= dueBatch*4 {
				clear(failed)
			}
			failed[it.key] = x.cfg.Now().Add(dueRetry)
			x.cfg.Logger.Warn("due command failed, trying again later", "command", it.run, "record", it.in.ID, "error", err)
		}
	}
	if len(items) == dueBatch {
		return 0, nil
	}
	return next, nil
}

var errStillDue = errors.New("the command succeeded but its record is due as before")

// moved reports a command that left its record due: without a pause it would fire for ever.
func (x *Exec) moved(it dueItem) error {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	_, still, err := st.Get(it.key)
	if err == nil && still {
		err = errStillDue
	}
	return err
}

// dueItems reads the due index up to now.
func (x *Exec) dueItems(failed map[string]time.Time) (items []dueItem, next time.Duration, err error) {
	st := x.cfg.Machine.Snapshot()
	defer st.Close()
	now := x.clock(st)
	limit, next := edge.DueUpTo(now), dueIdle
	err = st.Scan(edge.DuePrefix, "", func(key string, _ []byte) (bool, error) {
		at, tenant, name, id, ok := edge.ParseDueKey(key)
		if !ok {
			return false, fmt.Errorf("due index holds an unreadable key")
		}
		if key > limit {
			next = min(next, max(at.Sub(now), time.Millisecond))
			return false, nil
		}
		if until, ok := failed[key]; ok && now.Before(until) {
			return true, nil
		}
		if table := x.tables[name]; table != nil && table.DueRun() != "" {
			items = append(items, dueItem{key, tenant, table.DueRun(), edge.DueInput{ID: id, At: at}})
		}
		return len(items) < dueBatch, nil
	})
	return items, next, err
}

func (x *Exec) fire(ctx context.Context, it dueItem) error {
	raw, err := json.Marshal(it.in)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(it.key))
	_, err = x.Do(ctx, edge.Request{
		Key: "due-" + hex.EncodeToString(sum[:16]), Actor: edge.SystemActor(it.tenant, "due"),
		Calls: []edge.Call{{Op: it.run, In: raw}},
	})
	return err
}

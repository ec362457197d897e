package exec

import (
	"context"
	"time"

	"wispgate/edge"
)

// afterLoop runs one after-flow on the leader: each committed event of its kind, in order, at least once, with back-off while it
// fails. How far it has come is a mark in the state, so another leader goes on from there.
func (x *Exec) afterLoop(ctx context.Context, f edge.Flow) {
	backoff := time.Duration(0)
	for {
		wake := x.changed()
		wait := afterIdle
		if x.log.IsLeader() {
			if err := x.afterPass(ctx, f); err != nil {
				backoff = min(max(2*backoff, afterBackoff), afterBackoffMax)
				wait, wake = backoff, nil
				x.cfg.Logger.Warn("flow failed, trying again", "flow", f.Name, "in", wait.String(), "error", err)
			} else {
				backoff = 0
			}
		}
		if !pauseFor(ctx, wait, wake) {
			return
		}
	}
}

const (
	afterIdle       = 5 * time.Second
	afterBackoff    = time.Second
	afterBackoffMax = 5 * time.Minute
	afterBytes      = 256 << 10 // of event rows read at once
)

// afterPass runs the flow over what every tenant has new.
func (x *Exec) afterPass(ctx context.Context, f edge.Flow) error {
	heads, err := x.Heads()
	if err != nil {
		return err
	}
	for tenant, head := range heads {
		mark, err := x.Mark(f.Name, tenant)
		if err != nil {
			return err
		}
		for mark < head && ctx.Err() == nil {
			if mark, err = x.afterTenant(ctx, f, tenant, mark); err != nil {
				return err
			}
		}
	}
	return nil
}

// afterTenant runs the flow over one page of a tenant's events and commits the new mark, also when a later event failed.
func (x *Exec) afterTenant(ctx context.Context, f edge.Flow, tenant string, mark uint64) (uint64, error) {
	rows, upto, err := x.Events(tenant, mark, afterBytes)
	if err != nil {
		return mark, err
	}
	for _, row := range rows {
		if row.Type != f.Event {
			continue
		}
		if err := f.After(ctx, x, row); err != nil {
			if done := row.Position - 1; done > mark {
				if merr := x.SetMark(ctx, f.Name, tenant, done); merr != nil {
					return mark, merr
				}
			}
			return mark, err
		}
	}
	return upto, x.SetMark(ctx, f.Name, tenant, upto)
}

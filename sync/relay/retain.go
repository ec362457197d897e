package relay

import (
	"context"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
)

const (
	retainEvery = time.Hour
	retainChunk = 100 // events per transaction
	// outcomeExpired ends deliveries whose event was removed by retention.
	outcomeExpired = "event_expired"
)

// retain removes what is older than it is kept, once at start and then every hour.
func (r *Relay) retain(ctx context.Context) {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		if err := r.retainOnce(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("old events are not removed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Relay) retainOnce(ctx context.Context) error {
	if err := r.retainAnswers(ctx); err != nil {
		return err
	}
	for from := keyRoot + "e/"; ; {
		next, err := r.retainEvents(ctx, from)
		if err != nil || next == "" {
			return err
		}
		from = next
	}
}

func (r *Relay) retainAnswers(ctx context.Context) error {
	prefix := keyRoot + "b/"
	end := prefix + r.now().Add(-r.cfg.KeepAnswers).UTC().Format(dayLayout)
	for ctx.Err() == nil {
		w := &writes{reserved: true}
		sn := r.cfg.Store.Snapshot()
		err := sn.Scan([]byte(prefix), nil, func(k, _ []byte) (bool, error) {
			if string(k) >= end || len(w.ops) == 500 {
				return false, nil
			}
			w.Delete(append([]byte(nil), k...))
			return true, nil
		})
		sn.Close()
		if err != nil || len(w.ops) == 0 {
			return err
		}
		if err := r.committer.do(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// retainEvents removes old events from a key on and says where to go on, "" at the end. Events of a tenant are in order of time, so the
// first young one leads to the next tenant.
func (r *Relay) retainEvents(ctx context.Context, from string) (next string, err error) {
	prefix := keyRoot + "e/"
	before := r.now().Add(-r.cfg.Keep)
	w := &writes{reserved: true}
	sn := r.cfg.Store.Snapshot()
	defer sn.Close()
	n, lost := 0, 0
	err = sn.Scan([]byte(prefix), []byte(from), func(k, v []byte) (bool, error) {
		tenant, digits, _ := strings.Cut(string(k[len(prefix):]), "/")
		seq, ok := unhex16(digits)
		e, err := decodeStored(seq, v)
		if !ok || err != nil {
			return false, err
		}
		if !e.Meta.At.Before(before) {
			next = prefix + tenant + "0" // the byte after the slash
			return false, nil
		}
		if n == retainChunk {
			next = string(k)
			return false, nil
		}
		n++
		ended, err := r.removeEvent(sn, w, tenant, &e)
		lost += ended
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	if lost > 0 {
		r.count("wispgate_relay_deliveries_expired_total", lost)
		r.log.Warn("deliveries that never succeeded are removed with their events", "deliveries", lost, "older_than", r.cfg.Keep)
	}
	return next, r.committer.do(ctx, w)
}

// removeEvent stages the removal of an event and its deliveries. One that is under way is left: it ends when the event is not found.
func (r *Relay) removeEvent(sn *store.Snapshot, w *writes, tenant string, e *stored) (lost int, err error) {
	it, err := e.item()
	if err != nil {
		return 0, err
	}
	w.Delete(eventKey(tenant, e.Seq))
	w.Delete(eventIDKey(tenant, edge.ID(it.ID)))
	for _, id := range r.reg.of(tenant) {
		d, ok, err := getDelivery(sn, tenant, id, e.Seq)
		if err != nil {
			return lost, err
		}
		if ok && r.queue.remove(w, &d) && d.Status == Pending {
			lost++
		}
	}
	return lost, nil
}

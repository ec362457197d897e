package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"wispgate/sync/wire"
)

// batch is a message that the relay has not acknowledged whole.
type batch struct {
	after, upto uint64
	payload     []byte
	events      int
	oldest      time.Time
	sends       int
	due         time.Time // when it is sent again
}

// fetcher reads a stream from a position on and cuts it into batches.
type fetcher struct {
	s        *session
	from     uint64 // end of the last batch
	pos      uint64 // read up to here; from < pos while only empty ranges were seen
	previous string // digest of the last event, "" before the first
	out      chan *batch
	failed   chan error
}

func (f *fetcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		b, err := f.next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				f.failed <- err
			}
			return
		}
		select {
		case f.out <- b:
		case <-ctx.Done():
		}
	}
}

// next waits for events, or until an idle stream's mark is worth moving.
func (f *fetcher) next(ctx context.Context) (*batch, error) {
	idle := f.s.u.cfg.Now().Add(f.s.u.cfg.IdleMark)
	for {
		items, upto, err := f.s.stream.Read(ctx, f.pos, f.s.u.cfg.BatchBytes)
		if err != nil {
			return nil, fmt.Errorf("read after %d: %w", f.pos, err)
		}
		if upto < f.pos {
			return nil, fmt.Errorf("read after %d: stream went back to %d", f.pos, upto)
		}
		moved := upto > f.pos
		f.pos = upto
		left := idle.Sub(f.s.u.cfg.Now())
		if len(items) > 0 || left <= 0 && f.pos > f.from {
			return f.cut(items)
		}
		if moved {
			continue
		}
		if left <= 0 {
			left = f.s.u.cfg.IdleMark
			idle = f.s.u.cfg.Now().Add(left)
		}
		wait, cancel := context.WithTimeout(ctx, left)
		err = f.s.stream.Wait(wait, f.pos)
		cancel()
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return nil, fmt.Errorf("wait after %d: %w", f.pos, err)
		}
	}
}

func (f *fetcher) cut(items []wire.Item) (*batch, error) {
	name := f.s.name
	h := wire.Header{
		Tenant: name.Tenant, Source: name.Source, Incarnation: name.Incarnation,
		Base: min(f.s.stream.Marks().Base, f.from), After: f.from, Upto: f.pos, Previous: f.previous,
	}
	payload, err := f.s.u.encode(h, items)
	if err != nil {
		return nil, fmt.Errorf("range (%d, %d]: %w", f.from, f.pos, err)
	}
	b := &batch{after: f.from, upto: f.pos, payload: payload, events: len(items)}
	if len(items) > 0 {
		b.oldest = items[0].Time
		f.previous = items[len(items)-1].Digest()
	}
	f.from = f.pos
	return b, nil
}

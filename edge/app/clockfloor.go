package app

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/sync/cluster"
)

// A board without a battery starts in 1970, or where its last shutdown was. While it is cut off, nothing tells it better: what was
// committed last may be hours old. So a running node writes down once a minute how late it is, and after a start it is never earlier.
const (
	highKey   = store.Local + "clock/high" // nanoseconds since 1970: 64 bit, big endian
	highEvery = time.Minute
)

// clockFloor is how late it is at least: the time that was written down before the start, and what has passed since. It costs two loads to
// ask, so that every packet can.
type clockFloor struct {
	now     func() time.Time
	quality func() obs.Quality
	log     *slog.Logger
	passed  func() time.Duration // since the start, whatever happens to the clock
	kept    atomic.Int64         // nanoseconds, as of the start; 0: nothing was ever written down
	agreed  cluster.Agreement    // what most voters' clocks say
	wrong   atomic.Bool          // this one is far ahead of that, and it was said
}

// least is the floor now; the zero time while there is none. Where it is far ahead of most voters' clocks, a clock was wrong while nobody was there
// to contradict it, and their time is the floor.
func (f *clockFloor) least() time.Time {
	kept := f.kept.Load()
	if kept == 0 {
		return time.Time{}
	}
	least, _ := f.settle(time.Unix(0, kept).UTC().Add(f.passed()))
	return least.UTC()
}

// open reads what the last run wrote down.
func (f *clockFloor) open(st *store.Store) error {
	sn := st.Snapshot()
	defer sn.Close()
	raw, err := sn.Get([]byte(highKey))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the clock's high-water mark: %w", err)
	}
	at, err := parseHigh(raw)
	if err != nil {
		return err
	}
	f.kept.Store(at.UnixNano())
	if now := f.now(); now.Before(at) {
		f.log.Warn("the clock is behind what this node knows: nothing falls due until it has caught up or is set", "clock", now.UTC(), "known", at)
	}
	return nil
}

func parseHigh(raw []byte) (time.Time, error) {
	if len(raw) != 8 {
		return time.Time{}, errors.New("the clock's high-water mark is damaged")
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(raw))).UTC(), nil
}

// keep writes down how late it is. A clock that is being disciplined and still lies behind proves that the mark was wrong, as after a
// date that somebody set by hand: then the mark gives way, or the node would distrust its clock for years.
func (f *clockFloor) keep(st *store.Store, effective time.Time) error {
	high := effective
	if now, least := f.now(), f.least(); now.Before(least) && f.quality() == obs.Synced {
		f.log.Warn("the clock is synchronised and behind the high-water mark: the mark is lowered", "clock", now.UTC(), "mark", least)
		high = now
	}
	f.kept.Store(high.Add(-f.passed()).UnixNano())
	var b store.Batch
	b.Put([]byte(highKey), binary.BigEndian.AppendUint64(nil, uint64(high.UnixNano())))
	return st.CommitReserved(&b)
}

// clockLoop is the worker that keeps the floor up to date.
func (c *core) clockLoop(ctx context.Context) error {
	return every(ctx, highEvery, func() error {
		c.keepClock()
		return nil
	})
}

// keepClock is best effort: on a full disk the mark stays where it is, and the next start is a little earlier.
func (c *core) keepClock() {
	_, ahead := c.floor.settle(c.now())
	if wrong := ahead > 0; wrong && !c.floor.wrong.Swap(wrong) {
		c.log.Error("the clock is ahead of most voters': their time counts here, and nothing falls due", "code", "clock_ahead", "by", ahead.Round(time.Second))
	} else if !wrong && c.floor.wrong.Swap(wrong) {
		c.log.Info("the clock agrees with most voters' again")
	}
	if err := c.floor.keep(c.store, c.effectiveTime()); err != nil {
		c.log.Debug("the time was not written down; the next minute tries again", "error", err)
	}
}

// effectiveTime is the clock, but never before the last committed time, nor before what the node knew at its last stop: a board without a
// battery does not travel back. And never far ahead of most voters' clocks: time that was committed once cannot be taken back.
func (c *core) effectiveTime() time.Time {
	now, _ := c.floor.settle(c.now())
	if last := c.machine.LastTime(); now.Before(last) {
		now = last
	}
	if least := c.floor.least(); now.Before(least) {
		now = least
	}
	return now
}

// clockTrusted reports whether things may fall due: the clock is not behind what was committed, nor behind what the node knows. A machine
// whose kernel does not say whether its clock is disciplined (a container, a test host) is believed.
func (c *core) clockTrusted() bool {
	now := c.now()
	_, ahead := c.floor.settle(now)
	return ahead == 0 && c.floor.trusted(now, c.machine.LastTime())
}

// settle is what time it is where the clock says now, and by how much that is ahead of most voters' clocks, where it is too much.
func (f *clockFloor) settle(now time.Time) (settled time.Time, ahead time.Duration) {
	return f.agreed.Settle(now, f.passed())
}

// trusted is what this node says of its clock by itself.
func (f *clockFloor) trusted(now, committed time.Time) bool {
	return !now.Before(committed) && !now.Before(f.least()) && now.Year() >= 2026
}

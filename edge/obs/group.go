package obs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"wispgate/edge"
)

// Back-off of a worker that fails: doubled from the first to the last, with jitter, and back to the first after a run
// that lasted longer than the last.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// Group runs named workers, starts those that fail again after a pause, and stops them together. A worker that
// returns nil has finished. One that panics is logged with its stack and counts as failed: a fault in one worker must
// not take RADIUS down.
type Group struct {
	log       *slog.Logger
	now       func() time.Time
	onRestart func(name string)
	ctx       context.Context
	cancel    context.CancelFunc
	work      sync.WaitGroup

	mu      sync.Mutex
	running map[string]int
	stopped bool
}

// NewGroup makes a group. onRestart, unless nil, is told each time a worker failed, for a counter.
func NewGroup(ctx context.Context, log *slog.Logger, now func() time.Time, onRestart func(name string)) *Group {
	g := &Group{log: log, now: now, onRestart: onRestart, running: map[string]int{}}
	g.ctx, g.cancel = context.WithCancel(ctx)
	return g
}

// Go starts a worker. Its context ends when the group stops. After Stop it does nothing.
func (g *Group) Go(name string, run func(ctx context.Context) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return
	}
	g.running[name]++
	g.work.Go(func() {
		defer g.leave(name)
		g.supervise(name, run)
	})
}

func (g *Group) leave(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running[name]--; g.running[name] == 0 {
		delete(g.running, name)
	}
}

func (g *Group) supervise(name string, run func(ctx context.Context) error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		begin := g.now()
		err := once(g.ctx, run)
		if err == nil || g.ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				g.log.Warn("worker failed while stopping", slog.String("worker", name), slog.Any("error", err))
			}
			return
		}
		if g.now().Sub(begin) > lastPause {
			pause = firstPause
		}
		wait := pause/2 + rand.N(pause)
		g.log.Error("worker failed", slog.String("worker", name), slog.Any("error", err), slog.Duration("again_in", wait))
		if g.onRestart != nil {
			g.onRestart(name)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-g.ctx.Done():
			timer.Stop()
			return
		}
	}
}

func once(ctx context.Context, run func(ctx context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run(ctx)
}

// Running names the workers that have not finished, in order.
func (g *Group) Running() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := make([]string, 0, len(g.running))
	for n := range g.running {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Stop ends all workers and waits for them until ctx ends; then the error names those that hang.
func (g *Group) Stop(ctx context.Context) error {
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.cancel()
	done := make(chan struct{})
	go func() {
		g.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		hanging := g.Running()
		if len(hanging) == 0 { // the time that was left for stopping was spent elsewhere
			return nil
		}
		return &edge.Error{
			Kind: edge.Unavailable, Code: "worker_hangs", Message: fmt.Sprintf("workers did not stop in time: %v", hanging),
			Fix: "look at the goroutine profile in the support bundle; a disk that hangs is the usual cause",
		}
	}
}

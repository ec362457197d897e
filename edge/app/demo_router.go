package app

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
)

// routerSim stands for the tower's MikroTik: it sends real RADIUS packets for every subscriber's CPE, keeps their sessions, and
// remembers them over a restart, as a router that was not switched off does.
type routerSim struct {
	board   *board
	people  []person
	file    string // where the sessions lie between two runs
	secret  []byte
	stale   []byte // another secret than the node holds for the router at staleRouter
	authTo  string
	acctTo  string
	begun   time.Time
	running bool          // since before this run: its sessions were kept
	ports   atomic.Uint32 // counts session ids
	access  *radclient.Client
	account *radclient.Client

	mu    sync.Mutex
	queue lineQueue
	lines map[lineKey]*line
	saved map[string]*routerSession // by login and device, of the run before
	wake  chan struct{}
}

const (
	demoRouter     = "twr7-core"
	staleRouter    = "127.0.0.2" // registered, with another secret
	unknownRouter  = "127.0.0.3"
	routerWorkers  = 24
	routerPatience = 3 * time.Second // longer than the delay of a reject
	mikrotik       = 14988
)

// The pace of the demo. Real routers report every five minutes and sessions last for days; here something is to be seen.
const (
	rampUp          = 18 * time.Second // within which everyone comes online at first
	rampStep        = 50 * time.Millisecond
	reportEvery     = 30 * time.Second
	firstReport     = 5 * time.Second
	shortestSession = 45 * time.Second
	longestSession  = 8 * time.Minute  // on top
	shownSession    = 15 * time.Second // of the first subscriber, whom the curl line suspends
	tryAgain        = 20 * time.Second
	comeBack        = 4 * time.Second
	strayEvery      = 15 * time.Second
)

// line is one CPE at the router.
type line struct {
	p      *person
	second bool // a second device on the same login
	rng    *rand.Rand
	due    time.Time
	s      *routerSession // nil: offline
}

type lineKey struct {
	n      int
	second bool
}

// routerSession is a session as the router knows it.
type routerSession struct {
	ID      string    `json:"id"`
	Login   string    `json:"login"`
	MAC     string    `json:"mac"`
	Port    uint32    `json:"port"`
	IP      [4]byte   `json:"ip"`
	Class   []byte    `json:"class,omitempty"`
	Started time.Time `json:"started"`
	Ends    time.Time `json:"ends"`
	Counted time.Time `json:"counted"`
	Cause   uint32    `json:"cause"` // of its end, when it comes
	In      uint64    `json:"in"`    // from the subscriber
	Out     uint64    `json:"out"`   // to the subscriber
}

func newRouterSim(dir string, state *demoState, people []person, auth, acct string, b *board) (*routerSim, error) {
	r := &routerSim{
		board: b, people: people, file: filepath.Join(dir, "router.json"), secret: []byte(state.NASSecret), stale: []byte(state.StaleSecret),
		authTo: auth, acctTo: acct, begun: time.Now(), lines: map[lineKey]*line{}, saved: map[string]*routerSession{}, wake: make(chan struct{}, 1),
	}
	// Session ids must not repeat over restarts; RouterOS counts from a number of its boot, too.
	r.ports.Store(uint32(r.begun.Unix()) << 8)
	opts := radclient.Options{Timeout: routerPatience, Tries: 2}
	var err error
	if r.access, err = radclient.Dial(auth, r.secret, time.Now, opts); err != nil {
		return nil, err
	}
	opts = radclient.Options{Timeout: 500 * time.Millisecond, Tries: 6}
	if r.account, err = radclient.Dial(acct, r.secret, time.Now, opts); err != nil {
		return nil, errors.Join(err, r.access.Close())
	}
	r.running = r.remember()
	return r, nil
}

// run lives until ctx ends; then the sessions are kept for the next run.
func (r *routerSim) run(ctx context.Context) error {
	defer func() { _ = r.access.Close(); _ = r.account.Close() }()
	if !r.running {
		r.announce(ctx)
	}
	var wg sync.WaitGroup
	work := make(chan *line)
	for range routerWorkers {
		wg.Go(func() {
			for l := range work {
				r.step(ctx, l)
				r.push(l)
			}
		})
	}
	wg.Go(func() { r.strays(ctx) })
	r.dispatch(ctx, work)
	close(work)
	wg.Wait()
	return r.keep()
}

// announce says, as a router does after its boot, that no session of before is alive. It goes on until the node knows the router.
func (r *routerSim) announce(ctx context.Context) {
	attrs := packet.AppendUint32(nil, packet.AcctStatusType, 7) // Accounting-On
	attrs = packet.AppendString(attrs, packet.NASIdentifier, demoRouter)
	for ctx.Err() == nil {
		if _, err := r.account.Do(ctx, radclient.Request{Code: packet.AccountingRequest, Attrs: attrs}); err == nil {
			return
		}
	}
}

// admit brings the subscribers before upto to the router; those it has stay.
func (r *routerSim) admit(upto int) {
	now := time.Now()
	ramp := min(rampUp, time.Duration(len(r.people))*rampStep)
	r.mu.Lock()
	for i := range r.people[:upto] {
		p := &r.people[i]
		at := r.begun.Add(ramp * time.Duration(i) / time.Duration(len(r.people)))
		r.admitLocked(p, false, later(now, at))
		if p.trouble == secondDevice {
			r.admitLocked(p, true, later(now, at).Add(2*time.Second))
		}
	}
	r.mu.Unlock()
	r.nudge()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (r *routerSim) admitLocked(p *person, second bool, at time.Time) {
	key := lineKey{p.n, second}
	if r.lines[key] != nil {
		return
	}
	l := &line{p: p, second: second, rng: rand.New(rand.NewPCG(rand.Uint64(), uint64(p.n))), due: at}
	if s := r.saved[p.login+" "+l.mac().String()]; s != nil {
		l.s = s
		r.board.online.Add(1)
	}
	r.lines[key] = l
	heap.Push(&r.queue, l)
}

func (l *line) mac() packet.MAC {
	if l.second {
		return l.p.second()
	}
	return l.p.device()
}

func (r *routerSim) push(l *line) {
	r.mu.Lock()
	heap.Push(&r.queue, l)
	r.mu.Unlock()
	r.nudge()
}

func (r *routerSim) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// dispatch hands out the lines as they fall due.
func (r *routerSim) dispatch(ctx context.Context, work chan<- *line) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l, wait := r.pop()
		if l != nil {
			select {
			case work <- l:
				continue
			case <-ctx.Done():
				r.push(l)
				return
			}
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-r.wake:
		case <-ctx.Done():
			return
		}
	}
}

// pop takes the line that is due, or says how long until one is.
func (r *routerSim) pop() (l *line, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return nil, time.Hour
	}
	if wait = time.Until(r.queue[0].due); wait > 0 {
		return nil, wait
	}
	l, _ = heap.Pop(&r.queue).(*line)
	return l, 0
}

// lineQueue orders lines by when they are due.
type lineQueue []*line

func (q lineQueue) Len() int           { return len(q) }
func (q lineQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q lineQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *lineQueue) Push(x any) {
	if l, ok := x.(*line); ok {
		*q = append(*q, l)
	}
}

// Pop implements heap.Interface.
func (q *lineQueue) Pop() any {
	old := *q
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return l
}

// remember loads the sessions of the run before and removes the file: if this run is killed, the router has "rebooted".
func (r *routerSim) remember() bool {
	raw, err := os.ReadFile(r.file)
	if err != nil {
		return false
	}
	var list []*routerSession
	if json.Unmarshal(raw, &list) != nil || os.Remove(r.file) != nil {
		return false
	}
	for _, s := range list {
		r.saved[s.Login+" "+s.MAC] = s
	}
	return true
}

// keep writes the live sessions for the next run. Nobody works on them any more.
func (r *routerSim) keep() error {
	list := []*routerSession{}
	for _, l := range r.lines {
		if l.s != nil {
			list = append(list, l.s)
		}
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("keep the router's sessions: %w", err)
	}
	return writeFile(r.file, raw, 0o600)
}

// strays are packets of a router whose secret is out of date, and of one that nobody registered: the node says nothing to either, so only
// the node can tell why. Where the machine lends no second loopback address they are left out.
func (r *routerSim) strays(ctx context.Context) {
	ticker := time.NewTicker(strayEvery)
	defer ticker.Stop()
	for pause := time.NewTimer(2 * time.Second); ; {
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		case <-ticker.C:
		}
		for _, from := range []string{staleRouter, unknownRouter} {
			r.stray(ctx, from)
		}
	}
}

func (r *routerSim) stray(ctx context.Context, from string) {
	c, err := radclient.Dial(r.authTo, r.stale, time.Now, radclient.Options{
		Timeout: 300 * time.Millisecond, Tries: 1, LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)},
	})
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	p := &r.people[rand.IntN(len(r.people))]
	password := p.password
	attrs := packet.AppendString(packet.AppendString(nil, packet.UserName, p.login), packet.NASIdentifier, "twr7-hotspot")
	if _, err := c.Do(ctx, radclient.Request{Code: packet.AccessRequest, Attrs: attrs, Password: &password}); radiusCode(err) != "" {
		r.board.silent.Add(1)
	}
}

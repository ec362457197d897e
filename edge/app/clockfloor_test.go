package app

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/obs"
	"wispgate/edge/store"
)

// handClock is a clock that only the test moves: on, or to another time, as when somebody sets it.
type handClock struct{ at, ran atomic.Int64 }

func newHandClock(at time.Time) *handClock {
	c := &handClock{}
	c.at.Store(at.UnixNano())
	return c
}

func (c *handClock) now() time.Time          { return time.Unix(0, c.at.Load()).UTC() }
func (c *handClock) set(at time.Time)        { c.at.Store(at.UnixNano()) }
func (c *handClock) advance(d time.Duration) { c.at.Add(int64(d)); c.ran.Add(int64(d)) }

func (c *handClock) of(q obs.Quality) *testClock {
	return &testClock{now: c.now, quality: func() obs.Quality { return q }, passed: func() time.Duration { return time.Duration(c.ran.Load()) }}
}

func (t *testClock) floor() *clockFloor {
	return &clockFloor{now: t.now, quality: t.quality, passed: t.passed, log: slog.New(slog.DiscardHandler)}
}

// startNodeAt starts a node by a clock of the test's, which nothing disciplines.
func startNodeAt(t testing.TB, dir string, clock *handClock) *running {
	t.Helper()
	r := &running{t: t, dir: dir}
	var err error
	if r.Node, err = OpenNode(context.Background(), Options{
		Config: testConfig(dir), Version: "test", Log: io.Discard, Out: io.Discard, clock: clock.of(obs.Unsynced),
	}); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stopNode)
	return r
}

func (r *running) radiusAnswer(login, password string) string {
	r.t.Helper()
	got, err := RadiusTest{
		Server: r.radius.Addrs().Auth[0].String(), Login: login, Password: edge.Secret(password), Secret: "router secret",
	}.Run(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return got.Answer
}

func TestABoardWithoutABatteryNeitherTravelsBackNorExpiresAnyone(t *testing.T) {
	t.Parallel()
	dir, begin := t.TempDir(), time.Now().UTC().Truncate(time.Second)
	clock := newHandClock(begin)
	n := startNodeAt(t, dir, clock)
	n.claim("acme")
	seedRADIUS(n, begin.Add(4*time.Hour))
	key, last := n.key, n.machine.LastTime()
	clock.advance(3 * time.Hour) // nothing is committed in these
	n.keepClock()
	clock.advance(50 * time.Second) // and the power goes before the next minute: what the clean stop writes down is undone
	high := n.floor.least()
	n.stopNode()
	setHigh(t, dir, begin.Add(3*time.Hour))

	clock = newHandClock(time.Unix(30, 0)) // 1970
	n = startNodeAt(t, dir, clock)
	n.key = key
	if at := n.effectiveTime(); at.Before(begin.Add(3*time.Hour)) || !at.After(last) || high.Before(at) {
		t.Fatalf("after the restart it is %v; the last commit was at %v, the mark stood at %v", at, last, begin.Add(3*time.Hour))
	}
	clock.advance(2 * time.Hour) // beyond the login's end
	if at := n.effectiveTime(); at.Before(begin.Add(5 * time.Hour)) {
		t.Errorf("after two more hours it is %v: time stands still", at)
	}
	if n.clockTrusted() {
		t.Error("a clock in 1970 is trusted")
	}
	if got := n.radiusAnswer("ann", "secret of ann"); got != "accept" {
		t.Errorf("the login is answered %s; a clock that is behind expired it", got)
	}
	made := n.call(201, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Late Comer"})
	if at, err := time.Parse(time.RFC3339, made["created_at"].(string)); err != nil || at.Before(begin.Add(5*time.Hour)) {
		t.Errorf("a record is dated %v (%v)", made["created_at"], err)
	}

	clock.set(begin.Add(6 * time.Hour)) // the uplink is back, and with it the time
	if !n.clockTrusted() {
		t.Error("the clock was set and is not trusted")
	}
	if got := n.radiusAnswer("ann", "secret of ann"); got != "reject" {
		t.Errorf("the login that ended is answered %s", got)
	}
}

// setHigh is what a power cut leaves: the mark of the last full minute.
func setHigh(t *testing.T, dir string, at time.Time) {
	t.Helper()
	st, err := store.Open(store.Options{Dir: dir + "/state", BallastBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := newHandClock(at).of(obs.Unsynced).floor().keep(st, at); err != nil {
		t.Error(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAHighWaterMarkGivesWayOnlyToASynchronisedClock(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for quality, want := range map[obs.Quality]time.Time{
		obs.Unsynced: begin.AddDate(9, 0, 0), obs.Holdover: begin.AddDate(9, 0, 0), obs.Synced: begin,
	} {
		st, err := store.Open(store.Options{Dir: t.TempDir(), BallastBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		clock := newHandClock(begin.AddDate(9, 0, 0)) // somebody set a wrong date
		if err := clock.of(quality).floor().keep(st, clock.now()); err != nil {
			t.Fatal(err)
		}
		clock.set(begin) // and somebody, or NTP, the right one
		again := clock.of(quality).floor()
		if err := again.open(st); err != nil {
			t.Fatal(err)
		}
		if err := again.keep(st, again.least()); err != nil {
			t.Fatal(err)
		}
		if got := again.least(); !got.Equal(want) {
			t.Errorf("clock %v: the floor is %v, want %v", quality, got, want)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// towerByHand is a claimed node whose clock the test sets, with logins that are paid for four hours.
func towerByHand(t *testing.T) (begin time.Time, clock *handClock, n *running) {
	t.Helper()
	begin = time.Now().UTC().Truncate(time.Second)
	clock = newHandClock(begin)
	n = startNodeAt(t, t.TempDir(), clock)
	n.claim("acme")
	seedRADIUS(n, begin.Add(4*time.Hour))
	return begin, clock, n
}

func TestAClockThatJumpsAheadOfMostVotersExpiresNobodyAndDatesNothing(t *testing.T) {
	t.Parallel()
	begin, clock, n := towerByHand(t)
	n.floor.agreed.Say(clock.now(), n.floor.passed()) // as the others do every second
	clock.set(begin.AddDate(0, 1, 0))
	if at := n.effectiveTime(); at.Sub(begin) > time.Minute {
		t.Errorf("it is %v, a month from the others' time", at)
	}
	if n.clockTrusted() {
		t.Error("the clock is trusted")
	}
	if s := n.clockStatus(); s.Ahead < 24*3600 {
		t.Errorf("the status says %+v", s)
	}
	if got := n.radiusAnswer("ann", "secret of ann"); got != "accept" {
		t.Errorf("the login is answered %s: a clock that jumped expired it", got)
	}
	n.keepClock()
	if high := n.floor.least(); high.Sub(begin) > time.Minute {
		t.Errorf("%v was written down as how late it is", high)
	}
	clock.set(begin.Add(time.Minute))
	if at := n.effectiveTime(); !at.Equal(clock.now()) || !n.clockTrusted() {
		t.Errorf("set right, it is %v, trusted: %v", at, n.clockTrusted())
	}
}

func TestWhatAWrongClockWroteDownWhileNobodyWasHeardGivesWayToMostVoters(t *testing.T) {
	t.Parallel()
	begin, clock, n := towerByHand(t)
	clock.set(begin.AddDate(0, 1, 0)) // while the node is cut off: nobody contradicts
	n.keepClock()
	agree := func() { n.floor.agreed.Say(begin.Add(n.floor.passed()), n.floor.passed()) }
	agree() // and the link is back
	if at := n.effectiveTime(); at.Sub(begin) > time.Minute {
		t.Errorf("it is %v, a month from the others' time: what was written down before they were heard dates what is committed", at)
	}
	if n.clockTrusted() {
		t.Error("the clock is trusted")
	}
	n.keepClock()
	if high := n.floor.least(); high.Sub(begin) > time.Minute {
		t.Errorf("%v stays written down as how late it is", high)
	}
	clock.set(begin.Add(time.Minute))
	clock.advance(time.Hour)
	agree()
	if at := n.effectiveTime(); !at.Equal(clock.now()) || !n.clockTrusted() {
		t.Errorf("set right, it is %v, trusted: %v", at, n.clockTrusted())
	}
}

package uplink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest/bubble"
	"wispgate/sync/wire"
)

// memStream is a stream in memory: one event per position, except that positions divisible by skip have none.
type memStream struct {
	mu    sync.Mutex
	marks Marks
	skip  uint64
	fail  error
	grew  chan struct{}
}

func newStream(last uint64) *memStream {
	return &memStream{marks: Marks{Last: last}, grew: make(chan struct{})}
}

func (m *memStream) Name() Name { return Name{Tenant: "acme", Source: "clu-1", Incarnation: "i1"} }

func (m *memStream) Marks() Marks {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.marks
}

func (m *memStream) grow(last uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks.Last = last
	close(m.grew)
	m.grew = make(chan struct{})
}

func (m *memStream) Read(_ context.Context, after uint64, maxBytes int) (items []wire.Item, upto uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, 0, m.fail
	}
	if after < m.marks.Base {
		return nil, 0, fmt.Errorf("position %d is forgotten", after)
	}
	size := 0
	for upto = after; upto < m.marks.Last && size < maxBytes; {
		upto++
		if m.skip > 0 && upto%m.skip == 0 {
			continue
		}
		it, err := wire.NewItem("clu-1", edge.EventRow{
			ID: edge.DeriveID("evt", "op", int(upto)), Type: "crm.customer.created", Tenant: "acme", Time: time.Unix(int64(upto), 0),
			Operation: "op", Changed: json.RawMessage(`{}`), Position: upto,
		}, "")
		if err != nil {
			return nil, 0, err
		}
		items = append(items, it)
		size += len(it.Raw)
	}
	return items, upto, nil
}

func (m *memStream) Wait(ctx context.Context, after uint64) error {
	m.mu.Lock()
	grew, have := m.grew, m.marks.Last > after
	m.mu.Unlock()
	if have {
		return nil
	}
	select {
	case <-grew:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memStream) Acked(upto uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks.Acked = upto
	return nil
}

// broker is the other side of every connection that a test's uplink makes.
type broker struct {
	t       *testing.T
	mu      sync.Mutex
	refuse  error
	dialled []time.Time
	conn    *fakeConn
	will    wire.State
	session string
}

type fakeConn struct {
	b    *broker
	in   chan message
	gone chan error
	mu   sync.Mutex
	sent []sent
	shut bool
}

type sent struct {
	kind wire.Kind
	raw  []byte
	head wire.Header
	at   time.Time
}

func (c *fakeConn) publish(kind wire.Kind, _ bool, raw []byte) {
	m := sent{kind: kind, raw: raw, at: time.Now()}
	if kind == wire.Events {
		var err error
		if m.head, _, err = new(wire.Decoder).Decode(raw); err != nil {
			c.b.t.Errorf("a batch that was sent does not decode: %v", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, m)
}

func (c *fakeConn) inbox() <-chan message { return c.in }
func (c *fakeConn) lost() <-chan error    { return c.gone }
func (c *fakeConn) close()                { c.mu.Lock(); c.shut = true; c.mu.Unlock() }

// take returns what was sent of a kind since the last take.
func (c *fakeConn) take(kind wire.Kind) []sent {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	var got, rest []sent
	for _, m := range c.sent {
		if m.kind == kind {
			got = append(got, m)
		} else {
			rest = append(rest, m)
		}
	}
	c.sent = rest
	return got
}

func (c *fakeConn) tell(kind wire.Kind, v any) { c.in <- message{kind, wire.Encode(v)} }

func (c *fakeConn) ack(upto uint64) {
	c.tell(wire.Acks, wire.Ack{Incarnation: "i1", Upto: upto, Session: "r1"})
}

func start(t *testing.T, st Stream, change func(*Config)) (*Uplink, *broker) {
	t.Helper()
	cfg := Config{Brokers: []string{"mqtt://127.0.0.1:1"}, Node: "tower-1", BatchBytes: 2 << 10, Now: time.Now}
	if change != nil {
		change(&cfg)
	}
	u, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{t: t}
	u.dial = func(_ context.Context, _ Name, session string, will []byte) (conn, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.dialled = append(b.dialled, time.Now())
		if b.refuse != nil {
			return nil, b.refuse
		}
		b.session = session
		b.conn = &fakeConn{b: b, in: make(chan message, 8), gone: make(chan error, 1)}
		if b.will, err = wire.ParseState(will); err != nil {
			t.Errorf("the will does not parse: %v", err)
		}
		return b.conn, nil
	}
	if _, err := u.Attach(context.Background(), st); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	sleep(time.Second) // connected, and the wait for a retained ack is over
	return u, b
}

func (b *broker) setRefuse(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = err
}

// sleep lets fake time pass and everything settle.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestRangesAreContiguousAndAcknowledgedOnesForgotten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := newStream(40)
		st.skip = 3
		u, b := start(t, st, nil)
		got := b.conn.take(wire.Events)
		after := uint64(0)
		for _, m := range got {
			if m.head.After != after {
				t.Errorf("a batch begins after %d, want %d", m.head.After, after)
			}
			after = m.head.Upto
		}
		if after != 40 || len(got) < 3 {
			t.Fatalf("sent %d batches up to %d, want several up to 40", len(got), after)
		}
		b.conn.ack(got[1].head.Upto)
		synctest.Wait()
		if m := st.Marks(); m.Acked != got[1].head.Upto {
			t.Errorf("stream was told %d, want %d", m.Acked, got[1].head.Upto)
		}
		b.conn.ack(40)
		synctest.Wait()
		s := u.Status()[0]
		if s.Acked != 40 || s.Backlog != 0 || s.UnderWay != 0 || s.Bytes != 0 || !s.Connected {
			t.Errorf("status %+v", s)
		}
		sleep(time.Hour)
		if again := b.conn.take(wire.Events); len(again) != 0 {
			t.Errorf("%d acknowledged batches were sent again", len(again))
		}
	})
}

func TestUnacknowledgedBatchesAreSentAgainEverMoreSlowly(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, b := start(t, newStream(1), nil)
		sleep(10 * time.Minute)
		got := b.conn.take(wire.Events)
		if len(got) < 5 {
			t.Fatalf("sent %d times in ten minutes", len(got))
		}
		want := 10 * time.Second
		for i := 1; i < 5; i++ {
			pause := got[i].at.Sub(got[i-1].at)
			if pause < want*9/10 || pause > want*11/10 {
				t.Errorf("repetition %d came after %s, want %s give or take a tenth", i, pause, want)
			}
			want *= 2
			if !bytes.Equal(got[i].raw, got[0].raw) {
				t.Error("a repetition differs from the first")
			}
		}
	})
}

func TestWindowBoundsWhatIsUnderWay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, b := start(t, newStream(10_000), func(c *Config) { c.Window = 4 })
		first := b.conn.take(wire.Events)
		if len(first) != 4 {
			t.Fatalf("%d batches under way, want 4", len(first))
		}
		b.conn.ack(first[1].head.Upto)
		if more := b.conn.take(wire.Events); len(more) != 2 {
			t.Errorf("after two were acknowledged %d more came, want 2", len(more))
		}
	})
}

func TestNackSendsTheWindowAgainAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, b := start(t, newStream(20), nil)
		first := b.conn.take(wire.Events)
		b.conn.tell(wire.Nacks, wire.Nack{Incarnation: "i1", After: first[1].head.Upto})
		if again := b.conn.take(wire.Events); len(again) != len(first)-2 || again[0].head.After != first[1].head.Upto {
			t.Errorf("%d batches came again, want %d", len(again), len(first)-2)
		}
		b.conn.tell(wire.Nacks, wire.Nack{Incarnation: "other", After: 0})
		if again := b.conn.take(wire.Events); len(again) != 0 {
			t.Error("another incarnation's nack was obeyed")
		}
	})
}

func TestRelayRestoredFromABackupGetsWhatIsStillHere(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := newStream(30)
		st.marks.Base, st.marks.Acked = 5, 20
		_, b := start(t, st, nil)
		if got := b.conn.take(wire.Events); got[0].head.After != 20 {
			t.Fatalf("began after %d, want 20", got[0].head.After)
		}
		b.conn.tell(wire.Nacks, wire.Nack{Incarnation: "i1", After: 2})
		got := b.conn.take(wire.Events)
		if len(got) == 0 || got[0].head.After != 5 || got[0].head.Base != 5 || got[len(got)-1].head.Upto != 30 {
			t.Errorf("went back to %+v, want everything after 5", got)
		}
	})
}

func TestAnotherPublisherOfTheStreamIsOvertaken(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := newStream(500)
		_, b := start(t, st, func(c *Config) { c.Window = 2 })
		b.conn.take(wire.Events)
		b.conn.ack(400)
		got := b.conn.take(wire.Events)
		if len(got) == 0 || got[0].head.After != 400 {
			t.Errorf("went on with %+v, want after 400", got)
		}
	})
}

func TestRetainedAckSavesSendingTwice(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := newStream(100)
		_, b := start(t, st, func(c *Config) { c.AckWait = time.Minute })
		b.conn.tell(wire.Acks, wire.Ack{Incarnation: "older", Upto: 90, Session: "r0"})
		if got := b.conn.take(wire.Events); len(got) != 0 {
			t.Fatal("sending began on the word of another incarnation")
		}
		b.conn.ack(60)
		if got := b.conn.take(wire.Events); len(got) == 0 || got[0].head.After != 60 {
			t.Errorf("sent %+v, want everything after 60", got)
		}
	})
}

func TestHistoryThatWasRolledBackIsNotSent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := newStream(10)
		u, b := start(t, st, func(c *Config) { c.AckWait = time.Minute })
		b.conn.ack(11)
		synctest.Wait()
		if s := u.Status()[0]; s.Connected || s.Problem == nil || s.Problem.Code != "relay_ahead" {
			t.Errorf("status %+v, want relay_ahead", s)
		}
		if got := b.conn.take(wire.Events); len(got) != 0 || st.Marks().Acked != 0 {
			t.Error("something was sent or noted all the same")
		}
	})
}

func TestNewRelaySessionGetsTheWindowAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, b := start(t, newStream(20), nil)
		first := b.conn.take(wire.Events)
		b.conn.ack(first[0].head.Upto)
		b.conn.take(wire.Events)
		b.conn.tell(wire.Acks, wire.Ack{Incarnation: "i1", Upto: first[0].head.Upto, Session: "r2"})
		if again := b.conn.take(wire.Events); len(again) != len(first)-1 {
			t.Errorf("%d batches came again, want %d", len(again), len(first)-1)
		}
	})
}

func TestIdleStreamMovesItsMarkWithAnEmptyBatch(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := newStream(0)
		st.skip = 1 // no events at all
		_, b := start(t, st, nil)
		st.grow(500)
		sleep(30 * time.Second)
		if got := b.conn.take(wire.Events); len(got) != 0 {
			t.Fatalf("an empty batch went out at once: %+v", got[0].head)
		}
		sleep(time.Minute)
		got := b.conn.take(wire.Events)
		if len(got) == 0 || got[0].head.Upto != 500 || got[0].head.Events != 0 {
			t.Errorf("got %+v, want one empty batch up to 500", got)
		}
	})
}

func TestBirthDeathAndAnothersDeath(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		u, b := start(t, newStream(3), nil)
		c := b.conn
		birth := c.take(wire.Status)
		if len(birth) != 1 {
			t.Fatalf("%d births", len(birth))
		}
		st, err := wire.ParseState(birth[0].raw)
		if err != nil || !st.Online || st.Session != b.session || st.Last != 3 {
			t.Errorf("birth %+v, %v", st, err)
		}
		if b.will.Online || b.will.Session != st.Session || b.will.Incarnation != st.Incarnation || b.will.Reason != "lost" {
			t.Errorf("will %+v does not belong to the birth", b.will)
		}
		c.tell(wire.Status, wire.State{Incarnation: "i1", Node: "tower-2", Session: "old"})
		if again := c.take(wire.Status); len(again) != 1 {
			t.Error("another session's death stayed as the last word")
		}
		c.tell(wire.Status, wire.State{Incarnation: "i1", Node: "tower-2", Session: "new", Online: true})
		c.tell(wire.Status, st)
		if again := c.take(wire.Status); len(again) != 0 {
			t.Error("another's birth was contradicted: two publishers would go on for ever")
		}
		if err := u.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		death := c.take(wire.Status)
		if len(death) != 1 || !c.shut {
			t.Fatalf("%d deaths, connection shut %v", len(death), c.shut)
		}
		if st, _ := wire.ParseState(death[0].raw); st.Online || st.Reason != "stopped" {
			t.Errorf("death %+v", st)
		}
	})
}

func TestConnectionIsMadeAgainWithPausesThatGrow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		u, b := start(t, newStream(10), nil)
		b.conn.take(wire.Events)
		b.setRefuse(errors.New("no route"))
		b.conn.gone <- errors.New("reset")
		sleep(30 * time.Minute)
		if s := u.Status()[0]; s.Connected || s.Problem.Code != "broker_unreachable" {
			t.Errorf("status %+v", s)
		}
		if n := len(b.dialled); n < 20 || n > 70 {
			t.Errorf("%d attempts in half an hour, want about one a minute", n)
		}
		b.setRefuse(nil)
		sleep(2 * time.Minute)
		if got := b.conn.take(wire.Events); len(got) == 0 || got[0].head.After != 0 {
			t.Error("what was under way is not sent on the new connection")
		}
	})
}

func TestReadErrorsShowAndHeal(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := newStream(10)
		st.fail = errors.New("disk")
		u, b := start(t, st, nil)
		if s := u.Status()[0]; s.Problem == nil || s.Problem.Code != "stream_unreadable" {
			t.Errorf("status %+v", s)
		}
		st.mu.Lock()
		st.fail = nil
		st.mu.Unlock()
		sleep(time.Minute)
		if got := b.conn.take(wire.Events); len(got) == 0 {
			t.Error("sending did not begin once the store could be read")
		}
	})
}

func TestRateBoundsCatchingUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, b := start(t, newStream(2_000), func(c *Config) { c.BytesPerSecond, c.Window, c.WindowBytes = 1000, 1000, 1<<20 })
		sleep(9 * time.Second)
		size := 0
		for _, m := range b.conn.take(wire.Events) {
			size += len(m.raw)
		}
		if size < 5_000 || size > 12_000 {
			t.Errorf("%d octets in ten seconds at 1000/s", size)
		}
	})
}

// The time for stopping is one for all that stops: the uplink comes to its turn when others have spent it.
func TestSessionsThatHaveEndedAreStopped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		u, _ := start(t, newStream(0), nil)
		if err := u.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 64 { // a coin at a time
			if err := u.Stop(ctx); err != nil {
				t.Fatalf("all have ended: %v", err)
			}
		}
	})
}

func TestConfigurationErrorsNameTheField(t *testing.T) {
	t.Parallel()
	good := Config{Brokers: []string{"mqtts://noc.example.net:8883"}, Node: "tower-1", Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no broker":             func(c *Config) { c.Brokers = nil },
		"a broker without port": func(c *Config) { c.Brokers = []string{"mqtt://noc"} },
		"a password in the url": func(c *Config) { c.Brokers = []string{"mqtt://u:p@noc:1883"} },
		"http":                  func(c *Config) { c.Brokers = []string{"http://noc:80"} },
		"a node with a slash":   func(c *Config) { c.Node = "a/b" },
		"a tiny window":         func(c *Config) { c.WindowBytes = 1 },
	} {
		cfg := good
		change(&cfg)
		_, err := New(cfg)
		if e, ok := edge.AsError(err); err == nil || !ok || len(e.Fields) == 0 || e.Fields[0].In != "config" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
)

// pair is a voter and a replica that ask each other.
func pair(t *testing.T) (f *flock, leader, other *bird) {
	f = newFlock(t, nil)
	leader = f.found("n1")
	f.grow(Replica, "n2")
	return f, leader, f.bird("n2")
}

func TestARequestReachesAMemberAndItsAnswerComesBack(t *testing.T) {
	f, leader, other := pair(t)
	denied := &edge.Error{Kind: edge.Denied, Code: "no", Message: "No", Fix: "Stop", RetryAfter: 7, Fields: []edge.FieldError{{Pointer: "/a", Reason: "r"}}}
	leader.node.Handle("echo", func(_ context.Context, from string, body []byte) ([]byte, error) {
		switch string(body) {
		case "denied":
			return nil, denied
		case "broken":
			return nil, errors.New("a detail that stays here")
		case "large":
			return make([]byte, MaxBody+1), nil
		}
		return append([]byte(from+" "), body...), nil
	})
	ctx := within(t, 2*time.Minute)
	call := func(to, method string, body []byte) (got []byte, err error) { // raft has begun anew for two, and may elect once more at any time
		f.until("there is a leader", func() bool {
			got, err = other.node.Call(ctx, to, method, body)
			return to != "" || !errors.Is(err, ErrQuorumLost)
		})
		return got, err
	}
	f.reaches(other, leader)
	for _, to := range []string{"", "n1"} {
		if got, err := call(to, "echo", []byte("hello")); err != nil || string(got) != "n2 hello" {
			t.Errorf("to %q: got %q, %v", to, got, err)
		}
	}
	var e *edge.Error
	if _, err := call("", "echo", []byte("denied")); !errors.As(err, &e) || e.Error() != denied.Error() || e.Kind != denied.Kind || e.RetryAfter != 7 {
		t.Errorf("got %#v, want the handler's error unchanged", err)
	}
	if _, err := call("", "echo", []byte("broken")); code(err) != "internal" || bytes.Contains([]byte(err.Error()), []byte("detail")) {
		t.Errorf("got %v, want internal without the detail", err)
	}
	if _, err := call("", "echo", []byte("large")); code(err) != "too_large" {
		t.Errorf("got %v, want too_large", err)
	}
	if _, err := call("", "echo", make([]byte, MaxBody+1)); code(err) != "too_large" {
		t.Errorf("got %v, want too_large", err)
	}
	if got, err := call("", "echo", make([]byte, MaxBody-8)); err != nil || len(got) != MaxBody-8+3 {
		t.Errorf("a body near the bound: %d octets, %v", len(got), err)
	}
	if _, err := call("", "unheard of", nil); code(err) != "starting" {
		t.Errorf("got %v, want starting", err)
	}
	if _, err := call("n9", "echo", nil); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v from a stranger, want quorum_lost", err)
	}
	// One hop: who is taken for the leader and is none refuses.
	conn, err := leader.node.port.dial(ctx, "n2", protoRPC, strict)
	check(t, err)
	k := newLink(conn, time.Now)
	go k.read()
	if _, err := k.ask(ctx, request{method: methodStats, leader: true}); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v from one that does not lead, want quorum_lost", err)
	}
	k.close(errOnce)
}

// reaches waits until a node has reached another: one that has just joined may not know it yet.
func (f *flock) reaches(from, to *bird) {
	f.t.Helper()
	f.until(from.name+" reaches "+to.name, func() bool {
		_, err := from.node.Call(within(f.t, time.Minute), to.name, methodStats, nil)
		return err == nil
	})
}

func TestADeadlineTravelsAndGivingUpIsTold(t *testing.T) {
	f, leader, other := pair(t)
	f.reaches(other, leader)
	ended := make(chan time.Duration, 1)
	begun := make(chan time.Time, 1)
	leader.node.Handle("wait", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		deadline, ok := ctx.Deadline()
		if !ok {
			t.Error("the caller's deadline did not travel")
		}
		begun <- deadline
		<-ctx.Done()
		ended <- time.Until(deadline)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	asked := make(chan error, 1)
	go func() {
		_, err := other.node.Call(ctx, leader.name, "wait", nil)
		asked <- err
	}()
	select {
	case <-begun:
	case err := <-asked:
		t.Fatalf("not answered, and ended: %v", err)
	}
	cancel()
	if err := <-asked; !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("got %v, want outcome_unknown: it was sent", err)
	}
	if left := <-ended; left <= 0 {
		t.Error("the handler was left to run to its deadline")
	}
}

func TestARequestThatWentOutAndBrokeIsUnknownOneThatDidNotIsNot(t *testing.T) {
	f, leader, other := pair(t)
	f.reaches(other, leader)
	arrived, release := make(chan struct{}), make(chan struct{})
	leader.node.Handle("hold", func(context.Context, string, []byte) ([]byte, error) {
		close(arrived)
		<-release
		return nil, nil
	})
	asked := make(chan error, 1)
	go func() {
		_, err := other.node.Call(within(t, 5*time.Second), "n1", "hold", nil)
		asked <- err
	}()
	select {
	case <-arrived:
	case err := <-asked:
		t.Fatalf("it did not go out: %v", err)
	}
	f.wires.Cut("n1", "n2") // the answer does not come back
	close(release)
	if err := <-asked; !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("got %v, want outcome_unknown", err)
	}
	f.wires.Heal()
	leader.down()
	f.until("nothing is sent to a port that is closed", func() bool {
		_, err := other.node.Call(within(t, time.Second), "n1", "hold", nil)
		return errors.Is(err, ErrQuorumLost)
	})
	f.wires.Part("n2", "n1")
	if _, err := other.node.Call(within(t, 300*time.Millisecond), "n1", "hold", nil); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v over a link that never stood, want quorum_lost", err)
	}
}

func TestMoreThanTheBoundIsOverloaded(t *testing.T) {
	f, leader, other := pair(t)
	f.reaches(other, leader)
	var running, most int
	var mu sync.Mutex
	release := make(chan struct{})
	leader.node.Handle("hold", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		defer func() { mu.Lock(); running--; mu.Unlock() }()
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, nil
	})
	const callers = maxInFlight + maxWaiting + 50
	refused, answered := 0, 0
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			_, err := other.node.Call(within(t, time.Minute), "n1", "hold", nil)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case code(err) == "overloaded":
				if refused++; refused == 50 {
					close(release)
				}
			case err == nil:
				answered++
			default:
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if refused < 50 || answered+refused != callers || most > maxInFlight {
		t.Errorf("%d refused, %d answered, %d at once", refused, answered, most)
	}
}

// A link may be dead for some seconds before anybody knows. Whoever waits behind those whose answers never come was not sent, and may be told so: what may
// wait for the cluster is then kept.
func TestWhoWaitsBehindALinkThatIsDeadWasNotSent(t *testing.T) {
	f, leader, other := pair(t)
	f.reaches(other, leader)
	held := make(chan struct{}, maxInFlight)
	leader.node.Handle("hold", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		held <- struct{}{}
		<-ctx.Done()
		return nil, nil
	})
	first, stop := context.WithCancel(within(t, time.Minute))
	var wg sync.WaitGroup
	for range maxInFlight {
		wg.Go(func() { _, _ = other.node.Call(first, "n1", "hold", nil) })
	}
	for range maxInFlight {
		<-held
	}
	if _, err := other.node.Call(within(t, 50*time.Millisecond), "n1", "hold", nil); !errors.Is(err, ErrQuorumLost) {
		t.Errorf("got %v, want quorum_lost", err)
	}
	stop()
	wg.Wait()
}

// FuzzFrames feeds the answering end what a broken peer might send: it must not panic, and what it reads it can write again.
func FuzzFrames(f *testing.F) {
	f.Add(frame{kind: kindRequest, id: 7, payload: request{method: "m", wait: time.Second, leader: true, body: []byte("b")}.encode()}.append(nil))
	f.Add(frame{kind: kindPing}.append(nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add(binary.BigEndian.AppendUint32(nil, frameHead))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fr, err := readFrame(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		if again := fr.append(nil); !bytes.Equal(again, raw[:len(again)]) {
			t.Fatalf("%x reads as another frame: %x", raw, again)
		}
		r, err := decodeRequest(fr.payload)
		if err != nil {
			return
		}
		if back, err := decodeRequest(r.encode()); err != nil || back.method != r.method || back.leader != r.leader || back.wait != r.wait || !bytes.Equal(back.body, r.body) {
			t.Fatalf("%+v comes back as %+v, %v", r, back, err)
		}
	})
}

// FuzzToken reads what a person might paste.
func FuzzToken(f *testing.F) {
	f.Add(token{Address: "h:1", CA: string(bytes.Repeat([]byte{'a'}, 64)), Secret: string(bytes.Repeat([]byte{'b'}, 32))}.String())
	f.Add("wgjoin1.")
	// JSON that writes these signs as they are is shorter than ours, which writes six octets for each
	long := `{"a":"` + strings.Repeat("<", 298) + `:1","c":"` + strings.Repeat("<", 64) + `","s":"` + strings.Repeat("<", 32) + `"}`
	f.Add(tokenPrefix + base64.RawURLEncoding.EncodeToString([]byte(long)))
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := parseToken(s)
		if err != nil {
			return
		}
		if again, err := parseToken(tok.String()); err != nil || again != tok {
			t.Fatalf("%q comes back as %+v, %v", s, again, err)
		}
	})
}

// TestEvents holds the shape of the events that other systems read.
func TestEvents(t *testing.T) {
	t.Parallel()
	const id = edge.ID("nod_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33")
	edgetest.GoldenEvents(
		t, Module(Ports{}),
		NodeInvited{id.With("jtk"), Voter, "tower7-a"}, NodeJoined{id, "tower7-b", Replica}, NodePromoted{id, "tower7-b"}, NodeDemoted{id, "tower7-b"},
		NodeRemoved{id, "tower7-b", "operator"}, NodeUpdated{id, "tower7-b", []string{"address"}}, NodeLost{id, "tower7-b"}, NodeFound{id, "tower7-b"}, HistoryMet{id, "tower7-b", "9f2c"},
		ChecksumMismatch{id.With("chk"), "tower7-b", 4711},
	)
}

// A member is forgotten while somebody dials it: the connection is nobody's any more, and must not outlive the node.
func TestAConnectionToAMemberThatWasForgottenMeanwhileIsClosed(t *testing.T) {
	f := newFlock(t, nil)
	b := f.found("n1")
	f.grow(Replica, "n2")
	f.settled()
	l := newLinks(b.node)
	p := l.peer("n2")
	l.mu.Lock()
	delete(l.peers, "n2") // as forget does
	l.mu.Unlock()
	if k, err := l.open(within(t, 10*time.Second), "n2", p); err == nil {
		t.Error("a connection that nobody closes is handed out")
		k.close(net.ErrClosed)
	}
	l.close()
}

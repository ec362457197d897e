package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"wispgate/edge"
)

// touch is one operation on a register as a client sees it.
type touch struct {
	key   string
	write bool
	value string // written
	cond  string // what the register must hold for it, if that matters
}

type seen struct {
	value   string
	known   bool // false: a write whose outcome nobody knows
	refused bool // the register held another value
}

// registerModel is what a register is: a read gives the last value written, and a write on a condition is refused where that does not hold.
var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			byKey[op.Input.(touch).key] = append(byKey[op.Input.(touch).key], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(touch), output.(seen)
		held := state.(string)
		switch meets := in.cond == "" || in.cond == held; {
		case !in.write:
			return out.value == held, held
		case out.known && out.refused == meets:
			return false, held
		case meets:
			return true, in.value
		}
		return true, held
	},
	Equal: func(a, b any) bool { return a.(string) == b.(string) },
	DescribeOperation: func(input, output any) string {
		in, out := input.(touch), output.(seen)
		if in.write {
			return fmt.Sprintf("%s = %s if %q (known %v, refused %v)", in.key, in.value, in.cond, out.known, out.refused)
		}
		return fmt.Sprintf("%s is %q", in.key, out.value)
	},
}

// history gathers what clients saw.
type history struct {
	begin time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
	open  []porcupine.Operation // writes without an answer: they may take effect at any time
	acked map[string]int        // by key: writes acknowledged
	tried map[string]int

	refused int
}

func (h *history) add(client int, in touch, out seen, call, back time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call.Sub(h.begin).Nanoseconds(), Return: back.Sub(h.begin).Nanoseconds()}
	if in.write {
		h.tried[in.key]++
		switch {
		case !out.known:
			h.open = append(h.open, op)
			return
		case out.refused:
			h.refused++
		default:
			h.acked[in.key]++
		}
	}
	h.ops = append(h.ops, op)
}

// judge gives the writes without an answer an infinite one and asks porcupine.
func (h *history) judge(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	end := time.Since(h.begin).Nanoseconds()
	ops := h.ops
	for i, op := range h.open {
		op.Return, op.ClientId = end+int64(i)+1, 1000+i // nobody waits for it any more
		ops = append(ops, op)
	}
	result, info := porcupine.CheckOperationsVerbose(registerModel, ops, 30*time.Second)
	switch result {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Logf("porcupine did not finish on %d operations", len(ops))
	case porcupine.Illegal:
		path := t.ArtifactDir() + "/history.html"
		if err := porcupine.VisualizePath(registerModel, info, path); err != nil {
			t.Error(err)
		}
		t.Errorf("the history of %d operations is not linearizable; see %s", len(ops), path)
	}
}

// client reads and writes registers at random nodes until ctx ends.
func (f *flock) client(ctx context.Context, id int, h *history) {
	rng := rand.New(rand.NewPCG(uint64(id), 1))
	names, last := f.names(), ""
	for i := 0; ctx.Err() == nil; i++ {
		in := touch{key: "r" + strconv.Itoa(rng.IntN(4)), write: rng.IntN(2) == 0, value: fmt.Sprintf("%d.%d", id, i)}
		if in.write && last != "" && rng.IntN(2) == 0 { // as it was when it was last seen, if nobody else wrote meanwhile
			in.key, in.cond, _ = strings.Cut(last, "=")
		}
		call := time.Now()
		out, ok := f.touch(ctx, in, names, rng)
		if ok {
			h.add(id, in, out, call, time.Now())
		}
		switch {
		case ok && !in.write:
			last = in.key + "=" + out.value
		case ok && out.known && !out.refused:
			last = in.key + "=" + in.value
		}
		f.pause(time.Millisecond)
	}
}

// touch reads at one node, or writes until there is an answer: with the same operation id, at any node, at most some times.
func (f *flock) touch(ctx context.Context, in touch, names []string, rng *rand.Rand) (out seen, ok bool) {
	for range 8 {
		b := f.bird(names[rng.IntN(len(names))])
		err := errors.New("down")
		if b.gate.TryRLock() {
			if b.node != nil {
				err = b.touch(ctx, in, &out)
			}
			b.gate.RUnlock()
		}
		if err == nil {
			return out, true
		}
		if !in.write {
			return out, false
		}
		if ctx.Err() != nil {
			break
		}
		f.pause(20 * time.Millisecond)
	}
	return seen{}, true
}

func (b *bird) touch(ctx context.Context, in touch, out *seen) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if in.write {
		_, err := edge.Do(ctx, b.exec, tester, "op-"+in.value, "test.register.write", registerWrite{in.key, in.value, in.cond})
		out.refused = code(err) == errOther.Code
		if out.known = err == nil || out.refused; out.known {
			return nil
		}
		return err
	}
	if err := b.node.Linearize(ctx); err != nil {
		return err
	}
	r, err := b.read(ctx, in.key)
	out.value, out.known = r.Value, true
	return err
}

// TestRegistersAreLinearizable reads and writes through a cluster whose nodes are cut off, stopped, made to hand over, and lose and get their votes. CLUSTER_HOURS
// makes it long.
func TestRegistersAreLinearizable(t *testing.T) {
	length, each := time.Duration(0), 4*time.Second
	if h, err := strconv.ParseFloat(os.Getenv("CLUSTER_HOURS"), 64); err == nil && h > 0 {
		length, each = time.Duration(h*float64(time.Hour)), 20*time.Second
	}
	f := three(t, nil)
	for begun, round := time.Now(), 0; round == 0 || time.Since(begun) < length; round++ {
		f.campaign(round, each)
		if t.Failed() {
			return
		}
	}
}

// campaign is one history under faults, then its verdict.
func (f *flock) campaign(round int, length time.Duration) {
	f.t.Helper()
	const clients = 5
	h := &history{begin: time.Now(), acked: map[string]int{}, tried: map[string]int{}}
	was := map[string]int64{}
	for i := range 4 {
		key := "r" + strconv.Itoa(i)
		f.put(fmt.Sprintf("reset-%d-%d", round, i), key, "")
		r, err := f.leader().read(within(f.t, time.Minute), key)
		check(f.t, err)
		was[key] = r.Count
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { f.client(ctx, round*100+i, h) })
	}
	rng := rand.New(rand.NewPCG(uint64(round), 7))
	for ctx.Err() == nil {
		f.fault(rng)
		f.pause(time.Duration(100+rng.IntN(400)) * time.Millisecond)
	}
	wg.Wait()
	f.wires.Heal()
	f.revive()
	f.enfranchise()
	f.settled()
	h.judge(f.t)
	for key, before := range was { // every acknowledged write took effect once, and none twice
		r, err := f.leader().read(within(f.t, time.Minute), key)
		check(f.t, err)
		if n := int(r.Count - before); n < h.acked[key] || n > h.tried[key] {
			f.t.Errorf("register %s counts %d writes; %d were acknowledged and %d tried", key, n, h.acked[key], h.tried[key])
		}
	}
	if len(h.ops) < clients {
		f.t.Errorf("only %d operations were answered", len(h.ops))
	}
	f.t.Logf("round %d: %d operations, %d of them refused, %d without an answer", round, len(h.ops), h.refused, len(h.open))
}

// revive starts every node that is down.
func (f *flock) revive() {
	for _, b := range f.birds {
		b.gate.Lock()
		if b.node == nil {
			b.up()
		}
		b.gate.Unlock()
	}
}

// enfranchise makes every node a voter.
func (f *flock) enfranchise() {
	for name := range f.birds {
		check(f.t, f.do("sync.node.promote", PeerRef{name}))
	}
	f.until("all nodes have a vote", func() bool { return len(f.leader().node.Status().Voters) == len(f.birds) })
}

// fault does one thing to the cluster.
func (f *flock) fault(rng *rand.Rand) {
	names := f.names()
	b := f.bird(names[rng.IntN(len(names))])
	switch kind := rng.IntN(9); kind {
	case 0:
		f.wires.Part(b.name, names...)
	case 1:
		f.wires.Cut(b.name, names[rng.IntN(len(names))])
	case 2, 3, 4:
		f.wires.Heal()
		f.revive()
	case 5, 7, 8:
		op := map[int]string{5: "sync.node.lead", 7: "sync.node.promote", 8: "sync.node.demote"}[kind]
		for _, l := range f.birds {
			if l.node != nil && l.node.IsLeader() {
				ctx, cancel := context.WithTimeout(f.t.Context(), 200*time.Millisecond)
				_, _ = edge.Do(ctx, l.exec, operator, "", op, PeerRef{b.name}) // it may fail, as anything may now
				cancel()
				return
			}
		}
	case 6:
		f.revive() // one at a time
		b.gate.Lock()
		b.down()
		b.gate.Unlock()
	}
}

// pause waits for a while that is part of a campaign.
func (f *flock) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.t.Context().Done():
	}
}

// TestTheModelSeesAStaleRead holds that the verdict can be otherwise.
func TestTheModelSeesAStaleRead(t *testing.T) {
	t.Parallel()
	op := func(client int, in touch, out seen, call, back int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call, Return: back}
	}
	stale := []porcupine.Operation{
		op(0, touch{key: "r", write: true, value: "1"}, seen{known: true}, 0, 10),
		op(1, touch{key: "r"}, seen{value: "", known: true}, 20, 30),
	}
	if porcupine.CheckOperations(registerModel, stale) {
		t.Error("a read from before an acknowledged write passes")
	}
	stale[1].Call = 5
	if !porcupine.CheckOperations(registerModel, stale) {
		t.Error("a read beside the write does not pass")
	}
}

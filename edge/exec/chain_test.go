package exec_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/edgetest/bubble"
	"wispgate/edge/exec"
)

// road is a log on which the test says when an entry arrives, and what comes between.
type road struct {
	*edgetest.Harness

	mu     sync.Mutex
	term   uint64
	firm   bool
	index  uint64
	way    []onWay // in the order in which they were proposed
	most   int     // most entries that were on their way at once
	terms  int     // entries that named a term
	fenced int     // of those, refused
}

type onWay struct {
	data     []byte
	outcome  chan error
	doubtful bool // its proposer was told that nobody knows
}

func (r *road) Propose(_ context.Context, data []byte) <-chan error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := onWay{data: data, outcome: make(chan error, 1)}
	r.way = append(r.way, s)
	r.most = max(r.most, len(r.way))
	return s.outcome
}

func (r *road) Term() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.firm {
		return 0
	}
	return r.term
}

func (r *road) apply(data []byte) error {
	r.index++
	err := r.Machine.ApplyBatch([]exec.LogEntry{{Index: r.index, Term: r.term, Data: data}})[0]
	if e, decodes := exec.DecodeEntry(data); decodes == nil && e.Term != 0 {
		if r.terms++; errors.Is(err, exec.ErrStale) {
			r.fenced++
		}
	}
	return err
}

// land has the oldest entry arrive. Once none is doubtful the ground is firm again.
func (r *road) land() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.landLocked()
	r.firm = r.firm || !slices.ContainsFunc(r.way, func(s onWay) bool { return s.doubtful })
}

func (r *road) landLocked() {
	if len(r.way) == 0 {
		return
	}
	s := r.way[0]
	r.way = r.way[1:]
	if err := r.apply(s.data); !s.doubtful {
		s.outcome <- err
	}
}

// doubt tells the proposer of the oldest entry nothing. It arrives all the same, or never.
func (r *road) doubt(arrives bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.way {
		if s := &r.way[i]; !s.doubtful {
			s.doubtful, r.firm = true, false
			s.outcome <- edge.ErrUnknown.Error(edge.Unavailable)
			if !arrives {
				r.way = slices.Delete(r.way, i, i+1)
			}
			return
		}
	}
}

// fall takes the lead away. The first n entries on their way were on the other nodes already; then another led and wrote, and this node leads
// again. With slow, the others come into the log only now, in the new term; else they never do.
func (r *road) fall(n int, slow bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ; n > 0; n-- {
		r.landLocked()
	}
	if !slow {
		for _, s := range r.way {
			if !s.doubtful {
				s.outcome <- edge.ErrUnknown.Error(edge.Unavailable)
			}
		}
		r.way = nil
	}
	r.term++
	foreign := exec.Entry{Base: r.Machine.Version(), Time: edgetest.Start.UnixNano(), Ops: []exec.Op{{Key: "acme/foreign", Val: fmt.Append(nil, r.term)}}}
	if err := r.apply(foreign.Append(nil)); err != nil {
		panic(err)
	}
	r.term++
	r.firm = !slow
}

// scroll is a record to which every write adds a line: what is lost, doubled or out of order shows.
type scroll struct {
	edge.Meta
	Name  string   `json:"name" check:"max=20"`
	Lines []string `json:"lines" check:"max=2000"`
}

type addLine struct {
	Name string `json:"name" check:"max=20"`
	Line string `json:"line" check:"max=20"`
}

type lineAdded struct {
	Lines int `json:"lines"`
}

var scrolls = &edge.Table[scroll]{
	Name: "test.scroll", Prefix: "scr", Meta: func(s *scroll) *edge.Meta { return &s.Meta },
	Indexes: []edge.Index[scroll]{{Name: "name", Unique: true, Keys: func(s *scroll) []string { return []string{s.Name} }}},
}

var addScroll = edge.Command[addLine, lineAdded]{
	Name: "test.scroll.add", Scope: "test:write", Class: edge.Write, Summary: "Add a line",
	Handle: func(tx edge.Tx, in addLine) (lineAdded, error) {
		s, err := scrolls.By(tx, "name", in.Name)
		if err != nil {
			s = scroll{Name: in.Name}
			s.ID = tx.NewID("scr")
		}
		s.Lines = append(s.Lines, in.Line)
		return lineAdded{len(s.Lines)}, scrolls.Put(tx, &s)
	},
}

type whichScroll struct {
	Name string `json:"name" check:"max=20"`
}

var readScroll = edge.Query[whichScroll, scroll]{
	Name: "test.scroll.read", Scope: "test:read", Class: edge.Read, Summary: "Read a scroll",
	Handle: func(v edge.View, in whichScroll) (scroll, error) { return scrolls.By(v, "name", in.Name) },
}

var burnScroll = edge.Command[whichScroll, edge.None]{
	Name: "test.scroll.burn", Scope: "test:write", Class: edge.Write, Summary: "Burn a scroll",
	Handle: func(tx edge.Tx, in whichScroll) (none edge.None, err error) {
		s, err := scrolls.By(tx, "name", in.Name)
		if err != nil {
			return none, err
		}
		return none, scrolls.Delete(tx, s.ID)
	},
}

func scrollModule() edge.Module {
	return edge.Module{Name: "test", Summary: "Scrolls.", Tables: []edge.AnyTable{scrolls}, Ops: []*edge.Op{addScroll.Op(), readScroll.Op(), burnScroll.Op()}}
}

// rolls are callers who add lines and remember what they were answered.
type rolls struct {
	t     *testing.T
	road  *road
	wg    sync.WaitGroup
	mu    sync.Mutex
	asked []string
	done  map[string]int // line → number of lines that it was answered
}

func (c *rolls) ask(line string) {
	c.wg.Go(func() {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Hour)
		defer cancel()
		out, err := edge.Do(ctx, c.road.Exec, acme, line, addScroll.Name, addLine{"one", line})
		if err != nil {
			return
		}
		var added lineAdded
		err = json.Unmarshal(out.Results[0], &added)
		c.mu.Lock()
		defer c.mu.Unlock()
		if before, again := c.done[line]; err != nil || again && before != added.Lines {
			c.t.Errorf("line %s: %v, then %v, %v", line, before, added, err)
		}
		c.done[line] = added.Lines
	})
}

func (c *rolls) lines() []string {
	out, _, err := c.road.Ask(c.t.Context(), acme, readScroll.Name, json.RawMessage(`{"name":"one"}`), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	return out.(scroll).Lines
}

// TestRoundsOnTheirWayAreEachAppliedOnceAndInOrder sends rounds on top of rounds over a log that loses the lead, the answers and the order.
// Whoever is answered finds its line in the place that it was told, for ever; who is not, asks again under the same id.
func TestRoundsOnTheirWayAreEachAppliedOnceAndInOrder(t *testing.T) {
	courses := 20
	if testing.Short() {
		courses = 10
	}
	most, terms, fenced := 0, 0, 0
	for seed := range uint64(courses) {
		bubble.Test(t, func(t *testing.T) {
			r := course(t, rand.New(rand.NewPCG(seed, 1)))
			most, terms, fenced = max(most, r.most), terms+r.terms, fenced+r.fenced
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if most < 3 || terms == 0 || fenced == 0 {
		t.Errorf("%d rounds at once, %d entries of a term, %d of them refused: this test tests nothing", most, terms, fenced)
	}
}

// TestAStoppingNodeAnswersEverybody: who is on the way, who waits behind, and who comes too late.
func TestAStoppingNodeAnswersEverybody(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := &road{term: 3}
		h := edgetest.OnLog(t, func(h *edgetest.Harness) exec.Log { r.Harness = h; r.index = h.Machine.AppliedIndex(); return r }, edgetest.Modules(scrollModule()))
		c := &rolls{t: t, road: r, done: map[string]int{}}
		for i := range 3 {
			c.ask(fmt.Sprint("l", i))
			synctest.Wait()
		}
		stopped := make(chan struct{})
		go func() { h.Stop(); close(stopped) }()
		synctest.Wait()
		r.land()
		<-stopped
		c.ask("late")
		answered := make(chan struct{})
		go func() { c.wg.Wait(); close(answered) }()
		select {
		case <-answered:
		case <-time.After(time.Minute): // of the bubble
			t.Fatal("somebody waits for ever")
		}
		if len(c.done) != 1 || c.done["l0"] != 1 {
			t.Errorf("answered %v, want the one that was on its way", c.done)
		}
	})
}

// proven is a road whose proof that this node leads is the test's.
type proven struct {
	*road
	prove func() error
}

func (p *proven) Linearize(context.Context) error { return p.prove() }

// TestARefusalIsOfWhatTheClusterHas: a node that was just elected may not have applied yet what others were told is done, and one that was deposed does
// not know what has been done since. What writes nothing goes through no log that would say so.
func TestARefusalIsOfWhatTheClusterHas(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := &road{term: 3, firm: true}
		p := &proven{road: r, prove: func() error { return nil }}
		h := edgetest.OnLog(t, func(h *edgetest.Harness) exec.Log { r.Harness = h; r.index = h.Machine.AppliedIndex(); return p }, edgetest.Modules(scrollModule()))
		defer h.Close()
		burn := func(key string) error {
			_, err := edge.Do(t.Context(), r.Exec, acme, key, burnScroll.Name, whichScroll{"one"})
			return err
		}
		if got := edgetest.CodeOf(t, burn("b0")); got != "not_found" {
			t.Errorf("burning what is not there: %s", got)
		}
		go func() { _, _ = edge.Do(t.Context(), r.Exec, acme, "a", addScroll.Name, addLine{"one", "x"}) }()
		synctest.Wait()
		r.doubt(true) // the others have it
		synctest.Wait()
		p.prove = func() error {
			for len(r.way) > 0 && r.way[0].doubtful {
				r.land()
			}
			return nil
		}
		burned := make(chan error, 1)
		go func() { burned <- burn("b1") }()
		synctest.Wait()
		r.land()
		if err := <-burned; err != nil {
			t.Fatalf("burning what the cluster has: %v", err)
		}
		p.prove = func() error { return edge.ErrQuorumLost.Error(edge.Unavailable) }
		if got := edgetest.CodeOf(t, burn("b2")); got != edge.ErrQuorumLost.Code {
			t.Errorf("a leader of before refuses with %s", got)
		}
	})
}

// levels that chain: entries as they are, and packed.
var levels = []int64{exec.ChainLevel, exec.PackLevel}

func course(t *testing.T, rng *rand.Rand) *road {
	r := &road{term: 3, firm: true}
	h := edgetest.OnLog(t, func(h *edgetest.Harness) exec.Log { r.Harness = h; r.index = h.Machine.AppliedIndex(); return r }, edgetest.Modules(scrollModule()))
	defer h.Close()
	c := &rolls{t: t, road: r, done: map[string]int{}}
	c.wg.Go(func() { _ = r.RaiseLevel(t.Context(), levels[rng.IntN(len(levels))]) })
	synctest.Wait()
	r.land()
	synctest.Wait()
	for range 25 {
		switch rng.IntN(9) {
		case 0, 1, 2:
			for range 1 + rng.IntN(60) {
				line := fmt.Sprint("l", len(c.asked))
				c.asked = append(c.asked, line)
				c.ask(line)
			}
		case 3, 4, 5:
			r.land()
		case 6, 7:
			r.doubt(rng.IntN(2) == 0)
		case 8:
			r.fall(rng.IntN(4), rng.IntN(2) == 0)
		}
		synctest.Wait()
	}
	for range 200 { // until everybody has an answer
		r.land()
		synctest.Wait()
		for _, line := range c.asked {
			c.mu.Lock()
			_, ok := c.done[line]
			c.mu.Unlock()
			if !ok {
				c.ask(line)
			}
		}
		synctest.Wait()
		if len(c.done) == len(c.asked) {
			break
		}
	}
	got := c.lines()
	for line, n := range c.done {
		if n > len(got) || got[n-1] != line {
			t.Fatalf("%s was answered place %d; the scroll has %v", line, n, got)
		}
	}
	sorted := slices.Sorted(slices.Values(got))
	if len(slices.Compact(sorted)) != len(got) || len(got) != len(c.asked) || len(c.done) != len(c.asked) {
		t.Errorf("%d lines of %d asked, %d answered: %v", len(got), len(c.asked), len(c.done), got)
	}
	return r
}

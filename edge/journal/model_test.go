package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
	"wispgate/edge"
)

// TestJournalAgainstAModel compares random histories of appends, trims, restarts, power cuts, faults and a filling disk
// with a list that cannot lose anything. The preparer runs where the history says, between two operations of the
// others, so that a seed repeats a failure.
func TestJournalAgainstAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { againstAModel(t, true) })
}

// TestJournalAgainstAModelBesideThePreparer lets the preparer run as it does in a node. A seed does not repeat it.
func TestJournalAgainstAModelBesideThePreparer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { againstAModel(t, false) })
}

func againstAModel(t *rapid.T, stepped bool) {
	seed := rapid.Uint64().Draw(t, "seed")
	m := &model{
		ledger: &ledger{acked: map[uint64][]byte{}}, refused: map[string]bool{},
		rng: rand.New(rand.NewPCG(seed, 2)), stepped: stepped,
	}
	d := newSimDisk()
	d.torn = rand.New(rand.NewPCG(seed, 3))
	m.use(d)
	m.open(t)
	defer func() {
		if m.j != nil {
			_ = m.j.Close()
		}
	}()
	t.Repeat(map[string]func(*rapid.T){
		"append":  m.append,
		"trim":    m.trim,
		"prepare": func(*rapid.T) { m.prepare() },
		"reopen": func(t *rapid.T) {
			m.close(t)
			m.calm()
			m.open(t)
		},
		"reopen on a failing disk": m.reopenFailing,
		"power cut": func(t *rapid.T) {
			image := m.disk.cut(m.rng)
			m.close(t)
			m.use(image)
			m.open(t)
		},
		"power cut amid": func(t *rapid.T) {
			m.cutAt.Store(rapid.Int64Range(1, 40).Draw(t, "operation"))
			m.something(t)
			if m.cutAt.Swap(0) > 0 {
				m.cut() // too little happened: the cut comes now
			}
			m.close(t)
			m.ledger = &ledger{acked: m.survivors, trimmed: m.released}
			m.use(m.image)
			m.open(t)
		},
		"killed amid": func(t *rapid.T) {
			m.killAt.Store(rapid.Int64Range(1, 40).Draw(t, "operation"))
			m.something(t)
			m.close(t)
			m.use(m.disk)
			m.calm()
			m.open(t)
		},
		"preparer runs at": func(t *rapid.T) { m.prepareAt.Store(rapid.Int64Range(1, 40).Draw(t, "operation")) },
		"fault": func(t *rapid.T) {
			op := rapid.SampledFrom([]string{"write", "sync", "create", "rename", "remove", "syncdir"}).Draw(t, "op")
			m.faults(op, int64(rapid.IntRange(0, 3).Draw(t, "faults")))
		},
		"disk fills or clears": func(t *rapid.T) {
			m.disk.mu.Lock()
			defer m.disk.mu.Unlock()
			m.disk.capacity = int64(rapid.SampledFrom([]int{0, 3, 5, 8}).Draw(t, "segments")) * (16 << 10)
		},
		"": func(t *rapid.T) {
			acked, trimmed := m.ledger.snapshot(func() {})
			if err := checkLedger(m.j, acked, trimmed); err != nil {
				t.Fatal(err)
			}
			if _, err := m.j.Read(0, 0, func(r Record) error {
				if m.refused[string(r.Payload[:16])] {
					return fmt.Errorf("record %d is there although it was refused", r.Seq)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// model is a journal on a simulated disk, and what the outside world knows of it.
type model struct {
	j       *Journal
	disk    *simDisk
	ledger  *ledger
	rng     *rand.Rand
	id      int64
	stepped bool

	refused map[string]bool // facts that must not appear: their caller was told so

	prepareAt, cutAt, killAt atomic.Int64 // operations until then; 0: never

	image     *simDisk // what the last cut left
	survivors map[uint64][]byte
	released  uint64
}

func (m *model) use(d *simDisk) {
	m.disk, m.image = d, nil
	m.prepareAt.Store(0)
	m.cutAt.Store(0)
	m.killAt.Store(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.step, d.killed = m.step, false
}

func (m *model) options() Options {
	opt := simOptions(m.disk)
	opt.stepped = m.stepped
	return opt
}

func (m *model) open(t *rapid.T) {
	j, err := Open(m.options())
	if err != nil {
		t.Fatal(err)
	}
	m.j = j
}

func (m *model) close(t *rapid.T) {
	if err := m.j.Close(); err != nil {
		t.Fatal(err)
	}
	m.j = nil
}

// step comes before each operation of the disk, from whoever asked for it.
func (m *model) step() {
	if m.cutAt.Load() > 0 && m.cutAt.Add(-1) == 0 {
		m.cut()
	}
	if m.killAt.Load() > 0 && m.killAt.Add(-1) == 0 {
		m.disk.mu.Lock()
		m.disk.killed = true
		m.disk.mu.Unlock()
	}
	if m.prepareAt.Load() > 0 && m.prepareAt.Add(-1) == 0 {
		m.prepare()
	}
}

// cut takes the power away. What is acknowledged or released from here on does not count.
func (m *model) cut() {
	m.survivors, m.released = m.ledger.snapshot(func() { m.image = m.disk.cut(m.rng) })
}

// prepare does the preparer's work, unless it would have to wait for whoever is at it.
func (m *model) prepare() {
	if m.stepped && m.j != nil && m.j.prepMu.TryLock() {
		m.j.prepMu.Unlock()
		_ = m.j.fillSpares() // a full or failing disk leaves fewer spares
	}
}

// faults lets the next n operations of a kind fail.
func (m *model) faults(op string, n int64) {
	var left atomic.Int64
	left.Store(n)
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.fault = func(o string) error {
		if o == op && left.Add(-1) >= 0 {
			return errFault
		}
		return nil
	}
}

func (m *model) calm() { m.faults("", 0) }

// something is what the journal is at when it is interrupted.
func (m *model) something(t *rapid.T) {
	switch rapid.SampledFrom([]string{"append", "trim", "prepare"}).Draw(t, "amid") {
	case "append":
		m.append(t)
	case "trim":
		m.trim(t)
	case "prepare":
		m.prepare()
	}
}

func (m *model) append(t *rapid.T) {
	for range rapid.IntRange(1, 30).Draw(t, "n") {
		m.id++
		p := fact(m.id, rapid.IntRange(0, 2000).Draw(t, "size"))
		seq, err := m.j.Append(context.Background(), 1, p)
		switch e, known := edge.AsError(err); {
		case err == nil:
			if err := m.ledger.ack(seq, p); err != nil {
				t.Fatal(err)
			}
		case known && e.Code == "journal_full":
			m.refused[string(p[:16])] = true
		case known && e.Code == "journal_write_failed": // may appear or not
		default:
			t.Fatal(err)
		}
	}
}

func (m *model) trim(t *rapid.T) {
	upto := rapid.Uint64Range(0, m.j.Next()+5).Draw(t, "upto")
	m.ledger.mu.Lock()
	m.ledger.trimmed = max(m.ledger.trimmed, upto)
	m.ledger.mu.Unlock()
	if err := m.j.Trim(upto); err != nil && !errors.Is(err, errFault) && !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
}

// reopenFailing starts on a disk that fails once, which is an error, and then on one that works again.
func (m *model) reopenFailing(t *rapid.T) {
	m.close(t)
	m.faults(rapid.SampledFrom([]string{"write", "sync", "remove", "syncdir"}).Draw(t, "op"), 1)
	j, err := Open(m.options())
	if err == nil {
		m.j = j
		return
	}
	if !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	m.calm()
	m.open(t)
}

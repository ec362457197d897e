package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/raft"

	"wispgate/edge"
)

// stick is an excerpt as it lies in a bundle.
type stick struct {
	part    LogPart
	state   []byte
	entries [][]byte
}

// excerpt is what the leader would export for a node.
func (f *flock) excerpt(node string, from *uint64) (s stick, err error) {
	f.t.Helper()
	x, err := f.leader().node.ExcerptFor(within(f.t, time.Minute), node, from)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	var state bytes.Buffer
	s.part = x.Part
	if err := x.WriteState(&state); err != nil {
		return s, err
	}
	s.state = state.Bytes()
	return s, x.Each(within(f.t, time.Minute), func(e []byte) error { s.entries = append(s.entries, bytes.Clone(e)); return nil })
}

type stickReader struct {
	io.Reader
	left [][]byte
}

func (r *stickReader) Next() ([]byte, error) {
	if len(r.left) == 0 {
		return nil, io.EOF
	}
	e := r.left[0]
	r.left = r.left[1:]
	return e, nil
}

// take imports it at a node.
func (s stick) take(b *bird) (LogTaken, error) {
	return b.node.TakeLog(within(b.f.t, time.Minute), s.part, &stickReader{bytes.NewReader(s.state), s.entries}, func(uint64) {})
}

func (f *flock) cut(b *bird) {
	f.t.Helper()
	f.wires.Part(b.name, f.names()...)
	f.until(b.name+" knows that it is cut off", func() bool { return !b.node.Contact() })
}

func (b *bird) value(key string) string {
	r, err := b.read(b.f.t.Context(), key)
	if err != nil {
		return err.Error()
	}
	return r.Value
}

func errCode(err error) string {
	if err == nil {
		return "ok"
	}
	e, ok := edge.AsError(err)
	if !ok {
		return err.Error()
	}
	if e.Fix == "" {
		return e.Code + " without a fix"
	}
	return e.Code
}

// TestTheLogIsCarriedToAReplica and on from there: twice, in pieces, over a restart, and by the link at last.
func TestTheLogIsCarriedToAReplica(t *testing.T) {
	f := newFlock(t, nil)
	lead := f.found("n1")
	f.grow(Replica, "tower")
	tower := f.birds["tower"]
	f.put("w0", "k", "before")
	f.settled()
	f.cut(tower)
	for i := range 150 { // more than one request of raft's
		f.put(fmt.Sprint("w", i+1), "k", fmt.Sprint(i))
	}
	want := lead.machine.Version()
	s, err := f.excerpt("tower", nil) // from where the leader last saw it
	check(t, err)
	if s.part.State != nil || len(s.entries) < 150 {
		t.Fatalf("got %+v with %d entries", s.part, len(s.entries))
	}
	got, err := s.take(tower)
	if err != nil || got.Version < want || got.Was >= want {
		t.Fatalf("got %+v, %v, want version %d", got, err, want)
	}
	if v := tower.value("k"); v != "149" {
		t.Errorf("the tower reads %q", v)
	}
	if tower.node.Contact() {
		t.Error("the tower takes a stick for a link")
	}
	if again, err := s.take(tower); err != nil || again.Was != again.Version {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	f.put("x1", "k", "later")
	old := s
	if s, err = f.excerpt("tower", new(old.part.Commit)); err != nil || len(s.entries) >= 150 {
		t.Fatalf("%d entries, %v", len(s.entries), err)
	}
	tower.down()
	tower.up()
	f.until("the tower is up", func() bool { return tower.node.Status().State == "follower" })
	if _, err := s.take(tower); err != nil || tower.value("k") != "later" {
		t.Errorf("after a restart: %v, %q", err, tower.value("k"))
	}
	if again, err := old.take(tower); err != nil || again.Was != again.Version || tower.value("k") != "later" {
		t.Errorf("the older one after the newer: %+v, %v", again, err)
	}
	f.wires.Heal()
	f.until("the tower hears the leader", tower.node.Contact)
	f.put("x2", "k", "by the link")
	f.settled()
}

// leaveTail cuts a leader off which keeps entries that nobody else has, and says where it stood some time before. One that gave up before it
// had written them is not the one: then the next leader is tried.
func (f *flock) leaveTail(entries uint64) (old *bird, at Position, tail uint64) {
	f.t.Helper()
	for try := range 20 {
		old = f.leader()
		f.put(fmt.Sprintf("w%d", try), "k", "before")
		f.settled()
		var err error
		at, err = old.node.Position()
		check(f.t, err)
		for i := range 100 {
			f.put(fmt.Sprintf("common%d-%d", try, i), "k", fmt.Sprint("common", i))
		}
		f.settled()
		run := old.node.current()
		for _, o := range f.others(old.name) {
			f.wires.Cut(old.name, o)
			f.wires.Cut(o, old.name)
		}
		for i := range entries { // an entry that would be applied anywhere
			run.raft.Apply(fmt.Appendf(nil, "not an entry %d", i), time.Second)
		}
		f.until("the old leader gave up", func() bool { return run.raft.State() != raft.Leader && !old.node.Contact() })
		if tail = run.raft.LastIndex(); tail >= run.raft.CommitIndex()+entries {
			return old, at, tail
		}
		f.wires.Heal()
		f.settled()
	}
	f.t.Fatal("no leader kept a tail")
	return nil, at, 0
}

// TestTheLogIsCarriedPastAnotherLeadersTail: a leader that is cut off keeps entries which nobody else has. What is carried to it takes their
// place, and none of them is ever applied, though the bundle begins long before them.
func TestTheLogIsCarriedPastAnotherLeadersTail(t *testing.T) {
	f := three(t, nil)
	old, at, tail := f.leaveTail(20)
	for i := range 30 {
		f.put(fmt.Sprint("new", i), "k", fmt.Sprint("new", i))
	}
	pos, err := old.node.Position()
	check(t, err)
	s, err := f.excerpt(old.name, &at.Commit) // more than a page before the tail
	check(t, err)
	if _, err := s.take(old); err != nil {
		t.Fatal(err)
	}
	if err := old.machine.Fatal(); err != nil || old.value("k") != "new29" {
		t.Fatalf("%q, %v", old.value("k"), err)
	}
	f.until("one is made from a noted position", func() bool { // the leader that noted it knows it, no other
		if f.leader().node.NotePosition(within(t, 3*time.Second), old.name, pos) != nil {
			return false
		}
		s, err = f.excerpt(old.name, nil)
		return err == nil
	})
	if s.part.Prev >= tail || s.part.Prev < at.Commit {
		t.Errorf("from a position with a foreign tail: %+v", s.part)
	}
	f.wires.Heal()
	f.settled()
}

func TestAStateIsCarriedWhereTheLogIsCut(t *testing.T) {
	f := newFlock(t, nil)
	lead := f.found("n1")
	f.grow(Replica, "tower")
	tower := f.birds["tower"]
	f.put("w0", "k", "before")
	f.settled()
	f.cut(tower)
	for i := range 60 {
		f.put(fmt.Sprint("w", i+1), fmt.Sprint("k", i%7), fmt.Sprint(i))
	}
	run := lead.node.current()
	rc := run.raft.ReloadableConfig()
	rc.TrailingLogs = 4
	check(t, run.raft.ReloadConfig(rc))
	check(t, lead.node.Snapshot())
	f.put("after", "k", "after the cut")
	want := lead.machine.Version()
	s, err := f.excerpt("tower", nil)
	check(t, err)
	if s.part.State == nil || int64(len(s.state)) != s.part.State.Size || len(s.entries) == 0 {
		t.Fatalf("got %+v, %d octets, %d entries", s.part, len(s.state), len(s.entries))
	}
	half := s
	half.state = s.state[:len(s.state)/2]
	if _, err := half.take(tower); errCode(err) != "bundle_refused" || tower.value("k") != "before" {
		t.Errorf("half a state: %v, %q", err, tower.value("k"))
	}
	got, err := s.take(tower)
	if err != nil || !got.Installed || tower.value("k") != "after the cut" || tower.machine.Version() < want {
		t.Fatalf("got %+v, %v, %q", got, err, tower.value("k"))
	}
	if again, err := s.take(tower); err != nil || again.Installed || again.Was != again.Version {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	f.put("more", "k", "more")
	newer, err := f.excerpt("tower", new(s.part.Commit))
	check(t, err)
	if _, err := newer.take(tower); err != nil || tower.value("k") != "more" {
		t.Errorf("entries on a carried state: %v, %q", err, tower.value("k"))
	}
	if again, err := s.take(tower); err != nil || again.Installed || tower.value("k") != "more" { // it must not go back
		t.Errorf("the older state after newer entries: %+v, %v", again, err)
	}
	tower.down()
	tower.up()
	if tower.value("k") != "more" {
		t.Errorf("after a restart: %q", tower.value("k"))
	}
	f.wires.Heal()
	f.put("on", "k", "by the link") // the leader goes on from where it left the tower, far behind the state
	f.settled()
}

func TestWhatASnapshotHoldsIsTakenOffARequest(t *testing.T) {
	t.Parallel()
	q := &queue{stands: func() (index, term uint64) { return 76, 3 }}
	request := func(prev, last, commit uint64) *raft.AppendEntriesRequest {
		req := &raft.AppendEntriesRequest{PrevLogEntry: prev, PrevLogTerm: 3, LeaderCommitIndex: commit}
		for i := prev + 1; i <= last; i++ {
			req.Entries = append(req.Entries, &raft.Log{Index: i, Term: 3})
		}
		return req
	}
	other := request(70, 80, 90)
	other.Entries[5].Term = 2 // the entry at which the snapshot stands
	for name, tc := range map[string]struct {
		req                       *raft.AppendEntriesRequest
		prev, first, last, commit uint64
	}{
		"from the first entry on":        {request(0, 80, 90), 0, 77, 80, 80},
		"from within":                    {request(16, 80, 78), 0, 77, 80, 78},
		"nothing new":                    {request(16, 70, 90), 0, 0, 0, 70}, // the tail here may be another leader's
		"up to the snapshot":             {request(16, 76, 90), 0, 0, 0, 76},
		"at the snapshot":                {request(76, 80, 90), 0, 77, 80, 90},
		"at the snapshot, empty":         {request(76, 76, 90), 0, 0, 0, 76},
		"behind the snapshot":            {request(77, 80, 90), 77, 78, 80, 90},
		"a heartbeat":                    {&raft.AppendEntriesRequest{}, 0, 0, 0, 0},
		"another entry where it stands":  {other, 70, 71, 80, 90},
		"a commit that is older than it": {request(16, 80, 20), 0, 77, 80, 20},
	} {
		q.known(tc.req)
		var first, last uint64
		if n := len(tc.req.Entries); n > 0 {
			first, last = tc.req.Entries[0].Index, tc.req.Entries[n-1].Index
		}
		if tc.req.PrevLogEntry != tc.prev || first != tc.first || last != tc.last || tc.req.LeaderCommitIndex != tc.commit {
			t.Errorf("%s: after %d entries %d to %d, commit %d; want after %d %d to %d, commit %d",
				name, tc.req.PrevLogEntry, first, last, tc.req.LeaderCommitIndex, tc.prev, tc.first, tc.last, tc.commit)
		}
	}
}

// set is a time that the process measured when the wall clock showed another: as time.Now gives it after the clock was set.
func set(t time.Time, by time.Duration) time.Time {
	wall := (*uint64)(unsafe.Pointer(&t)) // a flag that there is a monotonic reading, 33 bits of seconds, 30 of nanoseconds
	*wall += uint64(int64(by/time.Second) << 30)
	return t
}

// A clock that was two hours ahead when a bundle was imported is set right by the link that comes back.
func TestALinkIsSeenThoughTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	var c carriedUpTo
	if !c.before(time.Now()) {
		t.Error("where nothing was carried, no link is seen")
	}
	c.begin()
	if c.before(time.Now()) {
		t.Error("what a bundle says is taken for a link")
	}
	last := set(time.Now(), 2*time.Hour)
	if ahead := time.Until(last.Round(0)); ahead < time.Hour {
		t.Fatalf("the clock that was ahead is ahead by %s", ahead)
	}
	c.end(last)
	if c.before(last) {
		t.Error("the last that a bundle said is taken for a link")
	}
	if time.Sleep(time.Millisecond); !c.before(time.Now()) {
		t.Error("the link is not seen until the clock shows what it showed before")
	}
}

func TestALogThatDoesNotFitIsRefused(t *testing.T) {
	f := newFlock(t, nil)
	lead := f.found("n1")
	f.grow(Replica, "tower", "other")
	tower := f.birds["tower"]
	for i := range 10 {
		f.put(fmt.Sprint("w", i), "k", fmt.Sprint(i))
	}
	f.settled()
	f.cut(tower)
	for i := range 10 {
		f.put(fmt.Sprint("x", i), "k", fmt.Sprint("later", i))
	}
	good, err := f.excerpt("tower", nil)
	check(t, err)
	ahead, err := f.excerpt("tower", new(good.part.Commit-2))
	check(t, err)
	swap := slices.Clone(good.entries)
	swap[0], swap[1] = swap[1], swap[0]
	short := bytes.Clone(good.entries[0])[:20]
	odd := bytes.Clone(good.entries[0])
	odd[16] = 99 // of no type
	conf := encodeLog(&raft.Log{Index: good.part.Prev + 1, Term: good.part.Term, Type: raft.LogConfiguration, Data: []byte("no configuration")})
	edit := func(change func(*stick)) stick {
		s := good
		change(&s)
		return s
	}
	before := tower.node.Status()
	for name, tc := range map[string]struct {
		s    stick
		at   *bird
		want string
	}{
		"entries between are missing": {ahead, tower, "bundle_gap"},
		"at the leader":               {good, lead, "bundle_not_follower"},
		"of a term that is over":      {edit(func(s *stick) { s.part.Term, s.part.PrevTerm, s.part.Commit, s.entries = 1, 1, s.part.Prev, nil }), tower, "bundle_term"},
		"of no leader":                {edit(func(s *stick) { s.part.Leader = "" }), tower, "bundle_entries"},
		"of no term":                  {edit(func(s *stick) { s.part.PrevTerm = 0 }), tower, "bundle_entries"},
		"backwards":                   {edit(func(s *stick) { s.part.Prev, s.part.Commit = s.part.Commit, s.part.Prev }), tower, "bundle_entries"},
		"out of order":                {edit(func(s *stick) { s.entries = swap }), tower, "bundle_entries"},
		"the last missing":            {edit(func(s *stick) { s.entries = s.entries[:len(s.entries)-1] }), tower, "bundle_entries"},
		"one too many":                {edit(func(s *stick) { s.entries = append(slices.Clone(s.entries), s.entries[0]) }), tower, "bundle_entries"},
		"half an entry":               {edit(func(s *stick) { s.entries = [][]byte{short} }), tower, "bundle_entries"},
		"an entry of no type":         {edit(func(s *stick) { s.entries = [][]byte{odd} }), tower, "bundle_entries"},
		"a broken configuration":      {edit(func(s *stick) { s.entries = [][]byte{conf} }), tower, "bundle_entries"},
		"a state without members":     {edit(func(s *stick) { s.part.State = &StatePart{Size: 1} }), tower, "bundle_entries"},
	} {
		// A bundle is held against what it says before anything of it is fed; so what fails here fails there.
		c, err := tc.s.part.Carried()
		for _, e := range tc.s.entries {
			if err == nil {
				_, err = c.Entry(e)
			}
		}
		if err == nil {
			err = c.End()
		}
		if err == nil {
			_, err = tc.s.take(tc.at)
		}
		if errCode(err) != tc.want {
			t.Errorf("%s: got %v, want %s", name, err, tc.want)
		}
	}
	if after := tower.node.Status(); after.LastIndex != before.LastIndex || after.Version != before.Version {
		t.Errorf("something was taken: %+v", after)
	}
	for name, tc := range map[string]struct {
		at   *bird
		node string
		want string
	}{
		"at a follower":   {f.birds["other"], "tower", "bundle_not_leader"},
		"for itself":      {lead, "n1", "bundle_self"},
		"for nobody":      {lead, "n9", "node_unknown"},
		"where unknown":   {lead, "fresh", "bundle_position"},
		"for the removed": {lead, "gone", "node_removed"},
	} {
		switch tc.node {
		case "fresh", "gone":
			_, err := f.bird(tc.node).join(f.invite(Replica, ""))
			check(t, err)
			if tc.node == "gone" {
				check(t, f.do("sync.node.remove", map[string]any{"node": "gone"}))
			}
			delete(f.birds, tc.node)
		}
		_, err := tc.at.node.ExcerptFor(within(t, time.Minute), tc.node, nil)
		if errCode(err) != tc.want {
			t.Errorf("%s: got %v, want %s", name, err, tc.want)
		}
	}
	if _, err := good.take(tower); err != nil || tower.value("k") != "later9" {
		t.Errorf("the good one: %v, %q", err, tower.value("k"))
	}
}

func TestABundleIsSignedByAMember(t *testing.T) {
	f := newFlock(t, nil)
	lead := f.found("n1")
	f.grow(Replica, "tower")
	tower := f.birds["tower"]
	digest := bytes.Repeat([]byte{1}, 32)
	value, cert, err := tower.node.SignBundle(digest)
	check(t, err)
	if node, removed, err := lead.node.VerifyBundle(digest, value, cert); err != nil || node != "tower" || removed {
		t.Errorf("got %q, removed %v, %v", node, removed, err)
	}
	_, otherCert, err := lead.node.SignBundle(digest)
	check(t, err)
	alien := &flock{t: t, dir: t.TempDir(), wires: newWires(), clock: time.Now, birds: map[string]*bird{}}
	t.Cleanup(alien.close)
	stranger := alien.found("tower")
	strange, strangeCert, err := stranger.node.SignBundle(digest)
	check(t, err)
	for name, tc := range map[string]struct{ digest, value, cert []byte }{
		"another digest":          {bytes.Repeat([]byte{2}, 32), value, cert},
		"another's certificate":   {digest, value, otherCert},
		"no signature":            {digest, nil, cert},
		"no certificate":          {digest, value, nil},
		"a namesake of elsewhere": {digest, strange, strangeCert},
	} {
		if node, _, err := lead.node.VerifyBundle(tc.digest, tc.value, tc.cert); err == nil {
			t.Errorf("%s: taken for %s", name, node)
		}
	}
	key := bytes.Repeat([]byte{9}, 32)
	sealed, err := lead.node.SealForMember("tower", key)
	check(t, err)
	if got, err := tower.node.OpenForMember(sealed); err != nil || !bytes.Equal(got, key) {
		t.Errorf("got %x, %v", got, err)
	}
	if _, err := lead.node.OpenForMember(sealed); err == nil {
		t.Error("opened by another than the one it is for")
	}
	tower.down()
	check(t, f.do("sync.node.remove", map[string]any{"node": "tower"}))
	f.until("the tower is removed", func() bool { p, _ := lead.members.Peer("tower"); return p.Status == Removed })
	if node, removed, err := lead.node.VerifyBundle(digest, value, cert); err != nil || node != "tower" || !removed {
		t.Errorf("a removed member's bundle: got %q, removed %v, %v", node, removed, err)
	}
	if _, _, err := lead.node.VerifyBundle(digest, strange, cert); err == nil {
		t.Error("a removed member's certificate is enough")
	}
	if _, err := lead.node.SealForMember("tower", key); errCode(err) != "node_removed" {
		t.Errorf("a bundle for a removed member: %v", err)
	}
}

func FuzzCarriedEntry(f *testing.F) {
	f.Add(encodeLog(&raft.Log{Index: 8, Term: 2, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(1, 0)}))
	f.Add(encodeLog(&raft.Log{Index: 8, Term: 2, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}})}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := LogPart{Leader: "n1", Term: 3, Prev: 7, PrevTerm: 2, Commit: 8}.Carried()
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.Entry(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(encodeLog(l), raw) {
			t.Errorf("%x reads as %+v", raw, l)
		}
	})
}

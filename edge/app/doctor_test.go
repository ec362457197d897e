package app

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/config"
	"wispgate/edge/exec"
	"wispgate/edge/journal"
	"wispgate/edge/obs"
	"wispgate/sync/cluster"
)

// healthy is a patient of whom every check says ok.
func healthy() *patient {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cfg := config.Default()
	cfg.Backup.Recipients = []string{"some key"}
	return &patient{
		cfg: cfg, dir: "/var/lib/wispgate", running: true, now: now, id: nodeID{Node: "a", Cluster: "north"}, mode: 0o700, writable: true,
		free: 50 << 30, total: 100 << 30, fsName: "ext4", quality: obs.Synced, memory: 256 << 20,
		certs:    []certificateEnd{{What: "the certificate", End: now.AddDate(1, 0, 0)}},
		journals: map[string]journalLook{"audit": {report: journal.Report{Records: 9, Heads: 1}}, "accounting": {}},
		backupAt: now.Add(-9 * time.Hour),
		inside: inside{
			High: now.Add(-time.Minute), LastTime: now.Add(-time.Second), Version: 7, ReadAhead: 16 << 10, MaxFiles: 20000, Checksum: "0123456789abcdef0123",
			Drift: &Drift{Keys: 5},
			Status: &Status{
				Node: "a", Journals: map[string]JournalStatus{"audit": {MaxBytes: 100, Unconsumed: 10}},
				Cluster: cluster.Status{State: "leader", Leader: "a", Contact: true, Voters: []string{"a"}, Members: []cluster.View{{Node: "a"}, {Node: "b", Seen: now, Lag: 3}}},
				Uplink:  UplinkStatus{Enabled: true, Streams: []StreamStatus{{Source: "north.cluster", Connected: true}}},
			},
		},
	}
}

func lookFor(t *testing.T, name string) func(p *patient) (Finding, bool) {
	t.Helper()
	for _, c := range checks {
		if c.name == name {
			return c.look
		}
	}
	t.Fatalf("there is no check %s", name)
	return nil
}

func TestEveryCheckIsContentWithAHealthyNode(t *testing.T) {
	t.Parallel()
	for _, c := range checks {
		f, ok := c.look(healthy())
		if !ok || f.Verdict != Fine || f.Says == "" || f.Fix != "" {
			t.Errorf("%s: got %v %+v", c.name, ok, f)
		}
	}
}

func TestEveryCheckFindsWhatItIsFor(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	known := &edge.Error{Kind: edge.Unavailable, Code: "some_code", Message: "Something is wrong", Fix: "Mend it"}
	asked := map[string]bool{}
	for _, tc := range []struct {
		check string
		what  string
		make  func(p *patient)
		want  Verdict
	}{
		{"configuration", "cannot be read", func(p *patient) { p.cfgErr = known }, Fail},
		{"configuration", "one key is wrong", func(p *patient) {
			p.cfgErr = &edge.Error{Code: "config_invalid", Fields: []edge.FieldError{edge.Field("node.id", "is odd", "")}}
		}, Fail},
		{"node", "no node", func(p *patient) { p.idErr = errNoNode("x") }, Fail},
		{"node", "half a restore", func(p *patient) { p.idErr = errRestoreCut("x") }, Fail},
		{"node", "hangs", func(p *patient) { p.running, p.insideErr = false, &edge.Error{Code: "data_in_use"} }, Fail},
		{"folder", "others read it", func(p *patient) { p.mode = 0o755 }, Warn},
		{"folder", "not ours", func(p *patient) { p.writable = false }, Fail},
		{"folder", "on a read-only disk", func(p *patient) { p.writable, p.readOnly = false, true }, Fail},
		{"node", "of another user", func(p *patient) { p.idErr = &fs.PathError{Op: "open", Path: "node.json", Err: syscall.EACCES} }, Fail},
		{"store", "of another user", func(p *patient) { p.insideErr = &fs.PathError{Op: "open", Path: "state", Err: syscall.EACCES} }, Fail},
		{"file system", "memory", func(p *patient) { p.fsName = "tmpfs" }, Fail},
		{"file system", "network", func(p *patient) { p.fsName = "nfs" }, Fail},
		{"file system", "btrfs", func(p *patient) { p.fsName = "btrfs" }, Warn},
		{"file system", "container", func(p *patient) { p.fsName = "overlay" }, Warn},
		{"disk", "warn", func(p *patient) { p.free, p.total = 3<<30, 20<<30 }, Warn},
		{"disk", "low", func(p *patient) { p.free, p.total = 500<<20, 20<<30 }, Fail},
		{"disk", "large with gigabytes", func(p *patient) { p.free, p.total = 40<<30, 1000<<30 }, Fine},
		{"read-ahead", "large", func(p *patient) { p.inside.ReadAhead = 2560 << 10 }, Warn},
		{"memory", "little", func(p *patient) { p.memory = 32 << 20 }, Warn},
		{"open files", "few", func(p *patient) { p.inside.MaxFiles = 1024 }, Warn},
		{"ports", "held", func(p *patient) {
			p.running, p.ports = false, map[string]error{"api.listen :8443": &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}}
		}, Fail},
		{"ports", "not allowed", func(p *patient) {
			p.running, p.ports = false, map[string]error{"api.listen :443": &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EACCES)}}
		}, Warn},
		{"ports", "no such address", func(p *patient) { p.running, p.ports = false, map[string]error{"api.listen 9.9.9.9:1": boom} }, Fail},
		{"ports", "free", func(p *patient) { p.running, p.ports = false, map[string]error{"api.listen :8443": nil} }, Fine},
		{"store", "does not open", func(p *patient) { p.insideErr = known }, Fail},
		{"store", "unclean", func(p *patient) {
			p.insideErr = &edge.Error{Code: "data_unreadable", Message: "it was not closed cleanly"}
		}, Warn},
		{"log", "not its own", func(p *patient) { p.inside.LogErr, p.inside.LogFix = "The log is behind", "Restore" }, Fail},
		{"clock", "behind the mark", func(p *patient) { p.inside.High = p.now.Add(time.Hour) }, Fail},
		{"clock", "behind a commit", func(p *patient) { p.inside.LastTime = p.now.Add(time.Hour) }, Fail},
		{"clock", "ahead of most voters'", func(p *patient) { p.inside.Status.Clock.Ahead = 3 * 86400 }, Fail},
		{"clock", "the leader's clock is wrong", func(p *patient) {
			p.inside.Status.Cluster.ClockAhead, p.inside.Status.Clock.Agrees, p.inside.Status.Cluster.Leader = -3*86400, true, "tower7-b"
		}, Fail},
		{"clock", "ahead of the leader", func(p *patient) { p.inside.Status.Cluster.ClockAhead = 3 * 86400 }, Fail},
		{"clock", "behind the leader", func(p *patient) { p.inside.Status.Cluster.ClockAhead = -3 * 86400 }, Fail},
		{"clock", "1970", func(p *patient) {
			p.now = time.Unix(9, 0)
			p.inside.High, p.inside.LastTime = time.Time{}, time.Time{}
		}, Fail},
		{"clock", "free running", func(p *patient) { p.quality = obs.Unsynced }, Warn},
		{"cluster", "parked", func(p *patient) {
			p.inside.Status.Cluster.State, p.inside.Status.Cluster.Parked = "parked", "disk full"
		}, Fail},
		{"cluster", "removed", func(p *patient) { p.inside.Status.Cluster.Removed = true }, Fail},
		{"cluster", "no leader", func(p *patient) { p.inside.Status.Cluster.Leader = "" }, Fail},
		{"cluster", "joined, and not heard", func(p *patient) {
			p.inside.Status.Cluster = cluster.Status{NodeID: "b", State: "follower", Advertise: "10.8.0.8:7846"}
		}, Fail},
		{"cluster", "removed, and stopped", func(p *patient) { p.running, p.inside.Status, p.inside.Removed = false, nil, true }, Fail},
		{"cluster", "removed, and parked", func(p *patient) {
			p.inside.Status.Cluster.Removed, p.inside.Status.Cluster.State, p.inside.Status.Cluster.Parked = true, "parked", "disk full"
		}, Fail},
		{"history", "another, and removed", func(p *patient) {
			p.inside.Status.Cluster.Removed, p.inside.Status.Cluster.Histories = true, []cluster.History{{Node: "b", Incarnation: "9f2c"}}
		}, Warn},
		{"pending", "removed", func(p *patient) {
			p.inside.Status.Cluster.Removed, p.inside.Status.Pending = true, exec.Pending{Waiting: 2, Oldest: new(p.now), CutOff: true}
		}, Warn},
		{"history", "two of them", func(p *patient) {
			p.inside.Status.Cluster.Histories = []cluster.History{{Node: "b", Incarnation: "9f2c"}}
		}, Fail},
		{"cluster", "cut off", func(p *patient) { p.inside.Status.Pending.CutOff = true }, Fail},
		{"members", "silent", func(p *patient) { p.inside.Status.Cluster.Members[1].Seen = p.now.Add(-time.Hour) }, Warn},
		{"members", "missed a moment ago", func(p *patient) {
			p.inside.Status.Cluster.Members[1].Seen, p.inside.Status.Cluster.Members[1].Silent = p.now.Add(-2*time.Second), true
		}, Warn},
		{"members", "never heard", func(p *patient) { p.inside.Status.Cluster.Members[1].Seen = time.Time{} }, Warn},
		{"members", "behind", func(p *patient) { p.inside.Status.Cluster.Members[1].Lag = 5000 }, Warn},
		{"members", "full", func(p *patient) { p.inside.Status.Cluster.Members[1].DiskLow = true }, Warn},
		{"members", "nobody tells", func(p *patient) { p.inside.Status.Cluster.Contact = false }, Warn},
		{"members", "an even number of voters", func(p *patient) { p.inside.Status.Cluster.Voters = []string{"a", "b"} }, Warn},
		{"pending", "old", func(p *patient) {
			p.inside.Status.Pending = exec.Pending{Waiting: 2, Oldest: new(p.now.Add(-3 * time.Hour))}
		}, Warn},
		{"pending", "being read in", func(p *patient) {
			p.inside.Status.Pending = exec.Pending{Waiting: 2, Oldest: new(p.now), Loading: true}
		}, Warn},
		{"pending", "cut off", func(p *patient) {
			p.inside.Status.Pending = exec.Pending{Waiting: 2, Oldest: new(p.now), CutOff: true}
		}, Warn},
		{"pending", "failing", func(p *patient) { p.inside.Status.Pending = exec.Pending{Waiting: 2, Problem: "why"} }, Fail},
		{"pending", "on the way", func(p *patient) { p.inside.Status.Pending = exec.Pending{Waiting: 2, Oldest: new(p.now)} }, Fine},
		{"conflicts", "open", func(p *patient) { p.inside.Conflicts = 3 }, Warn},
		{"journals", "damaged", func(p *patient) {
			p.journals["accounting"] = journalLook{report: journal.Report{Problems: []journal.Problem{{Says: "odd"}}}}
		}, Fail},
		{"journals", "unreadable", func(p *patient) { p.journals["facts"] = journalLook{err: boom} }, Fail},
		{"journals", "not made yet", func(p *patient) { p.journals["facts"] = journalLook{err: fs.ErrNotExist} }, Fine},
		{"journals", "full", func(p *patient) { p.inside.Status.Journals["facts"] = JournalStatus{Full: true} }, Fail},
		{"journals", "filling", func(p *patient) {
			p.inside.Status.Journals["facts"] = JournalStatus{MaxBytes: 100, Unconsumed: 80}
		}, Warn},
		{"audit", "damaged", func(p *patient) {
			p.journals["audit"] = journalLook{report: journal.Report{Problems: []journal.Problem{{Says: "chain broken"}}}}
		}, Fail},
		{"audit", "unreadable", func(p *patient) { p.journals["audit"] = journalLook{err: known} }, Fail},
		{"certificates", "ended", func(p *patient) { p.certs[0].End = p.now.Add(-time.Hour) }, Fail},
		{"certificates", "soon", func(p *patient) { p.certs[0].End = p.now.Add(100 * time.Hour) }, Warn},
		{"certificates", "of the cluster, fresh", func(p *patient) { p.certs[0].Cluster, p.certs[0].End = true, p.now.AddDate(0, 0, 10) }, Fine},
		{"certificates", "of the cluster, not renewed", func(p *patient) { p.certs[0].Cluster, p.certs[0].End = true, p.now.AddDate(0, 0, 3) }, Warn},
		{"certificates", "of the cluster, ended", func(p *patient) { p.certs[0].Cluster, p.certs[0].End = true, p.now.AddDate(0, 0, -20) }, Warn},
		{"certificates", "of the cluster, too old", func(p *patient) { p.certs[0].Cluster, p.certs[0].End = true, p.now.AddDate(0, 0, -31) }, Fail},
		{"certificates", "unreadable", func(p *patient) { p.certs[0].Err = boom }, Fail},
		{"uplink", "refused", func(p *patient) {
			p.inside.Status.Uplink.Streams[0].Problem, p.inside.Status.Uplink.Streams[0].Fix = "forked", "x"
		}, Fail},
		{"uplink", "down", func(p *patient) { p.inside.Status.Uplink.Streams[0].Connected = false }, Warn},
		{"backup", "off", func(p *patient) { p.cfg.Backup.Recipients = nil }, Warn},
		{"backup", "none yet", func(p *patient) { p.backupAt = time.Time{} }, Warn},
		{"backup", "two days old", func(p *patient) { p.backupAt = p.now.Add(-48 * time.Hour) }, Warn},
		{"backup", "two weeks old", func(p *patient) { p.backupAt = p.now.AddDate(0, 0, -14) }, Fail},
		{"drift", "some", func(p *patient) { p.inside.Drift.Drift = []DriftedKeys{{"stray", 2}} }, Fail},
		{"pending", "lost", func(p *patient) {
			p.journals["pending"] = journalLook{losses: []journal.Loss{{First: 4, Last: 5, Segment: "1.seg"}}}
		}, Fail},
		{"journals", "lost", func(p *patient) { p.journals["facts"] = journalLook{losses: []journal.Loss{{First: 4, Last: 5}}} }, Fail},
		{"journals", "set aside", func(p *patient) { p.journals["facts"] = journalLook{aside: []string{"x"}} }, Fail},
		{"store", "a damaged table", func(p *patient) { p.inside.StoreErr, p.inside.StoreFix = "damaged", "x" }, Fail},
		{"checksum", "another has another", func(p *patient) { p.inside.Differing = 1 }, Fail},
	} {
		asked[tc.check] = true
		p := healthy()
		tc.make(p)
		f, ok := lookFor(t, tc.check)(p)
		if !ok || f.Verdict != tc.want || f.Says == "" || (f.Verdict != Fine) != (f.Fix != "") {
			t.Errorf("%s, %s: got %v %+v, want %s", tc.check, tc.what, ok, f, tc.want)
		}
	}
	for _, c := range checks {
		if !asked[c.name] {
			t.Errorf("nothing makes the check %s fail", c.name)
		}
	}
}

// TestTheDoctorOfARemovedNodePromisesNothing: no way that is brought back hands anything over, and the others are none of its members.
func TestTheDoctorOfARemovedNodePromisesNothing(t *testing.T) {
	t.Parallel()
	p := healthy()
	c := &p.inside.Status.Cluster
	c.NodeID, c.Removed, c.Contact, c.Histories = "a", true, false, []cluster.History{{Node: "b", Incarnation: "9f2c"}}
	p.inside.Status.Pending = exec.Pending{Waiting: 1, Oldest: new(p.now), CutOff: true}
	for _, check := range checks {
		f, ok := check.look(p)
		for _, untrue := range []string{"Bring the way", "Two histories", "1 writes", "1 checks", "Look at the network"} {
			if ok && strings.Contains(f.Says+f.Fix, untrue) {
				t.Errorf("%s: %+v", check.name, f)
			}
		}
	}
	if f, _ := checkPending(p); !strings.HasPrefix(f.Says, "1 write waits here") || !strings.Contains(f.Fix, "import --removed a FILE") {
		t.Errorf("what waits: %+v", f)
	}
	if f, ok := checkMembers(p); ok {
		t.Errorf("the others: %+v", f)
	}
	if err := (Diagnosis{Data: []Finding{{Verdict: Fail}}}).Err(); !strings.Contains(err.Error(), "1 check failed") {
		t.Error(err)
	}
}

// TestTheDoctorSaysOfANodeWithoutALeaderWhatTheListSays: at one that reaches the leader, nobody is away and nothing is to be recovered.
func TestTheDoctorSaysOfANodeWithoutALeaderWhatTheListSays(t *testing.T) {
	t.Parallel()
	p := healthy()
	s := p.inside.Status
	s.Clock.Now = p.now
	s.Cluster = cluster.Status{
		NodeID: "a", State: "follower", Voters: []string{"a", "b", "c"},
		Members: []cluster.View{{Node: "a", Voter: true}, {Node: "b", Voter: true, Seen: p.now, State: "leader"}, {Node: "c", Voter: true, Seen: p.now, State: "follower", Leader: "b"}},
	}
	says, fix := s.Cluster.Away(cluster.Absence{Now: p.now})
	f, _ := lookFor(t, "cluster")(p)
	if f.Verdict != Fail || f.Says != says || f.Fix != fix || !strings.Contains(says, "reaches b, which leads") || strings.Contains(fix, "recover") {
		t.Errorf("got %+v", f)
	}
}

// TestTheDoctorNamesWhoHasJustFallenSilent: within seconds, whatever else is known of the node, and how many more may go.
func TestTheDoctorNamesWhoHasJustFallenSilent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(m []cluster.View)
		want   string
	}{
		"one voter of three":           {func(m []cluster.View) { m[2].Silent = true }, "Node c has been silent for 3s; stop no other voter: 2 of 3 answer, and 2 must"},
		"a replica":                    {func(m []cluster.View) { m[3].Silent = true }, "Node d has been silent for 3s"},
		"a voter that is being filled": {func(m []cluster.View) { m[2].Silent, m[2].Voter = true, false }, "Node c has been silent for 3s"},
		"both": {func(m []cluster.View) { m[1].Silent, m[3].Silent, m[3].Seen = true, true, time.Time{} },
			"Node b has been silent for 3s, nothing has been heard of node d since a leads; stop no other voter: 2 of 3 answer, and 2 must"},
	} {
		p := healthy()
		seen := p.now.Add(-3 * time.Second)
		p.inside.Status.Cluster.Members = []cluster.View{{Node: "a", Voter: true}, {Node: "b", Voter: true, Seen: seen}, {Node: "c", Voter: true, Seen: seen}, {Node: "d", Seen: seen}}
		tc.change(p.inside.Status.Cluster.Members)
		if f, _ := checkMembers(p); f.Verdict != Warn || f.Says != tc.want {
			t.Errorf("%s: got %+v, want %q", name, f, tc.want)
		}
	}
}

// TestTheDoctorBlamesNobodyForWhatItMayNotRead: whoever replaced the CA of a cluster because another user may not read it would destroy it.
func TestTheDoctorBlamesNobodyForWhatItMayNotRead(t *testing.T) {
	t.Parallel()
	denied, readOnly := &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, &fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}
	for _, tc := range []struct {
		check, fix string
		make       func(p *patient)
	}{
		{"certificates", "as the user that runs wispgate", func(p *patient) { p.certs[0].Err = denied }},
		{"journals", "as the user that runs wispgate", func(p *patient) { p.journals["facts"] = journalLook{err: denied} }},
		{"audit", "as the user that runs wispgate", func(p *patient) { p.journals["audit"] = journalLook{err: denied} }},
		{"node", "as the user that runs wispgate", func(p *patient) { p.idErr = denied }},
		{"store", "as the user that runs wispgate", func(p *patient) { p.insideErr = denied }},
		{"log", "for writing", func(p *patient) { p.inside.LogErr, p.inside.LogFix = saidOfLog(readOnly) }},
		{"log", "look at the disk", func(p *patient) { p.inside.LogErr, p.inside.LogFix = saidOfLog(errors.New("boom")) }},
	} {
		p := healthy()
		tc.make(p)
		f, _ := lookFor(t, tc.check)(p)
		if f.Verdict != Fail || !strings.Contains(f.Fix, tc.fix) || strings.Contains(f.Fix, "eplace") || strings.Contains(f.Fix, "support") {
			t.Errorf("%s: got %+v", tc.check, f)
		}
	}
}

// flipTable damages a table of a node that does not run, and mends it at the next call.
func flipTable(t *testing.T, dir string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "state", "state-*", "*.sst"))
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	raw, err := os.ReadFile(list[0])
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/3] ^= 0x5A
	if err := os.WriteFile(list[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func byCheck(d Diagnosis) map[string]Finding {
	out := map[string]Finding{}
	for _, f := range d.Data {
		out[f.Check] = f
	}
	return out
}

func TestTheDoctorLooksAtARunningAndAtAStoppedNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, dir, nil)
	n.claim("acme")
	key := n.key
	n.call(201, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Ann Example"})
	version, sum := n.checksum()
	o := DoctorOptions{Config: testConfig(dir), Deep: true, Log: io.Discard}
	d := Doctor(t.Context(), o)
	got := byCheck(d)
	if !d.Running || d.Err() != nil || got["cluster"].Verdict != Fine || got["drift"].Verdict != Fine || got["ports"].Says == "" {
		t.Errorf("running: %+v", d)
	}
	n.stopNode()
	d = Doctor(t.Context(), o)
	got = byCheck(d)
	if d.Running || d.Err() != nil || got["log"].Verdict != Fine || got["store"].Verdict != Fine || got["drift"].Verdict != Fine || got["journals"].Verdict != Fine {
		t.Errorf("stopped: %+v", d)
	}
	if _, ok := got["cluster"]; ok {
		t.Error("a stopped node is said to have a leader")
	}
	p := gather(t.Context(), o)
	if p.inside.Version < version || p.inside.Version == version && p.inside.Checksum != sum {
		t.Errorf("stopped: version %d %s, want %d %s", p.inside.Version, p.inside.Checksum, version, sum)
	}
	n = startNode(t, dir, nil) // the doctor has changed nothing that keeps it from starting
	n.stopNode()

	flipTable(t, dir)
	if d := Doctor(t.Context(), o); byCheck(d)["store"].Verdict != Fail || byCheck(d)["store"].Fix == "" {
		t.Errorf("with a damaged table: %+v", d)
	}
	flipTable(t, dir)

	log := filepath.Join(dir, "log", "log", "wal-meta.db")
	sound, err := os.ReadFile(log)
	if err == nil {
		err = os.Truncate(log, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if d := Doctor(t.Context(), o); byCheck(d)["log"].Verdict != Fail {
		t.Errorf("with a damaged log: %+v", d)
	}
	n = startNode(t, dir, nil) // RADIUS and reads go on
	n.key = key
	if err := n.ready(); err == nil {
		t.Error("a node with a damaged log says that it is ready")
	}
	if d := Doctor(t.Context(), o); byCheck(d)["log"].Verdict != Fail || byCheck(d)["cluster"].Verdict != Fail {
		t.Errorf("running with a damaged log: %+v", d)
	}
	n.call(503, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Bo Example"})
	n.stopNode()
	if err := os.WriteFile(log, sound, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	if d := Doctor(t.Context(), o); byCheck(d)["log"].Verdict != Fail || d.Err() == nil {
		t.Errorf("without its log: %+v", d)
	}
	if d := Doctor(t.Context(), DoctorOptions{Config: testConfig(t.TempDir()), Log: io.Discard}); byCheck(d)["node"].Verdict != Fail {
		t.Errorf("of an empty folder: %+v", d)
	}
}

// A journal that is damaged beyond reading in order is set aside whole: the node starts with a new one, and the doctor says so until somebody has
// looked at it.
func TestADamagedJournalKeepsNoNodeFromStarting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	startNode(t, dir, nil).stopNode()
	names := []string{"accounting", "audit", "facts", "pending"}
	for _, name := range names {
		path := filepath.Join(dir, name, "0000000000000001.seg")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw[20] ^= 0x10
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := startNode(t, dir, nil)
	n.claim("acme")
	n.call(201, "POST", "/api/v1/crm/customers", map[string]any{"kind": "person", "name": "Ann Example"})
	o := DoctorOptions{Config: testConfig(dir), Log: io.Discard}
	if got := byCheck(Doctor(t.Context(), o)); got["pending"].Verdict != Fail || got["journals"].Verdict != Fail {
		t.Errorf("got %+v", got)
	}
	n.stopNode()
	for _, name := range names {
		aside, _ := filepath.Glob(filepath.Join(dir, name+asideMark+"*"))
		if len(aside) != 1 {
			t.Fatalf("%s: set aside are %v", name, aside)
		}
		if err := os.RemoveAll(aside[0]); err != nil {
			t.Fatal(err)
		}
	}
	if got := byCheck(Doctor(t.Context(), o)); got["pending"].Verdict == Fail || got["journals"].Verdict == Fail {
		t.Errorf("afterwards: %+v", got)
	}
}

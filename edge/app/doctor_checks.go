package app

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"wispgate/edge"
	"wispgate/edge/journal"
	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/sync/cluster"
)

// checks are what the doctor looks at, in the order in which a person wants to read it. Each is one look at what was gathered; it says
// nothing where there is nothing to look at.
var checks = []struct {
	name string
	look func(p *patient) (Finding, bool)
}{
	{"configuration", checkConfig}, {"node", checkNode}, {"folder", checkFolder}, {"file system", checkFileSystem}, {"disk", checkDisk},
	{"read-ahead", checkReadAhead}, {"memory", checkMemory}, {"open files", checkFiles}, {"ports", checkPorts}, {"store", checkStore},
	{"log", checkLog}, {"clock", checkClock}, {"cluster", checkCluster}, {"history", checkHistory}, {"members", checkMembers}, {"pending", checkPending},
	{"conflicts", checkConflicts}, {"journals", checkJournals}, {"audit", checkAudit}, {"certificates", checkCertificates},
	{"uplink", checkUplink}, {"backup", checkBackup}, {"drift", checkDrift}, {"checksum", checkChecksum},
}

func fine(format string, a ...any) (Finding, bool) {
	return Finding{Verdict: Fine, Says: fmt.Sprintf(format, a...)}, true
}

func found(v Verdict, fix, format string, a ...any) (Finding, bool) {
	return Finding{Verdict: v, Says: fmt.Sprintf(format, a...), Fix: fix}, true
}

func nothing() (Finding, bool) { return Finding{}, false }

// failed is an error that people can read, as a finding.
func failed(err error) (Finding, bool) {
	if e, ok := errors.AsType[*edge.Error](err); ok {
		return found(Fail, e.Fix, "%s", e.Message)
	}
	return found(Fail, "See the log of wispgate", "%v", err)
}

// refusedRights says whether this user, or a disk that nobody may write, is in the way of the look, so that it says nothing about what it was for.
func refusedRights(err error) bool { // a read-only disk is EROFS, which is no ErrPermission
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// noRights is what could not be looked at: it is not said to be damaged, and nobody is told to replace it.
func noRights(what string, err error) (Finding, bool) {
	if errors.Is(err, syscall.EROFS) {
		return found(Fail, "Mount the file system for writing, after a look at the kernel's log for why it is not", "%s was not looked at: the file system is read-only", what)
	}
	return found(Fail, "Run this as the user that runs wispgate; nothing here says that it is damaged", "%s may not be read by this user", what)
}

func checkConfig(p *patient) (Finding, bool) {
	if p.cfgErr == nil {
		return fine("The configuration is valid")
	}
	e, ok := errors.AsType[*edge.Error](p.cfgErr)
	if !ok || len(e.Fields) == 0 {
		return failed(p.cfgErr)
	}
	return found(Fail, "wispgate config check names everything that is wrong", "%s %s", e.Fields[0].Pointer, e.Fields[0].Reason)
}

func checkNode(p *patient) (Finding, bool) {
	if refusedRights(p.idErr) {
		return noRights("The data folder "+p.dir, p.idErr)
	}
	if p.idErr != nil {
		return failed(p.idErr)
	}
	how := "is stopped"
	if p.running {
		how = "runs"
	} else if e, ok := errors.AsType[*edge.Error](p.insideErr); ok && e.Code == "data_in_use" {
		return found(Fail, "Ask again in a few seconds; if it stays so, see the log of wispgate", "Node %s holds its folder and does not answer: it starts, or hangs", p.id.Node)
	}
	return fine("Node %s of cluster %s %s", p.id.Node, p.id.Cluster, how)
}

func checkFolder(p *patient) (Finding, bool) {
	switch {
	case p.modeErr != nil:
		return nothing() // the node's check says it
	case p.mode&0o077 != 0:
		return found(Warn, "Run chmod 700 on it", "The data folder %s can be read by others (mode %04o)", p.dir, p.mode)
	case p.readOnly:
		return found(Fail, "Mount the file system for writing, after a look at the kernel's log for why it is not", "The data folder %s lies on a read-only file system", p.dir)
	case !p.writable:
		return found(Fail, "Give it to the user that runs wispgate, or run this as that user", "The data folder %s cannot be written", p.dir)
	}
	return fine("The data folder %s belongs to this user alone", p.dir)
}

func checkFileSystem(p *patient) (Finding, bool) {
	const fix = "Put the data folder on a partition of its own with ext4 or XFS"
	switch p.fsName {
	case "ext4", "xfs", "f2fs", "ubifs", "zfs":
		return fine("The data folder lies on %s", p.fsName)
	case "tmpfs":
		return found(Fail, fix, "The data folder lies in memory (tmpfs): a restart loses everything")
	case "nfs", "cifs", "smb", "fuse", "vfat", "exfat":
		return found(Fail, fix, "The data folder lies on %s, which does not keep what is flushed", p.fsName)
	case "btrfs":
		return found(Warn, fix, "The data folder lies on btrfs, which writes ten times as much to flash for each change")
	case "overlay":
		return found(Warn, "Mount a volume for the data folder", "The data folder lies in a container's own layer, which goes with the container")
	case "":
		return nothing()
	}
	return fine("The data folder lies on %s", p.fsName)
}

func checkDisk(p *patient) (Finding, bool) {
	if p.total == 0 {
		return nothing()
	}
	const fix = "Free space, or give the data folder a larger disk"
	set := p.cfg.Storage
	percent := p.free * 100 / p.total
	// A large disk is not full with gigabytes free: the marks of the store have the same bounds.
	below := func(mark int, atMost uint64) bool { return percent < uint64(mark) && p.free < atMost }
	def := store.DefaultWatermarks
	switch {
	case below(set.LowFreePercent, def.Low.AtMost):
		return found(Fail, fix, "%d %% of the disk are free (%d MB): changes are refused", percent, p.free>>20)
	case below(set.WarnFreePercent, def.Warn.AtMost):
		return found(Warn, fix, "%d %% of the disk are free (%d MB): no snapshots and backups are made", percent, p.free>>20)
	}
	return fine("%d %% of the disk are free (%d MB)", percent, p.free>>20)
}

// mostReadAhead is what a disk usually reads ahead, in octets; from there on each commit writes ever more to flash.
const mostReadAhead = 128 << 10

func checkReadAhead(p *patient) (Finding, bool) {
	n := p.inside.ReadAhead
	switch {
	case n == 0:
		return nothing()
	case n > mostReadAhead:
		return found(Warn, "Set /sys/block/DEVICE/queue/read_ahead_kb to 16, by a udev rule", "The disk reads %d KB ahead, so each change writes far more to flash than it must", n>>10)
	}
	return fine("The disk reads %d KB ahead", n>>10)
}

const leastMemory = 64 << 20

func checkMemory(p *patient) (Finding, bool) {
	switch {
	case p.memory == 0:
		return nothing()
	case p.memory < leastMemory:
		return found(Warn, "Give the machine or its cgroup 64 MB or more", "There are %d MB of memory", p.memory>>20)
	}
	return fine("There are %d MB of memory", p.memory>>20)
}

// filesBeside is what the store, the log and the journals keep open.
const filesBeside = 512

func checkFiles(p *patient) (Finding, bool) {
	have, need := p.inside.MaxFiles, uint64(p.cfg.API.MaxConns+filesBeside)
	switch {
	case have == 0:
		return nothing()
	case have < need:
		return found(Warn, "Raise LimitNOFILE of the unit, or lower api.max_conns", "The daemon may open %d files, and could need %d", have, need)
	}
	return fine("The daemon may open %d files", have)
}

func checkPorts(p *patient) (Finding, bool) {
	if p.running {
		return fine("The addresses are held by the running node")
	}
	for _, setting := range slices.Sorted(maps.Keys(p.ports)) {
		err := p.ports[setting]
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return found(Fail, "Stop the other program, or set another address", "%s is held by another program", setting)
		case errors.Is(err, syscall.EACCES):
			return found(Warn, "Run this as the user that runs wispgate, or set a port above 1023", "%s may not be opened by this user", setting)
		case err != nil:
			return found(Fail, "Name an address of this machine", "%s cannot be opened: %v", setting, err)
		}
	}
	if len(p.ports) == 0 {
		return nothing()
	}
	return fine("The addresses are free")
}

func checkStore(p *patient) (Finding, bool) {
	if p.idErr != nil {
		return nothing()
	}
	e, _ := errors.AsType[*edge.Error](p.insideErr)
	switch {
	case p.inside.StoreErr != "":
		return found(Fail, p.inside.StoreFix, "%s", p.inside.StoreErr)
	case p.insideErr == nil && p.inside.Tables > 0:
		return fine("The state opens; it is at version %d, and every octet of its %d tables is as it was written", p.inside.Version, p.inside.Tables)
	case p.insideErr == nil:
		return fine("The state opens; it is at version %d", p.inside.Version)
	case e != nil && e.Code == "data_in_use": // the node's check says it
		return nothing()
	case refusedRights(p.insideErr) || e != nil && strings.Contains(e.Message, fs.ErrPermission.Error()):
		return noRights("The state", fs.ErrPermission)
	case e != nil && e.Code == "data_unreadable" && strings.Contains(e.Message, "closed cleanly"):
		return found(Warn, "Start wispgate: it mends that from its log", "The state was not closed cleanly, as after a power cut")
	}
	return failed(p.insideErr)
}

func checkLog(p *patient) (Finding, bool) {
	switch {
	case p.inside.LogErr != "":
		return found(Fail, p.inside.LogFix, "%s", p.inside.LogErr)
	case p.idErr != nil || p.insideErr != nil:
		return nothing()
	}
	return fine("Log and state belong together")
}

// saidOfLog puts into words why the log of a stopped node does not open, and what to do. There is no request here that support could look for.
func saidOfLog(err error) (says, fix string) {
	if e, ok := errors.AsType[*edge.Error](err); ok {
		return e.Message, e.Fix
	}
	if refusedRights(err) {
		f, _ := noRights("The log", err)
		return f.Says, f.Fix
	}
	return fmt.Sprintf("The log does not open: %v", err), "Keep the folder, and look at the disk and the kernel's log"
}

func checkClock(p *patient) (Finding, bool) {
	const fix = "Set the clock: see that NTP reaches a server, and the board's battery"
	known := p.inside.High
	if p.inside.LastTime.After(known) {
		known = p.inside.LastTime
	}
	switch behind := known.Sub(p.now); {
	case p.inside.Status != nil && p.inside.Status.Clock.Ahead > 0:
		return found(Fail, fix, "The clock is %s ahead of most voters': their time counts here, and nothing falls due", time.Duration(p.inside.Status.Clock.Ahead)*time.Second)
	case p.skew().Abs() >= mostSkew && p.inside.Status.Clock.Agrees:
		leader := p.inside.Status.Cluster.Leader
		return found(Fail, "Set the clock of "+leader+": see that NTP reaches a server there, and its board's battery",
			"The clock of %s, which leads, differs by %s from this one, which agrees with most voters'", leader, p.skew().Abs())
	case behind > 0:
		return found(Fail, fix, "The clock is %s behind what the node knows: nothing falls due", behind.Round(time.Second))
	case p.skew() >= mostSkew:
		return found(Fail, fix, "The clock is %s ahead of the leader's: what falls due here is wrong", p.skew())
	case -p.skew() >= mostSkew:
		return found(Fail, fix, "The clock is %s behind the leader's", -p.skew())
	case p.now.Year() < 2026:
		return found(Fail, fix, "The clock says %d: nothing falls due", p.now.Year())
	case p.quality == obs.Unsynced:
		return found(Warn, fix, "Nothing disciplines the clock")
	}
	return fine("The clock is synchronised")
}

// mostSkew is how far two clocks of a cluster may be apart.
const mostSkew = time.Minute

// skew is how far this clock is ahead of the leader's, as last heard.
func (p *patient) skew() time.Duration {
	if p.inside.Status == nil || !p.inside.Status.Cluster.Contact {
		return 0
	}
	return time.Duration(p.inside.Status.Cluster.ClockAhead) * time.Second
}

func checkCluster(p *patient) (Finding, bool) {
	s := p.inside.Status
	switch {
	case s == nil && p.inside.Removed:
		return found(Fail, Removed.Fix, "%s", Removed.Says)
	case s == nil:
		return nothing()
	}
	c := s.Cluster
	switch {
	case c.Removed:
		return found(Fail, Removed.Fix, "%s; %s here", Removed.Says, Waits(s.Pending.Waiting))
	case c.State == "parked" && (p.inside.LogErr != "" || p.inside.StoreErr != ""):
		return found(Fail, orElse(p.inside.LogFix, p.inside.StoreFix), "The node takes no part: %s", c.Parked)
	case c.State == "parked":
		return found(Fail, "See the log; with a full disk, free space", "The node takes no part: %s", c.Parked)
	case c.Leader == "":
		says, fix := c.Away(cluster.Absence{Now: s.Clock.Now, Since: s.Pending.Since, Waits: Waits(s.Pending.Waiting)})
		return found(Fail, fix, "%s", says)
	case s.Pending.CutOff:
		return found(Fail, "Look at the network to the other nodes", "The node has lost the cluster, whose leader was %s", c.Leader)
	}
	return fine("%s leads; this node is %s", c.Leader, c.State)
}

// checkHistory says nothing where there is one history, as there nearly always is.
func checkHistory(p *patient) (Finding, bool) {
	if p.inside.Status == nil {
		return nothing()
	}
	c := p.inside.Status.Cluster
	switch {
	case len(c.Histories) == 0:
		return fine("No node of another history of the cluster has been met")
	case c.Removed: // it commits nothing
		return found(Warn, Removed.Fix, "%s", c.Histories[0].LeftBehind())
	}
	return found(Fail, cluster.HistoryFix, "%s", c.Histories[0].Says())
}

// mostLag is how many entries a member may be behind before somebody should look.
const mostLag = 1000

func checkMembers(p *patient) (Finding, bool) {
	s := p.inside.Status
	if s == nil || len(s.Cluster.Members) < 2 || s.Cluster.Removed { // whose members they are it is none of
		return nothing()
	}
	if !s.Cluster.Contact {
		return found(Warn, "Bring the way to the leader back; until then ask at the other nodes", "Nobody tells this node how the others are: it hears no leader")
	}
	if says := silent(s, p.now); says != "" {
		return found(Warn, "Look at that node and at the network to it", "%s", says)
	}
	for _, m := range s.Cluster.Members {
		switch {
		case m.Node == s.Node:
		case m.Lag > mostLag:
			return found(Warn, "Look at the disk of that node and the network to it", "Node %s is %d log entries behind", m.Node, m.Lag)
		case m.DiskLow:
			return found(Warn, "Free space on that node", "The disk of node %s is low", m.Node)
		}
	}
	if n := len(s.Cluster.Voters); n > 0 && n%2 == 0 {
		return found(Warn, "Have one more voter (wispgate cluster promote), or one less (wispgate cluster demote)",
			"%d voters survive the loss of %d, as %d do, and losing half of them stops all", n, n/2-1, n-1)
	}
	return fine("All %d nodes answer and keep up", len(s.Cluster.Members))
}

// longSilence is when a member counts as silent in any case: an older program of the leader does not say that it missed one.
const longSilence = time.Minute

// silent says which members do not answer and, where a voter is among them, how many more the cluster could lose.
func silent(s *Status, now time.Time) string {
	var says []string
	voters, well, lost := 0, 0, false
	for _, m := range s.Cluster.Members {
		quiet := m.Node != s.Node && (m.Silent || m.Seen.IsZero() || now.Sub(m.Seen) > longSilence)
		if m.Voter {
			voters++
			if lost = lost || quiet; !quiet {
				well++
			}
		}
		switch {
		case quiet && m.Seen.IsZero():
			says = append(says, fmt.Sprintf("nothing has been heard of node %s since %s leads%s", m.Node, s.Cluster.Leader, m.Because()))
		case quiet:
			says = append(says, fmt.Sprintf("node %s has been silent for %s%s", m.Node, max(now.Sub(m.Seen), 0).Round(time.Second), m.Because()))
		}
	}
	if len(says) == 0 {
		return ""
	}
	text := strings.Join(says, ", ")
	text = strings.ToUpper(text[:1]) + text[1:]
	if need := voters/2 + 1; lost && well <= need {
		text += fmt.Sprintf("; stop no other voter: %d of %d answer, and %d must", well, voters, need)
	}
	return text
}

// lost says what a journal has lost, until somebody has looked at it.
func (l journalLook) lost(dir, name, fix string) (Finding, bool) {
	if len(l.aside) > 0 {
		return found(Fail, fix+". Then remove the folder", "The %s journal was damaged beyond reading in order and was set aside whole, as %s", name, strings.Join(l.aside, ", "))
	}
	if len(l.losses) == 0 {
		return nothing()
	}
	places := make([]string, len(l.losses))
	for i, one := range l.losses {
		places[i] = fmt.Sprintf("%d to %d", one.First, one.Last)
	}
	return found(Fail, fix+". Then remove the files "+dir+"/"+name+"/*.damaged, which hold what was found", "%d records of the %s journal are lost to damage on the disk: %s",
		journal.Lost(l.losses), name, strings.Join(places, ", "))
}

const lostWrites = "Check the disk. Find the writes that are missing by the receipts and by what the API's audit says was accepted, and enter them again"

func checkPending(p *patient) (Finding, bool) {
	if f, ok := p.journals["pending"].lost(p.dir, "pending", lostWrites); ok {
		return f, ok
	}
	s := p.inside.Status
	if s == nil {
		if n := p.journals["pending"].report; n.Records > 0 {
			return fine("The queue of what the cluster has not settled holds %s", Count(n.Records, "write"))
		}
		return nothing()
	}
	switch w := s.Pending; {
	case w.Waiting == 0:
		return fine("No write waits for the cluster")
	case s.Cluster.Removed:
		return found(Warn, fmt.Sprintf("Carry what waits: wispgate sync export here, and wispgate sync import --removed %s FILE at a member", s.Cluster.NodeID),
			"%s here, and nothing is handed over from a node that was removed: what waits dies with this disk", Waits(w.Waiting))
	case w.Loading:
		return found(Warn, "Wait: it takes a minute or two for a hundred thousand", "The node reads in what waits, %s, after its start; until then it shows a part of it and accepts none that may wait", Count(w.Waiting, "write"))
	case w.Problem != "":
		return found(Fail, "See the log", "%s for the cluster, and the handing over fails: %s", Waits(w.Waiting), w.Problem)
	case w.CutOff && w.Oldest != nil:
		return found(Warn, "Bring the way to the cluster back: what waits is handed over by itself. wispgate sync export carries it by hand",
			"%s here alone, the oldest since %s: what waits dies with this disk", Waits(w.Waiting), w.Oldest.UTC().Format(time.RFC3339))
	case w.Oldest != nil && p.now.Sub(*w.Oldest) > time.Hour:
		return found(Warn, "Bring the way to the cluster back", "%s for the cluster, the oldest for %s", Waits(w.Waiting), p.now.Sub(*w.Oldest).Round(time.Minute))
	default:
		return fine("On the way to the cluster: %s", Count(w.Waiting, "write"))
	}
}

func checkConflicts(p *patient) (Finding, bool) {
	if p.idErr != nil || p.insideErr != nil {
		return nothing()
	}
	if n := p.inside.Conflicts; n > 0 {
		return found(Warn, "wispgate sync conflicts shows them, wispgate sync resolve decides one", "Of what cut-off nodes took, %s for somebody's decision", Waits(n))
	}
	return fine("No conflict waits for a decision")
}

func checkJournals(p *patient) (Finding, bool) {
	if p.idErr != nil {
		return nothing()
	}
	for _, name := range slices.Sorted(maps.Keys(p.journals)) {
		l := p.journals[name]
		if f, ok := l.lost(p.dir, name, "Check the disk"); ok && name != "pending" {
			return f, ok
		}
		switch {
		case name == "audit" || errors.Is(l.err, fs.ErrNotExist):
		case l.err != nil:
			if refusedRights(l.err) {
				return noRights("The "+name+" journal", l.err)
			}
			return found(Fail, "Keep the folder and see the log", "The %s journal cannot be read: %v", name, l.err)
		case !l.report.OK():
			return found(Fail, "Keep the folder, and look at the disk", "The %s journal is damaged: %s", name, l.report.Problems[0].Says)
		}
	}
	if s := p.inside.Status; s != nil {
		for _, name := range slices.Sorted(maps.Keys(s.Journals)) {
			switch j := s.Journals[name]; {
			case j.Full:
				return found(Fail, "Bring the uplink back, raise journal.max_bytes, or free disk space", "The %s journal takes no records", name)
			case j.MaxBytes > 0 && float64(j.Unconsumed) > 0.7*float64(j.MaxBytes):
				return found(Warn, "See what reads it: wispgate status", "The %s journal is %d %% full", name, j.Unconsumed*100/j.MaxBytes)
			}
		}
	}
	return fine("The journals are sound and have room")
}

func checkAudit(p *patient) (Finding, bool) {
	l, ok := p.journals["audit"]
	switch {
	case p.idErr != nil || !ok || errors.Is(l.err, fs.ErrNotExist):
		return nothing()
	case refusedRights(l.err):
		return noRights("The audit log", l.err)
	case l.err != nil:
		return failed(l.err)
	case l.large:
		return fine("The audit log is large; --deep, or wispgate audit verify, reads it through")
	case !l.report.OK():
		return found(Fail, "Keep the folder as evidence: wispgate audit verify", "The audit log is damaged: %s", l.report.Problems[0].Says)
	}
	return fine("The audit log is intact; %d lines stand behind the last signed head", l.report.Unproven)
}

// certificateSoon is when an end is near: the site CA renews its own long before.
const certificateSoon = 14 * 24 * time.Hour

func checkCertificates(p *patient) (Finding, bool) {
	const fix = "The site CA renews its own while the node runs; replace an operator's, or issue another for the uplink"
	worst, _ := nothing()
	next := time.Time{}
	for _, c := range p.certs {
		left := c.End.Sub(p.now)
		f := Finding{}
		switch {
		case refusedRights(c.Err):
			f, _ = noRights(c.What, c.Err)
		case c.Err != nil:
			mend := "Replace the file"
			if strings.HasPrefix(c.What, "the cluster's") {
				mend = "Put the file back from a copy: another one that was made anew would prove nothing to the other nodes"
			}
			f, _ = found(Fail, mend, "%s cannot be read: %v", c.What, c.Err)
		case c.Cluster:
			f = clusterCertificate(c, p.now)
		case left < 0:
			f, _ = found(Fail, fix, "%s ended on %s", c.What, c.End.Format(time.DateOnly))
		case left < certificateSoon:
			f, _ = found(Warn, fix, "%s ends on %s", c.What, c.End.Format(time.DateOnly))
		}
		if f.Verdict == Fail || f.Verdict == Warn && worst.Verdict == "" {
			worst = f
		}
		if next.IsZero() || c.End.Before(next) {
			next = c.End
		}
	}
	switch {
	case worst.Verdict != "":
		return worst, true
	case len(p.certs) == 0:
		return nothing()
	}
	return fine("The next of %d certificates ends on %s", len(p.certs), next.Format(time.DateOnly))
}

// clusterCertificate: it should have been renewed long before its end, and is good for some time after it.
func clusterCertificate(c certificateEnd, now time.Time) (f Finding) {
	const fix = "It renews itself as soon as this node runs and reaches a voter: look at the network to them"
	good := c.End.Add(cluster.CertificateGrace)
	switch {
	case now.After(good):
		f, _ = found(Fail, fix, "%s ended on %s and opens nothing but its renewal", c.What, c.End.Format(time.DateOnly))
	case now.After(c.End):
		f, _ = found(Warn, fix, "%s ended on %s; the others take it until %s", c.What, c.End.Format(time.DateOnly), good.Format(time.DateOnly))
	case c.End.Sub(now) < cluster.CertificateLate:
		f, _ = found(Warn, fix, "%s ends on %s and should have been renewed", c.What, c.End.Format(time.DateOnly))
	}
	return f
}

func checkUplink(p *patient) (Finding, bool) {
	s := p.inside.Status
	if s == nil || !s.Uplink.Enabled {
		return nothing()
	}
	away := 0
	for _, st := range s.Uplink.Streams {
		if st.Problem != "" {
			return found(Fail, st.Fix, "The relay refuses the stream %s: %s", st.Source, st.Problem)
		}
		if !st.Connected {
			away++
		}
	}
	if away > 0 {
		return found(Warn, "Look at the link, the broker and the certificate; events wait on this node", "%d of %d streams have no way to the NOC", away, len(s.Uplink.Streams))
	}
	return fine("%d streams reach the NOC", len(s.Uplink.Streams))
}

func checkBackup(p *patient) (Finding, bool) {
	set := p.cfg.Backup
	age := p.now.Sub(p.backupAt)
	switch {
	case p.idErr != nil:
		return nothing()
	case !set.On():
		return found(Warn, "wispgate backup keygen, and its public key into backup.recipients", "No backups are made every night")
	case p.backupAt.IsZero():
		return found(Warn, "The first is made a minute after the start; see the log", "There is no backup in %s yet", backupDir(p.dir, set))
	case age > 7*24*time.Hour:
		return found(Fail, "See the log for why, and look at backup.dir", "The newest backup is %d days old", int(age/(24*time.Hour)))
	case age > 36*time.Hour:
		return found(Warn, "See the log for why, and look at backup.dir", "The newest backup is %d hours old", int(age/time.Hour))
	}
	return fine("The newest backup is %d hours old", int(age/time.Hour))
}

func checkDrift(p *patient) (Finding, bool) {
	d := p.inside.Drift
	if d == nil {
		return nothing()
	}
	n := 0
	for _, k := range d.Drift {
		n += k.Keys
	}
	if n > 0 {
		return found(Fail, "Keep a support bundle and tell whoever maintains the program", "%d derived records are not what their sources say", n)
	}
	return fine("All %d derived records are what their sources say", d.Keys)
}

func checkChecksum(p *patient) (Finding, bool) {
	switch {
	case p.inside.Differing > 0:
		return found(Fail, "wispgate cluster verify names them; wispgate cluster repair fills them anew", "The state of %d nodes differs at the same version", p.inside.Differing)
	case p.inside.Checksum == "":
		return nothing()
	}
	return fine("Version %d has the checksum %.16s", p.inside.Version, p.inside.Checksum)
}

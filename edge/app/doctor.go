package app

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"wispgate/edge"
	"wispgate/edge/config"
	"wispgate/edge/exec"
	"wispgate/edge/journal"
	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/gateway/identity"
	"wispgate/sync/cluster"
)

// Verdict is what a check comes to.
type Verdict string

// The verdicts, best first.
const (
	Fine Verdict = "ok"
	Warn Verdict = "warn" // act soon
	Fail Verdict = "fail" // act now
)

// Finding is what one check found.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Says    string  `json:"says"`
	Fix     string  `json:"fix,omitempty"`
}

// Diagnosis is what the doctor found, as a page of findings.
type Diagnosis struct {
	DataDir string    `json:"data_dir"`
	Running bool      `json:"running"`
	Verdict Verdict   `json:"verdict"`
	Data    []Finding `json:"data"`
}

// Err is nil unless a check failed.
func (d Diagnosis) Err() error {
	n := 0
	for _, f := range d.Data {
		if f.Verdict == Fail {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return &edge.Error{Kind: edge.Internal, Code: "doctor", Message: Count(n, "check") + " failed", Fix: "Do what stands beside them, then ask again"}
}

// DoctorOptions of Examine.
type DoctorOptions struct {
	Config    config.Config
	ConfigErr error // why the configuration could not be read
	Deep      bool  // what takes long, too: every journal, every derived record, the checksum
	Log       io.Writer
}

// Doctor looks at a node from all sides: at its folder and machine and, where it runs, at what the daemon says of itself. It changes nothing.
func Doctor(ctx context.Context, o DoctorOptions) Diagnosis {
	p := gather(ctx, o)
	d := Diagnosis{DataDir: p.dir, Running: p.running, Verdict: Fine, Data: []Finding{}}
	for _, c := range checks {
		f, ok := c.look(p)
		if !ok {
			continue
		}
		f.Check = c.name
		d.Data = append(d.Data, f)
		if f.Verdict == Fail || f.Verdict == Warn && d.Verdict == Fine {
			d.Verdict = f.Verdict
		}
	}
	return d
}

// patient is everything that the checks look at.
type patient struct {
	cfg     config.Config
	cfgErr  error
	dir     string
	deep    bool
	running bool
	now     time.Time

	id       nodeID
	idErr    error
	mode     fs.FileMode // of the data folder
	modeErr  error
	writable bool
	readOnly bool // the file system is
	free     uint64
	total    uint64
	fsName   string
	quality  obs.Quality
	memory   uint64
	ports    map[string]error // by setting; a stopped node's
	certs    []certificateEnd
	journals map[string]journalLook
	backupAt time.Time // newest

	inside    inside
	insideErr error
}

// certificateEnd is a certificate of this node.
type certificateEnd struct {
	What    string
	End     time.Time
	Err     error
	Cluster bool // it is the node's for the cluster, which renews itself every few days and stays good for a while after its end
}

// journalLook is what a look at a journal's folder found.
type journalLook struct {
	report journal.Report
	err    error
	losses []journal.Loss
	aside  []string // folders that were set aside
	large  bool     // not read through, for want of --deep
}

// inside is what only an open store shows: from the daemon where it runs, else from its folder.
type inside struct {
	Status    *Status   `json:"status,omitempty"` // of a running node
	High      time.Time `json:"high"`             // the clock's high-water mark
	LastTime  time.Time `json:"last_time"`        // of the newest commit
	Version   uint64    `json:"version"`
	ReadAhead uint64    `json:"read_ahead_bytes"`
	Conflicts int       `json:"conflicts_open"`
	MaxFiles  uint64    `json:"max_files"` // 0: not known
	Differing int       `json:"nodes_differing"`
	Drift     *Drift    `json:"drift,omitempty"` // with deep
	Checksum  string    `json:"checksum,omitempty"`
	StoreErr  string    `json:"store_error,omitempty"` // what is damaged
	StoreFix  string    `json:"store_fix,omitempty"`
	Tables    int       `json:"tables,omitempty"`    // of the state, checked octet by octet; with deep
	LogErr    string    `json:"log_error,omitempty"` // why log and state do not belong together
	LogFix    string    `json:"log_fix,omitempty"`
	Removed   bool      `json:"removed,omitempty"` // of a stopped node: it wrote down that it was removed from its cluster
}

func gather(ctx context.Context, o DoctorOptions) *patient {
	p := &patient{cfg: o.Config, cfgErr: o.ConfigErr, dir: o.Config.Node.DataDir, deep: o.Deep, now: time.Now(), memory: memoryTotal()}
	p.quality, _ = obs.ClockQuality()
	p.folder()
	conn := localClient(p.dir)
	p.running = conn != nil
	if p.idErr == nil {
		if p.running {
			p.inside, p.insideErr = conn.inside(ctx, o.Deep)
		} else {
			p.inside, p.insideErr = stoppedInside(ctx, o, p.id)
			p.inside.Removed, _ = cluster.NotedRemoved(logDir(p.dir)) // one that cannot be read counts
			p.ports = freePorts(ctx, o.Config)
		}
	}
	p.certificates()
	p.journals = map[string]journalLook{}
	for _, name := range []string{"accounting", "audit", "facts", "pending"} {
		p.journals[name] = lookAtJournal(filepath.Join(p.dir, name), o.Deep)
	}
	p.backupAt, _ = newestBackup(backupDir(p.dir, o.Config.Backup), backupPrefix(p.id), p.now)
	return p
}

// folder looks at the data folder and what it lies on.
func (p *patient) folder() {
	info, err := os.Stat(p.dir)
	if p.modeErr = err; err != nil {
		p.idErr = errNoNode(p.dir)
		return
	}
	p.mode = info.Mode().Perm()
	const mayWrite = 2
	may := syscall.Access(p.dir, mayWrite)
	p.writable, p.readOnly = may == nil, errors.Is(may, syscall.EROFS)
	p.free, p.total, _ = store.FreeSpace(p.dir)
	p.fsName = fileSystem(p.dir)
	if _, err := os.Stat(filepath.Join(p.dir, restoring)); err == nil {
		p.idErr = errRestoreCut(p.dir)
		return
	}
	raw, err := os.ReadFile(filepath.Join(p.dir, "node.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.idErr = errNoNode(p.dir)
	case err != nil:
		p.idErr = err
	default:
		p.idErr = json.Unmarshal(raw, &p.id)
	}
}

// fileSystems by the numbers that statfs gives them (statfs(2)).
var fileSystems = map[uint32]string{
	0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0xF2F52010: "f2fs", 0x24051905: "ubifs", 0x01021994: "tmpfs", 0x6969: "nfs",
	0x794C7630: "overlay", 0x4D44: "vfat", 0x2011BAB0: "exfat", 0x65735546: "fuse", 0xFF534D42: "cifs", 0xFE534D42: "smb", 0x2FC12FC1: "zfs",
}

func fileSystem(dir string) string {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return ""
	}
	return fileSystems[uint32(st.Type)]
}

// certificates reads when the node's certificates end.
func (p *patient) certificates() {
	add := func(what, path string) {
		end, err := certificateUntil(path)
		if !errors.Is(err, fs.ErrNotExist) {
			p.certs = append(p.certs, certificateEnd{What: what, End: end, Err: err})
		}
	}
	api := orElse(p.cfg.API.TLS.CertFile, "")
	if api != "" {
		add("the API's certificate", api)
	} else if found, _ := filepath.Glob(filepath.Join(tlsDir(p.dir), "*.crt")); len(found) > 0 {
		for _, path := range found {
			add("the certificate tls/"+filepath.Base(path), path)
		}
	}
	if p.cfg.Uplink.Enabled && p.cfg.Uplink.CertFile != "" {
		add("the uplink's certificate", p.cfg.Uplink.CertFile)
	}
	add("the cluster's certificate of this node", filepath.Join(credentialsDir(p.dir), "node.crt"))
	if n := len(p.certs); n > 0 && p.certs[n-1].What == "the cluster's certificate of this node" {
		p.certs[n-1].Cluster = true
	}
	add("the cluster's CA", filepath.Join(credentialsDir(p.dir), "ca.crt"))
}

func certificateUntil(path string) (time.Time, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return time.Time{}, errors.New("it is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, err
	}
	return cert.NotAfter, nil
}

// quickJournal is how large a journal may be to be read through without being asked to.
const quickJournal = 64 << 20

func lookAtJournal(dir string, deep bool) (l journalLook) {
	var size int64
	l.losses = journal.FolderLosses(dir)
	l.aside, _ = filepath.Glob(dir + asideMark + "*")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		l.err = err
		return l
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	if l.large = size > quickJournal && !deep; l.large {
		return l
	}
	key, _ := os.ReadFile(filepath.Join(filepath.Dir(dir), "audit.pub"))
	public, err := hex.DecodeString(strings.TrimSpace(string(key)))
	if err != nil || filepath.Base(dir) != "audit" || len(public) == 0 {
		public = nil
	}
	l.report, l.err = journal.Verify(dir, public)
	return l
}

// freePorts tries every address of a stopped node: what holds one would keep it from starting.
func freePorts(ctx context.Context, cfg config.Config) map[string]error {
	out := map[string]error{}
	var lc net.ListenConfig
	udp := func(setting string, addrs []string) {
		for _, a := range addrs {
			conn, err := lc.ListenPacket(ctx, "udp", a)
			if err == nil {
				err = conn.Close()
			}
			out[setting+" "+a] = err
		}
	}
	udp("radius.auth_listen", cfg.Radius.AuthListen)
	udp("radius.acct_listen", cfg.Radius.AcctListen)
	for setting, a := range map[string]string{"api.listen": cfg.API.Listen, "api.admin_listen": cfg.API.AdminListen, "cluster.listen": cfg.Cluster.Listen} {
		if a == "" {
			continue
		}
		l, err := lc.Listen(ctx, "tcp", a)
		if err == nil {
			err = l.Close()
		}
		out[setting+" "+a] = err
	}
	return out
}

// inside asks the daemon.
func (l *local) inside(ctx context.Context, deep bool) (in inside, err error) {
	path := "/doctor"
	if deep {
		path += "?deep=1"
	}
	resp, err := l.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return in, err
	}
	defer func() { _ = resp.Body.Close() }()
	return in, json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&in)
}

// serveDoctor answers with what only the daemon sees.
func (c *core) serveDoctor() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in, err := c.inside(r.URL.Query().Get("deep") != "")
		if err != nil {
			answerError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(in)
	}
}

func (c *core) inside(deep bool) (in inside, err error) {
	in, err = lookInside(c.machine, c.store, deep)
	if err != nil {
		return in, err
	}
	if e, ok := edge.AsError(c.machine.Fatal()); ok && in.StoreErr == "" {
		in.StoreErr, in.StoreFix = e.Message, e.Fix
	}
	if e, ok := edge.AsError(c.cluster.Damage()); ok {
		in.LogErr, in.LogFix = e.Message, e.Fix
	}
	status := c.statusNow()
	in.Status, in.Differing = &status, c.cluster.Differing()
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		in.MaxFiles = uint64(limit.Cur) //nolint:unconvert // its type differs between platforms
	}
	if deep && in.StoreErr == "" {
		drift, err := c.drift()
		if err != nil {
			return in, err
		}
		in.Drift = &drift
	}
	return in, nil
}

// lookInside reads what the store shows, of a running node as of a stopped one.
func lookInside(m *exec.Machine, st *store.Store, deep bool) (in inside, err error) {
	in.LastTime, in.Version, in.ReadAhead = m.LastTime(), m.Version(), st.Stats().ReadAhead
	sn := st.Snapshot()
	raw, err := sn.Get([]byte(highKey))
	damage := st.Damage()
	if deep && damage == nil {
		in.Tables, damage = sn.Verify()
	}
	sn.Close()
	if e, ok := edge.AsError(damage); ok {
		in.StoreErr, in.StoreFix = e.Message, e.Fix
		return in, nil // what else there is to see is not to be trusted
	}
	if err == nil {
		in.High, err = parseHigh(raw)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return in, err
	}
	state := m.Snapshot()
	defer state.Close()
	if in.Conflicts, err = openConflicts(state); err != nil {
		return in, err
	}
	if deep {
		sum, err := state.Checksum()
		in.Checksum = hex.EncodeToString(sum[:])
		return in, err
	}
	return in, nil
}

// maxConflicts is where counting them ends: it is too many then, however many there are.
const maxConflicts = 1000

// openConflicts counts what waits for somebody's decision, over all tenants.
func openConflicts(st *exec.State) (n int, err error) {
	var tenants []string
	err = st.Scan(identity.TenantKeyPrefix(), "", func(_ string, record []byte) (bool, error) {
		k, err := identity.ReadTenantKey(record, "")
		tenants = append(tenants, k.Tenant)
		return err == nil, err
	})
	for _, tenant := range tenants {
		if err != nil {
			return n, err
		}
		err = st.Scan(edge.TablePrefix(tenant, "sync.conflict"), "", func(_ string, record []byte) (bool, error) {
			var c exec.Conflict
			err := json.Unmarshal(record, &c)
			if c.Status == exec.ConflictOpen {
				n++
			}
			return n < maxConflicts, err
		})
	}
	return n, err
}

// stoppedInside looks into the folder of a node that does not run, without writing.
func stoppedInside(ctx context.Context, o DoctorOptions, id nodeID) (in inside, err error) {
	dir := o.Config.Node.DataDir
	log, _, err := obs.NewLogger(io.Discard, obs.LogOptions{Level: "error"})
	if err != nil {
		return in, err
	}
	st, err := store.Open(store.Options{Dir: filepath.Join(dir, "state"), Logger: log, ReadOnly: true})
	if err != nil {
		if e, ok := edge.AsError(cluster.ExamineFolder(logDir(dir))); ok {
			in.LogErr, in.LogFix = e.Message, e.Fix
		}
		return in, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	m, err := exec.NewMachine(st, exec.MachineOptions{Logger: log})
	if err != nil {
		return in, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if in, err = lookInside(m, st, o.Deep); err != nil {
		return in, err
	}
	if err := cluster.Examine(cluster.Config{Dir: logDir(dir), NodeID: id.Node, ClusterID: id.Cluster, Logger: log, Now: time.Now}, m); err != nil {
		in.LogErr, in.LogFix = saidOfLog(err)
	}
	if !o.Deep || in.StoreErr != "" {
		return in, nil
	}
	drift, err := stoppedDrift(ctx, m, st)
	in.Drift = &drift
	return in, err
}

// stoppedDrift computes what is derived anew, with the declarations alone.
func stoppedDrift(ctx context.Context, m *exec.Machine, st *store.Store) (Drift, error) {
	modules := Declarations()
	for i := range modules {
		modules[i].Watches, modules[i].Workers = nil, nil
	}
	x, err := exec.New(exec.Config{Modules: modules, Machine: m, Store: st, Secrets: secrets{}, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return Drift{}, err
	}
	return driftOf(ctx, x)
}

// Package app puts the rooms together: a node (RADIUS, API, uplink), the NOC's relay, and the demo that runs both. It is the only
// package that knows every other one.
package app

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"wispgate/edge"
	"wispgate/edge/config"
	"wispgate/edge/exec"
	"wispgate/edge/journal"
	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/edge/vault"
	"wispgate/gateway/ca"
	"wispgate/gateway/identity"
	"wispgate/sync/cluster"
)

// Options are what a program is started with.
type Options struct {
	Config          config.Config
	Origins         config.Origins
	Version, Commit string
	Log             io.Writer // the log
	Out             io.Writer // what a person at the terminal should read: the claim code, the addresses

	// KeepEvents bounds how long events wait for an uplink that is switched off; 0: a week.
	KeepEvents time.Duration

	clock *testClock // nil: the system's
}

// testClock stands for the system's clock, and for the kernel's word about it.
type testClock struct {
	now     func() time.Time
	quality func() obs.Quality
	passed  func() time.Duration
}

// VersionInfo is what "wispgate version" prints.
type VersionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Version describes this build.
func Version(version, commit string) VersionInfo {
	return VersionInfo{version, commit, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
}

// core is what a node and a relay have in common: one data folder with its store, state machine, log, keys and audit journal, the
// executor over them, and the lists of what to stop.
type core struct {
	opts    Options
	dir     string
	program string // node or relay
	id      nodeID
	now     func() time.Time
	log     *slog.Logger
	ring    *obs.Ring
	metrics *obs.Registry
	clock   *obs.Clock
	floor   *clockFloor
	vault   *vault.Vault
	store   *store.Store
	machine *exec.Machine
	exec    *exec.Exec
	cluster *cluster.Node
	live    atomic.Pointer[cluster.Node] // cluster, for what the log may apply before it is open
	members *cluster.Directory
	keyRing *identity.KeyRing
	audit   *journal.Journal
	sign    ed25519.PrivateKey // this node's: heads of the audit, receipts
	queue   *journal.Journal   // of intents that wait for a quorum; nil on a relay
	ca      *ca.Authority
	group   *obs.Group
	secrets secrets
	ctx     context.Context // the program's life, for work that outlives a request
	started time.Time

	journals map[string]*journal.Journal
	opened   []edge.Module // what the executor and the gateway were made of

	statusNow func() Status // of every tenant, for the local listener

	gcPercent               int   // as aim set it
	memoryLimit, memoryMost int64 // octets of Go's memory: as aim set it, and the most it may set

	mu sync.Mutex // guards what a program adds while it runs

	stack []cleanup
}

// cleanup is one thing to stop, by name. What was opened last is closed first, at the end as after an error half way.
type cleanup struct {
	name string
	stop func(ctx context.Context) error
}

func (c *core) onStop(name string, stop func(ctx context.Context) error) {
	c.stack = append(c.stack, cleanup{name, stop})
}

// stopWithin bounds how long the whole stop may take.
const stopWithin = 15 * time.Second

// stop unwinds the stack. Every cleanup runs, whatever the others answer.
func (c *core) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	var errs []error
	for len(c.stack) > 0 {
		last := c.stack[len(c.stack)-1]
		c.stack = c.stack[:len(c.stack)-1]
		if err := last.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", last.name, err))
		}
	}
	return errors.Join(errs...)
}

// nodeID is who this node is; it is drawn at the first start and kept, unless the configuration names it.
type nodeID struct {
	Node    string `json:"node"`
	Site    string `json:"site"`
	Cluster string `json:"cluster"`

	// Incarnation tells this cluster's history from others of the same name, so that a position never means two things.
	Incarnation string `json:"incarnation"`

	// Former are the incarnations that this node has left by recovering its cluster: nodes that go on with one are told, and shown.
	Former []string `json:"former,omitempty"`

	// Listen and Advertise are what "wispgate cluster" was told when it made the node part of a cluster. The configuration wins.
	Listen    string `json:"listen,omitempty"`
	Advertise string `json:"advertise,omitempty"`
}

// newCore opens the data folder: log, keys, journals and store, in the order in which they need each other.
func newCore(ctx context.Context, opts Options, dir, program string) (*core, error) {
	c := &core{ctx: ctx, opts: opts, dir: dir, program: program, now: time.Now, started: time.Now(), journals: map[string]*journal.Journal{}, ring: obs.NewRing(obs.RingLines), metrics: obs.NewRegistry(), members: cluster.NewDirectory(), keyRing: identity.NewKeyRing()}
	log, _, err := obs.NewLogger(opts.Log, obs.LogOptions{Level: opts.Config.Node.LogLevel, Format: opts.Config.Node.LogFormat, Ring: c.ring})
	if err != nil {
		return nil, err
	}
	c.log = log.With("program", program)
	c.clock = obs.NewClock(c.now)
	c.floor = &clockFloor{now: c.now, quality: c.clock.Quality, log: c.log, passed: func() time.Duration { return time.Since(c.started) }}
	if t := opts.clock; t != nil {
		c.now, c.started = t.now, t.now()
		c.floor = &clockFloor{now: t.now, quality: t.quality, log: c.log, passed: t.passed}
	}
	c.metrics.Process(opts.Version)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, folderError(dir, err)
	}
	if _, err := os.Stat(filepath.Join(dir, restoring)); err == nil {
		return nil, errRestoreCut(dir)
	}
	if c.id, err = loadNodeID(dir, opts.Config.Node); err != nil {
		return nil, err
	}
	c.limitMemory()
	for _, open := range []func() error{c.openStore, c.openVault, c.openAudit, c.openCA} {
		if err := open(); err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	return c, nil
}

func folderError(dir string, err error) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "data_dir", Message: fmt.Sprintf("The data folder %s cannot be used: %v", dir, errors.Unwrap(err)),
		Fix: "Make it for the user that runs wispgate, or name another with node.data_dir or WISPGATE_NODE__DATA_DIR",
	}
}

// loadNodeID reads or makes node.json. A configured name that differs from the kept one is refused: streams and log belong to the old one.
func loadNodeID(dir string, n config.Node) (id nodeID, err error) {
	path := filepath.Join(dir, "node.json")
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(raw, &id); err != nil {
			return id, fmt.Errorf("read %s: %w", path, err)
		}
		if n.ID != "" && n.ID != id.Node || n.Cluster != "" && n.Cluster != id.Cluster {
			return id, &edge.Error{
				Kind: edge.Invalid, Code: "node_renamed", Message: fmt.Sprintf("The data folder belongs to node %s of cluster %s", id.Node, id.Cluster),
				Fix: "Set node.id and node.cluster to these names, or start with an empty data folder",
			}
		}
		if n.Site != "" {
			id.Site = n.Site
		}
		return id, nil
	case !errors.Is(err, os.ErrNotExist):
		return id, fmt.Errorf("read %s: %w", path, err)
	}
	id = nodeID{Node: n.ID, Site: n.Site, Cluster: n.Cluster, Incarnation: shortRandom()}
	if id.Node == "" {
		id.Node = "node-" + shortRandom()
	}
	if id.Site == "" {
		id.Site = id.Node
	}
	if id.Cluster == "" {
		id.Cluster = id.Node
	}
	if raw, err = json.MarshalIndent(id, "", "  "); err != nil {
		return id, err
	}
	return id, writeFile(path, raw, 0o600)
}

// limitMemory finds the most that Go's memory may be, 40 % of what the machine or its cgroup gives: the rest is for mapped tables, the page cache
// and the kernel. The limit stays near what lives in the heap, below that, unless GOMEMLIMIT or GOGC is set.
func (c *core) limitMemory() {
	c.memoryMost = math.MaxInt64
	if total := memoryTotal(); total > 0 {
		c.memoryMost = max(int64(total/10*4), 24<<20)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(c.memoryMost)
	}
	c.aim()
}

func (c *core) openStore() (err error) {
	s := c.opts.Config.Storage
	marks := store.Watermarks{
		Warn:     store.Mark{Percent: uint64(s.WarnFreePercent), AtMost: store.DefaultWatermarks.Warn.AtMost},
		Low:      store.Mark{Percent: uint64(s.LowFreePercent), AtMost: store.DefaultWatermarks.Low.AtMost},
		Critical: store.Mark{Percent: uint64(s.StopFreePercent), AtMost: store.DefaultWatermarks.Critical.AtMost},
	}
	marks.Resume = store.Mark{Percent: marks.Low.Percent + marks.Low.Percent/2, AtMost: store.DefaultWatermarks.Resume.AtMost}
	ballast := int64(s.Ballast)
	if ballast == 0 {
		ballast = -1
	}
	if c.store, err = store.Open(store.Options{Dir: filepath.Join(c.dir, "state"), Logger: c.log, Watermarks: marks, BallastBytes: ballast}); err != nil {
		return err
	}
	c.onStop("store", func(context.Context) error { return c.store.Close() })
	if c.machine, err = exec.NewMachine(c.store, exec.MachineOptions{Logger: c.log}); err != nil {
		return err
	}
	c.onStop("state machine", func(context.Context) error { return c.machine.Close() })
	c.tidy()
	if err := c.floor.open(c.store); err != nil {
		return err
	}
	c.onStop("clock", func(context.Context) error { c.keepClock(); return nil })
	return nil
}

func (c *core) openVault() (err error) {
	if c.vault, err = vault.Open(filepath.Join(c.dir, "keys")); err != nil {
		return err
	}
	c.secrets = secrets{c.vault}
	return c.secrets.openSystem(c.store)
}

// openAudit opens the hash-chained journal of who did what, whose heads the node signs.
func (c *core) openAudit() error {
	key, err := auditKey(filepath.Join(c.dir, "keys"))
	if err != nil {
		return err
	}
	c.sign = key
	pub, _ := key.Public().(ed25519.PublicKey)
	if err := writePublic(filepath.Join(c.dir, "audit.pub"), pub); err != nil {
		return err
	}
	if c.audit, err = c.openJournal("audit", journal.Options{Chain: true, Signer: key}); err != nil {
		return err
	}
	c.onStop("audit head", c.signAudit)
	return nil
}

// asideMark stands in the name of a journal's folder that was set aside, behind the journal's.
const asideMark = ".damaged-"

// openJournal opens one journal of the node with the settings that all of them share. One whose headers or chain are damaged is set aside, for a person to
// look at: a tower without its RADIUS would be worse. What is read by place begins anew with the new journal's incarnation.
func (c *core) openJournal(name string, o journal.Options) (*journal.Journal, error) {
	cfg := c.opts.Config
	o.Dir, o.MaxBytes, o.Reserve = filepath.Join(c.dir, name), int64(cfg.Journal.MaxBytes), int64(cfg.Storage.JournalReserve)
	if !o.Chain { // a router waits for its answer and repeats; a person should not
		o.Window = cfg.Journal.Window
	}
	o.Now, o.Logger = c.now, c.log.With("journal", name)
	o.Quality = func() journal.Quality { return journal.Quality(c.clock.Quality()) }
	o.Seal = c.vault.Sealer("journal " + name)
	seconds := c.metrics.Seconds("wispgate_journal_commit_seconds", "Time of one write and flush of a journal.", "journal").With(name)
	o.OnCommit = func(took time.Duration, _ int) { seconds.Update(took.Seconds()) }
	j, err := journal.Open(o)
	if e, ok := errors.AsType[*edge.Error](err); ok && e.Code == "journal_corrupt" {
		aside := o.Dir + asideMark + shortRandom()
		if failed := os.Rename(o.Dir, aside); failed != nil {
			return nil, errors.Join(err, failed)
		}
		c.log.Error("a journal is damaged and was set aside whole; the node goes on with a new one", "journal", name, "code", e.Code, "folder", aside, "error", err)
		j, err = journal.Open(o)
	}
	if err != nil {
		return nil, err
	}
	c.journals[name] = j
	c.onStop("journal "+name, func(context.Context) error { return j.Close() })
	return j, nil
}

func (c *core) openCA() (err error) {
	t, hosts := c.opts.Config.API.TLS, c.opts.Config.API.Hostnames
	c.ca, err = ca.Open(ca.Options{
		Dir: filepath.Join(c.dir, "tls"), Node: c.id.Node, Hosts: hosts, CertFile: t.CertFile, KeyFile: t.KeyFile,
		Now: c.effectiveTime, Log: c.log,
	})
	return err
}

// open makes the executor over the modules and starts the log: from here on commands run.
func (c *core) open(modules []edge.Module, flows []edge.Flow, retention time.Duration) (err error) {
	c.opened = modules
	c.exec, err = exec.New(exec.Config{
		Modules: modules, Flows: flows, Machine: c.machine, Store: c.store, Secrets: c.secrets, Now: c.effectiveTime, Trusted: c.clockTrusted,
		Logger: c.log, Observer: newExecMetrics(c.metrics), EventRetention: retention,
		Node: c.id.Node, Sign: func(message []byte) []byte { return ed25519.Sign(c.sign, message) }, Queue: c.queue, Durability: c.durability,
		Patience: patience(c.opts.Config.Cluster.Network), Alone: c.alone, Expelled: c.expelled, Unheard: cluster.Unheard, FeatureLevel: cluster.FeatureLevel,
	})
	if err != nil {
		return err
	}
	c.cluster, err = c.openCluster()
	c.live.Store(c.cluster)
	if err != nil {
		return err
	}
	c.onStop("log", func(context.Context) error {
		_ = c.cluster.Snapshot() // only names a position: the next start reads no entry twice. Without it, it reads some and skips them
		return c.cluster.Shutdown()
	})
	c.cluster.Handle(cluster.MethodIntent, func(ctx context.Context, _ string, body []byte) ([]byte, error) { return c.exec.Serve(ctx, body) })
	c.exec.Start(c.ctx, c.cluster)
	c.cluster.Attach(c.exec)
	c.onStop("executor", func(context.Context) error { c.exec.Stop(); return nil })
	c.catchUp()
	c.group = obs.NewGroup(c.ctx, c.log, c.now, c.restarted())
	c.onStop("workers", c.group.Stop)
	c.group.Go("keys", c.shareLoop)
	c.group.Go("level", c.levelLoop)
	c.group.Go("clock", c.clockLoop)
	for _, m := range modules {
		for _, w := range m.Workers {
			c.group.Go(w.Name, func(ctx context.Context) error { return c.work(ctx, w) })
		}
	}
	return nil
}

// patience is how long a command waits for a leader before the node goes on alone or refuses: longer than a failover takes on that network,
// and shorter than any client's.
func patience(network string) time.Duration {
	switch network {
	case "wan":
		return 5 * time.Second
	case "satellite":
		return 10 * time.Second
	}
	return 2 * time.Second
}

// expelled is why nothing that this node takes would reach the cluster.
func (c *core) expelled() error {
	if c.cluster == nil {
		return nil
	}
	if damage := c.cluster.Damage(); damage != nil && len(c.members.Peers()) <= 1 {
		return damage // nobody fills a lone node anew, and a restored one does not take its queue
	}
	return c.cluster.Expelled()
}

// alone reports that no other node belongs to the cluster.
func (c *core) alone() bool {
	s := c.cluster.Status()
	return len(s.Voters)+len(s.Others) <= 1
}

// durability is how far a committed write is durable.
func (c *core) durability() string {
	if len(c.cluster.Status().Voters) > 1 {
		return "cluster"
	}
	return "node"
}

// catchUpWithin bounds how long a start waits for the log. A lone node needs about 200 ms.
const catchUpWithin = 3 * time.Second

// catchUp waits until the entries that the log holds beyond the store are applied, so that nobody is refused, shown or sent up a state from
// before what was acknowledged. Without a leader (no quorum, a full disk) the doors open on what the store has.
func (c *core) catchUp() {
	ctx, cancel := context.WithTimeout(c.ctx, catchUpWithin)
	defer cancel()
	err := c.cluster.WaitLeader(ctx)
	switch {
	case err != nil:
	case c.cluster.IsLeader():
		err = c.cluster.Barrier(ctx)
	default:
		err = c.cluster.Linearize(ctx)
	}
	if err != nil && c.ctx.Err() == nil {
		c.log.Warn("the log is not caught up; reads and radius are served from the last flush", "error", err)
	}
}

// work runs a worker where it belongs: a leader's worker waits until this node leads, and stops when it does not any more.
func (c *core) work(ctx context.Context, w edge.Worker) error {
	run := func(ctx context.Context) error { return w.Run(ctx, c.exec) }
	if w.On == edge.OnLeader {
		return c.cluster.Leading(ctx, run)
	}
	return run(ctx)
}

func (c *core) restarted() func(string) {
	vec := c.metrics.Counter("wispgate_worker_restarts_total", "Workers that failed and were started again.", "worker")
	return func(name string) { vec.With(name).Inc() }
}

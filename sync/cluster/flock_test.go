package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/exec"
	"wispgate/edge/store"
	"wispgate/edge/vault"
)

// flock is a cluster inside a test: whole nodes, from TLS to the store, over wires.
type flock struct {
	keys     int // of commands that do has run
	t        testing.TB
	dir      string
	wires    *wires
	clock    func() time.Time
	birds    map[string]*bird
	conf     func(*Config)
	patience time.Duration             // of until; 0: two minutes
	options  func(*bird) store.Options // of the store; nil: none
	tcp      bool                      // over loopback instead of wires
}

// bird is one node of it.
type bird struct {
	f       *flock
	name    string
	dir     string
	advert  string
	former  []string // incarnations left by recoveries
	vault   *vault.Vault
	store   *store.Store
	machine *exec.Machine
	exec    *exec.Exec
	node    *Node
	live    atomic.Pointer[Node] // node, for what the log applies while it opens
	members *Directory
	stop    context.CancelFunc
	gate    sync.RWMutex // of tests that stop nodes under their clients
	watch   func()       // called for each snapshot that is installed
}

// quick are time-outs for tests in real time; the profile's own are for bubbles.
var quick = Timeouts{Heartbeat: 150 * time.Millisecond, Election: 150 * time.Millisecond, Lease: 100 * time.Millisecond, Commit: 10 * time.Millisecond, Transport: time.Second}

func newFlock(t testing.TB, conf func(*Config)) *flock {
	if t, ok := t.(*testing.T); ok {
		t.Parallel() // they wait more than they work
	}
	f := &flock{t: t, dir: t.TempDir(), wires: newWires(), clock: time.Now, birds: map[string]*bird{}, conf: conf}
	t.Cleanup(f.close)
	return f
}

func (f *flock) close() {
	for _, b := range f.birds {
		b.down()
	}
}

func (f *flock) names() []string {
	var list []string
	for name := range f.birds {
		list = append(list, name)
	}
	return list
}

// fakeSecrets answers what the executor asks of a vault; nothing here seals.
type fakeSecrets struct{}

func (fakeSecrets) Seal(_, _, _ string, p []byte) (string, error) { return string(p), nil }
func (fakeSecrets) MAC(_, _ string, data []byte) []byte           { return data }
func (fakeSecrets) Digest(p string) (string, error)               { return p, nil }

func (f *flock) bird(name string) *bird {
	b := f.birds[name]
	if b == nil {
		b = &bird{f: f, name: name, dir: filepath.Join(f.dir, name), advert: name + ":7846"}
		if f.tcp {
			b.advert = loopback(f.t)
		}
		f.birds[name] = b
	}
	return b
}

func (f *flock) network(name string) Network {
	if f.tcp {
		return tcp{}
	}
	return f.wires.as(name)
}

func (b *bird) logDir() string  { return filepath.Join(b.dir, "log") }
func (b *bird) keysDir() string { return filepath.Join(b.dir, "keys", "cluster") }

func (b *bird) openVault() {
	if b.vault == nil {
		var err error
		b.vault, err = vault.Open(filepath.Join(b.dir, "keys"))
		check(b.f.t, err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bird) config() Config {
	c := Config{
		Dir: b.logDir(), NodeID: b.name, ClusterID: "c1", Site: "site-" + b.name, Version: "test", Now: b.f.clock,
		Listen: b.advert, Advertise: b.advert, Network: b.f.network(b.name), Vault: b.vault, Incarnation: fmt.Sprintf("i%d", len(b.former)+1), Former: b.former,
		Timeouts: Timeouts{Heartbeat: 20 * time.Millisecond}, Peers: quick,
		Pace: Pace{Poll: 50 * time.Millisecond, Stable: 300 * time.Millisecond, Lost: 2 * time.Second},
	}
	if os.Getenv("FLOCK_LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", b.name)
	}
	if b.f.conf != nil {
		b.f.conf(&c)
	}
	return c
}

// up starts a node that has been founded or has joined.
func (b *bird) up() *bird {
	t := b.f.t
	t.Helper()
	b.openVault()
	var opts store.Options
	if b.f.options != nil {
		opts = b.f.options(b)
	}
	opts.Dir, opts.BallastBytes = filepath.Join(b.dir, "store"), -1
	var err error
	b.store, err = store.Open(opts)
	check(t, err)
	b.machine, err = exec.NewMachine(b.store, exec.MachineOptions{})
	check(t, err)
	if b.watch != nil {
		watch := b.watch
		b.machine.OnRestore(func(uint64) { watch() })
	}
	b.members = NewDirectory()
	c := b.config()
	modules := []edge.Module{Module(Ports{Directory: b.members, Live: b.live.Load}), registers()}
	b.exec, err = exec.New(exec.Config{
		Modules: modules, Machine: b.machine, Store: b.store, Secrets: fakeSecrets{}, Now: b.f.clock, Logger: slog.New(slog.DiscardHandler),
		EventRetention: time.Hour, Node: b.name,
	})
	check(t, err)
	exists, err := Exists(c.Dir)
	check(t, err)
	if exists {
		c.Credentials, err = LoadCredentials(b.keysDir(), c.ClusterID, c.NodeID)
	} else {
		c.Credentials, err = MakeCredentials(b.keysDir(), c.ClusterID, c.NodeID, b.f.clock())
	}
	check(t, err)
	c.Directory = b.members
	if !exists {
		check(t, Bootstrap(c, b.machine))
	}
	b.node, err = Open(c, b.machine)
	check(t, err)
	b.live.Store(b.node)
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.node.Handle(MethodIntent, func(ctx context.Context, _ string, body []byte) ([]byte, error) { return b.exec.Serve(ctx, body) })
	b.exec.Start(ctx, b.node)
	b.node.Attach(b.exec)
	return b
}

// down stops the node; harmless twice.
func (b *bird) down() {
	if b.node == nil {
		return
	}
	b.f.t.Helper()
	node := b.node
	b.stop()
	b.exec.Stop()
	err := node.Shutdown()
	b.node = nil
	b.live.Store(nil)
	if err = errors.Join(err, b.machine.Close(), b.store.Close()); err != nil {
		b.f.t.Errorf("stop %s: %v", b.name, err)
	}
}

// invite makes a token at the leader.
func (f *flock) invite(role Role, replaces string) string {
	f.t.Helper()
	tok := ""
	f.until("an invitation", func() bool { // with another key each time: a token is shown in the first answer only
		reply, err := edge.Do(within(f.t, 5*time.Second), f.leader().exec, operator, "", "sync.invitation.create", NewInvitation{Role: role, Replaces: replaces})
		if err == nil {
			tok = reply.Once[0]["token"]
		} else if e, ok := edge.AsError(err); !ok || e.Kind != edge.Unavailable && e.Code != edge.ErrInFlight.Code {
			f.t.Fatal(err)
		}
		return err == nil
	})
	return tok
}

var operator = edge.SystemActor(edge.System, "console")

// do runs an operator's command at whoever leads, again with the same key while the cluster cannot say what became of it, or is still at it.
func (f *flock) do(op string, in any) (err error) {
	f.t.Helper()
	f.keys++
	key := fmt.Sprintf("do-%d", f.keys)
	f.until(op+" is answered", func() bool {
		_, err = edge.Do(within(f.t, 5*time.Second), f.leader().exec, operator, key, op, in)
		e, ok := edge.AsError(err)
		return err == nil || ok && e.Kind != edge.Unavailable && e.Code != edge.ErrInFlight.Code
	})
	return err
}

// join knocks with a token, without starting the node.
func (b *bird) join(token string) (Welcome, error) {
	b.openVault()
	return Joiner{
		Token: token, Node: b.name, Site: "site-" + b.name, Advertise: b.advert, Version: "test", Dir: b.logDir(), CredentialsDir: b.keysDir(),
		Vault: b.vault, Network: b.f.network(b.name), Now: b.f.clock,
	}.Join(within(b.f.t, time.Minute), func(Welcome) error { return nil })
}

// found makes the cluster of one node, and grow adds others.
func (f *flock) found(name string) *bird {
	f.t.Helper()
	b := f.bird(name).up()
	check(f.t, b.node.WaitLeader(within(f.t, time.Minute)))
	f.until("the first record", func() bool { p, ok := b.members.Peer(name); return ok && p.Voter })
	check(f.t, b.exec.RaiseLevel(within(f.t, time.Minute), FeatureLevel))
	return b
}

func (f *flock) grow(role Role, names ...string) {
	f.t.Helper()
	for _, name := range names {
		_, err := f.bird(name).join(f.invite(role, ""))
		check(f.t, err)
		f.bird(name).up()
	}
	for _, name := range names {
		f.until(name+" is a "+string(role), func() bool {
			p, ok := f.leader().members.Peer(name)
			return ok && p.Status == Joined && p.Voter == (role == Voter)
		})
	}
}

// until polls the condition with a deadline and shows the state when it does not come true.
func (f *flock) until(what string, ok func() bool) {
	f.t.Helper()
	f.untilWithin(or(f.patience, 2*time.Minute), what, ok)
}

func (f *flock) untilWithin(d time.Duration, what string, ok func() bool) {
	f.t.Helper()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			f.t.Fatalf("not within %s: %s\n%s", d, what, f.state())
		}
	}
}

func (f *flock) state() string {
	var out strings.Builder
	for _, b := range f.birds {
		if b.node == nil {
			fmt.Fprintf(&out, "%s: down\n", b.name)
			continue
		}
		raw, _ := json.Marshal(b.node.Status())
		fmt.Fprintf(&out, "%s: %s\n", b.name, raw)
		for _, p := range b.members.Peers() {
			fmt.Fprintf(&out, "   %s role %s voter %v status %s lost %v repair %v\n", p.Node, p.Role, p.Voter, p.Status, p.LostAt, p.RepairAt)
		}
	}
	return out.String()
}

// leader waits for a node that leads with the consent of the others.
func (f *flock) leader() *bird {
	f.t.Helper()
	var found *bird
	f.until("a leader", func() bool {
		found = nil
		for _, b := range f.birds {
			if b.node != nil && b.node.IsLeader() {
				if st := b.node.Status(); found == nil || st.Term > found.node.Status().Term {
					found = b
				}
			}
		}
		return found != nil && found.node.Linearize(within(f.t, 2*time.Second)) == nil
	})
	return found
}

// leadAt has a voter lead.
func (f *flock) leadAt(name string) {
	f.t.Helper()
	if f.leader().name != name {
		check(f.t, f.do("sync.node.lead", PeerRef{name}))
		f.until(name+" leads", func() bool { return f.leader().name == name })
	}
}

// move starts a node that is down at another address. At the old one nothing refuses.
func (f *flock) move(name, address string) {
	f.t.Helper()
	b := f.bird(name)
	f.wires.Void(b.advert)
	b.advert = address
	b.up()
}

// settled waits until every running member is at one version, and compares their checksums there.
func (f *flock) settled() {
	f.t.Helper()
	sums := map[string]string{}
	f.until("all nodes are at one version", func() bool {
		clear(sums)
		l, versions := f.leader(), map[uint64]bool{}
		for _, b := range f.birds {
			if b.node == nil {
				continue
			}
			if p, ok := l.members.Peer(b.name); !ok || p.Status == Removed {
				continue
			}
			v, sum, err := b.machine.Checksum()
			check(f.t, err)
			versions[v], sums[b.name] = true, fmt.Sprintf("%d %x", v, sum)
		}
		return len(versions) == 1
	})
	for _, s := range sums {
		if s != sums[f.leader().name] {
			f.t.Fatalf("the nodes hold different states: %v", sums)
		}
	}
}

// settledAt waits until a node has applied what the leader has.
func (f *flock) settledAt(b *bird) {
	f.t.Helper()
	f.until(b.name+" has caught up", func() bool { return b.node.Linearize(within(f.t, time.Second)) == nil })
}

// register is a record that tests write through the cluster.
type register struct {
	edge.Meta
	Key   string `json:"key" check:"max=64"`
	Value string `json:"value" check:"max=100000"`
	Count int64  `json:"count"`
}

var registerTable = &edge.Table[register]{
	Name: "test.register", Prefix: "reg", Meta: func(r *register) *edge.Meta { return &r.Meta },
	Indexes: []edge.Index[register]{{Name: "key", Unique: true, Keys: func(r *register) []string { return []string{r.Key} }}},
}

type registerWrite struct {
	Key   string `json:"key" check:"max=64"`
	Value string `json:"value" check:"max=100000"`
	If    string `json:"if,omitempty" check:"max=100000" doc:"What it must hold, if given."`
}

var errOther = edge.Reason{Code: "register_other", Says: "The register holds another value", Fix: "Read it"}

func findRegister(v edge.View, key string) (register, error) {
	r, err := registerTable.By(v, "key", key)
	if e, ok := edge.AsError(err); err != nil && ok && e.Kind == edge.NotFound {
		return register{Key: key}, nil
	}
	return r, err
}

var writeRegister = edge.Command[registerWrite, register]{
	Name: "test.register.write", Scope: "test:write", Class: edge.Write, Summary: "Write a register",
	Handle: func(tx edge.Tx, in registerWrite) (register, error) {
		r, err := findRegister(tx, in.Key)
		if err != nil {
			return r, err
		}
		if in.If != "" && in.If != r.Value {
			return r, errOther.Error(edge.Conflict)
		}
		if r.ID == "" {
			r.ID = tx.NewID("reg")
		}
		r.Value, r.Count = in.Value, r.Count+1
		return r, registerTable.Put(tx, &r)
	},
}

var readRegister = edge.Query[registerWrite, register]{
	Name: "test.register.read", Scope: "test:read", Class: edge.Read, Summary: "Read a register",
	Handle: func(v edge.View, in registerWrite) (register, error) { return findRegister(v, in.Key) },
}

type missing struct {
	Since time.Time `json:"since"`
}

var unheardSince = edge.Query[edge.None, missing]{
	Name: "test.unheard", Scope: "test:read", Class: edge.Read, Summary: "Say since when a node may hold writes",
	Handle: func(v edge.View, _ edge.None) (missing, error) {
		since, err := Unheard(v)
		return missing{since}, err
	},
}

func registers() edge.Module {
	return edge.Module{
		Name: "test", Summary: "Registers.", Tables: []edge.AnyTable{registerTable}, Ops: []*edge.Op{writeRegister.Op(), readRegister.Op(), unheardSince.Op()},
	}
}

var tester = edge.SystemActor("acme", "test")

// write writes a register at this node, with an operation id of its own or the given one.
func (b *bird) write(ctx context.Context, op, key, value string) error {
	_, err := edge.Do(ctx, b.exec, tester, op, "test.register.write", registerWrite{Key: key, Value: value})
	return err
}

func (b *bird) read(ctx context.Context, key string) (register, error) {
	raw, err := json.Marshal(registerWrite{Key: key})
	if err != nil {
		return register{}, err
	}
	out, _, err := b.exec.Ask(ctx, tester, "test.register.read", raw, 0)
	if err != nil {
		return register{}, err
	}
	return out.(register), nil
}

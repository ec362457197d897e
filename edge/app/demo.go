package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wispgate/edge"
	"wispgate/edge/config"
	"wispgate/edge/flock"
	"wispgate/gateway/identity"
)

// DemoSubscribers is how many subscribers a new demo has unless told otherwise.
const DemoSubscribers = 428

// DemoOptions are what "wispgate demo" takes.
type DemoOptions struct {
	Dir         string // for everything the demo keeps
	Subscribers int    // of a new folder
	Seed        uint64
	Port        int  // of the node's API; 0: any, and the same at the next run
	Plain       bool // lines instead of a screen
	Flaky       bool // the uplink drops and the receiver fails now and then

	Version, Commit string
	Out             io.Writer
	Log             io.Writer // of the demo itself; node and relay log to files in Dir
}

// demo is a running demo.
type demo struct {
	o      DemoOptions
	dir    string
	begun  time.Time
	again  bool // the folder held a demo already
	state  *demoState
	people []person
	board  *board
	ready  atomic.Bool // claimed: the key and the lines to try are there

	node              *Node
	relay             *RelayNode
	logs              []io.Closer
	nodeAPI, relayAPI *demoClient
	link              *demoLink
	hook              *demoHook
	router            *routerSim
	failed            chan error
	// What runs beside node and relay, in the order in which it stops: the router, who reads the node, link and receiver, the view.
	traffic, looks, work, view               sync.WaitGroup
	stopRouter, stopLook, stopWork, stopView context.CancelFunc
}

// Demo runs the whole product on loopback until ctx ends: a tower node, a relay with its broker, a simulated router that sends real RADIUS
// packets, and a webhook receiver. A second run in the same folder goes on with the same data.
func Demo(ctx context.Context, o DemoOptions) error {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("find the demo's folder: %w", err)
	}
	d := &demo{o: o, dir: dir, begun: time.Now(), failed: make(chan error, 1)}
	lock, err := lockDemo(dir)
	if err != nil {
		return err
	}
	defer func() { _ = flock.Release(lock) }()
	_, err = os.Stat(statePath(dir))
	d.again = err == nil
	if d.state, err = loadDemoState(dir, o); err != nil {
		return err
	}
	d.people = demoPeople(d.state.Seed, d.state.Subscribers)
	if err := d.state.choosePorts(o.Port); err != nil {
		return err
	}
	if err := d.state.save(dir); err != nil {
		return err
	}
	d.board = newBoard(time.Now)
	d.board.subscribers.Store(int64(len(d.people)))
	err = d.live(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		_, err = fmt.Fprintf(o.Out, "Stopped. Everything is kept in %s; run it again to continue.\n", d.dir)
	}
	return err
}

// live starts everything, lets it run and stops it, whatever happens on the way.
func (d *demo) live(ctx context.Context) (err error) {
	showing, stopView := context.WithCancel(context.WithoutCancel(ctx))
	d.stopView = stopView
	working, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	d.stopWork = stopWork
	looking, stopLook := context.WithCancel(context.WithoutCancel(ctx))
	d.stopLook = stopLook
	defer func() { err = errors.Join(err, d.stop()) }()
	d.show(showing)
	if err := d.boot(ctx, working); err != nil {
		return err
	}
	if err := d.open(ctx, looking); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err = <-d.failed:
	case <-d.node.machine.Failed():
		err = d.node.machine.Fatal()
	case <-d.relay.machine.Failed():
		err = d.relay.machine.Fatal()
	}
	return err
}

// boot starts relay, link and node, the relay first: the tower then finds it at once.
func (d *demo) boot(ctx, working context.Context) (err error) {
	secret := edge.Secret(d.state.HookSecret)
	if d.hook, err = listenHook(loopback(d.state.Ports.Hook), secret, d.o.Flaky, d.board); err != nil {
		return err
	}
	d.work.Go(func() { d.hook.run(working) })
	if d.link, err = listenLink(loopback(d.state.Ports.Link), loopback(d.state.Ports.MQTT)); err != nil {
		return err
	}
	d.board.linkUp.Store(true)
	d.work.Go(func() { d.link.run(working) })
	if d.o.Flaky {
		d.work.Go(func() { d.link.weather(working, d.board) })
	}
	relayOpts, err := d.options("relay.log")
	if err != nil {
		return err
	}
	// The daemons outlive ctx by their own orderly stop.
	life := context.WithoutCancel(ctx)
	if d.relay, err = OpenRelay(life, relayOpts); err != nil {
		return err
	}
	if err := d.relay.Start(); err != nil {
		return err
	}
	nodeOpts, err := d.options("node.log")
	if err != nil {
		return err
	}
	if d.node, err = OpenNode(life, nodeOpts); err != nil {
		return err
	}
	return d.node.Start()
}

// demoLog is how long a log file grows before it is begun anew, in octets.
const demoLog = 8 << 20

// options is the configuration of node and relay: what an operator would write, with this machine's loopback for addresses.
func (d *demo) options(logFile string) (Options, error) {
	f, err := openRotating(filepath.Join(d.dir, logFile), demoLog)
	if err != nil {
		return Options{}, err
	}
	d.logs = append(d.logs, f)
	p, cfg := d.state.Ports, config.Default()
	cfg.Node.ID, cfg.Node.Site, cfg.Node.Cluster = "tower7", "tower7", "tower7"
	cfg.Node.DataDir, cfg.Node.LogFormat = filepath.Join(d.dir, "node"), "text"
	cfg.Radius.AuthListen, cfg.Radius.AcctListen = []string{loopback(p.Auth)}, []string{loopback(p.Acct)}
	cfg.API.Listen, cfg.API.AdminListen = loopback(p.API), loopback(p.Admin)
	cfg.Storage.Ballast = 4 << 20
	cfg.Limits.TenantPerMinute, cfg.Limits.ClientPerMinute = 120_000, 120_000 // the seeding is one client in a hurry
	cfg.Uplink.Enabled, cfg.Uplink.Broker = true, "mqtt://"+loopback(p.Link)
	cfg.Relay.Listen, cfg.Relay.MQTTListen, cfg.Relay.MQTTPlainListen = loopback(p.RelayAPI), "", loopback(p.MQTT)
	cfg.Relay.DataDir, cfg.Relay.AllowPrivateCIDRs = filepath.Join(d.dir, "relay"), []string{"127.0.0.0/8"}
	if logFile == "relay.log" {
		cfg.Node.ID, cfg.Node.Site, cfg.Node.Cluster = "noc", "noc", "noc"
		cfg.API.AdminListen = loopback(p.RelayAdm)
	}
	if err := cfg.Check(); err != nil {
		return Options{}, err
	}
	return Options{Config: cfg, Version: d.o.Version, Commit: d.o.Commit, Log: f, Out: io.Discard}, nil
}

// open claims both programs, registers the receiver, seeds the node and lets the router loose.
func (d *demo) open(ctx, looking context.Context) (err error) {
	if d.nodeAPI, err = d.claim(ctx, d.node.core, d.node.api.claims, d.node.URL(), &d.state.NodeKey); err != nil {
		return err
	}
	if d.relayAPI, err = d.claim(ctx, d.relay.core, d.relay.api.claims, d.relay.URL(), &d.state.RelayKey); err != nil {
		return err
	}
	hookURL := "http://" + loopback(d.state.Ports.Hook) + "/webhooks"
	if err := registerHook(ctx, d.relayAPI, d.state, hookURL); err != nil {
		return err
	}
	d.state.HookURL = hookURL
	if err := d.state.save(d.dir); err != nil {
		return err
	}
	if err := d.writeHandles(); err != nil {
		return err
	}
	d.ready.Store(true)
	d.looks.Go(func() { d.watchNode(looking) })
	d.looks.Go(func() { d.watchUsage(looking) })
	seed := &seeder{api: d.nodeAPI, state: d.state, save: func() error { return d.state.save(d.dir) }, people: d.people, added: d.admit}
	return seed.run(ctx)
}

// admit brings subscribers to the router. The first call starts it: by then the node knows the router.
func (d *demo) admit(upto int) {
	d.board.seeded.Store(int64(upto))
	if d.router == nil {
		r, err := newRouterSim(d.dir, d.state, d.people, loopback(d.state.Ports.Auth), loopback(d.state.Ports.Acct), d.board)
		if err != nil {
			d.fail(err)
			return
		}
		d.router = r
		var running context.Context
		running, d.stopRouter = context.WithCancel(context.Background())
		d.traffic.Go(func() {
			if err := r.run(running); err != nil {
				d.fail(err)
			}
		})
	}
	d.router.admit(upto)
}

func (d *demo) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// claim makes sure of a key that works: the kept one, or that of a claim with the program's one-time code, as a newcomer makes it. When
// the kept key is lost or revoked, the code is armed again, as its owner may.
func (d *demo) claim(ctx context.Context, c *core, file *identity.ClaimFile, url string, key *string) (*demoClient, error) {
	api, err := newDemoClient(url, filepath.Join(c.dir, "tls", "ca.crt"))
	if err != nil {
		return nil, err
	}
	api.key = *key
	works, err := api.whoami(ctx)
	if err != nil || works {
		return api, err
	}
	api.key = ""
	code, err := file.Arm(false)
	if err != nil {
		return nil, err
	}
	made, err := api.claim(ctx, code)
	if e, ok := edge.AsError(err); err != nil && ok && (e.Code == identity.ErrClaimClosed.Code || e.Code == identity.ErrClaimSpent.Code) {
		if code, err = file.Arm(true); err != nil {
			return nil, err
		}
		made, err = api.claim(ctx, code)
	}
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	*key, api.key = made, made
	return api, d.state.save(d.dir)
}

// writeHandles puts what the printed lines name beside the data: the CA, and the key as a header for curl and plain for the CLI.
func (d *demo) writeHandles() error {
	pem, err := os.ReadFile(filepath.Join(d.node.dir, "tls", "ca.crt"))
	if err != nil {
		return fmt.Errorf("read the site's CA: %w", err)
	}
	return errors.Join(
		writeFile(filepath.Join(d.dir, "ca.crt"), pem, 0o644),
		writeFile(filepath.Join(d.dir, "key"), []byte(d.state.NodeKey+"\n"), 0o600),
		writeFile(filepath.Join(d.dir, "header"), []byte("Authorization: Bearer "+d.state.NodeKey+"\n"), 0o600),
	)
}

// stop ends everything in the order in which it depends on each other: traffic, node, relay, receiver, view.
func (d *demo) stop() error {
	if d.stopRouter != nil {
		d.stopRouter()
	}
	d.traffic.Wait()
	d.stopLook()
	d.looks.Wait()
	var errs []error
	if d.node != nil {
		errs = append(errs, d.node.Stop())
	}
	if d.relay != nil {
		errs = append(errs, d.relay.Stop())
	}
	d.stopWork()
	d.work.Wait()
	for _, c := range []*demoClient{d.nodeAPI, d.relayAPI} {
		if c != nil {
			c.close()
		}
	}
	d.stopView()
	d.view.Wait()
	for _, f := range d.logs {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// curls are three lines that work as they are printed.
func (d *demo) curls() []string {
	api := "https://" + loopback(d.state.Ports.API)
	head := "curl --cacert " + shellQuote(filepath.Join(d.dir, "ca.crt")) + " -H " + shellQuote("@"+filepath.Join(d.dir, "header"))
	refused := &d.people[2] // unpaid
	return []string{
		head + " '" + api + "/api/v1/crm/customers?limit=3'",
		head + " '" + api + "/api/v1/aaa/entitlements:explain?login=" + strings.ReplaceAll(refused.login, "@", "%40") + "'",
		head + " -H 'Content-Type: application/json' -d '{\"reason\":\"admin\"}' '" + api + "/api/v1/billing/subscriptions/" + string(d.people[0].subject) + ":suspend'",
	}
}

// shellQuote writes a word as a POSIX shell reads it back.
func shellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%_-+=:,./") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

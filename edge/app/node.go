package app

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/radiusd"
	"wispgate/billing"
	"wispgate/crm"
	"wispgate/edge"
	"wispgate/edge/journal"
	"wispgate/inventory"
	"wispgate/sync/uplink"
)

// Node is a tower's daemon: RADIUS, API, uplink.
type Node struct {
	*core
	api        *api
	accounting *journal.Journal
	factLog    *journal.Journal
	acks       *journalAcks // of the facts
	auditAcks  *journalAcks
	facts      struct{ auth *authFacts }
	index      *aaa.Index
	drainer    *aaa.Drainer
	signs      chan aaa.NASSign
	radius     *radiusd.Server
	uplink     *uplink.Uplink
	attached   map[uplink.Name]func()
	clusters   []*clusterStream
}

// Serve runs a node until ctx ends.
func Serve(ctx context.Context, opts Options) error {
	widen()
	n, err := OpenNode(ctx, opts)
	if err != nil {
		return err
	}
	if err := n.Start(); err != nil {
		return errors.Join(err, n.Stop())
	}
	if err := n.api.announceClaim(opts.Out, n.URL()); err != nil {
		return errors.Join(err, n.Stop())
	}
	n.log.Info("node is ready", "node", n.id.Node, "site", n.id.Site, "api", n.URL(), "took", n.now().Sub(n.started).Round(time.Millisecond).String())
	n.stayUp(ctx)
	return n.Stop()
}

// stayUp waits for the end of ctx. A node whose state machine stops stays: RADIUS answers from memory, accounting is kept, what can be read is
// read, and another member can have it filled anew. It is not ready, takes no writes, and the doctor says why.
func (n *Node) stayUp(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-n.machine.Failed():
		n.log.Error("this node takes no part in its cluster and no writes until it is repaired", "error", n.machine.Fatal())
		<-ctx.Done()
	}
	n.log.Info("stopping")
}

// week is how long events wait on a node whose uplink is switched off.
const week = 7 * 24 * time.Hour

// OpenNode opens a node's folder and state. Start opens its doors.
func OpenNode(ctx context.Context, opts Options) (*Node, error) {
	c, err := newCore(ctx, opts, opts.Config.Node.DataDir, "node")
	if err != nil {
		return nil, err
	}
	n := &Node{core: c, acks: newAcks(), auditAcks: newAcks(), attached: map[uplink.Name]func(){}}
	if err := n.openAll(); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return n, nil
}

func (n *Node) openAll() (err error) {
	if err := n.openAAA(); err != nil {
		return err
	}
	if n.factLog, err = n.openJournal("facts", journal.Options{}); err != nil {
		return err
	}
	if n.queue, err = n.openJournal("pending", journal.Options{}); err != nil {
		return err
	}
	n.api = n.newAPI()
	retention := time.Duration(0)
	if !n.opts.Config.Uplink.Enabled {
		if retention = n.opts.KeepEvents; retention == 0 {
			retention = week
		}
	}
	return n.open(n.modules(), Flows(), retention)
}

// modules are the domains of a node.
func (n *Node) modules() []edge.Module {
	var streams func() []uplink.StreamStatus
	if n.opts.Config.Uplink.Enabled {
		streams = func() []uplink.StreamStatus {
			if n.uplink == nil {
				return nil
			}
			return n.uplink.Status()
		}
	}
	front := aaa.FrontDoor{Recent: func(since time.Time, limit int, keep func(*radiusd.Event) bool) []radiusd.Event {
		if n.radius == nil {
			return nil
		}
		return n.radius.Recent(since, limit, keep)
	}}
	return []edge.Module{
		n.api.identityModule(n.index.Reopen),
		inventory.Module(),
		crm.Module(),
		billing.ModuleWith(n.receiptKey),
		aaa.Module(aaa.Deps{Index: n.index, Drainer: n.drainer, Trusted: n.clockTrusted, Recent: front, Signs: n.signs}),
		n.syncModule("node", streams),
	}
}

// receiptKey is the public key by which receipts of a node are checked: this node's own. Those of others are given with the question.
func (n *Node) receiptKey(node string) ed25519.PublicKey {
	if node != n.id.Node {
		return nil
	}
	key, _ := n.sign.Public().(ed25519.PublicKey)
	return key
}

// Start opens the doors: RADIUS first, because it needs nobody, then the API and the uplink. Open has caught up with the log.
func (n *Node) Start() error {
	if err := n.listenRADIUS(); err != nil {
		return err
	}
	if err := n.api.listen(n.opts.Config.API.Listen, n.opened, n.ready, func(w io.Writer) { _ = n.writeRADIUSMetrics(w) }); err != nil {
		return err
	}
	n.group.Go("facts", n.factsLoop)
	n.group.Go("trim", n.trimLoop)
	n.group.Go("contacts", n.contactLoop)
	n.startBackups()
	if n.opts.Config.Uplink.Enabled {
		if err := n.startUplink(); err != nil {
			return err
		}
	}
	return nil
}

// Stop closes everything, last opened first.
func (n *Node) Stop() error { return n.core.stop() }

// URL is where the API answers on this machine.
func (n *Node) URL() string { return n.api.url() }

// ready says why the node cannot serve yet. A cut uplink never makes a node unready.
func (n *Node) ready() error {
	if err := n.machine.Fatal(); err != nil {
		return err
	}
	if n.cluster != nil {
		if err := n.cluster.Damage(); err != nil {
			return err
		}
	}
	if n.radius == nil {
		return edge.ErrStarting.Error(edge.Unavailable)
	}
	return nil
}

const (
	factsEvery = 10 * time.Second
	trimEvery  = 2 * time.Second
)

// factsLoop writes what the front door refused as facts of the journal, at most one per login, router and reason every factsEvery.
func (n *Node) factsLoop(ctx context.Context) error {
	return every(ctx, factsEvery, func() error {
		for _, f := range n.facts.auth.facts() {
			raw, err := json.Marshal(f)
			if err != nil {
				return fmt.Errorf("encode fact: %w", err)
			}
			if _, err := n.factLog.Append(ctx, kindFact, raw); err != nil && ctx.Err() == nil {
				n.log.Warn("fact could not be kept", "type", f.Type, "error", err)
			}
		}
		return nil
	})
}

// trimLoop forgets what was drained and what the relay has stored, and commits how far the streams are.
func (n *Node) trimLoop(ctx context.Context) error {
	return every(ctx, trimEvery, func() error {
		if err := n.trim(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("journals could not be trimmed, trying again", "error", err)
		}
		return nil
	})
}

func (n *Node) trim(ctx context.Context) error {
	var errs []error
	for _, s := range n.streams() {
		errs = append(errs, s.commit(ctx))
	}
	errs = append(errs, trimTo(n.accounting, n.drainer.Position()))
	if n.opts.Config.Uplink.Enabled {
		errs = append(errs, trimTo(n.factLog, n.acks.all()), n.trimAudit(n.auditAcks.all()))
	} else if next := n.factLog.Next(); next > keptFacts {
		errs = append(errs, trimTo(n.factLog, next-keptFacts))
	}
	if !n.opts.Config.Uplink.Enabled {
		errs = append(errs, n.trimAudit(n.audit.Next()-1))
	}
	return errors.Join(errs...)
}

// keptFacts is how many facts a node without uplink keeps.
const keptFacts = 100_000

// trimTo forgets records up to and with upto, where there are any.
func trimTo(j *journal.Journal, upto uint64) error {
	if upto == 0 || upto < j.First() {
		return nil
	}
	return j.Trim(min(upto, j.Next()-1))
}

// startUplink connects to the NOC and attaches the streams of every tenant there is, and of those that come.
func (n *Node) startUplink() error {
	u := n.opts.Config.Uplink
	tlsConfig, err := clientTLS(u.CAFile, u.CertFile, u.KeyFile)
	if err != nil {
		return err
	}
	n.uplink, err = uplink.New(uplink.Config{
		Brokers: []string{u.Broker}, Node: n.id.Node, BootID: journal.KernelBoot().ID.String(), Version: n.opts.Version,
		Username: u.Username, Password: u.Password, TLS: tlsConfig, Now: n.now, Logger: n.log,
		Metrics: namedMetrics{n.metrics, "What the uplink did."},
	})
	if err != nil {
		return err
	}
	n.onStop("uplink", n.uplink.Stop)
	n.uplinkGauges(n.uplink.Status)
	if len(tlsConfig.Certificates) > 0 {
		until := tlsConfig.Certificates[0].Leaf.NotAfter
		n.metrics.GaugeFunc("wispgate_uplink_certificate_expires_timestamp_seconds", "When the client certificate for the relay ends.", func() float64 { return float64(until.Unix()) })
	}
	n.group.Go("streams", n.attachLoop)
	return nil
}

// leadEvery is how often a node looks whether it publishes the cluster's stream.
const leadEvery = time.Second

// attachLoop attaches the streams of tenants as they appear. The cluster's stream is the leader's to publish: of two nodes that both
// believe to lead each says the same, and the relay stores it once.
func (n *Node) attachLoop(ctx context.Context) error {
	tick := time.NewTicker(leadEvery)
	defer tick.Stop()
	for {
		wake := n.exec.Changed()
		heads, err := n.exec.Heads()
		if err != nil {
			return err
		}
		leads := n.cluster.IsLeader()
		for _, tenant := range slices.Sorted(maps.Keys(heads)) {
			if err := n.attach(tenant, leads); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}

// attach attaches what the node itself witnesses, and the cluster's stream while it leads.
func (n *Node) attach(tenant string, leads bool) error {
	name := uplink.Name{Tenant: tenant, Source: n.id.Cluster + ".cluster", Incarnation: n.id.Incarnation}
	detach := n.attached[name]
	switch {
	case detach == nil && leads:
		events := &clusterStream{name: name, exec: n.exec}
		if err := n.attachStream(events); err != nil {
			return err
		}
		n.mu.Lock()
		n.clusters = append(n.clusters, events)
		n.mu.Unlock()
	case detach != nil && !leads:
		n.mu.Lock()
		n.clusters = slices.DeleteFunc(n.clusters, func(s *clusterStream) bool { return s.name == name })
		n.mu.Unlock()
		delete(n.attached, name)
		detach()
	}
	facts := n.journalStream(tenant, ".node", n.factLog, n.acks, factEvent)
	if n.attached[facts.name] != nil {
		return nil
	}
	if err := n.attachStream(facts); err != nil {
		return err
	}
	return n.attachStream(n.journalStream(tenant, ".audit", n.audit, n.auditAcks, auditEvent))
}

func (n *Node) attachStream(s uplink.Stream) error {
	detach, err := n.uplink.Attach(n.ctx, s)
	if err == nil {
		n.attached[s.Name()] = detach
	}
	return err
}

func (n *Node) journalStream(
	tenant, suffix string, j *journal.Journal, acks *journalAcks, event func(journal.Record) (edge.EventRow, bool),
) *journalStream {
	acks.add(tenant)
	return &journalStream{
		name:    uplink.Name{Tenant: tenant, Source: n.id.Node + suffix, Incarnation: incarnation(j.Incarnation())},
		journal: j, acks: acks, event: event,
	}
}

// streams are the attached cluster streams.
func (n *Node) streams() []*clusterStream {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.clusters)
}

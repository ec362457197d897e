package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"wispgate/edge"
	"wispgate/edge/obs"
	"wispgate/edge/store"
	"wispgate/gateway/identity"
	"wispgate/sync/cluster"
)

// clusterPort is the cluster port of a node that joined without naming one.
const clusterPort = ":7846"

func logDir(dataDir string) string         { return filepath.Join(dataDir, "log") }
func credentialsDir(dataDir string) string { return filepath.Join(dataDir, "keys", "cluster") }

// openCluster opens the log, making a cluster of one at the first start, and the cluster port where there is to be one.
func (c *core) openCluster() (*cluster.Node, error) {
	conf := cluster.Config{
		Dir: logDir(c.dir), NodeID: c.id.Node, ClusterID: c.id.Cluster, Site: c.id.Site, Version: c.opts.Version, Logger: c.log, Now: c.now,
		Incarnation: c.id.Incarnation, Former: c.id.Former, Directory: c.members, Passed: c.floor.passed, Agreement: &c.floor.agreed,
		Clock: func() (trusted, synced bool) {
			return c.floor.trusted(c.now(), c.machine.LastTime()), c.clock.Quality() == obs.Synced
		},
	}
	if c.program == "node" {
		if err := c.clusterPort(&conf); err != nil {
			return nil, err
		}
	}
	exists, err := cluster.Exists(conf.Dir)
	if err == nil && !exists {
		err = cluster.Bootstrap(conf, c.machine)
	}
	if err != nil {
		return nil, err
	}
	return cluster.Open(conf, c.machine)
}

// clusterPort adds what a node with a port needs. The first time it makes the cluster's CA: whoever stood alone is now one whom others
// can join.
func (c *core) clusterPort(conf *cluster.Config) (err error) {
	set := c.opts.Config.Cluster
	conf.Listen = orElse(set.Listen, c.id.Listen)
	if conf.Listen == "" {
		return nil
	}
	if conf.Advertise, err = advertised(conf.Listen, orElse(set.Advertise, c.id.Advertise)); err != nil {
		return err
	}
	if conf.Peers, err = cluster.Profile(set.Network); err != nil {
		return err
	}
	conf.Pace.RemoveDead = set.RemoveDeadAfter
	conf.Vault = c.vault
	conf.Pending = func() int64 { return c.exec.Pending().Waiting }
	conf.SystemKey = c.systemKey
	conf.Credentials, err = cluster.MakeCredentials(credentialsDir(c.dir), c.id.Cluster, c.id.Node, c.effectiveTime())
	return err
}

func orElse(v, fallback string) string {
	if v == "" {
		return fallback
	}
	return v
}

// advertised is where others reach a port: as said, or the address listened on where it names one.
func advertised(listen, said string) (string, error) {
	if host, _, _ := net.SplitHostPort(said); host == "HOST" { // as an invitation shows it
		return "", &edge.Error{
			Kind: edge.Invalid, Code: "cluster_advertise", Message: "HOST in " + said + " stands for the name or address at which the other nodes reach this machine",
			Fix: "Put that in place of HOST, in --advertise or cluster.advertise",
		}
	}
	if said != "" {
		return said, nil
	}
	host, _, err := net.SplitHostPort(listen)
	if ip, bad := netip.ParseAddr(host); err == nil && bad == nil && !ip.IsUnspecified() {
		return listen, nil
	}
	return "", &edge.Error{
		Kind: edge.Invalid, Code: "cluster_advertise", Message: "The other nodes would not know where to reach this one",
		Fix: "Set cluster.advertise to host:port as they see it, or let cluster.listen name one address",
	}
}

// systemKey is the platform's own key as this node has it wrapped, for nodes that join: answers to retries are compared under it.
func (c *core) systemKey() ([]byte, error) {
	sn := c.store.Snapshot()
	defer sn.Close()
	return sn.Get([]byte(systemKey))
}

// shareEvery is how often keys are looked through again that could not be shared.
const shareEvery = 10 * time.Second

// shareLoop gives every node of the cluster every tenant's data key: the leader to all, another node to the leader, where it alone can open
// a key because it made it.
func (c *core) shareLoop(ctx context.Context) error {
	again := time.NewTicker(shareEvery)
	defer again.Stop()
	for {
		members, keys := c.members.Changed(), c.keyRing.Changed()
		more := false
		if to := c.keyRecipients(); len(to) > 0 {
			var err error
			if more, err = identity.ShareKeys(ctx, c.exec, c.keyRing, c.vault, c.id.Node, to); err != nil && ctx.Err() == nil {
				c.log.Info("tenants' keys not shared yet", "error", err)
				more = false
			}
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-members:
		case <-keys:
		case <-again.C:
		}
	}
}

// keyRecipients are the nodes to which this one gives keys. One that leads gives to all, itself included, where another made the key.
func (c *core) keyRecipients() (to []identity.Recipient) {
	list := c.members.Peers()
	if len(list) < 2 || !c.cluster.Contact() {
		return nil
	}
	leader := c.cluster.Status().Leader
	for _, p := range list {
		if leader == c.id.Node || p.Node == leader {
			to = append(to, identity.Recipient{Node: p.Node, VaultKey: p.VaultKey})
		}
	}
	return to
}

// clusterGauges registers how the cluster stands, for the alert rules.
func (c *core) clusterGauges() {
	g := c.metrics
	g.GaugeFunc("wispgate_cluster_contact", "Whether this node leads, or has heard from a leader within an election time-out: 1 or 0.", func() float64 { return number(c.cluster.Contact()) })
	g.GaugeFunc("wispgate_cluster_leader", "Whether this node leads: 1 or 0.", func() float64 { return number(c.cluster.IsLeader()) })
	g.GaugeFunc("wispgate_cluster_leader_changes", "Leaders that this node has seen come since it began.", func() float64 { return float64(c.cluster.Status().LeaderMoves) })
	g.GaugeFunc("wispgate_cluster_voters", "Nodes with a vote.", func() float64 { return float64(len(c.cluster.Status().Voters)) })
	g.GaugeFunc("wispgate_cluster_members_lost", "Nodes that the leader has not heard of for a minute.", func() (n float64) {
		for _, p := range c.members.Peers() {
			n += number(p.LostAt != nil)
		}
		return n
	})
	g.GaugeFunc("wispgate_cluster_checksum_mismatches", "Nodes whose copy of the state differed at the last comparison.", func() float64 { return float64(c.cluster.Differing()) })
	g.GaugeFunc("wispgate_cluster_other_histories", "Nodes met lately that go on with another history of this cluster, since a recovery.", func() float64 {
		if c.cluster.Expelled() != nil { // its own does not go on here
			return 0
		}
		return float64(len(c.cluster.Histories()))
	})
	g.GaugeFunc("wispgate_cluster_lag_entries", "Log entries that the member furthest behind lacks, as the leader sees it; 0 on others.", func() (most float64) {
		if !c.cluster.IsLeader() {
			return 0
		}
		list, _ := c.cluster.Members()
		for _, v := range list {
			most = max(most, float64(v.Lag))
		}
		return most
	})
	g.GaugeFunc("wispgate_cluster_certificate_expires_timestamp_seconds", "When this node's certificate for the cluster ends; 0 without a cluster port.", func() float64 {
		if until := c.cluster.CertificateEnd(); !until.IsZero() {
			return float64(until.Unix())
		}
		return 0
	})
}

var errNoSystemKey = errors.New("the cluster handed over no key of the platform")

// keepSystemKey stores the platform's key that the cluster handed to a node that joins.
func keepSystemKey(dataDir string, wrapped []byte) error {
	if len(wrapped) == 0 {
		return errNoSystemKey
	}
	st, err := store.Open(store.Options{Dir: filepath.Join(dataDir, "state"), BallastBytes: -1})
	if err != nil {
		return err
	}
	var b store.Batch
	b.Put([]byte(systemKey), wrapped)
	if err := errors.Join(st.Commit(&b), st.Close()); err != nil {
		return fmt.Errorf("keep the platform's key: %w", err)
	}
	return nil
}

// joinWithin bounds a whole attempt to join.
const joinWithin = time.Minute

// ClusterStatus is the node's part of the cluster.
type ClusterStatus = cluster.Status

// Absence is what a node that hears no leader goes by to say how it stands.
type Absence = cluster.Absence

// OtherHistory is another history of the cluster that is at work.
type OtherHistory = cluster.History

// What to do where two histories are at work, and about a node that has just joined and hears nobody.
const (
	HistoryFix  = cluster.HistoryFix
	NewcomerFix = cluster.NewcomerFix
)

// Newcomer says how a node stands that has joined and heard no leader yet.
func Newcomer(advertised string) string { return cluster.Newcomer(advertised) }

// Removed is how a node that was removed stands, and what to do about it.
var Removed = cluster.ErrPeerGone

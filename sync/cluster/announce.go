package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"wispgate/edge"
)

// What members ask of each other besides intents.
const (
	methodAnnounce  = "sync.announce"  // by the node itself, to anybody
	methodAnnounced = "sync.announced" // by whoever heard it, to the leader
	methodRenew     = "sync.renew"
	methodCAKey     = "sync.ca_key"
	methodDropKey   = "sync.drop_ca_key"
)

// announceEvery is how often a node compares its record with what is true.
const announceEvery = 2 * time.Second

// Attach gives the node the executor by which it keeps the cluster's records, and begins to look after them. Once, after Open.
func (n *Node) Attach(x edge.Executor) {
	if n.port == nil {
		return
	}
	n.mu.Lock()
	n.x = x
	n.mu.Unlock()
	n.Handle(methodStats, n.serveStats)
	n.Handle(methodWell, n.onLeader(n.serveWell))
	n.Handle(methodPosition, n.servePosition)
	n.Handle(methodRenew, n.serveRenew)
	n.Handle(methodCAKey, n.takeCAKey)
	n.Handle(methodDropKey, n.loseCAKey)
	n.Handle(methodResync, n.serveResync)
	n.Handle(methodChecksum, n.serveChecksum)
	n.Handle(methodAnnounce, n.passOn)
	n.Handle(methodAnnounced, n.onLeader(func(ctx context.Context, _ string, body []byte) ([]byte, error) {
		_, err := edge.Do(ctx, x, self, "", "sync.node.announce", json.RawMessage(body))
		return nil, err
	}))
	n.Handle(methodJoin, n.onLeader(func(ctx context.Context, _ string, body []byte) ([]byte, error) { return n.serveJoiner(ctx, x, body) }))
	n.loops.Go(func() { n.announceLoop(n.life) })
	n.loops.Go(func() { n.lookAround(n.life) })
	n.loops.Go(func() { n.leadLoop(n.life, x) })
}

// onLeader refuses a request that reached a node which does not lead.
func (n *Node) onLeader(h Handler) Handler {
	return func(ctx context.Context, from string, body []byte) ([]byte, error) {
		if !n.IsLeader() {
			return nil, quorumLost()
		}
		return h(ctx, from, body)
	}
}

// effectiveNow is the clock, but never before the last committed time: a board without a battery does not travel back.
func (n *Node) effectiveNow() time.Time {
	now := n.conf.Now()
	if last := n.machine.LastTime(); now.Before(last) {
		return last
	}
	return now
}

// registration is what this node says of itself.
func (n *Node) registration() Registration {
	leaf := n.conf.Credentials.Leaf()
	return Registration{
		Node: n.conf.NodeID, Site: n.conf.Site, Address: n.advertised(), VaultKey: base64.StdEncoding.EncodeToString(n.conf.Vault.PublicKey()),
		Fingerprint: n.conf.Credentials.Fingerprint(), Serial: leaf.SerialNumber.Text(16), CertificateEnd: leaf.NotAfter,
		FeatureLevel: FeatureLevel, ProgramVersion: n.conf.Version,
	}
}

// advertised is where others reach this node.
func (n *Node) advertised() string {
	if n.conf.Advertise != "" {
		return n.conf.Advertise
	}
	return n.port.l.Addr().String()
}

// elsewhere is where others reach this node, if its record says otherwise; else "".
func (n *Node) elsewhere() string {
	if n.port == nil {
		return ""
	}
	if p, ok := n.conf.Directory.Peer(n.conf.NodeID); ok && p.Address != n.advertised() {
		return n.advertised()
	}
	return ""
}

// announceLoop keeps this node's record, certificate and notes up to date.
func (n *Node) announceLoop(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		changed := n.conf.Directory.Changed()
		n.port.dropStrangers()
		n.links.forget()
		if err := n.conf.Directory.note(n.conf.Dir); err != nil {
			n.log.Warn("members not noted", "error", err)
		}
		for due := true; due; {
			if err := n.tellLeader(ctx); err != nil && ctx.Err() == nil {
				n.log.Debug("this node could not tell the leader about itself yet", "error", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-changed:
				due = false
			}
		}
	}
}

// tellLeader renews the certificate when it is due, and tells the leader what the record does not say yet.
func (n *Node) tellLeader(ctx context.Context) error {
	if err := n.renew(ctx); err != nil {
		n.log.Warn("cluster certificate not renewed yet", "until", n.conf.Credentials.Leaf().NotAfter, "error", err)
	}
	p, ok := n.conf.Directory.Peer(n.conf.NodeID)
	reg := n.registration()
	now := p
	reg.apply(&now)
	now.Fingerprint = p.Fingerprint
	if fields, err := edge.Changed(&p, &now); !ok || p.Status == Removed || err != nil || len(fields) == 0 {
		return err
	}
	raw, err := json.Marshal(reg)
	if err != nil {
		return err
	}
	if _, err = n.Call(ctx, "", methodAnnounce, raw); !errors.Is(err, ErrQuorumLost) {
		return err
	}
	// At a new address no leader reaches this node, so it knows none: any member passes its word on.
	for _, other := range n.bearers() {
		if _, err = n.Call(ctx, other, methodAnnounce, raw); err == nil {
			return nil
		}
	}
	return err
}

// passOn takes a member's announcement to the leader, which may be this node itself.
func (n *Node) passOn(ctx context.Context, from string, body []byte) ([]byte, error) {
	var reg Registration
	if err := json.Unmarshal(body, &reg); err != nil || reg.Node != from {
		return nil, edge.ErrInput.Error(edge.Invalid, edge.Field("/node", "is not the asking node", "announce yourself"))
	}
	n.conf.Directory.heard(from, reg.Address)
	return n.Call(ctx, "", methodAnnounced, body)
}

// renew gets a new certificate from half of the old one's life on: by itself on a node that holds the CA's key, else from the leader or,
// while there is none, from any voter. Where a member refuses the old one, the clock here is behind: it is no reason to keep that certificate, and a
// new one of its own would be no better.
func (n *Node) renew(ctx context.Context) error {
	creds, now := n.conf.Credentials, n.effectiveNow()
	refused := n.stale.Load()
	if !refused && !creds.due(now) {
		return nil
	}
	if creds.holdsCA() && !refused {
		return creds.renewSelf(now)
	}
	csr, err := creds.request()
	if err != nil {
		return err
	}
	err = ErrQuorumLost
	for _, p := range n.signers() {
		var der []byte
		if der, err = n.callOnce(ctx, p, methodRenew, csr, anyAge); err == nil {
			n.stale.Store(false)
			return creds.install(der)
		}
	}
	return err
}

// signers are the nodes to ask for a certificate, the leader first.
func (n *Node) signers() []string {
	var list []string
	leader := n.leaderID()
	if leader != "" && leader != n.conf.NodeID {
		list = append(list, leader)
	}
	for _, p := range n.conf.Directory.Peers() {
		if p.Voter && p.Node != leader && p.Node != n.conf.NodeID {
			list = append(list, p.Node)
		}
	}
	return list
}

// bearers are the nodes to give an announcement that no leader is known to take: those that answered when they were last asked, whatever the
// records here say of their votes, which may be of the past; then the other voters, each of which may cost a time-out.
func (n *Node) bearers() []string {
	list := n.picture.answering()
	for _, node := range n.signers() {
		if !slices.Contains(list, node) {
			list = append(list, node)
		}
	}
	return list
}

// callOnce asks over a connection of its own.
func (n *Node) callOnce(ctx context.Context, to, method string, body []byte, bears leniency) ([]byte, error) {
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	conn, err := n.port.dial(ctx, to, protoRPC, bears)
	if err != nil {
		return nil, err
	}
	k := newLink(conn, n.conf.Now)
	done := make(chan struct{})
	go func() { defer close(done); k.read() }()
	answer, err := k.ask(ctx, request{method: method, body: body})
	k.close(errOnce)
	<-done
	return answer, err
}

var errOnce = errors.New("the connection was for one request")

// serveRenew signs a member's certificate anew. The key must be the one that its record pins.
func (n *Node) serveRenew(_ context.Context, from string, csr []byte) ([]byte, error) {
	p, ok := n.conf.Directory.Peer(from)
	if !ok || p.Status == Removed {
		return nil, ErrPeerRemoved.Error(edge.Denied)
	}
	if !n.conf.Credentials.holdsCA() {
		return nil, quorumLost()
	}
	leaf, err := n.conf.Credentials.sign(from, csr, n.effectiveNow())
	if err != nil {
		return nil, err
	}
	if p.Fingerprint != "" && keyFingerprint(leaf.PublicKey) != p.Fingerprint {
		return nil, ErrPeerRemoved.Error(edge.Denied)
	}
	return leaf.Raw, nil
}

// purposeCAKey binds the CA's key to its use when it is sealed for a voter.
const purposeCAKey = "cluster ca key"

// handCAKey gives a voter-to-be the key of the cluster's CA.
func (n *Node) handCAKey(ctx context.Context, p Peer) error {
	sealed, err := n.sealCAKey(p.VaultKey)
	if err != nil {
		return err
	}
	_, err = n.Call(ctx, p.Node, methodCAKey, sealed)
	return err
}

func (n *Node) sealCAKey(vaultKey string) ([]byte, error) {
	der, err := n.conf.Credentials.caKeyDER()
	if err != nil || der == nil {
		return nil, fmt.Errorf("this node does not hold the key of the cluster's CA: %w", err)
	}
	public, err := base64.StdEncoding.DecodeString(vaultKey)
	if err != nil {
		return nil, fmt.Errorf("read vault key: %w", err)
	}
	return n.conf.Vault.SealFor(purposeCAKey, public, der)
}

func (n *Node) takeCAKey(_ context.Context, from string, sealed []byte) ([]byte, error) {
	if from != n.leaderID() {
		return nil, quorumLost()
	}
	der, err := n.conf.Vault.OpenFor(purposeCAKey, sealed)
	if err != nil {
		return nil, err
	}
	return nil, n.conf.Credentials.takeCAKey(der)
}

func (n *Node) loseCAKey(_ context.Context, from string, _ []byte) ([]byte, error) {
	if from != n.leaderID() {
		return nil, quorumLost()
	}
	return nil, n.conf.Credentials.dropCAKey()
}
